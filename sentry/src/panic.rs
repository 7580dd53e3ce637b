//! A panic anywhere in the sentry ends the sandbox: a task thread that is gone would leave its application waiting for ever,
//! and a kernel with a broken invariant should not go on serving.

use crate::server::Server;
use control::FailureKind;

/// Makes panics end the process, with a line in the log and a message to the runtime.
pub fn install(server: &Server) {
    let server = server.clone();
    std::panic::set_hook(Box::new(move |info| {
        let message = info.payload_as_str().unwrap_or("no message");
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current().name().unwrap_or("?").to_owned();
        let frames = host::backtrace::Frames::here();
        tracing::error!("panic in thread {thread} at {place}: {message}; called from {frames}");
        server.failed(FailureKind::Internal, &format!("the sentry has a bug: panic at {place}: {message}"));
        std::process::exit(crate::FAILED);
    }));
}
