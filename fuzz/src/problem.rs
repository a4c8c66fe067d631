//! Problems, operands, `cpu::attend`, `merge_states` and e4m3.
//!
//! Promised: no panic; an error names a field and what is allowed, and nothing was written then; what no row covers is never
//! written; where inputs are small numbers and so is the problem, the result is the f64 reference's within what f32 allows.

use half::{bf16, f16};
use onekv::{Element, Error, PartialState, Problem, SharedKv, View, cpu, e4m3, reference};

use crate::bytes::Bytes;
use crate::operands::{Filling, Operand, assert_named, same, spec};

const SPEC: [&str; 9] = [
    "heads",
    "kv_heads",
    "head_dim",
    "scale",
    "softcap",
    "row_offsets",
    "keys.offsets",
    "keys.lengths",
    "rows x heads",
];
const OPERANDS: [&str; 7] = ["q", "k", "v", "out", "lse", "data", "states"];
/// Most products, rows x keys x heads x head_dim, of a problem that the reference computes.
const SMALL: usize = 1 << 18;

pub fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    match bytes.below(8) {
        0 | 1 => attend::<f32>(&mut bytes),
        2 => attend::<f16>(&mut bytes),
        3 => attend::<bf16>(&mut bytes),
        4 => merge::<f32, f32>(&mut bytes),
        5 => merge::<f32, bf16>(&mut bytes),
        6 => merge::<f16, f16>(&mut bytes),
        _ => e4m3_code(&mut bytes),
    }
}

/// What was in the memory of the results before a call.
struct Before<E> {
    out: Vec<E>,
    lse: Option<Vec<f32>>,
}

impl<E: Element> Before<E> {
    fn of(out: &Operand<E>, lse: Option<&Operand<f32>>) -> Self {
        Self { out: out.elements(), lse: lse.map(Operand::elements) }
    }

    /// Whether a call was accepted. Asserts that then only what rows cover was written, else nothing, and that the
    /// error names one of `fields`.
    fn accepted(
        &self,
        done: Result<(), Error>,
        fields: &[&str],
        out: &Operand<E>,
        lse: Option<&Operand<f32>>,
    ) -> bool {
        let lse = lse.zip(self.lse.as_ref());
        if let Err(error) = done {
            assert_named(&error, fields);
            assert!(same(&out.elements(), &self.out), "out was written, and then: {error}");
            let lse_is_same = lse.is_none_or(|(lse, before)| same(&lse.elements(), before));
            assert!(lse_is_same, "lse was written, and then: {error}");
            return false;
        }
        out.assert_untouched("out", &self.out);
        if let Some((lse, before)) = lse {
            lse.assert_untouched("lse", before);
        }
        true
    }
}

fn attend<E: Element>(bytes: &mut Bytes) {
    let problem = match Problem::new(spec(bytes)) {
        Ok(problem) => problem,
        Err(error) => return assert_named(&error, &SPEC),
    };
    let rows: usize = problem.inputs().iter().map(|input| input.rows.len()).sum();
    assert_eq!(rows, problem.total_rows(), "rows of the inputs and of all");
    let filling = Filling::of(bytes);
    let q = Operand::<E>::of(bytes, problem.query_shape(), filling);
    let k = Operand::<E>::of(bytes, problem.kv_shape(), filling);
    let v = Operand::<E>::of(bytes, problem.kv_shape(), filling);
    let mut out = Operand::<E>::of(bytes, problem.query_shape(), Filling::Small);
    let mut lse = (!bytes.once_in(4)).then(|| Operand::<f32>::of(bytes, problem.lse_shape(), Filling::Small));
    let before = Before::of(&out, lse.as_ref());
    let kv = SharedKv { k: k.view(), v: v.view() };
    let checked =
        problem.check(&q.view(), &kv, &out.view_mut(), lse.as_mut().map(Operand::view_mut).as_ref());
    let done = cpu::attend(&problem, q.view(), kv, out.view_mut(), lse.as_mut().map(Operand::view_mut));
    assert_eq!(checked, done, "check and attend");
    if !before.accepted(done, &OPERANDS, &out, lse.as_ref()) {
        return;
    }
    check_quantized(&problem, &k);
    let softcap = problem.softcap().unwrap_or(1.0);
    let usual = filling == Filling::Small && problem.scale() <= 8.0 && (0.01..=1e4).contains(&softcap);
    let products =
        |input: &onekv::Input| input.rows.len() * input.keys.len() * problem.heads() * problem.head_dim();
    if usual && problem.inputs().iter().map(products).fold(0, usize::saturating_add) <= SMALL {
        compare(&problem, (&q, &k, &v), &out, lse.as_ref());
    }
}

