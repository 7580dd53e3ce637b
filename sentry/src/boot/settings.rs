//! What a configuration sets besides mounts and processes: the profile of system calls, sysctls, limits.

use crate::Failure;
use control::{BootSpec, FailureKind, SeccompOp};
use kernel::seccomp::rules::{Condition, Op, Rule, Rules};
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
pub fn write_sysctls(container: &Arc<kernel::Container>, spec: &BootSpec) {
    for (name, value) in &spec.sysctl {
        if let Err(error) = fs::proc::set_sysctl(container, name, value) {
            tracing::warn!("linux.sysctl: {name} has no effect: {error}");
        }
    }
}
