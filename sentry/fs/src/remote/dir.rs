//! Directories: what the gofer lists, remembered where only this sandbox changes it.
//!
//! With a directory it gives us others that will be wanted next, as far as [`Pace`] thinks so: those below, and those beside it that were not read
//! yet. They lie in the listing of the directory that they are in, until somebody looks them up.

use super::{Mark, RemoteFs, inode::RemoteInode, lookup, name, remote};
use abi::{Result, error, fs::FileType};
use gofer_protocol::{Ahead, Attr, DirEntry, DirReply};
use kernel::vfs::{DirSink, File, FileOps, FsStr, Inode, SeekFrom};
use std::any::Any;
use std::collections::HashMap;
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU32, Ordering},
};
use sync::{Mutex, Rank};

/// Entries in all remembered directories together (some 250 bytes each).
const MOST_LISTED: usize = 200_000;

/// Names of directories beside one that the gofer is told.
const MOST_BESIDE: usize = 64;

/// How many entries are asked for before somebody wants them: the more, the more of them were wanted before.
pub(super) struct Pace(AtomicU32);

impl Pace {
    const SLOWEST: u32 = 32;
    /// More than a reply holds.
    const FASTEST: u32 = 1024;

    pub(super) fn new() -> Pace {
        Pace(AtomicU32::new(Self::SLOWEST))
    }

    /// For one request. What it brings has to be wanted, or the next one asks for less.
    fn ask(&self) -> u32 {
        let now = self.0.load(Ordering::Relaxed);
        self.0.store((now / 2).max(Self::SLOWEST), Ordering::Relaxed);
        now
    }

    /// Something that was asked for ahead was wanted.
    pub(super) fn was_right(&self) {
        let now = self.0.load(Ordering::Relaxed);
        self.0.store((now * 2).min(Self::FASTEST), Ordering::Relaxed);
    }
}

/// All entries of a directory at one moment.
pub(super) struct Listing {
    pub(super) entries: Vec<Listed>,
    /// Places in `entries` by name; made when a name is looked up first.
    index: OnceLock<HashMap<Box<FsStr>, usize>>,
    /// Whether the attributes still hold.
    pub(super) mark: Mark,
    /// By place in `entries`, directories that were read ahead; `None`: it was there, or was asked for.
    below: Mutex<HashMap<usize, Option<Arc<Listing>>>>,
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
    /// Of these entries.
    fn new(fs: &RemoteFs, entries: Vec<DirEntry>, mark: Mark) -> Listing {
        let listed = |e: DirEntry| {
            let kind = e.attr.file_type()?;
            Some(Listed { name: e.name.0.into(), ino: fs.number(&e.attr), kind, attr: e.attr })
        };
        let entries = entries.into_iter().filter_map(listed).collect();
        Listing { entries, index: OnceLock::new(), mark, below: Mutex::new(Rank::Leaf, HashMap::new()), counted: None }
    }

    /// Asks for all entries of `dir`.
    pub(super) fn read(dir: &RemoteInode) -> Result<Listing> {
        let fs = &dir.fs;
        let mark = fs.mark();
        let guess = Guess::about(dir);
        let beside = guess.beside.iter().filter_map(|(_, beside)| name(beside).ok()).collect();
        let mut part = lookup::list(dir, guess.ahead, beside)?;
        let mut entries = Vec::new();
        loop {
            // No progress and no end would be a broken gofer: then that is all.
            let last = entries.last().map(|e: &DirEntry| e.cookie);
            entries.append(&mut part.entries);
            match entries.last().map(|e| e.cookie) {
                Some(next) if !part.end && Some(next) != last => {
                    let node = dir.known_node().ok_or(error!(ESTALE, "no handle came"))?;
                    let rest = fs.client.readdir(node, &[], next, 0, Vec::new())?;
                    part = DirReply { ahead: Vec::new(), ..rest };
                }
                _ => break,
            }
        }
        let listing = Listing::new(fs, entries, mark);
        if !fs.shared() {
            listing.place_ahead(fs, part.ahead, &guess);
        }
        Ok(listing)
    }

    /// Puts what was read ahead to where it will be looked for.
    fn place_ahead(&self, fs: &Arc<RemoteFs>, ahead: Vec<Ahead>, guess: &Guess) {
        let mut found: Vec<Option<Arc<Listing>>> = Vec::with_capacity(ahead.len());
        for a in ahead {
            let mut listing = Listing::new(fs, a.entries, self.mark);
            let counted = listing.count(fs).then(|| Arc::new(listing));
            if let Some(listing) = &counted {
                let place = a.place as usize;
                match a.within {
                    0 => self.put_below(place, listing),
                    Ahead::BESIDE => guess.put_beside(place, listing),
                    n => match found.get(n as usize - 1) {
                        Some(Some(within)) => within.put_below(place, listing),
                        _ => {}
                    },
                }
            }
            found.push(counted);
        }
    }

    fn put_below(&self, place: usize, listing: &Arc<Listing>) {
        if self.entries.get(place).is_some_and(|e| e.kind == FileType::Directory) {
            self.below.lock().insert(place, Some(listing.clone()));
        }
    }

    /// Takes what was read ahead of the directory at this place.
    pub(super) fn take_below(&self, place: usize) -> Option<Arc<Listing>> {
        self.below.lock().get_mut(&place)?.take()
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

    /// The entry of this name, and its place.
    pub(super) fn find(&self, name: &FsStr) -> Option<(usize, &Listed)> {
        let index = self.index.get_or_init(|| self.entries.iter().enumerate().map(|(i, e)| (e.name.clone(), i)).collect());
        let place = *index.get(name)?;
        Some((place, self.entries.get(place)?))
    }

    /// Directories behind `place` of which nothing was read yet, in the order of the listing. What is at `place` is being read.
    fn unread_behind(&self, place: usize) -> Vec<(usize, Box<FsStr>)> {
        let mut below = self.below.lock();
        below.entry(place).or_insert(None);
        let behind = self.entries.iter().enumerate().skip(place + 1);
        let unread = behind.filter(|(n, e)| e.kind == FileType::Directory && !below.contains_key(n));
        unread.take(MOST_BESIDE).map(|(n, e)| (n, e.name.clone())).collect()
    }
}

/// What will be wanted after a directory.
#[derive(Default)]
struct Guess {
    ahead: u32,
    /// The listing that the directory is in, and others in it: places and names.
    above: Option<Arc<Listing>>,
    beside: Vec<(usize, Box<FsStr>)>,
}

impl Guess {
    fn about(dir: &RemoteInode) -> Guess {
        // Of a tree that others change nothing is remembered.
        if dir.fs.shared() {
            return Guess::default();
        }
        let ahead = dir.fs.pace.ask();
        let above = dir.known_place().and_then(|(above, name)| {
            let listing = remote(&above).ok()?.remembered()?;
            let place = listing.find(&name)?.0;
            Some((place, listing))
        });
        match above {
            Some((place, above)) => Guess { ahead, beside: above.unread_behind(place), above: Some(above) },
            None => Guess { ahead, ..Guess::default() },
        }
    }

    /// What was read of the directory with this number in `beside`. It was asked for after the listing that it is put into: that one must
    /// not be older.
    fn put_beside(&self, number: usize, listing: &Arc<Listing>) {
        if let (Some(above), Some((place, _))) = (&self.above, self.beside.get(number)) {
            above.put_below(*place, listing);
        }
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
