//! What is known of each word of an allocation: 16 bits, four words at a time, as most accesses are of 16 bytes or more.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};

/// The mark of a word: which of its bytes were ever written.
pub(crate) const WRITTEN: u16 = 0x000f;
/// Which bytes this launch touched.
const TOUCHED_SHIFT: u32 = 4;
pub(super) const TOUCHED: u16 = 0x00f0;
/// This launch stored to the word.
pub(crate) const STORED: u16 = 0x0100;
/// The launch before touched the word, or stored to it.
const TOUCHED_BEFORE: u16 = 0x0200;
const STORED_BEFORE: u16 = 0x0400;

/// Words of a group.
const GROUP: usize = 4;
/// Groups that are cleared together: a launch that touches little of a large allocation costs the next one little.
const PAGE: usize = 4096;
/// The lowest bit of each word's mark.
const EACH: u64 = 0x0001_0001_0001_0001;

/// The marks of all words. Threads of several blocks change them at once.
#[derive(Debug)]
pub(super) struct Marks {
    groups: Box<[AtomicU64]>,
    /// Of each page: some may be of launches.
    used: Box<[AtomicBool]>,
}

impl Marks {
    /// Of so many words, none of which is marked. `None` without room.
    pub fn new(words: usize) -> Option<Self> {
        let groups = words.div_ceil(GROUP);
        let used = bytemuck::allocation::try_zeroed_slice_box(groups.div_ceil(PAGE)).ok()?;
        Some(Self { groups: bytemuck::allocation::try_zeroed_slice_box(groups).ok()?, used })
    }

    /// Where the mark of a word is: its group and shift.
    #[inline]
    fn place(word: usize) -> (usize, usize) {
        (word / GROUP, 16 * (word % GROUP))
    }

    #[inline]
    pub fn of(&self, word: usize) -> u16 {
        let (group, shift) = Self::place(word);
        (self.groups[group].load(Relaxed) >> shift) as u16
    }

    /// Adds to the mark of a word; what of it is new.
    #[inline]
    pub fn add(&self, word: usize, mark: u16) -> u16 {
        let (group, shift) = Self::place(word);
        (self.add_to(group, u64::from(mark) << shift) >> shift) as u16
    }

    #[inline]
    fn add_to(&self, at: usize, marks: u64) -> u64 {
        let group = &self.groups[at];
        // Most are there already, which a plain load tells.
        if group.load(Relaxed) & marks == marks {
            return 0;
        }
        let new = marks & !group.fetch_or(marks, Relaxed);
        // Who sees this sees the marks: they are cleared by the next launch, or by the one after it.
        self.used[at / PAGE].store(true, Release);
        new
    }

    /// What the marks of a warp's words have in common, `each` from every place in `first` on.
    #[inline]
    pub fn common(&self, first: &[usize; 32], each: usize) -> u16 {
        if each != GROUP {
            return words_of(first, each).fold(u16::MAX, |common, word| common & self.of(word));
        }
        // Aligned, so each is a group.
        let all = first.iter().fold(u64::MAX, |all, word| all & self.groups[word / GROUP].load(Relaxed));
        let halves = all & all >> 32;
        (halves & halves >> 16) as u16
    }

    /// Adds to the marks of a warp's words; how many bytes are touched for the first time.
    #[inline]
    pub fn add_all(&self, first: &[usize; 32], each: usize, mark: u16) -> u32 {
        match each == GROUP {
            true => {
                let marks = EACH * u64::from(mark);
                first.iter().map(|word| touched(self.add_to(word / GROUP, marks))).sum()
            }
            false => words_of(first, each).map(|word| touched(self.add(word, mark))).sum(),
        }
    }

    /// The groups that a range of bytes reaches, and in each the bits of [`WRITTEN`] of its bytes.
    #[inline]
    fn groups(offset: u64, bytes: u64) -> impl Iterator<Item = (usize, u64)> {
        const BYTES: u64 = 4 * GROUP as u64;
        let end = offset + bytes;
        (offset / BYTES..end.div_ceil(BYTES)).map(move |group| {
            let from = offset.max(group * BYTES) - group * BYTES;
            let to = end.min(group * BYTES + BYTES) - group * BYTES;
            let all = (1u64 << to) - (1u64 << from);
            // Four bits of each 16.
            let bits = [0, 1, 2, 3].map(|word| (all >> (4 * word) & 0xf) << (16 * word));
            (group as usize, bits.into_iter().fold(0, |all, bits| all | bits))
        })
    }

