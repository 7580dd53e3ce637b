//! systemd's control group driver, with systemd itself: the first process of a machine.

use anyhow::{Context, Result, ensure};
use caisson_tests_engines::image::{self, BUSYBOX};
use caisson_tests_engines::{Docker, Machine, Podman, eventually};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::{Value, json};
use std::fs;
use std::process::ExitCode;

type Test = fn() -> Result<()>;

const TESTS: &[(&str, Test)] = &[
    ("scope", scope),
    ("ends_by_itself", ends_by_itself),
    ("mistakes", mistakes),
    ("killed_verbs", killed_verbs),
    ("docker", docker),
    ("podman", podman),
];

fn main() -> ExitCode {
    let args = Arguments::from_args();
    let trial = |test: Test| test().map_err(|error| Failed::from(format!("{error:#}")));
    let trials = TESTS.iter().map(|(name, test)| Trial::test(*name, move || trial(*test))).collect();
    libtest_mimic::run(&args, trials).exit_code()
}

/// `caisson --systemd-cgroup` in a machine, with one bundle.
struct Host(Machine);

impl Host {
    fn new() -> Result<Host> {
        let machine = Machine::with_systemd(&["busybox"])?;
        image::busybox(&machine.path(""))?;
        Ok(Host(machine))
    }

    /// Writes the bundle.
    fn bundle(&self, args: &[&str], change: impl FnOnce(&mut Value)) -> Result<()> {
        let dir = self.0.path("bundle");
        fs::create_dir_all(&dir)?;
        let file = dir.join("config.json");
        if file.exists() {
            fs::remove_file(&file)?;
        }
        self.0.ok(&["caisson", "spec", "--bundle", &dir.display().to_string()])?;
        let mut config: Value = serde_json::from_slice(&fs::read(&file)?)?;
        config["root"] = json!({"path": self.0.path("busybox-root")});
        config["process"]["args"] = json!(args);
        config["process"]["terminal"] = json!(false);
        config["linux"]["cgroupsPath"] = json!("my-test.slice:pre:one");
        change(&mut config);
        fs::write(file, config.to_string())?;
        Ok(())
    }

    /// A script in which `c` is `caisson --systemd-cgroup`, and `create` makes the container `one` with streams that are nobody's.
    fn run(&self, script: &str) -> Result<caisson_tests_support::process::Output> {
        let bundle = self.0.path("bundle");
        let begin = format!(
            "c() {{ caisson --root /run/state --systemd-cgroup \"$@\"; }}; cd {}
             create() {{ c create one < /dev/null > /dev/null 2> /run/create.log || {{ s=$?; cat /run/create.log >&2; return $s; }}; }}\n",
            bundle.display()
        );
        self.0.run(&["sh", "-c", &(begin + script)])
    }

    fn ok(&self, script: &str) -> Result<String> {
        let output = self.run(script)?;
        ensure!(output.status == 0, "{script}: {output}");
        Ok(output.text())
    }

    /// What systemd says of the container's scope.
    fn property(&self, name: &str) -> Result<String> {
        Ok(self.0.ok(&["systemctl", "show", "--value", "--property", name, "pre-one.scope"])?.trim().to_owned())
    }

    /// What is left of the container: the unit, groups, processes, and its state.
    fn left(&self) -> Result<Vec<String>> {
        let units = self.0.ok(&["systemctl", "list-units", "--all", "--plain", "--no-legend", "pre-one.scope"])?;
        let mut left: Vec<String> = units.lines().map(str::to_owned).collect();
        let groups = self.0.groups().into_iter().filter(|group| group.ends_with("pre-one.scope"));
        left.extend(groups.map(|group| group.display().to_string()));
        // Neither the container nor a verb: both have the state directory, or the application's words, as arguments.
        left.extend(["/run/state", "sleep 1111"].iter().flat_map(|text| self.0.all_processes(text)).map(|pid| format!("process {pid}")));
        left.extend(self.0.ok(&["sh", "-c", "ls /run/state 2> /dev/null || true"])?.lines().map(str::to_owned));
        Ok(left)
    }

    fn is_clean(&self, after: &str) -> Result<()> {
        let mut left = Vec::new();
        let clean = eventually(20, || {
            left = self.left().unwrap_or_else(|error| vec![error.to_string()]);
            left.is_empty().then_some(())
        });
        clean.with_context(|| format!("left after {after}: {left:?}"))
    }
}

