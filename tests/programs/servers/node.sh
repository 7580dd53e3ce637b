# Node: an HTTP server with keep-alive and many clients, a TCP echo, UDP, timers, a worker, DNS of the hosts file.
set -eu
cd /tmp
cat > all.js <<'JS'
const http = require('http'), net = require('net'), dgram = require('dgram'), dns = require('dns').promises;
const { Worker } = require('worker_threads');
const listening = (s, ...a) => new Promise(r => s.listen(...a, () => r(s.address().port)));
async function web() {
  const server = http.createServer((q, a) => { let n = 0; q.on('data', d => n += d.length); q.on('end', () => a.end(`${q.method} ${q.url} ${n}`)); });
  const port = await listening(server, 0, '127.0.0.1');
  const agent = new http.Agent({ keepAlive: true, maxSockets: 16 });
  const ask = i => new Promise((good, bad) => {
    const q = http.request({ port, host: '127.0.0.1', path: `/${i}`, method: i % 2 ? 'POST' : 'GET', agent }, a => { let t = ''; a.on('data', d => t += d); a.on('end', () => good(t)); });
    q.on('error', bad); q.end(i % 2 ? Buffer.alloc(i * 10) : undefined);
  });
  const all = await Promise.all([...Array(600).keys()].map(ask));
  console.log('web', all.length, all[3], all[4], all[599]);
  agent.destroy(); server.close();
}
async function echo() {
  const server = net.createServer(s => s.pipe(s));
  const port = await listening(server, 0, '::1');
  const c = net.connect(port, '::1'); c.setNoDelay(true);
  let got = 0, sent = 0;
  await new Promise(done => { c.on('data', d => { got += d.length; if (got === sent * 5) { if (sent === 2000) { c.end(); done(); } else { sent++; c.write('hello'); } } }); sent = 1; c.write('hello'); });
  console.log('echoed', sent); server.close();
}
async function datagrams() {
  const a = dgram.createSocket('udp4'), b = dgram.createSocket('udp4');
  await new Promise(r => a.bind(0, '127.0.0.1', r));
  let n = 0;
  await new Promise(done => { a.on('message', () => { if (++n === 50) done(); else b.send('x', a.address().port, '127.0.0.1'); }); b.send('x', a.address().port, '127.0.0.1'); });
  console.log('datagrams', n); a.close(); b.close();
}
async function errors() {
  const code = await new Promise(r => net.connect(9, '127.0.0.1').on('error', e => r(e.code)));
  const server = net.createServer(s => s.destroy());
  const port = await listening(server, 0, '127.0.0.1');
  const twice = await new Promise(r => net.createServer().on('error', e => r(e.code)).listen(port, '127.0.0.1'));
  console.log('errors', code, twice, (await dns.lookup('localhost', 4)).address); server.close();
}
(async () => {
  await web(); await echo(); await datagrams(); await errors();
  console.log(await new Promise(r => new Worker("require('worker_threads').parentPort.postMessage('worker ' + [...Array(1000).keys()].reduce((a, b) => a + b))", { eval: true }).on('message', r)));
})();
JS
node all.js
