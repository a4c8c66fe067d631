//! The seam: the shape of the compute that the model asks of a device.
//!
//! Activations are matrices of one row per token; nothing is padded. Weights, activations, caches and the state
//! of the rows are the backend's own types, so that a device keeps them: only the ids of inputs and prompts
//! cross the seam, and, when asked for, which rows have finished, outputs and logits.

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;

use std::ops::Range;

use anyhow::Result;
use onekv::Problem;
use onekv_cost::Roofline;

use crate::config::{Activated, Config, Rules};

/// One device.
pub trait Backend {
    /// Activations `[tokens, width]`, and the table of embeddings.
    type Matrix;
    /// The residual stream `[tokens, d_model]`, f32 on every device. Whoever writes it is told the norm that comes `next`,
    /// of which a device may do a part where the stream passes by anyway.
    type Stream;
    /// A projection, in the layout that the device likes.
    type Linear;
    /// A norm's weights.
    type Norm;
    /// Relative attention bias by head and distance.
    type Bias;
    /// Rows that are being decoded: tokens to come, positions, outputs, self-attention K/V. Each stays in its slot.
    type Rows;
    /// Cross-attention K/V of one decoder layer, for every input, `[keys, 2, heads, head_dim]`.
    type CrossKv;
    /// A cross-attention made ready: which query rows read which keys.
    type Cross;
    /// A recorded step.
    type Recording;

    /// Steps from one look at which rows have finished to the next.
    const STEPS_PER_LOOK: usize;
    /// Finished rows are dropped, and others enter, once the part of the batch that goes on is at most this.
    const DROP_AT: f64;

    /// What predictions and reports say of it.
    fn facts(&self) -> Facts;
    /// Elements of a head as the device computes it, at least the model's d_kv; an error for a shape it cannot take.
    fn head_dim(&self, config: &Config) -> Result<usize>;
    /// What there is of the device's own memory; `None` where it computes in the host's.
    fn memory(&self) -> Result<Option<DeviceMemory>>;
    /// Gives back memory that is kept for reuse; the peak starts anew.
    fn release(&self) -> Result<()>;
    /// Gives back what passes of other sizes have left, so that passes of many sizes do not add up.
    fn trim(&self);
    /// Waits for all work.
    fn synchronize(&self) -> Result<()>;

    /// A projection or head of `inputs` columns as the checkpoint stores it: `[outputs, inputs]`.
    fn linear_weights(&self, data: Vec<f32>, inputs: usize) -> Result<Self::Linear>;
    /// Rows of `width` elements.
    fn table(&self, data: Vec<f32>, width: usize) -> Result<Self::Matrix>;
    fn norm(&self, weights: Vec<f32>) -> Result<Self::Norm>;
    /// `values[head][i]` is the bias at offset `i - zero` of key against query.
    fn bias(&self, values: Vec<Vec<f32>>, zero: usize) -> Result<Self::Bias>;

    /// The embeddings of `ids`.
    fn embed(&self, table: &Self::Matrix, ids: &[u32], next: &Self::Norm) -> Result<Self::Stream>;
    /// `x / rms(x) * weight`, by token, for products: a device may have them divide.
    fn rms_norm(&self, x: &mut Self::Stream, weight: &Self::Norm, epsilon: f32) -> Result<Self::Matrix>;
    /// `x W^T`.
    fn linear(&self, x: &Self::Matrix, w: &Self::Linear) -> Result<Self::Matrix>;
    /// `x W^T` in f32, on every device.
    fn logits(&self, x: &Self::Matrix, w: &Self::Linear) -> Result<Self::Matrix>;
    /// `x W^T`, activated.
    fn linear_activated(&self, x: &Self::Matrix, w: &Self::Linear, by: Activated) -> Result<Self::Matrix>;
    /// `x += y W^T`.
    fn add(&self, x: &mut Self::Stream, y: &Self::Matrix, w: &Self::Linear, next: &Self::Norm) -> Result<()>;
    /// All elements, token after token.
    fn to_host(&self, x: &Self::Matrix) -> Result<Vec<f32>>;
    /// Self-attention within each input, of the tokens `starts[b]..starts[b + 1]`; `qkv` is `[tokens, 3, heads, head_dim]`. Scale 1.
    fn attend_inputs(&self, qkv: &Self::Matrix, starts: &[usize], bias: &Self::Bias) -> Result<Self::Matrix>;

