//! What a plan is expected to cost, to compare variants and splits with each other.
//!
//! The cost is the time of the busiest multiprocessor, which takes its K/V tiles one after the other, plus the starts of its
//! blocks and the combination of split keys. The constants are data, one set per generation of cards; tools/model's `fit` refits
//! them to a measured sweep.

use std::collections::VecDeque;

use super::facts::DeviceFacts;
use super::variants::Variant;
use crate::dtype::DType;
use crate::problem::{Input, Problem};

/// What a card does in a microsecond, and what starting things takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Constants {
    /// Microseconds to start a block and write its result.
    pub block_us: f64,
    /// Microseconds at the end of a block of warpgroups; of other blocks `meeting_bytes_per_us` says how long that takes.
    pub warpgroups_us: f64,
    /// Bytes per microsecond at which a block's warps join their outputs through shared memory.
    pub meeting_bytes_per_us: f64,
    /// Microseconds of the second launch, which combines split keys.
    pub combine_us: f64,
    /// Microseconds in which the blocks of a cluster join what they have of a tile; 0 where there are no clusters.
    pub join_us: f64,
    /// Bytes that memory gives per microsecond, for each multiprocessor of the card.
    pub bytes_per_us: f64,
    /// Bytes that one multiprocessor draws from L2 per microsecond: K and V once more for every row tile, states of splits on
    /// their way to memory and back.
    pub l2_bytes_per_us: f64,
    /// FLOPs of one multiprocessor's tensor cores per microsecond, by `mma.sync`.
    pub mma_flops_per_us: f64,
    /// As `mma_flops_per_us`, by `wgmma`.
    pub wgmma_flops_per_us: f64,
    /// Exponentials of one multiprocessor per microsecond.
    pub exponentials_per_us: f64,
    /// Instructions that one multiprocessor's warps issue per microsecond.
    pub instructions_per_us: f64,
    /// The part of all shorter times that does not hide behind the longest one: 0 where they overlap fully.
    pub not_hidden: f64,
    /// FLOPs of one multiprocessor per microsecond without tensor cores.
    pub fma_flops_per_us: f64,
}

impl Constants {
    /// Those of cards of this compute capability.
    pub fn of(capability: (u32, u32)) -> &'static Self {
        Self::named(capability).1
    }

    /// The same, with the name that they have below.
    pub fn named(capability: (u32, u32)) -> (&'static str, &'static Self) {
        match capability.0 {
            ..9 => ("FROM_8_0", &FROM_8_0),
            9 => ("FROM_9_0", &FROM_9_0),
            10 | 11 => ("FROM_10_0", &FROM_10_0),
            _ => ("FROM_12_0", &FROM_12_0),
        }
    }
}

/// Not fitted to a card yet: from data sheets and instruction counts. An A100: 1.5 TB/s, L2 by the clock as Hopper's
/// and 200 TFLOP/s over 108 multiprocessors of 1.4 GHz.
const FROM_8_0: Constants = Constants {
    block_us: 2.0,
    warpgroups_us: 0.0,
    meeting_bytes_per_us: 90_000.0,
    combine_us: 3.0,
    join_us: 0.0,
    bytes_per_us: 14_000.0,
    l2_bytes_per_us: 34_000.0,
    mma_flops_per_us: 1_800_000.0,
    wgmma_flops_per_us: 1_800_000.0,
    exponentials_per_us: 22_000.0,
    instructions_per_us: 5_600.0,
    not_hidden: 0.25,
    fma_flops_per_us: 112_000.0,
};

/// Not fitted to a card yet: from data sheets and instruction counts. An H200: 4.3 TB/s, 24 bytes a clock from L2, 600
/// TFLOP/s by wgmma and 60 % of that by mma.sync, over 132 multiprocessors of 1.7 GHz. The combination is set up while the
/// attention runs, and costs less than a launch; joining in a cluster is two barriers of it and a copy.
const FROM_9_0: Constants = Constants {
    block_us: 1.5,
    warpgroups_us: 0.5,
    meeting_bytes_per_us: 110_000.0,
    combine_us: 1.5,
    join_us: 1.0,
    bytes_per_us: 32_000.0,
    l2_bytes_per_us: 41_000.0,
    mma_flops_per_us: 2_700_000.0,
    wgmma_flops_per_us: 4_500_000.0,
    exponentials_per_us: 27_000.0,
    instructions_per_us: 6_800.0,
    not_hidden: 0.15,
    fma_flops_per_us: 200_000.0,
};

