//! One oracle and one comparison for every backend.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::ops::Range;

use onekv::{DType, Element, Keys, Problem, ProblemSpec, Result, Shape, SharedKv, Strides, View, reference};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

#[cfg(feature = "cuda")]
pub mod device;
#[cfg(feature = "cuda")]
pub mod quantized;

/// An element type that every backend takes.
#[cfg(feature = "cuda")]
pub trait TestElement: Element + cudarc::driver::DeviceRepr {}
#[cfg(feature = "cuda")]
impl<E: Element + cudarc::driver::DeviceRepr> TestElement for E {}
/// An element type that every backend takes.
#[cfg(not(feature = "cuda"))]
pub trait TestElement: Element {}
#[cfg(not(feature = "cuda"))]
impl<E: Element> TestElement for E {}

/// A backend under test: the signature of `onekv::cpu::attend`.
pub type Attend<E> =
    fn(&Problem, View<&[E]>, SharedKv<&[E]>, View<&mut [E]>, Option<View<&mut [f32]>>) -> Result<()>;

/// How an operand lies in memory.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// Its dimensions but `head_dim`, outermost first: 0 are inputs, 1 rows or keys, 2 heads.
    pub order: [usize; 3],
    /// Extra elements between inputs (as of a cache with room for more keys), rows and heads, in units that keep the
    /// alignment.
    pub gaps: [usize; 3],
}

impl Layout {
    pub const PLAIN: Self = Self { order: [0, 1, 2], gaps: [0; 3] };
    /// `[inputs, heads, rows, head_dim]`.
    pub const HEAD_MAJOR: Self = Self { order: [0, 2, 1], gaps: [0; 3] };

    fn strides(self, shape: Shape) -> Strides {
        let counts = [shape.inputs, shape.tokens, shape.heads];
        let (mut strides, mut span) = ([0; 3], shape.vector);
        for dimension in self.order.into_iter().rev() {
            // 8 elements are 16 bytes of the narrowest dtype.
            strides[dimension] = span + 8 * self.gaps[dimension];
            span = strides[dimension] * counts[dimension].max(1);
        }
        let [input, row, head] = strides;
        Strides { input, row, head }
    }
}

/// A problem with everything that memory can look like.
#[derive(Debug, Clone)]
pub struct Case {
    pub spec: ProblemSpec,
    /// Of q, k, v and out.
    pub layouts: [Layout; 4],
    /// Largest magnitude of Q's and K's elements.
    pub magnitude: f32,
    /// Whether scores grow from key to key, or fall, by rows up to `magnitude` squared times the scale, with little noise.
    pub trend: bool,
    pub seed: u64,
}

impl Case {
    pub fn packed(heads: usize, kv_heads: usize, head_dim: usize, inputs: &[(usize, usize)]) -> Self {
        let offsets = |f: fn(&(usize, usize)) -> usize| {
            let mut offsets = vec![0];
            offsets.extend(inputs.iter().scan(0, |end, input| {
                *end += f(input);
                Some(*end)
            }));
            offsets
        };
        let spec = ProblemSpec {
            heads,
            kv_heads,
            head_dim,
            scale: (head_dim as f32).powf(-0.5),
            softcap: None,
            row_offsets: offsets(|i| i.0),
            keys: Keys::Packed { offsets: offsets(|i| i.1) },
        };
        Self { spec, layouts: [Layout::PLAIN; 4], magnitude: 1.0, trend: false, seed: 1 }
    }

    /// Gives each input a slot, of `padding` keys more than the longest has.
    pub fn pad(&mut self, padding: usize) {
        let lengths: Vec<usize> = self.problem().inputs().iter().map(|input| input.keys.len()).collect();
        let max_keys = lengths.iter().max().unwrap_or(&0) + padding;
        self.spec.keys = Keys::Padded { max_keys, lengths };
    }

    pub fn problem(&self) -> Problem {
        Problem::new(self.spec.clone()).expect("a generated case is valid")
    }
}

/// Operands in memory: NaN wherever the problem does not reach.
pub struct Operands<E> {
    pub problem: Problem,
    pub q: Vec<E>,
    pub k: Vec<E>,
    pub v: Vec<E>,
    pub q_strides: Strides,
    pub k_strides: Strides,
    pub v_strides: Strides,
    pub out_strides: Strides,
}

