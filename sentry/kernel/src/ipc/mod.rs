//! Communication between tasks, and waiting for it: pipes, event files, epoll, System V and POSIX queues, inotify.

pub mod anon;
pub mod epoll;
pub mod eventfd;
pub mod hostfd;
pub mod inotify;
pub mod limits;
pub mod mq;
pub mod msg;
pub mod pipe;
pub mod poll;
pub mod sem;
pub mod shm;
pub mod signalfd;
pub mod sysv;
pub mod timerfd;
