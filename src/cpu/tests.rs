//! What the public API cannot reach: forced splits, registers that are not the machine's widest, and the functions of the softmax.

use half::{bf16, f16};
use pulp::{Arch, Scalar128b, Simd, WithSimd};

use super::state::RowState;
use super::tile::{HeadOf, KeyTiles, TILE_KEYS};
use super::{attend_split, block, math, widen};
use crate::view::MAX_HEAD_DIM;
use crate::{Element, Keys, Problem, ProblemSpec, SharedKv, View, reference};

/// Every number of splits of one input's keys, also more than there are tiles.
#[test]
fn every_split_of_the_keys_gives_the_whole() {
    // Miri takes a second for a few thousand products.
    let (rows, keys, dim) = if cfg!(miri) { (4, 300, 4) } else { (20, 500, 16) };
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
            Some(n) => attend_split(&problem, q, kv, o, l, 2, &|_, _| n).unwrap(),
        }
        (out, lse)
    };
    let (out, lse) = run(None);
    for splits in (1..=10).step_by(if cfg!(miri) { 4 } else { 1 }) {
        let got = run(Some(splits));
        for (g, w) in got.0.iter().zip(&out).chain(got.1.iter().zip(&lse)) {
            assert!((g - w).abs() <= 1e-5 * w.abs().max(1.0), "{splits} splits: {g} against {w}");
        }
    }
}

/// The kernel on every width of registers that the machine has, with vectors that fill them and that do not, and blocks and
/// tiles of any size.
#[test]
fn every_width_of_registers_gives_the_reference() {
    // Their numbers have no common divisor: cases that follow each other meet in ever new combinations.
    const ROWS: [usize; 19] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 16, 24, 25, 31, 33, 36, 37, 40];
    const DIMS: [usize; 13] = [1, 3, 4, 5, 8, 12, 16, 31, 48, 64, 65, 80, 129];
    const KEYS: [usize; 16] = [0, 1, 2, 3, 4, 5, 7, 8, 9, 31, 63, 64, 65, 68, 129, 200];
    for case in 0..600 {
        let shape = [ROWS[case % 19], KEYS[case % 16], DIMS[case % 13]];
        if cfg!(miri) && (case >= 200 || shape.iter().any(|n| *n > 9)) {
            continue;
        }
        match case % 5 {
            0 => every_width::<f16>(case, shape),
            1 => every_width::<bf16>(case, shape),
            _ => every_width::<f32>(case, shape),
        }
    }
}

/// Two heads whose keys lie in turns or one; a query of NaN, a value of infinity or numbers; with softcap or without.
fn every_width<E: Element>(case: usize, [rows, keys, dim]: [usize; 3]) {
    // Keys of others, before and behind.
    const OTHERS: usize = 3;
    let heads = 1 + case / 2 % 2;
    let problem = Problem::new(ProblemSpec {
        heads,
        kv_heads: heads,
        head_dim: dim,
        scale: 0.7,
        softcap: case.is_multiple_of(3).then_some(4.0),
        row_offsets: vec![0, 0, rows, rows],
        keys: Keys::Packed { offsets: vec![0, OTHERS, OTHERS + keys, OTHERS + keys + OTHERS] },
    })
    .unwrap();
    let noise = |n: usize, seed: usize| -> Vec<E> {
        let number = |i| ((i * 7919 + (seed + case) * 104_729) % 1009) as f32 / 504.5 - 1.0;
        (0..n * heads * dim).map(|i| E::from_f32(number(i))).collect()
    };
    let (mut q, mut k, mut v) =
        (noise(rows, 1), noise(OTHERS + keys + OTHERS, 2), noise(OTHERS + keys + OTHERS, 3));
    match case % 7 {
        0 => q[(rows / 2 * heads) * dim] = E::from_f32(f32::NAN),
        1 if keys > 0 => v[(OTHERS + keys / 2) * heads * dim] = E::from_f32(f32::INFINITY),
        _ => {}
    }
    for others in [0..OTHERS, OTHERS + keys..OTHERS + keys + OTHERS] {
        let elements = others.start * heads * dim..others.end * heads * dim;
        k[elements.clone()].fill(E::from_f32(f32::NAN));
        v[elements].fill(E::from_f32(f32::NAN));
    }

    let wide = |x: &[E]| x.iter().map(|x| x.to_f32()).collect::<Vec<f32>>();
    let (wide_q, wide_k, wide_v) = (wide(&q), wide(&k), wide(&v));
    let (mut out, mut lse) = (vec![0.0; q.len()], vec![0.0; rows * heads]);
    reference::attend(
        &problem,
        View::contiguous(problem.query_shape(), &wide_q[..]),
        SharedKv::contiguous(problem.kv_shape(), &wide_k[..], &wide_v[..]),
        View::contiguous(problem.query_shape(), &mut out[..]),
        Some(View::contiguous(problem.lse_shape(), &mut lse[..])),
    )
    .unwrap();

    let of = |data| View::contiguous(problem.kv_shape(), data);
    let tiles: Vec<KeyTiles<'_, E>> = (0..heads)
        .map(|head| KeyTiles { k: HeadOf::new(of(&k[..]), 0, head), v: HeadOf::new(of(&v[..]), 0, head) })
        .collect();
    let in_turn: Vec<usize> =
        (0..heads).flat_map(|head| (0..rows).map(move |row| row * heads + head)).collect();
    let vectors: Vec<&[E]> = in_turn.iter().map(|at| &q[at * dim..][..dim]).collect();
    let score = math::Score::new(problem.scale(), problem.softcap());
    let close = |got: f32, want: f32| {
        got == want || (got.is_nan() && want.is_nan()) || (got - want).abs() <= 1e-5 * want.abs().max(1.0)
    };
    let most = if cfg!(miri) { dim } else { MAX_HEAD_DIM };
    let nan = vec![bf16::NAN; TILE_KEYS * most];
    let nan_tile = || HeadOf { data: &nan[..], stride: most, dim: most };
    for arch in widths() {
        // The room that the kernel keeps is full of it.
        let of_nan = KeyTiles { k: nan_tile(), v: nan_tile() };
        let row = &nan[..most];
        block::attend(arch, &[row], 1, &[of_nan], 0..TILE_KEYS, score, &mut |_, _, _| ());
        let mut state = RowState::empty(vectors.len(), dim);
        let mut done = |r: usize, lse: f32, out: &[f32]| state.set(r, lse, out);
        block::attend(arch, &vectors, rows, &tiles, OTHERS..OTHERS + keys, score, &mut done);
        for (i, at) in in_turn.iter().enumerate() {
            let what = format!("{arch:?} case {case} {}: {rows} rows, {keys} keys, {dim}, row {i}", E::DTYPE);
            assert!(close(state.lse[i], lse[*at]), "{what}: LSE {} against {}", state.lse[i], lse[*at]);
            for (got, want) in state.out[i * dim..][..dim].iter().zip(&out[at * dim..]) {
                assert!(close(*got, *want), "{what}: {got} against {want}");
            }
        }
    }
}

