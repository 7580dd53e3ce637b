cat > /tmp/t.c <<'C'
#include <pthread.h>
#include <stdio.h>
#include <stdatomic.h>
#include <stdlib.h>
static pthread_barrier_t b; static atomic_int n; static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER; static long total; static _Thread_local int mine;
static void *f(void *a) { mine = (int)(long)a; atomic_fetch_add(&n, 1); pthread_barrier_wait(&b); for (int i = 0; i < 20; i++) { pthread_mutex_lock(&m); total += mine; pthread_mutex_unlock(&m); } pthread_barrier_wait(&b); return (void *)(long)mine; }
int main(void) { static pthread_t t[1000]; pthread_attr_t at; pthread_attr_init(&at); pthread_attr_setstacksize(&at, 65536); pthread_barrier_init(&b, 0, 1001);
  for (long i = 0; i < 1000; i++) if (pthread_create(&t[i], &at, f, (void *)i)) { perror("create"); return 1; }
  pthread_barrier_wait(&b); printf("running %d\n", n); FILE *s = fopen("/proc/self/status", "r"); char l[200]; while (fgets(l, 200, s)) if (l[0] == 'T' && l[1] == 'h') fputs(l, stdout);
  pthread_barrier_wait(&b); long sum = 0; for (int i = 0; i < 1000; i++) { void *r; pthread_join(t[i], &r); sum += (long)r; } printf("%ld %ld\n", total, sum); return 0; }
C
gcc -O1 -o /tmp/t /tmp/t.c -pthread && /tmp/t
python3 -c '
import threading
b = threading.Barrier(401)
t = [threading.Thread(target=b.wait) for _ in range(400)]
[x.start() for x in t]; print(threading.active_count()); b.wait(); [x.join() for x in t]; print(threading.active_count())'
