//! Asynchronous copies and mbarriers.
//!
//! Data move when the instruction runs; what is late is the permission to look: until the wait, the words
//! are marked, and whoever touches them too early is told.

use std::collections::{HashSet, VecDeque};

use super::access::Site;
use super::atomic;
use super::machine::{Flow, MBARRIER_ACTORS, Machine};
use super::sync::Mbarrier;
use super::tensor::{self_fenced, swizzle};
use super::warp::{Phase, State, Warp, lanes_of};
use crate::counters::sectors;
use crate::fault::{FaultKind, Outcome, Trouble};
use crate::ir::{Address, AtomicOp, Bulk, BulkReduction, Element, MbarrierOp, PredicateSrc, Src, Window};
use crate::tensor_map::{TENSOR_MAP_BYTES, TensorMap};

/// Bytes of the own block's shared memory.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    pub offset: u32,
    pub bytes: u32,
}

/// A thread's `cp.async` and bulk groups.
#[derive(Default)]
pub struct LaneCopies {
    open: Vec<Range>,
    groups: VecDeque<Vec<Range>>,
    bulk_open: Vec<Range>,
    bulk_groups: VecDeque<Vec<Range>>,
}

impl LaneCopies {
    pub fn commit(&mut self) {
        self.groups.push_back(std::mem::take(&mut self.open));
    }

    pub fn commit_bulk(&mut self) {
        self.bulk_groups.push_back(std::mem::take(&mut self.bulk_open));
    }
}

/// A warp's matrix products that are not waited for.
#[derive(Default)]
pub struct WgmmaState {
    /// Registers that they still write.
    pub pending: HashSet<u32>,
    /// Shared memory that the open group reads.
    pub reads: Vec<Range>,
    open: Vec<u32>,
    groups: VecDeque<(Vec<u32>, Vec<Range>)>,
}

impl WgmmaState {
    pub fn start(&mut self, d: &[u32]) {
        self.pending.extend(d);
        self.open.extend(d);
    }

    pub fn commit(&mut self) {
        self.groups.push_back((std::mem::take(&mut self.open), std::mem::take(&mut self.reads)));
    }

    /// Completes all but the latest `pending` groups; what they read.
    pub fn wait(&mut self, pending: usize) -> Vec<Range> {
        let mut done = Vec::new();
        while self.groups.len() > pending {
            if let Some((_, reads)) = self.groups.pop_front() {
                done.extend(reads);
            }
        }
        self.pending = self.groups.iter().flat_map(|(d, _)| d).chain(&self.open).copied().collect();
        done
    }
}

/// `cp.async.wait_all`
pub const ALL: usize = u32::MAX as usize;

impl Machine<'_, '_> {
    #[allow(clippy::too_many_arguments, reason = "the fields of the instruction")]
    pub fn copy_async(
        &mut self,
        warp: &mut Warp,
        dst: Address,
        src: Address,
        bytes: u8,
        src_bytes: Option<Src>,
        ignore: Option<PredicateSrc>,
        exec: u32,
        pc: usize,
    ) -> Outcome {
        let bytes = u32::from(bytes);
        let (to, from) = (self.addresses(warp, dst), self.addresses(warp, src));
        let sizes = src_bytes.map(|s| warp.lanes(s, self.grid));
        let ignored = ignore.map_or(0, |p| warp.predicate(p));
        let mut offsets = [None; 32];
        let mut sources = Vec::new();
        let mut held = None;
        for lane in lanes_of(exec) {
            (|| -> Outcome {
                let Site::Shared(_, offset) = self.site(warp, Window::Shared, to[lane])? else {
                    return Ok(());
                };
                let size = sizes.map_or(bytes, |s| s[lane] as u32);
                if size > bytes {
                    let what = format!("cp.async of {size} source bytes into {bytes}");
                    return Err(Trouble::new(FaultKind::IllegalInstruction, what));
                }
                let size = if ignored >> lane & 1 == 1 { 0 } else { size };
                let mut data = [0; 16];
                if size > 0 {
                    Self::aligned(from[lane], bytes.into())?;
                    let a = self.allocation(&mut held, from[lane], size.into())?;
                    let at = from[lane] - a.base;
                    let whole = size / 4 * 4;
                    if self.grid.options.check_written && whole > 0 && !a.written(at, whole) {
                        let what = "cp.async from global memory that nothing has written";
                        return Err(Trouble::new(FaultKind::Uninitialized, what).at(from[lane]));
                    }
                    a.read(at, &mut data[..size as usize]);
                    self.tally.total.distinct_bytes += u64::from(a.touch(at, size));
                    self.tally.total.global_load_bytes += u64::from(size);
                    sources.push(from[lane]);
                }
                let who = warp.who(lane, warp.cta, false);
                let memory = &mut self.state.ctas[warp.cta].shared;
                memory.check(offset, bytes)?;
                memory.incoming(offset, bytes, &who)?;
                for (i, word) in data[..bytes as usize].chunks_exact(4).enumerate() {
                    let word = u32::from_le_bytes(word.try_into().unwrap_or_default());
                    memory.poke(offset + 4 * i as u32, 4, word.into());
                }
                warp.copies[lane].open.push(Range { offset, bytes });
                offsets[lane] = Some(offset);
                Ok(())
            })()
            .map_err(|t| t.by(lane))?;
        }
        self.tally.total.global_load_sectors += sectors(sources.into_iter(), bytes.into());
        self.banks(&offsets, bytes, pc);
        Ok(())
    }

