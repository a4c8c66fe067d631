//! A cluster of blocks, and the scheduling of its warps.

use std::collections::HashMap;

use super::fillings::is_lanewise;
use super::grid::{Grid, Place};
use super::machine::{ClusterState, CtaState, Flow, MBARRIER_ACTORS, Machine};
use super::options::Random;
use super::pending::{Flight, LaneCopies, WARPGROUP, Warpgroup, WgmmaState};
use super::shared::Shared;
use super::step::comes_together;
use super::sync::{Barrier, ClusterBarrier};
use super::undefined::Undefined;
use super::warp::{Group, State, Warp};
use crate::counters::Tally;
use crate::fault::{Fault, FaultKind, Outcome, Trouble};
use crate::ir::{Instr, Logic, Op, WARP};

/// Barriers of a block.
const BARRIERS: usize = 16;
/// Instructions a warp runs before the next warp's turn.
const SLICE: u64 = 256;
/// Steps of one group of a diverged warp before another gets a turn.
const PATIENCE: u32 = 4096;
/// What waiting on memory costs of a cluster's turn, so that others soon run.
const IMPATIENCE: u64 = 10_000;

/// A cluster that runs, or waits for a host thread.
pub struct Cluster {
    warps: Vec<Warp>,
    /// Whose turn comes when.
    order: Vec<usize>,
    state: ClusterState,
    executed: u64,
}

impl Cluster {
    pub fn new(grid: &Grid<'_>, number: u64) -> Self {
        let places = grid.places(number);
        let per_block = grid.warps_per_block();
        let warps_in_all = per_block * places.len();
        // One more for the launch before.
        let clocks = warps_in_all + MBARRIER_ACTORS + 1;
        let mut warps = Vec::with_capacity(warps_in_all);
        for (cta, place) in places.iter().enumerate() {
            for index in 0..per_block {
                warps.push(warp(grid, *place, cta, index, cta * per_block + index, clocks));
            }
        }
        let cta = |(number, _): (usize, &Place)| CtaState {
            shared: Shared::new(grid.shared_bytes, per_block, number * per_block, grid.options.checks),
            barriers: (0..BARRIERS).map(|_| Barrier::default()).collect(),
            mbarriers: HashMap::new(),
            live_warps: per_block,
            warpgroups: Warpgroup::of_block(per_block),
        };
        let state = ClusterState {
            ctas: places.iter().enumerate().map(cta).collect(),
            barrier: ClusterBarrier::default(),
            live_warps: warps_in_all,
            fences: vec![0; warps_in_all],
            init_fences: vec![0; warps_in_all],
            mbarrier_actors: 0,
            warps: warps_in_all,
            random: grid.options.seed.map(|seed| Random::new(seed, number)),
            flights: Vec::new(),
        };
        Self { warps, order: (0..warps_in_all).collect(), state, executed: 0 }
    }

