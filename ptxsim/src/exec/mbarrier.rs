//! mbarriers.

use super::access::Site;
use super::machine::{Flow, MBARRIER_ACTORS, Machine};
use super::shared::Range;
use super::sync::Mbarrier;
use super::warp::{Phase, State, Warp, lanes_of};
use crate::fault::{FaultKind, Outcome, Trouble};
use crate::ir::{Address, MbarrierOp, Window};

impl Machine<'_, '_> {
    /// The mbarrier at an address, and its block.
    pub fn barrier_at(
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

    pub fn barrier_site(
        &self,
        warp: &Warp,
        window: Window,
        address: u64,
        lane: usize,
    ) -> Outcome<(usize, u32)> {
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
                    mbarrier.complete(tx[lane] as u32, 0).map_err(|t| t.by(lane))?;
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
        state
            .mbarriers
            .insert(offset, Mbarrier::new(count, (warp.actor, warp.epoch()), actor, epoch, clocks));
        Ok(())
    }
}
