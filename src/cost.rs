//! The cost model: what prompt-in-encoder (PIE) and prompt-in-decoder (PID) compute and move.
//!
//! The analysis of "prompt-in-decoder" (arXiv 2403.13112, section 3) as functions, with the
//! projections and the feed-forward layers that the paper's table leaves out. A FLOP is one
//! multiplication or one addition; bytes are the fewest that must pass through memory: every
//! weight once per pass, every cached K/V element once per step, activations of the attention
//! once. Encoder activations are left out: they stay on chip in a fused implementation. Counts are
//! u64 and overflow, as Rust's integers do, for work of more than 1.8e19 FLOPs.

/// How `U` prompts meet one input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Prompt in the encoder: every prompt with a copy of the input, encoded on its own.
    Pie,
    /// Prompt in the decoder: the input encoded once, its K/V shared by all prompts.
    Pid,
}

/// The shape of an encoder-decoder transformer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelShape {
    /// Width of the residual stream.
    pub d_model: u64,
    /// Query heads; K/V heads are as many.
    pub heads: u64,
    /// Elements per head.
    pub head_dim: u64,
    /// Width of the feed-forward layer.
    pub d_ff: u64,
    /// Whether the feed-forward layer is gated: three matrices instead of two.
    pub gated: bool,
    /// Size of the vocabulary.
    pub vocab: u64,
    /// Encoder layers.
    pub encoder_layers: u64,
    /// Decoder layers.
    pub decoder_layers: u64,
    /// Bytes per weight and per K/V element.
    pub element_bytes: u64,
}

impl ModelShape {
    /// Elements of one token's K (or V, or Q) over all heads.
    fn inner(&self) -> u64 {
        self.heads * self.head_dim
    }

    fn ffn_weights(&self) -> u64 {
        self.d_model * self.d_ff * if self.gated { 3 } else { 2 }
    }
}

/// A batch: `inputs` inputs of `keys` tokens each, `prompts` prompts for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workload {
    /// Inputs, the paper's b.
    pub inputs: u64,
    /// Prompts per input, the paper's U.
    pub prompts: u64,
    /// Tokens per input, the paper's n.
    pub keys: u64,
    /// Tokens per prompt, the paper's n_p.
    pub prompt_tokens: u64,
    /// Tokens decoded for every prompt.
    pub new_tokens: u64,
}

/// Arithmetic and memory traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes moved.
    pub bytes: u64,
}

impl Cost {
    /// FLOP per byte, or 0 where nothing is moved.
    pub fn intensity(&self) -> f64 {
        if self.bytes == 0 { 0.0 } else { self.flops as f64 / self.bytes as f64 }
    }
}

impl std::ops::Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { flops: self.flops + other.flops, bytes: self.bytes + other.bytes }
    }
}

/// The cost of a whole request by part of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breakdown {
    /// The encoder stack.
    pub encoder: Cost,
    /// The decoder's self-attention with its projections.
    pub self_attention: Cost,
    /// The decoder's cross-attention with its projections, those of the encoder's K/V included.
    pub cross_attention: Cost,
    /// The decoder's feed-forward layers.
    pub feed_forward: Cost,
    /// Logits.
    pub head: Cost,
}

impl Breakdown {
    /// Everything.
    pub fn total(&self) -> Cost {
        self.encoder + self.self_attention + self.cross_attention + self.feed_forward + self.head
    }
}

/// Tokens that one encoder sequence holds.
fn sequence(method: Method, work: &Workload) -> u64 {
    match method {
        Method::Pie => work.keys + work.prompt_tokens,
        Method::Pid => work.keys,
    }
}

/// Encoder sequences.
fn sequences(method: Method, work: &Workload) -> u64 {
    match method {
        Method::Pie => work.inputs * work.prompts,
        Method::Pid => work.inputs,
    }
}

/// Tokens that pass through the encoder: `b U (n + n_p)` against `b n`.
pub fn encoder_tokens(method: Method, work: &Workload) -> u64 {
    sequences(method, work) * sequence(method, work)
}

/// Cross-attention K/V of all decoder layers, in bytes: stored once per encoder sequence.
pub fn cross_kv_bytes(method: Method, model: &ModelShape, work: &Workload) -> u64 {
    2 * encoder_tokens(method, work) * model.inner() * model.element_bytes * model.decoder_layers
}

/// Cross-attention of one decoder layer in one step of one token per prompt, without projections:
/// `4 b U n d` FLOPs; K/V read once per encoder sequence, Q read and O written once.
pub fn cross_attention_step(method: Method, model: &ModelShape, work: &Workload) -> Cost {
    let rows = work.inputs * work.prompts;
    let inner = model.inner();
    Cost {
        flops: 4 * rows * sequence(method, work) * inner,
        bytes: (2 * encoder_tokens(method, work) + 2 * rows) * inner * model.element_bytes,
    }
}

