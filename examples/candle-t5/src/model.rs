//! The model: candle's operations, but for the cross-attention.

use anyhow::{Result, bail};
use candle_core::{DType, Device, Module as _, Tensor};
use candle_nn::{Activation, Embedding, Linear, RmsNorm, VarBuilder, linear_no_bias, ops, rms_norm};
use onekv::interop::candle::Attention;
use onekv::plan::PlanOptions;
use onekv::{Keys, Problem, ProblemSpec};
use t5::buckets::Direction;
use t5::config::{self, Config, Reading};

use crate::bias::RelativeBias;

/// A T5.
pub struct T5 {
    pub config: Config,
    device: Device,
    embedding: Embedding,
    encoder: Vec<EncoderLayer>,
    encoder_bias: RelativeBias,
    encoder_norm: RmsNorm,
    decoder: Vec<DecoderLayer>,
    decoder_bias: RelativeBias,
    decoder_norm: RmsNorm,
    head: Linear,
    /// Of what the head gets: d_model^-0.5 where logits are scaled, else 1.
    scale: f64,
    /// onekv's, for every cross-attention.
    attention: Attention,
}

struct EncoderLayer {
    attention: Projections,
    feed_forward: FeedForward,
}

struct DecoderLayer {
    attention: Projections,
    cross: Projections,
    feed_forward: FeedForward,
}

/// The projections of an attention, and the norm before them.
struct Projections {
    norm: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    heads: usize,
    head_dim: usize,
}

struct FeedForward {
    norm: RmsNorm,
    /// One, or wi_0 and wi_1 where it is gated.
    wi: Vec<Linear>,
    wo: Linear,
    activation: Activation,
}

/// Encoded inputs: of every decoder layer K and V `[keys, heads, head_dim]`, one input after the other.
pub struct Memory {
    layers: Vec<(Tensor, Tensor)>,
    /// Input `b` has the keys `offsets[b]..offsets[b + 1]`.
    offsets: Vec<usize>,
}

/// Prompts that are decoded, of all inputs, in their order.
pub struct Decoding<'a> {
    model: &'a T5,
    memory: &'a Memory,
    /// Prompts of each input.
    prompts: Vec<usize>,
    /// Tokens of each prompt so far.
    lengths: Vec<usize>,
    /// Which token of its prompt stands in a column of the cache, if any.
    columns: Vec<Vec<Option<usize>>>,
    /// Self-attention's K and V by layer, `[prompts, heads, columns, head_dim]`.
    cache: Vec<(Tensor, Tensor)>,
}

impl T5 {
    pub fn new(config: Config, reading: Reading, weights: &VarBuilder) -> Result<Self> {
        let (d, device) = (config.d_model, weights.device().clone());
        let norm = |w: VarBuilder| rms_norm(d, config.epsilon.into(), w);
        let table = |stack: &str, layers: usize, direction| {
            let layers = if config.bias_by_layer { layers } else { 1 };
            let table = |layer| {
                let name =
                    format!("{stack}.block.{layer}.layer.0.SelfAttention.relative_attention_bias.weight");
                weights.get((config.buckets, config.heads), &name)
            };
            RelativeBias::new(&config, (0..layers).map(table).collect::<candle_core::Result<_>>()?, direction)
        };
        // Files have one of its names, or several.
        let mut names =
            ["shared.weight", "decoder.embed_tokens.weight", "encoder.embed_tokens.weight"].into_iter();
        let name = names.find(|name| weights.contains_tensor(name)).unwrap_or("shared.weight");
        let embedding = weights.get((config.vocab, d), name)?;
        let head = match reading.own_head {
            true => weights.get((config.vocab, d), "lm_head.weight")?,
            false => embedding.clone(),
        };
        let encoder = (0..config.encoder_layers).map(|i| {
            let layer = weights.pp(format!("encoder.block.{i}.layer"));
            Ok(EncoderLayer {
                attention: Projections::new(&config, layer.pp("0"), "SelfAttention")?,
                feed_forward: FeedForward::new(&config, layer.pp("1"))?,
            })
        });
        let decoder = (0..config.decoder_layers).map(|i| {
            let layer = weights.pp(format!("decoder.block.{i}.layer"));
            Ok(DecoderLayer {
                attention: Projections::new(&config, layer.pp("0"), "SelfAttention")?,
                cross: Projections::new(&config, layer.pp("1"), "EncDecAttention")?,
                feed_forward: FeedForward::new(&config, layer.pp("2"))?,
            })
        });
        Ok(Self {
            embedding: Embedding::new(embedding, d),
            encoder: encoder.collect::<Result<_>>()?,
            encoder_bias: table("encoder", config.encoder_layers, Direction::Both)?,
            encoder_norm: norm(weights.pp("encoder.final_layer_norm"))?,
            decoder: decoder.collect::<Result<_>>()?,
            decoder_bias: table("decoder", config.decoder_layers, Direction::Back)?,
            decoder_norm: norm(weights.pp("decoder.final_layer_norm"))?,
            head: Linear::new(head, None),
            scale: if reading.scaled { (d as f64).powf(-0.5) } else { 1.0 },
            attention: Attention::new(&device)?,
            device,
            config,
        })
    }

