//! TCP and UDP over loopback: states, errors at their moments, options, control messages.

use crate::sys::*;
use crate::{check, eq, err, list, ok, say, sys};

pub const TESTS: &[crate::Test] = list!["inet";
    tcp_echo, tcp_refused, tcp_nonblocking_connect, tcp_connect_twice, tcp_after_failure, tcp_backlog_full, tcp_names, tcp_half_close, tcp_reset_by_unread,
    tcp_write_after_close, tcp_linger_zero, tcp_shutdown_errors, tcp_listener_shutdown, tcp_urgent, tcp_urgent_inline, tcp_peek_waitall, tcp_trunc_discards,
    tcp_lowat, tcp_v4_mapped, tcp_v6_only, tcp_reuse, tcp_info_states, tcp_options, tcp_inherited, tcp_unspec_disconnects, tcp_poll_events, tcp_epoll_edges,
    tcp_ephemeral, tcp_small_buffers, tcp_sendfile_splice, tcp_accept_states, tcp_timeouts, tcp_send_flags,
    udp_echo, udp_refused, udp_connected_filter, udp_truncation, udp_sizes, udp_recverr, udp_pktinfo, udp_v6_pktinfo, udp_timestamps, udp_timestamping, udp_mmsg, udp_ttl_tos,
    udp_options, udp_shutdown, udp_cork, udp_segment, udp_disconnect, udp_multicast, udp_broadcast, udp_queue_limit, udp_reuseport, udp_mapped, udp_bind_errors,
    socket_args, so_options, bind_errors, bind_device, ip_option_values, tcp_option_values, v6_option_values, no_route, addr_families, ping, raw_icmp, raw_udp, proc_tables,
    ioctls, many_sockets, big_transfer, closed_by_other_thread,
];

#[derive(Clone, Copy)]
pub(super) enum A {
    V4([u8; 4], u16),
    V6(u16),
    Mapped(u16),
}
pub(super) const LO: [u8; 4] = [127, 0, 0, 1];

pub(super) fn bytes(a: A) -> Vec<u8> {
    match a {
        A::V4(ip, port) => {
            let mut b = vec![2, 0];
            b.extend(port.to_be_bytes());
            b.extend(ip);
            b.resize(16, 0);
            b
        }
        A::V6(port) => six(port, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        A::Mapped(port) => six(port, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 127, 0, 0, 1]),
    }
}

pub(super) fn six(port: u16, ip: [u8; 16]) -> Vec<u8> {
    let mut b = vec![10, 0];
    b.extend(port.to_be_bytes());
    b.extend([0; 4]);
    b.extend(ip);
    b.extend([0; 4]);
    b
}

pub(super) fn up() {
    // Natively the namespace is new, and its loopback down; in a sandbox it is up.
    let s = ok!(sys!(socket, AF_INET, SOCK_DGRAM, 0));
    let mut req = [0u8; 40];
    req[..2].copy_from_slice(b"lo");
    ok!(sys!(ioctl, s, SIOCGIFFLAGS, m(&mut req)));
    if req[16] & 1 == 0 {
        req[16] |= 1;
        ok!(sys!(ioctl, s, SIOCSIFFLAGS, m(&mut req)));
    }
    close(s as i32);
}

pub(super) fn sock(family: i32, kind: i32) -> i32 {
    up();
    ok!(sys!(socket, family, kind, 0)) as i32
}
pub(super) fn tcp() -> i32 {
    sock(AF_INET, SOCK_STREAM)
}
pub(super) fn udp() -> i32 {
    sock(AF_INET, SOCK_DGRAM)
}
pub(super) fn bind(s: i32, a: A) -> R {
    let b = bytes(a);
    sys!(bind, s, p(&b[..]), b.len())
}
pub(super) fn connect(s: i32, a: A) -> R {
    let b = bytes(a);
    sys!(connect, s, p(&b[..]), b.len())
}
pub(super) fn name(call: i64, s: i32) -> Result<Vec<u8>, E> {
    let mut b = [0u8; 64];
    let mut n = 64u32;
    raw(call, &[s as i64, m(&mut b), m(&mut n)])?;
    Ok(b[..n as usize].to_vec())
}
pub(super) fn local(s: i32) -> Vec<u8> {
    ok!(name(nr::getsockname, s))
}
pub(super) fn port(s: i32) -> u16 {
    let b = local(s);
    u16::from_be_bytes([b[2], b[3]])
}
pub(super) fn show_ip(b: &[u8]) -> String {
    if b.first() == Some(&2) {
        format!("{}.{}.{}.{}", b[4], b[5], b[6], b[7])
    } else if b.len() >= 24 {
        format!("{:?}", &b[8..24])
    } else {
        format!("{b:?}")
    }
}
pub(super) fn listener(backlog: i32) -> (i32, u16) {
    let l = tcp();
    ok!(bind(l, A::V4(LO, 0)));
    ok!(sys!(listen, l, backlog));
    (l, port(l))
}
pub(super) fn accept(l: i32) -> i32 {
    ok!(sys!(accept4, l, 0, 0, 0)) as i32
}
/// A connected pair: client, server.
pub(super) fn pair() -> (i32, i32) {
    let (l, at) = listener(5);
    let c = tcp();
    ok!(connect(c, A::V4(LO, at)));
    let s = accept(l);
    close(l);
    (c, s)
}
pub(super) fn send(s: i32, b: &[u8], flags: i32) -> R {
    sys!(sendto, s, p(b), b.len(), flags | MSG_NOSIGNAL, 0, 0)
}
pub(super) fn send_to(s: i32, b: &[u8], a: A) -> R {
    let x = bytes(a);
    sys!(sendto, s, p(b), b.len(), MSG_NOSIGNAL, p(&x[..]), x.len())
}
pub(super) fn recv(s: i32, n: usize, flags: i32) -> Result<Vec<u8>, E> {
    let mut b = vec![0u8; n];
    let got = sys!(recvfrom, s, m(&mut b[..]), n, flags, 0, 0)? as usize;
    b.truncate(got);
    Ok(b)
}
/// Length that the call gives, which may be more than there is room.
pub(super) fn recv_len(s: i32, n: usize, flags: i32) -> R {
    let mut b = vec![0u8; n.max(1)];
    sys!(recvfrom, s, m(&mut b[..]), n, flags, 0, 0)
}
pub(super) fn set(s: i32, level: i32, opt: i32, v: i32) -> R {
    sys!(setsockopt, s, level, opt, p(&v), 4)
}
pub(super) fn get(s: i32, level: i32, opt: i32) -> Result<i32, E> {
    let (mut v, mut n) = (0i32, 4u32);
    sys!(getsockopt, s, level, opt, m(&mut v), m(&mut n))?;
    Ok(v)
}
pub(super) fn so_error(s: i32) -> E {
    E(ok!(get(s, SOL_SOCKET, SO_ERROR)))
}
pub(super) fn events(s: i32) -> String {
    let mut f = pollfd { fd: s, events: POLLIN | POLLOUT | POLLPRI | POLLRDHUP, revents: 0 };
    ok!(sys!(poll, m(&mut f), 1, 0));
    let names = [(POLLIN, "IN"), (POLLOUT, "OUT"), (POLLPRI, "PRI"), (POLLRDHUP, "RDHUP"), (POLLHUP, "HUP"), (POLLERR, "ERR")];
    names.iter().filter(|n| f.revents & n.0 != 0).map(|n| n.1).collect::<Vec<_>>().join("|")
}
pub(super) fn wait_for(s: i32, what: i16) {
    let mut f = pollfd { fd: s, events: what, revents: 0 };
    eq!(ok!(sys!(poll, m(&mut f), 1, 5000)), 1);
}

fn tcp_echo() {
    let (c, s) = pair();
    eq!(ok!(send(c, b"hello", 0)), 5);
    eq!(ok!(recv(s, 100, 0)), b"hello");
    eq!(ok!(write(s, b"back")), 4);
    eq!(ok!(read(c, 2)), b"ba");
    eq!(ok!(read(c, 9)), b"ck");
    err!(recv(c, 1, MSG_DONTWAIT), EAGAIN);
    eq!(ok!(send(c, b"", 0)), 0);
    err!(recv(s, 1, MSG_DONTWAIT), EAGAIN);
    close(c);
    eq!(ok!(recv(s, 10, 0)), b"");
}

fn tcp_refused() {
    let c = tcp();
    err!(connect(c, A::V4(LO, 9)), ECONNREFUSED);
    say!("{}", events(c));
    eq!(so_error(c), E(0));
    let s = sock(AF_INET6, SOCK_STREAM);
    err!(connect(s, A::V6(9)), ECONNREFUSED);
    err!(name(nr::getpeername, s), ENOTCONN);
}

fn tcp_nonblocking_connect() {
    let (l, at) = listener(5);
    let c = ok!(sys!(socket, AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)) as i32;
    say!("{}", events(c));
    err!(connect(c, A::V4(LO, at)), EINPROGRESS);
    wait_for(c, POLLOUT);
    eq!(so_error(c), E(0));
    eq!(events(c), "OUT");
    ok!(connect(c, A::V4(LO, at)));
    err!(connect(c, A::V4(LO, at)), EISCONN);
    close(accept(l));
    let c = ok!(sys!(socket, AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)) as i32;
    err!(connect(c, A::V4(LO, 9)), EINPROGRESS);
    wait_for(c, POLLOUT);
    say!("{}", events(c));
    eq!(so_error(c), ECONNREFUSED);
    eq!(so_error(c), E(0));
    say!("{}", events(c));
    let c = ok!(sys!(socket, AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)) as i32;
    err!(connect(c, A::V4(LO, 9)), EINPROGRESS);
    err!(connect(c, A::V4(LO, 9)), ECONNREFUSED);
}

fn tcp_connect_twice() {
    let (l, at) = listener(5);
    let c = tcp();
    ok!(connect(c, A::V4(LO, at)));
    err!(connect(c, A::V4(LO, at)), EISCONN);
    let s = accept(l);
    err!(connect(s, A::V4(LO, at)), EISCONN);
    err!(connect(l, A::V4(LO, at)), EISCONN);
    err!(sys!(listen, c, 1), EINVAL);
    err!(sys!(accept4, c, 0, 0, 0), EINVAL);
    err!(bind(c, A::V4(LO, 0)), EINVAL);
}

