//! The host calls that the safe wrappers do not offer: making a process in new namespaces, arranging its descriptors, and
//! taking signals as data. All of the runtime's `unsafe` is here.
#![allow(unsafe_code)]

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Where [`fork`] returned.
#[derive(Debug)]
pub enum Fork {
    /// In the parent: the child's process ID.
    Parent(i32),
    /// In the child.
    Child,
}

/// fork(2) with namespaces: `flags` are `CLONE_NEW*` of clone(2). The caller must be single-threaded, since only the calling
/// thread exists in the child, and any lock that another one held would stay locked there for ever.
pub fn fork(flags: i32) -> Result<Fork> {
    assert!(threads() == 1, "fork with several threads");
    let no_pointer = 0_usize;
    // SAFETY: without CLONE_VM and with no stack given, this is fork: the child runs on a copy of this stack. The only thread
    // is the calling one (checked above), so no lock is held by anyone else.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, no_pointer, no_pointer, no_pointer, no_pointer) };
    match pid {
        -1 => Err(Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid as i32)),
    }
}

/// The number of threads of this process, by its `/proc/self/task`; 1 if it cannot be read.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(1, |dir| dir.count())
}

/// Makes `fds` this process's only descriptors that survive execve, each under its number. Gives a copy of `executable` that
/// is still open until then.
pub fn arrange(fds: Vec<(RawFd, OwnedFd)>, executable: &File) -> Result<OwnedFd> {
    let highest = fds.iter().map(|(number, _)| *number).max().unwrap_or(2).max(2);
    // Out of the way of all the numbers, so that no dup2 below replaces one that is still needed.
    let executable = rustix::io::fcntl_dupfd_cloexec(executable, highest + 1)?;
    let mut parked = Vec::with_capacity(fds.len());
    for (number, fd) in fds {
        parked.push((number, rustix::io::fcntl_dupfd_cloexec(&fd, highest + 1)?));
        // Its number may be wanted; dropping it later would close what has the number then.
        std::mem::forget(fd);
    }
    // SAFETY: takes three numbers; what is left open here is closed by execve, or replaced below.
    if unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) } < 0 {
        return Err(Error::last_os_error());
    }
    for (number, fd) in &parked {
        // SAFETY: both are plain numbers; whatever had the target's number is closed, which is what this function is for, and
        // this process owns nothing else that it will use again before execve.
        if unsafe { libc::dup2(fd.as_raw_fd(), *number) } < 0 {
            return Err(Error::last_os_error());
        }
    }
    Ok(executable)
}

/// execve(2) of an open file, with an empty environment and no signal blocked.
pub fn execute(executable: &OwnedFd, args: &[&str]) -> Result<Infallible> {
    let mut strings = vec![c"caisson".to_owned()];
    for arg in args {
        strings.push(CString::new(*arg)?);
    }
    let mut argv: Vec<*const libc::c_char> = strings.iter().map(|s| s.as_ptr()).collect();
    argv.push(std::ptr::null());
    let envp = [std::ptr::null::<libc::c_char>()];
    let none = signal_set([]);
    // SAFETY: `none` is an initialized signal set; no old one is asked for.
    if unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) } < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: `argv` and `envp` end with a null pointer, and what they point to outlives the call.
    unsafe { libc::execveat(executable.as_raw_fd(), c"".as_ptr(), argv.as_ptr().cast(), envp.as_ptr().cast(), libc::AT_EMPTY_PATH) };
    Err(Error::last_os_error())
}

/// Makes the terminal `fd` the controlling one of this process, which must be a session leader without one.
pub fn take_terminal(fd: &OwnedFd) -> Result<()> {
    Ok(rustix::process::ioctl_tiocsctty(fd)?)
}

/// Blocks `signals` in this thread and gives a descriptor from which they are read (signalfd(2)), non-blocking.
pub fn signal_descriptor(signals: impl IntoIterator<Item = i32>) -> Result<File> {
    let set = signal_set(signals);
    // SAFETY: `set` is an initialized signal set; no old one is asked for.
    if unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: `set` is an initialized signal set, and -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor, and nobody else has it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

fn signal_set(signals: impl IntoIterator<Item = i32>) -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: sigemptyset initializes what it is given.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: initialized by sigemptyset.
    let mut set = unsafe { set.assume_init() };
    for signal in signals {
        // SAFETY: `set` is initialized; a number that is no signal is refused with EINVAL and changes nothing.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    set
}

/// The `CLONE_NEW*` flag of the namespace that `file` is, or `None` if it is no namespace (`NS_GET_NSTYPE`, ioctl_ns(2)).
pub fn namespace_type(file: &File) -> Option<i32> {
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
    // SAFETY: this ioctl takes no argument and returns a number; a file that is no namespace refuses it.
    let flag = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) };
    (flag > 0).then_some(flag)
}