/// Not fitted to a card yet: from data sheets. A B200: 7.2 TB/s over 148 multiprocessors of 1.85 GHz; by the clock as Hopper
/// otherwise, which for mma.sync is a guess.
const FROM_10_0: Constants = Constants {
    block_us: 1.5,
    warpgroups_us: 0.5,
    meeting_bytes_per_us: 120_000.0,
    combine_us: 1.5,
    join_us: 1.0,
    bytes_per_us: 48_000.0,
    l2_bytes_per_us: 44_000.0,
    mma_flops_per_us: 2_900_000.0,
    wgmma_flops_per_us: 4_500_000.0,
    exponentials_per_us: 29_000.0,
    instructions_per_us: 7_400.0,
    not_hidden: 0.15,
    fma_flops_per_us: 220_000.0,
};

/// Not fitted to a card yet: from data sheets. A GeForce RTX 5090: 1.6 TB/s and 200 TFLOP/s with f32 sums over 170
/// multiprocessors of 2.4 GHz.
const FROM_12_0: Constants = Constants {
    block_us: 1.5,
    warpgroups_us: 0.0,
    meeting_bytes_per_us: 150_000.0,
    combine_us: 1.5,
    join_us: 1.0,
    bytes_per_us: 9_400.0,
    l2_bytes_per_us: 40_000.0,
    mma_flops_per_us: 1_000_000.0,
    wgmma_flops_per_us: 1_000_000.0,
    exponentials_per_us: 36_000.0,
    instructions_per_us: 9_600.0,
    not_hidden: 0.15,
    fma_flops_per_us: 280_000.0,
};

/// Instructions that all warps issue for a K/V tile. Counted for e4m3 K and V alone, where they may take longest; else 0.
///
/// Each four bytes of a lane take two conversions, V's a permutation as well; the softmax takes five instructions a score. All
/// else is a fifth more and 60 for each warp; that the output is rescaled is too rare to count. This is within 7 % of the count
/// in Hopper's machine code, 12 % where two warps share a tile.
pub(super) fn instructions(variant: &Variant) -> f64 {
    if !variant.e4m3_kv() {
        return 0.0;
    }
    let [rows, keys, dim] = [variant.tile_rows, variant.tile_keys, variant.head_dim].map(|n| n as f64);
    let (conversions, products) = ((2.0 + 3.0) * keys * dim / 128.0, rows * keys * dim / 1024.0);
    let warps = (variant.threads / 32 / variant.key_warps) as f64;
    1.2 * (conversions + products + 5.0 * rows * keys / 32.0) + 60.0 * warps
}

/// The cost of a plan in microseconds, as exact as the constants are.
pub fn estimate(
    problem: &Problem,
    variant: &Variant,
    (split_keys, split_cluster): (usize, usize),
    facts: &DeviceFacts,
    constants: &Constants,
) -> f64 {
    let mut model = Model::new(&Sizes::of(problem), variant, facts, constants);
    model.cost(&model.split(split_keys, Some(split_cluster)))
}

