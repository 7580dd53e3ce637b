//! Error codes, and the error type of every kernel function.
//!
//! [`Errno`] is what a system call returns. [`Error`] is what the kernel passes around inside: an errno, or the wish
//! that the interrupted call be restarted ([`Restart`]), which is never a number before it reaches the signal code.

use core::fmt;

/// A Linux error code: what a system call returns negated.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(u16);

macro_rules! errnos {
    ($($name:ident = $n:literal),* $(,)?) => {
        #[allow(missing_docs)]
        impl Errno {
            $(pub const $name: Errno = Errno($n);)*
            /// The symbolic name, as in `errno.h`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self.0 { $($n => stringify!($name),)* _ => "E?" }
            }
        }
    };
}

errnos! {
    EPERM = 1,
    ENOENT = 2,
    ESRCH = 3,
    EINTR = 4,
    EIO = 5,
    ENXIO = 6,
    E2BIG = 7,
    ENOEXEC = 8,
    EBADF = 9,
    ECHILD = 10,
    EAGAIN = 11,
    ENOMEM = 12,
    EACCES = 13,
    EFAULT = 14,
    ENOTBLK = 15,
    EBUSY = 16,
    EEXIST = 17,
    EXDEV = 18,
    ENODEV = 19,
    ENOTDIR = 20,
    EISDIR = 21,
    EINVAL = 22,
    ENFILE = 23,
    EMFILE = 24,
    ENOTTY = 25,
    ETXTBSY = 26,
    EFBIG = 27,
    ENOSPC = 28,
    ESPIPE = 29,
    EROFS = 30,
    EMLINK = 31,
    EPIPE = 32,
    EDOM = 33,
    ERANGE = 34,
    EDEADLK = 35,
    ENAMETOOLONG = 36,
    ENOLCK = 37,
    ENOSYS = 38,
    ENOTEMPTY = 39,
    ELOOP = 40,
    ENOMSG = 42,
    EIDRM = 43,
    ECHRNG = 44,
    EL2NSYNC = 45,
    EL3HLT = 46,
    EL3RST = 47,
    ELNRNG = 48,
    EUNATCH = 49,
    ENOCSI = 50,
    EL2HLT = 51,
    EBADE = 52,
    EBADR = 53,
    EXFULL = 54,
    ENOANO = 55,
    EBADRQC = 56,
    EBADSLT = 57,
    EBFONT = 59,
    ENOSTR = 60,
    ENODATA = 61,
    ETIME = 62,
    ENOSR = 63,
    ENONET = 64,
    ENOPKG = 65,
    EREMOTE = 66,
    ENOLINK = 67,
    EADV = 68,
    ESRMNT = 69,
    ECOMM = 70,
    EPROTO = 71,
    EMULTIHOP = 72,
    EDOTDOT = 73,
    EBADMSG = 74,
    EOVERFLOW = 75,
    ENOTUNIQ = 76,
    EBADFD = 77,
    EREMCHG = 78,
    ELIBACC = 79,
    ELIBBAD = 80,
    ELIBSCN = 81,
    ELIBMAX = 82,
    ELIBEXEC = 83,
    EILSEQ = 84,
    ERESTART = 85,
    ESTRPIPE = 86,
    EUSERS = 87,
    ENOTSOCK = 88,
    EDESTADDRREQ = 89,
    EMSGSIZE = 90,
    EPROTOTYPE = 91,
    ENOPROTOOPT = 92,
    EPROTONOSUPPORT = 93,
    ESOCKTNOSUPPORT = 94,
    EOPNOTSUPP = 95,
    EPFNOSUPPORT = 96,
    EAFNOSUPPORT = 97,
    EADDRINUSE = 98,
    EADDRNOTAVAIL = 99,
    ENETDOWN = 100,
    ENETUNREACH = 101,
    ENETRESET = 102,
    ECONNABORTED = 103,
    ECONNRESET = 104,
    ENOBUFS = 105,
    EISCONN = 106,
    ENOTCONN = 107,
    ESHUTDOWN = 108,
    ETOOMANYREFS = 109,
    ETIMEDOUT = 110,
    ECONNREFUSED = 111,
    EHOSTDOWN = 112,
    EHOSTUNREACH = 113,
    EALREADY = 114,
    EINPROGRESS = 115,
    ESTALE = 116,
    EUCLEAN = 117,
    ENOTNAM = 118,
    ENAVAIL = 119,
    EISNAM = 120,
    EREMOTEIO = 121,
    EDQUOT = 122,
    ENOMEDIUM = 123,
    EMEDIUMTYPE = 124,
    ECANCELED = 125,
    ENOKEY = 126,
    EKEYEXPIRED = 127,
    EKEYREVOKED = 128,
    EKEYREJECTED = 129,
    EOWNERDEAD = 130,
    ENOTRECOVERABLE = 131,
    ERFKILL = 132,
}

