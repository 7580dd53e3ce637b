# A neighbour tells its new Ethernet address: told.py INTERFACE MAC V4 V6 to the sandbox's MAC V4 V6.
import socket, struct, sys

name, mac, v4, v6, to_mac, to_v6 = sys.argv[1:7]
raw = lambda text: bytes.fromhex(text.replace(":", ""))
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind((name, 0))
mac, to_mac = raw(mac), raw(to_mac)
v4, v6, to_v6 = socket.inet_aton(v4), socket.inet_pton(socket.AF_INET6, v6), socket.inet_pton(socket.AF_INET6, to_v6)
# A gratuitous request, and an unsolicited advertisement that overrides.
s.send(b"\xff" * 6 + mac + b"\x08\x06" + struct.pack("!HHBBH", 1, 0x800, 6, 4, 1) + mac + v4 + bytes(6) + v4)
body = struct.pack("!BBHI", 136, 0, 0, 0x20000000) + v6 + b"\2\1" + mac
pseudo = v6 + to_v6 + struct.pack("!II", len(body), 58)
body = body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]
s.send(to_mac + mac + b"\x86\xdd" + struct.pack("!IHBB", 0x60000000, len(body), 58, 255) + v6 + to_v6 + body)
print("told")
