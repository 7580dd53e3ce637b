//! TCP and UDP without tasks.

use super::{address, sock::InetSock};
use crate::stack::Stack;
use abi::{Errno, Error, Result, libc, poll::PollEvents};
use kernel::{
    io::IoBuffer,
    net::{Message, Shutdown, SocketKind, SocketOps},
};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

const EAGAIN: Error = Error::Errno(Errno::EAGAIN);

fn v4(port: u16) -> Vec<u8> {
    address::encode(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), false)
}

fn send(s: &InetSock, data: &[u8], to: &[u8]) -> Result<usize> {
    s.send(None, &mut IoBuffer::source(data), Message { name: to.to_vec(), ..Message::default() }, 0)
}

fn recv(s: &InetSock, max: usize) -> Result<(Vec<u8>, Vec<u8>)> {
    let mut v = vec![0; max];
    let mut m = Message::default();
    let n = s.recv(&mut IoBuffer::dest(&mut v), 0, &mut m)?;
    v.truncate(n);
    Ok((v, m.name))
}

fn listener(stack: &Arc<Stack>, v6: bool, port: u16) -> Arc<InetSock> {
    let l = InetSock::new(v6, SocketKind::Stream, stack, 0);
    let mut any = address::unspecified(v6);
    any.set_port(port);
    l.bind_to(any).expect("bind");
    l.start_listening(5).expect("listen");
    l
}

#[test]
fn tcp_connects_talks_and_ends() {
    let stack = Stack::loopback(Arc::default());
    let l = listener(&stack, true, 8080);
    let c = InetSock::new(false, SocketKind::Stream, &stack, 0);
    assert_eq!(c.connect_tcp(&v4(81)), Err(Errno::EINPROGRESS.into()));
    assert_eq!(c.connect_tcp_result(), Err(Errno::ECONNREFUSED.into()));
    assert_eq!(l.take_pending().map(drop), Err(EAGAIN));
    assert_eq!(c.connect_tcp(&v4(8080)), Err(Errno::EINPROGRESS.into()));
    assert_eq!(c.connect_tcp_result(), Ok(()));
    assert_eq!(c.connect_tcp(&v4(8080)), Err(Errno::EISCONN.into()));
    assert!(l.poll().contains(PollEvents::IN));
    let s = l.take_pending().expect("accept");
    assert_eq!(address::parse(&s.peer_address().expect("peer"), true), address::parse(&c.local_address().expect("local"), false));
    assert_eq!(send(&c, b"hello", &[]), Ok(5));
    assert_eq!(recv(&s, 3).map(|r| r.0), Ok(b"hel".to_vec()));
    assert_eq!(recv(&s, 9).map(|r| r.0), Ok(b"lo".to_vec()));
    assert_eq!(recv(&s, 9), Err(EAGAIN));
    let big = vec![7; 4 << 20];
    let n = send(&s, &big, &[]).expect("send");
    assert!(n < big.len() && !s.poll().contains(PollEvents::OUT));
    assert_eq!(send(&s, b"x", &[]), Err(EAGAIN));
    let mut got = 0;
    while let Ok((v, _)) = recv(&c, 100_000) {
        got += v.len();
    }
    assert_eq!(got, n);
    assert!(s.poll().contains(PollEvents::OUT));
    c.shutdown(Shutdown { read: false, write: true }).expect("shutdown");
    assert_eq!(recv(&s, 9).map(|r| r.0), Ok(vec![]));
    assert_eq!(send(&s, b"bye", &[]), Ok(3));
    s.release();
    assert_eq!(recv(&c, 9).map(|r| r.0), Ok(b"bye".to_vec()));
    assert_eq!(recv(&c, 9).map(|r| r.0), Ok(vec![]));
    // Into nothing, from where a reset comes back: but this end had closed its own side.
    assert_eq!(send(&c, b"x", &[]), Err(Errno::EPIPE.into()));
}

#[test]
fn ports_are_taken_and_given_back() {
    let stack = Stack::loopback(Arc::default());
    let l = listener(&stack, false, 80);
    let other = InetSock::new(false, SocketKind::Stream, &stack, 0);
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
    assert_eq!(other.bind_to(at), Err(Errno::EADDRINUSE.into()));
    other.options().set_flag(libc::SO_REUSEADDR, true);
    assert_eq!(other.bind_to(at), Err(Errno::EADDRINUSE.into()));
    l.release();
    assert_eq!(other.bind_to(at), Ok(()));
    let v6 = InetSock::new(true, SocketKind::Stream, &stack, 0);
    assert_eq!(v6.bind_to(SocketAddr::from((Ipv6Addr::LOCALHOST, 80))), Ok(()));
    let auto = InetSock::new(true, SocketKind::Stream, &stack, 0);
    auto.autobind().expect("autobind");
    assert!(auto.shown().0.port() >= 32_768);
}

#[test]
fn udp_finds_its_way() {
    let stack = Stack::loopback(Arc::default());
    let (a, b) = (InetSock::new(false, SocketKind::Dgram, &stack, 0), InetSock::new(false, SocketKind::Dgram, &stack, 0));
    a.bind_to(SocketAddr::from((Ipv4Addr::LOCALHOST, 53))).expect("bind");
    assert_eq!(send(&b, b"x", &[]), Err(Errno::EDESTADDRREQ.into()));
    assert_eq!(send(&b, b"query", &v4(53)), Ok(5));
    let (data, from) = recv(&a, 100).expect("recv");
    assert_eq!(data, b"query");
    assert_eq!(send(&a, b"answer", &from), Ok(6));
    assert_eq!(recv(&b, 100).map(|r| r.0), Ok(b"answer".to_vec()));
    b.connect_udp(&v4(54)).expect("connect");
    assert_eq!(send(&b, b"x", &[]), Ok(1));
    assert_eq!(recv(&b, 1), Err(Errno::ECONNREFUSED.into()));
    let out = address::encode(SocketAddr::from(([8, 8, 8, 8], 53)), false);
    assert_eq!(send(&b, b"x", &out), Err(Errno::ENETUNREACH.into()));
}
