//! Memory: mappings of every kind, protection and the faults it makes, growth, copies at fork, memfd, /proc/self/maps.

use crate::sys::*;
use crate::{check, eq, err, list, ok, say, sys};

pub const TESTS: &[crate::Test] = list!["memory";
    mmap_args, anon_zero, fixed, noreplace, munmap_parts, mprotect_faults, mprotect_args, exec_fault, fork_private, fork_shared,
    file_private, file_shared, shared_coherent, shared_protect_rules, sigbus_past_eof, truncate_mapped, mremap_grow, mremap_fixed, mremap_args, mremap_dontunmap,
    madvise_dontneed, madvise_args, brk_calls, brk_fork, stack_growth, stack_limit, growsdown, memfd_basic, memfd_seals, mlock_calls, maps_file, mincore_calls,
    huge_sparse, many_vmas, map_limits, msync_calls, memfd_shared_fork, zero_device, cow_chain, fork_many_pages, fork_leaves_no_traces, shared_anon_dev, wipe_on_fork,
    read_into_cow, process_vm, fork_behind_guards, exec_mapping, adjacent_merge, smaps_fields, populate, membarrier_call, mapped_again,
];

const RW: i32 = PROT_READ | PROT_WRITE;
const ANON: i32 = MAP_PRIVATE | MAP_ANONYMOUS;

fn poke(at: *mut u8, v: u8) {
    unsafe { std::ptr::write_volatile(at, v) };
}

fn peek(at: *const u8) -> u8 {
    unsafe { std::ptr::read_volatile(at) }
}

fn map(addr: i64, len: usize, prot: i32, flags: i32, fd: i32, off: i64) -> Result<*mut u8, E> {
    sys!(mmap, addr, len, prot, flags, fd, off).map(|a| a as *mut u8)
}

/// How a child that runs this ends.
fn ends(f: impl FnOnce()) -> String {
    show_status(wait(fork(f)))
}

fn mmap_args() {
    err!(map(0, 0, RW, ANON, -1, 0), EINVAL);
    err!(map(0, 4096, RW, MAP_ANONYMOUS, -1, 0), EINVAL);
    err!(map(0, 4096, RW, MAP_PRIVATE, -1, 0), EBADF);
    err!(map(0, 4096, RW, MAP_PRIVATE, 99, 0), EBADF);
    err!(map(0, 4096, RW, ANON, -1, 100), EINVAL);
    err!(map(1, 4096, RW, ANON | MAP_FIXED, -1, 0), EINVAL);
    err!(map(0, usize::MAX - 8192, RW, ANON, -1, 0), ENOMEM);
    err!(map(0x7fff_ffff_f000, 8192, RW, ANON | MAP_FIXED, -1, 0), ENOMEM);
    err!(map(0, 1 << 48, RW, ANON | MAP_NORESERVE, -1, 0), ENOMEM);
    let (r, _w) = pipe(0);
    err!(map(0, 4096, PROT_READ, MAP_PRIVATE, r, 0), ENODEV);
    put("a", b"x");
    let (ro, wo) = (ok!(open(c"a", O_RDONLY)), ok!(open(c"a", O_WRONLY)));
    err!(map(0, 4096, PROT_READ, MAP_PRIVATE, wo, 0), EACCES);
    err!(map(0, 4096, RW, MAP_SHARED, ro, 0), EACCES);
    ok!(map(0, 4096, RW, MAP_PRIVATE, ro, 0));
    err!(map(0, 4096, PROT_READ, MAP_SHARED, ro, 5), EINVAL);
    err!(sys!(munmap, 1, 4096), EINVAL);
    err!(sys!(munmap, 4096, 0), EINVAL);
    ok!(sys!(munmap, 0x1000_0000, 4096));
    let d = ok!(open(c".", O_RDONLY));
    err!(map(0, 4096, PROT_READ, MAP_PRIVATE, d, 0), ENODEV);
    // a length is rounded up
    let a = ok!(map(0, 1, RW, ANON, -1, 0));
    poke(unsafe { a.add(4095) }, 1);
}

fn anon_zero() {
    let a = anon(1 << 20, MAP_PRIVATE);
    for i in (0..1 << 20).step_by(997) {
        eq!(peek(unsafe { a.add(i) }), 0);
        poke(unsafe { a.add(i) }, (i % 251) as u8);
    }
    for i in (0..1 << 20).step_by(997) {
        eq!(peek(unsafe { a.add(i) }), (i % 251) as u8);
    }
    ok!(sys!(munmap, a, 1 << 20));
    let b = ok!(map(a as i64, 1 << 20, RW, ANON | MAP_FIXED, -1, 0));
    eq!(a, b);
    eq!((0..1 << 20).all(|i| peek(unsafe { b.add(i) }) == 0), true);
}

/// Buffers that come and go: always zeroed, whatever their predecessor of the same length held, and nobody else's.
fn mapped_again() {
    let zeroed = |at: *const u8, len: usize| (0..len).all(|i| peek(unsafe { at.add(i) }) == 0);
    for round in 1..20u8 {
        for len in [4096usize, 16384, 65536, 262_144, 524_288] {
            let a = ok!(map(0, len, RW, ANON, -1, 0));
            eq!(zeroed(a, len), true);
            unsafe { std::ptr::write_bytes(a, round, len) };
            // its neighbour, of which a part is used, does not become what it was
            let b = ok!(map(0, len, RW, ANON, -1, 0));
            poke(unsafe { b.add(len - 1) }, round);
            ok!(sys!(munmap, a, len));
            let c = ok!(map(0, len, RW, ANON, -1, 0));
            eq!((zeroed(c, len), peek(unsafe { b.add(len - 1) }), zeroed(b, len - 1)), (true, round, true));
            poke(c, 7);
            in_child(move || {
                eq!(peek(c), 7);
                unsafe { std::ptr::write_bytes(c, 9, len) };
                ok!(sys!(munmap, c, len));
                eq!(zeroed(ok!(map(0, len, RW, ANON, -1, 0)), len), true);
            });
            eq!((peek(c), zeroed(unsafe { c.add(1) }, len - 1)), (7, true));
            // protected in parts, then given up as a whole
            ok!(sys!(mprotect, c, 4096, PROT_READ));
            ok!(sys!(munmap, c, len));
            ok!(sys!(munmap, b, len));
        }
    }
}

