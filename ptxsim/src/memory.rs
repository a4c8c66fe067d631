//! Global memory: live allocations with gaps between them, so that running past one never hits another.

mod allocation;
mod marks;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, PoisonError, RwLock};

pub(crate) use allocation::Allocation;
pub(crate) use marks::{STORED, WRITTEN};

/// Addresses of a card: its own, so that those of another card, and host addresses below the first card's, are outside.
/// They are never given out twice: what was freed stays a fault, and needs no bookkeeping.
const WINDOW: u64 = 1 << 52;
const ALIGNMENT: u64 = 256;
/// Freed allocations that messages can name.
const REMEMBERED: usize = 256;

/// Why memory could not be had or touched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// The card or the host has no room.
    #[error("{asked} bytes asked for, {used} in use of {limit}")]
    OutOfMemory {
        /// Bytes asked for.
        asked: u64,
        /// Bytes in live allocations.
        used: u64,
        /// Bytes of the card.
        limit: u64,
    },
    /// All addresses have been given out once.
    #[error("{asked} bytes asked for, but all {WINDOW} addresses of the card have been given out")]
    OutOfAddresses {
        /// Bytes asked for.
        asked: u64,
    },
    /// The address is in no live allocation, or the range leaves it.
    #[error("{bytes} bytes at {address:#x} are not in a live allocation; {nearest}")]
    Outside {
        /// Start of the range.
        address: u64,
        /// Its bytes.
        bytes: u64,
        /// The nearest allocation, in words.
        nearest: String,
    },
    /// Not what an allocation starts with.
    #[error("{0:#x} is not the start of a live allocation")]
    NotAnAllocation(u64),
}

#[derive(Default)]
struct Table {
    live: BTreeMap<u64, Arc<Allocation>>,
    freed: VecDeque<(u64, u64)>,
    next: u64,
    used: u64,
}

/// The memory of a card. Shared by all threads of the host.
pub struct GlobalMemory {
    table: RwLock<Table>,
    limit: u64,
    card: u8,
}

