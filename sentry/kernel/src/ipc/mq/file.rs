//! A queue that is open.

use super::Queue;
use crate::{
    io::IoBuffer,
    task::Task,
    vfs::{File, FileOps},
};
use abi::{Result, bail, poll::PollEvents};
use std::any::Any;
use std::sync::Arc;
use std::time::Instant;
use sync::WaitQueue;

/// An open queue, as mq_open(3) or open(2) of its file give it.
pub struct QueueFile(pub(super) Arc<Queue>);

impl QueueFile {
    /// The queue of an open file; `EBADF` if it is something else.
    pub fn of(file: &File) -> Result<&Arc<Queue>> {
        match file.downcast::<QueueFile>() {
            Some(q) => Ok(&q.0),
            None => bail!(EBADF, "no message queue"),
        }
    }

    /// mq_timedsend(2): `text` is read only when everything else is right. `ETIMEDOUT` at the deadline.
    pub fn send(
        task: &Task,
        file: &File,
        len: usize,
        text: impl FnOnce() -> Result<Vec<u8>>,
        prio: u32,
        deadline: Option<Instant>,
    ) -> Result {
        let queue = Self::of(file)?;
        file.check_writable()?;
        if len as u64 > queue.limits().size.unsigned_abs() {
            bail!(EMSGSIZE, "message is longer than mq_msgsize");
        }
        match queue.send(task, text()?, prio, file.nonblocking(), deadline)? {
            Some(()) => Ok(()),
            None => bail!(ETIMEDOUT),
        }
    }

    /// mq_timedreceive(2) into `len` bytes: the message and its priority. `ETIMEDOUT` at the deadline.
    pub fn receive(task: &Task, file: &File, len: usize, deadline: Option<Instant>) -> Result<(Vec<u8>, u32)> {
        let queue = Self::of(file)?;
        file.check_readable()?;
        if (len as u64) < queue.limits().size.unsigned_abs() {
            bail!(EMSGSIZE, "less room than mq_msgsize");
        }
        match queue.receive(task, file.nonblocking(), deadline)? {
            Some(message) => Ok(message),
            None => bail!(ETIMEDOUT),
        }
    }
}

impl FileOps for QueueFile {
    fn read(&self, _file: &File, buf: &mut IoBuffer<'_>, offset: u64) -> Result<usize> {
        let text = self.0.show();
        let rest = usize::try_from(offset).ok().and_then(|o| text.as_bytes().get(o..)).unwrap_or_default();
        buf.write(rest)
    }

    fn poll(&self, _file: &File) -> PollEvents {
        self.0.events()
    }

    fn poll_queue(&self) -> Option<&WaitQueue> {
        Some(&self.0.queue)
    }

    fn flush(&self, _file: &File, task: &Task) -> Result {
        self.0.unsubscribe(task);
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
