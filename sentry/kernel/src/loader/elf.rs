//! ELF programs: reading their headers, mapping their segments (fs/binfmt_elf.c).

use crate::{
    mm::{MapRequest, MapSource, Mm, Placement, VmaFlags},
    user::UserAddr,
    vfs::{File, PATH_MAX},
};
use abi::{PAGE_SIZE, Result, bail, mm::Prot};
use std::ops::Range;
use std::sync::Arc;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_PHDR: u32 = 6;
const PT_GNU_STACK: u32 = 0x6474_e551;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const EM_X86_64: u16 = 62;
const PF_X: u32 = 1;
const PF_W: u32 = 2;
const PF_R: u32 = 4;
/// The heap begins up to this far behind the program.
const BRK_RANDOM: u64 = 32 << 20;
/// Pages of randomness for programs and mappings (vm.mmap_rnd_bits).
const MMAP_RANDOM_BITS: u32 = 28;

/// `Elf64_Ehdr`
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Header {
    ident: [u8; 16],
    kind: u16,
    machine: u16,
    version: u32,
    entry: u64,
    phoff: u64,
    shoff: u64,
    flags: u32,
    ehsize: u16,
    phentsize: u16,
    phnum: u16,
    shentsize: u16,
    shnum: u16,
    shstrndx: u16,
}

/// `Elf64_Phdr`
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Segment {
    kind: u32,
    flags: u32,
    offset: u64,
    vaddr: u64,
    paddr: u64,
    filesz: u64,
    memsz: u64,
    align: u64,
}

impl Segment {
    fn prot(&self) -> Prot {
        let mut p = Prot::empty();
        p.set(Prot::READ, self.flags & PF_R != 0);
        p.set(Prot::WRITE, self.flags & PF_W != 0);
        p.set(Prot::EXEC, self.flags & PF_X != 0);
        p
    }
}

/// A program's headers.
pub struct Program {
    header: Header,
    segments: Vec<Segment>,
}

/// An interpreter (ld.so) and its headers.
pub struct Interpreter {
    file: Arc<File>,
    program: Program,
}

/// Where a program has been mapped.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The first instruction to run: the interpreter's, or the program's own.
    pub start: u64,
    /// The program's first instruction.
    pub entry: u64,
    /// The program's headers in memory; 0 where they are not mapped.
    pub phdr: u64,
    /// How many there are.
    pub phnum: u64,
    /// What was added to the interpreter's addresses.
    pub base: u64,
    /// Whether the stack must be executable.
    pub exec_stack: bool,
}

impl Program {
    /// Reads the headers; `head`: the file's first bytes. `ENOEXEC` if this is no program for this machine.
    pub fn read(file: &File, head: &[u8]) -> Result<Program> {
        let Ok((header, _)) = Header::read_from_prefix(head) else { bail!(ENOEXEC, "shorter than an ELF header") };
        // Magic, 64 bits, little-endian. Linux looks at the magic only, and finds the machine wrong otherwise.
        if header.ident.get(..4) != Some(b"\x7fELF") {
            bail!(ENOEXEC, "not ELF");
        }
        if header.ident.get(4..6) != Some(&[2, 1]) || header.machine != EM_X86_64 {
            bail!(ENOEXEC, "for another machine");
        }
        if !matches!(header.kind, ET_EXEC | ET_DYN) {
            bail!(ENOEXEC, "neither executable nor shared");
        }
        let count = usize::from(header.phnum);
        if usize::from(header.phentsize) != size_of::<Segment>() || count < 1 || count > 65536 / size_of::<Segment>() {
            bail!(ENOEXEC, "bad program headers");
        }
        let mut segments = vec![Segment::new_zeroed(); count];
        let bytes = segments.as_mut_slice().as_mut_bytes();
        let want = bytes.len();
        if header.phoff > i64::MAX as u64 || file.read_at(bytes, header.phoff)? != want {
            bail!(ENOEXEC, "program headers are cut off");
        }
        Ok(Program { header, segments })
    }

    fn loads(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(|s| s.kind == PT_LOAD)
    }

