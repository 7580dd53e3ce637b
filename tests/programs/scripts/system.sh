id; ls /; cat /etc/debian_version; hostname; uname -s -m; ps -e -o pid,ppid,comm; ps aux | awk 'NR == 1 || $2 == 1 {print $1, $2, $11, $12}'
head -3 /proc/cpuinfo | cut -d: -f1; nproc | grep -c '^[0-9]'; free | awk 'NR == 2 {print ($2 > 0)}'; uptime | grep -c load; top -bn1 | head -1 | cut -c1-3
apt-get --version | head -2; dpkg -l | wc -l; dpkg -s bash | head -3; apt-config dump | grep -c '^APT::Architecture'
mount | awk '{print $3, $5}' | grep -E '^/(proc|sys|dev|dev/pts|tmp) ' | sort -u; df /tmp | tail -1 | awk '{print $6}'; stat -f -c %T /proc
cat /proc/self/comm; readlink /proc/self/exe; tr '\0' ' ' < /proc/self/cmdline; echo; cat /proc/sys/kernel/ostype; tty; test -t 0; echo $?
env | sort | grep -v -E '^(_|SHLVL|PWD|OLDPWD)='; getconf PAGESIZE; getconf CLK_TCK; locale 2>/dev/null | head -1; date -u -d @0; ulimit -n; ulimit -Hn; umask
su user -s /bin/sh -c id 2>/dev/null || setpriv --reuid=1 --regid=1 --clear-groups id; getent passwd root; which python3 perl gcc make git sqlite3; ldd /bin/true | sed 's/(.*//' ; od -An -tx1 -N4 /bin/true
