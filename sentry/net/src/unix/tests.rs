//! Pairs of sockets, without tasks.

use super::{address::Names, *};
use abi::{Errno, Error, fs::OpenFlags, poll::PollEvents};
use kernel::{
    cred::Credentials,
    io::IoBuffer,
    net::{Control, Message, Shutdown, SocketFile},
    vfs::File,
};
use std::sync::Weak;

const CRED: Sender = Sender { ucred: Ucred { pid: 7, uid: 1, gid: 2 }, pids: 1 };

fn pair(kind: SocketKind) -> (Arc<Sock>, Arc<Sock>) {
    Sock::pair(kind, CRED, Arc::new([]), &Arc::new(Names::default()))
}

fn file(s: &Arc<Sock>) -> Arc<File> {
    SocketFile::create(s.clone(), OpenFlags::empty(), &Credentials::root())
}

fn send(s: &Sock, data: &[u8]) -> Result<usize> {
    s.send(None, &mut IoBuffer::source(data), Message::default(), 0)
}

fn send_files(s: &Sock, data: &[u8], files: &[&Arc<File>]) -> Result<usize> {
    let rights = files.iter().map(|f| (*f).clone()).collect();
    s.send(None, &mut IoBuffer::source(data), Message { control: vec![Control::Rights(rights)], ..Message::default() }, 0)
}

fn recv_with(s: &Sock, max: usize, flags: i32) -> Result<(Vec<u8>, usize, Message)> {
    let mut v = vec![0; max];
    let mut m = Message::default();
    let mut b = IoBuffer::dest(&mut v);
    let n = s.recv(&mut b, flags, &mut m)?;
    let done = b.done();
    v.truncate(done);
    Ok((v, n, m))
}

fn recv(s: &Sock, max: usize) -> Result<Vec<u8>> {
    recv_with(s, max, 0).map(|r| r.0)
}

fn rights(m: &Message) -> usize {
    m.control.iter().map(|c| if let Control::Rights(r) = c { r.len() } else { 0 }).sum()
}

const EAGAIN: Error = Error::Errno(Errno::EAGAIN);

#[test]
fn stream_glues_and_blocks() {
    let (a, b) = pair(SocketKind::Stream);
    assert_eq!(recv(&b, 8), Err(EAGAIN));
    assert_eq!(send(&a, b"abc"), Ok(3));
    assert_eq!(send(&a, b"def"), Ok(3));
    assert_eq!(recv_with(&b, 4, libc::MSG_PEEK).map(|r| r.0), Ok(b"abcd".to_vec()));
    assert_eq!(recv(&b, 4), Ok(b"abcd".to_vec()));
    assert_eq!(recv(&b, 9), Ok(b"ef".to_vec()));
    let big = vec![1; 1 << 20];
    let first = send(&a, &big).expect("send");
    assert!((150_000..=260_000).contains(&first), "{first}");
    assert_eq!(send(&a, b"x"), Err(EAGAIN));
    assert!(!a.poll().contains(PollEvents::OUT));
    let mut got = 0;
    while let Ok(v) = recv(&b, 65536) {
        got += v.len();
    }
    assert_eq!(got, first);
    assert_eq!(a.in_buffer(), 0);
    assert!(a.poll().contains(PollEvents::OUT));
}

#[test]
fn stream_ends() {
    let (a, b) = pair(SocketKind::Stream);
    send(&a, b"last").expect("send");
    a.shutdown(Shutdown { read: false, write: true }).expect("shutdown");
    assert_eq!(send(&a, b"x"), Err(Errno::EPIPE.into()));
    assert!(b.poll().contains(PollEvents::IN | PollEvents::RDHUP) && !b.poll().contains(PollEvents::HUP));
    assert_eq!(recv(&b, 9), Ok(b"last".to_vec()));
    assert_eq!(recv(&b, 9), Ok(vec![]));
    assert_eq!(send(&b, b"back"), Ok(4));
    a.release();
    // It was closed with something unread.
    assert!(b.poll().contains(PollEvents::HUP | PollEvents::ERR));
    assert_eq!(recv(&b, 9), Err(Errno::ECONNRESET.into()));
    assert_eq!(recv(&b, 9), Ok(vec![]));
    assert_eq!(send(&b, b"x"), Err(Errno::EPIPE.into()));
}

