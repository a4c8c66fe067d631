//! What a plan is expected to cost, to compare variants and splits with each other.
//!
//! What one multiprocessor does in turn, plus starts and the merge. The constants are data, one set per architecture;
//! xtask's `fit` refits them to a measured sweep.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::variants::Variant;
use super::{DeviceFacts, Plan};
use crate::architecture::Architecture;
use crate::dtype::DType;
use crate::problem::{Input, Problem};

/// What a card does in a microsecond, and what starting things takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Constants {
    /// Microseconds to start a block and write its result.
    pub block_us: f64,
    /// Microseconds more where the block consists of warpgroups.
    pub warpgroups_us: f64,
    /// Bytes that the outputs of a block's warps take through shared memory where they meet, per microsecond.
    pub meeting_bytes_per_us: f64,
    /// Microseconds of a second launch that merges.
    pub merge_us: f64,
    /// Microseconds to read one split's state of one tile.
    pub merge_slot_us: f64,
    /// Bytes that one multiprocessor streams from memory per microsecond.
    pub bytes_per_us: f64,
    /// Bytes that one multiprocessor draws from L2 per microsecond: K and V once more for every row tile.
    pub l2_bytes_per_us: f64,
    /// FLOPs of one multiprocessor's tensor cores per microsecond, by `mma.sync` and by `wgmma`.
    pub mma_flops_per_us: f64,
    /// As above.
    pub wgmma_flops_per_us: f64,
    /// Exponentials of one multiprocessor per microsecond.
    pub exponentials_per_us: f64,
    /// The part of what is shorter that does not hide behind what is longest.
    pub not_hidden: f64,
    /// FLOPs per microsecond without tensor cores.
    pub fma_flops_per_us: f64,
}

impl Constants {
    /// Those of an architecture.
    pub fn of(architecture: Architecture) -> &'static Self {
        match architecture {
            Architecture::Sm80 => &SM80,
            Architecture::Sm90a => &SM90A,
        }
    }
}

/// Not fitted to a card yet: from data sheets and instruction counts. An A100: 1.5 TB/s, L2 by the clock as Hopper's
/// and 200 TFLOP/s over 108 multiprocessors of 1.4 GHz.
const SM80: Constants = Constants {
    block_us: 2.0,
    warpgroups_us: 0.0,
    meeting_bytes_per_us: 90_000.0,
    merge_us: 3.0,
    merge_slot_us: 0.02,
    bytes_per_us: 14_000.0,
    l2_bytes_per_us: 34_000.0,
    mma_flops_per_us: 1_800_000.0,
    wgmma_flops_per_us: 1_800_000.0,
    exponentials_per_us: 22_000.0,
    not_hidden: 0.25,
    fma_flops_per_us: 112_000.0,
};

/// Not fitted to a card yet: from data sheets and instruction counts. An H200: 4.3 TB/s, 24 bytes a clock from L2, 600
/// TFLOP/s by wgmma and 60 % of that by mma.sync, over 132 multiprocessors of 1.7 GHz. The merge is set up while the
/// attention runs, and costs less than a launch.
const SM90A: Constants = Constants {
    block_us: 1.5,
    warpgroups_us: 0.5,
    meeting_bytes_per_us: 110_000.0,
    merge_us: 1.5,
    merge_slot_us: 0.01,
    bytes_per_us: 32_000.0,
    l2_bytes_per_us: 41_000.0,
    mma_flops_per_us: 2_700_000.0,
    wgmma_flops_per_us: 4_500_000.0,
    exponentials_per_us: 27_000.0,
    not_hidden: 0.15,
    fma_flops_per_us: 200_000.0,
};

/// The cost of a plan, in microseconds as far as the constants are.
pub fn estimate(plan: &Plan, facts: &DeviceFacts, constants: &Constants) -> f64 {
    estimate_split(plan.problem(), plan.variant(), facts, plan.split_keys(), constants)
}

