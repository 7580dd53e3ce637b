//! `linux`: what is the kernel's, and so the sentry's affair: devices, sysctls, the profile of system calls, limits that are seen inside.

use super::{bad, guest_path};
use crate::exit::Result;
use control::{Device, Limits, Seccomp, SeccompArg, SeccompOp, SeccompRule};
use oci_spec::runtime::{
    Arch, Linux, LinuxDevice, LinuxDeviceType, LinuxPersonalityDomain, LinuxResources, LinuxSeccomp, LinuxSeccompAction,
    LinuxSeccompOperator, LinuxSyscall, LinuxTimeOffset,
};

/// Refuses what the specification does not let a runtime leave out silently.
pub fn refuse(linux: &Linux) -> Result<()> {
    if linux.intel_rdt().is_some() {
        return Err(bad("linux.intelRdt", "is not supported: leave it out"));
    }
    if linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty()) {
        return Err(bad("linux.netDevices", "is not supported: put the device into the network namespace before"));
    }
    if linux.memory_policy().is_some() {
        return Err(bad("linux.memoryPolicy", "is not supported: leave it out"));
    }
    let moved = |offset: &LinuxTimeOffset| offset.secs().unwrap_or(0) != 0 || offset.nanosecs().unwrap_or(0) != 0;
    if linux.time_offsets().iter().flatten().any(|(_, offset)| moved(offset)) {
        return Err(bad("linux.timeOffsets", "is not supported: the sandbox has the host's clocks"));
    }
    if linux.personality().as_ref().is_some_and(|personality| personality.domain() == LinuxPersonalityDomain::PerLinux32) {
        return Err(bad("linux.personality.domain", "is LINUX32, and 32-bit programs do not run in a sandbox"));
    }
    match linux.rootfs_propagation().as_deref() {
        None | Some("" | "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" | "unbindable" | "runbindable") => Ok(()),
        Some(other) => {
            let what = format_args!("{other:?} is none of private, slave, shared, unbindable, and these with an r in front");
            Err(bad("linux.rootfsPropagation", what))
        }
    }
}

/// Devices to be made.
pub fn devices(linux: Option<&Linux>) -> Result<Vec<Device>> {
    linux.and_then(|linux| linux.devices().as_ref()).into_iter().flatten().enumerate().map(|(i, d)| device(i, d)).collect()
}

