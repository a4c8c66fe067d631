//! mma.sync, ldmatrix and cp.async in nvcc's output, against CPU results; and planted bugs.

mod support;

use half::bf16;
use ptxsim::FaultKind;
use support::{Gpu, config, halves};

fn gpu() -> Gpu {
    Gpu::new("a100", include_str!("kernels/tensor80.ptx"))
}

fn product(a: &[bf16], b: &[bf16], k: usize) -> Vec<f64> {
    let at = |i: usize, j: usize| (0..k).map(|x| a[i * k + x].to_f64() * b[x * 64 + j].to_f64()).sum();
    (0..64 * 64).map(|i| at(i / 64, i % 64)).collect()
}

fn worst(got: &[f32], want: &[f64]) -> f64 {
    got.iter().zip(want).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max)
}

#[test]
fn matmul_multiplies_with_every_check_on() {
    let gpu = gpu();
    let k = 96;
    let (a, b) = (halves(64 * k, 1), halves(64 * k, 2));
    let (pa, pb, c) = (gpu.halves(&a), gpu.halves(&b), gpu.space(4 * 64 * 64));
    let counters = gpu.run("matmul", &config(1, 128), &[&pa, &pb, &c, &(k as i32)]);
    let error = worst(&gpu.read_floats(c, 64 * 64), &product(&a, &b, k));
    assert!(error < 1e-5, "{error}");
    assert_eq!(counters.tensor_flops, 2 * 64 * 64 * k as u64);
    assert_eq!(counters.global_load_bytes, 2 * 2 * 64 * k as u64);
    // Rows of 80 bytes: ldmatrix has no conflicts, and the copies, two rows at a time, four banks of them.
    let text: Vec<&str> = include_str!("kernels/tensor80.ptx").lines().collect();
    let of = |line: &u32| text[*line as usize - 1];
    assert!(counters.bank_conflicts_by_line.keys().all(|line| of(line).contains("cp.async")));
    assert_eq!(counters.bank_conflicts, (k / 32 * 64 * 4 / 8) as u64);
}

#[test]
fn planted_bugs_are_caught_by_their_checks() {
    let gpu = gpu();
    let k = 128;
    let (a, b) = (halves(64 * k, 1), halves(64 * k, 2));
    let (pa, pb, c) = (gpu.halves(&a), gpu.halves(&b), gpu.space(4 * 64 * 64));
    let fault = |kernel| gpu.fault(kernel, &config(1, 128), &[&pa, &pb, &c, &(k as i32)]).kind;
    assert_eq!(fault("matmul_missing_barrier"), FaultKind::Race);
    assert_eq!(fault("matmul_missing_wait"), FaultKind::AsyncPending);
    // Nothing is wrong with the program but its result.
    gpu.run("matmul_swapped_fragment", &config(1, 128), &[&pa, &pb, &c, &(k as i32)]);
    assert!(worst(&gpu.read_floats(c, 64 * 64), &product(&a, &b, k)) > 0.1);
}

#[test]
fn attention_attends() {
    let gpu = gpu();
    let (heads, n) = (2, 192);
    let (q, k, v) = (halves(heads * 64 * 64, 1), halves(heads * n * 64, 2), halves(heads * n * 64, 3));
    let (pq, pk, pv, out) =
        (gpu.halves(&q), gpu.halves(&k), gpu.halves(&v), gpu.space(2 * (heads * 64 * 64) as u64));
    let counters = gpu.run("attention", &config(heads as u32, 128), &[&pq, &pk, &pv, &out, &(n as i32)]);
    let mut bytes = vec![0; 2 * heads * 64 * 64];
    gpu.memory.read(out, &mut bytes).unwrap();
    let got: Vec<f64> = bytes.chunks_exact(2).map(|c| bf16::from_le_bytes([c[0], c[1]]).to_f64()).collect();
    for head in 0..heads {
        for row in 0..64 {
            let dot = |key: usize| -> f64 {
                (0..64)
                    .map(|d| q[(head * 64 + row) * 64 + d].to_f64() * k[(head * n + key) * 64 + d].to_f64())
                    .sum()
            };
            let scores: Vec<f64> = (0..n).map(dot).collect();
            let top = scores.iter().copied().fold(f64::MIN, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for d in 0..64 {
                let want: f64 =
                    (0..n).map(|key| weights[key] * v[(head * n + key) * 64 + d].to_f64()).sum::<f64>() / sum;
                let got = got[(head * 64 + row) * 64 + d];
                assert!((got - want).abs() < 0.01, "head {head} row {row} column {d}: {got} for {want}");
            }
        }
    }
    assert_eq!(counters.tensor_flops, (heads * 4 * 64 * n * 64) as u64);
    assert_eq!(counters.bank_conflicts, 0);
    // K and V are read once, q too.
    assert_eq!(counters.global_load_bytes, (heads * (2 * n + 64) * 128) as u64);
}
