//! Pointers that C gives and takes.

use crate::status::{Failure, Result, onekv_status, status_of};

/// What `at` points to, the argument `name`.
///
/// # Safety
/// NULL, or valid for reads while the result is used.
pub(crate) unsafe fn get<'a, T>(name: &str, at: *const T) -> Result<&'a T> {
    // SAFETY: the caller's contract.
    unsafe { at.as_ref() }.ok_or_else(|| Failure::null(name))
}

/// The `len` elements at `at`, the argument `name`; NULL is good for none.
///
/// # Safety
/// NULL, or valid for reads of `len` elements while the result is used.
pub(crate) unsafe fn list<'a, T>(name: &'static str, at: *const T, len: usize) -> Result<&'a [T]> {
    if len == 0 {
        return Ok(&[]);
    }
    if at.is_null() {
        return Err(Failure::null(name));
    }
    let bytes = len.checked_mul(size_of::<T>()).filter(|bytes| isize::try_from(*bytes).is_ok());
    bytes.ok_or(onekv::Error::Overflow { field: name })?;
    // SAFETY: the caller's contract, of a size that there can be.
    Ok(unsafe { std::slice::from_raw_parts(at, len) })
}

/// Writes what `value` gives to `to`, the argument `name`.
///
/// # Safety
/// NULL, or valid for a write.
pub(crate) unsafe fn put<T>(name: &str, to: *mut T, value: impl FnOnce() -> Result<T>) -> onekv_status {
    status_of(|| {
        if to.is_null() {
            return Err(Failure::null(name));
        }
        let value = value()?;
        // SAFETY: the caller's contract.
        unsafe { to.write(value) };
        Ok(())
    })
}

/// Writes a handle of what `value` gives to `to`, the argument `name`; NULL where it fails.
///
/// # Safety
/// As [`put`].
pub(crate) unsafe fn put_new<T>(
    name: &str,
    to: *mut *mut T,
    value: impl FnOnce() -> Result<T>,
) -> onekv_status {
    if !to.is_null() {
        // SAFETY: the caller's contract.
        unsafe { to.write(std::ptr::null_mut()) };
    }
    // SAFETY: the caller's contract.
    unsafe { put(name, to, || Ok(Box::into_raw(Box::new(value()?)))) }
}

/// Drops what a handle stands for.
///
/// # Safety
/// NULL, or made by [`put_new`] and not freed before.
pub(crate) unsafe fn free<T>(handle: *mut T) {
    if !handle.is_null() {
        status_of(|| {
            // SAFETY: the caller's contract.
            drop(unsafe { Box::from_raw(handle) });
            Ok(())
        });
    }
}
