//! `/proc/PID/mem`: a process's memory as a file.

use super::pid::inspect;
use crate::synthetic::Entry;
use abi::{Result, bail};
use kernel::{
    io::IoBuffer,
    mm::Mm,
    task::Task,
    user::UserAddr,
    vfs::{File, FileOps, SeekFrom},
};
use std::any::Any;
use std::sync::Arc;

/// Bytes moved at a time.
const CHUNK: usize = 16384;

/// The file of a task.
pub fn entry(task: &Arc<Task>) -> Entry {
    let (a, b) = (task.clone(), task.clone());
    Entry::open(move |_, _| {
        let Some(mm) = a.try_mm() else { bail!(EACCES, "the process has no memory any more") };
        Ok(Box::new(Mem(mm)))
    })
    .guarded(move || inspect(&b))
}

/// The open file: keeps the memory that the process had, also past execve(2).
struct Mem(Arc<Mm>);

impl FileOps for Mem {
    /// `EIO` where nothing is mapped.
    fn read(&self, _: &File, buf: &mut IoBuffer<'_>, offset: u64) -> Result<usize> {
        let mut chunk = vec![0; CHUNK];
        let mut done = 0;
        while buf.remaining() > 0 {
            let n = CHUNK.min(buf.remaining());
            let got = self.0.force_in_partial(UserAddr(offset).offset(done as u64), &mut chunk[..n]);
            if got == 0 {
                break;
            }
            done += buf.write(&chunk[..got])?;
        }
        if done == 0 && buf.remaining() > 0 { bail!(EIO) } else { Ok(done) }
    }

    fn write(&self, _: &File, buf: &mut IoBuffer<'_>, offset: u64, _: bool) -> Result<(usize, u64)> {
        let start = buf.done();
        let mut done = 0;
        while buf.remaining() > 0 {
            let bytes = buf.read_all(CHUNK)?;
            let put = self.0.force_out_partial(UserAddr(offset).offset(done as u64), &bytes);
            done += put;
            if put < bytes.len() {
                break;
            }
        }
        buf.rewind_to(start + done);
        if done == 0 && buf.remaining() > 0 { bail!(EIO) } else { Ok((done, offset.saturating_add(done as u64))) }
    }

    fn seek(&self, _: &File, current: u64, to: SeekFrom) -> Option<Result<u64>> {
        Some(match to {
            SeekFrom::Start(n) => Ok(n),
            SeekFrom::Current(by) => Ok(current.wrapping_add_signed(by)),
            SeekFrom::End(_) => Err(abi::error!(EINVAL)),
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
