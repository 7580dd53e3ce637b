//! Unix sockets: streams, datagrams, sequenced packets, names, connecting, shutting down.

use crate::sys::*;
use crate::{check, eq, err, list, ok, say, sys};

pub const TESTS: &[crate::Test] = list!["unix";
    pair_stream, pair_dgram, pair_seqpacket, pair_args, listen_accept, path_names, bind_errors, connect_errors, abstract_names, autobind, backlog, backlog_blocks, accept4_flags, names_of,
    shutdown_stream, shutdown_dgram, nonblock, peek, truncation, big_messages, stream_buffers, dgram_connect, dgram_unlinked, sendto_errors, seqpacket_server, options, peercred, sndbuf_rcvbuf,
    timeouts, close_wakes, reset, polling, socket_args, unlinked_listener, msg_waitall, writev_dgram, sendmmsg_recvmmsg, proc_net_unix, many_connections, fionread, dgram_queue_full, getsockname_sizes, other_families,
];

pub fn socket(kind: i32) -> i32 {
    ok!(sys!(socket, AF_UNIX, kind, 0)) as i32
}

pub fn pair(kind: i32) -> (i32, i32) {
    let mut s = [0i32; 2];
    ok!(sys!(socketpair, AF_UNIX, kind, 0, m(&mut s)));
    (s[0], s[1])
}

/// An address and its length; a name that begins with `@` is abstract.
pub fn addr(name: &str) -> (sockaddr_un, usize) {
    let mut a = unsafe { std::mem::zeroed::<sockaddr_un>() };
    a.sun_family = AF_UNIX as u16;
    for (i, b) in name.bytes().enumerate() {
        a.sun_path[i] = if i == 0 && b == b'@' { 0 } else { b as c_char };
    }
    (a, 2 + name.len() + usize::from(!name.starts_with('@')))
}

fn bind(s: i32, name: &str) -> R {
    let (a, n) = addr(name);
    sys!(bind, s, p(&a), n)
}

fn connect(s: i32, name: &str) -> R {
    let (a, n) = addr(name);
    sys!(connect, s, p(&a), n)
}

fn listener(name: &str, backlog: i32) -> i32 {
    let s = socket(SOCK_STREAM);
    ok!(bind(s, name));
    ok!(sys!(listen, s, backlog));
    s
}

fn send(s: i32, b: &[u8], flags: i32) -> R {
    sys!(sendto, s, p(b), b.len(), flags, 0, 0)
}

fn recv(s: i32, n: usize, flags: i32) -> Result<Vec<u8>, E> {
    let mut b = vec![0u8; n];
    let got = sys!(recvfrom, s, m(&mut b[..]), n, flags, 0, 0)? as usize;
    b.truncate(got);
    Ok(b)
}

fn name_of(f: impl Fn(i64, i64) -> R) -> String {
    let mut a = unsafe { std::mem::zeroed::<sockaddr_un>() };
    let mut n = 110u32;
    match f(m(&mut a), m(&mut n)) {
        Ok(_) => {
            let b: Vec<u8> = a.sun_path.iter().map(|x| *x as u8).take((n as usize).saturating_sub(2)).collect();
            format!("{n} family {} {:?}", a.sun_family, String::from_utf8_lossy(&b))
        }
        Err(e) => format!("{e:?}"),
    }
}

fn pair_stream() {
    let (a, b) = pair(SOCK_STREAM);
    ok!(write(a, b"hello"));
    ok!(write(a, b" there"));
    eq!(ok!(read(b, 7)), b"hello t");
    eq!(ok!(read(b, 99)), b"here");
    ok!(write(b, b"back"));
    eq!(ok!(read(a, 99)), b"back");
    close(a);
    eq!(ok!(read(b, 9)), b"");
    action(SIGPIPE, SIG_IGN);
    err!(write(b, b"x"), EPIPE);
    err!(send(b, b"x", MSG_NOSIGNAL), EPIPE);
    err!(sys!(lseek, b, 0, SEEK_SET), ESPIPE);
}

fn pair_dgram() {
    let (a, b) = pair(SOCK_DGRAM);
    ok!(write(a, b"one"));
    ok!(write(a, b"two two"));
    ok!(write(a, b""));
    eq!(ok!(read(b, 2)), b"on");
    eq!(ok!(read(b, 99)), b"two two");
    eq!(ok!(read(b, 99)), b"");
    close(a);
    err!(send(b, b"x", MSG_NOSIGNAL), ECONNREFUSED);
}

fn pair_seqpacket() {
    let (a, b) = pair(SOCK_SEQPACKET);
    ok!(write(a, b"one"));
    ok!(write(a, b"two"));
    eq!(ok!(read(b, 99)), b"one");
    eq!(ok!(read(b, 1)), b"t");
    close(a);
    eq!(ok!(read(b, 99)), b"");
    err!(send(b, b"x", MSG_NOSIGNAL), EPIPE);
}

