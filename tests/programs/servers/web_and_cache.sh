# nginx under wrk, as a proxy as well, and reloaded while it serves; redis under its benchmark, with persistence and a replica.
set -eu
cd /tmp
mkdir -p w/logs w/www; head -c 100000 /dev/zero | tr '\0' a > w/www/a; echo small > w/www/b
cat > w/nginx.conf <<'C'
worker_processes 2; pid /tmp/w/pid; error_log /tmp/w/logs/error; daemon on;
events { worker_connections 512; multi_accept on; }
http { access_log off; sendfile on; tcp_nopush on; client_body_temp_path /tmp/w/1; proxy_temp_path /tmp/w/2; fastcgi_temp_path /tmp/w/3; uwsgi_temp_path /tmp/w/4; scgi_temp_path /tmp/w/5;
  upstream back { server unix:/tmp/w/back.sock; keepalive 8; }
  server { listen 127.0.0.1:8080 reuseport; listen [::1]:8080; root /tmp/w/www; gzip on; gzip_types *; location /p/ { proxy_pass http://back/; proxy_http_version 1.1; proxy_set_header Connection ""; } }
  server { listen unix:/tmp/w/back.sock; root /tmp/w/www; } }
C
nginx -c /tmp/w/nginx.conf -e /tmp/w/logs/error
curl -sS http://127.0.0.1:8080/b; curl -sS http://[::1]:8080/p/b; curl -sS http://127.0.0.1:8080/a | md5sum
curl -sS --compressed -H 'Accept-Encoding: gzip' http://127.0.0.1:8080/p/a | md5sum
wrk -t 2 -c 16 -d 1 http://127.0.0.1:8080/b > wrk.out; grep -c 'Requests/sec' wrk.out; grep -E 'Socket errors|Non-2xx' wrk.out || echo "no errors"
wrk -t 2 -c 16 -d 2 http://127.0.0.1:8080/p/a > wrk.out & load=$!
nginx -c /tmp/w/nginx.conf -e /tmp/w/logs/error -s reload
wait $load; grep -E 'Non-2xx' wrk.out || echo "reloaded"
nginx -c /tmp/w/nginx.conf -e /tmp/w/logs/error -s quit
until ! curl -s http://127.0.0.1:8080/b > /dev/null; do sleep 0.05; done; echo "gone"

mkdir r1 r2
redis-server --port 6390 --dir /tmp/r1 --save '' --appendonly yes --daemonize yes --logfile /tmp/r1/log > /dev/null
redis-server --port 6391 --dir /tmp/r2 --save '' --replicaof 127.0.0.1 6390 --daemonize yes --logfile /tmp/r2/log --repl-diskless-sync-delay 0 > /dev/null
r() { redis-cli -p "$@"; }
until [ "$(r 6390 ping 2>/dev/null)" = PONG ] && [ "$(r 6391 ping 2>/dev/null)" = PONG ]; do sleep 0.05; done
redis-benchmark -p 6390 -n 4000 -c 20 -q -t set,get,lpush,incr > bench.out; tr '\r' '\n' < bench.out | grep -c 'requests per second'
for i in 1 2 3; do r 6390 set "k$i" "v$i" > /dev/null; done
r 6390 eval 'return redis.call("incrby", KEYS[1], 41)' 1 n; r 6390 multi > /dev/null; r 6390 strlen k1
until [ "$(r 6391 get k3)" = v3 ] && [ "$(r 6391 get n)" = 41 ]; do sleep 0.05; done
[ "$(r 6390 debug digest 2>/dev/null)" = "$(r 6391 debug digest 2>/dev/null)" ] && echo "same answers"
(r 6391 subscribe c | head -6 | tail -1) & sub=$!
until [ "$(r 6391 pubsub numsub c | tail -1)" = 1 ]; do sleep 0.05; done
r 6390 publish c hello > /dev/null
# The client notices that nobody reads it any more when it writes again.
while kill -0 $sub 2> /dev/null; do r 6390 publish c more > /dev/null; sleep 0.05; done
r 6390 bgrewriteaof > /dev/null
r 6391 shutdown nosave 2> /dev/null || :; r 6390 shutdown 2> /dev/null || :
redis-server --port 6390 --dir /tmp/r1 --appendonly yes --daemonize yes --logfile /tmp/r1/log > /dev/null
until [ "$(r 6390 get k2 2>/dev/null)" = v2 ]; do sleep 0.05; done; echo "kept"
r 6390 shutdown nosave 2> /dev/null || :
