//! T5: the encoder once per input, the decoder on any number of rows per input.

use anyhow::Result;
use indicatif::ProgressBar;
use onekv::{Keys, Problem, ProblemSpec};

use crate::backend::{Backend, LinearSource};
use crate::buckets::{Direction, bias_by_offset};
use crate::config::Config;

/// Where the model's tensors come from: a checkpoint, or a random generator.
pub trait Source {
    /// The first of `names` that exists, which must have this shape.
    fn take(&mut self, names: &[&str], shape: &[usize]) -> Result<Vec<f32>>;
}

/// Encoder tokens that are projected at a time; bounds the activations of a large batch.
const ENCODE_TOKENS: usize = 2048;

struct Attention<B: Backend> {
    norm: B::Table,
    qkv: B::Linear,
    out: B::Linear,
}

struct CrossAttention<B: Backend> {
    norm: B::Table,
    q: B::Linear,
    kv: B::Linear,
    out: B::Linear,
}

struct FeedForward<B: Backend> {
    norm: B::Table,
    wi: B::Linear,
    wo: B::Linear,
}

struct EncoderLayer<B: Backend> {
    attention: Attention<B>,
    feed_forward: FeedForward<B>,
}

struct DecoderLayer<B: Backend> {
    attention: Attention<B>,
    cross: CrossAttention<B>,
    feed_forward: FeedForward<B>,
}

/// A T5 on a backend.
pub struct Model<'b, B: Backend> {
    pub config: Config,
    backend: &'b B,
    embedding: B::Table,
    encoder: Vec<EncoderLayer<B>>,
    encoder_norm: B::Table,
    /// `[buckets, heads]` of either stack.
    encoder_bias: Vec<f32>,
    decoder: Vec<DecoderLayer<B>>,
    decoder_norm: B::Table,
    decoder_bias: Vec<f32>,
    head: B::Linear,
}

/// Encoded inputs: the cross-attention K/V of every decoder layer.
pub struct Memory<B: Backend> {
    layers: Vec<B::CrossKv>,
    /// Input `b` has the keys `offsets[b]..offsets[b + 1]`.
    pub offsets: Vec<usize>,
}

/// Rows in the middle of decoding.
pub struct Decoding<B: Backend> {
    caches: Vec<B::SelfCache>,
    bias: B::Bias,
}

impl<'b, B: Backend> Model<'b, B> {
    /// Takes every tensor from `source`; `progress` advances by layer.
    pub fn load(
        config: Config,
        source: &mut dyn Source,
        backend: &'b B,
        progress: &ProgressBar,
    ) -> Result<Self> {
        progress.set_length((config.encoder_layers + config.decoder_layers) as u64);
        let mut loader = Loader { config: &config, source, backend };
        let (d, vocab) = (config.d_model, config.vocab);
        let embedding = loader.source.take(
            &["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"],
            &[vocab, d],
        )?;
        let head = if config.tied {
            embedding.clone()
        } else {
            loader.source.take(&["lm_head.weight"], &[vocab, d])?
        };
        let (encoder_bias, decoder_bias) = (loader.bias("encoder")?, loader.bias("decoder")?);
        let encoder = (0..config.encoder_layers)
            .map(|i| {
                progress.inc(1);
                let block = format!("encoder.block.{i}");
                Ok(EncoderLayer {
                    attention: loader.attention(&block)?,
                    feed_forward: loader.feed_forward(&block, 1)?,
                })
            })
            .collect::<Result<_>>()?;
        let decoder = (0..config.decoder_layers)
            .map(|i| {
                progress.inc(1);
                let block = format!("decoder.block.{i}");
                Ok(DecoderLayer {
                    attention: loader.attention(&block)?,
                    cross: loader.cross(&block)?,
                    feed_forward: loader.feed_forward(&block, 2)?,
                })
            })
            .collect::<Result<_>>()?;
        let encoder_norm = loader.norm("encoder.final_layer_norm")?;
        let decoder_norm = loader.norm("decoder.final_layer_norm")?;
        Ok(Self {
            backend,
            embedding: backend.table(embedding, d),
            encoder,
            encoder_norm,
            encoder_bias,
            decoder,
            decoder_norm,
            decoder_bias,
            head: backend.linear_weights(vec![LinearSource { data: head, outputs: vocab, inputs: d }]),
            config,
        })
    }

