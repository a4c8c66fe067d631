//! Shapes of Llamas: ours for random weights, and `config.json` of a Hugging Face folder, with transformers' defaults.

use std::ops::RangeInclusive;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use t5::read::Fields;

use crate::rope::{Rope, Scaling};

/// The shape of a Llama, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub vocab: usize,
    pub d_model: usize,
    pub d_ff: usize,
    pub layers: usize,
    pub heads: usize,
    /// K/V heads, of which `heads` is a multiple.
    pub kv_heads: usize,
    /// Even: RoPE turns pairs.
    pub head_dim: usize,
    pub epsilon: f32,
    pub rope: Rope,
    /// The embedding is the head.
    pub tied: bool,
    /// Tokens that a sequence may have, the document included.
    pub most_tokens: usize,
    /// Ids that end an answer.
    pub ends: Vec<u32>,
}

/// Shapes for random weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    /// Two layers of four heads, to try things out
    Tiny,
    /// Four layers of eight heads: seconds
    Small,
    /// That of Llama-3.2-1B, weights of 6 GB: minutes
    #[value(name = "llama-1b")]
    Llama1b,
}

impl Shape {
    /// # Errors
    /// None: each is a valid configuration.
    pub fn config(self) -> Result<Config> {
        Config::of(match self {
            Shape::Tiny => json!({
                "vocab_size": 256, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
                "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": MAX_TOKENS,
            }),
            Shape::Small => json!({
                "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4,
                "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": MAX_TOKENS,
            }),
            Shape::Llama1b => json!({
                "vocab_size": 128_256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
                "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 500_000.0,
                "rope_scaling": {
                    "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192,
                },
                "tie_word_embeddings": true, "max_position_embeddings": MAX_TOKENS,
            }),
        })
    }
}

/// No published Llama is wider or longer; a larger number is a damaged file.
const MAX_WIDTH: u64 = 1 << 20;
const MAX_TOKENS: u64 = 1 << 24;

/// Fields that would change the answers, and the value at which they do not; null, or no such field, is good too.
const NOT_SUPPORTED: [(&str, &str); 9] = [
    ("model_type", "\"llama\""),
    ("hidden_act", "\"silu\""),
    ("attention_bias", "false"),
    ("mlp_bias", "false"),
    ("pretraining_tp", "1"),
    ("partial_rotary_factor", "1.0"),
    ("sliding_window", "null"),
    ("use_sliding_window", "false"),
    ("quantization_config", "null"),
];

impl Config {
    /// Reads `config.json` in `folder`, and the ends of generation_config.json where there is one.
    ///
    /// # Errors
    /// What cannot be read, is not in range or is not supported, by its field.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let config = Self::from_fields(&Fields::read("config", &path)?)
            .with_context(|| format!("in {}", path.display()))?;
        let path = folder.join("generation_config.json");
        if !path.exists() {
            return Ok(config);
        }
        let ends = Fields::read("generation config", &path)?.ids("eos_token_id", config.vocab);
        Ok(Self { ends: ends.with_context(|| format!("in {}", path.display()))?, ..config })
    }

    /// What these fields say; the rest as in LlamaConfig.
    ///
    /// # Errors
    /// What is not in range or is not supported, by its field.
    pub fn of(fields: Value) -> Result<Self> {
        Self::from_fields(&Fields::of(fields)?)
    }

    fn from_fields(f: &Fields) -> Result<Self> {
        for (name, allowed) in NOT_SUPPORTED {
            let said = f.get(name).map(Value::to_string);
            if let Some(said) = said.filter(|said| said != allowed) {
                bail!("{name} is {said}, allowed: {allowed}");
            }
        }
        let vocab = f.count("vocab_size", 32_000, 2..=1 << 24)?;
        let d_model = f.count("hidden_size", 4096, 1..=MAX_WIDTH)?;
        let heads = f.count("num_attention_heads", 32, 1..=4096)?;
        let kv_heads = f.count("num_key_value_heads", heads as u64, 1..=4096)?;
        if !heads.is_multiple_of(kv_heads) {
            bail!("num_key_value_heads is {kv_heads}, allowed: a divisor of num_attention_heads, {heads}");
        }
        let head_dim = f.count("head_dim", (d_model / heads) as u64, 1..=onekv::MAX_HEAD_DIM as u64)?;
        if !head_dim.is_multiple_of(2) {
            bail!("head_dim is {head_dim}, allowed: an even number, whose halves RoPE turns");
        }
        Ok(Self {
            vocab,
            d_model,
            d_ff: f.count("intermediate_size", 11_008, 1..=MAX_WIDTH)?,
            layers: f.count("num_hidden_layers", 32, 1..=1024)?,
            heads,
            kv_heads,
            head_dim,
            epsilon: number(f, "rms_norm_eps", Some(1e-6), 0.0..=1.0)? as f32,
            rope: rope(f)?,
            tied: flag(f, "tie_word_embeddings", false)?,
            most_tokens: f.count("max_position_embeddings", 2048, 1..=MAX_TOKENS)?,
            ends: f.ids("eos_token_id", vocab)?,
        })
    }
}