    /// Runs about `budget` warp instructions; true when all threads have exited.
    pub fn run<'a>(
        &mut self,
        grid: &'a Grid<'a>,
        tally: &mut Tally,
        budget: u64,
    ) -> Result<bool, Box<Fault>> {
        let mut spent = 0;
        let budget = self.state.random.as_mut().map_or(budget, |random| budget >> (4 * random.below(4)));
        while spent < budget {
            let mut steps = 0;
            if let Some(random) = &mut self.state.random {
                random.shuffle(&mut self.order);
            }
            for at in &self.order {
                let warp = &mut self.warps[*at];
                if warp.alive == 0 {
                    continue;
                }
                let mut machine = Machine { grid, state: &mut self.state, tally, waited: 0 };
                match machine.run(warp) {
                    Ok(n) => steps += n,
                    Err((trouble, pc)) => return Err(Box::new(fault(grid, warp, trouble, pc))),
                }
                spent += machine.waited * IMPATIENCE;
            }
            if self.state.live_warps == 0 {
                while !self.state.flights.is_empty() {
                    self.arrivals(grid, true)?;
                }
                return Ok(true);
            }
            steps += self.arrivals(grid, steps == 0)?;
            if steps == 0 {
                return Err(Box::new(self.stuck(grid)));
            }
            spent += steps;
            self.executed += steps;
            if self.executed > grid.options.instruction_limit {
                let what = format!(
                    "more than {} warp instructions: {}",
                    grid.options.instruction_limit,
                    self.waiting(grid)
                );
                let warp = self.warps.iter().find(|w| w.alive != 0).unwrap_or(&self.warps[0]);
                let pc = warp.groups.first().map_or(0, |g| g.pc);
                return Err(Box::new(fault(grid, warp, Trouble::new(FaultKind::InstructionLimit, what), pc)));
            }
        }
        Ok(false)
    }

    /// Copies arrive, those that chance picks: one at least where nobody can go on without. How many.
    fn arrivals(&mut self, grid: &Grid<'_>, needed: bool) -> Result<u64, Box<Fault>> {
        let Some(random) = &mut self.state.random else { return Ok(0) };
        let mut flights = std::mem::take(&mut self.state.flights);
        let forced =
            (needed && !flights.is_empty()).then(|| flights.swap_remove(random.below(flights.len())));
        let landed: Vec<Flight> = flights.extract_if(.., |_| random.once_in(4)).collect();
        self.state.flights = flights;
        let mut arrived = 0;
        for flight in landed.into_iter().chain(forced) {
            arrived += 1;
            let (warp, pc) = (flight.warp, flight.pc);
            self.state.land(flight).map_err(|t| Box::new(fault(grid, &self.warps[warp], t, pc)))?;
        }
        Ok(arrived)
    }

    /// Nobody can go on: why.
    fn stuck(&self, grid: &Grid<'_>) -> Fault {
        let mut worst: Option<(&Warp, &Group)> = None;
        for warp in &self.warps {
            for group in &warp.groups {
                if worst.is_none()
                    || group.state == State::Gather && worst.is_some_and(|w| w.1.state != State::Gather)
                {
                    worst = Some((warp, group));
                }
            }
        }
        let where_all = self.waiting(grid);
        let Some((warp, group)) = worst else {
            return fault(grid, &self.warps[0], Trouble::new(FaultKind::Deadlock, where_all), 0);
        };
        let trouble = match group.state {
            State::Gather => {
                let absent = warp.alive & !group.mask;
                let what = format!(
                    "a collective waits for lanes {absent:#010x} of its warp, which never come; {where_all}"
                );
                Trouble::new(FaultKind::Divergence, what)
            }
            _ => Trouble::new(FaultKind::Deadlock, format!("no thread can go on; {where_all}")),
        };
        fault(grid, warp, trouble, group.pc)
    }

    /// Where the live threads are.
    fn waiting(&self, grid: &Grid<'_>) -> String {
        const MOST: usize = 12;
        let mut parts = Vec::new();
        for warp in &self.warps {
            for group in &warp.groups {
                let line = grid.code.instructions.get(group.pc as usize).map_or(0, |i| i.line);
                let what = match group.state {
                    State::Ready => "runs".to_owned(),
                    State::Gather => "waits for its warp".to_owned(),
                    State::Barrier { id, .. } => format!("waits at barrier {id}"),
                    State::ClusterBarrier { .. } => "waits at the cluster's barrier".to_owned(),
                    State::Mbarrier { offset, phase, .. } => {
                        format!("waits for {phase:?} of the mbarrier at {offset:#x}")
                    }
                    State::Products { groups } => {
                        format!("waits for its warpgroup to commit {groups} groups of wgmma")
                    }
                };
                let [x, y, z] = warp.place.block;
                parts.push(format!(
                    "block ({x}, {y}, {z}) warp {} lanes {:#010x} {what} at line {line}",
                    warp.index, group.mask
                ));
            }
        }
        let more = parts.len().saturating_sub(MOST);
        parts.truncate(MOST);
        let tail = if more > 0 { format!("; and {more} more") } else { String::new() };
        parts.join("; ") + &tail
    }
}

