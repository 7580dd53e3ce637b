//! What every subtest uses: raw calls, checks that say what went wrong, children, scratch memory.

use std::ffi::{CStr, CString};
use std::fmt;

// Everything of the C library, except where a name below stands before it.
#[allow(unused_imports)]
pub use libc::*;

/// An `errno`, shown by name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct E(pub i32);

/// The result of a raw call.
pub type R = Result<i64, E>;

macro_rules! names {
    ($($n:ident)*) => {
        impl fmt::Debug for E {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                $(if self.0 == libc::$n { return f.write_str(stringify!($n)); })*
                write!(f, "E{}", self.0)
            }
        }
        $(#[allow(dead_code)] pub const $n: E = E(libc::$n);)*
    };
}
names!(EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT ENOTBLK EBUSY EEXIST EXDEV
    ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM ERANGE EDEADLK
    ENAMETOOLONG ENOSYS ENOTEMPTY ELOOP ENODATA ETIME EOVERFLOW EBADFD EUSERS ENOTSOCK EDESTADDRREQ EMSGSIZE EPROTOTYPE
    ENOPROTOOPT EPROTONOSUPPORT ESOCKTNOSUPPORT EOPNOTSUPP EAFNOSUPPORT EADDRINUSE EADDRNOTAVAIL ECONNRESET EISCONN ENOTCONN
    ETIMEDOUT ECONNREFUSED EALREADY EINPROGRESS ESTALE EIDRM ENOMSG ECANCELED EOWNERDEAD ENOTRECOVERABLE);

/// A value that fits in a register of a system call.
pub trait Arg {
    fn arg(self) -> i64;
}
macro_rules! int_args { ($($t:ty)*) => { $(impl Arg for $t { fn arg(self) -> i64 { self as i64 } })* } }
int_args!(i8 u8 i16 u16 i32 u32 i64 u64 usize isize);
impl<T> Arg for *const T {
    fn arg(self) -> i64 {
        self as i64
    }
}
impl<T> Arg for *mut T {
    fn arg(self) -> i64 {
        self as i64
    }
}
impl Arg for &CStr {
    fn arg(self) -> i64 {
        self.as_ptr() as i64
    }
}
impl Arg for &CString {
    fn arg(self) -> i64 {
        self.as_ptr() as i64
    }
}

/// The address of a value that the kernel reads.
pub fn p<T: ?Sized>(value: &T) -> i64 {
    value as *const T as *const u8 as i64
}

/// The address of a value that the kernel writes.
pub fn m<T: ?Sized>(value: &mut T) -> i64 {
    value as *mut T as *mut u8 as i64
}

/// A raw call with its number.
pub fn raw(nr: i64, a: &[i64]) -> R {
    let g = |i: usize| a.get(i).copied().unwrap_or(0);
    let r = unsafe { libc::syscall(nr, g(0), g(1), g(2), g(3), g(4), g(5)) };
    if r == -1 { Err(E(unsafe { *libc::__errno_location() })) } else { Ok(r) }
}

/// `sys!(openat, AT_FDCWD, c"name", O_RDONLY)`: the raw call of that name.
#[macro_export]
macro_rules! sys {
    ($name:ident $(, $a:expr)* $(,)?) => {
        $crate::sys::raw($crate::sys::nr::$name, &[$($crate::sys::Arg::arg($a)),*])
    };
}

/// The value, or the end of the subtest with the error that came instead.
#[macro_export]
macro_rules! ok {
    ($e:expr) => {
        match $e {
            Ok(v) => v,
            Err(e) => $crate::sys::fail(file!(), line!(), format_args!("{} failed with {:?}", stringify!($e), e)),
        }
    };
}

/// The call must fail with exactly this error.
#[macro_export]
macro_rules! err {
    ($e:expr, $want:expr) => {
        match $e {
            Err(e) if e == $want => (),
            other => $crate::sys::fail(file!(), line!(), format_args!("{}: {:?}, expected {:?}", stringify!($e), other, $want)),
        }
    };
}

/// Both sides must be equal.
#[macro_export]
macro_rules! eq {
    ($a:expr, $b:expr) => {
        match (&$a, &$b) {
            (a, b) if *a == *b => (),
            (a, b) => $crate::sys::fail(file!(), line!(), format_args!("{} is {:?}, expected {:?}", stringify!($a), a, b)),
        }
    };
}

/// The condition must hold.
#[macro_export]
macro_rules! check {
    ($c:expr) => {
        if !$c {
            $crate::sys::fail(file!(), line!(), format_args!("not so: {}", stringify!($c)))
        }
    };
}

