//! Calls that are made again and again from one place, which a sandbox may treat in its own way: nothing of that may be seen.

use crate::sys::*;
use crate::{check, eq, list, ok, sys};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering::SeqCst};

pub const TESTS: &[crate::Test] = list!["hotcall";
    reads_as_written, rewritten_code, mapped_over, signals_see_own_code, threads_together, shared_memory_child, ids_change, forked, maps_stay,
    short_and_long, forced_write,
];

const PAGE: usize = 4096;
/// Where functions begin in their page.
const AT: usize = 32;
const HOT: usize = 300;

type Function = extern "C" fn(i64) -> i64;

/// `mov eax, nr; syscall; ret`
fn calling(nr: i64) -> Vec<u8> {
    let mut code = vec![0xb8];
    code.extend((nr as u32).to_le_bytes());
    code.extend([0x0f, 0x05, 0xc3]);
    code
}

/// A page of code, filled up with `hlt`.
struct Code(*mut u8);

// The page is only executed by other threads.
unsafe impl Send for Code {}
unsafe impl Sync for Code {}

impl Code {
    fn new(code: &[u8]) -> Code {
        let page = Code(anon(PAGE, libc::MAP_PRIVATE));
        page.write(code);
        page
    }

    fn protect(&self, prot: i32) {
        ok!(sys!(mprotect, self.0, PAGE, prot));
    }

    fn write(&self, code: &[u8]) {
        self.protect(libc::PROT_READ | libc::PROT_WRITE);
        unsafe {
            self.0.write_bytes(0xf4, PAGE);
            self.0.add(AT).copy_from(code.as_ptr(), code.len());
        }
        self.protect(libc::PROT_READ | libc::PROT_EXEC);
    }

    fn call(&self, arg: i64) -> i64 {
        let f: Function = unsafe { std::mem::transmute(self.0.add(AT)) };
        f(arg)
    }

    /// Calls it often; all results must be the same.
    fn hot(&self) -> i64 {
        let first = self.call(0);
        for _ in 0..HOT {
            eq!(self.call(0), first);
        }
        first
    }
}

fn reads_as_written() {
    let code = calling(libc::SYS_getppid);
    let page = Code::new(&code);
    eq!(page.hot(), i64::from(unsafe { libc::getppid() }));
    let mut want = vec![0xf4; PAGE];
    want[AT..AT + code.len()].copy_from_slice(&code);
    let mem = ok!(open(c"/proc/self/mem", libc::O_RDONLY));
    let mut got = vec![0u8; PAGE];
    eq!(ok!(sys!(pread64, mem, m(&mut got[..]), PAGE, page.0)), PAGE as i64);
    check!(got == want);
    got.fill(0);
    let (local, remote) =
        (libc::iovec { iov_base: got.as_mut_ptr().cast(), iov_len: PAGE }, libc::iovec { iov_base: page.0.cast(), iov_len: PAGE });
    eq!(ok!(sys!(process_vm_readv, getpid(), p(&local), 1, p(&remote), 1, 0)), PAGE as i64);
    check!(got == want);
    // A pipe takes it from there, too.
    let (r, w) = pipe(0);
    eq!(ok!(sys!(write, w, page.0, PAGE)), PAGE as i64);
    check!(ok!(read(r, PAGE)) == want);
}

fn rewritten_code() {
    let page = Code::new(&calling(libc::SYS_getpid));
    for round in 0..12 {
        let (nr, want) = match round % 4 {
            0 => (libc::SYS_getpid, i64::from(getpid())),
            1 => (libc::SYS_getppid, i64::from(unsafe { libc::getppid() })),
            2 => (libc::SYS_gettid, i64::from(gettid())),
            _ => (libc::SYS_geteuid, i64::from(unsafe { libc::geteuid() })),
        };
        page.write(&calling(nr));
        eq!(page.hot(), want);
    }
    // No access for a while.
    page.protect(libc::PROT_NONE);
    page.protect(libc::PROT_READ | libc::PROT_EXEC);
    eq!(page.hot(), i64::from(unsafe { libc::geteuid() }));
}