    /// Encodes every input, and projects the encodings to K and V: once per layer, for all prompts and steps.
    pub fn encode(&self, inputs: &[Vec<u32>]) -> Result<Memory> {
        let encodings = inputs.iter().map(|input| self.encoding(input)).collect::<Result<Vec<_>>>()?;
        if encodings.is_empty() {
            bail!("there are no inputs, allowed: one or more");
        }
        self.project(&encodings)
    }

    /// K and V of encodings `[tokens, d_model]`.
    pub fn project(&self, encodings: &[Tensor]) -> Result<Memory> {
        let mut offsets = vec![0];
        offsets.extend(ends(encodings.iter().map(|encoding| encoding.dims()[0])));
        let encodings = Tensor::cat(encodings, 0)?;
        let layers = self.decoder.iter().map(|DecoderLayer { cross, .. }| {
            Ok((cross.by_head(&cross.k, &encodings)?, cross.by_head(&cross.v, &encodings)?))
        });
        Ok(Memory { layers: layers.collect::<Result<_>>()?, offsets })
    }

    /// `[tokens, d_model]`.
    pub fn encoding(&self, input: &[u32]) -> Result<Tensor> {
        if input.is_empty() {
            bail!("an input has no tokens, allowed: one or more");
        }
        let positions: Vec<usize> = (0..input.len()).collect();
        let keys = positions.iter().copied().map(Some).collect();
        let bias = self.encoder_bias.of(&[positions], &[keys])?;
        let ids = Tensor::new(input, &self.device)?.unsqueeze(0)?;
        let mut x = self.embedding.forward(&ids)?;
        for (i, layer) in self.encoder.iter().enumerate() {
            x = layer.attention.attend_to_self(&x, bias.of_layer(i), |k, v| Ok((k, v)))?;
            x = layer.feed_forward.forward(&x)?;
        }
        Ok(self.encoder_norm.forward(&x)?.squeeze(0)?)
    }

