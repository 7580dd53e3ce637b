//! Booting: a kernel, its file systems, the tree of mounts, and the first process, all from the [`BootSpec`].
//!
//! This is the one place where the parts of the sentry, which know of each other through the kernel's traits only, are put
//! together. [`mounts`] makes the tree, [`process`] what the first process starts with.

mod mounts;
mod process;

use crate::{Failure, terminal::Terminal};
use abi::signal::{SI_USER, SigInfo, Signal};
use control::{BootSpec, FailureKind};
use kernel::{Kernel, KernelConfig, mm::MemoryPool, task::ThreadGroup, vfs::MountNamespace};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A running sandbox.
pub struct Sandbox {
    kernel: Arc<Kernel>,
    /// Mounts know their tree weakly: it lives as long as this.
    _namespace: Arc<MountNamespace>,
    init: Arc<ThreadGroup>,
    terminal: Option<Arc<Terminal>>,
}

/// Boots, and starts the first process. `steady_counter`: see [`KernelConfig`].
pub fn boot(
    spec: &BootSpec,
    platform: Arc<dyn platform::Platform>,
    host: fs::proc::HostInfo,
    gofer: OwnedFd,
    terminal: Option<OwnedFd>,
    steady_counter: bool,
) -> Result<Arc<Sandbox>, Failure> {
    let memory = MemoryPool::new(host::memfile::MemoryFile::DEFAULT_LEN).map_err(Failure::host("application memory"))?;
    // A guest thread that waits in the kernel leaves its processor to others.
    sync::observe(platform::set_blocked);
    let kernel = Kernel::new(platform, Arc::new(memory), config(spec, steady_counter)).map_err(Failure::host("cannot boot"))?;
    register(&kernel, spec, host);
    let terminal = match terminal {
        Some(host) => {
            let owner = (spec.process.credentials.uid, spec.process.credentials.gid);
            Some(Terminal::new(&kernel, host, owner)?)
        }
        None => None,
    };
    let namespace = mounts::build(&kernel, spec, gofer, terminal.as_deref())?;
    let init = process::start(&kernel, spec, &namespace, terminal.as_ref())?;
    if let Some(terminal) = &terminal {
        terminal.start()?;
    }
    Ok(Arc::new(Sandbox { kernel, _namespace: namespace, init, terminal }))
}

fn config(spec: &BootSpec, steady_counter: bool) -> KernelConfig {
    let or_default = |name: &str, default: Vec<u8>| if name.is_empty() { default } else { name.as_bytes().to_vec() };
    let defaults = KernelConfig::default();
    KernelConfig {
        hostname: or_default(&spec.hostname, defaults.hostname),
        domainname: or_default(&spec.domainname, defaults.domainname),
        steady_counter,
        ..defaults
    }
}

/// Makes every part known to the kernel.
fn register(kernel: &Arc<Kernel>, spec: &BootSpec, host: fs::proc::HostInfo) {
    kernel.attachments.get_or_insert_with(|| host);
    fs::register(kernel);
    net::register(kernel);
    kernel.set_dispatcher(syscalls::register(spec.strace));
}

impl Sandbox {
    /// Waits for the first process's end: its wait status. The application's last output has then left.
    pub fn wait(&self) -> i32 {
        let status = self.kernel.wait_exit();
        if let Some(terminal) = &self.terminal {
            terminal.flush();
        }
        status.wait_status()
    }

    /// Sends the first process a signal from outside.
    pub fn signal(&self, number: i32) {
        let Some(signal) = u64::try_from(number).ok().and_then(Signal::new) else {
            tracing::warn!("there is no signal {number}");
            return;
        };
        // As Linux shows a sender in another PID namespace: process 0.
        if let Err(error) = self.init.send_signal(SigInfo::user(signal, SI_USER, 0, 0)) {
            tracing::debug!("signal {number} is lost: {error}");
        }
    }

    /// The sentry's own process has got a signal.
    pub fn host_signal(&self, number: i32) {
        match (&self.terminal, number) {
            (Some(terminal), libc::SIGWINCH) => terminal.resize(),
            (Some(terminal), libc::SIGHUP) => terminal.hang_up(),
            _ => self.signal(number),
        }
    }
}

/// For `map_err`: the configuration cannot be put into force.
fn refused(what: impl std::fmt::Display) -> impl FnOnce(abi::Error) -> Failure {
    move |error| Failure::new(FailureKind::Invalid, format!("{what}: {error}"))
}