impl GlobalMemory {
    /// Empty memory of `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self::of_card(limit, 0)
    }

    /// The same for one of several cards; no two have an address in common.
    pub fn of_card(limit: u64, card: u8) -> Self {
        Self { table: RwLock::default(), limit, card }
    }

    /// The card whose memory has an address, allocated or not; `None` for host addresses.
    pub fn card_of(address: u64) -> Option<u8> {
        u8::try_from(address / WINDOW).ok()?.checked_sub(1)
    }

    /// Bytes in live allocations.
    pub fn used_bytes(&self) -> u64 {
        self.table.read().unwrap_or_else(PoisonError::into_inner).used
    }

    /// Allocates; contents count as unwritten. Addresses are multiples of 256.
    pub fn allocate(&self, bytes: u64) -> Result<u64, MemoryError> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let used = table.used;
        let none = || MemoryError::OutOfMemory { asked: bytes, used, limit: self.limit };
        if bytes > self.limit.saturating_sub(used) {
            return Err(none());
        }
        let taken = bytes
            .checked_next_multiple_of(ALIGNMENT)
            .and_then(|room| table.next.checked_add(room + ALIGNMENT))
            .filter(|taken| *taken <= WINDOW)
            .ok_or(MemoryError::OutOfAddresses { asked: bytes })?;
        let base = WINDOW * (u64::from(self.card) + 1) + table.next;
        let allocation = Allocation::new(base, bytes).ok_or_else(none)?;
        table.next = taken;
        table.used += bytes;
        table.live.insert(base, Arc::new(allocation));
        Ok(base)
    }

    /// Lets kernels use the first bytes of words of the host's, at the address that the host has them at. They take no
    /// room on the card.
    pub fn share(&self, words: &'static [AtomicU32], bytes: u64) -> Result<(), MemoryError> {
        let bytes = bytes.min(4 * words.len() as u64);
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let base = words.as_ptr().addr() as u64;
        let used = table.used;
        let none = || MemoryError::OutOfMemory { asked: bytes, used, limit: self.limit };
        let allocation = Allocation::of_host(base, bytes, words).ok_or_else(none)?;
        table.live.insert(base, Arc::new(allocation));
        Ok(())
    }

    /// Makes an allocation anew where it was, live or freed, as a graph does at each launch with its own.
    pub fn renew(&self, address: u64, bytes: u64) -> Result<(), MemoryError> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let used = table.used - table.live.get(&address).map_or(0, |live| live.bytes);
        let none = || MemoryError::OutOfMemory { asked: bytes, used, limit: self.limit };
        if bytes > self.limit.saturating_sub(used) {
            return Err(none());
        }
        let allocation = Allocation::new(address, bytes).ok_or_else(none)?;
        table.used = used + bytes;
        table.live.insert(address, Arc::new(allocation));
        Ok(())
    }

    /// Frees an allocation.
    pub fn free(&self, address: u64) -> Result<(), MemoryError> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let gone = table.live.remove(&address).ok_or(MemoryError::NotAnAllocation(address))?;
        table.used -= if gone.is_host() { 0 } else { gone.bytes };
        if table.freed.len() == REMEMBERED {
            table.freed.pop_front();
        }
        table.freed.push_back((gone.base, gone.bytes));
        Ok(())
    }

    /// The live allocation an address lies in: start and bytes.
    pub fn allocation(&self, address: u64) -> Option<(u64, u64)> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let (_, found) = table.live.range(..=address).next_back()?;
        (address - found.base < found.bytes).then_some((found.base, found.bytes))
    }

    /// The live allocations of the card's own: start and bytes.
    pub fn allocations(&self) -> Vec<(u64, u64)> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.live.values().filter(|a| !a.is_host()).map(|a| (a.base, a.bytes)).collect()
    }

    /// Reads as the host does: unwritten bytes come as they are.
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryError> {
        let (allocation, offset) = self.range(address, into.len() as u64)?;
        allocation.read(offset, into);
        Ok(())
    }

    /// Writes as the host does.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        let (allocation, offset) = self.range(address, bytes.len() as u64)?;
        allocation.write(offset, bytes);
        Ok(())
    }

    /// Zeros a range.
    pub(crate) fn clear(&self, address: u64, bytes: u64) -> Result<(), MemoryError> {
        const PIECE: u64 = 1 << 16;
        let (allocation, offset) = self.range(address, bytes)?;
        let zeros = vec![0; PIECE.min(bytes) as usize];
        for at in (0..bytes).step_by(PIECE as usize) {
            allocation.write(offset + at, &zeros[..PIECE.min(bytes - at) as usize]);
        }
        Ok(())
    }

    fn range(&self, address: u64, bytes: u64) -> Result<(Arc<Allocation>, u64), MemoryError> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let found = table.live.range(..=address).next_back().map(|(_, a)| a);
        match found {
            Some(a) if address - a.base <= a.bytes && bytes <= a.bytes - (address - a.base) => {
                Ok((a.clone(), address - a.base))
            }
            _ => {
                drop(table);
                Err(MemoryError::Outside { address, bytes, nearest: self.nearest(address) })
            }
        }
    }

    /// The nearest allocation to an address, in words.
    pub fn nearest(&self, address: u64) -> String {
        if let Some(other) = Self::card_of(address).filter(|card| *card != self.card) {
            return format!("it is an address of card {other}, and this is card {}", self.card);
        }
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let inside = |(base, bytes): &&(u64, u64)| address >= *base && address < base + bytes;
        if let Some((base, bytes)) = table.freed.iter().rev().find(inside) {
            return format!(
                "it is {} bytes into a freed allocation of {bytes} bytes at {base:#x}",
                address - base
            );
        }
        let below = table.live.range(..=address).next_back().map(|(_, a)| a);
        let above = table.live.range(address..).next().map(|(_, a)| a);
        // Bytes past the one, and before the other.
        let past = below.map(|a| (address - a.base - a.bytes.min(address - a.base), a));
        let before = above.map(|a| (a.base - address, a));
        let (bytes, side, a) = match (past, before) {
            (Some((past, b)), before) if before.is_none_or(|(bytes, _)| bytes >= past) => {
                (past, "past the end of", b)
            }
            (_, Some((bytes, a))) => (bytes, "before", a),
            _ => return "nothing is allocated".to_owned(),
        };
        format!("{bytes} bytes {side} the allocation of {} bytes at {:#x}", a.bytes, a.base)
    }

    /// Makes an allocation as it was when its image was taken.
    pub(crate) fn restore(
        &self,
        base: u64,
        bytes: u64,
        image: &(Vec<u32>, Vec<u16>),
    ) -> Result<(), MemoryError> {
        self.renew(base, bytes)?;
        let (made, _) = self.range(base, bytes)?;
        made.restore(image);
        Ok(())
    }

    /// The live allocations as a launch sees them.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        Snapshot { allocations: table.live.values().cloned().collect() }
    }
}

