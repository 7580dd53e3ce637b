# A bad wire between two interfaces: link.py ONE TWO SEED LOSS DUPLICATE REORDER (in thousandths). Frames keep their virtio-net header, so
# that what segmentation offload has joined is lost, doubled or late as a whole.
import random, select, socket, sys, heapq, time

names, (seed, loss, double, reorder) = sys.argv[1:3], map(int, sys.argv[3:7])
chance = random.Random(seed)
ends = []
for name in names:
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    s.setsockopt(263, 15, 1)   # SOL_PACKET, PACKET_VNET_HDR
    s.setsockopt(263, 23, 1)   # PACKET_IGNORE_OUTGOING
    s.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
    s.bind((name, 0))
    ends.append(s)
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
        frame, other = s.recv(70000), ends[1 - ends.index(s)]
        dice = chance.randrange(1000)
        if dice < loss:
            continue
        copies = 2 if chance.randrange(1000) < double else 1
        for _ in range(copies):
            count += 1
            if chance.randrange(1000) < reorder:
                heapq.heappush(late, (time.monotonic() + chance.random() * 0.005, count, other, frame))
            else:
                try:
                    other.send(frame)
                except OSError:
                    pass
    while late and late[0][0] <= time.monotonic():
        _, _, other, frame = heapq.heappop(late)
        try:
            other.send(frame)
        except OSError:
            pass
