//! The jail: a mount namespace whose root holds the attach points and nothing else, few capabilities, no other
//! descriptors. The crate's only `unsafe` code.
//!
//! The root is a read-only tmpfs with `/attach/N` for each attach point and `/fd`, a bind mount of this process's own
//! `/proc/self/fd`: that is how a file is opened through the `O_PATH` descriptor held of it, and being a mount of
//! that one directory, nothing else of `/proc` can be reached from there.
#![allow(unsafe_code)]

use crate::server::Root;
use crate::spec::{Attach, GoferSpec, Propagation};
use abi::libc;
use anyhow::{Context, Result, bail};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};
use std::ffi::c_void;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

/// Where the new root is put together: a directory that is there on every host that shows us our descriptors.
const STAGE: &str = "/proc";

/// The capabilities that serving files needs.
const KEPT: &[CapabilitySet] = &[
    // Files get the owner that the application's process has in the sentry.
    CapabilitySet::CHOWN,
    // The sentry has checked permissions against the application's credentials: here nothing is in the way …
    CapabilitySet::DAC_OVERRIDE,
    CapabilitySet::DAC_READ_SEARCH,
    // … nor that the gofer is not a file's owner: chmod, utimes, extended attributes.
    CapabilitySet::FOWNER,
    // Set-user-ID and set-group-ID bits survive a write that the application is allowed to make.
    CapabilitySet::FSETID,
    // `security.capability` is an attribute like others: package managers set it.
    CapabilitySet::SETFCAP,
];

/// What is needed besides where sockets are: whoever connects to one is told by its own user and groups.
const KEPT_FOR_SOCKETS: &[CapabilitySet] = &[CapabilitySet::SETUID, CapabilitySet::SETGID];

/// Takes over an inherited descriptor.
///
/// # Errors
/// If it is not open.
pub fn inherit(fd: RawFd) -> Result<OwnedFd> {
    if fd < 0 {
        bail!("descriptor {fd} is not open");
    }
    // SAFETY: a call that only asks about a number; it has no memory arguments.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    if flags < 0 {
        bail!("descriptor {fd} is not open");
    }
    // SAFETY: it is open, and the runtime gave it to this process for this purpose: nobody else here owns it. `main`
    // refuses to take one number twice.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(fd)
}

/// Closes every descriptor above the standard three that is not in `keep`.
pub fn close_others(keep: &[RawFd]) -> Result<()> {
    let mut keep: Vec<u32> = keep.iter().filter_map(|&fd| u32::try_from(fd).ok()).collect();
    keep.sort_unstable();
    let mut first = 3;
    for last in keep.into_iter().map(Some).chain([None]) {
        let end = match last {
            Some(fd) if fd <= first => {
                first = first.max(fd.saturating_add(1));
                continue;
            }
            Some(fd) => fd - 1,
            None => u32::MAX,
        };
        // SAFETY: closes numbers that nothing in this process owns yet: `main` calls this before it opens anything, and
        // names all that it has taken over.
        if unsafe { libc::syscall(libc::SYS_close_range, first, end, 0) } != 0 {
            return Err(std::io::Error::last_os_error()).context("close inherited descriptors");
        }
        first = end.saturating_add(2);
    }
    Ok(())
}

/// Moves this process, which must have one thread, into its jail.
///
/// # Errors
/// If a source is missing, or the process lacks the privileges for mounts (it needs `CAP_SYS_ADMIN` in its user namespace).
pub fn enter(spec: &GoferSpec) -> Result<Vec<Root>> {
    leave_host()?;
    // All sources first: afterwards the new root hides a part of the old one.
    let trees = spec.attach.iter().map(open).collect::<Result<Vec<_>>>()?;
    let fds = rustix::mount::open_tree(CWD, "/proc/self/fd", clone_flags()).context("bind /proc/self/fd")?;

    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("caisson-gofer", STAGE, "tmpfs", flags, Some(c"size=1m,mode=0555")).context("mount the new root")?;
    rustix::process::chdir(STAGE)?;
    rustix::fs::mkdir("fd", Mode::from_raw_mode(0o555))?;
    place(&fds, "fd")?;
    set_flags(&fds, libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC | libc::MOUNT_ATTR_RDONLY, true)?;
    rustix::fs::mkdir("attach", Mode::from_raw_mode(0o555))?;
    let mut roots = Vec::with_capacity(trees.len());
    for (index, (attach, tree)) in spec.attach.iter().zip(&trees).enumerate() {
        let fd =
            attach_at(attach, tree, &format!("attach/{index}")).with_context(|| format!("mount source {}", attach.source.display()))?;
        roots.push(Root { fd, attach: attach.clone() });
    }
    drop(trees);

    rustix::mount::mount_remount(STAGE, flags | MountFlags::RDONLY | MountFlags::BIND, c"").context("make the new root read-only")?;
    pivot()?;
    Ok(roots)
}

