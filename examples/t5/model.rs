//! T5: the encoder once per input, the decoder on any number of rows per input.

use anyhow::{Result, bail};
use indicatif::ProgressBar;
use onekv::cost::ModelShape;
use onekv::{Keys, Problem, ProblemSpec};

use crate::backend::{Backend, BatchRow, LinearSource, RowsSpec};
use crate::buckets::{Direction, bias_by_offset};
use crate::config::Config;

/// Where the model's tensors come from: a checkpoint, or a random generator.
pub trait Source {
    /// The first of `names` that exists, which must have this shape.
    fn take(&mut self, names: &[&str], shape: &[usize]) -> Result<Vec<f32>>;
}

/// Encoder tokens that are projected at a time; bounds the activations of a large batch.
pub const ENCODE_TOKENS: usize = 2048;

struct Attention<B: Backend> {
    norm: B::Norm,
    qkv: B::Linear,
    out: B::Linear,
}

struct CrossAttention<B: Backend> {
    norm: B::Norm,
    q: B::Linear,
    kv: B::Linear,
    out: B::Linear,
}

struct FeedForward<B: Backend> {
    norm: B::Norm,
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
    pub backend: &'b B,
    /// Elements per head on the backend; those past d_kv are zeros in every projection.
    head_dim: usize,
    embedding: B::Table,
    encoder: Vec<EncoderLayer<B>>,
    encoder_norm: B::Norm,
    /// `[buckets, heads]` of either stack.
    encoder_bias: Vec<f32>,
    decoder: Vec<DecoderLayer<B>>,
    decoder_norm: B::Norm,
    decoder_bias: Vec<f32>,
    head: B::Linear,
}

/// Encoded inputs: the cross-attention K/V of every decoder layer.
pub struct Memory<B: Backend> {
    layers: Vec<B::CrossKv>,
    /// Place `p` has room for the keys `offsets[p]..offsets[p + 1]`.
    offsets: Vec<usize>,
}

/// A row of the batch, and what it reads.
pub struct Seat<'a> {
    pub row: BatchRow<'a>,
    /// Where the K/V of its input is.
    pub place: usize,
    /// Tokens of its input.
    pub keys: usize,
}

/// Rows in the middle of decoding.
pub struct Decoding<B: Backend> {
    rows: B::Rows,
    caches: Vec<B::SelfCache>,
    bias: B::Bias,
    /// The cross-attention of a pass in which rows begin, and of all others, over one token a row.
    prefill: Option<Planned<B>>,
    steps: Option<Planned<B>>,
    begins: bool,
}