/// Moves this thread into new namespaces (`CLONE_NEW*`).
pub fn unshare(flags: i32) -> Result<()> {
    // SAFETY: takes a number; what it changes is this thread's namespaces.
    if unsafe { libc::unshare(flags) } < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}

/// Closes every descriptor from `first` on: what whoever started this program left open, to be called before anything is opened here.
pub fn close_inherited(first: RawFd) -> Result<()> {
    // SAFETY: takes three numbers; nothing in this process owns any of these descriptors yet.
    if unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) } < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}

/// A copy of the descriptor `number`, which whoever started this program left open. `EBADF` if there is none.
pub fn inherited(number: RawFd) -> Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC takes numbers; on a descriptor that is not open it fails.
    let fd = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if fd < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: the kernel just made it, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Ends this process by `signal`, as if it had killed it, and without a core file.
pub fn die_by(signal: i32) -> ! {
    // Not being able to forbid a core file is no reason to live on.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    let set = signal_set([signal]);
    // SAFETY: SIG_DFL is a valid action.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
    // SAFETY: takes two numbers.
    unsafe { libc::kill(libc::getpid(), signal) };
    // SAFETY: `set` is an initialized signal set; no old one is asked for.
    unsafe { libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut()) };
    // A signal that does not kill.
    exit_now(128 | signal)
}

/// Moves this thread into the namespace `file`, of the type of the `CLONE_NEW*` flag `kind`.
pub fn enter_namespace(file: &File, kind: i32) -> Result<()> {
    // SAFETY: takes two numbers; what it changes is this thread's namespaces.
    if unsafe { libc::setns(file.as_raw_fd(), kind) } < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}

/// Sets an option of a packet socket (packet(7)).
pub fn set_packet_option(fd: &OwnedFd, name: i32, value: &[u8]) -> Result<()> {
    let len = value.len() as libc::socklen_t;
    // SAFETY: the value is only read, for the length that is its own.
    let done = unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_PACKET, name, value.as_ptr().cast(), len) };
    if done < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}

/// Lets a packet socket hear every frame of the interface with this index.
pub fn bind_packet(fd: &OwnedFd, index: u32) -> Result<()> {
    // SAFETY: all zero bytes are a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index.cast_signed();
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the address is only read, for its own length.
    let done = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) };
    if done < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}

