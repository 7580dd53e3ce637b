//! inotify.

use crate::sys::*;
use crate::{check, eq, err, list, ok, say, sys};

pub const TESTS: &[crate::Test] = list!["notify";
    directory_events, file_events, rename_cookies, remove_watch, masks, arguments, overflow_free_queue, poll_and_block, deleted_self, two_watches,
];

fn events(fd: i32) -> Vec<(i32, u32, u32, String)> {
    let mut b = [0u8; 8192];
    let n = match sys!(read, fd, m(&mut b), 8192) {
        Ok(n) => n as usize,
        Err(e) if e == EAGAIN => 0,
        Err(e) => fail(file!(), line!(), format_args!("read: {e:?}")),
    };
    let word = |at: usize| u32::from_le_bytes(b[at..at + 4].try_into().unwrap());
    let (mut v, mut at) = (vec![], 0);
    while at < n {
        let len = word(at + 12) as usize;
        let name: Vec<u8> = b[at + 16..at + 16 + len].iter().copied().take_while(|x| *x != 0).collect();
        v.push((word(at) as i32, word(at + 4), word(at + 8), String::from_utf8_lossy(&name).into_owned()));
        at += 16 + len;
    }
    v
}

fn show(fd: i32) {
    for (wd, mask, cookie, name) in events(fd) {
        say!("{wd} {mask:#x} {} {name:?}", cookie != 0);
    }
}

fn watch(fd: i32, path: &std::ffi::CStr, mask: u32) -> i32 {
    ok!(sys!(inotify_add_watch, fd, path, mask)) as i32
}

fn directory_events() {
    ok!(sys!(mkdir, c"d", 0o755));
    let i = ok!(sys!(inotify_init1, IN_NONBLOCK)) as i32;
    eq!(watch(i, c"d", IN_ALL_EVENTS), 1);
    put("d/f", b"abc");
    show(i);
    get("d/f");
    show(i);
    ok!(sys!(chmod, c"d/f", 0o600));
    ok!(sys!(mkdir, c"d/sub", 0o755));
    ok!(sys!(link, c"d/f", c"d/g"));
    ok!(sys!(symlink, c"d/f", c"d/l"));
    show(i);
    ok!(sys!(unlink, c"d/f"));
    ok!(sys!(rmdir, c"d/sub"));
    show(i);
}

fn file_events() {
    put("f", b"abc");
    let i = ok!(sys!(inotify_init1, IN_NONBLOCK)) as i32;
    watch(i, c"f", IN_ALL_EVENTS);
    let f = ok!(open(c"f", O_RDWR));
    ok!(read(f, 1));
    ok!(write(f, b"x"));
    ok!(sys!(ftruncate, f, 0));
    ok!(sys!(fchmod, f, 0o600));
    close(f);
    show(i);
    close(ok!(open(c"f", O_RDONLY)));
    show(i);
}

fn rename_cookies() {
    ok!(sys!(mkdir, c"a", 0o755));
    ok!(sys!(mkdir, c"b", 0o755));
    put("a/f", b"");
    let i = ok!(sys!(inotify_init1, IN_NONBLOCK)) as i32;
    watch(i, c"a", IN_MOVE);
    watch(i, c"b", IN_MOVE);
    watch(i, c"a/f", IN_MOVE_SELF);
    ok!(sys!(rename, c"a/f", c"b/g"));
    let e = events(i);
    for x in &e {
        say!("{} {:#x} {:?}", x.0, x.1, x.3);
    }
    check!(e[0].2 != 0 && e[0].2 == e[1].2);
    ok!(sys!(rename, c"b", c"c"));
    show(i);
}

fn remove_watch() {
    put("f", b"");
    let i = ok!(sys!(inotify_init1, IN_NONBLOCK)) as i32;
    let w = watch(i, c"f", IN_ATTRIB);
    eq!(watch(i, c"f", IN_MODIFY), w);
    ok!(sys!(chmod, c"f", 0o600));
    eq!(events(i).len(), 0);
    ok!(sys!(inotify_rm_watch, i, w));
    show(i);
    err!(sys!(inotify_rm_watch, i, w), EINVAL);
    err!(sys!(inotify_rm_watch, 0, w), EINVAL);
    eq!(watch(i, c"f", IN_MODIFY), w + 1);
}

