//! What the kernels compute, in f64 and without cleverness.

use crate::config::Activation;

/// One head's query over keys and values `[keys][dim]`, with a bias each.
pub fn attend(q: &[f32], keys: &[(&[f32], &[f32])], bias: impl Fn(usize) -> f32) -> Vec<f64> {
    let dot = |k: &[f32]| q.iter().zip(k).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let scores: Vec<f64> = keys.iter().enumerate().map(|(j, (k, _))| dot(k) + f64::from(bias(j))).collect();
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
    let total: f64 = weights.iter().sum();
    (0..q.len())
        .map(|d| keys.iter().zip(&weights).map(|((_, v), w)| w / total * f64::from(v[d])).sum())
        .collect()
}

/// A token's vector `part` (0: q, 1: k, 2: v) of a head in `[tokens, 3, heads, dim]`.
pub fn part(qkv: &[f32], heads: usize, dim: usize, token: usize, part: usize, head: usize) -> &[f32] {
    &qkv[((token * 3 + part) * heads + head) * dim..][..dim]
}

/// `x [m, k] w [n, k]^T + sum [m, n]`.
pub fn product(x: &[f32], w: &[f32], sum: &[f32], n: usize, k: usize) -> Vec<f64> {
    let row = |i: usize| {
        let (x, sum) = (&x[i * k..][..k], &sum[i * n..][..n]);
        (0..n).map(move |j| {
            let dot: f64 = x.iter().zip(&w[j * k..][..k]).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            dot + f64::from(sum[j])
        })
    };
    (0..sum.len() / n).flat_map(row).collect()
}

/// An activation by its definition.
pub fn activated(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Relu if x < 0.0 => 0.0,
        Activation::Relu => x,
        Activation::Gelu => 0.5 * x * (1.0 + libm::erf(x / 2f64.sqrt())),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        }
        Activation::Silu => x / (1.0 + (-x).exp()),
    }
}