/// A cross-attention made ready for a problem.
struct Planned<B: Backend> {
    problem: Problem,
    cross: B::Cross,
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
        let head_dim = backend.head_dim(&config)?;
        let mut loader = Loader { config: &config, source, backend, head_dim };
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
        let encoder_norm = loader.norm("encoder.final_layer_norm", 1.0)?;
        // A tied head takes the hidden states times d_model^-0.5.
        let factor = if config.tied { (d as f32).powf(-0.5) } else { 1.0 };
        let decoder_norm = loader.norm("decoder.final_layer_norm", factor)?;
        let head = backend.linear_weights(vec![LinearSource { data: head, outputs: vocab, inputs: d }])?;
        Ok(Self {
            backend,
            head_dim,
            embedding: backend.table(embedding, d)?,
            encoder,
            encoder_norm,
            encoder_bias,
            decoder,
            decoder_norm,
            decoder_bias,
            head,
            config,
        })
    }

    /// The shape that the cost model takes.
    pub fn cost_shape(&self) -> ModelShape {
        self.config.cost_shape(self.head_dim, self.backend.element_bytes())
    }

    fn inner(&self) -> usize {
        self.config.heads * self.head_dim
    }

    /// Places for the K/V of inputs of at most these lengths.
    pub fn memory(&self, lengths: impl Iterator<Item = usize>) -> Result<Memory<B>> {
        let offsets = offsets(lengths);
        let keys = offsets[offsets.len() - 1];
        let store = |_| self.backend.cross_kv(keys, self.inner());
        Ok(Memory { layers: self.decoder.iter().map(store).collect::<Result<_>>()?, offsets })
    }

    /// Encodes inputs and projects their K/V for every decoder layer, once, each into its place. Inputs that then
    /// lie side by side are encoded together.
    pub fn encode(
        &self,
        inputs: &[(usize, &[u32])],
        memory: &mut Memory<B>,
        progress: &ProgressBar,
    ) -> Result<()> {
        let (mut rest, mut before) = (inputs, None);
        while let [(place, _), ..] = rest {
            let start = memory.offsets[*place];
            let mut end = start;
            let joins = |(place, ids): &&(usize, &[u32])| {
                let beside = memory.offsets[*place] == end;
                end += ids.len();
                beside && end - start <= ENCODE_TOKENS
            };
            let (chunk, later) = rest.split_at(rest.iter().take_while(joins).count().max(1));
            rest = later;
            let ids: Vec<&[u32]> = chunk.iter().map(|(_, ids)| *ids).collect();
            let tokens: usize = ids.iter().map(|ids| ids.len()).sum();
            if before.replace(tokens).is_some_and(|before| before != tokens) {
                self.backend.trim();
            }
            let hidden = self.encode_chunk(&ids)?;
            for (layer, kv) in self.decoder.iter().zip(&mut memory.layers) {
                self.backend.project_cross_kv(kv, start, &hidden, &layer.cross.kv)?;
            }
            progress.inc(tokens as u64);
        }
        Ok(())
    }

    fn encode_chunk(&self, inputs: &[&[u32]]) -> Result<B::Matrix> {
        let (b, c) = (self.backend, &self.config);
        let offsets = offsets(inputs.iter().map(|ids| ids.len()));
        let longest = inputs.iter().map(|ids| ids.len()).max().unwrap_or(0);
        let bias = bias_by_offset(c, &self.encoder_bias, Direction::Both, longest);
        let bias = b.bias(bias, longest.saturating_sub(1))?;
        let mut x = b.embed(&self.embedding, &inputs.concat())?;
        for layer in &self.encoder {
            let a = &layer.attention;
            let qkv = b.linear(&b.rms_norm(&x, &a.norm, c.epsilon)?, &a.qkv)?;
            b.add_linear(&mut x, &b.encoder_attention(&qkv, &offsets, c.heads, &bias)?, &a.out)?;
            self.feed_forward(&mut x, &layer.feed_forward)?;
        }
        b.rms_norm(&x, &self.encoder_norm, c.epsilon)
    }

    /// Copies the `keys` keys of a place to a place of another memory: what sharing saves.
    pub fn copy(
        &self,
        from: &Memory<B>,
        place: usize,
        keys: usize,
        to: &mut Memory<B>,
        at: usize,
    ) -> Result<()> {
        let (start, at) = (from.offsets[place], to.offsets[at]);
        for (from, to) in from.layers.iter().zip(&mut to.layers) {
            self.backend.copy_cross_kv(from, start..start + keys, to, at)?;
        }
        Ok(())
    }

    /// Room for rows; none is in the batch.
    pub fn begin(&self, spec: RowsSpec) -> Result<Decoding<B>> {
        let (b, c) = (self.backend, &self.config);
        let longest = spec.longest();
        let bias = bias_by_offset(c, &self.decoder_bias, Direction::Back, longest);
        let cache = |_| b.self_cache(spec.slots, longest, self.inner());
        Ok(Decoding {
            caches: self.decoder.iter().map(cache).collect::<Result<_>>()?,
            bias: b.bias(bias, longest.saturating_sub(1))?,
            rows: b.rows(spec)?,
            prefill: None,
            steps: None,
            begins: false,
        })
    }

    /// Makes these rows the batch, those of a place side by side and places ascending; whether recorded steps are
    /// still what steps do.
    pub fn seat(&self, decoding: &mut Decoding<B>, memory: &Memory<B>, batch: &[Seat<'_>]) -> Result<bool> {
        let tokens = |seat: &Seat<'_>| seat.row.begins.map_or(1, <[u32]>::len);
        decoding.begins = batch.iter().any(|seat| seat.row.begins.is_some());
        if decoding.begins {
            self.plan_cross(&mut decoding.prefill, memory, batch, tokens)?;
        }
        let rows: Vec<BatchRow<'_>> = batch.iter().map(|seat| seat.row).collect();
        self.backend.seat(&mut decoding.rows, &rows)?;
        self.plan_cross(&mut decoding.steps, memory, batch, |_| 1)
    }

    /// For rows of a number of tokens each: all tokens of all rows of an input are query rows over its one K/V.
    /// Whether it was `planned` before.
    fn plan_cross(
        &self,
        planned: &mut Option<Planned<B>>,
        memory: &Memory<B>,
        batch: &[Seat<'_>],
        tokens: impl Fn(&Seat<'_>) -> usize,
    ) -> Result<bool> {
        // Ends of inputs, in keys and in query rows. What lies between two inputs is one that no row reads.
        let mut ends = vec![(0, 0)];
        let mut rows = 0;
        for seats in batch.chunk_by(|a, b| a.place == b.place) {
            let start = memory.offsets[seats[0].place];
            ends.push((start, rows));
            rows += seats.iter().map(&tokens).sum::<usize>();
            ends.push((start + seats[0].keys, rows));
        }
        ends.push((memory.offsets[memory.offsets.len() - 1], rows));
        ends.dedup();
        let (offsets, row_offsets) = ends.into_iter().unzip();
        let problem = Problem::new(ProblemSpec {
            heads: self.config.heads,
            kv_heads: self.config.heads,
            head_dim: self.head_dim,
            scale: 1.0,
            softcap: None,
            row_offsets,
            keys: Keys::Packed { offsets },
        })?;
        let same = planned.as_ref().is_some_and(|planned| planned.problem == problem);
        if !same {
            let cross = self.backend.plan_cross(&problem)?;
            *planned = Some(Planned { problem, cross });
        }
        Ok(same)
    }

    /// One pass over the next tokens of all rows, whole prompts first, and the choice of the ones to follow.
    pub fn step(&self, decoding: &mut Decoding<B>, memory: &Memory<B>) -> Result<()> {
        let x = self.pass(decoding, memory)?;
        let last = self.backend.last_tokens(x, &decoding.rows)?;
        decoding.begins = false;
        self.backend.choose(&self.logits(&last)?, &mut decoding.rows)
    }

    /// One pass over the next tokens of all rows: the residual stream `[tokens, d_model]`.
    pub fn pass(&self, decoding: &mut Decoding<B>, memory: &Memory<B>) -> Result<B::Matrix> {
        let (b, c) = (self.backend, &self.config);
        let Decoding { rows, caches, bias, prefill, steps, begins, .. } = decoding;
        let Some(Planned { cross, .. }) = (if *begins { prefill } else { steps }) else {
            bail!("no rows are in the batch")
        };
        let mut x = b.embed_next(&self.embedding, rows)?;
        for ((layer, cache), kv) in self.decoder.iter().zip(caches).zip(&memory.layers) {
            let a = &layer.attention;
            let qkv = b.linear(&b.rms_norm(&x, &a.norm, c.epsilon)?, &a.qkv)?;
            b.add_linear(&mut x, &b.decoder_attention(&qkv, cache, rows, c.heads, bias)?, &a.out)?;
            let a = &layer.cross;
            let q = b.linear(&b.rms_norm(&x, &a.norm, c.epsilon)?, &a.q)?;
            b.add_linear(&mut x, &b.cross_attention(&q, kv, cross)?, &a.out)?;
            self.feed_forward(&mut x, &layer.feed_forward)?;
        }
        Ok(x)
    }

    /// Logits of the residual stream `x`.
    pub fn logits(&self, x: &B::Matrix) -> Result<B::Matrix> {
        let hidden = self.backend.rms_norm(x, &self.decoder_norm, self.config.epsilon)?;
        self.backend.logits(&hidden, &self.head)
    }

    /// The most tokens that each row of the batch may still produce.
    pub fn left(&self, decoding: &Decoding<B>) -> Result<Vec<usize>> {
        self.backend.left(&decoding.rows)
    }

    /// What every row of the batch has produced.
    pub fn outputs(&self, decoding: &Decoding<B>) -> Result<Vec<Vec<u32>>> {
        self.backend.outputs(&decoding.rows)
    }

    /// Bytes of cross-attention K/V that `memory` holds.
    pub fn cross_kv_bytes(&self, memory: &Memory<B>) -> usize {
        memory.layers.iter().map(|kv| self.backend.cross_kv_bytes(kv)).sum()
    }

    fn feed_forward(&self, x: &mut B::Matrix, layer: &FeedForward<B>) -> Result<()> {
        let (b, c) = (self.backend, &self.config);
        let normed = b.rms_norm(x, &layer.norm, c.epsilon)?;
        b.add_linear(x, &b.linear_activated(&normed, &layer.wi, c.activation, c.gated)?, &layer.wo)
    }
}

/// Where each of several lengths begins when they stand one after the other, and where the last ends.
fn offsets(lengths: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut offsets = vec![0];
    offsets.extend(lengths.scan(0, |end, len| {
        *end += len;
        Some(*end)
    }));
    offsets
}

/// Takes the tensors of one block after the other, by their names in the checkpoint.
struct Loader<'l, B: Backend> {
    config: &'l Config,
    source: &'l mut dyn Source,
    backend: &'l B,
    head_dim: usize,
}

impl<B: Backend> Loader<'_, B> {
    fn norm(&mut self, name: &str, factor: f32) -> Result<B::Norm> {
        let weights = self.source.take(&[&format!("{name}.weight")], &[self.config.d_model])?;
        self.backend.norm(weights.into_iter().map(|w| w * factor).collect())
    }

    fn bias(&mut self, stack: &str) -> Result<Vec<f32>> {
        let name = format!("{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight");
        self.source.take(&[&name], &[self.config.buckets, self.config.heads])
    }

    fn take(&mut self, name: String, outputs: usize, inputs: usize) -> Result<LinearSource> {
        let data = self.source.take(&[&format!("{name}.weight")], &[outputs, inputs])?;
        Ok(LinearSource { data, outputs, inputs })
    }

    /// Projections from the residual stream to heads.
    fn projections(&mut self, module: &str, names: &[&str]) -> Result<B::Linear> {
        let (d, heads, d_kv) = (self.config.d_model, self.config.heads, self.config.d_kv);
        let parts = names.iter().map(|name| {
            let mut part = self.take(format!("{module}.{name}"), heads * d_kv, d)?;
            part.data = padded(part.data, d_kv * d, self.head_dim * d);
            part.outputs = heads * self.head_dim;
            Ok(part)
        });
        let parts = parts.collect::<Result<_>>()?;
        self.backend.linear_weights(parts)
    }

    /// The projection from heads back to the residual stream.
    fn output(&mut self, module: &str) -> Result<B::Linear> {
        let (d, heads, d_kv) = (self.config.d_model, self.config.heads, self.config.d_kv);
        let mut part = self.take(format!("{module}.o"), d, heads * d_kv)?;
        part.data = padded(part.data, d_kv, self.head_dim);
        part.inputs = heads * self.head_dim;
        self.backend.linear_weights(vec![part])
    }

    fn attention(&mut self, block: &str) -> Result<Attention<B>> {
        let module = format!("{block}.layer.0.SelfAttention");
        Ok(Attention {
            norm: self.norm(&format!("{block}.layer.0.layer_norm"), 1.0)?,
            qkv: self.projections(&module, &["q", "k", "v"])?,
            out: self.output(&module)?,
        })
    }

    fn cross(&mut self, block: &str) -> Result<CrossAttention<B>> {
        let module = format!("{block}.layer.1.EncDecAttention");
        Ok(CrossAttention {
            norm: self.norm(&format!("{block}.layer.1.layer_norm"), 1.0)?,
            q: self.projections(&module, &["q"])?,
            kv: self.projections(&module, &["k", "v"])?,
            out: self.output(&module)?,
        })
    }

    fn feed_forward(&mut self, block: &str, layer: usize) -> Result<FeedForward<B>> {
        let (d, ff) = (self.config.d_model, self.config.d_ff);
        let module = format!("{block}.layer.{layer}.DenseReluDense");
        let names: &[&str] = if self.config.gated { &["wi_0", "wi_1"] } else { &["wi"] };
        let wi =
            names.iter().map(|name| self.take(format!("{module}.{name}"), ff, d)).collect::<Result<_>>()?;
        let wo = self.take(format!("{module}.wo"), d, ff)?;
        Ok(FeedForward {
            norm: self.norm(&format!("{block}.layer.{layer}.layer_norm"), 1.0)?,
            wi: self.backend.linear_weights(wi)?,
            wo: self.backend.linear_weights(vec![wo])?,
        })
    }
}

/// Pieces of `from` elements, each filled up with zeros to `to`. Zeros in all projections of a head change
/// neither its scores nor its output.
fn padded(data: Vec<f32>, from: usize, to: usize) -> Vec<f32> {
    if from == to {
        return data;
    }
    let mut out = vec![0.0; data.len() / from * to];
    out.chunks_exact_mut(to)
        .zip(data.chunks_exact(from))
        .for_each(|(out, piece)| out[..from].copy_from_slice(piece));
    out
}
