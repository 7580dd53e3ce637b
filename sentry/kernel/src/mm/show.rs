//! What /proc shows of an address space: maps, smaps, statm, and the sizes in status.

use super::{Mm, State, Vma, VmaFlags};
use crate::vfs::File;
use abi::{PAGE_SIZE, mm::Prot};
use std::fmt::Write;
use std::ops::Range;

/// Sizes in bytes, for `/proc/PID/status`, `stat` and `statm`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VmSizes {
    /// `VmPeak`
    pub peak: u64,
    /// `VmSize`
    pub total: u64,
    /// `VmLck`
    pub locked: u64,
    /// `VmRSS`: the three that follow.
    pub resident: u64,
    /// `RssAnon`
    pub rss_anon: u64,
    /// `RssFile`: as much as is mapped of files; what the host has of them in memory is its own business.
    pub rss_file: u64,
    /// `RssShmem`
    pub rss_shmem: u64,
    /// `VmData`: private writable memory.
    pub data: u64,
    /// `VmStk`
    pub stack: u64,
    /// `VmExe`
    pub code: u64,
    /// `VmLib`
    pub lib: u64,
}

/// Runs of private pages that the host is asked about at the end of a process, and the longest ones about which it is not.
const LOOKS: u32 = 64;
const SHORT: u64 = 64 * PAGE_SIZE;

/// A file's name as the reader sees it: its path from the root of the current task, with ` (deleted)` where that is so.
fn name_of(file: &File) -> Vec<u8> {
    let root = crate::task::current().map(|t| t.fs().root());
    file.path.text(root.as_ref().unwrap_or(&file.path))
}

#[derive(Clone, Copy, Default)]
struct Resident {
    anon: u64,
    file: u64,
    shmem: u64,
}

impl Mm {
    /// `/proc/PID/maps`.
    pub fn maps_text(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (r, vma) in self.snapshot() {
            self.line(&mut out, &r, &vma);
        }
        out
    }

    /// `/proc/PID/smaps`.
    pub fn smaps_text(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (r, vma) in self.snapshot() {
            self.line(&mut out, &r, &vma);
            let resident = self.resident(&self.state.read(), &r, &vma);
            out.extend_from_slice(details(&r, &vma, resident).as_bytes());
        }
        out
    }

    /// `/proc/PID/statm`: pages in all, resident, resident of files, code, 0, data and stack, 0.
    pub fn statm(&self) -> String {
        let v = self.sizes();
        let p = |n: u64| n / PAGE_SIZE;
        format!("{} {} {} {} 0 {} 0\n", p(v.total), p(v.resident), p(v.rss_file + v.rss_shmem), p(v.code), p(v.data + v.stack))
    }

    /// Sizes for `/proc/PID/status` and `stat`.
    pub fn sizes(&self) -> VmSizes {
        let s = self.state.read();
        let t = s.totals;
        let mut v = VmSizes { peak: s.peak, total: t.total, locked: t.locked, data: t.data, stack: t.stack, ..VmSizes::default() };
        let code = &s.layout.code;
        v.code = abi::page_up(code.end).unwrap_or(0).saturating_sub(abi::page_down(code.start));
        for (r, vma) in s.vmas.iter() {
            let n = self.resident(&s, &r, vma);
            v.rss_anon += n.anon;
            v.rss_file += n.file;
            v.rss_shmem += n.shmem;
            if vma.prot.contains(Prot::EXEC) && !vma.is_anonymous() {
                v.lib += r.end - r.start;
            }
        }
        v.resident = v.rss_anon + v.rss_file + v.rss_shmem;
        v.lib = v.lib.saturating_sub(v.code);
        v
    }

