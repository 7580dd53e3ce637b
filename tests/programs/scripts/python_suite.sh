# CPython's own tests of what touches the system, by name and outcome.
cd /tmp
# Left out: what depends on the kernel's configuration (UDP-Lite, dnotify), on how full the file system is, or on seconds of signals.
modules="test_posix test_os test_select test_selectors test_poll test_epoll test_mmap test_fcntl test_pty test_resource test_shutil test_tempfile
test_pathlib test_subprocess test_fork1 test_wait4 test_eintr test_openpty test_fileio test_asyncore test_threadsignals test_thread test_socket"
python3 -m test -j 2 -u all,-network,-largefile,-cpu,-urlfetch,-gui -i '*UDPLITE*' -i test_fcntl_64_bit -i test_disk_usage -i '*stress*' \
  --junit-xml suite.xml $modules > log 2>&1
status=$?
[ $status = 0 ] || { grep -aE '^(ERROR|FAIL):' log; tail -50 log; }
python3 - <<'P'
import xml.etree.ElementTree as E
for case in sorted(E.parse('suite.xml').iter('testcase'), key=lambda c: c.get('name')):
    outcome = [c.tag for c in case if c.tag in ('error', 'failure', 'skipped')] or [case.get('result')]
    print(case.get('name').rsplit(' ', 1)[0], *outcome)
P
echo "suite: $status"