#[test]
fn datagrams_keep_bounds() {
    let (a, b) = pair(SocketKind::Dgram);
    assert_eq!(send(&a, b"first"), Ok(5));
    assert_eq!(send(&a, b""), Ok(0));
    let (data, n, m) = recv_with(&b, 3, libc::MSG_TRUNC).expect("recv");
    assert_eq!((data.as_slice(), n, m.flags), (&b"fir"[..], 5, libc::MSG_TRUNC));
    assert_eq!(recv(&b, 3), Ok(vec![]));
    assert_eq!(send(&a, &vec![0; 300_000]), Err(Errno::EMSGSIZE.into()));
    b.release();
    assert_eq!(send(&a, b"x"), Err(Errno::ECONNREFUSED.into()));
    assert_eq!(send(&a, b"x"), Err(Errno::ENOTCONN.into()));
    let (a, b) = pair(SocketKind::SeqPacket);
    send(&a, b"one").expect("send");
    a.release();
    assert_eq!(recv(&b, 9), Ok(b"one".to_vec()));
    assert_eq!(recv(&b, 9), Ok(vec![]));
    assert_eq!(send(&b, b"x"), Err(Errno::EPIPE.into()));
}

#[test]
fn rights_travel_with_their_byte() {
    let (a, b) = pair(SocketKind::Stream);
    let (c, _d) = pair(SocketKind::Stream);
    let f = file(&c);
    send(&a, b"12").expect("send");
    assert_eq!(send_files(&a, b"34", &[&f, &f]), Ok(2));
    send(&a, b"56").expect("send");
    assert_eq!(Arc::strong_count(&f), 3);
    let (data, _, m) = recv_with(&b, 100, libc::MSG_PEEK).expect("peek");
    assert_eq!((data.as_slice(), rights(&m)), (&b"1234"[..], 2));
    drop(m);
    let (data, _, m) = recv_with(&b, 100, 0).expect("recv");
    assert_eq!((data.as_slice(), rights(&m)), (&b"1234"[..], 2));
    drop(m);
    assert_eq!(Arc::strong_count(&f), 1);
    assert_eq!(recv(&b, 100), Ok(b"56".to_vec()));
    b.options().set_flag(libc::SO_PASSCRED, true);
    send(&a, b"7").expect("send");
    let (_, _, m) = recv_with(&b, 100, 0).expect("recv");
    assert!(matches!(m.control.as_slice(), [Control::Credentials(c)] if *c == CRED.ucred));
}

#[test]
fn circles_are_collected() {
    let (a, b) = pair(SocketKind::Stream);
    let (fa, fb) = (file(&a), file(&b));
    let (x, y) = pair(SocketKind::Dgram);
    let (fx, fy) = (file(&x), file(&y));
    let weak: Vec<Weak<File>> = [&fa, &fb, &fx, &fy].map(Arc::downgrade).into();
    // a and b in each other's queues, x in b's, and y open.
    send_files(&a, b"1", &[&fa]).expect("send");
    send_files(&b, b"1", &[&fb, &fx]).expect("send");
    drop((fa, fb));
    assert_eq!(weak.iter().map(Weak::strong_count).collect::<Vec<_>>(), [1, 1, 2, 1]);
    drop((a, b, x, y));
    drop(fx);
    // Closing any socket of the same sandbox looks for circles: the pair's names are its own, so do it by hand.
    let all: Vec<Arc<Sock>> = weak.iter().filter_map(Weak::upgrade).map(|f| sock(&f)).collect();
    rights::collect(|| all);
    assert_eq!(weak.iter().map(Weak::strong_count).collect::<Vec<_>>(), [0, 0, 0, 1]);
    drop(fy);
}

fn sock(f: &File) -> Arc<Sock> {
    SocketFile::of(f).expect("socket").as_any().downcast_ref::<Sock>().expect("unix").me()
}

#[test]
fn long_chains_end_without_recursion() {
    let (first, _keep) = pair(SocketKind::Stream);
    let mut held = file(&first);
    for _ in 0..20_000 {
        let (a, b) = pair(SocketKind::Stream);
        send_files(&a, b"1", &[&held]).expect("send");
        held = file(&b);
    }
    drop(held);
}