/// Ends the subtest.
pub fn fail(file: &str, line: u32, what: fmt::Arguments<'_>) -> ! {
    let short = file.rsplit('/').next().unwrap_or(file);
    let text = format!("{short}:{line}: {what}\n");
    unsafe {
        libc::write(2, text.as_ptr().cast(), text.len());
        libc::_exit(1)
    }
}

/// Prints a line in one write, so that parents and children do not mix.
#[macro_export]
macro_rules! say {
    ($($a:tt)*) => { $crate::sys::say_line(&format!($($a)*)) };
}

pub fn say_line(text: &str) {
    let line = format!("{text}\n");
    unsafe { libc::write(1, line.as_ptr().cast(), line.len()) };
}

/// Runs a subtest in a child, as an init that reaps whatever is left to it; the child's exit status (128 + signal).
pub fn run_as_init(test: &crate::Test) -> i32 {
    let base = std::env::var("GUEST_DIR").unwrap_or_else(|_| "/tmp".to_string());
    let dir = c(format!("{base}/{}", test.name.replace("::", ".")));
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        unsafe { libc::umask(0o022) };
        ok!(sys!(mkdir, &dir, 0o755));
        ok!(sys!(chdir, &dir));
        (test.run)();
        unsafe { libc::_exit(0) };
    }
    loop {
        let mut status = 0;
        let got = unsafe { libc::waitpid(-1, &mut status, 0) };
        if got == pid {
            return if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) };
        }
        if got < 0 && E(unsafe { *libc::__errno_location() }) != EINTR {
            return 254;
        }
    }
}

/// Forks; the child runs `f` and leaves with 0. Returns the child's pid.
pub fn fork(f: impl FnOnce()) -> i32 {
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        f();
        unsafe { libc::_exit(0) };
    }
    if pid < 0 {
        fail(file!(), line!(), format_args!("fork failed"));
    }
    pid
}

/// The raw wait status of `pid`.
pub fn wait(pid: i32) -> i32 {
    let mut status = 0;
    loop {
        match sys!(wait4, pid, m(&mut status), 0, 0) {
            Ok(_) => return status,
            Err(e) if e == EINTR => continue,
            Err(e) => fail(file!(), line!(), format_args!("wait4({pid}): {e:?}")),
        }
    }
}

/// Forks, runs `f` in the child, and demands that it left with 0 (its own checks all held).
pub fn in_child(f: impl FnOnce()) {
    let status = wait(fork(f));
    if status != 0 {
        fail(file!(), line!(), format_args!("the child ended with {}", show_status(status)));
    }
}

/// `exit 3`, `signal 9`, …
pub fn show_status(status: i32) -> String {
    if libc::WIFEXITED(status) {
        format!("exit {}", libc::WEXITSTATUS(status))
    } else if libc::WIFSIGNALED(status) {
        format!("signal {}", libc::WTERMSIG(status))
    } else if libc::WIFSTOPPED(status) {
        format!("stop {}", libc::WSTOPSIG(status))
    } else if libc::WIFCONTINUED(status) {
        "continued".to_string()
    } else {
        format!("status {status:#x}")
    }
}

/// Sleeps at least this many milliseconds.
pub fn ms(n: u64) {
    std::thread::sleep(std::time::Duration::from_millis(n));
}

/// Waits (up to 10 s) until `f` is true.
pub fn until(what: &str, mut f: impl FnMut() -> bool) {
    for _ in 0..5000 {
        if f() {
            return;
        }
        ms(2);
    }
    fail(file!(), line!(), format_args!("did not happen in 10 s: {what}"));
}

/// The state letter of a process or thread in /proc/PID/stat.
pub fn state(pid: i32) -> char {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    text.rsplit(") ").next().and_then(|r| r.chars().next()).unwrap_or('?')
}

/// A new path as a C string.
pub fn c(path: impl AsRef<str>) -> CString {
    CString::new(path.as_ref()).unwrap()
}

/// Creates a file with these bytes (mode 0644).
pub fn put(path: &str, bytes: &[u8]) {
    if let Err(e) = std::fs::write(path, bytes) {
        fail(file!(), line!(), format_args!("write {path}: {e}"));
    }
}

/// A file's bytes.
pub fn get(path: &str) -> Vec<u8> {
    match std::fs::read(path) {
        Ok(b) => b,
        Err(e) => fail(file!(), line!(), format_args!("read {path}: {e}")),
    }
}

/// Opens a path.
pub fn open(path: &CStr, flags: i32) -> Result<i32, E> {
    sys!(openat, libc::AT_FDCWD, path, flags, 0o644).map(|f| f as i32)
}

/// Closes a descriptor.
pub fn close(fd: i32) {
    ok!(sys!(close, fd));
}

