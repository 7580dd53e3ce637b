//! `/proc/sys`: settings. Those that mean something here act; of the others, those that programs read are there with the value that is
//! true of the sandbox, and cannot be changed.

use super::system::line;
use crate::synthetic::{Entry, Fixed, parse_number};
use abi::{Result, bail};
use kernel::{
    Container,
    cred::CapSet,
    ipc::{limits::Limits, mq},
    kernel::{UTS_RELEASE, UTS_SYSNAME, UTS_VERSION},
    net::{CONGESTION, NetSettings},
    setting::Setting,
    task::current,
};
use std::ops::RangeInclusive;
use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU32, Ordering},
};

/// The tree.
pub fn tree(container: &Arc<Container>) -> Entry {
    dir(vec![
        ("kernel", kernel_dir(container)),
        ("vm", vm_dir()),
        ("fs", fs_dir()),
        ("net", net_dir(container)),
        ("user", dir(vec![("max_user_namespaces", constant(0)), ("max_pid_namespaces", constant(0))])),
        ("dev", dir(vec![("tty", dir(vec![("legacy_tiocsti", constant(0))]))])),
    ])
}

/// Sets what a container's configuration says. `name` has dots between its parts.
pub fn set(container: &Arc<Container>, name: &str, value: &str) -> Result {
    tree(container).write_at(name.split('.'), value.as_bytes())
}

fn dir(entries: Vec<(&'static str, Entry)>) -> Entry {
    Entry::dir(Fixed::new(entries))
}

/// A setting that has this value here and keeps it.
fn constant(value: impl ToString) -> Entry {
    let text = value.to_string();
    Entry::text(move || line(&text))
}

/// A setting that remembers what is written, for programs that set it and read it back; it governs nothing.
fn remembered(initial: i64, min: i64, max: i64) -> Entry {
    let value = Arc::new(AtomicI64::new(initial));
    let to_write = value.clone();
    Entry::writable(
        move || line(value.load(Ordering::Relaxed)),
        move |bytes| {
            privileged()?;
            let n: i64 = parse_number(bytes)?;
            if !(min..=max).contains(&n) {
                bail!(EINVAL, "setting out of range");
            }
            to_write.store(n, Ordering::Relaxed);
            Ok(())
        },
    )
}

/// Numbers that govern something: all on one line. Less than all of them may be written: the rest stays.
fn settings<S: Send + Sync + 'static>(owner: Arc<S>, picks: &[fn(&S) -> &Setting], cap: CapSet) -> Entry {
    let (to_write, picks) = (owner.clone(), picks.to_vec());
    let picks_to_write = picks.clone();
    Entry::writable(
        move || line(picks.iter().map(|pick| pick(&owner).get().to_string()).collect::<Vec<_>>().join("\t")),
        move |bytes| {
            require(cap)?;
            let text = String::from_utf8_lossy(bytes);
            let words = text.split(|c: char| c.is_whitespace() || c == '\0').filter(|word| !word.is_empty());
            let numbers = words.map(|word| parse_number(word.as_bytes())).collect::<Result<Vec<u64>>>()?;
            if numbers.is_empty() || numbers.len() > picks_to_write.len() {
                bail!(EINVAL, "{} numbers", numbers.len());
            }
            let changed = || picks_to_write.iter().zip(&numbers).map(|(pick, number)| (pick(&to_write), *number));
            changed().try_for_each(|(setting, number)| setting.check(number))?;
            changed().try_for_each(|(setting, number)| setting.set(number))
        },
    )
}

fn privileged() -> Result {
    require(CapSet::SYS_ADMIN)
}

fn require(cap: CapSet) -> Result {
    match current() {
        Some(t) => t.cred().require(cap),
        // The sentry itself, with what the configuration says.
        None => Ok(()),
    }
}

