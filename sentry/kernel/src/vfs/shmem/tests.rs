use super::*;

fn file(quota: u64) -> (Arc<MemoryPool>, Arc<ShmFile>) {
    let pool = Arc::new(MemoryPool::new(1 << 30).expect("pool"));
    let f = ShmFile::new(&pool, Some(Arc::new(Quota::new(quota))));
    (pool, f)
}

fn write(f: &ShmFile, at: u64, b: &[u8]) -> Result<usize> {
    Ok(f.write(&mut IoBuffer::source(b), at, false)?.0)
}

fn read(f: &ShmFile, at: u64, n: usize) -> Vec<u8> {
    let mut v = vec![9; n];
    let n = f.read(&mut IoBuffer::dest(&mut v), at).expect("read");
    v.truncate(n);
    v
}

#[test]
fn sparse_data() {
    let (_pool, f) = file(1000);
    assert_eq!(write(&f, 5000, b"hello"), Ok(5));
    assert_eq!(f.size(), 5005);
    assert_eq!(read(&f, 4998, 100), b"\0\0hello");
    assert_eq!(write(&f, 10 << 20, b"x"), Ok(1));
    assert_eq!(f.blocks(), 16);
    assert_eq!(f.seek_data(0, true), Ok(4096));
    assert_eq!(f.seek_data(4096, false), Ok(8192));
    assert_eq!(f.seek_data(8192, true), Ok(10 << 20));
    assert_eq!(f.seek_data(10 << 20, false), Ok((10 << 20) + 1));
    assert_eq!(read(&f, (10 << 20) - 3, 10), b"\0\0\0x");
    assert_eq!(f.write(&mut IoBuffer::source(b"end"), 0, true), Ok((3, (10 << 20) + 4)));
}

#[test]
fn truncation_zeroes_and_frees() {
    let (pool, f) = file(1000);
    let big: Vec<u8> = (0..200_000u32).map(|i| i as u8 | 1).collect();
    assert_eq!(write(&f, 0, &big), Ok(200_000));
    assert_eq!(read(&f, 0, 200_000), big);
    f.set_size(5000).expect("truncate");
    f.set_size(100_000).expect("extend");
    let back = read(&f, 0, 100_000);
    assert_eq!(back[..5000], big[..5000]);
    assert!(back[5000..].iter().all(|&b| b == 0));
    assert_eq!(f.blocks(), 16);
    drop(f);
    assert!(pool.extents().is_empty());
}

#[test]
fn quota_is_kept() {
    let (_pool, f) = file(4);
    assert_eq!(write(&f, 0, &[1; 40_000]), Ok(16_384));
    assert!(write(&f, 20_000, b"x").is_err());
    f.fallocate(3, 4096, 8192).expect("punch");
    assert_eq!(read(&f, 4090, 10), [1, 1, 1, 1, 1, 1, 0, 0, 0, 0]);
    assert_eq!(write(&f, 20_000, b"x"), Ok(1));
    assert!(f.fallocate(0, 0, 100_000).is_err());
    f.fallocate(1, 4096, 4096).expect("one page is left");
    assert_eq!(f.size(), 20_001);
}

#[test]
fn mapped_pages_stay() {
    let (pool, f) = file(u64::MAX);
    f.set_size(1 << 20).expect("size");
    f.mapped(1, true);
    let m = f.pages(8192, 1 << 20, true).expect("pages");
    assert_eq!(m.len, (1 << 20) - 8192);
    pool.file().copy_out(m.offset, b"through the mapping").expect("write");
    assert_eq!(read(&f, 8192, 7), b"through");
    assert_eq!(f.seek_data(0, true), Ok(8192));
    f.set_size(0).expect("truncate");
    let mut b = [1; 7];
    pool.file().copy_in(m.offset, &mut b).expect("read");
    assert_eq!(b, [0; 7]);
    assert!(!pool.extents().is_empty());
    assert!(f.pages(0, 4096, false).is_err());
    f.mapped(-1, true);
    assert!(pool.extents().is_empty());
}

#[test]
fn seals() {
    let (_pool, f) = file(u64::MAX);
    assert!(f.add_seals(Seals::GROW).is_err());
    f.allow_sealing(Seals::empty());
    write(&f, 0, b"abc").expect("write");
    f.add_seals(Seals::GROW | Seals::SHRINK).expect("seal");
    assert!(write(&f, 3, b"d").is_err());
    assert!(f.set_size(1).is_err());
    assert_eq!(write(&f, 0, b"x"), Ok(1));
    f.mapped(1, true);
    assert!(f.add_seals(Seals::WRITE).is_err());
    f.mapped(-1, true);
    f.add_seals(Seals::WRITE).expect("seal");
    assert!(write(&f, 0, b"x").is_err() && f.check_shared_write().is_err());
}