fn tcp_after_failure() {
    let (l, at) = listener(5);
    let c = tcp();
    err!(connect(c, A::V4(LO, 9)), ECONNREFUSED);
    err!(recv(c, 1, MSG_DONTWAIT), ENOTCONN);
    err!(send(c, b"x", 0), EPIPE);
    ok!(connect(c, A::V4(LO, at)));
    ok!(send(c, b"now", 0));
    eq!(ok!(recv(accept(l), 10, 0)), b"now");
}

fn tcp_backlog_full() {
    let (l, at) = listener(1);
    let mut clients = Vec::new();
    for _ in 0..2 {
        let c = tcp();
        ok!(connect(c, A::V4(LO, at)));
        clients.push(c);
    }
    let c = ok!(sys!(socket, AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)) as i32;
    err!(connect(c, A::V4(LO, at)), EINPROGRESS);
    ms(50);
    eq!(events(c), "");
    err!(connect(c, A::V4(LO, at)), EALREADY);
    err!(send(c, b"x", 0), EAGAIN);
    err!(recv(c, 1, 0), EAGAIN);
    close(accept(l));
    wait_for(c, POLLOUT);
    eq!(so_error(c), E(0));
    close(accept(l));
    let s = accept(l);
    ok!(send(s, b"late", 0));
    wait_for(c, POLLIN);
    eq!(ok!(recv(c, 9, 0)), b"late");
}

fn tcp_names() {
    let c = tcp();
    say!("{} {}", local(c).len(), show_ip(&local(c)));
    eq!(port(c), 0);
    err!(name(nr::getpeername, c), ENOTCONN);
    let (l, at) = listener(3);
    ok!(connect(c, A::V4(LO, at)));
    let s = accept(l);
    eq!(show_ip(&local(c)), "127.0.0.1");
    eq!(ok!(name(nr::getpeername, c)), local(s));
    eq!(ok!(name(nr::getpeername, s)), local(c));
    let mut b = [7u8; 8];
    let mut n = 4u32;
    ok!(sys!(getsockname, c, m(&mut b), m(&mut n)));
    say!("{n} {:?}", &b[4..]);
    err!(sys!(getsockname, c, m(&mut b), m(&mut u32::MAX.clone())), EINVAL);
    // 0.0.0.0 is this host.
    let c = tcp();
    ok!(connect(c, A::V4([0; 4], at)));
    eq!(show_ip(&ok!(name(nr::getpeername, c))), "127.0.0.1");
    let c = tcp();
    ok!(bind(c, A::V4([127, 3, 2, 1], 0)));
    ok!(connect(c, A::V4(LO, at)));
    eq!(show_ip(&local(c)), "127.3.2.1");
    close(accept(l));
    let s = accept(l);
    eq!(show_ip(&ok!(name(nr::getpeername, s))), "127.3.2.1");
}

fn tcp_half_close() {
    let (c, s) = pair();
    ok!(send(c, b"last", 0));
    ok!(sys!(shutdown, c, SHUT_WR));
    err!(send(c, b"x", 0), EPIPE);
    eq!(ok!(recv(s, 10, 0)), b"last");
    say!("{} {}", events(c), events(s));
    eq!(ok!(recv(s, 10, 0)), b"");
    eq!(ok!(send(s, b"answer", 0)), 6);
    eq!(ok!(recv(c, 10, 0)), b"answer");
    ok!(sys!(shutdown, s, SHUT_WR));
    eq!(ok!(recv(c, 10, 0)), b"");
    until("both see the end", || events(c).contains("HUP") && events(s).contains("|HUP"));
    say!("{} {}", events(c), events(s));
    let (c, s) = pair();
    ok!(sys!(shutdown, c, SHUT_RD));
    eq!(ok!(recv(c, 10, 0)), b"");
    eq!(ok!(send(s, b"anyway", 0)), 6);
    until("it arrives", || recv(c, 10, MSG_PEEK).is_ok_and(|b| !b.is_empty()));
    eq!(ok!(recv(c, 10, 0)), b"anyway");
    eq!(ok!(recv(c, 10, 0)), b"");
    say!("{}", events(c));
}

fn tcp_reset_by_unread() {
    let (c, s) = pair();
    ok!(send(s, b"for the client", 0));
    ok!(send(c, b"never read", 0));
    until("it arrives", || events(s).contains("IN"));
    close(s);
    until("the reset", || events(c).contains("ERR"));
    say!("{}", events(c));
    eq!(ok!(recv(c, 4, 0)), b"for ");
    eq!(ok!(recv(c, 100, 0)), b"the client");
    err!(recv(c, 4, 0), ECONNRESET);
    eq!(ok!(recv(c, 4, 0)), b"");
    err!(send(c, b"x", 0), EPIPE);
    err!(name(nr::getpeername, c), ENOTCONN);
    eq!(so_error(c), E(0));
}

fn tcp_write_after_close() {
    let (c, s) = pair();
    close(s);
    until("the end", || events(c).contains("RDHUP"));
    say!("{}", events(c));
    eq!(ok!(recv(c, 4, 0)), b"");
    eq!(ok!(send(c, b"lost", 0)), 4);
    until("the reset", || events(c).contains("ERR"));
    err!(send(c, b"x", 0), EPIPE);
    err!(send(c, b"x", 0), EPIPE);
    eq!(ok!(recv(c, 4, 0)), b"");
    say!("{}", events(c));
    // Of much, only what was on its way when the reset came is taken.
    let (c, s) = pair();
    close(s);
    until("the end", || events(c).contains("RDHUP"));
    let much = vec![b'x'; 64 << 20];
    let taken = ok!(send(c, &much, 0));
    check!(taken > 0 && taken < 64 << 20);
    until("the reset", || events(c).contains("ERR"));
    err!(send(c, b"x", 0), EPIPE);
    // Without MSG_NOSIGNAL there is a signal.
    in_child(|| {
        action(SIGPIPE, SIG_IGN);
        let (c, s) = pair();
        close(s);
        until("the end", || events(c).contains("RDHUP"));
        ok!(write(c, b"lost"));
        until("the reset", || events(c).contains("ERR"));
        err!(write(c, b"x"), EPIPE);
    });
    let status = wait(fork(|| {
        action(SIGPIPE, SIG_DFL);
        let (c, s) = pair();
        close(s);
        until("the end", || events(c).contains("RDHUP"));
        ok!(write(c, b"lost"));
        until("the reset", || events(c).contains("ERR"));
        let _ = write(c, b"x");
    }));
    eq!(show_status(status), "signal 13");
}

fn tcp_linger_zero() {
    let (c, s) = pair();
    let l = linger { l_onoff: 1, l_linger: 0 };
    ok!(sys!(setsockopt, s, SOL_SOCKET, SO_LINGER, p(&l), 8));
    close(s);
    until("the reset", || events(c).contains("ERR"));
    eq!(so_error(c), ECONNRESET);
    eq!(ok!(recv(c, 4, 0)), b"");
    let (c, s) = pair();
    let l = linger { l_onoff: 1, l_linger: 5 };
    ok!(sys!(setsockopt, s, SOL_SOCKET, SO_LINGER, p(&l), 8));
    ok!(send(s, b"data", 0));
    close(s);
    eq!(ok!(recv(c, 9, 0)), b"data");
    eq!(ok!(recv(c, 9, 0)), b"");
    let mut l = linger { l_onoff: 9, l_linger: 9 };
    let mut n = 8u32;
    ok!(sys!(getsockopt, c, SOL_SOCKET, SO_LINGER, m(&mut l), m(&mut n)));
    say!("{} {}", l.l_onoff, l.l_linger);
}

fn tcp_shutdown_errors() {
    let c = tcp();
    err!(sys!(shutdown, c, SHUT_WR), ENOTCONN);
    err!(sys!(shutdown, c, 3), EINVAL);
    let (c, s) = pair();
    ok!(sys!(shutdown, c, SHUT_RDWR));
    ok!(sys!(shutdown, s, SHUT_RDWR));
    until("closed", || name(nr::getpeername, c).is_err());
    err!(sys!(shutdown, c, SHUT_RDWR), ENOTCONN);
    eq!(ok!(recv(c, 1, 0)), b"");
}

fn tcp_listener_shutdown() {
    let (l, at) = listener(5);
    let c = tcp();
    ok!(connect(c, A::V4(LO, at)));
    ok!(sys!(shutdown, l, SHUT_WR));
    close(accept(l));
    let c = tcp();
    ok!(connect(c, A::V4(LO, at)));
    ok!(sys!(shutdown, l, SHUT_RD));
    err!(sys!(accept4, l, 0, 0, 0), EINVAL);
    until("the reset", || events(c).contains("ERR"));
    eq!(so_error(c), ECONNRESET);
    err!(connect(tcp(), A::V4(LO, at)), ECONNREFUSED);
    ok!(sys!(listen, l, 2));
    // The port had not been asked for: it is another one now.
    ok!(connect(tcp(), A::V4(LO, port(l))));
    // A listener that goes takes its queue along.
    let (l, at) = listener(5);
    let c = tcp();
    ok!(connect(c, A::V4(LO, at)));
    close(l);
    until("the reset", || events(c).contains("ERR"));
    eq!(so_error(c), ECONNRESET);
}

fn at_mark(s: i32) -> i32 {
    let mut n = 9i32;
    ok!(sys!(ioctl, s, 0x8905, m(&mut n)));
    n
}

fn tcp_urgent() {
    let (c, s) = pair();
    err!(recv(s, 1, MSG_OOB | MSG_DONTWAIT), EINVAL);
    ok!(send(c, b"abc", 0));
    ok!(send(c, b"def", MSG_OOB));
    ok!(send(c, b"ghi", 0));
    until("all of it", || recv(s, 20, MSG_PEEK).is_ok_and(|b| b.len() >= 5) && events(s).contains("PRI"));
    say!("{}", events(s));
    eq!(at_mark(s), 0);
    eq!(ok!(recv(s, 20, 0)), b"abcde");
    eq!(at_mark(s), 1);
    eq!(ok!(recv(s, 1, MSG_OOB)), b"f");
    err!(recv(s, 1, MSG_OOB), EINVAL);
    eq!(ok!(recv(s, 20, 0)), b"ghi");
    eq!(at_mark(s), 0);
    say!("{}", events(s));
}

