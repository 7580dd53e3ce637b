//! Pipes without tasks.

use super::*;
use abi::Errno;

fn pair(flags: OpenFlags) -> (Arc<File>, Arc<File>) {
    create(flags, &Credentials::root())
}

fn put(f: &File, data: &[u8]) -> Result<usize> {
    f.ops().write(f, &mut IoBuffer::source(data), 0, false).map(|r| r.0)
}

fn get(f: &File, max: usize) -> Result<Vec<u8>> {
    let mut v = vec![0; max];
    let n = f.ops().read(f, &mut IoBuffer::dest(&mut v), 0)?;
    v.truncate(n);
    Ok(v)
}

#[test]
fn order_and_capacity() {
    let (r, w) = pair(OpenFlags::empty());
    assert_eq!(get(&r, 1), Err(Errno::EAGAIN.into()));
    let data: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
    assert_eq!(put(&w, &data), Ok(65536));
    assert_eq!(put(&w, b"x"), Err(Errno::EAGAIN.into()));
    assert!(!w.ops().poll(&w).contains(PollEvents::OUT));
    // One byte does not free a slot.
    assert_eq!(get(&r, 1), Ok(data[..1].to_vec()));
    assert_eq!(put(&w, b"x"), Err(Errno::EAGAIN.into()));
    assert_eq!(get(&r, 5000), Ok(data[1..5001].to_vec()));
    assert_eq!(put(&w, &data[65536..]), Ok(4096));
    assert_eq!(get(&r, 1 << 20), Ok(data[5001..69632].to_vec()));
    assert_eq!(get(&r, 1), Err(Errno::EAGAIN.into()));
}

#[test]
fn small_writes_merge_and_stay_whole() {
    let (r, w) = pair(OpenFlags::empty());
    for _ in 0..65536 / 16 {
        assert_eq!(put(&w, &[7; 16]), Ok(16));
    }
    assert_eq!(put(&w, &[7; 16]), Err(Errno::EAGAIN.into()));
    assert_eq!(get(&r, 4096 + 8).map(|v| v.len()), Ok(4104));
    assert_eq!(put(&w, &[8; 4097]).map(|n| n == 4096), Ok(true));
    assert_eq!(Pipe::of(&r).map(|p| p.readable()), Some(65536 - 8));
}

#[test]
fn packets() {
    let (r, w) = pair(OpenFlags::DIRECT);
    assert_eq!(put(&w, b"hello"), Ok(5));
    assert_eq!(put(&w, b"world"), Ok(5));
    assert_eq!(get(&r, 3), Ok(b"hel".to_vec()));
    assert_eq!(get(&r, 100), Ok(b"world".to_vec()));
}

#[test]
fn ends_close() {
    let (r, w) = pair(OpenFlags::empty());
    put(&w, b"abc").expect("write");
    drop(w);
    assert_eq!(r.ops().poll(&r), PollEvents::READABLE | PollEvents::HUP);
    assert_eq!(get(&r, 10), Ok(b"abc".to_vec()));
    assert_eq!(get(&r, 10), Ok(vec![]));
    assert_eq!(r.ops().poll(&r), PollEvents::HUP);
    let (r, w) = pair(OpenFlags::empty());
    drop(r);
    assert_eq!(put(&w, b"x"), Err(Errno::EPIPE.into()));
    assert_eq!(w.ops().poll(&w), PollEvents::WRITABLE | PollEvents::ERR);
}

#[test]
fn resize_keeps_data() {
    let (r, w) = pair(OpenFlags::empty());
    let p = Pipe::of(&r).expect("pipe").clone();
    let cred = Credentials::root();
    let data: Vec<u8> = (0..20_000u32).map(|i| (i % 249) as u8).collect();
    put(&w, &data).expect("write");
    assert_eq!(get(&r, 5000), Ok(data[..5000].to_vec()));
    assert_eq!(p.set_capacity(4096, &cred), Err(Errno::EBUSY.into()));
    assert_eq!(p.set_capacity(100_000, &cred), Ok(131_072));
    assert_eq!(get(&r, 50_000), Ok(data[5000..].to_vec()));
    assert_eq!(p.set_capacity(1, &cred), Ok(4096));
    let user = Credentials { effective: CapSet::empty(), ..cred };
    assert_eq!(p.set_capacity(2 << 20, &user), Err(Errno::EPERM.into()));
}

#[test]
fn splice_between_pipes() {
    let (r1, w1) = pair(OpenFlags::empty());
    let (r2, w2) = pair(OpenFlags::empty());
    put(&w1, b"0123456789").expect("write");
    let (p1, p2) = (Pipe::of(&r1).expect("pipe"), Pipe::of(&w2).expect("pipe"));
    assert_eq!(splice::tee(p1, p2, 4), Ok(4));
    assert_eq!(splice::pipe_to_file(p1, &w2, None, 6), Ok((6, 0)));
    assert_eq!(get(&r2, 100), Ok(b"0123012345".to_vec()));
    assert_eq!(get(&r1, 100), Ok(b"6789".to_vec()));
    assert_eq!(splice::file_to_pipe(&r1, None, p2, 1).map_err(|e| e.1), Err(splice::Blocked::Input));
    drop(r2);
    put(&w1, b"abc").expect("write");
    assert_eq!(splice::pipe_to_file(p1, &w2, None, 6).map_err(|e| e.0), Err(Errno::EPIPE.into()));
    assert_eq!(get(&r1, 100), Ok(b"abc".to_vec()));
}