impl Errno {
    /// Linux's other spelling of `EAGAIN`.
    pub const EWOULDBLOCK: Errno = Errno::EAGAIN;
    /// Linux's other spelling of `EOPNOTSUPP`.
    pub const ENOTSUP: Errno = Errno::EOPNOTSUPP;

    /// From a raw positive code, as the host gives it. Zero or a code out of range becomes `EIO`.
    #[must_use]
    pub const fn from_raw(code: i32) -> Errno {
        if code > 0 && code < 4096 { Errno(code as u16) } else { Errno::EIO }
    }

    /// The positive code.
    #[must_use]
    pub const fn raw(self) -> i32 {
        self.0 as i32
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name(), self.0)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::error::Error for Errno {}

impl From<std::io::Error> for Errno {
    fn from(e: std::io::Error) -> Errno {
        e.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
    }
}

/// How a call that a signal interrupted goes on (Linux's ERESTART family, include/linux/errno.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// `ERESTARTSYS`: restart if the handler has `SA_RESTART`, or if no handler runs; else `EINTR`.
    Sys,
    /// `ERESTARTNOINTR`: always restart.
    NoIntr,
    /// `ERESTARTNOHAND`: restart only if no handler runs; else `EINTR`.
    NoHand,
    /// `ERESTART_RESTARTBLOCK`: continue through `restart_syscall` with what the task has saved; `EINTR` if a handler runs.
    Block,
}

/// What a kernel function fails with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The call fails with this code.
    Errno(Errno),
    /// The call was interrupted.
    Restart(Restart),
}

impl Error {
    /// Whether this is exactly `errno`.
    #[must_use]
    pub fn is(self, errno: Errno) -> bool {
        self == Error::Errno(errno)
    }

    /// The code the application sees if a handler ran: a restart becomes `EINTR`.
    #[must_use]
    pub fn errno(self) -> Errno {
        match self {
            Error::Errno(e) => e,
            Error::Restart(_) => Errno::EINTR,
        }
    }
}

impl From<Errno> for Error {
    fn from(e: Errno) -> Error {
        Error::Errno(e)
    }
}

impl From<Restart> for Error {
    fn from(r: Restart) -> Error {
        Error::Restart(r)
    }
}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Error {
        Error::Errno(e.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Errno(e) => fmt::Display::fmt(e, f),
            Error::Restart(r) => write!(f, "restart ({r:?})"),
        }
    }
}

impl std::error::Error for Error {}

/// The result of a kernel function.
pub type Result<T = (), E = Error> = core::result::Result<T, E>;

/// Makes an [`Error`] from an errno's name, and a reason that a trace shows: `error!(EINVAL, "len is zero")`.
#[macro_export]
macro_rules! error {
    ($name:ident) => {
        $crate::Error::Errno($crate::Errno::$name)
    };
    ($name:ident, $($why:tt)+) => {{
        $crate::error::tracing::trace!(target: "errno", concat!(stringify!($name), ": {}"), format_args!($($why)+));
        $crate::Error::Errno($crate::Errno::$name)
    }};
}

/// Returns early with [`error!`].
#[macro_export]
macro_rules! bail {
    ($($t:tt)+) => { return Err($crate::error!($($t)+).into()) };
}

#[doc(hidden)]
pub use tracing;
