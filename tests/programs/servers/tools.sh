# ping, traceroute, dig, nc, socat, ss and ip: what they print, without times.
set -eu
cd /tmp
ping -c 3 -i 0.05 127.0.0.1 | sed -E 's/time=[0-9.]+ ms/time=T/; s/time [0-9]+ms/time T/; /^rtt/d'
ping -6 -c 2 -i 0.05 ::1 | sed -E 's/time=[0-9.]+ ms/time=T/; s/time [0-9]+ms/time T/; /^rtt/d'
ping -c 1 -W 1 -s 9000 127.0.0.1 | sed -nE 's/^9008.*icmp_seq=1.*/long one came/p'
ping -c 1 10.9.9.9 2>&1 || echo "ping: $?"
traceroute -n 127.0.0.1 | sed -E 's/ +[0-9.]+ ms/ T/g'
traceroute -n -I 127.0.0.1 | sed -E 's/ +[0-9.]+ ms/ T/g'
traceroute -n -T -p 9 127.0.0.1 | sed -E 's/ +[0-9.]+ ms/ T/g'
traceroute -6 -n ::1 | sed -E 's/ +[0-9.]+ ms/ T/g'

cat > dns.py <<'PY'
import socket, struct, threading
def answer(q):
    end = q.index(b"\0", 12) + 5
    name, kind = q[12:end - 4], struct.unpack("!H", q[end - 4:end - 2])[0]
    if name != b"\x03www\x07example\x00":
        return q[:2] + b"\x85\x83\0\1\0\0\0\0\0\0" + q[12:end]
    records = {1: [b"\x0a\1\2\3", b"\x0a\1\2\4"], 28: [bytes(15) + b"\7"], 16: [b"\x05hello"]}.get(kind, [])
    if kind == 16 and len(q) > 0 and q[2] & 2:
        records = []
    body = b"".join(b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 60, len(r)) + r for r in records)
    return q[:2] + b"\x85\x80\0\1" + struct.pack("!H", len(records)) + b"\0\0\0\0" + q[12:end] + body
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(("127.0.0.1", 5353))
t = socket.socket(); t.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); t.bind(("127.0.0.1", 5353)); t.listen(5)
def udp():
    while True:
        q, who = u.recvfrom(512); u.sendto(answer(q), who)
def tcp():
    while True:
        c, _ = t.accept(); n = struct.unpack("!H", c.recv(2))[0]; a = answer(c.recv(n)); c.sendall(struct.pack("!H", len(a)) + a); c.close()
threading.Thread(target=udp, daemon=True).start()
print("up", flush=True)
tcp()
PY
: > dns.out; python3 dns.py > dns.out & dns=$!
until grep -q up dns.out; do sleep 0.05; done
dig() { command dig @127.0.0.1 -p 5353 +nocookie +noedns +noall +answer +comments "$@" | sed -E 's/id: [0-9]+/id: N/' | grep -v '^$'; }
dig www.example A; dig www.example AAAA; dig +tcp www.example TXT; dig nobody.example A
kill $dns; wait $dns || :
command dig @127.0.0.1 -p 5353 +tries=1 +time=1 www.example 2>&1 | grep -i -E 'refused|no servers' | sed 's/;; //' | sort -u

echo "through nc" | nc -l -N 127.0.0.1 7001 > nc.out & listener=$!
until ss -Htln | grep -q :7001; do sleep 0.05; done
nc -N 127.0.0.1 7001 < /dev/null; wait $listener
nc -z 127.0.0.1 7002 || echo "nc: nobody there $?"
socat -u TCP-LISTEN:7003,bind=127.0.0.1,reuseaddr OPEN:so.out,creat & listener=$!
until ss -Htln | grep -q :7003; do sleep 0.05; done
printf 'through socat\n' | socat -u - TCP:127.0.0.1:7003; wait $listener; cat so.out
socat UNIX-LISTEN:s.sock,fork EXEC:'tr a-z A-Z' & server=$!
until [ -S s.sock ]; do sleep 0.05; done
echo "unix and exec" | socat - UNIX-CONNECT:s.sock
kill $server; wait $server || :
(sleep 100 | nc -l 127.0.0.1 7004 > /dev/null) & listener=$!
until ss -Htln | grep -q :7004; do sleep 0.05; done
nc 127.0.0.1 7004 < /dev/zero > /dev/null & client=$!
until ss -Htn | grep -q '127.0.0.1:7004 '; do sleep 0.05; done
ss -Htln | awk '{print $1, $2, $4, $5}'
ss -Htn state established '( dport = :7004 )' | awk '{sub(/:[0-9]+$/, ":P", $3); print $3, $4}'
ss -s | sed -n '/^Transport/,$p' | awk '{print $1}'
kill $client; wait $client 2>/dev/null || :
ip -br link | awk '{print $1, $2}'; ip -4 -o addr | awk '{print $2, $3, $4}'; ip route; ip -6 route | head -1 | awk '{print $1, $2, $3}'
ip route get 127.0.0.1 | head -1 | awk '{print $1, $2, $3, $4}'
ip -s link show lo | grep -c RX
