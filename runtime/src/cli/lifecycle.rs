//! `caisson start`, `state`, `kill`, `delete`, `pause` and `resume`: short verbs about a container that is there.

use super::Settings;
use crate::container::{self, Container, Lifecycle};
use crate::exit::{Failure, Result, Status};
use crate::process::PATIENCE;
use control::Request;

/// A verb about one container.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the container
    #[arg(value_name = "ID")]
    id: String,
}

/// Flags of `caisson kill`.
#[derive(Debug, clap::Args)]
pub struct KillArgs {
    /// Signal every process, not only the first
    #[arg(short, long)]
    all: bool,
    /// Name of the container
    #[arg(value_name = "ID")]
    id: String,
    /// The signal, by name or number
    #[arg(value_name = "SIGNAL", default_value = "SIGTERM")]
    signal: String,
}

/// Flags of `caisson delete`.
#[derive(Debug, clap::Args)]
pub struct DeleteArgs {
    /// Kill the container first, if it runs; that there is none is no error
    #[arg(short, long)]
    force: bool,
    /// Name of the container
    #[arg(value_name = "ID")]
    id: String,
}

/// `start`.
pub fn start(args: &Args, settings: &Settings) -> Result {
    let mut container = Container::open(&settings.state_root, &args.id)?;
    container.lock()?;
    container::start_and_tell(&mut container)?;
    Ok(0)
}

/// `state`.
pub fn state(args: &Args, settings: &Settings) -> Result {
    let state = Container::open(&settings.state_root, &args.id)?.state();
    super::print(&serde_json::to_string_pretty(&state).map_err(Failure::internal("cannot encode the state"))?)
}

/// `kill`.
pub fn kill(args: &KillArgs, settings: &Settings) -> Result {
    let sig = signal(&args.signal)?;
    let container = Container::open(&settings.state_root, &args.id)?;
    let not_running = || Failure::new(Status::NotRunning, "container not running");
    if !container.stand_in_lives() {
        return Err(not_running());
    }
    // A held kernel takes no signals. What it is told while it runs for a moment, its application sees when that goes on; death at once.
    let cgroup = &container.record.cgroup;
    let frozen = cgroup.is_frozen();
    if frozen {
        cgroup.freeze(false)?;
    }
    let asked = send(&container, sig, args.all);
    if frozen && container.stand_in_lives() && sig != libc::SIGKILL {
        cgroup.freeze(true)?;
    }
    asked.map(|()| 0)
}

fn send(container: &Container, sig: i32, all: bool) -> Result<()> {
    let not_running = || Failure::new(Status::NotRunning, "container not running");
    let asked = match container.client()? {
        // The signal may end the container, and with it the sentry, before that has said so.
        Some(client) => client.command_or_end(&Request::Signal { sig, all }, PATIENCE),
        None => Err(not_running()),
    };
    match asked {
        // A sentry that says nothing cannot be asked, and one that is just beginning or ending is not there to be asked.
        Err(_) if sig == libc::SIGKILL && container.stand_in_lives() => container.kill_stand_in(),
        other => other,
    }
}

/// `delete`.
pub fn delete(args: &DeleteArgs, settings: &Settings) -> Result {
    let mut container = match Container::open(&settings.state_root, &args.id) {
        Err(failure) if args.force && failure.status == Status::NoContainer => {
            container::remove_remains(settings, &args.id)?;
            return Ok(0);
        }
        // What cannot be understood can still be removed.
        Err(failure) if args.force && failure.status == Status::State => {
            container::remove_remains(settings, &args.id)?;
            return Ok(0);
        }
        other => other?,
    };
    match container.lock() {
        Err(failure) if args.force && failure.status == Status::NoContainer => return Ok(0),
        other => other?,
    }
    match container.status() {
        status @ (Lifecycle::Running | Lifecycle::Paused) if !args.force => {
            Err(Failure::new(Status::WrongState, format!("cannot delete container {} that is not stopped: {}", args.id, status.name())))
        }
        _ => {
            container.end()?;
            container.destroy()?;
            Ok(0)
        }
    }
}

/// `pause` and `resume`.
pub fn pause(args: &Args, settings: &Settings, pause: bool) -> Result {
    let mut container = Container::open(&settings.state_root, &args.id)?;
    container.lock()?;
    let status = container.status();
    match (pause, status) {
        (true, Lifecycle::Running) | (false, Lifecycle::Paused) => {}
        (true, _) => {
            return Err(Failure::new(Status::WrongState, format!("container not running: it is {}", status.name())));
        }
        (false, _) => {
            return Err(Failure::new(Status::WrongState, format!("container not paused: it is {}", status.name())));
        }
    }
    // The sentry alone holds its application, and goes on answering: the host's freezer of version 1 may wait for ever for a process
    // that is being traced. Whoever froze the group from outside is undone by resume.
    if !pause && container.record.cgroup.exists() {
        container.record.cgroup.freeze(false)?;
    }
    let Some(client) = container.client()? else { return Err(Failure::new(Status::NotRunning, "container not running")) };
    client.command(if pause { &Request::Pause } else { &Request::Resume }, PATIENCE)?;
    Ok(0)
}

/// The names of signals 1 to 31, in order (signal(7)).
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM", "STKFLT", "CHLD",
    "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// A signal by its number, or by its name with or without `SIG`.
fn signal(text: &str) -> Result<i32> {
    let bad = || Failure::new(Status::Usage, format!("unknown signal {text:?}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=64).contains(&number) { Ok(number) } else { Err(bad()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let place = |list: &[&str]| list.iter().position(|n| *n == name).and_then(|i| i32::try_from(i + 1).ok());
    let offset = |base: i32, text: &str| text.parse::<i32>().ok().map(|n| base + n).filter(|n| (34..=64).contains(n));
    match name {
        "IOT" => Ok(6),
        "CLD" => Ok(17),
        "POLL" => Ok(29),
        "RTMIN" => Ok(34),
        "RTMAX" => Ok(64),
        _ if name.starts_with("RTMIN+") => offset(34, &name[6..]).ok_or_else(bad),
        _ if name.starts_with("RTMAX-") => offset(64, &name[5..]).ok_or_else(bad),
        _ => place(&SIGNALS).ok_or_else(bad),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names() {
        for (text, number) in [("9", 9), ("KILL", 9), ("SIGTERM", 15), ("sigusr1", 10), ("SYS", 31), ("RTMIN+3", 37), ("RTMAX-1", 63)] {
            assert_eq!(signal(text).unwrap(), number, "{text}");
        }
        for bad in ["0", "65", "-1", "FOO", "", "SIG", "RTMIN+40", "RTMAX-99"] {
            assert_eq!(signal(bad).unwrap_err().status, Status::Usage, "{bad}");
        }
    }
}
