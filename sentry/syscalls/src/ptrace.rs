//! ptrace(2): from requests and their arguments to the kernel's calls.

use crate::{row, table::Entry};
use abi::{
    Result, bail, error, libc,
    signal::{SigInfo, SigSet},
};
use kernel::{
    ptrace::{Mode, Options, SyscallInfo},
    task::CurrentTask,
    user::{UserAddr, UserRef},
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

pub(crate) const ROWS: &[Entry] = &[row!("ptrace", ptrace, Partial("no debug registers, no PTRACE_PEEKSIGINFO, no seccomp requests"))];

/// `PTRACE_*` requests that libc has no constant for, or that differ between its targets.
mod request {
    pub const GETREGSET: i64 = 0x4204;
    pub const SETREGSET: i64 = 0x4205;
    pub const SEIZE: i64 = 0x4206;
    pub const INTERRUPT: i64 = 0x4207;
    pub const LISTEN: i64 = 0x4208;
    pub const GETSIGMASK: i64 = 0x420a;
    pub const SETSIGMASK: i64 = 0x420b;
    pub const GET_SYSCALL_INFO: i64 = 0x420e;
    pub const GETFPREGS: i64 = 14;
    pub const SETFPREGS: i64 = 15;
    pub const ARCH_PRCTL: i64 = 30;
    pub const SYSEMU: i64 = 31;
    pub const SYSEMU_SINGLESTEP: i64 = 32;
}

/// Bytes of `struct user_regs_struct`.
const REGS: usize = 27 * 8;
/// Bytes of `struct user`.
const USER: u64 = 928;
/// Where its debug registers begin and end.
const DEBUG_REGS: std::ops::Range<u64> = 848..912;
/// Bytes of FXSAVE's area, which `struct user_fpregs_struct` is.
const FXSAVE: usize = 512;
/// Where the tracer finds which features the extended state has.
const XCR0: usize = 464;
const NT_PRSTATUS: u64 = 1;
const NT_PRFPREG: u64 = 2;
const NT_X86_XSTATE: u64 = 0x202;
/// `AUDIT_ARCH_X86_64`
const ARCH: u32 = 0xc000_003e;

/// `struct iovec`
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
struct Iovec {
    base: u64,
    len: u64,
}

/// ptrace(2)
pub fn ptrace(t: &mut CurrentTask, request: i64, pid: i32, addr: u64, data: u64) -> Result<u64> {
    if request == request::GET_SYSCALL_INFO {
        return syscall_info(t, pid, addr, UserAddr(data));
    }
    done(t, request, pid, addr, data).map(|()| 0)
}

/// The requests that return nothing.
fn done(t: &mut CurrentTask, request: i64, pid: i32, addr: u64, data: u64) -> Result<()> {
    match request as i32 as u32 {
        libc::PTRACE_TRACEME => return t.trace_me(),
        libc::PTRACE_ATTACH => return t.task.trace(pid, None),
        _ => {}
    }
    match request {
        request::SEIZE => {
            let options = u32::try_from(data).ok().and_then(Options::from_bits).ok_or(error!(EIO, "options"))?;
            if addr != 0 {
                bail!(EIO, "address");
            }
            t.task.trace(pid, Some(options))
        }
        request::INTERRUPT => t.trace_interrupt(pid),
        request::LISTEN => t.trace_listen(pid),
        _ => of_stopped(t, request, pid, addr, data),
    }
}

fn of_stopped(t: &mut CurrentTask, request: i64, pid: i32, addr: u64, data: u64) -> Result<()> {
    let to = UserAddr(data);
    match request as i32 as u32 {
        libc::PTRACE_KILL => t.trace_kill(pid),
        libc::PTRACE_CONT => t.trace_resume(pid, Mode::Cont, data),
        libc::PTRACE_SYSCALL => t.trace_resume(pid, Mode::Syscall, data),
        libc::PTRACE_SINGLESTEP => t.trace_resume(pid, Mode::Step, data),
        libc::PTRACE_DETACH => t.trace_detach(pid, data),
        libc::PTRACE_PEEKTEXT | libc::PTRACE_PEEKDATA => {
            let word = peek(t, pid, addr)?;
            t.mm().write(to.cast(), &word)
        }
        libc::PTRACE_POKETEXT | libc::PTRACE_POKEDATA => poke(t, pid, addr, data),
        libc::PTRACE_PEEKUSER => {
            let word = peek_user(t, pid, addr)?;
            t.mm().write(to.cast(), &word)
        }
        libc::PTRACE_POKEUSER => poke_user(t, pid, addr, data),
        libc::PTRACE_GETREGS => {
            let regs = bytes_of(&t.trace_regs(pid)?);
            t.mm().copy_out(to, &regs)
        }
        libc::PTRACE_SETREGS => {
            let mut bytes = [0; REGS];
            t.mm().copy_in(to, &mut bytes)?;
            t.trace_set_regs(pid, &regs_of(&bytes))
        }
        libc::PTRACE_SETOPTIONS => {
            let options = u32::try_from(data).ok().and_then(Options::from_bits).ok_or(error!(EINVAL, "options"))?;
            t.trace_set_options(pid, options)
        }
        libc::PTRACE_GETEVENTMSG => {
            let message = t.trace_message(pid)?;
            t.mm().write(to.cast(), &message)
        }
        libc::PTRACE_GETSIGINFO => {
            let info = t.trace_siginfo(pid)?;
            t.mm().write(to.cast(), &info)
        }
        libc::PTRACE_SETSIGINFO => {
            let info: SigInfo = t.mm().read(to.cast())?;
            t.trace_set_siginfo(pid, info)
        }
        _ => further(t, request, pid, addr, data),
    }
}

fn further(t: &mut CurrentTask, request: i64, pid: i32, addr: u64, data: u64) -> Result<()> {
    let to = UserAddr(data);
    match request {
        request::SYSEMU => t.trace_resume(pid, Mode::SysEmu, data),
        request::SYSEMU_SINGLESTEP => t.trace_resume(pid, Mode::SysEmuStep, data),
        request::GETREGSET => get_regset(t, pid, addr, to.cast()),
        request::SETREGSET => set_regset(t, pid, addr, to.cast()),
        request::GETFPREGS => {
            let fp = t.trace_fp(pid)?.0;
            t.mm().copy_out(to, fp.get(..FXSAVE).unwrap_or(&fp))
        }
        request::SETFPREGS => {
            let mut bytes = [0; FXSAVE];
            t.mm().copy_in(to, &mut bytes)?;
            t.trace_set_fp(pid, &bytes)
        }
        request::GETSIGMASK | request::SETSIGMASK => {
            let tracee = t.stopped_tracee(pid)?;
            if addr != size_of::<SigSet>() as u64 {
                bail!(EINVAL, "size of a signal set");
            }
            if request == request::GETSIGMASK {
                return t.mm().write(to.cast(), &tracee.signal_mask());
            }
            let mask = t.mm().read(to.cast::<SigSet>())?;
            tracee.set_signal_mask(mask);
            Ok(())
        }
        request::ARCH_PRCTL => arch_prctl(t, pid, data, UserAddr(addr)),
        _ => {
            t.stopped_tracee(pid)?;
            bail!(EIO, "request {request:#x}")
        }
    }
}

fn peek(t: &CurrentTask, pid: i32, addr: u64) -> Result<u64> {
    let mm = t.stopped_tracee(pid)?.mm();
    let mut word = [0; 8];
    if mm.force_in_partial(UserAddr(addr), &mut word) < 8 {
        bail!(EIO, "nothing mapped at {addr:#x}");
    }
    Ok(u64::from_ne_bytes(word))
}

fn poke(t: &CurrentTask, pid: i32, addr: u64, word: u64) -> Result<()> {
    let mm = t.stopped_tracee(pid)?.mm();
    if mm.force_out_partial(UserAddr(addr), &word.to_ne_bytes()) < 8 {
        bail!(EIO, "nothing mapped at {addr:#x}");
    }
    Ok(())
}

/// The registers as `struct user_regs_struct` lays them out.
fn words(r: &kernel::ptrace::Registers) -> [u64; 27] {
    [
        r.r15, r.r14, r.r13, r.r12, r.rbp, r.rbx, r.r11, r.r10, r.r9, r.r8, r.rax, r.rcx, r.rdx, r.rsi, r.rdi, r.orig_rax, r.rip, r.cs,
        r.eflags, r.rsp, r.ss, r.fs_base, r.gs_base, r.ds, r.es, r.fs, r.gs,
    ]
}

fn bytes_of(r: &kernel::ptrace::Registers) -> Vec<u8> {
    words(r).iter().flat_map(|w| w.to_ne_bytes()).collect()
}

fn regs_of(bytes: &[u8; REGS]) -> kernel::ptrace::Registers {
    let mut w = bytes.chunks_exact(8).map(|c| c.try_into().map_or(0, u64::from_ne_bytes));
    let mut next = || w.next().unwrap_or(0);
    kernel::ptrace::Registers {
        r15: next(),
        r14: next(),
        r13: next(),
        r12: next(),
        rbp: next(),
        rbx: next(),
        r11: next(),
        r10: next(),
        r9: next(),
        r8: next(),
        rax: next(),
        rcx: next(),
        rdx: next(),
        rsi: next(),
        rdi: next(),
        orig_rax: next(),
        rip: next(),
        cs: next(),
        eflags: next(),
        rsp: next(),
        ss: next(),
        fs_base: next(),
        gs_base: next(),
        ds: next(),
        es: next(),
        fs: next(),
        gs: next(),
    }
}

/// `struct user` holds registers first; of the rest only the debug registers can be named, none of which is ever set.
fn peek_user(t: &CurrentTask, pid: i32, offset: u64) -> Result<u64> {
    let regs = t.trace_regs(pid)?;
    if !offset.is_multiple_of(8) || offset >= USER {
        bail!(EIO, "offset in struct user");
    }
    Ok(words(&regs).get((offset / 8) as usize).copied().unwrap_or(0))
}

fn poke_user(t: &CurrentTask, pid: i32, offset: u64, word: u64) -> Result<()> {
    let regs = t.trace_regs(pid)?;
    if !offset.is_multiple_of(8) {
        bail!(EIO, "offset in struct user");
    }
    if DEBUG_REGS.contains(&offset) && word == 0 {
        return Ok(());
    }
    let mut bytes = [0; REGS];
    bytes.copy_from_slice(&bytes_of(&regs));
    match usize::try_from(offset).ok().and_then(|o| bytes.get_mut(o..o + 8)) {
        Some(place) => place.copy_from_slice(&word.to_ne_bytes()),
        None => bail!(EIO, "cannot be written"),
    }
    t.trace_set_regs(pid, &regs_of(&bytes))
}

/// The extended state with the word that says which features it has.
fn xstate(t: &CurrentTask, pid: i32) -> Result<Vec<u8>> {
    let mut fp = t.trace_fp(pid)?.0;
    let features = t.kernel().platform.limits().xfeatures;
    if let Some(place) = fp.get_mut(XCR0..XCR0 + 8) {
        place.copy_from_slice(&features.to_ne_bytes());
    }
    Ok(fp)
}

fn get_regset(t: &CurrentTask, pid: i32, kind: u64, at: UserRef<Iovec>) -> Result<()> {
    let bytes = match kind {
        NT_PRSTATUS => bytes_of(&t.trace_regs(pid)?),
        NT_PRFPREG => {
            let mut fp = t.trace_fp(pid)?.0;
            fp.truncate(FXSAVE);
            fp
        }
        NT_X86_XSTATE => xstate(t, pid)?,
        _ => {
            t.stopped_tracee(pid)?;
            bail!(EINVAL, "register set {kind:#x}")
        }
    };
    let mut iov = t.mm().read(at)?;
    let part = bytes.get(..usize::try_from(iov.len).unwrap_or(usize::MAX)).unwrap_or(&bytes);
    t.mm().copy_out(UserAddr(iov.base), part)?;
    iov.len = part.len() as u64;
    t.mm().write(at, &iov)
}

fn set_regset(t: &CurrentTask, pid: i32, kind: u64, at: UserRef<Iovec>) -> Result<()> {
    let now = match kind {
        NT_PRSTATUS => bytes_of(&t.trace_regs(pid)?),
        NT_PRFPREG | NT_X86_XSTATE => t.trace_fp(pid)?.0,
        _ => {
            t.stopped_tracee(pid)?;
            bail!(EINVAL, "register set {kind:#x}")
        }
    };
    let mut iov = t.mm().read(at)?;
    let whole = if kind == NT_PRFPREG { FXSAVE.min(now.len()) } else { now.len() };
    let len = usize::try_from(iov.len).unwrap_or(usize::MAX).min(whole);
    if kind == NT_PRSTATUS && len % 8 != 0 || kind == NT_X86_XSTATE && len < now.len() {
        bail!(EINVAL, "length of the set");
    }
    let mut bytes = now;
    let Some(part) = bytes.get_mut(..len) else { bail!(EINVAL) };
    t.mm().copy_in(UserAddr(iov.base), part)?;
    iov.len = len as u64;
    t.mm().write(at, &iov)?;
    match kind {
        NT_PRSTATUS => match bytes.as_slice().try_into() {
            Ok(bytes) => t.trace_set_regs(pid, &regs_of(bytes)),
            Err(_) => bail!(EINVAL),
        },
        NT_PRFPREG => t.trace_set_fp(pid, bytes.get(..len).unwrap_or_default()),
        _ => {
            // The tracer's copy of the word that Linux keeps there is no state of the processor's.
            if let Some(place) = bytes.get_mut(XCR0..FXSAVE) {
                place.fill(0);
            }
            t.trace_set_fp(pid, &bytes)
        }
    }
}

/// `struct ptrace_syscall_info`, as much of it as fits; returns its whole length.
fn syscall_info(t: &CurrentTask, pid: i32, size: u64, to: UserAddr) -> Result<u64> {
    let (at, r) = t.trace_syscall_info(pid)?;
    let (op, rest): (u8, Vec<u64>) = match at {
        SyscallInfo::None => (0, Vec::new()),
        SyscallInfo::Entry => (1, vec![r.orig_rax, r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9]),
        SyscallInfo::Exit => (2, vec![r.rax]),
    };
    let mut bytes = vec![op, 0, 0, 0];
    bytes.extend_from_slice(&ARCH.to_ne_bytes());
    for word in [r.rip, r.rsp].iter().chain(&rest) {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    if matches!(at, SyscallInfo::Exit) {
        bytes.push(u8::from((-4095..0).contains(&r.rax.cast_signed())));
    }
    let part = bytes.get(..usize::try_from(size).unwrap_or(usize::MAX)).unwrap_or(&bytes);
    t.mm().copy_out(to, part)?;
    Ok(bytes.len() as u64)
}

/// `ARCH_SET_FS` and its kin, of the tracee.
fn arch_prctl(t: &CurrentTask, pid: i32, code: u64, to: UserAddr) -> Result<()> {
    const SET_GS: u64 = 0x1001;
    const SET_FS: u64 = 0x1002;
    const GET_FS: u64 = 0x1003;
    const GET_GS: u64 = 0x1004;
    let mut regs = t.trace_regs(pid)?;
    match code {
        GET_FS => t.mm().write(to.cast(), &regs.fs_base),
        GET_GS => t.mm().write(to.cast(), &regs.gs_base),
        SET_FS | SET_GS => {
            if code == SET_FS {
                regs.fs_base = to.0
            } else {
                regs.gs_base = to.0
            }
            t.trace_set_regs(pid, &regs)
        }
        _ => bail!(EINVAL, "arch_prctl code"),
    }
}
