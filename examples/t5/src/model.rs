//! T5: the encoder once per input, the decoder on any number of rows per input.

use anyhow::{Result, bail};
use indicatif::ProgressBar;
use onekv::{Keys, Problem, ProblemSpec};
use onekv_cost::ENCODE_TOKENS;

use crate::backend::{Backend, BatchRow, RowsSpec};
use crate::buckets::{Direction, bias_by_offset};
use crate::config::{Activated, Config, Reading};

/// Where the model's tensors come from: a checkpoint, or a random generator.
pub trait Source {
    /// The tensor of this name, which must have this shape.
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>>;
}

/// A norm, projections from the residual stream, and the one back to it.
struct Sublayer<B: Backend> {
    norm: B::Norm,
    into: B::Linear,
    out: B::Linear,
}

struct EncoderLayer<B: Backend> {
    attention: Sublayer<B>,
    feed_forward: Sublayer<B>,
}

struct DecoderLayer<B: Backend> {
    attention: Sublayer<B>,
    cross: Sublayer<B>,
    /// To the cross-attention's K and V, from the encoding.
    kv: B::Linear,
    feed_forward: Sublayer<B>,
}

/// A T5 on a backend.
pub struct Model<'b, B: Backend> {
    pub config: Config,
    pub backend: &'b B,
    /// Elements per head on the backend; those past d_kv are zeros in every projection.
    head_dim: usize,
    embedding: B::Matrix,
    encoder: Vec<EncoderLayer<B>>,
    encoder_norm: B::Norm,
    /// `[buckets, heads]`, one for all layers of the stack or one for each.
    encoder_bias: Vec<Vec<f32>>,
    decoder: Vec<DecoderLayer<B>>,
    decoder_norm: B::Norm,
    decoder_bias: Vec<Vec<f32>>,
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
        reading: Reading,
        source: &mut dyn Source,
        backend: &'b B,
        progress: &ProgressBar,
    ) -> Result<Self> {
        progress.set_length((config.encoder_layers + config.decoder_layers) as u64);
        let head_dim = backend.head_dim(&config)?;
        let mut loader = Loader { config: &config, source, backend, head_dim };
        let (d, vocab) = (config.d_model, config.vocab);
        let embedding = loader.source.take("shared.weight", &[vocab, d])?;
        let head = if reading.own_head {
            loader.source.take("lm_head.weight", &[vocab, d])?
        } else {
            embedding.clone()
        };
        let encoder_bias = loader.bias("encoder", config.encoder_layers)?;
        let decoder_bias = loader.bias("decoder", config.decoder_layers)?;
        let encoder = (0..config.encoder_layers)
            .map(|i| {
                progress.inc(1);
                let block = format!("encoder.block.{i}");
                Ok(EncoderLayer {
                    attention: loader.attention(&block, "0.SelfAttention", &["q", "k", "v"])?,
                    feed_forward: loader.feed_forward(&block, 1)?,
                })
            })
            .collect::<Result<_>>()?;
        let decoder = (0..config.decoder_layers)
            .map(|i| {
                progress.inc(1);
                let block = format!("decoder.block.{i}");
                Ok(DecoderLayer {
                    attention: loader.attention(&block, "0.SelfAttention", &["q", "k", "v"])?,
                    cross: loader.attention(&block, "1.EncDecAttention", &["q"])?,
                    kv: loader.projections(&format!("{block}.layer.1.EncDecAttention"), &["k", "v"])?,
                    feed_forward: loader.feed_forward(&block, 2)?,
                })
            })
            .collect::<Result<_>>()?;
        let encoder_norm = loader.norm("encoder.final_layer_norm", 1.0)?;
        let factor = if reading.scaled { (d as f32).powf(-0.5) } else { 1.0 };
        let decoder_norm = loader.norm("decoder.final_layer_norm", factor)?;
        let head = backend.linear_weights(head, d)?;
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

    /// Places for the K/V of inputs of at most these lengths.
    pub fn memory(&self, lengths: impl Iterator<Item = usize>) -> Result<Memory<B>> {
        let offsets = offsets(lengths);
        let keys = offsets[offsets.len() - 1];
        let store = |_| self.backend.cross_kv(keys, self.config.heads * self.head_dim);
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
                self.backend.project(kv, start, &hidden, &layer.kv)?;
            }
            progress.inc(tokens as u64);
        }
        Ok(())
    }

    fn encode_chunk(&self, inputs: &[&[u32]]) -> Result<B::Matrix> {
        let (b, c) = (self.backend, &self.config);
        let offsets = offsets(inputs.iter().map(|ids| ids.len()));
        let longest = inputs.iter().map(|ids| ids.len()).max().unwrap_or(0);
        let biases = self.biases(&self.encoder_bias, Direction::Both, longest)?;
        // The norm that each layer begins with, and the last.
        let mut norms = self.encoder.iter().map(|layer| &layer.attention.norm).chain([&self.encoder_norm]);
        let mut next = || norms.next().unwrap_or(&self.encoder_norm);
        let mut x = b.embed(&self.embedding, &inputs.concat(), next())?;
        for (layer, bias) in self.encoder.iter().zip(biases.iter().cycle()) {
            let qkv = self.normed_linear(&mut x, &layer.attention)?;
            let attended = b.attend_inputs(&qkv, &offsets, bias)?;
            b.add(&mut x, &attended, &layer.attention.out, &layer.feed_forward.norm)?;
            self.feed_forward(&mut x, &layer.feed_forward, next())?;
        }
        b.rms_norm(&mut x, &self.encoder_norm, c.epsilon)
    }

    /// The relative bias of a stack's layers for sequences of `longest` tokens.
    fn biases(&self, tables: &[Vec<f32>], direction: Direction, longest: usize) -> Result<Vec<B::Bias>> {
        let bias = |table: &Vec<f32>| {
            let values = bias_by_offset(&self.config, table, direction, longest);
            self.backend.bias(values, longest.saturating_sub(1))
        };
        tables.iter().map(bias).collect()
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
            self.backend.copy(from, start..start + keys, to, at)?;
        }
        Ok(())
    }

    /// Room for rows; none is in the batch. The spec's layers become those of the model.
    pub fn begin(&self, spec: RowsSpec) -> Result<Decoding<B>> {
        let biases = self.biases(&self.decoder_bias, Direction::Back, spec.longest())?;
        let inner = self.config.heads * self.head_dim;
        let spec = RowsSpec { layers: self.decoder.len(), inner, ..spec };
        Ok(Decoding { rows: self.backend.rows(spec, biases)?, prefill: None, steps: None, begins: false })
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
        let mut last = self.backend.last_tokens(x, &decoding.rows)?;
        decoding.begins = false;
        self.backend.choose(self.logits(&mut last)?, &mut decoding.rows)
    }

    /// One pass over the next tokens of all rows: the residual stream `[tokens, d_model]`.
    pub fn pass(&self, decoding: &mut Decoding<B>, memory: &Memory<B>) -> Result<B::Stream> {
        let b = self.backend;
        let Decoding { rows, prefill, steps, begins } = decoding;
        let Some(Planned { cross, .. }) = (if *begins { prefill } else { steps }) else {
            bail!("no rows are in the batch")
        };
        let mut norms = self.decoder.iter().map(|layer| &layer.attention.norm).chain([&self.decoder_norm]);
        let mut next = || norms.next().unwrap_or(&self.decoder_norm);
        let mut x = b.embed_next(&self.embedding, rows, next())?;
        for (i, (layer, kv)) in self.decoder.iter().zip(&memory.layers).enumerate() {
            let qkv = self.normed_linear(&mut x, &layer.attention)?;
            let attended = b.attend_rows(&qkv, i, rows)?;
            b.add(&mut x, &attended, &layer.attention.out, &layer.cross.norm)?;
            let q = self.normed_linear(&mut x, &layer.cross)?;
            let attended = b.attend_cross(&q, kv, cross)?;
            b.add(&mut x, &attended, &layer.cross.out, &layer.feed_forward.norm)?;
            self.feed_forward(&mut x, &layer.feed_forward, next())?;
        }
        Ok(x)
    }

    /// Logits of the residual stream `x`.
    pub fn logits(&self, x: &mut B::Stream) -> Result<B::Matrix> {
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

    /// What a sublayer takes of the residual stream: normed, and projected.
    fn normed_linear(&self, x: &mut B::Stream, layer: &Sublayer<B>) -> Result<B::Matrix> {
        self.backend.linear(&self.backend.rms_norm(x, &layer.norm, self.config.epsilon)?, &layer.into)
    }

    /// `next`: the norm behind it.
    fn feed_forward(&self, x: &mut B::Stream, layer: &Sublayer<B>, next: &B::Norm) -> Result<()> {
        let (b, c) = (self.backend, &self.config);
        let normed = b.rms_norm(x, &layer.norm, c.epsilon)?;
        let by = Activated { activation: c.activation, gated: c.gated };
        b.add(x, &b.linear_activated(&normed, &layer.into, by)?, &layer.out, next)
    }
}

