//! The cost model: what prompt-in-encoder (PIE) and prompt-in-decoder (PID) compute and move, what they occupy,
//! and from where on sharing pays.
//!
//! The analysis of "prompt-in-decoder" (arXiv 2403.13112, section 3) as functions, with the
//! projections and the feed-forward layers that the paper's table leaves out. A FLOP is one
//! multiplication or one addition; bytes are the fewest that must pass through memory: every
//! weight once per pass, every cached K/V element once per step, activations of the attention
//! once. Encoder activations are left out: they stay on chip in a fused implementation. The
//! formulas are in f64, exact up to 2^53, as their factors are what files and requests say, which
//! may be anything; counts stay at 1.8e19, the largest of u64, where they would pass it.

use serde::Serialize;

/// How `U` prompts meet one input; [`Method::meaning`] says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Pie,
    Pid,
    /// As engines do it for beams.
    PidReplicated,
}

impl Method {
    pub fn name(self) -> &'static str {
        match self {
            Self::Pie => "PIE",
            Self::Pid => "PID",
            Self::PidReplicated => "PID-replicated",
        }
    }

    pub fn meaning(self) -> &'static str {
        match self {
            Self::Pie => "prompt in the encoder. The input is encoded, and its K/V kept, once per prompt.",
            Self::Pid => "prompt in the decoder. The input is encoded once; all prompts read its one K/V.",
            Self::PidReplicated => "as PID, but every prompt reads a copy of the K/V: what sharing it saves.",
        }
    }
}

/// The shape of an encoder-decoder transformer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelShape {
    /// Width of the residual stream.
    pub d_model: u64,
    /// Query heads; K/V heads are as many.
    pub heads: u64,
    pub head_dim: u64,
    pub d_ff: u64,
    /// Whether the feed-forward layer is gated: three matrices instead of two.
    pub gated: bool,
    pub vocab: u64,
    pub encoder_layers: u64,
    pub decoder_layers: u64,
    /// Bytes per weight and per K/V element.
    pub element_bytes: u64,
}

/// The count nearest to a number that formulas gave.
pub fn count(x: f64) -> u64 {
    x as u64
}

impl ModelShape {
    /// Elements of one token's K (or V, or Q) over all heads.
    pub(crate) fn inner(&self) -> f64 {
        self.heads as f64 * self.head_dim as f64
    }

    fn ffn_weights(&self) -> f64 {
        self.d_model as f64 * self.d_ff as f64 * if self.gated { 3.0 } else { 2.0 }
    }

    fn projection(&self) -> f64 {
        self.d_model as f64 * self.inner()
    }

    fn head(&self) -> f64 {
        self.vocab as f64 * self.d_model as f64
    }

    fn encoder_weights(&self) -> f64 {
        self.encoder_layers as f64 * (4.0 * self.projection() + self.ffn_weights())
    }

    fn decoder_weights(&self) -> f64 {
        self.decoder_layers as f64 * (8.0 * self.projection() + self.ffn_weights())
    }

    /// Bytes of one token's K and V in all decoder layers.
    fn kv_bytes(&self) -> f64 {
        2.0 * self.inner() * self.element_bytes as f64 * self.decoder_layers as f64
    }

    /// Bytes of all matrices; the embedding and the head count one each, tied or not.
    pub fn weight_bytes(&self) -> u64 {
        let weights = self.encoder_weights() + self.decoder_weights() + 2.0 * self.head();
        count(weights * self.element_bytes as f64)
    }
}

/// Bytes of the decoder's layers, without embedding and head.
pub fn decoder_weight_bytes(model: &ModelShape) -> u64 {
    count(model.decoder_weights() * model.element_bytes as f64)
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
    pub flops: u64,
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
    /// Everything but the encoder stack.
    pub fn decoder(&self) -> Cost {
        self.self_attention + self.cross_attention + self.feed_forward + self.head
    }

    pub fn total(&self) -> Cost {
        self.encoder + self.decoder()
    }
}

impl Workload {
    /// Answers: one for every prompt of every input.
    pub(crate) fn rows(&self) -> f64 {
        self.inputs as f64 * self.prompts as f64
    }
}

