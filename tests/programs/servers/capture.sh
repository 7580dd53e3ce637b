# tcpdump with filters, live and to a file.
set -eu
cd /tmp
# What an earlier one said must not be taken for this one's.
ready() { until grep -qs 'listening on' err.txt; do sleep 0.05; done; }
listen() { rm -f err.txt; tcpdump -l "$@" > out.txt 2> err.txt & dump=$!; ready; }
finish() { until [ "$(grep -c "$1" out.txt)" -ge "$2" ]; do sleep 0.05; done; kill -INT $dump; wait $dump || :; }
shown() { sed -E 's/^[0-9:.]+ //; s/127.0.0.1.[0-9]{5}/127.0.0.1.P/g; s/seq [0-9]+/seq N/; s/id [0-9]+/id N/' "$@"; }

listen -i lo -n -A udp port 7100
echo "no" | socat -u - UDP:127.0.0.1:7101
python3 -c '
import socket
r = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); r.bind(("127.0.0.1", 7100))
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("127.0.0.1", 7099))
s.sendto(b"hello from udp", ("127.0.0.1", 7100)); print(r.recv(100))'
finish UDP 1
grep UDP out.txt | shown; grep -a -o 'hello from udp' out.txt; tail -3 err.txt | grep -v received

listen -i lo -n icmp
ping -c 2 -i 0.05 127.0.0.1 > /dev/null
finish reply 2
shown out.txt

# The flags of a connection; acknowledgements by themselves are Linux's affair.
listen -i lo -n 'tcp port 7102 and tcp[tcpflags] & (tcp-syn|tcp-fin|tcp-push) != 0'
python3 -c '
import socket
l = socket.socket(); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); l.bind(("127.0.0.1", 7102)); l.listen(1)
c = socket.create_connection(("127.0.0.1", 7102)); s, _ = l.accept()
c.sendall(b"question"); s.recv(100); s.sendall(b"answer"); c.recv(100); c.close(); s.recv(1); s.close()'
finish 'Flags \[F' 2
sed -E 's/^[0-9:.]+ IP 127.0.0.1.([0-9]+) > 127.0.0.1.([0-9]+): (Flags \[[^]]*\]).*length ([0-9]+).*/\1 \2 \3 \4/; s/\b[345][0-9]{4}\b/P/g' out.txt

rm -f err.txt
tcpdump -i lo -n -w file.pcap -c 2 udp port 7103 2> err.txt & dump=$!
ready
for i in 1 2 3; do echo "datagram $i" | socat -u - UDP:127.0.0.1:7103; done
wait $dump
tcpdump -r file.pcap -n -q 2>/dev/null | shown | sort -u
tcpdump -D | grep -E -o '\b(lo|any)\b' | sort -u
