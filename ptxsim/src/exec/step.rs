//! One instruction, for the threads of a group.

use super::machine::{Flow, Machine};
use super::pending::WARPGROUP;
use super::warp::{LOCAL_WINDOW, PARAM_WINDOW, RANK_SHIFT, SHARED_WINDOW, State, Warp, lanes_of};
use crate::fault::{FaultKind, Outcome, Trouble};
use crate::ir::{FenceKind, Instr, LocalCopy, Op, Src, WARP, Window, lanes_where};

impl Machine<'_, '_> {
    /// Runs `instruction` for the lanes of `exec`.
    pub fn execute(&mut self, warp: &mut Warp, instruction: &Instr, exec: u32, pc: usize) -> Outcome<Flow> {
        let grid = self.grid;
        if grid.options.checks.wgmma_registers {
            if warp.wgmma.pending {
                self.accumulators_untouched(warp, &instruction.op)?;
            }
            if instruction.fragments {
                warp.wgmma.touch(instruction);
            }
        }
        if exec != warp.alive && comes_together(&instruction.op) {
            return Ok(Flow::Wait(State::Gather));
        }
        if exec != u32::MAX && takes_whole_warp(&instruction.op) {
            let what = match instruction.op {
                Op::MapCopy { .. } => "tensormap.cp_fenceproxy",
                _ => "a matrix instruction",
            };
            let what = format!("{what} by lanes {exec:#010x}; it takes a whole warp");
            return Err(Trouble::new(FaultKind::Divergence, what));
        }
        match &instruction.op {
            Op::Nop => {}
            Op::Alu(alu) => warp.compute(alu, grid, exec),
            Op::AluOf { .. } | Op::AluTest { .. } | Op::Moves { .. } | Op::Set { .. } => {
                self.scalar(warp, &instruction.op, exec);
            }
            Op::Carry { f, dst, src, reads, writes } => {
                let sources = src.map(|s| warp.lanes(s, grid));
                let mut out = [0; WARP];
                let mut carry = warp.carry;
                for lane in lanes_of(exec) {
                    let held = if *reads { u64::from(warp.carry >> lane & 1) } else { 0 };
                    let (value, flag) = f(sources[0][lane], sources[1][lane], sources[2][lane], held);
                    out[lane] = value;
                    carry = (carry & !(1 << lane)) | (flag as u32) << lane;
                }
                if *writes {
                    warp.carry = carry;
                }
                warp.put(*dst, &out, exec);
            }
            Op::Convert { how, dst, a, b } => {
                warp.change(*dst, &[*a, *b], None, grid, exec, |[a, b], out| {
                    how.convert(grid.arch, a, b, out)
                });
            }
            Op::Select { dst, a, b, predicate } => {
                let chosen = warp.predicate(*predicate);
                warp.change(*dst, &[*a, *b], None, grid, exec, |[a, b], out| {
                    *out =
                        std::array::from_fn(|lane| if chosen >> lane & 1 == 1 { a[lane] } else { b[lane] });
                });
            }
            Op::Compare { f, dst, complement, a, b, pre, combine } => {
                let truth = warp.compare(*f, *pre, *a, *b, grid);
                let with =
                    |value: u32| combine.map_or(value, |(logic, p)| logic.apply(value, warp.predicate(p)));
                let (yes, no) = (with(truth), with(!truth));
                if let Some(dst) = dst {
                    warp.put_predicate(*dst, yes, exec);
                }
                if let Some(complement) = complement {
                    warp.put_predicate(*complement, no, exec);
                }
            }
            Op::ComparePair { f, low, high, a, b, pre, combine } => {
                let (mut a, mut b) = (warp.lanes(*a, grid), warp.lanes(*b, grid));
                if let Some(pre) = pre {
                    pre(&mut a);
                    pre(&mut b);
                }
                let lower = f(grid.arch, &a, &b);
                a.iter_mut().chain(&mut b).for_each(|x| *x >>= 16);
                let upper = f(grid.arch, &a, &b);
                let with =
                    |value: u32| combine.map_or(value, |(logic, p)| logic.apply(value, warp.predicate(p)));
                let (lower, upper) = (with(lower), with(upper));
                if let Some(low) = low {
                    warp.put_predicate(*low, lower, exec);
                }
                if let Some(high) = high {
                    warp.put_predicate(*high, upper, exec);
                }
            }
            Op::PredicateLogic { logic, dst, a, b } => {
                let value = logic.apply(warp.predicate(*a), warp.predicate(*b));
                warp.put_predicate(*dst, value, exec);
            }
            Op::Pack { dst, parts, bits } => {
                let mut out = [0; WARP];
                for (i, part) in parts.iter().enumerate() {
                    let mut held = None;
                    for (o, x) in out.iter_mut().zip(warp.view(*part, grid, &mut held)) {
                        *o |= (x & ((1 << bits) - 1)) << (*bits as usize * i);
                    }
                }
                warp.put(*dst, &out, exec);
            }
            Op::Unpack { dst, src, bits } => {
                let value = warp.lanes(*src, grid);
                for (i, dst) in dst.iter().enumerate() {
                    if let Some(dst) = dst {
                        warp.set(*dst, exec, |lane| value[lane] >> (*bits as usize * i) & ((1 << bits) - 1));
                    }
                }
            }
            Op::Load { window, address, dst, bytes, signed, strong } => {
                self.load(warp, *window, *address, dst, *bytes, *signed, *strong, exec, pc)?;
                // A flag that another block sets: give it a chance.
                if *strong && matches!(window, Window::Global | Window::Generic) {
                    self.waited += 1;
                    return Ok(Flow::Yield);
                }
            }
            Op::Store { window, address, src, bytes, strong } => {
                self.store(warp, *window, *address, src, *bytes, *strong, exec, pc)?;
            }
            Op::Atomic { window, address, op, element, dst, b, c } => {
                self.atomic(warp, *window, *address, *op, *element, dst, b, *c, exec)?;
                if !dst.is_empty() && *window != Window::Shared {
                    self.waited += 1;
                    return Ok(Flow::Yield);
                }
            }
            Op::ToGeneric { window, dst, a } => {
                let base = window_base(*window);
                let a = warp.lanes(*a, grid);
                warp.set(*dst, exec, |lane| a[lane].wrapping_add(base));
            }
            Op::FromGeneric { window, dst, a } => {
                let base = window_base(*window);
                let out = warp.lanes(*a, grid).map(|a| a.wrapping_sub(base));
                warp.put(*dst, &out, exec);
            }
            Op::IsWindow { window, dst, a } => {
                let a = warp.lanes(*a, grid);
                let truth = lanes_where(exec, |lane| {
                    let top = a[lane] >> 48 << 48;
                    match window {
                        Window::Shared => {
                            top == SHARED_WINDOW && (a[lane] - SHARED_WINDOW) >> RANK_SHIFT == warp.cta as u64
                        }
                        Window::Cluster => top == SHARED_WINDOW,
                        Window::Local => top == LOCAL_WINDOW,
                        Window::Param => top == PARAM_WINDOW,
                        _ => ![SHARED_WINDOW, LOCAL_WINDOW, PARAM_WINDOW].contains(&top),
                    }
                });
                warp.put_predicate(*dst, truth, exec);
            }
            Op::MapShared { dst, a, rank, generic } => {
                let (a, rank) = (warp.lanes(*a, grid), warp.lanes(*rank, grid));
                let base = if *generic { SHARED_WINDOW } else { 0 };
                let blocks = self.state.ctas.len() as u64;
                let mut out = [0; WARP];
                for lane in lanes_of(exec) {
                    if rank[lane] & 0xffff_ffff >= blocks {
                        let what = format!("mapa to block {} of a cluster of {blocks}", rank[lane]);
                        return Err(Trouble::new(FaultKind::IllegalInstruction, what).by(lane));
                    }
                    out[lane] = base
                        + (a[lane] & ((1 << RANK_SHIFT) - 1))
                        + ((rank[lane] & 0xffff_ffff) << RANK_SHIFT);
                }
                warp.put(*dst, &out, exec);
            }
            Op::SharedRank { dst, a, generic } => {
                let base = if *generic { SHARED_WINDOW } else { 0 };
                let out = warp.lanes(*a, grid).map(|a| a.wrapping_sub(base) >> RANK_SHIFT);
                warp.put(*dst, &out, exec);
            }
            Op::Branch { target } => return Ok(Flow::Jump(*target)),
            Op::BranchIndexed { index, targets } => {
                return self.branch_indexed(warp, *index, targets, exec);
            }
            Op::Call { target, arguments, .. } => {
                self.copy_local(warp, arguments, exec);
                return Ok(Flow::Call(*target));
            }
            Op::Return => return Ok(Flow::Return),
            Op::Exit => return Ok(Flow::Exit),
            Op::Trap => {
                return Err(Trouble::new(FaultKind::Trap, "trap").by(exec.trailing_zeros() as usize));
            }
            Op::Printf { format, arguments, result } => {
                self.printf(warp, *format, *arguments, *result, exec)?
            }
            Op::AssertFail { message, file, line } => {
                return Err(self.assertion(warp, *message, *file, *line, exec));
            }
            Op::Sleep => {
                self.waited += 1;
                return Ok(Flow::Yield);
            }
            Op::SetRegisters { count } => self.set_registers(warp, *count)?,
            Op::Barrier { id, count, waits, reduce } => {
                let lane = exec.trailing_zeros() as usize;
                let number = warp.scalar(*id, lane, grid) as usize;
                let count = count.map(|c| warp.scalar(c, lane, grid) as u32);
                let value = reduce.map_or(0, |r| warp.predicate(r.value));
                let cta = &mut self.state.ctas[warp.cta];
                let live = cta.live_warps;
                let barrier = cta.barriers.get_mut(number).ok_or_else(|| {
                    Trouble::new(FaultKind::IllegalInstruction, format!("barrier {number}; there are 16"))
                })?;
                let generation = barrier.generation;
                barrier.arrive(warp, count, 32 * grid.warps_per_block() as u32, value, *waits)?;
                self.tally.total.barriers += 1;
                if *waits {
                    return Ok(Flow::Wait(State::Barrier { id: number, generation }));
                }
                barrier.poll(live);
            }
            Op::ClusterArrive { relaxed } => {
                self.state.barrier.arrive(warp, *relaxed)?;
                self.state.barrier.poll(self.state.live_warps);
            }
            Op::ClusterWait => {
                let Some(Some(generation)) = self.state.barrier.arrivals.get(warp.actor).copied() else {
                    let what = "barrier.cluster.wait without an arrive before it";
                    return Err(Trouble::new(FaultKind::BarrierMismatch, what));
                };
                return Ok(Flow::Wait(State::ClusterBarrier { generation }));
            }
            Op::Fence(FenceKind::ProxyAsync) => {
                // What this warp wrote or has seen is fenced; what it writes from now on is not.
                warp.fenced.copy_from_slice(&warp.clock);
                self.state.fences[warp.actor] = warp.epoch();
                warp.advance();
            }
            Op::Fence(FenceKind::MbarrierInit) => {
                self.state.init_fences[warp.actor] = warp.epoch();
                // Nobody relies on it for other data.
                warp.released.copy_from_slice(&warp.clock);
                warp.advance();
            }
            Op::Fence(FenceKind::Cluster) => {
                warp.released.copy_from_slice(&warp.clock);
                warp.advance();
            }
            Op::Fence(FenceKind::Ordinary) => {}
            Op::LaunchWait => warp.wait_for_launch(),
            Op::LoadMatrix { address, dst, transpose } => {
                self.load_matrix(warp, *address, dst, *transpose, exec, pc)?;
            }
            Op::StoreMatrix { address, src, transpose } => {
                self.store_matrix(warp, *address, src, *transpose, pc)?;
            }
            Op::MoveMatrix { dst, a } => self.move_matrix(warp, *dst, *a, exec),
            Op::Mma(mma) => self.mma(warp, mma),
            Op::Product(product) => self.product(warp, product, exec),
            Op::WmmaLoad(load) => self.wmma_load(warp, &load.0, &load.1, exec, pc)?,
            Op::WmmaStore(store) => self.wmma_store(warp, &store.0, &store.1, pc)?,
            Op::Wgmma(wgmma) => self.wgmma(warp, wgmma, exec)?,
            Op::WgmmaFence | Op::WgmmaCommit | Op::WgmmaWait { .. } => {
                return self.wgmma_order(warp, &instruction.op);
            }
            Op::CopyAsync { dst, src, bytes, src_bytes, ignore } => {
                self.copy_async(warp, *dst, *src, *bytes, *src_bytes, *ignore, exec, pc)?;
            }
            Op::CopyAsyncCommit => {
                for lane in lanes_of(exec) {
                    warp.copies[lane].commit();
                }
            }
            Op::CopyAsyncWait { pending } => self.copy_wait(warp, *pending as usize, exec),
            Op::CopyAsyncArrive { barrier, noinc } => self.copy_arrive(warp, *barrier, *noinc, exec)?,
            Op::Mbarrier { window, address, op } => return self.mbarrier(warp, *window, *address, op, exec),
            Op::MapReplace(op) => self.map_replace(warp, op, exec)?,
            Op::MapCopy { dst, src } => self.map_copy(warp, *dst, *src, exec)?,
            Op::Bulk(bulk) => self.bulk(warp, bulk, exec)?,
            Op::BulkCommit => {
                for lane in lanes_of(exec) {
                    warp.copies[lane].commit_bulk();
                }
            }
            Op::BulkWait { pending } => self.bulk_wait(warp, *pending as usize, exec),
            Op::WarpSync { .. }
            | Op::Shuffle { .. }
            | Op::Vote { .. }
            | Op::Match { .. }
            | Op::Redux { .. }
            | Op::Elect { .. }
            | Op::ActiveMask { .. } => return self.collective(warp, &instruction.op, exec),
        }
        Ok(Flow::Next)
    }

