//! Resource limits: guest values only, never passed to the host.

use abi::task::Rlimit;

/// The limits of one process (`RLIMIT_*`, sixteen of them).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rlimits([Rlimit; 16]);

const fn both(v: u64) -> Rlimit {
    Rlimit { cur: v, max: v }
}

impl Default for Rlimits {
    /// What Linux gives its init (include/asm-generic/resource.h), with the limits of open files and processes that
    /// containers usually see.
    fn default() -> Self {
        let mut l = Rlimits([both(Rlimit::INFINITY); 16]);
        l.set(libc::RLIMIT_STACK, Rlimit { cur: 8 << 20, max: Rlimit::INFINITY });
        l.set(libc::RLIMIT_CORE, Rlimit { cur: 0, max: Rlimit::INFINITY });
        l.set(libc::RLIMIT_NOFILE, Rlimit { cur: 1 << 20, max: 1 << 20 });
        l.set(libc::RLIMIT_MEMLOCK, both(8 << 20));
        l.set(libc::RLIMIT_SIGPENDING, both(63_535));
        l.set(libc::RLIMIT_MSGQUEUE, both(819_200));
        l.set(libc::RLIMIT_NICE, both(0));
        l.set(libc::RLIMIT_RTPRIO, both(0));
        l
    }
}

impl Rlimits {
    /// One limit; unlimited if there is no such resource.
    #[must_use]
    pub fn get(&self, resource: libc::__rlimit_resource_t) -> Rlimit {
        self.0.get(resource as usize).copied().unwrap_or(both(Rlimit::INFINITY))
    }

    /// Sets one limit, if there is such a resource.
    pub fn set(&mut self, resource: libc::__rlimit_resource_t, limit: Rlimit) {
        if let Some(l) = self.0.get_mut(resource as usize) {
            *l = limit;
        }
    }
}
