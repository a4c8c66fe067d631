//! All that the model takes for granted. Nothing of it was measured by this project; a guess says so.
//!
//! Sources: (data sheet) of the card, by NVIDIA. (guide): CUDA C++ Programming Guide, arithmetic throughput and launches.
//! (hopper): "Benchmarking and Dissecting the Nvidia Hopper GPU Architecture via Microbenchmarking", arXiv 2402.13499.
//! (fa3): "FlashAttention-3", arXiv 2407.08608.

/// A card.
#[derive(Debug, Clone, Copy)]
pub struct Assumptions {
    pub card: &'static str,
    pub compute_capability: &'static str,
    /// (data sheet)
    pub multiprocessors: usize,
    /// GHz while memory is what is busy: the boost clock. (data sheet)
    pub clock_ghz: f64,
    /// GHz while tensor cores are, where the card's power sets it. Guess: dense products of libraries reach about 85 % of an
    /// H100's data sheet.
    pub products_ghz: f64,
    /// (data sheet)
    pub memory_bytes_per_s: f64,
    /// What a copy reaches of it. Guess, usual for HBM3 and for GDDR7.
    pub copy_part: f64,
    /// What one multiprocessor draws from L2 in a clock, when all do. Guess: 5.5 to 7 TB/s are reported of an H100.
    pub l2_bytes_per_clock: f64,
    /// From a request to its data while memory is busy, and while it is not. Guesses: 1000 and 480 clocks; microbenchmarks as
    /// (hopper) report about the latter.
    pub loaded_latency_us: f64,
    pub idle_latency_us: f64,
    /// FLOPs of a multiprocessor's tensor cores in a clock: dense, 16-bit, f32 sums. wgmma: (data sheet). mma.sync on Hopper
    /// reaches 62.9 % of its peak on average: (hopper).
    pub wgmma_flops_per_clock: f64,
    pub mma_flops_per_clock: f64,
    /// (data sheet), dense bf16: what shares are of.
    pub peak_flops: f64,
    /// Exponentials of a multiprocessor in a clock. (guide)
    pub exponentials_per_clock: f64,
    /// Bytes of shared memory that a multiprocessor reads in a clock. (guide)
    pub shared_bytes_per_clock: f64,
    /// Instructions that one warp issues in a clock when it is alone on its scheduler. Guess: half of its instructions wait for
    /// the one before.
    pub warp_issue: f64,
    /// What is shorter of products and softmax hides behind the other but for this part. Guess, together with `products_ghz`, so
    /// that the plots of (fa3) come out, of an H100 on long inputs: about 500, 650 and 750 TFLOP/s at head_dim 64, 128, 256.
    pub not_hidden: f64,
    /// Waits for barriers in a consumer's turn. Guess.
    pub turn_clocks: f64,
    /// From the end of a kernel to the first instruction of the next that needs its result, where launches overlap. Guess: 0.7
    /// to 1 are reported for graphs on an H100, 1.3 to 2 without.
    pub gap_us: f64,
    /// A block's start (set-up, descriptors, Q) but for its first bytes, and its end (outputs meet and are written). Guesses.
    pub start_us: f64,
    pub end_us: f64,
    /// The part of a launch's gap, its first start and its first bytes' latency that passes beside the launch before, where K and V
    /// have settled: they are fetched before the wait for it, as in the benchmark's recordings and a decode step. Guess: Q
    /// comes behind it.
    pub early: f64,
    /// The part of a block's start and end that passes beside its own products where it goes on to the next tile, whose K and V are
    /// fetched meanwhile. Its Q is waited for but where there are two places for it. Guess.
    pub start_hidden: f64,
    /// Two barriers of a cluster, and rows that the copy engine takes from block to block between them. Guess.
    pub join_us: f64,
    /// Loads of the combination, each of which waits for the one before: `combine` in cuda/attention/combine.cuh.
    pub combine_loads: f64,
    pub t5: T5,
}

/// A decode step of the T5 example. All guesses but for what is counted in its sources.
#[derive(Debug, Clone, Copy)]
pub struct T5 {
    /// A small kernel (norm, embedding, choice) beside its gap.
    pub small_us: f64,
    /// Positions that the self-attention reads, and how many loads of V a warp has under way: 8, counted in machine code.
    pub positions: f64,
    pub loads_in_flight: f64,
    /// Of a product, behind the last of its weights: rows, the last products, sums that meet in the cluster.
    pub product_end_us: f64,
    /// Weights that a product has under way before its rows are there: its rings, of 128 blocks on average.
    pub ring_bytes: f64,
}

