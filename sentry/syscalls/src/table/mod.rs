//! The system call table: every number is a [`Row`].
//!
//! Each family's file has a `ROWS` constant with the calls it handles; a number that no family names is `Unsupported(ENOSYS)`.

pub mod x86_64;

use crate::{FAMILIES, arg::Args};
use abi::{Errno, Result};
use kernel::task::CurrentTask;
use std::sync::LazyLock;

/// How far a call is implemented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// As Linux does it.
    Supported,
    /// Works, but for what is named here.
    Partial(&'static str),
    /// Fails with this errno.
    Unsupported(Errno),
}

/// A call's entry.
#[derive(Clone, Copy)]
pub struct Row {
    /// Number.
    pub nr: u32,
    /// Linux's name.
    pub name: &'static str,
    /// How far it is implemented.
    pub status: Status,
    /// Why it is not, or what to know.
    pub note: &'static str,
    /// Decodes and calls the handler.
    pub call: fn(&mut CurrentTask, &Args) -> Result<u64>,
    /// Formats the arguments.
    pub show: fn(&CurrentTask, &Args) -> String,
}

/// What a family says of one call.
#[derive(Clone, Copy)]
pub struct Entry {
    /// Linux's name; the number comes from [`x86_64::NAMES`].
    pub name: &'static str,
    /// How far it is implemented.
    pub status: Status,
    /// Why it is not, or what to know.
    pub note: &'static str,
    /// Decodes and calls the handler.
    pub call: fn(&mut CurrentTask, &Args) -> Result<u64>,
    /// Formats the arguments.
    pub show: fn(&CurrentTask, &Args) -> String,
}

/// A call that is there: `row!("read", read)`, or `row!("mmap", mmap, Partial("no huge pages"))`.
#[macro_export]
macro_rules! row {
    ($name:literal, $handler:path) => {
        $crate::row!($name, $handler, Supported)
    };
    ($name:literal, $handler:path, $status:ident $(($why:literal))?) => {
        $crate::table::Entry {
            name: $name,
            status: $crate::table::Status::$status $(($why))?,
            note: "",
            call: |t, a| $crate::arg::Handler::call(&$handler, t, a),
            show: |t, a| $crate::arg::Handler::show(&$handler, t, a),
        }
    };
}

/// A call that is not there: `gap!("kexec_load", EPERM, "no kernel to replace")`.
#[macro_export]
macro_rules! gap {
    ($name:literal, $errno:ident, $why:literal) => {
        $crate::table::Entry {
            name: $name,
            status: $crate::table::Status::Unsupported(abi::Errno::$errno),
            note: $why,
            call: |_, _| Err(abi::Error::Errno(abi::Errno::$errno)),
            show: $crate::table::show_raw,
        }
    };
}

/// Shows arguments of unknown meaning.
#[must_use]
pub fn show_raw(_: &CurrentTask, a: &Args) -> String {
    a.0.map(|v| format!("{v:#x}")).join(", ")
}

/// All rows, by number; `None` for numbers that Linux does not use.
static TABLE: LazyLock<Vec<Option<Row>>> = LazyLock::new(|| {
    let last = x86_64::NAMES.last().map_or(0, |n| n.0);
    let mut table = vec![None; last as usize + 1];
    for &(nr, name) in x86_64::NAMES {
        let entry = FAMILIES.iter().flat_map(|f| f.iter()).find(|e| e.name == name);
        let row = match entry {
            Some(e) => Row { nr, name, status: e.status, note: e.note, call: e.call, show: e.show },
            None => Row {
                nr,
                name,
                status: Status::Unsupported(Errno::ENOSYS),
                note: "",
                call: |_, _| Err(Errno::ENOSYS.into()),
                show: show_raw,
            },
        };
        if let Some(slot) = table.get_mut(nr as usize) {
            *slot = Some(row);
        }
    }
    table
});

/// The row of a number.
#[must_use]
pub fn row(nr: u64) -> Option<&'static Row> {
    usize::try_from(nr).ok().and_then(|n| TABLE.get(n)).and_then(Option::as_ref)
}

/// All rows, ascending.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    TABLE.iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_entry_names_a_call_and_none_twice() {
        let mut seen = HashSet::new();
        for e in FAMILIES.iter().flat_map(|f| f.iter()) {
            assert!(x86_64::NAMES.iter().any(|n| n.1 == e.name), "{} is no system call", e.name);
            assert!(seen.insert(e.name), "{} stands twice", e.name);
        }
    }

    #[test]
    fn numbers_ascend() {
        assert!(x86_64::NAMES.windows(2).all(|w| w[0].0 < w[1].0));
    }
}
