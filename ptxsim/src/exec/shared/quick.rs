//! The common case of the checks: whole words, written and read in an order that holds for whole warps. Whatever is not
//! that is left to the full checks, which also say what is wrong.

use super::super::warp::lanes_of;
use super::{ALL, Cell, LANE_BITS, SEVERAL, Shared, Sound, Stamp, Who};

impl Stamp {
    /// The write comes before what any lane of the warp does now.
    #[inline]
    pub(super) fn before_all(&self, who: &Who<'_>) -> bool {
        match usize::from(self.actor) {
            own if own == who.actor => self.epoch < who.full_sync,
            other => who.clock.get(other).is_some_and(|seen| *seen >= self.epoch),
        }
    }
}

impl Cell {
    /// Written by whole words, and nothing is under way to it.
    #[inline]
    fn is_plain(&self) -> bool {
        self.written == ALL && !self.incoming && !self.split
    }

    /// Nothing asynchronous uses it, and its bytes were written together.
    #[inline]
    pub(super) fn is_free(&self) -> bool {
        !self.incoming && !self.split && self.readers == 0
    }
}

impl Shared {
    /// Whether the checks of a warp's reads, `each` words from every place in `first` on, find nothing at a glance; then
    /// they are noted.
    pub fn reads_at_a_glance(&mut self, first: &[usize; 32], each: usize, exec: u32, who: Who<'_>) -> bool {
        match each {
            1 => self.reads_words::<1>(first, exec, who),
            2 => self.reads_words::<2>(first, exec, who),
            4 => self.reads_words::<4>(first, exec, who),
            _ => false,
        }
    }

    fn reads_words<const N: usize>(&mut self, first: &[usize; 32], exec: u32, who: Who<'_>) -> bool {
        let plain = self.checks.races && who.hidden.is_empty();
        let Some(warp) = who.warp.filter(|_| plain) else { return false };
        let entries = &mut self.reads[warp];
        entries.resize(self.words.len(), 0);
        let epoch = who.epoch();
        for lane in lanes_of(exec) {
            let (cells, entries) = (&mut self.cells[first[lane]..], &mut entries[first[lane]..]);
            let (Some(cells), Some(entries)) = (cells.first_chunk_mut::<N>(), entries.first_chunk_mut::<N>())
            else {
                return false;
            };
            for (cell, entry) in cells.iter_mut().zip(entries) {
                if !cell.is_plain() || !cell.write.before_all(&who) {
                    return false;
                }
                cell.read = true;
                let others = *entry >> LANE_BITS == epoch && *entry & 63 != lane as u32;
                *entry = epoch << LANE_BITS | if others { SEVERAL.into() } else { lane as u32 };
            }
        }
        true
    }

    /// Whether an asynchronous read of 16 bytes meets nothing but the latest write that was found right; then it is noted.
    #[inline]
    pub fn proxy_reads_at_a_glance(&mut self, offset: u32, bytes: u32, sound: &Sound) -> bool {
        let cells = self.cells[(offset / 4) as usize..].first_chunk_mut::<4>();
        let Some(cells) = cells.filter(|_| bytes == 16 && self.checks.asynchronous) else { return false };
        let right = |cell: &Cell| cell.is_plain() && sound.has_latest(cell) && cell.readers < u16::MAX;
        if !cells.iter().all(right) {
            return false;
        }
        cells.iter_mut().for_each(|cell| cell.readers += 1);
        self.reading += cells.len();
        true
    }

    /// Whether the checks of a write find nothing at a glance; then it is noted.
    #[inline]
    pub fn writes_at_a_glance(&mut self, offset: u32, bytes: u32, who: &Who<'_>) -> bool {
        let (first, words) = ((offset / 4) as usize, (bytes / 4) as usize);
        if bytes < 4 || !self.is_free_at_a_glance(first, words, who) {
            return false;
        }
        for cell in &mut self.cells[first..first + words] {
            (cell.written, cell.hollow, cell.read, cell.write) = (ALL, false, false, Stamp::of(who));
        }
        true
    }

    /// Whether words may be written, by the looks of it: after all writes and reads, and nothing asynchronous uses them.
    #[inline]
    pub fn is_free_at_a_glance(&self, first: usize, words: usize, who: &Who<'_>) -> bool {
        let plain = self.checks.races && who.hidden.is_empty() && !who.strong;
        let Some(warp) = who.warp.filter(|_| plain) else { return false };
        let cells = &self.cells[first..first + words];
        if !cells.iter().all(|cell| cell.is_free() && cell.write.before_all(who)) {
            return false;
        }
        let read = cells.iter().any(|cell| cell.read);
        let all = self.reads.iter().enumerate().filter(|(_, entries)| read && !entries.is_empty());
        let mut early = all.flat_map(|(reader, entries)| {
            let seen = match reader == warp {
                true => who.full_sync.saturating_sub(1),
                false => who.clock.get(self.first + reader).copied().unwrap_or(0),
            };
            entries[first..first + words].iter().filter(move |entry| *entry >> LANE_BITS > seen)
        });
        early.next().is_none()
    }
}