/// Shows this thread, and whoever enters the mount namespace of its number, the files of a container: the first attach point as the root, and
/// the others at their places beneath it, in their order, wherever the container's links lead. One whose place is not there is left out.
///
/// # Errors
/// As [`enter`].
pub fn view(attaches: &[(Attach, PathBuf)]) -> Result<()> {
    leave_host()?;
    let trees = attaches.iter().map(|(attach, _)| open(attach)).collect::<Result<Vec<_>>>()?;
    let mut mounts = attaches.iter().zip(&trees).map(|((attach, place), tree)| (attach, place, tree));
    let Some((attach, _, root)) = mounts.next() else { bail!("there is no root") };
    place(root, STAGE)?;
    confine(attach, root)?;
    for (attach, to, tree) in mounts {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let found = rustix::fs::openat2(root, to, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS);
        match found.and_then(|found| move_onto(tree, &found)) {
            Ok(()) => confine(attach, tree)?,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(error) => return Err(error).with_context(|| format!("show {}", to.display())),
        }
    }
    rustix::process::chdir(STAGE)?;
    pivot()
}

/// Moves this thread into a mount namespace of its own. What is mounted there never shows on the host; what the host mounts may show there,
/// until it is made private.
fn leave_host() -> Result<()> {
    // SAFETY: changes the mount namespace of this thread; no descriptor table is unshared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.context("make a mount namespace")?;
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", flags).context("detach mounts from the host's")
}

/// Makes the working directory the root, and leaves nothing of the old one.
fn pivot() -> Result<()> {
    rustix::process::pivot_root(".", ".").context("pivot into the new root")?;
    // The old root now lies on top of the new one.
    rustix::mount::unmount(".", UnmountFlags::DETACH).context("unmount the old root")?;
    Ok(rustix::process::chdir("/")?)
}

/// A copy of an attach point's source, not yet mounted anywhere.
fn open(attach: &Attach) -> Result<OwnedFd> {
    let recursive = if attach.recursive { OpenTreeFlags::AT_RECURSIVE } else { OpenTreeFlags::empty() };
    rustix::mount::open_tree(CWD, &attach.source, recursive | clone_flags())
        .with_context(|| format!("mount source {}", attach.source.display()))
}

/// A copy of a mount, not yet mounted anywhere.
fn clone_flags() -> OpenTreeFlags {
    OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC
}

/// Mounts one attach point at `path`, and opens it.
fn attach_at(attach: &Attach, tree: &OwnedFd, path: &str) -> Result<OwnedFd> {
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(tree)?.st_mode);
    if kind == rustix::fs::FileType::Directory {
        rustix::fs::mkdir(path, Mode::from_raw_mode(0o555))?;
    } else {
        rustix::fs::mknodat(CWD, path, rustix::fs::FileType::RegularFile, Mode::from_raw_mode(0o444), 0)?;
    }
    place(tree, path)?;
    confine(attach, tree)?;
    Ok(rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}

/// Takes from a tree that is mounted what its attach point does not give.
fn confine(attach: &Attach, tree: &OwnedFd) -> Result<()> {
    // No device of the host is ever opened, and no set-user-ID program run. Programs may be executed: the sentry maps
    // the descriptors it is given with PROT_EXEC.
    let mut attrs = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    if attach.readonly {
        attrs |= libc::MOUNT_ATTR_RDONLY;
    }
    set_flags(tree, attrs, attach.propagation == Propagation::Private)?;
    for masked in &attach.masked {
        mask(tree, masked).with_context(|| format!("hide {}", masked.display()))?;
    }
    Ok(())
}

/// Puts an empty directory over one of a tree that is mounted.
fn mask(tree: &OwnedFd, path: &Path) -> Result<()> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let place = match rustix::fs::openat2(tree, path, flags, Mode::empty(), resolve) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
        other => other?,
    };
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(context.as_fd(), "mode", "0555")?;
    rustix::mount::fsconfig_create(context.as_fd())?;
    let attrs = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let empty = rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attrs)?;
    Ok(move_onto(&empty, &place)?)
}

