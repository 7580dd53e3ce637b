//! Nothing of its own: this package is its test program, `tests/programs.rs`.

/// Packages of servers and network tools, besides the other programs' root.
pub const SERVERS: &[&str] = &[
    "apt",
    "bind9-dnsutils",
    "curl",
    "iproute2",
    "iputils-ping",
    "netcat-openbsd",
    "nginx-light",
    "nodejs",
    "openssl",
    "postgresql",
    "redis-server",
    "socat",
    "tcpdump",
    "traceroute",
    "wrk",
];
