//! What all blocks of a launch share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::card::Card;
use crate::ir::Code;
use crate::memory::{GlobalMemory, Snapshot};

/// Size and shape of a launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchConfig {
    /// Blocks along x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y, z.
    pub block: [u32; 3],
    /// Blocks of a cluster along x, y, z.
    pub cluster: [u32; 3],
    /// Dynamic shared memory of a block.
    pub dynamic_shared_bytes: u32,
    /// Programmatic dependent launch: the launch before this one (on the same memory) may still run until
    /// `griddepcontrol.wait`. What it stored must not be read before, what it used not be stored to.
    pub overlaps: bool,
}

impl LaunchConfig {
    /// A launch without clusters and dynamic shared memory, after the one before has ended.
    pub fn new(grid: [u32; 3], block: [u32; 3]) -> Self {
        Self { grid, block, cluster: [1; 3], dynamic_shared_bytes: 0, overlaps: false }
    }
}

/// Which checks run, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Reads of memory never written.
    pub check_written: bool,
    /// Races in shared memory.
    pub check_races: bool,
    /// Use of unfinished asynchronous work, and missing proxy fences.
    pub check_asynchronous: bool,
    /// Host threads; 0 takes one per core.
    pub threads: usize,
    /// Most warp instructions of one cluster of blocks.
    pub instruction_limit: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            check_written: true,
            check_races: true,
            check_asynchronous: true,
            threads: 0,
            instruction_limit: 20_000_000_000,
        }
    }
}

impl Options {
    /// The options of the environment: `PTXSIM_CHECKS` is a list of `written`, `races`, `async`, or `none`;
    /// `PTXSIM_THREADS` a number.
    pub fn from_environment() -> Self {
        let mut options = Self::default();
        if let Ok(list) = std::env::var("PTXSIM_CHECKS") {
            let has = |name: &str| list.split(',').any(|part| part.trim() == name);
            options.check_written = has("written");
            options.check_races = has("races");
            options.check_asynchronous = has("async");
        }
        if let Some(threads) = std::env::var("PTXSIM_THREADS").ok().and_then(|t| t.parse().ok()) {
            options.threads = threads;
        }
        options
    }
}

/// Where a block is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Place {
    pub block: [u32; 3],
    pub cluster: [u32; 3],
    pub in_cluster: [u32; 3],
    /// Number of the block in the grid.
    pub rank: u64,
}

/// Everything about a launch that does not change while it runs.
pub struct Grid<'a> {
    pub code: &'a Code,
    pub config: &'a LaunchConfig,
    pub card: &'a Card,
    pub parameters: &'a [u8],
    /// Addresses of the module's variables.
    pub globals: &'a [u64],
    pub memory: Snapshot,
    pub global: &'a GlobalMemory,
    pub options: Options,
    /// Shared memory of a block.
    pub shared_bytes: u32,
    pub stop: AtomicBool,
    clock: AtomicU64,
}

impl<'a> Grid<'a> {
    #[allow(clippy::too_many_arguments, reason = "the launch's own parts")]
    pub fn new(
        code: &'a Code,
        config: &'a LaunchConfig,
        card: &'a Card,
        parameters: &'a [u8],
        globals: &'a [u64],
        global: &'a GlobalMemory,
        options: Options,
    ) -> Self {
        let memory = global.snapshot();
        memory.begin_launch(config.overlaps);
        let shared_bytes = code.shared_bytes(config.dynamic_shared_bytes);
        let (stop, clock) = (AtomicBool::new(false), AtomicU64::new(1));
        Self { code, config, card, parameters, globals, memory, global, options, shared_bytes, stop, clock }
    }

    pub fn threads_per_block(&self) -> u32 {
        self.config.block.iter().product()
    }

    pub fn warps_per_block(&self) -> usize {
        self.threads_per_block().div_ceil(32) as usize
    }

    pub fn clusters(&self) -> u64 {
        let along = |axis: usize| u64::from(self.config.grid[axis] / self.config.cluster[axis]);
        along(0) * along(1) * along(2)
    }

    /// The places of a cluster's blocks, by rank.
    pub fn places(&self, cluster: u64) -> Vec<Place> {
        let size = self.config.cluster;
        let along = |axis: usize| u64::from(self.config.grid[axis] / size[axis]);
        let at = [
            (cluster % along(0)) as u32,
            (cluster / along(0) % along(1)) as u32,
            (cluster / along(0) / along(1)) as u32,
        ];
        let mut places = Vec::new();
        for z in 0..size[2] {
            for y in 0..size[1] {
                for x in 0..size[0] {
                    let block = [at[0] * size[0] + x, at[1] * size[1] + y, at[2] * size[2] + z];
                    let grid = self.config.grid.map(u64::from);
                    let rank =
                        u64::from(block[0]) + grid[0] * (u64::from(block[1]) + grid[1] * u64::from(block[2]));
                    places.push(Place { block, cluster: at, in_cluster: [x, y, z], rank });
                }
            }
        }
        places
    }

    /// A time that grows with every look.
    pub fn now(&self) -> u64 {
        self.clock.fetch_add(32, Relaxed)
    }
}
