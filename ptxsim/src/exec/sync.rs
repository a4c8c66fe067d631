//! Barriers of blocks and clusters, and mbarriers.

use super::clock::{Hidden, join};
use super::shared::Range;
use super::warp::{Phase, Warp};
use crate::fault::{FaultKind, Outcome, Trouble};

/// One of the 16 barriers of a block.
#[derive(Default)]
pub struct Barrier {
    /// Threads that have arrived, in whole warps.
    arrived: u32,
    /// Threads to wait for; `None` is the whole block.
    expected: Option<u32>,
    pub generation: u64,
    pending: Vec<u32>,
    done: Vec<u32>,
    reduction: Reduction,
    /// Warps that wait for this generation, and those that have not left the last one.
    waiting: usize,
    leaving: usize,
    /// What the last generation's values reduced to.
    pub result: Reduction,
}

#[derive(Clone, Copy)]
pub struct Reduction {
    pub all: bool,
    pub any: bool,
    pub count: u32,
}

impl Default for Reduction {
    fn default() -> Self {
        Self { all: true, any: false, count: 0 }
    }
}

impl Barrier {
    /// A warp arrives, and may wait; `value` holds the predicates of its live lanes.
    /// `block` is the block's threads, in whole warps.
    pub fn arrive(
        &mut self,
        warp: &mut Warp,
        count: Option<u32>,
        block: u32,
        value: u32,
        waits: bool,
    ) -> Outcome {
        if self.arrived > 0 && self.expected.unwrap_or(block) != count.unwrap_or(block) {
            let say = |c: Option<u32>| c.map_or("the whole block".to_owned(), |c| format!("{c} threads"));
            let what =
                format!("arrival for {} at a barrier that waits for {}", say(count), say(self.expected));
            return Err(Trouble::new(FaultKind::BarrierMismatch, what));
        }
        if let Some(count) = count
            && (count == 0 || !count.is_multiple_of(32))
        {
            let what = format!("a barrier of {count} threads; allowed are multiples of 32");
            return Err(Trouble::new(FaultKind::BarrierMismatch, what));
        }
        // Whoever gives the number waits for the dead, too.
        self.expected = count.or(self.expected.filter(|_| self.arrived > 0));
        self.arrived += 32;
        if let Some(count) = count
            && self.arrived > count
        {
            let what = format!("{} threads arrived at a barrier of {count}", self.arrived);
            return Err(Trouble::new(FaultKind::BarrierMismatch, what));
        }
        self.waiting += usize::from(waits);
        let live = warp.alive;
        self.reduction.all &= value & live == live;
        self.reduction.any |= value & live != 0;
        self.reduction.count += (value & live).count_ones();
        self.pending.resize(warp.clock.len(), 0);
        join(&mut self.pending, &warp.clock);
        warp.advance();
        Ok(())
    }

    /// Completes the generation if all have come, and the last one's result is no longer needed.
    pub fn poll(&mut self, live_warps: usize) {
        let wanted = self.expected.unwrap_or(live_warps as u32 * 32);
        if self.arrived > 0 && self.arrived >= wanted && self.leaving == 0 {
            self.arrived = 0;
            self.leaving = std::mem::take(&mut self.waiting);
            self.generation += 1;
            self.done = std::mem::take(&mut self.pending);
            self.result = std::mem::take(&mut self.reduction);
        }
    }

    /// A warp leaves the completed barrier.
    pub fn leave(&mut self, warp: &mut Warp) {
        self.leaving = self.leaving.saturating_sub(1);
        warp.acquire(&self.done);
        warp.synchronize(warp.alive);
    }
}

/// The barrier of a cluster.
#[derive(Default)]
pub struct ClusterBarrier {
    arrived: usize,
    pub generation: u64,
    pending: Vec<u32>,
    done: Vec<u32>,
    /// What arrivals publish of that: relaxed ones what a fence did before them.
    pending_visible: Vec<u32>,
    visible: Vec<u32>,
    /// Generation that each warp arrived in.
    pub arrivals: Vec<Option<u64>>,
}

impl ClusterBarrier {
    pub fn arrive(&mut self, warp: &mut Warp, relaxed: bool) -> Outcome {
        self.arrivals.resize(self.arrivals.len().max(warp.actor + 1), None);
        if self.arrivals[warp.actor].replace(self.generation).is_some() {
            let what = "barrier.cluster.arrive twice without a wait between";
            return Err(Trouble::new(FaultKind::BarrierMismatch, what));
        }
        self.arrived += 1;
        self.pending.resize(warp.clock.len(), 0);
        join(&mut self.pending, &warp.clock);
        self.pending_visible.resize(warp.clock.len(), 0);
        join(&mut self.pending_visible, if relaxed { &warp.released } else { &warp.clock });
        warp.advance();
        Ok(())
    }

    /// A warp exits: nobody waits for it, whether it had arrived or not.
    pub fn exit(&mut self, warp: &Warp) {
        if self.arrivals.get(warp.actor).is_some_and(|arrival| *arrival == Some(self.generation)) {
            self.arrived -= 1;
        }
    }

