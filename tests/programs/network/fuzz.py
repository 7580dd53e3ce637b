# Malformed frames for a sandbox: fuzz.py INTERFACE MAC ADDRESS SECONDS SEED. Good frames with bytes changed, cut, or made up.
import random, socket, struct, sys, time

name, mac, address, seconds, seed = sys.argv[1], bytes.fromhex(sys.argv[2].replace(":", "")), sys.argv[3], float(sys.argv[4]), int(sys.argv[5])
r = random.Random(seed)
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind((name, 0))
me, you = socket.inet_aton("10.77.9.9"), socket.inet_aton(address)

def ip(protocol, body, fragment=0, options=b""):
    head = struct.pack("!BBHHHBBH4s4s", 0x45 + len(options) // 4, 0, 20 + len(options) + len(body), r.randrange(65536), fragment, 64, protocol, 0, me, you) + options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body

def tcp():
    options = bytes(r.randrange(256) for _ in range(4 * r.randrange(10)))
    flags = r.choice([2, 16, 18, 17, 4, 20, 0x29, r.randrange(256)])
    head = struct.pack("!HHIIBBHHH", r.randrange(65536), r.choice([9100, 80, r.randrange(65536)]), r.randrange(1 << 32), r.randrange(1 << 32), (5 + len(options) // 4) << 4, flags, r.randrange(65536), 0, r.randrange(65536)) + options
    body = head + bytes(r.randrange(50))
    total = checksum(me + you + struct.pack("!HH", 6, len(body)) + body)
    return ip(6, body[:16] + struct.pack("!H", total) + body[18:])

def packet():
    kind = r.randrange(9)
    if kind < 4:
        return 0x800, tcp()
    if kind == 4:
        return 0x800, ip(17, struct.pack("!HHHH", 1, r.randrange(65536), r.choice([8, 0, 7, 65535, 20]), 0) + bytes(r.randrange(100)))
    if kind == 5:
        return 0x800, ip(1, bytes([r.choice([3, 8, 11, 12, r.randrange(256)]), r.randrange(16)]) + bytes(r.randrange(256) for _ in range(r.randrange(80))))
    if kind == 6:
        return 0x800, ip(17, bytes(r.randrange(200)), r.randrange(65536), bytes(4 * r.randrange(10)))
    if kind == 7:
        return 0x806, bytes([0, 1, 8, 0, 6, 4, 0, r.randrange(4)]) + bytes(r.randrange(256) for _ in range(20))
    return 0x86dd, bytes([0x60]) + bytes(r.randrange(256) for _ in range(3)) + struct.pack("!H", r.randrange(200)) + bytes([r.choice([0, 6, 17, 43, 44, 58, 60]), 255]) + bytes(r.randrange(256) for _ in range(32 + r.randrange(200)))

end, count = time.monotonic() + seconds, 0
while time.monotonic() < end:
    count += 1
    ethertype, body = packet()
    frame = bytearray(mac + b"\2\0\0\0\0\1" + struct.pack("!H", ethertype) + body)
    if r.randrange(3) == 0:
        for _ in range(r.randrange(1, 5)):
            frame[r.randrange(14, len(frame))] = r.randrange(256)
    if r.randrange(10) == 0:
        del frame[r.randrange(14, len(frame)):]
    try:
        s.send(bytes(frame))
    except OSError:
        pass
print("done", count)