fn tcp_urgent_inline() {
    let (c, s) = pair();
    ok!(set(s, SOL_SOCKET, SO_OOBINLINE, 1));
    ok!(send(c, b"ab", 0));
    ok!(send(c, b"X", MSG_OOB));
    ok!(send(c, b"cd", 0));
    until("all of it", || events(s).contains("PRI"));
    err!(recv(s, 1, MSG_OOB), EINVAL);
    eq!(ok!(recv(s, 20, 0)), b"ab");
    eq!(at_mark(s), 1);
    let mut rest = Vec::new();
    while rest.len() < 3 {
        rest.extend(ok!(recv(s, 20, 0)));
    }
    eq!(rest, b"Xcd");
}

fn tcp_peek_waitall() {
    let (c, s) = pair();
    ok!(send(c, b"123", 0));
    eq!(ok!(recv(s, 2, MSG_PEEK)), b"12");
    eq!(ok!(recv(s, 9, MSG_PEEK)), b"123");
    let child = fork(|| {
        ms(30);
        ok!(send(c, b"4567", 0));
    });
    eq!(ok!(recv(s, 6, MSG_WAITALL)), b"123456");
    wait(child);
    ok!(sys!(shutdown, c, SHUT_WR));
    eq!(ok!(recv(s, 6, MSG_WAITALL)), b"7");
    eq!(ok!(recv(s, 6, MSG_WAITALL)), b"");
}

fn tcp_trunc_discards() {
    let (c, s) = pair();
    ok!(send(c, b"0123456789", 0));
    until("it arrives", || recv(s, 20, MSG_PEEK).is_ok_and(|b| b.len() == 10));
    eq!(ok!(recv_len(s, 4, MSG_TRUNC)), 4);
    eq!(ok!(recv(s, 20, 0)), b"456789");
}

fn tcp_lowat() {
    let (c, s) = pair();
    ok!(set(s, SOL_SOCKET, SO_RCVLOWAT, 4));
    eq!(ok!(get(s, SOL_SOCKET, SO_RCVLOWAT)), 4);
    ok!(send(c, b"abc", 0));
    ms(20);
    eq!(events(s), "OUT");
    ok!(send(c, b"d", 0));
    wait_for(s, POLLIN);
    eq!(ok!(recv(s, 9, MSG_DONTWAIT)), b"abcd");
}

fn tcp_v4_mapped() {
    let l = sock(AF_INET6, SOCK_STREAM);
    ok!(bind(l, A::V6(0)).and(Ok(0)));
    let at = port(l);
    ok!(sys!(listen, l, 4));
    err!(connect(tcp(), A::V4(LO, at)), ECONNREFUSED);
    let l = sock(AF_INET6, SOCK_STREAM);
    let any = six(0, [0; 16]);
    ok!(sys!(bind, l, p(&any[..]), 28));
    ok!(sys!(listen, l, 4));
    let at = port(l);
    let c = tcp();
    ok!(connect(c, A::V4(LO, at)));
    let s = accept(l);
    say!("{} {}", show_ip(&local(s)), show_ip(&ok!(name(nr::getpeername, s))));
    eq!(ok!(get(s, SOL_SOCKET, SO_DOMAIN)), AF_INET6);
    let c = sock(AF_INET6, SOCK_STREAM);
    ok!(connect(c, A::Mapped(at)));
    say!("{}", show_ip(&local(c)));
    let s = accept(l);
    say!("{}", show_ip(&ok!(name(nr::getpeername, s))));
    ok!(send(c, b"six", 0));
    eq!(ok!(recv(s, 9, 0)), b"six");
    let c = sock(AF_INET6, SOCK_STREAM);
    ok!(connect(c, A::V6(at)));
    say!("{}", show_ip(&local(c)));
    err!(connect(sock(AF_INET6, SOCK_STREAM), A::V4(LO, at)), EINVAL);
}

fn tcp_v6_only() {
    let l = sock(AF_INET6, SOCK_STREAM);
    eq!(ok!(get(l, IPPROTO_IPV6, IPV6_V6ONLY)), 0);
    ok!(set(l, IPPROTO_IPV6, IPV6_V6ONLY, 5));
    eq!(ok!(get(l, IPPROTO_IPV6, IPV6_V6ONLY)), 1);
    let any = six(0, [0; 16]);
    ok!(sys!(bind, l, p(&any[..]), 28));
    err!(set(l, IPPROTO_IPV6, IPV6_V6ONLY, 0), EINVAL);
    ok!(sys!(listen, l, 4));
    let at = port(l);
    // The IPv4 port is free.
    let four = tcp();
    ok!(bind(four, A::V4([0; 4], at)));
    ok!(sys!(listen, four, 1));
    ok!(connect(tcp(), A::V4(LO, at)));
    close(accept(four));
    let c = sock(AF_INET6, SOCK_STREAM);
    ok!(set(c, IPPROTO_IPV6, IPV6_V6ONLY, 1));
    say!("{:?}", connect(c, A::Mapped(at)));
    say!("{:?}", bind(c, A::Mapped(0)));
    let dual = sock(AF_INET6, SOCK_STREAM);
    err!(sys!(bind, dual, p(&six(at, [0; 16])[..]), 28), EADDRINUSE);
    err!(set(tcp(), IPPROTO_IPV6, IPV6_V6ONLY, 1), ENOPROTOOPT);
}

fn tcp_reuse() {
    let (l, at) = listener(3);
    ok!(set(l, SOL_SOCKET, SO_REUSEADDR, 1));
    let two = tcp();
    err!(bind(two, A::V4(LO, at)), EADDRINUSE);
    err!(bind(two, A::V4([0; 4], at)), EADDRINUSE);
    ok!(set(two, SOL_SOCKET, SO_REUSEADDR, 1));
    err!(bind(two, A::V4(LO, at)), EADDRINUSE);
    ok!(bind(two, A::V4([127, 0, 0, 2], at)));
    // Both with SO_REUSEADDR, neither listening.
    let (a, b) = (tcp(), tcp());
    for s in [a, b] {
        ok!(set(s, SOL_SOCKET, SO_REUSEADDR, 1));
    }
    ok!(bind(a, A::V4(LO, 0)));
    ok!(bind(b, A::V4(LO, port(a))));
    ok!(sys!(listen, a, 1));
    err!(sys!(listen, b, 1), EADDRINUSE);
    // SO_REUSEPORT on both.
    let (a, b, c) = (tcp(), tcp(), tcp());
    for s in [a, b] {
        ok!(set(s, SOL_SOCKET, SO_REUSEPORT, 1));
    }
    ok!(bind(a, A::V4(LO, 0)));
    ok!(bind(b, A::V4(LO, port(a))));
    err!(bind(c, A::V4(LO, port(a))), EADDRINUSE);
    for s in [a, b] {
        ok!(sys!(listen, s, 100));
    }
    let clients: Vec<i32> = (0..64).map(|_| tcp()).collect();
    for c in &clients {
        ok!(connect(*c, A::V4(LO, port(a))));
    }
    let count = |s: i32| {
        ok!(sys!(fcntl, s, F_SETFL, O_NONBLOCK));
        std::iter::from_fn(|| sys!(accept4, s, 0, 0, 0).ok()).count()
    };
    let (x, y) = (count(a), count(b));
    check!(x + y == 64 && x > 5 && y > 5);
    // A server that starts again at once.
    let again = tcp();
    ok!(set(again, SOL_SOCKET, SO_REUSEADDR, 1));
    let cl = tcp();
    ok!(connect(cl, A::V4(LO, at)));
    let s = accept(l);
    close(s);
    close(l);
    ok!(bind(again, A::V4(LO, at)));
    ok!(sys!(listen, again, 1));
}

fn state(s: i32) -> u8 {
    let mut b = [0u8; 104];
    let mut n = 104u32;
    ok!(sys!(getsockopt, s, IPPROTO_TCP, TCP_INFO, m(&mut b), m(&mut n)));
    eq!(n, 104);
    b[0]
}

fn tcp_info_states() {
    let c = tcp();
    eq!(state(c), 7);
    let (l, at) = listener(3);
    eq!(state(l), 10);
    ok!(connect(c, A::V4(LO, at)));
    eq!(state(c), 1);
    let s = accept(l);
    eq!(state(s), 1);
    ok!(sys!(shutdown, c, SHUT_WR));
    until("CLOSE_WAIT", || state(s) == 8);
    until("FIN_WAIT2", || state(c) == 5);
    ok!(sys!(shutdown, s, SHUT_WR));
    until("CLOSE", || state(s) == 7);
    until("over", || state(c) == 7);
    err!(sys!(getsockopt, udp(), IPPROTO_TCP, TCP_INFO, m(&mut [0u8; 8]), m(&mut 8u32)), EOPNOTSUPP);
}

fn tcp_options() {
    let s = tcp();
    for opt in [
        TCP_NODELAY,
        TCP_CORK,
        TCP_KEEPIDLE,
        TCP_KEEPINTVL,
        TCP_KEEPCNT,
        TCP_SYNCNT,
        TCP_LINGER2,
        TCP_DEFER_ACCEPT,
        TCP_QUICKACK,
        TCP_USER_TIMEOUT,
        TCP_FASTOPEN,
    ] {
        let before = ok!(get(s, IPPROTO_TCP, opt));
        ok!(set(s, IPPROTO_TCP, opt, 3));
        say!("{opt}: {before} then {:?}", get(s, IPPROTO_TCP, opt));
    }
    say!("{:?}", get(s, IPPROTO_TCP, TCP_MAXSEG));
    ok!(set(s, IPPROTO_TCP, TCP_MAXSEG, 1000));
    err!(set(s, IPPROTO_TCP, TCP_MAXSEG, 10), EINVAL);
    let mut b = [0u8; 16];
    let mut n = 16u32;
    ok!(sys!(getsockopt, s, IPPROTO_TCP, TCP_CONGESTION, m(&mut b), m(&mut n)));
    // Which one is the default is the host's choice.
    eq!(n, 16);
    ok!(sys!(setsockopt, s, IPPROTO_TCP, TCP_CONGESTION, p(b"reno"), 4));
    ok!(sys!(getsockopt, s, IPPROTO_TCP, TCP_CONGESTION, m(&mut b), m(&mut n)));
    say!("{}", String::from_utf8_lossy(&b).trim_end_matches('\0'));
    err!(sys!(setsockopt, s, IPPROTO_TCP, TCP_CONGESTION, p(b"none-such"), 9), ENOENT);
    err!(set(s, IPPROTO_TCP, 999, 1), ENOPROTOOPT);
    err!(get(s, IPPROTO_TCP, 999), ENOPROTOOPT);
    err!(sys!(setsockopt, s, IPPROTO_TCP, TCP_NODELAY, p(&1u16), 2), EINVAL);
}

