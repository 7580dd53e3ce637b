//! What a container of a pod says to another one, through everything that a pod shares.
//!
//! `pod-peer serve` makes a System V segment and semaphore, a POSIX message queue, and sockets on loopback, under an abstract name and in
//! the directory `/shared`, a FIFO, a locked file and a futex there, and waits. `pod-peer ask WHAT` finds one of them, and prints
//! `WHAT: yes`, or why not. `pod-peer listen ADDRESS` answers each line that comes over TCP with `hello` before it.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Error, Read, Result, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::Duration;

const KEY: i32 = 0x7060_5040;
const PORT: u16 = 4321;
const WORD: &[u8; 4] = b"word";
const QUEUE: &str = "/pod";

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match (args.get(1).map(String::as_str), args.get(2)) {
        (Some("serve"), None) => serve().expect("serve"),
        (Some("ask"), Some(what)) => match ask(what) {
            Ok(()) => println!("{what}: yes"),
            Err(error) => println!("{what}: {error}"),
        },
        (Some("listen"), Some(address)) => listen(address).expect("listen"),
        _ => panic!("pod-peer serve, pod-peer ask WHAT, or pod-peer listen ADDRESS"),
    }
}

/// Serves connections, each in a thread of its own.
fn listen(address: &str) -> Result<()> {
    let listener = TcpListener::bind(address)?;
    println!("ready");
    loop {
        let (mut stream, _) = listener.accept()?;
        std::thread::spawn(move || -> Result<()> {
            for line in BufReader::new(stream.try_clone()?).lines() {
                stream.write_all(format!("hello {}\n", line?).as_bytes())?;
            }
            stream.write_all(b"bye\n")
        });
    }
}

/// The result of a call, or its error.
fn check(result: i64) -> Result<i64> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}

fn abstract_name() -> SocketAddr {
    SocketAddr::from_abstract_name(b"pod-peer").expect("a name")
}

fn segment(flags: i32) -> Result<*mut u8> {
    // SAFETY: numbers only.
    let id = check(unsafe { libc::shmget(KEY, 4096, flags) }.into())?;
    // SAFETY: a new mapping, wherever there is room.
    let at = unsafe { libc::shmat(id as i32, std::ptr::null(), 0) };
    check(at as i64)?;
    Ok(at.cast())
}

fn queue(flags: i32) -> Result<i32> {
    let name = CString::new(QUEUE)?;
    // SAFETY: a name with a zero byte at its end; no attributes.
    check(unsafe { libc::mq_open(name.as_ptr(), flags, 0o600, std::ptr::null::<libc::mq_attr>()) }.into()).map(|fd| fd as i32)
}

/// A page of a file that processes share.
fn page(file: &File) -> Result<*mut u32> {
    // SAFETY: a new mapping, wherever there is room.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    check(at as i64)?;
    Ok(at.cast())
}

fn lock(file: &File) -> Result<i64> {
    // SAFETY: all zero bytes are a valid flock; it is the whole file then.
    let mut whole: libc::flock = unsafe { std::mem::zeroed() };
    whole.l_type = libc::F_WRLCK as i16;
    // SAFETY: reads an initialized structure.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw const whole) }.into())
}

