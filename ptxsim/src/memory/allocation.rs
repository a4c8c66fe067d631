//! One allocation of global memory: its words, and what is known of them.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::marks::{Marks, STORED, TOUCHED, WRITTEN};

/// The words of an allocation: the simulator's own, or the host's, which sees at once what kernels store and the other
/// way round.
#[derive(Debug)]
enum Words {
    Own(Box<[AtomicU32]>),
    Host(&'static [AtomicU32]),
}

impl std::ops::Deref for Words {
    type Target = [AtomicU32];

    #[inline]
    fn deref(&self) -> &[AtomicU32] {
        match self {
            Words::Own(words) => words,
            Words::Host(words) => words,
        }
    }
}

/// One allocation. Threads of several blocks use it at once, so its words are atomics; every kernel
/// access is relaxed, which compiles to plain loads and stores.
#[derive(Debug)]
pub(crate) struct Allocation {
    pub base: u64,
    pub bytes: u64,
    words: Words,
    marks: Marks,
}

impl Allocation {
    pub fn new(base: u64, bytes: u64) -> Option<Self> {
        let count = usize::try_from(bytes.div_ceil(4)).ok()?;
        let words = Words::Own(bytemuck::allocation::try_zeroed_slice_box(count).ok()?);
        Some(Self { base, bytes, words, marks: Marks::new(count)? })
    }

    /// The first bytes of words of the host's, which are at `base`.
    pub fn of_host(base: u64, bytes: u64, words: &'static [AtomicU32]) -> Option<Self> {
        Some(Self { base, bytes, words: Words::Host(words), marks: Marks::new(words.len())? })
    }

    /// What the host writes is not seen: all of its memory counts as written.
    pub fn is_host(&self) -> bool {
        matches!(self.words, Words::Host(_))
    }

    /// Reads up to 8 bytes at an offset that is a multiple of them.
    #[inline]
    pub fn load(&self, offset: u64, bytes: u32) -> u64 {
        let word = (offset / 4) as usize;
        match bytes {
            4 => self.words[word].load(Relaxed).into(),
            8 => {
                u64::from(self.words[word].load(Relaxed))
                    | u64::from(self.words[word + 1].load(Relaxed)) << 32
            }
            _ => {
                let shift = (offset % 4) * 8;
                u64::from(self.words[word].load(Relaxed)) >> shift & ((1 << (8 * bytes)) - 1)
            }
        }
    }

    /// Writes likewise.
    #[inline]
    pub fn store(&self, offset: u64, bytes: u32, value: u64) {
        let word = (offset / 4) as usize;
        match bytes {
            4 => {
                self.words[word].store(value as u32, Relaxed);
                self.marks.add(word, WRITTEN);
            }
            8 => {
                self.words[word].store(value as u32, Relaxed);
                self.words[word + 1].store((value >> 32) as u32, Relaxed);
                self.marks.write(offset, 8);
            }
            _ => {
                let shift = (offset % 4) * 8;
                let mask = (((1u64 << (8 * bytes)) - 1) << shift) as u32;
                let new = (value << shift) as u32 & mask;
                // Neighbouring bytes may be written by another thread at the same time.
                let _ = self.words[word].fetch_update(Relaxed, Relaxed, |old| Some((old & !mask) | new));
                self.marks.write(offset, bytes.into());
            }
        }
    }

    /// Replaces a word or half word as one atomic step; returns what was there.
    pub fn update32(&self, offset: u64, f: impl Fn(u32) -> u32) -> u32 {
        let word = (offset / 4) as usize;
        self.marks.add(word, WRITTEN);
        match self.words[word].fetch_update(Relaxed, Relaxed, |old| Some(f(old))) {
            Ok(old) | Err(old) => old,
        }
    }

    /// All bytes of a range are written.
    #[inline]
    pub fn written(&self, offset: u64, bytes: u32) -> bool {
        self.is_host() || self.marks.written(offset, bytes)
    }

    /// The bits of up to 8 bytes that nothing has written.
    pub fn undefined(&self, offset: u64, bytes: u32) -> u64 {
        let unwritten = (0..bytes).filter(|i| !self.written(offset + u64::from(*i), 1));
        unwritten.fold(0, |bits, i| bits | 0xff << (8 * i))
    }

    /// What these bytes hold is nothing that anyone has written: they were copied from such.
    pub fn forget(&self, offset: u64, bytes: u32) {
        self.marks.forget(offset, bytes);
    }