fn fixed() {
    let a = anon(16384, MAP_PRIVATE);
    for i in 0..4 {
        poke(unsafe { a.add(i * 4096) }, 1 + i as u8);
    }
    let b = ok!(map(a as i64 + 4096, 8192, RW, ANON | MAP_FIXED, -1, 0));
    eq!(b as usize, a as usize + 4096);
    eq!((0..4).map(|i| peek(unsafe { a.add(i * 4096) })).collect::<Vec<_>>(), [1, 0, 0, 4]);
    // a free hint is taken, a taken one is not
    ok!(sys!(munmap, a, 16384));
    eq!(ok!(map(a as i64, 16384, RW, ANON, -1, 0)), a);
    check!(ok!(map(a as i64, 4096, RW, ANON, -1, 0)) != a);
    in_child(|| {
        ok!(sys!(setresuid, 1000, 1000, 1000));
        err!(map(0, 4096, RW, ANON | MAP_FIXED, -1, 0), EPERM);
    });
}

fn noreplace() {
    let a = anon(8192, MAP_PRIVATE);
    err!(map(a as i64 + 4096, 8192, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0), EEXIST);
    ok!(sys!(munmap, a as i64 + 4096, 4096));
    eq!(ok!(map(a as i64 + 4096, 4096, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0)) as usize, a as usize + 4096);
}

fn munmap_parts() {
    let a = anon(5 * 4096, MAP_PRIVATE);
    for i in 0..5 {
        poke(unsafe { a.add(i * 4096) }, 9);
    }
    ok!(sys!(munmap, a as i64 + 4096, 4096));
    ok!(sys!(munmap, a as i64 + 3 * 4096, 1));
    for i in 0..5 {
        say!("{i} {}", ends(|| check!(peek(unsafe { a.add(i * 4096) }) == 9)));
    }
    ok!(sys!(munmap, a, 5 * 4096));
    say!("{}", ends(|| poke(a, 1)));
}

static FAULT: std::sync::Mutex<(i32, i32, usize)> = std::sync::Mutex::new((0, 0, 0));

extern "C" fn jump_out(signal: i32, info: *mut siginfo_t, ctx: *mut c_void) {
    // steps over the faulting instruction by going to where r15 points
    unsafe {
        let info = &*info;
        *FAULT.lock().unwrap() = (signal, info.si_code, info.si_addr() as usize);
        let ctx = &mut *(ctx as *mut ucontext_t);
        ctx.uc_mcontext.gregs[REG_RIP as usize] = ctx.uc_mcontext.gregs[REG_R15 as usize];
    }
}

/// Reads or writes one byte; the signal, code and address where that faults.
fn touch(at: *mut u8, write: bool) -> Option<(i32, i32, usize)> {
    *FAULT.lock().unwrap() = (0, 0, 0);
    unsafe {
        if write {
            std::arch::asm!("lea r15, [rip + 2f]", "mov byte ptr [{0}], 1", "2:", in(reg) at, out("r15") _);
        } else {
            std::arch::asm!("lea r15, [rip + 2f]", "mov {1}, byte ptr [{0}]", "2:", in(reg) at, out(reg_byte) _, out("r15") _);
        }
    }
    let got = *FAULT.lock().unwrap();
    (got.0 != 0).then_some(got)
}

fn catch_faults() {
    on(SIGSEGV, jump_out, 0);
    on(SIGBUS, jump_out, 0);
}

fn mprotect_faults() {
    catch_faults();
    let a = anon(3 * 4096, MAP_PRIVATE);
    poke(a, 7);
    let mid = unsafe { a.add(4096) };
    let show = |what: &str| {
        let f = |w| touch(mid, w).map(|(s, code, at)| (s, code, at == mid as usize));
        say!("{what}: read {:?} write {:?}", f(false), f(true));
    };
    show("rw");
    ok!(sys!(mprotect, mid, 4096, PROT_READ));
    show("r");
    ok!(sys!(mprotect, mid, 4096, PROT_NONE));
    show("none");
    eq!(touch(a, true), None);
    eq!(touch(unsafe { a.add(8192) }, true), None);
    ok!(sys!(mprotect, mid, 4096, PROT_READ | PROT_EXEC));
    show("rx");
    ok!(sys!(mprotect, mid, 4096, RW));
    show("rw");
    ok!(sys!(munmap, mid, 4096));
    show("gone");
    say!("{:?}", touch(16 as *mut u8, true));
    say!("{:?}", touch(0xdead_0000_0000_0000u64 as *mut u8, true).map(|f| (f.0, f.1)));
    say!("{:?}", touch(0xffff_ffff_8000_0000u64 as *mut u8, false).map(|f| (f.0, f.1)));
}

fn mprotect_args() {
    let a = anon(3 * 4096, MAP_PRIVATE);
    err!(sys!(mprotect, a as i64 + 1, 4096, PROT_READ), EINVAL);
    ok!(sys!(mprotect, a, 0, PROT_READ));
    ok!(sys!(mprotect, a, 1, PROT_READ));
    err!(sys!(mprotect, a, 4096, 0x100), EINVAL);
    ok!(sys!(munmap, a as i64 + 4096, 4096));
    err!(sys!(mprotect, a, 3 * 4096, PROT_READ), ENOMEM);
    err!(sys!(mprotect, 0x1000_0000, 4096, PROT_READ), ENOMEM);
}

fn exec_fault() {
    catch_faults();
    let a = anon(4096, MAP_PRIVATE);
    poke(a, 0xc3); // ret
    let f: extern "C" fn() = unsafe { std::mem::transmute(a) };
    say!(
        "{}",
        ends(|| {
            action(SIGSEGV, SIG_DFL);
            f();
        })
    );
    ok!(sys!(mprotect, a, 4096, PROT_READ | PROT_EXEC));
    f();
    // what is written through another mapping is what runs
    let fd = ok!(sys!(memfd_create, c"code", 0)) as i32;
    ok!(write(fd, &[0xb8, 42, 0, 0, 0, 0xc3]));
    let x = ok!(map(0, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0));
    let g: extern "C" fn() -> i32 = unsafe { std::mem::transmute(x) };
    eq!(g(), 42);
    ok!(sys!(pwrite64, fd, [43u8].as_ptr(), 1, 1));
    eq!(g(), 43);
}