fn tcp_inherited() {
    let (l, at) = listener(3);
    ok!(set(l, IPPROTO_TCP, TCP_NODELAY, 1));
    ok!(set(l, SOL_SOCKET, SO_KEEPALIVE, 1));
    ok!(set(l, IPPROTO_TCP, TCP_KEEPIDLE, 55));
    ok!(set(l, SOL_SOCKET, SO_REUSEADDR, 1));
    let t = timeval { tv_sec: 3, tv_usec: 0 };
    ok!(sys!(setsockopt, l, SOL_SOCKET, SO_RCVTIMEO, p(&t), 16));
    ok!(set(l, SOL_SOCKET, SO_PRIORITY, 2));
    ok!(connect(tcp(), A::V4(LO, at)));
    let s = accept(l);
    say!(
        "{:?} {:?} {:?} {:?} {:?} {:?}",
        get(s, IPPROTO_TCP, TCP_NODELAY),
        get(s, SOL_SOCKET, SO_KEEPALIVE),
        get(s, IPPROTO_TCP, TCP_KEEPIDLE),
        get(s, SOL_SOCKET, SO_REUSEADDR),
        get(s, SOL_SOCKET, SO_ACCEPTCONN),
        get(s, SOL_SOCKET, SO_PRIORITY)
    );
    eq!(ok!(get(l, SOL_SOCKET, SO_ACCEPTCONN)), 1);
    let mut t = timeval { tv_sec: 0, tv_usec: 0 };
    ok!(sys!(getsockopt, s, SOL_SOCKET, SO_RCVTIMEO, m(&mut t), m(&mut 16u32)));
    say!("{}", t.tv_sec);
}

fn tcp_unspec_disconnects() {
    let (c, s) = pair();
    let unspec = [0u8; 16];
    ok!(sys!(connect, c, p(&unspec), 16));
    until("the reset", || events(s).contains("ERR"));
    eq!(so_error(s), ECONNRESET);
    err!(name(nr::getpeername, c), ENOTCONN);
    let (l, at) = listener(2);
    ok!(connect(c, A::V4(LO, at)));
    ok!(send(c, b"again", 0));
    eq!(ok!(recv(accept(l), 9, 0)), b"again");
}

fn tcp_poll_events() {
    let c = tcp();
    say!("new {}", events(c));
    let (l, at) = listener(2);
    say!("listening {:?}", events(l));
    ok!(connect(c, A::V4(LO, at)));
    wait_for(l, POLLIN);
    say!("pending {}", events(l));
    let s = accept(l);
    say!("connected {} {}", events(c), events(s));
    ok!(send(c, b"x", 0));
    wait_for(s, POLLIN);
    say!("data {}", events(s));
    ok!(sys!(fcntl, c, F_SETFL, O_NONBLOCK));
    let block = vec![1u8; 100_000];
    loop {
        if send(c, &block, 0).is_err() {
            ms(50);
            if send(c, &block, 0).is_err() {
                break;
            }
        }
    }
    say!("full {:?}", events(c));
    let mut all = 0;
    while let Ok(b) = recv(s, 1 << 20, MSG_DONTWAIT) {
        all += b.len();
    }
    check!(all > 100_000);
    wait_for(c, POLLOUT);
    say!("read {}", events(c));
}

fn tcp_epoll_edges() {
    let (c, s) = pair();
    let e = ok!(sys!(epoll_create1, 0)) as i32;
    let mut ev = epoll_event { events: (EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET) as u32, u64: 5 };
    ok!(sys!(epoll_ctl, e, EPOLL_CTL_ADD, s, p(&ev)));
    let mut next = |ms: i32| -> String {
        let n = ok!(sys!(epoll_pwait, e, m(&mut ev), 1, ms, 0, 8));
        let got = ev.events;
        if n == 0 { "nothing".into() } else { format!("{got:#x}") }
    };
    say!("first {}", next(1000));
    say!("again {}", next(0));
    ok!(send(c, b"one", 0));
    say!("data {}", next(1000));
    say!("again {}", next(0));
    ok!(send(c, b"two", 0));
    say!("more {}", next(1000));
    eq!(ok!(recv(s, 3, 0)), b"one");
    say!("after a read {}", next(20));
    eq!(ok!(recv(s, 3, 0)), b"two");
    ok!(sys!(shutdown, c, SHUT_WR));
    say!("end {}", next(1000));
    say!("again {}", next(0));
}

fn tcp_ephemeral() {
    let mut seen = std::collections::BTreeSet::new();
    let all: Vec<i32> = (0..50).map(|_| tcp()).collect();
    for s in &all {
        ok!(bind(*s, A::V4(LO, 0)));
        check!((32768..=60999).contains(&port(*s)));
        check!(seen.insert(port(*s)));
    }
    // listen(2) and connect(2) bind by themselves.
    let l = tcp();
    ok!(sys!(listen, l, 1));
    check!(port(l) >= 32768);
    eq!(show_ip(&local(l)), "0.0.0.0");
    let c = tcp();
    ok!(connect(c, A::V4(LO, port(l))));
    check!(port(c) >= 32768 && port(c) != port(l));
    let u = udp();
    ok!(send_to(u, b"x", A::V4(LO, 9)));
    check!(port(u) >= 32768);
}

fn tcp_small_buffers() {
    let (l, at) = listener(2);
    ok!(set(l, SOL_SOCKET, SO_RCVBUF, 4096));
    let c = tcp();
    ok!(set(c, SOL_SOCKET, SO_SNDBUF, 4096));
    say!("{:?} {:?}", get(l, SOL_SOCKET, SO_RCVBUF), get(c, SOL_SOCKET, SO_SNDBUF));
    ok!(connect(c, A::V4(LO, at)));
    let s = accept(l);
    let data: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
    let copy = data.clone();
    let child = fork(move || {
        let mut at = 0;
        while at < copy.len() {
            at += ok!(send(c, &copy[at..], 0)) as usize;
        }
    });
    close(c);
    let mut got = Vec::new();
    while got.len() < data.len() {
        got.extend(ok!(recv(s, 10_000, 0)));
    }
    check!(got == data);
    wait(child);
}

fn tcp_sendfile_splice() {
    let data: Vec<u8> = (0..200_000u32).map(|i| (i % 241) as u8).collect();
    put("file", &data);
    let f = ok!(open(c"file", O_RDONLY));
    let (c, s) = pair();
    let child = fork(move || {
        let mut left = 200_000i64;
        while left > 0 {
            left -= ok!(sys!(sendfile, c, f, 0, left));
        }
    });
    let mut got = Vec::new();
    while got.len() < data.len() {
        got.extend(ok!(recv(s, 30_000, 0)));
    }
    check!(got == data);
    wait(child);
    let (r, w) = pipe(0);
    ok!(write(w, b"through a pipe"));
    eq!(ok!(sys!(splice, r, 0, c, 0, 100, 0)), 14);
    eq!(ok!(recv(s, 100, 0)), b"through a pipe");
    ok!(send(s, b"and back", 0));
    wait_for(c, POLLIN);
    eq!(ok!(sys!(splice, c, 0, w, 0, 100, 0)), 8);
    eq!(ok!(read(r, 100)), b"and back");
}

fn tcp_accept_states() {
    let (l, at) = listener(5);
    ok!(sys!(fcntl, l, F_SETFL, O_NONBLOCK));
    err!(sys!(accept4, l, 0, 0, 0), EAGAIN);
    err!(sys!(accept4, l, 0, 0, 0x40), EINVAL);
    let c = tcp();
    ok!(connect(c, A::V4(LO, at)));
    wait_for(l, POLLIN);
    let mut b = [0u8; 16];
    let mut n = 16u32;
    let s = ok!(sys!(accept4, l, m(&mut b), m(&mut n), SOCK_NONBLOCK | SOCK_CLOEXEC)) as i32;
    eq!((n, b[0]), (16, 2));
    eq!(u16::from_be_bytes([b[2], b[3]]), port(c));
    // Not inherited: O_NONBLOCK of the listener.
    eq!(ok!(sys!(fcntl, s, F_GETFL)) & i64::from(O_NONBLOCK), i64::from(O_NONBLOCK));
    eq!(ok!(sys!(fcntl, s, F_GETFD)), 1);
    // One that has gone again, with data.
    let c = tcp();
    ok!(connect(c, A::V4(LO, at)));
    ok!(send(c, b"bye", 0));
    close(c);
    wait_for(l, POLLIN);
    let s = accept(l);
    eq!(ok!(recv(s, 9, 0)), b"bye");
    eq!(ok!(recv(s, 9, 0)), b"");
    err!(sys!(accept4, udp(), 0, 0, 0), EOPNOTSUPP);
    err!(sys!(listen, udp(), 1), EOPNOTSUPP);
    err!(sys!(accept4, tcp(), 0, 0, 0), EINVAL);
}

fn tcp_timeouts() {
    let (c, s) = pair();
    let t = timeval { tv_sec: 0, tv_usec: 30_000 };
    ok!(sys!(setsockopt, s, SOL_SOCKET, SO_RCVTIMEO, p(&t), 16));
    err!(recv(s, 1, 0), EAGAIN);
    ok!(send(c, b"ab", 0));
    eq!(ok!(recv(s, 9, MSG_WAITALL)), b"ab");
    let (l, _) = listener(1);
    ok!(sys!(setsockopt, l, SOL_SOCKET, SO_RCVTIMEO, p(&t), 16));
    err!(sys!(accept4, l, 0, 0, 0), EAGAIN);
}

fn tcp_send_flags() {
    let (c, s) = pair();
    // On a connected stream the address is not looked at.
    eq!(ok!(send_to(c, b"ab", A::V4([9, 9, 9, 9], 1))), 2);
    eq!(ok!(send(c, b"cd", MSG_MORE)), 2);
    eq!(ok!(send(c, b"ef", MSG_DONTWAIT | MSG_EOR)), 2);
    let mut got = Vec::new();
    while got.len() < 6 {
        got.extend(ok!(recv(s, 9, 0)));
    }
    eq!(got, b"abcdef");
    err!(sys!(sendto, c, 1, 4, MSG_NOSIGNAL, 0, 0), EFAULT);
    ok!(send(s, b"x", 0));
    wait_for(c, POLLIN);
    err!(sys!(recvfrom, c, 1, 4, 0, 0, 0), EFAULT);
    eq!(ok!(recv(c, 4, 0)), b"x");
    err!(send(tcp(), b"x", 0), EPIPE);
    err!(recv(tcp(), 1, 0), ENOTCONN);
    err!(recv(c, 1, MSG_ERRQUEUE), EAGAIN);
}

