# What runs inside: rows.sh SECONDS ROW…, with /vol/caisson-bench-net and a peer at 10.78.9.1. Prints lines "name figure unit".
seconds=$1; shift
cd /tmp

# Tries a command for ten seconds, until whatever it talks to is there.
try() { for _ in $(seq 100); do "$@" > out 2> err && return; sleep 0.1; done; cat out err >&2; return 1; }
iperf() {
  name=$1; shift
  try iperf3 -t "$seconds" -J "$@" || return
  python3 -c 'import json, sys; print(sys.argv[1], json.load(sys.stdin)["end"]["sum_received"]["bits_per_second"] / 1e6, "Mbit/s")' "$name" < out
}

for row in "$@"; do
  case $row in
    loopback)
      iperf3 -s > /dev/null 2>&1 & server=$!
      iperf iperf3_loopback -c 127.0.0.1
      kill $server; wait $server 2> /dev/null ;;
    up) iperf iperf3_to_host -c 10.78.9.1 ;;
    down) iperf iperf3_from_host -c 10.78.9.1 -R ;;
    up8) iperf iperf3_to_host_8 -c 10.78.9.1 -P 8 ;;
    redis)
      redis-server --save '' --port 6380 > /dev/null 2>&1 & server=$!
      try redis-cli -p 6380 ping
      redis-benchmark -p 6380 -c 20 -n $((seconds * 15000)) -t set,get --csv 2> /dev/null | tr -d '"' |
        awk -F, '/^(SET|GET)/ { print "redis_" tolower($1), $2, "req/s" }'
      kill $server; wait $server 2> /dev/null ;;
    nginx)
      mkdir -p www
      printf '%s\n' 'worker_processes 2; pid nginx.pid; error_log error.log; daemon off; events { }' \
        'http { access_log off; keepalive_requests 10000000; client_body_temp_path a; proxy_temp_path b; fastcgi_temp_path c;' \
        'uwsgi_temp_path d; scgi_temp_path e; server { listen 8080; root /tmp/www; } }' > nginx.conf
      head -c 612 /dev/zero | tr '\0' x > www/index.html
      nginx -p /tmp -c /tmp/nginx.conf 2> /dev/null & server=$!
      try bash -c "< /dev/tcp/127.0.0.1/8080"
      wrk -t 2 -c 16 -d "${seconds}s" http://127.0.0.1:8080/ | awk '/^Requests.sec/ { print "nginx_wrk", $2, "req/s" }'
      kill $server; wait $server 2> /dev/null ;;
    latency) /vol/caisson-bench-net latency latency_host 10.78.9.1 $((seconds * 5000)) ;;
    short) /vol/caisson-bench-net short short_host 10.78.9.1 $((seconds * 1000)) ;;
    latency_loopback)
      mkfifo fifo; /vol/caisson-bench-net serve < fifo > /dev/null & exec 9> fifo
      /vol/caisson-bench-net latency latency_loopback 127.0.0.1 $((seconds * 5000))
      exec 9>&-; wait ;;
  esac
done
# A server that was ended is no failure.
exit 0