fn warp(grid: &Grid<'_>, place: Place, cta: usize, index: usize, actor: usize, clocks: usize) -> Warp {
    let threads = grid.threads_per_block();
    let [x, y, _] = grid.config.block;
    let first = index as u32 * WARP as u32;
    let count = (threads - first).min(WARP as u32);
    let alive = if count == 32 { u32::MAX } else { (1 << count) - 1 };
    let mut clock = vec![0; clocks];
    // Epoch 0 stands for "never".
    clock[actor] = 1;
    Warp {
        index,
        cta,
        actor,
        alive,
        groups: vec![Group { pc: 0, mask: alive, state: State::Ready, stack: Vec::new() }],
        registers: vec![[0; WARP]; grid.code.registers as usize],
        predicates: vec![0; grid.code.predicates as usize],
        undefined: Undefined::default(),
        carry: 0,
        local: vec![0; grid.code.local_bytes as usize * WARP],
        local_written: vec![false; grid.code.local_bytes as usize * WARP],
        fenced: vec![0; clocks],
        clock,
        released: vec![0; clocks],
        hidden: Vec::new(),
        full_sync: 1,
        pair_sync: None,
        copies: (0..WARP).map(|_| LaneCopies::default()).collect(),
        wgmma: WgmmaState::default(),
        tid: std::array::from_fn(|lane| {
            let t = first + lane as u32;
            [t % x, t / x % y, t / x / y]
        }),
        place,
        patience: PATIENCE,
    }
}

fn fault(grid: &Grid<'_>, warp: &Warp, trouble: Trouble, pc: u32) -> Fault {
    Fault {
        kind: trouble.kind,
        kernel: grid.code.name.clone(),
        block: warp.place.block,
        thread: trouble.lane.map(|lane| warp.tid[lane]),
        line: grid.code.instructions.get(pc as usize).map_or(0, |i| i.line),
        address: trouble.address,
        message: trouble.message,
    }
}