    /// All bytes of a range are written.
    #[inline]
    pub fn written(&self, offset: u64, bytes: u32) -> bool {
        Self::groups(offset, bytes.into())
            .all(|(group, bits)| self.groups[group].load(Relaxed) & bits == bits)
    }

    /// The bytes of a range count as written.
    #[inline]
    pub fn write(&self, offset: u64, bytes: u64) {
        Self::groups(offset, bytes).for_each(|(group, bits)| _ = self.add_to(group, bits));
    }

    /// The bytes of a range count as never written.
    pub fn forget(&self, offset: u64, bytes: u32) {
        Self::groups(offset, bytes.into())
            .for_each(|(group, bits)| _ = self.groups[group].fetch_and(!bits, Relaxed));
    }

    /// This launch uses a range; how many of its bytes it uses for the first time.
    #[inline]
    pub fn touch(&self, offset: u64, bytes: u32, stores: bool) -> u32 {
        let mut fresh = 0;
        for (group, bits) in Self::groups(offset, bytes.into()) {
            let stored = if stores { any(bits) * u64::from(STORED) } else { 0 };
            fresh += touched(self.add_to(group, bits << TOUCHED_SHIFT | stored));
        }
        fresh
    }

    /// The launch before stored to a word of the range; `touched`: used one in any way.
    pub fn used_before(&self, offset: u64, bytes: u32, touched: bool) -> bool {
        let wanted = u64::from(if touched { TOUCHED_BEFORE } else { STORED_BEFORE });
        Self::groups(offset, bytes.into())
            .any(|(group, bits)| self.groups[group].load(Relaxed) & (any(bits) * wanted) != 0)
    }

    /// A launch starts: with `overlaps`, what the last one did is kept as what the launch before did.
    pub fn begin_launch(&self, overlaps: bool) {
        for (used, groups) in self.used.iter().zip(self.groups.chunks(PAGE)) {
            if used.swap(false, Acquire) && begin_launch(groups, overlaps) {
                used.store(true, Release);
            }
        }
    }
}

/// Of some groups; whether any marks of a launch are left.
fn begin_launch(groups: &[AtomicU64], overlaps: bool) -> bool {
    const WRITTEN_EACH: u64 = EACH * WRITTEN as u64;
    let mut left = false;
    for group in groups {
        let old = group.load(Relaxed);
        let mut new = old & WRITTEN_EACH;
        if overlaps {
            new |= any(old >> TOUCHED_SHIFT) * u64::from(TOUCHED_BEFORE);
            new |= (old >> STORED.trailing_zeros() & EACH) * u64::from(STORED_BEFORE);
        }
        left |= new & !WRITTEN_EACH != 0;
        // What another thread marks meanwhile stays.
        if old & !new != 0 {
            group.fetch_and(!(old & !new), Relaxed);
        }
        if new & !old != 0 {
            group.fetch_or(new, Relaxed);
        }
    }
    left
}

/// Words of a warp's lanes.
#[inline]
fn words_of(first: &[usize; 32], each: usize) -> impl Iterator<Item = usize> {
    first.iter().flat_map(move |at| *at..*at + each)
}

/// The lowest bit for each word of which one of the lowest four is set.
fn any(bits: u64) -> u64 {
    (bits | bits >> 1 | bits >> 2 | bits >> 3) & EACH
}

