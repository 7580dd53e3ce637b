//! The vDSO that applications get: a shared library of one page, which answers what the time is without a system call.
//!
//! [`image`] is the whole ELF file, laid out below by hand, so that no linker is needed: dynamic symbols with version `LINUX_2.6`,
//! unwind information, section headers for debuggers. Its code reads the page that is mapped right before it, which
//! `kernel::time::vdso` keeps; the offsets in it are in [`page`]. Where that page cannot tell (no usable time stamp counter,
//! figures too old, another clock), the functions make the call.
//!
//! The functions call nothing and keep nothing on the stack, so that one description of frames serves them all.

/// What lies where in the page before the image. Times are of the moment when the time stamp counter was at [`BASE`](page::BASE).
pub mod page {
    /// u32: odd while the page cannot be used (being written, or for ever).
    pub const SEQUENCE: u64 = 0;
    /// u32: not zero where the number of the processor may be told without asking.
    pub const CPU: u64 = 4;
    /// u64: the time stamp counter.
    pub const BASE: u64 = 8;
    /// u64: so many ticks from there on the page is good.
    pub const HORIZON: u64 = 16;
    /// u64: nanoseconds a tick, times 2³².
    pub const RATE: u64 = 24;
    /// Seconds and nanoseconds, u64 each, of CLOCK_REALTIME.
    pub const REALTIME: u64 = 32;
    /// The same of CLOCK_MONOTONIC.
    pub const MONOTONIC: u64 = 48;
    /// The same of CLOCK_BOOTTIME.
    pub const BOOTTIME: u64 = 64;
    /// Bytes in use.
    pub const LEN: usize = 80;
}

/// Resolution of the coarse clocks, in nanoseconds.
pub const COARSE_NS: u64 = 4_000_000;
/// So long after a full second, in nanoseconds, the second of the coarse clock may not have come yet: a tick of the slowest
/// kernels, and some.
const TICK_NS: u64 = 12_000_000;

/// The hash of a name in ELF files.
const fn elf_hash(name: &[u8]) -> u32 {
    let (mut h, mut i) = (0_u32, 0);
    while i < name.len() {
        h = (h << 4).wrapping_add(name[i] as u32);
        let high = h & 0xf000_0000;
        h = (h ^ (high >> 24)) & !high;
        i += 1;
    }
    h
}