/// Output and LSE of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// `[total_rows, heads, head_dim]` without gaps.
    pub out: Vec<f32>,
    /// `[total_rows, heads]`.
    pub lse: Vec<f32>,
}

impl Answer {
    /// What was written as an output of this type, and its LSE.
    pub fn of<E: Element>(out: &[E], lse: Vec<f32>) -> Self {
        Self { out: out.iter().map(|x| x.to_f32()).collect(), lse }
    }

    /// The bits of some rows.
    pub fn bits(&self, problem: &Problem, rows: Range<usize>) -> Vec<u32> {
        let (of_lse, of_out) = (problem.heads(), problem.heads() * problem.head_dim());
        let out = &self.out[rows.start * of_out..rows.end * of_out];
        out.iter().chain(&self.lse[rows.start * of_lse..rows.end * of_lse]).map(|x| x.to_bits()).collect()
    }
}

impl<E: Element> Operands<E> {
    pub fn new(case: &Case) -> Self {
        let problem = case.problem();
        let (rows, keys) = (problem.query_shape(), problem.kv_shape());
        let mut rng = StdRng::seed_from_u64(case.seed);
        let every: Vec<(usize, usize)> = (0..rows.tokens).map(|row| (0, row)).collect();
        let used: Vec<(usize, usize)> =
            problem.inputs().iter().flat_map(|i| i.keys.clone().map(|key| (i.slot, key))).collect();
        let trend = |which: usize, token: usize| match which {
            // Eight rows up, eight rows down.
            0 => [1.0, 0.7, 0.5, 0.25, 0.1, 0.05, 0.03, 0.0][token % 8] * [1.0, -1.0][token / 8 % 2],
            _ => token as f32 / keys.tokens as f32,
        };
        let mut fill = |which: usize, shape: Shape, used: &[(usize, usize)], magnitude: f32| {
            let strides = case.layouts[which].strides(shape);
            let mut data = vec![E::from_f32(f32::NAN); span(strides, shape)];
            for &(input, token) in used {
                for head in 0..shape.heads {
                    let vector = &mut data[at(strides, input, token, head)..][..shape.vector];
                    let noise = if case.trend && which < 2 { magnitude / 16.0 } else { magnitude };
                    vector.fill_with(|| E::from_f32(rng.random_range(-noise..noise)));
                    if case.trend && which < 2 {
                        vector[0] = E::from_f32(magnitude * trend(which, token));
                    }
                }
            }
            (data, strides)
        };
        let (q, q_strides) = fill(0, rows, &every, case.magnitude);
        let (k, k_strides) = fill(1, keys, &used, case.magnitude);
        let (v, v_strides) = fill(2, keys, &used, 1.0);
        let out_strides = case.layouts[3].strides(rows);
        Self { problem, q, k, v, q_strides, k_strides, v_strides, out_strides }
    }

    /// The operands of a case of packed inputs without gaps between those of others, which are NaN all over, and its rows there.
    pub fn among(
        &self,
        case: &Case,
        before: &[(usize, usize)],
        after: &[(usize, usize)],
    ) -> (Self, Range<usize>) {
        let inputs = self.problem.inputs().iter().map(|input| (input.rows.len(), input.keys.len()));
        let inputs: Vec<_> = before.iter().copied().chain(inputs).chain(after.iter().copied()).collect();
        let ProblemSpec { heads, kv_heads, head_dim, .. } = case.spec;
        let mut all = Case::packed(heads, kv_heads, head_dim, &inputs);
        (all.spec.scale, all.spec.softcap) = (case.spec.scale, case.spec.softcap);
        let mut all = Self::new(&all);
        let first = |of: fn(&(usize, usize)) -> usize| before.iter().map(of).sum::<usize>();
        let (row, key) = (first(|input| input.0), first(|input| input.1));
        for (whole, part, at) in [
            (&mut all.q, &self.q, row * heads * head_dim),
            (&mut all.k, &self.k, key * kv_heads * head_dim),
            (&mut all.v, &self.v, key * kv_heads * head_dim),
        ] {
            whole.fill(E::from_f32(f32::NAN));
            whole[at..at + part.len()].copy_from_slice(part);
        }
        (all, row..row + self.problem.total_rows())
    }

