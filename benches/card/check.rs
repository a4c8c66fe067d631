//! The numbers that are computed on, and whether a result is right.

use half::bf16;
use onekv::{Element, e4m3};

/// Numbers repeat after this many, a prime: no stride of a tensor meets the same ones again soon.
const PERIOD: usize = 65_521;

/// Worst vector's relative error that rounding P and the output to bf16 explains, with room: about 0.005 is usual,
/// one key forgotten in 512 gives 0.04.
pub const TOLERANCE: f64 = 0.03;

/// What codes of the noise are multiplied with. A power of two, so that the products are bf16 and f16 exactly.
pub const SCALE: f32 = 1.0 / 256.0;

/// Evenly spread between -1 and 1. tools/peers/card.py makes the same numbers.
pub fn noise<E: Element>(seed: u32) -> Vec<E> {
    let mix = |i: u32| {
        let mut x = (i ^ seed.wrapping_mul(0x85eb_ca6b)).wrapping_mul(0x9e37_79b1);
        x = (x ^ (x >> 15)).wrapping_mul(0x85eb_ca6b);
        x = (x ^ (x >> 13)).wrapping_mul(0xc2b2_ae35);
        x ^ (x >> 16)
    };
    (0..PERIOD as u32).map(|i| E::from_f32((mix(i) >> 8) as f32 / (1 << 23) as f32 - 1.0)).collect()
}

/// Noise in e4m3: codes, and what they stand for.
pub fn quantized<E: Element>(seed: u32) -> (Vec<u8>, Vec<E>) {
    let codes = noise::<bf16>(seed).into_iter().map(|x| e4m3::encode(x.to_f32() / SCALE));
    codes.map(|code| (code, E::from_f32(e4m3::decode(code) * SCALE))).unzip()
}

/// Largest relative error of a vector of `head_dim` elements; infinite where an element is NaN, as those that were
/// not written are.
pub fn worst_error<E: Element>(got: &[E], want: &[E], head_dim: usize) -> f64 {
    let mut worst = 0f32;
    for (got, want) in got.chunks(head_dim).zip(want.chunks(head_dim)) {
        let (mut error, mut norm) = (0f32, f32::MIN_POSITIVE);
        for (g, w) in got.iter().zip(want) {
            let (g, w) = (g.to_f32(), w.to_f32());
            error += (g - w) * (g - w);
            norm += w * w;
        }
        let relative = error / norm;
        // A comparison with NaN is false: it must not be lost in a maximum.
        worst = if relative.is_finite() { worst.max(relative) } else { f32::INFINITY };
    }
    f64::from(worst).sqrt()
}

/// Mean absolute value.
pub fn mean_abs<E: Element>(values: &[E]) -> f64 {
    values.iter().map(|x| f64::from(x.to_f32().abs())).sum::<f64>() / values.len().max(1) as f64
}