    /// Opens and reads the interpreter, if the program names one. `ENOEXEC` if the name is malformed, `ELIBBAD` if it is no program.
    pub fn interpreter(&self, file: &File, open: &dyn Fn(&[u8]) -> Result<Arc<File>>) -> Result<Option<Interpreter>> {
        let Some(segment) = self.segments.iter().find(|s| s.kind == PT_INTERP) else { return Ok(None) };
        let Some(len) = usize::try_from(segment.filesz).ok().filter(|l| (2..=PATH_MAX).contains(l)) else {
            bail!(ENOEXEC, "bad length of the interpreter's name")
        };
        let mut name = vec![0; len];
        if file.read_at(&mut name, segment.offset)? != len {
            bail!(EIO, "interpreter's name is cut off");
        }
        if name.pop() != Some(0) {
            bail!(ENOEXEC, "interpreter's name has no end");
        }
        let name: Vec<u8> = name.into_iter().take_while(|&b| b != 0).collect();
        let file = open(&name)?;
        let mut head = [0; size_of::<Header>()];
        if file.read_at(&mut head, 0)? != head.len() {
            bail!(EIO, "interpreter is cut off");
        }
        match Program::read(&file, &head) {
            Ok(program) => Ok(Some(Interpreter { file, program })),
            Err(e) if e.is(abi::Errno::ENOEXEC) => bail!(ELIBBAD, "interpreter is no program"),
            Err(e) => Err(e),
        }
    }

    /// The addresses of all segments that are mapped, to page borders.
    fn extent(&self) -> Result<Range<u64>> {
        let mut range: Option<Range<u64>> = None;
        for s in self.loads() {
            let end = s.vaddr.checked_add(s.memsz).and_then(abi::page_up);
            let (Some(end), true) = (end, s.filesz <= s.memsz) else { bail!(ENOEXEC, "segment overflows") };
            let start = abi::page_down(s.vaddr);
            range = Some(match range {
                Some(r) => r.start.min(start)..r.end.max(end),
                None => start..end,
            });
        }
        match range {
            Some(r) if !r.is_empty() => Ok(r),
            _ => bail!(ENOEXEC, "nothing to map"),
        }
    }

    /// The largest alignment that a segment asks for.
    fn alignment(&self) -> u64 {
        self.loads().map(|s| s.align).filter(|a| a.is_power_of_two()).max().unwrap_or(PAGE_SIZE).clamp(PAGE_SIZE, 1 << 30)
    }
}

/// A random number of pages, in bytes.
fn random_pages(bits: u32, randomize: bool) -> u64 {
    if randomize { (host::rand::u64() & ((1 << bits) - 1)) * PAGE_SIZE } else { 0 }
}

/// Maps a program and its interpreter into an empty address space, and sets where heap and mappings go.
pub fn map(mm: &Mm, file: &Arc<File>, program: &Program, interpreter: Option<&Interpreter>, randomize: bool) -> Result<Loaded> {
    let limits = mm.address_limits();
    set_mmap_base(mm, randomize);
    let extent = program.extent()?;
    let size = extent.end - extent.start;
    let dynamic_base = abi::page_down(limits.end / 3 * 2);
    let bias = if program.header.kind == ET_EXEC {
        0
    } else if interpreter.is_some() {
        // A position-independent program: two thirds up.
        let at = (dynamic_base + random_pages(MMAP_RANDOM_BITS, randomize)) & !(program.alignment() - 1);
        at.wrapping_sub(extent.start)
    } else {
        // ld.so itself, or a static position-independent program: among the mappings.
        find(mm, size, program.alignment())?.wrapping_sub(extent.start)
    };
    if extent.start.wrapping_add(bias) < limits.start || extent.end.wrapping_add(bias) > limits.end {
        bail!(ENOMEM, "program does not fit the address space");
    }
    map_segments(mm, file, program, bias)?;
    let entry = program.header.entry.wrapping_add(bias);
    if entry >= limits.end {
        bail!(EINVAL, "entry is outside of the address space");
    }
    set_brk(mm, program, &extent, bias, interpreter.is_none(), randomize);
    record_layout(mm, program, bias);
    let mut loaded = Loaded { start: entry, entry, phnum: program.header.phnum.into(), ..Loaded::default() };
    loaded.phdr = program_headers(program).map_or(0, |a| a.wrapping_add(bias));
    loaded.exec_stack = program.segments.iter().any(|s| s.kind == PT_GNU_STACK && s.flags & PF_X != 0);
    if let Some(i) = interpreter {
        let extent = i.program.extent().map_err(|_| abi::error!(ELIBBAD, "interpreter has nothing to map"))?;
        let bias = match i.program.header.kind {
            ET_EXEC => 0,
            _ => find(mm, extent.end - extent.start, i.program.alignment())?.wrapping_sub(extent.start),
        };
        map_segments(mm, &i.file, &i.program, bias)?;
        loaded.base = bias;
        loaded.start = i.program.header.entry.wrapping_add(bias);
        if loaded.start >= limits.end {
            bail!(EINVAL, "entry is outside of the address space");
        }
    }
    Ok(loaded)
}

