//! Shared memory of a block, and what is known of each word: who wrote it when, who read it since,
//! which asynchronous work still uses it.
//!
//! Order is kept by vector clocks. Every warp of the cluster is an actor with an epoch that grows when it
//! publishes (barrier arrival, warp sync); every mbarrier is an actor for the copies that complete on it.
//! Actor `a` has seen actor `b`'s write of epoch `e` if `a`'s clock for `b` is at least `e`. Warps are
//! coarser than threads: an order that one thread of a warp acquires counts for its warp, so races may be
//! missed there, but correct code is never blamed.

mod quick;

use std::collections::HashMap;

use super::clock::{Hidden, join};
use super::options::Checks;
use crate::fault::{FaultKind, Outcome, Trouble};

/// Lane number of a stamp that several lanes made at once.
const SEVERAL: u8 = 63;
/// Lane number of asynchronous writers.
const ASYNCHRONOUS: u8 = 62;
const LANE_BITS: u32 = 6;
/// Marks of all bytes of a word.
const ALL: u8 = 15;
/// What readers do, the asynchronous ones too.
const READ: &str = "read";

/// Who touches memory, and what it has seen.
#[derive(Clone, Copy)]
pub struct Who<'a> {
    pub actor: usize,
    /// Warp within the block that owns the memory; `None` for other blocks of the cluster.
    pub warp: Option<usize>,
    pub lane: usize,
    pub clock: &'a [u32],
    pub hidden: &'a [Hidden],
    /// Epoch of the last sync of the whole warp.
    pub full_sync: u32,
    /// Epochs of syncs of part of the warp, by pair of lanes.
    pub pair_sync: Option<&'a [[u32; 32]; 32]>,
    /// An atomic or volatile access: no race with its like.
    pub strong: bool,
}

impl Who<'_> {
    fn epoch(&self) -> u32 {
        self.clock.get(self.actor).copied().unwrap_or(0)
    }

    /// A stamp of the same warp happened before: same lane, or a warp sync since.
    fn synced(&self, lane: u8, epoch: u32) -> bool {
        usize::from(lane) == self.lane
            || epoch < self.full_sync
            || self
                .pair_sync
                .is_some_and(|sync| sync.get(usize::from(lane)).is_some_and(|row| epoch < row[self.lane]))
    }
}

/// Last write of a word or byte.
#[derive(Clone, Copy, Default, PartialEq)]
pub struct Stamp {
    epoch: u32,
    actor: u16,
    lane: u8,
    kind: Kind,
}

/// How a word was written.
#[derive(Clone, Copy, Default, PartialEq)]
enum Kind {
    #[default]
    Ordinary,
    /// By an atomic or volatile access.
    Strong,
    /// By a `cp.async`.
    Copied,
}

impl Stamp {
    fn of(who: &Who<'_>) -> Self {
        let kind = if who.strong { Kind::Strong } else { Kind::Ordinary };
        Self { epoch: who.epoch(), actor: who.actor as u16, lane: who.lane as u8, kind }
    }

    fn asynchronous(actor: usize, epoch: u32, kind: Kind) -> Self {
        Self { epoch, actor: actor as u16, lane: ASYNCHRONOUS, kind }
    }

    fn before(&self, who: &Who<'_>) -> bool {
        self.epoch == 0
            || (self.kind == Kind::Strong && who.strong)
            || if usize::from(self.actor) == who.actor {
                who.synced(self.lane, self.epoch)
            } else {
                who.clock.get(usize::from(self.actor)).is_some_and(|seen| *seen >= self.epoch)
            }
    }
}

/// Writes that were found right for one asynchronous access: most words that it meets have the same.
#[derive(Default)]
pub struct Sound {
    /// Of each actor and kind the latest, which those before it follow.
    writes: Vec<Stamp>,
    latest: Option<Stamp>,
    /// It met words whose bytes have writes of their own.
    split: bool,
}

impl Sound {
    #[inline]
    fn has_latest(&self, cell: &Cell) -> bool {
        !cell.split && self.latest == Some(cell.write)
    }

