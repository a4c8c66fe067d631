//! How long a plan takes, from what was counted and what is assumed.

use anyhow::{Context as _, Result};
use onekv::plan::{Plan, Variant, variants};
use serde::Deserialize;

use crate::assumptions::Assumptions;
use crate::cards::facts;
use crate::scripts;
use crate::shapes::Shape;

/// Instructions of one warp for a tile of keys, the larger of what two compilers made.
#[derive(Clone, Deserialize)]
pub struct Counts {
    pub kernel: String,
    pub card: String,
    pub address: usize,
    pub exponentials: usize,
    pub fp32: usize,
    pub all: usize,
}

/// Those of every kernel on every card, from cuda/codegen.md.
pub fn counted() -> Result<Vec<Counts>> {
    scripts::lines("codegen/tiles.py", &[], &[])
}

/// Of a kernel on the card that is named where there are such, else on the first; `None` of a kernel without.
pub fn counts_of<'a>(counted: &'a [Counts], kernel: &str, capability: &str) -> Option<&'a Counts> {
    let mut of_kernel = counted.iter().filter(|counts| counts.kernel == kernel);
    of_kernel.clone().find(|counts| counts.card == capability).or_else(|| of_kernel.next())
}

pub struct Prediction {
    pub us: f64,
    pub floor_us: f64,
    /// What takes the longest.
    pub limit: &'static str,
}

/// The least time of a shape on a card: its bytes at a copy's rate, or its operations at the data sheet's.
pub fn floor_us(shape: &Shape, a: &Assumptions) -> f64 {
    (shape.bytes() as f64 / (a.memory_bytes_per_s * a.copy_part)).max(shape.flops() / a.peak_flops) * 1e6
}

/// What a multiprocessor does with its tiles of keys, in clocks of it.
pub struct Tile {
    pub parts: [(&'static str, f64); 6],
    /// Products and softmax, which hide behind each other in part.
    pub shorter: f64,
}

/// Of `beside` blocks at once, for each tile of one of them.
pub fn tile(v: &Variant, counts: &Counts, beside: usize, a: &Assumptions) -> Tile {
    let [address, exponentials, fp32, all] =
        [counts.address, counts.exponentials, counts.fp32, counts.all].map(|count| count as f64);
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
            // What it has under way, or draws from L2.
            ("one multiprocessor's reads", kv_bytes / v.cluster as f64 / draw),
            ("tensor cores", products),
            // Exponentials, and in warpgroups the addresses for the products.
            ("softmax", own),
            ("issue", all * warps / 4.0),
            ("shared memory", shared),
            // Each step of a warp, or of a warpgroup, waits for the one before.
            ("latency chain", chain),
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
    let facts = facts(a.compute_capability, a.multiprocessors)?;
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
    let memory_us = shape.bytes() as f64 / (a.memory_bytes_per_s * a.copy_part) * 1e6;
    if memory_us > working_us {
        (limit, working_us) = ("memory", memory_us);
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
        // Launches, starts, ends and the combination: more than all of the above.
        limit = "starts and ends";
    }
    Ok(Prediction { us: working_us + starts_us, floor_us: floor_us(shape, a), limit })
}
