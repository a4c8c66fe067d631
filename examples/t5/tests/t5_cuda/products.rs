//! Hopper's own matrix products, and what they have in common with cublasLt's.

use std::cell::RefCell;

use onekv::DType;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::arguments::Products;
use crate::backend::Backend as _;
use crate::backend::cuda::kernels::{Matrix, Target, gemm_sm90a};
use crate::backend::cuda::{CrossKv, Cuda};
use crate::config::Activated;
use crate::reference::{activated, product};
use crate::support::{ACTIVATIONS, assert_close, cards, dtypes, hopper, matrix, noise, unit};

/// One product of random operands against the reference: overwritten or added to; results of both types, in the middle of
/// a buffer whose rest stays as it is.
struct Case {
    m: usize,
    n: usize,
    k: usize,
    dtype: DType,
    /// The result is f32.
    wide: bool,
    add: bool,
    activated: Option<Activated>,
    seed: u64,
}

impl Case {
    fn check(&self, cuda: &mut Cuda) {
        let Self { m, n, k, dtype, seed, .. } = *self;
        let planes = if self.activated.is_some_and(|a| a.gated) { 2 } else { 1 };
        let to = if self.wide { DType::F32 } else { dtype };
        let (x, w) = (noise(seed, m * k, 1.0, dtype), noise(seed ^ 1, planes * n * k, 1.0, dtype));
        // A row of poison on either side of the result.
        let before = noise(seed ^ 2, m * n, 4.0, to);
        let poison = vec![f32::NAN; n];
        let mut out = matrix(cuda, &[&poison[..], &before, &poison].concat(), m + 2, n, to);
        let (x_data, w_data) = (matrix(cuda, &x, m, k, dtype), matrix(cuda, &w, planes * n, k, dtype));
        let target = Target { data: &mut out.data, at: n * to.size_bytes(), dtype: to, add: self.add };
        gemm_sm90a(&cuda.driver, &x_data, &w_data, target, self.activated, None).unwrap();
        let got = cuda.to_host(&out).unwrap();
        assert!(got[..n].iter().chain(&got[n * (m + 1)..]).all(|x| x.is_nan()), "written outside the result");
        let zeros = vec![0.0; planes * m * n];
        let mut want = product(&x, &w, &zeros, planes * n, k);
        if let Some(Activated { activation, gated }) = self.activated {
            let gate = |i: usize, j: usize| if gated { want[(i * planes + 1) * n + j] } else { 1.0 };
            let left = |i: usize, j: usize| activated(activation, want[i * planes * n + j]);
            want = (0..m * n).map(|at| left(at / n, at % n) * gate(at / n, at % n)).collect();
        }
        if self.add {
            want.iter_mut().zip(&before).for_each(|(w, b)| *w += f64::from(*b));
        }
        // A gate carries the error of the other half, of size sqrt(k / 3).
        let least = if planes == 2 { (k as f64).sqrt() } else { 1.0 };
        let tolerance = unit(to) + 2.0 * k as f64 * unit(DType::F32);
        assert_close(&format!("{m} x {n} x {k} {dtype} {to}"), &got[n..n * (m + 1)], &want, tolerance, least);
    }
}

fn cases() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) }
}

/// Sizes around the edge of a tile.
fn near(edge: usize) -> impl Strategy<Value = usize> {
    prop_oneof![1..=edge + 3, Just(1), Just(edge), Just(edge + 1)]
}

