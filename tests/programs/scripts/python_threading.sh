python3 - <<'P'
import threading, queue, time, concurrent.futures as f, signal, os
q, r = queue.Queue(), queue.Queue()
def work():
    while (x := q.get()) is not None: r.put(x * x)
ts = [threading.Thread(target=work) for _ in range(8)]
[t.start() for t in ts]
[q.put(i) for i in range(3000)]
got = sorted(r.get() for _ in range(3000))
[q.put(None) for _ in ts]; [t.join() for t in ts]
print(sum(got), got[-1])
lock, cond, n = threading.Lock(), threading.Condition(), 0
def bump():
    global n
    for _ in range(2000):
        with lock: n += 1
ts = [threading.Thread(target=bump) for _ in range(10)]
[t.start() for t in ts]; [t.join() for t in ts]; print(n)
e = threading.Event(); t = threading.Timer(0.1, e.set); t.start(); print(e.wait(5))
s = threading.Semaphore(0); threading.Thread(target=lambda: (time.sleep(0.05), s.release())).start(); print(s.acquire(timeout=5))
print(s.acquire(timeout=0.1))
with f.ThreadPoolExecutor(6) as p: print(sum(p.map(lambda x: x % 7, range(500))))
loc = threading.local(); loc.x = 1
def f2(): loc.x = 2
t = threading.Thread(target=f2); t.start(); t.join(); print(loc.x)
hits = []
signal.signal(signal.SIGALRM, lambda *_: hits.append(1)); signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
while len(hits) < 5: time.sleep(1)
signal.setitimer(signal.ITIMER_REAL, 0); print("alarms")
b = threading.Barrier(50); out = []
ts = [threading.Thread(target=lambda: (b.wait(), out.append(1))) for _ in range(50)]
[t.start() for t in ts]; [t.join() for t in ts]; print(len(out))
P
