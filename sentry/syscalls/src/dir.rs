//! Reading directories: getdents64(2) and the older getdents(2).

use crate::{row, table::Entry};
use abi::{Result, bail, fs::FileType};
use kernel::{
    task::CurrentTask,
    user::UserAddr,
    vfs::{DirSink, Fd, FsStr},
};

pub(crate) const ROWS: &[Entry] = &[row!("getdents", getdents), row!("getdents64", getdents64)];

/// The most that one call fills, however large the buffer.
const BUFFER_MAX: usize = 1 << 18;

/// Entries as `struct linux_dirent` or `struct linux_dirent64`.
struct Records {
    bytes: Vec<u8>,
    room: usize,
    wide: bool,
    /// An entry did not fit.
    full: bool,
}

impl DirSink for Records {
    fn add(&mut self, name: &FsStr, ino: u64, kind: FileType, next: u64) -> bool {
        // d_ino, d_off, d_reclen; the wide form has d_type in front of the name, the old one behind its NUL.
        let len = (8 + 8 + 2 + 1 + name.len() + 1).next_multiple_of(8);
        if self.bytes.len() + len > self.room {
            self.full = true;
            return false;
        }
        let start = self.bytes.len();
        self.bytes.extend(ino.to_ne_bytes());
        self.bytes.extend(next.to_ne_bytes());
        self.bytes.extend((len as u16).to_ne_bytes());
        if self.wide {
            self.bytes.push(kind.dirent_type());
        }
        self.bytes.extend(name);
        self.bytes.resize(start + len, 0);
        if !self.wide
            && let Some(last) = self.bytes.last_mut()
        {
            *last = kind.dirent_type();
        }
        true
    }
}

fn read(t: &CurrentTask, fd: Fd, buf: UserAddr, size: usize, wide: bool) -> Result<usize> {
    let file = t.files().get_open(fd)?;
    if !file.inode().is_dir() {
        bail!(ENOTDIR);
    }
    let mut records = Records { bytes: Vec::new(), room: size.min(BUFFER_MAX), wide, full: false };
    let mut pos = file.pos.lock();
    if file.path.dentry.is_unlinked() {
        bail!(ENOENT, "the directory was removed");
    }
    let end = file.ops().readdir(&file, *pos, &mut records)?;
    if records.bytes.is_empty() && records.full {
        bail!(EINVAL, "no room for one entry");
    }
    t.mm().copy_out(buf, &records.bytes)?;
    *pos = end;
    Ok(records.bytes.len())
}

pub fn getdents(t: &mut CurrentTask, fd: Fd, buf: UserAddr, size: u32) -> Result<usize> {
    read(t, fd, buf, size as usize, false)
}

pub fn getdents64(t: &mut CurrentTask, fd: Fd, buf: UserAddr, size: u32) -> Result<usize> {
    read(t, fd, buf, size as usize, true)
}
