//! What is refused, as far as that needs no card, and the kernel by itself.

use std::ffi::c_void;

use crate::documented::*;
use crate::problem::{Algorithm, Layout, Operation, Pointers, Preference, Problem};
use crate::*;

fn int(operation: usize, attribute: u32, value: i32, bytes: usize) -> u32 {
    let value = [value, 0];
    // SAFETY: 8 bytes, and no more are asked for.
    unsafe { cublasLtMatmulDescSetAttribute(operation, attribute, value.as_ptr().cast(), bytes) }
}

fn preference(preference: usize, attribute: u32, value: u64, bytes: usize) -> u32 {
    let value: *const u64 = &value;
    // SAFETY: 8 bytes, and no more are asked for.
    unsafe { cublasLtMatmulPreferenceSetAttribute(preference, attribute, value.cast::<c_void>(), bytes) }
}

/// The statuses that cublasLt 12.8 gives.
#[test]
fn descriptors_take_values_of_their_attributes_size() {
    let (mut product, mut wishes, mut layout) = (0, 0, 0);
    // SAFETY: each is a number to write to, or null.
    unsafe {
        assert_eq!(cublasLtMatmulDescCreate(&mut product, COMPUTE_32F, R_32F), SUCCESS);
        assert_eq!(cublasLtMatmulPreferenceCreate(&mut wishes), SUCCESS);
        assert_eq!(cublasLtMatrixLayoutCreate(&mut layout, R_32F, 4, 5, 3), SUCCESS);
        assert_eq!(cublasLtMatrixLayoutCreate(std::ptr::null_mut(), R_32F, 4, 5, 4), INVALID_VALUE);
        assert_eq!(cublasLtMatmulDescSetAttribute(product, DESC_TRANSA, std::ptr::null(), 4), INVALID_VALUE);
        assert_eq!(cublasLtDestroy(0), INVALID_VALUE);
    }
    let statuses = [4, 8, 1].map(|bytes| int(product, DESC_TRANSA, OP_T, bytes));
    assert_eq!(statuses, [SUCCESS, INVALID_VALUE, INVALID_VALUE]);
    assert_eq!(int(product, 999, OP_T, 4), INVALID_VALUE);
    assert_eq!(int(wishes, DESC_TRANSA, OP_T, 4), INVALID_VALUE);
    let statuses = [8, 4].map(|bytes| preference(wishes, PREF_MAX_WORKSPACE_BYTES, 1 << 20, bytes));
    assert_eq!(statuses, [SUCCESS, INVALID_VALUE]);
    let statuses = [4, 8].map(|bytes| preference(wishes, PREF_MIN_ALIGNMENT_D_BYTES, 16, bytes));
    assert_eq!(statuses, [SUCCESS, INVALID_VALUE]);
    assert_eq!(stand_in_alive(), 3);
    // SAFETY: numbers.
    unsafe {
        assert_eq!(cublasLtMatmulDescDestroy(product), SUCCESS);
        assert_eq!(cublasLtMatmulDescDestroy(product), INVALID_VALUE);
        assert_eq!(cublasLtMatrixLayoutDestroy(wishes), INVALID_VALUE);
    }
    assert_eq!(stand_in_alive(), 2);
}

/// 5 x 3 over 64, as the example asks for it.
fn layouts(element: u32) -> [Layout; 4] {
    let layout = |rows, cols| Layout { element, rows, cols, ld: rows as i64 };
    [layout(64, 5), layout(64, 3), layout(5, 3), layout(5, 3)]
}

fn operation(compute: u32, scale: u32, op: [i32; 2]) -> Operation {
    let mut operation = Operation::new(compute, scale);
    for (attribute, op) in [DESC_TRANSA, DESC_TRANSB].into_iter().zip(op) {
        operation.set(attribute, &op.to_ne_bytes()).unwrap();
    }
    operation
}