core::arch::global_asm!(
    ".pushsection .rodata.caisson_vdso,\"a\",@progbits",
    ".globl caisson_vdso_begin", ".hidden caisson_vdso_begin",
    ".globl caisson_vdso_end", ".hidden caisson_vdso_end",
    ".balign 64",
    "caisson_vdso_begin:",
    ".Lvdso:",
    // Elf64_Ehdr: a shared object for x86-64.
    ".ascii \"\\177ELF\"", ".byte 2, 1, 1, 0", ".quad 0",
    ".short 3, 62", ".long 1",
    ".quad 0", ".quad .Lvdso_segments - .Lvdso", ".quad .Lvdso_sections - .Lvdso",
    ".long 0", ".short 64, 56, 3, 64, 11, 10",
    // Elf64_Phdr: everything; the dynamic section; the index of the unwind information.
    ".Lvdso_segments:",
    ".macro vdso_segment type, flags, from, to, align",
    ".long \\type, \\flags", ".quad \\from - .Lvdso, \\from - .Lvdso, \\from - .Lvdso, \\to - \\from, \\to - \\from, \\align",
    ".endm",
    "vdso_segment 1, 5, .Lvdso, .Lvdso_end, 4096",
    "vdso_segment 2, 4, .Lvdso_dynamic, .Lvdso_dynamic_end, 8",
    "vdso_segment 0x6474e550, 4, .Lvdso_unwind_index, .Lvdso_unwind_index_end, 4",

    // A hash table with one bucket: a list of all symbols.
    ".balign 8", ".Lvdso_hash:",
    ".long 1, 11, 1, 0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0",
    ".Lvdso_hash_end:",

    // Elf64_Sym: each function under two names, the second of them weak.
    ".macro vdso_symbol name, binding, from, to",
    ".long \\name - .Lvdso_strings", ".byte (\\binding << 4) | 2, 0", ".short 9", ".quad \\from - .Lvdso, \\to - \\from",
    ".endm",
    ".balign 8", ".Lvdso_symbols:",
    ".fill 24, 1, 0",
    "vdso_symbol .Lvdso_s1, 1, .Lvdso_clock_gettime, .Lvdso_clock_gettime_end",
    "vdso_symbol .Lvdso_s1 + 7, 2, .Lvdso_clock_gettime, .Lvdso_clock_gettime_end",
    "vdso_symbol .Lvdso_s2, 1, .Lvdso_gettimeofday, .Lvdso_gettimeofday_end",
    "vdso_symbol .Lvdso_s2 + 7, 2, .Lvdso_gettimeofday, .Lvdso_gettimeofday_end",
    "vdso_symbol .Lvdso_s3, 1, .Lvdso_time, .Lvdso_time_end",
    "vdso_symbol .Lvdso_s3 + 7, 2, .Lvdso_time, .Lvdso_time_end",
    "vdso_symbol .Lvdso_s4, 1, .Lvdso_clock_getres, .Lvdso_clock_getres_end",
    "vdso_symbol .Lvdso_s4 + 7, 2, .Lvdso_clock_getres, .Lvdso_clock_getres_end",
    "vdso_symbol .Lvdso_s5, 1, .Lvdso_getcpu, .Lvdso_getcpu_end",
    "vdso_symbol .Lvdso_s5 + 7, 2, .Lvdso_getcpu, .Lvdso_getcpu_end",
    ".Lvdso_symbols_end:",

    ".Lvdso_strings:", ".byte 0",
    ".Lvdso_soname: .asciz \"linux-vdso.so.1\"",
    ".Lvdso_version: .asciz \"LINUX_2.6\"",
    ".Lvdso_s1: .asciz \"__vdso_clock_gettime\"",
    ".Lvdso_s2: .asciz \"__vdso_gettimeofday\"",
    ".Lvdso_s3: .asciz \"__vdso_time\"",
    ".Lvdso_s4: .asciz \"__vdso_clock_getres\"",
    ".Lvdso_s5: .asciz \"__vdso_getcpu\"",
    ".Lvdso_strings_end:",

    // The version of each symbol, and the versions there are: the library's own name, and LINUX_2.6.
    ".balign 2", ".Lvdso_versions:", ".short 0, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2", ".Lvdso_versions_end:",
    ".balign 8", ".Lvdso_definitions:",
    ".short 1, 1, 1, 1", ".long {soname_hash}, 20, 28", ".long .Lvdso_soname - .Lvdso_strings, 0",
    ".short 1, 0, 2, 1", ".long {version_hash}, 20, 0", ".long .Lvdso_version - .Lvdso_strings, 0",
    ".Lvdso_definitions_end:",

    ".balign 8", ".Lvdso_dynamic:",
    // SONAME, HASH, STRTAB, SYMTAB, STRSZ, SYMENT, VERDEF, VERDEFNUM, VERSYM.
    ".quad 14, .Lvdso_soname - .Lvdso_strings",
    ".quad 4, .Lvdso_hash - .Lvdso",
    ".quad 5, .Lvdso_strings - .Lvdso",
    ".quad 6, .Lvdso_symbols - .Lvdso",
    ".quad 10, .Lvdso_strings_end - .Lvdso_strings",
    ".quad 11, 24",
    ".quad 0x6ffffffc, .Lvdso_definitions - .Lvdso",
    ".quad 0x6ffffffd, 2",
    ".quad 0x6ffffff0, .Lvdso_versions - .Lvdso",
    ".quad 0, 0",
    ".Lvdso_dynamic_end:",

    // .eh_frame_hdr with one entry, and .eh_frame: everywhere the return address is at the top of the stack.
    ".balign 4", ".Lvdso_unwind_index:",
    ".byte 1, 0x1b, 3, 0x3b", ".long .Lvdso_unwind - .", ".long 1",
    ".long .Lvdso_text - .Lvdso_unwind_index, .Lvdso_fde - .Lvdso_unwind_index",
    ".Lvdso_unwind_index_end:",
    ".balign 8", ".Lvdso_unwind:",
    ".long .Lvdso_cie_end - .Lvdso_cie", ".Lvdso_cie:",
    // Augmentation "zR", factors 1 and -8, return address in column 16, addresses relative to where they stand; CFA = rsp + 8,
    // the return address at CFA - 8.
    ".long 0", ".byte 1", ".asciz \"zR\"", ".byte 1, 0x78, 16, 1, 0x1b", ".byte 0x0c, 7, 8, 0x90, 1",
    ".balign 8", ".Lvdso_cie_end:",
    ".Lvdso_fde:", ".long .Lvdso_fde_end - .Lvdso_fde_begin", ".Lvdso_fde_begin:",
    ".long . - .Lvdso_unwind", ".long .Lvdso_text - .", ".long .Lvdso_text_end - .Lvdso_text", ".byte 0",
    ".balign 8", ".Lvdso_fde_end:",
    ".long 0", ".Lvdso_unwind_end:",

    // For clocks 0 to 11: where the page has it, 0: nowhere; and its resolution, 0: ask.
    ".Lvdso_places:",
    ".byte {real}, {mono}, 0, 0, {mono}, 0, {mono}, {boot}, 0, 0, 0, {real}",
    ".balign 4", ".Lvdso_resolutions:",
    ".long 1, 1, 0, 0, 1, {coarse}, {coarse}, 1, 0, 0, 0, 1",

    ".balign 16", ".Lvdso_text:",
    // The time of the clock at \\place in the page (a register or a number) in r10 (seconds) and rax (nanoseconds), or \\failed.
    // Changes rcx, rdx, r8, r9.
    ".macro vdso_now place, failed",
    "lea r8, [rip + .Lvdso - 4096]",
    "771: mov r9d, [r8]",
    "test r9d, 1",
    "jnz \\failed",
    "rdtscp",
    "shl rdx, 32",
    "or rax, rdx",
    "sub rax, [r8 + {base}]",
    "cmp rax, [r8 + {horizon}]",
    "jae \\failed",
    "mul qword ptr [r8 + {rate}]",
    "shrd rax, rdx, 32",
    "mov r10, [r8 + \\place]",
    "add rax, [r8 + \\place + 8]",
    "cmp r9d, [r8]",
    "jne 771b",
    "cmp rax, 1000000000",
    "jb 772f",
    "sub rax, 1000000000",
    "inc r10",
    "772:",
    ".endm",

    // clock_gettime(edi: clock, rsi: timespec)
    ".balign 16", ".Lvdso_clock_gettime:",
    "cmp edi, 11",
    "ja 9f",
    "mov eax, edi",
    "lea rdx, [rip + .Lvdso_places]",
    "movzx r11d, byte ptr [rdx + rax]",
    "test r11d, r11d",
    "jz 9f",
    "vdso_now r11, 9f",
    "mov [rsi], r10",
    "mov [rsi + 8], rax",
    "xor eax, eax",
    "ret",
    "9: mov eax, {nr_clock_gettime}",
    "syscall",
    "ret",
    ".Lvdso_clock_gettime_end:",

    // gettimeofday(rdi: timeval, rsi: timezone)
    ".balign 16", ".Lvdso_gettimeofday:",
    "test rsi, rsi",
    "jnz 9f",
    "test rdi, rdi",
    "jz 8f",
    "vdso_now {real}, 9f",
    // Divided by 1000: exact for all nanoseconds of a second.
    "imul rax, rax, 274877907",
    "shr rax, 38",
    "mov [rdi], r10",
    "mov [rdi + 8], rax",
    "8: xor eax, eax",
    "ret",
    "9: mov eax, {nr_gettimeofday}",
    "syscall",
    "ret",
    ".Lvdso_gettimeofday_end:",

    // time(rdi: time_t): what the coarse clock says, which stamps files, too.
    ".balign 16", ".Lvdso_time:",
    "vdso_now {real}, 9f",
    "cmp rax, {tick}",
    "jb 9f",
    "mov rax, r10",
    "test rdi, rdi",
    "jz 8f",
    "mov [rdi], rax",
    "8: ret",
    "9: mov eax, {nr_time}",
    "syscall",
    "ret",
    ".Lvdso_time_end:",

    // clock_getres(edi: clock, rsi: timespec)
    ".balign 16", ".Lvdso_clock_getres:",
    "cmp edi, 11",
    "ja 9f",
    "mov eax, edi",
    "lea rdx, [rip + .Lvdso_resolutions]",
    "mov eax, [rdx + 4 * rax]",
    "test eax, eax",
    "jz 9f",
    "test rsi, rsi",
    "jz 8f",
    "mov qword ptr [rsi], 0",
    "mov [rsi + 8], rax",
    "8: xor eax, eax",
    "ret",
    "9: mov eax, {nr_clock_getres}",
    "syscall",
    "ret",
    ".Lvdso_clock_getres_end:",

    // getcpu(rdi: processor, rsi: node). Linux keeps both in TSC_AUX.
    ".balign 16", ".Lvdso_getcpu:",
    "lea r8, [rip + .Lvdso - 4096]",
    "cmp dword ptr [r8 + {cpu}], 0",
    "je 9f",
    "rdtscp",
    "mov eax, ecx",
    "and eax, 0xfff",
    "shr ecx, 12",
    "test rdi, rdi",
    "jz 7f",
    "mov [rdi], eax",
    "7: test rsi, rsi",
    "jz 8f",
    "mov [rsi], ecx",
    "8: xor eax, eax",
    "ret",
    "9: mov eax, {nr_getcpu}",
    "syscall",
    "ret",
    ".Lvdso_getcpu_end:",
    ".Lvdso_text_end:",

    ".Lvdso_names: .byte 0",
    ".Lvdso_n1: .asciz \".hash\"",
    ".Lvdso_n2: .asciz \".dynsym\"",
    ".Lvdso_n3: .asciz \".dynstr\"",
    ".Lvdso_n4: .asciz \".gnu.version\"",
    ".Lvdso_n5: .asciz \".gnu.version_d\"",
    ".Lvdso_n6: .asciz \".dynamic\"",
    ".Lvdso_n7: .asciz \".eh_frame_hdr\"",
    ".Lvdso_n8: .asciz \".eh_frame\"",
    ".Lvdso_n9: .asciz \".text\"",
    ".Lvdso_n10: .asciz \".shstrtab\"",
    ".Lvdso_names_end:",
    // Elf64_Shdr.
    ".macro vdso_section name, type, flags, address, from, to, link, info, align, entry",
    ".long \\name - .Lvdso_names, \\type", ".quad \\flags, \\address, \\from - .Lvdso, \\to - \\from", ".long \\link, \\info", ".quad \\align, \\entry",
    ".endm",
    ".balign 8", ".Lvdso_sections:",
    ".fill 64, 1, 0",
    "vdso_section .Lvdso_n1, 5, 2, .Lvdso_hash - .Lvdso, .Lvdso_hash, .Lvdso_hash_end, 2, 0, 8, 4",
    "vdso_section .Lvdso_n2, 11, 2, .Lvdso_symbols - .Lvdso, .Lvdso_symbols, .Lvdso_symbols_end, 3, 1, 8, 24",
    "vdso_section .Lvdso_n3, 3, 2, .Lvdso_strings - .Lvdso, .Lvdso_strings, .Lvdso_strings_end, 0, 0, 1, 0",
    "vdso_section .Lvdso_n4, 0x6fffffff, 2, .Lvdso_versions - .Lvdso, .Lvdso_versions, .Lvdso_versions_end, 2, 0, 2, 2",
    "vdso_section .Lvdso_n5, 0x6ffffffd, 2, .Lvdso_definitions - .Lvdso, .Lvdso_definitions, .Lvdso_definitions_end, 3, 2, 8, 0",
    "vdso_section .Lvdso_n6, 6, 2, .Lvdso_dynamic - .Lvdso, .Lvdso_dynamic, .Lvdso_dynamic_end, 3, 0, 8, 16",
    "vdso_section .Lvdso_n7, 1, 2, .Lvdso_unwind_index - .Lvdso, .Lvdso_unwind_index, .Lvdso_unwind_index_end, 0, 0, 4, 0",
    "vdso_section .Lvdso_n8, 1, 2, .Lvdso_unwind - .Lvdso, .Lvdso_unwind, .Lvdso_unwind_end, 0, 0, 8, 0",
    "vdso_section .Lvdso_n9, 1, 6, .Lvdso_text - .Lvdso, .Lvdso_text, .Lvdso_text_end, 0, 0, 16, 0",
    "vdso_section .Lvdso_n10, 3, 0, 0, .Lvdso_names, .Lvdso_names_end, 0, 0, 1, 0",
    ".Lvdso_end:",
    "caisson_vdso_end:",
    ".purgem vdso_segment", ".purgem vdso_symbol", ".purgem vdso_now", ".purgem vdso_section",
    ".popsection",
    soname_hash = const elf_hash(b"linux-vdso.so.1"),
    version_hash = const elf_hash(b"LINUX_2.6"),
    real = const page::REALTIME,
    mono = const page::MONOTONIC,
    boot = const page::BOOTTIME,
    base = const page::BASE,
    horizon = const page::HORIZON,
    rate = const page::RATE,
    cpu = const page::CPU,
    coarse = const COARSE_NS,
    tick = const TICK_NS,
    nr_clock_gettime = const libc::SYS_clock_gettime,
    nr_clock_getres = const libc::SYS_clock_getres,
    nr_gettimeofday = const libc::SYS_gettimeofday,
    nr_time = const libc::SYS_time,
    nr_getcpu = const libc::SYS_getcpu,
);

