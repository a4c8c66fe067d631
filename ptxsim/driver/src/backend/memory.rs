//! Device memory: live allocations with gaps between them, so that running past one never hits another.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::status::{Code, Outcome};

/// Above what a process maps, so that a device address is never a host address.
const FIRST_ADDRESS: u64 = 0x0010_0000_0000_0000;
const ALIGNMENT: u64 = 256;
/// Unwritten memory reads as this byte: no plausible number in any type.
const UNWRITTEN: u8 = 0xcd;

/// All device memory.
#[derive(Default)]
pub(crate) struct Memory {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    used_bytes: u64,
    next: u64,
    live: BTreeMap<u64, Vec<u8>>,
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        self.lock().used_bytes
    }

    pub(crate) fn allocate(&self, bytes: u64) -> Outcome<u64> {
        let none = || Code::OUT_OF_MEMORY.because(format!("{bytes} bytes asked for"));
        let length = usize::try_from(bytes).map_err(|_| none())?;
        let mut contents = Vec::new();
        contents.try_reserve_exact(length).map_err(|_| none())?;
        contents.resize(length, UNWRITTEN);
        let mut inner = self.lock();
        let address = FIRST_ADDRESS + inner.next;
        inner.next += bytes.next_multiple_of(ALIGNMENT) + ALIGNMENT;
        inner.used_bytes += bytes;
        inner.live.insert(address, contents);
        Ok(address)
    }

    pub(crate) fn free(&self, address: u64) -> Outcome {
        let mut inner = self.lock();
        let Some(gone) = inner.live.remove(&address) else {
            return Err(Code::INVALID_VALUE.because(format!(
                "{address:#x} is not the start of a live allocation"
            )));
        };
        inner.used_bytes -= gone.len() as u64;
        Ok(())
    }

    /// The live allocation an address lies in: start and bytes.
    pub(crate) fn allocation(&self, address: u64) -> Option<(u64, u64)> {
        let inner = self.lock();
        let (start, contents) = inner.live.range(..=address).next_back()?;
        (address - start < contents.len() as u64).then_some((*start, contents.len() as u64))
    }

    /// The live allocations: start and bytes.
    pub(crate) fn allocations(&self) -> Vec<(u64, u64)> {
        self.lock()
            .live
            .iter()
            .map(|(start, contents)| (*start, contents.len() as u64))
            .collect()
    }

    pub(crate) fn read(&self, from: u64, into: &mut [u8]) -> Outcome {
        let mut inner = self.lock();
        into.copy_from_slice(inner.range(from, into.len())?);
        Ok(())
    }

    pub(crate) fn write(&self, to: u64, bytes: &[u8]) -> Outcome {
        self.lock().range(to, bytes.len())?.copy_from_slice(bytes);
        Ok(())
    }
}

impl Inner {
    fn range(&mut self, address: u64, length: usize) -> Outcome<&mut [u8]> {
        let outside = || {
            Code::ILLEGAL_ADDRESS.because(format!(
                "{length} bytes at {address:#x} are not in a live allocation"
            ))
        };
        let (start, contents) = self
            .live
            .range_mut(..=address)
            .next_back()
            .ok_or_else(outside)?;
        let at = (address - start) as usize;
        contents
            .get_mut(at..at.saturating_add(length))
            .ok_or_else(outside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold_to_the_byte_and_end_with_free() {
        let memory = Memory::default();
        let (first, second) = (memory.allocate(300).unwrap(), memory.allocate(1).unwrap());
        assert!(second >= first + 512, "a gap follows the first");
        memory.write(first + 299, &[1]).unwrap();
        assert_eq!(
            memory.write(first + 299, &[1, 2]).unwrap_err().code,
            Code::ILLEGAL_ADDRESS
        );
        assert_eq!(
            memory.read(first + 300, &mut [0]).unwrap_err().code,
            Code::ILLEGAL_ADDRESS
        );
        memory.free(first).unwrap();
        assert_eq!(
            memory.read(first, &mut [0]).unwrap_err().code,
            Code::ILLEGAL_ADDRESS
        );
        assert_eq!(memory.free(first).unwrap_err().code, Code::INVALID_VALUE);
        assert_eq!(memory.used_bytes(), 1);
    }
}
