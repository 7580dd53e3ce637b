//! What one call costs on the kernel under this program. `caisson-bench-micro [SCALE] [ROW…]` prints one line per row: name, a
//! figure, its unit. A row is the best of five rounds: what disturbs a round on a busy machine only ever makes it worse.

// Raw calls without the C library's caches are what is measured.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)]

use std::hint::black_box;
use std::time::Instant;

/// Rounds per row.
const ROUNDS: u32 = 5;

struct Bench {
    scale: f64,
    /// Rows wanted; empty: all.
    rows: Vec<String>,
}

impl Bench {
    fn wants(&self, name: &str) -> bool {
        self.rows.is_empty() || self.rows.iter().any(|r| r == name)
    }

    /// Prints the cost of one `f`, of which a round at scale 1 does `n`.
    fn row(&self, name: &str, n: u32, mut f: impl FnMut()) {
        if !self.wants(name) {
            return;
        }
        let n = ((f64::from(n) * self.scale) as u32).max(1);
        let mut best = f64::INFINITY;
        for _ in 0..ROUNDS {
            let start = Instant::now();
            for _ in 0..n {
                f();
            }
            best = best.min(start.elapsed().as_nanos() as f64 / f64::from(n));
        }
        println!("{name} {best:.0} ns");
    }
}

fn must(result: i64, what: &str) -> i64 {
    if result < 0 {
        eprintln!("{what}: {}", std::io::Error::last_os_error());
        std::process::exit(1);
    }
    result
}

fn call(nr: i64, a: i64, b: i64, c: i64, d: i64) -> i64 {
    unsafe { libc::syscall(nr, a, b, c, d, 0, 0) }
}

fn main() {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some("@exit") {
        return;
    }
    let scale = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(1.0);
    let b = Bench { scale, rows: std::env::args().skip(2).collect() };
    calls(&b);
    files(&b);
    switches(&b);
    crowd(&b);
    memory(&b);
    processes(&b);
}

fn calls(b: &Bench) {
    b.row("getpid", 50_000, || {
        black_box(call(libc::SYS_getpid, 0, 0, 0, 0));
    });
    let zero = must(i64::from(unsafe { libc::open(c"/dev/zero".as_ptr(), libc::O_RDONLY) }), "/dev/zero");
    let mut byte = 0u8;
    b.row("read_zero_1", 20_000, || {
        must(call(libc::SYS_read, zero, &raw mut byte as i64, 1, 0), "read");
    });
    b.row("clock_gettime", 100_000, || {
        black_box(Instant::now());
    });
    let word = 0u32;
    b.row("futex_wake_none", 20_000, || {
        must(call(libc::SYS_futex, &raw const word as i64, i64::from(libc::FUTEX_WAKE), 1, 0), "futex");
    });
}

fn files(b: &Bench) {
    let path = c"/tmp/caisson-bench";
    let at = path.as_ptr() as i64;
    let flags = i64::from(libc::O_CREAT | libc::O_RDWR);
    b.row("open_close", 4_000, || {
        let f = must(call(libc::SYS_openat, i64::from(libc::AT_FDCWD), at, flags, 0o644), "open");
        call(libc::SYS_close, f, 0, 0, 0);
    });
    let mut st = [0u8; 256];
    b.row("stat", 5_000, || {
        must(call(libc::SYS_newfstatat, i64::from(libc::AT_FDCWD), at, st.as_mut_ptr() as i64, 0), "stat");
    });
    let f = must(call(libc::SYS_openat, i64::from(libc::AT_FDCWD), at, flags, 0o644), "open");
    let mut data = vec![1u8; 65536];
    b.row("pwrite_64k", 1_000, || {
        must(call(libc::SYS_pwrite64, f, data.as_ptr() as i64, 65536, 0), "pwrite");
    });
    b.row("pread_64k", 1_000, || {
        must(call(libc::SYS_pread64, f, data.as_mut_ptr() as i64, 65536, 0), "pread");
    });
    b.row("pread_4k", 5_000, || {
        must(call(libc::SYS_pread64, f, data.as_mut_ptr() as i64, 4096, 0), "pread");
    });
}

fn pipe() -> (i64, i64) {
    let mut f = [0i32; 2];
    must(i64::from(unsafe { libc::pipe(f.as_mut_ptr()) }), "pipe");
    (i64::from(f[0]), i64::from(f[1]))
}

/// One byte there and one back.
fn ping_pong(b: &Bench, name: &str, n: u32, there: (i64, i64), back: (i64, i64)) {
    let mut byte = 0u8;
    b.row(name, n, || {
        must(call(libc::SYS_write, there.1, &raw const byte as i64, 1, 0), "write");
        must(call(libc::SYS_read, back.0, &raw mut byte as i64, 1, 0), "read");
    });
}

fn echo(there: (i64, i64), back: (i64, i64)) {
    let mut byte = 0u8;
    while call(libc::SYS_read, there.0, &raw mut byte as i64, 1, 0) == 1 {
        call(libc::SYS_write, back.1, &raw const byte as i64, 1, 0);
    }
}

