//! `config.json` of a Hugging Face T5 folder, with T5Config's defaults for what it leaves out.

use std::ops::RangeInclusive;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value};

/// The activation between the feed-forward matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// T5 v1.0.
    Relu,
    /// The tanh form, T5 v1.1, Flan and ByT5.
    GeluTanh,
}

/// A validated T5 configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub vocab: usize,
    pub d_model: usize,
    pub d_kv: usize,
    pub d_ff: usize,
    pub heads: usize,
    pub encoder_layers: usize,
    pub decoder_layers: usize,
    pub buckets: usize,
    pub max_distance: usize,
    pub epsilon: f32,
    pub activation: Activation,
    /// wo(act(wi_0 x) * (wi_1 x)) instead of wo(act(wi x)).
    pub gated: bool,
    /// Logits from the embedding, with the hidden state scaled by d_model^-0.5.
    pub tied: bool,
    pub decoder_start: u32,
    pub eos: u32,
}

/// No published T5 is wider; a larger number is a damaged file.
const MAX_WIDTH: u64 = 1 << 20;
const MAX_LAYERS: u64 = 1024;

impl Config {
    /// Reads `config.json` in `folder`.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let text = crate::read::text("config", &path)?;
        Self::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    /// Parses and validates the text of a `config.json`.
    pub fn parse(text: &str) -> Result<Self> {
        let json: Value = serde_json::from_str(text).context("not JSON")?;
        let Value::Object(fields) = json else { bail!("not a JSON object") };
        let f = Fields(fields);

        match f.0.get("model_type").filter(|v| !v.is_null()) {
            None => {}
            Some(Value::String(kind)) if kind == "t5" => {}
            Some(other) => bail!("model_type is {other}, allowed: \"t5\""),
        }
        let layers = f.count("num_layers", 6, 1..=MAX_LAYERS)?;
        let (activation, gated) = f.feed_forward()?;
        let vocab = f.count("vocab_size", 32128, 2..=1 << 24)?;
        let last_id = vocab as u64 - 1;
        let pad = f.count("pad_token_id", 0, 0..=last_id)?;
        let config = Self {
            vocab,
            d_model: f.count("d_model", 512, 1..=MAX_WIDTH)?,
            d_kv: f.count("d_kv", 64, 1..=onekv::MAX_HEAD_DIM as u64)?,
            d_ff: f.count("d_ff", 2048, 1..=MAX_WIDTH)?,
            heads: f.count("num_heads", 8, 1..=4096)?,
            encoder_layers: layers,
            decoder_layers: f.count("num_decoder_layers", layers as u64, 1..=MAX_LAYERS)?,
            // The encoder halves the buckets twice: fewer than 4 leave it none to be exact in.
            buckets: f.count("relative_attention_num_buckets", 32, 4..=MAX_WIDTH)?,
            max_distance: f.count("relative_attention_max_distance", 128, 1..=MAX_WIDTH)?,
            epsilon: f.epsilon()?,
            activation,
            gated,
            tied: f.flag("tie_word_embeddings", true)?,
            decoder_start: f.count("decoder_start_token_id", pad as u64, 0..=last_id)? as u32,
            eos: f.count("eos_token_id", 1, 0..=last_id)? as u32,
        };
        // The decoder is exact up to half the buckets and logarithmic from there to the distance.
        let exact = config.buckets / 2;
        if config.max_distance <= exact {
            bail!(
                "relative_attention_max_distance is {}, allowed: more than {exact}, half of relative_attention_num_buckets",
                config.max_distance
            );
        }
        Ok(config)
    }

    /// The shape that the cost model takes, for heads of `head_dim` elements of `element_bytes`.
    pub fn cost_shape(&self, head_dim: usize, element_bytes: usize) -> onekv::cost::ModelShape {
        onekv::cost::ModelShape {
            d_model: self.d_model as u64,
            heads: self.heads as u64,
            head_dim: head_dim as u64,
            d_ff: self.d_ff as u64,
            gated: self.gated,
            vocab: self.vocab as u64,
            encoder_layers: self.encoder_layers as u64,
            decoder_layers: self.decoder_layers as u64,
            element_bytes: element_bytes as u64,
        }
    }
}

struct Fields(Map<String, Value>);

impl Fields {
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|v| !v.is_null())
    }

    fn count(&self, name: &str, default: u64, allowed: RangeInclusive<u64>) -> Result<usize> {
        let value = self.get(name).map_or(Some(default), Value::as_u64);
        match value.filter(|v| allowed.contains(v)) {
            Some(value) => Ok(value as usize),
            None => bail!(
                "{name} is {}, allowed: an integer from {} to {}",
                self.0.get(name).unwrap_or(&Value::from(default)),
                allowed.start(),
                allowed.end()
            ),
        }
    }

    fn flag(&self, name: &str, default: bool) -> Result<bool> {
        match self.get(name) {
            None => Ok(default),
            Some(Value::Bool(value)) => Ok(*value),
            Some(other) => bail!("{name} is {other}, allowed: true or false"),
        }
    }

    fn epsilon(&self) -> Result<f32> {
        let value = self.get("layer_norm_epsilon").map_or(Some(1e-6), Value::as_f64);
        match value.filter(|v| *v > 0.0 && *v < 1.0) {
            Some(value) => Ok(value as f32),
            None => {
                bail!(
                    "layer_norm_epsilon is {}, allowed: a number between 0 and 1",
                    self.0["layer_norm_epsilon"]
                )
            }
        }
    }

    /// As T5Config derives them: "gated-ACT" is gated, and "gated-gelu" means the tanh form.
    fn feed_forward(&self) -> Result<(Activation, bool)> {
        let default = Value::from("relu");
        let value = self.get("feed_forward_proj").unwrap_or(&default);
        match value.as_str() {
            Some("relu") => Ok((Activation::Relu, false)),
            Some("gated-relu") => Ok((Activation::Relu, true)),
            Some("gelu_new") => Ok((Activation::GeluTanh, false)),
            Some("gated-gelu" | "gated-gelu_new") => Ok((Activation::GeluTanh, true)),
            _ => bail!(
                "feed_forward_proj is {value}, allowed: \"relu\", \"gated-relu\", \"gelu_new\", \"gated-gelu\", \"gated-gelu_new\""
            ),
        }
    }
}