/// Tokens that one encoder sequence holds.
pub(crate) fn sequence(method: Method, work: &Workload) -> f64 {
    match method {
        Method::Pie => work.keys as f64 + work.prompt_tokens as f64,
        Method::Pid | Method::PidReplicated => work.keys as f64,
    }
}

fn encoded(method: Method, work: &Workload) -> f64 {
    let sequences = if method == Method::Pie { work.rows() } else { work.inputs as f64 };
    sequences * sequence(method, work)
}

/// Keys that are stored and read: of one encoder sequence per prompt, or per input.
fn stored_keys(method: Method, work: &Workload) -> f64 {
    let copies = if method == Method::PidReplicated { work.prompts as f64 } else { 1.0 };
    encoded(method, work) * copies
}

/// Decoder positions before the first new token: the start token and, in the decoder, the prompt.
pub(crate) fn prefill(method: Method, work: &Workload) -> f64 {
    if method == Method::Pie { 1.0 } else { 1.0 + work.prompt_tokens as f64 }
}

/// Tokens that pass through the encoder: `b U (n + n_p)` against `b n`.
pub fn encoder_tokens(method: Method, work: &Workload) -> u64 {
    count(encoded(method, work))
}

/// Cross-attention K/V of all decoder layers, in bytes: stored once per encoder sequence, or once per prompt.
pub fn cross_kv_bytes(method: Method, model: &ModelShape, work: &Workload) -> u64 {
    count(stored_keys(method, work) * model.kv_bytes())
}

/// Cross-attention of one decoder layer in one step of one token per prompt, without projections:
/// `4 b U n d` FLOPs; every stored K/V read once, Q read and O written once.
pub fn cross_attention_step(method: Method, model: &ModelShape, work: &Workload) -> Cost {
    let (rows, inner) = (work.rows(), model.inner());
    let elements = (2.0 * stored_keys(method, work) + 2.0 * rows) * inner;
    Cost {
        flops: count(4.0 * rows * sequence(method, work) * inner),
        bytes: count(elements * model.element_bytes as f64),
    }
}

/// Bytes that no decode step of one token per prompt can avoid: every weight of the decoder and the head once, every
/// stored K/V of the cross-attention once. The self-attention's K/V, which grows, is left out.
pub fn decode_step_bytes(method: Method, model: &ModelShape, work: &Workload) -> u64 {
    let layer = 6.0 * model.projection() + model.ffn_weights();
    let weights = model.decoder_layers as f64 * layer + model.head();
    count(weights * model.element_bytes as f64 + stored_keys(method, work) * model.kv_bytes())
}

/// The cost of encoding, prompt prefill and greedy decoding. Logits are computed for the last
/// position of a prompt and every decoded token but the last.
pub fn breakdown(method: Method, model: &ModelShape, work: &Workload) -> Breakdown {
    let (inner, projection, ffn_weights) = (model.inner(), model.projection(), model.ffn_weights());
    let [layers, bytes, passes] =
        [model.decoder_layers, model.element_bytes, work.new_tokens].map(|n| n as f64);
    let rows = work.rows();
    let (encoded, stored, n) = (encoded(method, work), stored_keys(method, work), sequence(method, work));
    // Copies are made by reading one and writing all.
    let copied = if method == Method::PidReplicated { encoded + stored } else { 0.0 };
    // Decoder positions per row: what comes before the first new token, and all new tokens but the last.
    let (prefill, steps) = (prefill(method, work), work.new_tokens.saturating_sub(1) as f64);
    let positions = if work.new_tokens == 0 { 0.0 } else { prefill + steps };
    let tokens = rows * positions;

    let cost = |flops, bytes| Cost { flops: count(flops), bytes: count(bytes) };
    let attention = 4.0 * encoded * n * inner;
    let encoder = cost(
        2.0 * encoded * model.encoder_weights() + model.encoder_layers as f64 * attention,
        model.encoder_weights() * bytes,
    );
    // Position i reads i + 1 keys; what a step reads from the cache is what lies before it.
    let self_reads = rows * positions * (positions + 1.0) / 2.0;
    let cached = steps * prefill + steps * (steps - 1.0) / 2.0;
    let self_attention = cost(
        layers * (tokens * 8.0 * projection + 4.0 * self_reads * inner),
        layers * (passes * 4.0 * projection + 2.0 * rows * cached * inner + 4.0 * tokens * inner) * bytes,
    );
    let projected = encoded * 4.0 * projection + tokens * 4.0 * projection;
    let moved = 2.0 * (passes * stored + copied) * inner + 2.0 * tokens * inner;
    let cross_attention = cost(
        layers * (projected + 4.0 * tokens * n * inner),
        layers * ((2.0 + 2.0 * passes) * projection + moved) * bytes,
    );
    let feed_forward = cost(layers * tokens * 2.0 * ffn_weights, layers * passes * ffn_weights * bytes);
    let head = cost(2.0 * rows * passes * model.head(), passes * model.head() * bytes);
    Breakdown { encoder, self_attention, cross_attention, feed_forward, head }
}