/// The same before there is a plan.
pub(super) fn estimate_split(
    problem: &Problem,
    variant: &Variant,
    facts: &DeviceFacts,
    split_keys: usize,
    constants: &Constants,
) -> f64 {
    let scores = (variant.tile_rows * variant.tile_keys) as f64;
    let tile_bytes = (2 * variant.tile_keys * variant.head_dim * variant.kv_bytes) as f64;
    let flops_per_us = match (variant.dtype, variant.warpgroups) {
        (DType::F32, _) => constants.fma_flops_per_us,
        (_, true) => constants.wgmma_flops_per_us,
        (_, false) => constants.mma_flops_per_us,
    };
    let (mut blocks, mut slots) = (0.0, 0.0);
    // Blocks by the number of K/V tiles that they take.
    let mut lengths = BTreeMap::<usize, usize>::new();
    // Keys times row tiles that read them, and keys that any tile reads.
    let (mut read, mut distinct) = (0.0, 0.0);
    for input in problem.inputs() {
        let tiles = (input.rows.len() * problem.group()).div_ceil(variant.tile_rows);
        let parts = input.keys.len().div_ceil(split_keys).max(1);
        let same_keys = tiles.next_multiple_of(variant.cluster) * problem.kv_heads();
        blocks += (same_keys * parts) as f64;
        let (whole, rest) = (input.keys.len() / split_keys, input.keys.len() % split_keys);
        *lengths.entry(split_keys.div_ceil(variant.tile_keys)).or_default() += whole * same_keys;
        *lengths.entry(rest.div_ceil(variant.tile_keys)).or_default() += same_keys;
        if parts > 1 {
            slots += (tiles * problem.kv_heads() * parts) as f64;
        }
        read += (tiles * input.keys.len()) as f64;
        distinct += (tiles.min(1) * input.keys.len()) as f64;
    }
    // Row tiles that share K and V: together they read memory once; each draws from L2, a cluster as one.
    let sharing = if distinct > 0.0 { read / distinct } else { 1.0 };
    let from_memory = tile_bytes / sharing / constants.bytes_per_us;
    let from_l2 = tile_bytes / variant.cluster as f64 / constants.l2_bytes_per_us;
    let parts = [
        from_memory.max(from_l2),
        4.0 * scores * variant.head_dim as f64 / flops_per_us,
        scores / constants.exponentials_per_us,
    ];
    let longest_part = parts.into_iter().fold(0.0, f64::max);
    let hidden: f64 = parts.iter().sum::<f64>() - longest_part;
    let tile_us = longest_part + constants.not_hidden * hidden;
    // Blocks that share a multiprocessor share all it has: it takes their tiles as if one after the other, and only
    // starts overlap.
    let in_turn = busiest(&lengths, facts.multiprocessors) as f64;
    let waves = (blocks / (variant.resident(facts) * facts.multiprocessors) as f64).ceil().max(1.0);
    let merge = match slots > 0.0 {
        true => constants.merge_us + constants.merge_slot_us * slots / facts.multiprocessors as f64,
        false => 0.0,
    };
    let end_us = match variant.warpgroups {
        true => constants.warpgroups_us,
        false => {
            (variant.threads / 32 * 16 * (variant.head_dim + 8) * 4) as f64 / constants.meeting_bytes_per_us
        }
    };
    in_turn * tile_us + waves * (constants.block_us + end_us) + merge
}

/// Tiles of the busiest multiprocessor, where the longest blocks come first and each goes where there is least to do.
fn busiest(lengths: &BTreeMap<usize, usize>, multiprocessors: usize) -> usize {
    let multiprocessors = multiprocessors.max(1);
    let mut loads: BinaryHeap<Reverse<usize>> = vec![Reverse(0); multiprocessors].into();
    let mut everyone = 0;
    for (tiles, blocks) in lengths.iter().rev().filter(|(tiles, _)| **tiles > 0) {
        everyone += tiles * (blocks / multiprocessors);
        for _ in 0..blocks % multiprocessors {
            let least = loads.pop().map_or(0, |load| load.0);
            loads.push(Reverse(least + tiles));
        }
    }
    everyone + loads.iter().map(|load| load.0).max().unwrap_or(0)
}

/// Keys of the longest input.
pub(super) fn longest(problem: &Problem) -> usize {
    problem.inputs().iter().map(|input: &Input| input.keys.len()).max().unwrap_or(0)
}
