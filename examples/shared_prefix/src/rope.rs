//! RoPE: how fast each pair of q's and k's elements turns with the position.

use std::f64::consts::TAU;

#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// The base of the wavelengths.
    pub theta: f64,
    pub scaling: Option<Scaling>,
}

/// Llama 3.1's scaling, transformers' "llama3": pairs that turn less than `low_freq_factor` times within the length of
/// the original training turn `factor` times slower, those that turn more than `high_freq_factor` times keep their
/// speed, and those between have a weighted mean of both speeds.
#[derive(Debug, Clone, PartialEq)]
pub struct Scaling {
    pub factor: f64,
    pub low_freq_factor: f64,
    pub high_freq_factor: f64,
    /// In tokens.
    pub original_length: f64,
}

impl Rope {
    /// Radians per token of pair `i` of `head_dim / 2`: `theta^(-2 i / head_dim)`, scaled.
    pub fn frequency(&self, i: usize, head_dim: usize) -> f64 {
        let frequency = self.theta.powf(-2.0 * i as f64 / head_dim as f64);
        let Some(Scaling { factor, low_freq_factor: low, high_freq_factor: high, original_length }) =
            self.scaling
        else {
            return frequency;
        };
        let turns = frequency / TAU * original_length;
        let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
        frequency * (kept + (1.0 - kept) / factor)
    }
}
