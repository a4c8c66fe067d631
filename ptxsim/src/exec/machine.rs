//! What instructions run on: the state of a cluster of blocks.

use std::collections::HashMap;

use super::grid::Grid;
use super::options::Random;
use super::pending::{Flight, Warpgroup};
use super::shared::Shared;
use super::sync::{Barrier, ClusterBarrier, Mbarrier};
use super::warp::State;
use crate::counters::Tally;

/// Actors for mbarriers; more objects share the last one.
pub const MBARRIER_ACTORS: usize = 64;
/// What a block's warps share.
pub struct CtaState {
    pub shared: Shared,
    pub barriers: Vec<Barrier>,
    pub mbarriers: HashMap<u32, Mbarrier>,
    pub live_warps: usize,
    pub warpgroups: Vec<Warpgroup>,
}

/// What a cluster's warps share.
pub struct ClusterState {
    pub ctas: Vec<CtaState>,
    pub barrier: ClusterBarrier,
    pub live_warps: usize,
    /// Epoch of each warp at its last `fence.proxy.async`, and at its last `fence.mbarrier_init`.
    pub fences: Vec<u32>,
    pub init_fences: Vec<u32>,
    /// Actors taken by mbarriers.
    pub mbarrier_actors: usize,
    /// First actor of mbarriers; the number of warps.
    pub warps: usize,
    /// What chooses an order, where the launch has a seed.
    pub random: Option<Random>,
    /// Copies that have not arrived.
    pub flights: Vec<Flight>,
}

/// What an instruction does to its group.
pub enum Flow {
    Next,
    /// On to the next instruction, but let others run first.
    Yield,
    Wait(State),
    Jump(u32),
    Call(u32),
    Return,
    Exit,
}

/// An executing host thread's view.
pub struct Machine<'m, 'a> {
    pub grid: &'a Grid<'a>,
    pub state: &'m mut ClusterState,
    pub tally: &'m mut Tally,
    /// Instructions that only waited for memory to change.
    pub waited: u64,
}