/// Tiles are 64 to 256 x 128, and 64 deep; one to eight blocks divide k, by the card's size; a ring of three or
/// four stages is used again; activations are applied to what the blocks have joined.
#[test]
fn hoppers_products_equal_plain_ones() {
    let Some(cuda) = hopper() else { return };
    let rows = prop_oneof![near(64), Just(128), 120..140usize, 250..262usize, Just(513)];
    // Whole depths, and with a rest.
    let k = prop_oneof![(1..=100usize).prop_map(|n| 8 * n), (1..=14usize).prop_map(|n| 64 * n)];
    let multiprocessors = prop_oneof![Just(1), Just(3), Just(132)];
    let activated = prop_oneof![
        2 => Just(None),
        2 => (0..4usize, any::<bool>()).prop_map(|(activation, gated)| {
            Some(Activated { activation: ACTIVATIONS[activation], gated })
        })
    ];
    let cuda = RefCell::new(cuda);
    let shapes = (
        rows,
        near(128),
        k,
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        multiprocessors,
        activated,
        any::<u64>(),
    );
    let check = |(m, n, k, add, wide, half, multiprocessors, activated, seed)| {
        let dtype = if half { DType::F16 } else { DType::Bf16 };
        let case = Case { m, n, k, dtype, wide, add, activated, seed };
        let mut cuda = cuda.borrow_mut();
        cuda.driver.multiprocessors = multiprocessors;
        case.check(&mut cuda);
        Ok(())
    };
    TestRunner::new(cases()).run(&shapes, check).unwrap();
}

/// Blocks that divide k add their parts in the order of k, whichever comes first: every bit is that of the parts, added one
/// after the other.
#[test]
fn parts_of_hoppers_products_are_added_in_order() {
    let Some(mut cuda) = hopper() else { return };
    cuda.driver.multiprocessors = 132;
    let dtype = DType::Bf16;
    for (m, parts) in [(1, 2), (5, 4), (30, 8), (70, 8), (140, 4)] {
        let (n, k) = (24, 64 * parts);
        let (x, w) = (noise(m as u64, m * k, 1.0, dtype), noise(2, n * k, 1.0, dtype));
        let mut multiply = |x: &[f32], w: &[f32], k: usize| {
            let mut out = matrix(&mut cuda, &vec![0.0; m * n], m, n, DType::F32);
            let (x, w) = (matrix(&mut cuda, x, m, k, dtype), matrix(&mut cuda, w, n, k, dtype));
            let target = Target { data: &mut out.data, at: 0, dtype: DType::F32, add: false };
            gemm_sm90a(&cuda.driver, &x, &w, target, None, None).unwrap();
            cuda.to_host(&Matrix { dtype: DType::F32, ..out }).unwrap()
        };
        let got = multiply(&x, &w, k);
        let mut want = vec![0.0; m * n];
        for part in 0..parts {
            let of = |rows: &[f32]| -> Vec<f32> {
                rows.chunks_exact(k).flat_map(|row| &row[64 * part..][..64]).copied().collect()
            };
            want.iter_mut().zip(multiply(&of(&x), &of(&w), 64)).for_each(|(sum, part)| *sum += part);
        }
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&got), bits(&want), "{m} rows, {parts} parts");
    }
}

/// Infinity and NaN stay in their rows and columns.
#[test]
fn special_values_stay_where_they_are() {
    for (products, mut cuda) in cards() {
        for &dtype in dtypes(products) {
            let (m, n, k) = (3, 70, 16);
            let (mut x, w) = (noise(1, m * k, 1.0, dtype), noise(2, n * k, 1.0, dtype));
            x[k] = f32::NAN;
            let (x, w) = (matrix(&mut cuda, &x, m, k, dtype), matrix(&mut cuda, &w, n, k, dtype));
            let got = cuda.to_host(&cuda.logits(&x, &w).unwrap()).unwrap();
            let stays = got.iter().enumerate().all(|(i, x)| x.is_nan() == (i / n == 1));
            assert!(stays, "{products:?}, {dtype}");
        }
    }
}

