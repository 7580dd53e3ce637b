//! Arguments and environment: fetching them, and how large they may be.

use crate::{
    mm::{MemLimits, Mm},
    user::UserAddr,
};
use abi::{PAGE_SIZE, Result, bail};

/// The longest string, its NUL included (`MAX_ARG_STRLEN`).
const STRING_MAX: usize = 32 * PAGE_SIZE as usize;
/// As much is always allowed in all (`ARG_MAX`).
const ALWAYS: u64 = 128 << 10;
/// Never more than this: three quarters of the usual stack.
const NEVER: u64 = 6 << 20;

/// Reads an array of string pointers that ends with a null pointer. A null `array` is an empty one. `E2BIG` as soon as it is clear that
/// no execve(2) could take it; `EFAULT`.
pub fn read_strings(mm: &Mm, array: UserAddr) -> Result<Vec<Vec<u8>>> {
    let mut out = Vec::new();
    if array.is_null() {
        return Ok(out);
    }
    let mut total: u64 = 0;
    loop {
        let at: u64 = mm.read(array.cast::<u64>().at(out.len() as u64))?;
        if at == 0 {
            return Ok(out);
        }
        let string = match mm.read_cstr(UserAddr(at), STRING_MAX) {
            Err(e) if e.is(abi::Errno::ENAMETOOLONG) => bail!(E2BIG, "string is too long"),
            other => other?,
        };
        total += string.len() as u64 + 9;
        if total > NEVER {
            bail!(E2BIG, "strings are too long together");
        }
        out.push(string);
    }
}

/// `E2BIG` if the strings do not fit in what the stack's limit leaves them.
pub fn check_size(argv: &[Vec<u8>], envp: &[Vec<u8>], path: &[u8], limits: &MemLimits) -> Result {
    let limit = (limits.stack / 4).min(NEVER).max(ALWAYS);
    let mut total = path.len() as u64 + 1;
    for s in argv.iter().chain(envp) {
        if s.len() >= STRING_MAX {
            bail!(E2BIG, "string is too long");
        }
        total += s.len() as u64 + 1 + 8;
    }
    if total > limit {
        bail!(E2BIG, "{total} bytes of strings, {limit} allowed");
    }
    Ok(())
}
