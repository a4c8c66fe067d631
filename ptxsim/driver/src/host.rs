//! The caller's memory. Every access goes through the kernel's own bounds check
//! (`process_vm_readv` on this process), so an address that is not mapped is an error code and not a crash.

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::status::{Code, Outcome};

/// An address in the host program, as it was passed in.
pub(crate) type Address = usize;

/// Plain values the API writes to or reads from the caller, as bytes of this machine.
pub(crate) trait Plain: Copy + Sized {
    /// A value of zero bits.
    const ZERO: Self;
}
macro_rules! plain {
    ($($type:ty),*) => {$(impl Plain for $type { const ZERO: Self = 0 as $type; })*};
}
plain!(u8, i32, u32, i64, u64, usize, f32);

#[derive(Clone, Copy)]
enum Direction {
    Read,
    Write,
}

/// Whether addresses are probed. A program whose kernels do not run is measured, and takes them as the real driver does.
static PROBE: AtomicBool = AtomicBool::new(true);

/// Sets whether addresses are probed from now on.
pub(crate) fn probe(on: bool) {
    PROBE.store(on, Relaxed);
}

/// Reads `into.len()` bytes at `from`.
pub(crate) fn read_bytes(from: Address, into: &mut [u8]) -> Outcome {
    transfer(from, into.as_mut_ptr(), into.len(), Direction::Read)
}

/// Writes `bytes` at `to`.
pub(crate) fn write_bytes(to: Address, bytes: &[u8]) -> Outcome {
    // The buffer is only read in this direction.
    transfer(to, bytes.as_ptr().cast_mut(), bytes.len(), Direction::Write)
}

fn transfer(remote: Address, local: *mut u8, length: usize, direction: Direction) -> Outcome {
    if length == 0 {
        return Ok(());
    }
    if remote == 0 {
        return Err(Code::INVALID_VALUE.because("a host pointer is null"));
    }
    let mut done = 0;
    let mut probe = PROBE.load(Relaxed);
    while done < length {
        if !probe {
            // SAFETY: the caller vouches for its range by the driver's contract; ours is a live slice.
            unsafe {
                match direction {
                    Direction::Read => std::ptr::copy(remote as *const u8, local, length),
                    Direction::Write => std::ptr::copy(local.cast_const(), remote as *mut u8, length),
                }
            }
            return Ok(());
        }
        let here =
            libc::iovec { iov_base: local.wrapping_add(done).cast::<c_void>(), iov_len: length - done };
        let there =
            libc::iovec { iov_base: remote.wrapping_add(done) as *mut c_void, iov_len: length - done };
        // SAFETY: `here` lies within a live slice of this crate (exclusive when read into); the kernel
        // checks the range `there` and answers EFAULT where this process may not access it.
        let moved = unsafe {
            match direction {
                Direction::Read => libc::process_vm_readv(libc::getpid(), &here, 1, &there, 1, 0),
                Direction::Write => libc::process_vm_writev(libc::getpid(), &here, 1, &there, 1, 0),
            }
        };
        if moved > 0 {
            done += moved as usize;
            continue;
        }
        let error = std::io::Error::last_os_error();
        if moved < 0 && matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) {
            // A sandbox without the call: trust the caller, as the real driver does.
            probe = false;
            continue;
        }
        return Err(Code::INVALID_VALUE
            .because(format!("host address {remote:#x} (+{done} of {length} bytes) is not accessible")));
    }
    Ok(())
}

/// Reads one value.
pub(crate) fn read<T: Plain>(from: Address) -> Outcome<T> {
    read_array(from).map(|[value]| value)
}

/// Writes one value.
pub(crate) fn write<T: Plain>(to: Address, value: T) -> Outcome {
    // SAFETY: `Plain` types have no padding, so all their bytes are initialised.
    let bytes = unsafe { std::slice::from_raw_parts((&raw const value).cast::<u8>(), size_of::<T>()) };
    write_bytes(to, bytes)
}

/// Writes one value unless the pointer is null, as for the driver's optional outputs.
pub(crate) fn write_optional<T: Plain>(to: Address, value: T) -> Outcome {
    if to == 0 { Ok(()) } else { write(to, value) }
}

/// Reads `count` values, piece by piece: a count that is wrong ends where the caller's memory does, before there is room for it.
pub(crate) fn read_many<T: Plain>(from: Address, count: usize) -> Outcome<Vec<T>> {
    const PIECE: usize = 1 << 16;
    let mut values: Vec<T> = Vec::new();
    while values.len() < count {
        let at = values.len();
        values.resize(count.min(at + PIECE), T::ZERO);
        read_into(from.wrapping_add(at * size_of::<T>()), &mut values[at..])?;
    }
    Ok(values)
}

/// Reads an array.
pub(crate) fn read_array<T: Plain, const N: usize>(from: Address) -> Outcome<[T; N]> {
    let mut values = [T::ZERO; N];
    read_into(from, &mut values)?;
    Ok(values)
}

/// Reads as many values as `into` has.
pub(crate) fn read_into<T: Plain>(from: Address, into: &mut [T]) -> Outcome {
    // SAFETY: `Plain` is implemented for integers and floats only: any bytes are a value.
    let bytes = unsafe { std::slice::from_raw_parts_mut(into.as_mut_ptr().cast::<u8>(), size_of_val(into)) };
    read_bytes(from, bytes)
}

/// Reads a NUL-terminated string of at most `limit` bytes, page by page: its end is not known.
pub(crate) fn read_c_string(from: Address, limit: usize) -> Outcome<Vec<u8>> {
    const PAGE: usize = 4096;
    let mut text = Vec::new();
    let mut chunk = [0u8; PAGE];
    while text.len() < limit {
        let at = from.wrapping_add(text.len());
        let length = PAGE - at % PAGE;
        read_bytes(at, &mut chunk[..length])?;
        if let Some(end) = chunk[..length].iter().position(|byte| *byte == 0) {
            text.extend_from_slice(&chunk[..end]);
            return Ok(text);
        }
        text.extend_from_slice(&chunk[..length]);
    }
    Err(Code::INVALID_VALUE.because(format!("no end of string within {limit} bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unmapped_address_is_an_error() {
        assert_eq!(read::<u32>(0).unwrap_err().code, Code::INVALID_VALUE);
        assert_eq!(read::<u32>(8).unwrap_err().code, Code::INVALID_VALUE);
        assert_eq!(write::<u64>(usize::MAX - 3, 1).unwrap_err().code, Code::INVALID_VALUE);
    }

    #[test]
    fn a_count_takes_no_more_memory_than_there_is_to_read() {
        let words: Vec<u32> = (0..200_000).collect();
        let address = words.as_ptr() as usize;
        assert_eq!(read_many::<u32>(address, words.len()).unwrap(), words);
        let refused = read_many::<u64>(8, u32::MAX as usize).unwrap_err();
        assert_eq!(
            refused.message.as_deref(),
            Some("host address 0x8 (+0 of 524288 bytes) is not accessible")
        );
        // More than any machine has.
        assert!(read_many::<u64>(8, 1 << 50).is_err());
    }

    #[test]
    fn values_and_strings_go_through() {
        let mut place = 7u64;
        let address = (&raw mut place) as usize;
        write(address, 0x0102_0304_0506_0708u64).unwrap();
        assert_eq!(read::<u64>(address).unwrap(), 0x0102_0304_0506_0708);
        let text = std::ffi::CString::new("x".repeat(9000)).unwrap();
        assert_eq!(read_c_string(text.as_ptr() as usize, 1 << 20).unwrap().len(), 9000);
    }
}
