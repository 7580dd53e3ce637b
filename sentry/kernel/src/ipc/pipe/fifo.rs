//! Opening a FIFO: fifo(7).

use super::{Pipe, PipeFile};
use crate::{
    task::Task,
    vfs::{FileOps, Inode},
};
use abi::{Result, bail, fs::OpenFlags, poll::PollEvents};
use std::sync::{Arc, atomic::Ordering};

/// Opens the FIFO `inode` (also a pipe's, through /proc/PID/fd), and waits for the other side as Linux does: a reader for the first
/// writer, a writer for the first reader. O_NONBLOCK does not wait; for a lone writer that is `ENXIO`. O_RDWR never waits.
pub fn open(inode: &Arc<Inode>, flags: OpenFlags, task: &Task) -> Result<Box<dyn FileOps>> {
    if let Some(host) = crate::ipc::hostfd::reopen(inode, flags) {
        return host;
    }
    let pipe = inode.attachments.get_or_insert_with(Pipe::default);
    let end = PipeFile::new(pipe.clone(), flags);
    let nameless = inode.sb.fs_name == "pipefs";
    let nonblock = flags.contains(OpenFlags::NONBLOCK);
    if end.writes && !end.reads && !nameless && nonblock && pipe.state.lock().readers == 0 {
        bail!(ENXIO, "no reader");
    }
    end.attach();
    pipe.queue.notify(PollEvents::READABLE | PollEvents::WRITABLE);
    let (alone, seen) = {
        let s = pipe.state.lock();
        match (end.reads, end.writes) {
            (true, false) => (s.writers == 0, s.w_counter),
            (false, true) => (s.readers == 0, s.r_counter),
            _ => (false, 0),
        }
    };
    if alone && !nameless {
        if nonblock {
            end.idle_since.store(seen, Ordering::Relaxed);
        } else if let Err(e) = wait_for_partner(&pipe, end.reads, seen, task) {
            end.detach();
            return Err(e);
        }
    }
    Ok(Box::new(end))
}

/// Waits until the other side's count has changed: it may have come and gone again.
fn wait_for_partner(pipe: &Pipe, reads: bool, seen: u64, task: &Task) -> Result {
    let mask = PollEvents::READABLE | PollEvents::WRITABLE;
    task.wait_on(&[(&pipe.queue, mask)], None, || {
        let s = pipe.state.lock();
        (seen != if reads { s.w_counter } else { s.r_counter }).then_some(())
    })?;
    Ok(())
}
