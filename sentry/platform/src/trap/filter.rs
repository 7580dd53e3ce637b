//! What the host lets a stub do. Two filters; of their answers the stricter one holds.
//!
//! The first is every stub thread's. It lets the tracer's entries make what a stub is made of, and traps everything else. The second is
//! installed by each thread for application code, with a listener of its own: from then on the three calls of the
//! [stub's code](super::code) are notifications, and every other call from wherever is a trap.

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

/// The filter of all threads of a stub.
pub fn of_stub() -> Vec<sock_filter> {
    let mut f = begin();
    let page = !(abi::PAGE_SIZE as u32 - 1);
    f.extend([statement(BPF_ALU | BPF_AND | BPF_K, page), skip_if(CODE as u32), answer(libc::SECCOMP_RET_TRAP), load(NR)]);
    for nr in [RING_NR, libc::SYS_mmap, libc::SYS_munmap, libc::SYS_mprotect, libc::SYS_exit, libc::SYS_sigaltstack, libc::SYS_seccomp] {
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

/// The filter of a thread for application code, on top.
pub fn of_threads() -> Vec<sock_filter> {
    let mut f = begin();
    for place in [Place::Rung, Place::Operated, Place::Done] {
        f.extend([next_if(place.address() as u32), answer(libc::SECCOMP_RET_USER_NOTIF)]);
    }
    f.push(answer(libc::SECCOMP_RET_TRAP));
    f
}
