//! What the host lets a stub do. Two filters; of their answers the stricter one holds.
//!
//! The first is every stub thread's. It lets the tracer's entries make what a stub is made of, and traps everything else. The second is
//! installed by each thread for application code, with a listener of its own: from then on the three calls of the
//! [stub's code](super::code) are notifications, and every other call from wherever is a trap, but for two of futex(2), which sleep in a
//! [bed](super::beds) and wake who sleeps there. The operator, which never runs application code, has one under which it may map, unmap and
//! protect from one place, and ring from another. Without a listener, two calls of futex(2) are allowed with exactly the arguments that the stub's
//! code gives them, and the end of the thread itself.

use super::code::RING_NR;
use super::image::Place;
use crate::stub::{self, CODE};
use libc::{BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter};

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
/// Offsets in `struct seccomp_data`.
const NR: u32 = 0;
const ARCH: u32 = 4;
const IP_LOW: u32 = 8;
const IP_HIGH: u32 = 12;
const ARG0: u32 = 16;

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

fn load(offset: u32) -> sock_filter {
    statement(BPF_LD | BPF_W | BPF_ABS, offset)
}

fn answer(action: u32) -> sock_filter {
    statement(BPF_RET | BPF_K, action)
}

/// Goes on behind the next instruction if the loaded word is `k`, else with it.
fn skip_if(k: u32) -> sock_filter {
    sock_filter { code: (BPF_JMP | BPF_JEQ | BPF_K) as u16, jt: 1, jf: 0, k }
}

/// Goes on with the next instruction if the loaded word is `k`, else behind it.
fn next_if(k: u32) -> sock_filter {
    sock_filter { code: (BPF_JMP | BPF_JEQ | BPF_K) as u16, jt: 0, jf: 1, k }
}

/// Any call that is not the stub's own, and any of another architecture (`int 0x80`), is a trap.
fn begin() -> Vec<sock_filter> {
    let trap = answer(libc::SECCOMP_RET_TRAP);
    vec![load(ARCH), skip_if(AUDIT_ARCH_X86_64), trap, load(IP_HIGH), skip_if((CODE >> 32) as u32), trap, load(IP_LOW)]
}

/// The filter of all threads of a stub. Those for application code go on to [`of_threads`] or [`of_silent_thread`].
pub fn of_stub() -> Vec<sock_filter> {
    let mut f = begin();
    let page = !(abi::PAGE_SIZE as u32 - 1);
    f.extend([statement(BPF_ALU | BPF_AND | BPF_K, page), skip_if(CODE as u32), answer(libc::SECCOMP_RET_TRAP), load(NR)]);
    let own = [
        RING_NR,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mprotect,
        libc::SYS_exit,
        libc::SYS_sigaltstack,
        libc::SYS_seccomp,
        libc::SYS_futex,
    ];
    for nr in own {
        f.extend([next_if(nr as u32), answer(libc::SECCOMP_RET_ALLOW)]);
    }
    let trap = answer(libc::SECCOMP_RET_TRAP);
    f.extend([skip_if(libc::SYS_clone as u32), trap, load(ARG0 + 4), skip_if(0), trap, load(ARG0)]);
    for flags in [stub::CLONE_TRACED_THREAD, stub::CLONE_PROCESS, stub::CLONE_ZYGOTE] {
        f.extend([next_if(flags as u32), answer(libc::SECCOMP_RET_ALLOW)]);
    }
    f.push(trap);
    f
}

/// Goes on if argument `n` is `value`, of which the host takes 32 bits or all 64; else the call is a trap.
fn must_be(n: u32, value: u64, wide: bool) -> Vec<sock_filter> {
    let at = ARG0 + 8 * n;
    let trap = answer(libc::SECCOMP_RET_TRAP);
    let mut f = vec![load(at), skip_if(value as u32), trap];
    if wide {
        f.extend([load(at + 4), skip_if((value >> 32) as u32), trap]);
    }
    f
}