/// Asserts that results equal the reference's, within what f32 allows: a score's sum of `n` products is off by `n`
/// roundings of its parts at most, its softcap and the exponential by a few more; weights are off by as much,
/// relatively, and values are at most 1.
fn compare<E: Element>(
    problem: &Problem,
    (q, k, v): (&Operand<E>, &Operand<E>, &Operand<E>),
    out: &Operand<E>,
    lse: Option<&Operand<f32>>,
) {
    let (query_shape, lse_shape) = (problem.query_shape(), problem.lse_shape());
    let mut wanted = vec![E::from_f32(0.0); query_shape.elements()];
    let mut wanted_lse = vec![0.0; lse_shape.elements()];
    let kv = SharedKv { k: k.view(), v: v.view() };
    let out_view = View::contiguous(query_shape, &mut wanted[..]);
    let lse_view = View::contiguous(lse_shape, &mut wanted_lse[..]);
    reference::attend(problem, q.view(), kv, out_view, Some(lse_view))
        .expect("the reference takes what the backend took");
    let dim = problem.head_dim() as f32;
    let score =
        f32::EPSILON * ((dim + 16.0) * dim * problem.scale() + 8.0 * problem.softcap().unwrap_or(0.0));
    let rounding = [1e-6, 2e-3, 1e-2][match E::DTYPE {
        onekv::DType::F32 => 0,
        onekv::DType::F16 => 1,
        _ => 2,
    }];
    let keys = problem.key_positions() as f32;
    let bound = 2.0 * score + rounding + f32::EPSILON * (keys + 32.0);
    let got = out.elements();
    for ((row, head, at), wanted) in out.places().zip(&wanted) {
        let (got, wanted) = (got[at].to_f32(), wanted.to_f32());
        assert!(
            (got - wanted).abs() <= bound,
            "out[{row}, {head}] is {got}, the reference {wanted}, allowed: {bound} apart"
        );
    }
    let Some(lse) = lse else { return };
    let got = lse.elements();
    for ((row, head, at), wanted) in lse.places().zip(&wanted_lse) {
        let bound = score + 4.0 * f32::EPSILON * (wanted.abs() + keys + 16.0);
        let near = got[at] == *wanted || (got[at] - wanted).abs() <= bound;
        assert!(near, "lse[{row}, {head}] is {}, the reference {wanted}, allowed: {bound} apart", got[at]);
    }
}

