//! pidfd_open(2): a descriptor for a process, readable once it has ended.

use super::ThreadGroup;
use crate::cred::Credentials;
use crate::ipc::anon::{AnonKind, anon_file};
use crate::vfs::{File, FileOps};
use abi::{Result, fs::OpenFlags, poll::PollEvents};
use std::any::Any;
use std::sync::Arc;
use sync::WaitQueue;

/// The file behind a pidfd.
pub struct Pidfd {
    group: Arc<ThreadGroup>,
}

impl Pidfd {
    /// The process it stands for, which may have been reaped.
    #[must_use]
    pub fn group(&self) -> &Arc<ThreadGroup> {
        &self.group
    }
}

impl FileOps for Pidfd {
    fn seekable(&self) -> bool {
        false
    }

    fn poll(&self, _file: &File) -> PollEvents {
        let mut events = PollEvents::empty();
        if self.group.is_dead() {
            events |= PollEvents::READABLE;
            if self.group.pids().process(self.group.tgid).is_none_or(|g| !Arc::ptr_eq(&g, &self.group)) {
                events |= PollEvents::HUP;
            }
        }
        events
    }

    fn poll_queue(&self) -> Option<&WaitQueue> {
        Some(&self.group.exit_queue)
    }

    fn show_fdinfo(&self, _file: &File) -> String {
        let gone = self.group.pids().process(self.group.tgid).is_none();
        let pid = if gone { -1 } else { self.group.tgid };
        format!("Pid:\t{pid}\nNSpid:\t{pid}\n")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A new pidfd.
pub fn open(group: &Arc<ThreadGroup>) -> Result<Arc<File>> {
    let kind = AnonKind::Other("[pidfd]");
    Ok(anon_file(kind, &Credentials::root(), OpenFlags::RDWR, Box::new(Pidfd { group: group.clone() })))
}
