//! What a pod's configuration says about its containers, and what changes while they run.

use anyhow::{Context, Result, ensure};
use caisson_tests_engines::cri::{self, Pod};
use caisson_tests_engines::{Cri, eventually};
use k8s_cri::v1::{
    CheckpointContainerRequest, ContainerConfig, HugepageLimit, Int64Value, LinuxContainerResources, ListPodSandboxStatsRequest,
    SecurityProfile, UpdateContainerResourcesRequest,
};

/// With every runtime.
pub const TESTS: &[(&str, super::Test)] = &[
    ("users", users),
    ("read_only_root", read_only_root),
    ("seccomp_profiles", seccomp_profiles),
    ("sysctls", sysctls),
    ("host_network", host_network),
    ("privileged", privileged),
    ("resources", resources),
    ("true_statistics", true_statistics),
    ("restarts_by_attempt", restarts_by_attempt),
    ("checkpoint_is_refused", checkpoint_is_refused),
];

/// Runs a container to its end: its status, and what it logged.
fn run(c: &Cri, pod: &Pod, name: &str, script: &str, change: impl FnOnce(&mut ContainerConfig)) -> Result<(i32, Vec<String>)> {
    let id = c.run_with(pod, name, &["sh", "-c", &format!("{script}; echo done")], change)?;
    let status = c.exited(&id)?;
    if status == 0 {
        c.logged(pod, name, "done")?;
    }
    let mut lines = c.log(pod, name);
    lines.retain(|line| line != "done");
    Ok((status, lines))
}

fn users(c: &Cri) -> Result<()> {
    let pod = c.run_pod("pod", false)?;
    let who = "id -u; id -g; id -G; echo $HOME; touch /root/x 2>/dev/null || echo no";
    let (_, lines) = run(c, &pod, "numbers", who, |config| {
        let security = cri::security(config);
        security.run_as_user = Some(Int64Value { value: 1000 });
        security.run_as_group = Some(Int64Value { value: 1234 });
        security.supplemental_groups = vec![7, 8];
    })?;
    let mut groups: Vec<&str> = lines.get(2).context("groups")?.split(' ').collect();
    groups.sort_unstable();
    ensure!(groups == ["1234", "7", "8"], "{lines:?}");
    ensure!(lines[0] == "1000" && lines[1] == "1234" && lines[3] == "/home/user" && lines[4] == "no", "{lines:?}");
    let (_, lines) = run(c, &pod, "name", who, |config| cri::security(config).run_as_username = "user".into())?;
    ensure!(lines[0] == "1000" && lines[1] == "1000" && lines[4] == "no", "{lines:?}");
    let groups: Vec<&str> = lines[2].split(' ').collect();
    ensure!(groups.contains(&"1234"), "the groups of /etc/group: {lines:?}");
    Ok(())
}

fn read_only_root(c: &Cri) -> Result<()> {
    let pod = c.run_pod("pod", false)?;
    let volume = c.machine.path("volume");
    std::fs::create_dir_all(&volume)?;
    let script = "touch /x 2>/dev/null || echo read-only; touch /volume/x && echo volume; touch /dev/shm/x && echo shm";
    let (_, lines) = run(c, &pod, "one", script, |config| {
        cri::security(config).readonly_rootfs = true;
        config.mounts.push(k8s_cri::v1::Mount {
            host_path: volume.display().to_string(),
            container_path: "/volume".into(),
            ..Default::default()
        });
    })?;
    ensure!(lines == ["read-only", "volume", "shm"], "{lines:?}");
    ensure!(volume.join("x").exists(), "the volume");
    Ok(())
}

fn seccomp_profiles(c: &Cri) -> Result<()> {
    let pod = c.run_pod("pod", false)?;
    let script = "grep Seccomp: /proc/self/status | tr -d '\\t'; mkdir /tmp/made 2>/dev/null && echo made || echo refused";
    let profile = |profile_type: i32, file: &str| Some(SecurityProfile { profile_type, localhost_ref: file.into() });
    // 0: the runtime's default, 1: none, 2: a file.
    let (_, lines) = run(c, &pod, "default", script, |config| cri::security(config).seccomp = profile(0, ""))?;
    ensure!(lines == ["Seccomp:2", "made"], "{lines:?}");
    let (_, lines) = run(c, &pod, "none", script, |config| cri::security(config).seccomp = profile(1, ""))?;
    ensure!(lines == ["Seccomp:0", "made"], "{lines:?}");
    let file = c.machine.path("seccomp.json");
    let text =
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}"#;
    std::fs::write(&file, text)?;
    let local = file.display().to_string();
    let (_, lines) = run(c, &pod, "local", script, |config| cri::security(config).seccomp = profile(2, &local))?;
    ensure!(lines == ["Seccomp:2", "refused"], "{lines:?}");
    let missing = c.run_with(&pod, "missing", &["true"], |config| cri::security(config).seccomp = profile(2, "/no/such.json"));
    ensure!(missing.is_err(), "a profile that is not there");
    Ok(())
}