fn fork_private() {
    let a = anon(64 * 4096, MAP_PRIVATE);
    for i in 0..64 {
        poke(unsafe { a.add(i * 4096) }, i as u8);
    }
    let (r, w) = pipe(0);
    let child = fork(|| {
        ok!(read(r, 1));
        for i in 0..64 {
            eq!(peek(unsafe { a.add(i * 4096) }), i as u8);
            poke(unsafe { a.add(i * 4096) }, 100);
        }
    });
    for i in 0..32 {
        poke(unsafe { a.add(i * 4096) }, 200);
    }
    ok!(write(w, b"x"));
    eq!(wait(child), 0);
    for i in 0..64 {
        eq!(peek(unsafe { a.add(i * 4096) }), if i < 32 { 200 } else { i as u8 });
    }
}

/// Areas behind a guard, as stacks of threads are: in the child they hold what they held, and follow all changes.
fn fork_behind_guards() {
    let m = ok!(map(0, 9 * 4096, PROT_NONE, ANON, -1, 0));
    let page = |n: usize| unsafe { m.add(n * 4096) };
    for first in [1, 5] {
        ok!(sys!(mprotect, page(first), 3 * 4096, RW));
        (first..first + 3).for_each(|n| poke(page(n), n as u8));
    }
    in_child(|| {
        eq!(peek(page(2)), 2);
        poke(page(1), 11);
        // Of the other one nothing was touched: protected, replaced and unmapped in part, read by the kernel.
        ok!(sys!(mprotect, page(5), 4096, PROT_READ));
        ok!(map(page(6) as i64, 4096, RW, ANON | MAP_FIXED, -1, 0));
        eq!((peek(page(5)), peek(page(6)), peek(page(7))), (5, 0, 7));
        eq!(ends(|| poke(page(5), 1)), ends(|| poke(page(0), 1)));
        in_child(|| {
            eq!((peek(page(1)), peek(page(3)), peek(page(7))), (11, 3, 7));
            ok!(sys!(munmap, page(2), 4096));
            eq!(peek(page(3)), 3);
        });
    });
    eq!((peek(page(1)), peek(page(6))), (1, 6));
    in_child(|| {
        let (r, w) = pipe(0);
        ok!(sys!(write, w, page(5), 1));
        ok!(sys!(read, r, page(7), 1));
        eq!((peek(page(7)), peek(page(6))), (5, 6));
    });
}

fn fork_shared() {
    let a = anon(4 * 4096, MAP_SHARED);
    poke(a, 1);
    in_child(|| {
        eq!(peek(a), 1);
        poke(a, 2);
        poke(unsafe { a.add(3 * 4096) }, 3);
        in_child(|| poke(unsafe { a.add(4096) }, 4));
    });
    eq!((peek(a), peek(unsafe { a.add(4096) }), peek(unsafe { a.add(3 * 4096) })), (2, 4, 3));
}

fn file_private() {
    put("a", &[b'f'; 10000]);
    let f = ok!(open(c"a", O_RDONLY));
    let a = ok!(map(0, 12288, RW, MAP_PRIVATE, f, 0));
    close(f);
    eq!((peek(a), peek(unsafe { a.add(9999) }), peek(unsafe { a.add(10000) })), (b'f', b'f', 0));
    poke(a, b'!');
    eq!(get("a")[0], b'f');
    in_child(|| {
        eq!(peek(a), b'!');
        poke(unsafe { a.add(1) }, b'?');
    });
    eq!(peek(unsafe { a.add(1) }), b'f');
    let g = ok!(open(c"a", O_RDONLY));
    let b = ok!(map(0, 4096, PROT_READ, MAP_PRIVATE, g, 8192));
    eq!(peek(unsafe { b.add(1807) }), b'f');
    eq!(peek(unsafe { b.add(1808) }), 0);
}

fn file_shared() {
    put("a", &[b'f'; 8192]);
    let f = ok!(open(c"a", O_RDWR));
    let a = ok!(map(0, 8192, RW, MAP_SHARED, f, 0));
    let b = ok!(map(0, 4096, RW, MAP_SHARED, f, 4096));
    poke(unsafe { a.add(4097) }, b'x');
    eq!(peek(unsafe { b.add(1) }), b'x');
    in_child(|| poke(a, b'c'));
    eq!(peek(a), b'c');
    close(f);
    ok!(sys!(munmap, a, 8192));
    eq!((get("a")[0], get("a")[4097]), (b'c', b'x'));
}

fn shared_coherent() {
    put("a", &[b'.'; 4096]);
    let f = ok!(open(c"a", O_RDWR));
    let a = ok!(map(0, 4096, RW, MAP_SHARED, f, 0));
    ok!(sys!(pwrite64, f, b"written".as_ptr(), 7, 10));
    eq!(unsafe { std::slice::from_raw_parts(a.add(10), 7) }, b"written");
    poke(unsafe { a.add(10) }, b'W');
    let mut b = [0u8; 7];
    ok!(sys!(pread64, f, m(&mut b), 7, 10));
    eq!(&b, b"Written");
    eq!(&get("a")[10..17], b"Written");
    // a private mapping sees the file until it is written to itself
    let p1 = ok!(map(0, 4096, RW, MAP_PRIVATE, f, 0));
    eq!(peek(unsafe { p1.add(10) }), b'W');
    poke(a, b'1');
    poke(p1, b'2');
    eq!((peek(a), peek(p1)), (b'1', b'2'));
    ok!(sys!(unlink, c"a"));
    poke(a, b'3');
    ok!(sys!(pread64, f, m(&mut b), 1, 0));
    eq!(b[0], b'3');
}

