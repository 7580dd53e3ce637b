//! The file of a socket.

use super::{Message, SocketKind, SocketOps};
use crate::{
    cred::Credentials,
    io::IoBuffer,
    ipc::anon::{AnonKind, anon_file},
    task::{self, Task},
    vfs::{File, FileOps, IoctlArg, Mappable},
};
use abi::{Result, bail, fs::OpenFlags, poll::PollEvents};
use std::any::Any;
use std::sync::Arc;
use std::time::Duration;
use sync::WaitQueue;

/// An open socket.
pub struct SocketFile {
    ops: Arc<dyn SocketOps>,
}

impl SocketFile {
    /// The file of a new socket. `flags`: O_NONBLOCK.
    pub fn create(ops: Arc<dyn SocketOps>, flags: OpenFlags, cred: &Credentials) -> Arc<File> {
        let file = anon_file(AnonKind::Socket, cred, flags | OpenFlags::RDWR, Box::new(SocketFile { ops: ops.clone() }));
        ops.attached(&file);
        file
    }

    /// The socket of an open file; `ENOTSOCK` if it is something else.
    pub fn of(file: &File) -> Result<&Arc<dyn SocketOps>> {
        match file.downcast::<SocketFile>() {
            Some(s) => Ok(&s.ops),
            None => bail!(ENOTSOCK),
        }
    }
}

impl FileOps for SocketFile {
    fn read(&self, _file: &File, buf: &mut IoBuffer<'_>, _offset: u64) -> Result<usize> {
        if buf.remaining() == 0 {
            return Ok(0);
        }
        self.ops.recv(buf, 0, &mut Message::default())
    }

    fn write(&self, _file: &File, buf: &mut IoBuffer<'_>, _offset: u64, _append: bool) -> Result<(usize, u64)> {
        Ok((self.ops.send(task::current().as_deref(), buf, Message::default(), 0)?, 0))
    }

    fn seekable(&self) -> bool {
        false
    }

    fn is_stream(&self) -> bool {
        self.ops.kind() == SocketKind::Stream
    }

    fn has_pending_error(&self) -> bool {
        self.ops.has_pending_error()
    }

    fn wait_limit(&self, write: bool) -> Option<Duration> {
        let options = self.ops.options();
        if write { options.send_timeout() } else { options.receive_timeout() }
    }

    fn poll(&self, _file: &File) -> PollEvents {
        self.ops.poll()
    }

    fn poll_queue(&self) -> Option<&WaitQueue> {
        Some(self.ops.queue())
    }

    fn has_async(&self) -> bool {
        true
    }

    fn ioctl(&self, _file: &File, task: &Task, cmd: u32, arg: IoctlArg) -> Result<u64> {
        self.ops.ioctl(task, cmd, arg)
    }

    fn mappable(&self, _file: &File) -> Result<Arc<dyn Mappable>> {
        self.ops.mappable()
    }

    fn release(&self, _file: &File) {
        self.ops.release();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