fn mapped_over() {
    let page = Code::new(&calling(libc::SYS_getpid));
    eq!(page.hot(), i64::from(getpid()));
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    for _ in 0..3 {
        ok!(sys!(mmap, page.0, PAGE, prot, flags, -1, 0));
        page.write(&calling(libc::SYS_getppid));
        eq!(page.hot(), i64::from(unsafe { libc::getppid() }));
        // Moved elsewhere and back.
        let other = anon(PAGE, libc::MAP_PRIVATE);
        let moved = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        ok!(sys!(mremap, page.0, PAGE, PAGE, moved, other));
        let there = Code(other);
        eq!(there.hot(), i64::from(unsafe { libc::getppid() }));
        ok!(sys!(mremap, other, PAGE, PAGE, moved, page.0));
        eq!(page.hot(), i64::from(unsafe { libc::getppid() }));
    }
}

static SEEN: [AtomicI64; 64] = [const { AtomicI64::new(0) }; 64];
static COUNT: AtomicUsize = AtomicUsize::new(0);

extern "C" fn note(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let context = context.cast::<libc::ucontext_t>();
    let rip = unsafe { (*context).uc_mcontext.gregs[libc::REG_RIP as usize] };
    let n = COUNT.fetch_add(1, SeqCst);
    if let Some(place) = SEEN.get(n) {
        place.store(rip, SeqCst);
    }
}

fn signals_see_own_code() {
    on(libc::SIGALRM, note, libc::SA_RESTART);
    // mov r8d, edi; loop: mov eax, nr; syscall; dec r8d; jnz loop; ret
    for nr in [libc::SYS_getppid, libc::SYS_getpid] {
        COUNT.store(0, SeqCst);
        let mut code = vec![0x41, 0x89, 0xf8, 0xb8];
        code.extend((nr as u32).to_le_bytes());
        code.extend([0x0f, 0x05, 0x41, 0xff, 0xc8, 0x75, 0xf4, 0xc3]);
        let page = Code::new(&code);
        let every = libc::timeval { tv_sec: 0, tv_usec: 1000 };
        ok!(sys!(setitimer, libc::ITIMER_REAL, p(&libc::itimerval { it_interval: every, it_value: every }), 0));
        while COUNT.load(SeqCst) < SEEN.len() {
            let want = if nr == libc::SYS_getpid { getpid() } else { unsafe { libc::getppid() } };
            eq!(page.call(20_000), i64::from(want));
        }
        let never = libc::timeval { tv_sec: 0, tv_usec: 0 };
        ok!(sys!(setitimer, libc::ITIMER_REAL, p(&libc::itimerval { it_interval: never, it_value: never }), 0));
        let maps = String::from_utf8(get("/proc/self/maps")).unwrap();
        for rip in SEEN.iter().map(|s| s.load(SeqCst) as u64) {
            let known = maps.lines().any(|l| {
                let (from, to) = l.split(' ').next().and_then(|r| r.split_once('-')).unwrap();
                let number = |s| u64::from_str_radix(s, 16).unwrap();
                (number(from)..number(to)).contains(&rip) && l.contains('x')
            });
            check!(known);
        }
    }
}

fn threads_together() {
    for nr in [libc::SYS_gettid, libc::SYS_getppid] {
        let page = std::sync::Arc::new(Code::new(&calling(nr)));
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let page = page.clone();
                std::thread::spawn(move || {
                    let want = if nr == libc::SYS_gettid { gettid() } else { unsafe { libc::getppid() } };
                    for _ in 0..10 {
                        eq!(page.hot(), i64::from(want));
                    }
                })
            })
            .collect();
        workers.into_iter().for_each(|w| w.join().unwrap());
    }
}

static PAGE_OF_CHILD: AtomicUsize = AtomicUsize::new(0);
static ANSWER: AtomicI64 = AtomicI64::new(0);

extern "C" fn ask(_: *mut libc::c_void) -> i32 {
    let page = Code(PAGE_OF_CHILD.load(SeqCst) as *mut u8);
    ANSWER.store(page.call(0), SeqCst);
    0
}

