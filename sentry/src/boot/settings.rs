//! What a configuration sets besides mounts and processes: the profile of system calls, sysctls, limits.

use crate::Failure;
use control::{BootSpec, FailureKind, SeccompOp};
use kernel::seccomp::rules::{Condition, Op, Rule, Rules};
use kernel::vfs::{Lookup, OpenHow, Walker};
use kernel::{io::IoBuffer, task::Task};
use std::collections::HashMap;
use std::sync::Arc;

/// The container's profile, as a filter that every process starts with.
pub fn profile(spec: &BootSpec) -> Result<Option<Arc<Rules>>, Failure> {
    let Some(profile) = &spec.seccomp else { return Ok(None) };
    let numbers: HashMap<&str, u32> = syscalls::table::rows().map(|row| (row.name, row.nr)).collect();
    let mut rules = Rules::new(profile.default);
    for rule in &profile.rules {
        let conditions: Vec<Condition> = rule
            .args
            .iter()
            .map(|arg| Condition { index: arg.index.into(), op: op(arg.op), value: arg.value, other: arg.value_two })
            .collect();
        // Names of other architectures, and of newer kernels, are in every profile.
        for nr in rule.names.iter().filter_map(|name| numbers.get(name.as_str())) {
            let nr = i32::try_from(*nr).map_err(|error| Failure::new(FailureKind::Internal, error.to_string()))?;
            rules.add(nr, Rule { action: rule.action, conditions: conditions.clone() });
        }
    }
    Ok(Some(Arc::new(rules)))
}

fn op(op: SeccompOp) -> Op {
    match op {
        SeccompOp::Ne => Op::Ne,
        SeccompOp::Lt => Op::Lt,
        SeccompOp::Le => Op::Le,
        SeccompOp::Eq => Op::Eq,
        SeccompOp::Ge => Op::Ge,
        SeccompOp::Gt => Op::Gt,
        SeccompOp::MaskedEq => Op::MaskedEq,
    }
}

/// Writes values to `/proc/sys`. What the sentry does not have there has no effect, and is told in the log.
pub fn write_sysctls(task: &Task, spec: &BootSpec) {
    let uts = &task.container().uts;
    for (name, value) in &spec.sysctl {
        let written = match name.as_str() {
            "kernel.hostname" => {
                uts.set_nodename(value.clone().into_bytes());
                Ok(())
            }
            "kernel.domainname" => {
                uts.set_domainname(value.clone().into_bytes());
                Ok(())
            }
            name => write_sysctl(task, name, value),
        };
        if let Err(error) = written {
            tracing::warn!("linux.sysctl: {name} has no effect: {error}");
        }
    }
}

fn write_sysctl(task: &Task, name: &str, value: &str) -> abi::Result {
    let walker = Walker { cred: Arc::new(kernel::cred::Credentials::root()), ..Walker::of(task) };
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    walker.walk(&walker.root, path.as_bytes(), Lookup::FOLLOW)?;
    let how = OpenHow { flags: abi::fs::OpenFlags::WRONLY, mode: 0, resolve: 0 };
    let file = walker.open(&walker.root.clone(), path.as_bytes(), how)?;
    file.ops().write(&file, &mut IoBuffer::source(value.as_bytes()), 0, false)?;
    Ok(())
}
