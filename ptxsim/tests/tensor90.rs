//! TMA, mbarriers, wgmma and clusters in nvcc's output, against CPU results; and planted bugs.

mod support;

use half::bf16;
use ptxsim::{FaultKind, LaunchConfig, TensorMap};
use support::{Gpu, config, halves, noise, tensor_map};

const F32: u8 = 7;
const BF16: u8 = 9;
const SWIZZLE_128: u8 = 3;

fn gpu() -> Gpu {
    Gpu::new("h200", include_str!("kernels/tensor90.ptx"))
}

/// A row-major matrix in boxes.
fn matrix(
    data_type: u8,
    address: u64,
    columns: usize,
    rows: usize,
    box_size: [u32; 2],
    swizzle: u8,
) -> [u8; 128] {
    let dimensions = [columns as u64, rows as u64];
    TensorMap { swizzle, ..tensor_map(data_type, address, &dimensions, &box_size) }.to_bytes()
}

fn worst(got: &[f32], want: impl Fn(usize, usize) -> f64) -> f64 {
    got.iter().enumerate().map(|(i, x)| (f64::from(*x) - want(i / 64, i % 64)).abs()).fold(0.0, f64::max)
}

#[test]
fn matmul_by_tma_and_wgmma_with_every_check_on() {
    let gpu = gpu();
    let k = 320;
    let (a, b) = (halves(64 * k, 1), halves(64 * k, 2));
    let (pa, pb, c) = (gpu.halves(&a), gpu.halves(&b), gpu.space(4 * 64 * 64));
    let map_a = matrix(BF16, pa, k, 64, [64, 64], SWIZZLE_128);
    let at = |x: &[bf16], i: usize| x[i].to_f64();

    let map_b = matrix(BF16, pb, k, 64, [64, 64], SWIZZLE_128);
    let counters = gpu.run("matmul", &config(1, 160), &[&map_a, &map_b, &c, &(k as i32)]);
    let want = |i: usize, j: usize| (0..k).map(|x| at(&a, i * k + x) * at(&b, j * k + x)).sum();
    let error = worst(&gpu.read_floats(c, 64 * 64), want);
    assert!(error < 1e-4, "{error}");
    assert_eq!(counters.tensor_flops, (2 * 64 * 64 * k) as u64);
    assert_eq!(counters.async_copy_bytes, (2 * 2 * 64 * k) as u64);

    let map_b = matrix(BF16, pb, 64, k, [64, 64], SWIZZLE_128);
    gpu.run("matmul_transposed", &config(1, 160), &[&map_a, &map_b, &c, &(k as i32)]);
    let want = |i: usize, j: usize| (0..k).map(|x| at(&a, i * k + x) * at(&b, x * 64 + j)).sum();
    let error = worst(&gpu.read_floats(c, 64 * 64), want);
    assert!(error < 1e-4, "{error}");
}

#[test]
fn planted_bugs_of_the_pipeline_are_caught_by_their_checks() {
    let gpu = gpu();
    let k = 320;
    let (a, b) = (halves(64 * k, 1), halves(64 * k, 2));
    let (pa, pb, c) = (gpu.halves(&a), gpu.halves(&b), gpu.space(4 * 64 * 64));
    let map_a = matrix(BF16, pa, k, 64, [64, 64], SWIZZLE_128);
    let map_b = matrix(BF16, pb, k, 64, [64, 64], SWIZZLE_128);
    let fault = |kernel| gpu.fault(kernel, &config(1, 160), &[&map_a, &map_b, &c, &(k as i32)]);
    let kind = |kernel| fault(kernel).kind;
    // Whoever comes first: reading what has not arrived, or what arrived unseen.
    assert!(matches!(kind("matmul_missing_wait"), FaultKind::Uninitialized | FaultKind::Race));
    assert_eq!(kind("matmul_missing_wgmma_wait"), FaultKind::AsyncPending);
    assert!(matches!(kind("matmul_early_refill"), FaultKind::Race | FaultKind::AsyncPending));
}

#[test]
fn fragments_of_a_from_registers_and_the_proxy_fence() {
    let gpu = gpu();
    let (a, b) = (halves(64 * 64, 1), halves(64 * 64, 2));
    let (pa, pb, c) = (gpu.halves(&a), gpu.halves(&b), gpu.space(4 * 64 * 64));
    gpu.run("registers", &config(1, 128), &[&pa, &pb, &c]);
    let want = |i: usize, j: usize| (0..64).map(|x| a[i * 64 + x].to_f64() * b[x * 64 + j].to_f64()).sum();
    let error = worst(&gpu.read_floats(c, 64 * 64), want);
    assert!(error < 1e-5, "{error}");
    let fault = gpu.fault("registers_missing_fence", &config(1, 128), &[&pa, &pb, &c]);
    assert_eq!(fault.kind, FaultKind::ProxyFence, "{fault}");
}

#[test]
fn boxes_past_the_edges_are_filled_and_cut() {
    let gpu = gpu();
    let (columns, rows) = (100, 12);
    let data = noise(columns * rows, 5);
    let input = gpu.floats(&data);
    for (x, y) in [(0, 0), (60, 8), (-16, -3), (96, 11)] {
        let out = gpu.floats(&vec![-9.0; columns * rows]);
        let from = matrix(F32, input, columns, rows, [64, 8], 0);
        let to = matrix(F32, out, columns, rows, [64, 8], 0);
        let counters = gpu.run("through", &config(1, 32), &[&from, &to, &x, &y]);
        let got = gpu.read_floats(out, columns * rows);
        let mut inside = 0;
        for row in 0..rows as i32 {
            for column in 0..columns as i32 {
                let i = row as usize * columns + column as usize;
                let hit = (x..x + 64).contains(&column) && (y..y + 8).contains(&row);
                inside += u64::from(hit);
                assert_eq!(got[i], if hit { 2.0 * data[i] } else { -9.0 }, "row {row} column {column}");
            }
        }
        assert_eq!(counters.async_copy_bytes, 64 * 8 * 4 + 4 * inside);
        let fault = gpu.fault("through_missing_fence", &config(1, 32), &[&from, &to, &x, &y]);
        assert_eq!(fault.kind, FaultKind::ProxyFence, "{fault}");
    }
}

#[test]
fn clusters_share_what_one_block_fetches() {
    let gpu = gpu();
    let data = noise(64 * 3, 7);
    let (input, out, ranks) = (gpu.floats(&data), gpu.space(6 * 64 * 4), gpu.space(6 * 4));
    let map = matrix(F32, input, 64, 3, [32, 1], 0);
    let shape = LaunchConfig { cluster: [2, 1, 1], ..config(6, 32) };
    gpu.run("cluster_pair", &shape, &[&map, &out, &ranks]);
    let got = gpu.read_floats(out, 6 * 64);
    assert!((0..6 * 64).all(|i| got[i] == data[i / 128 * 64 + i % 64]));
    assert_eq!(gpu.read_ints(ranks, 6), [101, 100, 101, 100, 101, 100]);
}