fn shared_protect_rules() {
    put("a", &[1; 4096]);
    let f = ok!(open(c"a", O_RDONLY));
    let a = ok!(map(0, 4096, PROT_READ, MAP_SHARED, f, 0));
    err!(sys!(mprotect, a, 4096, RW), EACCES);
    let b = ok!(map(0, 4096, PROT_READ, MAP_PRIVATE, f, 0));
    ok!(sys!(mprotect, b, 4096, RW));
    poke(b, 5);
}

fn sigbus_past_eof() {
    catch_faults();
    put("a", &[1; 100]);
    let f = ok!(open(c"a", O_RDWR));
    for flags in [MAP_SHARED, MAP_PRIVATE] {
        let a = ok!(map(0, 8192, RW, flags, f, 0));
        eq!(touch(unsafe { a.add(4000) }, false), None);
        for w in [false, true] {
            let got = touch(unsafe { a.add(4096 + 5) }, w);
            say!("{:?}", got.map(|(s, code, at)| (s, code, at == a as usize + 4101)));
        }
    }
    err!(sys!(read, f, ok!(map(0, 8192, RW, MAP_SHARED, f, 0)) as i64 + 4096, 10), EFAULT);
    say!(
        "{}",
        ends(|| {
            action(SIGBUS, SIG_DFL);
            let a = ok!(map(0, 8192, RW, MAP_SHARED, f, 0));
            poke(unsafe { a.add(5000) }, 1);
        })
    );
}

fn truncate_mapped() {
    catch_faults();
    put("a", &[7; 12288]);
    let f = ok!(open(c"a", O_RDWR));
    let a = ok!(map(0, 12288, RW, MAP_SHARED, f, 0));
    eq!(peek(unsafe { a.add(9000) }), 7);
    ok!(sys!(ftruncate, f, 5000));
    eq!(touch(unsafe { a.add(9000) }, false).map(|x| x.0), Some(SIGBUS));
    eq!((peek(unsafe { a.add(4999) }), peek(unsafe { a.add(5000) })), (7, 0));
    ok!(sys!(ftruncate, f, 12288));
    eq!((touch(unsafe { a.add(9000) }, false), peek(unsafe { a.add(9000) })), (None, 0));
}

fn mremap_grow() {
    let a = anon(8192, MAP_PRIVATE);
    poke(a, 1);
    poke(unsafe { a.add(4096) }, 2);
    let b = ok!(sys!(mremap, a, 8192, 1 << 20, MREMAP_MAYMOVE)) as *mut u8;
    eq!((peek(b), peek(unsafe { b.add(4096) }), peek(unsafe { b.add(8192) })), (1, 2, 0));
    poke(unsafe { b.add((1 << 20) - 1) }, 3);
    eq!(ok!(sys!(mremap, b, 1 << 20, 4096, 0)) as *mut u8, b);
    catch_faults();
    eq!(touch(unsafe { b.add(4096) }, false).map(|x| x.0), Some(SIGSEGV));
    // room behind: it grows in place
    eq!(ok!(sys!(mremap, b, 4096, 8192, 0)) as *mut u8, b);
    eq!(peek(unsafe { b.add(4096) }), 0);
    put("a", &[9; 12288]);
    let f = ok!(open(c"a", O_RDONLY));
    let c = ok!(map(0, 4096, PROT_READ, MAP_PRIVATE, f, 4096));
    let d = ok!(sys!(mremap, c, 4096, 8192, MREMAP_MAYMOVE)) as *mut u8;
    eq!(peek(unsafe { d.add(8191) }), 9);
}

fn mremap_fixed() {
    let a = anon(8192, MAP_PRIVATE);
    poke(a, 1);
    let target = anon(16384, MAP_PRIVATE);
    poke(unsafe { target.add(12288) }, 9);
    let b = ok!(sys!(mremap, a, 8192, 8192, MREMAP_MAYMOVE | MREMAP_FIXED, target)) as *mut u8;
    eq!((b, peek(b), peek(unsafe { target.add(12288) })), (target, 1, 9));
    err!(sys!(mremap, a, 4096, 8192, 0), EFAULT);
    err!(sys!(mremap, b, 8192, 8192, MREMAP_MAYMOVE | MREMAP_FIXED, b as i64 + 4096), EINVAL);
    err!(sys!(mremap, b, 8192, 8192, MREMAP_FIXED, target), EINVAL);
    // an old length of 0 makes a second mapping of a shared one
    let s = anon(4096, MAP_SHARED);
    poke(s, 5);
    let t = ok!(sys!(mremap, s, 0, 4096, MREMAP_MAYMOVE)) as *mut u8;
    poke(t, 6);
    eq!(peek(s), 6);
}

fn mremap_args() {
    let a = anon(8192, MAP_PRIVATE);
    err!(sys!(mremap, a as i64 + 1, 4096, 4096, 0), EINVAL);
    err!(sys!(mremap, a, 4096, 0, 0), EINVAL);
    err!(sys!(mremap, a, 4096, 4096, 8), EINVAL);
    err!(sys!(mremap, 0x1000_0000, 4096, 8192, MREMAP_MAYMOVE), EFAULT);
    // something stands behind it
    err!(sys!(mremap, a, 4096, 8192, 0), ENOMEM);
    ok!(sys!(munmap, a as i64 + 4096, 4096));
    err!(sys!(mremap, a, 8192, 16384, MREMAP_MAYMOVE), EFAULT);
}

fn mremap_dontunmap() {
    let a = anon(8192, MAP_PRIVATE);
    poke(a, 1);
    let b = ok!(sys!(mremap, a, 8192, 8192, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0)) as *mut u8;
    eq!((peek(b), peek(a)), (1, 0));
}

