mkdir -p /tmp/p && cd /tmp/p
for i in 1 2 3 4 5 6; do printf '#include "all.h"\nint f%d(int x) { int s = 0; for (int i = 0; i < x; i++) s += i * %d; return s; }\n' $i $i > f$i.c; done
printf 'int f1(int); int f2(int); int f3(int); int f4(int); int f5(int); int f6(int);\n' > all.h
cat > main.c <<'C'
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <math.h>
#include <errno.h>
#include "all.h"
static void *t(void *a) { long n = (long)a; return (void *)(long)f3(n); }
int main(int argc, char **argv) {
  pthread_t th[8]; long sum = 0; void *r;
  for (long i = 0; i < 8; i++) pthread_create(&th[i], 0, t, (void *)(i * 10));
  for (int i = 0; i < 8; i++) { pthread_join(th[i], &r); sum += (long)r; }
  printf("%d %d %d %ld %.6f %s %d\n", f1(10), f2(10), f6(5), sum, sqrt(2.0), strerror(ENOENT), argc);
  return 17;
}
C
cat > Makefile <<'M'
OBJ = main.o f1.o f2.o f3.o f4.o f5.o f6.o
prog: $(OBJ)
	$(CC) -o $@ $(OBJ) -lm -pthread
%.o: %.c all.h
	$(CC) -O2 -Wall -c -o $@ $<
clean:
	rm -f prog *.o
M
make -s -j2; echo "make $?"
./prog a b; echo "prog $?"
make -j2; touch f3.c; make -j2 | sort; make -s clean; ls
gcc -O0 -g -o static -static main.c f?.c -lm && ./static; echo $?
echo 'int main( { }' > bad.c; gcc -c bad.c 2>&1 | head -3; echo "${PIPESTATUS[0]}"
echo '#include <stdio.h>
int shared(void){return 5;}' > l.c; gcc -shared -fPIC -o libl.so l.c; echo 'int shared(void); int main(){return shared();}' > u.c; gcc -o u u.c -L. -ll; LD_LIBRARY_PATH=. ./u; echo $?; ./u 2>&1 | sed 's/.*: error/error/'; gcc -dumpmachine
