//! Directories: what the gofer lists, remembered where only this sandbox changes it.

use super::{Mark, RemoteFs, remote};
use abi::{Result, fs::FileType};
use gofer_protocol::{Attr, NodeId};
use kernel::vfs::{DirSink, File, FileOps, FsStr, Inode, SeekFrom};
use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock, atomic::Ordering};
use sync::{Mutex, Rank};

/// Entries in all remembered directories together (some 250 bytes each).
const MOST_LISTED: usize = 200_000;

/// All entries of a directory at one moment.
pub(super) struct Listing {
    pub(super) entries: Vec<Listed>,
    /// Places in `entries` by name; made when a name is looked up first.
    index: OnceLock<HashMap<Box<FsStr>, usize>>,
    /// Whether the attributes still hold.
    pub(super) mark: Mark,
    /// The file system that counts the entries, if they are remembered.
    counted: Option<Arc<RemoteFs>>,
}

/// An entry.
pub(super) struct Listed {
    pub(super) name: Box<FsStr>,
    pub(super) attr: Attr,
    ino: u64,
    kind: FileType,
}

impl Listing {
    /// Asks for all entries.
    pub(super) fn read(fs: &Arc<RemoteFs>, node: NodeId) -> Result<Listing> {
        let mark = fs.mark();
        let mut entries = Vec::new();
        let mut cookie = 0;
        loop {
            let (part, end) = fs.client.readdir(node, cookie, false)?;
            // No progress and no end would be a broken gofer: then that is all.
            let next = part.last().map(|e| e.cookie);
            for e in part {
                let Some(kind) = e.attr.file_type() else { continue };
                entries.push(Listed { name: e.name.0.into(), ino: fs.number(&e.attr), kind, attr: e.attr });
            }
            match next {
                Some(next) if !end && next != cookie => cookie = next,
                _ => break,
            }
        }
        Ok(Listing { entries, index: OnceLock::new(), mark, counted: None })
    }

    /// Counts the entries as remembered; false if there are too many already.
    pub(super) fn count(&mut self, fs: &Arc<RemoteFs>) -> bool {
        let n = self.entries.len();
        if fs.listed.fetch_add(n, Ordering::Relaxed) + n > MOST_LISTED {
            fs.listed.fetch_sub(n, Ordering::Relaxed);
            return false;
        }
        self.counted = Some(fs.clone());
        true
    }

    /// The entry of this name.
    pub(super) fn find(&self, name: &FsStr) -> Option<&Listed> {
        let index = self.index.get_or_init(|| self.entries.iter().enumerate().map(|(i, e)| (e.name.clone(), i)).collect());
        self.entries.get(*index.get(name)?)
    }
}

impl Drop for Listing {
    fn drop(&mut self) {
        if let Some(fs) = &self.counted {
            fs.listed.fetch_sub(self.entries.len(), Ordering::Relaxed);
        }
    }
}

/// An open directory. It shows what was there when reading began at its start.
pub(super) struct RemoteDir {
    inode: Arc<Inode>,
    listing: Mutex<Option<Arc<Listing>>>,
}

impl RemoteDir {
    pub(super) fn open(inode: &Arc<Inode>) -> RemoteDir {
        RemoteDir { inode: inode.clone(), listing: Mutex::new(Rank::FileState, None) }
    }

    fn listing(&self, pos: u64) -> Result<Arc<Listing>> {
        let known = self.listing.lock().clone();
        match known {
            Some(known) if pos > 2 => Ok(known),
            _ => {
                let listing = remote(&self.inode)?.list()?;
                *self.listing.lock() = Some(listing.clone());
                Ok(listing)
            }
        }
    }
}

impl FileOps for RemoteDir {
    fn seek(&self, _file: &File, current: u64, to: SeekFrom) -> Option<Result<u64>> {
        // Positions are numbers of entries: there is no end to seek from.
        let at = match to {
            SeekFrom::Start(n) => Some(n),
            SeekFrom::Current(d) => current.checked_add_signed(d),
            SeekFrom::End(_) => None,
        };
        Some(at.filter(|&n| i64::try_from(n).is_ok()).ok_or(abi::error!(EINVAL)))
    }

    fn readdir(&self, file: &File, mut pos: u64, sink: &mut dyn DirSink) -> Result<u64> {
        if pos == 0 {
            if !sink.add(b".", self.inode.ino, FileType::Directory, 1) {
                return Ok(pos);
            }
            pos = 1;
        }
        if pos == 1 {
            let parent = file.path.dentry.parent().and_then(|p| p.inode()).map_or(self.inode.ino, |p| p.ino);
            if !sink.add(b"..", parent, FileType::Directory, 2) {
                return Ok(pos);
            }
            pos = 2;
        }
        let listing = self.listing(pos)?;
        let first = usize::try_from(pos - 2).unwrap_or(usize::MAX);
        for e in listing.entries.iter().skip(first) {
            if !sink.add(&e.name, e.ino, e.kind, pos + 1) {
                break;
            }
            pos += 1;
        }
        Ok(pos)
    }

    fn fsync(&self, _file: &File, data_only: bool) -> Result {
        remote(&self.inode)?.sync_dir(data_only)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