    /// Encodes the inputs and projects their K/V for every decoder layer, once.
    pub fn encode(&self, inputs: &[&[u32]], progress: &ProgressBar) -> Memory<B> {
        let (b, c) = (self.backend, &self.config);
        let total = inputs.iter().map(|ids| ids.len()).sum();
        let mut memory = Memory {
            layers: (0..c.decoder_layers).map(|_| b.cross_kv(total, c.inner())).collect(),
            offsets: vec![0],
        };
        let mut rest = inputs;
        while !rest.is_empty() {
            let mut tokens = 0;
            let fits = |ids: &&&[u32]| {
                tokens += ids.len();
                tokens <= ENCODE_TOKENS
            };
            let (chunk, later) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            rest = later;
            let hidden = self.encode_chunk(chunk);
            for (layer, kv) in self.decoder.iter().zip(&mut memory.layers) {
                b.append_cross_kv(kv, b.linear(&hidden, &layer.cross.kv));
            }
            for ids in chunk {
                memory.offsets.push(memory.offsets[memory.offsets.len() - 1] + ids.len());
            }
            progress.inc(chunk.len() as u64);
        }
        memory
    }

    fn encode_chunk(&self, inputs: &[&[u32]]) -> B::Matrix {
        let (b, c) = (self.backend, &self.config);
        let ids: Vec<u32> = inputs.concat();
        let mut offsets = vec![0];
        offsets.extend(inputs.iter().scan(0, |end, ids| {
            *end += ids.len();
            Some(*end)
        }));
        let longest = inputs.iter().map(|ids| ids.len()).max().unwrap_or(0);
        let bias = bias_by_offset(c, &self.encoder_bias, Direction::Both, longest);
        let bias = b.bias(bias, longest.saturating_sub(1));
        let mut x = b.embed(&self.embedding, &ids);
        for layer in &self.encoder {
            let a = &layer.attention;
            let qkv = b.linear(&b.rms_norm(&x, &a.norm, c.epsilon), &a.qkv);
            b.add_linear(&mut x, &b.encoder_attention(&qkv, &offsets, c.heads, &bias), &a.out);
            self.feed_forward(&mut x, &layer.feed_forward);
        }
        b.rms_norm(&x, &self.encoder_norm, c.epsilon)
    }

    /// Begins decoding `rows` rows of at most `longest` tokens each.
    pub fn begin(&self, rows: usize, longest: usize) -> Decoding<B> {
        let (b, c) = (self.backend, &self.config);
        let bias = bias_by_offset(c, &self.decoder_bias, Direction::Back, longest);
        Decoding {
            caches: (0..c.decoder_layers).map(|_| b.self_cache(rows, c.inner())).collect(),
            bias: b.bias(bias, longest.saturating_sub(1)),
        }
    }

    /// Drops the rows that are not kept.
    pub fn retain(&self, decoding: &mut Decoding<B>, keep: &[bool]) {
        decoding.caches.iter_mut().for_each(|cache| self.backend.retain_rows(cache, keep));
    }

    /// One pass over the new `tokens` of all rows; returns the final hidden states `[tokens, d]`.
    ///
    /// Row `r` has the next `counts[r]` tokens; input `b` has the next `rows_per_input[b]` rows.
    pub fn decode(
        &self,
        decoding: &mut Decoding<B>,
        memory: &Memory<B>,
        tokens: &[u32],
        counts: &[usize],
        rows_per_input: &[usize],
    ) -> Result<B::Matrix> {
        let (b, c) = (self.backend, &self.config);
        let mut row_offsets = vec![0];
        let mut left = counts;
        for rows in rows_per_input {
            let (these, rest) = left.split_at(*rows);
            left = rest;
            row_offsets.push(row_offsets[row_offsets.len() - 1] + these.iter().sum::<usize>());
        }
        // All tokens of all prompts of an input are query rows over its one K/V.
        let problem = Problem::new(ProblemSpec {
            heads: c.heads,
            kv_heads: c.heads,
            head_dim: c.d_kv,
            scale: 1.0,
            softcap: None,
            row_offsets,
            keys: Keys::Packed { offsets: memory.offsets.clone() },
        })?;
        let mut x = b.embed(&self.embedding, tokens);
        for ((layer, cache), kv) in self.decoder.iter().zip(&mut decoding.caches).zip(&memory.layers) {
            let a = &layer.attention;
            let qkv = b.linear(&b.rms_norm(&x, &a.norm, c.epsilon), &a.qkv);
            let attended = b.decoder_attention(&qkv, cache, counts, c.heads, &decoding.bias);
            b.add_linear(&mut x, &attended, &a.out);
            let cross = &layer.cross;
            let q = b.linear(&b.rms_norm(&x, &cross.norm, c.epsilon), &cross.q);
            b.add_linear(&mut x, &b.cross_attention(&q, kv, &problem)?, &cross.out);
            self.feed_forward(&mut x, &layer.feed_forward);
        }
        Ok(b.rms_norm(&x, &self.decoder_norm, c.epsilon))
    }