#[test]
fn operands_must_fit_each_other() {
    let product = operation(COMPUTE_32F, R_32F, [OP_T, OP_N]);
    let refused =
        |operation: &Operation, layouts| Problem::new(operation, layouts).err().map(|(status, _)| status);
    let with = |change: &dyn Fn(&mut [Layout; 4])| {
        let mut layouts = layouts(R_16F);
        change(&mut layouts);
        refused(&product, layouts)
    };
    for element in [R_32F, R_16F, R_16BF] {
        assert_eq!(refused(&product, layouts(element)), None);
    }
    assert_eq!(with(&|[_, _, c, d]| (c.element, d.element) = (R_32F, R_32F)), None);
    assert_eq!(with(&|[a, b, _, _]| (a.element, b.element) = (R_32F, R_32F)), Some(NOT_SUPPORTED));
    assert_eq!(with(&|[a, ..]| a.element = R_16BF), Some(NOT_SUPPORTED));
    assert_eq!(with(&|[_, _, c, _]| c.element = R_32F), Some(NOT_SUPPORTED));
    assert_eq!(with(&|[a, ..]| a.element = 8), Some(NOT_SUPPORTED));
    assert_eq!(with(&|[a, ..]| a.ld = 63), Some(INVALID_VALUE));
    assert_eq!(with(&|[a, ..]| a.ld = 65), None);
    assert_eq!(with(&|[_, b, ..]| b.cols = 0), Some(INVALID_VALUE));
    assert_eq!(with(&|[_, _, _, d]| (d.rows, d.cols, d.ld) = (3, 5, 3)), Some(INVALID_VALUE));
    assert_eq!(with(&|[_, b, ..]| (b.rows, b.cols) = (3, 64)), Some(INVALID_VALUE));
    let of = |operation: Operation| refused(&operation, layouts(R_32F));
    assert_eq!(of(Operation::new(COMPUTE_32F, R_32F)), Some(INVALID_VALUE));
    assert_eq!(of(operation(COMPUTE_32F, R_32F, [OP_T, OP_T])), Some(INVALID_VALUE));
    assert_eq!(of(operation(COMPUTE_32F, R_32F, [7, OP_N])), Some(INVALID_VALUE));
    assert_eq!(of(operation(64, R_32F, [OP_T, OP_N])), Some(NOT_SUPPORTED));
    assert_eq!(of(operation(COMPUTE_32F, R_16F, [OP_T, OP_N])), Some(NOT_SUPPORTED));
}

#[test]
fn an_algorithm_is_for_what_it_was_chosen_for() {
    let product = operation(COMPUTE_32F, R_32F, [OP_T, OP_N]);
    let problem = Problem::new(&product, layouts(R_32F)).unwrap();
    let mut wishes = Preference::default();
    wishes.set(PREF_MAX_WORKSPACE_BYTES, &1024u64.to_ne_bytes()).unwrap();
    let algorithm = Algorithm::new(&problem, &wishes).unwrap();
    let good = Pointers { a: 0x10000, b: 0x20000, c: 0x30000, d: 0x30000, workspace: 0x40000 };
    let check =
        |at: Pointers, bytes| algorithm.check(&problem, &at, 1.0, bytes).err().map(|(status, _)| status);
    let refused = Some(INVALID_VALUE);
    assert_eq!(check(good, 1024), None);
    assert_eq!(check(good, 1023), refused);
    assert_eq!(check(Pointers { workspace: 0, ..good }, 1024), refused);
    assert_eq!(check(Pointers { workspace: 0x40010, ..good }, 1024), refused);
    assert_eq!(check(Pointers { a: 0x10010, ..good }, 1024), refused);
    assert_eq!(check(Pointers { c: 0x30080, d: 0x30080, ..good }, 1024), refused);
    assert_eq!(check(Pointers { c: 0, ..good }, 1024), refused);
    assert_eq!(check(Pointers { d: 0x10400, ..good }, 1024), refused);
    assert_eq!(check(Pointers { workspace: 0x20000, ..good }, 1024), refused);
    // Not read: C where beta is 0.
    assert!(algorithm.check(&problem, &Pointers { c: 0, ..good }, 0.0, 1024).is_ok());
    let other = Problem::new(&product, layouts(R_16F)).unwrap();
    assert!(algorithm.check(&other, &good, 1.0, 1024).is_err());
    // With less strict operands.
    wishes.set(PREF_MIN_ALIGNMENT_A_BYTES, &16u32.to_ne_bytes()).unwrap();
    let algorithm = Algorithm::new(&problem, &wishes).unwrap();
    assert!(algorithm.check(&problem, &Pointers { a: 0x10010, ..good }, 1.0, 1024).is_ok());
    wishes.set(PREF_MIN_ALIGNMENT_A_BYTES, &3u32.to_ne_bytes()).unwrap();
    assert_eq!(Algorithm::new(&problem, &wishes).unwrap_err().0, INVALID_VALUE);
}