fn kernel_dir(container: &Arc<Container>) -> Entry {
    let (u1, u2, u3, u4) = (container.uts.clone(), container.uts.clone(), container.uts.clone(), container.uts.clone());
    let tasks_max = container.kernel().config.tasks_max;
    let of = |picks: &[fn(&Limits) -> &Setting]| settings(Limits::of(&container.ipc), picks, CapSet::SYS_ADMIN);
    let with_newline = |mut name: Vec<u8>| {
        name.push(b'\n');
        Ok(name)
    };
    let trimmed = |bytes: &[u8]| bytes.split(|&b| b == b'\n' || b == 0).next().unwrap_or_default().iter().take(64).copied().collect();
    dir(vec![
        (
            "hostname",
            Entry::writable(
                move || with_newline(u1.names().nodename),
                move |b| {
                    privileged()?;
                    u2.set_nodename(trimmed(b));
                    Ok(())
                },
            ),
        ),
        (
            "domainname",
            Entry::writable(
                move || with_newline(u3.names().domainname),
                move |b| {
                    privileged()?;
                    u4.set_domainname(trimmed(b));
                    Ok(())
                },
            ),
        ),
        ("ostype", constant(UTS_SYSNAME)),
        ("osrelease", constant(UTS_RELEASE)),
        ("version", constant(UTS_VERSION)),
        ("pid_max", constant(4_194_304)),
        ("threads-max", Entry::text(move || line(tasks_max))),
        ("cap_last_cap", constant(40)),
        ("ngroups_max", constant(65536)),
        ("overflowuid", constant(65534)),
        ("overflowgid", constant(65534)),
        ("core_pattern", constant("core")),
        ("core_uses_pid", constant(0)),
        ("randomize_va_space", constant(2)),
        ("tainted", constant(0)),
        ("printk", constant("4\t4\t1\t7")),
        ("dmesg_restrict", constant(1)),
        ("kptr_restrict", constant(1)),
        ("perf_event_paranoid", constant(4)),
        ("unprivileged_bpf_disabled", constant(2)),
        ("seccomp", dir(vec![("actions_avail", constant("kill_process kill_thread trap errno trace log allow"))])),
        ("sem", of(&[|l| &l.semmsl, |l| &l.semmns, |l| &l.semopm, |l| &l.semmni])),
        ("shmmax", of(&[|l| &l.shmmax])),
        ("shmall", of(&[|l| &l.shmall])),
        ("shmmni", of(&[|l| &l.shmmni])),
        ("shm_rmid_forced", of(&[|l| &l.shm_rmid_forced])),
        ("msgmax", of(&[|l| &l.msgmax])),
        ("msgmnb", of(&[|l| &l.msgmnb])),
        ("msgmni", of(&[|l| &l.msgmni])),
        ("sched_rt_period_us", constant(1_000_000)),
        ("sched_rt_runtime_us", constant(950_000)),
        ("sched_child_runs_first", constant(0)),
        ("pty", dir(vec![("max", constant(4096)), ("reserve", constant(1024))])),
        ("random", random_dir()),
    ])
}

/// A random UUID, version 4.
fn uuid() -> String {
    let (a, b) = (host::rand::u64(), host::rand::u64());
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        a >> 32,
        (a >> 16) & 0xffff,
        a & 0xfff,
        (b >> 48) & 0x3fff | 0x8000,
        b & 0xffff_ffff_ffff
    )
}

fn random_dir() -> Entry {
    let boot = uuid();
    dir(vec![
        ("uuid", Entry::text(|| line(uuid()))),
        ("boot_id", Entry::text(move || line(&boot))),
        ("entropy_avail", constant(256)),
        ("poolsize", constant(256)),
    ])
}

fn vm_dir() -> Entry {
    dir(vec![
        ("overcommit_memory", remembered(0, 0, 2)),
        ("overcommit_ratio", remembered(50, 0, 100)),
        ("max_map_count", constant(65530)),
        ("mmap_min_addr", constant(65536)),
        ("swappiness", remembered(60, 0, 200)),
        ("dirty_ratio", remembered(20, 0, 100)),
        ("dirty_background_ratio", remembered(10, 0, 100)),
        ("drop_caches", remembered(0, 0, 4)),
        ("nr_hugepages", constant(0)),
        ("vfs_cache_pressure", remembered(100, 0, 10000)),
    ])
}

fn fs_dir() -> Entry {
    dir(vec![
        ("file-max", constant(9_223_372_036_854_775_807i64)),
        ("file-nr", constant("1024\t0\t9223372036854775807")),
        ("nr_open", constant(1_048_576)),
        ("inode-nr", constant("1024\t0")),
        ("pipe-max-size", constant(1_048_576)),
        ("pipe-user-pages-soft", constant(16384)),
        ("pipe-user-pages-hard", constant(0)),
        ("aio-max-nr", constant(65536)),
        ("aio-nr", constant(0)),
        ("lease-break-time", constant(45)),
        ("leases-enable", constant(0)),
        ("protected_hardlinks", constant(1)),
        ("protected_symlinks", constant(1)),
        ("protected_fifos", constant(0)),
        ("protected_regular", constant(0)),
        ("suid_dumpable", constant(0)),
        ("mount-max", constant(100_000)),
        (
            "inotify",
            dir(vec![("max_queued_events", constant(16384)), ("max_user_instances", constant(128)), ("max_user_watches", constant(65536))]),
        ),
        ("epoll", dir(vec![("max_user_watches", constant(1_048_576))])),
        (
            "mqueue",
            dir(vec![
                ("msg_default", constant(mq::MSG_MAX)),
                ("msg_max", constant(mq::MSG_MAX)),
                ("msgsize_default", constant(mq::MSGSIZE_MAX)),
                ("msgsize_max", constant(mq::MSGSIZE_MAX)),
                ("queues_max", constant(mq::QUEUES_MAX)),
            ]),
        ),
    ])
}

/// Whoever owns the network may change its settings.
fn net_privileged() -> Result {
    require(CapSet::NET_ADMIN)
}

/// A number that governs the network.
fn net_number(settings: &Arc<NetSettings>, which: fn(&NetSettings) -> &AtomicU32, range: RangeInclusive<u32>) -> Entry {
    let (read, write) = (settings.clone(), settings.clone());
    Entry::writable(
        move || line(which(&read).load(Ordering::Relaxed)),
        move |bytes| {
            net_privileged()?;
            let n: u32 = parse_number(bytes)?;
            if !range.contains(&n) {
                bail!(EINVAL, "setting out of range");
            }
            which(&write).store(n, Ordering::Relaxed);
            Ok(())
        },
    )
}

