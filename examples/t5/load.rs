//! A model and its tokenizer from a folder, or a model of random weights of a known shape.

use std::path::Path;

use anyhow::{Result, bail};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

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

/// Loads the model in `folder`.
pub fn folder<'b, B: Backend>(folder: &Path, backend: &'b B) -> Result<Model<'b, B>> {
    if !folder.is_dir() {
        bail!("model is {}, allowed: a folder with config.json and model.safetensors", folder.display());
    }
    let config = Config::read(folder)?;
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
    #[value(name = "t5-small")]
    Small,
    #[value(name = "t5-base")]
    Base,
    #[value(name = "t5-large")]
    Large,
}

impl Shape {
    fn config(self) -> Config {
        let (d_model, d_ff, heads, layers) = match self {
            Shape::Small => (512, 2048, 8, 6),
            Shape::Base => (768, 3072, 12, 12),
            Shape::Large => (1024, 4096, 16, 24),
        };
        Config {
            vocab: 32128,
            d_model,
            d_kv: 64,
            d_ff,
            heads,
            encoder_layers: layers,
            decoder_layers: layers,
            buckets: 32,
            max_distance: 128,
            epsilon: 1e-6,
            activation: Activation::Relu,
            gated: false,
            tied: true,
            decoder_start: 0,
            eos: 1,
        }
    }
}

/// Weights drawn so that activations keep their size from layer to layer, as T5 initialises them.
struct Random {
    rng: StdRng,
    d_kv: usize,
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
        // Uniform with the wanted deviation.
        let bound = deviation * 3f32.sqrt();
        Ok((0..shape.iter().product()).map(|_| self.rng.random_range(-bound..bound)).collect())
    }
}

/// A model of random weights.
pub fn random<'b, B: Backend>(shape: Shape, seed: u64, backend: &'b B) -> Result<Model<'b, B>> {
    let config = shape.config();
    let mut source = Random { rng: StdRng::seed_from_u64(seed), d_kv: config.d_kv };
    let bar = progress::bar("drawing weights");
    Model::load(config, &mut source, backend, &bar)
}
