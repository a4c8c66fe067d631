//! How long a plan takes, from what was counted and what is assumed.

use anyhow::{Context as _, Result};
use onekv::plan::{Plan, Variant, variants};

use super::assumptions::Assumptions;
use crate::codegen::{ADDRESS, Counts, EXPONENTIALS, FP32};
use crate::results::Shape;

/// What takes the longest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    Memory,
    /// What one multiprocessor has under way, or draws from L2.
    Draw,
    TensorCores,
    /// Exponentials, and in warpgroups the addresses for the products.
    Softmax,
    Issue,
    SharedMemory,
    /// Each step of a warp, or of a warpgroup, waits for the one before.
    Chain,
    /// Launches, starts, ends and the combination: more than all of the above.
    Starts,
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Draw => "one multiprocessor's reads",
            Self::TensorCores => "tensor cores",
            Self::Softmax => "softmax",
            Self::Issue => "issue",
            Self::SharedMemory => "shared memory",
            Self::Chain => "latency chain",
            Self::Starts => "starts and ends",
        })
    }
}

pub struct Prediction {
    pub us: f64,
    pub floor_us: f64,
    pub limit: Limit,
}

impl Shape {
    /// Bytes that must move: K, V with their scales, Q and the output; and operations.
    pub fn bytes(&self) -> f64 {
        let scales = if self.e4m3_kv { 2 * 4 * self.kv_heads } else { 0 };
        self.kv_bytes() + (scales + 4 * self.inputs * self.rows * self.heads * self.head_dim) as f64
    }

    pub fn flops(&self) -> f64 {
        4.0 * (self.inputs * self.rows * self.heads * self.head_dim) as f64 * self.keys as f64
    }
}

/// The least time of a shape on a card: its bytes at a copy's rate, or its operations at the data sheet's.
pub fn floor_us(shape: &Shape, a: &Assumptions) -> f64 {
    (shape.bytes() / (a.memory_bytes_per_s * a.copy_part)).max(shape.flops() / a.peak_flops) * 1e6
}

/// What a multiprocessor does with its tiles of keys, in clocks of it.
pub struct Tile {
    pub parts: [(Limit, f64); 6],
    /// Products and softmax, which hide behind each other in part.
    pub shorter: f64,
}

/// Of `beside` blocks at once, for each tile of one of them.
pub fn tile(v: &Variant, counts: &Counts, beside: usize, a: &Assumptions) -> Tile {
    let all: f64 = counts.iter().sum::<usize>() as f64;
    let [address, exponentials, fp32] = [ADDRESS, EXPONENTIALS, FP32].map(|class| counts[class] as f64);
    // Warps that work on a tile, and rows of each that a product has.
    let consumers = if v.warpgroups { v.threads - 128 } else { v.threads };
    let warps = (consumers / 32 / v.key_warps) as f64;
    let kv_bytes = (2 * v.tile_keys * v.head_dim * v.kv_bytes) as f64;
    let flops = (4 * v.tile_rows * v.tile_keys * v.head_dim) as f64;
    let rate = if v.warpgroups { a.wgmma_flops_per_clock } else { a.mma_flops_per_clock };
    let products = flops / rate;
    let softmax =
        (exponentials * warps * 32.0 / a.exponentials_per_clock).max((exponentials + fp32) * warps / 4.0);
    // Each warpgroup reads K, V and its Q for itself; so does each warp that shares a tile.
    let readers = if v.warpgroups { warps / 4.0 } else { warps };
    let q_bytes = if v.warpgroups { (128 * v.head_dim) as f64 } else { 0.0 };
    let shared = readers * (kv_bytes + q_bytes) / a.shared_bytes_per_clock;
    let in_flight = (v.stages * beside) as f64 * kv_bytes;
    // In clocks of the multiprocessor: what limits those leaves L2 at its own.
    let draw = a.l2_bytes_per_clock.min(in_flight / (a.loaded_latency_us * a.clock_ghz * 1e3));
    let draw = draw * a.clock_ghz / clock_ghz(v, a);
    // A warp alone issues less than one a clock; with others beside it a scheduler is kept busy.
    let of_scheduler = (beside * consumers).div_ceil(128) as f64;
    let (own, chain) = if v.warpgroups {
        // In turn: products, softmax, and the addresses that the products wait for. Others of the multiprocessor go on.
        let own = softmax + address * warps / 4.0;
        let one = (products + own) / (v.tile_rows / 64) as f64 + a.turn_clocks;
        (own, one / beside as f64)
    } else {
        (softmax, all / a.warp_issue * warps / 4.0 / of_scheduler)
    };
    Tile {
        parts: [
            (Limit::Draw, kv_bytes / v.cluster as f64 / draw),
            (Limit::TensorCores, products),
            (Limit::Softmax, own),
            (Limit::Issue, all * warps / 4.0),
            (Limit::SharedMemory, shared),
            (Limit::Chain, chain),
        ],
        // One warpgroup alone has both in its chain already.
        shorter: if v.warpgroups && consumers * beside > 128 { products.min(own) } else { 0.0 },
    }
}