fn device(i: usize, device: &LinuxDevice) -> Result<Device> {
    let field = format!("linux.devices[{i}]");
    let path = device.path().to_str().ok_or_else(|| "is not UTF-8".to_owned()).and_then(guest_path);
    let path = path.map_err(|what| bad(format_args!("{field}.path"), what))?;
    let number = |name: &str, value: i64, max: u32| {
        let fits = u32::try_from(value).ok().filter(|value| *value <= max);
        fits.ok_or_else(|| bad(format_args!("{field}.{name}"), format_args!("{value} is not between 0 and {max}")))
    };
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
        LinuxDeviceType::B => libc::S_IFBLK,
        LinuxDeviceType::P => libc::S_IFIFO,
        LinuxDeviceType::A => return Err(bad(format_args!("{field}.type"), "a is for rules about devices, not for a device")),
    };
    let mode = device.file_mode().unwrap_or(0o666);
    if mode & !(libc::S_IFMT | 0o7777) != 0 {
        return Err(bad(format_args!("{field}.fileMode"), "has more than permissions"));
    }
    Ok(Device {
        path,
        mode: kind | mode & 0o7777,
        major: number("major", device.major(), 0xfff)?,
        minor: number("minor", device.minor(), 0xf_ffff)?,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
}

/// Names of sysctls that a namespace has of its own (namespaces(7)): what runc lets through.
const OWN: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Values for `/proc/sys`.
pub fn sysctl(linux: Option<&Linux>) -> Result<Vec<(String, String)>> {
    let mut list = Vec::new();
    for (name, value) in linux.and_then(|linux| linux.sysctl().as_ref()).into_iter().flatten() {
        let field = format!("linux.sysctl[{name:?}]");
        let name = name.replace('/', ".");
        if name.split('.').any(|part| part.is_empty()) || name.contains('\0') {
            return Err(bad(field, "is no name of a sysctl"));
        }
        let own = OWN.contains(&name.as_str())
            || name.starts_with("fs.mqueue.")
            || name.starts_with("net.")
            || matches!(name.as_str(), "kernel.domainname" | "kernel.hostname");
        if name.ends_with("name") && value.len() > 64 {
            return Err(bad(field, "is longer than 64 bytes"));
        }
        if !own {
            return Err(bad(field, "is not in a separate kernel namespace"));
        }
        list.push((name, value.clone()));
    }
    list.sort();
    Ok(list)
}

/// The profile of system calls.
pub fn seccomp(linux: Option<&Linux>) -> Result<Option<Seccomp>> {
    let Some(profile) = linux.and_then(|linux| linux.seccomp().as_ref()) else { return Ok(None) };
    if profile.architectures().iter().flatten().all(|arch| *arch != Arch::ScmpArchX86_64 && *arch != Arch::ScmpArchNative)
        && profile.architectures().as_ref().is_some_and(|list| !list.is_empty())
    {
        tracing::warn!("linux.seccomp.architectures does not name SCMP_ARCH_X86_64; the profile is for it all the same, as with runc");
    }
    convert(profile).map(Some)
}

fn convert(profile: &LinuxSeccomp) -> Result<Seccomp> {
    let default = action(profile.default_action(), profile.default_errno_ret(), "defaultAction")?;
    let mut rules = Vec::new();
    for (i, call) in profile.syscalls().iter().flatten().enumerate() {
        let field = format!("syscalls[{i}]");
        if call.names().is_empty() {
            return Err(bad(format_args!("linux.seccomp.{field}.names"), "is empty"));
        }
        let action = action(call.action(), call.errno_ret(), &format!("{field}.action"))?;
        // As runc: such a rule says nothing.
        if action != default {
            rules.extend(conditions(call, &field)?.into_iter().map(|args| SeccompRule { names: call.names().clone(), action, args }));
        }
    }
    Ok(Seccomp { default, rules })
}

fn action(action: LinuxSeccompAction, errno: Option<u32>, field: &str) -> Result<u32> {
    let field = format!("linux.seccomp.{field}");
    if action == LinuxSeccompAction::ScmpActNotify {
        return Err(bad(field, "SCMP_ACT_NOTIFY is not supported: no agent of the host can answer for the sentry"));
    }
    if errno.is_some_and(|errno| errno > 4095) {
        return Err(bad(field, "its errno is greater than 4095"));
    }
    Ok(action.as_u32(errno))
}

/// Conditions on different arguments must all hold; if one argument is named twice, any of them, as with runc.
fn conditions(call: &LinuxSyscall, field: &str) -> Result<Vec<Vec<SeccompArg>>> {
    let mut all = Vec::new();
    for (i, arg) in call.args().iter().flatten().enumerate() {
        let index = u8::try_from(arg.index()).ok().filter(|index| *index <= 5);
        let index = index.ok_or_else(|| bad(format_args!("linux.seccomp.{field}.args[{i}].index"), "is greater than 5"))?;
        let op = match arg.op() {
            LinuxSeccompOperator::ScmpCmpNe => SeccompOp::Ne,
            LinuxSeccompOperator::ScmpCmpLt => SeccompOp::Lt,
            LinuxSeccompOperator::ScmpCmpLe => SeccompOp::Le,
            LinuxSeccompOperator::ScmpCmpEq => SeccompOp::Eq,
            LinuxSeccompOperator::ScmpCmpGe => SeccompOp::Ge,
            LinuxSeccompOperator::ScmpCmpGt => SeccompOp::Gt,
            LinuxSeccompOperator::ScmpCmpMaskedEq => SeccompOp::MaskedEq,
        };
        all.push(SeccompArg { index, op, value: arg.value(), value_two: arg.value_two().unwrap_or(0) });
    }
    let mut indices: Vec<u8> = all.iter().map(|arg| arg.index).collect();
    indices.sort_unstable();
    indices.dedup();
    Ok(if indices.len() == all.len() { vec![all] } else { all.into_iter().map(|arg| vec![arg]).collect() })
}

/// The limits that the application can see.
pub fn limits(linux: Option<&Linux>) -> Limits {
    linux.and_then(|linux| linux.resources().as_ref()).map(of_resources).unwrap_or_default()
}

/// The same of resources alone.
pub fn of_resources(resources: &LinuxResources) -> Limits {
    let positive = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
    let cpu = resources.cpu().as_ref();
    let cpu_quota = cpu.and_then(|cpu| {
        let period = cpu.period().filter(|period| *period > 0).unwrap_or(100_000);
        Some((cpu.quota().and_then(positive)?, period))
    });
    Limits {
        memory: resources.memory().as_ref().and_then(|memory| memory.limit()).and_then(positive),
        cpus: cpu_quota.and_then(|(quota, period)| u32::try_from(quota.div_ceil(period)).ok()),
        cpu_quota,
        tasks: resources.pids().as_ref().and_then(|pids| positive(pids.limit())),
    }
}
