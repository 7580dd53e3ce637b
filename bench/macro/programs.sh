# Real programs, inside a root, each timed once: a line "name figure unit". us: less is better; anything with /s: more is better.
# Arguments: the rows wanted (default: all). What a row needs and the root has not is left out.
wanted=" $* "
cd /tmp || exit 1
want() { [ "$wanted" = "  " ] || [[ "$wanted" == *" $1 "* ]]; }
has() { command -v "$1" > /dev/null; }

# row NAME COMMAND…: its wall time in microseconds; a failure is shown instead of a figure.
row() {
  local name=$1; shift
  want "$name" && has "$1" || return 0
  local from=${EPOCHREALTIME/./} status=0
  "$@" > /tmp/row.log 2>&1 || status=$?
  local to=${EPOCHREALTIME/./}
  if [ $status = 0 ]; then echo "$name $((to - from)) us"; else echo "$name failed $status"; tail -2 /tmp/row.log >&2; fi
}

forks() { local i; for ((i = 0; i < 200; i++)); do /bin/true; done; }
subshells() { local i; for ((i = 0; i < 500; i++)); do (:); done; }
pack() { tar cf /tmp/include.tar /usr/include /usr/lib/python3* 2> /dev/null; }
unpack() { mkdir -p /tmp/tree && tar xf /tmp/include.tar -C /tmp/tree; }
repository() {
  export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
  rm -rf /tmp/repo && mkdir /tmp/repo && cd /tmp/repo && git init -q && cp -r /usr/include/linux . && git add -A && git commit -qm x && git status && git log --stat
}
compile() {
  printf '#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\nint main(int c, char **v) { return printf("%%d %%s\\n", c, v[0]) < 0; }\n' > /tmp/hello.c
  local i; for ((i = 0; i < 20; i++)); do gcc -O1 -c /tmp/hello.c -o /tmp/hello$i.o || return; done
  gcc /tmp/hello0.o -o /tmp/hello && /tmp/hello
}
database() {
  rm -f /tmp/bench.db
  { echo 'create table t(a integer primary key, b text);'; for ((i = 0; i < 300; i++)); do echo "insert into t values($i, hex(randomblob(50)));"; done; echo 'select count(*), sum(length(b)) from t;'; } | sqlite3 /tmp/bench.db
}

row python_start python3 -c 'import json, re, os, subprocess'
row sh_fork_200 forks
row sh_subshell_500 subshells
row find_usr find /usr -xdev
row find_usr_warm find /usr -xdev
row tar_usr_include pack
row untar unpack
row grep_r grep -rc include /tmp/tree
row rm_rf rm -rf /tmp/tree
row git_commit repository
cd /tmp || exit 1
row gcc_20 compile
row sqlite_300 database
row py_alloc python3 -c 'pages = [bytearray(4096) for _ in range(40000)]; lists = [[i] for i in range(300000)]'
row py_threads python3 -c '
import threading, queue
todo, done = queue.Queue(), queue.Queue()
def work():
    while (item := todo.get()) is not None: done.put(item)
workers = [threading.Thread(target=work) for _ in range(4)]
for w in workers: w.start()
for i in range(20000): todo.put(i)
for i in range(20000): done.get()
for w in workers: todo.put(None)
for w in workers: w.join()'
cat > /tmp/pool.py <<'P'
import multiprocessing
def square(x): return x * x
if __name__ == "__main__":
    with multiprocessing.Pool(2) as pool: pool.map(square, range(2000), chunksize=10)
P
row py_mp python3 /tmp/pool.py
row sha256_200m sh -c 'head -c 200M /dev/zero | sha256sum'
if want fio && has fio; then
  for mode in randread:4k read:128k randwrite:4k; do
    fio --name=b --filename=/tmp/fio.dat --size=64m --rw="${mode%:*}" --bs="${mode#*:}" --ioengine=psync --runtime=3 --time_based --output-format=json 2> /dev/null |
      python3 -c "import json, sys; j = json.load(sys.stdin)['jobs'][0]; k = 'write' if 'write' in '$mode' else 'read'; print('fio_${mode%:*}', round(j[k]['bw_bytes'] / 1e6), 'MB/s')"
  done
fi
if want redis && has redis-server; then
  redis-server --save '' --port 7001 --daemonize yes > /dev/null; sleep 1
  redis-benchmark -p 7001 -n 20000 -c 20 -t get,set -q 2> /dev/null | tr '\r' '\n' | sed -n 's/^\([GS]ET\): \([0-9.]*\) requests.*/redis_\L\1\E \2 req\/s/p' | sort -u -k1,1
  redis-cli -p 7001 shutdown nosave > /dev/null 2>&1
fi
exit 0
