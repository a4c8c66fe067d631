//! `config.json` and `generation_config.json` of a Hugging Face T5 folder, with transformers' defaults for what they
//! leave out.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use onekv_cost::ModelShape;
use serde_json::{Map, Value, json};

use crate::read::Fields;

/// The activation between the feed-forward matrices; the numbers are those of cuda/activation.cuh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// T5 v1.0.
    Relu = 0,
    /// The exact form, by the error function.
    Gelu = 1,
    /// The tanh form: T5 v1.1, Flan, mT5 and ByT5.
    GeluTanh = 2,
    /// UL2.
    Silu = 3,
}

/// `act(h)`, or with `gated` the product of `act` of the left half of `h` and the right half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Activated {
    pub activation: Activation,
    pub gated: bool,
}

/// What transformers calls them.
const ACTIVATIONS: [(Activation, &str); 4] = [
    (Activation::Relu, "relu"),
    (Activation::Gelu, "gelu gelu_python"),
    (Activation::GeluTanh, "gelu_new gelu_pytorch_tanh gelu_python_tanh gelu_fast gelu_accurate"),
    (Activation::Silu, "silu swish"),
];

/// How logits come from the decoder's last hidden states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// By `lm_head.weight`, where the file has one; else by the embedding.
    pub own_head: bool,
    /// The hidden states times d_model^-0.5.
    pub scaled: bool,
}

impl std::fmt::Display for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let head = if self.own_head { "lm_head.weight" } else { "the embedding" };
        write!(f, "{head}, {} by d_model^-0.5", if self.scaled { "scaled" } else { "not scaled" })
    }
}

/// Which tokens a row may take and must take, and where it ends: transformers' GenerationConfig, as far as it is obeyed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// The ids behind which a row is finished.
    pub ends: Vec<u32>,
    /// Ids that are never taken, and ids that are not taken as the first new one that is free.
    pub suppressed: Vec<u32>,
    pub suppressed_first: Vec<u32>,
    /// The first new id of a row that begins with one token, that is without a prompt.
    pub forced_first: Option<u32>,
    /// The last new id of a row that has not ended before.
    pub forced_last: Option<u32>,
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
    /// umT5: a relative bias in every layer, instead of one for all.
    pub bias_by_layer: bool,
    pub epsilon: f32,
    pub activation: Activation,
    /// wo(act(wi_0 x) * (wi_1 x)) instead of wo(act(wi x)).
    pub gated: bool,
    /// As transformers 4 and 5 read the folder.
    pub readings: [Reading; 2],
    /// Whether transformers 4 draws a random head where the file has none; 5 never does.
    pub head_by_4: bool,
    pub decoder_start: u32,
    /// What an input ends with.
    pub eos: u32,
    pub rules: Rules,
    /// Settings of the folder that would change the answers of transformers and are not obeyed here.
    pub ignored: Map<String, Value>,
}

/// What to do with an adapter.
pub const MERGE: &str = "merge the adapter first (peft: merge_and_unload, then save_pretrained)";

/// No published T5 is wider; a larger number is a damaged file.
const MAX_WIDTH: u64 = 1 << 20;
const MAX_LAYERS: u64 = 1024;

/// Models that are called T5 and compute something else.
const OTHERS: [(&str, &str); 4] = [
    ("longt5", "LongT5 attends to blocks and summaries of its input"),
    ("switch_transformers", "Switch Transformers send each token to experts"),
    ("t5gemma", "T5Gemma has Gemma's layers"),
    ("t5gemma2", "T5Gemma 2 has Gemma's layers"),
];
/// What else T5's layers are used for, by a part of the class's name.
const CLASSES: [(&str, &str); 4] = [
    ("EncoderModel", "it has an encoder only"),
    ("Classification", "its head classifies"),
    ("QuestionAnswering", "its head marks answers in the input"),
    ("T5Model", "it has no head"),
];

/// Settings that would change the answers of transformers, and the value at which they do not.
const NOT_OBEYED: &str = "max_length=20 max_new_tokens max_time do_sample=0 num_beams=1 num_beam_groups=1 \
    num_return_sequences=1 penalty_alpha=0 dola_layers guidance_scale=1 repetition_penalty=1 \
    encoder_repetition_penalty=1 no_repeat_ngram_size=0 encoder_no_repeat_ngram_size=0 min_length=0 min_new_tokens=0 \
    exponential_decay_length_penalty bad_words_ids force_words_ids constraints sequence_bias forced_decoder_ids \
    stop_strings watermarking_config remove_invalid_values=0 token_healing=0";