fn pair_args() {
    let mut s = [0i32; 2];
    err!(sys!(socketpair, AF_UNIX, 99, 0, m(&mut s)), EINVAL);
    err!(sys!(socketpair, AF_UNIX, SOCK_STREAM, 99, m(&mut s)), EPROTONOSUPPORT);
    err!(sys!(socketpair, 9999, SOCK_STREAM, 0, m(&mut s)), EAFNOSUPPORT);
    err!(sys!(socketpair, AF_UNIX, SOCK_STREAM, 0, 8), EFAULT);
    ok!(sys!(socketpair, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, m(&mut s)));
    eq!(ok!(sys!(fcntl, s[0], F_GETFD)), 1);
    err!(read(s[0], 1), EAGAIN);
    eq!(fstat(s[0]).st_mode, S_IFSOCK | 0o777);
    check!(std::fs::read_link(format!("/proc/self/fd/{}", s[0])).unwrap().to_string_lossy().starts_with("socket:["));
    err!(open(&c(format!("/proc/self/fd/{}", s[0])), O_RDWR), ENXIO);
}

fn socket_args() {
    err!(sys!(socket, AF_UNIX, 77, 0), EINVAL);
    err!(sys!(socket, AF_UNIX, SOCK_STREAM, 2), EPROTONOSUPPORT);
    err!(sys!(socket, 9999, SOCK_STREAM, 0), EAFNOSUPPORT);
    err!(sys!(socket, -1, SOCK_STREAM, 0), EAFNOSUPPORT);
    ok!(sys!(socket, AF_UNIX, SOCK_STREAM, AF_UNIX));
    err!(sys!(socket, AF_UNIX, SOCK_STREAM | 0x10, 0), EINVAL);
    ok!(sys!(socket, AF_UNIX, SOCK_RAW, 0));
    put("f", b"");
    let f = ok!(open(c"f", O_RDWR));
    err!(sys!(listen, f, 1), ENOTSOCK);
    err!(bind(f, "x"), ENOTSOCK);
    err!(connect(f, "x"), ENOTSOCK);
    err!(sys!(accept, f, 0, 0), ENOTSOCK);
    err!(send(f, b"x", 0), ENOTSOCK);
    err!(sys!(shutdown, f, 0), ENOTSOCK);
    err!(sys!(getsockname, f, m(&mut [0u8; 8]), m(&mut 8u32)), ENOTSOCK);
    err!(sys!(listen, 99, 1), EBADF);
}

fn listen_accept() {
    let l = listener("sock", 5);
    let child = fork(|| {
        let s = socket(SOCK_STREAM);
        ok!(connect(s, "sock"));
        ok!(write(s, b"request"));
        eq!(ok!(read(s, 99)), b"response");
        eq!(ok!(read(s, 99)), b"");
    });
    let s = ok!(sys!(accept, l, 0, 0)) as i32;
    eq!(ok!(read(s, 99)), b"request");
    ok!(write(s, b"response"));
    close(s);
    eq!(wait(child), 0);
    eq!(ok!(lstat(c"sock")).st_mode & S_IFMT, S_IFSOCK);
    let s = socket(SOCK_STREAM);
    ok!(connect(s, "sock"));
    // data may be sent before it is accepted
    ok!(write(s, b"early"));
    close(s);
    let a = ok!(sys!(accept, l, 0, 0)) as i32;
    eq!((ok!(read(a, 99)), ok!(read(a, 99))), (b"early".to_vec(), vec![]));
}

fn path_names() {
    let l = listener("sock", 5);
    say!("{}", name_of(|a, n| sys!(getsockname, l, a, n)));
    let s = socket(SOCK_STREAM);
    say!("{}", name_of(|a, n| sys!(getsockname, s, a, n)));
    say!("{}", name_of(|a, n| sys!(getpeername, s, a, n)));
    ok!(connect(s, "sock"));
    say!("{}", name_of(|a, n| sys!(getpeername, s, a, n)));
    let a = ok!(sys!(accept, l, 0, 0)) as i32;
    say!("{}", name_of(|x, n| sys!(getsockname, a, x, n)));
    say!("{}", name_of(|x, n| sys!(getpeername, a, x, n)));
    let b = socket(SOCK_STREAM);
    ok!(bind(b, "client"));
    ok!(connect(b, "sock"));
    say!("accept {}", name_of(|x, n| sys!(accept, l, x, n)));
    let (x, y) = pair(SOCK_STREAM);
    say!("{} / {}", name_of(|a, n| sys!(getsockname, x, a, n)), name_of(|a, n| sys!(getpeername, y, a, n)));
    ok!(sys!(mkdir, c"d", 0o755));
    ok!(bind(socket(SOCK_STREAM), "d/../d/sock"));
    ok!(lstat(c"d/sock"));
}

fn getsockname_sizes() {
    let l = listener("sock", 5);
    let mut a = [0xffu8; 16];
    let mut n = 4u32;
    ok!(sys!(getsockname, l, m(&mut a), m(&mut n)));
    eq!((n, &a[..5]), (7, &[1u8, 0, b's', b'o', 0xff][..]));
    err!(sys!(getsockname, l, m(&mut a), m(&mut -1i32)), EINVAL);
    err!(sys!(getsockname, l, m(&mut a), 8), EFAULT);
    n = 0;
    ok!(sys!(getsockname, l, 0, m(&mut n)));
    eq!(n, 7);
}