fn scope() -> Result<()> {
    let host = Host::new()?;
    host.bundle(&["sleep", "1111"], |config| {
        config["linux"]["resources"] =
            json!({"memory": {"limit": 256 << 20}, "cpu": {"quota": 50_000, "period": 100_000, "shares": 512}, "pids": {"limit": 100}});
        config["annotations"] = json!({
            "org.systemd.property.TimeoutStopSec": "uint64 7", "org.systemd.property.CollectMode": "'inactive-or-failed'",
        });
    })?;
    host.ok("create && c start one")?;
    let pid = host.ok("c state one | sed -n 's/.*\"pid\": \\([0-9]*\\),/\\1/p'")?;
    let groups = host.0.ok(&["cat", &format!("/proc/{}/cgroup", pid.trim())])?;
    let group = "/my.slice/my-test.slice/pre-one.scope";
    ensure!(groups.lines().all(|line| line.ends_with(&format!(":{group}"))), "{groups}");
    let v2 = groups.lines().count() == 1;
    for (name, value) in [
        ("ActiveState", "active"),
        ("Slice", "my-test.slice"),
        ("ControlGroup", group),
        ("Delegate", "yes"),
        ("DefaultDependencies", "no"),
        (if v2 { "MemoryMax" } else { "MemoryLimit" }, "268435456"),
        (if v2 { "CPUWeight" } else { "CPUShares" }, if v2 { "20" } else { "512" }),
        ("CPUQuotaPerSecUSec", "500ms"),
        ("CPUQuotaPeriodUSec", "100ms"),
        // Host tasks for a hundred of the application.
        ("TasksMax", "528"),
        ("TimeoutStopUSec", "7s"),
        ("CollectMode", "inactive-or-failed"),
    ] {
        let found = host.property(name)?;
        ensure!(found == value, "{name} is {found}, not {value}");
    }
    // The files say what systemd says, after an update, too, and after systemd has read everything anew.
    host.ok("c update --memory 200M --cpu-share 256 --pids-limit 50 one")?;
    host.0.ok(&["systemctl", "daemon-reload"])?;
    let (memory, pids) = (host.property(if v2 { "MemoryMax" } else { "MemoryLimit" })?, host.property("TasksMax")?);
    ensure!(memory == "209715200" && pids == "328", "{memory} {pids}");
    let file = if v2 { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/memory" };
    let name = if v2 { "memory.max" } else { "memory.limit_in_bytes" };
    let limit = host.0.ok(&["cat", &format!("{file}{group}/{name}")])?;
    ensure!(limit == "209715200\n", "{limit}");
    // A further process is there, too; pausing and statistics are as without systemd.
    ensure!(host.ok("c exec one echo inside; c pause one; c state one | grep -c paused; c resume one")? == "inside\n1\n", "exec and pause");
    let stats: Value = serde_json::from_str(&host.ok("c events --stats one")?)?;
    ensure!(stats["data"]["memory"]["usage"]["limit"] == 209_715_200, "{stats}");
    host.ok("c kill one KILL; c delete --force one")?;
    host.is_clean("delete --force")?;
    // systemd is asked to stop it, and it ends.
    host.ok("create && c start one")?;
    host.0.ok(&["systemctl", "stop", "pre-one.scope"])?;
    eventually(20, || host.ok("c state one").ok()?.contains("stopped").then_some(())).context("not stopped")?;
    host.ok("c delete one")?;
    host.is_clean("systemctl stop")
}

fn ends_by_itself() -> Result<()> {
    let host = Host::new()?;
    host.bundle(&["sh", "-c", "exit 7"], |_| {})?;
    for _ in 0..3 {
        let output = host.run("c run one")?;
        ensure!(output.status == 7, "{output}");
        host.is_clean("run")?;
    }
    // Without a path it is a scope of system.slice.
    host.bundle(&["cat", "/proc/self/cgroup"], |config| {
        config["linux"].as_object_mut().map(|linux| linux.remove("cgroupsPath"));
    })?;
    let script = "create && cat /proc/$(c state one | sed -n 's/.*\"pid\": \\([0-9]*\\),/\\1/p')/cgroup; c delete --force one";
    let groups = host.ok(script)?;
    ensure!(groups.lines().all(|line| line.ends_with(":/system.slice/caisson-one.scope")), "{groups}");
    host.is_clean("a scope without a path")
}

fn mistakes() -> Result<()> {
    let host = Host::new()?;
    type Change = fn(&mut Value);
    let changes: [(Change, i32, &str); 6] = [
        (|c| c["linux"]["cgroupsPath"] = json!("/docker/one"), 104, "slice:prefix:name"),
        (|c| c["linux"]["cgroupsPath"] = json!("system:pre:one"), 104, "slice"),
        (|c| c["linux"]["cgroupsPath"] = json!("a.slice:pre:one/two"), 104, "linux.cgroupsPath"),
        (|c| c["annotations"] = json!({"org.systemd.property.TimeoutStopUSec": "soon"}), 104, "org.systemd.property.TimeoutStopUSec"),
        // systemd's own word.
        (|c| c["annotations"] = json!({"org.systemd.property.NoSuchThing": "true"}), 123, "NoSuchThing"),
        (|c| c["annotations"] = json!({"org.systemd.property.TimeoutStopUSec": "'text'"}), 123, "systemd: cannot start pre-one.scope"),
    ];
    for (change, status, word) in changes {
        host.bundle(&["sleep", "1111"], change)?;
        let output = host.run("create")?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status == status && text.contains(word) && text.lines().count() == 1, "{word}: {output}");
        host.is_clean(word)?;
    }
    // A unit of the same name that is somebody else's.
    host.bundle(&["sleep", "1111"], |_| {})?;
    host.0.ok(&["systemd-run", "--scope", "--unit", "pre-one", "--collect", "sh", "-c", "sleep 1000 > /dev/null 2>&1 &"])?;
    let output = host.run("create")?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status == 123 && text.contains("pre-one.scope"), "{output}");
    let found = host.property("ActiveState")?;
    ensure!(found == "active", "the other unit is {found}");
    // Without its bus systemd cannot be told anything; what was made can be removed all the same.
    host.0.ok(&["systemctl", "stop", "pre-one.scope"])?;
    host.ok("create && c start one")?;
    host.0.ok(&["systemctl", "stop", "dbus.socket", "dbus.service"])?;
    host.ok("c delete --force one")?;
    host.is_clean("delete without a bus")?;
    let output = host.run("create")?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status == 123 && text.contains("/run/dbus/system_bus_socket"), "{output}");
    host.is_clean("create without a bus")
}

