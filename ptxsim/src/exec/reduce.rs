//! `red.async`: a reduction in the shared memory of another block, which an mbarrier there counts.

use super::access::Site;
use super::atomic;
use super::machine::Machine;
use super::warp::Warp;
use crate::fault::{FaultKind, Outcome, Trouble};
use crate::ir::{BulkReduction, Window};

impl Machine<'_, '_> {
    pub fn reduce_async(
        &mut self,
        warp: &Warp,
        to: u64,
        value: u64,
        reduction: BulkReduction,
        barrier: u64,
        lane: usize,
    ) -> Outcome {
        let bytes = u32::from(reduction.element.bytes());
        let Site::Shared(block, offset) = self.shared_or_cluster(warp, to)? else { return Ok(()) };
        let (barrier_block, place) = self.barrier_site(warp, Window::Generic, barrier, lane)?;
        // 9.7.13.7: both belong to one block of the cluster, and not to the thread's own.
        if block != barrier_block || block == warp.cta {
            let what = format!(
                "red.async by block {} to block {block} with an mbarrier of block {barrier_block}: both must be of \
                 one other block",
                warp.cta
            );
            return Err(Trouble::new(FaultKind::IllegalInstruction, what).at(to));
        }
        let who = warp.who(lane, block, true);
        let state = &mut self.state.ctas[block];
        let mbarrier = state.mbarriers.get_mut(&place).ok_or_else(|| {
            let what = format!("no initialised mbarrier at offset {place:#x} of shared memory");
            Trouble::new(FaultKind::Uninitialized, what).at(barrier)
        })?;
        let stamp = (mbarrier.actor, mbarrier.stamp());
        let memory = &mut state.shared;
        memory.check(offset, bytes)?;
        memory.reduced(offset, bytes, &who, stamp)?;
        let old = memory.peek(offset, bytes);
        memory.poke(offset, bytes, atomic::apply(reduction.op, reduction.element, old, value, 0));
        self.tally.total.async_copy_bytes += u64::from(bytes);
        mbarrier.complete(bytes, stamp.1)
    }
}