/// NaN stays NaN behind an activation, and in its row.
#[test]
fn hoppers_activations_pass_nan_on() {
    let Some(mut cuda) = hopper() else { return };
    let (dtype, m, n, k) = (DType::F16, 3, 72, 64);
    let (mut x, w) = (noise(1, m * k, 1.0, dtype), noise(2, n * k, 1.0, dtype));
    x[k] = f32::NAN;
    let (x_data, w_data) = (matrix(&mut cuda, &x, m, k, dtype), matrix(&mut cuda, &w, n, k, dtype));
    for activation in ACTIVATIONS {
        let activated = Activated { activation, gated: false };
        let mut out = matrix(&mut cuda, &vec![0.0; m * n], m, n, dtype);
        let target = Target { data: &mut out.data, at: 0, dtype, add: false };
        gemm_sm90a(&cuda.driver, &x_data, &w_data, target, Some(activated), None).unwrap();
        let got = cuda.to_host(&out).unwrap();
        assert!(got.iter().enumerate().all(|(i, x)| x.is_nan() == (i / n == 1)), "{activation:?}");
    }
}

/// K/V is written where it was asked for, over what was there and nowhere else; copies are of the ranges asked for.
#[test]
fn kv_stores_are_filled_by_place() {
    cards().for_each(|(products, cuda)| check_kv_stores(products, cuda));
}

fn check_kv_stores(products: Products, mut cuda: Cuda) {
    for &dtype in dtypes(products) {
        let (inner, width) = (64, 8);
        let w = noise(1, 2 * inner * width, 1.0, dtype);
        let w_data = matrix(&mut cuda, &w, 2 * inner, width, dtype);
        let hidden = noise(2, 5 * width, 1.0, dtype);
        let want = product(&hidden, &w, &vec![0.0; 5 * 2 * inner], 2 * inner, width);
        let mut kv = cuda.cross_kv(5, inner).unwrap();
        let mut there = [0; 5];
        // Tokens `from..to`, and the key that they begin at.
        for (from, to, at) in [(0, 2, 3), (2, 5, 0), (4, 5, 3), (0, 2, 1)] {
            let part = matrix(&mut cuda, &hidden[from * width..to * width], to - from, width, dtype);
            cuda.project(&mut kv, at, &part, &w_data).unwrap();
            (from..to).for_each(|token| there[at + token - from] = token);
        }
        let read = |kv: &CrossKv, keys: usize| {
            let data = cuda.pool.download_as(&kv.data, keys * 2 * inner, dtype).unwrap();
            data.chunks_exact(2 * inner).map(<[f32]>::to_vec).collect::<Vec<_>>()
        };
        assert_eq!(there, [2, 0, 1, 4, 1]);
        let all = read(&kv, 5);
        for (key, token) in all.iter().zip(there) {
            let want = &want[token * 2 * inner..][..2 * inner];
            assert_close("K/V", key, want, unit(dtype) + 16.0 * unit(DType::F32), 1.0);
        }
        let mut copy = cuda.cross_kv(4, inner).unwrap();
        for (keys, at) in [(1..2, 3), (3..5, 0), (3..4, 2)] {
            cuda.copy(&kv, keys, &mut copy, at).unwrap();
        }
        assert_eq!(read(&copy, 4), [3, 4, 3, 1].map(|key| all[key].clone()));
    }
}

/// Operands that do not fit are errors, not reads past memory.
#[test]
fn operands_that_do_not_fit_are_refused() {
    for (_, mut cuda) in cards() {
        let dtype = DType::Bf16;
        let x = matrix(&mut cuda, &noise(1, 24, 1.0, dtype), 2, 12, dtype);
        let w = matrix(&mut cuda, &noise(2, 48, 1.0, dtype), 4, 12, dtype);
        // Two keys of K and V, two elements each.
        let mut kv = cuda.cross_kv(2, 2).unwrap();
        let text = cuda.project(&mut kv, 0, &x, &w).unwrap_err().to_string();
        assert_eq!(text, "width is 12, allowed: a multiple of 8");
        let text = cuda.project(&mut kv, 1, &x, &w).unwrap_err().to_string();
        assert_eq!(text, "product has 16 bytes, allowed: at least 24");
        cuda.dtype = DType::F16;
        let text = cuda.linear(&x, &w).err().unwrap().to_string();
        assert_eq!(text, "the product is F16, allowed: Bf16 or F32");
    }
}