/// Where there is room for `size` bytes.
fn find(mm: &Mm, size: u64, align: u64) -> Result<u64> {
    match mm.find_space(size, align) {
        Some(at) => Ok(at),
        None => bail!(ENOMEM, "no room for the program"),
    }
}

/// Mappings go below the stack, with room for it to grow to its limit.
fn set_mmap_base(mm: &Mm, randomize: bool) {
    const STACK_RANDOM: u64 = 16 << 30;
    let end = mm.address_limits().end;
    let gap = mm.limits().stack.saturating_add(STACK_RANDOM + (1 << 20)).clamp(128 << 20, end / 6 * 5);
    mm.set_mmap_base(abi::page_down(end - gap - random_pages(MMAP_RANDOM_BITS, randomize)));
}

/// The heap begins behind the program; that of a program without an interpreter that lies among the mappings, where programs usually are.
fn set_brk(mm: &Mm, program: &Program, extent: &Range<u64>, bias: u64, no_interpreter: bool, randomize: bool) {
    let limits = mm.address_limits();
    let behind = if program.header.kind == ET_DYN && no_interpreter {
        abi::page_down(limits.end / 3 * 2) + random_pages(MMAP_RANDOM_BITS, randomize)
    } else {
        extent.end.wrapping_add(bias)
    };
    let skip = if randomize { abi::page_down(host::rand::u64() % BRK_RANDOM) } else { 0 };
    mm.init_brk(behind.saturating_add(skip).min(limits.end));
}

fn record_layout(mm: &Mm, program: &Program, bias: u64) {
    let mut code: Option<Range<u64>> = None;
    let mut data = 0..0;
    for s in program.loads() {
        let start = s.vaddr.wrapping_add(bias);
        let end = start.wrapping_add(s.filesz);
        if s.flags & PF_X != 0 || code.is_none() {
            code = Some(code.map_or(start..end, |c| c.start.min(start)..c.end.max(end)));
        }
        if s.flags & PF_W != 0 {
            data = start..end;
        }
    }
    mm.update_layout(|l| {
        l.code = code.unwrap_or_default();
        l.data = data;
    });
}

/// Where the headers lie in memory: what PT_PHDR says, or in the segment that holds that part of the file.
fn program_headers(program: &Program) -> Option<u64> {
    if let Some(s) = program.segments.iter().find(|s| s.kind == PT_PHDR) {
        return Some(s.vaddr);
    }
    let at = program.header.phoff;
    let s = program.loads().find(|s| s.offset <= at && at < s.offset.saturating_add(s.filesz))?;
    Some(s.vaddr.wrapping_add(at - s.offset))
}

fn map_segments(mm: &Mm, file: &Arc<File>, program: &Program, bias: u64) -> Result {
    for s in program.loads().filter(|s| s.memsz > 0) {
        map_segment(mm, file, s, bias)?;
    }
    Ok(())
}

/// Maps one segment: its part of the file, and zeroed memory behind.
fn map_segment(mm: &Mm, file: &Arc<File>, s: &Segment, bias: u64) -> Result {
    let vaddr = s.vaddr.wrapping_add(bias);
    let start = abi::page_down(vaddr);
    let lead = vaddr - start;
    let (Some(file_end), Some(end)) = (vaddr.checked_add(s.filesz), vaddr.checked_add(s.memsz).and_then(abi::page_up)) else {
        bail!(ENOEXEC, "segment overflows")
    };
    let mut bss = start;
    if s.filesz > 0 {
        if s.offset % PAGE_SIZE != lead {
            bail!(EINVAL, "segment's offset and address do not match");
        }
        bss = abi::page_up(file_end).unwrap_or(end);
        let source = MapSource::File { file: file.clone(), offset: s.offset - lead, shared: false };
        map_at(mm, start..bss, s.prot(), source)?;
        if s.flags & PF_W != 0 {
            // Relocations will write to most of it.
            mm.copy_private(start..bss);
            if s.memsz > s.filesz {
                mm.zero_out(UserAddr(file_end), (bss - file_end) as usize)?;
            }
        }
    }
    if end > bss {
        map_at(mm, bss..end, s.prot(), MapSource::Anonymous(crate::mm::Anonymous::Private))?;
    }
    Ok(())
}

fn map_at(mm: &Mm, r: Range<u64>, prot: Prot, source: MapSource) -> Result {
    let request = MapRequest {
        placement: Placement::Fixed(r.start),
        len: r.end - r.start,
        prot,
        source,
        flags: VmaFlags::empty(),
        populate: false,
        may_lock: true,
    };
    mm.map(request).map(drop)
}
