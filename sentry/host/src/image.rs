//! The memory of this process that its start has used and nobody needs any more.

use std::ffi::c_void;

/// Lets go of what the start of the process has left mapped: the pages of the executable's code and constants, which the host maps again, many at a time, where
/// they are needed, and what the allocator holds free.
pub fn let_go_of_start() {
    // SAFETY: no memory involved but the allocator's own.
    unsafe { libc::malloc_trim(0) };
    // SAFETY: the callback takes what dl_iterate_phdr(3) gives, and no data.
    unsafe { libc::dl_iterate_phdr(Some(let_go_of_image), std::ptr::null_mut()) };
}

/// Called for each object of the process, the executable first; ends there.
unsafe extern "C" fn let_go_of_image(info: *mut libc::dl_phdr_info, _size: usize, _data: *mut c_void) -> libc::c_int {
    // SAFETY: the caller gives a valid one.
    let info = unsafe { &*info };
    if info.dlpi_phdr.is_null() {
        return 1;
    }
    // SAFETY: so many headers lie there, in memory that is never written.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
    for h in headers.iter().filter(|h| h.p_type == libc::PT_LOAD && h.p_flags & libc::PF_W == 0) {
        let begin = info.dlpi_addr.wrapping_add(h.p_vaddr);
        // Whole pages of this segment alone.
        let (Some(start), end) = (abi::page_up(begin), abi::page_down(begin.wrapping_add(h.p_memsz))) else { continue };
        if start < end {
            // SAFETY: pages of a private mapping of a file that nobody can have written to: they read the same afterwards. A failure changes nothing.
            unsafe { libc::madvise(start as *mut c_void, (end - start) as usize, libc::MADV_DONTNEED) };
        }
    }
    1
}

#[cfg(test)]
mod tests {
    /// KiB of the executable's pages that this process has mapped, copies not counted.
    fn mapped() -> u64 {
        let exe = std::fs::read_link("/proc/self/exe").expect("exe").to_string_lossy().into_owned();
        let smaps = std::fs::read_to_string("/proc/self/smaps").expect("smaps");
        let kib = |value: &str| value.trim_end_matches("kB").trim().parse::<u64>().expect("a number");
        let (mut within, mut total) = (false, 0);
        for line in smaps.lines() {
            match line.split_once(':') {
                Some(("Rss", value)) if within => total += kib(value),
                Some(("Anonymous", value)) if within => total -= kib(value),
                Some((field, _)) if field.contains('-') => within = line.ends_with(&exe),
                _ => {}
            }
        }
        total
    }

    #[test]
    fn what_was_mapped_is_let_go_and_comes_again() {
        let before = mapped();
        super::let_go_of_start();
        let after = mapped();
        assert!(before > 0 && after < before, "{before} KiB before, {after} afterwards");
    }
}
