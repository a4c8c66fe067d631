//! All that the model takes for granted. Nothing of it was measured by this project; a guess says so.
//!
//! Sources: (data sheet) of the card, by NVIDIA. (guide): CUDA C++ Programming Guide, arithmetic throughput and launches.
//! (hopper): "Benchmarking and Dissecting the Nvidia Hopper GPU Architecture via Microbenchmarking", arXiv 2402.13499.
//! (fa3): "FlashAttention-3", arXiv 2407.08608.

/// A row of each: what it is, its name in Rust and an H200's value, then in the page's words what becomes worse, by division or by
/// multiplication.
macro_rules! assumptions {
    ($($(#[$doc:meta])* $field:ident = $h200:expr $(, $name:literal $worse:tt)?;)*) => {
        /// A card.
        #[derive(Debug, Clone, Copy)]
        pub struct Assumptions {
            pub card: &'static str,
            pub compute_capability: &'static str,
            /// (data sheet)
            pub multiprocessors: usize,
            $($(#[$doc])* pub $field: f64,)*
        }

        const H200: Assumptions =
            Assumptions { card: "H200", compute_capability: "9.0", multiprocessors: 132, $($field: $h200,)* };

        /// What becomes so many times as bad, by its name.
        pub const WORSE: &[(&str, fn(&mut Assumptions, f64))] =
            &[$($(($name, |a, by| a.$field $worse by),)?)*];
    };
}

assumptions! {
    /// GHz while memory is what is busy: the boost clock. (data sheet)
    clock_ghz = 1.83, "clock" /=;
    /// GHz while tensor cores are, where the card's power sets it. Guess: dense products of libraries reach about 85 % of an
    /// H100's data sheet.
    products_ghz = 1.55, "clock of products" /=;
    /// (data sheet)
    memory_bytes_per_s = 4.8e12, "memory's bandwidth" /=;
    /// What a copy reaches of it. Guess, usual for HBM3 and for GDDR7.
    copy_part = 0.9, "a copy's part of it" /=;
    /// What one multiprocessor draws from L2 in a clock, when all do. Guess: 5.5 to 7 TB/s are reported of an H100.
    l2_bytes_per_clock = 24.0, "L2's bandwidth" /=;
    /// From a request to its data while memory is busy. Guess: 1000 clocks.
    loaded_latency_us = 0.55, "latency under load" *=;
    /// The same while it is not. Guess: 480 clocks; microbenchmarks as (hopper) report about that.
    idle_latency_us = 0.27, "latency, idle" *=;
    /// FLOPs of a multiprocessor's tensor cores in a clock: dense, 16-bit, f32 sums. (data sheet)
    wgmma_flops_per_clock = 4096.0, "wgmma's rate" /=;
    /// mma.sync on Hopper reaches 62.9 % of its peak on average: (hopper).
    mma_flops_per_clock = 0.629 * 4096.0, "mma.sync's rate" /=;
    /// (data sheet), dense bf16: what shares are of.
    peak_flops = 989e12;
    /// Exponentials of a multiprocessor in a clock. (guide)
    exponentials_per_clock = 16.0, "exponentials' rate" /=;
    /// Bytes of shared memory that a multiprocessor reads in a clock. (guide)
    shared_bytes_per_clock = 128.0, "shared memory's rate" /=;
    /// Instructions that one warp issues in a clock when it is alone on its scheduler. Guess: half of its instructions wait for
    /// the one before.
    warp_issue = 0.5, "one warp's issue" /=;
    /// What is shorter of products and softmax hides behind the other but for this part. Guess, together with `products_ghz`, so
    /// that the plots of (fa3) come out, of an H100 on long inputs: about 500, 650 and 750 TFLOP/s at head_dim 64, 128, 256.
    not_hidden = 0.5, "what is not hidden of products or softmax" *=;
    /// Waits for barriers in a consumer's turn. Guess.
    turn_clocks = 100.0, "waits of a turn" *=;
    /// From the end of a kernel to the first instruction of the next that needs its result, where launches overlap. Guess: 0.7
    /// to 1 are reported for graphs on an H100, 1.3 to 2 without.
    gap_us = 0.8, "gap between launches" *=;
    /// A block's start (set-up, descriptors, Q) but for its first bytes. Guess.
    start_us = 0.5, "a block's start" *=;
    /// Its end: outputs meet and are written. Guess.
    end_us = 0.7, "a block's end" *=;
    /// The part of a launch's gap, its first start and its first bytes' latency that passes beside the launch before, where K and V
    /// have settled: they are fetched before the wait for it, as in the benchmark's recordings and a decode step. Guess: Q
    /// comes behind it.
    early = 0.8;
    /// The part of a block's start and end that passes beside its own products where it goes on to the next tile, whose K and V are
    /// fetched meanwhile. Its Q is waited for but where there are two places for it. Guess.
    start_hidden = 0.7;
    /// Two barriers of a cluster, and rows that the copy engine takes from block to block between them. Guess.
    join_us = 0.8, "joining in a cluster" *=;
    /// Loads of the combination, each of which waits for the one before: `combine` in cuda/attention/combine.cuh.
    combine_loads = 2.0, "the combination's loads" *=;

    // A decode step of the T5 example. All guesses but for what is counted in its sources.
    /// A small kernel (norm, embedding, choice) beside its gap.
    t5_small_us = 1.2, "T5: a small kernel" *=;
    /// Positions that the self-attention reads.
    t5_positions = 12.0, "T5: positions of the self-attention" *=;
    /// Loads of V that a warp has under way: 8, counted in machine code.
    t5_loads_in_flight = 8.0, "T5: its loads in flight" /=;
    /// Of a product, behind the last of its weights: rows, the last products, sums that meet in the cluster.
    t5_product_end_us = 1.5, "T5: a product's end" *=;
    /// Weights that a product has under way before its rows are there: its rings, of 128 blocks on average.
    t5_ring_bytes = 128.0 * 65536.0, "T5: weights fetched early" /=;
}

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
