//! K and V in e4m3, and the oracle on what the codes stand for: only arithmetic errors are left.

use std::ops::Range;

use cudarc::driver::CudaSlice;
use onekv::cuda::QuantizedKv;
use onekv::plan::{Plan, PlanOptions};
use onekv::{Problem, Shape, SharedKv, Strides, View, e4m3};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::device::{card, run_plan, upload};
use super::{Answer, Case, Operands, TestElement, at};

/// Codes of K or V in the memory of a case, NaN wherever the problem does not reach, and a scale per head.
pub struct Codes {
    pub codes: Vec<u8>,
    pub scales: Vec<f32>,
    pub strides: Strides,
}

/// Every vector of K or V: its head, and where it stands.
fn vectors(problem: &Problem, strides: Strides) -> impl Iterator<Item = (usize, Range<usize>)> {
    let Shape { inputs, tokens, heads, vector } = problem.kv_shape();
    let keys = (0..inputs).flat_map(move |input| (0..tokens).map(move |key| (input, key)));
    keys.flat_map(move |(input, key)| {
        (0..heads).map(move |head| {
            let start = at(strides, input, key, head);
            (head, start..start + vector)
        })
    })
}

/// A case with K and V in e4m3.
pub struct QuantizedCase<E> {
    /// Q and the output; K and V of no use.
    pub operands: Operands<E>,
    pub k: Codes,
    pub v: Codes,
}

impl<E: TestElement> QuantizedCase<E> {
    /// Heads have different scales; K's are divided by `q_factor`, which Q is multiplied by. Rows of Q have different
    /// sizes.
    pub fn new(case: &Case, q_factor: f32) -> Self {
        let mut case = case.clone();
        // Gaps are in units of eight elements, alignment wants sixteen.
        case.layouts[1..3].iter_mut().for_each(|layout| layout.gaps = layout.gaps.map(|gap| 2 * gap));
        let mut operands = Operands::<E>::new(&case);
        let (rows, heads) = (operands.problem.total_rows(), operands.problem.heads());
        for (row, head) in (0..rows).flat_map(|row| (0..heads).map(move |head| (row, head))) {
            let factor = q_factor * 2f32.powi(-(((3 * row + head) % 5) as i32));
            for x in &mut operands.q[at(operands.q_strides, 0, row, head)..][..case.spec.head_dim] {
                *x = E::from_f32(x.to_f32() * factor);
            }
        }
        let mut rng = StdRng::seed_from_u64(case.seed ^ 0xe4);
        let problem = &operands.problem;
        let mut quantize = |data: &[E], strides: Strides, largest: f32, factor: f32| {
            let scales = (0..problem.kv_heads())
                .map(|_| largest / e4m3::MAX * rng.random_range(1.0f32..6.0))
                .collect::<Vec<f32>>();
            let mut codes = vec![0x7f; data.len()];
            for (head, at) in vectors(problem, strides) {
                let from = data[at.clone()].iter().map(|x| x.to_f32() / scales[head]);
                codes[at].iter_mut().zip(from).for_each(|(code, x)| *code = e4m3::encode(x));
            }
            Codes { codes, scales: scales.iter().map(|scale| scale / factor).collect(), strides }
        };
        let k = quantize(&operands.k, operands.k_strides, case.magnitude, q_factor);
        let v = quantize(&operands.v, operands.v_strides, 1.0, 1.0);
        Self { operands, k, v }
    }

    /// As [`Operands::among`]; the heads' scales stay.
    pub fn among(
        &self,
        case: &Case,
        before: &[(usize, usize)],
        after: &[(usize, usize)],
    ) -> (Self, Range<usize>) {
        let (operands, rows) = self.operands.among(case, before, after);
        let first = before.iter().map(|input| input.1).sum::<usize>() * operands.k_strides.row;
        let codes = |part: &Codes| {
            let mut codes = vec![0x7f; operands.k.len()];
            codes[first..first + part.codes.len()].copy_from_slice(&part.codes);
            Codes { codes, scales: part.scales.clone(), strides: part.strides }
        };
        let (k, v) = (codes(&self.k), codes(&self.v));
        (Self { operands, k, v }, rows)
    }

    /// The card's answer, and the plan it had.
    pub fn run(&self, options: &PlanOptions) -> (Answer, Plan) {
        let card = card().expect("asked for only where there is a card");
        let problem = &self.operands.problem;
        let plan = Plan::with_e4m3_kv(problem, E::DTYPE, card.kernels.facts(), options).unwrap();
        let codes =
            [&self.k, &self.v].map(|t| View::strided(problem.kv_shape(), t.strides, upload(&t.codes, 0x7f)));
        let [k_scale, v_scale] = [&self.k, &self.v].map(|t| upload(&t.scales, f32::NAN));
        let answer = self.operands.run(|_, q, _, out, lse| {
            run_plan(&plan, q, out, lse, |prepared, q, out, lse| {
                let [k, v] = codes.each_ref().map(View::<CudaSlice<u8>>::as_view);
                let (k_scale, v_scale) = (k_scale.as_view(), v_scale.as_view());
                prepared.run_e4m3(
                    q.as_view(),
                    QuantizedKv { codes: SharedKv { k, v }, k_scale, v_scale },
                    out,
                    lse,
                )
            })
        });
        (answer, plan)
    }

    /// The oracle's, in f32.
    pub fn reference(&self) -> Answer {
        let dequantize = |t: &Codes| {
            let mut data = vec![f32::NAN; t.codes.len()];
            for (head, at) in vectors(&self.operands.problem, t.strides) {
                let from = t.codes[at.clone()].iter().map(|code| e4m3::decode(*code) * t.scales[head]);
                data[at].iter_mut().zip(from).for_each(|(x, value)| *x = value);
            }
            data
        };
        let operands = Operands::<f32> {
            problem: self.operands.problem.clone(),
            q: self.operands.q.iter().map(|x| x.to_f32()).collect(),
            k: dequantize(&self.k),
            v: dequantize(&self.v),
            q_strides: self.operands.q_strides,
            k_strides: self.k.strides,
            v_strides: self.v.strides,
            out_strides: self.operands.out_strides,
        };
        operands.reference()
    }
}
