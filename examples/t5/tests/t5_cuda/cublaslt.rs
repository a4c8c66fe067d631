//! Matrix products by cublasLt: NVIDIA's on a card, the stand-in of ptxsim/cublaslt on the virtual one.

use onekv::DType;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::arguments::{Dtype, Products};
use crate::backend::Backend as _;
use crate::backend::cuda::Cuda;
use crate::backend::cuda::kernels::Residual;
use crate::reference::product;
use crate::support::{DTYPES, assert_close, card, matrix, noise, stand_in, unit};

/// One row, one column, unlike m, n and k; in all types, to f32, and added to what is there.
#[test]
fn products_equal_plain_ones() {
    let Some(cuda) = card() else { return };
    let cuda = std::cell::RefCell::new(cuda);
    let shapes = (1..20usize, 1..40usize, 1..9usize, 0..3usize, any::<u64>());
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) };
    let check = |(m, n, k, dtype, seed): (usize, usize, usize, usize, u64)| {
        let cuda = &mut *cuda.borrow_mut();
        let (dtype, k) = (DTYPES[dtype], 8 * k);
        let (x, w) = (noise(seed, m * k, 1.0, dtype), noise(seed ^ 1, n * k, 1.0, dtype));
        let before = noise(seed ^ 2, m * n, 4.0, DType::F32);
        // The residual stream is f32; a row of poison stands behind it.
        let mut sum = matrix(cuda, &[&before[..], &vec![f32::NAN; n]].concat(), m + 1, n, DType::F32);
        sum.rows = m;
        let (x_data, w_data) = (matrix(cuda, &x, m, k, dtype), matrix(cuda, &w, n, k, dtype));
        let zeros = vec![0.0; m * n];
        let compare = |got: Vec<f32>, to: DType, before: &[f32]| {
            let tolerance = unit(to) + 2.0 * k as f64 * unit(DType::F32);
            let what = format!("{m} x {n} x {k} {dtype} {to}");
            assert_close(&what, &got, &product(&x, &w, before, n, k), tolerance, 1.0);
        };
        let result = cuda.linear(&x_data, &w_data).unwrap();
        compare(cuda.to_host(&result).unwrap(), dtype, &zeros);
        let result = cuda.logits(&x_data, &w_data).unwrap();
        compare(cuda.to_host(&result).unwrap(), DType::F32, &zeros);
        let mut sum = Residual { sum, begun: None };
        let norm = cuda.norm(vec![1.0; n]).unwrap();
        cuda.add(&mut sum, &x_data, &w_data, &norm).unwrap();
        assert!(sum.begun.is_none(), "a norm is begun that no product ends");
        sum.sum.rows = m + 1;
        let mut got = cuda.to_host(&sum.sum).unwrap();
        assert!(got.split_off(m * n).iter().all(|x| x.is_nan()), "written behind the result");
        compare(got, DType::F32, &before);
        Ok(())
    };
    TestRunner::new(config).run(&shapes, check).unwrap();
}

/// The search runs once per shape; what was created is destroyed.
#[test]
fn an_algorithm_is_searched_once_per_shape() {
    let Some(library) = stand_in() else { return };
    let before = library.alive();
    let mut cuda = card().unwrap();
    let w = matrix(&mut cuda, &noise(1, 24 * 16, 1.0, DType::F32), 24, 16, DType::F32);
    let [few, many] =
        [2, 3].map(|rows| matrix(&mut cuda, &noise(2, rows * 16, 1.0, DType::F32), rows, 16, DType::F32));
    let sum = matrix(&mut cuda, &[0.0; 48], 2, 24, DType::F32);
    let (mut sum, norm) = (Residual { sum, begun: None }, cuda.norm(vec![1.0; 24]).unwrap());
    let searched = library.queries();
    for _ in 0..3 {
        cuda.linear(&few, &w).unwrap();
        // Of the same shape: whether something is added is no matter of the algorithm.
        cuda.add(&mut sum, &few, &w, &norm).unwrap();
    }
    assert_eq!(library.queries() - searched, 1);
    cuda.linear(&many, &w).unwrap();
    cuda.linear(&few, &w).unwrap();
    assert_eq!(library.queries() - searched, 2);
    // A handle, and for each shape a description and three layouts.
    assert_eq!(library.alive() - before, 1 + 2 * 4);
    drop(cuda);
    assert_eq!(library.alive(), before);
}

/// An error says what failed, on what; the next product is computed, and nothing is left behind.
#[test]
fn failures_name_the_product() {
    let Some(library) = stand_in() else { return };
    let before = library.alive();
    let mut cuda = card().unwrap();
    let w = matrix(&mut cuda, &noise(1, 24 * 16, 1.0, DType::Bf16), 24, 16, DType::Bf16);
    let x = matrix(&mut cuda, &noise(2, 3 * 16, 1.0, DType::Bf16), 3, 16, DType::Bf16);
    library.fail(2);
    let error = format!("{:#}", cuda.logits(&x, &w).err().unwrap());
    assert!(
        error.starts_with("cublasLt has no algorithm for [3, 16] x [24, 16]^T in bf16, to f32: "),
        "{error}"
    );
    assert!(error.contains("NOT_SUPPORTED"), "{error}");
    assert_eq!(library.alive(), before + 1);
    library.fail(3);
    let error = format!("{:#}", cuda.logits(&x, &w).err().unwrap());
    assert!(error.starts_with("cublasLt failed on [3, 16] x [24, 16]^T in bf16, to f32: "), "{error}");
    assert!(error.contains("EXECUTION_FAILED"), "{error}");
    library.fail(0);
    cuda.logits(&x, &w).unwrap();
    library.fail(1);
    let error = format!("{:#}", Cuda::open(Some(Dtype::F32), Some(Products::Cublaslt)).err().unwrap());
    assert!(error.starts_with("cannot start cublasLt: ") && error.contains("NOT_INITIALIZED"), "{error}");
    drop(cuda);
    assert_eq!(library.alive(), before);
}
