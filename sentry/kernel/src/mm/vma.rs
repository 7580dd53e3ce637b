//! [`Vma`]: what an application asked to be mapped at a range of addresses, and [`Page`]: the memory that is there.

use super::ranges::Piece;
use crate::vfs::{File, Mappable};
use abi::mm::Prot;
use bitflags::bitflags;
use std::sync::Arc;

bitflags! {
    /// Properties of a VMA (`VM_*`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct VmaFlags: u32 {
        /// Writes reach the file, and fork shares it.
        const SHARED = 1;
        /// A stack: faults below extend it.
        const GROWSDOWN = 2;
        /// mlock(2).
        const LOCKED = 4;
        /// mlock2(2) with MLOCK_ONFAULT.
        const LOCKONFAULT = 8;
        /// MAP_NORESERVE.
        const NORESERVE = 16;
        /// MADV_DONTFORK.
        const DONTFORK = 32;
        /// MADV_WIPEONFORK.
        const WIPEONFORK = 64;
        /// MADV_DONTDUMP.
        const DONTDUMP = 128;
        /// MADV_HUGEPAGE.
        const HUGEPAGE = 256;
        /// MADV_NOHUGEPAGE.
        const NOHUGEPAGE = 512;
        /// MADV_SEQUENTIAL.
        const SEQ = 1024;
        /// MADV_RANDOM.
        const RAND = 2048;
        /// All pages of the file that are not covered by copies are mapped on the host (unless the protection is none).
        const FILLED = 4096;
        /// The platform's: to the application there is nothing.
        const GATE = 8192;
    }
}

/// What names a shared object: file system and inode number, or the number of an anonymous object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectId {
    /// A file.
    Inode {
        /// `st_dev`
        dev: u64,
        /// `st_ino`
        ino: u64,
    },
    /// Memory without a file: unique in the sandbox.
    Anonymous(u64),
    /// A System V segment.
    Segment {
        /// The number of its IPC namespace.
        ipc: u64,
        /// Its id there.
        id: i32,
    },
    /// A file, by where its [attachments](crate::vfs::Inode::attachments) are: the same for all inodes of a file that file systems share.
    File(usize),
    /// A page of the kernel's own, which has no number.
    Special,
}

/// The file or object behind a mapping. One for each mmap(2) that made VMAs, and for each process: counts as a mapping of the file.
pub struct Backing {
    /// Gives the pages.
    pub mappable: Arc<dyn Mappable>,
    /// The open file, for its name; `None` for shared anonymous memory.
    pub file: Option<Arc<File>>,
    /// Names the object.
    pub id: ObjectId,
    /// The same for futexes.
    pub futex: ObjectId,
    /// Shown in /proc/PID/maps where there is no file.
    pub label: Arc<str>,
    writable_shared: bool,
}

impl Backing {
    /// Counts as a mapping from now on until it is dropped. `writable_shared`: could be written by the application, now or after mprotect(2).
    pub fn new(mappable: Arc<dyn Mappable>, file: Option<Arc<File>>, id: ObjectId, label: Arc<str>, writable_shared: bool) -> Arc<Backing> {
        mappable.mapped(1, writable_shared);
        let futex = match id {
            ObjectId::Inode { .. } => {
                let inode = mappable.inode().or_else(|| file.as_ref().map(|file| file.inode().clone()));
                inode.map_or(id, |inode| ObjectId::File(Arc::as_ptr(&inode.attachments) as usize))
            }
            _ => id,
        };
        Arc::new(Backing { mappable, file, id, futex, label, writable_shared })
    }

    /// Another of the same, for a child process.
    pub fn duplicate(&self) -> Arc<Backing> {
        Backing::new(self.mappable.clone(), self.file.clone(), self.id, self.label.clone(), self.writable_shared)
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        self.mappable.mapped(-1, self.writable_shared);
    }
}