/// The cost of encoding, prompt prefill and greedy decoding. Logits are computed for the last
/// position of a prompt and every decoded token but the last.
pub fn breakdown(method: Method, model: &ModelShape, work: &Workload) -> Breakdown {
    let (d, inner, bytes) = (model.d_model, model.inner(), model.element_bytes);
    let projection = d * inner;
    let rows = work.inputs * work.prompts;
    let encoded = encoder_tokens(method, work);
    let n = sequence(method, work);
    // Decoder positions per row: the start token, the prompt (PID) and all new tokens but the last.
    let prefill = 1 + if method == Method::Pid { work.prompt_tokens } else { 0 };
    let steps = work.new_tokens.saturating_sub(1);
    let positions = if work.new_tokens == 0 { 0 } else { prefill + steps };
    let passes = work.new_tokens;
    let tokens = rows * positions;

    let encoder = Cost {
        flops: model.encoder_layers
            * (encoded * (8 * projection + 2 * model.ffn_weights()) + 4 * encoded * n * inner),
        bytes: model.encoder_layers * (4 * projection + model.ffn_weights()) * bytes,
    };
    // Position i reads i + 1 keys; what a step reads from the cache is what lies before it.
    let self_reads = rows * positions * (positions + 1) / 2;
    let cached: u64 = (prefill..prefill + steps).sum();
    let self_attention = Cost {
        flops: model.decoder_layers * (tokens * 8 * projection + 4 * self_reads * inner),
        bytes: model.decoder_layers
            * (passes * 4 * projection + 2 * rows * cached * inner + 4 * tokens * inner)
            * bytes,
    };
    let cross_attention = Cost {
        flops: model.decoder_layers
            * (encoded * 4 * projection + tokens * 4 * projection + 4 * tokens * n * inner),
        bytes: model.decoder_layers
            * ((2 + 2 * passes) * projection + passes * 2 * encoded * inner + 2 * tokens * inner)
            * bytes,
    };
    let feed_forward = Cost {
        flops: model.decoder_layers * tokens * 2 * model.ffn_weights(),
        bytes: model.decoder_layers * passes * model.ffn_weights() * bytes,
    };
    let head = Cost { flops: 2 * rows * passes * d * model.vocab, bytes: passes * d * model.vocab * bytes };
    Breakdown { encoder, self_attention, cross_attention, feed_forward, head }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: ModelShape = ModelShape {
        d_model: 768,
        heads: 12,
        head_dim: 64,
        d_ff: 3072,
        gated: false,
        vocab: 32128,
        encoder_layers: 12,
        decoder_layers: 12,
        element_bytes: 2,
    };
    const DIALOGUE: Workload =
        Workload { inputs: 1, prompts: 30, keys: 512, prompt_tokens: 0, new_tokens: 10 };

    #[test]
    fn kv_of_t5_base_is_18_9_mb_shared_and_566_mb_replicated() {
        assert_eq!(cross_kv_bytes(Method::Pid, &BASE, &DIALOGUE), 18_874_368);
        assert_eq!(cross_kv_bytes(Method::Pie, &BASE, &DIALOGUE), 566_231_040);
    }

    #[test]
    fn intensity_is_about_one_replicated_and_the_harmonic_sum_shared() {
        let pie = cross_attention_step(Method::Pie, &BASE, &DIALOGUE).intensity();
        assert!((pie - 1.0 / (1.0 + 1.0 / 512.0)).abs() < 1e-12, "{pie}");
        let pid = cross_attention_step(Method::Pid, &BASE, &DIALOGUE).intensity();
        assert!((pid - 1.0 / (1.0 / 30.0 + 1.0 / 512.0)).abs() < 1e-12, "{pid}");
    }

    #[test]
    fn encoder_tokens_count_the_prompt_only_in_the_encoder() {
        let work = Workload { inputs: 2, prompt_tokens: 3, ..DIALOGUE };
        assert_eq!(encoder_tokens(Method::Pie, &work), 2 * 30 * 515);
        assert_eq!(encoder_tokens(Method::Pid, &work), 2 * 512);
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
    fn t5_base_dialogue_saves_about_the_factor_of_the_issue() {
        let work = Workload { prompt_tokens: 3, ..DIALOGUE };
        let pie = breakdown(Method::Pie, &BASE, &work).total().flops as f64;
        let pid = breakdown(Method::Pid, &BASE, &work).total().flops as f64;
        assert!((13.0..18.0).contains(&(pie / pid)), "{}", pie / pid);
    }
}