    /// Begins to decode prompts, `[inputs][prompts of it]`, with room for `new_tokens` of each. Also gives the logits of
    /// each prompt's next token, `[prompts, vocab]`.
    pub fn begin<'a>(
        &'a self,
        memory: &'a Memory,
        prompts: &[Vec<Vec<u32>>],
        new_tokens: usize,
    ) -> Result<(Decoding<'a>, Tensor)> {
        let inputs = memory.offsets.len() - 1;
        if prompts.len() != inputs || prompts.iter().all(Vec::is_empty) {
            bail!("prompts are for {} inputs, allowed: for {inputs}, with a prompt at least", prompts.len());
        }
        // Behind the start token; shorter ones are padded at their end, where none of their tokens looks.
        let started: Vec<Vec<u32>> = prompts
            .iter()
            .flatten()
            .map(|prompt| [&[self.config.decoder_start], &prompt[..]].concat())
            .collect();
        let lengths: Vec<usize> = started.iter().map(Vec::len).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let ids: Vec<u32> = started
            .into_iter()
            .flat_map(|mut row| {
                row.resize(longest, 0);
                row
            })
            .collect();
        let cache = |_: &DecoderLayer| {
            let dims = (lengths.len(), self.config.heads, longest + new_tokens, self.config.d_kv);
            let zeros = || Tensor::zeros(dims, DType::F32, &self.device);
            Ok((zeros()?, zeros()?))
        };
        let mut decoding = Decoding {
            model: self,
            memory,
            prompts: prompts.iter().map(Vec::len).collect(),
            columns: vec![Vec::new(); lengths.len()],
            cache: self.decoder.iter().map(cache).collect::<Result<_>>()?,
            lengths: lengths.clone(),
        };
        let positions = vec![(0..longest).collect(); lengths.len()];
        let x = decoding.forward(&ids, positions, |prompt, column| column < lengths[prompt])?;
        // The last token of each prompt, whose logits are asked for.
        let last: Vec<u32> =
            lengths.iter().enumerate().map(|(i, length)| (i * longest + length - 1) as u32).collect();
        let x = x.flatten(0, 1)?.index_select(&Tensor::new(last, &self.device)?, 0)?;
        let logits = self.logits(&x)?;
        Ok((decoding, logits))
    }

    /// Greedy answers, each up to an end of the model's or `new_tokens` long, by prompt in the order of the inputs.
    pub fn generate(
        &self,
        inputs: &[Vec<u32>],
        prompts: &[Vec<Vec<u32>>],
        new_tokens: usize,
    ) -> Result<Vec<Vec<u32>>> {
        let memory = self.encode(inputs)?;
        let (mut decoding, mut logits) = self.begin(&memory, prompts, new_tokens)?;
        let mut answers: Vec<Vec<u32>> = vec![Vec::new(); decoding.lengths.len()];
        let ended = |answer: &[u32]| answer.last().is_some_and(|id| self.config.rules.ends.contains(id));
        for step in 0..new_tokens {
            if step > 0 {
                let last: Vec<u32> = answers.iter().filter_map(|answer| answer.last().copied()).collect();
                logits = decoding.step(&last)?;
            }
            let best: Vec<u32> = logits.argmax(1)?.to_vec1()?;
            for (answer, id) in answers.iter_mut().zip(best) {
                if !ended(answer) {
                    answer.push(id);
                }
            }
            if answers.iter().all(|answer| ended(answer)) {
                break;
            }
        }
        Ok(answers)
    }

    /// Of hidden states `[prompts, d_model]`.
    fn logits(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.head.forward(&(self.decoder_norm.forward(x)? * self.scale)?)?)
    }
}

impl Decoding<'_> {
    /// Takes a token of every prompt and gives the logits of the next, `[prompts, vocab]`.
    pub fn step(&mut self, ids: &[u32]) -> Result<Tensor> {
        let positions = self.lengths.iter().map(|length| vec![*length]).collect();
        let x = self.forward(ids, positions, |_, _| true)?;
        self.lengths.iter_mut().for_each(|length| *length += 1);
        self.model.logits(&x.squeeze(1)?)
    }

    /// The decoder on the next tokens of every prompt, at these positions `[prompts][tokens]`: `[prompts, tokens, d_model]`.
    /// `is_token`: of a prompt's column, whether it is no padding.
    fn forward(
        &mut self,
        ids: &[u32],
        positions: Vec<Vec<usize>>,
        is_token: impl Fn(usize, usize) -> bool,
    ) -> Result<Tensor> {
        let model = self.model;
        let (prompts, tokens) = (positions.len(), positions[0].len());
        if ids.len() != prompts * tokens {
            bail!("{} tokens, allowed: {tokens} for each of {prompts} prompts", ids.len());
        }
        let written = self.columns[0].len();
        for (prompt, (columns, positions)) in self.columns.iter_mut().zip(&positions).enumerate() {
            let new = positions.iter().enumerate();
            columns.extend(new.map(|(column, position)| is_token(prompt, column).then_some(*position)));
        }
        let columns = written + tokens;
        let bias = model.decoder_bias.of(&positions, &self.columns)?;
        let problem = self.problem(tokens)?;
        let ids = Tensor::from_slice(ids, (prompts, tokens), &model.device)?;
        let mut x = model.embedding.forward(&ids)?;
        for (i, layer) in model.decoder.iter().enumerate() {
            let cache = &self.cache[i];
            x = layer.attention.attend_to_self(&x, bias.of_layer(i), |k, v| {
                cache.0.slice_set(&k, 2, written)?;
                cache.1.slice_set(&v, 2, written)?;
                Ok((cache.0.narrow(2, 0, columns)?, cache.1.narrow(2, 0, columns)?))
            })?;
            // One K and V per input: the rows are all prompts' tokens, where they stand.
            let (k, v) = &self.memory.layers[i];
            let planned = model.attention.planned(&problem, DType::F32, &PlanOptions::default())?;
            let q = layer.cross.by_head(&layer.cross.q, &layer.cross.norm.forward(&x)?)?;
            x = (x + layer.cross.o.forward(&planned.run(&q, k, v)?.flatten_from(2)?)?)?;
            x = layer.feed_forward.forward(&x)?;
        }
        Ok(x)
    }

    /// The cross-attention of `tokens` tokens of every prompt.
    fn problem(&self, tokens: usize) -> Result<Problem> {
        let config = &self.model.config;
        let mut row_offsets = vec![0];
        row_offsets.extend(ends(self.prompts.iter().map(|prompts| prompts * tokens)));
        Ok(Problem::new(ProblemSpec {
            heads: config.heads,
            kv_heads: config.heads,
            head_dim: config.d_kv,
            // T5 does not scale its scores.
            scale: 1.0,
            softcap: None,
            row_offsets,
            keys: Keys::Packed { offsets: self.memory.offsets.clone() },
        })?)
    }
}