fn udp_echo() {
    let (a, b) = (udp(), udp());
    ok!(bind(a, A::V4(LO, 0)));
    eq!(ok!(send_to(b, b"question", A::V4(LO, port(a)))), 8);
    let mut buf = [0u8; 100];
    let (mut from, mut n) = ([0u8; 16], 16u32);
    eq!(ok!(sys!(recvfrom, a, m(&mut buf), 100, 0, m(&mut from), m(&mut n))), 8);
    eq!(show_ip(&from), "127.0.0.1");
    eq!(u16::from_be_bytes([from[2], from[3]]), port(b));
    eq!(show_ip(&local(b)), "0.0.0.0");
    eq!(ok!(sys!(sendto, a, p(b"answer"), 6, 0, p(&from), 16)), 6);
    eq!(ok!(recv(b, 100, 0)), b"answer");
    err!(recv(b, 1, MSG_DONTWAIT), EAGAIN);
    // Empty datagrams count.
    eq!(ok!(send_to(b, b"", A::V4(LO, port(a)))), 0);
    eq!(ok!(recv(a, 10, 0)), b"");
    err!(send(b, b"x", 0), EDESTADDRREQ);
    err!(send_to(b, b"x", A::V4(LO, 0)), EINVAL);
}

fn udp_refused() {
    let s = udp();
    ok!(connect(s, A::V4(LO, 9)));
    ok!(send(s, b"x", 0));
    until("the error", || events(s).contains("ERR"));
    say!("{}", events(s));
    err!(recv(s, 1, MSG_DONTWAIT), ECONNREFUSED);
    err!(recv(s, 1, MSG_DONTWAIT), EAGAIN);
    ok!(send(s, b"x", 0));
    until("the error", || events(s).contains("ERR"));
    err!(send(s, b"x", 0), ECONNREFUSED);
    // One that is not connected hears nothing of it.
    let s = udp();
    ok!(send_to(s, b"x", A::V4(LO, 9)));
    ms(10);
    eq!(events(s), "OUT");
}

fn udp_connected_filter() {
    let (a, b, c) = (udp(), udp(), udp());
    for s in [a, b, c] {
        ok!(bind(s, A::V4(LO, 0)));
    }
    ok!(connect(a, A::V4(LO, port(b))));
    ok!(send_to(c, b"stranger", A::V4(LO, port(a))));
    ok!(send_to(b, b"friend", A::V4(LO, port(a))));
    eq!(ok!(recv(a, 20, 0)), b"friend");
    err!(recv(a, 20, MSG_DONTWAIT), EAGAIN);
    // A connected socket may still send elsewhere.
    ok!(send_to(a, b"else", A::V4(LO, port(c))));
    eq!(ok!(recv(c, 20, 0)), b"else");
}

fn udp_truncation() {
    let (a, b) = (udp(), udp());
    ok!(bind(a, A::V4(LO, 0)));
    for _ in 0..3 {
        ok!(send_to(b, b"0123456789", A::V4(LO, port(a))));
    }
    eq!(ok!(recv(a, 4, 0)), b"0123");
    eq!(ok!(recv_len(a, 4, MSG_TRUNC)), 10);
    eq!(ok!(recv_len(a, 4, MSG_TRUNC | MSG_PEEK)), 10);
    let mut buf = [0u8; 4];
    let mut v = iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: 4 };
    let mut h = unsafe { std::mem::zeroed::<msghdr>() };
    h.msg_iov = &mut v;
    h.msg_iovlen = 1;
    eq!(ok!(sys!(recvmsg, a, m(&mut h), 0)), 4);
    say!("{:#x}", h.msg_flags);
}

fn udp_sizes() {
    let (a, b) = (udp(), udp());
    ok!(bind(a, A::V4(LO, 0)));
    let big = vec![7u8; 65_508];
    err!(send_to(b, &big, A::V4(LO, port(a))), EMSGSIZE);
    eq!(ok!(send_to(b, &big[..65_507], A::V4(LO, port(a)))), 65_507);
    let mut n = 0i32;
    wait_for(a, POLLIN);
    ok!(sys!(ioctl, a, FIONREAD, m(&mut n)));
    eq!(n, 65_507);
    eq!(ok!(recv(a, 70_000, 0)).len(), 65_507);
}

fn cmsgs(s: i32, flags: i32) -> Result<(Vec<u8>, Vec<(i32, i32, Vec<u8>)>, i32, Vec<u8>), E> {
    let mut buf = [0u8; 2000];
    let mut control = [0u64; 64];
    let mut from = [0u8; 32];
    let mut v = iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: 2000 };
    let mut h = unsafe { std::mem::zeroed::<msghdr>() };
    h.msg_iov = &mut v;
    h.msg_iovlen = 1;
    h.msg_control = control.as_mut_ptr().cast();
    h.msg_controllen = 512;
    h.msg_name = from.as_mut_ptr().cast();
    h.msg_namelen = 32;
    let n = sys!(recvmsg, s, m(&mut h), flags)? as usize;
    let raw: Vec<u8> = control.iter().flat_map(|w| w.to_ne_bytes()).take(h.msg_controllen).collect();
    let mut all = Vec::new();
    let mut at = 0;
    while at + 16 <= raw.len() {
        let word = |i: usize| i32::from_ne_bytes(raw[at + i..at + i + 4].try_into().unwrap());
        let len = word(0) as usize;
        all.push((word(8), word(12), raw[at + 16..at + len].to_vec()));
        at += len.next_multiple_of(8);
    }
    Ok((buf[..n].to_vec(), all, h.msg_flags, from[..h.msg_namelen as usize].to_vec()))
}

fn udp_recverr() {
    let s = udp();
    ok!(set(s, IPPROTO_IP, IP_RECVERR, 1));
    ok!(send_to(s, b"lost", A::V4(LO, 9)));
    until("the error", || events(s).contains("ERR"));
    let (data, all, flags, from) = ok!(cmsgs(s, MSG_ERRQUEUE));
    eq!(data, b"lost");
    say!("{flags:#x} {:?}", &from[..8]);
    for (level, kind, b) in &all {
        say!("{level} {kind} {b:?}");
    }
    err!(cmsgs(s, MSG_ERRQUEUE), EAGAIN);
    eq!(so_error(s), E(0));
    // As the socket's error it can be had, too.
    ok!(send_to(s, b"lost", A::V4(LO, 9)));
    until("the error", || events(s).contains("ERR"));
    err!(recv(s, 1, MSG_DONTWAIT), ECONNREFUSED);
}

fn show_cmsgs(s: i32) {
    let (data, all, ..) = ok!(cmsgs(s, 0));
    say!("{:?}", String::from_utf8_lossy(&data));
    for (level, kind, b) in &all {
        say!(" {level} {kind} {b:?}");
    }
}

fn udp_pktinfo() {
    let (a, b) = (udp(), udp());
    ok!(bind(a, A::V4([0; 4], 0)));
    ok!(set(a, IPPROTO_IP, IP_PKTINFO, 1));
    ok!(send_to(b, b"one", A::V4(LO, port(a))));
    ok!(send_to(b, b"two", A::V4([127, 9, 8, 7], port(a))));
    show_cmsgs(a);
    show_cmsgs(a);
    // Sent from an address of our choice.
    let b = udp();
    ok!(bind(b, A::V4([0; 4], 0)));
    let to = bytes(A::V4(LO, port(b)));
    let mut c = [0u8; 32];
    c[..8].copy_from_slice(&28u64.to_ne_bytes());
    c[8..12].copy_from_slice(&IPPROTO_IP.to_ne_bytes());
    c[12..16].copy_from_slice(&IP_PKTINFO.to_ne_bytes());
    c[20..24].copy_from_slice(&[127, 0, 0, 5]);
    let mut text = *b"chosen";
    let mut v = iovec { iov_base: text.as_mut_ptr().cast(), iov_len: 6 };
    let mut h = unsafe { std::mem::zeroed::<msghdr>() };
    h.msg_iov = &mut v;
    h.msg_iovlen = 1;
    h.msg_name = to.as_ptr().cast_mut().cast();
    h.msg_namelen = 16;
    h.msg_control = c.as_mut_ptr().cast();
    h.msg_controllen = 32;
    ok!(sys!(sendmsg, a, p(&h), 0));
    let (_, _, _, from) = ok!(cmsgs(b, 0));
    eq!(show_ip(&from), "127.0.0.5");
}

fn udp_v6_pktinfo() {
    let (a, b) = (sock(AF_INET6, SOCK_DGRAM), sock(AF_INET6, SOCK_DGRAM));
    ok!(sys!(bind, a, p(&six(0, [0; 16])[..]), 28));
    for opt in [IPV6_RECVPKTINFO, IPV6_RECVHOPLIMIT, IPV6_RECVTCLASS] {
        ok!(set(a, IPPROTO_IPV6, opt, 1));
    }
    ok!(set(b, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 9));
    ok!(set(b, IPPROTO_IPV6, IPV6_TCLASS, 16));
    ok!(send_to(b, b"six", A::V6(port(a))));
    show_cmsgs(a);
    ok!(send_to(b, b"mapped", A::Mapped(port(a))));
    show_cmsgs(a);
}

fn udp_timestamps() {
    let (a, b) = (udp(), udp());
    ok!(bind(a, A::V4(LO, 0)));
    ok!(set(a, SOL_SOCKET, SO_TIMESTAMP, 1));
    ok!(send_to(b, b"x", A::V4(LO, port(a))));
    let (_, all, ..) = ok!(cmsgs(a, 0));
    eq!(all.len(), 1);
    eq!((all[0].0, all[0].1, all[0].2.len()), (SOL_SOCKET, SO_TIMESTAMP, 16));
    let sec = i64::from_ne_bytes(all[0].2[..8].try_into().unwrap());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
    check!((sec - now).abs() < 5);
    ok!(set(a, SOL_SOCKET, SO_TIMESTAMPNS, 1));
    say!("{:?} {:?}", get(a, SOL_SOCKET, SO_TIMESTAMP), get(a, SOL_SOCKET, SO_TIMESTAMPNS));
    ok!(send_to(b, b"x", A::V4(LO, port(a))));
    let (_, all, ..) = ok!(cmsgs(a, 0));
    eq!(all.iter().map(|c| c.1).collect::<Vec<_>>(), [SO_TIMESTAMPNS]);
}