fn madvise_dontneed() {
    let a = anon(8192, MAP_PRIVATE);
    poke(a, 1);
    poke(unsafe { a.add(4096) }, 2);
    ok!(sys!(madvise, a, 4096, MADV_DONTNEED));
    eq!((peek(a), peek(unsafe { a.add(4096) })), (0, 2));
    put("a", &[b'f'; 4096]);
    let f = ok!(open(c"a", O_RDONLY));
    let p1 = ok!(map(0, 4096, RW, MAP_PRIVATE, f, 0));
    poke(p1, b'!');
    ok!(sys!(madvise, p1, 4096, MADV_DONTNEED));
    eq!(peek(p1), b'f');
    let s = anon(4096, MAP_SHARED);
    poke(s, 3);
    ok!(sys!(madvise, s, 4096, MADV_DONTNEED));
    eq!(peek(s), 3);
    ok!(sys!(madvise, s, 4096, MADV_REMOVE));
    eq!(peek(s), 0);
    poke(a, 1);
    in_child(|| {
        ok!(sys!(madvise, a, 4096, MADV_DONTNEED));
        eq!(peek(a), 0);
    });
    eq!(peek(a), 1);
}

fn madvise_args() {
    let a = anon(3 * 4096, MAP_PRIVATE);
    for advice in
        [MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_FREE, MADV_DONTFORK, MADV_DOFORK, MADV_DONTDUMP, MADV_DODUMP]
    {
        ok!(sys!(madvise, a, 3 * 4096, advice));
    }
    err!(sys!(madvise, a, 4096, 999), EINVAL);
    err!(sys!(madvise, a as i64 + 1, 4096, MADV_NORMAL), EINVAL);
    ok!(sys!(madvise, a, 0, MADV_DONTNEED));
    ok!(sys!(munmap, a as i64 + 4096, 4096));
    err!(sys!(madvise, a, 3 * 4096, MADV_DONTNEED), ENOMEM);
}

fn brk_calls() {
    let start = ok!(sys!(brk, 0));
    check!(start > 0);
    eq!(ok!(sys!(brk, start + 100_000)), start + 100_000);
    let at = start as *mut u8;
    poke(unsafe { at.add(99_999) }, 5);
    eq!(peek(unsafe { at.add(50_000) }), 0);
    eq!(ok!(sys!(brk, start + 10)), start + 10);
    eq!(ok!(sys!(brk, start + 100_000)), start + 100_000);
    eq!(peek(unsafe { at.add(99_999) }), 0);
    eq!(ok!(sys!(brk, 5)), start + 100_000);
    eq!(ok!(sys!(brk, i64::MAX)), start + 100_000);
    eq!(ok!(sys!(brk, start)), start);
    let lim = rlimit { rlim_cur: 0, rlim_max: RLIM_INFINITY };
    ok!(sys!(setrlimit, RLIMIT_DATA, p(&lim)));
    eq!(ok!(sys!(brk, start + (1 << 20))), start);
}

fn brk_fork() {
    let start = ok!(sys!(brk, 0));
    ok!(sys!(brk, start + 8192));
    poke(start as *mut u8, 1);
    in_child(|| {
        eq!(ok!(sys!(brk, 0)), start + 8192);
        eq!(peek(start as *mut u8), 1);
        poke(start as *mut u8, 2);
        eq!(ok!(sys!(brk, start + 16384)), start + 16384);
    });
    eq!((ok!(sys!(brk, 0)), peek(start as *mut u8)), (start + 8192, 1));
}

#[inline(never)]
fn dig(depth: usize) -> u64 {
    let mut here = [depth as u8; 8192];
    poke(here.as_mut_ptr(), 1);
    if depth == 0 { 1 } else { dig(depth - 1) + u64::from(peek(here.as_ptr())) }
}

fn stack_growth() {
    // about 4 MiB of stack
    eq!(dig(500), 501);
    in_child(|| {
        eq!(dig(600), 601);
    });
    let maps = String::from_utf8(get("/proc/self/maps")).unwrap();
    eq!(maps.lines().filter(|l| l.ends_with("[stack]")).count(), 1);
}

fn stack_limit() {
    let status = wait(fork(|| {
        let lim = rlimit { rlim_cur: 1 << 20, rlim_max: RLIM_INFINITY };
        ok!(sys!(setrlimit, RLIMIT_STACK, p(&lim)));
        dig(500);
    }));
    say!("{}", show_status(status));
}

fn growsdown() {
    let a = ok!(map(0, 64 * 4096, PROT_NONE, ANON, -1, 0));
    ok!(sys!(munmap, a, 64 * 4096));
    let top = a as i64 + 63 * 4096;
    let s = ok!(map(top, 4096, RW, ANON | MAP_GROWSDOWN | MAP_FIXED, -1, 0));
    poke(s, 1);
    let maps = String::from_utf8(get("/proc/self/maps")).unwrap();
    check!(maps.contains(&format!("-{:x} rw-p", top + 4096)));
}

fn memfd_basic() {
    let f = ok!(sys!(memfd_create, c"my file", MFD_CLOEXEC)) as i32;
    eq!(ok!(sys!(fcntl, f, F_GETFD)), 1);
    ok!(write(f, b"hello"));
    let a = ok!(map(0, 4096, RW, MAP_SHARED, f, 0));
    eq!(peek(a), b'h');
    poke(a, b'H');
    let mut b = [0u8; 5];
    ok!(sys!(pread64, f, m(&mut b), 5, 0));
    eq!(&b, b"Hello");
    say!("{}", std::fs::read_link(format!("/proc/self/fd/{f}")).unwrap().display());
    let st = fstat(f);
    say!("{:o} {} {}", st.st_mode, st.st_nlink, st.st_size);
    err!(sys!(memfd_create, c"x", 0x8000), EINVAL);
    err!(sys!(memfd_create, &c("x".repeat(250)), 0), EINVAL);
    err!(sys!(memfd_create, 8, 0), EFAULT);
    err!(sys!(fcntl, f, F_ADD_SEALS, F_SEAL_WRITE), EPERM);
    eq!(ok!(sys!(fcntl, f, F_GET_SEALS)), i64::from(F_SEAL_SEAL));
}

