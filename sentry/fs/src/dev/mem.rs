//! The memory devices (major 1): null, zero, full, random, urandom, and kmsg, which takes lines and gives none.

use abi::{Result, bail, poll::PollEvents};
use kernel::{
    io::IoBuffer,
    task::Task,
    user::UserAddr,
    vfs::{File, FileOps, IoctlArg, SeekFrom},
};
use std::any::Any;

/// Most bytes one pass of reading random bytes makes.
const RANDOM_CHUNK: usize = 4096;

/// Seeking moves nowhere: the position of these devices has no meaning (`null_lseek`).
fn seek_nowhere() -> Option<Result<u64>> {
    Some(Ok(0))
}

/// `/dev/null` (1:3).
pub struct Null;

impl FileOps for Null {
    fn read(&self, _: &File, _: &mut IoBuffer<'_>, _: u64) -> Result<usize> {
        Ok(0)
    }
    fn write(&self, _: &File, buf: &mut IoBuffer<'_>, offset: u64, _: bool) -> Result<(usize, u64)> {
        Ok((buf.remaining(), offset))
    }
    fn seek(&self, _: &File, _: u64, _: SeekFrom) -> Option<Result<u64>> {
        seek_nowhere()
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// `/dev/zero` (1:5) and, `full`, `/dev/full` (1:7).
pub struct Zero {
    /// Writing fails with ENOSPC.
    pub full: bool,
}

impl FileOps for Zero {
    fn read(&self, _: &File, buf: &mut IoBuffer<'_>, _: u64) -> Result<usize> {
        buf.write_zeros(buf.remaining())
    }
    fn write(&self, _: &File, buf: &mut IoBuffer<'_>, offset: u64, _: bool) -> Result<(usize, u64)> {
        if self.full {
            bail!(ENOSPC);
        }
        Ok((buf.remaining(), offset))
    }
    fn maps_zeros(&self) -> bool {
        !self.full
    }
    fn seek(&self, _: &File, _: u64, _: SeekFrom) -> Option<Result<u64>> {
        seek_nowhere()
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// `/dev/random` (1:8) and `/dev/urandom` (1:9), both from the host's generator.
pub struct Random;

impl FileOps for Random {
    fn read(&self, _: &File, buf: &mut IoBuffer<'_>, _: u64) -> Result<usize> {
        let mut chunk = [0u8; RANDOM_CHUNK];
        let mut done = 0;
        while buf.remaining() > 0 {
            let n = RANDOM_CHUNK.min(buf.remaining());
            host::rand::fill(&mut chunk[..n])?;
            match buf.write(&chunk[..n]) {
                Ok(k) => done += k,
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            }
        }
        Ok(done)
    }
    /// Mixing in more entropy is accepted and has no effect on the host's pool.
    fn write(&self, _: &File, buf: &mut IoBuffer<'_>, offset: u64, _: bool) -> Result<(usize, u64)> {
        Ok((buf.remaining(), offset))
    }
    fn seek(&self, _: &File, _: u64, _: SeekFrom) -> Option<Result<u64>> {
        seek_nowhere()
    }
    fn ioctl(&self, _: &File, task: &Task, cmd: u32, arg: IoctlArg) -> Result<u64> {
        /// `RNDGETENTCNT`
        const GET_ENTROPY_COUNT: u32 = 0x8004_5200;
        match cmd {
            GET_ENTROPY_COUNT => task.mm().write(UserAddr(arg.0).cast::<i32>(), &256).map(|()| 0),
            _ => bail!(EINVAL),
        }
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// `/dev/kmsg` (1:11): lines written go to the sandbox's log; there is no kernel log to read.
pub struct Kmsg;

impl FileOps for Kmsg {
    fn read(&self, _: &File, _: &mut IoBuffer<'_>, _: u64) -> Result<usize> {
        bail!(EAGAIN)
    }
    fn write(&self, _: &File, buf: &mut IoBuffer<'_>, offset: u64, _: bool) -> Result<(usize, u64)> {
        let line = buf.read_all(1024)?;
        tracing::debug!("kmsg: {}", String::from_utf8_lossy(&line).trim_end());
        Ok((line.len(), offset))
    }
    fn seekable(&self) -> bool {
        false
    }
    fn poll(&self, _: &File) -> PollEvents {
        PollEvents::WRITABLE
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}
