//! Loads, stores and atomics of every window.

use super::atomic;
use super::machine::Machine;
use super::shared::Who;
use super::warp::{LOCAL_WINDOW, PARAM_WINDOW, RANK_SHIFT, SHARED_WINDOW, Warp, lanes_of};
use crate::counters::{sectors, wavefronts};
use crate::fault::{FaultKind, Outcome, Trouble};
use crate::ir::{Address, AtomicOp, Element, Lanes, Src, WARP, Window};
use crate::memory::Allocation;

/// Where an address leads.
#[derive(Debug, Clone, Copy)]
pub enum Site {
    Global(u64),
    /// Block of the cluster and offset.
    Shared(usize, u32),
    Local(u32),
    Param(u32),
}

impl Warp {
    /// This warp's lane as a user of the shared memory of block `cta`.
    pub fn who(&self, lane: usize, cta: usize, strong: bool) -> Who<'_> {
        Who {
            actor: self.actor,
            warp: (cta == self.cta).then_some(self.index),
            lane,
            clock: &self.clock,
            hidden: &self.hidden,
            full_sync: self.full_sync,
            pair_sync: self.pair_sync.as_deref(),
            strong,
        }
    }
}

impl<'a> Machine<'_, 'a> {
    /// Addresses of all lanes.
    pub fn addresses(&self, warp: &Warp, address: Address) -> Lanes {
        let mut held = None;
        let base = warp.view(address.base, self.grid, &mut held);
        // What a 32-bit register holds is a 32-bit address: `tile - 16 * tid` plus an offset wraps.
        base.map(|base| match u32::try_from(base) {
            Ok(narrow) => narrow.wrapping_add(address.offset as u32).into(),
            Err(_) => base.wrapping_add_signed(address.offset),
        })
    }

    pub fn site(&self, warp: &Warp, window: Window, address: u64) -> Outcome<Site> {
        // Too large for a window is out of its bounds.
        let narrow = |address: u64| u32::try_from(address).unwrap_or(u32::MAX);
        Ok(match window {
            Window::Global | Window::Const => Site::Global(address),
            Window::Local => Site::Local(narrow(address)),
            Window::Param => Site::Param(narrow(address)),
            Window::Shared | Window::Cluster => self.shared_site(warp, window, address)?,
            Window::Generic => match address >> 48 << 48 {
                SHARED_WINDOW => self.shared_site(warp, Window::Cluster, address - SHARED_WINDOW)?,
                LOCAL_WINDOW => Site::Local(narrow(address - LOCAL_WINDOW)),
                PARAM_WINDOW => Site::Param(narrow(address - PARAM_WINDOW)),
                _ => Site::Global(address),
            },
        })
    }

    fn shared_site(&self, warp: &Warp, window: Window, address: u64) -> Outcome<Site> {
        let (rank, offset) = ((address >> RANK_SHIFT) as usize, address as u32 & ((1 << RANK_SHIFT) - 1));
        if rank >= self.state.ctas.len() || (window == Window::Shared && rank != warp.cta) {
            let what = match window {
                Window::Shared => "the address is not in the block's shared memory",
                _ => "the address is not in the shared memory of the cluster",
            };
            return Err(Trouble::new(FaultKind::OutOfBounds, what).at(address));
        }
        Ok(Site::Shared(rank, offset))
    }

    /// The allocation of a global access of `bytes`, checked; `held` is the latest one.
    pub fn allocation<'h>(
        &self,
        held: &mut Option<&'h Allocation>,
        address: u64,
        bytes: u64,
    ) -> Outcome<&'h Allocation>
    where
        'a: 'h,
    {
        let grid: &'a super::grid::Grid<'a> = self.grid;
        let found = match *held {
            Some(a) if address.wrapping_sub(a.base) < a.bytes => a,
            _ => {
                let found = grid.memory.find(address).ok_or_else(|| {
                    let what = format!("{bytes} bytes of global memory: {}", grid.global.nearest(address));
                    Trouble::new(FaultKind::OutOfBounds, what).at(address)
                })?;
                *held = Some(found);
                found
            }
        };
        if bytes > found.bytes - (address - found.base) {
            let what = format!(
                "{bytes} bytes of global memory reach past the allocation of {} bytes at {:#x}",
                found.bytes, found.base
            );
            return Err(Trouble::new(FaultKind::OutOfBounds, what).at(address));
        }
        Ok(found)
    }

    pub fn aligned(address: u64, bytes: u64) -> Outcome {
        if !address.is_multiple_of(bytes) {
            let what = format!("the address is no multiple of {bytes} bytes");
            return Err(Trouble::new(FaultKind::Misaligned, what).at(address));
        }
        Ok(())
    }

    /// A launch uses part of an allocation: counted, and in time after the launch before.
    pub fn uses(&mut self, warp: &Warp, a: &Allocation, address: u64, bytes: u32, stores: bool) -> Outcome {
        let offset = address - a.base;
        if self.grid.config.overlaps && !warp.knows_launch_ended() && a.used_before(offset, bytes, stores) {
            let what = match stores {
                true => "stored to while the launch before may still use it: griddepcontrol.wait comes first",
                false => "read while the launch before may still store it: griddepcontrol.wait comes first",
            };
            return Err(Trouble::new(FaultKind::LaunchPending, what).at(address));
        }
        self.tally.total.distinct_bytes += u64::from(a.touch(offset, bytes, stores));
        Ok(())
    }

    /// Where `strict`, a read of memory that nothing has written is a fault.
    pub fn global_written(&self, a: &Allocation, address: u64, bytes: u32, strict: bool) -> Outcome {
        if strict && !a.written(address - a.base, bytes) {
            let what =
                format!("read of global memory that nothing has written, in the allocation at {:#x}", a.base);
            return Err(Trouble::new(FaultKind::Uninitialized, what).at(address));
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of the instruction")]
    pub fn load(
        &mut self,
        warp: &mut Warp,
        window: Window,
        address: Address,
        dst: &[Option<u32>],
        bytes: u8,
        signed: bool,
        strong: bool,
        exec: u32,
        pc: usize,
    ) -> Outcome {
        let n = dst.len() as u32;
        let (bytes, total) = (u32::from(bytes), u32::from(bytes) * n);
        let addresses = self.addresses(warp, address);
        if !strong
            && warp.undefined.is_empty()
            && self.load_at_a_glance(warp, window, &addresses, dst, bytes, signed, exec, pc)
        {
            return Ok(());
        }
        let mut values = [[0u64; WARP]; 8];
        // Bits that nothing has written, once there are some.
        let mut undefined: Option<Box<[Lanes; 8]>> = None;
        let checks = self.grid.options.checks;
        let mut shared = ([0; WARP], 0);
        let mut global = ([0u64; WARP], 0usize);
        let mut held = None;
        for lane in lanes_of(exec) {
            let at = addresses[lane];
            let mut lacks = |k: u32, bits: u64| {
                if bits != 0 {
                    undefined.get_or_insert_with(|| Box::new([[0; WARP]; 8]))[k as usize][lane] = bits;
                }
            };
            let each = |k: u32| k * bytes;
            (|| -> Outcome {
                Self::aligned(at, total.into())?;
                match self.site(warp, window, at)? {
                    Site::Global(at) => {
                        let a = self.allocation(&mut held, at, total.into())?;
                        self.uses(warp, a, at, total, false)?;
                        self.global_written(a, at, total, checks.loads)?;
                        let offset = at - a.base;
                        for k in 0..n {
                            values[k as usize][lane] = a.load(offset + u64::from(each(k)), bytes);
                        }
                        if checks.written && !a.written(offset, total) {
                            (0..n).for_each(|k| lacks(k, a.undefined(offset + u64::from(each(k)), bytes)));
                        }
                        global.0[global.1] = at;
                        global.1 += 1;
                    }
                    Site::Shared(cta, offset) => {
                        let who = warp.who(lane, cta, strong);
                        let memory = &mut self.state.ctas[cta].shared;
                        memory.check(offset, total)?;
                        memory.reading(offset, total, &who)?;
                        for k in 0..n {
                            values[k as usize][lane] = memory.peek(offset + each(k), bytes);
                            lacks(k, memory.undefined(offset + each(k), bytes));
                        }
                        shared.0[lane] = offset;
                        shared.1 |= 1 << lane;
                    }
                    Site::Local(offset) => {
                        let from = self.local_range(warp, offset, total, lane)?;
                        let written = &warp.local_written[from..from + total as usize];
                        if checks.loads && written.contains(&false) {
                            let what = "read of local memory that nothing has written";
                            return Err(Trouble::new(FaultKind::Uninitialized, what).at(offset.into()));
                        }
                        if checks.written && written.contains(&false) {
                            let bits = |written: &[bool]| {
                                let unwritten = written.iter().enumerate().filter(|(_, w)| !**w);
                                unwritten.fold(0, |bits, (i, _)| bits | 0xff << (8 * i))
                            };
                            (0..n)
                                .for_each(|k| lacks(k, bits(&written[each(k) as usize..][..bytes as usize])));
                        }
                        for k in 0..n {
                            values[k as usize][lane] = read_le(&warp.local[from + each(k) as usize..], bytes);
                        }
                    }
                    Site::Param(offset) => {
                        let all = self.grid.parameters;
                        let part =
                            all.get(offset as usize..offset as usize + total as usize).ok_or_else(|| {
                                let what = format!(
                                    "{total} bytes at offset {offset} of {} of parameters",
                                    all.len()
                                );
                                Trouble::new(FaultKind::OutOfBounds, what)
                            })?;
                        for k in 0..n {
                            values[k as usize][lane] = read_le(&part[each(k) as usize..], bytes);
                        }
                    }
                }
                Ok(())
            })()
            .map_err(|t| t.by(lane))?;
        }
        if global.1 > 0 {
            self.tally.total.global_load_bytes += u64::from(total) * global.1 as u64;
            self.tally.total.global_load_sectors +=
                sectors(global.0[..global.1].iter().copied(), total.into());
        }
        self.banks(&shared.0, shared.1, total, pc);
        for (register, lanes) in dst.iter().zip(&mut values) {
            let Some(register) = register else { continue };
            if signed && bytes < 8 {
                let shift = 64 - 8 * bytes;
                lanes.iter_mut().for_each(|v| *v = ((*v << shift) as i64 >> shift) as u64);
            }
            warp.put(*register, lanes, exec);
        }
        if undefined.is_some() || !warp.undefined.is_empty() {
            let undefined = undefined.unwrap_or_else(|| Box::new([[0; WARP]; 8]));
            for (register, bits) in dst.iter().zip(undefined.iter()) {
                // The sign goes on beyond what was read.
                let top = |b: &u64| {
                    if signed && bytes < 8 && b >> (8 * bytes - 1) & 1 == 1 { !0 << (8 * bytes) } else { 0 }
                };
                let Some(register) = register else { continue };
                self.loaded_undefined(warp, *register, &bits.map(|b| b | top(&b)), exec, pc);
            }
        }
        Ok(())
    }

    /// Counts the wavefronts of a shared access by the lanes of `mask`.
    pub fn banks(&mut self, offsets: &[u32; 32], mask: u32, bytes: u32, pc: usize) {
        if mask != 0 {
            let (passes, conflicts) = wavefronts(offsets, mask, bytes);
            self.tally.total.shared_wavefronts += passes;
            self.tally.conflicts[pc] += conflicts;
        }
    }

    pub fn local_range(&self, warp: &Warp, offset: u32, bytes: u32, lane: usize) -> Outcome<usize> {
        let each = self.grid.code.local_bytes;
        if u64::from(offset) + u64::from(bytes) > u64::from(each) {
            let what = format!("{bytes} bytes at offset {offset} of {each} bytes of local memory");
            return Err(Trouble::new(FaultKind::OutOfBounds, what).at(offset.into()));
        }
        debug_assert!(warp.local.len() == each as usize * WARP);
        Ok(each as usize * lane + offset as usize)
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of the instruction")]
    pub fn store(
        &mut self,
        warp: &mut Warp,
        window: Window,
        address: Address,
        src: &[Src],
        bytes: u8,
        strong: bool,
        exec: u32,
        pc: usize,
    ) -> Outcome {
        let n = src.len() as u32;
        let (bytes, total) = (u32::from(bytes), u32::from(bytes) * n);
        let addresses = self.addresses(warp, address);
        if (!strong || window == Window::Global)
            && warp.undefined.is_empty()
            && self.store_at_a_glance(warp, window, &addresses, src, bytes, exec, pc)
        {
            return Ok(());
        }
        let grid = self.grid;
        let mask = if bytes == 8 { u64::MAX } else { (1 << (8 * bytes)) - 1 };
        let strict = self.grid.options.checks.same_word;
        let mut shared = ([0; WARP], 0);
        let mut global = ([0u64; WARP], 0usize);
        let mut held = None;
        // Bits that nothing has written, of each value and lane.
        let unknown = |warp: &Warp, k: u32, lane: usize| match warp.undefined.is_empty() {
            true => 0,
            false => warp.undefined.bits(src[k as usize]).map_or(0, |bits| bits[lane] & mask),
        };
        for lane in lanes_of(exec) {
            let at = addresses[lane];
            let value = |warp: &Warp, k: u32| warp.scalar(src[k as usize], lane, grid) & mask;
            (|| -> Outcome {
                Self::aligned(at, total.into())?;
                match self.site(warp, window, at)? {
                    Site::Global(_) if window == Window::Const => {
                        return Err(Trouble::new(
                            FaultKind::IllegalInstruction,
                            "a store to constant memory",
                        ));
                    }
                    Site::Global(at) => {
                        let a = self.allocation(&mut held, at, total.into())?;
                        self.uses(warp, a, at, total, true)?;
                        let offset = at - a.base;
                        for k in 0..n {
                            let at = offset + u64::from(k * bytes);
                            a.store(at, bytes, value(warp, k));
                            bytes_of(unknown(warp, k, lane)).for_each(|i| a.forget(at + u64::from(i), 1));
                        }
                        global.0[global.1] = at;
                        global.1 += 1;
                    }
                    Site::Shared(cta, offset) => {
                        let who = warp.who(lane, cta, strong);
                        let memory = &mut self.state.ctas[cta].shared;
                        memory.check(offset, total)?;
                        if !memory.writes_at_a_glance(offset, total, &who) {
                            let held = |k: u32| memory.peek(offset + k * bytes, bytes);
                            let same = (0..n).all(|k| held(k) == value(warp, k));
                            match memory.writing(offset, total, &who, same) {
                                // Lanes of one store meet in a word: the last one's value is what is stored.
                                Err(race) if race.kind == FaultKind::Race && !strict => {
                                    let later = exec & !((2u64 << lane) - 1) as u32;
                                    if lanes_of(later).any(|l| addresses[l] == at) {
                                        return Ok(());
                                    }
                                    if !lanes_of(shared.1).any(|l| shared.0[l] == offset) {
                                        return Err(race);
                                    }
                                    memory.writing(offset, total, &who, true)?;
                                }
                                other => other?,
                            }
                        }
                        for k in 0..n {
                            memory.poke(offset + k * bytes, bytes, value(warp, k));
                            bytes_of(unknown(warp, k, lane))
                                .for_each(|i| memory.hollow(offset + k * bytes + i));
                        }
                        shared.0[lane] = offset;
                        shared.1 |= 1 << lane;
                    }
                    Site::Local(offset) => {
                        let from = self.local_range(warp, offset, total, lane)?;
                        for k in 0..n {
                            let at = from + (k * bytes) as usize;
                            let data = value(warp, k).to_le_bytes();
                            warp.local[at..at + bytes as usize].copy_from_slice(&data[..bytes as usize]);
                            warp.local_written[at..at + bytes as usize].fill(true);
                            for i in bytes_of(unknown(warp, k, lane)) {
                                warp.local_written[at + i as usize] = false;
                            }
                        }
                    }
                    Site::Param(_) => {
                        return Err(Trouble::new(
                            FaultKind::IllegalInstruction,
                            "a store to kernel parameters",
                        ));
                    }
                }
                Ok(())
            })()
            .map_err(|t| t.by(lane))?;
        }
        if global.1 > 0 {
            self.tally.total.global_store_bytes += u64::from(total) * global.1 as u64;
            self.tally.total.global_store_sectors +=
                sectors(global.0[..global.1].iter().copied(), total.into());
        }
        self.banks(&shared.0, shared.1, total, pc);
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of the instruction")]
    pub fn atomic(
        &mut self,
        warp: &mut Warp,
        window: Window,
        address: Address,
        op: AtomicOp,
        element: Element,
        dst: &[Option<u32>],
        b: &[Src],
        c: Src,
        exec: u32,
    ) -> Outcome {
        let bytes = u32::from(element.bytes());
        let addresses = self.addresses(warp, address);
        let values: Vec<Lanes> = b.iter().map(|src| warp.lanes(*src, self.grid)).collect();
        let compare = warp.lanes(c, self.grid);
        let mut old = vec![[0; WARP]; values.len()];
        let mut held = None;
        let total = bytes * values.len() as u32;
        for lane in lanes_of(exec) {
            (|| -> Outcome {
                Self::aligned(addresses[lane], total.into())?;
                for (k, value) in values.iter().enumerate() {
                    let at = addresses[lane] + u64::from(k as u32 * bytes);
                    // Compare-and-swap has the comparand first.
                    let f = |x: u64| atomic::apply(op, element, x, value[lane], compare[lane]);
                    old[k][lane] = match self.site(warp, window, at)? {
                        Site::Global(at) => {
                            let a = self.allocation(&mut held, at, bytes.into())?;
                            self.uses(warp, a, at, bytes, true)?;
                            self.global_written(a, at, bytes, self.grid.options.checks.written)?;
                            self.global_atomic(a, at - a.base, bytes, f)
                        }
                        Site::Shared(..) if total > bytes => {
                            let what = "an atomic on a vector in shared memory";
                            return Err(Trouble::new(FaultKind::IllegalInstruction, what).at(at));
                        }
                        Site::Shared(cta, offset) => {
                            let who = warp.who(lane, cta, true);
                            let memory = &mut self.state.ctas[cta].shared;
                            memory.check(offset, bytes)?;
                            memory.reading(offset, bytes, &who)?;
                            if memory.undefined(offset, bytes) != 0 {
                                let what = "an atomic on shared memory that nothing has written";
                                return Err(Trouble::new(FaultKind::Uninitialized, what).at(offset.into()));
                            }
                            memory.writing(offset, bytes, &who, false)?;
                            let x = memory.peek(offset, bytes);
                            memory.poke(offset, bytes, f(x));
                            x
                        }
                        Site::Local(_) | Site::Param(_) => {
                            let what = "an atomic on local memory or parameters";
                            return Err(Trouble::new(FaultKind::IllegalInstruction, what));
                        }
                    };
                }
                Ok(())
            })()
            .map_err(|t| t.by(lane))?;
        }
        for (dst, old) in dst.iter().zip(&old) {
            if let Some(dst) = dst {
                warp.put(*dst, old, exec);
            }
        }
        Ok(())
    }

    /// One atomic step on global memory.
    pub fn global_atomic(&self, a: &Allocation, offset: u64, bytes: u32, f: impl Fn(u64) -> u64) -> u64 {
        match bytes {
            4 => a.update32(offset, |x| f(x.into()) as u32).into(),
            2 => {
                let shift = (offset % 4) * 8;
                let put = |x: u32| {
                    (x & !(0xffff << shift)) | (f((x >> shift & 0xffff).into()) as u32 & 0xffff) << shift
                };
                u64::from(a.update32(offset & !3, put) >> shift & 0xffff)
            }
            // The words are 32 bits wide: one lock makes wider atomics one step among themselves.
            _ => {
                let _guard = atomic::WIDE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let old = a.load(offset, 8);
                a.store(offset, 8, f(old));
                old
            }
        }
    }
}

/// The bytes that hold some of these bits.
pub fn bytes_of(bits: u64) -> impl Iterator<Item = u32> {
    (0..8).filter(move |i| bits >> (8 * i) & 0xff != 0)
}

fn read_le(bytes: &[u8], count: u32) -> u64 {
    let mut value = [0; 8];
    let count = count as usize;
    value[..count].copy_from_slice(&bytes[..count]);
    u64::from_le_bytes(value)
}
