//! Bulk and tensor copies, and stores that an mbarrier counts.

use std::sync::Arc;

use super::access::{Site, bytes_of};
use super::atomic;
use super::machine::{ClusterState, Machine};
use super::pending::Flight;
use super::shared::{Range, Sound, swizzle};
use super::warp::{Warp, lanes_of};
use crate::fault::{FaultKind, Outcome, Trouble};
use crate::ir::{Address, Bulk, BulkReduction, Element, Src, Window};
use crate::tensor_map::{TENSOR_MAP_BYTES, TensorMap};

/// Bytes on their way to shared memory.
struct Parcel {
    data: Arc<[u8]>,
    /// Places of those whose source nothing had written.
    hollow: Vec<u32>,
}

impl ClusterState {
    /// A copy arrives.
    pub fn land(&mut self, flight: Flight) -> Outcome {
        let memory = &mut self.ctas[flight.cta].shared;
        for (i, word) in flight.data.chunks_exact(4).enumerate() {
            let word = u32::from_le_bytes(word.try_into().unwrap_or_default());
            memory.poke(swizzle(flight.offset + 4 * i as u32, flight.swizzle_width), 4, word.into());
        }
        let (cta, offset) = flight.mbarrier;
        let Some(mbarrier) = self.ctas[cta].mbarriers.get_mut(&offset) else {
            let what = format!("a copy arrives, and the mbarrier at {offset:#x} that counts it is gone");
            return Err(Trouble::new(FaultKind::AsyncPending, what).at(offset.into()));
        };
        mbarrier.complete(flight.data.len() as u32, flight.epoch)
    }
}

/// A row of a box: consecutive elements, those in bounds also in global memory.
struct Row {
    /// Byte in the box of the first element in bounds.
    first: usize,
    bytes: u32,
    address: u64,
}