/// The allocations of one launch, in order of address.
pub(crate) struct Snapshot {
    allocations: Vec<Arc<Allocation>>,
}

impl Snapshot {
    /// All of them.
    pub fn allocations(&self) -> &[Arc<Allocation>] {
        &self.allocations
    }

    /// The allocation an address lies in.
    #[inline]
    pub fn find(&self, address: u64) -> Option<&Allocation> {
        let at = self.allocations.partition_point(|a| a.base <= address);
        let found = self.allocations.get(at.wrapping_sub(1))?;
        (address - found.base < found.bytes).then_some(found)
    }

    /// Starts counting distinct bytes anew; see [`LaunchConfig::overlaps`](crate::LaunchConfig::overlaps).
    pub fn begin_launch(&self, overlaps: bool) {
        self.allocations.iter().for_each(|a| a.begin_launch(overlaps));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[test]
    fn bounds_hold_to_the_byte_and_end_with_free() {
        let memory = GlobalMemory::new(1 << 20);
        let (first, second) = (memory.allocate(300).unwrap(), memory.allocate(1).unwrap());
        assert!(second >= first + 512, "a gap follows the first");
        memory.write(first + 299, &[1]).unwrap();
        assert!(memory.write(first + 299, &[1, 2]).is_err());
        assert!(memory.read(first + 300, &mut [0]).is_err());
        assert!(memory.nearest(first + 303).contains("3 bytes past"), "{}", memory.nearest(first + 303));
        memory.free(first).unwrap();
        assert!(memory.read(first, &mut [0]).is_err());
        assert!(memory.nearest(first + 4).contains("freed"));
        assert_eq!(memory.free(first), Err(MemoryError::NotAnAllocation(first)));
        assert_eq!(memory.used_bytes(), 1);
    }

    #[test]
    fn host_words_are_seen_by_both_sides() {
        static WORDS: [AtomicU32; 3] = [const { AtomicU32::new(0) }; 3];
        let memory = GlobalMemory::new(100);
        let at = WORDS.as_ptr().addr() as u64;
        memory.share(&WORDS, 11).unwrap();
        WORDS[1].store(0x0403_0201, Relaxed);
        let mut bytes = [0; 4];
        memory.read(at + 4, &mut bytes).unwrap();
        assert_eq!(bytes, [1, 2, 3, 4]);
        memory.write(at + 9, &[7]).unwrap();
        assert_eq!(WORDS[2].load(Relaxed), 0x0700);
        assert!(memory.snapshot().find(at).unwrap().written(0, 11), "the host may have written it");
        assert!(memory.read(at + 8, &mut [0; 4]).is_err());
        assert_eq!((memory.allocation(at + 1), memory.used_bytes()), (Some((at, 11)), 0));
        assert!(memory.allocations().is_empty());
        memory.free(at).unwrap();
        assert!(memory.read(at, &mut bytes).is_err());
    }

    #[test]
    fn cards_have_no_address_in_common() {
        let cards = [0, 1, 7].map(|card| GlobalMemory::of_card(1 << 20, card));
        let [first, second, last] = cards.each_ref().map(|memory| memory.allocate(8).unwrap());
        assert_eq!([first, second, last].map(GlobalMemory::card_of), [Some(0), Some(1), Some(7)]);
        assert_eq!(GlobalMemory::card_of(0x7fff_ffff_f000), None, "a host address");
        assert!(cards[0].write(second, &[1]).is_err() && cards[1].write(second, &[1]).is_ok());
        assert!(cards[0].nearest(last).contains("card 7"), "{}", cards[0].nearest(last));
    }

    #[test]
    fn addresses_are_given_out_once() {
        let memory = GlobalMemory::new(u64::MAX);
        let first = memory.allocate(64).unwrap();
        memory.free(first).unwrap();
        let second = memory.allocate(64).unwrap();
        assert_ne!(first, second);
        for _ in 0..2 * REMEMBERED {
            memory.free(memory.allocate(64).unwrap()).unwrap();
        }
        assert!(memory.read(first, &mut [0]).is_err(), "still freed, though no longer remembered by size");
        assert!(memory.table.read().unwrap().freed.len() <= REMEMBERED);
        let asked = WINDOW - ALIGNMENT;
        assert_eq!(memory.allocate(asked), Err(MemoryError::OutOfAddresses { asked }));
    }

    #[test]
    fn a_renewed_allocation_is_live_and_unwritten() {
        let memory = GlobalMemory::new(100);
        let at = memory.allocate(64).unwrap();
        for _ in 0..2 {
            memory.write(at, &[1; 64]).unwrap();
            memory.renew(at, 64).unwrap();
            assert!(!memory.snapshot().find(at).unwrap().written(0, 1));
            assert_eq!(memory.used_bytes(), 64);
        }
        memory.free(at).unwrap();
        let other = memory.allocate(64).unwrap();
        assert!(matches!(memory.renew(at, 64), Err(MemoryError::OutOfMemory { used: 64, .. })));
        memory.free(other).unwrap();
        memory.renew(at, 64).unwrap();
        assert_eq!((memory.allocation(at), memory.used_bytes()), (Some((at, 64)), 64));
    }

    #[test]
    fn a_launch_knows_what_the_one_before_did() {
        let memory = GlobalMemory::new(1 << 20);
        let at = memory.allocate(64).unwrap();
        let snapshot = memory.snapshot();
        let a = snapshot.find(at).unwrap();
        snapshot.begin_launch(false);
        a.touch(0, 8, false);
        a.touch(8, 2, true);
        assert!(!a.used_before(0, 64, true), "only this launch has used it");
        snapshot.begin_launch(true);
        assert!(a.used_before(4, 4, true) && !a.used_before(0, 8, false), "read, not stored");
        assert!(a.used_before(6, 3, false) && !a.used_before(12, 52, true));
        assert_eq!(a.touch(0, 8, false), 8, "counted anew");
        snapshot.begin_launch(false);
        assert!(!a.used_before(0, 64, true));
    }

    #[test]
    fn bytes_survive_unaligned_writes() {
        let memory = GlobalMemory::new(1 << 20);
        let at = memory.allocate(64).unwrap();
        let data: Vec<u8> = (1..=21).collect();
        memory.write(at + 3, &data).unwrap();
        let mut back = vec![0; 21];
        memory.read(at + 3, &mut back).unwrap();
        assert_eq!(back, data);
        let snapshot = memory.snapshot();
        let allocation = snapshot.find(at).unwrap();
        assert!(allocation.written(4, 16) && !allocation.written(24, 4) && allocation.written(3, 1));
        assert!(!allocation.written(2, 2));
        let touch = |offset, bytes| allocation.touch(offset, bytes, false);
        assert_eq!((touch(0, 16), touch(8, 16), touch(2, 1)), (16, 8, 0));
        assert!(!allocation.written(22, 4) && allocation.written(5, 2));
    }
}