/// Allows the call `nr` from a place if `arguments` do; from elsewhere goes on behind that.
fn call(place: Place, nr: i64, arguments: Vec<sock_filter>) -> Vec<sock_filter> {
    let mut rest = vec![load(NR), skip_if(nr as u32), answer(libc::SECCOMP_RET_TRAP)];
    rest.extend(arguments);
    rest.push(answer(libc::SECCOMP_RET_ALLOW));
    let code = (BPF_JMP | BPF_JEQ | BPF_K) as u16;
    rest.insert(0, sock_filter { code, jt: 0, jf: rest.len() as u8, k: place.address() as u32 });
    rest
}

/// The arguments of futex(2) to wake so many on a word.
fn wakes(word: Vec<sock_filter>, most: i32) -> Vec<sock_filter> {
    [word, must_be(1, libc::FUTEX_WAKE as u64, false), must_be(2, most as u64, false)].concat()
}

/// Those to sleep on a word, without a timeout.
fn sleeps(word: Vec<sock_filter>) -> Vec<sock_filter> {
    [word, must_be(1, libc::FUTEX_WAIT as u64, false), must_be(3, 0, true)].concat()
}

/// Goes on if the first argument is the address of a bed; else the call is a trap.
fn is_bed() -> Vec<sock_filter> {
    let trap = answer(libc::SECCOMP_RET_TRAP);
    let within = statement(BPF_ALU | BPF_AND | BPF_K, !(stub::BEDS_LEN as u32 - 1));
    vec![load(ARG0), within, skip_if(stub::BEDS as u32), trap, load(ARG0 + 4), skip_if((stub::BEDS >> 32) as u32), trap]
}

/// The filter of a thread without a listener, on top of [`of_stub`]: it may wake who sleeps on the word at `shown`, sleep itself on the
/// one at `order`, and end itself.
pub fn of_silent_thread(shown: u64, order: u64) -> Vec<sock_filter> {
    let mut f = begin();
    f.extend(call(Place::Woken, libc::SYS_futex, wakes(must_be(0, shown, true), 1)));
    f.extend(call(Place::Slept, libc::SYS_futex, sleeps(must_be(0, order, true))));
    f.extend(call(Place::Ended, libc::SYS_exit, must_be(0, 0, false)));
    f.push(answer(libc::SECCOMP_RET_TRAP));
    f
}

/// A filter as seccomp(2) takes it, to lie `at` an address: `struct sock_fprog`, and behind it what that points to.
pub fn program(filter: &[sock_filter], at: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(16 + 8 * filter.len());
    bytes.extend((filter.len() as u64).to_le_bytes());
    bytes.extend((at + 16).to_le_bytes());
    for f in filter {
        bytes.extend(f.code.to_le_bytes());
        bytes.extend([f.jt, f.jf]);
        bytes.extend(f.k.to_le_bytes());
    }
    bytes
}

/// The filter of the operator, on top of [`of_stub`]: it rings, and carries out what the sentry has ordered.
pub fn of_operator() -> Vec<sock_filter> {
    let trap = answer(libc::SECCOMP_RET_TRAP);
    let mut f = begin();
    f.extend([next_if(Place::Reported.address() as u32), answer(libc::SECCOMP_RET_USER_NOTIF)]);
    f.extend([skip_if(Place::Carried.address() as u32), trap, load(NR)]);
    for nr in [libc::SYS_mmap, libc::SYS_munmap, libc::SYS_mprotect] {
        f.extend([next_if(nr as u32), answer(libc::SECCOMP_RET_ALLOW)]);
    }
    f.push(trap);
    f
}

/// The filter of a thread for application code, on top of [`of_stub`].
pub fn of_threads() -> Vec<sock_filter> {
    let mut f = begin();
    for place in [Place::Rung, Place::Operated, Place::Done] {
        f.extend([next_if(place.address() as u32), answer(libc::SECCOMP_RET_USER_NOTIF)]);
    }
    f.extend(call(Place::Roused, libc::SYS_futex, wakes(is_bed(), i32::MAX)));
    f.extend(call(Place::Rested, libc::SYS_futex, sleeps(is_bed())));
    f.push(answer(libc::SECCOMP_RET_TRAP));
    f
}
