//! Descriptors and credentials passed through unix sockets.

use super::unix::pair;
use crate::sys::*;
use crate::{check, eq, err, list, ok, say, sys};

pub const TESTS: &[crate::Test] = list!["pass";
    one, several, across_exec_of_nothing, cloexec, truncated, closed_sender, stream_boundaries, dgram_rights, credentials, credentials_refused, passcred_automatic, errors, in_flight_socket, socket_through_itself, peek_duplicates,
    limits, offset_and_flags, rights_and_creds, too_many,
];

/// A message with descriptors and, if wanted, credentials.
fn send(s: i32, data: &[u8], fds: &[i32], cred: Option<ucred>) -> R {
    let mut control = [0u64; 256];
    let mut at = 0usize;
    let bytes = control.as_mut_ptr() as *mut u8;
    let mut add = |kind: i32, payload: &[u8]| unsafe {
        let head = cmsghdr { cmsg_len: 16 + payload.len(), cmsg_level: SOL_SOCKET, cmsg_type: kind };
        std::ptr::write_unaligned(bytes.add(at) as *mut cmsghdr, head);
        std::ptr::copy_nonoverlapping(payload.as_ptr(), bytes.add(at + 16), payload.len());
        at += (16 + payload.len() + 7) & !7;
    };
    if !fds.is_empty() {
        add(SCM_RIGHTS, &fds.iter().flat_map(|f| f.to_le_bytes()).collect::<Vec<_>>());
    }
    if let Some(c) = cred {
        add(SCM_CREDENTIALS, &[c.pid.to_le_bytes(), c.uid.to_le_bytes(), c.gid.to_le_bytes()].concat());
    }
    let mut v = iovec { iov_base: data.as_ptr() as *mut c_void, iov_len: data.len() };
    let mut h = unsafe { std::mem::zeroed::<msghdr>() };
    h.msg_iov = &mut v;
    h.msg_iovlen = 1;
    h.msg_control = bytes.cast();
    h.msg_controllen = at;
    sys!(sendmsg, s, p(&h), MSG_NOSIGNAL)
}

struct Got {
    data: Vec<u8>,
    fds: Vec<i32>,
    cred: Option<(i32, u32, u32)>,
    flags: i32,
}

fn recv(s: i32, n: usize, room: usize, flags: i32) -> Result<Got, E> {
    let mut data = vec![0u8; n];
    let mut control = vec![0u64; 512];
    let mut v = iovec { iov_base: data.as_mut_ptr().cast(), iov_len: n };
    let mut h = unsafe { std::mem::zeroed::<msghdr>() };
    h.msg_iov = &mut v;
    h.msg_iovlen = 1;
    h.msg_control = control.as_mut_ptr().cast();
    h.msg_controllen = room;
    let got = sys!(recvmsg, s, m(&mut h), flags)? as usize;
    data.truncate(got);
    let bytes: Vec<u8> = control.iter().flat_map(|x| x.to_le_bytes()).collect();
    let (mut fds, mut cred, mut at) = (vec![], None, 0);
    let i32_at = |o: usize| i32::from_le_bytes(bytes[o..o + 4].try_into().unwrap());
    while at + 16 <= h.msg_controllen {
        let len = i32_at(at) as usize;
        match i32_at(at + 12) {
            SCM_RIGHTS => fds.extend((at + 16..at + len).step_by(4).map(i32_at)),
            SCM_CREDENTIALS => cred = Some((i32_at(at + 16), i32_at(at + 20) as u32, i32_at(at + 24) as u32)),
            other => say!("unexpected {other}"),
        }
        at += (len + 7) & !7;
    }
    Ok(Got { data, fds, cred, flags: h.msg_flags })
}

fn one() {
    let (a, b) = pair(SOCK_STREAM);
    put("f", b"passed");
    let child = fork(|| {
        let g = ok!(recv(b, 10, 64, 0));
        eq!((g.data.as_slice(), g.fds.len(), g.flags), (b"x".as_slice(), 1, 0));
        eq!(ok!(read(g.fds[0], 99)), b"passed");
    });
    let f = ok!(open(c"f", O_RDONLY));
    ok!(send(a, b"x", &[f], None));
    close(f);
    eq!(wait(child), 0);
}

