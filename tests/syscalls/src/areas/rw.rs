//! Reading, writing, seeking, truncating, and moving bytes between descriptors.

use crate::sys::*;
use crate::{check, eq, err, list, ok, say, sys};

pub const TESTS: &[crate::Test] = list!["rw";
    basic, positional, vectors, bad_memory, lseek_whence, seek_data_hole, truncate_calls, sparse, fallocate_modes, sendfile_calls,
    copy_file_range_calls, splice_calls, tee_calls, vmsplice_calls, fsize_limit, fsync_calls, readahead_advise, preadv2_flags, big_file, zero_length,
    partial_fault,
];

fn basic() {
    let f = ok!(open(c"a", O_CREAT | O_RDWR));
    eq!(ok!(write(f, b"hello world")), 11);
    eq!(ok!(read(f, 5)), b"");
    ok!(sys!(lseek, f, 6, SEEK_SET));
    eq!(ok!(read(f, 100)), b"world");
    ok!(sys!(lseek, f, 20, SEEK_SET));
    eq!(ok!(read(f, 5)), b"");
    ok!(write(f, b"!"));
    eq!(fstat(f).st_size, 21);
    eq!(get("a")[11..20], [0u8; 9]);
    let mut n = 0i32;
    ok!(sys!(lseek, f, 1, SEEK_SET));
    ok!(sys!(ioctl, f, FIONREAD, m(&mut n)));
    eq!(n, 20);
}

fn positional() {
    put("a", b"0123456789");
    let f = ok!(open(c"a", O_RDWR));
    let mut b = [0u8; 4];
    eq!(ok!(sys!(pread64, f, m(&mut b), 4, 3)), 4);
    eq!(&b, b"3456");
    eq!(ok!(sys!(pread64, f, m(&mut b), 4, 8)), 2);
    eq!(ok!(sys!(pread64, f, m(&mut b), 4, 100)), 0);
    err!(sys!(pread64, f, m(&mut b), 4, -1), EINVAL);
    err!(sys!(pwrite64, f, m(&mut b), 4, -1), EINVAL);
    eq!(ok!(sys!(pwrite64, f, b"AB".as_ptr(), 2, 9)), 2);
    eq!(get("a"), b"012345678AB");
    eq!(ok!(sys!(lseek, f, 0, SEEK_CUR)), 0);
    let (r, w) = pipe(0);
    err!(sys!(pread64, r, m(&mut b), 4, 0), ESPIPE);
    err!(sys!(pwrite64, w, m(&mut b), 4, 0), ESPIPE);
    err!(sys!(pwrite64, f, m(&mut b), 4, i64::MAX), EINVAL);
}

fn iov(parts: &[&[u8]]) -> Vec<iovec> {
    parts.iter().map(|b| iovec { iov_base: b.as_ptr() as *mut c_void, iov_len: b.len() }).collect()
}

fn vectors() {
    let f = ok!(open(c"a", O_CREAT | O_RDWR));
    let v = iov(&[b"ab", b"", b"cdef", b"g"]);
    eq!(ok!(sys!(writev, f, v.as_ptr(), 4)), 7);
    eq!(get("a"), b"abcdefg");
    let (x, y) = ([0u8; 3], [0u8; 9]);
    let v = iov(&[&x, &y]);
    eq!(ok!(sys!(preadv, f, v.as_ptr(), 2, 1, 0)), 6);
    eq!(unsafe { std::ptr::read_volatile(&x) }, *b"bcd");
    eq!(unsafe { std::ptr::read_volatile(&y[..3] as *const [u8] as *const [u8; 3]) }, *b"efg");
    eq!(ok!(sys!(pwritev, f, v.as_ptr(), 1, 7, 0)), 3);
    eq!(get("a"), b"abcdefgbcd");
    err!(sys!(readv, f, v.as_ptr(), -1), EINVAL);
    err!(sys!(readv, f, v.as_ptr(), 1025), EINVAL);
    eq!(ok!(sys!(readv, f, v.as_ptr(), 0)), 0);
    err!(sys!(readv, f, 8, 1), EFAULT);
    let bad = [iovec { iov_base: x.as_ptr() as *mut c_void, iov_len: usize::MAX }];
    err!(sys!(readv, f, bad.as_ptr(), 1), EINVAL);
    let many = vec![v[0]; 1024];
    eq!(ok!(sys!(writev, f, many.as_ptr(), 1024)), 3072);
}

