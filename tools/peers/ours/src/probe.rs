//! What the machine does at best: fused multiply-adds in registers, and a copy that the caches do not hold.

use std::hint::black_box;
use std::time::Instant;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use serde::Serialize;

/// Rates of all threads together.
#[derive(Serialize)]
pub struct Probe {
    /// Multiplications and additions in f32 per second.
    pub fma_flops_per_s: f64,
    /// Bytes read plus bytes written per second.
    pub copy_bytes_per_s: f64,
}

const RUNS: usize = 7;
/// Enough independent sums to hide the latency of an addition; they leave registers for two operands.
const SUMS: usize = 14;
const FMA_STEPS: usize = 4_000_000;
const COPY_BYTES: usize = 256 << 20;

/// Measures both on the threads of the present pool; the fastest of a few runs.
pub fn probe() -> Probe {
    Probe { fma_flops_per_s: fma(), copy_bytes_per_s: copy() }
}

fn fastest(mut work: impl FnMut()) -> f64 {
    work();
    let mut time = || {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    };
    (0..RUNS).map(|_| time()).fold(f64::INFINITY, f64::min)
}

fn fma() -> f64 {
    struct Chains;

    impl WithSimd for Chains {
        /// Operations that were done.
        type Output = usize;

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> usize {
            let (factor, term) = (simd.splat_f32s(black_box(0.5)), simd.splat_f32s(black_box(1.0)));
            let mut sums = [simd.splat_f32s(black_box(0.0)); SUMS];
            for _ in 0..FMA_STEPS {
                for sum in &mut sums {
                    *sum = simd.mul_add_f32s(*sum, factor, term);
                }
            }
            let all = sums.into_iter().fold(term, |all, sum| simd.add_f32s(all, sum));
            black_box(simd.reduce_sum_f32s(all));
            2 * FMA_STEPS * SUMS * S::F32_LANES
        }
    }

    let mut flops = 0;
    let seconds = fastest(|| flops = rayon::broadcast(|_| Arch::new().dispatch(Chains)).into_iter().sum());
    flops as f64 / seconds
}

fn copy() -> f64 {
    let from = vec![1u8; COPY_BYTES];
    let mut to = vec![0u8; COPY_BYTES];
    let part = COPY_BYTES.div_ceil(rayon::current_num_threads());
    let seconds = fastest(|| {
        let parts = to.par_chunks_mut(part).zip(black_box(&from).par_chunks(part));
        parts.for_each(|(to, from)| to.copy_from_slice(from));
        black_box(&mut to);
    });
    2.0 * COPY_BYTES as f64 / seconds
}
