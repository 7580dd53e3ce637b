//! How TCP connections over loopback end: FIN_WAIT2 and TIME_WAIT, which hold a port, and who may have it again; and which ports
//! connect(2) chooses.

use super::inet::{A, LO, accept, bind, connect, get, listener, pair, port, recv, send, send_to, set, so_error, tcp, udp, wait_for};
use crate::sys::*;
use crate::{check, eq, err, list, ok, say, sys};

pub const TESTS: &[crate::Test] = list!["tcp_end";
    time_wait_of_server, time_wait_of_client, time_wait_reused, reset_leaves_nothing, fin_wait, half_close_order, accepted_holds_port, same_tuple, ports_are_shared, settings_act, many_short,
    states_shown, unread_data_resets, waiters_of_accept, waiters_of_bytes,
];

/// States of connections with this local port, in /proc/net/tcp: state and whether a descriptor holds them.
fn shown(port: u16) -> String {
    let text = String::from_utf8_lossy(&crate::sys::get("/proc/net/tcp")).to_string();
    let wanted = format!(":{port:04X}");
    let mut all: Vec<String> = text
        .lines()
        .skip(1)
        .map(|l| l.split_whitespace().collect::<Vec<_>>())
        .filter(|w| w.get(1).is_some_and(|a| a.ends_with(&wanted)))
        // Linux may take its time to acknowledge an end.
        .map(|w| format!("{}{}", if w[3] == "04" { "05" } else { w[3] }, if w[9] == "0" { "-" } else { "" }))
        .collect();
    all.sort();
    all.join(" ")
}

/// A listener, and a connection to it: listener, its port, client, server.
fn connected() -> (i32, u16, i32, i32) {
    let (l, at) = listener(5);
    let c = tcp();
    ok!(connect(c, A::V4(LO, at)));
    let s = accept(l);
    (l, at, c, s)
}

fn rebind(at: u16, reuse: bool) -> R {
    let s = tcp();
    if reuse {
        ok!(set(s, SOL_SOCKET, SO_REUSEADDR, 1));
    }
    let done = bind(s, A::V4(LO, at));
    close(s);
    done
}

fn time_wait_of_server() {
    let (l, at, c, s) = connected();
    close(l);
    close(s);
    eq!(ok!(recv(c, 1, 0)), b"");
    close(c);
    until("TIME_WAIT", || shown(at) == "06-");
    err!(rebind(at, false), EADDRINUSE);
    // Both must have asked for it.
    err!(rebind(at, true), EADDRINUSE);
    let any = tcp();
    err!(bind(any, A::V4([0; 4], at)), EADDRINUSE);
    ok!(bind(any, A::V4([127, 0, 0, 2], at)));
}

fn time_wait_of_client() {
    let (l, at, c, s) = connected();
    let own = port(c);
    close(c);
    eq!(ok!(recv(s, 1, 0)), b"");
    close(s);
    until("TIME_WAIT", || shown(own) == "06-");
    close(l);
    // The server's port is free at once.
    ok!(rebind(at, false));
    err!(rebind(own, false), EADDRINUSE);
}

fn time_wait_reused() {
    let l = tcp();
    ok!(set(l, SOL_SOCKET, SO_REUSEADDR, 1));
    ok!(bind(l, A::V4(LO, 0)));
    ok!(sys!(listen, l, 5));
    let at = port(l);
    let c = tcp();
    ok!(connect(c, A::V4(LO, at)));
    let s = accept(l);
    close(s);
    close(l);
    close(c);
    until("TIME_WAIT", || shown(at) == "06-");
    err!(rebind(at, false), EADDRINUSE);
    ok!(rebind(at, true));
    // A server that starts again, and the same client's port.
    let l = tcp();
    ok!(set(l, SOL_SOCKET, SO_REUSEADDR, 1));
    ok!(bind(l, A::V4(LO, at)));
    ok!(sys!(listen, l, 5));
    let c = tcp();
    ok!(connect(c, A::V4(LO, at)));
    ok!(send(c, b"again", 0));
    eq!(ok!(recv(accept(l), 10, 0)), b"again");
}

fn reset_leaves_nothing() {
    let (l, at, c, s) = connected();
    let own = port(c);
    ok!(sys!(setsockopt, c, SOL_SOCKET, SO_LINGER, p(&[1i32, 0]), 8));
    close(c);
    err!(recv(s, 1, 0), ECONNRESET);
    close(s);
    close(l);
    eq!((shown(own), shown(at)), (String::new(), String::new()));
    ok!(rebind(own, false));
    ok!(rebind(at, false));
}