fn udp_timestamping() {
    const SO_TIMESTAMPING: i32 = 37;
    let s = udp();
    ok!(bind(s, A::V4(LO, 0)));
    err!(set(s, SOL_SOCKET, SO_TIMESTAMPING, 1 << 30), EINVAL);
    eq!(ok!(get(s, SOL_SOCKET, SO_TIMESTAMPING)), 0);
    // Both are needed: that it is taken, and that it is told.
    for flags in [8, 16, 24, 0] {
        ok!(set(s, SOL_SOCKET, SO_TIMESTAMPING, flags));
        eq!(ok!(get(s, SOL_SOCKET, SO_TIMESTAMPING)), flags);
        if flags == 16 {
            // Linux tells a time that it has taken for anybody else, too.
            continue;
        }
        let ask = || {
            ok!(send_to(udp(), b"x", A::V4(LO, port(s))));
            let (mut data, mut control) = ([0u8; 4], [0u64; 16]);
            let iov = [m(&mut data), 4];
            let mut header = [0u64, 0, p(&iov) as u64, 1, m(&mut control) as u64, 128, 0];
            ok!(sys!(recvmsg, s, m(&mut header), 0));
            (header[5], control)
        };
        let (mut length, mut control) = ask();
        if flags == 24 {
            // Linux begins to look at the clock some time after it was asked to.
            until("a time", || {
                (length, control) = ask();
                length > 0
            });
        }
        say!("{flags} {length} {:x}", control[1]);
        check!(length == 0 || control[2] > 1_500_000_000 && control[3] < 1_000_000_000 && control[4..8] == [0; 4]);
    }
}

fn udp_mmsg() {
    let (a, b) = (udp(), udp());
    ok!(bind(a, A::V4(LO, 0)));
    ok!(connect(b, A::V4(LO, port(a))));
    let texts = [*b"aaaa", *b"bbbb", *b"cccc"];
    let mut v: Vec<iovec> =
        texts.iter().enumerate().map(|(i, t)| iovec { iov_base: t.as_ptr().cast_mut().cast(), iov_len: i + 1 }).collect();
    let mut h: Vec<mmsghdr> = v
        .iter_mut()
        .map(|v| {
            let mut h = unsafe { std::mem::zeroed::<mmsghdr>() };
            h.msg_hdr.msg_iov = v;
            h.msg_hdr.msg_iovlen = 1;
            h
        })
        .collect();
    eq!(ok!(sys!(sendmmsg, b, h.as_mut_ptr(), 3, 0)), 3);
    eq!(h.iter().map(|h| h.msg_len).collect::<Vec<_>>(), [1, 2, 3]);
    let mut bufs = [[0u8; 10]; 5];
    let mut v: Vec<iovec> = bufs.iter_mut().map(|b| iovec { iov_base: b.as_mut_ptr().cast(), iov_len: 10 }).collect();
    let mut h: Vec<mmsghdr> = v
        .iter_mut()
        .map(|v| {
            let mut h = unsafe { std::mem::zeroed::<mmsghdr>() };
            h.msg_hdr.msg_iov = v;
            h.msg_hdr.msg_iovlen = 1;
            h
        })
        .collect();
    eq!(ok!(sys!(recvmmsg, a, h.as_mut_ptr(), 5, MSG_WAITFORONE, 0)), 3);
    eq!(h.iter().map(|h| h.msg_len).collect::<Vec<_>>(), [1, 2, 3, 0, 0]);
    err!(sys!(recvmmsg, a, h.as_mut_ptr(), 5, MSG_DONTWAIT, 0), EAGAIN);
}

fn udp_ttl_tos() {
    let (a, b) = (udp(), udp());
    ok!(bind(a, A::V4(LO, 0)));
    ok!(set(a, IPPROTO_IP, IP_RECVTTL, 1));
    ok!(set(a, IPPROTO_IP, IP_RECVTOS, 1));
    ok!(set(b, IPPROTO_IP, IP_TTL, 33));
    ok!(set(b, IPPROTO_IP, IP_TOS, 0x10));
    ok!(send_to(b, b"x", A::V4(LO, port(a))));
    show_cmsgs(a);
    err!(set(b, IPPROTO_IP, IP_TTL, 256), EINVAL);
    err!(set(b, IPPROTO_IP, IP_TTL, 0), EINVAL);
    ok!(set(b, IPPROTO_IP, IP_TTL, -1));
    eq!(ok!(get(b, IPPROTO_IP, IP_TTL)), 64);
}

fn udp_options() {
    let s = udp();
    for (level, opt) in [
        (IPPROTO_IP, IP_MTU_DISCOVER),
        (IPPROTO_IP, IP_MULTICAST_TTL),
        (IPPROTO_IP, IP_MULTICAST_LOOP),
        (IPPROTO_IP, IP_FREEBIND),
        (IPPROTO_UDP, UDP_CORK),
        (IPPROTO_UDP, 103),
        (IPPROTO_UDP, 104),
    ] {
        let before = get(s, level, opt);
        let done = set(s, level, opt, 1);
        say!("{level} {opt}: {before:?} {done:?} {:?}", get(s, level, opt));
    }
    err!(set(s, IPPROTO_TCP, TCP_NODELAY, 1), ENOPROTOOPT);
    err!(set(s, IPPROTO_UDP, 999, 1), ENOPROTOOPT);
    err!(set(s, IPPROTO_IP, 999, 1), ENOPROTOOPT);
    err!(get(s, IPPROTO_IP, IP_MTU), ENOTCONN);
    ok!(connect(s, A::V4(LO, 9)));
    eq!(ok!(get(s, IPPROTO_IP, IP_MTU)), 65_535);
}

fn udp_shutdown() {
    let s = udp();
    err!(sys!(shutdown, s, SHUT_RD), ENOTCONN);
    let (a, b) = (udp(), udp());
    ok!(bind(a, A::V4(LO, 0)));
    ok!(bind(b, A::V4(LO, 0)));
    ok!(connect(a, A::V4(LO, port(b))));
    ok!(sys!(shutdown, a, SHUT_WR));
    err!(send(a, b"x", 0), EPIPE);
    ok!(send_to(b, b"still", A::V4(LO, port(a))));
    eq!(ok!(recv(a, 9, 0)), b"still");
    ok!(sys!(shutdown, a, SHUT_RD));
    eq!(ok!(recv(a, 9, 0)), b"");
    say!("{}", events(a));
}

fn udp_cork() {
    let (a, b) = (udp(), udp());
    ok!(bind(a, A::V4(LO, 0)));
    ok!(connect(b, A::V4(LO, port(a))));
    ok!(send(b, b"one ", MSG_MORE));
    ok!(send(b, b"two ", MSG_MORE));
    err!(recv(a, 100, MSG_DONTWAIT), EAGAIN);
    ok!(send(b, b"three", 0));
    eq!(ok!(recv(a, 100, 0)), b"one two three");
    ok!(set(b, IPPROTO_UDP, UDP_CORK, 1));
    ok!(send(b, b"x", 0));
    ok!(send(b, b"y", 0));
    err!(recv(a, 100, MSG_DONTWAIT), EAGAIN);
    ok!(set(b, IPPROTO_UDP, UDP_CORK, 0));
    eq!(ok!(recv(a, 100, 0)), b"xy");
}

fn udp_segment() {
    let (a, b) = (udp(), udp());
    ok!(bind(a, A::V4(LO, 0)));
    ok!(connect(b, A::V4(LO, port(a))));
    ok!(set(b, IPPROTO_UDP, 103, 4));
    eq!(ok!(send(b, b"aaaabbbbcc", 0)), 10);
    eq!(ok!(recv(a, 100, 0)), b"aaaa");
    eq!(ok!(recv(a, 100, 0)), b"bbbb");
    eq!(ok!(recv(a, 100, 0)), b"cc");
}

fn udp_disconnect() {
    let s = udp();
    ok!(connect(s, A::V4(LO, 9)));
    eq!(show_ip(&local(s)), "127.0.0.1");
    let before = port(s);
    check!(before != 0);
    ok!(sys!(connect, s, p(&[0u8; 16]), 16));
    err!(name(nr::getpeername, s), ENOTCONN);
    eq!(show_ip(&local(s)), "0.0.0.0");
    err!(send(s, b"x", 0), EDESTADDRREQ);
    // It may be connected to another place.
    ok!(connect(s, A::V4([127, 0, 0, 4], 10)));
    ok!(connect(s, A::V4(LO, 11)));
    eq!(ok!(name(nr::getpeername, s))[3], 11);
}

fn udp_multicast() {
    let group = [224, 1, 2, 3];
    let join = |s: i32, opt: i32| {
        let b = [&group[..], &LO].concat();
        sys!(setsockopt, s, IPPROTO_IP, opt, p(&b[..]), 8)
    };
    let (a, b, c) = (udp(), udp(), udp());
    for s in [a, b] {
        ok!(set(s, SOL_SOCKET, SO_REUSEADDR, 1));
    }
    ok!(bind(a, A::V4([0; 4], 0)));
    ok!(bind(b, A::V4([0; 4], port(a))));
    ok!(join(a, IP_ADD_MEMBERSHIP));
    err!(join(a, IP_ADD_MEMBERSHIP), EADDRINUSE);
    ok!(set(b, IPPROTO_IP, IP_MULTICAST_ALL, 0));
    ok!(sys!(setsockopt, c, IPPROTO_IP, IP_MULTICAST_IF, p(&LO), 4));
    ok!(send_to(c, b"to the group", A::V4(group, port(a))));
    eq!(ok!(recv(a, 100, 0)), b"to the group");
    err!(recv(b, 100, MSG_DONTWAIT), EAGAIN);
    ok!(join(b, IP_ADD_MEMBERSHIP));
    ok!(send_to(c, b"to both", A::V4(group, port(a))));
    eq!(ok!(recv(a, 100, 0)), b"to both");
    eq!(ok!(recv(b, 100, 0)), b"to both");
    ok!(join(a, IP_DROP_MEMBERSHIP));
    err!(join(a, IP_DROP_MEMBERSHIP), EADDRNOTAVAIL);
    let bad = [[1, 2, 3, 4], LO].concat();
    err!(sys!(setsockopt, a, IPPROTO_IP, IP_ADD_MEMBERSHIP, p(&bad[..]), 8), EINVAL);
    let nowhere = [group, [9, 9, 9, 9]].concat();
    err!(sys!(setsockopt, a, IPPROTO_IP, IP_ADD_MEMBERSHIP, p(&nowhere[..]), 8), ENODEV);
    err!(sys!(setsockopt, tcp(), IPPROTO_IP, IP_ADD_MEMBERSHIP, p(&nowhere[..]), 8), EPROTO_);
}
const EPROTO_: E = E(71);

