//! The initial stack: strings, auxiliary vector, pointers (`create_elf_tables`).

use super::{Ids, elf::Loaded};
use crate::{
    mm::{MemLimits, Mm},
    user::UserAddr,
};
use abi::{PAGE_SIZE, Result, bail, mm::Prot};

/// Room below what is written, mapped from the beginning.
const ROOM: u64 = 128 << 10;
/// `USER_HZ`
const CLOCK_TICKS: u64 = 100;

/// What goes onto the stack.
pub struct Start<'a> {
    /// `AT_EXECFN`
    pub path: &'a [u8],
    /// Arguments.
    pub argv: &'a [Vec<u8>],
    /// Environment.
    pub envp: &'a [Vec<u8>],
    /// For the auxiliary vector.
    pub ids: Ids,
    /// Whether the stack's place is random.
    pub randomize: bool,
    /// `AT_SYSINFO_EHDR`
    pub vdso: u64,
}

/// Maps the stack and writes it; returns the stack pointer.
pub fn build(mm: &Mm, start: &Start<'_>, loaded: &Loaded, limits: &MemLimits) -> Result<u64> {
    let random = |mask: u64| if start.randomize { host::rand::u64() & mask } else { 0 };
    // 22 bits of pages, as on Linux.
    let top = abi::page_down(mm.address_limits().end) - random(0x3f_ffff) * PAGE_SIZE;

    // From the top down: a null word, the program's name, the environment, the arguments.
    let mut strings = Vec::new();
    let mut offsets = |list: &[Vec<u8>]| -> Vec<u64> {
        list.iter()
            .map(|s| {
                let at = strings.len() as u64;
                strings.extend_from_slice(s);
                strings.push(0);
                at
            })
            .collect()
    };
    let argv = offsets(start.argv);
    let envp = offsets(start.envp);
    let execfn = offsets(&[start.path.to_vec()]);
    let args_len: u64 = start.argv.iter().map(|s| s.len() as u64 + 1).sum();
    let env_len: u64 = start.envp.iter().map(|s| s.len() as u64 + 1).sum();
    strings.extend_from_slice(&[0; 8]);
    let strings_at = top - strings.len() as u64;

    // Below: the platform's name, random bytes, and then the table, which ends 16-byte aligned.
    let mut at = (strings_at & !15) - (random(0x1fff) & !15);
    at -= 16;
    let platform_at = at;
    at -= 16;
    let random_at = at;
    let mut random_bytes = [0; 16];
    host::rand::fill(&mut random_bytes)?;

    let execfn_at = execfn.first().map_or(0, |o| strings_at + o);
    let auxv = auxiliary(start, loaded, execfn_at, random_at, platform_at);
    let words = 1 + argv.len() + 1 + envp.len() + 1 + 2 * auxv.len();
    let pointer = (at - 8 * words as u64) & !15;
    let mut table: Vec<u64> = Vec::with_capacity(words);
    table.push(argv.len() as u64);
    table.extend(argv.iter().map(|o| strings_at + o));
    table.push(0);
    table.extend(envp.iter().map(|o| strings_at + o));
    table.push(0);
    table.extend(auxv.iter().flat_map(|&(k, v)| [k, v]));

    let used = top - pointer;
    if used > limits.stack {
        bail!(E2BIG, "stack's limit");
    }
    let size = abi::page_up(used + ROOM).unwrap_or(used).min(abi::page_up(limits.stack.max(used)).unwrap_or(u64::MAX));
    let mut prot = Prot::READ | Prot::WRITE;
    prot.set(Prot::EXEC, loaded.exec_stack);
    mm.map_stack(top, size, prot)?;
    mm.copy_out(UserAddr(strings_at), &strings)?;
    mm.copy_out(UserAddr(platform_at), b"x86_64\0")?;
    mm.copy_out(UserAddr(random_at), &random_bytes)?;
    let bytes: Vec<u8> = table.iter().flat_map(|w| w.to_ne_bytes()).collect();
    mm.copy_out(UserAddr(pointer), &bytes)?;
    mm.update_layout(|l| {
        l.args = strings_at..strings_at + args_len;
        l.env = l.args.end..l.args.end + env_len;
        l.auxv = auxv;
        l.start_stack = pointer;
    });
    Ok(pointer)
}

/// The auxiliary vector. No `AT_RSEQ_*`: rseq(2) takes its classical size.
fn auxiliary(start: &Start<'_>, loaded: &Loaded, execfn: u64, random: u64, platform: u64) -> Vec<(u64, u64)> {
    let host = host::process::hardware_capabilities();
    let ids = &start.ids;
    vec![
        (libc::AT_SYSINFO_EHDR, start.vdso),
        (libc::AT_MINSIGSTKSZ, host.min_signal_stack),
        (libc::AT_HWCAP, host.hwcap),
        (libc::AT_PAGESZ, PAGE_SIZE),
        (libc::AT_CLKTCK, CLOCK_TICKS),
        (libc::AT_PHDR, loaded.phdr),
        (libc::AT_PHENT, 56),
        (libc::AT_PHNUM, loaded.phnum),
        (libc::AT_BASE, loaded.base),
        (libc::AT_FLAGS, 0),
        (libc::AT_ENTRY, loaded.entry),
        (libc::AT_UID, ids.uid.into()),
        (libc::AT_EUID, ids.euid.into()),
        (libc::AT_GID, ids.gid.into()),
        (libc::AT_EGID, ids.egid.into()),
        (libc::AT_SECURE, ids.secure.into()),
        (libc::AT_RANDOM, random),
        (libc::AT_HWCAP2, host.hwcap2),
        (libc::AT_EXECFN, execfn),
        (libc::AT_PLATFORM, platform),
        (libc::AT_NULL, 0),
    ]
}
