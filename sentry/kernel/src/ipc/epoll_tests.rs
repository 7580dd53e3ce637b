//! Epoll over pipes and event counters, without tasks.

use super::*;
use crate::ipc::{eventfd, pipe};
use abi::Errno;

const IN: u32 = 1;
const OUT: u32 = 4;

fn ep() -> Arc<File> {
    create(&Credentials::root())
}

fn of(f: &Arc<File>) -> &Epoll {
    f.downcast::<Epoll>().expect("epoll")
}

fn event() -> Arc<File> {
    eventfd::create(0, false, OpenFlags::empty(), &Credentials::root())
}

fn add(e: &Arc<File>, fd: u32, f: &Arc<File>, events: u32) -> Result {
    of(e).control(fd, f, Control::Add(EpollEvent { events, data: u64::from(fd) }))
}

fn put(f: &Arc<File>, data: &[u8]) {
    f.ops().write(f, &mut IoBuffer::source(data), 0, false).expect("write");
}

fn get(f: &Arc<File>) {
    f.ops().read(f, &mut IoBuffer::dest(&mut [0; 8]), 0).expect("read");
}

fn events(e: &Arc<File>) -> Vec<(u32, u64)> {
    of(e).collect(16).iter().map(|v| (v.events, v.data)).collect()
}

#[test]
fn level_and_edge() {
    let (e, f) = (ep(), event());
    add(&e, 3, &f, IN).expect("add");
    add(&e, 4, &f, IN | ET).expect("add");
    assert_eq!(add(&e, 3, &f, IN), Err(Errno::EEXIST.into()));
    assert_eq!(events(&e), []);
    put(&f, &1u64.to_ne_bytes());
    assert_eq!(events(&e), [(IN, 3), (IN, 4)]);
    assert_eq!(events(&e), [(IN, 3)]);
    put(&f, &1u64.to_ne_bytes());
    assert_eq!(events(&e).len(), 2);
    get(&f);
    assert_eq!(events(&e), []);
    of(&e).control(3, &f, Control::Delete).expect("del");
    assert_eq!(of(&e).control(3, &f, Control::Delete), Err(Errno::ENOENT.into()));
    put(&f, &1u64.to_ne_bytes());
    assert_eq!(events(&e), [(IN, 4)]);
}

#[test]
fn oneshot_and_modify() {
    let (e, f) = (ep(), event());
    put(&f, &1u64.to_ne_bytes());
    add(&e, 3, &f, IN | ONESHOT).expect("add");
    assert_eq!(events(&e), [(IN, 3)]);
    put(&f, &1u64.to_ne_bytes());
    assert_eq!(events(&e), []);
    of(&e).control(3, &f, Control::Modify(EpollEvent { events: OUT | ONESHOT, data: 9 })).expect("mod");
    assert_eq!(events(&e), [(OUT, 9)]);
    assert_eq!(events(&e), []);
}

#[test]
fn limit_keeps_order() {
    let e = ep();
    let files: Vec<_> = (0..5).map(|_| event()).collect();
    for (i, f) in files.iter().enumerate() {
        put(f, &1u64.to_ne_bytes());
        add(&e, i as u32, f, IN).expect("add");
    }
    let two: Vec<u64> = of(&e).collect(2).iter().map(|v| v.data).collect();
    let next: Vec<u64> = of(&e).collect(3).iter().map(|v| v.data).collect();
    assert_eq!((two, next), (vec![0, 1], vec![2, 3, 4]));
    assert_eq!(events(&e).len(), 5);
}

#[test]
fn pipes_hang_up() {
    let (r, w) = pipe::create(OpenFlags::empty(), &Credentials::root());
    let e = ep();
    add(&e, 3, &r, IN | ET).expect("add");
    add(&e, 4, &w, OUT).expect("add");
    assert_eq!(events(&e), [(OUT, 4)]);
    put(&w, b"x");
    assert!(events(&e).contains(&(IN, 3)));
    drop(w);
    assert_eq!(events(&e), [(IN | 0x10, 3)]);
    assert_eq!(events(&e), []);
    drop(r);
    assert_eq!(events(&e), []);
}

#[test]
fn nesting() {
    let (a, b, f) = (ep(), ep(), event());
    add(&a, 1, &b, IN).expect("add");
    add(&b, 2, &f, IN).expect("add");
    assert_eq!(add(&b, 3, &a, IN), Err(Errno::ELOOP.into()));
    assert_eq!(add(&a, 1, &a, IN), Err(Errno::EINVAL.into()));
    assert_eq!(events(&a), []);
    put(&f, &1u64.to_ne_bytes());
    assert_eq!(events(&a), [(IN, 1)]);
    assert_eq!(events(&b), [(IN, 2)]);
    get(&f);
    assert_eq!(events(&a), []);
    let chain: Vec<_> = (0..7).map(|_| ep()).collect();
    let results: Vec<bool> = chain.windows(2).map(|p| add(&p[1], 1, &p[0], IN).is_ok()).collect();
    assert_eq!(results, [true, true, true, true, false, true]);
}

#[test]
fn closed_files_are_swept() {
    let e = ep();
    for i in 0..1000 {
        let f = event();
        add(&e, i, &f, IN).expect("add");
    }
    assert!(of(&e).inner.items.lock().map.len() <= 65);
}