    /// Completes all but the latest `pending` groups of each thread.
    pub fn copy_wait(&mut self, warp: &mut Warp, pending: usize, exec: u32) {
        for lane in lanes_of(exec) {
            let mut copies = std::mem::take(&mut warp.copies[lane]);
            let keep = if pending == ALL { 0 } else { pending };
            if pending == ALL {
                copies.commit();
            }
            while copies.groups.len() > keep {
                for range in copies.groups.pop_front().unwrap_or_default() {
                    let who = warp.who(lane, warp.cta, false);
                    self.state.ctas[warp.cta].shared.landed(range.offset, range.bytes, &who);
                }
            }
            warp.copies[lane] = copies;
        }
    }

    /// `cp.async.mbarrier.arrive`: the copies so far are complete when it arrives.
    pub fn copy_arrive(&mut self, warp: &mut Warp, barrier: Address, noinc: bool, exec: u32) -> Outcome {
        self.copy_wait(warp, ALL, exec);
        let addresses = self.addresses(warp, barrier);
        for lane in lanes_of(exec) {
            let clock = warp.clock.clone();
            let (_, mbarrier) = self.barrier_at(warp, Window::Generic, addresses[lane], lane)?;
            if noinc {
                mbarrier.arrive(&clock, 1, false).map_err(|t| t.by(lane))?;
            } else {
                // It adds the arrival that it then makes.
                mbarrier.learn(&clock);
            }
        }
        warp.advance();
        Ok(())
    }

    /// The mbarrier at an address, and its block.
    fn barrier_at(
        &mut self,
        warp: &Warp,
        window: Window,
        address: u64,
        lane: usize,
    ) -> Outcome<(usize, &mut Mbarrier)> {
        let (cta, offset) = self.barrier_site(warp, window, address, lane)?;
        let who = warp.who(lane, cta, true);
        let state = &mut self.state.ctas[cta];
        let mbarrier = state.mbarriers.get_mut(&offset).ok_or_else(|| {
            let what = format!("no initialised mbarrier at offset {offset:#x} of shared memory");
            Trouble::new(FaultKind::Uninitialized, what).at(address).by(lane)
        })?;
        state.shared.reading(offset, 8, &who).map_err(|t| t.by(lane))?;
        Ok((cta, mbarrier))
    }

    fn barrier_site(&self, warp: &Warp, window: Window, address: u64, lane: usize) -> Outcome<(usize, u32)> {
        // Shared addresses of 32 bits come through 64-bit registers too.
        let window = if window == Window::Generic && address >> 32 == 0 { Window::Cluster } else { window };
        match self.site(warp, window, address).map_err(|t| t.by(lane))? {
            Site::Shared(cta, offset) => {
                self.state.ctas[cta].shared.check(offset, 8).map_err(|t| t.by(lane))?;
                Ok((cta, offset))
            }
            _ => {
                let what = "an mbarrier lies in shared memory, this address does not";
                Err(Trouble::new(FaultKind::OutOfBounds, what).at(address).by(lane))
            }
        }
    }

