//! Log lines of the shim: logrus's text format, into the FIFO `log` of the bundle, which containerd reads.
//!
//! containerd may be dead, or never read: a line that does not fit is lost, and never waited for.

use rustix::fs::{Mode, OFlags, open};
use std::fs::File;
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

static LOG: OnceLock<File> = OnceLock::new();
static DEBUG: AtomicBool = AtomicBool::new(false);

/// Opens the FIFO in the working directory, where there is one.
pub fn start(debug: bool) {
    DEBUG.store(debug, Ordering::Relaxed);
    // For reading, too: so it opens without a reader, and writing to it is no error after containerd's end.
    if let Ok(fd) = open("log", OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()) {
        let _ = LOG.set(File::from(fd));
    }
}

fn line(level: &str, message: &str) {
    if let Some(mut log) = LOG.get() {
        let _ = log.write_all(format!("level={level} msg={message:?} runtime={}\n", crate::NAME).as_bytes());
    }
}

/// Something failed that nobody waits for an answer to.
pub fn warn(message: impl AsRef<str>) {
    line("warning", message.as_ref());
}

/// For `-debug`.
pub fn debug(message: impl AsRef<str>) {
    if DEBUG.load(Ordering::Relaxed) {
        line("debug", message.as_ref());
    }
}
