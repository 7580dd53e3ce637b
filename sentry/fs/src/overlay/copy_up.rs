//! How content and extended attributes come up from the layers below.

use super::{OverlayInode, Shared, layers::Lower};
use crate::tmpfs;
use abi::{Errno, Result, bail, fs::OpenFlags};
use kernel::{
    io::IoBuffer,
    task::{self, Task},
    vfs::{Dentry, File, Inode, PathRef, shmem::ShmFile},
};
use std::sync::Arc;

/// Bytes copied at a time.
const CHUNK: usize = 1 << 20;

/// Opens a file below for reading.
pub(super) fn open_lower(shared: &Shared, lower: &Lower, task: Option<&Task>) -> Result<Arc<File>> {
    let Some(mount) = shared.lowers.get(lower.layer) else { bail!(EIO, "no such layer") };
    let inode = &lower.inode;
    let path = PathRef { mount: mount.clone(), dentry: Dentry::root(b"lower".to_vec(), inode.clone()), inode: inode.clone() };
    let flags = OpenFlags::LARGEFILE | if inode.is_dir() { OpenFlags::DIRECTORY } else { OpenFlags::empty() };
    let current = if task.is_some() { None } else { task::current() };
    let ops = match task.or(current.as_deref()) {
        Some(t) => inode.ops.open(inode, &path, flags, t)?,
        // The sentry itself, while it boots.
        None => tmpfs::open_inode(inode)?,
    };
    Ok(File::new(path, flags, ops))
}

/// The content, brought up if that has not happened yet. `from`: the file below, if it is open already. `size`: no more of it is needed.
pub(super) fn content(o: &OverlayInode, inode: &Inode, from: Option<&Arc<File>>, size: Option<u64>) -> Result<Arc<ShmFile>> {
    if let Some(d) = o.data() {
        return Ok(d);
    }
    // One copy at a time. A regular file's lock of names serves no other purpose.
    let _guard = inode.lock_dir_nested();
    if let Some(d) = o.data() {
        return Ok(d);
    }
    let Some(lower) = o.lower() else { bail!(EIO, "a file of nothing") };
    // The attributes come up first: from now on they are not those of the file below.
    o.change_meta(|_| {})?;
    let data = o.shared.new_content();
    let want = lower.inode.attr()?.size.min(size.unwrap_or(u64::MAX));
    if want > 0 {
        let opened;
        let file = match from {
            Some(f) => f,
            None => {
                opened = open_lower(&o.shared, lower, None)?;
                &opened
            }
        };
        copy(file, &data, want)?;
    }
    if let Some(me) = o.me() {
        data.set_inode(&me);
    }
    o.state.lock().data = Some(data.clone());
    Ok(data)
}

/// Copies `len` bytes; what lies in holes stays a hole.
fn copy(from: &Arc<File>, to: &ShmFile, len: u64) -> Result {
    let mut buf = vec![0; CHUNK.min(usize::try_from(len).unwrap_or(CHUNK))];
    let mut at = 0;
    while at < len {
        match from.ops().seek_data(from, at, true) {
            Ok(data) => at = data,
            Err(e) if e.is(Errno::ENXIO) => break,
            // Not every file system knows its holes.
            Err(_) => {}
        }
        let want = buf.len().min(usize::try_from(len.saturating_sub(at)).unwrap_or(CHUNK));
        let part = buf.get_mut(..want).unwrap_or_default();
        let n = from.read_at(part, at)?;
        if n == 0 {
            break;
        }
        let mut source = IoBuffer::source(part.get(..n).unwrap_or_default());
        let (done, _) = to.write(&mut source, at, false)?;
        if done < n {
            bail!(ENOSPC);
        }
        at += n as u64;
    }
    if to.size() < len {
        to.set_size(len)?;
    }
    Ok(())
}

/// Brings the extended attributes up.
pub(super) fn xattrs(o: &OverlayInode) -> Result {
    if o.state.lock().xattrs.is_some() {
        return Ok(());
    }
    let mut all = std::collections::BTreeMap::new();
    if let Some(l) = o.lower() {
        for name in l.inode.ops.listxattr(&l.inode)? {
            if let Ok(value) = l.inode.ops.getxattr(&l.inode, &name) {
                all.insert(name, value);
            }
        }
    }
    o.state.lock().xattrs.get_or_insert(all);
    Ok(())
}
