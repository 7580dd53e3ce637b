cd /tmp
python3 - <<'P'
import sqlite3, asyncio, socket, os, threading, mmap, hashlib, json, re, zlib, random, array, signal
d = sqlite3.connect("/tmp/t.db"); d.execute("pragma journal_mode=wal"); d.execute("create table t(a integer primary key, b text)")
with d: d.executemany("insert into t values(?, ?)", ((i, f"row {i}") for i in range(20000)))
print(d.execute("select count(*), sum(length(b)) from t").fetchone())
def reader(): print(sqlite3.connect("/tmp/t.db").execute("select max(a) from t").fetchone())
t = threading.Thread(target=reader); t.start(); t.join()
try:
    with d: d.execute("delete from t"); raise RuntimeError
except RuntimeError: print(d.execute("select count(*) from t").fetchone())
d.execute("vacuum"); print(d.execute("pragma integrity_check").fetchone()); d.close()
async def echo(r, w):
    while line := await r.readline(): w.write(line.upper()); await w.drain()
    w.close()
async def main():
    a, b = socket.socketpair(); r1, w1 = await asyncio.open_connection(sock=a); r2, w2 = await asyncio.open_connection(sock=b)
    task = asyncio.create_task(echo(r2, w2))
    for i in range(300): w1.write(b"line %d\n" % i); await w1.drain(); x = await r1.readline()
    print(x); w1.close(); await task
    srv = await asyncio.start_unix_server(echo, "/tmp/s.sock")
    async def client(i):
        r, w = await asyncio.open_unix_connection("/tmp/s.sock"); w.write(b"client %d\n" % i); got = await r.readline(); w.close(); return got
    print(sorted(await asyncio.gather(*(client(i) for i in range(40))))[:3])
    srv.close()
    p = await asyncio.create_subprocess_exec("sh", "-c", "cat; exit 4", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    print(await p.communicate(b"through"), p.returncode)
    try: await asyncio.wait_for(asyncio.sleep(10), 0.1)
    except asyncio.TimeoutError: print("timeout")
    loop = asyncio.get_running_loop(); got = loop.create_future(); loop.add_signal_handler(signal.SIGUSR1, got.set_result, 1); os.kill(os.getpid(), signal.SIGUSR1); print(await got)
    print(sum(await asyncio.gather(*(loop.run_in_executor(None, hash, i) for i in range(50)))))
asyncio.run(main())
f = open("/tmp/m", "w+b"); f.truncate(1 << 20); m = mmap.mmap(f.fileno(), 0); m[1000:1005] = b"mmap!"; m.flush(); f.seek(1000); print(f.read(5))
print(hashlib.sha256(bytes(range(256)) * 4000).hexdigest(), zlib.crc32(b"x" * 100000))
random.seed(7); x = [random.random() for _ in range(200000)]; x.sort(); print(round(sum(x[:100]), 9)); print(len(json.dumps(list(range(50000)))))
P
sqlite3 /tmp/t.db 'select count(*) from t; select b from t order by a desc limit 2;'
