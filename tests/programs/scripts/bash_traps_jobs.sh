# Traps, background jobs, wait, signals between processes, exit statuses.
trap 'echo exit trap $?' EXIT
trap 'echo got USR1' USR1
kill -USR1 $$
sleep 5 & slow=$!
(exit 7) & quick=$!
wait $quick; echo "quick $?"
sleep 0.1; kill -TERM $slow; wait $slow; echo "slow $?"
for i in 1 2 3 4 5; do (sleep 0.0$i; exit $i) & pids[$i]=$!; done
for i in 1 2 3 4 5; do wait ${pids[$i]}; echo "job $i: $?"; done
wait; echo "none left $?"
wait 99999 2>/dev/null; echo "no such child $?"
(trap 'echo inner TERM; exit 3' TERM; while :; do sleep 0.05; done) & sub=$!
sleep 0.2; kill $sub; wait $sub; echo "sub $?"
(kill -9 $BASHPID); echo "killed $?"
(kill -SEGV $BASHPID) 2>/dev/null; echo "segv $?"
bash -c 'exit 300'; echo $?
timeout 0.2 sleep 5; echo "timeout $?"
timeout -s KILL 0.2 sleep 5; echo "timeout kill $?"
trap '' INT; kill -INT $$; echo "INT ignored"; trap - INT
set -m
sleep 5 & j=$!
kill -STOP $j; sleep 0.2; jobs | sed 's/[0-9]\{3,\}//'
kill -CONT $j; sleep 0.1; jobs | sed 's/[0-9]\{3,\}//'
kill $j; wait $j; echo "job control $?"
set +m
/nonexistent; echo "not found $?"
/etc/passwd; echo "not executable $?"
nice -n 5 nice
( ulimit -n 20; ulimit -n )
umask 027; touch /tmp/u; stat -c %a /tmp/u
echo "$0 $# $PPID"
exit 42