fn memfd_seals() {
    let f = ok!(sys!(memfd_create, c"s", MFD_ALLOW_SEALING)) as i32;
    ok!(write(f, &[1; 8192]));
    eq!(ok!(sys!(fcntl, f, F_GET_SEALS)), 0);
    ok!(sys!(fcntl, f, F_ADD_SEALS, F_SEAL_SHRINK));
    err!(sys!(ftruncate, f, 4096), EPERM);
    ok!(sys!(ftruncate, f, 12288));
    ok!(sys!(fcntl, f, F_ADD_SEALS, F_SEAL_GROW));
    err!(sys!(ftruncate, f, 20000), EPERM);
    err!(sys!(pwrite64, f, b"x".as_ptr(), 1, 12288), EPERM);
    ok!(sys!(pwrite64, f, b"x".as_ptr(), 1, 0));
    let a = ok!(map(0, 4096, RW, MAP_SHARED, f, 0));
    err!(sys!(fcntl, f, F_ADD_SEALS, F_SEAL_WRITE), EBUSY);
    ok!(sys!(munmap, a, 4096));
    ok!(sys!(fcntl, f, F_ADD_SEALS, F_SEAL_WRITE));
    err!(write(f, b"x"), EPERM);
    err!(map(0, 4096, RW, MAP_SHARED, f, 0), EPERM);
    let r = ok!(map(0, 4096, PROT_READ, MAP_SHARED, f, 0));
    err!(sys!(mprotect, r, 4096, RW), EACCES);
    ok!(map(0, 4096, RW, MAP_PRIVATE, f, 0));
    err!(sys!(fallocate, f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), EPERM);
    ok!(sys!(fcntl, f, F_ADD_SEALS, F_SEAL_SEAL));
    err!(sys!(fcntl, f, F_ADD_SEALS, F_SEAL_SHRINK), EPERM);
    err!(sys!(fcntl, 0, F_GET_SEALS), EINVAL);
    let (_r, w) = pipe(0);
    err!(sys!(fcntl, w, F_ADD_SEALS, F_SEAL_WRITE), EINVAL);
}

fn memfd_shared_fork() {
    let f = ok!(sys!(memfd_create, c"s", 0)) as i32;
    ok!(sys!(ftruncate, f, 4096));
    in_child(|| {
        let a = ok!(map(0, 4096, RW, MAP_SHARED, f, 0));
        poke(a, 77);
    });
    let a = ok!(map(0, 4096, PROT_READ, MAP_SHARED, f, 0));
    eq!(peek(a), 77);
    let again = ok!(open(&c(format!("/proc/self/fd/{f}")), O_RDWR));
    eq!(ok!(read(again, 1)), [77]);
}

fn mlock_calls() {
    let a = anon(8192, MAP_PRIVATE);
    ok!(sys!(mlock, a, 8192));
    ok!(sys!(munlock, a, 8192));
    ok!(sys!(mlock2, a, 4096, 1));
    err!(sys!(mlock2, a, 4096, 2), EINVAL);
    err!(sys!(mlock, 0x1000_0000, 4096), ENOMEM);
    ok!(sys!(munlockall));
    err!(sys!(mlockall, 0), EINVAL);
    err!(sys!(mlockall, 8), EINVAL);
    in_child(|| {
        let lim = rlimit { rlim_cur: 0, rlim_max: 0 };
        ok!(sys!(setrlimit, RLIMIT_MEMLOCK, p(&lim)));
        ok!(sys!(setresuid, 1000, 1000, 1000));
        err!(sys!(mlock, a, 4096), EPERM);
    });
}

fn maps_line(at: *const u8) -> String {
    let maps = String::from_utf8(get("/proc/self/maps")).unwrap();
    for l in maps.lines() {
        let (range, rest) = l.split_once(' ').unwrap_or_default();
        let (a, b) = range.split_once('-').unwrap_or_default();
        let (a, b) = (usize::from_str_radix(a, 16).unwrap(), usize::from_str_radix(b, 16).unwrap());
        if a <= at as usize && (at as usize) < b {
            let w: Vec<&str> = rest.split_whitespace().collect();
            return format!("{} pages {} {} {}", (b - a) / 4096, w[0], w[1], w.get(4).copied().unwrap_or(""));
        }
    }
    "none".into()
}

