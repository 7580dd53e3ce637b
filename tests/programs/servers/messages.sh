# Many small messages with lengths before them, as RPC systems send them: several calls open at once on one connection, answered out of order.
set -eu
cat > /tmp/m.py <<'PY'
import os, selectors, socket, struct, threading
N, WINDOW, CONNECTIONS = 10_000, 64, 4
def server(l):
    sel = selectors.DefaultSelector(); l.setblocking(False); sel.register(l, selectors.EVENT_READ)
    state, open_ = {}, 0
    while True:
        for key, _ in sel.select():
            if key.fileobj is l:
                c, _ = l.accept(); c.setblocking(False); c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sel.register(c, selectors.EVENT_READ); state[c] = bytearray(); open_ += 1; continue
            c = key.fileobj; got = c.recv(1 << 16)
            if not got:
                sel.unregister(c); c.close(); del state[c]
                if len(state) == 0 and open_ == CONNECTIONS: return
                continue
            b = state[c]; b += got; out = []
            while len(b) >= 8:
                n, i = struct.unpack_from("!II", b)
                if len(b) < 8 + n: break
                out.append(struct.pack("!II", n, i) + bytes(b[8:8 + n])[::-1]); del b[:8 + n]
            c.setblocking(True); c.sendall(b"".join(reversed(out))); c.setblocking(False)
def client(port, k, result):
    c = socket.create_connection(("127.0.0.1", port)); c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    f = c.makefile("rb"); open_ = set(); sent = answers = 0
    while answers < N:
        while sent < N and len(open_) < WINDOW:
            body = b"%d" % sent * (1 + sent % 20); c.sendall(struct.pack("!II", len(body), sent) + body); open_.add(sent); sent += 1
        n, i = struct.unpack("!II", f.read(8)); body = f.read(n)
        assert body == (b"%d" % i * (1 + i % 20))[::-1]; open_.remove(i); answers += 1
    f.close(); c.close(); result[k] = answers
l = socket.socket(); l.bind(("127.0.0.1", 0)); l.listen(16)
pid = os.fork()
if pid == 0:
    server(l); os._exit(0)
result = [0] * CONNECTIONS
ts = [threading.Thread(target=client, args=(l.getsockname()[1], k, result)) for k in range(CONNECTIONS)]
[t.start() for t in ts]; [t.join() for t in ts]
print("answers", sum(result), os.waitpid(pid, 0)[1])
PY
python3 /tmp/m.py