fn widths() -> Vec<Arch> {
    let mut all = vec![Arch::Scalar, Arch::new()];
    #[cfg(target_arch = "x86_64")]
    all.extend(pulp::x86::V3::try_new().map(Arch::V3));
    all
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

/// Output and LSE of one input's `rows` over all of `k` and `v`, `[keys, dim]`.
fn one_head(rows: usize, dim: usize, q: &[f32], k: &[f32], v: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let problem = Problem::new(ProblemSpec {
        heads: 1,
        kv_heads: 1,
        head_dim: dim,
        scale: 0.5,
        softcap: None,
        row_offsets: vec![0, rows],
        keys: Keys::Packed { offsets: vec![0, k.len() / dim] },
    })
    .unwrap();
    let (mut out, mut lse) = (vec![f32::NAN; rows * dim], vec![f32::NAN; rows]);
    super::attend(
        &problem,
        View::contiguous(problem.query_shape(), q),
        SharedKv::contiguous(problem.kv_shape(), k, v),
        View::contiguous(problem.query_shape(), &mut out[..]),
        Some(View::contiguous(problem.lse_shape(), &mut lse[..])),
    )
    .unwrap();
    (out, lse)
}

#[test]
fn rows_whose_keys_all_weigh_nothing_are_0() {
    let (rows, keys, dim) = (3, 2, 8);
    let (k, v) = (vec![f32::NEG_INFINITY; keys * dim], vec![f32::INFINITY; keys * dim]);
    let (out, lse) = one_head(rows, dim, &vec![1.0; rows * dim], &k, &v);
    assert_eq!((out, lse), (vec![0.0; rows * dim], vec![f32::NEG_INFINITY; rows]));
}

/// Also where the last task of an input has but a few of its rows.
#[test]
fn equal_rows_give_equal_bits_wherever_they_stand() {
    let (keys, dim) = (70, 20);
    let noise = |n: usize| -> Vec<f32> { (0..n).map(|i| ((i * 7919) % 1009) as f32 / 504.5 - 1.0).collect() };
    let (k, v) = (noise(keys * dim), noise(keys * dim));
    let all = [2, 5, 13, 17, 30, 45, 100, 257, 261, 300];
    for rows in all[..if cfg!(miri) { 2 } else { all.len() }].iter().copied() {
        let (out, lse) = one_head(rows, dim, &noise(dim).repeat(rows), &k, &v);
        assert!(lse.iter().all(|x| x.to_bits() == lse[0].to_bits()), "{rows} rows: LSE {lse:?}");
        for (r, row) in out.chunks(dim).enumerate() {
            assert_eq!(row, &out[..dim], "row {r} of {rows}");
        }
    }
}

/// Of every value, infinities and NaN too, on every width of registers.
#[test]
fn halves_widen_as_half_has_it() {
    struct All<'a, E>(&'a [E], &'a mut [f32]);
    impl<E: Element> WithSimd for All<'_, E> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            if S::F32_LANES > 1 {
                widen::widen(simd, self.0, self.1);
            } else {
                widen::widen(Scalar128b, self.0, self.1);
            }
        }
    }
    fn check<E: Element>() {
        // One more than fills registers.
        let all: Vec<E> =
            (0..=u16::MAX).chain([1]).map(|bits| bytemuck::pod_read_unaligned(&bits.to_ne_bytes())).collect();
        for arch in widths() {
            let mut wide = vec![f32::NAN; all.len()];
            arch.dispatch(All(&all, &mut wide));
            for (value, wide) in all.iter().zip(wide) {
                let want = value.to_f32();
                let same = wide.to_bits() == want.to_bits() || (wide.is_nan() && want.is_nan());
                assert!(same, "{arch:?}: {value:?} became {wide}");
            }
        }
    }
    check::<f16>();
    check::<bf16>();
}