/// A mapping.
#[derive(Clone)]
pub struct Vma {
    /// What the application may do.
    pub prot: Prot,
    /// What mprotect(2) may allow.
    pub max_prot: Prot,
    /// Properties.
    pub flags: VmaFlags,
    /// `None`: private anonymous memory.
    pub backing: Option<Arc<Backing>>,
    /// Where in the file the range begins.
    pub offset: u64,
    /// Given by prctl(PR_SET_VMA_ANON_NAME).
    pub name: Option<Arc<[u8]>>,
}

impl Vma {
    /// Private anonymous memory.
    #[must_use]
    pub fn anonymous(prot: Prot, flags: VmaFlags) -> Vma {
        Vma { prot, max_prot: Prot::all(), flags, backing: None, offset: 0, name: None }
    }

    /// Whether writes reach the file.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.flags.contains(VmaFlags::SHARED)
    }

    /// Private anonymous memory.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.backing.is_none()
    }

    /// Whether it counts for RLIMIT_DATA: private, writable and no stack.
    #[must_use]
    pub fn is_data(&self) -> bool {
        self.prot.contains(Prot::WRITE) && !self.flags.intersects(VmaFlags::SHARED | VmaFlags::GROWSDOWN)
    }

    /// Whether an access of this kind is allowed; with `WRITE` or `EXEC` a page is readable too, as on x86.
    #[must_use]
    pub fn allows(&self, access: Prot) -> bool {
        if access.intersects(Prot::WRITE | Prot::EXEC) { self.prot.contains(access - Prot::READ) } else { !self.prot.is_empty() }
    }

    /// Whether a debugger may access it so, whatever its protection: writes go to a private copy only.
    #[must_use]
    pub fn allows_forced(&self, access: Prot) -> bool {
        if access.contains(Prot::WRITE) { !self.is_shared() } else { self.max_prot.contains(Prot::READ) }
    }

    /// The host's protection of pages that must not be written through: the file's own, or shared with another process.
    #[must_use]
    pub fn read_only_prot(&self) -> Prot {
        without_write(self.prot)
    }
}

/// A protection without the right to write, which implied the right to read.
#[must_use]
pub fn without_write(prot: Prot) -> Prot {
    if prot.contains(Prot::WRITE) { (prot - Prot::WRITE) | Prot::READ } else { prot }
}

impl Piece for Vma {
    fn advance(&mut self, delta: u64) {
        if self.backing.is_some() {
            self.offset = self.offset.wrapping_add(delta);
        }
    }

    fn continues(&self, len: u64, next: &Self) -> bool {
        let same_object = match (&self.backing, &next.backing) {
            (None, None) => true,
            (Some(a), Some(b)) => {
                std::ptr::addr_eq(Arc::as_ptr(&a.mappable), Arc::as_ptr(&b.mappable))
                    && a.file.as_ref().map(Arc::as_ptr) == b.file.as_ref().map(Arc::as_ptr)
                    && self.offset.wrapping_add(len) == next.offset
            }
            _ => false,
        };
        // A stack's guard gap belongs to its own lower end: stacks stay apart.
        same_object
            && self.prot == next.prot
            && self.max_prot == next.max_prot
            && self.flags == next.flags
            && self.name == next.name
            && !self.flags.contains(VmaFlags::GROWSDOWN)
    }
}

/// Private memory of an address space: a piece of the memory file, of which it holds one reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// In the memory file.
    pub offset: u64,
    /// Others may have it too: it must be copied before it is written, or found to have no other owner any more.
    pub cow: bool,
}

impl Piece for Page {
    fn advance(&mut self, delta: u64) {
        self.offset += delta;
    }

    fn continues(&self, len: u64, next: &Self) -> bool {
        self.cow == next.cow && self.offset + len == next.offset
    }
}

/// Memory that was reserved for addresses, and that nobody has touched: copies go there, so that neighbours become one mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shadow {
    /// In the memory file.
    pub offset: u64,
}

impl Piece for Shadow {
    fn advance(&mut self, delta: u64) {
        self.offset += delta;
    }

    fn continues(&self, len: u64, next: &Self) -> bool {
        self.offset + len == next.offset
    }
}