impl<'a> Machine<'_, 'a> {
    /// A warp's turn; the instructions it ran.
    fn run(&mut self, warp: &mut Warp) -> Result<u64, (Trouble, u32)> {
        self.wake(warp);
        let mut steps = 0;
        let slice = self.state.random.as_mut().map_or(SLICE, |random| SLICE >> (2 * random.below(5)));
        while steps < slice {
            let Some(at) = pick(warp, self.state.random.as_mut()) else { break };
            let pc = warp.groups[at].pc;
            let goes_on = self.step(warp, at).map_err(|trouble| (trouble, pc))?;
            match goes_on {
                Turn::Stepped => steps += 1,
                Turn::Blocked => {}
                Turn::Yielded => {
                    steps += 1;
                    break;
                }
            }
        }
        Ok(steps)
    }

    /// Lets groups go on whose wait is over.
    fn wake(&mut self, warp: &mut Warp) {
        let cta = warp.cta;
        let live = self.state.ctas[cta].live_warps;
        for at in 0..warp.groups.len() {
            match warp.groups[at].state {
                State::Ready | State::Gather => {}
                State::Barrier { id, generation } => {
                    let barrier = &mut self.state.ctas[cta].barriers[id];
                    barrier.poll(live);
                    if barrier.generation != generation {
                        barrier.leave(warp);
                        self.reduced(warp, at, id);
                        warp.groups[at].state = State::Ready;
                        warp.groups[at].pc += 1;
                    }
                }
                State::ClusterBarrier { generation } => {
                    self.state.barrier.poll(self.state.live_warps);
                    if self.state.barrier.generation != generation {
                        self.state.barrier.leave(warp);
                        warp.groups[at].state = State::Ready;
                        warp.groups[at].pc += 1;
                    }
                }
                State::Mbarrier { cta, offset, phase } => {
                    // The wait itself runs again, and finds the phase passed or the barrier gone.
                    if self.state.ctas[cta].mbarriers.get(&offset).is_none_or(|m| m.passed(phase)) {
                        warp.groups[at].state = State::Ready;
                    }
                }
                State::Products { groups } => {
                    if self.state.ctas[cta].warpgroups[warp.index / WARPGROUP].decided(groups) {
                        warp.groups[at].state = State::Ready;
                    }
                }
            }
        }
    }

    /// Delivers the result of a barrier's reduction.
    fn reduced(&self, warp: &mut Warp, at: usize, id: usize) {
        let (pc, mask) = (warp.groups[at].pc, warp.groups[at].mask);
        if let Some(Instr { op: Op::Barrier { reduce: Some(reduce), .. }, .. }) =
            self.grid.code.instructions.get(pc as usize)
        {
            let result = self.state.ctas[warp.cta].barriers[id].result;
            let truth = |t: bool| if t { u32::MAX } else { 0 };
            match reduce.logic {
                None => warp.put(reduce.dst, &[result.count.into(); WARP], mask),
                Some(Logic::And) => warp.put_predicate(reduce.dst, truth(result.all), mask),
                Some(_) => warp.put_predicate(reduce.dst, truth(result.any), mask),
            }
        }
    }

    /// One instruction of one group.
    fn step(&mut self, warp: &mut Warp, at: usize) -> Outcome<Turn> {
        let code = self.grid.code;
        let (pc, mask) = (warp.groups[at].pc as usize, warp.groups[at].mask);
        let Some(instruction) = code.instructions.get(pc) else {
            return Err(Trouble::new(FaultKind::IllegalInstruction, "execution left the kernel"));
        };
        // Lanes of which nothing says whether they run it.
        let mut unsure = 0;
        let exec = match instruction.guard {
            None => mask,
            Some((index, negated)) => {
                let held = warp.predicates[index as usize];
                unsure = warp.undefined.predicate(index, mask);
                if unsure != 0 && !is_lanewise(&instruction.op) {
                    warp.undefined.guard(index, mask)?;
                }
                mask & if negated { !held } else { held }
            }
        };
        if exec == 0 && unsure == 0 {
            warp.groups[at].pc += 1;
            warp.merge(at);
            return Ok(Turn::Stepped);
        }
        if exec != mask && gathers(&instruction.op) {
            // Those that do not take part go on without.
            let rest = warp.groups[at].part(mask & !exec, pc as u32 + 1);
            warp.groups.push(rest);
            warp.groups[at].mask = exec;
        }
        let flow = match !warp.undefined.is_empty() && warp.undefined.touches(&instruction.op) {
            _ if unsure != 0 => self.try_fillings(warp, instruction, (exec, unsure), pc)?,
            true => self.execute_undefined(warp, instruction, exec, pc)?,
            false => self.execute(warp, instruction, exec, pc)?,
        };
        if !matches!(&flow, Flow::Wait(state) if state.repeats()) {
            let counted = &mut self.tally.executed[pc];
            counted.0 += 1;
            // Lanes that were set aside run it later.
            counted.1 += u64::from((exec & warp.groups[at].mask).count_ones());
        }
        let mut turn = Turn::Stepped;
        match flow {
            Flow::Next => warp.groups[at].pc += 1,
            Flow::Yield => {
                warp.groups[at].pc += 1;
                turn = Turn::Yielded;
            }
            Flow::Wait(state) => {
                warp.groups[at].state = state;
                // Arriving is progress; being found waiting is none.
                return Ok(if state.repeats() { Turn::Blocked } else { Turn::Stepped });
            }
            Flow::Jump(target) => split(warp, at, exec, target),
            Flow::Call(target) => {
                split(warp, at, exec, target);
                warp.groups[at].stack.push(pc as u32);
            }
            Flow::Return => match warp.groups[at].stack.last().copied() {
                Some(call) => {
                    self.copy_results(warp, call, exec);
                    split(warp, at, exec, call + 1);
                    warp.groups[at].stack.pop();
                }
                None => self.exit(warp, at, exec)?,
            },
            Flow::Exit => self.exit(warp, at, exec)?,
        }
        if warp.groups.len() > 1 && at < warp.groups.len() {
            warp.merge(at);
        }
        Ok(turn)
    }

    fn exit(&mut self, warp: &mut Warp, at: usize, exec: u32) -> Outcome {
        warp.alive &= !exec;
        warp.groups[at].mask &= !exec;
        warp.groups[at].pc += 1;
        if warp.groups[at].mask == 0 {
            warp.groups.remove(at);
        }
        // Who waited for these no longer does.
        for group in &mut warp.groups {
            if group.state == State::Gather {
                group.state = State::Ready;
            }
        }
        if warp.alive == 0 {
            self.state.barrier.exit(warp);
            let cta = &mut self.state.ctas[warp.cta];
            cta.live_warps -= 1;
            self.state.live_warps -= 1;
            let last = cta.live_warps == 0;
            cta.shared.leave(&warp.clock, last)?;
            cta.warpgroups[warp.index / WARPGROUP].leave(warp.index);
            let uneven = cta.warpgroups.iter().enumerate().find_map(|(at, g)| Some((at, g.uneven()?)));
            if let (true, Some((at, products))) = (last, uneven) {
                let what = format!(
                    "the warps of warpgroup {at} ran {products:?} wgmma.mma_async; all four take part in each"
                );
                return Err(Trouble::new(FaultKind::Divergence, what));
            }
        }
        Ok(())
    }
}

