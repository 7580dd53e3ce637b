# A certificate authority of our own, an HTTPS server, curl and apt against it.
set -eu
cd /tmp
openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=ca -keyout ca.key -out ca.pem 2> /dev/null
openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout key.pem -out req.pem 2> /dev/null
printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\n' > ext
openssl x509 -req -in req.pem -CA ca.pem -CAkey ca.key -days 30 -extfile ext -out cert.pem 2> /dev/null

mkdir -p www/repo pkg/DEBIAN pkg/usr/share/fetched
printf 'Package: fetched\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody <nobody@example>\nDescription: a test\n' > pkg/DEBIAN/control
echo "fetched by apt" > pkg/usr/share/fetched/text
dpkg-deb --build --root-owner-group pkg www/repo/fetched.deb > /dev/null
(cd www/repo; { cat ../../pkg/DEBIAN/control; echo "Filename: ./fetched.deb"; echo "Size: $(stat -c %s fetched.deb)"; echo "SHA256: $(sha256sum fetched.deb | cut -d' ' -f1)"; echo; } > Packages)
head -c 20000000 /dev/urandom > www/big
cat > serve.py <<'PY'
import http.server, ssl, os
os.chdir("www")
class Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *a): pass
s = http.server.ThreadingHTTPServer(("", 8443), Quiet)
c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); c.load_cert_chain("../cert.pem", "../key.pem")
s.socket = c.wrap_socket(s.socket, server_side=True)
print("up", flush=True)
s.serve_forever()
PY
touch server.out; python3 serve.py > server.out & server=$!
until grep -q up server.out; do sleep 0.05; done
curl -sS --cacert ca.pem https://localhost:8443/repo/Packages | head -1
curl -sS --cacert ca.pem -o got -w '%{http_code} %{size_download} %{ssl_verify_result}\n' https://localhost:8443/big
cmp got www/big && echo "equal"
curl -sS --cacert ca.pem -r 1000-1999 -o part https://localhost:8443/big; stat -c %s part
curl -sS https://localhost:8443/ 2>&1 | head -1 || :
curl -sS --cacert ca.pem https://localhost:8444/ 2>&1 | sed -E 's/after [0-9]+ ms/after T/' || :
curl -sS --no-progress-meter --cacert ca.pem -Z $(for i in 1 2 3 4 5 6; do echo "-o p$i https://localhost:8443/repo/fetched.deb"; done) && cat p? | wc -c | xargs -I{} test {} -eq $((6 * $(stat -c %s www/repo/fetched.deb))) && echo "six at once"
openssl s_client -connect localhost:8443 -CAfile ca.pem -brief < /dev/null 2>&1 | grep -E '^(Verification|Protocol)'

echo 'deb [trusted=yes] https://localhost:8443/repo ./' > /etc/apt/sources.list
rm -rf /etc/apt/sources.list.d/*
printf 'Acquire::https::CaInfo "/tmp/ca.pem";\nAPT::Sandbox::User "root";\n' > /etc/apt/apt.conf.d/99test
apt-get update -qq 2>&1 | grep -v '^$' || :
apt-get install -y -qq fetched > apt.out 2>&1 || cat apt.out
cat /usr/share/fetched/text
kill $server; wait $server || :
