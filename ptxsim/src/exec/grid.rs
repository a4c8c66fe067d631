//! What all blocks of a launch share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use pulp::Arch;

use super::options::{Options, Random};
use crate::card::Card;
use crate::ir::Code;
use crate::memory::{GlobalMemory, Snapshot};

/// Size and shape of a launch.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
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
    /// Vector instructions of the host.
    pub arch: Arch,
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
        let arch = Arch::new();
        Self {
            code,
            config,
            card,
            parameters,
            globals,
            memory,
            global,
            options,
            arch,
            shared_bytes,
            stop,
            clock,
        }
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

    /// The cluster that begins as number `turn`: in order, or in one that the seed chooses.
    pub fn begins(&self, turn: u64) -> u64 {
        let (clusters, Some(seed)) = (self.clusters(), self.options.seed) else { return turn };
        let mut random = Random::new(seed, u64::MAX);
        let (mut step, from) =
            (random.below(clusters as usize) as u64, random.below(clusters as usize) as u64);
        while step == 0 || gcd(step, clusters) != 1 {
            step += 1;
        }
        ((u128::from(turn) * u128::from(step) + u128::from(from)) % u128::from(clusters)) as u64
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

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