/// As `chaos` among the tests of the command line.
fn killed_verbs() -> Result<()> {
    let host = Host::new()?;
    host.bundle(&["sleep", "1111"], |_| {})?;
    for (verb, before) in [
        ("create", "true"),
        ("start one", "create"),
        ("exec one true", "create && c start one"),
        ("delete --force one", "create && c start one"),
    ] {
        for point in 0..10 {
            // The shell, and what it has become or started, is killed: the verb, not the machine's nsenter.
            let quiet = "< /dev/null > /dev/null 2>&1";
            let make = if verb == "create" { "create one" } else { verb };
            let script = format!(
                "{before} || exit 1; caisson --root /run/state --systemd-cgroup {make} {quiet} & p=$!
                 sleep 0.0{point}{point}; kill -9 $p 2> /dev/null; wait $p; c delete --force one"
            );
            host.ok(&script)?;
            host.is_clean(&format!("{verb}, killed after 0.0{point}{point} s"))?;
        }
    }
    Ok(())
}

fn docker() -> Result<()> {
    let docker = Docker::start_with_systemd("caisson")?;
    let driver = docker.ok(&["info", "--format", "{{.CgroupDriver}}"])?;
    ensure!(driver == "systemd\n", "{driver}");
    let id = docker.ok(&["run", "-d", "--memory", "128m", "--cpus", "0.5", "--pids-limit", "60", BUSYBOX, "sleep", "1111"])?;
    let id = id.trim();
    let scope = format!("docker-{id}.scope");
    let show = |names: &str| docker.machine.ok(&["systemctl", "show", "--value", "--property", names, &scope]);
    ensure!(show("ActiveState")? == "active\n" && show("Slice")? == "system.slice\n", "{}", show("ActiveState,Slice")?);
    ensure!(show("CPUQuotaPerSecUSec")? == "500ms\n" && show("TasksMax")? == "368\n", "{}", show("CPUQuotaPerSecUSec,TasksMax")?);
    ensure!(docker.ok(&["exec", id, "uname", "-v"])?.contains("Caisson"), "not Caisson's kernel");
    docker.ok(&["update", "--memory", "100m", "--memory-swap", "200m", id])?;
    ensure!(show("MemoryLimit,MemoryMax")?.lines().any(|line| line == "104857600"), "{}", show("MemoryLimit,MemoryMax")?);
    docker.ok(&["rm", "--force", id])?;
    let gone = || (!docker.machine.groups().iter().any(|group| group.ends_with(&scope))).then_some(());
    eventually(20, gone).context("a group is left")?;
    ensure!(docker.machine.ok(&["systemctl", "list-units", "--all", "--plain", "--no-legend", &scope])?.is_empty(), "the scope is left");
    Ok(())
}

fn podman() -> Result<()> {
    let podman = Podman::start_with_systemd(true)?;
    let id = podman.ok(&["run", "-d", "--memory", "128m", "--network=none", BUSYBOX, "sleep", "1111"])?;
    let scope = format!("libpod-{}.scope", id.trim());
    let state = podman.machine.ok(&["systemctl", "show", "--value", "--property", "ActiveState", &scope])?;
    ensure!(state == "active\n", "{state}");
    ensure!(podman.ok(&["exec", id.trim(), "uname", "-v"])?.contains("Caisson"), "not Caisson's kernel");
    podman.ok(&["rm", "--force", "--time", "0", id.trim()])?;
    let gone = || (!podman.machine.groups().iter().any(|group| group.ends_with(&scope))).then_some(());
    eventually(20, gone).context("a group is left")
}