fn switches(b: &Bench) {
    let (there, back) = (pipe(), pipe());
    let partner = std::thread::spawn(move || echo(there, back));
    ping_pong(b, "pipe_threads", 2_000, there, back);
    call(libc::SYS_close, there.1, 0, 0, 0);
    let _ = partner.join();
    let (there, back) = (pipe(), pipe());
    let child = unsafe { libc::fork() };
    if child == 0 {
        call(libc::SYS_close, there.1, 0, 0, 0);
        echo(there, back);
        unsafe { libc::_exit(0) };
    }
    ping_pong(b, "pipe_processes", 2_000, there, back);
    call(libc::SYS_close, there.1, 0, 0, 0);
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    b.row("sched_yield", 20_000, || {
        call(libc::SYS_sched_yield, 0, 0, 0, 0);
    });
}

/// Calls per second of so many threads together.
fn rate(threads: u32, calls: u32) -> f64 {
    let start = Instant::now();
    std::thread::scope(|s| {
        for _ in 0..threads {
            s.spawn(|| {
                let zero = must(i64::from(unsafe { libc::open(c"/dev/zero".as_ptr(), libc::O_RDONLY) }), "/dev/zero");
                let mut byte = 0u8;
                for _ in 0..calls {
                    must(call(libc::SYS_read, zero, &raw mut byte as i64, 1, 0), "read");
                }
                call(libc::SYS_close, zero, 0, 0, 0);
            });
        }
    });
    f64::from(threads) * f64::from(calls) / start.elapsed().as_secs_f64()
}

/// Many threads that call all the time, on few processors: what they achieve together, and how that compares to two.
fn crowd(b: &Bench) {
    if !b.wants("calls_16_threads") {
        return;
    }
    let calls = ((160_000.0 * b.scale) as u32).max(1000);
    let best = |threads| (0..3).map(|_| rate(threads, calls / threads)).fold(0.0, f64::max);
    let (two, sixteen) = (best(2), best(16));
    println!(
        "calls_2_threads {two:.0} calls/s\ncalls_16_threads {sixteen:.0} calls/s\ncalls_16_of_2_threads {:.0} %",
        100.0 * sixteen / two
    );
}

/// Maps 10 GiB at scale 1 and writes to each page once: nanoseconds a page.
fn touch(b: &Bench) {
    if !b.wants("touch_10g_page") {
        return;
    }
    let pages = ((f64::from(10u32 << 18) * b.scale) as usize).max(1 << 14);
    let start = Instant::now();
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let m = libc::mmap(std::ptr::null_mut(), pages * 4096, 3, flags, -1, 0);
        if m == libc::MAP_FAILED {
            must(-1, "mmap");
        }
        for page in 0..pages {
            m.cast::<u8>().add(page * 4096).write_volatile(1);
        }
        println!("touch_10g_page {:.0} ns", start.elapsed().as_nanos() as f64 / pages as f64);
        libc::munmap(m, pages * 4096);
    }
}

/// Fork of a process with 2,000 areas that cannot be joined, half of them written to.
fn fork_many_areas(b: &Bench) {
    if !b.wants("fork_2000_areas") {
        return;
    }
    let len = 1000 * 8192;
    let m = unsafe { libc::mmap(std::ptr::null_mut(), len, 3, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
    for area in 0..1000 {
        unsafe {
            let page = m.cast::<u8>().add(area * 8192);
            page.write_volatile(1);
            must(i64::from(libc::mprotect(page.add(4096).cast(), 4096, libc::PROT_READ)), "mprotect");
        }
    }
    b.row("fork_2000_areas", 10, fork_wait);
    unsafe { libc::munmap(m, len) };
}

fn fork_wait() {
    unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::_exit(0);
        }
        must(i64::from(libc::waitpid(child, std::ptr::null_mut(), 0)), "waitpid");
    }
}

fn memory(b: &Bench) {
    touch(b);
    b.row("mmap_touch16_munmap", 600, || unsafe {
        let m = libc::mmap(std::ptr::null_mut(), 65536, 3, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0).cast::<u8>();
        for page in 0..16 {
            m.add(page * 4096).write_volatile(1);
        }
        libc::munmap(m.cast(), 65536);
    });
}

fn processes(b: &Bench) {
    b.row("thread_create_join", 200, || {
        let _ = std::thread::spawn(|| ()).join();
    });
    b.row("fork_wait", 60, fork_wait);
    fork_many_areas(b);
    let argv = [c"bench".as_ptr(), c"@exit".as_ptr(), std::ptr::null()];
    b.row("fork_exec_self", 30, || unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::execv(c"/proc/self/exe".as_ptr(), argv.as_ptr());
            libc::_exit(1);
        }
        libc::waitpid(child, std::ptr::null_mut(), 0);
    });
    let argv = [c"true".as_ptr(), std::ptr::null()];
    b.row("fork_exec_dynamic", 30, || unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::execv(c"/bin/true".as_ptr(), argv.as_ptr());
            libc::_exit(1);
        }
        libc::waitpid(child, std::ptr::null_mut(), 0);
    });
}
