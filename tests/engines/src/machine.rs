//! A machine within the machine: see `machine.sh`.

use anyhow::{Context, Result, bail};
use caisson_tests_support::process::{self, Output};
use caisson_tests_support::{binary, host};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How long one command of an engine may take: the machines of CI are slow.
const LIMIT: Duration = Duration::from_secs(60);

/// Namespaces, control groups, and a directory. All of it ends when this is dropped.
pub struct Machine {
    outer: Child,
    init: i32,
    name: String,
    dir: PathBuf,
}

impl Machine {
    /// Makes one. `needs` are the programs that the test will call, for a clear word where one is missing.
    pub fn new(needs: &[&str]) -> Result<Machine> {
        Machine::with_init("none", needs)
    }

    /// The same with systemd as its first process, and a bus for it.
    pub fn with_systemd(needs: &[&str]) -> Result<Machine> {
        let machine = Machine::with_init("systemd", &[&["systemctl", "dbus-daemon"], needs].concat())?;
        let up = crate::eventually(60, || (machine.run(&["systemctl", "is-system-running", "--wait"]).ok()?.status == 0).then_some(()));
        if up.is_none() {
            bail!("systemd does not start on this host: {}", machine.run(&["systemctl", "list-units", "--failed"])?);
        }
        // Read-only until now, so that systemd does not set the host's.
        machine.ok(&["umount", "/proc/sys"])?;
        machine.ok(&["systemctl", "start", "dbus.socket", "dbus.service"])?;
        Ok(machine)
    }

    fn with_init(init: &str, needs: &[&str]) -> Result<Machine> {
        for need in needs {
            if !on_path(need) {
                bail!("{need} is not installed; ./test installs what the tests need");
            }
        }
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("caisson-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = binary::scratch("engines")?.join(&name);
        fs::create_dir_all(dir.join("bin"))?;
        symlink(binary::caisson()?, dir.join("bin/containerd-shim-caisson-v1"))?;
        symlink(binary::caisson()?, dir.join("bin/caisson"))?;
        let script = dir.join("machine.sh");
        fs::write(&script, include_str!("machine.sh"))?;
        // It dies with the thread that made it, also if the tests are killed.
        let mut outer = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "bash"])
            .arg(&script)
            .args(["outside"])
            .args([dir.as_os_str(), name.as_ref(), init.as_ref()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(dir.join("machine.log"))?)
            .spawn()
            .context("setpriv")?;
        let mut line = String::new();
        let stdout = outer.stdout.take().context("no pipe")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let init = host::descendants(outer.id().cast_signed()).first().copied();
        // From here on, dropping it cleans up.
        let machine = Machine { outer, init: init.unwrap_or(0), name, dir };
        if line != "ready\n" || machine.init == 0 {
            bail!("this host cannot give the tests namespaces and control groups of their own:\n{}", machine.log("machine.log"));
        }
        Ok(machine)
    }

