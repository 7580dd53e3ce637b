cat > /tmp/mp.py <<'P'
import multiprocessing as m, os, time
from multiprocessing import shared_memory
def sq(x): return x * x
def put(q, i): q.put(i * 10)
def add(v, l):
    for _ in range(500):
        with l: v.value += 1
def ping(c):
    while (x := c.recv()) is not None: c.send(x + 1)
if __name__ == "__main__":
    for how in ("fork", "spawn", "forkserver"):
        c = m.get_context(how)
        with c.Pool(3) as p: print(how, sum(p.map(sq, range(300), chunksize=7)))
    q = m.Queue(); ps = [m.Process(target=put, args=(q, i)) for i in range(6)]
    [p.start() for p in ps]; print(sorted(q.get() for _ in ps)); [p.join() for p in ps]; print([p.exitcode for p in ps])
    v, l = m.Value("i", 0), m.Lock(); ps = [m.Process(target=add, args=(v, l)) for _ in range(4)]
    [p.start() for p in ps]; [p.join() for p in ps]; print(v.value)
    a, b = m.Pipe(); p = m.Process(target=ping, args=(b,)); p.start(); x = 0
    for _ in range(500): a.send(x); x = a.recv()
    a.send(None); p.join(); print(x)
    s = shared_memory.SharedMemory(create=True, size=4096); s.buf[:5] = b"hello"; t = shared_memory.SharedMemory(s.name); print(bytes(t.buf[:5])); t.close(); s.close(); s.unlink()
    with m.Manager() as g:
        d = g.dict(); ps = [m.Process(target=d.__setitem__, args=(i, i)) for i in range(4)]; [p.start() for p in ps]; [p.join() for p in ps]; print(sorted(d.items()))
    arr = m.Array("d", range(10)); print(sum(arr)); e = m.Event(); p = m.Process(target=e.set); p.start(); print(e.wait(5)); p.join()
    p = m.Process(target=time.sleep, args=(60,)); p.start(); p.terminate(); p.join(); print(p.exitcode)
P
python3 /tmp/mp.py
