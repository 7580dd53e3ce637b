//! A program run by the host's own kernel: in new namespaces (with loopback alone for a network), in the same root, with the mounts that a container has.

use crate::process::{self, Output};
use crate::{HOSTNAME, Program};
use anyhow::Result;
use std::process::Command;

/// Prepares the root and becomes the program. Arguments: root, hostname, soft and hard limit of open files, volumes (SRC:DST…),
/// `--`, NAME=VALUE…, `chroot . PROGRAM ARGUMENT…`. The program is process 1 of its namespace, as in a container.
const SETUP: &str = r#"
set -eu
ip link set lo up
root=$1; echo "$2" > /proc/sys/kernel/hostname; ulimit -Sn "$3"; ulimit -Hn "$4"; shift 4
# over /sys, because the tree itself may lie anywhere else
base=/sys
mount -t tmpfs -o mode=755 caisson-native "$base"
mkdir "$base/upper" "$base/work" "$base/root"
r="$base/root"
mount -t overlay -o "lowerdir=$root,upperdir=$base/upper,workdir=$base/work" overlay "$r"
mount -t proc proc "$r/proc"
mount -t sysfs -o ro sysfs "$r/sys"
mount -t tmpfs -o ro cgroup "$r/sys/fs/cgroup"
mount -t tmpfs -o mode=755,nosuid tmpfs "$r/dev"
mkdir "$r/dev/pts" "$r/dev/shm" "$r/dev/mqueue"
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts "$r/dev/pts"
mount -t tmpfs -o mode=1777,nosuid,nodev shm "$r/dev/shm"
mount -t mqueue mqueue "$r/dev/mqueue" 2>/dev/null || :
mount -t tmpfs -o mode=1777 tmpfs "$r/tmp"
umask 0
mknod "$r/dev/null" c 1 3; mknod "$r/dev/zero" c 1 5; mknod "$r/dev/full" c 1 7
mknod "$r/dev/random" c 1 8; mknod "$r/dev/urandom" c 1 9; mknod "$r/dev/tty" c 5 0
umask 022
ln -s pts/ptmx "$r/dev/ptmx"; ln -s /proc/self/fd "$r/dev/fd"
ln -s /proc/self/fd/0 "$r/dev/stdin"; ln -s /proc/self/fd/1 "$r/dev/stdout"; ln -s /proc/self/fd/2 "$r/dev/stderr"
while [ "$1" != -- ]; do mount --bind "${1%:*}" "$r${1##*:}"; shift; done
shift
cd "$r"
# no signal is ignored, whatever nohup or a shell in the background did;
# a new pid namespace only now, and nothing forked in it, so that the program's first child is process 2 as in a container
exec unshare --pid --fork --kill-child=KILL --mount-proc="$r/proc" setsid env --default-signal -i "$@"
"#;

impl Program {
    /// Runs it natively.
    pub fn native(&self) -> Result<Output> {
        process::run(&mut self.native_command(), &self.stdin, self.timeout)
    }

    /// The command that runs it natively: for servers, which others use while they run.
    pub fn native_command(&self) -> Command {
        let mut command = match &self.network {
            Some(path) => {
                let mut enter = Command::new("nsenter");
                enter.arg(format!("--net={}", path.display())).arg("unshare");
                enter
            }
            None => {
                let mut alone = Command::new("unshare");
                alone.arg("--net");
                alone
            }
        };
        command.args(["--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child=KILL", "--propagation=private"]);
        command.args(["setsid", "sh", "-c", SETUP, "sh"]).arg(&self.root).arg(HOSTNAME);
        command.args([self.nofile.0.to_string(), self.nofile.1.to_string()]);
        command.args(self.volumes.iter().map(|v| format!("{}:{}", v.source.display(), v.target)));
        command.arg("--").args(self.environment().iter().map(|(k, v)| format!("{k}={v}")));
        command.args(["chroot", "."]).args(&self.args);
        command
    }
}
