//! The command line that a process shows on the host.
//!
//! A stand-in shows that of the process that it stands for: engines and people find it with ps(1) (`docker top`), and the runtime's own
//! arguments would tell them nothing.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Shows `args`, as far as there is room: it is that of this program's own arguments, which nobody may ask for afterwards. Not being
/// able to is no reason to fail.
pub fn set(args: &[String]) {
    if let Err(error) = overwrite(args) {
        tracing::debug!("cannot show the command line {args:?}: {error}");
    }
}

fn overwrite(args: &[String]) -> io::Result<()> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (start, end) = range(&stat).ok_or_else(|| io::Error::other("/proc/self/stat does not say where it is"))?;
    let room = usize::try_from(end - start).map_err(io::Error::other)?;
    // By way of the file, which takes an address as a number.
    File::options().write(true).open("/proc/self/mem")?.write_all_at(&line(args, room), start)
}

/// `arg_start` and `arg_end`, the 48th and 49th field (proc_pid_stat(5)); the second, in parentheses, may contain anything.
fn range(stat: &str) -> Option<(u64, u64)> {
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace().skip(45);
    let (start, end) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    (start > 0 && start < end).then_some((start, end))
}

/// Each argument with a zero byte behind it, cut or filled up to `room` bytes, the last of which is zero.
fn line(args: &[String], room: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = args.iter().flat_map(|arg| arg.bytes().chain([0])).collect();
    bytes.truncate(room.saturating_sub(1));
    bytes.resize(room, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_exactly() {
        let args = ["sleep".to_owned(), "10".to_owned()];
        assert_eq!(line(&args, 12), b"sleep\x0010\0\0\0\0"[..12]);
        assert_eq!(line(&args, 8), b"sleep\x001\0");
        assert_eq!(line(&args, 0), b"");
    }

    #[test]
    fn this_process_has_a_command_line() {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let (start, end) = range(&stat).unwrap();
        assert_eq!(end - start, std::fs::read("/proc/self/cmdline").unwrap().len() as u64);
        assert_eq!(range("1 (a) b) S 1"), None);
    }
}
