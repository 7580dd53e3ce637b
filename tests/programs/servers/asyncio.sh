# asyncio: streams, datagrams, unix sockets, servers with many clients at once, cancellation, signals and subprocesses in one loop.
set -eu
cat > /tmp/a.py <<'PY'
import asyncio, os, signal, socket
async def echo(r, w):
    while line := await r.readline():
        w.write(line); await w.drain()
    w.close()
async def client(port, i):
    r, w = await asyncio.open_connection("127.0.0.1", port)
    total = 0
    for k in range(20):
        w.write(b"%d\n" % (i * 20 + k)); total += int(await r.readline())
    w.close(); await w.wait_closed()
    return total
async def streams():
    s = await asyncio.start_server(echo, "127.0.0.1", 0, backlog=200)
    port = s.sockets[0].getsockname()[1]
    print("sum", sum(await asyncio.gather(*(client(port, i) for i in range(100)))) * 2)
    s.close(); await s.wait_closed()
    try: await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError as e: print("refused", e.errno)
async def big():
    done = asyncio.get_running_loop().create_future()
    async def take(r, w):
        n = 0
        while b := await r.read(65536): n += len(b)
        done.set_result(n); w.close()
    s = await asyncio.start_unix_server(take, "/tmp/u.sock")
    _, w = await asyncio.open_unix_connection("/tmp/u.sock")
    for _ in range(200):
        w.write(b"x" * 100_000); await w.drain()
    w.close(); print("unix", await done); s.close()
async def udp():
    class P(asyncio.DatagramProtocol):
        def connection_made(self, t): self.t = t
        def datagram_received(self, d, a): self.t.sendto(d.upper(), a)
    loop = asyncio.get_running_loop()
    t, _ = await loop.create_datagram_endpoint(P, local_addr=("127.0.0.1", 0))
    got = asyncio.Queue()
    class C(asyncio.DatagramProtocol):
        def datagram_received(self, d, a): got.put_nowait(d)
    c, _ = await loop.create_datagram_endpoint(C, remote_addr=t.get_extra_info("sockname"))
    c.sendto(b"abc"); print(await got.get()); t.close(); c.close()
async def rest():
    loop = asyncio.get_running_loop()
    hit = asyncio.Event(); loop.add_signal_handler(signal.SIGUSR1, hit.set)
    os.kill(os.getpid(), signal.SIGUSR1); await hit.wait()
    p = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    print((await p.communicate(b"through cat"))[0], p.returncode)
    try: await asyncio.wait_for(asyncio.sleep(60), 0.05)
    except asyncio.TimeoutError: print("timeout")
    f = open("/tmp/f", "wb+"); f.write(b"z" * 3_000_000); f.flush(); f.seek(0)
    a, b = socket.socketpair(); a.setblocking(False); b.setblocking(False)
    async def drain():
        n = 0
        while x := await loop.sock_recv(b, 1 << 16): n += len(x)
        return n
    async def send():
        await loop.sock_sendfile(a, f); a.close()
    print("sendfile", (await asyncio.gather(drain(), send()))[0])
async def main():
    await streams(); await big(); await udp(); await rest()
asyncio.run(main())
PY
python3 /tmp/a.py