#[cfg(test)]
thread_local! {
    /// How many costs were estimated in full, for the test that a plan like another needs none.
    pub(super) static ESTIMATES: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// The inputs of a problem as far as the cost depends on them: those with the same keys and rows are counted together.
pub(super) struct Sizes {
    kv_heads: usize,
    /// In order of their keys.
    inputs: Vec<Size>,
}

struct Size {
    keys: usize,
    /// Folded, per K/V head.
    rows: usize,
    inputs: usize,
}

impl Sizes {
    pub(super) fn of(problem: &Problem) -> Self {
        let group = problem.group();
        let size = |input: &Input| (input.keys.len(), input.rows.len() * group);
        let mut sizes: Vec<(usize, usize)> = problem.inputs().iter().map(size).collect();
        sizes.sort_unstable();
        let same = |same: &[(usize, usize)]| Size { keys: same[0].0, rows: same[0].1, inputs: same.len() };
        Self { kv_heads: problem.kv_heads(), inputs: sizes.chunk_by(|a, b| a == b).map(same).collect() }
    }

    /// Keys of the longest input.
    pub(super) fn most_keys(&self) -> usize {
        self.inputs.last().map_or(0, |size| size.keys)
    }

    /// The most folded rows of an input.
    pub(super) fn most_rows(&self) -> usize {
        self.inputs.iter().map(|size| size.rows).max().unwrap_or(0)
    }
}

/// The cost of a variant's plans for a problem, from split to split.
pub(super) struct Model<'a> {
    constants: &'a Constants,
    multiprocessors: usize,
    /// Blocks that the card holds at once.
    resident: usize,
    tile_keys: usize,
    split_clusters: &'static [usize],
    /// Microseconds in which K and V come from memory, whichever multiprocessors ask for them.
    memory_us: f64,
    tile: Tile,
    /// Microseconds of a block after its last tile.
    end_us: f64,
    /// Microseconds of one multiprocessor to write and read a partial state.
    state_us: f64,
    /// Whether blocks are persistent: they go on to further work, and start once.
    persistent: bool,
    /// In ascending order of their keys.
    readers: Vec<Readers>,
    /// K/V tiles of a multiprocessor on average, rounded up: the busiest takes no fewer, however keys are split.
    mean_tiles: usize,
    /// Scratch memory of [`Model::busiest_tiles`], kept from split to split: K/V tiles and how many blocks have as many; tiles
    /// and how many multiprocessors were given as many.
    lengths: Vec<(usize, usize)>,
    loads: VecDeque<(usize, usize)>,
}

/// Microseconds of a K/V tile: to draw it from L2, of the longest part of what is computed, and of all parts.
struct Tile {
    drawn_us: f64,
    longest_us: f64,
    computed_us: f64,
}

/// The tiles of rows that read inputs of one number of keys. Inputs without rows have none.
struct Readers {
    keys: usize,
    /// Row tiles of all K/V heads, and the blocks for them where keys are not split: whole clusters.
    tiles: usize,
    blocks: usize,
}

/// A way to split the keys, and what little of its cost is found without placing its blocks.
pub(super) struct Split {
    keys: usize,
    blocks: f64,
    /// Partial states where a second launch combines them.
    states: f64,
    /// Blocks of a cluster that share out the keys of a tile.
    pub cluster: usize,
    /// `blocks`, and those that only complete a cluster.
    launched: f64,
}

