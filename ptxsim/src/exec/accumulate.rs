//! How matrix products add up: D += A B.

use pulp::{Simd, WithSimd};

use super::grid::Grid;
use super::options::Accumulation;
use crate::float::{Rounding, to_f32};
use crate::ir::MmaType;

/// D += A B: rows of A of `k` elements, of B and of D of `n`, a multiple of 8. Products are exact in f32; their sum is rounded
/// at each step, in order of k: tensor cores' order is free.
pub struct Gemm<'p> {
    pub n: usize,
    pub k: usize,
    pub a: &'p [f32],
    pub b: &'p [f32],
    pub d: &'p mut [f32],
}

impl Grid<'_> {
    /// D += A B for elements of a type, as the options have it.
    pub fn multiply(&self, ty: MmaType, gemm: Gemm) {
        match self.options.mma {
            // Integers are exact either way.
            Accumulation::Truncate if !ty.is_integer() => {
                let cut = Cut::of(ty, self.card.compute_capability);
                self.arch.dispatch(Truncated { gemm, cut });
            }
            _ => self.arch.dispatch(gemm),
        }
    }
}

impl WithSimd for Gemm<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let rows = self.a.chunks_exact(self.k).zip(self.d.chunks_exact_mut(self.n));
        for (a, out) in rows {
            let wide = self.n / 32 * 32;
            (0..wide).step_by(32).for_each(|at| columns::<32>(a, &self.b[at..], self.n, &mut out[at..]));
            (wide..self.n).step_by(8).for_each(|at| columns::<8>(a, &self.b[at..], self.n, &mut out[at..]));
        }
    }
}

/// The first `N` columns of a row of a product, in vector registers.
#[inline(always)]
fn columns<const N: usize>(a: &[f32], b: &[f32], stride: usize, out: &mut [f32]) {
    let Some(out) = out.first_chunk_mut::<N>() else { return };
    let mut sums = *out;
    for (x, b) in a.iter().zip(b.chunks(stride)) {
        let Some(b) = b.first_chunk::<N>() else { return };
        sums.iter_mut().zip(b).for_each(|(sum, y)| *sum += x * y);
    }
    *out = sums;
}

/// What is reported of tensor cores ([`Accumulation::Truncate`]). The PTX ISA specifies none of it.
///
/// Reported: products are exact; several of them and the accumulator are aligned to the largest exponent, what lies below a few
/// more bits than f32's is cut off, and the sum is rounded toward zero (Fasi, Higham, Mikaitis, Pranesh 2021, "Numerical behavior
/// of NVIDIA tensor cores", of 7.0 to 8.0; Khattak, Mikaitis 2025, "Accurate Models of NVIDIA Tensor Cores", of 9.0 and 10.0, too).
/// 8-bit floats keep 13 bits of fraction, the accumulator's as well, on 9.0 (DeepSeek-AI 2024, "DeepSeek-V3 Technical Report",
/// 3.5.2: "the highest 14 bits", of 32 products) and on 8.9 (Zhang et al. 2024, "SageAttention2": the accumulator has 13).
///
/// Assumed: what is reported of `tcgen05` on 10.0, no such loss, holds for `mma` from 10.0 on, and the rest is as on 9.0; 8.9 is
/// as 8.0 but for 8-bit floats; a product's exponent is the sum of its factors', 1 x 2^e for 1.5 x 1.5; subnormals have the
/// exponent of their value; sums of f16 are f32 until the instruction's end; sums of 8-bit floats keep what they carry past 13
/// bits until they are added to; from 2^128 on, a sum is infinite.
#[derive(Clone, Copy)]
struct Cut {
    /// Products that are added at a time, with the sum so far.
    at_once: usize,
    /// Bits kept below the largest addend's first.
    kept: i32,
}

impl Cut {
    fn of(ty: MmaType, capability: (u32, u32)) -> Self {
        let old = capability < (9, 0);
        // Products of 16 bytes at a time, later of 32.
        let at_once = if old { 16 } else { 32 } / (ty.bits() / 8);
        let kept = match ty.bits() {
            8 if capability < (10, 0) => 13,
            _ if old => 24,
            _ => 25,
        };
        Self { at_once, kept }
    }
}

struct Truncated<'p> {
    gemm: Gemm<'p>,
    cut: Cut,
}

/// Columns that are summed side by side.
const WIDTH: usize = 8;

/// Past the exponents of sums: of infinities, or of nothing but zeros.
const OUTSIDE: i32 = 512;

impl WithSimd for Truncated<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { gemm: Gemm { n, k, a, b, d }, cut } = self;
        let parts =
            |x: &[f32]| -> Vec<(f64, i32)> { x.iter().map(|x| (f64::from(*x), exponent(*x))).collect() };
        let (a, b) = (parts(a), parts(b));
        for (a, out) in a.chunks_exact(k).zip(d.chunks_exact_mut(n)) {
            for (at, out) in out.chunks_exact_mut(WIDTH).enumerate() {
                for (a, b) in a.chunks(cut.at_once).zip(b.chunks(cut.at_once * n)) {
                    add(cut.kept, a, &b[at * WIDTH..], n, out);
                }
            }
        }
    }
}

/// Adds products of `a` and columns of `b` at once.
#[inline(always)]
fn add(kept: i32, a: &[(f64, i32)], b: &[(f64, i32)], stride: usize, out: &mut [f32]) {
    let Some(out) = out.first_chunk_mut::<WIDTH>() else { return };
    let rows = || a.iter().zip(b.chunks(stride).filter_map(<[_]>::first_chunk::<WIDTH>));
    let mut tops = out.map(exponent);
    for ((_, e), b) in rows() {
        tops.iter_mut().zip(b).for_each(|(top, (_, f))| *top = (*top).max(e + f));
    }
    // In units of the last bit kept sums are whole numbers below 2^33, exact in f64.
    let lifts = tops.map(|top| kept - top.clamp(-OUTSIDE, OUTSIDE));
    let (up, down) = (lifts.map(power), lifts.map(|lift| power(-lift)));
    let mut sums: [f64; WIDTH] = std::array::from_fn(|j| (f64::from(out[j]) * up[j]).trunc());
    for ((x, _), b) in rows() {
        for (j, (y, _)) in b.iter().enumerate() {
            sums[j] += (x * y * up[j]).trunc();
        }
    }
    *out = std::array::from_fn(|j| truncated(sums[j] * down[j]));
}

/// Of the first bit; of zero and infinities, past every other.
fn exponent(x: f32) -> i32 {
    (f64::from(x).to_bits() >> 52) as i32 % 2048 - 1023
}

/// 2^n, for normal results.
fn power(n: i32) -> f64 {
    f64::from_bits(((1023 + n) as u64) << 52)
}

fn truncated(x: f64) -> f32 {
    if x.abs() < power(128) { to_f32(x, Rounding::Zero) } else { x as f32 }
}
