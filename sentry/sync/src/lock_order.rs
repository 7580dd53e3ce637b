//! The one table of lock ranks: a thread may take a lock only if its rank is above every rank it holds.
//!
//! The order follows the path of a call: mount tree, directory, file, then whatever a file's data path needs (pipe, socket or
//! terminal state), then the application's memory (copying from and to it may happen under all of those), then what a page
//! fault may need, then tasks and signals, and last the wait queues, which anybody may notify.

/// A lock's place in the order. Higher is taken later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Rank {
    /// Serializes execve, clone and exit of a thread group where they exclude each other.
    Exec,
    /// `f_pos`, held across a read, write or readdir that uses it: the outermost, since a file of /proc may look at anything.
    FilePosition,
    /// The tree of mounts.
    MountTree,
    /// Serializes renames across directories of one file system.
    Rename,
    /// A directory's entries (Linux's `i_rwsem` of a directory). Parent before child with `lock_nested`.
    InodeDir,
    /// A dentry's name, parent and children.
    Dentry,
    /// A regular file's writers (Linux's `i_rwsem` of a file); held while copying from application memory.
    InodeIo,
    /// A device's frames: held while they are taken off the host's queue and handed to sockets, in their order.
    Receive,
    /// An epoll instance's interest list.
    Epoll,
    /// A socket's state; two sockets of a pair in order of address with `lock_nested`.
    Socket,
    /// State of a pipe, terminal, eventfd, timerfd, signalfd, inotify, message queue.
    FileState,
    /// A futex bucket: held while reading the futex word, so below [`Rank::Mm`].
    Futex,
    /// An address space's VMAs and pages.
    Mm,
    /// A file's map of pages (leaf of a page fault).
    PageMap,
    /// The memory file's allocator.
    Extents,
    /// An inode's attributes, locks, watches.
    InodeState,
    /// Process tree, pid table, sessions and process groups (Linux's `tasklist_lock`).
    TaskTree,
    /// A thread group's signals (Linux's `siglock`).
    Signal,
    /// A table of descriptors.
    FdTable,
    /// A task's own small state: credentials, fs context, name, limits.
    TaskState,
    /// Timers.
    Timer,
    /// Wait queues. Notified under any other lock; may nest in one another (epoll of epoll).
    WaitQueue,
    /// An epoll instance's ready list, taken by wait queue listeners.
    EpollReady,
    /// Anything that takes no other lock.
    Leaf,
}
