# A bad wire between two interfaces: link.py ONE TWO SEED LOSS DUPLICATE REORDER FORGE (in thousandths) DELAY (in milliseconds, each way).
# Frames keep their virtio-net header, so that what segmentation offload has joined is lost, doubled or late as a whole. A forged frame
# comes besides a good one: the same bytes again in other pieces, or a header that does not fit the connection.
import random, select, socket, struct, sys, heapq, time

names, (seed, loss, double, reorder, forge, delay) = sys.argv[1:3], map(int, sys.argv[3:9])
chance = random.Random(seed)
ends = []
for name in names:
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    s.setsockopt(263, 15, 1)   # SOL_PACKET, PACKET_VNET_HDR
    s.setsockopt(263, 23, 1)   # PACKET_IGNORE_OUTGOING
    s.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
    s.bind((name, 0))
    ends.append(s)
def forged(frame):
    # Behind ten bytes of virtio-net header: Ethernet, IPv4 or IPv6 without extensions, TCP.
    kind = frame[22:24]
    if kind == b"\x08\x00" and frame[24] == 0x45 and frame[33] == 6:
        ip, tcp = frame[24:44], frame[44:44 + struct.unpack("!H", frame[26:28])[0] - 20]
        pseudo = ip[12:20] + b"\0\6"
    elif kind == b"\x86\xdd" and frame[30] == 6:
        ip, tcp = frame[24:64], frame[64:64 + struct.unpack("!H", frame[28:30])[0]]
        pseudo = ip[8:40] + b"\0\0\0\6"
    else:
        return None
    head = (tcp[12] >> 4) * 4
    header, data = bytearray(tcp[:head]), tcp[head:]
    seq, ack = struct.unpack("!II", header[4:12])
    header[13] &= 0x3f & ~1
    if chance.randrange(2) and data:
        # Bytes that were or will be sent as they are: overlaps, from anywhere to anywhere.
        start = chance.randrange(len(data))
        data = data[start:start + chance.randrange(1, 1200)]
        header[4:8] = struct.pack("!I", (seq + start) % (1 << 32))
    else:
        # Far outside of every window, with any flags and options.
        header[4:8] = struct.pack("!I", (seq + (1 << 30) + chance.randrange(1 << 30)) % (1 << 32))
        header[8:12] = struct.pack("!I", (ack + (1 << 30) + chance.randrange(1 << 30)) % (1 << 32))
        header[13] = chance.randrange(256)
        header[14:16] = struct.pack("!H", chance.randrange(65536))
        header[18:20] = struct.pack("!H", chance.randrange(65536))
        for i in range(20, head):
            header[i] = chance.randrange(256)
        data = data[:chance.randrange(100)]
    header[16:18] = b"\0\0"
    segment = bytes(header) + data
    total = checksum(pseudo[:-2] + struct.pack("!HH", 6, len(segment)) + segment if len(pseudo) == 10 else pseudo[:-4] + struct.pack("!IHH", len(segment), 0, 6) + segment)
    segment = segment[:16] + struct.pack("!H", total) + segment[18:]
    if len(ip) == 20:
        ip = ip[:2] + struct.pack("!H", 20 + len(segment)) + ip[4:10] + b"\0\0" + ip[12:]
        ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
    else:
        ip = ip[:4] + struct.pack("!H", len(segment)) + ip[6:]
    return bytes(10) + frame[10:24] + ip + segment

def carry(frame, other):
    global count
    dice = chance.randrange(1000)
    if dice < loss:
        return
    copies = 2 if chance.randrange(1000) < double else 1
    for _ in range(copies):
        count += 1
        wait = delay / 1000 + (chance.random() * 0.005 if chance.randrange(1000) < reorder else 0)
        if wait:
            heapq.heappush(late, (time.monotonic() + wait, count, other, frame))
            continue
        put(other, frame)
    lie = forged(frame) if chance.randrange(1000) < forge else None
    if lie:
        put(other, lie)

def put(other, frame):
    try:
        other.send(frame)
    except OSError:
        pass

print("ready", flush=True)
late, count = [], 0
while True:
    wait = max(0, late[0][0] - time.monotonic()) if late else None
    ready, _, _ = select.select(ends + [sys.stdin], [], [], wait)
    if sys.stdin in ready:
        break
    for s in ready:
        if s not in ends:
            continue
        # Several at once, but never so many that what is late gets later.
        for _ in range(32):
            try:
                frame = s.recv(70000, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            carry(frame, ends[1 - ends.index(s)])
    while late and late[0][0] <= time.monotonic():
        _, _, other, frame = heapq.heappop(late)
        put(other, frame)