impl<'a> Model<'a> {
    pub(super) fn new(
        sizes: &Sizes,
        variant: &Variant,
        facts: &DeviceFacts,
        constants: &'a Constants,
    ) -> Self {
        let scores = (variant.tile_rows * variant.tile_keys) as f64;
        let tile_bytes = (2 * variant.tile_keys * variant.head_dim * variant.kv_bytes) as f64;
        let flops_per_us = match (variant.dtype, variant.warpgroups) {
            (DType::F32, _) => constants.fma_flops_per_us,
            (_, true) => constants.wgmma_flops_per_us,
            (_, false) => constants.mma_flops_per_us,
        };
        // Keys that any tile of rows reads: together they read memory once, and each draws from L2, a cluster as one.
        let mut distinct = 0;
        let mut readers: Vec<Readers> = Vec::with_capacity(sizes.inputs.len());
        for size in sizes.inputs.iter().filter(|size| size.rows > 0) {
            let tiles = size.rows.div_ceil(variant.tile_rows);
            distinct += size.keys * size.inputs;
            let heads = sizes.kv_heads * size.inputs;
            let (tiles, blocks) = (tiles * heads, tiles.next_multiple_of(variant.cluster) * heads);
            match readers.last_mut().filter(|last| last.keys == size.keys) {
                Some(last) => (last.tiles, last.blocks) = (last.tiles + tiles, last.blocks + blocks),
                None => readers.push(Readers { keys: size.keys, tiles, blocks }),
            }
        }
        let bytes = (2 * variant.head_dim * variant.kv_bytes * sizes.kv_heads) as f64 * distinct as f64;
        let computed = [
            4.0 * scores * variant.head_dim as f64 / flops_per_us,
            scores / constants.exponentials_per_us,
            instructions(variant) / constants.instructions_per_us,
        ];
        let end_us = match variant.warpgroups {
            true => constants.warpgroups_us,
            false => {
                (variant.threads / 32 * 16 * (variant.head_dim + 8) * 4) as f64
                    / constants.meeting_bytes_per_us
            }
        };
        let tiles = |r: &Readers| r.blocks.saturating_mul(r.keys.div_ceil(variant.tile_keys));
        let in_all = readers.iter().map(tiles).fold(0, usize::saturating_add);
        Self {
            constants,
            multiprocessors: facts.multiprocessors,
            resident: variant.resident(facts).saturating_mul(facts.multiprocessors),
            tile_keys: variant.tile_keys,
            split_clusters: variant.split_clusters(),
            memory_us: bytes / (constants.bytes_per_us * facts.multiprocessors as f64),
            tile: Tile {
                drawn_us: tile_bytes / variant.cluster as f64 / constants.l2_bytes_per_us,
                longest_us: computed.into_iter().fold(0.0, f64::max),
                computed_us: computed.iter().sum(),
            },
            end_us,
            state_us: (2 * 4 * variant.tile_rows * variant.head_dim) as f64 / constants.l2_bytes_per_us,
            persistent: variant.warpgroups,
            readers,
            mean_tiles: in_all.div_ceil(facts.multiprocessors.max(1)),
            lengths: Vec::new(),
            loads: VecDeque::new(),
        }
    }

    /// Splits of `keys` keys, joined in clusters of `fixed` blocks; by default in those that fit the number of parts well.
    pub(super) fn split(&self, keys: usize, fixed: Option<usize>) -> Split {
        let (mut whole, mut blocks, mut states) = (0.0, 0.0, 0.0);
        let most_parts = fixed.filter(|cluster| *cluster > 1).unwrap_or(usize::MAX);
        for readers in &self.readers {
            let parts = readers.keys.div_ceil(keys).clamp(1, most_parts);
            whole += readers.blocks as f64;
            blocks += readers.blocks as f64 * parts as f64;
            if parts > 1 {
                states += readers.tiles as f64 * parts as f64;
            }
        }
        let of_longest = self.readers.last().map_or(1, |readers| readers.keys.div_ceil(keys).max(1));
        let launched = |cluster: usize| if cluster > 1 { whole * cluster as f64 } else { blocks };
        let fits_well = |cluster: &usize| {
            // A fifth of the blocks may have no keys.
            self.split_clusters.contains(cluster) && 5.0 * blocks >= 4.0 * launched(*cluster)
        };
        let chosen = Some(of_longest.next_power_of_two()).filter(fits_well).unwrap_or(1);
        let cluster = fixed.unwrap_or(chosen);
        Split { keys, blocks, states, cluster, launched: launched(cluster) }
    }

    /// The cost of a split.
    pub(super) fn cost(&mut self, split: &Split) -> f64 {
        #[cfg(test)]
        ESTIMATES.set(ESTIMATES.get() + 1);
        let tiles_in_turn = self.busiest_tiles(split.keys);
        let end_us = match split.cluster {
            1 => self.combine_us(split),
            _ => self.constants.join_us,
        };
        self.makespan_us(tiles_in_turn, split.launched) + end_us
    }

    /// A lower bound on the cost of this split and of all finer ones. It is computed by the same steps as the cost, each of which
    /// rounds monotonically: rounding cannot put it above.
    pub(super) fn least_of_finer(&self, split: &Split) -> f64 {
        self.makespan_us(self.mean_tiles, split.blocks) + self.least_end_us(split)
    }

