//! K and V in e4m3, and the oracle on what the codes stand for: only arithmetic errors are left.

use std::ops::Range;

use onekv::cuda::{DeviceKv, DeviceKvE4m3};
use onekv::plan::{Plan, PlanOptions};
use onekv::{Problem, Strides, e4m3};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::device::{Card, card, run_plan, upload};
use super::{Answer, Case, Operands, TestElement};

/// Codes of K or V in the memory of a case, NaN wherever the problem does not reach, and a scale per head.
pub struct Codes {
    pub codes: Vec<u8>,
    pub scales: Vec<f32>,
    pub strides: Strides,
}

/// Every vector of K or V: its head, and where it stands.
fn vectors(problem: &Problem, strides: Strides) -> impl Iterator<Item = (usize, Range<usize>)> {
    let (heads, head_dim) = (problem.kv_heads(), problem.head_dim());
    let at = move |key, head| key * strides.row + head * strides.head;
    (0..problem.key_positions())
        .flat_map(move |key| (0..heads).map(move |head| (head, at(key, head)..at(key, head) + head_dim)))
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
        case.gaps[1..3].iter_mut().for_each(|gap| *gap = (2 * gap.0, 2 * gap.1));
        let mut operands = Operands::<E>::new(&case);
        let (rows, heads) = (operands.problem.total_rows(), operands.problem.heads());
        for (row, head) in (0..rows).flat_map(|row| (0..heads).map(move |head| (row, head))) {
            let factor = q_factor * 2f32.powi(-(((3 * row + head) % 5) as i32));
            let at = row * operands.q_strides.row + head * operands.q_strides.head;
            for x in &mut operands.q[at..][..case.spec.head_dim] {
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

    /// The card's answer, and the plan it had.
    pub fn run(&self, options: &PlanOptions) -> (Answer, Plan) {
        let Card { stream, kernels, .. } = card().expect("asked for only where there is a card");
        let problem = &self.operands.problem;
        let plan = Plan::with_e4m3_kv(problem, E::DTYPE, kernels.facts(), options).unwrap();
        let [k, v] = [&self.k, &self.v].map(|t| (upload(&t.codes, 0x7f), upload(&t.scales, f32::NAN)));
        let answer = self.operands.run(|_, q, _, out, lse| {
            run_plan(plan.clone(), q, out, lse, |launch, q, out, lse, workspace| {
                let codes = DeviceKv {
                    k: k.0.as_view(),
                    v: v.0.as_view(),
                    k_strides: self.k.strides,
                    v_strides: self.v.strides,
                };
                let kv = DeviceKvE4m3 { codes, k_scale: k.1.as_view(), v_scale: v.1.as_view() };
                launch.run_e4m3(stream, q, kv, out, lse, workspace)
            })
            .map(|_| ())
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
