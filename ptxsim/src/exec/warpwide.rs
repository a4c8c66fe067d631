//! Loads and stores of a warp that are right at a glance: one look at the allocation and at each word's marks, no detour
//! for each lane. What is not is left to [`access`](super::access), lane by lane, which also says what is wrong.

use super::machine::Machine;
use super::warp::{RANK_SHIFT, Warp, lanes_of};
use crate::counters::sectors_of_lanes;
use crate::ir::{Lanes, Src, WARP, Window};
use crate::memory::Allocation;

/// Values of a vector access.
#[derive(Clone, Copy)]
struct Shape {
    elements: usize,
    bytes: u32,
    /// The first word of each lane's; idle lanes have the first active lane's.
    words: [usize; WARP],
}

impl Shape {
    /// `None` unless every address is aligned and its bytes lie within `size` from `base` on.
    // Inlined, as what calls it is: it would be copied twice.
    #[inline(always)]
    fn new(addresses: &Lanes, exec: u32, elements: usize, bytes: u32, base: u64, size: u64) -> Option<Self> {
        let total = u64::from(bytes) * elements as u64;
        let last = size.checked_sub(total)?;
        let first = addresses[exec.trailing_zeros() as usize];
        let (mut words, mut inside, mut low) = ([0; WARP], true, 0);
        for (lane, (word, address)) in words.iter_mut().zip(addresses).enumerate() {
            let address = if exec >> lane & 1 == 1 { *address } else { first };
            let offset = address.wrapping_sub(base);
            (inside, low) = (inside & (offset <= last), low | address);
            *word = (offset / 4) as usize;
        }
        (inside && low.is_multiple_of(total)).then_some(Self { elements, bytes, words })
    }

    fn total(&self) -> u32 {
        self.bytes * self.elements as u32
    }

    /// Words of each lane, the last one perhaps in part.
    fn each(&self) -> usize {
        (self.total() as usize).div_ceil(4)
    }

    /// Puts the elements of the lanes of `exec`, which lie in memory's words, into registers.
    #[inline]
    fn gather(
        &self,
        warp: &mut Warp,
        dst: &[Option<u32>],
        signed: bool,
        exec: u32,
        addresses: &Lanes,
        word: impl Fn(usize) -> u32,
    ) {
        let unused = 64 - 8 * self.bytes;
        for (k, dst) in dst.iter().enumerate() {
            let Some(dst) = *dst else { continue };
            match (self.bytes, signed) {
                (4, false) => warp.set(dst, exec, |lane| word(self.words[lane] + k).into()),
                (4, true) => warp.set(dst, exec, |lane| i64::from(word(self.words[lane] + k) as i32) as u64),
                (8, _) => warp.set(dst, exec, |lane| {
                    let at = self.words[lane] + 2 * k;
                    u64::from(word(at)) | u64::from(word(at + 1)) << 32
                }),
                _ => warp.set(dst, exec, |lane| {
                    let at = addresses[lane] as usize % 4 + k * self.bytes as usize;
                    let bits = u64::from(word(self.words[lane] + at / 4)) >> (8 * (at % 4)) << unused;
                    if signed { (bits as i64 >> unused) as u64 } else { bits >> unused }
                }),
            }
        }
    }

    /// Element `k` of a lane, to memory's words.
    fn scatter(&self, k: usize, lane: usize, value: u64, mut put: impl FnMut(usize, u32)) {
        let at = self.words[lane] + k * self.bytes as usize / 4;
        put(at, value as u32);
        if self.bytes == 8 {
            put(at + 1, (value >> 32) as u32);
        }
    }
}