fn merge<P: Element, E: Element>(bytes: &mut Bytes) {
    let head_dim = if bytes.once_in(8) { bytes.number() } else { bytes.below(40) };
    let shape = [bytes.count(6), bytes.count(4), head_dim];
    let lse_shape = [shape[0], shape[1], 1];
    let filling = Filling::of(bytes);
    let states: Vec<_> = (0..bytes.below(5))
        .map(|_| {
            let out = Operand::<P>::of(bytes, shape.into(), filling);
            let filling = Filling::of(bytes);
            (out, Operand::<f32>::of(bytes, lse_shape.into(), filling))
        })
        .collect();
    let mut out = Operand::<E>::of(bytes, shape.into(), Filling::Small);
    let mut lse = (!bytes.once_in(4)).then(|| Operand::<f32>::of(bytes, lse_shape.into(), Filling::Small));
    let before = Before::of(&out, lse.as_ref());
    let parts: Vec<_> =
        states.iter().map(|(out, lse)| PartialState { out: out.view(), lse: lse.view() }).collect();
    let done = cpu::merge_states(&parts, out.view_mut(), lse.as_mut().map(Operand::view_mut));
    let fields = ["out", "lse", "states", "heads", "head_dim", "inputs"];
    if !before.accepted(done, &fields, &out, lse.as_ref()) {
        return;
    }
    let all = states.iter().map(|(out, lse)| (out.elements(), lse.elements())).collect::<Vec<_>>();
    let small = |x: f32| x == f32::NEG_INFINITY || x.abs() <= 64.0;
    if !all
        .iter()
        .all(|(out, lse)| out.iter().all(|x| x.to_f32().abs() <= 1.0) && lse.iter().all(|x| small(*x)))
    {
        return;
    }
    let got = out.elements();
    let merged: Vec<_> = out.places().map(|(_, _, at)| got[at].to_f32()).collect();
    let values: Vec<Vec<f32>> = (0..all.len())
        .map(|p| states[p].0.places().map(|(_, _, at)| all[p].0[at].to_f32()).collect())
        .collect();
    let weights: Vec<Vec<f32>> =
        (0..all.len()).map(|p| states[p].1.places().map(|(_, _, at)| all[p].1[at]).collect()).collect();
    for (i, merged) in merged.iter().enumerate() {
        let vector = i / out.shape.vector;
        let parts = (0..all.len()).map(|p| (f64::from(weights[p][vector]).exp(), f64::from(values[p][i])));
        let (total, sum) = parts.fold((0.0, 0.0), |(total, sum), (w, x)| (total + w, sum + w * x));
        let wanted = if total == 0.0 { 0.0 } else { sum / total };
        let bound = if E::DTYPE == onekv::DType::F32 { 1e-4 } else { 1e-2 };
        assert!(
            (f64::from(*merged) - wanted).abs() <= bound,
            "element {i} is {merged}, allowed: {wanted} by f64"
        );
    }
}

/// K in e4m3 is within a step of that format.
fn check_quantized<E: Element>(problem: &Problem, k: &Operand<E>) {
    let quantized = e4m3::quantize(problem, k.view()).expect("what attend took");
    let (shape, codes) = (quantized.shape, quantized.dequantize());
    assert_eq!(codes.len(), shape.elements());
    let data = k.elements();
    for input in problem.inputs() {
        for key in input.keys.clone() {
            for head in 0..shape.heads {
                let scale = quantized.scales[head];
                let strides = shape.strides();
                let (to, from) = (
                    input.slot * strides.input + key * strides.row + head * strides.head,
                    [
                        (input.slot, k.strides.input, shape.inputs),
                        (key, k.strides.row, shape.tokens),
                        (head, k.strides.head, shape.heads),
                    ]
                    .into_iter()
                    .map(|(i, stride, count)| if count > 1 { i * stride } else { 0 })
                    .sum::<usize>(),
                );
                for i in 0..shape.vector {
                    let (value, code) = (data[from + i].to_f32(), codes[to + i]);
                    let step = (value.abs() / 16.0).max(scale / 1000.0) * 1.001;
                    let near = !value.is_finite() || (value - code).abs() <= step;
                    assert!(
                        near,
                        "element {i} of key {key}, head {head} is {code} for {value}, allowed: {step} apart"
                    );
                    assert_eq!(
                        value.is_nan(),
                        code.is_nan(),
                        "NaN stays, and nothing becomes it: {value}, {code}"
                    );
                }
            }
        }
    }
}

/// The e4m3 code of any number: its value is the nearest there is, and has that code.
fn e4m3_code(bytes: &mut Bytes) {
    let value = f32::from_bits(u32::from_le_bytes(bytes.take()));
    let code = e4m3::encode(value);
    let back = e4m3::decode(code);
    assert_eq!(value.is_nan(), back.is_nan());
    assert_eq!(e4m3::encode(back), code, "{value} is {code:#x}, which is {back}");
    // No other code is nearer.
    let within = value.clamp(-e4m3::MAX, e4m3::MAX);
    let far = |code: u8| (e4m3::decode(code) - within).abs();
    let least = (0..=255).map(far).fold(f32::INFINITY, f32::min);
    assert!(value.is_nan() || far(code) == least, "{value} is {code:#x}");
}
