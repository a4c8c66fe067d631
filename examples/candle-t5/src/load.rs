//! Where a model comes from: a Hugging Face folder, or a random generator.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::{SimpleBackend, VarBuilder};
use candle_transformers::models::t5::{Config as CandlesConfig, T5ForConditionalGeneration};

use t5::config::{Activation, Config, Reading, Rules};
use t5::model::Source as _;

use crate::model::T5;

/// Reads `config.json` and `model.safetensors`, as f32.
///
/// # Errors
/// Files that are not there or no T5's; settings that this example does not obey, or that transformers 4 and 5 read
/// differently.
pub fn folder(folder: &Path, device: &Device) -> Result<T5> {
    let config = Config::read(folder)?;
    let path = folder.join("model.safetensors");
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let weights = VarBuilder::from_buffered_safetensors(bytes, DType::F32, device)
        .with_context(|| format!("in {}: not safetensors", path.display()))?;
    check(&config, &weights).with_context(|| format!("in {}", folder.display()))?;
    let reading = config.readings[1];
    // Where transformers 4 would draw a head at random the file must have it, else the embedding may stand in for it.
    let own_head = config.head_by_4 || reading.own_head && weights.contains_tensor("lm_head.weight");
    let reading = Reading { own_head, ..reading };
    T5::new(config, reading, &weights).with_context(|| format!("in {}", path.display()))
}

/// Refuses what this example leaves out.
fn check(config: &Config, weights: &VarBuilder) -> Result<()> {
    if let Some((name, value)) = config.ignored.iter().next() {
        bail!("generation's {name} is {value}, allowed: greedy decoding without it");
    }
    if config.rules != (Rules { ends: config.rules.ends.clone(), ..Rules::default() }) {
        bail!(
            "ids are forced or suppressed, allowed: greedy decoding without that (package `t5` obeys them)"
        );
    }
    let [by_4, by_5] = config.readings;
    if by_4.scaled != by_5.scaled
        || by_4.own_head != by_5.own_head && weights.contains_tensor("lm_head.weight")
    {
        bail!("logits by transformers 4: {by_4}; by 5: {by_5}; allowed: a folder that both read alike");
    }
    Ok(())
}

/// One model of random weights, ours and candle's. It has a head of its own, since candle's tied logits are wrong.
pub struct Both {
    pub ours: T5,
    pub candles: T5ForConditionalGeneration,
    pub weights: VarBuilder<'static>,
}

pub fn random(config: &Config, device: &Device) -> Result<Both> {
    let backend = Random { d_kv: config.d_kv, drawn: Mutex::default() };
    let weights = VarBuilder::from_backend(Box::new(backend), DType::F32, device.clone());
    let ours = T5::new(config.clone(), Reading { own_head: true, scaled: false }, &weights)?;
    let candles = T5ForConditionalGeneration::load(weights.clone(), &candles_config(config)?)?;
    Ok(Both { ours, candles, weights })
}

/// The same shape, untied, as candle's own config; feed-forwards of T5 v1.0 and v1.1 alone.
fn candles_config(c: &Config) -> Result<CandlesConfig> {
    let feed_forward_proj = match (c.gated, c.activation) {
        (false, Activation::Relu) => "relu",
        (true, Activation::GeluTanh) => "gated-gelu",
        other => bail!("the feed-forward is {other:?}, allowed: relu, gated-gelu"),
    };
    Ok(serde_json::from_value(serde_json::json!({
        "vocab_size": c.vocab, "d_model": c.d_model, "d_kv": c.d_kv, "d_ff": c.d_ff, "num_layers": c.encoder_layers,
        "num_decoder_layers": c.decoder_layers, "num_heads": c.heads, "relative_attention_num_buckets": c.buckets,
        "relative_attention_max_distance": c.max_distance, "dropout_rate": 0.0, "layer_norm_epsilon": c.epsilon,
        "initializer_factor": 1.0, "feed_forward_proj": feed_forward_proj, "tie_word_embeddings": false,
        "is_encoder_decoder": true, "pad_token_id": 0, "eos_token_id": c.eos,
    }))?)
}

/// Tensors drawn when they are asked for, and kept: two models of the same weights.
struct Random {
    d_kv: usize,
    drawn: Mutex<HashMap<String, Tensor>>,
}

impl SimpleBackend for Random {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tensor) = drawn.get(name) {
            return Ok(tensor.clone());
        }
        // Seeds far from each other, since a large tensor takes one for each of its pieces.
        let seed = (drawn.len() as u64) << 32;
        let values = t5::load::Random::new(seed, self.d_kv).take(name, shape.dims());
        let values = values.map_err(|error| candle_core::Error::msg(error.to_string()))?;
        let tensor = Tensor::from_vec(values, shape, device)?.to_dtype(dtype)?;
        drawn.insert(name.to_owned(), tensor.clone());
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("{name} has no shape, allowed: tensors that are asked for with one")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}