/// bpf(2), with attributes that name memory by its address.
fn bpf(command: i64, attributes: &[u8]) -> Result<OwnedFd> {
    // SAFETY: the attributes are read for their own length; what they point to is the callers' matter, who keep it until this returns.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), attributes.len()) };
    if fd < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: the kernel has made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Steers connections that come to 127.0.0.1 in a network namespace, to whatever port, to this listener, for as long as the link is open.
pub fn steer_loopback(listener: &impl AsRawFd, namespace: &File) -> Result<OwnedFd> {
    const MAP_CREATE: i64 = 0;
    const MAP_UPDATE: i64 = 2;
    const PROG_LOAD: i64 = 5;
    const LINK_CREATE: i64 = 28;
    const SOCKMAP: u32 = 15;
    const PROG_SK_LOOKUP: u32 = 30;
    const ATTACH_SK_LOOKUP: u32 = 36;
    let words = |list: &[u32]| -> Vec<u8> { list.iter().flat_map(|word| word.to_ne_bytes()).collect() };
    // Kind, size of a key, size of a value, entries, flags.
    let map = bpf(MAP_CREATE, &words(&[SOCKMAP, 4, 8, 1, 0]))?;
    let (key, value) = (0_u32, u64::from(listener.as_raw_fd().cast_unsigned()));
    let mut update = words(&[map.as_raw_fd().cast_unsigned(), 0]);
    for address in [(&raw const key).addr() as u64, (&raw const value).addr() as u64, 0] {
        update.extend(address.to_ne_bytes());
    }
    // SAFETY: as in `bpf`; key and value live until the end of this function. This command makes no descriptor.
    if unsafe { libc::syscall(libc::SYS_bpf, MAP_UPDATE, update.as_ptr(), update.len()) } < 0 {
        return Err(Error::last_os_error());
    }
    let code = steering(map.as_raw_fd());
    let license = c"Apache-2.0";
    let mut load = words(&[PROG_SK_LOOKUP, (code.len() / 8) as u32]);
    load.extend((code.as_ptr().addr() as u64).to_ne_bytes());
    load.extend((license.as_ptr().addr() as u64).to_ne_bytes());
    // No log (level, size, buffer), version, flags, name, interface; what it will be attached as.
    load.extend([0; 16 + 4 + 4 + 16 + 4]);
    load.extend(ATTACH_SK_LOOKUP.to_ne_bytes());
    let program = bpf(PROG_LOAD, &load)?;
    bpf(LINK_CREATE, &words(&[program.as_raw_fd().cast_unsigned(), namespace.as_raw_fd().cast_unsigned(), ATTACH_SK_LOOKUP, 0]))
}

/// The program: `struct bpf_sk_lookup` is its argument, the map's only socket its choice.
fn steering(map: RawFd) -> Vec<u8> {
    const PROTOCOL: i16 = 12;
    const FAMILY: i16 = 8;
    const LOCAL_IP4: i16 = 40;
    // In the order of the network, as the program sees it.
    let loopback = i32::from_ne_bytes([127, 0, 0, 1]);
    let code = |op: u8, dst: u8, src: u8, off: i16, imm: i32| {
        let [off0, off1] = off.to_ne_bytes();
        let [a, b, c, d] = imm.to_ne_bytes();
        [op, src << 4 | dst, off0, off1, a, b, c, d]
    };
    let (load_word, move_register, call) = (0x61, 0xbf, 0x85);
    [
        code(move_register, 6, 1, 0, 0),
        code(load_word, 2, 1, PROTOCOL, 0),
        code(0x55, 2, 0, 18, libc::IPPROTO_TCP),
        code(load_word, 2, 1, FAMILY, 0),
        code(0x55, 2, 0, 16, libc::AF_INET),
        code(load_word, 2, 1, LOCAL_IP4, 0),
        code(0x55, 2, 0, 14, loopback),
        // Key 0, on the stack; the map, in two halves; bpf_map_lookup_elem.
        code(0x62, 10, 0, -4, 0),
        code(move_register, 2, 10, 0, 0),
        code(0x07, 2, 0, 0, -4),
        code(0x18, 1, 1, 0, map),
        code(0, 0, 0, 0, 0),
        code(call, 0, 0, 0, 1),
        code(0x15, 0, 0, 7, 0),
        // bpf_sk_assign, bpf_sk_release.
        code(move_register, 7, 0, 0, 0),
        code(move_register, 1, 6, 0, 0),
        code(move_register, 2, 7, 0, 0),
        code(0xb7, 3, 0, 0, 0),
        code(call, 0, 0, 0, 124),
        code(move_register, 1, 7, 0, 0),
        code(call, 0, 0, 0, 86),
        // SK_PASS: with the socket, or as if there had been no program.
        code(0xb7, 0, 0, 0, 1),
        code(0x95, 0, 0, 0, 0),
    ]
    .concat()
}

/// Stops this process as SIGTSTP would without a handler; returns when it is continued.
pub fn stop_self() {
    // SAFETY: SIGSTOP cannot be handled or blocked; kill(2) takes two numbers.
    unsafe { libc::kill(libc::getpid(), libc::SIGSTOP) };
}

/// Ends this process at once, without running destructors: for a forked copy whose destructors belong to the original.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit takes a number and does not return.
    unsafe { libc::_exit(status) }
}

/// Replaces the standard streams, and a copy of one, by `/dev/null`, so that whoever reads the other end of one sees its end.
pub fn release_streams(copy: Option<RawFd>) -> Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    for number in (0..=2).chain(copy) {
        // SAFETY: both are plain numbers; the standard streams are owned by nobody, a copy by whoever writes to it, and all stay open.
        if unsafe { libc::dup2(null.as_raw_fd(), number) } < 0 {
            return Err(Error::last_os_error());
        }
    }
    Ok(())
}