fn udp_broadcast() {
    let s = udp();
    say!("{:?}", send_to(s, b"x", A::V4([255; 4], 9)));
    ok!(set(s, SOL_SOCKET, SO_BROADCAST, 1));
    say!("{:?}", send_to(s, b"x", A::V4([255; 4], 9)));
}

fn udp_queue_limit() {
    let (a, b) = (udp(), udp());
    ok!(bind(a, A::V4(LO, 0)));
    ok!(set(a, SOL_SOCKET, SO_RCVBUF, 10_000));
    let block = [1u8; 1000];
    for _ in 0..200 {
        eq!(ok!(send_to(b, &block, A::V4(LO, port(a)))), 1000);
    }
    ms(20);
    let n = std::iter::from_fn(|| recv(a, 2000, MSG_DONTWAIT).ok()).count();
    check!((3..40).contains(&n));
}

fn udp_reuseport() {
    let (a, b) = (udp(), udp());
    ok!(bind(a, A::V4(LO, 0)));
    err!(bind(b, A::V4(LO, port(a))), EADDRINUSE);
    let (a, b) = (udp(), udp());
    for s in [a, b] {
        ok!(set(s, SOL_SOCKET, SO_REUSEPORT, 1));
    }
    ok!(bind(a, A::V4(LO, 0)));
    ok!(bind(b, A::V4(LO, port(a))));
    for _ in 0..64 {
        let c = udp();
        ok!(send_to(c, b"x", A::V4(LO, port(a))));
        close(c);
    }
    ms(20);
    let count = |s| std::iter::from_fn(|| recv(s, 9, MSG_DONTWAIT).ok()).count();
    let (x, y) = (count(a), count(b));
    check!(x + y == 64 && x > 5 && y > 5);
}

fn udp_mapped() {
    let s = sock(AF_INET6, SOCK_DGRAM);
    ok!(sys!(bind, s, p(&six(0, [0; 16])[..]), 28));
    let c = udp();
    ok!(bind(c, A::V4(LO, 0)));
    ok!(send_to(c, b"four", A::V4(LO, port(s))));
    let (data, _, _, from) = ok!(cmsgs(s, 0));
    eq!(data, b"four");
    say!("{}", show_ip(&from));
    ok!(sys!(sendto, s, p(b"back"), 4, 0, p(&from[..]), from.len()));
    eq!(ok!(recv(c, 9, 0)), b"back");
    // The IPv4 way to say it, on a socket of IPv6.
    ok!(send_to(s, b"plain", A::V4(LO, port(c))));
    eq!(ok!(recv(c, 9, 0)), b"plain");
}

fn udp_bind_errors() {
    let s = udp();
    err!(bind(s, A::V4([9, 9, 9, 9], 0)), EADDRNOTAVAIL);
    ok!(set(s, IPPROTO_IP, IP_FREEBIND, 1));
    ok!(bind(s, A::V4([9, 9, 9, 9], 0)));
    err!(bind(s, A::V4(LO, 0)), EINVAL);
    let g = udp();
    ok!(bind(g, A::V4([224, 0, 0, 9], 0)));
    let s = udp();
    ok!(bind(s, A::V4(LO, 0)));
    ok!(bind(udp(), A::V4([127, 0, 0, 2], port(s))));
    err!(bind(udp(), A::V4([0; 4], port(s))), EADDRINUSE);
    // TCP's ports are others.
    ok!(bind(tcp(), A::V4(LO, port(s))));
}

fn socket_args() {
    for (domain, kind, protocol) in [
        (AF_INET, SOCK_STREAM, IPPROTO_TCP),
        (AF_INET, SOCK_DGRAM, IPPROTO_UDP),
        (AF_INET, SOCK_STREAM, IPPROTO_UDP),
        (AF_INET, SOCK_DGRAM, IPPROTO_TCP),
        (AF_INET6, SOCK_STREAM, 0),
        (AF_INET, SOCK_SEQPACKET, 0),
        (AF_INET, SOCK_RAW, 0),
        (AF_INET, SOCK_RAW, IPPROTO_ICMP),
        (AF_INET, SOCK_STREAM, 300),
        (AF_INET, 77, 0),
        (AF_INET, SOCK_STREAM | 0x100, 0),
        (AF_PACKET, SOCK_STREAM, 0),
        (99, SOCK_STREAM, 0),
    ] {
        say!("{domain} {kind} {protocol}: {:?}", sys!(socket, domain, kind, protocol).map(|s| close(s as i32)));
    }
    err!(sys!(socketpair, AF_INET, SOCK_STREAM, 0, m(&mut [0i32; 2])), EOPNOTSUPP);
    let s = udp();
    say!("{:?} {:?} {:?}", get(s, SOL_SOCKET, SO_TYPE), get(s, SOL_SOCKET, SO_PROTOCOL), get(s, SOL_SOCKET, SO_DOMAIN));
    let s = tcp();
    say!("{:?} {:?} {:?}", get(s, SOL_SOCKET, SO_TYPE), get(s, SOL_SOCKET, SO_PROTOCOL), get(s, SOL_SOCKET, SO_DOMAIN));
}

fn so_options() {
    for s in [tcp(), udp()] {
        for opt in [
            SO_SNDBUF,
            SO_RCVBUF,
            SO_KEEPALIVE,
            SO_REUSEADDR,
            SO_REUSEPORT,
            SO_BROADCAST,
            SO_OOBINLINE,
            SO_PRIORITY,
            SO_RCVLOWAT,
            SO_SNDLOWAT,
            SO_ZEROCOPY,
            SO_MARK,
            SO_BUSY_POLL,
            SO_DONTROUTE,
            SO_ACCEPTCONN,
            SO_RXQ_OVFL,
        ] {
            let before = get(s, SOL_SOCKET, opt);
            let done = set(s, SOL_SOCKET, opt, 1);
            say!("{opt}: {before:?} {:?} {:?}", done.map(|_| ()), get(s, SOL_SOCKET, opt));
        }
    }
}

fn bind_errors() {
    let s = tcp();
    err!(bind(s, A::V4([9, 9, 9, 9], 0)), EADDRNOTAVAIL);
    err!(bind(s, A::V6(0)), EAFNOSUPPORT);
    err!(sys!(bind, s, p(&bytes(A::V4(LO, 0))[..]), 8), EINVAL);
    err!(sys!(bind, s, p(&bytes(A::V4(LO, 0))[..]), 200), EINVAL);
    err!(sys!(bind, s, 1, 16), EFAULT);
    let six_sock = sock(AF_INET6, SOCK_STREAM);
    err!(bind(six_sock, A::V4(LO, 0)), EINVAL);
    // AF_UNSPEC with no address is "any".
    let mut any = bytes(A::V4([0; 4], 0));
    any[0] = 0;
    ok!(sys!(bind, s, p(&any[..]), 16));
    eq!(show_ip(&local(s)), "0.0.0.0");
    any[4] = 127;
    err!(sys!(bind, tcp(), p(&any[..]), 16), EAFNOSUPPORT);
}

fn bind_device() {
    let s = udp();
    ok!(sys!(setsockopt, s, SOL_SOCKET, SO_BINDTODEVICE, p(b"lo\0"), 3));
    let mut b = [0u8; 16];
    let mut n = 16u32;
    ok!(sys!(getsockopt, s, SOL_SOCKET, SO_BINDTODEVICE, m(&mut b), m(&mut n)));
    say!("{n} {:?} {:?}", &b[..n as usize], get(s, SOL_SOCKET, SO_BINDTOIFINDEX));
    err!(sys!(setsockopt, s, SOL_SOCKET, SO_BINDTODEVICE, p(b"none9\0"), 6), ENODEV);
    ok!(bind(s, A::V4(LO, 0)));
    let c = udp();
    ok!(send_to(c, b"x", A::V4(LO, port(s))));
    eq!(ok!(recv(s, 9, 0)), b"x");
    ok!(sys!(setsockopt, s, SOL_SOCKET, SO_BINDTODEVICE, p(b"\0"), 1));
    eq!(ok!(get(s, SOL_SOCKET, SO_BINDTOIFINDEX)), 0);
}

fn values(s: i32, level: i32, opts: &[i32]) {
    for &opt in opts {
        let before = get(s, level, opt);
        let tried: Vec<String> =
            [0, 1, 2, 255, 256, -1, i32::MAX].iter().map(|v| format!("{:?}", set(s, level, opt, *v).map(|_| get(s, level, opt)))).collect();
        say!("{opt}: {before:?} {tried:?}");
    }
}

fn ip_option_values() {
    values(
        udp(),
        IPPROTO_IP,
        &[
            IP_TOS,
            IP_TTL,
            IP_MTU_DISCOVER,
            IP_RECVERR,
            IP_RECVTTL,
            IP_PKTINFO,
            IP_MULTICAST_TTL,
            IP_MULTICAST_LOOP,
            IP_FREEBIND,
            IP_MINTTL,
            IP_MULTICAST_ALL,
        ],
    );
    values(tcp(), IPPROTO_IP, &[IP_TOS, IP_TTL]);
}

fn tcp_option_values() {
    values(
        tcp(),
        IPPROTO_TCP,
        &[TCP_NODELAY, TCP_CORK, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, TCP_SYNCNT, TCP_USER_TIMEOUT, TCP_DEFER_ACCEPT, TCP_LINGER2],
    );
}

fn v6_option_values() {
    values(
        sock(AF_INET6, SOCK_DGRAM),
        IPPROTO_IPV6,
        &[IPV6_UNICAST_HOPS, IPV6_MULTICAST_LOOP, IPV6_TCLASS, IPV6_RECVPKTINFO, IPV6_RECVHOPLIMIT, IPV6_MTU_DISCOVER, IPV6_RECVERR],
    );
}

