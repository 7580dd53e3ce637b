# A machine within the machine: engines started in it find their own processes, network, control groups, /run and state, and
# nothing of what they do outlives it. Called as `machine.sh outside DIR NAME INIT`; ends up as process 1 of the new PID namespace,
# which is systemd if INIT says so.
set -eu
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

if [ "$1" = outside ]; then
  dir=$2 name=$3 init=$4
  # A control group of its own in every hierarchy; DIR/groups tells which.
  : > "$dir/groups"
  while read -r _ at kind options _; do
    case $kind in cgroup | cgroup2) ;; *) continue ;; esac
    mkdir "$at/$name" || { echo "no control group can be made in $at" >&2; exit 1; }
    if [ -e "$at/cpuset.mems" ] && [ "$kind" = cgroup ]; then
      cat "$at/cpuset.cpus" > "$at/$name/cpuset.cpus"
      cat "$at/cpuset.mems" > "$at/$name/cpuset.mems"
    fi
    echo $$ > "$at/$name/cgroup.procs"
    echo "$at $kind $options" >> "$dir/groups"
  done < /proc/self/mounts
  exec unshare --mount --pid --net --ipc --uts --cgroup --fork --kill-child --propagation private \
    bash "$0" inside "$dir" "$init"
fi

dir=$2 init=$3
mount -t proc proc /proc
mount -t sysfs sysfs /sys
if [ "$(cut -d ' ' -f 1 < "$dir/groups")" = /sys/fs/cgroup ]; then
  # Version 2 alone: a group that gives controllers to others has no processes.
  mount -t cgroup2 cgroup2 /sys/fs/cgroup
  mkdir /sys/fs/cgroup/init
  echo 1 > /sys/fs/cgroup/init/cgroup.procs
  for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
    echo "+$controller" > /sys/fs/cgroup/cgroup.subtree_control || true
  done
else
  mount -t tmpfs tmpfs /sys/fs/cgroup
  while read -r at kind options; do
    case $at in /sys/fs/cgroup/*) ;; *) continue ;; esac
    # Only what names the hierarchy: the rest are flags of every mount.
    keep=$(echo "$options" | tr , '\n' | grep -vxE 'rw|ro|nosuid|nodev|noexec|relatime|nsdelegate|memory_.*|favordynmods|clone_children|xattr' | paste -sd , || true)
    case $keep in name=*) keep=none,$keep ;; esac
    mkdir -p "$at"
    mount -t "$kind" ${keep:+-o "$keep"} "$kind" "$at"
  done < "$dir/groups"
fi
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /var/lib/cni "$dir/cni"
mount --bind "$dir/cni" /var/lib/cni
ip link set lo up
hostname engines

if [ "$init" = systemd ]; then
  # It is to run these units, and no others of the host; to find the host's settings as they are, and leave them so; and to say nothing on
  # the host's console. Whoever waits for the machine sees /run/systemd/private.
  mount --bind /proc/sys /proc/sys
  mount -o remount,bind,ro /proc/sys
  mkdir "$dir/units" "$dir/generators"
  cp /usr/lib/systemd/system/dbus.s* "$dir/units"
  # Whatever it is asked for by default, it has.
  for unit in default sysinit basic; do printf '[Unit]\nDefaultDependencies=no\n' > "$dir/units/$unit.target"; done
  export container=caisson-test SYSTEMD_GENERATOR_PATH="$dir/generators"
  # The others are those of transient units.
  export SYSTEMD_UNIT_PATH="$dir/units:/run/systemd/system.control:/run/systemd/transient:/run/systemd/system"
  export SYSTEMD_ENVIRONMENT_GENERATOR_PATH="$dir/generators"
  echo ready
  exec > /dev/null
  exec /lib/systemd/systemd --system --unit=default.target --log-target=null --show-status=0 --machine-id="$(tr -d - < /proc/sys/kernel/random/uuid)"
fi

echo ready
exec > /dev/null
# Reaps whatever ends here.
while :; do
  sleep 3600 &
  wait $! || true
done