    /// A lower bound on the cost of this split alone: some multiprocessor has its longest block.
    pub(super) fn least(&self, split: &Split) -> f64 {
        let longest = self.readers.last().map_or(0, |readers| readers.keys).min(split.keys);
        let tiles_in_turn = self.mean_tiles.max(longest.div_ceil(self.tile_keys));
        self.makespan_us(tiles_in_turn, split.blocks) + self.least_end_us(split)
    }

    /// Microseconds of the launch that combines; 0 where there is none.
    fn combine_us(&self, split: &Split) -> f64 {
        match split.states > 0.0 {
            true => self.constants.combine_us + self.state_us * split.states / self.multiprocessors as f64,
            false => 0.0,
        }
    }

    /// What joining the splits takes at least, in a second launch or in clusters.
    fn least_end_us(&self, split: &Split) -> f64 {
        match self.split_clusters {
            [1] => self.combine_us(split),
            _ => self.combine_us(split).min(self.constants.join_us),
        }
    }

    /// Microseconds until all blocks have ended, where the busiest multiprocessor has this many K/V tiles. Blocks that share a multiprocessor share all it
    /// has: it takes their tiles as if one after the other, and only starts overlap. Where fewer multiprocessors are busy,
    /// each gets more of the memory's bandwidth, up to what it draws from L2.
    fn makespan_us(&self, tiles_in_turn: usize, blocks: f64) -> f64 {
        let waves = (blocks / self.resident as f64).ceil().max(1.0);
        let starts = if self.persistent { 1.0 } else { waves };
        let tiles = tiles_in_turn as f64;
        let drawn_us = (tiles * self.tile.drawn_us).max(self.memory_us);
        let longest_us = drawn_us.max(tiles * self.tile.longest_us);
        // The longest in full, the others as far as they are not hidden. No differences: a lower bound stays one.
        let not_hidden = self.constants.not_hidden;
        let tiles_us =
            (1.0 - not_hidden) * longest_us + not_hidden * (drawn_us + tiles * self.tile.computed_us);
        tiles_us + starts * self.constants.block_us + waves * self.end_us
    }

    /// K/V tiles of the busiest multiprocessor: the longest blocks come first, and each goes where there is least to do.
    fn busiest_tiles(&mut self, split_keys: usize) -> usize {
        let Self { readers, tile_keys, lengths, loads, .. } = self;
        let multiprocessors = self.multiprocessors.max(1);
        lengths.clear();
        let mut whole = 0usize;
        for readers in readers.iter() {
            whole = whole.saturating_add((readers.keys / split_keys).saturating_mul(readers.blocks));
            lengths.push(((readers.keys % split_keys).div_ceil(*tile_keys), readers.blocks));
        }
        lengths.push((split_keys.div_ceil(*tile_keys), whole));
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        loads.clear();
        loads.push_back((0, multiprocessors));
        let mut everyone = 0usize;
        for same in lengths.chunk_by(|a, b| a.0 == b.0).filter(|same| same[0].0 > 0) {
            let tiles = same[0].0;
            let blocks = same.iter().map(|length| length.1).fold(0, usize::saturating_add);
            everyone = everyone.saturating_add(tiles.saturating_mul(blocks / multiprocessors));
            let mut left = blocks % multiprocessors;
            // All that have the least get one before any gets a second.
            while left > 0
                && let Some((least, having)) = loads.pop_front()
            {
                let given = left.min(having);
                left -= given;
                if given < having {
                    loads.push_front((least, having - given));
                }
                let load = least + tiles;
                let at = loads.partition_point(|other| other.0 < load);
                match loads.get_mut(at).filter(|other| other.0 == load) {
                    Some(other) => other.1 += given,
                    None => loads.insert(at, (load, given)),
                }
            }
        }
        everyone.saturating_add(loads.back().map_or(0, |load| load.0))
    }
}