fn masks() {
    put("f", b"");
    ok!(sys!(mkdir, c"d", 0o755));
    let i = ok!(sys!(inotify_init1, IN_NONBLOCK)) as i32;
    err!(sys!(inotify_add_watch, i, c"f", IN_ONLYDIR | IN_MODIFY), ENOTDIR);
    let w = watch(i, c"f", IN_MODIFY);
    eq!(watch(i, c"f", IN_ATTRIB | IN_MASK_ADD), w);
    put("f", b"x");
    ok!(sys!(chmod, c"f", 0o600));
    show(i);
    err!(sys!(inotify_add_watch, i, c"f", IN_MODIFY | IN_MASK_CREATE), EEXIST);
    watch(i, c"d", IN_CREATE | IN_ONESHOT);
    put("d/1", b"");
    put("d/2", b"");
    show(i);
    ok!(sys!(symlink, c"f", c"l"));
    let lw = watch(i, c"l", IN_DONT_FOLLOW | IN_DELETE_SELF);
    check!(lw != w);
    ok!(sys!(unlink, c"l"));
    show(i);
}

fn arguments() {
    err!(sys!(inotify_init1, 1), EINVAL);
    let i = ok!(sys!(inotify_init)) as i32;
    err!(sys!(inotify_add_watch, i, c"none", IN_MODIFY), ENOENT);
    err!(sys!(inotify_add_watch, i, c".", 0), EINVAL);
    err!(sys!(inotify_add_watch, 99, c".", IN_MODIFY), EBADF);
    err!(sys!(inotify_add_watch, 0, c".", IN_MODIFY), EINVAL);
    err!(sys!(inotify_add_watch, i, 8, IN_MODIFY), EFAULT);
    put("f", b"");
    watch(i, c"f", IN_ATTRIB);
    ok!(sys!(chmod, c"f", 0o600));
    let mut b = [0u8; 8];
    err!(sys!(read, i, m(&mut b), 8), EINVAL);
    let mut n = 0i32;
    ok!(sys!(ioctl, i, FIONREAD, m(&mut n)));
    eq!(n, 16);
}

fn overflow_free_queue() {
    // equal neighbours are merged
    put("f", b"");
    let i = ok!(sys!(inotify_init1, IN_NONBLOCK)) as i32;
    watch(i, c"f", IN_ATTRIB | IN_OPEN);
    for _ in 0..10 {
        ok!(sys!(chmod, c"f", 0o600));
    }
    close(ok!(open(c"f", O_RDONLY)));
    ok!(sys!(chmod, c"f", 0o644));
    show(i);
}

fn poll_and_block() {
    put("f", b"");
    let i = ok!(sys!(inotify_init1, 0)) as i32;
    watch(i, c"f", IN_ATTRIB);
    let mut pf = pollfd { fd: i, events: POLLIN, revents: 0 };
    eq!(ok!(sys!(poll, m(&mut pf), 1, 0)), 0);
    let child = fork(|| {
        ms(30);
        ok!(sys!(chmod, c"f", 0o600));
    });
    eq!(ok!(sys!(poll, m(&mut pf), 1, 5000)), 1);
    show(i);
    eq!(wait(child), 0);
    let child = fork(|| {
        ms(30);
        ok!(sys!(chmod, c"f", 0o644));
    });
    show(i);
    eq!(wait(child), 0);
}

fn deleted_self() {
    put("f", b"");
    ok!(sys!(mkdir, c"d", 0o755));
    let i = ok!(sys!(inotify_init1, IN_NONBLOCK)) as i32;
    watch(i, c"f", IN_DELETE_SELF | IN_ATTRIB);
    watch(i, c"d", IN_DELETE_SELF);
    let f = ok!(open(c"f", O_RDONLY));
    ok!(sys!(unlink, c"f"));
    show(i);
    close(f);
    show(i);
    ok!(sys!(rmdir, c"d"));
    show(i);
}

fn two_watches() {
    ok!(sys!(mkdir, c"d", 0o755));
    put("d/f", b"");
    let (i, j) = (ok!(sys!(inotify_init1, IN_NONBLOCK)) as i32, ok!(sys!(inotify_init1, IN_NONBLOCK)) as i32);
    watch(i, c"d", IN_MODIFY);
    watch(i, c"d/f", IN_MODIFY);
    watch(j, c"d", IN_MODIFY);
    let f = ok!(open(c"d/f", O_WRONLY));
    ok!(write(f, b"x"));
    show(i);
    show(j);
}
