//! A model and its tokenizer from a folder, or a model of random weights of a known shape.

use std::path::Path;

use anyhow::{Result, bail};
use onekv_cost::{FLAN_T5_XL, ModelShape, T5_BASE, T5_LARGE, T5_SMALL};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rayon::prelude::*;
use serde_json::json;

use crate::backend::Backend;
use crate::cli::out;
use crate::config::{Config, Reading};
use crate::model::{Model, Source};
use crate::weights::{Head, Weights};

/// Loads the model in `folder`, whose config was read from there; where that does not say how transformers reads the
/// folder, as its `version` 4 or 5 does.
pub fn folder<'b, B: Backend>(
    folder: &Path,
    config: Config,
    version: Option<usize>,
    backend: &'b B,
) -> Result<Model<'b, B>> {
    let mut weights = Weights::open(folder)?;
    let head = weights.head()?;
    let own_head = head == Some(Head::Own);
    let [mut by_4, by_5] =
        config.readings.map(|reading| Reading { own_head: reading.own_head && own_head, ..reading });
    by_4.own_head |= config.head_by_4 && head.is_none();
    let reading = match version {
        Some(4) => by_4,
        Some(_) => by_5,
        None if by_4 == by_5 => by_4,
        None => bail!(
            "config.json in {} does not say how logits are made: transformers 4 takes {by_4}, transformers 5 {by_5}\
             {}; choose by --transformers 4 or --transformers 5",
            folder.display(),
            if head.is_none() { " (the file has no lm_head.weight)" } else { "" }
        ),
    };
    let model = Model::load(config, reading, &mut weights, backend, &out::bar("loading"))?;
    let unused = weights.unused();
    if !unused.is_empty() {
        let more = if unused.len() > 3 { format!(" and {} more", unused.len() - 3) } else { String::new() };
        let names = unused[..unused.len().min(3)].join(", ");
        eprintln!("unused tensors in {}: {names}{more}", folder.display());
    }
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
    pub fn config(self) -> Result<Config> {
        let shape = match self {
            Shape::Tiny => ModelShape { vocab: 384, ..ModelShape::t5(64, 128, 2, 2) },
            Shape::Small => T5_SMALL,
            Shape::Base => T5_BASE,
            Shape::Large => T5_LARGE,
            Shape::FlanXl => FLAN_T5_XL,
        };
        // v1.0, or v1.1 with a gated GELU and a head of its own.
        Config::of(json!({
            "vocab_size": shape.vocab, "d_model": shape.d_model, "d_ff": shape.d_ff, "num_heads": shape.heads,
            "num_layers": shape.decoder_layers, "tie_word_embeddings": !shape.gated,
            "feed_forward_proj": if shape.gated { "gated-gelu" } else { "relu" },
        }))
    }
}

/// Weights that keep activations at their size from layer to layer, as T5 initialises them.
pub struct Random {
    /// Of the next piece of a tensor.
    seed: u64,
    d_kv: usize,
}

impl Random {
    pub fn new(seed: u64, d_kv: usize) -> Self {
        Self { seed, d_kv }
    }
}

impl Source for Random {
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let [_, inputs] = shape else { return Ok(vec![1.0; shape.iter().product()]) };
        let inputs = *inputs as f32;
        let deviation = match name {
            _ if name.starts_with("shared") => 1.0,
            _ if name.contains("relative_attention_bias") => 0.1,
            // The scale 1 / sqrt(d_kv) that T5's attention leaves out is in its queries.
            _ if name.ends_with(".q.weight") => (inputs * self.d_kv as f32).powf(-0.5),
            _ => inputs.powf(-0.5),
        };
        let bound = deviation * 3f32.sqrt();
        let mut tensor = vec![0.0; shape.iter().product()];
        let pieces = tensor.par_chunks_mut(1 << 16);
        let (first, count) = (self.seed, pieces.len() as u64);
        pieces.enumerate().for_each(|(i, piece)| {
            let mut rng = StdRng::seed_from_u64(first + i as u64);
            piece.iter_mut().for_each(|x| *x = rng.random_range(-bound..bound));
        });
        self.seed += count;
        Ok(tensor)
    }
}

/// A model of random weights.
pub fn random<'b, B: Backend>(config: Config, seed: u64, backend: &'b B) -> Result<Model<'b, B>> {
    let mut source = Random::new(seed, config.d_kv);
    let bar = out::bar("drawing weights");
    let reading = config.readings[0];
    Model::load(config, reading, &mut source, backend, &bar)
}
