//! Typed arguments: how a register becomes what a handler takes, and how a trace shows it.
//!
//! A raw `u64` never leaves this crate: a handler's signature says what each register means, and [`Handler`] decodes by it.

use abi::{Result, error};
use kernel::{
    task::CurrentTask,
    user::{UserAddr, UserRef},
    vfs::Fd,
};

/// The six argument registers of a call: rdi, rsi, rdx, r10, r8, r9.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Args(pub [u64; 6]);

/// A NUL-terminated string of the application.
#[derive(Clone, Copy, Debug)]
pub struct UserCStr(pub UserAddr);

impl UserCStr {
    /// Copies the string, `ENAMETOOLONG` if it is longer than a path may be.
    pub fn read_path(self, t: &CurrentTask) -> Result<Vec<u8>> {
        t.mm().read_cstr(self.0, kernel::vfs::PATH_MAX)
    }
}

/// The directory descriptor of an *at call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirFd {
    /// `AT_FDCWD`: the current directory.
    Cwd,
    /// This directory.
    At(Fd),
    /// No descriptor at all: `EBADF`, unless the path is absolute.
    Invalid,
}

/// A handler's argument.
pub trait FromArg: Sized {
    /// From the register. Fails with the errno Linux gives for a value that can mean nothing (a negative descriptor: `EBADF`).
    fn from_arg(raw: u64) -> Result<Self>;
    /// How a trace shows it.
    fn show(raw: u64, t: &CurrentTask) -> String;
}

macro_rules! int_args {
    ($($t:ty),*) => {$(
        impl FromArg for $t {
            fn from_arg(raw: u64) -> Result<Self> {
                // Registers carry narrower C types in their low bits.
                Ok(raw as $t)
            }
            fn show(raw: u64, _: &CurrentTask) -> String {
                (raw as $t).to_string()
            }
        }
    )*};
}
int_args!(i32, i64, u8, u16);

macro_rules! hex_args {
    ($($t:ty),*) => {$(
        impl FromArg for $t {
            fn from_arg(raw: u64) -> Result<Self> {
                Ok(raw as $t)
            }
            fn show(raw: u64, _: &CurrentTask) -> String {
                let v = raw as $t;
                if v < 4096 { v.to_string() } else { format!("{v:#x}") }
            }
        }
    )*};
}
hex_args!(u32, u64, usize);

impl FromArg for Fd {
    fn from_arg(raw: u64) -> Result<Self> {
        u32::try_from(raw as i32).map(Fd).map_err(|_| error!(EBADF, "negative descriptor"))
    }
    fn show(raw: u64, _: &CurrentTask) -> String {
        (raw as i32).to_string()
    }
}

impl FromArg for DirFd {
    fn from_arg(raw: u64) -> Result<Self> {
        Ok(match raw as i32 {
            abi::libc::AT_FDCWD => DirFd::Cwd,
            n => u32::try_from(n).map_or(DirFd::Invalid, |n| DirFd::At(Fd(n))),
        })
    }
    fn show(raw: u64, _: &CurrentTask) -> String {
        if raw as i32 == abi::libc::AT_FDCWD { "AT_FDCWD".into() } else { (raw as i32).to_string() }
    }
}

impl FromArg for UserAddr {
    fn from_arg(raw: u64) -> Result<Self> {
        Ok(UserAddr(raw))
    }
    fn show(raw: u64, _: &CurrentTask) -> String {
        if raw == 0 { "NULL".into() } else { format!("{raw:#x}") }
    }
}

impl<T> FromArg for UserRef<T> {
    fn from_arg(raw: u64) -> Result<Self> {
        Ok(UserRef::new(UserAddr(raw)))
    }
    fn show(raw: u64, t: &CurrentTask) -> String {
        UserAddr::show(raw, t)
    }
}

impl FromArg for UserCStr {
    fn from_arg(raw: u64) -> Result<Self> {
        Ok(UserCStr(UserAddr(raw)))
    }
    fn show(raw: u64, t: &CurrentTask) -> String {
        match t.mm().read_cstr(UserAddr(raw), 4096) {
            Ok(s) => format!("{:?}", String::from_utf8_lossy(&s[..s.len().min(256)])),
            Err(_) => UserAddr::show(raw, t),
        }
    }
}

/// What a handler returns.
pub trait IntoRet {
    /// The value of rax.
    fn into_ret(self) -> u64;
}

impl IntoRet for () {
    fn into_ret(self) -> u64 {
        0
    }
}
macro_rules! rets {
    ($($t:ty),*) => {$(
        impl IntoRet for $t {
            fn into_ret(self) -> u64 {
                self as i64 as u64
            }
        }
    )*};
}
rets!(i32, i64, u32, u64, usize);
impl IntoRet for Fd {
    fn into_ret(self) -> u64 {
        u64::from(self.0)
    }
}
impl IntoRet for UserAddr {
    fn into_ret(self) -> u64 {
        self.0
    }
}

/// A function that can stand in the table: up to six typed arguments.
pub trait Handler<A> {
    /// Decodes and calls.
    fn call(&self, t: &mut CurrentTask, args: &Args) -> Result<u64>;
    /// The arguments as a trace shows them.
    fn show(&self, t: &CurrentTask, args: &Args) -> String;
}

macro_rules! handlers {
    ($($a:ident = $i:tt),*) => {
        impl<Func, R: IntoRet, $($a: FromArg),*> Handler<($($a,)*)> for Func
        where
            Func: Fn(&mut CurrentTask $(, $a)*) -> Result<R>,
        {
            #[allow(unused_variables)]
            fn call(&self, t: &mut CurrentTask, args: &Args) -> Result<u64> {
                Ok(self(t $(, $a::from_arg(args.0[$i])?)*)?.into_ret())
            }
            #[allow(unused_variables)]
            fn show(&self, t: &CurrentTask, args: &Args) -> String {
                let shown: Vec<String> = vec![$($a::show(args.0[$i], t)),*];
                shown.join(", ")
            }
        }
    };
}
handlers!();
handlers!(A = 0);
handlers!(A = 0, B = 1);
handlers!(A = 0, B = 1, C = 2);
handlers!(A = 0, B = 1, C = 2, D = 3);
handlers!(A = 0, B = 1, C = 2, D = 3, E = 4);
handlers!(A = 0, B = 1, C = 2, D = 3, E = 4, F = 5);