/// 3 x 4 over k, f32, whatever the strides and where the operands begin: row by column, in order of k.
#[test]
fn strides_and_places_change_no_product() {
    use ptxsim::{Card, Checks, GlobalMemory, LaunchConfig, Module, Options};
    let card = Card::by_name("h200").unwrap();
    let memory = GlobalMemory::new(1 << 20);
    let module = Module::load(&crate::kernel::source(R_32F, R_32F), card, &memory).unwrap();
    let values: Vec<f32> = (0..1000).map(|i| (i * 37 % 101) as f32 / 64.0 - 0.8).collect();
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let [from, to] = [4000, 64].map(|size| memory.allocate(size).unwrap());
    memory.write(from, &bytes).unwrap();
    let (m, n) = (3, 4);
    // Element [i, l] of op(A) is `a[0] + i a[1] + l a[2]`, [l, j] of op(B) `b[0] + l b[2] + j b[1]`.
    for (k, a, b) in [
        (8, [0, 8, 1], [100, 8, 1]),
        (11, [0, 12, 1], [100, 12, 1]),
        (1, [0, 4, 1], [100, 4, 1]),
        (8, [1, 8, 1], [100, 8, 1]),
        (8, [0, 8, 1], [102, 8, 1]),
        (9, [0, 9, 1], [100, 12, 1]),
        (9, [0, 12, 1], [100, 10, 1]),
        (8, [0, 1, 4], [100, 8, 1]),
        (8, [0, 8, 1], [100, 1, 4]),
        (8, [0, 12, 2], [100, 12, 2]),
    ] {
        let bits = |x: f32| u64::from(x.to_bits());
        let at = |first: u64| from + 4 * first;
        let longs =
            [at(a[0]), at(b[0]), 0, to, 0, 0, m, n, k, a[1], a[2], b[2], b[1], m, m, bits(1.0), bits(0.0)];
        let facts = module.facts("product").unwrap();
        let mut parameters = vec![0; facts.parameter_bytes];
        for (value, place) in longs.iter().zip(&facts.parameters) {
            parameters[place.offset..][..place.bytes].copy_from_slice(&value.to_le_bytes()[..place.bytes]);
        }
        let config = LaunchConfig::new([1, 1, 1], [64, 1, 1]);
        let options = Options { checks: Checks::ALL, ..Options::default() };
        module.launch("product", &config, &parameters, &memory, options).unwrap();
        let mut got = vec![0; 4 * (m * n) as usize];
        memory.read(to, &mut got).unwrap();
        for (element, got) in got.chunks_exact(4).enumerate() {
            let (i, j) = (element as u64 % m, element as u64 / m);
            let value = |first: u64| values[first as usize];
            let step =
                |sum, l| value(a[0] + i * a[1] + l * a[2]).mul_add(value(b[0] + l * b[2] + j * b[1]), sum);
            assert_eq!(
                f32::from_le_bytes(got.try_into().unwrap()),
                (0..k).fold(0.0, step),
                "{k} {a:?} {b:?}"
            );
        }
    }
}
