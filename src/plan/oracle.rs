//! The oracle of plans: the cost of every candidate in full, and a list of all blocks, sorted. [`Plan::new`] takes short cuts,
//! which must not change its result.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::cost::Constants;
use super::lists::MAX_BLOCKS;
use super::*;
use crate::problem::Input;

/// Variant, keys of a split, blocks of a cluster that share them out, work, combines, number of partial states.
pub(super) type Made = (&'static Variant, usize, usize, Vec<Work>, Vec<Combine>, usize);

pub(super) fn plan(
    problem: &Problem,
    dtype: DType,
    kv_bytes: usize,
    facts: &DeviceFacts,
    options: &PlanOptions,
) -> Option<Made> {
    let fits = |v: &&Variant| {
        (v.dtype, v.kv_bytes) == (dtype, kv_bytes)
            && v.head_dim == problem.head_dim()
            && v.architecture.runs_on(facts.compute_capability)
            && v.shared_bytes <= facts.shared_bytes_per_block
            && options.tile_rows.is_none_or(|rows| rows == v.tile_rows)
            && options.cluster.map_or(v.cluster == 1 || fills_clusters(problem, v), |c| c == v.cluster)
            && options.split_cluster.is_none_or(|cluster| v.split_clusters().contains(&cluster))
            && options.architecture.is_none_or(|architecture| architecture == v.architecture)
    };
    // Of tiles of as many rows the newest kernels.
    let newest =
        |rows| variants::all().filter(fits).filter(|v| v.tile_rows == rows).map(|v| v.architecture).max();
    let fits = |v: &&Variant| fits(v) && Some(v.architecture) == newest(v.tile_rows);
    let mut best: Option<(f64, &'static Variant, usize, usize)> = None;
    for variant in variants::all().filter(fits) {
        for split_keys in splits(problem, variant, facts, options) {
            let constants = Constants::of(facts.compute_capability);
            let cluster =
                options.split_cluster.unwrap_or_else(|| split_cluster(problem, variant, split_keys));
            let cost = estimate_split(problem, variant, facts, (split_keys, cluster), constants);
            if best.is_none_or(|(least, ..)| cost < least) {
                best = Some((cost, variant, split_keys, cluster));
            }
        }
    }
    let (_, variant, split_keys, split_cluster) = best?;
    let blocks = problem.inputs().iter().map(|input| {
        let together = variant.cluster * variant.tile_rows;
        let tiles = (input.rows.len() * problem.group()).div_ceil(together) * variant.cluster;
        let parts = input.keys.len().div_ceil(split_keys).max(1);
        problem.kv_heads() * tiles * if split_cluster > 1 { split_cluster } else { parts }
    });
    // `Plan::new` refuses so many.
    if blocks.sum::<usize>() > MAX_BLOCKS {
        return None;
    }
    let (mut work, mut combines, mut states) = (Vec::new(), Vec::new(), 0);
    for input in problem.inputs() {
        for kv_head in 0..problem.kv_heads() {
            let rows = input.rows.len() * problem.group();
            let parts = input.keys.len().div_ceil(split_keys).max(1);
            if split_cluster > 1 {
                let coarser = input.keys.len().div_ceil(variant.tile_keys).div_ceil(split_cluster);
                let of_part = if parts > split_cluster { coarser * variant.tile_keys } else { split_keys };
                for tile_start in (0..rows).step_by(variant.tile_rows) {
                    let mut keys = input.keys.clone();
                    for _ in 0..split_cluster {
                        let part = keys.start..(keys.start + of_part).min(keys.end);
                        keys.start = part.end;
                        let (row_base, kv_slot, state) = (input.rows.start, input.slot, None);
                        work.push(Work { row_base, rows, tile_start, kv_head, kv_slot, keys: part, state });
                    }
                }
                continue;
            }
            // Blocks of a cluster stand side by side: neighbouring tiles, the same keys.
            for cluster in (0..rows).step_by(variant.cluster * variant.tile_rows) {
                let tiles = (0..variant.cluster).map(|block| cluster + block * variant.tile_rows);
                for part in 0..parts {
                    let begin = input.keys.start + part * split_keys;
                    let keys = begin..(begin + split_keys).min(input.keys.end);
                    for (block, tile_start) in tiles.clone().enumerate() {
                        let state = (parts > 1 && tile_start < rows).then_some(states + block * parts + part);
                        let keys = keys.clone();
                        let (row_base, kv_slot) = (input.rows.start, input.slot);
                        work.push(Work { row_base, rows, tile_start, kv_head, kv_slot, keys, state });
                    }
                }
                if parts > 1 {
                    for tile_start in tiles.filter(|start| *start < rows) {
                        let of_tile = states..states + parts;
                        states += parts;
                        let row_base = input.rows.start;
                        combines.push(Combine { row_base, rows, tile_start, kv_head, states: of_tile });
                    }
                }
            }
        }
    }
    // The longest first, so that the last wave is not made of one long block; a stable sort, which leaves clusters together.
    // Blocks that share out keys go by the first of them, which has the most.
    let mut clusters: Vec<Vec<Work>> = work.chunks(split_cluster).map(<[Work]>::to_vec).collect();
    clusters.sort_by_key(|blocks| Reverse(blocks[0].keys.len().div_ceil(variant.tile_keys)));
    Some((variant, split_keys, split_cluster, clusters.concat(), combines, states))
}

/// Blocks of a cluster for these splits: a power of two that the longest input needs, and that leaves no more than a fifth of
/// all blocks without keys.
fn split_cluster(problem: &Problem, variant: &Variant, split_keys: usize) -> usize {
    let parts_of = |input: &Input| input.keys.len().div_ceil(split_keys).max(1);
    let tiles_of = |input: &Input| (input.rows.len() * problem.group()).div_ceil(variant.tile_rows);
    let with_rows = || problem.inputs().iter().filter(|input| !input.rows.is_empty());
    let most = with_rows().map(parts_of).max().unwrap_or(1);
    let parts: usize = with_rows().map(|input| tiles_of(input) * parts_of(input)).sum();
    let tiles: usize = with_rows().map(tiles_of).sum();
    let cluster = most.next_power_of_two();
    let few_rows = variant.architecture >= Architecture::Sm90 && variant.tile_rows <= 32;
    match few_rows && cluster <= 8 && 5 * parts >= 4 * tiles * cluster {
        true => cluster,
        false => 1,
    }
}

/// Whether some input has two row tiles or more, so that a cluster has something to share.
fn fills_clusters(problem: &Problem, variant: &Variant) -> bool {
    problem.inputs().iter().any(|input| input.rows.len() * problem.group() > variant.tile_rows)
}

/// Sizes of a split to compare: the fixed one, or those that divide the longest input evenly.
fn splits(problem: &Problem, variant: &Variant, facts: &DeviceFacts, options: &PlanOptions) -> Vec<usize> {
    if let Some(keys) = options.split_keys {
        return vec![keys.next_multiple_of(variant.tile_keys)];
    }
    let longest = problem.inputs().iter().map(|input| input.keys.len()).max().unwrap_or(0);
    let tiles = longest.div_ceil(variant.tile_keys).max(1);
    // More parts than fit at once only add combines.
    let most = tiles.min(4 * facts.multiprocessors).min(128);
    let most = options.split_cluster.filter(|cluster| *cluster > 1).map_or(most, |cluster| most.min(cluster));
    let mut sizes: Vec<usize> = (1..=most).map(|parts| tiles.div_ceil(parts) * variant.tile_keys).collect();
    sizes.dedup();
    sizes
}

fn estimate_split(
    problem: &Problem,
    variant: &Variant,
    facts: &DeviceFacts,
    (split_keys, split_cluster): (usize, usize),
    constants: &Constants,
) -> f64 {
    let scores = (variant.tile_rows * variant.tile_keys) as f64;
    let tile_bytes = (2 * variant.tile_keys * variant.head_dim * variant.kv_bytes) as f64;
    let flops_per_us = match (variant.dtype, variant.warpgroups) {
        (DType::F32, _) => constants.fma_flops_per_us,
        (_, true) => constants.wgmma_flops_per_us,
        (_, false) => constants.mma_flops_per_us,
    };
    let (mut blocks, mut states) = (0.0, 0.0);
    // Blocks by the number of K/V tiles that they take.
    let mut lengths = BTreeMap::<usize, usize>::new();
    // Keys that any tile of rows reads.
    let mut distinct = 0.0;
    for input in problem.inputs() {
        let tiles = (input.rows.len() * problem.group()).div_ceil(variant.tile_rows);
        let parts = input.keys.len().div_ceil(split_keys).max(1);
        let same_keys = tiles.next_multiple_of(variant.cluster) * problem.kv_heads();
        blocks += (same_keys * if split_cluster > 1 { split_cluster } else { parts }) as f64;
        let (whole, rest) = (input.keys.len() / split_keys, input.keys.len() % split_keys);
        *lengths.entry(split_keys.div_ceil(variant.tile_keys)).or_default() += whole * same_keys;
        *lengths.entry(rest.div_ceil(variant.tile_keys)).or_default() += same_keys;
        if parts > 1 {
            states += (tiles * problem.kv_heads() * parts) as f64;
        }
        distinct += (tiles.min(1) * input.keys.len()) as f64;
    }
    let bytes = (2 * variant.head_dim * variant.kv_bytes * problem.kv_heads()) as f64 * distinct;
    let memory_us = bytes / (constants.bytes_per_us * facts.multiprocessors as f64);
    let from_l2_us = tile_bytes / variant.cluster as f64 / constants.l2_bytes_per_us;
    let computed = [
        4.0 * scores * variant.head_dim as f64 / flops_per_us,
        scores / constants.exponentials_per_us,
        cost::instructions(variant) / constants.instructions_per_us,
    ];
    let longest_computed = computed.into_iter().fold(0.0, f64::max);
    // Blocks that share a multiprocessor share all it has: it takes their tiles as if one after the other, and only
    // starts overlap.
    let in_turn = busiest(&lengths, facts.multiprocessors) as f64;
    let waves = (blocks / (variant.resident(facts) * facts.multiprocessors) as f64).ceil().max(1.0);
    let combine = match states > 0.0 {
        _ if split_cluster > 1 => constants.join_us,
        true => {
            let state_bytes = (variant.tile_rows * variant.head_dim * size_of::<f32>()) as f64;
            let state_us = 2.0 * state_bytes / constants.l2_bytes_per_us;
            constants.combine_us + state_us * states / facts.multiprocessors as f64
        }
        false => 0.0,
    };
    let end_us = match variant.warpgroups {
        true => constants.warpgroups_us,
        false => {
            (variant.threads / 32 * 16 * (variant.head_dim + 8) * 4) as f64 / constants.meeting_bytes_per_us
        }
    };
    // Blocks of warpgroups go on to further work.
    let starts = if variant.warpgroups { 1.0 } else { waves };
    let drawn = (in_turn * from_l2_us).max(memory_us);
    let longest_us = drawn.max(in_turn * longest_computed);
    let not_hidden = constants.not_hidden;
    let tiles_us =
        (1.0 - not_hidden) * longest_us + not_hidden * (drawn + in_turn * computed.iter().sum::<f64>());
    tiles_us + starts * constants.block_us + waves * end_us + combine
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