    /// Adds the places in a range whose bytes nothing has written to `found`, from `base` on.
    pub fn unwritten(&self, offset: u64, bytes: u32, base: u32, found: &mut Vec<u32>) {
        if !self.written(offset, bytes) {
            found.extend((0..bytes).filter(|i| !self.written(offset + u64::from(*i), 1)).map(|i| base + i));
        }
    }

    /// This launch uses a range; how many of its bytes it uses for the first time.
    #[inline]
    pub fn touch(&self, offset: u64, bytes: u32, stores: bool) -> u32 {
        self.marks.touch(offset, bytes, stores)
    }

    /// Reads words of a warp's lanes, `each` from every place in `first` on: how many bytes this launch uses for the first
    /// time. `None`, and nothing done, if `written` and a word is not.
    pub fn read_all(&self, first: &[usize; 32], each: usize, written: bool) -> Option<u32> {
        let common = self.marks.common(first, each);
        if written && common & WRITTEN != WRITTEN {
            return None;
        }
        Some(if common & TOUCHED == TOUCHED { 0 } else { self.marks.add_all(first, each, TOUCHED) })
    }

    /// Reads `bytes` at each offset likewise.
    pub fn read_parts(
        &self,
        offsets: impl Iterator<Item = u64> + Clone,
        bytes: u32,
        written: bool,
    ) -> Option<u32> {
        if written && !offsets.clone().all(|offset| self.written(offset, bytes)) {
            return None;
        }
        Some(offsets.map(|offset| self.touch(offset, bytes, false)).sum())
    }

    /// Writes words likewise, which [`Allocation::set_word`] does not mark.
    pub fn write_all(&self, first: &[usize; 32], each: usize) -> u32 {
        self.marks.add_all(first, each, WRITTEN | TOUCHED | STORED)
    }

    #[inline]
    pub fn word(&self, at: usize) -> u32 {
        self.words[at].load(Relaxed)
    }

    #[inline]
    pub fn set_word(&self, at: usize, value: u32) {
        self.words[at].store(value, Relaxed);
    }

    /// The launch before stored to a word of the range; `touched`: used one in any way.
    pub fn used_before(&self, offset: u64, bytes: u32, touched: bool) -> bool {
        self.marks.used_before(offset, bytes, touched)
    }

    /// A launch starts: with `overlaps`, what the last one did is kept as what the launch before did.
    pub fn begin_launch(&self, overlaps: bool) {
        self.marks.begin_launch(overlaps);
    }

    /// Its words, and their marks.
    pub fn image(&self) -> (Vec<u32>, Vec<u16>) {
        let words = self.words.iter().map(|word| word.load(Relaxed));
        // What the host shares, the host has written.
        let host = if self.is_host() { WRITTEN } else { 0 };
        (words.collect(), (0..self.words.len()).map(|word| self.marks.of(word) | host).collect())
    }

    /// Becomes what an image shows; it is new.
    pub fn restore(&self, (words, marks): &(Vec<u32>, Vec<u16>)) {
        // What is zero is so already, and costs no page.
        for (word, held) in words.iter().zip(self.words.iter()).filter(|(word, _)| **word != 0) {
            held.store(*word, Relaxed);
        }
        for (word, mark) in marks.iter().enumerate().take(self.words.len()) {
            self.marks.add(word, *mark);
        }
    }

    pub fn read(&self, offset: u64, into: &mut [u8]) {
        if offset.is_multiple_of(4) && into.len().is_multiple_of(4) {
            let words = &self.words[(offset / 4) as usize..];
            for (four, word) in into.chunks_exact_mut(4).zip(words) {
                four.copy_from_slice(&word.load(Relaxed).to_le_bytes());
            }
            return;
        }
        for (i, byte) in into.iter_mut().enumerate() {
            let at = offset + i as u64;
            *byte = (self.words[(at / 4) as usize].load(Relaxed) >> (8 * (at % 4))) as u8;
        }
    }

    pub fn write(&self, offset: u64, bytes: &[u8]) {
        // Up to a word's start, words, and what is left.
        let (first, rest) = bytes.split_at(bytes.len().min((offset.wrapping_neg() % 4) as usize));
        let (words, last) = rest.as_chunks::<4>();
        let single =
            |at: u64, bytes: &[u8]| (at..).zip(bytes).for_each(|(at, b)| self.store(at, 1, (*b).into()));
        single(offset, first);
        let offset = offset + first.len() as u64;
        for (held, word) in self.words[(offset / 4) as usize..].iter().zip(words) {
            held.store(u32::from_le_bytes(*word), Relaxed);
        }
        self.marks.write(offset, 4 * words.len() as u64);
        single(offset + 4 * words.len() as u64, last);
    }
}
