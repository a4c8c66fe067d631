//! A Llama from a folder, or one of random weights.

use std::path::Path;

use anyhow::Result;
use t5::cli::out;
use t5::load::Random;
use t5::model::Source as _;
use t5::weights::Weights;

use crate::config::Config;
use crate::model::Model;

/// What Hugging Face's names of all tensors but the head begin with.
pub const PREFIX: &str = "model.";

/// Loads the weights in `folder`, whose config was read from there: f32, f16 or bf16.
///
/// # Errors
/// A tensor that is missing, or not of its shape or of a type that is allowed, by its name.
pub fn folder(folder: &Path, config: Config) -> Result<Model> {
    let mut weights = Weights::open(folder)?;
    // `Weights` strips a prefix that all names have: with a head among them they have none in common. Where the config
    // ties the head, transformers does not look at the file's.
    let has_head = !config.tied || weights.take("lm_head.weight", &[config.vocab, config.d_model]).is_ok();
    let prefix = if has_head { PREFIX } else { "" };
    let model = Model::load(config, &mut weights, prefix, &out::bar("loading"))?;
    let unused = weights.unused();
    if !unused.is_empty() {
        eprintln!("unused tensors in {}: {}", folder.display(), unused.join(", "));
    }
    Ok(model)
}

/// A model of random weights, which are the same for the same seed.
///
/// # Errors
/// None: every tensor can be drawn.
pub fn random(config: Config, seed: u64) -> Result<Model> {
    let mut source = Random::new(seed, config.head_dim);
    Model::load(config, &mut source, PREFIX, &out::bar("drawing weights"))
}
