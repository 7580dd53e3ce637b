//! [`Resolver`]: an engine's name server that listens on loopback in the container's network namespace (Docker's, at 127.0.0.11), where the
//! sandbox's own loopback does not lead. The runtime gives a socket connected to it; questions go out there, answers come back from it.

use super::Stack;
use crate::inet;
use abi::{Errno, libc};
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Weak;
use sync::{Mutex, Rank};

/// Where applications find it.
pub const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11)), 53);
/// Questions that wait for an answer; further ones push out the oldest.
const WAITING_MAX: usize = 1024;
/// The longest answer.
const ANSWER_MAX: usize = 65_535;

/// Who asked.
struct Question {
    from: SocketAddr,
    /// The number that the application gave it.
    id: [u8; 2],
    /// Grows with every question.
    order: u64,
}

/// The way to the name server.
pub struct Resolver {
    socket: OwnedFd,
    waiting: Mutex<(u64, HashMap<[u8; 2], Question>)>,
}

impl Resolver {
    /// `socket`: connected to the name server.
    pub fn new(socket: OwnedFd) -> Resolver {
        Resolver { socket, waiting: Mutex::new(Rank::Leaf, (0, HashMap::new())) }
    }

    /// Passes a question on, under a number that no other one has and nobody can guess. What is no question is dropped.
    pub fn ask(&self, from: SocketAddr, question: &[u8]) {
        let Some((id, rest)) = question.split_first_chunk::<2>() else { return };
        let number = {
            let mut waiting = self.waiting.lock();
            let (order, all) = &mut *waiting;
            *order += 1;
            if all.len() >= WAITING_MAX
                && let Some(oldest) = all.iter().min_by_key(|(_, q)| q.order).map(|(number, _)| *number)
            {
                all.remove(&oldest);
            }
            let number = std::iter::repeat_with(|| (host::rand::u64() as u16).to_be_bytes()).find(|n| !all.contains_key(n)).unwrap_or(*id);
            all.insert(number, Question { from, id: *id, order: *order });
            number
        };
        let packet = [&number[..], rest].concat();
        // One that is lost is asked again by whoever wants to know.
        if let Err(error) = host::io::send_bytes(&self.socket, &packet, &[], libc::MSG_DONTWAIT) {
            tracing::debug!("the name server at {ADDRESS}: {error:?}");
        }
    }

    /// Takes answers for as long as the sandbox lives.
    pub fn serve(&self, stack: &Weak<Stack>) {
        let mut buffer = vec![0; ANSWER_MAX];
        loop {
            let len = match host::io::recv_bytes(&self.socket, &mut buffer, 0, 0) {
                Ok(got) => got.len,
                // Nobody listens there (any more): the next question may find somebody.
                Err(Errno::EINTR | Errno::ECONNREFUSED) => continue,
                Err(error) => return tracing::error!("the name server at {ADDRESS} cannot be heard: {error:?}"),
            };
            let Some((number, rest)) = buffer.get(..len).and_then(<[u8]>::split_first_chunk::<2>) else { continue };
            let Some(question) = self.waiting.lock().1.remove(number) else { continue };
            let answer = [&question.id[..], rest].concat();
            let Some(stack) = stack.upgrade() else { return };
            let Some(loopback) = stack.table().devices.first().cloned() else { return };
            inet::udp_input(&stack, &loopback, ADDRESS, question.from, 64, 0, &answer);
        }
    }
}