/// Where each of `lengths` ends, one after the other.
fn ends(lengths: impl Iterator<Item = usize>) -> impl Iterator<Item = usize> {
    lengths.scan(0, |end, length| {
        *end += length;
        Some(*end)
    })
}

impl Projections {
    fn new(config: &Config, layer: VarBuilder, name: &str) -> Result<Self> {
        let (d, inner) = (config.d_model, config.heads * config.d_kv);
        let weights = layer.pp(name);
        Ok(Self {
            norm: rms_norm(d, config.epsilon.into(), layer.pp("layer_norm"))?,
            q: linear_no_bias(d, inner, weights.pp("q"))?,
            k: linear_no_bias(d, inner, weights.pp("k"))?,
            v: linear_no_bias(d, inner, weights.pp("v"))?,
            o: linear_no_bias(inner, d, weights.pp("o"))?,
            heads: config.heads,
            head_dim: config.d_kv,
        })
    }

    /// `[.., d_model]` projected to `[.., heads, head_dim]`.
    fn by_head(&self, projection: &Linear, x: &Tensor) -> Result<Tensor> {
        let projected = projection.forward(x)?;
        let leading = &x.dims()[..x.rank() - 1];
        Ok(projected.reshape([leading, &[self.heads, self.head_dim]].concat())?)
    }

    /// Attention of every row of `x`, `[rows, tokens, d_model]`, to itself, added to it. `with_cached` takes K and V of
    /// these tokens and gives all that they attend to, `[rows, heads, keys, head_dim]`.
    fn attend_to_self(
        &self,
        x: &Tensor,
        bias: &Tensor,
        with_cached: impl FnOnce(Tensor, Tensor) -> Result<(Tensor, Tensor)>,
    ) -> Result<Tensor> {
        let normed = self.norm.forward(x)?;
        let head_major = |projection| {
            Ok::<_, anyhow::Error>(self.by_head(projection, &normed)?.transpose(1, 2)?.contiguous()?)
        };
        let (k, v) = with_cached(head_major(&self.k)?, head_major(&self.v)?)?;
        let scores = head_major(&self.q)?.matmul(&k.t()?)?.broadcast_add(bias)?;
        let attended = ops::softmax_last_dim(&scores)?.matmul(&v)?;
        Ok((x + self.o.forward(&attended.transpose(1, 2)?.contiguous()?.flatten_from(2)?)?)?)
    }
}

impl FeedForward {
    fn new(config: &Config, layer: VarBuilder) -> Result<Self> {
        let (d, ff) = (config.d_model, config.d_ff);
        let weights = layer.pp("DenseReluDense");
        let names: &[&str] = if config.gated { &["wi_0", "wi_1"] } else { &["wi"] };
        Ok(Self {
            norm: rms_norm(d, config.epsilon.into(), layer.pp("layer_norm"))?,
            wi: names
                .iter()
                .map(|name| linear_no_bias(d, ff, weights.pp(name)))
                .collect::<candle_core::Result<_>>()?,
            wo: linear_no_bias(ff, d, weights.pp("wo"))?,
            activation: match config.activation {
                config::Activation::Relu => Activation::Relu,
                config::Activation::Gelu => Activation::Gelu,
                config::Activation::GeluTanh => Activation::NewGelu,
                config::Activation::Silu => Activation::Silu,
            },
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let normed = self.norm.forward(x)?;
        let mut hidden = self.activation.forward(&self.wi[0].forward(&normed)?)?;
        if let Some(gate) = self.wi.get(1) {
            hidden = (hidden * gate.forward(&normed)?)?;
        }
        Ok((x + self.wo.forward(&hidden)?)?)
    }
}