fn clock_ghz(v: &Variant, a: &Assumptions) -> f64 {
    if v.warpgroups { a.products_ghz } else { a.clock_ghz }
}

/// Predicts a plan's time on a card. `counts`: a warp's instructions for a tile of keys.
pub fn predict(shape: &Shape, plan: &Plan, counts: &Counts, a: &Assumptions) -> Result<Prediction> {
    let v = plan.variant();
    let facts = crate::codegen::facts(a.compute_capability, a.multiprocessors)?;
    let resident = v.resident(&facts);
    let blocks = plan.work().len();
    let beside = blocks.div_ceil(a.multiprocessors).min(resident);
    // The longest first, each to where there is least to do.
    let mut busy = vec![0usize; a.multiprocessors];
    let mut lengths: Vec<usize> = plan.work().iter().map(|w| w.keys.len().div_ceil(v.tile_keys)).collect();
    lengths.sort_unstable_by(|x, y| y.cmp(x));
    for length in lengths {
        *busy.iter_mut().min().context("no multiprocessors")? += length;
    }
    let tiles = busy.into_iter().max().unwrap_or(0) as f64;

    let tile = tile(v, counts, beside, a);
    let (mut limit, clocks) =
        tile.parts.into_iter().max_by(|x, y| x.1.total_cmp(&y.1)).context("no parts")?;
    let mut working_us = tiles * (clocks + a.not_hidden * tile.shorter) / clock_ghz(v, a) * 1e-3;
    let memory_us = shape.bytes() / (a.memory_bytes_per_s * a.copy_part) * 1e6;
    if memory_us > working_us {
        (limit, working_us) = (Limit::Memory, memory_us);
    }
    // Blocks that follow each other on a multiprocessor start and end one after the other; others that share it go on.
    let turns = blocks.div_ceil(a.multiprocessors) as f64 / beside.max(1) as f64;
    let begin_us = a.start_us + a.loaded_latency_us;
    let first_us = (a.gap_us + begin_us) * (1.0 - a.early) + a.end_us;
    let next_us = if v.warpgroups {
        let waits = variants::q_buffers(v.tile_rows, v.head_dim) == 1;
        let q_us = if waits { a.loaded_latency_us } else { 0.0 };
        (a.start_us + a.end_us) * (1.0 - a.start_hidden) + q_us
    } else {
        begin_us + a.end_us
    } / beside.max(1) as f64;
    let mut starts_us = first_us + (turns - 1.0).max(0.0) * next_us;
    if plan.split_cluster() > 1 {
        starts_us += a.join_us;
    }
    if plan.partial_states() > 0 {
        let state_bytes = plan.workspace_bytes() as f64;
        let rate = a.l2_bytes_per_clock * a.multiprocessors as f64 * a.clock_ghz * 1e9;
        starts_us += a.gap_us + a.combine_loads * a.idle_latency_us + state_bytes / rate * 1e6;
    }
    if starts_us > working_us {
        limit = Limit::Starts;
    }
    Ok(Prediction { us: working_us + starts_us, floor_us: floor_us(shape, a), limit })
}