fn shared_memory_child() {
    let page = Code::new(&calling(libc::SYS_getpid));
    eq!(page.hot(), i64::from(getpid()));
    PAGE_OF_CHILD.store(page.0 as usize, SeqCst);
    for _ in 0..5 {
        let stack = anon(64 << 10, libc::MAP_PRIVATE);
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let child = unsafe { libc::clone(ask, stack.add(64 << 10).cast(), flags, std::ptr::null_mut()) };
        check!(child > 0);
        eq!(wait(child), 0);
        eq!(ANSWER.load(SeqCst), i64::from(child));
        eq!(page.call(0), i64::from(getpid()));
    }
}

fn ids_change() {
    let (uid, euid, egid) =
        (Code::new(&calling(libc::SYS_getuid)), Code::new(&calling(libc::SYS_geteuid)), Code::new(&calling(libc::SYS_getegid)));
    eq!((uid.hot(), euid.hot(), egid.hot()), (0, 0, 0));
    ok!(sys!(setresgid, 7, 8, 9));
    eq!(egid.call(0), 8);
    ok!(sys!(setresuid, 1001, 1002, 0));
    eq!((uid.call(0), euid.call(0)), (1001, 1002));
    ok!(sys!(setresuid, -1, 0, -1));
    eq!((uid.hot(), euid.hot()), (1001, 0));
}

fn forked() {
    let page = Code::new(&calling(libc::SYS_getpid));
    eq!(page.hot(), i64::from(getpid()));
    for _ in 0..3 {
        in_child(|| {
            eq!(page.hot(), i64::from(getpid()));
            in_child(|| eq!(page.hot(), i64::from(getpid())));
            eq!(page.hot(), i64::from(getpid()));
        });
    }
    eq!(page.hot(), i64::from(getpid()));
}

fn maps_stay() {
    let page = Code::new(&calling(libc::SYS_getppid));
    let names = || String::from_utf8(get("/proc/self/maps")).unwrap().lines().count();
    let before = names();
    page.hot();
    eq!(names(), before);
    let size = || {
        let text = String::from_utf8(get("/proc/self/statm")).unwrap();
        text.split(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let other = Code::new(&calling(libc::SYS_getpid));
    let before = size();
    other.hot();
    eq!(size(), before);
}

fn short_and_long() {
    // xor eax, eax; syscall; cmp rax, -4096; ja; ret; padding: read of nothing
    let page = Code::new(&[0x31, 0xc0, 0x0f, 0x05, 0x48, 0x3d, 0, 0xf0, 0xff, 0xff, 0x77, 7, 0xc3, 0x66, 0x0f, 0x1f, 0x44, 0, 0, 0xc3]);
    for _ in 0..HOT {
        // Descriptor, buffer and length are what the caller has there: only that it is one answer is of interest.
        eq!(page.call(-1), -i64::from(libc::EBADF));
    }
    // mov rax, nr (seven bytes)
    let mut code = vec![0x48, 0xc7, 0xc0];
    code.extend((libc::SYS_getppid as u32).to_le_bytes());
    code.extend([0x0f, 0x05, 0xc3]);
    eq!(Code::new(&code).hot(), i64::from(unsafe { libc::getppid() }));
    // mov eax, [number]: mov eax, edi
    let page = Code::new(&[0x89, 0xf8, 0x0f, 0x05, 0xc3]);
    for _ in 0..HOT {
        eq!(page.call(libc::SYS_getppid), i64::from(unsafe { libc::getppid() }));
        eq!(page.call(libc::SYS_getpid), i64::from(getpid()));
    }
}

fn forced_write() {
    let page = Code::new(&calling(libc::SYS_getpid));
    eq!(page.hot(), i64::from(getpid()));
    // As a debugger does it: the page stays as protected as it is.
    let mem = ok!(open(c"/proc/self/mem", libc::O_RDWR));
    let nr = libc::SYS_getppid as u32;
    eq!(ok!(sys!(pwrite64, mem, p(&nr), 4, page.0 as usize + AT + 1)), 4);
    eq!(page.hot(), i64::from(unsafe { libc::getppid() }));
}
