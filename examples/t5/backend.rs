//! The seam: the shape of the compute that the model asks of a device.
//!
//! Activations are matrices of one row per token; nothing is padded. Weights, activations and
//! caches are the backend's own types, so that a device backend keeps them on the device: only
//! token ids and, where asked for, logits cross the seam.

pub mod cpu;

use onekv::Problem;

use crate::config::Activation;

/// A matrix of one embedding, projection or head as the checkpoint stores it: `[out, in]`.
pub struct LinearSource {
    pub data: Vec<f32>,
    pub outputs: usize,
    pub inputs: usize,
}

/// One device.
pub trait Backend {
    /// Activations `[tokens, width]`.
    type Matrix;
    /// A projection, in the layout that the device likes.
    type Linear;
    /// Rows of embeddings, or a norm's weights.
    type Table;
    /// Relative attention bias by head and distance.
    type Bias;
    /// Self-attention K/V of one decoder layer, for every row that is being decoded.
    type SelfCache;
    /// Cross-attention K/V of one decoder layer, for every input, packed `[keys, 2, heads, d_kv]`.
    type CrossKv;

    /// Several projections of the same input, side by side.
    fn linear_weights(&self, parts: Vec<LinearSource>) -> Self::Linear;
    /// Rows of `width` elements.
    fn table(&self, data: Vec<f32>, width: usize) -> Self::Table;
    /// `values[head][i]` is the bias at offset `i - zero` of key against query.
    fn bias(&self, values: Vec<Vec<f32>>, zero: usize) -> Self::Bias;
    /// An empty cache for `rows` rows of `inner` elements per token.
    fn self_cache(&self, rows: usize, inner: usize) -> Self::SelfCache;
    /// An empty store for `keys` keys of `inner` elements.
    fn cross_kv(&self, keys: usize, inner: usize) -> Self::CrossKv;

    /// The embeddings of `ids`.
    fn embed(&self, table: &Self::Table, ids: &[u32]) -> Self::Matrix;
    /// `x / rms(x) * weight`, by row.
    fn rms_norm(&self, x: &Self::Matrix, weight: &Self::Table, epsilon: f32) -> Self::Matrix;
    /// `x W^T`.
    fn linear(&self, x: &Self::Matrix, weights: &Self::Linear) -> Self::Matrix;
    /// `sum += x W^T`.
    fn add_linear(&self, sum: &mut Self::Matrix, x: &Self::Matrix, weights: &Self::Linear);
    /// `act(h)`, or with `gated` the product of `act` of the left half and the right half.
    fn activate(&self, h: Self::Matrix, activation: Activation, gated: bool) -> Self::Matrix;
    /// `x * factor`.
    fn scale(&self, x: &mut Self::Matrix, factor: f32);
    /// The rows `rows` of `x`.
    fn take_rows(&self, x: &Self::Matrix, rows: &[usize]) -> Self::Matrix;

    /// Bidirectional self-attention within each input; `qkv` is `[tokens, 3, heads, d_kv]`, input
    /// `b` has the tokens `offsets[b]..offsets[b + 1]`. Scale 1.
    fn encoder_attention(
        &self,
        qkv: &Self::Matrix,
        offsets: &[usize],
        heads: usize,
        bias: &Self::Bias,
    ) -> Self::Matrix;
    /// Causal self-attention of each row's `counts[row]` new tokens over all its tokens, which
    /// `cache` then holds. Scale 1.
    fn decoder_attention(
        &self,
        qkv: &Self::Matrix,
        cache: &mut Self::SelfCache,
        counts: &[usize],
        heads: usize,
        bias: &Self::Bias,
    ) -> Self::Matrix;
    /// Shared cross-attention: every query row over the one K/V of its input.
    fn cross_attention(
        &self,
        q: &Self::Matrix,
        kv: &Self::CrossKv,
        problem: &Problem,
    ) -> anyhow::Result<Self::Matrix>;

    /// Appends projected K/V `[keys, 2, heads, d_kv]` of further inputs.
    fn append_cross_kv(&self, kv: &mut Self::CrossKv, projected: Self::Matrix);
    /// Bytes that the K/V occupies.
    fn cross_kv_bytes(&self, kv: &Self::CrossKv) -> usize;
    /// Drops the rows that are not kept.
    fn retain_rows(&self, cache: &mut Self::SelfCache, keep: &[bool]);

    /// The position of the largest element of each row, the first of equals.
    fn argmax(&self, logits: &Self::Matrix) -> Vec<u32>;
    /// All elements, row after row.
    fn to_host(&self, x: &Self::Matrix) -> Vec<f32>;
}
