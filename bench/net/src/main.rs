//! Both ends of what no common program measures.
//!
//! * `serve`: answers each byte on port 7001, keeps every connection on port 7002, and ends with its standard input.
//! * `latency NAME ADDRESS COUNT`: so many times one byte there and back, one after another; prints `NAME microseconds us`.
//! * `short NAME ADDRESS COUNT`: so many connections one after another, each with a byte there and back; prints `NAME rate conn/s`.
//! * `idle ADDRESS COUNT`: opens so many connections, says so, and keeps them until its standard input ends.

use std::io::{Error, Read, Result, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

const ECHO: u16 = 7001;
const KEEP: u16 = 7002;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let number = |n: &str| n.parse::<u32>().map_err(Error::other);
    match words.as_slice() {
        ["serve"] => serve(),
        ["latency", name, address, count] => latency(name, address, number(count)?),
        ["short", name, address, count] => short(name, address, number(count)?),
        ["idle", address, count] => idle(address, number(count)?),
        _ => Err(Error::other("serve | latency NAME ADDRESS COUNT | short NAME ADDRESS COUNT | idle ADDRESS COUNT")),
    }
}

fn until_stdin_ends() -> Result<()> {
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).map(drop)
}

fn echo(mut c: TcpStream) -> Result<()> {
    c.set_nodelay(true)?;
    let mut b = [0; 64];
    loop {
        let n = c.read(&mut b)?;
        if n == 0 {
            return Ok(());
        }
        c.write_all(b.get(..n).unwrap_or_default())?;
    }
}

fn serve() -> Result<()> {
    let (echoing, keeping) = (TcpListener::bind(("0.0.0.0", ECHO))?, TcpListener::bind(("0.0.0.0", KEEP))?);
    std::thread::spawn(move || {
        for c in echoing.incoming().flatten() {
            // A peer that goes away is no error of ours.
            std::thread::spawn(move || echo(c));
        }
    });
    std::thread::spawn(move || keeping.incoming().flatten().collect::<Vec<_>>());
    println!("ready");
    until_stdin_ends()
}

/// Connects, waiting for the server to be there.
fn connect(address: &str, port: u16) -> Result<TcpStream> {
    let to = SocketAddr::new(address.parse().map_err(Error::other)?, port);
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match TcpStream::connect_timeout(&to, Duration::from_secs(5)) {
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            other => return other,
        }
    }
}

fn there_and_back(c: &mut TcpStream) -> Result<()> {
    c.write_all(b"x")?;
    c.read_exact(&mut [0])
}

fn latency(name: &str, address: &str, count: u32) -> Result<()> {
    let mut c = connect(address, ECHO)?;
    c.set_nodelay(true)?;
    for _ in 0..count / 20 {
        there_and_back(&mut c)?;
    }
    let start = Instant::now();
    for _ in 0..count {
        there_and_back(&mut c)?;
    }
    println!("{name} {:.1} us", start.elapsed().as_secs_f64() * 1e6 / f64::from(count));
    Ok(())
}

fn short(name: &str, address: &str, count: u32) -> Result<()> {
    drop(connect(address, ECHO)?);
    let start = Instant::now();
    for _ in 0..count {
        there_and_back(&mut connect(address, ECHO)?)?;
    }
    println!("{name} {:.0} conn/s", f64::from(count) / start.elapsed().as_secs_f64());
    Ok(())
}

fn idle(address: &str, count: u32) -> Result<()> {
    let all = (0..count).map(|_| connect(address, KEEP)).collect::<Result<Vec<_>>>()?;
    println!("ready");
    until_stdin_ends()?;
    drop(all);
    Ok(())
}