impl<'a> Machine<'_, 'a> {
    /// A load whose checks find nothing; `false`: nothing was loaded, and the full checks are to be asked.
    #[allow(clippy::too_many_arguments, reason = "the fields of the instruction")]
    pub fn load_at_a_glance(
        &mut self,
        warp: &mut Warp,
        window: Window,
        addresses: &Lanes,
        dst: &[Option<u32>],
        bytes: u32,
        signed: bool,
        exec: u32,
        pc: usize,
    ) -> bool {
        let elements = dst.len();
        let first = addresses[exec.trailing_zeros() as usize];
        match window {
            // No allocation lies where generic addresses mean other memory.
            Window::Global | Window::Const | Window::Generic => {
                let Some((a, shape)) = self.one_allocation(warp, addresses, exec, elements, bytes) else {
                    return false;
                };
                let total = shape.total();
                let written = self.grid.options.checks.written || self.grid.options.checks.loads;
                let fresh = match total {
                    1 | 2 => {
                        a.read_parts(lanes_of(exec).map(|lane| addresses[lane] - a.base), total, written)
                    }
                    _ => a.read_all(&shape.words, shape.each(), written),
                };
                let Some(fresh) = fresh else { return false };
                shape.gather(warp, dst, signed, exec, addresses, |word| a.word(word));
                let tally = &mut self.tally.total;
                tally.distinct_bytes += u64::from(fresh);
                tally.global_load_bytes += u64::from(total * exec.count_ones());
                tally.global_load_sectors += sectors_of_lanes(addresses, exec);
            }
            Window::Shared => {
                let base = (warp.cta as u64) << RANK_SHIFT;
                let size = u64::from(self.grid.shared_bytes);
                let Some(shape) = Shape::new(addresses, exec, elements, bytes, base, size) else {
                    return false;
                };
                let memory = &mut self.state.ctas[warp.cta].shared;
                let who = warp.who(0, warp.cta, false);
                if !memory.reads_at_a_glance(&shape.words, shape.each(), exec, who) {
                    return false;
                }
                shape.gather(warp, dst, signed, exec, addresses, |word| memory.word(word));
                self.banks(&shape.words.map(|w| w as u32 * 4), exec, shape.total(), pc);
            }
            Window::Param => {
                // Most often all lanes read the same.
                if lanes_of(exec).any(|lane| addresses[lane] != first) {
                    return false;
                }
                let size = self.grid.parameters.len() as u64;
                let Some(shape) = Shape::new(addresses, exec, elements, bytes, 0, size) else { return false };
                let bytes = &self.grid.parameters[first as usize..];
                // Of words as memory has them.
                let start = shape.words[0];
                let word = |at: usize| {
                    let from = 4 * (at - start);
                    (0..4).fold(0, |word, i| word | u32::from(*bytes.get(from + i).unwrap_or(&0)) << (8 * i))
                };
                shape.gather(warp, dst, signed, exec, &[0; WARP], word);
            }
            _ => return false,
        }
        true
    }

    /// A store whose checks find nothing; `false`: nothing was stored, and the full checks are to be asked.
    #[allow(clippy::too_many_arguments, reason = "the fields of the instruction")]
    pub fn store_at_a_glance(
        &mut self,
        warp: &mut Warp,
        window: Window,
        addresses: &Lanes,
        src: &[Src],
        bytes: u32,
        exec: u32,
        pc: usize,
    ) -> bool {
        match window {
            _ if bytes < 4 => false,
            Window::Global => self.store_global(warp, addresses, src, bytes, exec),
            Window::Shared => self.store_shared(warp, addresses, src, bytes, exec, pc),
            _ => false,
        }
    }

    fn store_shared(
        &mut self,
        warp: &Warp,
        addresses: &Lanes,
        src: &[Src],
        bytes: u32,
        exec: u32,
        pc: usize,
    ) -> bool {
        let base = (warp.cta as u64) << RANK_SHIFT;
        let size = u64::from(self.grid.shared_bytes);
        let Some(shape) = Shape::new(addresses, exec, src.len(), bytes, base, size) else { return false };
        let memory = &mut self.state.ctas[warp.cta].shared;
        // Those noted before one that is not right are noted again, lane by lane.
        let right = lanes_of(exec).all(|lane| {
            let who = warp.who(lane, warp.cta, false);
            memory.writes_at_a_glance(shape.words[lane] as u32 * 4, shape.total(), &who)
        });
        if !right {
            return false;
        }
        for (k, source) in src.iter().enumerate() {
            let mut held = None;
            let value = warp.view(*source, self.grid, &mut held);
            for lane in lanes_of(exec) {
                shape.scatter(k, lane, value[lane], |word, x| memory.set_word(word, x));
            }
        }
        self.banks(&shape.words.map(|w| w as u32 * 4), exec, shape.total(), pc);
        true
    }

    fn store_global(&mut self, warp: &Warp, addresses: &Lanes, src: &[Src], bytes: u32, exec: u32) -> bool {
        let Some((a, shape)) = self.one_allocation(warp, addresses, exec, src.len(), bytes) else {
            return false;
        };
        let fresh = a.write_all(&shape.words, shape.each());
        for (k, source) in src.iter().enumerate() {
            let mut held = None;
            let value = warp.view(*source, self.grid, &mut held);
            for lane in lanes_of(exec) {
                shape.scatter(k, lane, value[lane], |word, x| a.set_word(word, x));
            }
        }
        let tally = &mut self.tally.total;
        let total = shape.total();
        tally.distinct_bytes += u64::from(fresh);
        tally.global_store_bytes += u64::from(total * exec.count_ones());
        tally.global_store_sectors += sectors_of_lanes(addresses, exec);
        true
    }

    /// The allocation that the lanes' accesses all lie in, if the launch before cannot still use it.
    #[inline(always)]
    fn one_allocation(
        &self,
        warp: &Warp,
        addresses: &Lanes,
        exec: u32,
        elements: usize,
        bytes: u32,
    ) -> Option<(&'a Allocation, Shape)> {
        let grid = self.grid;
        let a = grid.memory.find(addresses[exec.trailing_zeros() as usize])?;
        let shape = Shape::new(addresses, exec, elements, bytes, a.base, a.bytes)?;
        (!grid.config.overlaps || warp.knows_launch_ended()).then_some((a, shape))
    }
}