impl Machine<'_, '_> {
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
                let parcel = match src_window {
                    Window::Global => {
                        self.allocation(&mut None, from, size.into())?;
                        let row = Row { first: 0, bytes: size, address: from };
                        self.fetch(warp, vec![0; size as usize], &[row])?
                    }
                    _ => {
                        let Site::Shared(_, offset) = self.site(warp, Window::Shared, from)? else {
                            return Ok(());
                        };
                        let parcel = self.read_box(warp, offset, size, 16, lane)?;
                        let (cta, place) =
                            self.barrier_site(warp, Window::Generic, at(warp, *barrier), lane)?;
                        // Without the barrier the delivery fails.
                        if let Some(mbarrier) = self.state.ctas[cta].mbarriers.get_mut(&place) {
                            mbarrier.reading.push((warp.cta, Range { offset, bytes: size }));
                        }
                        parcel
                    }
                };
                let multicast = multicast.map(|m| warp.scalar(m, lane, grid) as u16);
                aligned_shared(to, 16)?;
                self.deliver(warp, to, &parcel, at(warp, *barrier), multicast, lane, 16)
            }
            Bulk::Store { dst, src, bytes, barrier } => {
                let (to, barrier) = (at(warp, *dst), at(warp, *barrier));
                let values = src.iter().map(|s| warp.scalar(*s, lane, grid).to_le_bytes());
                let data: Vec<u8> = values.flat_map(|x| x.into_iter().take((*bytes).into())).collect();
                aligned_shared(to, data.len() as u64)?;
                let Site::Shared(block, _) = self.shared_or_cluster(warp, to)? else { return Ok(()) };
                let (barrier_block, _) = self.barrier_site(warp, Window::Generic, barrier, lane)?;
                if block != barrier_block {
                    let what = format!("st.async to block {block} with an mbarrier of block {barrier_block}");
                    return Err(Trouble::new(FaultKind::IllegalInstruction, what).at(barrier));
                }
                let parcel = Parcel { data: data.into(), hollow: Vec::new() };
                self.deliver(warp, to, &parcel, barrier, None, lane, 16)
            }
            Bulk::Reduce { dst, value, reduction, barrier } => {
                let value = warp.scalar(*value, lane, grid);
                self.reduce_async(warp, at(warp, *dst), value, *reduction, at(warp, *barrier), lane)
            }
            Bulk::ToGlobal { dst, src, bytes, reduction } => {
                let (to, from) = (at(warp, *dst), at(warp, *src));
                let size = warp.scalar(*bytes, lane, grid) as u32;
                sixteen(to, size)?;
                let Site::Shared(_, offset) = self.site(warp, Window::Shared, from)? else { return Ok(()) };
                let parcel = self.read_box(warp, offset, size, 16, lane)?;
                warp.copies[lane].bulk_open.push(Range { offset, bytes: size });
                let row = Row { first: 0, bytes: size, address: to };
                self.put_global(warp, &row, &parcel, *reduction)
            }
            Bulk::TensorToShared { dst, map, coordinates, barrier, multicast } => {
                let map = self.tensor_map(warp, at(warp, *map), lane)?;
                let rows = box_rows(&map, &place(warp, coordinates))?;
                let fill = &map.fill_bits().to_le_bytes()[..map.element_bytes() as usize];
                let data = fill.repeat(map.box_bytes() as usize / fill.len());
                let mut parcel = self.fetch(warp, data, &rows)?;
                if map.converts() {
                    map.convert(Arc::make_mut(&mut parcel.data));
                }
                let multicast = multicast.map(|m| warp.scalar(m, lane, grid) as u16);
                let (to, barrier) = (at(warp, *dst), at(warp, *barrier));
                aligned_shared(to, 128)?;
                self.deliver(warp, to, &parcel, barrier, multicast, lane, map.swizzle_width())
            }
            Bulk::TensorToGlobal { map, coordinates, src, reduction } => {
                let map = self.tensor_map(warp, at(warp, *map), lane)?;
                if map.converts() {
                    let what = format!(
                        "a tensor store of data type {} (f32 with flush, tf32) is not supported, allowed is 0 to 9",
                        map.data_type
                    );
                    return Err(Trouble::new(FaultKind::IllegalInstruction, what));
                }
                let coordinates = place(warp, coordinates);
                let from = at(warp, *src);
                let Site::Shared(_, offset) = self.site(warp, Window::Shared, from)? else { return Ok(()) };
                aligned_shared(from, 128)?;
                let (size, width) = (map.box_bytes(), map.swizzle_width());
                let parcel = self.read_box(warp, offset, size, width, lane)?;
                warp.copies[lane].bulk_open.extend(box_parts(offset, size, width));
                let reduction = match *reduction {
                    Some(op) => Some(BulkReduction { op, element: map_element(&map)? }),
                    None => None,
                };
                for row in box_rows(&map, &coordinates)? {
                    self.put_global(warp, &row, &parcel, reduction)?;
                }
                Ok(())
            }
        }
    }

    /// Reads rows of global memory into `data`.
    fn fetch(&mut self, warp: &Warp, mut data: Vec<u8>, rows: &[Row]) -> Outcome<Parcel> {
        let (mut held, mut hollow, mut last) = (None, Vec::new(), None);
        for Row { first, bytes, address } in rows {
            let a = self.allocation(&mut held, *address, u64::from(*bytes))?;
            self.uses(warp, a, *address, *bytes, false)?;
            let offset = *address - a.base;
            if self.grid.options.checks.written {
                a.unwritten(offset, *bytes, *first as u32, &mut hollow);
            }
            a.read(offset, &mut data[*first..*first + *bytes as usize]);
            self.tally.total.global_load_bytes += u64::from(*bytes);
            self.tally.total.global_load_sectors += run_of_sectors(*address, *bytes, &mut last);
        }
        Ok(Parcel { data: data.into(), hollow })
    }

    /// Writes a row to global memory, or reduces with what is there.
    fn put_global(
        &mut self,
        warp: &Warp,
        row: &Row,
        parcel: &Parcel,
        reduction: Option<BulkReduction>,
    ) -> Outcome {
        let Row { first, bytes, address: to } = *row;
        let data = &parcel.data[first..first + bytes as usize];
        let mut hollow =
            parcel.hollow.iter().map(|i| *i as usize).filter(|i| (first..first + data.len()).contains(i));
        let a = self.allocation(&mut None, to, bytes.into())?;
        self.uses(warp, a, to, bytes, true)?;
        self.tally.total.async_copy_bytes += u64::from(bytes);
        match reduction {
            None => {
                a.write(to - a.base, data);
                hollow.for_each(|i| a.forget(to - a.base + (i - first) as u64, 1));
                self.tally.total.global_store_bytes += u64::from(bytes);
                self.tally.total.global_store_sectors += run_of_sectors(to, bytes, &mut None);
                Ok(())
            }
            Some(_) if hollow.next().is_some() => {
                let what = "a reduction of shared memory that nothing has written";
                Err(Trouble::new(FaultKind::Uninitialized, what))
            }
            Some(reduction) => self.reduce(to, data, reduction),
        }
    }

    /// Shared memory as the asynchronous proxy reads it, in the box's own order.
    fn read_box(&mut self, warp: &Warp, offset: u32, size: u32, width: u32, lane: usize) -> Outcome<Parcel> {
        let who = warp.who(lane, warp.cta, false);
        let fences = &self.state.fences;
        let fenced = |actor: usize, epoch: u32| warp.fenced(fences, actor, epoch);
        let memory = &mut self.state.ctas[warp.cta].shared;
        memory.check(offset, 16)?;
        let mut sound = Sound::default();
        for part in box_parts(offset, size, width) {
            memory.check_range(part.offset, part.bytes)?;
            memory.proxy_reading(part.offset, part.bytes, &who, fenced, &mut sound)?;
        }
        let (mut data, mut hollow) = (Vec::with_capacity(size as usize), Vec::new());
        for at in (0..size).step_by(4) {
            let place = swizzle(offset + at, width);
            data.extend((memory.peek(place, 4) as u32).to_le_bytes());
            hollow.extend(bytes_of(memory.undefined(place, 4)).map(|i| at + i));
        }
        Ok(Parcel { data: data.into(), hollow })
    }

    /// Writes a box to the shared memory of one block or of several, and tells their mbarriers.
    #[allow(clippy::too_many_arguments, reason = "the copy's own parts")]
    fn deliver(
        &mut self,
        warp: &Warp,
        to: u64,
        parcel: &Parcel,
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
        let bytes = parcel.data.len() as u32;
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
            let (fences, inits) = (&self.state.fences, &self.state.init_fences);
            let (by, since) = mbarrier.initialised;
            let checks = self.grid.options.checks;
            let own = by / self.grid.warps_per_block() == warp.cta;
            if (if own { checks.init_fence } else { checks.asynchronous })
                && !warp.fenced(fences, by, since)
                && inits.get(by).is_none_or(|fence| *fence < since)
            {
                let what = "the copy's mbarrier was initialised without fence.mbarrier_init or \
                            fence.proxy.async between";
                return Err(Trouble::new(FaultKind::ProxyFence, what).at(barrier));
            }
            let stamp = (mbarrier.actor, mbarrier.stamp());
            let who = warp.who(lane, cta, false);
            let fenced = |actor: usize, epoch: u32| warp.fenced(fences, actor, epoch);
            let memory = &mut self.state.ctas[cta].shared;
            let mut sound = Sound::default();
            for part in box_parts(offset, bytes, swizzle_width) {
                memory.check_range(part.offset, part.bytes)?;
                memory.arrived(part.offset, part.bytes, &who, stamp, fenced, &mut sound)?;
            }
            for byte in &parcel.hollow {
                memory.hollow(swizzle(offset + byte, swizzle_width));
            }
            self.tally.total.async_copy_bytes += u64::from(bytes);
            let flight = Flight {
                cta,
                offset,
                swizzle_width,
                data: Arc::clone(&parcel.data),
                mbarrier: (barrier_cta, barrier_offset),
                epoch: stamp.1,
                warp: warp.actor,
                pc: warp.groups.iter().find(|g| g.mask >> lane & 1 == 1).map_or(0, |g| g.pc),
            };
            if self.state.random.as_mut().is_some_and(|random| random.once_in(2)) {
                self.state.flights.push(flight);
            } else {
                self.state.land(flight)?;
            }
        }
        Ok(())
    }

    pub fn shared_or_cluster(&self, warp: &Warp, address: u64) -> Outcome<Site> {
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

/// The rows of a box that reach into the tensor, in the order they lie in shared memory.
fn box_rows(map: &TensorMap, at: &[i64]) -> Outcome<Vec<Row>> {
    if at.len() != map.dimensions.len() {
        let what =
            format!("{} coordinates for a tensor map of {} dimensions", at.len(), map.dimensions.len());
        return Err(Trouble::new(FaultKind::IllegalInstruction, what));
    }
    let counts: Vec<u32> = map.box_counts().collect();
    let (inner, each) = (counts[0], map.element_bytes());
    let from = at[0].max(0);
    let to = (at[0] + i64::from(inner)).min(i64::try_from(map.dimensions[0]).unwrap_or(i64::MAX));
    let mut rows = Vec::new();
    if from >= to {
        return Ok(rows);
    }
    let mut place = at.to_vec();
    place[0] = from;
    for row in 0..counts[1..].iter().product::<u32>() {
        let mut rest = row;
        for d in 1..counts.len() {
            place[d] = at[d] + i64::from(rest % counts[d] * map.step(d));
            rest /= counts[d];
        }
        if let Some(address) = map.element(&place) {
            let first = (row * inner) as usize + (from - at[0]) as usize;
            rows.push(Row { first: first * each as usize, bytes: (to - from) as u32 * each, address });
        }
    }
    Ok(rows)
}

/// 32-byte sectors of consecutive bytes, less one if it begins in the last sector of the run before.
fn run_of_sectors(address: u64, bytes: u32, last: &mut Option<u64>) -> u64 {
    if bytes == 0 {
        return 0;
    }
    let (first, end) = (address / 32, (address + u64::from(bytes) - 1) / 32);
    let known = last.replace(end) == Some(first);
    end - first + 1 - u64::from(known)
}

/// The elements of a map, as reductions have them.
fn map_element(map: &TensorMap) -> Outcome<Element> {
    Ok(match map.data_type {
        2 => Element::U32,
        3 => Element::S32,
        4 => Element::U64,
        5 => Element::S64,
        6 => Element::F16,
        7 => Element::F32,
        9 => Element::Bf16,
        other => {
            let what = format!("a reducing tensor copy of data type {other}");
            return Err(Trouble::new(FaultKind::IllegalInstruction, what));
        }
    })
}