fn no_route() {
    err!(connect(tcp(), A::V4([10, 9, 8, 7], 80)), ENETUNREACH);
    err!(connect(udp(), A::V4([10, 9, 8, 7], 80)), ENETUNREACH);
    err!(send_to(udp(), b"x", A::V4([10, 9, 8, 7], 80)), ENETUNREACH);
    let far = six(80, [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    err!(sys!(connect, sock(AF_INET6, SOCK_STREAM), p(&far[..]), 28), ENETUNREACH);
    say!("{:?}", connect(tcp(), A::V4([224, 1, 1, 1], 80)));
}
const ENETUNREACH: E = E(libc::ENETUNREACH);

fn addr_families() {
    let (c, u) = (tcp(), udp());
    let mut bad = bytes(A::V4(LO, 80));
    bad[0] = 77;
    err!(sys!(connect, c, p(&bad[..]), 16), EAFNOSUPPORT);
    err!(sys!(connect, u, p(&bad[..]), 16), EAFNOSUPPORT);
    err!(sys!(connect, c, p(&bad[..]), 1), EINVAL);
    err!(sys!(connect, c, p(&bytes(A::V4(LO, 80))[..]), 8), EINVAL);
    err!(sys!(sendto, u, p(b"x"), 1, 0, p(&bad[..]), 16), EAFNOSUPPORT);
    err!(sys!(sendto, u, p(b"x"), 1, 0, p(&bad[..]), 4), EINVAL);
    err!(sys!(connect, c, p(&bad[..]), -1), EINVAL);
}

fn checksum(b: &[u8]) -> u16 {
    let mut s: u32 = b.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], *c.get(1).unwrap_or(&0)]))).sum();
    while s > 0xffff {
        s = (s & 0xffff) + (s >> 16);
    }
    !(s as u16)
}

fn ping() {
    // Natively the range of groups that may is empty in a new namespace.
    let _ = std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647");
    let s = match sys!(socket, AF_INET, SOCK_DGRAM, IPPROTO_ICMP) {
        Ok(s) => s as i32,
        // A host that keeps /proc/sys read-only.
        Err(e) => {
            eq!(e, EACCES);
            return;
        }
    };
    up();
    let mut echo = vec![8, 0, 0, 0, 0, 0, 0, 7];
    echo.extend(b"payload");
    ok!(send_to(s, &echo, A::V4(LO, 0)));
    wait_for(s, POLLIN);
    let got = ok!(recv(s, 100, 0));
    eq!((got[0], got[1]), (0, 0));
    eq!(&got[6..], &echo[6..]);
    eq!(u16::from_be_bytes([got[4], got[5]]), port(s));
    err!(send_to(s, b"\0\0\0\0\0\0\0\0", A::V4(LO, 0)), EINVAL);
    err!(send_to(s, b"\x08", A::V4(LO, 0)), EINVAL);
}

fn raw_icmp() {
    up();
    let s = ok!(sys!(socket, AF_INET, SOCK_RAW, IPPROTO_ICMP)) as i32;
    let mut echo = vec![8, 0, 0, 0, 0x12, 0x34, 0, 1, b'x', b'y'];
    let sum = checksum(&echo);
    echo[2..4].copy_from_slice(&sum.to_be_bytes());
    ok!(send_to(s, &echo, A::V4(LO, 0)));
    // The request is heard, too, as loopback brings it back.
    let mut kinds = Vec::new();
    for _ in 0..2 {
        wait_for(s, POLLIN);
        let b = ok!(recv(s, 200, 0));
        eq!((b[0], b[9], &b[12..16], &b[16..20]), (0x45, 1, &LO[..], &LO[..]));
        eq!(b.len(), 30);
        eq!(&b[24..], &echo[4..]);
        kinds.push(b[20]);
    }
    eq!(kinds, [8, 0]);
    // ICMP_FILTER: everything but echo replies.
    ok!(sys!(setsockopt, s, 255, 1, p(&!1u32), 4));
    ok!(send_to(s, &echo, A::V4(LO, 0)));
    wait_for(s, POLLIN);
    eq!(ok!(recv(s, 200, 0))[20], 0);
    in_child(|| {
        ok!(sys!(setresuid, 1000, 1000, 1000));
        err!(sys!(socket, AF_INET, SOCK_RAW, IPPROTO_ICMP), EPERM);
        err!(sys!(socket, AF_PACKET, SOCK_RAW, 0), EPERM);
    });
}

fn raw_udp() {
    let u = udp();
    ok!(bind(u, A::V4(LO, 0)));
    let s = ok!(sys!(socket, AF_INET, SOCK_RAW, IPPROTO_UDP)) as i32;
    let mut d = vec![0x10, 0x01];
    d.extend(port(u).to_be_bytes());
    d.extend([0, 11, 0, 0]);
    d.extend(b"raw");
    ok!(send_to(s, &d, A::V4(LO, 0)));
    let (data, _, _, from) = ok!(cmsgs(u, 0));
    eq!(data, b"raw");
    eq!(u16::from_be_bytes([from[2], from[3]]), 0x1001);
    // With a header of its own.
    let h = ok!(sys!(socket, AF_INET, SOCK_RAW, IPPROTO_RAW)) as i32;
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 127, 0, 0, 9, 127, 0, 0, 1];
    packet.extend(&d);
    ok!(send_to(h, &packet, A::V4(LO, 0)));
    let (data, _, _, from) = ok!(cmsgs(u, 0));
    eq!((data, show_ip(&from)), (b"raw".to_vec(), "127.0.0.9".to_string()));
}

fn proc_tables() {
    let (l, at) = listener(3);
    let c = tcp();
    ok!(connect(c, A::V4(LO, at)));
    let u = udp();
    ok!(bind(u, A::V4(LO, 0)));
    let text = String::from_utf8_lossy(&get_file("/proc/net/tcp")).to_string();
    let header = text.lines().next().unwrap_or_default();
    say!("{header}");
    let wanted = format!("0100007F:{at:04X} 00000000:0000 0A");
    check!(text.contains(&wanted));
    check!(text.contains(&format!("0100007F:{:04X} 0100007F:{at:04X} 01", port(c))));
    let text = String::from_utf8_lossy(&get_file("/proc/net/udp")).to_string();
    say!("{}", text.lines().next().unwrap_or_default().trim_end());
    check!(text.contains(&format!("0100007F:{:04X} 00000000:0000 07", port(u))));
    for f in ["dev", "route", "if_inet6"] {
        let text = String::from_utf8_lossy(&get_file(&format!("/proc/net/{f}"))).to_string();
        say!("{f}: {:?}", text.lines().next().map(|l| l.trim_end().to_string()));
    }
    check!(String::from_utf8_lossy(&get_file("/proc/net/dev")).contains("    lo:"));
    check!(String::from_utf8_lossy(&get_file("/proc/net/sockstat")).starts_with("sockets: used "));
    check!(String::from_utf8_lossy(&get_file("/proc/net/snmp")).contains("\nTcp: RtoAlgorithm"));
    close(l);
}
fn get_file(path: &str) -> Vec<u8> {
    crate::sys::get(path)
}

fn ioctls() {
    let (c, s) = pair();
    ok!(send(c, b"12345", 0));
    wait_for(s, POLLIN);
    let mut n = 0i32;
    ok!(sys!(ioctl, s, FIONREAD, m(&mut n)));
    eq!(n, 5);
    until("acknowledged", || {
        ok!(sys!(ioctl, c, TIOCOUTQ, m(&mut n)));
        n == 0
    });
    let (l, _) = listener(1);
    err!(sys!(ioctl, l, FIONREAD, m(&mut n)), EINVAL);
    ok!(sys!(ioctl, s, FIONBIO, p(&1i32)));
    ok!(recv(s, 10, 0));
    err!(recv(s, 10, 0), EAGAIN);
    err!(sys!(ioctl, s, 0x1234, m(&mut n)), ENOTTY);
    let mut req = [0u8; 40];
    req[..2].copy_from_slice(b"lo");
    for call in [0x8913, 0x8915, 0x891b, 0x8921, 0x8927, 0x8933] {
        req[16..].fill(0);
        ok!(sys!(ioctl, s, call, m(&mut req)));
        say!("{call:#x} {:?}", &req[16..24]);
    }
    req[..3].copy_from_slice(b"zz9");
    err!(sys!(ioctl, s, 0x8913, m(&mut req)), ENODEV);
}

fn many_sockets() {
    let (l, at) = listener(400);
    let mut all = Vec::new();
    for _ in 0..300 {
        let c = tcp();
        ok!(connect(c, A::V4(LO, at)));
        all.push((c, accept(l)));
    }
    for (i, (c, s)) in all.iter().enumerate() {
        ok!(send(*c, &(i as u32).to_ne_bytes(), 0));
        eq!(ok!(recv(*s, 4, MSG_WAITALL)), (i as u32).to_ne_bytes());
    }
    for (c, s) in all {
        close(c);
        eq!(ok!(recv(s, 4, 0)), b"");
        close(s);
    }
}

fn big_transfer() {
    let (c, s) = pair();
    let child = fork(move || {
        let mut x = 12345u32;
        let mut block = vec![0u8; 70_001];
        for _ in 0..200 {
            for b in &mut block {
                x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *b = (x >> 24) as u8;
            }
            let mut at = 0;
            while at < block.len() {
                at += ok!(write(c, &block[at..])) as usize;
            }
        }
    });
    close(c);
    let (mut x, mut n) = (12345u32, 0usize);
    loop {
        let got = ok!(recv(s, 65_000 + n % 3000, 0));
        if got.is_empty() {
            break;
        }
        for b in &got {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            check!(*b == (x >> 24) as u8);
        }
        n += got.len();
    }
    eq!(n, 70_001 * 200);
    eq!(wait(child), 0);
}

fn closed_by_other_thread() {
    let (c, s) = pair();
    let t = std::thread::spawn(move || {
        ms(50);
        ok!(sys!(shutdown, s, SHUT_RDWR));
    });
    eq!(ok!(recv(s, 1, 0)), b"");
    t.join().unwrap();
    eq!(ok!(recv(c, 1, 0)), b"");
    let (l, _) = listener(1);
    let t = std::thread::spawn(move || {
        ms(50);
        ok!(sys!(shutdown, l, SHUT_RDWR));
    });
    err!(sys!(accept4, l, 0, 0, 0), EINVAL);
    t.join().unwrap();
}