enum Turn {
    Stepped,
    /// The group waits; nothing was done.
    Blocked,
    Yielded,
}

/// The group to run: the one behind, so that groups meet again; now and then another, so that none starves.
fn pick(warp: &mut Warp, random: Option<&mut Random>) -> Option<usize> {
    if warp.groups.len() == 1 {
        return (warp.groups[0].state == State::Ready).then_some(0);
    }
    let ready = || warp.groups.iter().enumerate().filter(|(_, g)| g.state == State::Ready);
    if let Some(random) = random
        && random.once_in(8)
    {
        let all: Vec<usize> = ready().map(|(at, _)| at).collect();
        return (!all.is_empty()).then(|| all[random.below(all.len())]);
    }
    let chosen = if warp.patience > PATIENCE / 2 {
        ready().min_by_key(|(_, g)| g.pc)
    } else {
        ready().max_by_key(|(_, g)| g.pc)
    };
    let chosen = chosen.map(|(at, _)| at);
    warp.patience = if warp.patience == 0 { PATIENCE } else { warp.patience - 1 };
    chosen
}

/// The lanes of `exec` that are still the group's go to `target`, its others to the next instruction.
fn split(warp: &mut Warp, at: usize, exec: u32, target: u32) {
    let group = &mut warp.groups[at];
    let (rest, next) = (group.mask & !exec, group.pc + 1);
    (group.pc, group.mask) = (target, group.mask & exec);
    if rest != 0 {
        let part = group.part(rest, next);
        warp.groups.push(part);
    }
}

/// Instructions that may make their group wait, or need the warp together.
fn gathers(op: &Op) -> bool {
    comes_together(op)
        || matches!(
            op,
            Op::WarpSync { .. }
                | Op::Shuffle { .. }
                | Op::Vote { .. }
                | Op::Match { .. }
                | Op::Redux { .. }
                | Op::Elect { .. }
                | Op::Mbarrier { .. }
                | Op::Call { .. }
                | Op::Return
        )
}