fn bind_errors() {
    let s = socket(SOCK_STREAM);
    ok!(bind(s, "sock"));
    err!(bind(s, "other"), EINVAL);
    let q = socket(SOCK_STREAM);
    err!(bind(q, "sock"), EADDRINUSE);
    put("file", b"");
    err!(bind(q, "file"), EADDRINUSE);
    err!(bind(q, "none/sock"), ENOENT);
    err!(bind(q, "file/sock"), ENOTDIR);
    let (a, _) = addr("x");
    err!(sys!(bind, q, p(&a), 1), EINVAL);
    err!(sys!(bind, q, p(&a), 200), EINVAL);
    err!(sys!(bind, q, 8, 5), EFAULT);
    let mut wrong = a;
    wrong.sun_family = AF_INET as u16;
    err!(sys!(bind, q, p(&wrong), 5), EINVAL);
    ok!(bind(q, &"n".repeat(107)));
    let r = socket(SOCK_STREAM);
    let full = addr(&"m".repeat(108)).0;
    ok!(sys!(bind, r, p(&full), 110));
    ok!(sys!(umask, 0o077));
    ok!(bind(socket(SOCK_STREAM), "masked"));
    eq!(ok!(lstat(c"masked")).st_mode & 0o777, 0o700);
}

fn connect_errors() {
    let s = socket(SOCK_STREAM);
    err!(connect(s, "none"), ENOENT);
    put("file", b"");
    err!(connect(s, "file"), ECONNREFUSED);
    ok!(bind(socket(SOCK_STREAM), "closed"));
    err!(connect(s, "closed"), ECONNREFUSED);
    let bound = socket(SOCK_STREAM);
    ok!(bind(bound, "not-listening"));
    err!(connect(s, "not-listening"), ECONNREFUSED);
    err!(connect(s, "@nobody"), ECONNREFUSED);
    let d = socket(SOCK_DGRAM);
    ok!(bind(d, "dgram"));
    err!(connect(s, "dgram"), EPROTOTYPE);
    let l = listener("sock", 5);
    ok!(connect(s, "sock"));
    err!(connect(s, "sock"), EISCONN);
    err!(connect(l, "sock"), EINVAL);
    err!(sys!(listen, s, 1), EINVAL);
    err!(sys!(accept, s, 0, 0), EINVAL);
    err!(sys!(listen, socket(SOCK_STREAM), 1), EINVAL);
    err!(sys!(listen, d, 1), EOPNOTSUPP);
    ok!(sys!(chmod, c"sock", 0o600));
    in_child(|| {
        ok!(sys!(setresuid, 1000, 1000, 1000));
        err!(connect(socket(SOCK_STREAM), "sock"), EACCES);
    });
    let (a, _) = addr("sock");
    err!(sys!(connect, socket(SOCK_STREAM), p(&a), 1), EINVAL);
}

fn abstract_names() {
    let l = listener("@an abstract name", 5);
    say!("{}", name_of(|a, n| sys!(getsockname, l, a, n)));
    err!(bind(socket(SOCK_STREAM), "@an abstract name"), EADDRINUSE);
    let s = socket(SOCK_STREAM);
    err!(connect(s, "@an abstract nam"), ECONNREFUSED);
    ok!(connect(s, "@an abstract name"));
    let a = ok!(sys!(accept, l, 0, 0)) as i32;
    ok!(write(s, b"x"));
    eq!(ok!(read(a, 1)), b"x");
    close(l);
    err!(connect(socket(SOCK_STREAM), "@an abstract name"), ECONNREFUSED);
    close(a);
    ok!(bind(socket(SOCK_STREAM), "@an abstract name"));
    ok!(bind(socket(SOCK_STREAM), "@nul\0inside"));
    ok!(bind(socket(SOCK_STREAM), "@nul"));
}

fn autobind() {
    let s = socket(SOCK_DGRAM);
    let (a, _) = addr("");
    ok!(sys!(bind, s, p(&a), 2));
    let n = name_of(|a, n| sys!(getsockname, s, a, n));
    check!(n.starts_with("8 family 1"));
    let t = socket(SOCK_DGRAM);
    ok!(sys!(bind, t, p(&a), 2));
    check!(name_of(|a, n| sys!(getsockname, t, a, n)) != n);
}

fn backlog() {
    let l = listener("sock", 2);
    let mut n = 0;
    let e = loop {
        let s = socket(SOCK_STREAM | SOCK_NONBLOCK);
        match connect(s, "sock") {
            Ok(_) => n += 1,
            Err(e) => break e,
        }
    };
    say!("{n} {e:?}");
    ok!(sys!(accept, l, 0, 0));
    ok!(connect(socket(SOCK_STREAM | SOCK_NONBLOCK), "sock"));
}

fn backlog_blocks() {
    let l = listener("sock", 0);
    let first = socket(SOCK_STREAM);
    ok!(connect(first, "sock"));
    let child = fork(|| {
        ok!(connect(socket(SOCK_STREAM), "sock"));
    });
    until("it sleeps", || state(child) == 'S');
    ok!(sys!(accept, l, 0, 0));
    eq!(wait(child), 0);
    // closing the listener refuses who waits
    let child = fork(|| {
        close(l);
        err!(connect(socket(SOCK_STREAM), "sock"), ECONNREFUSED);
    });
    until("it sleeps", || state(child) == 'S');
    ms(10);
    close(l);
    eq!(wait(child), 0);
}

