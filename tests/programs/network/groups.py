# Datagrams to groups and to everybody, between two hosts of one network: groups.py hear ADDRESS | say ADDRESS. Whoever says repeats until the
# other has answered each.
import socket, struct, sys, time

what, own = sys.argv[1:3]
index = dict((n, i) for i, n in socket.if_nameindex())["eth0"]
G4, G6, EVERYBODY = "239.7.7.7", "ff15::7", "10.77.9.255"

def opened(family, port):
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.bind(("::" if family == socket.AF_INET6 else "", port))
    s.settimeout(0.2)
    return s

four, six = opened(socket.AF_INET, 9100), opened(socket.AF_INET6, 9106)
four.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
if what == "hear":
    # By the device, not by an address.
    four.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, struct.pack("4s4si", socket.inet_aton(G4), bytes(4), index))
    six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, socket.inet_pton(socket.AF_INET6, G6) + struct.pack("i", index))
    print("ready", flush=True)
    left = False
    while True:
        for s in (four, six):
            try:
                data, who = s.recvfrom(100)
            except socket.timeout:
                continue
            if data == b"leave" and not left:
                left = True
                four.setsockopt(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, struct.pack("4s4si", socket.inet_aton(G4), bytes(4), index))
            s.sendto(data + b" heard", who)
four.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("4s4si", bytes(4), bytes(4), index))
six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
four.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)

def ask(s, to, data):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        s.sendto(data, to)
        try:
            while True:
                got, who = s.recvfrom(100)
                if got == data + b" heard":
                    return who[0]
        except socket.timeout:
            pass
    return None

print("group", ask(four, (G4, 9100), b"one"))
print("everybody", ask(four, (EVERYBODY, 9100), b"two"), ask(four, ("255.255.255.255", 9100), b"three"))
print("group of IPv6", ask(six, (G6, 9106, 0, index), b"four"), ask(six, ("ff02::1", 9106, 0, index), b"five") is not None)
who = ask(four, ("10.77.9.255", 9100), b"leave")
# Nobody hears the group any more.
four.sendto(b"six", (G4, 9100))
try:
    while True:
        # What was asked several times may be answered late; broadcasts are heard by whoever sends them, too.
        assert four.recvfrom(100)[0] != b"six heard"
except socket.timeout:
    print("left", who)