/// How many bytes a group's marks, or a word's, say are touched.
#[inline]
pub(super) fn touched(marks: impl Into<u64>) -> u32 {
    (marks.into() & (EACH * u64::from(TOUCHED))).count_ones()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warps_words_are_marked_as_one_by_one() {
        for each in [1, 2, 4] {
            let (all, single) = (Marks::new(300).unwrap(), Marks::new(300).unwrap());
            // Neighbours, some twice.
            let first: [usize; 32] = std::array::from_fn(|lane| 8 + lane / 2 * each);
            let words = || words_of(&first, each);
            for marks in [&all, &single] {
                marks.write(0, 1200);
            }
            for word in 8..8 + each {
                all.forget(4 * word as u64 + 2, 1);
                assert_eq!(all.common(&first, each), 0b1011, "{word} of {each}");
                all.write(4 * word as u64 + 2, 1);
                assert_eq!(all.common(&first, each), WRITTEN);
            }
            let mark = WRITTEN | TOUCHED | STORED;
            let fresh: u32 = words().map(|word| touched(single.add(word, mark))).sum();
            assert_eq!((all.add_all(&first, each, mark), fresh), (64 * each as u32, 64 * each as u32));
            assert_eq!((all.add_all(&first, each, mark), all.common(&first, each)), (0, mark));
            for word in 0..300 {
                assert_eq!(all.of(word), single.of(word), "{each} at {word}");
            }
        }
    }

    /// In whatever order threads mark and a launch begins: Miri tries many.
    #[test]
    fn marks_of_several_threads_stay() {
        for _ in 0..if cfg!(miri) { 1 } else { 100 } {
            let marks = Marks::new(8).unwrap();
            marks.touch(0, 20, true);
            let started = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| marks.write(0, 6));
                scope.spawn(|| marks.write(6, 10));
                let touched = scope.spawn(|| {
                    started.store(true, Relaxed);
                    marks.touch(16, 16, false)
                });
                while !started.load(Relaxed) {
                    std::thread::yield_now();
                }
                marks.begin_launch(true);
                // Four of them may have been touched by the launch that ends.
                let fresh = touched.join().unwrap();
                assert!([12, 16].contains(&fresh), "{fresh}");
            });
            assert!(marks.written(0, 16) && !marks.written(16, 1));
            assert!(marks.used_before(0, 16, false) && marks.touch(0, 16, true) == 16);
            let (this, before) = (marks.of(5) & TOUCHED != 0, marks.used_before(20, 4, true));
            assert!(this || before, "what was touched while a launch began is of neither");
            marks.begin_launch(false);
            assert!((0..8).all(|word| marks.of(word) == if word < 4 { WRITTEN } else { 0 }));
        }
    }

    #[test]
    fn launches_clear_every_page() {
        let bytes = 16 * PAGE as u64;
        let marks = Marks::new(3 * 4 * PAGE).unwrap();
        for at in [bytes - 8, 3 * bytes - 16] {
            assert_eq!(marks.touch(at, 16, true), 16);
            marks.begin_launch(true);
            assert!(marks.used_before(at, 16, false) && marks.touch(at, 16, true) == 16);
            marks.begin_launch(false);
            assert!(!marks.used_before(at, 16, true) && marks.touch(at, 16, true) == 16);
        }
    }

    #[test]
    fn ranges_end_where_they_end() {
        for (offset, bytes) in [(0, 16), (3, 1), (5, 30), (12, 8), (15, 2), (16, 64)] {
            let marks = Marks::new(32).unwrap();
            marks.write(offset, bytes.into());
            assert_eq!(marks.touch(offset, bytes, true), bytes);
            for at in 0..128 {
                let inside = (offset..offset + u64::from(bytes)).contains(&at);
                assert_eq!(marks.written(at, 1), inside, "{at} of {offset} and {bytes}");
                let (word, byte) = ((at / 4) as usize, at % 4);
                assert_eq!(marks.of(word) >> (TOUCHED_SHIFT as u64 + byte) & 1 == 1, inside);
                let stored = (word as u64 * 4) < offset + u64::from(bytes) && word as u64 * 4 + 4 > offset;
                assert_eq!(marks.of(word) & STORED != 0, stored);
            }
            marks.begin_launch(true);
            assert!(marks.used_before(offset, bytes, false) && marks.touch(offset, bytes, false) == bytes);
            marks.forget(offset, bytes);
            assert!((0..128).all(|at| !marks.written(at, 1)));
            // Nothing used in between: the launch before the next one did nothing.
            let marks = Marks::new(32).unwrap();
            marks.touch(offset, bytes, false);
            marks.begin_launch(true);
            marks.begin_launch(true);
            assert!(!marks.used_before(0, 128, true), "{offset} and {bytes}");
        }
    }
}