fn several() {
    let (a, b) = pair(SOCK_SEQPACKET);
    let pipes: Vec<_> = (0..10).map(|_| pipe(0)).collect();
    ok!(send(a, b"ten", &pipes.iter().map(|x| x.1).collect::<Vec<_>>(), None));
    let g = ok!(recv(b, 10, 200, 0));
    eq!(g.fds.len(), 10);
    for (i, f) in g.fds.iter().enumerate() {
        ok!(write(*f, &[i as u8]));
        eq!(ok!(read(pipes[i].0, 1)), [i as u8]);
    }
}

fn across_exec_of_nothing() {
    // a message without descriptors after one with them
    let (a, b) = pair(SOCK_STREAM);
    let (r, _w) = pipe(0);
    ok!(send(a, b"with", &[r], None));
    ok!(send(a, b"without", &[], None));
    let g = ok!(recv(b, 100, 64, 0));
    say!("{:?} {}", String::from_utf8_lossy(&g.data), g.fds.len());
    let g = ok!(recv(b, 100, 64, 0));
    say!("{:?} {}", String::from_utf8_lossy(&g.data), g.fds.len());
}

fn cloexec() {
    let (a, b) = pair(SOCK_STREAM);
    let (r, _w) = pipe(0);
    ok!(send(a, b"x", &[r], None));
    let g = ok!(recv(b, 1, 64, MSG_CMSG_CLOEXEC));
    eq!(ok!(sys!(fcntl, g.fds[0], F_GETFD)), 1);
    ok!(send(a, b"x", &[r], None));
    let g = ok!(recv(b, 1, 64, 0));
    eq!(ok!(sys!(fcntl, g.fds[0], F_GETFD)), 0);
    check!(g.flags == 0);
}

fn truncated() {
    let (a, b) = pair(SOCK_STREAM);
    let (r, w) = pipe(0);
    ok!(send(a, b"x", &[r, w, r], None));
    let g = ok!(recv(b, 1, 24, 0));
    say!("room for two: {} truncated {}", g.fds.len(), g.flags & MSG_CTRUNC != 0);
    ok!(send(a, b"x", &[r], None));
    let g = ok!(recv(b, 1, 0, 0));
    say!("room for none: {} truncated {}", g.fds.len(), g.flags & MSG_CTRUNC != 0);
    ok!(send(a, b"x", &[r], None));
    eq!(ok!(read(b, 1)), b"x");
    // what was not taken is closed: the pipe has no writer left when ours is gone
    ok!(send(a, b"x", &[w], None));
    close(w);
    for f in g.fds {
        close(f);
    }
    let g = ok!(recv(b, 1, 8, 0));
    eq!(g.fds.len(), 0);
}

fn closed_sender() {
    let (a, b) = pair(SOCK_STREAM);
    let (r, w) = pipe(0);
    ok!(write(w, b"kept"));
    ok!(send(a, b"x", &[r], None));
    close(r);
    close(w);
    close(a);
    let g = ok!(recv(b, 1, 64, 0));
    eq!(ok!(read(g.fds[0], 9)), b"kept");
    // a socket closed with descriptors in flight closes them
    let (a, b) = pair(SOCK_STREAM);
    let (r, w) = pipe(0);
    ok!(send(a, b"x", &[w], None));
    close(w);
    let mut pf = pollfd { fd: r, events: POLLIN, revents: 0 };
    eq!(ok!(sys!(poll, m(&mut pf), 1, 0)), 0);
    close(b);
    close(a);
    eq!(ok!(sys!(poll, m(&mut pf), 1, 2000)), 1);
    eq!(ok!(read(r, 1)), b"");
}

fn stream_boundaries() {
    let (a, b) = pair(SOCK_STREAM);
    let (r, _w) = pipe(0);
    ok!(write(a, b"before"));
    ok!(send(a, b"with", &[r], None));
    ok!(write(a, b"after"));
    ok!(send(a, b"again", &[r], None));
    loop {
        match recv(b, 100, 64, MSG_DONTWAIT) {
            Ok(g) => say!("{:?} {}", String::from_utf8_lossy(&g.data), g.fds.len()),
            Err(e) => {
                say!("{e:?}");
                break;
            }
        }
    }
    ok!(send(a, b"longer data", &[r], None));
    let g = ok!(recv(b, 3, 64, 0));
    say!("{:?} {}", String::from_utf8_lossy(&g.data), g.fds.len());
    let g = ok!(recv(b, 100, 64, 0));
    say!("{:?} {}", String::from_utf8_lossy(&g.data), g.fds.len());
}