    /// Lanes whose indices agree go together; the others meet the instruction again.
    fn branch_indexed(&mut self, warp: &mut Warp, index: Src, targets: &[u32], exec: u32) -> Outcome<Flow> {
        let index = warp.lanes(index, self.grid);
        let first = exec.trailing_zeros() as usize;
        let same = lanes_where(exec, |lane| index[lane] == index[first]);
        let target = *targets.get(index[first] as usize).ok_or_else(|| {
            let what = format!("branch to target {} of {}", index[first], targets.len());
            Trouble::new(FaultKind::IllegalInstruction, what).by(first)
        })?;
        warp.set_aside(exec & !same);
        Ok(Flow::Jump(target))
    }

    /// `setmaxnreg`: what the warpgroups of a block have set must fit what the block begins with, or one waits forever ("until
    /// enough registers are available in the per-CTA-maximum-register-pool"). That is at most what a multiprocessor has for
    /// the blocks that it must hold, a multiple of 8 for each thread.
    fn set_registers(&mut self, warp: &Warp, count: u32) -> Outcome {
        /// Registers of a multiprocessor.
        const ALL: u32 = 65_536;
        let code = self.grid.code;
        let threads = code.max_threads.unwrap_or(0).max(self.grid.threads_per_block());
        let each = (ALL / code.blocks_at_once / threads / 8 * 8).min(256);
        let most = each * self.grid.threads_per_block() / 128;
        let groups = &mut self.state.ctas[warp.cta].warpgroups;
        groups[warp.index / WARPGROUP].registers = Some(count);
        let groups: Vec<u32> = groups.iter().map(|g| g.registers.unwrap_or(0)).collect();
        let all: u32 = groups.iter().sum();
        if all > most {
            let what =
                format!("setmaxnreg: the warpgroups want {groups:?} registers per thread, {all} of {most}");
            return Err(Trouble::new(FaultKind::Deadlock, what));
        }
        Ok(())
    }