    pub fn queries(&self) -> View<&[E]> {
        View::strided(self.problem.query_shape(), self.q_strides, &self.q)
    }

    pub fn kv(&self) -> SharedKv<&[E]> {
        let shape = self.problem.kv_shape();
        SharedKv {
            k: View::strided(shape, self.k_strides, &self.k),
            v: View::strided(shape, self.v_strides, &self.v),
        }
    }

    /// Runs `attend` into poisoned memory; checks that exactly the operands' elements are written.
    pub fn run(
        &self,
        attend: impl FnOnce(
            &Problem,
            View<&[E]>,
            SharedKv<&[E]>,
            View<&mut [E]>,
            Option<View<&mut [f32]>>,
        ) -> Result<()>,
    ) -> Answer {
        const POISON: f32 = 12288.0;
        let p = &self.problem;
        let (rows, heads, dim) = (p.total_rows(), p.heads(), p.head_dim());
        let mut out = vec![E::from_f32(POISON); span(self.out_strides, p.query_shape())];
        // LSE is laid out as the output is, with gaps of its own.
        let head_major = self.out_strides.head > self.out_strides.row;
        let lse_strides = if head_major { Strides::new(1, rows + 3) } else { Strides::new(2 * heads + 1, 2) };
        let mut lse = vec![POISON; span(lse_strides, p.lse_shape())];
        attend(
            p,
            self.queries(),
            self.kv(),
            View::strided(p.query_shape(), self.out_strides, &mut out),
            Some(View::strided(p.lse_shape(), lse_strides, &mut lse)),
        )
        .expect("a generated case runs");
        let mut answer = Answer { out: Vec::with_capacity(rows * heads * dim), lse: Vec::new() };
        let mut written = vec![false; out.len()];
        for row in 0..rows {
            for head in 0..heads {
                let vector = at(self.out_strides, 0, row, head)..at(self.out_strides, 0, row, head) + dim;
                answer.out.extend(out[vector.clone()].iter().map(|x| x.to_f32()));
                written[vector].fill(true);
                answer.lse.push(lse[at(lse_strides, 0, row, head)]);
            }
        }
        for (i, (x, written)) in out.iter().zip(written).enumerate() {
            assert!(written || x.to_f32() == POISON, "out[{i}] lies between vectors and was written");
        }
        assert!(!answer.out.contains(&POISON), "an element of out was not written");
        assert!(!answer.lse.contains(&POISON), "an element of lse was not written");
        answer
    }

    pub fn reference(&self) -> Answer {
        self.run(reference::attend)
    }
}

/// From the first element to a vector's first.
pub fn at(strides: Strides, input: usize, token: usize, head: usize) -> usize {
    input * strides.input + token * strides.row + head * strides.head
}

/// Elements from the first to the last.
fn span(strides: Strides, shape: Shape) -> usize {
    let Shape { inputs, tokens, heads, vector } = shape;
    if inputs * tokens == 0 { 0 } else { at(strides, inputs - 1, tokens - 1, heads - 1) + vector }
}

/// The comparison rule: equal places of NaN and infinity, then relative Frobenius error, cosine
/// and largest absolute error against the f64 oracle.
pub fn assert_close(dtype: DType, got: &Answer, want: &Answer, case: &Case) {
    // One rounding of the result: 2^-24, 2^-11, 2^-8; arithmetic is f32 for every dtype. What a
    // score sums up, at most head_dim * magnitude^2 * scale, is rounded to 2^-24 of that.
    let unit = match dtype {
        DType::F16 => 2f64.powi(-11),
        DType::Bf16 => 2f64.powi(-8),
        _ => 2f64.powi(-24),
    };
    let largest = case.spec.head_dim as f32 * case.magnitude.powi(2) * case.spec.scale;
    let cap = case.spec.softcap.map_or(0.0, |cap| cap.min(largest));
    let scores = 2f64.powi(-24) * f64::from(8.0 * largest + 4.0 * cap);
    // Averages of values of about 1 may cancel, and log-sums lie anywhere: errors are relative to these.
    compare("out", &got.out, &want.out, 2.0 * unit + 4e-6 + scores, 0.1);
    compare("lse", &got.lse, &want.lse, 4e-6 + scores, 1.0);
}