fn serve() -> Result<()> {
    let at = segment(libc::IPC_CREAT | 0o600)?;
    // SAFETY: the segment is a page long.
    unsafe { std::ptr::copy_nonoverlapping(WORD.as_ptr(), at, WORD.len()) };
    // SAFETY: numbers only.
    let semaphore = check(unsafe { libc::semget(KEY, 1, libc::IPC_CREAT | 0o600) }.into())?;
    // SAFETY: numbers only.
    check(unsafe { libc::semctl(semaphore as i32, 0, libc::SETVAL, 3) }.into())?;
    let messages = queue(libc::O_CREAT | libc::O_RDWR)?;
    for _ in 0..4 {
        // SAFETY: the message is as long as is said.
        check(unsafe { libc::mq_send(messages, WORD.as_ptr().cast(), WORD.len(), 0) }.into())?;
    }
    let tcp = TcpListener::bind(("127.0.0.1", PORT))?;
    std::thread::spawn(move || tcp.incoming().flatten().for_each(|mut peer| drop(peer.write_all(WORD))));
    let named = UnixListener::bind_addr(&abstract_name())?;
    std::thread::spawn(move || named.incoming().flatten().for_each(|mut peer| drop(peer.write_all(WORD))));
    // What an attempt before this one has left.
    for name in ["socket", "fifo"] {
        let _ = std::fs::remove_file(format!("/shared/{name}"));
    }
    let path = UnixListener::bind("/shared/socket")?;
    std::thread::spawn(move || path.incoming().flatten().for_each(|mut peer| drop(peer.write_all(WORD))));
    let fifo = CString::new("/shared/fifo")?;
    // SAFETY: a name with a zero byte at its end.
    check(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }.into())?;
    std::thread::spawn(|| {
        loop {
            // Waits for a reader.
            let done = OpenOptions::new().write(true).open("/shared/fifo").and_then(|mut fifo| fifo.write_all(WORD));
            done.expect("the FIFO");
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let locked = File::create("/shared/locked")?;
    lock(&locked)?;
    let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open("/shared/futex")?;
    file.set_len(4096)?;
    let word = page(&file)? as usize;
    std::thread::spawn(move || {
        let word = word as *mut u32;
        loop {
            // SAFETY: the page stays mapped; the call only waits.
            unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAIT, 0, std::ptr::null::<libc::timespec>()) };
        }
    });
    println!("ready");
    loop {
        std::thread::park();
    }
}

fn expect(mut from: impl Read) -> Result<()> {
    let mut word = [0; 4];
    from.read_exact(&mut word)?;
    if word == *WORD { Ok(()) } else { Err(Error::other(format!("{word:?}"))) }
}

fn ask(what: &str) -> Result<()> {
    match what {
        "shm" => {
            let at = segment(0o600)?;
            // SAFETY: the segment is a page long.
            expect(unsafe { std::slice::from_raw_parts(at, WORD.len()) })
        }
        "sem" => {
            // SAFETY: numbers only.
            let id = check(unsafe { libc::semget(KEY, 1, 0) }.into())?;
            // SAFETY: numbers only.
            let value = check(unsafe { libc::semctl(id as i32, 0, libc::GETVAL) }.into())?;
            if value == 3 { Ok(()) } else { Err(Error::other(format!("value {value}"))) }
        }
        "mq" => {
            let messages = queue(libc::O_RDWR)?;
            let mut word = [0u8; 8192];
            // SAFETY: the buffer is as long as is said.
            let count = check(unsafe { libc::mq_receive(messages, word.as_mut_ptr().cast(), word.len(), std::ptr::null_mut()) } as i64)?;
            expect(word.get(..count as usize).unwrap_or_default())
        }
        "tcp" => expect(TcpStream::connect(("127.0.0.1", PORT))?),
        "abstract" => expect(UnixStream::connect_addr(&abstract_name())?),
        "socket" => expect(UnixStream::connect("/shared/socket")?),
        "fifo" => expect(File::open("/shared/fifo")?),
        "lock" => match lock(&OpenOptions::new().write(true).open("/shared/locked")?) {
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Ok(()),
            other => Err(Error::other(format!("it is not locked: {other:?}"))),
        },
        "futex" => {
            let file = OpenOptions::new().read(true).write(true).open("/shared/futex")?;
            let word = page(&file)?;
            for _ in 0..500 {
                // SAFETY: the page stays mapped; the call only wakes.
                let woken = check(unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAKE, 1) })?;
                if woken == 1 {
                    return Ok(());
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(Error::other("nobody waits"))
        }
        "peer" => {
            let stream = UnixStream::connect_addr(&abstract_name())?;
            // SAFETY: all zero bytes are a valid ucred.
            let mut cred: libc::ucred = unsafe { std::mem::zeroed() };
            let mut len = size_of::<libc::ucred>() as libc::socklen_t;
            // SAFETY: writes at most `len` bytes, which there are.
            check(unsafe {
                libc::getsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut cred).cast(), &raw mut len).into()
            })?;
            // A process of another pid namespace has no number.
            if cred.pid == 0 { Ok(()) } else { Err(Error::other(format!("process {}", cred.pid))) }
        }
        other => Err(Error::other(format!("what is {other}?"))),
    }
}
