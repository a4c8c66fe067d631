//! `cp.async`.
//!
//! As with all asynchronous copies here, data move when the instruction runs; what is late is the permission
//! to look: until the wait, the words are marked, and whoever touches them too early is told.

use super::access::Site;
use super::machine::Machine;
use super::pending::Arriving;
use super::shared::{Range, Shared};
use super::warp::{Warp, lanes_of};
use crate::counters::sectors;
use crate::fault::{FaultKind, Outcome, Trouble};
use crate::ir::{Address, PredicateSrc, Src, Window};

fn put(memory: &mut Shared, offset: u32, data: &[u8]) {
    for (i, word) in data.chunks_exact(4).enumerate() {
        let word = u32::from_le_bytes(word.try_into().unwrap_or_default());
        memory.poke(offset + 4 * i as u32, 4, word.into());
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
        let (mut offsets, mut copied) = ([0; 32], 0);
        let mut sources = Vec::new();
        let mut held = None;
        let late = self.state.random.as_mut().is_some_and(|random| random.once_in(2));
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
                let mut hollow = Vec::new();
                if size > 0 {
                    Self::aligned(from[lane], bytes.into())?;
                    let a = self.allocation(&mut held, from[lane], size.into())?;
                    self.uses(warp, a, from[lane], size, false)?;
                    let at = from[lane] - a.base;
                    if self.grid.options.checks.written {
                        a.unwritten(at, size, offset, &mut hollow);
                    }
                    a.read(at, &mut data[..size as usize]);
                    self.tally.total.global_load_bytes += u64::from(size);
                    sources.push(from[lane]);
                }
                self.tally.total.async_copy_bytes += u64::from(bytes);
                let who = warp.who(lane, warp.cta, false);
                let memory = &mut self.state.ctas[warp.cta].shared;
                memory.check(offset, bytes)?;
                memory.incoming(offset, bytes, &who)?;
                if !late {
                    put(memory, offset, &data[..bytes as usize]);
                }
                hollow.into_iter().for_each(|byte| memory.hollow(byte));
                let range = Range { offset, bytes };
                warp.copies[lane].open.push(Arriving { range, late: late.then_some(data) });
                offsets[lane] = offset;
                copied |= 1 << lane;
                Ok(())
            })()
            .map_err(|t| t.by(lane))?;
        }
        self.tally.total.global_load_sectors += sectors(sources.into_iter(), bytes.into());
        self.banks(&offsets, copied, bytes, pc);
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
                for Arriving { range, late } in copies.groups.pop_front().unwrap_or_default() {
                    let who = warp.who(lane, warp.cta, false);
                    let memory = &mut self.state.ctas[warp.cta].shared;
                    if let Some(data) = late {
                        put(memory, range.offset, &data[..range.bytes as usize]);
                    }
                    memory.landed(range.offset, range.bytes, &who);
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
}