/// [`assert_close`] for an output without gaps and no LSE.
#[track_caller]
pub fn assert_out_close<E: Element>(got: &[E], want: Answer, case: &Case) {
    let want = Answer { lse: Vec::new(), ..want };
    assert_close(E::DTYPE, &Answer::of(got, Vec::new()), &want, case);
}

fn compare(what: &str, got: &[f32], want: &[f32], tolerance: f64, least: f64) {
    assert_eq!(got.len(), want.len());
    let (mut error, mut norm, mut dot, mut got_norm, mut worst) = (0.0, 0.0, 0.0, 0.0, 0.0f64);
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let same_kind = g.is_nan() == w.is_nan() && (g.is_finite() || w.is_nan() || g == w);
        assert!(same_kind && g.is_finite() == w.is_finite(), "{what}[{i}] is {g}, the oracle has {w}");
        if w.is_finite() {
            let (g, w) = (f64::from(g), f64::from(w));
            error += (g - w) * (g - w);
            norm += w * w;
            got_norm += g * g;
            dot += g * w;
            worst = worst.max((g - w).abs() / w.abs().max(1.0));
        }
    }
    assert!(worst <= tolerance, "{what}: largest error {worst:e}, allowed {tolerance:e}");
    let floor = least * least * got.len() as f64;
    let relative = (error / norm.max(floor).max(f64::MIN_POSITIVE)).sqrt();
    assert!(relative <= tolerance, "{what}: relative error {relative:e}, allowed {tolerance:e}");
    if norm > floor {
        let cosine = dot / (norm * got_norm).sqrt();
        assert!(cosine > 1.0 - 1e-4, "{what}: cosine {cosine}");
    }
}

/// `cases` per property, or as many as `PROPTEST_CASES` says: fewer under a sanitizer, more in a soak.
pub fn config(cases: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|asked| asked.parse().ok());
    ProptestConfig::with_cases(asked.unwrap_or(cases))
}

/// Ragged shapes around the edges of tiles (8, 16, 64, 256), groups, strides, softcaps.
pub fn cases(max_rows: usize, max_keys: usize) -> impl Strategy<Value = Case> {
    let edge = |max: usize| {
        prop_oneof![
            4 => 0..=max,
            1 => Just(0usize),
            1 => Just(1usize),
            2 => (prop::sample::select(vec![8usize, 16, 32, 64, 128, 256]), 0..3usize)
                .prop_map(move |(e, d)| (e + d - 1).min(max)),
        ]
    };
    let inputs = prop::collection::vec((edge(max_rows), edge(max_keys)), 0..4);
    let heads = prop::sample::select(vec![(1, 1), (2, 2), (4, 1), (6, 2), (3, 3)]);
    let dim = prop_oneof![
        4 => prop::sample::select(vec![64usize, 128, 32, 40, 96, 256]),
        1 => 1..=70usize,
    ];
    let softcap = prop_oneof![3 => Just(None), 1 => (0.5f32..60.0).prop_map(Some)];
    let layout = (Just([0, 1, 2]).prop_shuffle(), [0..40usize, 0..3, 0..3]);
    let layout = layout.prop_map(|(order, gaps)| Layout { order, gaps });
    let layouts = (prop::array::uniform4(layout), prop::option::of(0..40usize));
    (inputs, heads, dim, softcap, layouts, 0.1f32..4.0, any::<u64>()).prop_map(
        |(inputs, (heads, kv_heads), dim, softcap, (mut layouts, padding), magnitude, seed)| {
            let mut case = Case::packed(heads, kv_heads, dim, &inputs);
            case.spec.softcap = softcap;
            case.magnitude = magnitude;
            case.seed = seed;
            if dim % 8 != 0 {
                layouts.iter_mut().for_each(|layout| layout.gaps = [0; 3]);
            }
            case.layouts = layouts;
            if let Some(padding) = padding {
                case.pad(padding);
            }
            case
        },
    )
}

/// Runs `check` for every dtype.
#[macro_export]
macro_rules! for_each_dtype {
    ($check:ident ( $($argument:expr),* )) => {
        $check::<f32>($($argument),*);
        $check::<half::f16>($($argument),*);
        $check::<half::bf16>($($argument),*);
    };
}
