//! Communication between tasks, and waiting for it: pipes, event files, epoll, System V and POSIX queues, inotify.

pub mod anon;
pub mod hostfd;
pub mod pipe;
