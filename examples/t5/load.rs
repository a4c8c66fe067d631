//! A model and its tokenizer from a folder, or a model of random weights of a known shape.

use std::path::Path;

use anyhow::Result;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rayon::prelude::*;

use crate::backend::Backend;
use crate::config::{Activation, Config};
use crate::model::{Model, Source};
use crate::progress;
use crate::weights::Weights;

impl Source for Weights {
    fn take(&mut self, names: &[&str], shape: &[usize]) -> Result<Vec<f32>> {
        self.take_any(names, shape)
    }
}

/// Loads the model in `folder`, whose config was read from there.
pub fn folder<'b, B: Backend>(folder: &Path, config: Config, backend: &'b B) -> Result<Model<'b, B>> {
    let bar = progress::bar("reading");
    let mut weights = Weights::read(folder, &bar)?;
    drop(bar);
    let bar = progress::bar("loading");
    let model = Model::load(config, &mut weights, backend, &bar)?;
    weights.check_all_taken()?;
    Ok(model)
}

/// Shapes for `--random`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    /// Two layers of two heads, to try things out
    Tiny,
    #[value(name = "t5-small")]
    Small,
    #[value(name = "t5-base")]
    Base,
    #[value(name = "t5-large")]
    Large,
    #[value(name = "flan-t5-xl")]
    FlanXl,
}

impl Shape {
    pub fn config(self) -> Config {
        let (d_model, d_ff, heads, layers) = match self {
            Shape::Tiny => (64, 128, 2, 2),
            Shape::Small => (512, 2048, 8, 6),
            Shape::Base => (768, 3072, 12, 12),
            Shape::Large => (1024, 4096, 16, 24),
            Shape::FlanXl => (2048, 5120, 32, 24),
        };
        // v1.0, or v1.1 with a gated GELU and a head of its own.
        let gated = self == Shape::FlanXl;
        Config {
            vocab: if self == Shape::Tiny { 384 } else { 32128 },
            d_model,
            d_kv: 64,
            d_ff,
            heads,
            encoder_layers: layers,
            decoder_layers: layers,
            buckets: 32,
            max_distance: 128,
            epsilon: 1e-6,
            activation: if gated { Activation::GeluTanh } else { Activation::Relu },
            gated,
            tied: !gated,
            decoder_start: 0,
            eos: 1,
        }
    }
}

/// Numbers drawn for all weights, which repeat them: drawing billions would take longer than the run. A prime, so
/// that no two rows of a matrix begin alike.
const DRAWN: usize = 65_521;

/// Weights that keep activations at their size from layer to layer, as T5 initialises them.
pub struct Random {
    /// Uniform, of deviation 1.
    drawn: Vec<f32>,
    /// Where the next tensor begins in them.
    at: usize,
    d_kv: usize,
}

impl Random {
    pub fn new(seed: u64, d_kv: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let bound = 3f32.sqrt();
        Self { drawn: (0..DRAWN).map(|_| rng.random_range(-bound..bound)).collect(), at: 0, d_kv }
    }
}

impl Source for Random {
    fn take(&mut self, names: &[&str], shape: &[usize]) -> Result<Vec<f32>> {
        let name = names[0];
        if let [width] = shape {
            return Ok(vec![1.0; *width]);
        }
        let inputs = shape[1] as f32;
        let deviation = if name.starts_with("shared") {
            1.0
        } else if name.contains("relative_attention_bias") {
            0.1
        } else if name.ends_with(".q.weight") {
            // The scale 1 / sqrt(d_kv) that T5's attention leaves out is in its queries.
            (inputs * self.d_kv as f32).powf(-0.5)
        } else {
            inputs.powf(-0.5)
        };
        self.at = (self.at + 7919) % DRAWN;
        let mut tensor = vec![0.0; shape.iter().product()];
        tensor.par_chunks_mut(DRAWN).for_each(|chunk| {
            let (after, before) = self.drawn.split_at(self.at);
            chunk.iter_mut().zip(before.iter().chain(after)).for_each(|(x, drawn)| *x = drawn * deviation);
        });
        Ok(tensor)
    }
}

/// A model of random weights.
pub fn random<'b, B: Backend>(config: Config, seed: u64, backend: &'b B) -> Result<Model<'b, B>> {
    let mut source = Random::new(seed, config.d_kv);
    let bar = progress::bar("drawing weights");
    Model::load(config, &mut source, backend, &bar)
}
