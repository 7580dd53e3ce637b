# A fork bomb of a user with a limit; afterwards everything works as before.
timeout 10 setpriv --reuid=4242 --regid=4242 --clear-groups bash -c 'ulimit -u 60; bomb() { bomb | bomb & }; bomb; sleep 2; wait' > /tmp/out 2>&1
grep -q 'Resource temporarily unavailable' /tmp/out && echo "it met the limit"
for i in 1 2 3 4 5 6 7 8 9 10; do pkill -9 -u 4242 || break; sleep 0.1; done
pgrep -u 4242 | wc -l
for i in $(seq 50); do /bin/true || echo failed; done; echo survived
