//! memfd_create(2).

use crate::{arg::UserCStr, row, table::Entry};
use abi::{Errno, Result, bail, libc};
use kernel::{
    task::CurrentTask,
    vfs::{
        Fd,
        shmem::{Seals, memfd},
    },
};

pub(crate) const ROWS: &[Entry] = &[row!("memfd_create", memfd_create, Partial("no huge pages"))];

/// The longest name: NAME_MAX without `memfd:`.
const NAME_MAX: usize = 249;

pub fn memfd_create(t: &mut CurrentTask, name: UserCStr, flags: u32) -> Result<Fd> {
    const KNOWN: u32 = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | libc::MFD_NOEXEC_SEAL | libc::MFD_EXEC;
    let has = |f: u32| flags & f != 0;
    if flags & !KNOWN != 0 {
        bail!(EINVAL, "flags {flags:#x}");
    }
    if has(libc::MFD_EXEC) && has(libc::MFD_NOEXEC_SEAL) {
        bail!(EINVAL, "MFD_EXEC with MFD_NOEXEC_SEAL");
    }
    let name = match t.mm().read_cstr(name.0, NAME_MAX + 1) {
        Err(e) if e.is(Errno::ENAMETOOLONG) => bail!(EINVAL, "name is too long"),
        r => r?,
    };
    let executable = !has(libc::MFD_NOEXEC_SEAL);
    let seals = match (executable, has(libc::MFD_ALLOW_SEALING)) {
        (false, _) => Some(Seals::EXEC),
        (true, true) => Some(Seals::empty()),
        (true, false) => None,
    };
    let file = memfd::create(t.kernel(), &t.cred(), &name, seals, executable);
    t.files().install(file, Fd(0), t.rlimit(libc::RLIMIT_NOFILE).cur, has(libc::MFD_CLOEXEC))
}
