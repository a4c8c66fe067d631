//! What is computed and moved.

use crate::numbers::count;
use crate::problem::{Method, ModelShape, Workload};

/// Arithmetic and memory traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    pub flops: u64,
    pub bytes: u64,
}

impl Cost {
    fn of(flops: f64, bytes: f64) -> Self {
        Self { flops: count(flops), bytes: count(bytes) }
    }

    /// FLOP per byte, or 0 where nothing is moved.
    pub fn intensity(&self) -> f64 {
        if self.bytes == 0 { 0.0 } else { self.flops as f64 / self.bytes as f64 }
    }
}

impl std::ops::Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { flops: self.flops.saturating_add(other.flops), bytes: self.bytes.saturating_add(other.bytes) }
    }
}

/// The cost of a whole request by part of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breakdown {
    pub encoder: Cost,
    /// The decoder's self-attention with its projections.
    pub self_attention: Cost,
    /// The decoder's cross-attention with its projections, those of the encoder's K/V included.
    pub cross_attention: Cost,
    pub feed_forward: Cost,
    pub head: Cost,
}

impl Breakdown {
    pub(crate) fn parts(&self) -> [Cost; 5] {
        [self.encoder, self.self_attention, self.cross_attention, self.feed_forward, self.head]
    }

    /// Everything but the encoder's layers.
    pub(crate) fn decoder(&self) -> Cost {
        self.self_attention + self.cross_attention + self.feed_forward + self.head
    }

    pub fn total(&self) -> Cost {
        self.encoder + self.decoder()
    }
}

/// Cross-attention K/V of all decoder layers, in bytes: stored once per encoder sequence, or once per prompt.
pub fn cross_kv_bytes(method: Method, model: &ModelShape, work: &Workload) -> u64 {
    count(work.stored_keys(method) * model.kv_bytes())
}

/// Heads of an attention, grouped where there are fewer of K and V.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attention {
    pub heads: u64,
    pub kv_heads: u64,
    pub head_dim: u64,
    pub element_bytes: u64,
}

impl Attention {
    /// One token per row in one layer, without projections: batches of `[inputs, rows of each, keys of each]`, several where the
    /// keys of the same rows are in parts. `4 b U n d` FLOPs per head; every stored K/V and Q read once, the output written once.
    pub fn step(&self, batches: &[[u64; 3]]) -> Cost {
        let [heads, kv_heads, dim, bytes] =
            [self.heads, self.kv_heads, self.head_dim, self.element_bytes].map(|n| n as f64);
        let batches = batches.iter().map(|batch| batch.map(|n| n as f64));
        let rows = batches.clone().next().map_or(0.0, |[inputs, rows, _]| inputs * rows);
        let scores: f64 = batches.clone().map(|[inputs, rows, keys]| inputs * rows * keys).sum();
        let stored: f64 = batches.map(|[inputs, _, keys]| inputs * keys).sum();
        Cost::of(4.0 * scores * heads * dim, (2.0 * stored * kv_heads + 2.0 * rows * heads) * dim * bytes)
    }
}

/// Bytes that no decode step of one token per prompt can avoid: every weight of the decoder and the head once, every
/// stored K/V of the cross-attention once. The self-attention's K/V, which grows, is left out.
pub fn decode_step_bytes(method: Method, model: &ModelShape, work: &Workload) -> u64 {
    let layer = 6.0 * model.projection() + model.ffn_weights();
    let weights = model.decoder_layers as f64 * layer + model.head();
    count(weights * model.element_bytes as f64 + work.stored_keys(method) * model.kv_bytes())
}