fn accept4_flags() {
    let l = listener("sock", 5);
    ok!(connect(socket(SOCK_STREAM), "sock"));
    ok!(connect(socket(SOCK_STREAM), "sock"));
    let a = ok!(sys!(accept4, l, 0, 0, SOCK_NONBLOCK | SOCK_CLOEXEC)) as i32;
    eq!(ok!(sys!(fcntl, a, F_GETFD)), 1);
    eq!(ok!(sys!(fcntl, a, F_GETFL)), i64::from(O_RDWR | O_NONBLOCK));
    err!(sys!(accept4, l, 0, 0, 1), EINVAL);
    let b = ok!(sys!(accept, l, 0, 0)) as i32;
    eq!(ok!(sys!(fcntl, b, F_GETFL)), i64::from(O_RDWR));
    ok!(sys!(fcntl, l, F_SETFL, O_NONBLOCK));
    err!(sys!(accept, l, 0, 0), EAGAIN);
}

fn names_of() {
    let (a, _b) = pair(SOCK_STREAM);
    let mut v = 0i32;
    for (opt, what) in
        [(SO_TYPE, "type"), (SO_DOMAIN, "domain"), (SO_PROTOCOL, "protocol"), (SO_ACCEPTCONN, "accepting"), (SO_ERROR, "error")]
    {
        ok!(sys!(getsockopt, a, SOL_SOCKET, opt, m(&mut v), m(&mut 4u32)));
        say!("{what} {v}");
    }
    let l = listener("sock", 1);
    ok!(sys!(getsockopt, l, SOL_SOCKET, SO_ACCEPTCONN, m(&mut v), m(&mut 4u32)));
    eq!(v, 1);
}

fn shutdown_stream() {
    let (a, b) = pair(SOCK_STREAM);
    ok!(write(a, b"last"));
    ok!(sys!(shutdown, a, SHUT_WR));
    err!(send(a, b"x", MSG_NOSIGNAL), EPIPE);
    eq!((ok!(read(b, 99)), ok!(read(b, 99))), (b"last".to_vec(), vec![]));
    ok!(write(b, b"other way"));
    eq!(ok!(read(a, 99)), b"other way");
    ok!(sys!(shutdown, a, SHUT_RD));
    err!(send(b, b"x", MSG_NOSIGNAL), EPIPE);
    eq!(ok!(read(a, 99)), b"");
    err!(sys!(shutdown, a, 3), EINVAL);
    let (c, d) = pair(SOCK_STREAM);
    ok!(sys!(shutdown, c, SHUT_RDWR));
    eq!(ok!(read(d, 1)), b"");
    err!(send(d, b"x", MSG_NOSIGNAL), EPIPE);
    let child = fork(|| {
        let (x, y) = pair(SOCK_STREAM);
        let t = threads(1, move |_| {
            ms(30);
            ok!(sys!(shutdown, y, SHUT_WR));
        });
        eq!(ok!(read(x, 1)), b"");
        for z in t {
            z.join().unwrap();
        }
    });
    eq!(wait(child), 0);
}

fn shutdown_dgram() {
    let (a, b) = pair(SOCK_DGRAM);
    ok!(sys!(shutdown, a, SHUT_WR));
    err!(send(a, b"x", MSG_NOSIGNAL), EPIPE);
    ok!(send(b, b"y", 0));
    eq!(ok!(read(a, 9)), b"y");
    ok!(sys!(shutdown, a, SHUT_RD));
    eq!(ok!(read(a, 9)), b"");
    err!(send(b, b"z", MSG_NOSIGNAL), EPIPE);
}

fn nonblock() {
    let (a, b) = pair(SOCK_STREAM | SOCK_NONBLOCK);
    err!(read(a, 1), EAGAIN);
    let mut n = 0;
    while let Ok(k) = write(b, &[0; 1000]) {
        n += k;
    }
    check!(n > 50_000);
    err!(write(b, b"x"), EAGAIN);
    let (c, d) = pair(SOCK_STREAM);
    err!(recv(c, 1, MSG_DONTWAIT), EAGAIN);
    ok!(write(d, b"x"));
    eq!(ok!(recv(c, 9, MSG_DONTWAIT)), b"x");
    let l = socket(SOCK_STREAM | SOCK_NONBLOCK);
    ok!(bind(l, "l"));
    ok!(sys!(listen, l, 1));
    err!(sys!(accept, l, 0, 0), EAGAIN);
}

fn peek() {
    let (a, b) = pair(SOCK_STREAM);
    ok!(write(a, b"abc"));
    ok!(write(a, b"def"));
    eq!(ok!(recv(b, 2, MSG_PEEK)), b"ab");
    eq!(ok!(recv(b, 99, MSG_PEEK)), b"abcdef");
    eq!(ok!(recv(b, 4, 0)), b"abcd");
    eq!(ok!(recv(b, 99, MSG_PEEK)), b"ef");
    let (c, d) = pair(SOCK_DGRAM);
    ok!(write(c, b"one"));
    ok!(write(c, b"two"));
    eq!(
        (ok!(recv(d, 99, MSG_PEEK)), ok!(recv(d, 99, MSG_PEEK)), ok!(recv(d, 99, 0)), ok!(recv(d, 99, 0))),
        (b"one".to_vec(), b"one".to_vec(), b"one".to_vec(), b"two".to_vec())
    );
}

