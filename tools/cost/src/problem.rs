//! What is asked of which model, and by which method.

use crate::numbers::count;

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

/// T5s as published, in 16 bits.
pub const T5_SMALL: ModelShape = ModelShape::t5(512, 2048, 8, 6);
pub const T5_BASE: ModelShape = ModelShape::t5(768, 3072, 12, 12);
pub const T5_LARGE: ModelShape = ModelShape::t5(1024, 4096, 16, 24);
pub const FLAN_T5_XL: ModelShape = ModelShape { gated: true, ..ModelShape::t5(2048, 5120, 32, 24) };

impl ModelShape {
    /// A T5 of v1.0 in 16 bits.
    pub const fn t5(d_model: u64, d_ff: u64, heads: u64, layers: u64) -> Self {
        Self {
            d_model,
            heads,
            head_dim: 64,
            d_ff,
            gated: false,
            vocab: 32128,
            encoder_layers: layers,
            decoder_layers: layers,
            element_bytes: 2,
        }
    }

    /// Elements of one token's K (or V, or Q) over all heads.
    pub(crate) fn inner(&self) -> f64 {
        self.heads as f64 * self.head_dim as f64
    }

    /// Elements of one token on the inner side of every feed-forward matrix.
    pub(crate) fn ffn_inner(&self) -> f64 {
        self.d_ff as f64 * if self.gated { 3.0 } else { 2.0 }
    }

    pub(crate) fn ffn_weights(&self) -> f64 {
        self.d_model as f64 * self.ffn_inner()
    }

    pub(crate) fn projection(&self) -> f64 {
        self.d_model as f64 * self.inner()
    }

    pub(crate) fn head(&self) -> f64 {
        self.vocab as f64 * self.d_model as f64
    }

    pub(crate) fn encoder_weights(&self) -> f64 {
        self.encoder_layers as f64 * (4.0 * self.projection() + self.ffn_weights())
    }

    /// Of the layers, without embedding and head.
    pub(crate) fn decoder_weights(&self) -> f64 {
        self.decoder_layers as f64 * (8.0 * self.projection() + self.ffn_weights())
    }

    /// Bytes of one token's K and V in all decoder layers.
    pub(crate) fn kv_bytes(&self) -> f64 {
        2.0 * self.inner() * self.element_bytes as f64 * self.decoder_layers as f64
    }

    /// Bytes of all matrices; the embedding and the head count one each, tied or not.
    pub fn weight_bytes(&self) -> u64 {
        let weights = self.encoder_weights() + self.decoder_weights() + 2.0 * self.head();
        count(weights * self.element_bytes as f64)
    }
}

/// A batch: `inputs` inputs of `keys` tokens each, `prompts` prompts for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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

impl Workload {
    /// Answers: one for every prompt of every input.
    pub(crate) fn rows(&self) -> f64 {
        self.inputs as f64 * self.prompts as f64
    }

    /// Tokens that one encoder sequence holds.
    pub(crate) fn sequence(&self, method: Method) -> f64 {
        match method {
            Method::Pie => self.keys as f64 + self.prompt_tokens as f64,
            Method::Pid | Method::PidReplicated => self.keys as f64,
        }
    }

    /// Tokens that pass through the encoder: `b U (n + n_p)` against `b n`.
    pub(crate) fn encoded(&self, method: Method) -> f64 {
        let sequences = if method == Method::Pie { self.rows() } else { self.inputs as f64 };
        sequences * self.sequence(method)
    }

    /// Keys that are stored and read: of one encoder sequence per prompt, or per input.
    pub(crate) fn stored_keys(&self, method: Method) -> f64 {
        let copies = if method == Method::PidReplicated { self.prompts as f64 } else { 1.0 };
        self.encoded(method) * copies
    }

    /// Decoder positions before the first new token: the start token and, in the decoder, the prompt.
    pub(crate) fn prefill(&self, method: Method) -> f64 {
        if method == Method::Pie { 1.0 } else { 1.0 + self.prompt_tokens as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prompt_is_encoded_in_the_encoder_only() {
        let work = Workload { inputs: 2, prompts: 30, keys: 512, prompt_tokens: 3, new_tokens: 10 };
        assert_eq!(work.encoded(Method::Pie), 2.0 * 30.0 * 515.0);
        assert_eq!([Method::Pid, Method::PidReplicated].map(|m| work.encoded(m)), [2.0 * 512.0; 2]);
    }
}