    fn copy_local(&self, warp: &mut Warp, copies: &[LocalCopy], exec: u32) {
        let each = self.grid.code.local_bytes as usize;
        for lane in lanes_of(exec) {
            for LocalCopy { from, to, bytes } in copies {
                let (from, to) = (each * lane + *from as usize, each * lane + *to as usize);
                let bytes = *bytes as usize;
                warp.local.copy_within(from..from + bytes, to);
                warp.local_written.copy_within(from..from + bytes, to);
            }
        }
    }

    /// A function returned: its results go to the caller's variables.
    pub fn copy_results(&self, warp: &mut Warp, call: u32, exec: u32) {
        let code = self.grid.code;
        if let Some(Instr { op: Op::Call { results, .. }, .. }) = code.instructions.get(call as usize) {
            self.copy_local(warp, results, exec);
        }
    }
}

/// Whether all live threads of a warp run an instruction at once.
pub fn comes_together(op: &Op) -> bool {
    takes_whole_warp(op)
        || matches!(
            op,
            Op::Barrier { .. }
                | Op::ClusterArrive { .. }
                | Op::ClusterWait
                | Op::WgmmaFence
                | Op::WgmmaCommit
                | Op::WgmmaWait { .. }
        )
}

/// Whether an instruction is for warps of 32 live threads alone.
fn takes_whole_warp(op: &Op) -> bool {
    matches!(
        op,
        Op::LoadMatrix { .. }
            | Op::StoreMatrix { .. }
            | Op::MoveMatrix { .. }
            | Op::Mma(_)
            | Op::Product(_)
            | Op::WmmaLoad(_)
            | Op::WmmaStore(_)
            | Op::MapCopy { .. }
            | Op::Wgmma(_)
    )
}

fn window_base(window: Window) -> u64 {
    match window {
        Window::Shared | Window::Cluster => SHARED_WINDOW,
        Window::Local => LOCAL_WINDOW,
        Window::Param => PARAM_WINDOW,
        _ => 0,
    }
}