fn truncation() {
    let (a, b) = pair(SOCK_DGRAM);
    ok!(write(a, b"0123456789"));
    let mut buf = [0u8; 4];
    eq!(ok!(sys!(recvfrom, b, m(&mut buf), 4, MSG_TRUNC, 0, 0)), 10);
    ok!(write(a, b"0123456789"));
    let mut v = iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: 4 };
    let mut h = unsafe { std::mem::zeroed::<msghdr>() };
    h.msg_iov = &mut v;
    h.msg_iovlen = 1;
    eq!(ok!(sys!(recvmsg, b, m(&mut h), 0)), 4);
    eq!(h.msg_flags & MSG_TRUNC, MSG_TRUNC);
    ok!(write(a, b"01"));
    eq!(ok!(sys!(recvmsg, b, m(&mut h), 0)), 2);
    eq!(h.msg_flags, 0);
}

fn big_messages() {
    let (a, b) = pair(SOCK_DGRAM);
    let big: Vec<u8> = (0..100_000u32).map(|x| (x % 251) as u8).collect();
    eq!(ok!(write(a, &big)), 100_000);
    eq!(ok!(recv(b, 200_000, 0)), big);
    err!(write(a, &vec![0; 1 << 20]), EMSGSIZE);
    let (a, b) = pair(SOCK_STREAM);
    let child = fork(|| {
        let all: Vec<u8> = (0..3_000_000u32).map(|x| (x % 241) as u8).collect();
        eq!(ok!(write(a, &all)), 3_000_000);
    });
    close(a);
    let mut n = 0usize;
    loop {
        let got = ok!(read(b, 65536));
        if got.is_empty() {
            break;
        }
        check!(got.iter().enumerate().all(|(i, x)| *x == ((n + i) % 241) as u8));
        n += got.len();
    }
    eq!((n, wait(child)), (3_000_000, 0));
}

fn stream_buffers() {
    let (a, b) = pair(SOCK_STREAM);
    let child = fork(|| {
        eq!(ok!(write(a, &vec![1; 1_000_000])), 1_000_000);
    });
    until("it sleeps", || state(child) == 'S');
    let mut n = 0;
    while n < 1_000_000 {
        n += ok!(read(b, 100_000)).len();
    }
    eq!(wait(child), 0);
}

fn dgram_connect() {
    let server = socket(SOCK_DGRAM);
    ok!(bind(server, "srv"));
    let client = socket(SOCK_DGRAM);
    err!(write(client, b"x"), ENOTCONN);
    ok!(connect(client, "srv"));
    ok!(write(client, b"unnamed"));
    let mut b = [0u8; 32];
    let mut a = unsafe { std::mem::zeroed::<sockaddr_un>() };
    let mut n = 110u32;
    eq!(ok!(sys!(recvfrom, server, m(&mut b), 32, 0, m(&mut a), m(&mut n))), 7);
    say!("from a socket without a name: {n}");
    ok!(bind(client, "cli"));
    ok!(write(client, b"named"));
    n = 110;
    ok!(sys!(recvfrom, server, m(&mut b), 32, 0, m(&mut a), m(&mut n)));
    say!("{n} {:?}", a.sun_path[..3].iter().map(|x| *x as u8 as char).collect::<String>());
    let (to, len) = addr("cli");
    eq!(ok!(sys!(sendto, server, b"reply".as_ptr(), 5, 0, p(&to), len)), 5);
    eq!(ok!(read(client, 99)), b"reply");
    // connected to the server, others are refused
    let other = socket(SOCK_DGRAM);
    err!(sys!(sendto, other, b"x".as_ptr(), 1, 0, p(&to), len), EPERM);
    // and connected to nobody again
    let mut none = a;
    none.sun_family = AF_UNSPEC as u16;
    ok!(sys!(connect, client, p(&none), 2));
    err!(write(client, b"x"), ENOTCONN);
    ok!(sys!(sendto, other, b"x".as_ptr(), 1, 0, p(&to), len));
    // moving on to another server
    let second = socket(SOCK_DGRAM);
    ok!(bind(second, "srv2"));
    ok!(connect(client, "srv"));
    ok!(connect(client, "srv2"));
    ok!(write(client, b"to the second"));
    eq!(ok!(read(second, 99)), b"to the second");
}

fn dgram_unlinked() {
    let server = socket(SOCK_DGRAM);
    ok!(bind(server, "srv"));
    let client = socket(SOCK_DGRAM);
    ok!(connect(client, "srv"));
    ok!(sys!(unlink, c"srv"));
    ok!(write(client, b"still there"));
    eq!(ok!(read(server, 99)), b"still there");
    close(server);
    err!(write(client, b"x"), ECONNREFUSED);
    err!(write(client, b"x"), ENOTCONN);
}

fn dgram_queue_full() {
    let server = socket(SOCK_DGRAM);
    ok!(bind(server, "srv"));
    let client = socket(SOCK_DGRAM | SOCK_NONBLOCK);
    ok!(connect(client, "srv"));
    let mut n = 0;
    let e = loop {
        match write(client, b"x") {
            Ok(_) => n += 1,
            Err(e) => break e,
        }
    };
    check!(n >= 10);
    eq!(e, EAGAIN);
    ok!(read(server, 1));
    ok!(write(client, b"x"));
}

