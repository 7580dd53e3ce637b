# Everything against across_server.sh at an address: what it prints does not depend on how fast it is.
set -eu
at=$1
mkdir -p /tmp/c && cd /tmp/c
curl -sS "http://$at:8080/b"; curl -sS "http://$at:8080/a" | md5sum
curl -sS -o ca.pem "http://$at:8080/ca.pem"; curl -sS --cacert ca.pem "https://$at:8443/a" | md5sum
wrk -t 2 -c 16 -d 2 "http://$at:8080/b" > wrk.out; grep -c Requests/sec wrk.out; grep -E 'Socket errors|Non-2xx' wrk.out || echo "no errors"
wrk -t 1 -c 4 -d 1 "http://$at:8080/a" > wrk.out; grep -E 'Socket errors|Non-2xx' wrk.out || echo "no errors"
redis-benchmark -h "$at" -p 6390 -n 4000 -c 20 -q -t set,get > bench.out; tr '\r' '\n' < bench.out | grep -c 'requests per second'
bin=$(echo /usr/lib/postgresql/*/bin)
PGCONNECT_TIMEOUT=20; export PGCONNECT_TIMEOUT
"$bin/pgbench" -h "$at" -p 5499 -U postgres -i -s 1 -q postgres > /dev/null 2>&1
"$bin/pgbench" -h "$at" -p 5499 -U postgres -c 4 -j 2 -t 50 postgres 2> /dev/null | grep -E 'processed|failed' | sed 's/ (.*//'
"$bin/pgbench" -h "$at" -p 5499 -U postgres -S -C -c 4 -t 10 postgres 2> /dev/null | grep -E 'processed' | sed 's/ (.*//'
cat > echo.py <<'PY'
import asyncio, sys
async def one(i):
    r, w = await asyncio.open_connection(sys.argv[1], 7000)
    for k in range(40):
        m = b"%d %d\n" % (i, k) * (1 + k); w.write(m); assert await r.readexactly(len(m)) == m
    w.close(); await w.wait_closed(); return 40
async def main(): print("echoes", sum(await asyncio.gather(*(one(i) for i in range(50)))))
asyncio.run(main())
PY
python3 echo.py "$at"
ping -c 3 -i 0.05 "$at" | grep -o ' 0% packet loss'
traceroute -n -w 2 "$at" | tail -1 | awk '{print $1}'
