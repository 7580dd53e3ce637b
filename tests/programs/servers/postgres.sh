# PostgreSQL: a database made, pgbench over TCP and over its unix socket, and a restart.
set -eu
cd /tmp
bin=$(echo /usr/lib/postgresql/*/bin)
mkdir -m 700 data run; chown postgres data run
as() { setpriv --reuid postgres --regid postgres --clear-groups env HOME=/tmp PATH="$bin:$PATH" "$@"; }
as initdb -D data -A trust -N --no-locale -E UTF8 > init.out 2>&1 || { cat init.out; exit 1; }
printf "unix_socket_directories='/tmp/run'\nlisten_addresses='127.0.0.1,::1'\nport=5499\nfsync=off\nshared_buffers=16MB\n" >> data/postgresql.conf
as pg_ctl -D data -w -l log start > /dev/null || { cat log; exit 1; }
as pgbench -h 127.0.0.1 -p 5499 -i -s 1 -q postgres > /dev/null 2>&1
as pgbench -h 127.0.0.1 -p 5499 -c 4 -j 2 -t 100 postgres 2>/dev/null | grep -E 'processed|failed' | sed 's/ (.*//'
as pgbench -h ::1 -p 5499 -S -c 4 -t 100 -M prepared postgres 2>/dev/null | grep -E 'processed|failed' | sed 's/ (.*//'
as pgbench -h /tmp/run -p 5499 -S -C -c 2 -t 20 postgres 2>/dev/null | grep -E 'processed' | sed 's/ (.*//'
query() { as psql -h 127.0.0.1 -p 5499 -At postgres -c "$1"; }
query "select sum(bid), count(*) from pgbench_accounts"
query "select inet_server_addr(), inet_server_port()"
as psql -h 127.0.0.1 -p 5499 -At postgres -c "copy (select generate_series(1,100000)) to stdout" | awk '{s += $1} END {print s}'
query "listen a; notify a, 'b'" | head -2
as pg_ctl -D data -w -m fast restart > /dev/null
query "select count(*) from pgbench_history"
as pg_ctl -D data -w stop > /dev/null
as psql -h 127.0.0.1 -p 5499 -c 'select 1' postgres 2>&1 | head -1