fn bad_memory() {
    put("a", b"0123456789");
    let f = ok!(open(c"a", O_RDWR));
    err!(sys!(read, f, 8, 4), EFAULT);
    err!(sys!(write, f, 8, 4), EFAULT);
    err!(sys!(read, f, -4096, 4), EFAULT);
    eq!(ok!(sys!(lseek, f, 0, SEEK_CUR)), 0);
    let ro = ok!(sys!(mmap, 0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    err!(sys!(read, f, ro, 4), EFAULT);
    eq!(ok!(sys!(write, f, ro, 4)), 4);
    let none = ok!(sys!(mmap, 0, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    err!(sys!(write, f, none, 4), EFAULT);
    err!(sys!(newfstatat, AT_FDCWD, c"a", none, 0), EFAULT);
    err!(sys!(newfstatat, AT_FDCWD, none, none, 0), EFAULT);
    err!(sys!(pipe2, 0, 0), EFAULT);
    err!(sys!(read, f, -1, -1), EFAULT);
}

fn partial_fault() {
    // the first page is there, the second is not
    let base = anon(8192, MAP_PRIVATE) as i64;
    ok!(sys!(munmap, base + 4096, 4096));
    put("a", &[7u8; 8192]);
    let f = ok!(open(c"a", O_RDWR));
    eq!(ok!(sys!(read, f, base + 4000, 4000)), 96);
    eq!(ok!(sys!(pwrite64, f, base + 4000, 4000, 0)), 96);
    let (r, w) = pipe(0);
    ok!(write(w, &[1u8; 100]));
    say!("{:?}", sys!(write, w, base + 4000, 4000));
    say!("{:?}", sys!(read, r, base, 4096));
}

fn zero_length() {
    put("a", b"abc");
    let f = ok!(open(c"a", O_RDWR));
    eq!(ok!(sys!(read, f, 0, 0)), 0);
    eq!(ok!(sys!(write, f, 0, 0)), 0);
    let (r, w) = pipe(O_NONBLOCK);
    eq!(ok!(sys!(read, r, 0, 0)), 0);
    eq!(ok!(sys!(write, w, 0, 0)), 0);
    close(r);
    eq!(ok!(sys!(write, w, 0, 0)), 0);
}

fn lseek_whence() {
    put("a", b"0123456789");
    let f = ok!(open(c"a", O_RDWR));
    eq!(ok!(sys!(lseek, f, 4, SEEK_SET)), 4);
    eq!(ok!(sys!(lseek, f, -2, SEEK_CUR)), 2);
    eq!(ok!(sys!(lseek, f, -1, SEEK_END)), 9);
    eq!(ok!(sys!(lseek, f, 100, SEEK_END)), 110);
    err!(sys!(lseek, f, -1, SEEK_SET), EINVAL);
    err!(sys!(lseek, f, -200, SEEK_CUR), EINVAL);
    err!(sys!(lseek, f, 0, 9), EINVAL);
    err!(sys!(lseek, f, i64::MAX, SEEK_CUR), EINVAL);
    eq!(ok!(sys!(lseek, f, 0, SEEK_CUR)), 110);
    err!(sys!(lseek, 99, 0, SEEK_SET), EBADF);
    let (r, _w) = pipe(0);
    err!(sys!(lseek, r, 0, SEEK_CUR), ESPIPE);
}

fn seek_data_hole() {
    let f = ok!(open(c"a", O_CREAT | O_RDWR));
    ok!(sys!(ftruncate, f, 1 << 20));
    ok!(sys!(pwrite64, f, b"x".as_ptr(), 1, 512 << 10));
    eq!(ok!(sys!(lseek, f, 0, SEEK_HOLE)), 0);
    eq!(ok!(sys!(lseek, f, 0, SEEK_DATA)), 512 << 10);
    check!(ok!(sys!(lseek, f, 512 << 10, SEEK_HOLE)) >= (512 << 10) + 4096);
    err!(sys!(lseek, f, 1 << 20, SEEK_DATA), ENXIO);
    err!(sys!(lseek, f, 2 << 20, SEEK_HOLE), ENXIO);
    err!(sys!(lseek, f, 900 << 10, SEEK_DATA), ENXIO);
    eq!(ok!(sys!(lseek, f, 900 << 10, SEEK_HOLE)), 900 << 10);
    put("b", &[1; 5000]);
    let g = ok!(open(c"b", O_RDONLY));
    eq!(ok!(sys!(lseek, g, 0, SEEK_HOLE)), 5000);
    eq!(ok!(sys!(lseek, g, 4999, SEEK_DATA)), 4999);
}

fn truncate_calls() {
    put("a", b"0123456789");
    ok!(sys!(truncate, c"a", 4));
    eq!(get("a"), b"0123");
    ok!(sys!(truncate, c"a", 6));
    eq!(get("a"), b"0123\0\0");
    err!(sys!(truncate, c"a", -1), EINVAL);
    err!(sys!(truncate, c"none", 1), ENOENT);
    err!(sys!(truncate, c".", 1), EISDIR);
    err!(sys!(truncate, c"a/b", 1), ENOTDIR);
    let f = ok!(open(c"a", O_RDWR));
    ok!(sys!(ftruncate, f, 8192));
    ok!(sys!(pwrite64, f, b"end".as_ptr(), 3, 8000));
    ok!(sys!(ftruncate, f, 4100));
    ok!(sys!(ftruncate, f, 8192));
    eq!(get("a")[4100..], [0u8; 4092]);
    err!(sys!(ftruncate, f, -1), EINVAL);
    let (r, w) = pipe(0);
    err!(sys!(ftruncate, w, 0), EINVAL);
    err!(sys!(ftruncate, r, 0), EINVAL);
    err!(sys!(ftruncate, 99, 0), EBADF);
}

fn sparse() {
    let f = ok!(open(c"a", O_CREAT | O_RDWR));
    ok!(sys!(pwrite64, f, b"x".as_ptr(), 1, 1i64 << 40));
    let st = fstat(f);
    eq!(st.st_size, (1 << 40) + 1);
    check!(st.st_blocks < 1000);
    let mut b = [9u8; 4];
    eq!(ok!(sys!(pread64, f, m(&mut b), 4, (1i64 << 40) - 3)), 4);
    eq!(b, [0, 0, 0, b'x']);
    eq!(ok!(sys!(pread64, f, m(&mut b), 4, 1i64 << 39)), 4);
    eq!(b, [0; 4]);
}

fn fallocate_modes() {
    let f = ok!(open(c"a", O_CREAT | O_RDWR));
    ok!(sys!(fallocate, f, 0, 0, 10000));
    eq!(fstat(f).st_size, 10000);
    check!(fstat(f).st_blocks >= 20);
    ok!(sys!(fallocate, f, FALLOC_FL_KEEP_SIZE, 0, 100_000));
    eq!(fstat(f).st_size, 10000);
    ok!(sys!(pwrite64, f, [1u8; 10000].as_ptr(), 10000, 0));
    ok!(sys!(fallocate, f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 1000, 5000));
    let b = get("a");
    eq!((b[999], b[1000], b[5999], b[6000]), (1, 0, 0, 1));
    eq!(b.len(), 10000);
    err!(sys!(fallocate, f, FALLOC_FL_PUNCH_HOLE, 0, 10), EOPNOTSUPP);
    err!(sys!(fallocate, f, 0, -1, 10), EINVAL);
    err!(sys!(fallocate, f, 0, 0, 0), EINVAL);
    err!(sys!(fallocate, f, 0, i64::MAX - 5, 10), EFBIG);
    let r = ok!(open(c"a", O_RDONLY));
    err!(sys!(fallocate, r, 0, 0, 10), EBADF);
    let (_r, w) = pipe(0);
    err!(sys!(fallocate, w, 0, 0, 10), ESPIPE);
    let d = ok!(open(c"/dev/null", O_RDWR));
    err!(sys!(fallocate, d, 0, 0, 10), ENODEV);
}

fn sendfile_calls() {
    put("a", b"0123456789");
    let i = ok!(open(c"a", O_RDONLY));
    let o = ok!(open(c"b", O_CREAT | O_RDWR));
    eq!(ok!(sys!(sendfile, o, i, 0, 4)), 4);
    eq!(ok!(sys!(lseek, i, 0, SEEK_CUR)), 4);
    let mut off = 7i64;
    eq!(ok!(sys!(sendfile, o, i, m(&mut off), 100)), 3);
    eq!(off, 10);
    eq!(ok!(sys!(lseek, i, 0, SEEK_CUR)), 4);
    eq!(get("b"), b"0123789");
    let (r, w) = pipe(0);
    eq!(ok!(sys!(sendfile, w, i, 0, 100)), 6);
    eq!(ok!(read(r, 100)), b"456789");
    eq!(ok!(sys!(sendfile, w, i, 0, 100)), 0);
    off = -1;
    err!(sys!(sendfile, w, i, m(&mut off), 1), EINVAL);
    err!(sys!(sendfile, i, o, 0, 1), EBADF);
    err!(sys!(sendfile, 99, i, 0, 1), EBADF);
    let app = ok!(open(c"b", O_WRONLY | O_APPEND));
    err!(sys!(sendfile, app, i, 0, 1), EINVAL);
}

fn copy_file_range_calls() {
    put("a", b"0123456789");
    let i = ok!(open(c"a", O_RDONLY));
    let o = ok!(open(c"b", O_CREAT | O_RDWR));
    let (mut x, mut y) = (2i64, 5i64);
    eq!(ok!(sys!(copy_file_range, i, m(&mut x), o, m(&mut y), 4, 0)), 4);
    eq!((x, y), (6, 9));
    eq!(get("b"), b"\0\0\0\0\02345");
    eq!(ok!(sys!(copy_file_range, i, 0, o, 0, 100, 0)), 10);
    eq!(ok!(sys!(copy_file_range, i, 0, o, 0, 100, 0)), 0);
    eq!(get("b"), b"0123456789");
    err!(sys!(copy_file_range, i, 0, o, 0, 100, 1), EINVAL);
    err!(sys!(copy_file_range, o, 0, i, 0, 100, 0), EBADF);
    let (r, _w) = pipe(0);
    err!(sys!(copy_file_range, r, 0, o, 0, 100, 0), EINVAL);
    let d = ok!(open(c".", O_RDONLY));
    err!(sys!(copy_file_range, d, 0, o, 0, 100, 0), EISDIR);
    let rw = ok!(open(c"a", O_RDWR));
    let (mut x, mut y) = (0i64, 2i64);
    err!(sys!(copy_file_range, rw, m(&mut x), rw, m(&mut y), 5, 0), EINVAL);
    let app = ok!(open(c"b", O_WRONLY | O_APPEND));
    err!(sys!(copy_file_range, i, 0, app, 0, 1, 0), EBADF);
}

fn splice_calls() {
    put("a", b"0123456789");
    let i = ok!(open(c"a", O_RDONLY));
    let (r, w) = pipe(0);
    eq!(ok!(sys!(splice, i, 0, w, 0, 4, 0)), 4);
    let mut off = 8i64;
    eq!(ok!(sys!(splice, i, m(&mut off), w, 0, 100, 0)), 2);
    eq!(off, 10);
    let o = ok!(open(c"b", O_CREAT | O_RDWR));
    let mut at = 3i64;
    eq!(ok!(sys!(splice, r, 0, o, m(&mut at), 100, 0)), 6);
    eq!((at, get("b")), (9, b"\0\0\0012389".to_vec()));
    let (r2, w2) = pipe(0);
    ok!(write(w, b"pipe to pipe"));
    eq!(ok!(sys!(splice, r, 0, w2, 0, 4, 0)), 4);
    eq!(ok!(read(r2, 99)), b"pipe");
    eq!(ok!(read(r, 99)), b" to pipe");
    err!(sys!(splice, i, 0, o, 0, 4, 0), EINVAL);
    err!(sys!(splice, r, m(&mut off), o, 0, 4, 0), ESPIPE);
    err!(sys!(splice, r, 0, w, 0, 4, 0), EINVAL);
    err!(sys!(splice, r, 0, w2, 0, 4, SPLICE_F_NONBLOCK), EAGAIN);
    err!(sys!(splice, r, 0, w2, 0, 4, 0x100), EINVAL);
    close(w);
    eq!(ok!(sys!(splice, r, 0, w2, 0, 4, 0)), 0);
}

fn tee_calls() {
    let (r, w) = pipe(0);
    let (r2, w2) = pipe(0);
    ok!(write(w, b"both"));
    eq!(ok!(sys!(tee, r, w2, 100, 0)), 4);
    eq!(ok!(read(r, 99)), b"both");
    eq!(ok!(read(r2, 99)), b"both");
    err!(sys!(tee, r, w2, 100, SPLICE_F_NONBLOCK), EAGAIN);
    put("a", b"");
    let f = ok!(open(c"a", O_RDWR));
    err!(sys!(tee, r, f, 100, 0), EINVAL);
    err!(sys!(tee, r, w, 100, 0), EINVAL);
}

fn vmsplice_calls() {
    let (r, w) = pipe(0);
    let v = iov(&[b"ab", b"cde"]);
    eq!(ok!(sys!(vmsplice, w, v.as_ptr(), 2, 0)), 5);
    eq!(ok!(read(r, 99)), b"abcde");
    put("a", b"");
    let f = ok!(open(c"a", O_RDWR));
    err!(sys!(vmsplice, f, v.as_ptr(), 2, 0), EBADF);
}

fn fsize_limit() {
    let lim = rlimit { rlim_cur: 5000, rlim_max: 5000 };
    let f = ok!(open(c"a", O_CREAT | O_RDWR));
    in_child(|| {
        action(SIGXFSZ, SIG_IGN);
        ok!(sys!(setrlimit, RLIMIT_FSIZE, p(&lim)));
        eq!(ok!(write(f, &[1; 4000])), 4000);
        eq!(ok!(write(f, &[1; 4000])), 1000);
        err!(write(f, &[1; 1]), EFBIG);
        err!(sys!(ftruncate, f, 5001), EFBIG);
        ok!(sys!(ftruncate, f, 5000));
        err!(sys!(fallocate, f, 0, 0, 6000), EFBIG);
    });
    let status = wait(fork(|| {
        ok!(sys!(setrlimit, RLIMIT_FSIZE, p(&lim)));
        let _ = sys!(pwrite64, f, b"x".as_ptr(), 1, 6000);
    }));
    say!("{}", show_status(status));
}

fn fsync_calls() {
    put("a", b"");
    let f = ok!(open(c"a", O_RDONLY));
    ok!(sys!(fsync, f));
    ok!(sys!(fdatasync, f));
    ok!(sys!(syncfs, f));
    let (r, _w) = pipe(0);
    err!(sys!(fsync, r), EINVAL);
    err!(sys!(fsync, 99), EBADF);
    let d = ok!(open(c".", O_RDONLY));
    ok!(sys!(fsync, d));
    ok!(sys!(sync_file_range, f, 0, 0, 2));
    err!(sys!(sync_file_range, f, -1, 0, 0), EINVAL);
    ok!(sys!(sync));
}

fn readahead_advise() {
    put("a", b"abc");
    let f = ok!(open(c"a", O_RDONLY));
    for advice in 0..6 {
        ok!(sys!(fadvise64, f, 0, 0, advice));
    }
    err!(sys!(fadvise64, f, 0, 0, 99), EINVAL);
    err!(sys!(fadvise64, 99, 0, 0, 0), EBADF);
    let (r, _w) = pipe(0);
    err!(sys!(fadvise64, r, 0, 0, 0), ESPIPE);
}

fn preadv2_flags() {
    put("a", b"0123456789");
    let f = ok!(open(c"a", O_RDWR));
    let b = [0u8; 4];
    let v = iov(&[&b]);
    eq!(ok!(sys!(preadv2, f, v.as_ptr(), 1, 2, 0, 0)), 4);
    eq!(unsafe { std::ptr::read_volatile(&b) }, *b"2345");
    eq!(ok!(sys!(preadv2, f, v.as_ptr(), 1, -1, -1, 0)), 4);
    eq!(ok!(sys!(lseek, f, 0, SEEK_CUR)), 4);
    eq!(ok!(sys!(pwritev2, f, v.as_ptr(), 1, 0, 0, RWF_APPEND)), 4);
    eq!(get("a"), b"01234567890123");
    err!(sys!(preadv2, f, v.as_ptr(), 1, 0, 0, 1 << 20), EOPNOTSUPP);
    eq!(ok!(sys!(pwritev2, f, v.as_ptr(), 1, 0, 0, RWF_DSYNC)), 4);
}

fn big_file() {
    // 24 MiB in odd pieces, read back in other pieces
    let f = ok!(open(c"a", O_CREAT | O_RDWR));
    let piece: Vec<u8> = (0..70_001u32).map(|i| (i % 251) as u8).collect();
    let mut total = 0usize;
    while total < 24 << 20 {
        eq!(ok!(write(f, &piece)), piece.len() as i64);
        total += piece.len();
    }
    eq!(fstat(f).st_size, total as i64);
    ok!(sys!(lseek, f, 0, SEEK_SET));
    let (mut seen, mut sum) = (0usize, 0u64);
    loop {
        let b = ok!(read(f, 123_457));
        if b.is_empty() {
            break;
        }
        for x in &b {
            sum = sum.wrapping_mul(31).wrapping_add(u64::from(*x));
        }
        seen += b.len();
    }
    eq!(seen, total);
    say!("{sum:x}");
}