unsafe extern "C" {
    static caisson_vdso_begin: u8;
    static caisson_vdso_end: u8;
}

/// The ELF file, to be mapped readable and executable right behind the [`page`].
#[must_use]
pub fn image() -> &'static [u8] {
    let begin = &raw const caisson_vdso_begin;
    let len = &raw const caisson_vdso_end as usize - begin as usize;
    // SAFETY: the assembler laid these bytes out between the two labels, in read-only data.
    unsafe { std::slice::from_raw_parts(begin, len) }
}

/// `CPUID.80000001H:EDX.RDTSCP`
const RDTSCP: u32 = 1 << 27;
/// `CPUID.80000007H:EDX.InvariantTSC`
const INVARIANT: u32 = 1 << 8;

/// A time stamp counter that runs at one speed whatever the processor does.
#[derive(Clone, Copy, Debug)]
pub struct Counter(());

impl Counter {
    /// The processor's, if it is such a one, and can be read with RDTSCP. Whether all processors agree is for the host to say.
    #[must_use]
    pub fn new() -> Option<Counter> {
        use core::arch::x86_64::__cpuid;
        let steady =
            __cpuid(0x8000_0000).eax >= 0x8000_0007 && __cpuid(0x8000_0001).edx & RDTSCP != 0 && __cpuid(0x8000_0007).edx & INVARIANT != 0;
        steady.then_some(Counter(()))
    }