    pub fn poll(&mut self, live_warps: usize) {
        if self.arrived > 0 && self.arrived >= live_warps {
            self.arrived = 0;
            self.generation += 1;
            self.done = std::mem::take(&mut self.pending);
            self.visible = std::mem::take(&mut self.pending_visible);
        }
    }

    pub fn leave(&mut self, warp: &mut Warp) {
        if let Some(arrival) = self.arrivals.get_mut(warp.actor) {
            *arrival = None;
        }
        // What the warp has acquired otherwise stays seen.
        let seen = self.visible.iter().zip(&warp.clock).map(|(visible, known)| *visible.max(known));
        let all = seen.zip(&self.done).enumerate();
        let unseen: Vec<Hidden> = all
            .filter(|(actor, (seen, until))| *actor != warp.actor && seen < *until)
            .map(|(actor, (after, until))| Hidden { actor, after, until: *until })
            .collect();
        match unseen.is_empty() {
            true => warp.acquire(&self.done),
            false => join(&mut warp.clock, &self.done),
        }
        warp.hidden.extend(unseen);
        warp.synchronize(warp.alive);
    }
}

/// Most bytes that an mbarrier can expect.
const MOST_TX: i64 = (1 << 20) - 1;

/// An mbarrier object. Its memory holds an opaque word; the state is here.
pub struct Mbarrier {
    /// Arrivals that a phase needs.
    expected: u32,
    /// Arrivals that this phase still needs.
    pending: u32,
    /// Bytes announced less bytes arrived.
    tx: i64,
    pub phase: u64,
    /// Actor and epoch of the warp that initialised it.
    pub initialised: (usize, u32),
    /// Actor that its copies write as, and their count.
    pub actor: usize,
    pub epoch: u32,
    arriving: Vec<u32>,
    done: Vec<u32>,
    /// Shared memory of blocks that this phase's copies read.
    pub reading: Vec<(usize, Range)>,
    /// What completed phases' copies have read, until a thread sees that.
    pub read: Vec<(usize, Range)>,
}

impl Mbarrier {
    pub fn new(count: u32, initialised: (usize, u32), actor: usize, epoch: u32, clocks: usize) -> Self {
        let none = vec![0; clocks];
        Self {
            expected: count,
            pending: count,
            tx: 0,
            phase: 0,
            initialised,
            actor,
            epoch,
            arriving: none.clone(),
            done: none,
            reading: Vec::new(),
            read: Vec::new(),
        }
    }

    pub fn passed(&self, phase: Phase) -> bool {
        match phase {
            Phase::Parity(parity) => self.phase & 1 != parity & 1,
            Phase::Number(number) => self.phase > number,
        }
    }

    pub fn pending(&self) -> u32 {
        self.pending
    }

    /// `count` arrivals; `drop` takes them out of later phases too.
    pub fn arrive(&mut self, clock: &[u32], count: u32, drop: bool) -> Outcome {
        if count == 0 || count > self.pending {
            let what =
                format!("{count} arrivals at an mbarrier that waits for {} more in this phase", self.pending);
            return Err(Trouble::new(FaultKind::BarrierMismatch, what));
        }
        self.pending -= count;
        if drop {
            self.expected -= count.min(self.expected);
        }
        join(&mut self.arriving, clock);
        self.poll();
        Ok(())
    }

    /// Who sees the phase complete has seen this.
    pub fn learn(&mut self, clock: &[u32]) {
        join(&mut self.arriving, clock);
    }

    pub fn expect(&mut self, bytes: u32) -> Outcome {
        self.tx += i64::from(bytes);
        if self.tx > MOST_TX {
            let what = format!("an mbarrier that expects {} bytes; allowed are {MOST_TX}", self.tx);
            return Err(Trouble::new(FaultKind::IllegalInstruction, what));
        }
        // The bytes may have been the last thing missing: they can come before they are expected.
        self.poll();
        Ok(())
    }

    /// `bytes` have arrived, written with `epoch` of this mbarrier's actor; 0 is for none.
    pub fn complete(&mut self, bytes: u32, epoch: u32) -> Outcome {
        self.tx -= i64::from(bytes);
        if self.tx < -MOST_TX {
            let what = format!("{} more bytes arrived at an mbarrier than it expects", -self.tx);
            return Err(Trouble::new(FaultKind::BarrierMismatch, what));
        }
        if let Some(seen) = self.arriving.get_mut(self.actor) {
            *seen = (*seen).max(epoch);
        }
        self.poll();
        Ok(())
    }

    /// The epoch that the next completing copy writes with.
    pub fn stamp(&mut self) -> u32 {
        self.epoch += 1;
        self.epoch
    }

    fn poll(&mut self) {
        if self.pending == 0 && self.tx == 0 {
            self.phase += 1;
            self.pending = self.expected;
            let arrived = std::mem::replace(&mut self.arriving, vec![0; self.done.len()]);
            join(&mut self.done, &arrived);
            self.read.append(&mut self.reading);
        }
    }

    /// A warp has seen the phase complete: what its own lanes did before they arrived, too.
    pub fn observe(&self, warp: &mut Warp) {
        warp.acquire(&self.done);
        let own = self.done.get(warp.actor).copied().unwrap_or(0);
        // Its arrivals have advanced the epoch since.
        warp.full_sync = warp.full_sync.max(own + 1);
    }
}