/// What a device does at best.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Roofline {
    pub flops_per_s: f64,
    /// Bytes per second through memory.
    pub bytes_per_s: f64,
}

impl Roofline {
    /// Seconds of what takes as long as its arithmetic or its traffic.
    pub fn seconds(&self, cost: Cost) -> f64 {
        (cost.flops as f64 / self.flops_per_s).max(cost.bytes as f64 / self.bytes_per_s)
    }
}

/// Seconds that a device cannot do without: each part of the encoding with the prompts' prefill, then of all
/// further steps, takes as long as its arithmetic or its traffic. Launches and waiting are left out.
pub fn least_seconds(method: Method, model: &ModelShape, work: &Workload, device: &Roofline) -> f64 {
    let whole = breakdown(method, model, work);
    let begin = breakdown(method, model, &Workload { new_tokens: work.new_tokens.min(1), ..*work });
    let parts = |b: &Breakdown| [b.encoder, b.self_attention, b.cross_attention, b.feed_forward, b.head];
    parts(&begin)
        .iter()
        .zip(parts(&whole))
        .map(|(b, w)| {
            let further = Cost { flops: w.flops - b.flops, bytes: w.bytes - b.bytes };
            device.seconds(*b) + device.seconds(further)
        })
        .sum()
}

/// How many times as long PIE takes as PID, by [`least_seconds`].
pub fn gain(model: &ModelShape, work: &Workload, device: &Roofline) -> f64 {
    let seconds = |method| least_seconds(method, model, work, device);
    seconds(Method::Pie) / seconds(Method::Pid)
}

/// Where sharing begins or ceases to pay, everything else as it is in a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Crossover {
    /// The fewest prompts per input from which on PID gains; `None`: up to [`SEARCHED`] it does not.
    pub least_prompts: Option<u64>,
    /// The shortest input from which on it gains, likewise.
    pub least_keys: Option<u64>,
    /// The longest output up to which it gains; `None`: at every length up to [`SEARCHED`], or at none.
    pub most_new_tokens: Option<u64>,
}

/// The largest count that [`crossover`] looks at.
pub const SEARCHED: u64 = 1 << 16;

/// Where PID is `times` as fast as PIE.
pub fn crossover(model: &ModelShape, work: &Workload, device: &Roofline, times: f64) -> Crossover {
    // The gain grows with prompts and keys, and falls with the output's length: each is bisected.
    let first = |pays: &dyn Fn(u64) -> bool| {
        if !pays(SEARCHED) {
            return None;
        }
        let (mut low, mut high) = (0, SEARCHED);
        while high - low > 1 {
            let middle = (low + high) / 2;
            if pays(middle) { high = middle } else { low = middle }
        }
        Some(high)
    };
    let at_least = |work: Workload| gain(model, &work, device) >= times;
    let fails = first(&|new_tokens| !at_least(Workload { new_tokens, ..*work }));
    Crossover {
        least_prompts: first(&|prompts| at_least(Workload { prompts, ..*work })),
        least_keys: first(&|keys| at_least(Workload { keys, ..*work })),
        most_new_tokens: fails.map(|n| n - 1).filter(|n| *n > 0),
    }
}
