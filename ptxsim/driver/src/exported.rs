//! The names that this library exports.

use std::ffi::CString;

/// The address of a function that this library exports.
pub(crate) fn exported(name: &str) -> Option<usize> {
    let name = CString::new(name).ok()?;
    // SAFETY: an all-zero Dl_info is a valid value of this plain C struct.
    let mut own: libc::Dl_info = unsafe { std::mem::zeroed() };
    let here: fn(&str) -> Option<usize> = exported;
    // SAFETY: the address is a function of this library, `own` is a live Dl_info.
    if unsafe { libc::dladdr(here as *const libc::c_void, &mut own) } == 0 || own.dli_fname.is_null() {
        return None;
    }
    // SAFETY: dladdr gave a NUL-terminated path; NOLOAD only finds what is already in the process.
    let library = unsafe { libc::dlopen(own.dli_fname, libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
    if library.is_null() {
        return None;
    }
    // SAFETY: `library` is a live handle, `name` is NUL-terminated.
    let found = unsafe { libc::dlsym(library, name.as_ptr()) };
    (!found.is_null()).then_some(found as usize)
}
