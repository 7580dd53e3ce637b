//! Loading programs made by hand.

use super::*;
use crate::io::IoBuffer;
use crate::mm::{Extent, Hint, MemoryPool, tests::FakePlatform};
use crate::user::UserAddr;
use crate::vfs::{FileOps, Mappable, MappedPages, testing::null_file};
use crate::{Kernel, KernelConfig};
use abi::{Errno, PAGE_SIZE, fs::OpenFlags};
use std::any::Any;

/// A file of the memory pool.
struct Content {
    pool: Arc<MemoryPool>,
    bytes: Vec<u8>,
    extent: Extent,
}

impl Mappable for Content {
    fn pages(&self, offset: u64, len: u64, _write: bool) -> Result<MappedPages> {
        match self.extent.len.checked_sub(offset) {
            Some(rest) if rest > 0 => {
                Ok(MappedPages { fd: self.pool.fd(), is_memory_file: true, offset: self.extent.offset + offset, len: len.min(rest) })
            }
            _ => bail!(ENXIO),
        }
    }
}

struct Ops(Arc<Content>);

impl FileOps for Ops {
    fn read(&self, _file: &File, buf: &mut IoBuffer<'_>, offset: u64) -> Result<usize> {
        match self.0.bytes.get(offset as usize..) {
            Some(rest) if !rest.is_empty() => buf.write(rest),
            _ => Ok(0),
        }
    }
    fn mappable(&self, _file: &File) -> Result<Arc<dyn Mappable>> {
        Ok(self.0.clone())
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn file(pool: &Arc<MemoryPool>, bytes: Vec<u8>) -> Arc<File> {
    let extent = pool.alloc(bytes.len().max(1) as u64, Hint::default()).expect("alloc");
    pool.file().copy_out(extent.offset, &bytes).expect("fill");
    let ops = Ops(Arc::new(Content { pool: pool.clone(), bytes, extent }));
    File::new(null_file().path.clone(), OpenFlags::empty(), Box::new(ops))
}

fn segment(kind: u32, flags: u32, offset: u64, vaddr: u64, filesz: u64, memsz: u64) -> Vec<u8> {
    let mut b = Vec::new();
    b.extend(kind.to_le_bytes());
    b.extend(flags.to_le_bytes());
    for n in [offset, vaddr, vaddr, filesz, memsz, PAGE_SIZE] {
        b.extend(n.to_le_bytes());
    }
    b
}

/// Code at 0, data from 0x2f00 in the file (0x200 bytes, then zeros up to 0x3000 bytes), optionally an interpreter's name.
fn elf(kind: u16, base: u64, interpreter: Option<&str>) -> Vec<u8> {
    let mut segments = vec![segment(1, 5, 0, base, 0x2000, 0x2000), segment(1, 6, 0x2f00, base + 0x3f00, 0x200, 0x3000)];
    if let Some(name) = interpreter {
        segments.push(segment(3, 4, 0x1000, base + 0x1000, name.len() as u64 + 1, name.len() as u64 + 1));
    }
    let mut b = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    b.extend(kind.to_le_bytes());
    b.extend(62u16.to_le_bytes());
    b.extend(1u32.to_le_bytes());
    for n in [base + 0x100, 64, 0] {
        b.extend(n.to_le_bytes());
    }
    b.extend(0u32.to_le_bytes());
    for n in [64u16, 56, segments.len() as u16, 0, 0, 0] {
        b.extend(n.to_le_bytes());
    }
    b.extend(segments.concat());
    b.resize(0x3100, 0xaa);
    if let Some(name) = interpreter {
        b[0x1000..0x1000 + name.len()].copy_from_slice(name.as_bytes());
        b[0x1000 + name.len()] = 0;
    }
    b
}

struct World {
    kernel: Arc<Kernel>,
    pool: Arc<MemoryPool>,
}

impl World {
    fn new() -> World {
        let pool = Arc::new(MemoryPool::new(64 << 30).expect("pool"));
        let kernel = Kernel::new(Arc::new(FakePlatform), pool.clone(), KernelConfig::default()).expect("kernel");
        World { kernel, pool }
    }

    fn load(&self, bytes: Vec<u8>, argv: &[&str], open: &dyn Fn(&[u8]) -> Result<Arc<File>>) -> Result<Image> {
        let request = Request {
            file: file(&self.pool, bytes),
            path: b"/bin/a-rather-long-name",
            argv: argv.iter().map(|s| s.as_bytes().to_vec()).collect(),
            envp: vec![b"A=1".to_vec(), b"B=2".to_vec()],
            path_inaccessible: false,
            open,
            identify: &mut |_| Ok(Ids { uid: 1, euid: 2, gid: 3, egid: 4, secure: true }),
            limits: MemLimits::default(),
            randomize: true,
        };
        load(&self.kernel, request)
    }
}

fn no_open(_: &[u8]) -> Result<Arc<File>> {
    bail!(ENOENT)
}

fn word(mm: &Mm, at: u64) -> u64 {
    mm.read(UserAddr(at).cast::<u64>()).expect("word")
}

fn string(mm: &Mm, at: u64) -> String {
    String::from_utf8(mm.read_cstr(UserAddr(at), 4096).expect("string")).expect("text")
}

/// argv, envp and auxv as a program finds them.
fn stack_of(image: &Image) -> (Vec<String>, Vec<String>, Vec<(u64, u64)>) {
    let (mm, mut at) = (&image.mm, image.stack_pointer);
    assert_eq!(at % 16, 0);
    let argc = word(mm, at);
    at += 8;
    let mut list = || {
        let mut out = Vec::new();
        while word(mm, at) != 0 {
            out.push(string(mm, word(mm, at)));
            at += 8;
        }
        at += 8;
        out
    };
    let (argv, envp) = (list(), list());
    assert_eq!(argv.len() as u64, argc);
    let mut auxv = Vec::new();
    while word(mm, at) != 0 {
        auxv.push((word(mm, at), word(mm, at + 8)));
        at += 16;
    }
    (argv, envp, auxv)
}

#[test]
fn static_program() {
    let w = World::new();
    let image = w.load(elf(2, 0x40_0000, None), &["a", "b c", ""], &no_open).expect("load");
    assert_eq!((image.entry, image.comm.as_slice()), (0x40_0100, &b"a-rather-long-n"[..]));
    let (argv, envp, auxv) = stack_of(&image);
    assert_eq!((argv, envp), (vec!["a".into(), "b c".into(), String::new()], vec!["A=1".into(), "B=2".into()]));
    let aux = |k| auxv.iter().find(|&&(key, _)| key == k).map(|&(_, v)| v);
    assert_eq!(aux(libc::AT_PHDR), Some(0x40_0040));
    assert_eq!(aux(libc::AT_PHNUM), Some(2));
    assert_eq!(aux(libc::AT_BASE), Some(0));
    assert_eq!((aux(libc::AT_UID), aux(libc::AT_EGID), aux(libc::AT_SECURE)), (Some(1), Some(4), Some(1)));
    assert_eq!(string(&image.mm, aux(libc::AT_EXECFN).expect("execfn")), "/bin/a-rather-long-name");
    assert_eq!(string(&image.mm, aux(libc::AT_PLATFORM).expect("platform")), "x86_64");
    // Data, then zeros, in the file's last page and behind it.
    let mut b = [1; 4];
    image.mm.copy_in(UserAddr(0x40_40fe), &mut b).expect("data");
    assert_eq!(b, [0xaa, 0xaa, 0, 0]);
    image.mm.copy_in(UserAddr(0x40_6efc), &mut b).expect("bss");
    assert_eq!(b, [0; 4]);
    assert!(image.mm.copy_in(UserAddr(0x40_7000), &mut b).is_err());
    assert!(image.mm.copy_out(UserAddr(0x40_0000), &b).is_err());
    let heap = image.mm.heap();
    assert!(heap.start >= 0x40_7000 && heap.start < 0x40_7000 + (32 << 20) && heap.is_empty());
    let layout = image.mm.layout();
    assert_eq!(layout.code, 0x40_0000..0x40_2000);
    assert_eq!(layout.env.end - layout.env.start, 8);
    let maps = String::from_utf8(image.mm.maps_text()).expect("text");
    assert!(maps.contains("[stack]"), "{maps}");
    drop(image);
}

#[test]
fn dynamic_program() {
    let w = World::new();
    let interp = file(&w.pool, elf(3, 0, None));
    let open = |name: &[u8]| if name == b"/lib/ld.so" { Ok(interp.clone()) } else { bail!(ENOENT) };
    let image = w.load(elf(3, 0, Some("/lib/ld.so")), &["p"], &open).expect("load");
    let (_, _, auxv) = stack_of(&image);
    let aux = |k| auxv.iter().find(|&&(key, _)| key == k).map_or(0, |&(_, v)| v);
    assert_eq!(image.entry, aux(libc::AT_BASE) + 0x100);
    assert_eq!(aux(libc::AT_ENTRY) % PAGE_SIZE, 0x100);
    assert!((0x5555_0000_0000..0x6fff_0000_0000).contains(&aux(libc::AT_ENTRY)), "{:x}", aux(libc::AT_ENTRY));
    assert!(aux(libc::AT_BASE) > 0x7000_0000_0000);
    assert_eq!(w.load(elf(3, 0, Some("/lib/none")), &["p"], &open).err().map(|e| e.errno()), Some(Errno::ENOENT));
    let bad = file(&w.pool, vec![0; 100]);
    assert_eq!(w.load(elf(3, 0, Some("/x")), &["p"], &|_| Ok(bad.clone())).err().map(|e| e.errno()), Some(Errno::ELIBBAD));
}

#[test]
fn scripts() {
    let w = World::new();
    let program = elf(2, 0x40_0000, None);
    let open = |name: &[u8]| match name {
        b"/bin/sh" => Ok(file(&w.pool, program.clone())),
        b"/bin/one" => Ok(file(&w.pool, b"#!/bin/sh -x y\n".to_vec())),
        b"/loop" => Ok(file(&w.pool, b"#!/loop\n".to_vec())),
        _ => bail!(ENOENT),
    };
    let image = w.load(b"#!/bin/sh -e\necho".to_vec(), &["ignored", "arg"], &open).expect("load");
    assert_eq!(stack_of(&image).0, ["/bin/sh", "-e", "/bin/a-rather-long-name", "arg"]);
    let image = w.load(b"#!/bin/one\n".to_vec(), &["ignored", "arg"], &open).expect("load");
    assert_eq!(stack_of(&image).0, ["/bin/sh", "-x y", "/bin/one", "/bin/a-rather-long-name", "arg"]);
    let error = |bytes: &[u8]| w.load(bytes.to_vec(), &[], &open).err().map(|e| e.errno());
    assert_eq!(error(b"#!/loop\n"), Some(Errno::ELOOP));
    assert_eq!(error(b"#!/nothing\n"), Some(Errno::ENOENT));
    assert_eq!(error(b"#!\n"), Some(Errno::ENOEXEC));
    assert_eq!(error(b""), Some(Errno::ENOEXEC));
    assert_eq!(error(b"echo hello\n"), Some(Errno::ENOEXEC));
    let mut cut = elf(2, 0x40_0000, None);
    cut.truncate(100);
    assert_eq!(error(&cut), Some(Errno::ENOEXEC));
    let long = "x".repeat(131_072);
    assert_eq!(w.load(elf(2, 0x40_0000, None), &[&long], &open).err().map(|e| e.errno()), Some(Errno::E2BIG));
}

/// Any bytes give a program or an error.
#[test]
fn damaged_headers_do_no_harm() {
    let w = World::new();
    let good = elf(3, 0, Some("/lib/ld.so"));
    let open = |_: &[u8]| Ok(file(&w.pool, elf(3, 0, None)));
    let mut seed = 88172645463325252u64;
    for _ in 0..400 {
        let mut bytes = good.clone();
        for _ in 0..3 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let at = 16 + (seed % 216) as usize;
            bytes[at] = (seed >> 32) as u8;
        }
        let _ = w.load(bytes, &["x"], &open);
    }
}
