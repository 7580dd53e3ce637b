mkfifo /tmp/gate
for i in $(seq 500); do (read -r x < /tmp/gate; exit 0) & done
n=0; while [ "$(ls -d /proc/[0-9]* | wc -l)" -lt 501 ] && [ $n -lt 100 ]; do sleep 0.1; n=$((n+1)); done
[ "$(ls -d /proc/[0-9]* | wc -l)" -ge 501 ] && echo "500 at once"
ps -e | tail -n +2 | wc -l | awk '{print ($1 >= 500)}'
exec 3<> /tmp/gate; for i in $(seq 500); do echo go >&3; done
wait; echo "all done $?"; ls -d /proc/[0-9]* | wc -l | awk '{print ($1 < 20)}'