fn sendto_errors() {
    let s = socket(SOCK_DGRAM);
    let (to, len) = addr("none");
    err!(sys!(sendto, s, b"x".as_ptr(), 1, 0, p(&to), len), ENOENT);
    err!(sys!(sendto, s, b"x".as_ptr(), 1, 0, 0, 0), ENOTCONN);
    let l = listener("l", 1);
    let (to, len) = addr("l");
    err!(sys!(sendto, s, b"x".as_ptr(), 1, 0, p(&to), len), EPROTOTYPE);
    let (a, _b) = pair(SOCK_STREAM);
    err!(sys!(sendto, a, b"x".as_ptr(), 1, 0, p(&to), len), EISCONN);
    err!(send(l, b"x", MSG_NOSIGNAL), ENOTCONN);
    let u = socket(SOCK_STREAM);
    err!(send(u, b"x", MSG_NOSIGNAL), ENOTCONN);
    err!(recv(u, 1, 0), EINVAL);
    err!(sys!(sendto, s, 8, 1, 0, p(&to), len), EFAULT);
    err!(send(a, b"x", MSG_OOB).map(|_| 0).and(Err::<i64, E>(EOPNOTSUPP)), EOPNOTSUPP);
}

fn seqpacket_server() {
    let l = socket(SOCK_SEQPACKET);
    ok!(bind(l, "seq"));
    ok!(sys!(listen, l, 4));
    let s = socket(SOCK_SEQPACKET);
    ok!(connect(s, "seq"));
    let a = ok!(sys!(accept, l, 0, 0)) as i32;
    ok!(write(s, b"first"));
    ok!(write(s, b"second"));
    eq!((ok!(read(a, 99)), ok!(read(a, 99))), (b"first".to_vec(), b"second".to_vec()));
    err!(connect(socket(SOCK_STREAM), "seq"), EPROTOTYPE);
}

fn options() {
    let (a, _b) = pair(SOCK_STREAM);
    let mut v = 7i32;
    for opt in [SO_KEEPALIVE, SO_REUSEADDR, SO_PASSCRED, SO_BROADCAST, SO_OOBINLINE] {
        ok!(sys!(getsockopt, a, SOL_SOCKET, opt, m(&mut v), m(&mut 4u32)));
        let before = v;
        ok!(sys!(setsockopt, a, SOL_SOCKET, opt, p(&1i32), 4));
        ok!(sys!(getsockopt, a, SOL_SOCKET, opt, m(&mut v), m(&mut 4u32)));
        say!("{opt} {before} {v}");
    }
    err!(sys!(setsockopt, a, SOL_SOCKET, SO_KEEPALIVE, p(&1i32), 3), EINVAL);
    err!(sys!(setsockopt, a, SOL_SOCKET, 9999, p(&1i32), 4), ENOPROTOOPT);
    err!(sys!(getsockopt, a, SOL_SOCKET, 9999, m(&mut v), m(&mut 4u32)), ENOPROTOOPT);
    err!(sys!(setsockopt, a, SOL_SOCKET, SO_TYPE, p(&1i32), 4), ENOPROTOOPT);
    err!(sys!(setsockopt, a, 6, 1, p(&1i32), 4), EOPNOTSUPP);
    err!(sys!(getsockopt, a, SOL_SOCKET, SO_TYPE, m(&mut v), 8), EFAULT);
    let mut l = linger { l_onoff: 1, l_linger: 5 };
    ok!(sys!(setsockopt, a, SOL_SOCKET, SO_LINGER, p(&l), 8));
    l.l_linger = 0;
    ok!(sys!(getsockopt, a, SOL_SOCKET, SO_LINGER, m(&mut l), m(&mut 8u32)));
    eq!(l.l_linger, 5);
}

fn sndbuf_rcvbuf() {
    let (a, b) = pair(SOCK_STREAM | SOCK_NONBLOCK);
    let mut v = 0i32;
    ok!(sys!(getsockopt, a, SOL_SOCKET, SO_SNDBUF, m(&mut v), m(&mut 4u32)));
    say!("default {v}");
    ok!(sys!(setsockopt, a, SOL_SOCKET, SO_SNDBUF, p(&10_000i32), 4));
    ok!(sys!(getsockopt, a, SOL_SOCKET, SO_SNDBUF, m(&mut v), m(&mut 4u32)));
    eq!(v, 20_000);
    ok!(sys!(setsockopt, a, SOL_SOCKET, SO_SNDBUF, p(&1i32), 4));
    ok!(sys!(getsockopt, a, SOL_SOCKET, SO_SNDBUF, m(&mut v), m(&mut 4u32)));
    say!("least {v}");
    let mut n = 0;
    while let Ok(k) = write(a, &[0; 100]) {
        n += k;
    }
    check!(n < 20_000);
    ok!(read(b, 10));
}

