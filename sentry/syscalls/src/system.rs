//! The system as a whole and a process's settings: uname(2), sysinfo(2), rlimits, usage, prctl(2), arch_prctl(2), getrandom(2), umask(2).

use crate::{gap, row, table::Entry};
use abi::{Errno, Result, bail, error, libc, task::Rlimit, time::Timeval};
use kernel::{
    cred::CapSet,
    kernel::{UTS_MACHINE, UTS_RELEASE, UTS_SYSNAME, UTS_VERSION},
    task::{CurrentTask, Usage},
    user::{UserAddr, UserRef},
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

pub(crate) const ROWS: &[Entry] = &[
    row!("uname", uname),
    row!("sethostname", sethostname),
    row!("setdomainname", setdomainname),
    row!("sysinfo", sysinfo),
    row!("getrlimit", getrlimit),
    row!("setrlimit", setrlimit),
    row!("prlimit64", prlimit64),
    row!("getrusage", getrusage),
    row!("times", times),
    row!("umask", umask),
    row!("personality", personality, Partial("kept and told; randomization is not turned off")),
    row!("getrandom", getrandom),
    row!("arch_prctl", arch_prctl),
    row!("syslog", syslog, Partial("an empty log")),
    gap!("reboot", EPERM, "the sandbox ends with its first process"),
    gap!("kexec_load", EPERM, "no kernel to replace"),
    gap!("kexec_file_load", EPERM, "no kernel to replace"),
    gap!("init_module", EPERM, "no modules"),
    gap!("finit_module", EPERM, "no modules"),
    gap!("delete_module", EPERM, "no modules"),
    gap!("iopl", EPERM, "no ports"),
    gap!("ioperm", EPERM, "no ports"),
    gap!("vhangup", EPERM, "TIOCVHANGUP does it for a terminal"),
    gap!("acct", EPERM, "no process accounting"),
    gap!("bpf", EPERM, "no BPF"),
    gap!("perf_event_open", EACCES, "no performance counters"),
    gap!("userfaultfd", EPERM, "no faults handled by applications"),
    gap!("io_uring_setup", EPERM, "as where io_uring_disabled is 2"),
    gap!("io_uring_enter", EPERM, "as where io_uring_disabled is 2"),
    gap!("io_uring_register", EPERM, "as where io_uring_disabled is 2"),
    gap!("add_key", ENOSYS, "no key rings"),
    gap!("request_key", ENOSYS, "no key rings"),
    gap!("keyctl", ENOSYS, "no key rings"),
    gap!("kcmp", ENOSYS, "no comparing of kernel objects"),
    gap!("fanotify_init", EPERM, "use inotify"),
    gap!("lookup_dcookie", ENOSYS, "gone from Linux"),
    gap!("landlock_create_ruleset", EOPNOTSUPP, "as where Landlock is not enabled at boot"),
    gap!("landlock_add_rule", EOPNOTSUPP, "as where Landlock is not enabled at boot"),
    gap!("landlock_restrict_self", EOPNOTSUPP, "as where Landlock is not enabled at boot"),
];

/// `struct new_utsname`: six fields of 65 bytes.
type Utsname = [[u8; 65]; 6];

pub fn uname(t: &mut CurrentTask, to: UserRef<Utsname>) -> Result<()> {
    let uts = t.container().uts.names();
    let fields: [&[u8]; 6] =
        [UTS_SYSNAME.as_bytes(), &uts.nodename, UTS_RELEASE.as_bytes(), UTS_VERSION.as_bytes(), UTS_MACHINE.as_bytes(), &uts.domainname];
    let mut out: Utsname = [[0; 65]; 6];
    for (to, from) in out.iter_mut().zip(fields) {
        let n = from.len().min(64);
        to[..n].copy_from_slice(&from[..n]);
    }
    t.mm().write(to, &out)
}

/// A name to set, by address and length.
fn uts_name(t: &CurrentTask, from: UserAddr, len: i32) -> Result<Vec<u8>> {
    t.cred().require(CapSet::SYS_ADMIN)?;
    let Some(len) = usize::try_from(len).ok().filter(|&n| n <= 64) else { bail!(EINVAL, "name too long") };
    let mut name = vec![0; len];
    t.mm().copy_in(from, &mut name)?;
    let end = name.iter().position(|&b| b == 0).unwrap_or(len);
    name.truncate(end);
    Ok(name)
}

pub fn sethostname(t: &mut CurrentTask, from: UserAddr, len: i32) -> Result<()> {
    let name = uts_name(t, from, len)?;
    t.container().uts.set_nodename(name);
    Ok(())
}

pub fn setdomainname(t: &mut CurrentTask, from: UserAddr, len: i32) -> Result<()> {
    let name = uts_name(t, from, len)?;
    t.container().uts.set_domainname(name);
    Ok(())
}

/// `struct sysinfo`, 112 bytes.
#[repr(C)]
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
pub struct Sysinfo {
    uptime: i64,
    loads: [u64; 3],
    totalram: u64,
    freeram: u64,
    sharedram: u64,
    bufferram: u64,
    totalswap: u64,
    freeswap: u64,
    procs: u16,
    pad: u16,
    pad2: u32,
    totalhigh: u64,
    freehigh: u64,
    mem_unit: u32,
    pad3: u32,
}

pub fn sysinfo(t: &mut CurrentTask, to: UserRef<Sysinfo>) -> Result<()> {
    let kernel = t.kernel();
    let (total, used) = (t.container().memory_total(), t.container().memory_used());
    let info = Sysinfo {
        uptime: (kernel.uptime_ns() / 1_000_000_000) as i64,
        totalram: total.max(used),
        freeram: total.saturating_sub(used),
        procs: u16::try_from(kernel.task_count()).unwrap_or(u16::MAX),
        mem_unit: 1,
        ..Sysinfo::default()
    };
    t.mm().write(to, &info)
}

/// `RLIM_NLIMITS`
const LIMITS: u32 = 16;

fn resource(n: u32) -> Result<u32> {
    if n < LIMITS { Ok(n) } else { bail!(EINVAL, "no such resource") }
}

pub fn getrlimit(t: &mut CurrentTask, which: u32, to: UserRef<Rlimit>) -> Result<()> {
    let limit = t.rlimit(resource(which)?);
    t.mm().write(to, &limit)
}

pub fn setrlimit(t: &mut CurrentTask, which: u32, from: UserRef<Rlimit>) -> Result<()> {
    let new = t.mm().read(from)?;
    set_limit(t, t.group(), resource(which)?, new)
}

/// `/proc/sys/fs/nr_open`: RLIMIT_NOFILE goes no higher.
const NR_OPEN: u64 = 1 << 20;

fn set_limit(t: &CurrentTask, group: &std::sync::Arc<kernel::task::ThreadGroup>, which: u32, new: Rlimit) -> Result<()> {
    if new.cur > new.max {
        bail!(EINVAL, "soft limit above the hard one");
    }
    if which == libc::RLIMIT_NOFILE && new.max > NR_OPEN {
        bail!(EPERM, "above nr_open");
    }
    if new.max > group.rlimit(which).max {
        t.cred().require(CapSet::SYS_RESOURCE)?;
    }
    group.set_rlimit(which, new);
    match which {
        libc::RLIMIT_CPU => group.arm_cpu_limit(),
        libc::RLIMIT_AS | libc::RLIMIT_DATA | libc::RLIMIT_STACK | libc::RLIMIT_MEMLOCK => group.tell_memory_limits(),
        _ => {}
    }
    Ok(())
}

pub fn prlimit64(t: &mut CurrentTask, pid: i32, which: u32, new: UserRef<Rlimit>, old: UserRef<Rlimit>) -> Result<()> {
    let which = resource(which)?;
    let task = if pid == 0 { t.task.clone() } else { t.pids().task(pid).ok_or(Errno::ESRCH)? };
    if task.tgid() != t.tgid() {
        let (me, it) = (t.cred(), task.cred());
        let same = [it.uid, it.euid, it.suid].iter().all(|&u| u == me.uid) && [it.gid, it.egid, it.sgid].iter().all(|&g| g == me.gid);
        if !same {
            me.require(CapSet::SYS_RESOURCE)?;
        }
    }
    let new = match new.non_null() {
        Some(at) => Some(t.mm().read(at)?),
        None => None,
    };
    let before = task.rlimit(which);
    if let Some(limit) = new {
        set_limit(t, task.group(), which, limit)?;
    }
    match old.non_null() {
        Some(at) => t.mm().write(at, &before),
        None => Ok(()),
    }
}

/// `struct rusage`, 144 bytes.
#[repr(C)]
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
pub struct Rusage {
    utime: Timeval,
    stime: Timeval,
    maxrss: i64,
    others: [i64; 11],
    nvcsw: i64,
    nivcsw: i64,
}

impl Rusage {
    /// From what the kernel counts.
    pub fn of(u: Usage) -> Rusage {
        Rusage {
            utime: Timeval::from_nanos(u.user_ns),
            stime: Timeval::from_nanos(u.system_ns),
            maxrss: (u.max_rss / 1024) as i64,
            nvcsw: u.voluntary_switches as i64,
            ..Rusage::default()
        }
    }
}

pub fn getrusage(t: &mut CurrentTask, who: i32, to: UserRef<Rusage>) -> Result<()> {
    t.context.settle_cpu();
    let mut usage = match who {
        0 => t.group().usage(),
        -1 => t.group().children_usage(),
        1 => t.usage(),
        _ => bail!(EINVAL),
    };
    if who != -1 {
        usage.max_rss = usage.max_rss.max(t.mm().sizes().resident);
    }
    t.mm().write(to, &Rusage::of(usage))
}

/// Nanoseconds of a tick of times(2).
const TICK_NS: u64 = 10_000_000;

pub fn times(t: &mut CurrentTask, to: UserRef<[u64; 4]>) -> Result<u64> {
    t.context.settle_cpu();
    let (own, children) = (t.group().usage(), t.group().children_usage());
    if let Some(to) = to.non_null() {
        let ticks = [own.user_ns, own.system_ns, children.user_ns, children.system_ns].map(|ns| ns / TICK_NS);
        t.mm().write(to, &ticks)?;
    }
    Ok(t.kernel().uptime_ns() / TICK_NS)
}

pub fn umask(t: &mut CurrentTask, mask: u32) -> Result<u32> {
    Ok(t.fs().set_umask(mask & 0o777))
}

/// Asks without changing.
const PERSONALITY_QUERY: u32 = !0;

pub fn personality(t: &mut CurrentTask, new: u32) -> Result<u32> {
    let mut info = t.info();
    let before = info.personality;
    if new != PERSONALITY_QUERY {
        info.personality = new;
    }
    Ok(before)
}

/// Most bytes made at a time.
const RANDOM_CHUNK: usize = 4096;

pub fn getrandom(t: &mut CurrentTask, to: UserAddr, len: usize, flags: u32) -> Result<usize> {
    let both = libc::GRND_RANDOM | 4;
    if flags & !(libc::GRND_NONBLOCK | libc::GRND_RANDOM | 4) != 0 || flags & both == both {
        bail!(EINVAL);
    }
    let len = len.min(i32::MAX as usize);
    let mut chunk = [0u8; RANDOM_CHUNK];
    let mut done = 0;
    while done < len {
        let n = RANDOM_CHUNK.min(len - done);
        kernel::random(&mut chunk[..n])?;
        if t.mm().copy_out(to.offset(done as u64), &chunk[..n]).is_err() {
            if done == 0 {
                bail!(EFAULT);
            }
            break;
        }
        done += n;
        if t.signal_pending() && done >= 256 {
            break;
        }
    }
    Ok(done)
}

const ARCH_SET_GS: u32 = 0x1001;
const ARCH_SET_FS: u32 = 0x1002;
const ARCH_GET_FS: u32 = 0x1003;
const ARCH_GET_GS: u32 = 0x1004;
const ARCH_GET_CPUID: u32 = 0x1011;

pub fn arch_prctl(t: &mut CurrentTask, code: u32, addr: u64) -> Result<u64> {
    let limit = t.mm().address_limits().end;
    match code {
        ARCH_SET_FS | ARCH_SET_GS if addr >= limit => bail!(EPERM, "not an address of the application"),
        ARCH_SET_FS => t.regs.fs_base = addr,
        ARCH_SET_GS => t.regs.gs_base = addr,
        ARCH_GET_FS => t.mm().write(UserAddr(addr).cast(), &t.regs.fs_base)?,
        ARCH_GET_GS => t.mm().write(UserAddr(addr).cast(), &t.regs.gs_base)?,
        ARCH_GET_CPUID => return Ok(1),
        _ => bail!(EINVAL, "arch_prctl {code:#x}"),
    }
    Ok(0)
}

/// Of klogctl(3) only the sizes are answered: nothing is ever logged.
pub fn syslog(t: &mut CurrentTask, kind: i32, _to: UserAddr, len: i32) -> Result<u64> {
    /// `SYSLOG_ACTION_SIZE_BUFFER`
    const SIZE_BUFFER: i32 = 10;
    if !(0..=10).contains(&kind) || len < 0 {
        bail!(EINVAL);
    }
    if !t.cred().capable(CapSet::SYSLOG) {
        return Err(error!(EPERM, "dmesg_restrict"));
    }
    Ok(if kind == SIZE_BUFFER { 1 << 17 } else { 0 })
}
