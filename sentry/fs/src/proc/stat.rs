//! `/proc/PID/stat`: one line of numbers, proc_pid_stat(5).

use super::system::USER_HZ;
use kernel::task::Task;
use std::sync::atomic::Ordering;

/// The line. `process`: the times of the whole process rather than the thread's.
pub fn stat(t: &Task, process: bool) -> Vec<u8> {
    let group = t.group();
    let (own, children) = if process { (group.usage(), group.children_usage()) } else { (t.usage(), kernel::task::Usage::default()) };
    let ticks = |ns: u64| ns * USER_HZ / 1_000_000_000;
    let mm = t.try_mm();
    let sizes = mm.as_ref().map(|m| m.sizes()).unwrap_or_default();
    let heap = mm.as_ref().map(|m| m.heap()).unwrap_or_default();
    let layout = mm.map(|m| m.layout()).unwrap_or_default();
    let session = t.session();
    let terminal = session.terminal();
    let (ignored, caught) = group.handlers().ignored_and_caught();
    let info = t.info().clone();
    // What Linux keeps of pending and blocked signals here is their first 31.
    let low = |s: abi::signal::SigSet| s.0 & 0x7fff_ffff;
    let mut line = format!("{} (", t.tid()).into_bytes();
    line.extend(t.comm());
    let fields: Vec<String> = vec![
        t.state().letter().to_string(),
        group.parent_pid().to_string(),
        t.process_group().id.to_string(),
        session.id.to_string(),
        terminal.as_ref().map_or(0, |x| x.device()).to_string(),
        terminal.as_ref().map_or(-1, |x| x.foreground().map_or(-1, |g| g.id)).to_string(),
        "4194304".into(),
        "0".into(),
        "0".into(),
        "0".into(),
        "0".into(),
        ticks(own.user_ns).to_string(),
        ticks(own.system_ns).to_string(),
        ticks(children.user_ns).to_string(),
        ticks(children.system_ns).to_string(),
        if info.priority > 0 { -1 - info.priority } else { 20 + info.nice }.to_string(),
        info.nice.to_string(),
        group.thread_count().max(1).to_string(),
        "0".into(),
        ticks(group.start_ns).to_string(),
        sizes.total.to_string(),
        (sizes.resident / abi::PAGE_SIZE).to_string(),
        u64::MAX.to_string(),
        layout.code.start.to_string(),
        layout.code.end.to_string(),
        layout.start_stack.to_string(),
        "0".into(),
        "0".into(),
        low(t.pending_signals()).to_string(),
        low(t.signal_mask()).to_string(),
        low(ignored).to_string(),
        low(caught).to_string(),
        "0".into(),
        "0".into(),
        "0".into(),
        if t.is_leader() { group.exit_signal.load(Ordering::Relaxed) } else { -1 }.to_string(),
        "0".into(),
        info.priority.to_string(),
        info.policy.to_string(),
        "0".into(),
        "0".into(),
        "0".into(),
        layout.data.start.to_string(),
        layout.data.end.to_string(),
        heap.start.to_string(),
        layout.args.start.to_string(),
        layout.args.end.to_string(),
        layout.env.start.to_string(),
        layout.env.end.to_string(),
        "0".into(),
    ];
    line.extend(format!(") {}\n", fields.join(" ")).into_bytes());
    line
}
