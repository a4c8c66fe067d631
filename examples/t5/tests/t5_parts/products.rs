//! Matrix products of the CPU backend against f64, on every width of registers that the machine has.

use half::{bf16, f16};
use pulp::Arch;

use crate::backend::cpu::product::{Packed, View, product};

/// Numbers in -1..1 that do not repeat soon, as `narrow` leaves them.
fn noise(n: usize, seed: u64, narrow: impl Fn(f32) -> f32) -> Vec<f32> {
    let mut state = seed;
    let step = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        narrow((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0)
    };
    (0..n).map(step).collect()
}

fn rows(data: &[f32], cols: usize) -> View<'_> {
    View { data, rows: data.len() / cols, cols, stride: cols }
}

fn widths() -> Vec<Arch> {
    let mut all = vec![Arch::Scalar, Arch::new()];
    #[cfg(target_arch = "x86_64")]
    all.extend(pulp::x86::V3::try_new().map(Arch::V3));
    all
}

/// `base + x W^T` in f64 and the sum of the terms' sizes, which its rounding errors are measured by.
fn exact(base: f32, x: &[f32], w: &[f32]) -> (f64, f64) {
    x.iter().zip(w).fold((base.into(), base.abs().into()), |(sum, size), (x, w)| {
        let term = f64::from(*x) * f64::from(*w);
        (sum + term, size + term.abs())
    })
}

#[test]
fn products_of_any_number_of_rows_are_those_of_f64_in_every_storage() {
    let bf16s = |x| bf16::from_f32(x).to_f32();
    let f16s = |x| f16::from_f32(x).to_f32();
    for arch in widths() {
        // Inputs of one pass and of several; outputs that fill panels and that do not.
        for (inputs, outputs) in [(1, 1), (7, 31), (64, 32), (1024, 40), (2500, 97)] {
            for (bytes, w) in [
                (4, noise(outputs * inputs, 1, |x| x)),
                (2, noise(outputs * inputs, 2, bf16s)),
                (2, noise(outputs * inputs, 3, f16s)),
            ] {
                let packed = Packed::new(&w, inputs);
                assert_eq!(packed.element_bytes(), bytes);
                for count in [1, 2, 3, 4, 8, 9, 17] {
                    let x = noise(count * inputs, 4, |x| x);
                    // With an odd number of rows nothing is added to.
                    let add = count % 2 == 0;
                    let mut base = noise(count * outputs, 5, |x| x);
                    let mut out = base.clone();
                    product(arch, &mut out, rows(&x, inputs), packed.all(), add, 2);
                    if !add {
                        base.fill(0.0);
                    }
                    for (i, got) in out.iter().enumerate() {
                        let (row, output) = (i / outputs, i % outputs);
                        let of = |data: &[f32], at: usize| data[at * inputs..][..inputs].to_vec();
                        let (want, size) = exact(base[i], &of(&x, row), &of(&w, output));
                        let error = (f64::from(*got) - want).abs();
                        // A sum of n terms in any order: n roundings of at most half a unit each.
                        let bound = (inputs + 2) as f64 * f64::from(f32::EPSILON) / 2.0 * size;
                        assert!(
                            error <= bound,
                            "{arch:?} {inputs} x {outputs}, row {row} of {count}: {got}, not {want}"
                        );
                    }
                }
            }
        }
    }
}

/// Batches may grow and shrink: what a row becomes is its own affair.
#[test]
fn the_bits_of_a_row_do_not_depend_on_the_others() {
    let (inputs, outputs) = (1500, 70);
    let (w, x) = (noise(outputs * inputs, 1, |x| x), noise(30 * inputs, 2, |x| x));
    let packed = Packed::new(&w, inputs);
    for arch in widths() {
        let all = |x: &[f32], threads| {
            let mut out = vec![f32::NAN; x.len() / inputs * outputs];
            product(arch, &mut out, rows(x, inputs), packed.all(), false, threads);
            out
        };
        let together = all(&x, 2);
        for (row, want) in together.chunks_exact(outputs).enumerate() {
            assert_eq!(all(&x[row * inputs..][..inputs], 1), want, "{arch:?}, row {row}");
        }
    }
}

/// Every f16 that is a number comes out as `half` has it, and every bf16, which may be none.
#[test]
fn sixteen_bits_are_widened_exactly() {
    let one = |weights: &[f32], arch| {
        let packed = Packed::new(weights, 1);
        assert_eq!(packed.element_bytes(), 2);
        let mut out = vec![f32::NAN; weights.len()];
        product(arch, &mut out, rows(&[1.0], 1), packed.all(), false, 1);
        out
    };
    let numbers: Vec<f32> =
        (0..=u16::MAX).map(|bits| f16::from_bits(bits).to_f32()).filter(|x| x.is_finite()).collect();
    let all: Vec<f32> = (0..=u16::MAX).map(|bits| bf16::from_bits(bits).to_f32()).collect();
    for arch in widths() {
        for weights in [&numbers, &all] {
            for (got, want) in one(weights, arch).iter().zip(weights) {
                // The sum begins with 0, to which no sign of 0 is added.
                assert!(got == want || (got.is_nan() && want.is_nan()), "{arch:?}: {got:e}, not {want:e}");
            }
        }
    }
    let infinite = Packed::new(&[f32::INFINITY, 1.0 / 1024.0 + 1.0], 1);
    assert_eq!(infinite.element_bytes(), 4, "f16 with an infinity is kept as f32");
}

/// As attention has it: `softmax`, which is left out, of `x K^T`, times V, over all of the keys and over the first ones.
#[test]
fn activations_are_packed_from_either_side() {
    let (dim, stride) = (37, 80);
    let data = noise(45 * stride, 1, |x| x);
    let strided = View { data: &data, rows: 45, cols: dim, stride };
    let (k, v) = (Packed::f32(strided), Packed::f32_transposed(strided));
    let x = noise(3 * dim, 2, |x| x);
    for arch in widths() {
        for (keys, threads) in [(1, 1), (31, 1), (32, 1), (33, 1), (33, 2), (45, 2)] {
            let mut scores = vec![f32::NAN; 3 * keys];
            product(arch, &mut scores, rows(&x, dim), k.leading(keys, dim), false, threads);
            let mut values = vec![f32::NAN; 3 * dim];
            product(arch, &mut values, rows(&scores, keys), v.leading(dim, keys), false, threads);
            for row in 0..3 {
                for d in 0..dim {
                    let score = |key| exact(0.0, &x[row * dim..][..dim], strided.row(key)).0;
                    let want: f64 = (0..keys).map(|key| score(key) * f64::from(strided.row(key)[d])).sum();
                    let got = f64::from(values[row * dim + d]);
                    assert!(
                        (got - want).abs() < 1e-4,
                        "{arch:?}, {keys} keys, row {row}, {d}: {got}, not {want}"
                    );
                }
            }
        }
    }
}