    /// A store for `keys` keys of `inner` elements.
    fn cross_kv(&self, keys: usize, inner: usize) -> Result<Self::CrossKv>;
    /// Writes the K/V of inputs, projected from their encoding `x`, from key `at` on.
    fn project(&self, kv: &mut Self::CrossKv, at: usize, x: &Self::Matrix, w: &Self::Linear) -> Result<()>;
    /// Copies these keys of a K/V to key `at` of another, and what follows.
    fn copy(&self, of: &Self::CrossKv, keys: Range<usize>, to: &mut Self::CrossKv, at: usize) -> Result<()>;
    /// Bytes that the K/V occupies.
    fn cross_kv_bytes(&self, kv: &Self::CrossKv) -> usize;
    /// Makes the cross-attention of `problem` ready.
    fn plan_cross(&self, problem: &Problem) -> Result<Self::Cross>;
    /// Shared cross-attention: every query row over the one K/V of its input.
    fn attend_cross(&self, q: &Self::Matrix, kv: &Self::CrossKv, plan: &Self::Cross) -> Result<Self::Matrix>;

    /// Room for rows; the batch is empty. `biases`: one for every layer's self-attention, or one for all.
    fn rows(&self, spec: RowsSpec, biases: Vec<Self::Bias>) -> Result<Self::Rows>;
    /// Makes these rows the batch, in this order and in the memory that is there. The next pass is over all tokens
    /// of those that begin and one of each other, every later one over one token each.
    fn seat(&self, rows: &mut Self::Rows, batch: &[BatchRow<'_>]) -> Result<()>;
    /// The embeddings of the next tokens of all rows.
    fn embed_next(&self, table: &Self::Matrix, of: &Self::Rows, next: &Self::Norm) -> Result<Self::Stream>;
    /// Causal self-attention of a layer: each row's next tokens over all its tokens, whose K/V it then holds. Scale 1.
    fn attend_rows(&self, qkv: &Self::Matrix, layer: usize, rows: &mut Self::Rows) -> Result<Self::Matrix>;
    /// The last of the next tokens of every row.
    fn last_tokens(&self, x: Self::Stream, rows: &Self::Rows) -> Result<Self::Stream>;
    /// Ends a pass: every row that has not finished takes the largest of its `logits`, the first of equals, that the
    /// rules allow, or what they force, as its output and its next token.
    fn choose(&self, logits: Self::Matrix, rows: &mut Self::Rows) -> Result<()>;
    /// The most tokens that each row of the batch may still produce, 0 behind its end; waits for the device.
    fn left(&self, rows: &Self::Rows) -> Result<Vec<usize>>;
    /// What every row of the batch has produced.
    fn outputs(&self, rows: &Self::Rows) -> Result<Vec<Vec<u32>>>;
    /// Takes `times` steps. A device may record one and replay it; the caller drops the recording when a step would differ.
    fn repeat(&self, recording: &mut Option<Self::Recording>, times: usize, step: Step<'_>) -> Result<()>;
}

/// One pass over the next tokens of all rows.
pub type Step<'s> = &'s mut dyn FnMut() -> Result<()>;

/// The device and its arithmetic.
pub struct Facts {
    /// All of it in one line.
    pub name: String,
    /// Bytes of a weight and of a K/V element.
    pub element_bytes: usize,
    /// What it can do at best; `None` where it does not say.
    pub roofline: Option<Roofline>,
}

/// Bytes of a device's memory.
pub struct DeviceMemory {
    pub free: usize,
    /// The most that was taken at once since the last [`Backend::release`].
    pub peak: usize,
}

/// Room for rows, and where they end.
#[derive(Debug, Clone, Default)]
pub struct RowsSpec {
    /// Rows that are decoded at once.
    pub slots: usize,
    /// The most tokens that a row begins with.
    pub most_tokens: usize,
    pub max_new_tokens: usize,
    pub rules: Rules,
    /// Decoder layers, and elements of one token's K in each.
    pub layers: usize,
    pub inner: usize,
}

impl RowsSpec {
    /// Tokens of the longest row at its end.
    pub fn longest(&self) -> usize {
        self.most_tokens + self.max_new_tokens
    }
}

/// A row of the batch.
#[derive(Debug, Clone, Copy)]
pub struct BatchRow<'a> {
    /// Where its state and its self-attention K/V are.
    pub slot: usize,
    /// What it begins with, the start token and its prompt; `None` for a row that goes on.
    pub begins: Option<&'a [u32]>,
}

/// The error of a row whose logits were no numbers, which [`Backend::left`] or [`Backend::choose`] gives.
pub fn overflow() -> anyhow::Error {
    anyhow::anyhow!(
        "all logits of a prompt are NaN or infinite: the model's activations overflow its type. f16 overflows in large \
         T5s; bf16 (--dtype bf16, on CUDA) and f32 do not"
    )
}