impl Config {
    /// Reads `config.json` and, where there is one, `generation_config.json` in `folder`.
    pub fn read(folder: &Path) -> Result<Self> {
        let (path, generation) = (folder.join("config.json"), folder.join("generation_config.json"));
        let adapter = ["adapter_config.json", "adapter_model.safetensors"];
        if let Some(name) = adapter.into_iter().find(|name| folder.join(name).exists()) {
            bail!("{} has {name}, allowed: a whole model; {MERGE}", folder.display());
        }
        let fields = Fields::read("config", &path)?;
        let shape = Self::shape(&fields).with_context(|| format!("in {}", path.display()))?;
        if generation.exists() {
            let fields = Fields::read("generation config", &generation)?;
            shape.with_generation(&fields, None).with_context(|| format!("in {}", generation.display()))
        } else {
            // Older folders have both in one file.
            shape.with_generation(&fields, Some(1)).with_context(|| format!("in {}", path.display()))
        }
    }

    /// What these fields say; the rest as in T5Config.
    pub fn of(fields: Value) -> Result<Self> {
        let fields = Fields(fields.as_object().cloned().unwrap_or_default());
        Self::shape(&fields)?.with_generation(&fields, Some(1))
    }

    fn shape(f: &Fields) -> Result<Self> {
        let kind = f.kind()?;
        let t5 = kind == "t5";
        let layers = f.count("num_layers", if t5 { 6 } else { 8 }, 1..=MAX_LAYERS)?;
        let (activation, gated) = f.feed_forward(if t5 { "relu" } else { "gated-gelu" })?;
        let vocab = f.count("vocab_size", if t5 { 32128 } else { 250_112 }, 2..=1 << 24)?;
        let last_id = vocab as u64 - 1;
        let (readings, head_by_4) = f.readings(kind)?;
        let pad = f.count("pad_token_id", 0, 0..=last_id)? as u32;
        let config = Self {
            vocab,
            d_model: f.count("d_model", 512, 1..=MAX_WIDTH)?,
            d_kv: f.count("d_kv", 64, 1..=onekv::MAX_HEAD_DIM as u64)?,
            d_ff: f.count("d_ff", if t5 { 2048 } else { 1024 }, 1..=MAX_WIDTH)?,
            heads: f.count("num_heads", if t5 { 8 } else { 6 }, 1..=4096)?,
            encoder_layers: layers,
            decoder_layers: f.count("num_decoder_layers", layers as u64, 1..=MAX_LAYERS)?,
            // The encoder halves the buckets twice: fewer than 4 leave it none to be exact in.
            buckets: f.count("relative_attention_num_buckets", 32, 4..=MAX_WIDTH)?,
            max_distance: f.count("relative_attention_max_distance", 128, 1..=MAX_WIDTH)?,
            bias_by_layer: kind == "umt5",
            epsilon: f.epsilon()?,
            activation,
            gated,
            readings,
            head_by_4,
            decoder_start: f.id("decoder_start_token_id", vocab)?.unwrap_or(if t5 { pad } else { 0 }),
            eos: f.ids("eos_token_id", vocab)?.first().copied().unwrap_or(1),
            rules: Rules::default(),
            ignored: Map::new(),
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

    /// The same model, decoding as `f` says. As in transformers, a generation_config.json without an end has none.
    fn with_generation(mut self, f: &Fields, default_end: Option<u32>) -> Result<Self> {
        let (start, bos) = (f.id("decoder_start_token_id", self.vocab)?, f.id("bos_token_id", self.vocab)?);
        self.decoder_start = start.or(bos).unwrap_or(self.decoder_start);
        let ends = f.ids("eos_token_id", self.vocab)?;
        self.rules = Rules {
            ends: if f.0.contains_key("eos_token_id") { ends } else { default_end.into_iter().collect() },
            suppressed: f.ids("suppress_tokens", self.vocab)?,
            suppressed_first: f.ids("begin_suppress_tokens", self.vocab)?,
            forced_first: f.id("forced_bos_token_id", self.vocab)?,
            // Where several are forced they are equally likely, and the first of equals is chosen.
            forced_last: f.ids("forced_eos_token_id", self.vocab)?.into_iter().min(),
        };
        let forced = [self.rules.forced_first, self.rules.forced_last];
        if let Some(id) = forced.into_iter().flatten().find(|id| self.rules.suppressed.contains(id)) {
            bail!("suppress_tokens has {id}, which a forced id is too, allowed: one of both");
        }
        for (name, neutral) in NOT_OBEYED.split(' ').map(|s| s.split_once('=').unwrap_or((s, ""))) {
            let changes = |value: &&Value| {
                let number = value.as_bool().map(f64::from).or(value.as_f64());
                (number.is_none() || number != neutral.parse().ok()) && **value != json!([])
            };
            self.ignored.extend(f.get(name).filter(changes).map(|value| (name.into(), value.clone())));
        }
        Ok(self)
    }

    /// The shape that the cost model takes, for heads of `head_dim` elements of `element_bytes`.
    pub fn cost_shape(&self, head_dim: usize, element_bytes: usize) -> ModelShape {
        ModelShape {
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

impl Fields {
    /// Null is refused: transformers 4 and 5 take it for false, or for true.
    fn flag(&self, name: &str) -> Result<Option<bool>> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(other) => bail!("{name} is {other}, allowed: true or false"),
        }
    }

    fn id(&self, name: &str, vocab: usize) -> Result<Option<u32>> {
        match self.ids(name, vocab)?[..] {
            [] => Ok(None),
            [id] => Ok(Some(id)),
            _ => bail!("{name} is {}, allowed: one id", self.0[name]),
        }
    }

    fn epsilon(&self) -> Result<f32> {
        let value = self.get("layer_norm_epsilon").map_or(Some(1e-6), Value::as_f64);
        value.filter(|v| *v > 0.0 && *v < 1.0).map(|v| v as f32).with_context(|| {
            format!(
                "layer_norm_epsilon is {}, allowed: a number between 0 and 1",
                self.0["layer_norm_epsilon"]
            )
        })
    }

    /// "t5", "mt5" or "umt5".
    fn kind(&self) -> Result<&str> {
        let kind = match self.get("model_type") {
            None => "t5",
            Some(Value::String(kind)) if ["t5", "mt5", "umt5"].contains(&kind.as_str()) => kind,
            Some(other) => match OTHERS.iter().find(|(name, _)| other == name) {
                Some((_, why)) => bail!("model_type is {other}, allowed: \"t5\", \"mt5\", \"umt5\": {why}"),
                None => bail!("model_type is {other}, allowed: \"t5\", \"mt5\", \"umt5\""),
            },
        };
        for class in self.get("architectures").and_then(Value::as_array).into_iter().flatten() {
            let other = |(part, _): &&(&str, &str)| class.as_str().is_some_and(|class| class.contains(part));
            if let Some((_, why)) = CLASSES.iter().find(other) {
                bail!("architectures is [{class}], allowed: a T5ForConditionalGeneration: {why}");
            }
        }
        if self.get("quantization_config").is_some() {
            bail!("quantization_config is there, allowed: weights that are not quantised");
        }
        Ok(kind)
    }

    /// `dense_act_fn` and `is_gated_act`, or what `feed_forward_proj` makes of them in T5Config: "gated-ACT" is gated,
    /// and "gated-gelu" means the tanh form.
    fn feed_forward(&self, default: &str) -> Result<(Activation, bool)> {
        let projection = match self.get("feed_forward_proj") {
            None => default,
            Some(Value::String(name)) => name,
            Some(other) => bail!("feed_forward_proj is {other}, allowed: a text"),
        };
        let (gated, name) = match projection.strip_prefix("gated-") {
            Some("gelu") => (true, "gelu_new"),
            Some(name) => (true, name),
            None => (false, projection),
        };
        let (field, name) = match self.get("dense_act_fn").map(|name| name.as_str().unwrap_or("")) {
            Some(name) => ("dense_act_fn", name),
            None => ("feed_forward_proj", name),
        };
        match ACTIVATIONS.iter().find(|(_, names)| names.split(' ').any(|known| known == name)) {
            Some((activation, _)) => Ok((*activation, self.flag("is_gated_act")?.unwrap_or(gated))),
            None => bail!(
                "{field} is {}, allowed: {}, in feed_forward_proj also with gated- before",
                self.0[field],
                ACTIVATIONS.map(|(_, names)| names.replace(' ', ", ")).join(", ")
            ),
        }
    }

    /// How transformers 4 and 5 read the folder, and whether 4 must find a head in it.
    ///
    /// T5Config of 5 ties always, and keeps in `scale_decoder_outputs` what tying meant in 4; a head in the file that is
    /// another is used all the same. MT5Config has no such key: only 4 scales an mT5.
    fn readings(&self, kind: &str) -> Result<([Reading; 2], bool)> {
        let tied = self.flag("tie_word_embeddings")?.unwrap_or(kind != "mt5");
        let by_4 = Reading { own_head: !tied, scaled: tied };
        let by_5 = |scaled| Reading { own_head: true, scaled };
        if kind == "mt5" {
            let saved_by = self.get("transformers_version").and_then(Value::as_str).unwrap_or("4");
            let major = saved_by.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(4);
            return Ok(if major >= 5 { ([by_5(false); 2], false) } else { ([by_4, by_5(false)], !tied) });
        }
        Ok(match self.flag("scale_decoder_outputs")? {
            Some(scaled) => ([by_5(scaled); 2], false),
            None => ([by_4, by_5(tied)], !tied),
        })
    }
}
