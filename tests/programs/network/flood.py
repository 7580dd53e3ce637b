# A flood for a sandbox: flood.py INTERFACE MAC ADDRESS SECONDS. SYNs from everywhere to a port where somebody listens, datagrams to
# one where somebody does and to one where nobody does. Prints how many frames went out.
import random, socket, struct, sys, time

name, mac, address, seconds = sys.argv[1], bytes.fromhex(sys.argv[2].replace(":", "")), sys.argv[3], float(sys.argv[4])
r = random.Random(1)
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind((name, 0))
you = socket.inet_aton(address)

def checksum(b):
    t = sum(struct.unpack("!%dH" % (len(b) // 2), b))
    while t > 0xffff:
        t = (t & 0xffff) + (t >> 16)
    return ~t & 0xffff

def frame(protocol, body, at):
    me = bytes([10, 77, 9, r.randrange(20, 250)])
    total = checksum(me + you + struct.pack("!HH", protocol, len(body)) + body)
    body = body[:at] + struct.pack("!H", total) + body[at + 2:]
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), r.randrange(65536), 0, 64, protocol, 0, me, you)
    return mac + b"\2\0\0\0\0\1\x08\0" + head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body

def syn():
    return frame(6, struct.pack("!HHIIBBHHH", r.randrange(1024, 65536), 9000, r.randrange(1 << 32), 0, 0x50, 2, 65535, 0, 0), 16)

def datagram(port):
    return frame(17, struct.pack("!HHHH", r.randrange(1024, 65536), port, 108, 0) + bytes(100), 6)

# Made in advance, so that the flood is one.
frames = [f() for _ in range(3000) for f in (syn, lambda: datagram(9002), lambda: datagram(7))]
end, sent = time.monotonic() + seconds, 0
print("ready", flush=True)
while time.monotonic() < end:
    for f in frames:
        try:
            s.send(f)
            sent += 1
        except OSError:
            pass
print("flood", sent)