    /// Logits of the hidden states `rows`.
    pub fn logits(&self, hidden: &B::Matrix, rows: &[usize]) -> B::Matrix {
        let mut hidden = self.backend.take_rows(hidden, rows);
        if self.config.tied {
            self.backend.scale(&mut hidden, (self.config.d_model as f32).powf(-0.5));
        }
        self.backend.linear(&hidden, &self.head)
    }

    /// Bytes of cross-attention K/V that `memory` holds.
    pub fn cross_kv_bytes(&self, memory: &Memory<B>) -> usize {
        memory.layers.iter().map(|kv| self.backend.cross_kv_bytes(kv)).sum()
    }

    fn feed_forward(&self, x: &mut B::Matrix, layer: &FeedForward<B>) {
        let b = self.backend;
        let h = b.linear(&b.rms_norm(x, &layer.norm, self.config.epsilon), &layer.wi);
        b.add_linear(x, &b.activate(h, self.config.activation, self.config.gated), &layer.wo);
    }
}

/// Takes the tensors of one block after the other, by their names in the checkpoint.
struct Loader<'l, B: Backend> {
    config: &'l Config,
    source: &'l mut dyn Source,
    backend: &'l B,
}

impl<B: Backend> Loader<'_, B> {
    fn norm(&mut self, name: &str) -> Result<B::Table> {
        let d = self.config.d_model;
        Ok(self.backend.table(self.source.take(&[&format!("{name}.weight")], &[d])?, d))
    }

    fn bias(&mut self, stack: &str) -> Result<Vec<f32>> {
        let name = format!("{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight");
        self.source.take(&[&name], &[self.config.buckets, self.config.heads])
    }

    fn linear(&mut self, module: &str, names: &[&str], outputs: usize, inputs: usize) -> Result<B::Linear> {
        let parts = names
            .iter()
            .map(|name| {
                let data = self.source.take(&[&format!("{module}.{name}.weight")], &[outputs, inputs])?;
                Ok(LinearSource { data, outputs, inputs })
            })
            .collect::<Result<_>>()?;
        Ok(self.backend.linear_weights(parts))
    }

    fn attention(&mut self, block: &str) -> Result<Attention<B>> {
        let (d, inner) = (self.config.d_model, self.config.inner());
        let module = format!("{block}.layer.0.SelfAttention");
        Ok(Attention {
            norm: self.norm(&format!("{block}.layer.0.layer_norm"))?,
            qkv: self.linear(&module, &["q", "k", "v"], inner, d)?,
            out: self.linear(&module, &["o"], d, inner)?,
        })
    }

    fn cross(&mut self, block: &str) -> Result<CrossAttention<B>> {
        let (d, inner) = (self.config.d_model, self.config.inner());
        let module = format!("{block}.layer.1.EncDecAttention");
        Ok(CrossAttention {
            norm: self.norm(&format!("{block}.layer.1.layer_norm"))?,
            q: self.linear(&module, &["q"], inner, d)?,
            kv: self.linear(&module, &["k", "v"], inner, d)?,
            out: self.linear(&module, &["o"], d, inner)?,
        })
    }

    fn feed_forward(&mut self, block: &str, layer: usize) -> Result<FeedForward<B>> {
        let (d, ff) = (self.config.d_model, self.config.d_ff);
        let module = format!("{block}.layer.{layer}.DenseReluDense");
        let wi: &[&str] = if self.config.gated { &["wi_0", "wi_1"] } else { &["wi"] };
        Ok(FeedForward {
            norm: self.norm(&format!("{block}.layer.{layer}.layer_norm"))?,
            wi: self.linear(&module, wi, ff, d)?,
            wo: self.linear(&module, &["wo"], d, ff)?,
        })
    }
}