    fn add(&mut self, cell: &Cell) {
        // Of a word whose bytes have writes of their own, this one says nothing.
        self.latest = (!cell.split).then_some(cell.write);
        self.split |= cell.split;
        let source = |s: &Stamp| (s.actor, s.kind, s.lane == ASYNCHRONOUS);
        match self.writes.iter_mut().find(|held| source(held) == source(&cell.write)) {
            Some(held) => held.epoch = held.epoch.max(cell.write.epoch),
            None => self.writes.push(cell.write),
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Cell {
    write: Stamp,
    /// Bytes that were ever written.
    written: u8,
    /// An unfinished `cp.async` will write here.
    incoming: bool,
    /// Bytes have stamps of their own.
    split: bool,
    /// What is unwritten here was copied from memory that nothing had written.
    hollow: bool,
    /// A thread has read it since it was last written after all reads.
    read: bool,
    /// Asynchronous readers that have not finished.
    readers: u16,
}

/// Bytes of a block's shared memory.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    pub offset: u32,
    pub bytes: u32,
}

pub struct Shared {
    words: Vec<u32>,
    cells: Vec<Cell>,
    /// By warp, once it has read any: its last read of each word, epoch and lane.
    reads: Vec<Vec<u32>>,
    split: HashMap<usize, [Stamp; 4]>,
    /// Actor of the block's first warp.
    first: usize,
    bytes: u32,
    checks: Checks,
    /// Latest epoch, by actor, of what other blocks of the cluster and copies did here.
    visits: Vec<u32>,
    /// What the block's exited warps have seen, and whether all have exited.
    seen: Vec<u32>,
    exited: bool,
    /// Words that asynchronous readers have not finished with, once for each.
    reading: usize,
}

impl Shared {
    /// `bytes` of a block whose `warps` are the actors from `first` on.
    pub fn new(bytes: u32, warps: usize, first: usize, checks: Checks) -> Self {
        let words = bytes.div_ceil(4) as usize;
        Self {
            words: vec![0; words],
            cells: vec![Cell::default(); words],
            reads: vec![Vec::new(); warps],
            split: HashMap::new(),
            first,
            bytes,
            checks,
            visits: Vec::new(),
            seen: Vec::new(),
            exited: false,
            reading: 0,
        }
    }

    /// An access by another block, or by a copy: the memory is gone once its block has exited.
    fn visit(&mut self, actor: usize, epoch: u32) -> Outcome {
        if self.exited {
            let what = "access to the shared memory of a block of the cluster that has exited";
            return Err(Trouble::new(FaultKind::OutOfBounds, what));
        }
        self.visits.resize(self.visits.len().max(actor + 1), 0);
        self.visits[actor] = epoch;
        Ok(())
    }

    /// A warp of the block exits. With the last one every access by other blocks and every copy must have happened before.
    pub fn leave(&mut self, clock: &[u32], last: bool) -> Outcome {
        self.seen.resize(clock.len(), 0);
        join(&mut self.seen, clock);
        self.exited = last;
        let unseen = self.visits.iter().zip(&self.seen).any(|(visit, seen)| visit > seen);
        if last && self.checks.races && unseen {
            let what = "the block exits, and nothing orders a copy, or another block's access, to its shared memory \
                        before that";
            return Err(Trouble::new(FaultKind::Race, what));
        }
        if last && self.reading > 0 {
            let what = "the block exits while asynchronous work still reads its shared memory";
            return Err(Trouble::new(FaultKind::AsyncPending, what));
        }
        Ok(())
    }

    /// Bounds and alignment of an access.
    pub fn check(&self, offset: u32, bytes: u32) -> Outcome {
        if !offset.is_multiple_of(bytes.min(16)) {
            let what = format!("{bytes} bytes of shared memory at offset {offset:#x} are not aligned");
            return Err(Trouble::new(FaultKind::Misaligned, what).at(offset.into()));
        }
        self.check_range(offset, bytes)
    }

    pub fn check_range(&self, offset: u32, bytes: u32) -> Outcome {
        if u64::from(offset) + u64::from(bytes) > u64::from(self.bytes) {
            let what = format!("{bytes} bytes at offset {offset} of {} bytes of shared memory", self.bytes);
            return Err(Trouble::new(FaultKind::OutOfBounds, what).at(offset.into()));
        }
        Ok(())
    }

    /// The plain bits of whole words; checked before.
    #[inline]
    pub fn words(&self, offset: u32, bytes: u32) -> &[u32] {
        &self.words[(offset / 4) as usize..][..(bytes / 4) as usize]
    }

    /// A word's plain bits; checked before.
    #[inline]
    pub fn word(&self, at: usize) -> u32 {
        self.words[at]
    }

    /// Sets a word's bits; checked before.
    #[inline]
    pub fn set_word(&mut self, at: usize, value: u32) {
        self.words[at] = value;
    }

    /// The plain bits of up to 8 bytes; checked before.
    pub fn peek(&self, offset: u32, bytes: u32) -> u64 {
        let word = (offset / 4) as usize;
        match bytes {
            4 => self.words[word].into(),
            8 => u64::from(self.words[word]) | u64::from(self.words[word + 1]) << 32,
            _ => u64::from(self.words[word]) >> (8 * (offset % 4)) & ((1 << (8 * bytes)) - 1),
        }
    }

    /// Sets bits; checked before.
    pub fn poke(&mut self, offset: u32, bytes: u32, value: u64) {
        let word = (offset / 4) as usize;
        match bytes {
            4 => self.words[word] = value as u32,
            8 => {
                self.words[word] = value as u32;
                self.words[word + 1] = (value >> 32) as u32;
            }
            _ => {
                let shift = 8 * (offset % 4);
                let mask = (((1u64 << (8 * bytes)) - 1) << shift) as u32;
                self.words[word] = (self.words[word] & !mask) | ((value << shift) as u32 & mask);
            }
        }
    }

    /// The latest write of a word, of all its bytes.
    #[inline]
    fn stamp(&mut self, word: usize, write: Stamp) {
        let cell = &mut self.cells[word];
        cell.write = write;
        if std::mem::take(&mut cell.split) {
            self.split.remove(&word);
        }
    }

    /// Every check of a read by a thread.
    pub fn reading(&mut self, offset: u32, bytes: u32, who: &Who<'_>) -> Outcome {
        if who.warp.is_none() {
            self.visit(who.actor, who.epoch())?;
        }
        for word in words_of(offset, bytes) {
            let cell = self.cells[word];
            if self.checks.asynchronous && cell.incoming {
                let what = "read before the cp.async that writes it was waited for";
                return Err(Trouble::new(FaultKind::AsyncPending, what).at(word as u64 * 4));
            }
            if self.checks.loads && !cell.incoming {
                self.require_written(word, offset, bytes)?;
            }
            if !self.checks.races {
                continue;
            }
            self.after_writes(word, offset, bytes, who, READ)?;
            if let Some(warp) = who.warp {
                let words = self.words.len();
                let entries = &mut self.reads[warp];
                entries.resize(words, 0);
                let entry = &mut entries[word];
                let epoch = who.epoch();
                let lane = match *entry >> LANE_BITS == epoch && *entry & 63 != who.lane as u32 {
                    true => u32::from(SEVERAL),
                    false => who.lane as u32,
                };
                *entry = epoch << LANE_BITS | lane;
                self.cells[word].read = true;
            }
        }
        Ok(())
    }

    fn require_written(&self, word: usize, offset: u32, bytes: u32) -> Outcome {
        let wanted = bytes_of_word(offset, bytes);
        if self.cells[word].written & wanted != wanted {
            let what = match self.cells[word].hollow {
                true => "read of shared memory copied from memory that nothing has written",
                false => "read of shared memory that nothing has written",
            };
            return Err(Trouble::new(FaultKind::Uninitialized, what).at(word as u64 * 4));
        }
        Ok(())
    }

    /// The bits of up to 8 bytes that nothing has written; none where nobody asks.
    pub fn undefined(&self, offset: u32, bytes: u32) -> u64 {
        // Where loads are checked, what is read has been written.
        if !self.checks.written || self.checks.loads {
            return 0;
        }
        if self.cells[words_of(offset, bytes)].iter().all(|cell| cell.written == ALL) {
            return 0;
        }
        let written = |byte: u32| self.cells[(byte / 4) as usize].written >> (byte % 4) & 1 == 1;
        (0..bytes).filter(|i| !written(offset + i)).fold(0, |bits, i| bits | 0xff << (8 * i))
    }

    /// Whether every write to the bytes of a word happened before.
    fn after_writes(&self, word: usize, offset: u32, bytes: u32, who: &Who<'_>, verb: &str) -> Outcome {
        let cell = self.cells[word];
        let stamps: &[Stamp] = match cell.split {
            true => {
                let all = self.split.get(&word).map_or(&[][..], |s| &s[..]);
                if bytes < 4 {
                    all.get((offset % 4) as usize..((offset % 4) + bytes) as usize).unwrap_or(all)
                } else {
                    all
                }
            }
            false => std::slice::from_ref(&cell.write),
        };
        let hidden = |s: &Stamp| who.hidden.iter().any(|h| h.holds(s.actor.into(), s.epoch));
        // Who writes need not see what was written before.
        let reads = verb.ends_with(READ);
        match stamps.iter().find(|stamp| !stamp.before(who) || reads && hidden(stamp)) {
            None => Ok(()),
            Some(stamp) => Err(self.race(word, who, verb, &writer(stamp, who))),
        }
    }

    fn race(&self, word: usize, who: &Who<'_>, verb: &str, other: &str) -> Trouble {
        let what = format!(
            "{verb} of shared memory at offset {:#x} races with {other}: nothing orders them",
            word * 4
        );
        Trouble::new(FaultKind::Race, what).at(word as u64 * 4).by(who.lane)
    }

    /// Every check of a write by a thread; `same` tells that the bits do not change.
    pub fn writing(&mut self, offset: u32, bytes: u32, who: &Who<'_>, same: bool) -> Outcome {
        if who.warp.is_none() {
            self.visit(who.actor, who.epoch())?;
        }
        for word in words_of(offset, bytes) {
            self.free_of_asynchronous(word)?;
            if self.checks.races && !same {
                self.after_writes(word, offset, bytes, who, "write")?;
                self.after_reads(word, who)?;
            }
            let cell = &mut self.cells[word];
            cell.written |= bytes_of_word(offset, bytes);
            if bytes >= 4 {
                cell.hollow = false;
                // Lanes that write the same bits at once: nobody can tell whose they are.
                self.stamp(word, Stamp::of(who));
            } else if self.checks.races {
                let old = cell.write;
                cell.split = true;
                let stamps = self.split.entry(word).or_insert([old; 4]);
                for stamp in stamps.iter_mut().skip((offset % 4) as usize).take(bytes as usize) {
                    *stamp = Stamp::of(who);
                }
            }
        }
        Ok(())
    }

    fn free_of_asynchronous(&self, word: usize) -> Outcome {
        let cell = self.cells[word];
        if self.checks.asynchronous && (cell.incoming || cell.readers > 0) {
            let what = match cell.incoming {
                true => "written while a cp.async to it is unfinished",
                false => "written while an asynchronous operation still reads it",
            };
            return Err(Trouble::new(FaultKind::AsyncPending, what).at(word as u64 * 4));
        }
        Ok(())
    }

    /// Whether every read of a word happened before a write to it. Who comes after this write comes after them.
    fn after_reads(&mut self, word: usize, who: &Who<'_>) -> Outcome {
        // Words with stamps per byte have neighbours that are read on their own.
        if !self.cells[word].read || self.cells[word].split || who.strong {
            return Ok(());
        }
        let mut entries = self.reads.iter().map(|all| all.get(word).copied().unwrap_or(0)).enumerate();
        let early = entries.find(|&(warp, entry)| {
            let (epoch, lane) = (entry >> LANE_BITS, (entry & 63) as u8);
            let before = epoch == 0
                || match who.warp {
                    Some(own) if own == warp => who.synced(lane, epoch),
                    _ => who.clock.get(self.first + warp).is_some_and(|seen| *seen >= epoch),
                };
            !before
        });
        if let Some((warp, _)) = early {
            return Err(self.race(word, who, "write", &format!("a read by warp {warp}")));
        }
        self.cells[word].read = false;
        Ok(())
    }

    /// An asynchronous write of whole words that has completed: stamped by its mbarrier. `fenced` as in
    /// [`Shared::proxy_reading`].
    pub fn arrived(
        &mut self,
        offset: u32,
        bytes: u32,
        issuer: &Who<'_>,
        (actor, epoch): (usize, u32),
        fenced: impl Fn(usize, u32) -> bool,
        sound: &mut Sound,
    ) -> Outcome {
        self.visit(actor, epoch)?;
        for word in words_of(offset, bytes) {
            let cell = &self.cells[word];
            if !cell.is_free() || cell.read || !sound.has_latest(cell) {
                self.free_of_asynchronous(word)?;
                if self.checks.races {
                    self.after_writes(word, 0, 4, issuer, "asynchronous write")?;
                    self.after_reads(word, issuer)?;
                }
                self.through_fence(word, issuer, "overwrites", &fenced)?;
                sound.add(&self.cells[word]);
            }
            let cell = &mut self.cells[word];
            (cell.written, cell.hollow) = (ALL, false);
            self.stamp(word, Stamp::asynchronous(actor, epoch, Kind::Ordinary));
        }
        Ok(())
    }

    /// A `red.async` has changed words: an atomic of `issuer`, stamped by its mbarrier.
    pub fn reduced(
        &mut self,
        offset: u32,
        bytes: u32,
        issuer: &Who<'_>,
        (actor, epoch): (usize, u32),
    ) -> Outcome {
        self.visit(actor, epoch)?;
        for word in words_of(offset, bytes) {
            self.free_of_asynchronous(word)?;
            if self.checks.written {
                self.require_written(word, offset, bytes)?;
            }
            if self.checks.races {
                self.after_writes(word, offset, bytes, issuer, "reduction")?;
            }
            self.stamp(word, Stamp::asynchronous(actor, epoch, Kind::Strong));
        }
        Ok(())
    }

    /// A `cp.async` was issued: its words may not be touched until [`Shared::landed`].
    pub fn incoming(&mut self, offset: u32, bytes: u32, who: &Who<'_>) -> Outcome {
        let free = self.is_free_at_a_glance((offset / 4) as usize, (bytes / 4) as usize, who);
        for word in words_of(offset, bytes) {
            if !free {
                self.free_of_asynchronous(word)?;
                if self.checks.races {
                    self.after_writes(word, 0, 4, who, "cp.async")?;
                    self.after_reads(word, who)?;
                }
            }
            let cell = &mut self.cells[word];
            cell.incoming = true;
            (cell.written, cell.hollow) = (ALL, false);
        }
        Ok(())
    }

    /// A copy or a store brought a byte here whose source nothing had written.
    pub fn hollow(&mut self, offset: u32) {
        let cell = &mut self.cells[(offset / 4) as usize];
        cell.written &= !(1 << (offset % 4));
        cell.hollow = true;
    }

    /// A `cp.async` was waited for by its thread: now a write of that thread.
    pub fn landed(&mut self, offset: u32, bytes: u32, who: &Who<'_>) {
        for word in words_of(offset, bytes) {
            self.cells[word].incoming = false;
            self.stamp(word, Stamp { kind: Kind::Copied, ..Stamp::of(who) });
        }
    }

    /// The asynchronous proxy starts to read: written, ordered, fenced. `fenced` tells of a write's actor and epoch whether a
    /// proxy fence lies between. Whether all the words have been written.
    pub fn proxy_reading(
        &mut self,
        offset: u32,
        bytes: u32,
        who: &Who<'_>,
        fenced: impl Fn(usize, u32) -> bool,
        sound: &mut Sound,
    ) -> Outcome<bool> {
        if self.proxy_reads_at_a_glance(offset, bytes, sound) {
            return Ok(true);
        }
        let mut written = true;
        for word in words_of(offset, bytes) {
            let cell = self.cells[word];
            if self.checks.asynchronous && cell.incoming {
                let what = "read asynchronously before the cp.async that writes it was waited for";
                return Err(Trouble::new(FaultKind::AsyncPending, what).at(word as u64 * 4));
            }
            if self.checks.loads && !cell.incoming {
                self.require_written(word, 0, 4)?;
            }
            written &= cell.written == ALL;
            if !sound.has_latest(&cell) {
                if self.checks.races {
                    self.after_writes(word, 0, 4, who, "asynchronous read")?;
                }
                self.through_fence(word, who, "reads", &fenced)?;
                sound.add(&cell);
            }
            if !self.checks.asynchronous {
                continue;
            }
            let readers = &mut self.cells[word].readers;
            *readers = readers.saturating_add(1);
            self.reading += 1;
        }
        Ok(written)
    }

    /// Whether writes that were found right for another reader are so for `who`, too; at a glance: it need not be told.
    pub fn all_sound(&self, sound: &Sound, who: &Who<'_>, fenced: impl Fn(usize, u32) -> bool) -> bool {
        let right = |write: &Stamp| {
            (write.before_all(who) || !self.checks.races)
                && (!self.asks_fence(write) || fenced(write.actor.into(), write.epoch))
        };
        !sound.split && who.hidden.is_empty() && sound.writes.iter().all(right)
    }

    /// Whether a proxy fence is asked for between a write and an asynchronous access.
    fn asks_fence(&self, write: &Stamp) -> bool {
        match write.kind {
            Kind::Copied => self.checks.copy_fence,
            _ => self.checks.asynchronous && write.epoch != 0 && write.lane != ASYNCHRONOUS,
        }
    }

    /// No ordinary write of a word lacks a proxy fence before the asynchronous access of `who`.
    fn through_fence(
        &self,
        word: usize,
        who: &Who<'_>,
        verb: &str,
        fenced: &impl Fn(usize, u32) -> bool,
    ) -> Outcome {
        if !self.checks.asynchronous && !self.checks.copy_fence {
            return Ok(());
        }
        let cell = &self.cells[word];
        let own = std::slice::from_ref(&cell.write);
        let stamps = self.split.get(&word).filter(|_| cell.split).map_or(own, |s| &s[..]);
        let open = |s: &&Stamp| self.asks_fence(s) && !fenced(s.actor.into(), s.epoch);
        match stamps.iter().find(open) {
            None => Ok(()),
            Some(stamp) => {
                let what = format!(
                    "the asynchronous proxy {verb} what {} wrote, without fence.proxy.async between",
                    writer(stamp, who)
                );
                Err(Trouble::new(FaultKind::ProxyFence, what).at(word as u64 * 4))
            }
        }
    }

    /// The asynchronous read that [`Shared::proxy_reading`] started is done.
    pub fn proxy_read(&mut self, offset: u32, bytes: u32) {
        if self.checks.asynchronous {
            let words = words_of(offset, bytes);
            self.reading = self.reading.saturating_sub(words.len());
            self.cells[words].iter_mut().for_each(|cell| cell.readers = cell.readers.saturating_sub(1));
        }
    }
}

/// The words that a range of bytes reaches.
fn words_of(offset: u32, bytes: u32) -> std::ops::Range<usize> {
    let first = (offset / 4) as usize;
    first..first + bytes.div_ceil(4) as usize
}

/// Marks of the bytes that an access has of a word.
fn bytes_of_word(offset: u32, bytes: u32) -> u8 {
    if bytes >= 4 { ALL } else { (((1 << bytes) - 1) << (offset % 4)) as u8 }
}

fn writer(stamp: &Stamp, who: &Who<'_>) -> String {
    match stamp.lane {
        ASYNCHRONOUS => "an asynchronous copy whose mbarrier was not waited for".to_owned(),
        lane if usize::from(stamp.actor) == who.actor => format!("a write by lane {lane} of the same warp"),
        lane => format!("a write by lane {lane} of warp {}", stamp.actor),
    }
}

/// Permutes the 16-byte chunks of an address by its higher bits: XOR of bits 4-6 with bits 7-9 for rows of
/// 128 bytes, fewer for shorter rows.
pub fn swizzle(address: u32, width: u32) -> u32 {
    let mask = width / 16 - 1;
    address ^ ((address >> 7 & mask) << 4)
}
