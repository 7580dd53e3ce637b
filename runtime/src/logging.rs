//! Where log lines and the last error go: standard error, and the file of `--log` in the format of `--log-format`.

use crate::exit::{Failure, Result, Status};
use control::logging::{Format, json_line, timestamp};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use tracing::level_filters::LevelFilter;

/// The log as the flags ask for it.
#[derive(Debug)]
pub struct Log {
    /// The file of `--log`.
    file: Option<File>,
    /// `--log-format`.
    pub format: Format,
    /// Which lines are written, by this process and the sandbox's.
    pub level: LevelFilter,
    /// The number of the descriptor that this process's own lines are written to.
    own: RawFd,
}

impl Log {
    /// Opens the log and sends this process's `tracing` events there.
    pub fn open(path: Option<&Path>, format: Format, verbose: Option<LevelFilter>) -> Result<Log> {
        // Standard error belongs to the application, too: nothing but what matters goes there unasked.
        let level = verbose.unwrap_or(if path.is_some() { LevelFilter::WARN } else { LevelFilter::ERROR });
        let file = match path {
            Some(path) => Some(
                OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(path)
                    .map_err(Failure::context(Status::Output, format_args!("cannot open the log {}", path.display())))?,
            ),
            None => None,
        };
        let mut log = Log { file, format, level, own: 2 };
        let descriptor = log.descriptor()?;
        log.own = descriptor.as_raw_fd();
        control::logging::init(descriptor, format, level);
        Ok(log)
    }

    /// Whether lines go to standard error although nobody asked for them: then a process in the background must not keep that open.
    fn is_unasked(&self) -> bool {
        self.file.is_none() && self.level <= LevelFilter::ERROR
    }

    /// The log of a sandbox in the background.
    pub fn without_streams(&self) -> Result<Log> {
        let file = match &self.file {
            Some(file) => Some(file.try_clone()),
            None if self.is_unasked() => Some(OpenOptions::new().write(true).open("/dev/null")),
            None => None,
        };
        let file = file.transpose().map_err(Failure::context(Status::Output, "the log"))?;
        Ok(Log { file, ..*self })
    }

    /// In a process that stays in the background: leaves the standard streams to the application.
    pub fn release_streams(&self) -> std::io::Result<()> {
        crate::sandbox::release_streams(self.is_unasked().then_some(self.own))
    }

    /// A descriptor of its own for a child: the log file, or else standard error.
    pub fn descriptor(&self) -> Result<File> {
        match &self.file {
            Some(file) => file.try_clone(),
            None => rustix::io::fcntl_dupfd_cloexec(std::io::stderr(), 3).map(File::from).map_err(Into::into),
        }
        .map_err(Failure::context(Status::Output, "cannot duplicate the log's descriptor"))
    }

    /// Reports the failure that ends this process: one line on standard error, and one in the log.
    pub fn failure(&self, failure: &Failure) {
        report(failure);
        let Some(mut file) = self.file.as_ref() else { return };
        let line = match self.format {
            Format::Json => json_line(tracing::Level::ERROR, &failure.to_string()),
            Format::Text => format!("{} ERROR caisson: {failure}\n", timestamp()),
        };
        // The same line went to standard error already.
        let _ = file.write_all(line.as_bytes());
    }
}

/// One line on standard error.
pub fn report(failure: &Failure) {
    // With standard error closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "caisson: {failure}");
}
