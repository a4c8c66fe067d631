//! Pages of the host that kernels use as well: pinned and managed memory.

use std::sync::atomic::AtomicU32;

/// Maps zeroed memory, at least so many bytes. Like a card's, its addresses are given out once: they stay mapped.
pub(crate) fn map(bytes: usize) -> Option<&'static [AtomicU32]> {
    let words = bytes.div_ceil(size_of::<AtomicU32>());
    let (access, kind) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
    // SAFETY: a new mapping, at an address of the kernel's choice.
    let address =
        unsafe { libc::mmap(std::ptr::null_mut(), words * size_of::<AtomicU32>(), access, kind, -1, 0) };
    if address == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: the mapping has so many words, zeroed, aligned to a page, and is never unmapped. This library only uses them
    // as atomics; that the program orders its own accesses against kernels is CUDA's rule for such memory.
    Some(unsafe { std::slice::from_raw_parts(address.cast::<AtomicU32>(), words) })
}

/// Gives the pages back to the system; who still reads them, finds zeros.
pub(crate) fn release(words: &'static [AtomicU32]) {
    // SAFETY: the range is a mapping of `map`, which stays.
    unsafe { libc::madvise(words.as_ptr().cast_mut().cast(), size_of_val(words), libc::MADV_DONTNEED) };
}