    pub fn mbarrier(
        &mut self,
        warp: &mut Warp,
        window: Window,
        address: Address,
        op: &MbarrierOp,
        exec: u32,
    ) -> Outcome<Flow> {
        let grid = self.grid;
        let addresses = self.addresses(warp, address);
        match op {
            MbarrierOp::Init { count } => {
                let counts = warp.lanes(*count, grid);
                for lane in lanes_of(exec) {
                    self.init_barrier(warp, window, addresses[lane], counts[lane] as u32, lane)?;
                }
            }
            MbarrierOp::Invalidate => {
                for lane in lanes_of(exec) {
                    let (cta, offset) = self.barrier_site(warp, window, addresses[lane], lane)?;
                    self.barrier_at(warp, window, addresses[lane], lane)?;
                    if let Some(gone) = self.state.ctas[cta].mbarriers.remove(&offset) {
                        self.release(gone.reading.into_iter().chain(gone.read));
                    }
                }
            }
            MbarrierOp::Arrive { count, tx, state, no_complete, drop } => {
                let counts = warp.lanes(*count, grid);
                let tx = tx.map(|tx| warp.lanes(tx, grid));
                let mut states = [0; 32];
                let clock = warp.clock.clone();
                for lane in lanes_of(exec) {
                    let (_, mbarrier) = self.barrier_at(warp, window, addresses[lane], lane)?;
                    states[lane] = mbarrier.phase << 20 | u64::from(mbarrier.pending());
                    if *no_complete && counts[lane] as u32 == mbarrier.pending() {
                        let what = "the last arrival of a phase is one with .noComplete";
                        return Err(Trouble::new(FaultKind::BarrierMismatch, what).by(lane));
                    }
                    (|| {
                        if let Some(tx) = tx {
                            mbarrier.expect(tx[lane] as u32)?;
                        }
                        mbarrier.arrive(&clock, counts[lane] as u32, *drop)
                    })()
                    .map_err(|t: Trouble| t.by(lane))?;
                }
                warp.advance();
                if let Some(state) = state {
                    warp.put(*state, &states, exec);
                }
            }
            MbarrierOp::ExpectTx { tx } => {
                let tx = warp.lanes(*tx, grid);
                for lane in lanes_of(exec) {
                    let (_, mbarrier) = self.barrier_at(warp, window, addresses[lane], lane)?;
                    mbarrier.expect(tx[lane] as u32).map_err(|t| t.by(lane))?;
                }
            }
            MbarrierOp::CompleteTx { tx } => {
                let tx = warp.lanes(*tx, grid);
                for lane in lanes_of(exec) {
                    let (_, mbarrier) = self.barrier_at(warp, window, addresses[lane], lane)?;
                    mbarrier.complete(tx[lane] as u32).map_err(|t| t.by(lane))?;
                }
            }
            MbarrierOp::Wait { done, phase, parity, blocking } => {
                let phases = warp.lanes(*phase, grid);
                let mut truth = 0;
                for lane in lanes_of(exec) {
                    let phase = if *parity {
                        Phase::Parity(phases[lane] & 1)
                    } else {
                        Phase::Number(phases[lane] >> 20)
                    };
                    let (cta, mbarrier) = self.barrier_at(warp, window, addresses[lane], lane)?;
                    if mbarrier.passed(phase) {
                        truth |= 1 << lane;
                        let (_, offset) = self.barrier_site(warp, window, addresses[lane], lane)?;
                        if let Some(mbarrier) = self.state.ctas[cta].mbarriers.get_mut(&offset) {
                            mbarrier.observe(warp);
                            let read = std::mem::take(&mut mbarrier.read);
                            self.release(read.into_iter());
                        }
                    } else if *blocking {
                        // try_wait may suspend the thread: it does, until the phase completes.
                        let (cta, offset) = self.barrier_site(warp, window, addresses[lane], lane)?;
                        return Ok(Flow::Wait(State::Mbarrier { cta, offset, phase }));
                    }
                }
                warp.put_predicate(*done, truth, exec);
                if truth != exec {
                    return Ok(Flow::Yield);
                }
            }
            MbarrierOp::PendingCount { dst, state } => {
                let counts = warp.lanes(*state, grid).map(|s| s & ((1 << 20) - 1));
                warp.put(*dst, &counts, exec);
            }
        }
        Ok(Flow::Next)
    }