    /// Its value, read after everything before.
    #[must_use]
    pub fn read(self) -> u64 {
        let mut cpu = 0;
        // SAFETY: `new` has made sure that there is RDTSCP.
        unsafe { core::arch::x86_64::__rdtscp(&raw mut cpu) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn u64_at(image: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(image[at..at + 8].try_into().expect("eight bytes"))
    }

    #[test]
    fn fits_a_page_and_names_its_functions() {
        let image = image();
        assert!(image.len() <= abi::PAGE_SIZE as usize, "{} bytes", image.len());
        assert_eq!(image[..4], *b"\x7fELF");
        assert_eq!(elf_hash(b"LINUX_2.6"), 0x3ae_75f6);
        // The dynamic section is the second segment.
        let dynamic = u64_at(image, 64 + 56 + 8) as usize;
        let entry =
            |tag: u64| (0..10).find(|i| u64_at(image, dynamic + 16 * i) == tag).map(|i| u64_at(image, dynamic + 16 * i + 8) as usize);
        let (symbols, strings) = (entry(6).expect("SYMTAB"), entry(5).expect("STRTAB"));
        let name = |i: usize| {
            let at = strings + u32::from_le_bytes(image[symbols + 24 * i..][..4].try_into().expect("four bytes")) as usize;
            std::ffi::CStr::from_bytes_until_nul(&image[at..]).expect("a string").to_str().expect("ASCII")
        };
        let names: Vec<&str> = (1..11).map(name).collect();
        assert_eq!(names[..2], ["__vdso_clock_gettime", "clock_gettime"]);
        assert_eq!(names[8..], ["__vdso_getcpu", "getcpu"]);
        // Every function ends in `ret`.
        for i in 1..11 {
            let (at, len) = (u64_at(image, symbols + 24 * i + 8) as usize, u64_at(image, symbols + 24 * i + 16) as usize);
            assert_eq!(image[at + len - 1], 0xc3, "{}", name(i));
        }
    }
}