fn dgram_rights() {
    let (a, b) = pair(SOCK_DGRAM);
    let (r, w) = pipe(0);
    ok!(send(a, b"", &[w], None));
    let g = ok!(recv(b, 10, 64, 0));
    eq!(g.data, b"");
    ok!(write(g.fds[0], b"through"));
    eq!(ok!(read(r, 99)), b"through");
}

fn mine() -> ucred {
    ucred { pid: getpid(), uid: 0, gid: 0 }
}

fn credentials() {
    let (a, b) = pair(SOCK_DGRAM);
    ok!(sys!(setsockopt, b, SOL_SOCKET, SO_PASSCRED, p(&1i32), 4));
    ok!(send(a, b"x", &[], Some(mine())));
    eq!(ok!(recv(b, 1, 64, 0)).cred, Some((getpid(), 0, 0)));
    // root may claim other ids, and a process that exists
    ok!(send(a, b"x", &[], Some(ucred { pid: 1, uid: 77, gid: 88 })));
    eq!(ok!(recv(b, 1, 64, 0)).cred, Some((1, 77, 88)));
    err!(send(a, b"x", &[], Some(ucred { pid: 99999, uid: 0, gid: 0 })), ESRCH);
    // without SO_PASSCRED they do not arrive
    ok!(sys!(setsockopt, b, SOL_SOCKET, SO_PASSCRED, p(&0i32), 4));
    ok!(send(a, b"x", &[], Some(mine())));
    eq!(ok!(recv(b, 1, 64, 0)).cred, None);
}

fn credentials_refused() {
    let (a, _b) = pair(SOCK_STREAM);
    in_child(|| {
        ok!(sys!(setresgid, 1000, 1000, 1000));
        ok!(sys!(setresuid, 1000, 1000, 1000));
        err!(send(a, b"x", &[], Some(ucred { pid: getpid(), uid: 0, gid: 1000 })), EPERM);
        err!(send(a, b"x", &[], Some(ucred { pid: 1, uid: 1000, gid: 1000 })), EPERM);
        err!(send(a, b"x", &[], Some(ucred { pid: getpid(), uid: 1000, gid: 5 })), EPERM);
        ok!(send(a, b"x", &[], Some(ucred { pid: getpid(), uid: 1000, gid: 1000 })));
    });
}

fn passcred_automatic() {
    let (a, b) = pair(SOCK_STREAM);
    ok!(sys!(setsockopt, b, SOL_SOCKET, SO_PASSCRED, p(&1i32), 4));
    let child = fork(|| {
        ok!(sys!(setresgid, 500, 500, 500));
        ok!(sys!(setresuid, 1000, 1000, 1000));
        ok!(write(a, b"child"));
    });
    eq!(wait(child), 0);
    let g = ok!(recv(b, 5, 64, 0));
    eq!(g.cred.map(|c| (c.1, c.2)), Some((1000, 500)));
    // messages of different senders are not read together
    in_child(|| {
        ok!(write(a, b"one"));
    });
    ok!(write(a, b"two"));
    let g = ok!(recv(b, 100, 64, 0));
    say!("{:?}", String::from_utf8_lossy(&g.data));
}

fn errors() {
    let (a, b) = pair(SOCK_STREAM);
    err!(send(a, b"x", &[99], None), EBADF);
    err!(send(a, b"x", &[-1], None), EBADF);
    let mut h = unsafe { std::mem::zeroed::<msghdr>() };
    err!(sys!(sendmsg, a, 8, 0), EFAULT);
    err!(sys!(recvmsg, a, 8, 0), EFAULT);
    h.msg_iovlen = 5000;
    err!(sys!(sendmsg, a, p(&h), 0), EMSGSIZE);
    let mut c = [0u64; 4];
    let head = cmsghdr { cmsg_len: 4, cmsg_level: SOL_SOCKET, cmsg_type: SCM_RIGHTS };
    unsafe { std::ptr::write(c.as_mut_ptr().cast(), head) };
    let mut v = iovec { iov_base: b"x".as_ptr() as *mut c_void, iov_len: 1 };
    h.msg_iov = &mut v;
    h.msg_iovlen = 1;
    h.msg_control = c.as_mut_ptr().cast();
    h.msg_controllen = 24;
    err!(sys!(sendmsg, a, p(&h), 0), EINVAL);
    let head = cmsghdr { cmsg_len: 20, cmsg_level: SOL_SOCKET, cmsg_type: 77 };
    unsafe { std::ptr::write(c.as_mut_ptr().cast(), head) };
    err!(sys!(sendmsg, a, p(&h), 0), EINVAL);
    err!(recv(b, 1, 64, MSG_DONTWAIT).map(|_| ()), EAGAIN);
}