/// The cost of encoding, prompt prefill and greedy decoding. Logits are computed for the last
/// position of a prompt and every decoded token but the last.
pub fn breakdown(method: Method, model: &ModelShape, work: &Workload) -> Breakdown {
    let (inner, projection, ffn_weights) = (model.inner(), model.projection(), model.ffn_weights());
    let [layers, bytes, passes] =
        [model.decoder_layers, model.element_bytes, work.new_tokens].map(|n| n as f64);
    let rows = work.rows();
    let (encoded, stored, n) = (work.encoded(method), work.stored_keys(method), work.sequence(method));
    // Copies are made by reading one and writing all.
    let copied = if method == Method::PidReplicated { encoded + stored } else { 0.0 };
    // Decoder positions per row: what comes before the first new token, and all new tokens but the last.
    let (prefill, steps) = (work.prefill(method), work.new_tokens.saturating_sub(1) as f64);
    let positions = if work.new_tokens == 0 { 0.0 } else { prefill + steps };
    let tokens = rows * positions;

    let attention = 4.0 * encoded * n * inner;
    let encoder = Cost::of(
        2.0 * encoded * model.encoder_weights() + model.encoder_layers as f64 * attention,
        model.encoder_weights() * bytes,
    );
    // Position i reads i + 1 keys; what a step reads from the cache is what lies before it.
    let self_reads = rows * positions * (positions + 1.0) / 2.0;
    let cached = steps * prefill + steps * (steps - 1.0) / 2.0;
    let self_attention = Cost::of(
        layers * (tokens * 8.0 * projection + 4.0 * self_reads * inner),
        layers * (passes * 4.0 * projection + 2.0 * rows * cached * inner + 4.0 * tokens * inner) * bytes,
    );
    let projected = encoded * 4.0 * projection + tokens * 4.0 * projection;
    let moved = 2.0 * (passes * stored + copied) * inner + 2.0 * tokens * inner;
    let cross_attention = Cost::of(
        layers * (projected + 4.0 * tokens * n * inner),
        layers * ((2.0 + 2.0 * passes) * projection + moved) * bytes,
    );
    let feed_forward = Cost::of(layers * tokens * 2.0 * ffn_weights, layers * passes * ffn_weights * bytes);
    let head = Cost::of(2.0 * rows * passes * model.head(), passes * model.head() * bytes);
    Breakdown { encoder, self_attention, cross_attention, feed_forward, head }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::T5_BASE;

    const DIALOGUE: Workload =
        Workload { inputs: 1, prompts: 30, keys: 512, prompt_tokens: 0, new_tokens: 10 };
    /// T5-base's, in 16 bits.
    const HEADS: Attention = Attention { heads: 12, kv_heads: 12, head_dim: 64, element_bytes: 2 };

    #[test]
    fn kv_of_t5_base_is_18_9_mb_shared_and_566_mb_replicated() {
        assert_eq!(cross_kv_bytes(Method::Pid, &T5_BASE, &DIALOGUE), 18_874_368);
        assert_eq!(cross_kv_bytes(Method::Pie, &T5_BASE, &DIALOGUE), 566_231_040);
    }

    #[test]
    fn intensity_is_about_one_replicated_and_the_harmonic_sum_shared() {
        let pie = HEADS.step(&[[30, 1, 512]]).intensity();
        assert!((pie - 1.0 / (1.0 + 1.0 / 512.0)).abs() < 1e-12, "{pie}");
        let pid = HEADS.step(&[[1, 30, 512]]).intensity();
        assert!((pid - 1.0 / (1.0 / 30.0 + 1.0 / 512.0)).abs() < 1e-12, "{pid}");
    }

    #[test]
    fn keys_in_parts_are_read_by_grouped_heads_once() {
        let attention = Attention { heads: 4, kv_heads: 2, head_dim: 3, element_bytes: 2 };
        // 5 rows behind 7 keys that they share, with one more of each its own: 40 scores of 4 heads.
        let cost = attention.step(&[[1, 5, 7], [5, 1, 1]]);
        assert_eq!(cost.flops, 4 * 40 * 4 * 3);
        // K and V of 12 keys; q and o of 5 rows, once.
        assert_eq!(cost.bytes, (2 * 12 * 2 + 2 * 5 * 4) * 3 * 2);
        assert_eq!(attention.step(&[]), Cost { flops: 0, bytes: 0 });
    }

    /// A model small enough to count by hand: d = 2, inner = 1, ff = 3, 5 words, one layer each.
    #[test]
    fn a_hand_worked_model() {
        let model = ModelShape {
            d_model: 2,
            heads: 1,
            head_dim: 1,
            d_ff: 3,
            gated: true,
            vocab: 5,
            encoder_layers: 1,
            decoder_layers: 1,
            element_bytes: 4,
        };
        let work = Workload { inputs: 1, prompts: 2, keys: 4, prompt_tokens: 1, new_tokens: 2 };
        let pid = breakdown(Method::Pid, &model, &work);
        // 4 tokens; per token 4 projections of 2 MACs and 3 matrices of 6 MACs, 4 keys of 2 MACs.
        assert_eq!(pid.encoder, Cost { flops: 4 * 2 * (8 + 18 + 8), bytes: (8 + 18) * 4 });
        // 2 rows x (start, prompt, first new token): 6 tokens; keys read per row: 1 + 2 + 3.
        assert_eq!(pid.self_attention.flops, 6 * 16 + 2 * 6 * 4);
        // Two passes of 8 weights; the second reads 2 cached K and V of both rows; q, k, v, o.
        assert_eq!(pid.self_attention.bytes, (16 + 2 * 2 * 2 + 6 * 4) * 4);
        // K and V of 4 tokens; q and o of 6 tokens; 6 tokens x 4 keys.
        assert_eq!(pid.cross_attention.flops, 4 * 8 + 6 * 8 + 6 * 4 * 4);
        // k, v once and q, o twice; 4 K and 4 V read twice; q and o of 6 tokens.
        assert_eq!(pid.cross_attention.bytes, (4 + 8 + 16 + 12) * 4);
        assert_eq!(pid.feed_forward, Cost { flops: 6 * 36, bytes: 2 * 18 * 4 });
        assert_eq!(pid.head, Cost { flops: 2 * 2 * 2 * 10, bytes: 2 * 10 * 4 });

        let pie = breakdown(Method::Pie, &model, &work);
        // 2 sequences of 5 tokens.
        assert_eq!(pie.encoder.flops, 10 * 2 * (8 + 18 + 10));
        // 2 rows x (start, first new token).
        assert_eq!(pie.feed_forward.flops, 4 * 36);
        assert_eq!(pie.cross_attention.flops, 10 * 8 + 4 * 8 + 4 * 5 * 4);
    }

    #[test]
    fn replication_encodes_like_pid_and_reads_like_pie() {
        let work = Workload { prompt_tokens: 3, ..DIALOGUE };
        assert_eq!(cross_kv_bytes(Method::PidReplicated, &T5_BASE, &work), 566_231_040);
        let [pid, copies] = [Method::Pid, Method::PidReplicated].map(|m| breakdown(m, &T5_BASE, &work));
        assert_eq!(copies.total().flops, pid.total().flops);
        // 10 passes over 29 copies more, and one copying pass that reads 1 and writes 30.
        let one = 18_874_368;
        assert_eq!(copies.cross_attention.bytes - pid.cross_attention.bytes, (10 * 29 + 31) * one);
        assert_eq!(copies.encoder, pid.encoder);
    }

    #[test]
    fn a_dialogue_of_t5_base_saves_most_of_the_arithmetic() {
        let work = Workload { prompt_tokens: 3, ..DIALOGUE };
        let [pie, pid] =
            [Method::Pie, Method::Pid].map(|m| breakdown(m, &T5_BASE, &work).total().flops as f64);
        assert!((13.0..18.0).contains(&(pie / pid)), "{}", pie / pid);
    }

    #[test]
    fn bytes_of_weights_and_of_a_step() {
        // T5-base: 2 x 32128 x 768 of words; 12 x (4 x 768^2 + 2 x 768 x 3072) of the encoder, 12 x (8 ..) of the decoder.
        assert_eq!(T5_BASE.weight_bytes(), 2 * (49_348_608 + 84_934_656 + 113_246_208));
        let step = decode_step_bytes(Method::Pid, &T5_BASE, &DIALOGUE);
        assert_eq!(step, 2 * (24_674_304 + 12 * (6 * 589_824 + 4_718_592)) + 18_874_368);
    }
}
