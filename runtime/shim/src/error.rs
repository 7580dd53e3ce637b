//! Errors, and how containerd hears of them: it looks at the code, and shows the message.

use std::fmt::Display;
use ttrpc::Code;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The status code of the answer.
    pub code: Code,
    /// One line.
    pub message: String,
}

/// With [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// With any code.
    pub fn new(code: Code, message: impl Into<String>) -> Error {
        Error { code, message: message.into() }
    }

    /// No such container, process, …; for `kill` also: it has ended.
    pub fn not_found(message: impl Into<String>) -> Error {
        Error::new(Code::NOT_FOUND, message)
    }

    /// A request that is wrong in itself.
    pub fn invalid(message: impl Into<String>) -> Error {
        Error::new(Code::INVALID_ARGUMENT, message)
    }

    /// A request that is wrong in the present state.
    pub fn precondition(message: impl Into<String>) -> Error {
        Error::new(Code::FAILED_PRECONDITION, message)
    }

    /// For `map_err`: the host does not let us do `what`.
    pub fn context<E: Display>(what: impl Display) -> impl FnOnce(E) -> Error {
        move |error| Error::new(Code::UNKNOWN, format!("{what}: {error}"))
    }
}

impl From<Error> for ttrpc::Error {
    fn from(error: Error) -> ttrpc::Error {
        ttrpc::Error::RpcStatus(ttrpc::get_status(error.code, error.message))
    }
}