    /// A file or directory on the disk, of this machine alone.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A path of the machine, as it is seen from outside.
    pub fn inside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    /// A command that will run in the machine.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.to_string(), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"]);
        command.args(args);
        let path = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin";
        let other = std::env::var("CAISSON_TEST_CONTAINERD").map(|dir| dir + ":").unwrap_or_default();
        command.env("PATH", format!("{}:{other}{path}", self.dir.join("bin").display()));
        command.current_dir("/");
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, args: &[&str]) -> Result<Output> {
        self.run_with(args, b"")
    }

    /// Runs a command with these bytes on its standard input.
    pub fn run_with(&self, args: &[&str], stdin: &[u8]) -> Result<Output> {
        process::run(&mut self.command(args), stdin, LIMIT)
    }

    /// Runs a command that does more than others, and may take three times as long.
    pub fn run_long(&self, args: &[&str]) -> Result<Output> {
        process::run(&mut self.command(args), b"", 3 * LIMIT)
    }

    /// Runs a command that must succeed: its standard output.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        let output = self.run(args)?;
        if output.status != 0 {
            bail!("{args:?}: {output}");
        }
        Ok(output.text())
    }

    /// Starts a daemon. Its output goes to the file `NAME.log`.
    pub fn daemon(&self, name: &str, args: &[&str]) -> Result<Child> {
        let log = File::options().create(true).append(true).open(self.path(&format!("{name}.log")))?;
        let mut command = self.command(args);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.spawn().with_context(|| format!("{args:?}"))
    }

    /// A connection to a port of the machine's loopback.
    pub fn connect(&self, port: u16) -> Result<TcpStream> {
        self.connect_to(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    /// A connection to what the machine can reach.
    pub fn connect_to(&self, address: SocketAddr) -> Result<TcpStream> {
        let namespace = File::open(format!("/proc/{}/ns/net", self.init))?;
        // A socket belongs to the namespace in which it is made: a thread goes there.
        let connect = move || -> Result<TcpStream> {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(TcpStream::connect_timeout(&address, LIMIT)?)
        };
        std::thread::spawn(connect).join().ok().context("a thread died")?
    }

    /// The end of a log file, without mere information.
    pub fn log(&self, name: &str) -> String {
        let mut text = Vec::new();
        if let Ok(mut file) = File::open(self.path(name)) {
            let _ = file.read_to_end(&mut text);
        }
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().filter(|line| !line.contains("level=info")).collect();
        lines.get(lines.len().saturating_sub(15)..).unwrap_or_default().join("\n")
    }

    /// All processes of the machine whose command line contains `text`, by their IDs on the host.
    pub fn processes(&self, text: &str) -> Vec<i32> {
        let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let own = namespace(self.init);
        let all = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| namespace(*pid) == own && host::command_line(*pid).join(" ").contains(text)).collect()
    }

    /// As [`processes`](Self::processes), also those in PID namespaces of their own: sentries, gofers, stubs, and what runs in containers of runc.
    pub fn all_processes(&self, text: &str) -> Vec<i32> {
        let all = host::descendants(self.init);
        all.into_iter().filter(|pid| host::command_line(*pid).join(" ").contains(text)).collect()
    }

    /// Mount points of the machine below this path.
    pub fn mounts(&self, below: &str) -> Vec<String> {
        let text = fs::read_to_string(format!("/proc/{}/mounts", self.init)).unwrap_or_default();
        let points = text.lines().filter_map(|line| line.split(' ').nth(1));
        points.filter(|point| point.starts_with(below)).map(str::to_owned).collect()
    }

    /// Control groups of the machine, without those that are its own.
    pub fn groups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for top in self.tops() {
            let mut all = Vec::new();
            below(&top, &mut all);
            found.extend(all.into_iter().filter(|group| *group != top && *group != top.join("init")));
        }
        found
    }

    /// The machine's own group in each hierarchy.
    fn tops(&self) -> Vec<PathBuf> {
        let text = fs::read_to_string(self.path("groups")).unwrap_or_default();
        text.lines().filter_map(|line| Some(Path::new(line.split(' ').next()?).join(&self.name))).collect()
    }
}

/// A group and all below it, children first.
fn below(group: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            below(&entry.path(), found);
        }
    }
    found.push(group.to_owned());
}

/// Whether there is such a program.
pub fn on_path(name: &str) -> bool {
    let path = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin";
    path.split(':').any(|dir| Path::new(dir).join(name).exists())
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The first process of the PID namespace takes all others with it.
        let _ = self.outer.kill();
        let _ = self.outer.wait();
        for top in self.tops() {
            crate::eventually(20, || {
                let mut groups = Vec::new();
                below(&top, &mut groups);
                groups.iter().for_each(|group| drop(fs::remove_dir(group)));
                (!top.exists()).then_some(())
            });
        }
        if std::env::var_os("CAISSON_TEST_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}