/// Mounts a copied tree on what is open.
fn move_onto(tree: &OwnedFd, place: &OwnedFd) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(tree, c"", place, c"", flags)
}

/// Mounts a copied tree at `path`.
fn place(tree: &OwnedFd, path: &str) -> Result<()> {
    rustix::mount::move_mount(tree, c"", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).context("move mount")
}

/// Sets mount flags on a whole tree of mounts, and cuts it off from later mounts of the host if `private`.
fn set_flags(tree: impl AsFd, attrs: u64, private: bool) -> Result<()> {
    /// `struct mount_attr` (linux/mount.h).
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        userns: u64,
    }
    let propagation = if private { libc::MS_PRIVATE } else { 0 };
    let attr = MountAttr { set: attrs, clear: 0, propagation, userns: 0 };
    // SAFETY: the path is an empty C string, and `attr` a structure of the size given, both alive during the call, which
    // only reads them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if result != 0 { Err(std::io::Error::last_os_error()).context("set mount flags") } else { Ok(()) }
}

/// Gives up what serving files does not need; `sockets` if an attach point allows connections. Threads made later inherit it.
pub fn drop_privileges(sockets: bool) -> Result<()> {
    let have = rustix::thread::capabilities(None).context("read capabilities")?;
    for bit in 0..64 {
        let Some(capability) = CapabilitySet::from_bits(1 << bit) else { break };
        // Without CAP_SETPCAP the bounding set stays as it is, which does not matter once no_new_privs is set.
        if rustix::thread::remove_capability_from_bounding_set(capability).is_err() {
            break;
        }
    }
    // Fails where there are none, on old kernels; what is not permitted cannot be ambient anyway.
    let _ = rustix::thread::clear_ambient_capability_set();
    if sockets && have.effective.contains(CapabilitySet::SETGID) {
        // What it goes back to after it was somebody else. Where groups are denied (a user's own namespace), there are none to take on.
        let _ = rustix::thread::set_thread_groups(&[]);
    }
    let sockets = if sockets { KEPT_FOR_SOCKETS } else { &[] };
    let keep = KEPT.iter().chain(sockets).fold(CapabilitySet::empty(), |all, c| all | *c) & have.permitted;
    let sets = CapabilitySets { effective: keep, permitted: keep, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).context("drop capabilities")?;
    rustix::thread::set_no_new_privs(true).context("set no_new_privs")?;
    // Nobody of the same user may look into this process.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).context("clear dumpable")?;
    Ok(())
}

/// Lets go of what the start of the process has left mapped: the pages of the executable's code and constants, which the host maps again where they are
/// needed, and what the allocator holds free.
pub fn let_go_of_start() {
    // SAFETY: no memory involved but the allocator's own.
    unsafe { libc::malloc_trim(0) };
    // SAFETY: the callback takes what dl_iterate_phdr(3) gives, and no data.
    unsafe { libc::dl_iterate_phdr(Some(let_go_of_image), std::ptr::null_mut()) };
}

/// Called for each object of the process, the executable first; ends there.
unsafe extern "C" fn let_go_of_image(info: *mut libc::dl_phdr_info, _size: usize, _data: *mut c_void) -> libc::c_int {
    // SAFETY: the caller gives a valid one.
    let info = unsafe { &*info };
    if info.dlpi_phdr.is_null() {
        return 1;
    }
    // SAFETY: so many headers lie there, in memory that is never written.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
    for h in headers.iter().filter(|h| h.p_type == libc::PT_LOAD && h.p_flags & libc::PF_W == 0) {
        let begin = info.dlpi_addr.wrapping_add(h.p_vaddr);
        // Whole pages of this segment alone.
        let (Some(start), end) = (abi::page_up(begin), abi::page_down(begin.wrapping_add(h.p_memsz))) else { continue };
        if start < end {
            // SAFETY: pages of a private mapping of a file that nobody can have written to: they read the same afterwards. A failure changes nothing.
            unsafe { libc::madvise(start as *mut c_void, (end - start) as usize, libc::MADV_DONTNEED) };
        }
    }
    1
}

/// Raises the limit of open descriptors as far as it goes, and gives it.
pub fn raise_descriptors() -> usize {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    rustix::process::getrlimit(Resource::Nofile).current.and_then(|n| usize::try_from(n).ok()).unwrap_or(1 << 16).min(1 << 20)
}