const H200: Assumptions = Assumptions {
    card: "H200",
    compute_capability: "9.0",
    multiprocessors: 132,
    clock_ghz: 1.83,
    products_ghz: 1.55,
    memory_bytes_per_s: 4.8e12,
    copy_part: 0.9,
    l2_bytes_per_clock: 24.0,
    loaded_latency_us: 0.55,
    idle_latency_us: 0.27,
    wgmma_flops_per_clock: 4096.0,
    mma_flops_per_clock: 0.629 * 4096.0,
    peak_flops: 989e12,
    exponentials_per_clock: 16.0,
    shared_bytes_per_clock: 128.0,
    warp_issue: 0.5,
    not_hidden: 0.5,
    turn_clocks: 100.0,
    gap_us: 0.8,
    start_us: 0.5,
    end_us: 0.7,
    early: 0.8,
    start_hidden: 0.7,
    join_us: 0.8,
    combine_loads: 2.0,
    t5: T5 {
        small_us: 1.2,
        positions: 12.0,
        loads_in_flight: 8.0,
        product_end_us: 1.5,
        ring_bytes: 128.0 * 65536.0,
    },
};

pub const CARDS: [Assumptions; 4] = [
    H200,
    // (data sheet) of the H100 SXM.
    Assumptions { card: "H100", memory_bytes_per_s: 3.35e12, ..H200 },
    // mma.sync alone: no kernel here uses its own products. The rate is a guess: Hopper's.
    Assumptions {
        card: "B200",
        compute_capability: "10.0",
        multiprocessors: 148,
        clock_ghz: 1.85,
        products_ghz: 1.85,
        memory_bytes_per_s: 8e12,
        // Guess: more than memory gives, as on Hopper.
        l2_bytes_per_clock: 40.0,
        peak_flops: 2250e12,
        ..H200
    },
    // (data sheet): 209.5 TFLOP/s with f32 sums, 512 a clock. L2 and latencies: Hopper's, a guess.
    Assumptions {
        card: "RTX 5090",
        compute_capability: "12.0",
        multiprocessors: 170,
        clock_ghz: 2.41,
        products_ghz: 2.41,
        memory_bytes_per_s: 1.792e12,
        wgmma_flops_per_clock: 512.0,
        mma_flops_per_clock: 512.0,
        peak_flops: 209.5e12,
        ..H200
    },
];

/// An assumption, and how it becomes so many times as bad: a bandwidth is divided, a latency multiplied.
pub type Worse = (&'static str, fn(&mut Assumptions, f64));

pub const ALL: [Worse; 24] = [
    ("clock", |a, by| a.clock_ghz /= by),
    ("clock of products", |a, by| a.products_ghz /= by),
    ("memory's bandwidth", |a, by| a.memory_bytes_per_s /= by),
    ("a copy's part of it", |a, by| a.copy_part /= by),
    ("L2's bandwidth", |a, by| a.l2_bytes_per_clock /= by),
    ("latency under load", |a, by| a.loaded_latency_us *= by),
    ("latency, idle", |a, by| a.idle_latency_us *= by),
    ("wgmma's rate", |a, by| a.wgmma_flops_per_clock /= by),
    ("mma.sync's rate", |a, by| a.mma_flops_per_clock /= by),
    ("exponentials' rate", |a, by| a.exponentials_per_clock /= by),
    ("shared memory's rate", |a, by| a.shared_bytes_per_clock /= by),
    ("one warp's issue", |a, by| a.warp_issue /= by),
    ("what is not hidden of products or softmax", |a, by| a.not_hidden *= by),
    ("waits of a turn", |a, by| a.turn_clocks *= by),
    ("gap between launches", |a, by| a.gap_us *= by),
    ("a block's start", |a, by| a.start_us *= by),
    ("a block's end", |a, by| a.end_us *= by),
    ("joining in a cluster", |a, by| a.join_us *= by),
    ("the combination's loads", |a, by| a.combine_loads *= by),
    ("T5: a small kernel", |a, by| a.t5.small_us *= by),
    ("T5: positions of the self-attention", |a, by| a.t5.positions *= by),
    ("T5: its loads in flight", |a, by| a.t5.loads_in_flight /= by),
    ("T5: a product's end", |a, by| a.t5.product_end_us *= by),
    ("T5: weights fetched early", |a, by| a.t5.ring_bytes /= by),
];