/// `stat`, following links.
pub fn stat(path: &CStr) -> Result<libc::stat, E> {
    let mut st = unsafe { std::mem::zeroed::<libc::stat>() };
    sys!(newfstatat, libc::AT_FDCWD, path, m(&mut st), 0).map(|_| st)
}

/// `lstat`.
pub fn lstat(path: &CStr) -> Result<libc::stat, E> {
    let mut st = unsafe { std::mem::zeroed::<libc::stat>() };
    sys!(newfstatat, libc::AT_FDCWD, path, m(&mut st), libc::AT_SYMLINK_NOFOLLOW).map(|_| st)
}

/// `fstat`.
pub fn fstat(fd: i32) -> libc::stat {
    let mut st = unsafe { std::mem::zeroed::<libc::stat>() };
    ok!(sys!(fstat, fd, m(&mut st)));
    st
}

/// A pipe: (read end, write end).
pub fn pipe(flags: i32) -> (i32, i32) {
    let mut fds = [0i32; 2];
    ok!(sys!(pipe2, m(&mut fds), flags));
    (fds[0], fds[1])
}

/// Reads at most `n` bytes once.
pub fn read(fd: i32, n: usize) -> Result<Vec<u8>, E> {
    let mut buf = vec![0u8; n];
    let got = sys!(read, fd, m(&mut buf[..]), n)?;
    buf.truncate(got as usize);
    Ok(buf)
}

/// Writes once.
pub fn write(fd: i32, bytes: &[u8]) -> R {
    sys!(write, fd, p(bytes), bytes.len())
}

/// Anonymous memory, readable and writable, private unless `flags` says otherwise.
pub fn anon(len: usize, flags: i32) -> *mut u8 {
    ok!(sys!(mmap, 0, len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_ANONYMOUS | flags, -1, 0)) as *mut u8
}

/// A page of memory shared with the children made later.
pub fn shared<T>() -> &'static T {
    unsafe { &*(anon(4096.max(size_of::<T>()), libc::MAP_SHARED) as *const T) }
}

/// Installs a handler with the kernel's own structure, through the C library's restorer.
pub fn on(signal: i32, handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void), flags: i32) {
    let mut sa = unsafe { std::mem::zeroed::<libc::sigaction>() };
    sa.sa_sigaction = handler as *const () as usize;
    sa.sa_flags = flags | libc::SA_SIGINFO;
    if unsafe { libc::sigaction(signal, &sa, std::ptr::null_mut()) } != 0 {
        fail(file!(), line!(), format_args!("sigaction({signal})"));
    }
}

/// Sets a signal to `SIG_IGN` or `SIG_DFL`.
pub fn action(signal: i32, what: usize) {
    let mut sa = unsafe { std::mem::zeroed::<libc::sigaction>() };
    sa.sa_sigaction = what;
    unsafe { libc::sigaction(signal, &sa, std::ptr::null_mut()) };
}

/// A signal set as the kernel's 64 bits.
pub fn set(signals: &[i32]) -> u64 {
    signals.iter().fold(0, |s, n| s | 1u64 << (n - 1))
}

/// Blocks (`SIG_BLOCK`), unblocks or sets the mask of this thread; the old one.
pub fn mask(how: i32, signals: &[i32]) -> u64 {
    let new = set(signals);
    let mut old = 0u64;
    ok!(sys!(rt_sigprocmask, how, p(&new), m(&mut old), 8));
    old
}

/// What a signal did to the process, as the default action shows: forks, raises it in the child, shows the status.
pub fn now(clock: i32) -> f64 {
    let mut ts = unsafe { std::mem::zeroed::<libc::timespec>() };
    ok!(sys!(clock_gettime, clock, m(&mut ts)));
    ts.tv_sec as f64 + ts.tv_nsec as f64 * 1e-9
}

/// A `timespec` of so many milliseconds.
pub fn ts(ms: i64) -> libc::timespec {
    libc::timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 }
}

/// Runs `f` in a thread with its own stack and waits for it.
pub fn threads(n: usize, f: impl Fn(usize) + Send + Sync + Copy + 'static) -> Vec<std::thread::JoinHandle<()>> {
    (0..n)
        .map(|i| {
            std::thread::Builder::new()
                .stack_size(64 << 10)
                .spawn(move || f(i))
                .unwrap_or_else(|e| fail(file!(), line!(), format_args!("thread {i}: {e}")))
        })
        .collect()
}

/// The calling thread's id.
pub fn gettid() -> i32 {
    ok!(sys!(gettid)) as i32
}

/// The calling process's id.
pub fn getpid() -> i32 {
    ok!(sys!(getpid)) as i32
}

/// Call numbers under their plain names.
#[allow(non_upper_case_globals, dead_code)]
pub mod nr {
    include!("nr.rs");
}