fn peercred() {
    let mut c = ucred { pid: 0, uid: 9, gid: 9 };
    let (a, _b) = pair(SOCK_STREAM);
    ok!(sys!(getsockopt, a, SOL_SOCKET, SO_PEERCRED, m(&mut c), m(&mut 12u32)));
    eq!((c.pid, c.uid, c.gid), (getpid(), 0, 0));
    ok!(sys!(chmod, c".", 0o777));
    let l = listener("sock", 5);
    ok!(sys!(chmod, c"sock", 0o777));
    let child = fork(|| {
        ok!(sys!(setresgid, 500, 500, 500));
        ok!(sys!(setresuid, 1000, 1000, 1000));
        let s = socket(SOCK_STREAM);
        ok!(connect(s, "sock"));
        let mut c = ucred { pid: 0, uid: 9, gid: 9 };
        ok!(sys!(getsockopt, s, SOL_SOCKET, SO_PEERCRED, m(&mut c), m(&mut 12u32)));
        eq!((c.uid, c.gid), (0, 0));
        let _ = read(s, 1);
    });
    let s = ok!(sys!(accept, l, 0, 0)) as i32;
    ok!(sys!(getsockopt, s, SOL_SOCKET, SO_PEERCRED, m(&mut c), m(&mut 12u32)));
    eq!((c.pid, c.uid, c.gid), (child, 1000, 500));
    close(s);
    eq!(wait(child), 0);
    ok!(sys!(getsockopt, socket(SOCK_STREAM), SOL_SOCKET, SO_PEERCRED, m(&mut c), m(&mut 12u32)));
    say!("{} {} {}", c.pid, c.uid as i32, c.gid as i32);
}

fn timeouts() {
    let (a, b) = pair(SOCK_STREAM);
    let t = timeval { tv_sec: 0, tv_usec: 40_000 };
    ok!(sys!(setsockopt, a, SOL_SOCKET, SO_RCVTIMEO, p(&t), 16));
    let t0 = now(CLOCK_MONOTONIC);
    err!(read(a, 1), EAGAIN);
    check!(now(CLOCK_MONOTONIC) - t0 >= 0.03);
    ok!(sys!(setsockopt, b, SOL_SOCKET, SO_SNDTIMEO, p(&t), 16));
    while write(b, &[0; 65536]).is_ok_and(|n| n == 65536) {}
    err!(write(b, b"x"), EAGAIN);
    let l = listener("sock", 1);
    ok!(sys!(setsockopt, l, SOL_SOCKET, SO_RCVTIMEO, p(&t), 16));
    err!(sys!(accept, l, 0, 0), EAGAIN);
    let bad = timeval { tv_sec: 0, tv_usec: 1_000_000 };
    err!(sys!(setsockopt, a, SOL_SOCKET, SO_RCVTIMEO, p(&bad), 16), EDOM);
    let mut back = bad;
    ok!(sys!(getsockopt, a, SOL_SOCKET, SO_RCVTIMEO, m(&mut back), m(&mut 16u32)));
    check!(back.tv_usec >= 40_000);
}

fn close_wakes() {
    let (a, b) = pair(SOCK_STREAM);
    let child = fork(|| {
        close(b);
        eq!(ok!(read(a, 1)), b"");
    });
    close(a);
    until("it sleeps", || state(child) == 'S');
    close(b);
    eq!(wait(child), 0);
}

fn reset() {
    // closing with data unread resets the other side
    let (a, b) = pair(SOCK_STREAM);
    ok!(write(a, b"unread"));
    close(b);
    err!(read(a, 1), ECONNRESET);
    eq!(ok!(read(a, 1)), b"");
    let (a, b) = pair(SOCK_STREAM);
    ok!(write(b, b"mine"));
    ok!(write(a, b"unread"));
    close(b);
    say!("{:?} {:?}", read(a, 9), read(a, 9));
}

fn polling() {
    let show = |what: &str, fd: i32| {
        let mut pf = pollfd { fd, events: POLLIN | POLLOUT | POLLRDHUP | POLLPRI, revents: 0 };
        ok!(sys!(poll, m(&mut pf), 1, 0));
        say!("{what} {:#x}", pf.revents);
    };
    let (a, b) = pair(SOCK_STREAM);
    show("idle", a);
    ok!(write(b, b"x"));
    show("data", a);
    ok!(sys!(shutdown, b, SHUT_WR));
    show("peer shut", a);
    close(b);
    show("peer closed", a);
    let (a, _b) = pair(SOCK_STREAM);
    ok!(sys!(shutdown, a, SHUT_RDWR));
    show("shut myself", a);
    show("new", socket(SOCK_STREAM));
    show("new dgram", socket(SOCK_DGRAM));
    let l = listener("l", 2);
    show("listening", l);
    ok!(connect(socket(SOCK_STREAM), "l"));
    show("somebody there", l);
    let (a, b) = pair(SOCK_DGRAM);
    close(b);
    show("dgram peer closed", a);
    let (a, _b) = pair(SOCK_STREAM | SOCK_NONBLOCK);
    while write(a, &[0; 65536]).is_ok() {}
    show("full", a);
}

fn unlinked_listener() {
    let l = listener("sock", 5);
    ok!(sys!(rename, c"sock", c"moved"));
    err!(connect(socket(SOCK_STREAM), "sock"), ENOENT);
    ok!(connect(socket(SOCK_STREAM), "moved"));
    ok!(sys!(link, c"moved", c"again"));
    ok!(connect(socket(SOCK_STREAM), "again"));
    say!("{}", name_of(|a, n| sys!(getsockname, l, a, n)));
    ok!(sys!(symlink, c"again", c"ln"));
    ok!(connect(socket(SOCK_STREAM), "ln"));
    close(l);
    err!(connect(socket(SOCK_STREAM), "again"), ECONNREFUSED);
}

fn msg_waitall() {
    let (a, b) = pair(SOCK_STREAM);
    let child = fork(|| {
        for _ in 0..5 {
            ok!(write(a, b"12"));
            ms(10);
        }
    });
    eq!(ok!(recv(b, 10, MSG_WAITALL)), b"1212121212");
    eq!(wait(child), 0);
}

