# What a sandbox (or whoever) does with a peer: client.py WHAT ADDRESS [NUMBER]
import errno, hashlib, os, select, socket, struct, sys, threading, time

what, address = sys.argv[1:3]
number = int(sys.argv[3]) if len(sys.argv) > 3 else 0
family = socket.AF_INET6 if ":" in address else socket.AF_INET

def connect(port, to=address):
    s = socket.socket(family)
    s.settimeout(60)
    s.connect((to, port))
    return s

def send(n, s=None):
    s, h, b, left = s or connect(9000), hashlib.sha256(), hashlib.shake_128(b"send").digest(1 << 20), n
    while left:
        part = b[:left]
        s.sendall(part)
        h.update(part)
        left -= len(part)
    s.shutdown(socket.SHUT_WR)
    got = s.makefile().read().split()
    assert got == [str(n), h.hexdigest()], got
    print(f"sent {n}\n", end="")

def receive(n):
    s, h, left = connect(9001), hashlib.sha256(), n
    s.sendall(b"%d\n" % n)
    while left:
        b = s.recv(min(left, 1 << 18))
        assert b, left
        h.update(b)
        left -= len(b)
    assert s.makefile().read() == h.hexdigest()
    print(f"received {n}\n", end="")

def datagrams():
    u = socket.socket(family, socket.SOCK_DGRAM)
    u.settimeout(20)
    for n in (0, 1, 1400, 1452, 1472, 1473, 5000, 30000, 65507):
        data = os.urandom(n)
        u.sendto(data, (address, 9002))
        assert u.recv(70000) == data, n
    u.connect((address, 9))
    u.send(b"nobody")
    try:
        u.recv(1)
        assert False
    except OSError as e:
        print("datagrams", errno.errorcode[e.errno])

def checksum(b):
    s = sum(struct.unpack("!%dH" % (len(b) // 2), b))
    while s > 0xffff:
        s = (s & 0xffff) + (s >> 16)
    return ~s & 0xffff

def ping(n):
    if family == socket.AF_INET:
        s = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        head = struct.pack("!BBHHH", 8, 0, 0, 77, 1)
        body = bytes(n)
        head = struct.pack("!BBHHH", 8, 0, checksum(head + body), 77, 1)
        at, reply = 20, 0
    else:
        s = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        head, body, at, reply = struct.pack("!BBHHH", 128, 0, 0, 77, 1), bytes(n), 0, 129
    s.settimeout(20)
    s.sendto(head + body, (address, 0))
    while True:
        got = s.recv(70000)[at:]
        if got[0] == reply:
            break
    assert got[4:8] == head[4:8] and got[8:] == body
    print("ping", n)

def errors():
    try:
        connect(9)
    except OSError as e:
        print(errno.errorcode[e.errno])
    far = address[:-1] + "99" if family == socket.AF_INET else address[:-1] + "9999"
    try:
        connect(80, far)
    except OSError as e:
        print(errno.errorcode[e.errno])

def devices():
    print([n for _, n in socket.if_nameindex()])
    # Natively the root has no /proc.
    if os.path.exists("/proc/net"):
        assert " eth0:" in open("/proc/net/dev").read()

def many(n):
    for _ in range(n):
        s = connect(9004)
        assert s.recv(5) == b"hello" and s.recv(5) == b""
        s.close()
    print("short", n)

def idle(n):
    all = [connect(9003) for _ in range(n)]
    assert all[0].getsockname() != all[1].getsockname()
    for s in all:
        assert s.recv(5) == b"hello"
    print("idle", n)

def linger():
    # close(2) waits for what the peer does not take, and not for what it has.
    for port, slow in ((9005, True), (9000, False)):
        s = connect(port)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 2))
        s.setblocking(False)
        try:
            while True:
                s.send(bytes(1 << 16) if slow else b"little")
                if not slow:
                    break
        except BlockingIOError:
            pass
        begin = time.monotonic()
        s.close()
        took = time.monotonic() - begin
        print("lingers", port, 1.5 < took < 4 if slow else took < 1)

def streams(n, count):
    failed = []
    def one(f):
        try:
            f(n // count)
        except Exception as e:
            failed.append(e)
    for f in (send, receive):
        all = [threading.Thread(target=one, args=(f,)) for _ in range(count)]
        for t in all:
            t.start()
        for t in all:
            t.join()
    assert not failed, failed

if what == "send":
    send(number)
elif what == "receive":
    receive(number)
elif what == "both":
    send(number)
    receive(number)
elif what == "steady":
    # Connected before it is told to go on.
    s = connect(9000)
    print("ready", flush=True)
    sys.stdin.readline()
    send(number, s)
elif what == "streams":
    streams(number, 8)
elif what == "linger":
    linger()
elif what == "name":
    print(socket.gethostbyname(address))
elif what == "many":
    many(number)
elif what == "idle":
    idle(number)
elif what == "all":
    devices()
    both = number or 20_000_000
    send(both)
    receive(both)
    datagrams()
    ping(100)
    ping(4000)
    errors()
