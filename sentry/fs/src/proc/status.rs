//! `/proc/PID/status`, proc_pid_status(5).

use kernel::task::Task;
use std::fmt::Write;

/// The text.
pub fn status(t: &Task) -> String {
    let group = t.group();
    let cred = t.cred();
    let mut out = String::new();
    let name: String = String::from_utf8_lossy(&t.comm()).replace('\\', "\\\\").replace('\n', "\\n");
    let state = t.state();
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "Name:\t{name}\nUmask:\t{:04o}\nState:\t{} ({})\nTgid:\t{}\nNgid:\t0\nPid:\t{}\nPPid:\t{}\nTracerPid:\t{}\n",
        t.umask(),
        state.letter(),
        state.word(),
        t.tgid(),
        t.tid(),
        group.parent_pid(),
        t.tracer_tid()
    );
    let _ = write!(
        out,
        "Uid:\t{}\t{}\t{}\t{}\nGid:\t{}\t{}\t{}\t{}\nFDSize:\t{}\nGroups:\t",
        cred.uid,
        cred.euid,
        cred.suid,
        cred.fsuid,
        cred.gid,
        cred.egid,
        cred.sgid,
        cred.fsgid,
        fd_size(t)
    );
    for g in cred.groups.iter() {
        let _ = write!(out, "{g} ");
    }
    let (pgid, sid) = (t.process_group().id, t.session().id);
    let _ = write!(out, "\nNStgid:\t{}\nNSpid:\t{}\nNSpgid:\t{pgid}\nNSsid:\t{sid}\nKthread:\t0\n", t.tgid(), t.tid());
    memory(t, &mut out);
    let (ignored, caught) = group.handlers().ignored_and_caught();
    let _ = write!(
        out,
        "CoreDumping:\t0\nTHP_enabled:\t1\nThreads:\t{}\nSigQ:\t{}/{}\nSigPnd:\t{:016x}\nShdPnd:\t{:016x}\nSigBlk:\t{:016x}\nSigIgn:\t{:016x}\nSigCgt:\t{:016x}\n",
        group.thread_count().max(1),
        group.queued_signals(),
        t.rlimit(abi::libc::RLIMIT_SIGPENDING).cur,
        t.own_pending().0,
        group.shared_pending().0,
        t.signal_mask().0,
        ignored.0,
        caught.0
    );
    let seccomp = t.info().seccomp.clone();
    let _ = write!(
        out,
        "CapInh:\t{:016x}\nCapPrm:\t{:016x}\nCapEff:\t{:016x}\nCapBnd:\t{:016x}\nCapAmb:\t{:016x}\nNoNewPrivs:\t{}\nSeccomp:\t{}\nSeccomp_filters:\t{}\nSpeculation_Store_Bypass:\tthread vulnerable\nSpeculationIndirectBranch:\tconditional enabled\n",
        cred.inheritable.bits(),
        cred.permitted.bits(),
        cred.effective.bits(),
        cred.bounding.bits(),
        cred.ambient.bits(),
        u8::from(cred.no_new_privs),
        seccomp.mode(),
        seccomp.count()
    );
    let affinity = t.info().affinity;
    let cpus: Vec<usize> = (0..1024).filter(|&c| affinity.get(c / 64).is_some_and(|w| w >> (c % 64) & 1 == 1)).collect();
    let last = affinity.iter().rposition(|&w| w != 0).map_or(0, |i| i + 1);
    let mut words: Vec<String> = Vec::new();
    for w in affinity.iter().take(last.max(1)).rev() {
        if last > 1 {
            words.push(format!("{:08x}", w >> 32));
            words.push(format!("{:08x}", w & 0xffff_ffff));
        } else {
            words.push(format!("{w:x}"));
        }
    }
    let _ = write!(
        out,
        "Cpus_allowed:\t{}\nCpus_allowed_list:\t{}\nMems_allowed:\t1\nMems_allowed_list:\t0\nvoluntary_ctxt_switches:\t{}\nnonvoluntary_ctxt_switches:\t0\n",
        words.join(","),
        ranges(&cpus),
        t.usage().voluntary_switches
    );
    out
}

/// Slots of the descriptor table: a power of two as Linux grows it.
fn fd_size(t: &Task) -> usize {
    t.files().list().last().map_or(64, |fd| (fd.0 as usize + 1).next_power_of_two().max(64))
}

fn memory(t: &Task, out: &mut String) {
    let Some(mm) = t.try_mm() else { return };
    let s = mm.sizes();
    let kib = |n: u64| n / 1024;
    for (name, value) in [
        ("VmPeak", s.peak),
        ("VmSize", s.total),
        ("VmLck", s.locked),
        ("VmPin", 0),
        ("VmHWM", s.resident),
        ("VmRSS", s.resident),
        ("RssAnon", s.rss_anon),
        ("RssFile", s.rss_file),
        ("RssShmem", s.rss_shmem),
        ("VmData", s.data),
        ("VmStk", s.stack),
        ("VmExe", s.code),
        ("VmLib", s.lib),
        ("VmPTE", 0),
        ("VmSwap", 0),
        ("HugetlbPages", 0),
    ] {
        let _ = writeln!(out, "{name}:\t{:>8} kB", kib(value));
    }
}

/// Numbers as Linux lists them: `0-3,8`.
pub fn ranges(numbers: &[usize]) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for &n in numbers {
        match parts.last_mut() {
            Some(p) if p.1 + 1 == n => p.1 = n,
            _ => parts.push((n, n)),
        }
    }
    parts.iter().map(|&(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") }).collect::<Vec<_>>().join(",")
}