    /// About `VmRSS`, for what that is worth at the end of a process: few questions to the host. Short runs of private pages count as a whole:
    /// most are there because they were written.
    pub fn resident_roughly(&self) -> u64 {
        let s = self.state.read();
        let mut looks = LOOKS;
        let mut n = 0;
        for (r, vma) in s.vmas.iter() {
            for (part, page) in s.pages.within(r.clone()) {
                let len = part.end - part.start;
                n += match looks {
                    1.. if len > SHORT => {
                        looks -= 1;
                        self.memory.resident(page.offset..page.offset + len)
                    }
                    _ => len,
                };
            }
            if vma.backing.is_some() && !vma.prot.is_empty() {
                n += s.pages.gaps(r).into_iter().map(|gap| gap.end - gap.start).sum::<u64>();
            }
        }
        n
    }

    /// Bytes mapped in all (`VmSize`), without looking at what is resident.
    pub fn total_vm(&self) -> u64 {
        self.state.read().totals.total
    }

    /// Where the heap begins and ends now.
    pub fn heap(&self) -> Range<u64> {
        let s = self.state.read();
        s.brk_start..s.brk
    }

    /// How many VMAs there are.
    pub fn map_count(&self) -> usize {
        self.state.read().vmas.count()
    }

    fn snapshot(&self) -> Vec<(Range<u64>, Vma)> {
        // Names are asked for without the lock; a file that is unmapped meanwhile is closed by whoever drops this.
        let s = self.state.read();
        s.vmas.iter().filter(|(_, v)| !v.flags.contains(VmaFlags::GATE)).map(|(r, v)| (r, v.clone())).collect()
    }

    fn resident(&self, s: &State, r: &Range<u64>, vma: &Vma) -> Resident {
        let mut n = Resident::default();
        for (part, page) in s.pages.within(r.clone()) {
            n.anon += self.memory.resident(page.offset..page.offset + (part.end - part.start));
        }
        let Some(backing) = &vma.backing else { return n };
        if vma.prot.is_empty() {
            return n;
        }
        for gap in s.pages.gaps(r.clone()) {
            let len = gap.end - gap.start;
            match backing.mappable.pages(vma.offset + (gap.start - r.start), len, false) {
                Ok(p) if p.is_memory_file => n.shmem += self.memory.resident(p.offset..p.offset + p.len.min(len)),
                Ok(p) => n.file += p.len.min(len),
                Err(_) => {}
            }
        }
        n
    }

    fn line(&self, out: &mut Vec<u8>, r: &Range<u64>, vma: &Vma) {
        let (dev, ino) = match &vma.backing {
            Some(b) => match b.id {
                super::ObjectId::Inode { dev, ino } => (dev, ino),
                super::ObjectId::Anonymous(n) => (abi::fs::makedev(0, 1), n),
                super::ObjectId::Special | super::ObjectId::File(_) => (0, 0),
                super::ObjectId::Segment { id, .. } => (abi::fs::makedev(0, 1), u64::from(id.unsigned_abs())),
            },
            None => (0, 0),
        };
        let bit = |p: Prot, c: char| if vma.prot.contains(p) { c } else { '-' };
        let mut head = String::new();
        // Writing to a string cannot fail.
        let _ = write!(
            head,
            "{:08x}-{:08x} {}{}{}{} {:08x} {:02x}:{:02x} {} ",
            r.start,
            r.end,
            bit(Prot::READ, 'r'),
            bit(Prot::WRITE, 'w'),
            bit(Prot::EXEC, 'x'),
            if vma.is_shared() { 's' } else { 'p' },
            vma.offset,
            abi::fs::major(dev),
            abi::fs::minor(dev),
            ino
        );
        let name = self.name(r, vma);
        if !name.is_empty() {
            // Names begin in one column.
            while head.len() < 73 {
                head.push(' ');
            }
        }
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(&name);
        out.push(b'\n');
    }

