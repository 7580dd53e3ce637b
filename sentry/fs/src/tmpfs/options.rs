//! Mount options of tmpfs.

use abi::{PAGE_SIZE, Result, bail, error};

/// `size=`, `nr_blocks=`, `nr_inodes=`, `mode=`, `uid=`, `gid=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes that files may hold; `None` for no limit.
    pub size: Option<u64>,
    /// Files there may be; `None` for no limit.
    pub nr_inodes: Option<u64>,
    /// Mode of the root directory.
    pub mode: u32,
    /// Owner of the root directory.
    pub uid: u32,
    /// Group of the root directory.
    pub gid: u32,
}

impl Default for Options {
    fn default() -> Self {
        Options { size: None, nr_inodes: None, mode: 0o1777, uid: 0, gid: 0 }
    }
}

/// A number with a suffix k, m or g.
fn size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 10),
        b'm' | b'M' => (&text[..text.len() - 1], 20),
        b'g' | b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Zero means no limit.
fn limit(n: u64) -> Option<u64> {
    (n != 0).then_some(n)
}

/// `size=50%`: of the machine's memory, of which the sentry knows what the host tells every process.
fn percent(text: &str) -> Option<u64> {
    let p: u64 = text.strip_suffix('%')?.parse().ok()?;
    Some(total_memory() / 100 * p)
}

fn total_memory() -> u64 {
    host::process::machine().total_memory
}

impl Options {
    /// From mount(2)'s data. `EINVAL` for what tmpfs does not know.
    pub fn parse(text: &str) -> Result<Options> {
        let mut o = Options { size: Some(total_memory() / 2), ..Options::default() };
        o.update(text)?;
        Ok(o)
    }

    /// Changes what `text` names.
    pub fn update(&mut self, text: &str) -> Result {
        for option in text.split(',').filter(|o| !o.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let bad = || error!(EINVAL, "tmpfs option {option}");
            let id = |v: &str| v.parse::<u32>().map_err(|_| bad());
            match name {
                "size" => self.size = limit(percent(value).or_else(|| size(value)).ok_or_else(bad)?),
                "nr_blocks" => self.size = limit(size(value).and_then(|n| n.checked_mul(PAGE_SIZE)).ok_or_else(bad)?),
                "nr_inodes" => self.nr_inodes = limit(size(value).ok_or_else(bad)?),
                "mode" => self.mode = u32::from_str_radix(value, 8).map_err(|_| bad())? & 0o7777,
                "uid" => self.uid = id(value)?,
                "gid" => self.gid = id(value)?,
                // Placement, huge pages and inode width mean nothing here.
                "huge" | "mpol" | "inode32" | "inode64" | "noswap" => {}
                _ => bail!(EINVAL, "tmpfs option {option}"),
            }
        }
        Ok(())
    }

    /// The limit in pages.
    #[must_use]
    pub fn max_pages(&self) -> u64 {
        self.size.map_or(u64::MAX, |s| s.div_ceil(PAGE_SIZE))
    }

    /// The limit of inodes.
    #[must_use]
    pub fn max_inodes(&self) -> u64 {
        self.nr_inodes.unwrap_or(u64::MAX)
    }

    /// As /proc/mounts shows them.
    #[must_use]
    pub fn show(&self) -> String {
        let mut s = String::new();
        if let Some(size) = self.size {
            s += &format!(",size={}k", size.div_ceil(1024));
        }
        if let Some(n) = self.nr_inodes {
            s += &format!(",nr_inodes={n}");
        }
        if self.mode != 0o1777 {
            s += &format!(",mode={:o}", self.mode);
        }
        if self.uid != 0 {
            s += &format!(",uid={}", self.uid);
        }
        if self.gid != 0 {
            s += &format!(",gid={}", self.gid);
        }
        s
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses() {
        let o = Options::parse("size=65536k,nr_inodes=1k,mode=755,uid=5").expect("valid");
        assert_eq!((o.size, o.nr_inodes, o.mode, o.uid), (Some(64 << 20), Some(1024), 0o755, 5));
        assert_eq!(o.show(), ",size=65536k,nr_inodes=1024,mode=755,uid=5");
        assert!(Options::parse("size=10%").expect("valid").size > Some(1 << 20));
        assert_eq!(Options::parse("size=0").expect("valid").size, None);
        for bad in ["size=", "size=x", "mode=9", "nonsense", "size=99999999999999g"] {
            assert!(Options::parse(bad).is_err(), "{bad}");
        }
    }
}