/// Where each of several lengths begins when they stand one after the other, and where the last ends.
pub fn offsets(lengths: impl Iterator<Item = usize>) -> Vec<usize> {
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
        let weights = self.source.take(&format!("{name}.weight"), &[self.config.d_model])?;
        self.backend.norm(weights.into_iter().map(|w| w * factor).collect())
    }

    /// The tables of a stack: one that serves every layer, or one for each.
    fn bias(&mut self, stack: &str, layers: usize) -> Result<Vec<Vec<f32>>> {
        let shape = [self.config.buckets, self.config.heads];
        let tables = if self.config.bias_by_layer { layers } else { 1 };
        let name = |i| format!("{stack}.block.{i}.layer.0.SelfAttention.relative_attention_bias.weight");
        (0..tables).map(|i| self.source.take(&name(i), &shape)).collect()
    }

    /// The matrices `names` of a module, `shape` each, one above the other; heads are as wide as the device wants them.
    fn linear(&mut self, module: &str, names: &[&str], shape: [usize; 2], heads: Heads) -> Result<B::Linear> {
        let (d_kv, dim) = (self.config.d_kv, self.head_dim);
        let [_, inputs] = shape;
        let mut all = Vec::new();
        for name in names {
            let data = self.source.take(&format!("{module}.{name}.weight"), &shape)?;
            let data = match heads {
                Heads::None => data,
                Heads::Outputs => padded(data, d_kv * inputs, dim * inputs),
                Heads::Inputs => padded(data, d_kv, dim),
            };
            if all.is_empty() { all = data } else { all.extend(data) }
        }
        let inputs = if heads == Heads::Inputs { inputs / d_kv * dim } else { inputs };
        self.backend.linear_weights(all, inputs)
    }

    /// Projections from the residual stream to heads.
    fn projections(&mut self, module: &str, names: &[&str]) -> Result<B::Linear> {
        let shape = [self.config.heads * self.config.d_kv, self.config.d_model];
        self.linear(module, names, shape, Heads::Outputs)
    }

    /// `module` is its sublayer's number in the block, and its name.
    fn attention(&mut self, block: &str, module: &str, into: &[&str]) -> Result<Sublayer<B>> {
        let shape = [self.config.d_model, self.config.heads * self.config.d_kv];
        let norm = format!("{block}.layer.{}.layer_norm", &module[..1]);
        let module = format!("{block}.layer.{module}");
        Ok(Sublayer {
            norm: self.norm(&norm, 1.0)?,
            into: self.projections(&module, into)?,
            out: self.linear(&module, &["o"], shape, Heads::Inputs)?,
        })
    }

    fn feed_forward(&mut self, block: &str, layer: usize) -> Result<Sublayer<B>> {
        let (d, ff) = (self.config.d_model, self.config.d_ff);
        let module = format!("{block}.layer.{layer}.DenseReluDense");
        let names: &[&str] = if self.config.gated { &["wi_0", "wi_1"] } else { &["wi"] };
        Ok(Sublayer {
            norm: self.norm(&format!("{block}.layer.{layer}.layer_norm"), 1.0)?,
            into: self.linear(&module, names, [ff, d], Heads::None)?,
            out: self.linear(&module, &["wo"], [d, ff], Heads::None)?,
        })
    }
}

/// On which side of a matrix the heads are.
#[derive(Clone, Copy, PartialEq)]
enum Heads {
    None,
    Outputs,
    Inputs,
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
