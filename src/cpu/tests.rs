//! What the public API cannot reach: forced splits, and the functions of the softmax.

use super::{attend_split, math};
use crate::{Keys, Problem, ProblemSpec, SharedKv, View, reference};

/// Every number of splits of one input's keys, also more than there are tiles.
#[test]
fn every_split_of_the_keys_gives_the_whole() {
    let (rows, keys, dim) = (20, 500, 16);
    let problem = Problem::new(ProblemSpec {
        heads: 1,
        kv_heads: 1,
        head_dim: dim,
        scale: 0.5,
        softcap: None,
        row_offsets: vec![0, 3, rows],
        keys: Keys::Packed { offsets: vec![0, 100, keys] },
    })
    .unwrap();
    let noise = |n: usize, seed: usize| -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0).collect()
    };
    let (q, k, v) = (noise(rows * dim, 1), noise(keys * dim, 2), noise(keys * dim, 3));
    let run = |splits: Option<usize>| {
        let (mut out, mut lse) = (vec![f32::NAN; q.len()], vec![f32::NAN; rows]);
        let q = View::contiguous(problem.query_shape(), &q[..]);
        let kv = SharedKv::contiguous(problem.kv_shape(), &k[..], &v[..]);
        let o = View::contiguous(problem.query_shape(), &mut out[..]);
        let l = Some(View::contiguous(problem.lse_shape(), &mut lse[..]));
        match splits {
            None => reference::attend(&problem, q, kv, o, l).unwrap(),
            Some(n) => attend_split(&problem, q, kv, o, l, 2, |_, _| n).unwrap(),
        }
        (out, lse)
    };
    let (out, lse) = run(None);
    for splits in 1..=10 {
        let got = run(Some(splits));
        for (g, w) in got.0.iter().zip(&out).chain(got.1.iter().zip(&lse)) {
            assert!((g - w).abs() <= 1e-5 * w.abs().max(1.0), "{splits} splits: {g} against {w}");
        }
    }
}

/// Hands the exponential to whatever registers the machine has.
struct Exp2<'a>(&'a mut [f32]);

impl pulp::WithSimd for Exp2<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) {
        let (lanes, tail) = S::as_mut_simd_f32s(self.0);
        lanes.iter_mut().for_each(|x| *x = math::exp2(simd, *x));
        tail.iter_mut().for_each(|x| *x = math::exp2(pulp::Scalar, *x));
    }
}

#[test]
fn exp2_is_accurate_and_keeps_nan() {
    let x: Vec<f32> = (0..=200_000).map(|i| i as f32 / 200_000.0 * 253.0 - 126.0).collect();
    let mut y = x.clone();
    pulp::Arch::new().dispatch(Exp2(&mut y));
    for (x, y) in x.iter().zip(&y) {
        let want = f64::from(*x).exp2();
        assert!((f64::from(*y) / want - 1.0).abs() < 2e-7, "2^{x} is {y}");
    }
    let mut special =
        [f32::NEG_INFINITY, -127.0, -1e30, 0.0, f32::NAN, f32::from_bits(0x7f80_0001), 0.0, 0.0];
    pulp::Arch::new().dispatch(Exp2(&mut special));
    assert_eq!(special[..4], [0.0, 0.0, 0.0, 1.0]);
    assert!(special[4].is_nan() && special[5].is_nan());
}
