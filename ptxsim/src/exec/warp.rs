//! A warp: its registers, and its threads in groups that share a program counter.

use super::clock::{Hidden, join};
use super::grid::{Grid, Place};
use super::pending::{LaneCopies, WgmmaState};
use super::undefined::Undefined;
pub use crate::ir::lanes_of;
use crate::ir::{Alu, CompareFn, FixFn, Lanes, PredicateSrc, Special, Src, WARP};

/// Generic addresses of shared memory: the block's rank in the cluster from bit 24 on.
pub const SHARED_WINDOW: u64 = 0x0100_0000_0000_0000;
/// Generic addresses of local memory.
pub const LOCAL_WINDOW: u64 = 0x0200_0000_0000_0000;
/// Generic addresses of kernel parameters.
pub const PARAM_WINDOW: u64 = 0x0300_0000_0000_0000;
/// Bits of an offset within a window; blocks of a cluster follow each other at this distance.
pub const RANK_SHIFT: u32 = 24;

/// What a group waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Ready,
    /// For the rest of the warp to reach the same instruction.
    Gather,
    /// For a barrier of the block to complete this generation.
    Barrier {
        id: usize,
        generation: u64,
    },
    ClusterBarrier {
        generation: u64,
    },
    /// For an mbarrier: block of the cluster, offset, and the phase that must have passed.
    Mbarrier {
        cta: usize,
        offset: u32,
        phase: Phase,
    },
    /// For all warps of the warpgroup to have committed so many groups of products.
    Products {
        groups: u64,
    },
}

impl State {
    /// Whether the instruction that waits runs again when the wait is over.
    pub fn repeats(&self) -> bool {
        matches!(self, State::Gather | State::Mbarrier { .. } | State::Products { .. })
    }
}

/// Which phase an mbarrier wait is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Parity(u64),
    Number(u64),
}

/// Threads with the same program counter and call stack.
#[derive(Debug, Clone)]
pub struct Group {
    pub pc: u32,
    pub mask: u32,
    pub state: State,
    /// Calls to return from: the call's own position.
    pub stack: Vec<u32>,
}

impl Group {
    /// Lanes of the group that go on at `pc` by themselves.
    pub fn part(&self, mask: u32, pc: u32) -> Self {
        Self { pc, mask, state: State::Ready, stack: self.stack.clone() }
    }
}

pub struct Warp {
    /// Number in the block, block in the cluster, number in the cluster.
    pub index: usize,
    pub cta: usize,
    pub actor: usize,
    pub alive: u32,
    pub groups: Vec<Group>,
    pub registers: Vec<Lanes>,
    pub predicates: Vec<u32>,
    /// What of them nothing has written.
    pub undefined: Undefined,
    pub carry: u32,
    pub local: Vec<u8>,
    pub local_written: Vec<bool>,
    /// Epochs seen of each warp of the cluster, of its mbarriers, and of the launch before (the last).
    pub clock: Vec<u32>,
    /// What was seen at the last fence that publishes it to other blocks.
    pub released: Vec<u32>,
    /// Writes that others did before a relaxed arrival that this warp has waited for.
    pub hidden: Vec<Hidden>,
    pub full_sync: u32,
    pub pair_sync: Option<Box<[[u32; 32]; 32]>>,
    /// The clock at the last `fence.proxy.async`.
    pub fenced: Vec<u32>,
    pub copies: Vec<LaneCopies>,
    pub wgmma: WgmmaState,
    /// Thread indices, and the place in the grid.
    pub tid: [[u32; 3]; WARP],
    pub place: Place,
    /// Steps since the groups of a diverged warp last took turns.
    pub patience: u32,
}

impl Warp {
    /// One lane of a source.
    pub fn scalar(&self, src: Src, lane: usize, grid: &Grid<'_>) -> u64 {
        match src {
            Src::Register(index) => self.registers[index as usize][lane],
            Src::Immediate(value) => value,
            Src::Special(special) => self.special(special, lane, grid),
            Src::Shared(offset) => {
                let offset =
                    if offset == crate::ir::DYNAMIC { grid.code.dynamic_shared_offset } else { offset };
                u64::from(offset) | (self.cta as u64) << RANK_SHIFT
            }
            Src::Local(offset) => offset.into(),
            Src::Parameter(offset) => offset.into(),
            Src::Global(index, offset) => {
                grid.globals.get(index as usize).copied().unwrap_or(0).wrapping_add_signed(offset)
            }
        }
    }