fn maps_file() {
    put("a", &[1; 12288]);
    let f = ok!(open(c"a", O_RDWR));
    let guard = ok!(map(0, 64 * 4096, PROT_NONE, ANON, -1, 0));
    let at = |page: i64| guard as i64 + page * 4096;
    let a = ok!(map(at(4), 8192, PROT_READ, MAP_SHARED | MAP_FIXED, f, 4096));
    let b = ok!(map(at(10), 12288, RW, ANON | MAP_FIXED, -1, 0));
    let s = ok!(map(at(20), 4096, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
    for x in [a, b, s, at(7) as *mut u8] {
        say!("{}", maps_line(x));
    }
    ok!(sys!(unlink, c"a"));
    say!("{}", maps_line(a).contains("a"));
    let maps = String::from_utf8(get("/proc/self/maps")).unwrap();
    check!(maps.lines().any(|l| l.ends_with(" (deleted)")));
    check!(maps.contains("[stack]") && maps.contains(" 00:00 0                          [vdso]") && maps.contains("[vvar]"));
    let stack = 0u8;
    say!("{}", maps_line(&stack).contains("rw-p 00000000 [stack]"));
    check!(maps_line(maps_file as *const u8).contains("r-xp"));
}

fn adjacent_merge() {
    let guard = ok!(map(0, 64 * 4096, PROT_NONE, ANON, -1, 0));
    let at = |page: i64| guard as i64 + page * 4096;
    for i in 0..4 {
        ok!(map(at(8 + i), 4096, RW, ANON | MAP_FIXED, -1, 0));
    }
    say!("{}", maps_line(at(9) as *const u8));
    ok!(sys!(mprotect, at(9), 4096, PROT_READ));
    say!("{} / {}", maps_line(at(8) as *const u8), maps_line(at(9) as *const u8));
    ok!(sys!(mprotect, at(9), 4096, RW));
    say!("{}", maps_line(at(9) as *const u8));
}

fn smaps_fields() {
    let a = anon(40960, MAP_PRIVATE);
    for i in 0..10 {
        poke(unsafe { a.add(i * 4096) }, 1);
    }
    let text = String::from_utf8(get("/proc/self/smaps")).unwrap();
    check!(text.contains("Rss:") && text.contains("VmFlags:"));
    let status = String::from_utf8(get("/proc/self/status")).unwrap();
    for key in ["VmPeak", "VmSize", "VmRSS", "VmData", "VmStk", "VmExe"] {
        let line = status.lines().find(|l| l.starts_with(key)).unwrap_or("none");
        let kb: u64 = line.split_whitespace().nth(1).and_then(|w| w.parse().ok()).unwrap_or(0);
        say!("{key} {}", kb > 0 && line.ends_with("kB"));
    }
    let statm = String::from_utf8(get("/proc/self/statm")).unwrap();
    eq!(statm.split_whitespace().count(), 7);
}

fn mincore_calls() {
    let a = anon(4 * 4096, MAP_PRIVATE);
    poke(a, 1);
    poke(unsafe { a.add(8192) }, 1);
    let mut v = [9u8; 4];
    ok!(sys!(mincore, a, 4 * 4096, m(&mut v)));
    say!("{} {}", v[0] & 1, v[2] & 1);
    err!(sys!(mincore, a as i64 + 1, 4096, m(&mut v)), EINVAL);
    err!(sys!(mincore, 0x1000_0000, 4096, m(&mut v)), ENOMEM);
    err!(sys!(mincore, a, 4096, 8), EFAULT);
}

fn huge_sparse() {
    // a terabyte reserved, a few pages used
    let a = ok!(map(0, 1 << 40, RW, ANON | MAP_NORESERVE, -1, 0));
    for i in [0usize, 1 << 30, 1 << 35, (1 << 40) - 1] {
        poke(unsafe { a.add(i) }, 9);
    }
    in_child(|| {
        eq!(peek(unsafe { a.add(1 << 35) }), 9);
        poke(unsafe { a.add(1 << 36) }, 1);
    });
    eq!(peek(unsafe { a.add(1 << 36) }), 0);
    ok!(sys!(mprotect, a, 1u64 << 39, PROT_READ));
    eq!(peek(unsafe { a.add(1 << 30) }), 9);
    ok!(sys!(munmap, a, 1u64 << 40));
}

fn many_vmas() {
    let n = 2000usize;
    let a = anon(n * 8192, MAP_PRIVATE);
    for i in 0..n {
        ok!(sys!(mprotect, a as usize + i * 8192, 4096, PROT_READ));
        poke(unsafe { a.add(i * 8192 + 4096) }, i as u8);
    }
    for i in 0..n {
        eq!(peek(unsafe { a.add(i * 8192 + 4096) }), i as u8);
    }
    in_child(|| {
        for i in 0..n {
            eq!(peek(unsafe { a.add(i * 8192 + 4096) }), i as u8);
        }
    });
    ok!(sys!(mprotect, a, n * 8192, RW));
    poke(a, 1);
    ok!(sys!(munmap, a, n * 8192));
}

fn map_limits() {
    let lim = rlimit { rlim_cur: 64 << 20, rlim_max: RLIM_INFINITY };
    ok!(sys!(setrlimit, RLIMIT_AS, p(&lim)));
    err!(map(0, 100 << 20, RW, ANON, -1, 0), ENOMEM);
    ok!(map(0, 1 << 20, RW, ANON, -1, 0));
}

fn msync_calls() {
    put("a", &[1; 8192]);
    let f = ok!(open(c"a", O_RDWR));
    let a = ok!(map(0, 8192, RW, MAP_SHARED, f, 0));
    poke(a, 2);
    ok!(sys!(msync, a, 8192, MS_SYNC));
    ok!(sys!(msync, a, 8192, MS_ASYNC));
    err!(sys!(msync, a, 8192, MS_SYNC | MS_ASYNC), EINVAL);
    err!(sys!(msync, a as i64 + 1, 4096, MS_SYNC), EINVAL);
    ok!(sys!(munmap, a as i64 + 4096, 4096));
    err!(sys!(msync, a, 8192, MS_SYNC), ENOMEM);
}

fn zero_device() {
    let f = ok!(open(c"/dev/zero", O_RDWR));
    let a = ok!(map(0, 8192, RW, MAP_PRIVATE, f, 0));
    eq!(peek(a), 0);
    poke(a, 1);
    let s = ok!(map(0, 8192, RW, MAP_SHARED, f, 0));
    in_child(|| poke(s, 5));
    eq!(peek(s), 5);
}

fn cow_chain() {
    // each generation writes its own page and sees its ancestors' as they were at the fork
    let a = anon(16 * 4096, MAP_PRIVATE);
    fn generation(a: *mut u8, n: usize) {
        for i in 0..n {
            eq!(peek(unsafe { a.add(i * 4096) }), 1 + i as u8);
        }
        poke(unsafe { a.add(n * 4096) }, 1 + n as u8);
        if n < 12 {
            in_child(|| generation(a, n + 1));
        }
        for i in n + 1..16 {
            eq!(peek(unsafe { a.add(i * 4096) }), 0);
        }
    }
    generation(a, 0);
}

fn fork_leaves_no_traces() {
    // sparse, dense and untouched memory: whatever children write to it, neither the parent nor the next child finds it
    const PAGES: usize = 40;
    let sparse = anon(PAGES * 4096, MAP_PRIVATE);
    let dense = anon(PAGES * 4096, MAP_PRIVATE);
    let untouched = anon(PAGES * 4096, MAP_PRIVATE);
    for page in 0..PAGES {
        unsafe { dense.add(page * 4096).write_volatile(page as u8) };
        if page % 5 == 2 {
            unsafe { sparse.add(page * 4096 + 7).write_volatile(page as u8) };
        }
    }
    let clean = || unsafe {
        (0..PAGES).all(|page| {
            let want = if page % 5 == 2 { page as u8 } else { 0 };
            *dense.add(page * 4096) == page as u8
                && *sparse.add(page * 4096 + 7) == want
                && *sparse.add(page * 4096 + 9) == 0
                && *untouched.add(page * 4096) == 0
        })
    };
    for child in 0..12u8 {
        in_child(|| {
            check!(child % 3 == 1 || clean());
            for (i, area) in [sparse, dense, untouched].into_iter().enumerate() {
                for page in (usize::from(child) % 4..PAGES).step_by(1 + i) {
                    unsafe { std::slice::from_raw_parts_mut(area.add(page * 4096), 4096) }.fill(0xe0 + child);
                }
            }
            // and what the child writes, its own child has
            in_child(|| eq!(unsafe { *dense.add((usize::from(child) % 4) * 4096) }, 0xe0 + child));
        });
        if child % 2 == 0 {
            check!(clean());
        }
        unsafe { dense.write_volatile(child) };
        in_child(|| eq!(unsafe { *dense }, child));
        unsafe { dense.write_volatile(0) };
    }
    check!(clean());
}

fn fork_many_pages() {
    let n = 4096;
    let a = anon(n * 4096, MAP_PRIVATE);
    for i in 0..n {
        unsafe { (a.add(i * 4096) as *mut usize).write_volatile(i) };
    }
    for round in 0..3usize {
        in_child(|| {
            for i in (0..n).step_by(7) {
                eq!(unsafe { (a.add(i * 4096) as *mut usize).read_volatile() }, i + if i % 3 == 0 { round } else { 0 });
                unsafe { (a.add(i * 4096) as *mut usize).write_volatile(0) };
            }
        });
        for i in (0..n).step_by(3) {
            unsafe { (a.add(i * 4096) as *mut usize).write_volatile(i + round + 1) };
        }
    }
}

fn shared_anon_dev() {
    let a = anon(4096, MAP_SHARED);
    let text = String::from_utf8(get("/proc/self/maps")).unwrap();
    let line = text.lines().find(|l| l.starts_with(&format!("{:x}-", a as usize))).unwrap_or("none");
    say!("{}", line.split_whitespace().skip(5).collect::<Vec<_>>().join(" "));
}

fn wipe_on_fork() {
    let a = anon(8192, MAP_PRIVATE);
    poke(a, 5);
    poke(unsafe { a.add(4096) }, 6);
    ok!(sys!(madvise, a, 4096, MADV_WIPEONFORK));
    ok!(sys!(madvise, a as i64 + 4096, 4096, MADV_DONTFORK));
    in_child(|| {
        catch_faults();
        eq!(peek(a), 0);
        eq!(touch(unsafe { a.add(4096) }, false).map(|x| x.0), Some(SIGSEGV));
    });
    eq!((peek(a), peek(unsafe { a.add(4096) })), (5, 6));
}

fn read_into_cow() {
    // a call that writes to memory breaks copy-on-write as a store does
    put("a", &[b'n'; 8192]);
    let a = anon(8192, MAP_PRIVATE);
    poke(a, b'o');
    let f = ok!(open(c"a", O_RDONLY));
    in_child(|| {
        eq!(ok!(sys!(pread64, f, a, 8192, 0)), 8192);
        eq!(peek(a), b'n');
    });
    eq!((peek(a), peek(unsafe { a.add(4096) })), (b'o', 0));
    let p1 = ok!(map(0, 4096, RW, MAP_PRIVATE, f, 0));
    let (r, w) = pipe(0);
    ok!(write(w, b"via pipe"));
    ok!(sys!(read, r, p1, 8));
    eq!((peek(p1), get("a")[0]), (b'v', b'n'));
}

fn process_vm() {
    let a = anon(8192, MAP_PRIVATE);
    let child = fork(|| {
        unsafe { std::ptr::copy_nonoverlapping(b"in the child".as_ptr(), a, 12) };
        ok!(sys!(kill, getpid(), SIGSTOP));
        eq!(peek(a), b'W');
    });
    let mut status = 0;
    ok!(sys!(wait4, child, m(&mut status), WUNTRACED, 0));
    let mut b = [0u8; 12];
    let local = iovec { iov_base: b.as_mut_ptr().cast(), iov_len: 12 };
    let remote = iovec { iov_base: a.cast(), iov_len: 12 };
    eq!(ok!(sys!(process_vm_readv, child, p(&local), 1, p(&remote), 1, 0)), 12);
    eq!(unsafe { std::ptr::read_volatile(&b) }, *b"in the child");
    let local = iovec { iov_base: b"W".as_ptr() as *mut c_void, iov_len: 1 };
    eq!(ok!(sys!(process_vm_writev, child, p(&local), 1, p(&remote), 1, 0)), 1);
    let bad = iovec { iov_base: 8 as *mut c_void, iov_len: 1 };
    err!(sys!(process_vm_readv, child, p(&local), 1, p(&bad), 1, 0), EFAULT);
    err!(sys!(process_vm_readv, child, p(&local), 1, p(&remote), 1, 1), EINVAL);
    err!(sys!(process_vm_readv, 99999, p(&local), 1, p(&remote), 1, 0), ESRCH);
    ok!(sys!(kill, child, SIGCONT));
    eq!(wait(child), 0);
}

fn exec_mapping() {
    // a file that is executed from a mapping, as a loader does it
    put("code", &[0xb8, 7, 0, 0, 0, 0xc3]);
    let f = ok!(open(c"code", O_RDONLY));
    let x = ok!(map(0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, f, 0));
    let g: extern "C" fn() -> i32 = unsafe { std::mem::transmute(x) };
    eq!(g(), 7);
    ok!(sys!(mprotect, x, 4096, PROT_READ | PROT_WRITE | PROT_EXEC));
    poke(unsafe { x.add(1) }, 8);
    eq!(g(), 8);
    eq!(get("code")[1], 7);
}

fn populate() {
    let a = ok!(map(0, 1 << 20, RW, ANON | MAP_POPULATE, -1, 0));
    eq!(peek(unsafe { a.add(777_777) }), 0);
    let b = ok!(map(0, 1 << 20, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_LOCKED, -1, 0));
    poke(b, 1);
    ok!(sys!(madvise, a, 1 << 20, MADV_POPULATE_WRITE));
    ok!(sys!(madvise, a, 1 << 20, MADV_POPULATE_READ));
}

fn membarrier_call() {
    let supported = ok!(sys!(membarrier, 0, 0, 0));
    check!(supported & 8 != 0);
    ok!(sys!(membarrier, 16, 0, 0));
    ok!(sys!(membarrier, 8, 0, 0));
    err!(sys!(membarrier, 1 << 20, 0, 0), EINVAL);
}