    /// Copies have read these parts of shared memory.
    fn release(&mut self, read: impl Iterator<Item = (usize, Range)>) {
        for (cta, range) in read {
            self.state.ctas[cta].shared.proxy_read(range.offset, range.bytes);
        }
    }

    fn init_barrier(
        &mut self,
        warp: &Warp,
        window: Window,
        address: u64,
        count: u32,
        lane: usize,
    ) -> Outcome {
        let (cta, offset) = self.barrier_site(warp, window, address, lane)?;
        if count == 0 || count >= 1 << 20 {
            let what = format!("an mbarrier of {count} arrivals; allowed are 1 to {}", (1 << 20) - 1);
            return Err(Trouble::new(FaultKind::IllegalInstruction, what).by(lane));
        }
        let clocks = warp.clock.len();
        // A barrier made anew goes on with its actor's epochs.
        let held = self.state.ctas[cta].mbarriers.get(&offset).map(|m| (m.actor, m.epoch));
        let (actor, epoch) = held.unwrap_or_else(|| {
            let next = self.state.mbarrier_actors.min(MBARRIER_ACTORS - 1);
            self.state.mbarrier_actors += 1;
            (self.state.warps + next, 0)
        });
        let who = warp.who(lane, cta, false);
        let state = &mut self.state.ctas[cta];
        state.shared.writing(offset, 8, &who, false).map_err(|t| t.by(lane))?;
        state.mbarriers.insert(offset, Mbarrier::new(count, actor, epoch, clocks));
        Ok(())
    }

    pub fn bulk(&mut self, warp: &mut Warp, bulk: &Bulk, exec: u32) -> Outcome {
        for lane in lanes_of(exec) {
            self.bulk_of(warp, bulk, lane).map_err(|t| t.by(lane))?;
        }
        Ok(())
    }