fn fin_wait() {
    let (l, at, c, s) = connected();
    close(l);
    close(s);
    // The peer has not closed yet.
    until("FIN_WAIT2", || shown(at) == "05-");
    eq!(shown(port(c)), "08");
    err!(rebind(at, false), EADDRINUSE);
    // What is sent there now is answered with a reset, and then nothing is left.
    ok!(send(c, b"late", 0));
    until("the reset", || shown(at).is_empty());
    eq!(so_error(c), EPIPE);
    ok!(rebind(at, false));
}

fn half_close_order() {
    let (l, at, c, s) = connected();
    let own = port(c);
    close(l);
    ok!(sys!(shutdown, c, SHUT_WR));
    eq!((shown(own).as_str(), shown(at).as_str()), ("05", "08"));
    ok!(sys!(shutdown, s, SHUT_WR));
    // The client was first: TIME_WAIT is its part, without its descriptor.
    until("TIME_WAIT", || shown(own) == "06-");
    eq!(shown(at), "");
    err!(send(c, b"x", 0), EPIPE);
    close(c);
    close(s);
    eq!(shown(own), "06-");
    ok!(rebind(at, false));
}

fn accepted_holds_port() {
    let (l, at, _c, s) = connected();
    close(l);
    err!(rebind(at, false), EADDRINUSE);
    err!(rebind(at, true), EADDRINUSE);
    ok!(set(s, SOL_SOCKET, SO_REUSEADDR, 1));
    ok!(rebind(at, true));
    err!(bind(s, A::V4(LO, 0)), EINVAL);
}

fn same_tuple() {
    let (_l, at, c, _s) = connected();
    let own = port(c);
    let twin = tcp();
    ok!(set(twin, SOL_SOCKET, SO_REUSEADDR, 1));
    err!(bind(twin, A::V4(LO, own)), EADDRINUSE);
    ok!(set(c, SOL_SOCKET, SO_REUSEADDR, 1));
    ok!(bind(twin, A::V4(LO, own)));
    err!(connect(twin, A::V4(LO, at)), EADDRNOTAVAIL);
    let (_l2, other) = listener(3);
    ok!(connect(twin, A::V4(LO, other)));
}

fn settings_act() {
    let set_to =
        |name: &str, value: &str| std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value).map_err(|e| E(e.raw_os_error().unwrap_or(0)));
    let is = |name: &str| std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default().trim_end().to_string();
    let old = tcp();
    ok!(set_to("tcp_keepalive_time", "77").map(|()| 0));
    ok!(set_to("tcp_keepalive_intvl", "7").map(|()| 0));
    ok!(set_to("tcp_keepalive_probes", "3").map(|()| 0));
    ok!(set_to("tcp_syn_retries", "2").map(|()| 0));
    ok!(set_to("ip_default_ttl", "99").map(|()| 0));
    // Sockets that are there, too, unless they have a value of their own.
    for s in [old, tcp()] {
        let values = [TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, TCP_SYNCNT].map(|o| ok!(get(s, IPPROTO_TCP, o)));
        eq!(values, [77, 7, 3, 2]);
        eq!(ok!(get(s, IPPROTO_IP, IP_TTL)), 99);
    }
    ok!(set(old, IPPROTO_TCP, TCP_KEEPIDLE, 5));
    ok!(set(old, IPPROTO_IP, IP_TTL, 5));
    eq!((ok!(get(old, IPPROTO_TCP, TCP_KEEPIDLE)), ok!(get(old, IPPROTO_IP, IP_TTL))), (5, 5));
    ok!(set(old, IPPROTO_IP, IP_TTL, -1));
    ok!(set_to("ip_default_ttl", "64").map(|()| 0));
    eq!(ok!(get(old, IPPROTO_IP, IP_TTL)), 64);
    for (name, value) in [("tcp_keepalive_probes", "256"), ("tcp_syn_retries", "0"), ("ip_default_ttl", "0"), ("tcp_keepalive_time", "x")] {
        eq!(set_to(name, value), Err(EINVAL));
    }
    eq!(is("tcp_retries2"), "15");
    ok!(set_to("tcp_congestion_control", "reno").map(|()| 0));
    eq!(is("tcp_congestion_control"), "reno");
    let mut name = [0u8; 16];
    let mut n = 16u32;
    ok!(sys!(getsockopt, tcp(), IPPROTO_TCP, TCP_CONGESTION, m(&mut name), m(&mut n)));
    eq!(&name[..5], b"reno\0");
    eq!(set_to("tcp_congestion_control", "nonsense"), Err(ENOENT));
    // Nobody may ping, until it is said who.
    let ping = || sys!(socket, AF_INET, SOCK_DGRAM, IPPROTO_ICMP).map(|fd| close(fd as i32));
    ok!(set_to("ping_group_range", "5 4").map(|()| 0));
    eq!(is("ping_group_range"), "1\t0");
    eq!(ping().err(), Some(EACCES));
    ok!(set_to("ping_group_range", "4000000 4000001").map(|()| 0));
    eq!(ping().err(), Some(EACCES));
    ok!(set_to("ping_group_range", "0 0").map(|()| 0));
    eq!(ping().err(), None);
    // The first alone.
    ok!(set_to("ping_group_range", "0 9").map(|()| 0));
    ok!(set_to("ping_group_range", "8").map(|()| 0));
    eq!(is("ping_group_range"), "8\t9");
    for bad in ["x", "", "1 x"] {
        eq!(set_to("ping_group_range", bad).is_ok(), bad.is_empty());
    }
}