fn sysctls(c: &Cri) -> Result<()> {
    let wanted = [
        ("kernel.shm_rmid_forced", "1"),
        ("kernel.msgmax", "12345"),
        ("net.ipv4.ip_local_port_range", "20000 21000"),
        ("net.ipv4.ip_unprivileged_port_start", "100"),
        ("net.core.somaxconn", "77"),
    ];
    let pod = c.run_pod_with("pod", |config| {
        let sysctls = &mut config.linux.get_or_insert_default().sysctls;
        sysctls.extend(wanted.map(|(name, value)| (name.to_owned(), value.to_owned())));
    })?;
    let one = c.run_container(&pod, "one", 0, &["sleep", "1111"], &[])?;
    for (name, value) in wanted {
        let file = format!("/proc/sys/{}", name.replace('.', "/"));
        let said = c.exec_ok(&one, &["cat", &file])?.replace('\t', " ");
        ensure!(said.trim() == value, "{name} is {said:?}, not {value:?}");
    }
    Ok(())
}

fn host_network(c: &Cri) -> Result<()> {
    // 2: the node's.
    let pod = c.run_pod_with("pod", |config| {
        cri::namespaces(config).network = 2;
        config.hostname = String::new();
    })?;
    let one = c.run_container(&pod, "one", 0, &["sh", "-c", "hostname; exec sleep 1111"], &[])?;
    ensure!(c.exec_ok(&one, &["hostname"])? == "engines\n", "hostname");
    ensure!(c.address(&pod)?.is_empty(), "an address of its own: {}", c.address(&pod)?);
    ensure!(c.exec_ok(&one, &["ls", "/sys/class/net"])?.contains("lo"), "loopback");
    c.stop_pod(&pod)?;
    c.remove_pod(&pod)
}

fn privileged(c: &Cri) -> Result<()> {
    let pod = c.run_pod_with("pod", |config| {
        let linux = config.linux.get_or_insert_default();
        linux.security_context.get_or_insert_default().privileged = true;
    })?;
    let id = c.run_with(&pod, "one", &["sh", "-c", "grep CapEff /proc/self/status; sleep 1111"], |config| {
        cri::security(config).privileged = true;
    })?;
    // Root of the sandbox, not of the host: mounting works, and what is mounted stays in there.
    ensure!(
        c.exec_ok(&id, &["sh", "-c", "mkdir -p /tmp/m && mount -t tmpfs tmpfs /tmp/m && grep -c /tmp/m /proc/mounts"])? == "1\n",
        "mount"
    );
    ensure!(c.machine.mounts("/tmp/m").is_empty(), "it is seen outside");
    Ok(())
}

fn resources(c: &Cri) -> Result<()> {
    let pod = c.run_pod("pod", false)?;
    let limits = LinuxContainerResources {
        memory_limit_in_bytes: 100 << 20,
        cpu_quota: 50_000,
        cpu_period: 100_000,
        cpu_shares: 512,
        hugepage_limits: vec![HugepageLimit { page_size: "2MB".into(), limit: 0 }],
        ..Default::default()
    };
    let one = c.run_with(&pod, "one", &["sleep", "1111"], |config| {
        config.linux.get_or_insert_default().resources = Some(limits.clone());
    })?;
    let limit = || {
        let script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null";
        c.exec(&one, &["sh", "-c", script]).map(|answer| String::from_utf8_lossy(&answer.stdout).trim().to_owned())
    };
    ensure!(limit()? == (100 << 20).to_string(), "{}", limit()?);
    let update = |resources: LinuxContainerResources| {
        let request = UpdateContainerResourcesRequest { container_id: one.clone(), linux: Some(resources), ..Default::default() };
        c.ask("UpdateContainerResources", |mut client| async move { client.update_container_resources(request).await })
    };
    update(LinuxContainerResources { memory_limit_in_bytes: 200 << 20, cpu_quota: 80_000, cpu_period: 100_000, ..Default::default() })?;
    ensure!(limit()? == (200 << 20).to_string(), "after the update: {}", limit()?);
    ensure!(c.exec_ok(&one, &["cat", "/proc/1/comm"])? == "sleep\n", "it runs on");
    Ok(())
}

