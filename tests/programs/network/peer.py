# The peer on the other side of a sandbox's interface. Ports: 9000 takes bytes and answers with their number and hash, 9001 sends as many
# bytes as it is asked for and then their hash, 9002 (UDP) echoes, 9003 greets and keeps the connection, 9004
# greets and closes it, 9005 keeps a connection and reads nothing of it, 9006 echoes.
import hashlib, socket, sys, threading

def block(seed):
    return hashlib.shake_128(seed).digest(1 << 20)

def take(c):
    h, n = hashlib.sha256(), 0
    while b := c.recv(1 << 18):
        h.update(b)
        n += len(b)
    c.sendall(b"%d %s" % (n, h.hexdigest().encode()))

def give(c):
    left, h, b = int(c.makefile().readline()), hashlib.sha256(), block(b"give")
    while left:
        part = b[:left]
        c.sendall(part)
        h.update(part)
        left -= len(part)
    c.sendall(h.hexdigest().encode())

def greet(c):
    c.sendall(b"hello")

kept = []
def keep(c):
    c.sendall(b"hello")
    kept.append(c)

def hold(c):
    kept.append(c)

def echo_bytes(c):
    while b := c.recv(1 << 16):
        c.sendall(b)

def serve(s, f, close):
    def one(c):
        try:
            f(c)
        except OSError:
            pass
        if close:
            c.close()
    while True:
        one_thread = threading.Thread(target=one, args=(s.accept()[0],), daemon=True)
        one_thread.start()

def main(addresses):
    threads = []
    for a in addresses:
        family = socket.AF_INET6 if ":" in a else socket.AF_INET
        for port, f, close in ((9000, take, True), (9001, give, True), (9003, keep, False), (9004, greet, True), (9005, hold, False), (9006, echo_bytes, True)):
            s = socket.socket(family)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind((a, port))
            s.listen(1000)
            threads.append(threading.Thread(target=serve, args=(s, f, close), daemon=True))
        u = socket.socket(family, socket.SOCK_DGRAM)
        u.bind((a, 9002))
        def echo(u=u):
            while True:
                d, who = u.recvfrom(70000)
                u.sendto(d, who)
        threads.append(threading.Thread(target=echo, daemon=True))
    for t in threads:
        t.start()
    print("ready", flush=True)
    sys.stdin.read()

main(sys.argv[1:])