fn ports_are_shared() {
    // Connections to different places may have one port.
    ok!(std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40003").map_err(|_| EPERM).map(|()| 0));
    let (_a, at) = listener(64);
    let (_b, other) = listener(64);
    let connect_all = |to: u16| {
        let mut n = 0;
        loop {
            let c = tcp();
            match connect(c, A::V4(LO, to)) {
                Ok(_) => n += 1,
                Err(e) => break (n, e),
            }
        }
    };
    say!("{:?}", connect_all(at));
    say!("{:?}", connect_all(other));
}

fn many_short() {
    // More connections one after the other than there are ports, of which each waits for a minute.
    ok!(std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40063").map_err(|_| EPERM).map(|()| 0));
    let (l, at) = listener(5);
    let mut done = 0;
    until("more connections than ports", || {
        let c = tcp();
        match connect(c, A::V4(LO, at)) {
            Ok(_) => done += 1,
            Err(e) => {
                eq!(e, EADDRNOTAVAIL);
                close(c);
                return false;
            }
        }
        close(accept(l));
        close(c);
        done == 40
    });
}

fn states_shown() {
    let (l, at, c, s) = connected();
    let own = port(c);
    say!("{} | {}", shown(at), shown(own));
    ok!(sys!(shutdown, c, SHUT_WR));
    say!("{} | {}", shown(at), shown(own));
    close(s);
    until("TIME_WAIT", || shown(own) == "06-");
    say!("{}", shown(at));
    close(l);
    close(c);
    let text = String::from_utf8_lossy(&crate::sys::get("/proc/net/tcp")).to_string();
    let line = text.lines().find(|l| l.contains(" 06 ")).unwrap_or_default();
    let words: Vec<&str> = line.split_whitespace().collect();
    // Timer, retransmissions, user, timeouts, inode, references.
    check!(words.len() > 10);
    say!("{} {:?}", &words[5][..3], &words[6..11]);
    let text = String::from_utf8_lossy(&crate::sys::get("/proc/net/sockstat")).to_string();
    check!(text.lines().any(|l| l.starts_with("TCP:") && l.contains(" tw 1 ")));
}

fn unread_data_resets() {
    let (l, at, c, s) = connected();
    ok!(send(c, b"unread", 0));
    wait_for(s, POLLIN);
    close(s);
    close(l);
    err!(recv(c, 1, 0), ECONNRESET);
    eq!((shown(at), shown(port(c))), (String::new(), String::new()));
    ok!(rebind(at, false));
}

/// How many of several threads that wait in a call come back, one event after the other.
fn waiters_of_accept() {
    let (l, at) = listener(64);
    let n = 6;
    let done: &std::sync::atomic::AtomicUsize = shared();
    let all = threads(n, move |_| {
        close(accept(l));
        done.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    });
    let mut clients = Vec::new();
    for i in 1..=n {
        let c = tcp();
        ok!(connect(c, A::V4(LO, at)));
        until("one more", || done.load(std::sync::atomic::Ordering::SeqCst) == i);
        clients.push(c);
    }
    for t in all {
        check!(t.join().is_ok());
    }
}

fn waiters_of_bytes() {
    // Each takes one byte of what comes at once: what one leaves is the next one's.
    let (c, s) = pair();
    let n = 6;
    let all = threads(n, move |_| {
        eq!(ok!(recv(s, 1, 0)).len(), 1);
    });
    ms(20);
    ok!(send(c, b"123456", 0));
    for t in all {
        check!(t.join().is_ok());
    }
    // The end is everybody's.
    let all = threads(n, move |_| {
        eq!(ok!(recv(s, 1, 0)).len(), 0);
    });
    ms(20);
    close(c);
    for t in all {
        check!(t.join().is_ok());
    }
    // Datagrams, with a reader that gives up in between.
    let r = udp();
    ok!(bind(r, A::V4(LO, 0)));
    let at = port(r);
    let all = threads(n, move |i| {
        if i == 0 {
            ok!(sys!(recvfrom, r, m(&mut [0u8; 4]), 4, MSG_PEEK, 0, 0));
        }
        eq!(ok!(recv(r, 1, 0)).len(), 1);
    });
    for _ in 0..n {
        ok!(send_to(udp(), b"x", A::V4(LO, at)));
    }
    for t in all {
        check!(t.join().is_ok());
    }
}
