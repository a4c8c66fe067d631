//! Elementwise mathematics on rows, written so that the compiler vectorises it.
//!
//! Each public function dispatches once, by [`pulp::Arch`], to its body compiled for the widest
//! registers of the machine. The bodies are `inline(always)`: compiled on their own they would be
//! for the oldest machine, with a library call per fused multiply-add.

use std::f32::consts::FRAC_1_SQRT_2;

use pulp::{Arch, Simd, WithSimd};

use crate::config::Activation;

/// `pub fn name(arch, arguments)`, whose body is compiled for every width of registers.
macro_rules! vectorised {
    ($(#[$doc:meta])* $name:ident<$life:lifetime>($($argument:ident: $type:ty),*) -> $output:ty = $body:path) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments, reason = "the body's own arguments, and the dispatcher")]
        pub fn $name<$life>(arch: Arch, $($argument: $type),*) -> $output {
            struct Call<$life>($($type),*, std::marker::PhantomData<&$life ()>);
            impl<$life> WithSimd for Call<$life> {
                type Output = $output;

                #[inline(always)]
                fn with_simd<S: Simd>(self, _simd: S) -> Self::Output {
                    let Self($($argument),*, _) = self;
                    $body($($argument),*)
                }
            }
            arch.dispatch(Call($($argument),*, std::marker::PhantomData))
        }
    };
}

vectorised!(
    /// `act(h)` in place.
    activate<'a>(h: &'a mut [f32], activation: Activation) -> () = activate_row
);
vectorised!(
    /// `out = x / rms(x) * weight`.
    rms_norm<'a>(x: &'a [f32], weight: &'a [f32], epsilon: f32, out: &'a mut [f32]) -> () = rms_norm_row
);
vectorised!(
    /// `softmax(scores + bias)` in place.
    softmax<'a>(scores: &'a mut [f32], bias: &'a [f32]) -> () = softmax_row
);
vectorised!(
    /// Position of the largest element, the first of equals; NaN is smaller than all.
    argmax<'a>(x: &'a [f32]) -> usize = argmax_row
);
vectorised!(
    /// Attention of one query over the keys `k` and `v`, `[keys, stride]`, from column `at` on:
    /// `out = softmax(q k^T + bias) v`. `scores` has room for the keys.
    attend<'a>(
        q: &'a [f32], k: &'a [f32], v: &'a [f32], stride: usize, at: usize,
        bias: &'a [f32], scores: &'a mut Vec<f32>, out: &'a mut [f32]
    ) -> () = attend_row
);

/// `e^x` for -87 <= x <= 88, relative error below 3e-7; beyond, as at the nearer end. NaN for NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // e^x = 2^n e^r with |r| <= ln(2) / 2, ln 2 in two parts; Taylor's series for e^r.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    let mut p = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = r.mul_add(p, c);
    }
    p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()))
}

/// tanh form of GELU, as transformers' `gelu_new`.
#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    // 0.5 (1 + tanh u) = 1 / (1 + e^(-2u))
    let u = SQRT_2_OVER_PI * (0.044_715 * x * x).mul_add(x, x);
    x / (1.0 + exp(-2.0 * u))
}

#[inline(always)]
fn activate_row(h: &mut [f32], activation: Activation) {
    match activation {
        Activation::Relu => h.iter_mut().for_each(|x| *x = if *x < 0.0 { 0.0 } else { *x }),
        Activation::Gelu => h.iter_mut().for_each(|x| *x *= 0.5 * (1.0 + libm::erff(*x * FRAC_1_SQRT_2))),
        Activation::GeluTanh => h.iter_mut().for_each(|x| *x = gelu_tanh(*x)),
        Activation::Silu => h.iter_mut().for_each(|x| *x /= 1.0 + exp(-*x)),
    }
}

#[inline(always)]
fn softmax_row(scores: &mut [f32], bias: &[f32]) {
    // Sixteen partial results: a single one would be a chain that cannot be vectorised.
    const LANES: usize = 16;
    let mut max = [f32::NEG_INFINITY; LANES];
    let mut sum = [0.0f32; LANES];
    for (s, b) in scores.chunks_mut(LANES).zip(bias.chunks(LANES)) {
        for ((s, b), m) in s.iter_mut().zip(b).zip(&mut max) {
            *s += b;
            *m = if *s > *m { *s } else { *m };
        }
    }
    let max = max.into_iter().fold(f32::NEG_INFINITY, f32::max);
    for s in scores.chunks_mut(LANES) {
        for (s, total) in s.iter_mut().zip(&mut sum) {
            *s = exp(*s - max);
            *total += *s;
        }
    }
    let factor = 1.0 / sum.into_iter().sum::<f32>();
    scores.iter_mut().for_each(|s| *s *= factor);
}

/// Dot product.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0f32; LANES];
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: f32 = a.remainder().iter().zip(b.remainder()).map(|(x, y)| x * y).sum();
    for (a, b) in a.zip(b) {
        for i in 0..LANES {
            sums[i] = a[i].mul_add(b[i], sums[i]);
        }
    }
    sums.iter().sum::<f32>() + tail
}

#[inline(always)]
fn rms_norm_row(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    let mean = dot(x, x) / x.len() as f32;
    let factor = 1.0 / (mean + epsilon).sqrt();
    for ((o, x), w) in out.iter_mut().zip(x).zip(weight) {
        *o = x * factor * w;
    }
}

#[inline(always)]
fn argmax_row(x: &[f32]) -> usize {
    const LANES: usize = 64;
    let mut max = [f32::NEG_INFINITY; LANES];
    for x in x.chunks(LANES) {
        for (m, x) in max.iter_mut().zip(x) {
            *m = if *x > *m { *x } else { *m };
        }
    }
    let max = max.into_iter().fold(f32::NEG_INFINITY, f32::max);
    // Whether it is there is asked of many at once.
    let holds = |x: &[f32]| x.iter().fold(false, |any, x| any | (*x == max));
    let chunk = x.chunks(LANES).position(holds).unwrap_or(0);
    let within = x[chunk * LANES..].iter().position(|x| *x == max).unwrap_or(0);
    chunk * LANES + within
}

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "one row of an attention has as many parts")]
fn attend_row(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    stride: usize,
    at: usize,
    bias: &[f32],
    scores: &mut Vec<f32>,
    out: &mut [f32],
) {
    scores.clear();
    for k in k.chunks_exact(stride) {
        scores.push(dot(q, &k[at..][..q.len()]));
    }
    softmax_row(scores, bias);
    out.fill(0.0);
    for (p, v) in scores.iter().zip(v.chunks_exact(stride)) {
        out.iter_mut().zip(&v[at..]).for_each(|(o, v)| *o += p * v);
    }
}