    fn bulk_of(&mut self, warp: &mut Warp, bulk: &Bulk, lane: usize) -> Outcome {
        let grid = self.grid;
        let at = |warp: &Warp, a: Address| warp.scalar(a.base, lane, grid).wrapping_add_signed(a.offset);
        let place = |warp: &Warp, coordinates: &[Src]| -> Vec<i64> {
            coordinates.iter().map(|c| i64::from(warp.scalar(*c, lane, grid) as u32 as i32)).collect()
        };
        match bulk {
            Bulk::ToShared { dst, src, src_window, bytes, barrier, multicast } => {
                let (to, from) = (at(warp, *dst), at(warp, *src));
                let size = warp.scalar(*bytes, lane, grid) as u32;
                sixteen(from, size)?;
                let data = match src_window {
                    Window::Global => self.global_bytes(from, size)?,
                    _ => {
                        let Site::Shared(_, offset) = self.site(warp, Window::Shared, from)? else {
                            return Ok(());
                        };
                        let data = self.read_shared(warp, offset, size, lane)?;
                        let (cta, place) =
                            self.barrier_site(warp, Window::Generic, at(warp, *barrier), lane)?;
                        // Without the barrier the delivery fails.
                        if let Some(mbarrier) = self.state.ctas[cta].mbarriers.get_mut(&place) {
                            mbarrier.reading.push((warp.cta, Range { offset, bytes: size }));
                        }
                        data
                    }
                };
                let multicast = multicast.map(|m| warp.scalar(m, lane, grid) as u16);
                aligned_shared(to, 16)?;
                self.deliver(warp, to, &data, at(warp, *barrier), multicast, lane, 16)
            }
            Bulk::ToGlobal { dst, src, bytes, reduction } => {
                let (to, from) = (at(warp, *dst), at(warp, *src));
                let size = warp.scalar(*bytes, lane, grid) as u32;
                sixteen(to, size)?;
                let Site::Shared(_, offset) = self.site(warp, Window::Shared, from)? else { return Ok(()) };
                let data = self.read_shared(warp, offset, size, lane)?;
                warp.copies[lane].bulk_open.push(Range { offset, bytes: size });
                self.tally.total.async_copy_bytes += u64::from(size);
                let a = self.allocation(&mut None, to, size.into())?;
                self.tally.total.distinct_bytes += u64::from(a.touch(to - a.base, size));
                match reduction {
                    None => a.write(to - a.base, &data),
                    Some(reduction) => self.reduce(to, &data, *reduction)?,
                }
                Ok(())
            }
            Bulk::TensorToShared { dst, map, coordinates, barrier, multicast } => {
                let map = self.tensor_map(warp, at(warp, *map), lane)?;
                let coordinates = place(warp, coordinates);
                let mut data = vec![0; map.box_bytes() as usize];
                let each = map.element_bytes();
                let mut held = None;
                for (element, slot) in
                    box_elements(&map, &coordinates)?.zip(data.chunks_exact_mut(each as usize))
                {
                    match element {
                        None => slot.copy_from_slice(&map.fill_bits().to_le_bytes()[..each as usize]),
                        Some(address) => {
                            let a = self.allocation(&mut held, address, each.into())?;
                            let offset = address - a.base;
                            if grid.options.check_written && !a.written(offset, each) {
                                let what = "a tensor copy reads global memory that nothing has written";
                                return Err(Trouble::new(FaultKind::Uninitialized, what).at(address));
                            }
                            a.read(offset, slot);
                            self.tally.total.distinct_bytes += u64::from(a.touch(offset, each));
                        }
                    }
                }
                let multicast = multicast.map(|m| warp.scalar(m, lane, grid) as u16);
                let (to, barrier) = (at(warp, *dst), at(warp, *barrier));
                aligned_shared(to, 128)?;
                self.deliver(warp, to, &data, barrier, multicast, lane, map.swizzle_width())
            }
            Bulk::TensorToGlobal { map, coordinates, src, reduction } => {
                let map = self.tensor_map(warp, at(warp, *map), lane)?;
                let coordinates = place(warp, coordinates);
                let from = at(warp, *src);
                let Site::Shared(_, offset) = self.site(warp, Window::Shared, from)? else { return Ok(()) };
                let size = map.box_bytes();
                aligned_shared(from, 128)?;
                let width = map.swizzle_width();
                let mut linear = Vec::with_capacity(size as usize);
                for part in box_parts(offset, size, width) {
                    linear.extend(self.read_shared(warp, part.offset, part.bytes, lane)?);
                    warp.copies[lane].bulk_open.push(part);
                }
                let whole = box_parts(offset, size, width).count() == 1;
                let each = map.element_bytes();
                let reduction = reduction
                    .map(|op| Ok::<_, Trouble>(BulkReduction { op, element: map_element(&map, op)? }))
                    .transpose()?;
                let mut held = None;
                for (i, element) in box_elements(&map, &coordinates)?.enumerate() {
                    let Some(address) = element else { continue };
                    let at = match whole {
                        true => swizzle(offset + i as u32 * each, width) - offset,
                        // The parts were read in the box's own order.
                        false => i as u32 * each,
                    };
                    let data = &linear[at as usize..(at + each) as usize];
                    let a = self.allocation(&mut held, address, each.into())?;
                    self.tally.total.distinct_bytes += u64::from(a.touch(address - a.base, each));
                    self.tally.total.async_copy_bytes += u64::from(each);
                    match reduction {
                        None => a.write(address - a.base, data),
                        Some(reduction) => self.reduce(address, data, reduction)?,
                    }
                }
                Ok(())
            }
        }
    }

    fn global_bytes(&mut self, from: u64, size: u32) -> Outcome<Vec<u8>> {
        let a = self.allocation(&mut None, from, size.into())?;
        if self.grid.options.check_written && !a.written(from - a.base, size) {
            let what = "a bulk copy reads global memory that nothing has written";
            return Err(Trouble::new(FaultKind::Uninitialized, what).at(from));
        }
        let mut data = vec![0; size as usize];
        a.read(from - a.base, &mut data);
        self.tally.total.distinct_bytes += u64::from(a.touch(from - a.base, size));
        Ok(data)
    }

