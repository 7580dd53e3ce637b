//! sysfs: the little of it that programs of a container read. Processors and their number, the loopback interface, the place where the
//! cgroup tree is mounted.

use crate::synthetic::{self, Entry, Fixed};
use abi::Result;
use kernel::{
    Container,
    cred::Credentials,
    vfs::{FsType, MountSource, SbFlags, SuperBlock},
};
use std::sync::Arc;

/// `f_type` of statfs(2).
const SYSFS_MAGIC: i64 = 0x6265_6572;

/// The file system type.
pub struct Sysfs;

impl FsType for Sysfs {
    fn name(&self) -> &'static str {
        "sysfs"
    }
    fn user_mountable(&self) -> bool {
        true
    }
    fn mount(&self, _: &Arc<Container>, _: &Credentials, source: MountSource<'_>) -> Result<Arc<SuperBlock>> {
        let flags = SbFlags::NO_DCACHE | SbFlags::NODEV;
        Ok(synthetic::superblock("sysfs", source.source, flags, SYSFS_MAGIC, tree()))
    }
}

fn dir(entries: Vec<(&'static str, Entry)>) -> Entry {
    Entry::dir(Fixed::new(entries))
}

fn tree() -> Entry {
    let empty = || dir(Vec::new());
    dir(vec![
        ("block", empty()),
        ("bus", empty()),
        ("class", dir(vec![("net", dir(vec![("lo", loopback())])), ("power_supply", empty()), ("tty", empty())])),
        ("dev", dir(vec![("block", empty()), ("char", empty())])),
        ("devices", dir(vec![("system", dir(vec![("cpu", processors()), ("node", nodes())])), ("virtual", empty())])),
        ("firmware", empty()),
        ("fs", dir(vec![("cgroup", empty())])),
        (
            "kernel",
            dir(vec![(
                "mm",
                dir(vec![(
                    "transparent_hugepage",
                    dir(vec![
                        ("enabled", Entry::fixed("always [madvise] never\n")),
                        ("hpage_pmd_size", Entry::fixed("2097152\n")),
                        ("shmem_enabled", Entry::fixed("always within_size advise [never] deny force\n")),
                    ]),
                )]),
            )]),
        ),
        ("module", empty()),
        ("power", empty()),
    ])
}

/// All processors, as a list of ranges.
fn all_cpus() -> String {
    match crate::proc::cpus() {
        1 => "0\n".into(),
        n => format!("0-{}\n", n - 1),
    }
}

fn processors() -> Entry {
    let list = || Entry::text(|| Ok(all_cpus().into_bytes()));
    let mut entries = vec![
        ("online", list()),
        ("possible", list()),
        ("present", list()),
        ("offline", Entry::fixed("\n")),
        ("isolated", Entry::fixed("\n")),
        ("kernel_max", Entry::fixed("1023\n")),
    ];
    for i in 0..crate::proc::cpus() {
        // Names live as long as the tree, which is as long as the sandbox.
        let name: &'static str = Box::leak(format!("cpu{i}").into_boxed_str());
        let topology = vec![
            ("core_id", Entry::text(move || Ok(format!("{i}\n").into_bytes()))),
            ("physical_package_id", Entry::fixed("0\n")),
            ("thread_siblings_list", Entry::text(move || Ok(format!("{i}\n").into_bytes()))),
            ("core_siblings_list", Entry::text(|| Ok(all_cpus().into_bytes()))),
        ];
        entries.push((name, dir(vec![("topology", dir(topology)), ("online", Entry::fixed("1\n"))])));
    }
    dir(entries)
}

fn nodes() -> Entry {
    let node = dir(vec![("cpulist", Entry::text(|| Ok(all_cpus().into_bytes()))), ("distance", Entry::fixed("10\n"))]);
    dir(vec![("online", Entry::fixed("0\n")), ("possible", Entry::fixed("0\n")), ("has_cpu", Entry::fixed("0\n")), ("node0", node)])
}

fn loopback() -> Entry {
    dir(vec![
        ("address", Entry::fixed("00:00:00:00:00:00\n")),
        ("broadcast", Entry::fixed("00:00:00:00:00:00\n")),
        ("carrier", Entry::fixed("1\n")),
        ("flags", Entry::fixed("0x9\n")),
        ("ifindex", Entry::fixed("1\n")),
        ("mtu", Entry::fixed("65536\n")),
        ("operstate", Entry::fixed("unknown\n")),
        ("type", Entry::fixed("772\n")),
    ])
}