/// A number above the range's start, up to its end. Without a default the field must be there.
fn number(f: &Fields, name: &str, default: Option<f64>, allowed: RangeInclusive<f64>) -> Result<f64> {
    let value = f.get(name).cloned().unwrap_or_else(|| json!(default));
    let (above, most) = (allowed.start(), allowed.end());
    let number = value.as_f64().filter(|number| number > above && number <= most);
    number.with_context(|| format!("{name} is {value}, allowed: a number above {above}, at most {most}"))
}

fn flag(f: &Fields, name: &str, default: bool) -> Result<bool> {
    match f.get(name) {
        None => Ok(default),
        Some(Value::Bool(value)) => Ok(*value),
        Some(other) => bail!("{name} is {other}, allowed: true or false"),
    }
}

/// transformers 4 writes `rope_theta` and an object `rope_scaling`; 5 all in one object, `rope_parameters`.
fn rope(f: &Fields) -> Result<Rope> {
    let by_4 = f.get("rope_scaling");
    if let Some(by_5) = f.get("rope_parameters") {
        if let Some(by_4) = by_4 {
            bail!("rope_scaling is {by_4}, allowed: null beside rope_parameters");
        }
        let fields = Fields::of(by_5.clone()).context("in rope_parameters")?;
        let rope = || anyhow::Ok(Rope { theta: theta(&fields)?, scaling: scaling(&fields)? });
        return rope().context("in rope_parameters");
    }
    let fields = Fields::of(by_4.cloned().unwrap_or_else(|| json!({})));
    let scaling = fields.and_then(|fields| scaling(&fields)).context("in rope_scaling")?;
    Ok(Rope { theta: theta(f)?, scaling })
}

fn theta(f: &Fields) -> Result<f64> {
    number(f, "rope_theta", Some(10_000.0), 0.0..=1e12)
}

fn scaling(f: &Fields) -> Result<Option<Scaling>> {
    if let Some(share) = f.get("partial_rotary_factor").filter(|share| share.as_f64() != Some(1.0)) {
        bail!("partial_rotary_factor is {share}, allowed: 1.0");
    }
    // It was "type" in older files.
    let kind = f.get("rope_type").or(f.get("type"));
    match kind.map(|kind| kind.as_str().unwrap_or_default()) {
        None | Some("default") => return Ok(None),
        Some("llama3") => {}
        Some(_) => bail!("rope_type is {}, allowed: \"default\" or \"llama3\"", json!(kind)),
    }
    let low_freq_factor = number(f, "low_freq_factor", None, 0.0..=1e6)?;
    let scaling = Scaling {
        factor: number(f, "factor", None, 0.0..=1e6)?,
        low_freq_factor,
        high_freq_factor: number(f, "high_freq_factor", None, low_freq_factor..=1e6)?,
        original_length: number(f, "original_max_position_embeddings", None, 0.0..=MAX_TOKENS as f64)?,
    };
    Ok(Some(scaling))
}