    /// Shared memory as the asynchronous proxy reads it.
    fn read_shared(&mut self, warp: &Warp, offset: u32, size: u32, lane: usize) -> Outcome<Vec<u8>> {
        let who = warp.who(lane, warp.cta, false);
        let fences = &self.state.fences;
        let fenced = |actor: usize, epoch: u32| self_fenced(warp, fences, actor, epoch);
        let memory = &mut self.state.ctas[warp.cta].shared;
        memory.check_range(offset, size)?;
        memory.check(offset, 16)?;
        memory.proxy_reading(offset, size, &who, fenced)?;
        Ok((0..size / 4).flat_map(|i| (memory.peek(offset + 4 * i, 4) as u32).to_le_bytes()).collect())
    }

    /// Writes a box to the shared memory of one block or of several, and tells their mbarriers.
    #[allow(clippy::too_many_arguments, reason = "the copy's own parts")]
    fn deliver(
        &mut self,
        warp: &Warp,
        to: u64,
        data: &[u8],
        barrier: u64,
        multicast: Option<u16>,
        lane: usize,
        swizzle_width: u32,
    ) -> Outcome {
        let Site::Shared(cta, offset) = self.shared_or_cluster(warp, to)? else { return Ok(()) };
        let (barrier_cta, barrier_offset) = self.barrier_site(warp, Window::Generic, barrier, lane)?;
        let targets: Vec<(usize, usize)> = match multicast {
            None => vec![(cta, barrier_cta)],
            Some(mask) => (0..16).filter(|r| mask >> r & 1 == 1).map(|r| (r, r)).collect(),
        };
        let bytes = data.len() as u32;
        for (cta, barrier_cta) in targets {
            if cta >= self.state.ctas.len() {
                let what = format!("multicast to block {cta} of a cluster of {}", self.state.ctas.len());
                return Err(Trouble::new(FaultKind::IllegalInstruction, what));
            }
            let none = || {
                let what = format!("no initialised mbarrier at offset {barrier_offset:#x} of shared memory");
                Trouble::new(FaultKind::Uninitialized, what).at(barrier)
            };
            let target = self.state.ctas.get_mut(barrier_cta).ok_or_else(none)?;
            let mbarrier = target.mbarriers.get_mut(&barrier_offset).ok_or_else(none)?;
            let (actor, epoch) = (mbarrier.actor, mbarrier.stamp());
            let who = warp.who(lane, cta, false);
            let memory = &mut self.state.ctas[cta].shared;
            for part in box_parts(offset, bytes, swizzle_width) {
                memory.check_range(part.offset, part.bytes)?;
                memory.arrived(part.offset, part.bytes, &who, actor, epoch)?;
            }
            for (i, word) in data.chunks_exact(4).enumerate() {
                let word = u32::from_le_bytes(word.try_into().unwrap_or_default());
                memory.poke(swizzle(offset + 4 * i as u32, swizzle_width), 4, word.into());
            }
            self.tally.total.async_copy_bytes += u64::from(bytes);
            if let Some(mbarrier) = self.state.ctas[barrier_cta].mbarriers.get_mut(&barrier_offset) {
                mbarrier.complete(bytes)?;
            }
        }
        Ok(())
    }

    fn shared_or_cluster(&self, warp: &Warp, address: u64) -> Outcome<Site> {
        let window = if address >> 32 == 0 { Window::Cluster } else { Window::Generic };
        match self.site(warp, window, address)? {
            site @ Site::Shared(..) => Ok(site),
            _ => {
                Err(Trouble::new(FaultKind::OutOfBounds, "the destination is not in shared memory")
                    .at(address))
            }
        }
    }

    fn tensor_map(&self, warp: &Warp, address: u64, lane: usize) -> Outcome<TensorMap> {
        let mut bytes = [0; TENSOR_MAP_BYTES];
        match self.site(warp, Window::Generic, address)? {
            Site::Global(at) => {
                let a = self.allocation(&mut None, at, TENSOR_MAP_BYTES as u64)?;
                a.read(at - a.base, &mut bytes);
            }
            Site::Param(offset) => {
                let part = self.grid.parameters.get(offset as usize..offset as usize + TENSOR_MAP_BYTES);
                bytes.copy_from_slice(part.ok_or_else(|| {
                    Trouble::new(FaultKind::OutOfBounds, "the tensor map reaches past the parameters")
                        .by(lane)
                })?);
            }
            _ => {
                let what = "a tensor map lies in parameters, constant or global memory";
                return Err(Trouble::new(FaultKind::IllegalInstruction, what).at(address));
            }
        }
        let map = TensorMap::from_bytes(&bytes).ok_or_else(|| {
            Trouble::new(FaultKind::IllegalInstruction, "these 128 bytes are no tensor map").at(address)
        })?;
        if map.interleave != 0 {
            let what = "interleaved tensor maps are not supported";
            return Err(Trouble::new(FaultKind::IllegalInstruction, what));
        }
        Ok(map)
    }