fn true_statistics(c: &Cri) -> Result<()> {
    let pod = c.run_pod_with("pod", |config| config.linux.get_or_insert_default().cgroup_parent = "/pods/pod".into())?;
    let idle = c.run_container(&pod, "idle", 0, &["sleep", "1111"], &[])?;
    let script = "x=$(head -c 30000000 /dev/zero | tr '\\0' x); echo ready; while :; do :; done";
    let busy = c.run_container(&pod, "busy", 0, &["sh", "-c", script], &[])?;
    c.logged(&pod, "busy", "ready")?;
    // 30 MB are in use, and half a second of processor time: more or less of it within what a shell takes besides.
    let enough = || c.usage(&busy).ok().filter(|(memory, cpu)| *memory > 25_000_000 && *cpu > 500_000_000);
    let (memory, _) = eventually(60, enough).with_context(|| format!("{:?}", c.usage(&busy)))?;
    ensure!(memory < 300_000_000, "{memory} bytes");
    let (memory, cpu) = c.usage(&idle)?;
    ensure!(memory < 15_000_000, "the idle one: {memory} bytes");
    ensure!(cpu < 500_000_000, "the idle one: {cpu} ns");
    let request = ListPodSandboxStatsRequest::default();
    let all = c.ask("ListPodSandboxStats", |mut client| async move { client.list_pod_sandbox_stats(request).await })?;
    let stats = all.stats.into_iter().next().and_then(|stats| stats.linux).context("no pod")?;
    ensure!(stats.containers.len() == 2, "{} containers", stats.containers.len());
    c.stop(&busy, 0)?;
    Ok(())
}

fn restarts_by_attempt(c: &Cri) -> Result<()> {
    let pod = c.run_pod("pod", false)?;
    let stays = c.run_container(&pod, "stays", 0, &["sleep", "1111"], &[])?;
    for attempt in 0..3 {
        // An attempt that fails, one that is stopped, and one that runs.
        let command = ["sh", "-c", if attempt == 0 { "exit 7" } else { "echo up; exec sleep 1222" }];
        let id = c.run_container(&pod, "one", attempt, &command, &[])?;
        let status = c.status(&id)?;
        ensure!(status.metadata.as_ref().is_some_and(|data| data.attempt == attempt && data.name == "one"), "{status:?}");
        match attempt {
            0 => ensure!(c.exited(&id)? == 7, "{:?}", c.status(&id)?),
            1 => {
                c.logged(&pod, "one", "up")?;
                c.stop(&id, 1)?;
                // sleep(1) is process 1 and does not hear SIGTERM: the grace runs out.
                ensure!(c.exited(&id)? == 137, "{:?}", c.status(&id)?);
            }
            _ => {
                // It begins as a shell.
                let sleeps = || (c.exec_ok(&id, &["cat", "/proc/1/comm"]).ok()? == "sleep\n").then_some(());
                eventually(30, sleeps).context("its first process")?;
            }
        }
        if attempt < 2 {
            // The attempt before is looked at and removed only when the next one has been made.
            c.remove(&id)?;
        }
    }
    ensure!(c.exec_ok(&stays, &["cat", "/proc/1/comm"])? == "sleep\n", "the other container");
    c.stop_pod(&pod)?;
    c.remove_pod(&pod)
}

fn checkpoint_is_refused(c: &Cri) -> Result<()> {
    let pod = c.run_pod("pod", false)?;
    let one = c.run_container(&pod, "one", 0, &["sleep", "1111"], &[])?;
    let location = c.machine.path("checkpoint.tar").display().to_string();
    let request = CheckpointContainerRequest { container_id: one.clone(), location, timeout: 10 };
    let refused = c.ask("CheckpointContainer", |mut client| async move { client.checkpoint_container(request).await });
    let message = refused.err().context("it is said to have worked")?.to_string();
    ensure!(message.contains("not implemented") || message.contains("not supported") || message.contains("unknown method"), "{message}");
    ensure!(c.exec_ok(&one, &["cat", "/proc/1/comm"])? == "sleep\n", "it runs on");
    Ok(())
}