fn writev_dgram() {
    let (a, b) = pair(SOCK_DGRAM);
    let parts: [&[u8]; 3] = [b"one ", b"two ", b"three"];
    let v: Vec<iovec> = parts.iter().map(|x| iovec { iov_base: x.as_ptr() as *mut c_void, iov_len: x.len() }).collect();
    eq!(ok!(sys!(writev, a, v.as_ptr(), 3)), 13);
    let (x, y) = ([0u8; 5], [0u8; 20]);
    let r = [iovec { iov_base: x.as_ptr() as *mut c_void, iov_len: 5 }, iovec { iov_base: y.as_ptr() as *mut c_void, iov_len: 20 }];
    eq!(ok!(sys!(readv, b, r.as_ptr(), 2)), 13);
    eq!(unsafe { std::ptr::read_volatile(&x) }, *b"one t");
}

fn sendmmsg_recvmmsg() {
    let (a, b) = pair(SOCK_DGRAM);
    let parts: [&[u8]; 3] = [b"first", b"the second", b"3"];
    let mut v: Vec<iovec> = parts.iter().map(|x| iovec { iov_base: x.as_ptr() as *mut c_void, iov_len: x.len() }).collect();
    let mut h: Vec<mmsghdr> = v
        .iter_mut()
        .map(|x| {
            let mut h = unsafe { std::mem::zeroed::<mmsghdr>() };
            h.msg_hdr.msg_iov = x;
            h.msg_hdr.msg_iovlen = 1;
            h
        })
        .collect();
    eq!(ok!(sys!(sendmmsg, a, h.as_mut_ptr(), 3, 0)), 3);
    say!("{:?}", h.iter().map(|x| x.msg_len).collect::<Vec<_>>());
    let mut bufs = [[0u8; 16]; 4];
    let mut v: Vec<iovec> = bufs.iter_mut().map(|x| iovec { iov_base: x.as_mut_ptr().cast(), iov_len: 16 }).collect();
    let mut h: Vec<mmsghdr> = v
        .iter_mut()
        .map(|x| {
            let mut h = unsafe { std::mem::zeroed::<mmsghdr>() };
            h.msg_hdr.msg_iov = x;
            h.msg_hdr.msg_iovlen = 1;
            h
        })
        .collect();
    eq!(ok!(sys!(recvmmsg, b, h.as_mut_ptr(), 4, MSG_DONTWAIT, 0)), 3);
    say!("{:?}", h.iter().map(|x| x.msg_len).collect::<Vec<_>>());
    err!(sys!(recvmmsg, b, h.as_mut_ptr(), 4, MSG_DONTWAIT, 0), EAGAIN);
    ok!(write(a, b"x"));
    eq!(ok!(sys!(recvmmsg, b, h.as_mut_ptr(), 4, MSG_WAITFORONE, 0)), 1);
}

fn proc_net_unix() {
    let _l = listener("@listed", 5);
    let text = String::from_utf8(get("/proc/net/unix")).unwrap();
    let line = text.lines().find(|l| l.ends_with(" @listed")).unwrap_or("none");
    let w: Vec<&str> = line.split_whitespace().collect();
    check!(w.len() == 8);
    say!("{} {} {} {}", w[1], w[3], w[4], w[5]);
}

fn many_connections() {
    let l = listener("sock", 128);
    let child = fork(|| {
        let all: Vec<i32> = (0..200)
            .map(|i: u32| {
                let s = socket(SOCK_STREAM);
                ok!(connect(s, "sock"));
                ok!(write(s, &i.to_le_bytes()));
                s
            })
            .collect();
        for (i, s) in all.iter().enumerate() {
            eq!(ok!(read(*s, 4)), (i as u32 + 1).to_le_bytes());
        }
    });
    let mut served = vec![];
    for _ in 0..200 {
        let s = ok!(sys!(accept, l, 0, 0)) as i32;
        let v = u32::from_le_bytes(ok!(read(s, 4)).try_into().unwrap());
        served.push((s, v));
    }
    for (s, v) in served {
        ok!(write(s, &(v + 1).to_le_bytes()));
    }
    eq!(wait(child), 0);
}

fn fionread() {
    let (a, b) = pair(SOCK_STREAM);
    ok!(write(a, &[0; 300]));
    ok!(write(a, &[0; 200]));
    let mut n = 0i32;
    ok!(sys!(ioctl, b, FIONREAD, m(&mut n)));
    eq!(n, 500);
    let (a, b) = pair(SOCK_DGRAM);
    ok!(write(a, &[0; 300]));
    ok!(write(a, &[0; 200]));
    ok!(sys!(ioctl, b, FIONREAD, m(&mut n)));
    eq!(n, 300);
    err!(sys!(ioctl, b, TCGETS, m(&mut [0u8; 64])), ENOTTY);
}

fn other_families() {
    for (family, kind) in [(AF_INET, SOCK_STREAM), (AF_INET, SOCK_DGRAM), (AF_NETLINK, SOCK_RAW)] {
        // these may be missing, but never harm
        let _ = sys!(socket, family, kind, 0).map(|f| close(f as i32));
    }
    err!(sys!(socket, AF_UNIX | 1 << 16, SOCK_STREAM, 0), EAFNOSUPPORT);
}