    /// All lanes of a source.
    #[inline]
    pub fn lanes(&self, src: Src, grid: &Grid<'_>) -> Lanes {
        match src {
            Src::Register(index) => self.registers[index as usize],
            Src::Immediate(value) => [value; WARP],
            Src::Special(
                Special::Tid(_)
                | Special::LaneId
                | Special::LanemaskEq
                | Special::LanemaskLe
                | Special::LanemaskLt
                | Special::LanemaskGe
                | Special::LanemaskGt,
            ) => std::array::from_fn(|lane| self.scalar(src, lane, grid)),
            // The same for all.
            other => [self.scalar(other, 0, grid); WARP],
        }
    }

    /// All lanes of a source; `held` keeps those of a constant.
    pub fn view<'r>(&'r self, src: Src, grid: &Grid<'_>, held: &'r mut Option<Lanes>) -> &'r Lanes {
        match src {
            Src::Register(index) => &self.registers[index as usize],
            Src::Immediate(value) => held.insert([value; WARP]),
            other => held.insert(self.lanes(other, grid)),
        }
    }

    /// Runs a function of registers where they lie.
    pub fn compute(&mut self, alu: &Alu, grid: &Grid<'_>, exec: u32) {
        self.change(alu.dst, &alu.src, alu.pre, grid, exec, |sources, out| {
            (alu.f)(grid.arch, &sources, out);
            alu.post.iter().for_each(|post| post(out));
        });
    }

    /// Changes a register by a function of sources, which has `pre` done to each; `f` sees them where they lie.
    pub fn change<const N: usize>(
        &mut self,
        dst: u32,
        src: &[Src; N],
        pre: Option<FixFn>,
        grid: &Grid<'_>,
        exec: u32,
        f: impl FnOnce([&Lanes; N], &mut Lanes),
    ) {
        const NONE: Lanes = [0; WARP];
        let at = dst as usize;
        let mut held = [None; N];
        for (held, src) in held.iter_mut().zip(src) {
            match src {
                Src::Register(index) if *index != dst && pre.is_none() => {}
                Src::Immediate(0) => {}
                Src::Immediate(value) if pre.is_none() => *held = Some([*value; WARP]),
                src => {
                    let lanes = held.insert(self.lanes(*src, grid));
                    pre.iter().for_each(|pre| pre(lanes));
                }
            }
        }
        let before = if exec == u32::MAX { None } else { Some(self.registers[at]) };
        let (below, rest) = self.registers.split_at_mut(at);
        let Some((out, above)) = rest.split_first_mut() else { return };
        let sources = std::array::from_fn(|i| match (&held[i], src[i]) {
            (Some(lanes), _) => lanes,
            (None, Src::Register(index)) if index < dst => &below[index as usize],
            (None, Src::Register(index)) => &above[index as usize - at - 1],
            (None, _) => &NONE,
        });
        f(sources, out);
        if let Some(before) = before {
            lanes_of(!exec).for_each(|lane| out[lane] = before[lane]);
        }
    }

    /// The lanes for which a comparison holds.
    pub fn compare(&self, f: CompareFn, pre: Option<FixFn>, a: Src, b: Src, grid: &Grid<'_>) -> u32 {
        let Some(pre) = pre else {
            let (mut held_a, mut held_b) = (None, None);
            return f(grid.arch, self.view(a, grid, &mut held_a), self.view(b, grid, &mut held_b));
        };
        let (mut a, mut b) = (self.lanes(a, grid), self.lanes(b, grid));
        pre(&mut a);
        pre(&mut b);
        f(grid.arch, &a, &b)
    }

    /// Writes the lanes of `mask`.
    pub fn put(&mut self, dst: u32, value: &Lanes, mask: u32) {
        self.set(dst, mask, |lane| value[lane]);
    }

    /// Writes a function of the lane to the lanes of `mask`.
    #[inline]
    pub fn set(&mut self, dst: u32, mask: u32, f: impl Fn(usize) -> u64) {
        let register = &mut self.registers[dst as usize];
        if mask == u32::MAX {
            register.iter_mut().enumerate().for_each(|(lane, out)| *out = f(lane));
        } else {
            lanes_of(mask).for_each(|lane| register[lane] = f(lane));
        }
    }

    pub fn predicate(&self, src: PredicateSrc) -> u32 {
        let value = src.index.map_or(u32::MAX, |index| self.predicates[index as usize]);
        if src.negated { !value } else { value }
    }

    pub fn put_predicate(&mut self, dst: u32, value: u32, mask: u32) {
        let held = &mut self.predicates[dst as usize];
        *held = (*held & !mask) | (value & mask);
    }

    fn special(&self, special: Special, lane: usize, grid: &Grid<'_>) -> u64 {
        let of = |value: &[u32; 3], axis: u8| u64::from(value[usize::from(axis)]);
        let place = &self.place;
        match special {
            Special::Tid(axis) => of(&self.tid[lane], axis),
            Special::Ntid(axis) => of(&grid.config.block, axis),
            Special::Ctaid(axis) => of(&place.block, axis),
            Special::Nctaid(axis) => of(&grid.config.grid, axis),
            Special::ClusterId(axis) => of(&place.cluster, axis),
            Special::NclusterId(axis) => {
                u64::from(grid.config.grid[usize::from(axis)] / grid.config.cluster[usize::from(axis)].max(1))
            }
            Special::ClusterCtaid(axis) => of(&place.in_cluster, axis),
            Special::ClusterNctaid(axis) => of(&grid.config.cluster, axis),
            Special::ClusterCtarank => self.cta as u64,
            Special::ClusterNctarank => grid.config.cluster.iter().map(|n| u64::from(*n)).product(),
            Special::IsExplicitCluster => u64::from(grid.config.cluster != [1; 3]),
            Special::LaneId => lane as u64,
            Special::WarpId => self.index as u64,
            Special::NwarpId => grid.warps_per_block() as u64,
            Special::SmId => place.rank % u64::from(grid.card.multiprocessors),
            Special::NsmId => grid.card.multiprocessors.into(),
            Special::GridId => 1,
            Special::LanemaskEq => 1 << lane,
            Special::LanemaskLe => (2u64 << lane) - 1,
            Special::LanemaskLt => (1u64 << lane) - 1,
            Special::LanemaskGe => u64::from(u32::MAX << lane),
            Special::LanemaskGt => u64::from(!((2u64 << lane) - 1) as u32),
            // Time does not pass evenly here; it only never goes back.
            Special::Clock | Special::GlobalTimer => grid.now(),
            Special::ClockHigh | Special::GlobalTimerHigh => grid.now() >> 32,
            Special::DynamicSharedBytes => grid.config.dynamic_shared_bytes.into(),
            Special::TotalSharedBytes => grid.shared_bytes.into(),
        }
    }

    /// Joins groups that have met.
    pub fn merge(&mut self, mut at: usize) {
        let mut other = 0;
        while other < self.groups.len() {
            let (a, b) = (&self.groups[at], &self.groups[other]);
            let waits = matches!(b.state, State::Ready | State::Gather);
            if other != at && a.pc == b.pc && waits && a.state == State::Ready && a.stack == b.stack {
                self.groups[at].mask |= self.groups[other].mask;
                self.groups.remove(other);
                if other < at {
                    at -= 1;
                }
            } else {
                other += 1;
            }
        }
    }

    /// These lanes of a group run its instruction by themselves, after the others.
    pub fn set_aside(&mut self, lanes: u32) {
        let of = self.groups.iter_mut().find(|group| lanes != 0 && group.mask & lanes == lanes);
        let Some(group) = of else { return };
        group.mask &= !lanes;
        let part = group.part(lanes, group.pc);
        self.groups.push(part);
    }

    /// This warp waits for the launch before: an event that others learn of as of any write.
    pub fn wait_for_launch(&mut self) {
        if let Some(launch) = self.clock.last_mut() {
            *launch = 1;
        }
    }

    /// Whether this warp knows that the launch before has ended.
    pub fn knows_launch_ended(&self) -> bool {
        self.clock.last().is_some_and(|launch| *launch != 0)
    }

    /// Acquires all that `from` knows.
    pub fn acquire(&mut self, from: &[u32]) {
        join(&mut self.clock, from);
        self.hidden.retain(|h| from.get(h.actor).is_none_or(|seen| *seen < h.until));
    }

    /// Marks a publication: what was done so far has the old epoch.
    pub fn advance(&mut self) {
        if let Some(own) = self.clock.get_mut(self.actor) {
            *own += 1;
        }
    }

    pub fn epoch(&self) -> u32 {
        self.clock.get(self.actor).copied().unwrap_or(0)
    }

    /// Whether a proxy fence lies between a write and this warp's asynchronous access: the own fence after it
    /// saw the write, or the writer's after the write. `fences` holds each actor's epoch at its last.
    pub fn fenced(&self, fences: &[u32], actor: usize, epoch: u32) -> bool {
        let reaches = |clock: &[u32]| clock.get(actor).is_some_and(|e| *e >= epoch);
        reaches(&self.fenced) || reaches(fences)
    }

    /// The lanes of `mask` have synchronised.
    pub fn synchronize(&mut self, mask: u32) {
        self.advance();
        let epoch = self.epoch();
        if mask & self.alive == self.alive {
            self.full_sync = epoch;
            return;
        }
        let pairs = self.pair_sync.get_or_insert_with(|| Box::new([[0; 32]; 32]));
        for a in lanes_of(mask) {
            for b in lanes_of(mask) {
                pairs[a][b] = epoch;
            }
        }
    }
}
