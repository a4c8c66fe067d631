//! A warp: its registers, and its threads in groups that share a program counter.

use super::copies::LaneCopies;
use super::grid::{Grid, Place};
use super::wgmma::WgmmaState;
use crate::ir::{Lanes, PredicateSrc, Special, Src, WARP};

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

pub struct Warp {
    /// Number in the block, block in the cluster, number in the cluster.
    pub index: usize,
    pub cta: usize,
    pub actor: usize,
    pub alive: u32,
    pub groups: Vec<Group>,
    pub registers: Vec<Lanes>,
    pub predicates: Vec<u32>,
    pub carry: u32,
    pub local: Vec<u8>,
    pub local_written: Vec<bool>,
    /// Epochs seen of each warp of the cluster, of its mbarriers, and of the launch before (the last).
    pub clock: Vec<u32>,
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
                    if offset == crate::decode::DYNAMIC { grid.code.dynamic_shared_offset } else { offset };
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
    pub fn fetch(&self, src: Src, grid: &Grid<'_>, into: &mut Lanes) {
        match src {
            Src::Register(index) => *into = self.registers[index as usize],
            Src::Immediate(value) => *into = [value; WARP],
            other => {
                for (lane, value) in into.iter_mut().enumerate() {
                    *value = self.scalar(other, lane, grid);
                }
            }
        }
    }

    pub fn lanes(&self, src: Src, grid: &Grid<'_>) -> Lanes {
        let mut out = [0; WARP];
        self.fetch(src, grid, &mut out);
        out
    }

    /// Writes the lanes of `mask`.
    pub fn put(&mut self, dst: u32, value: &Lanes, mask: u32) {
        let register = &mut self.registers[dst as usize];
        if mask == u32::MAX {
            *register = *value;
        } else {
            for lane in lanes_of(mask) {
                register[lane] = value[lane];
            }
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
            Special::DynamicSharedBytes => grid.config.dynamic_shared_bytes.into(),
            Special::TotalSharedBytes => grid.shared_bytes.into(),
        }
    }

    /// Joins groups that have met.
    pub fn merge(&mut self, at: usize) -> usize {
        let mut at = at;
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
        at
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

/// `seen` learns all that `from` knows.
pub fn join(seen: &mut [u32], from: &[u32]) {
    for (a, b) in seen.iter_mut().zip(from) {
        *a = (*a).max(*b);
    }
}

/// The lanes of a mask, in order.
pub fn lanes_of(mask: u32) -> impl Iterator<Item = usize> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        (rest != 0).then(|| {
            let lane = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            lane
        })
    })
}
