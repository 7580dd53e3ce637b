# nginx, redis, PostgreSQL, an HTTPS server and an echo of node at one address; ready when all answer, and ends with its standard input.
set -eu
at=$1
mkdir -p /tmp/s/www && cd /tmp/s
head -c 300000 /dev/zero | tr '\0' a > www/a; echo small > www/b
cat > nginx.conf <<C
worker_processes 2; pid /tmp/s/pid; error_log /tmp/s/error; daemon on;
events { worker_connections 512; }
http { access_log off; client_body_temp_path /tmp/s/1; proxy_temp_path /tmp/s/2; fastcgi_temp_path /tmp/s/3; uwsgi_temp_path /tmp/s/4; scgi_temp_path /tmp/s/5;
  server { listen 8080; root /tmp/s/www; }
  server { listen 8443 ssl; ssl_certificate cert.pem; ssl_certificate_key key.pem; root /tmp/s/www; } }
C
openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=ca -addext "subjectAltName=IP:$at" -keyout key.pem -out cert.pem 2> /dev/null
nginx -c /tmp/s/nginx.conf -e /tmp/s/error
redis-server --port 6390 --protected-mode no --save '' --daemonize yes --logfile /tmp/s/redis > /dev/null
bin=$(echo /usr/lib/postgresql/*/bin)
mkdir -m 700 data; chown postgres data
as() { setpriv --reuid postgres --regid postgres --clear-groups env HOME=/tmp PATH="$bin:$PATH" "$@"; }
as initdb -D data -A trust -N --no-locale -E UTF8 > init.out 2>&1
printf "unix_socket_directories='/tmp'\nlisten_addresses='*'\nport=5499\nfsync=off\nshared_buffers=16MB\n" >> data/postgresql.conf
echo 'host all all 0.0.0.0/0 trust' >> data/pg_hba.conf
touch log; chown postgres log
as pg_ctl -D data -w -l log start > /dev/null
node -e "require('net').createServer(s => { s.setNoDelay(true); s.on('error', () => {}); s.pipe(s); }).listen(7000)" &
until curl -s "http://$at:8080/b" > /dev/null && [ "$(redis-cli -h "$at" -p 6390 ping 2> /dev/null)" = PONG ] && socat -u /dev/null "TCP:$at:7000" 2> /dev/null; do sleep 0.05; done
cp cert.pem www/ca.pem
echo ready
cat > /dev/null
