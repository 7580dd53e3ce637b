# Connections that are held while the network around them changes: held.py V4 V6 TO... Each line of the standard input is answered when
# bytes have gone both ways over every one of them.
import hashlib, socket, sys

def connect(to, port):
    s = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET)
    s.settimeout(60)
    s.connect((to, port))
    return s

addresses = sys.argv[1:]
echoes = [connect(a, 9006) for a in addresses]
print("ready", flush=True)
data = hashlib.shake_128(b"held").digest(300_000)
for line in sys.stdin:
    for s in echoes:
        got = 0
        # No more than fits into the buffers on the way.
        for at in range(0, len(data), 30_000):
            s.sendall(data[at:at + 30_000])
            left = len(data[at:at + 30_000])
            while left:
                b = s.recv(left)
                assert b and data[got:got + len(b)] == b, (line, got)
                got += len(b)
                left -= len(b)
    print(line.strip(), flush=True)