/// Two numbers; of one, the second stays as it is.
fn two_numbers<T: std::str::FromStr>(bytes: &[u8], second: T) -> Option<(T, T)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut numbers = text.split_whitespace().map(|n| n.parse().ok());
    let both = (numbers.next()??, numbers.next().unwrap_or(Some(second))?);
    numbers.next().is_none().then_some(both)
}

fn port_range(settings: &Arc<NetSettings>) -> Entry {
    let (read, write) = (settings.clone(), settings.clone());
    Entry::writable(
        move || {
            let (first, last) = read.ports();
            line(format!("{first}\t{last}"))
        },
        move |bytes| {
            net_privileged()?;
            match two_numbers(bytes, write.ports().1) {
                Some((first, last)) if write.set_ports(first, last) => Ok(()),
                _ => bail!(EINVAL, "no range of ports"),
            }
        },
    )
}

/// Seconds that still fit into the host's ticks.
const SECONDS_MAX: u32 = i32::MAX as u32 / 1000;

fn ping_groups(settings: &Arc<NetSettings>) -> Entry {
    let (read, write) = (settings.clone(), settings.clone());
    Entry::writable(
        move || {
            let (first, last) = read.ping_groups();
            line(format!("{first}\t{last}"))
        },
        move |bytes| {
            net_privileged()?;
            match two_numbers(bytes, write.ping_groups().1) {
                Some((first, last)) if write.set_ping_groups(first, last) => Ok(()),
                _ => bail!(EINVAL, "no range of groups"),
            }
        },
    )
}

fn congestion(settings: &Arc<NetSettings>) -> Entry {
    let (read, write) = (settings.clone(), settings.clone());
    Entry::writable(
        move || line(CONGESTION.get(read.congestion.load(Ordering::Relaxed) as usize).copied().unwrap_or_default()),
        move |bytes| {
            net_privileged()?;
            let name = String::from_utf8_lossy(bytes);
            let Some(at) = CONGESTION.iter().position(|n| *n == name.trim()) else { bail!(ENOENT, "no such congestion control") };
            write.congestion.store(at as u32, Ordering::Relaxed);
            Ok(())
        },
    )
}

fn net_dir(container: &Arc<Container>) -> Entry {
    let settings = NetSettings::of(container.kernel());
    dir(vec![
        (
            "core",
            dir(vec![
                ("somaxconn", net_number(&settings, |s| &s.somaxconn, 0..=i32::MAX as u32)),
                ("rmem_default", constant(212_992)),
                ("wmem_default", constant(212_992)),
                ("rmem_max", constant(212_992)),
                ("wmem_max", constant(212_992)),
                ("optmem_max", constant(131_072)),
            ]),
        ),
        ("unix", dir(vec![("max_dgram_qlen", constant(512))])),
        (
            "ipv4",
            dir(vec![
                ("ip_local_port_range", port_range(&settings)),
                ("tcp_rmem", constant("4096\t131072\t6291456")),
                ("tcp_wmem", constant("4096\t16384\t4194304")),
                ("ip_forward", constant(0)),
                ("tcp_max_syn_backlog", constant(512)),
                ("tcp_fin_timeout", net_number(&settings, |s| &s.fin_timeout, 0..=120)),
                ("tcp_keepalive_time", net_number(&settings, |s| &s.keepalive_time, 0..=SECONDS_MAX)),
                ("tcp_keepalive_intvl", net_number(&settings, |s| &s.keepalive_interval, 0..=SECONDS_MAX)),
                ("tcp_keepalive_probes", net_number(&settings, |s| &s.keepalive_probes, 0..=255)),
                ("tcp_syn_retries", net_number(&settings, |s| &s.syn_retries, 1..=127)),
                ("tcp_synack_retries", net_number(&settings, |s| &s.synack_retries, 0..=255)),
                ("tcp_retries2", net_number(&settings, |s| &s.retries, 0..=255)),
                ("ip_default_ttl", net_number(&settings, |s| &s.ttl, 1..=255)),
                ("ping_group_range", ping_groups(&settings)),
                ("tcp_window_scaling", constant(1)),
                ("tcp_timestamps", constant(1)),
                ("tcp_sack", constant(1)),
                ("tcp_ecn", constant(0)),
                ("tcp_syncookies", constant(1)),
                ("tcp_congestion_control", congestion(&settings)),
                ("tcp_available_congestion_control", constant("reno cubic")),
                ("ip_unprivileged_port_start", net_number(&settings, |s| &s.unprivileged_port, 0..=65_535)),
            ]),
        ),
        (
            "ipv6",
            dir(vec![(
                "conf",
                dir(vec![("all", dir(vec![("disable_ipv6", constant(0))])), ("default", dir(vec![("disable_ipv6", constant(0))]))]),
            )]),
        ),
    ])
}
