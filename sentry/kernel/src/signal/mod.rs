//! Signals: from sending to the frame on the application's stack.
//!
//! * [`PendingQueue`] – sent and not yet taken, one for each thread and one for the process.
//! * [`SigHandlers`] – `sigaction`s, shared under CLONE_SIGHAND.
//! * [`send`] – who gets a signal, what a signal does on its way (stop and continue cancel each other, fatal ones end the process).
//! * [`async_io`] – signals of open files (SIGIO, SIGURG).
//! * `calls` – kill(2), sigaction(2), sigtimedwait(2) and their kin.
//! * `deliver` – what the receiving thread does before it returns to the application; `frame` – the stack frame.
//!
//! The lock is the thread group's ([`sync::Rank::Signal`]), then the handlers', then a thread's pending queue.

pub mod async_io;
mod calls;
mod deliver;
mod frame;
mod pending;
pub mod send;
mod state;

pub use frame::TrapInfo;
pub use pending::{PendingQueue, SYNCHRONOUS};
pub use state::{DefaultAction, GroupStop, SIG_DFL, SIG_IGN, SigHandlers, TaskSignals, WaitEvent, default_action};
