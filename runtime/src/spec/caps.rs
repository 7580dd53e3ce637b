//! Capability sets as masks.

use super::bad;
use crate::exit::Result;
use control::Capabilities;
use oci_spec::runtime::{Capabilities as Set, LinuxCapabilities};

/// The names of the capabilities, the place being the number (linux/capability.h).
pub const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Every capability there is.
pub const ALL: u64 = (1 << NAMES.len()) - 1;

/// The masks of `process.capabilities`; absent: none at all, as with runc.
pub fn convert(caps: Option<&LinuxCapabilities>) -> Result<Capabilities> {
    let Some(caps) = caps else { return Ok(Capabilities::default()) };
    let sets = Capabilities {
        bounding: mask(caps.bounding().as_ref()),
        effective: mask(caps.effective().as_ref()),
        inheritable: mask(caps.inheritable().as_ref()),
        permitted: mask(caps.permitted().as_ref()),
        ambient: mask(caps.ambient().as_ref()),
    };
    if sets.effective & !sets.permitted != 0 {
        return Err(bad("process.capabilities.effective", "has capabilities that are not in permitted"));
    }
    // What Linux would refuse to raise, runc leaves out with a warning.
    Ok(Capabilities { ambient: sets.ambient & sets.permitted & sets.inheritable, ..sets })
}

/// The mask of one capability by its name, with or without `CAP_`.
pub fn bit(name: &str) -> Option<u64> {
    let name = name.to_ascii_uppercase();
    let name = name.strip_prefix("CAP_").unwrap_or(&name);
    NAMES.iter().position(|n| *n == name).map(|number| 1 << number)
}

fn mask(set: Option<&Set>) -> u64 {
    let bit = |name: String| NAMES.iter().position(|n| *n == name).map_or(0, |number| 1 << number);
    set.into_iter().flatten().map(|cap| bit(cap.to_string())).fold(0, |mask, bit| mask | bit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::Capability;

    #[test]
    fn names_are_numbered_as_in_linux() {
        let one = |cap| mask(Some(&Set::from([cap])));
        assert_eq!(one(Capability::Chown), 1);
        assert_eq!(one(Capability::SysAdmin), 1 << 21);
        assert_eq!(one(Capability::AuditWrite), 1 << 29);
        assert_eq!(one(Capability::CheckpointRestore), 1 << 40);
    }
}