    fn name(&self, r: &Range<u64>, vma: &Vma) -> Vec<u8> {
        if let Some(b) = &vma.backing {
            if let Some(file) = &b.file {
                // As seq_path does it: a newline would forge a line.
                return name_of(file).into_iter().flat_map(|c| if c == b'\n' { b"\\012".to_vec() } else { vec![c] }).collect();
            }
            return match &vma.name {
                Some(name) => [b"[anon_shmem:", &name[..], b"]"].concat(),
                None => b.label.as_bytes().to_vec(),
            };
        }
        let s = self.state.read();
        if r.start <= s.brk && r.end >= s.brk_start && s.brk > s.brk_start {
            return b"[heap]".to_vec();
        }
        if r.start <= s.layout.start_stack && r.end >= s.layout.start_stack {
            return b"[stack]".to_vec();
        }
        match &vma.name {
            Some(name) => [b"[anon:", &name[..], b"]"].concat(),
            None => Vec::new(),
        }
    }
}

/// The lines of smaps behind the first.
fn details(r: &Range<u64>, vma: &Vma, n: Resident) -> String {
    let size = r.end - r.start;
    let rss = n.anon + n.file + n.shmem;
    let locked = if vma.flags.contains(VmaFlags::LOCKED) { rss } else { 0 };
    let (shared_clean, shared_dirty) = if vma.is_shared() { (n.file, n.shmem) } else { (0, 0) };
    let (private_clean, private_dirty) = if vma.is_shared() { (0, 0) } else { (n.file + n.shmem, n.anon) };
    let rows: [(&str, u64); 22] = [
        ("Size:", size),
        ("KernelPageSize:", PAGE_SIZE),
        ("MMUPageSize:", PAGE_SIZE),
        ("Rss:", rss),
        ("Pss:", rss),
        ("Pss_Dirty:", shared_dirty + private_dirty),
        ("Shared_Clean:", shared_clean),
        ("Shared_Dirty:", shared_dirty),
        ("Private_Clean:", private_clean),
        ("Private_Dirty:", private_dirty),
        ("Referenced:", rss),
        ("Anonymous:", n.anon),
        ("KSM:", 0),
        ("LazyFree:", 0),
        ("AnonHugePages:", 0),
        ("ShmemPmdMapped:", 0),
        ("FilePmdMapped:", 0),
        ("Shared_Hugetlb:", 0),
        ("Private_Hugetlb:", 0),
        ("Swap:", 0),
        ("SwapPss:", 0),
        ("Locked:", locked),
    ];
    let mut out = String::new();
    for (name, bytes) in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{name:<15} {:>8} kB", bytes / 1024);
    }
    let mut flags = String::new();
    let mut flag = |on: bool, name: &str| {
        if on {
            flags.push(' ');
            flags.push_str(name);
        }
    };
    flag(vma.prot.contains(Prot::READ), "rd");
    flag(vma.prot.contains(Prot::WRITE), "wr");
    flag(vma.prot.contains(Prot::EXEC), "ex");
    flag(vma.is_shared(), "sh");
    flag(vma.max_prot.contains(Prot::READ), "mr");
    flag(vma.max_prot.contains(Prot::WRITE), "mw");
    flag(vma.max_prot.contains(Prot::EXEC), "me");
    flag(vma.is_shared(), "ms");
    flag(vma.flags.contains(VmaFlags::GROWSDOWN), "gd");
    flag(vma.flags.contains(VmaFlags::LOCKED), "lo");
    flag(vma.flags.contains(VmaFlags::SEQ), "sr");
    flag(vma.flags.contains(VmaFlags::RAND), "rr");
    flag(vma.flags.contains(VmaFlags::DONTFORK), "dc");
    flag(vma.flags.contains(VmaFlags::NORESERVE), "nr");
    flag(vma.flags.contains(VmaFlags::DONTDUMP), "dd");
    flag(vma.flags.contains(VmaFlags::WIPEONFORK), "wf");
    flag(vma.flags.contains(VmaFlags::HUGEPAGE), "hg");
    flag(vma.flags.contains(VmaFlags::NOHUGEPAGE), "nh");
    let _ = writeln!(out, "THPeligible:           0\nVmFlags:{flags} ");
    out
}