fn in_flight_socket() {
    // a connected socket can be passed, and goes on working
    let (a, b) = pair(SOCK_STREAM);
    let (x, y) = pair(SOCK_STREAM);
    ok!(send(a, b"s", &[x], None));
    close(x);
    ok!(write(y, b"waiting"));
    let g = ok!(recv(b, 1, 64, 0));
    eq!(ok!(read(g.fds[0], 99)), b"waiting");
}

fn socket_through_itself() {
    // cycles of sockets in flight are freed when nobody can receive them any more
    for _ in 0..50 {
        let (a, b) = pair(SOCK_DGRAM);
        ok!(send(a, b"x", &[a, b], None));
        ok!(send(b, b"x", &[a, b], None));
        close(a);
        close(b);
    }
    let (a, b) = pair(SOCK_STREAM);
    ok!(send(a, b"x", &[b], None));
    let g = ok!(recv(b, 1, 64, 0));
    ok!(write(a, b"y"));
    eq!(ok!(read(g.fds[0], 1)), b"y");
}

fn peek_duplicates() {
    let (a, b) = pair(SOCK_STREAM);
    let (r, _w) = pipe(0);
    ok!(send(a, b"x", &[r], None));
    let g = ok!(recv(b, 1, 64, MSG_PEEK));
    let h = ok!(recv(b, 1, 64, 0));
    say!("{} {}", g.fds.len(), h.fds.len());
    check!(g.fds != h.fds);
}

fn limits() {
    let (a, b) = pair(SOCK_STREAM);
    let (r, _w) = pipe(0);
    let lim = rlimit { rlim_cur: 12, rlim_max: 64 };
    ok!(send(a, b"x", &[r; 20], None));
    ok!(sys!(setrlimit, RLIMIT_NOFILE, p(&lim)));
    let g = ok!(recv(b, 1, 200, 0));
    say!("{} truncated {}", g.fds.len() < 20, g.flags & MSG_CTRUNC != 0);
    check!(g.fds.iter().all(|f| *f < 12));
}

fn too_many() {
    let (a, b) = pair(SOCK_STREAM);
    let (r, _w) = pipe(0);
    ok!(send(a, b"x", &[r; 253], None));
    err!(send(a, b"x", &[r; 254], None), EINVAL);
    eq!(ok!(recv(b, 1, 2048, 0)).fds.len(), 253);
}

fn offset_and_flags() {
    // what is passed is the description: offset and status flags are shared
    let (a, b) = pair(SOCK_STREAM);
    put("f", b"0123456789");
    let f = ok!(open(c"f", O_RDONLY));
    ok!(send(a, b"x", &[f], None));
    let g = ok!(recv(b, 1, 64, 0));
    ok!(read(f, 4));
    eq!(ok!(read(g.fds[0], 2)), b"45");
    ok!(sys!(fcntl, f, F_SETFL, O_NONBLOCK));
    check!(ok!(sys!(fcntl, g.fds[0], F_GETFL)) & i64::from(O_NONBLOCK) != 0);
    let path = ok!(open(c"f", O_PATH));
    ok!(send(a, b"x", &[path], None));
    let g = ok!(recv(b, 1, 64, 0));
    err!(read(g.fds[0], 1), EBADF);
}

fn rights_and_creds() {
    let (a, b) = pair(SOCK_STREAM);
    ok!(sys!(setsockopt, b, SOL_SOCKET, SO_PASSCRED, p(&1i32), 4));
    let (r, _w) = pipe(0);
    ok!(send(a, b"both", &[r], Some(mine())));
    let g = ok!(recv(b, 10, 128, 0));
    eq!((g.fds.len(), g.cred), (1, Some((getpid(), 0, 0))));
}