    fn reduce(&self, to: u64, data: &[u8], reduction: BulkReduction) -> Outcome {
        let bytes = usize::from(reduction.element.bytes());
        for (i, part) in data.chunks_exact(bytes).enumerate() {
            let value = part.iter().rev().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
            let at = to + (i * bytes) as u64;
            let a = self.allocation(&mut None, at, bytes as u64)?;
            self.global_atomic(a, at - a.base, bytes as u32, |x| {
                atomic::apply(reduction.op, reduction.element, x, value, 0)
            });
        }
        Ok(())
    }

    pub fn bulk_wait(&mut self, warp: &mut Warp, pending: usize, exec: u32) {
        for lane in lanes_of(exec) {
            while warp.copies[lane].bulk_groups.len() > pending {
                for range in warp.copies[lane].bulk_groups.pop_front().unwrap_or_default() {
                    self.state.ctas[warp.cta].shared.proxy_read(range.offset, range.bytes);
                }
            }
        }
    }
}

fn sixteen(address: u64, bytes: u32) -> Outcome {
    if !address.is_multiple_of(16) || !bytes.is_multiple_of(16) {
        let what = format!("a bulk copy of {bytes} bytes at this address; both must be multiples of 16");
        return Err(Trouble::new(FaultKind::Misaligned, what).at(address));
    }
    Ok(())
}

/// The shared memory of a box: in one piece if the swizzle only permutes it, else 16 bytes at a time, as they
/// follow each other in the box.
fn box_parts(offset: u32, bytes: u32, width: u32) -> impl Iterator<Item = Range> {
    let whole = width <= 16 || bytes.is_multiple_of(128);
    let step = if whole { bytes.max(1) } else { 16 };
    (0..bytes).step_by(step as usize).map(move |at| match whole {
        true => Range { offset, bytes },
        false => Range { offset: swizzle(offset + at, width), bytes: 16 },
    })
}

/// The shared end of a bulk copy.
fn aligned_shared(address: u64, alignment: u64) -> Outcome {
    if !address.is_multiple_of(alignment) {
        let what = format!("the shared memory of this copy must be aligned to {alignment} bytes");
        return Err(Trouble::new(FaultKind::Misaligned, what).at(address));
    }
    Ok(())
}

/// Addresses of a box's elements, in the order they lie in shared memory.
fn box_elements<'m>(map: &'m TensorMap, at: &[i64]) -> Outcome<impl Iterator<Item = Option<u64>> + 'm> {
    if at.len() != map.dimensions.len() {
        let what =
            format!("{} coordinates for a tensor map of {} dimensions", at.len(), map.dimensions.len());
        return Err(Trouble::new(FaultKind::IllegalInstruction, what));
    }
    let at = at.to_vec();
    let count: u32 = map.box_counts().product();
    Ok((0..count).map(move |i| {
        let mut rest = i;
        let mut place = [0; 5];
        for (d, size) in map.box_counts().enumerate() {
            place[d] = at[d] + i64::from(rest % size * map.step(d));
            rest /= size;
        }
        map.element(&place[..at.len()])
    }))
}

fn map_element(map: &TensorMap, op: AtomicOp) -> Outcome<Element> {
    Ok(match (map.data_type, op) {
        (2, _) => Element::U32,
        (3, _) => Element::S32,
        (4, _) => Element::U64,
        (5, _) => Element::S64,
        (6, _) => Element::F16,
        (7 | 10, _) => Element::F32,
        (9, _) => Element::Bf16,
        (other, _) => {
            let what = format!("a reducing tensor copy of data type {other}");
            return Err(Trouble::new(FaultKind::IllegalInstruction, what));
        }
    })
}
