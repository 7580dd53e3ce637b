cd /tmp
cat > p.c <<'C'
#include <stdio.h>
#include <pthread.h>
#include <unistd.h>
volatile int v = 3;
double d = 1.5;
int f(int x) { v += x; return v * 2; }
void *th(void *a) { for (int i = 0; i < 3; i++) { f(i); usleep(1000); } return a; }
int main(void) {
  pthread_t t;
  int r = f(4);
  printf("r=%d\n", r);
  pthread_create(&t, 0, th, 0);
  pthread_join(t, 0);
  printf("v=%d\n", v);
  return 7;
}
C
gcc -g -o p p.c -pthread
# every call of a program, its threads and its children, by name and result; each in a file of its own, where no other's interrupts a line
strace -ff -qq -e signal=none -e trace=write,exit_group -o out sh -c './p; /bin/echo two | cat; exit 4'
echo "strace: $?"
sed 's/0x[0-9a-f]*/ADDR/g; s/([0-9]\{1,\}, \[/(PID, [/; s/= [0-9]\{1,\}$/= N/' out.* | sort | head -40
strace -c -o sum true; grep -c execve sum
cat > cmds <<'G'
set pagination off
set debuginfod enabled off
set startup-with-shell off
break f
run
bt
info args
next
print v
delete
print f(10)
print d*2
print $xmm0.v4_float[0] = 2.5
break th
continue
delete
finish
G
gdb -q -nx -batch -x cmds ./p 2>&1 | grep -v -i 'thread\|libthread\|lwp\|^warning' | sed 's/0x[0-9a-f]*/ADDR/g; s/process [0-9]*/process N/'
sleep 100 & pid=$!
sleep 0.3
gdb -q -nx -batch -ex 'info inferiors' -p $pid 2>&1 | grep -c "process $pid"
kill $pid; wait $pid; echo "ended with $?"
