//! The decoder-only case: sequences behind one document, in a model with the attention heads of Llama-3.2-1B.

use anyhow::Result;
use onekv::Problem;
use serde::{Deserialize, Serialize};
use t5::cost::Cost;

use super::points::{self, Backend, PROMPTS, Point, packed};

/// How sequences find the document's K/V; what they have behind it is their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// One K/V of it that all rows read, their suffixes apart, and a merge of the two.
    Shared,
    /// A copy of it in front of each suffix.
    Copied,
}

pub const LAYOUTS: [Layout; 2] = [Layout::Shared, Layout::Copied];
pub const MODEL: &str = "Llama-3.2-1B";
pub const HEADS: usize = 32;
pub const KV_HEADS: usize = 8;
pub const HEAD_DIM: usize = 64;
/// Tokens of the document, and what a sequence has behind it.
pub const PREFIX_KEYS: usize = 512;
pub const SUFFIX_KEYS: usize = 32;
/// K, V, Q and the output are bf16.
#[cfg_attr(not(any(test, feature = "cuda")), allow(dead_code, reason = "only cards are counted"))]
const ELEMENT_BYTES: usize = 2;

/// What a card was counted to do.
#[derive(Serialize, Deserialize)]
pub struct Counted {
    pub points: Vec<Point<points::Layout>>,
    pub behind_prefix: Vec<Point<Layout>>,
}

/// `decoder_only` of `results/intensity.json`.
#[derive(Serialize, Deserialize)]
pub struct DecoderOnly {
    pub model: String,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub prefix_keys: usize,
    pub suffix_keys: usize,
    pub backends: Vec<Backend<Layout>>,
}

impl DecoderOnly {
    pub fn new(backends: Vec<Backend<Layout>>) -> Self {
        Self {
            model: MODEL.to_owned(),
            heads: HEADS,
            kv_heads: KV_HEADS,
            head_dim: HEAD_DIM,
            prefix_keys: PREFIX_KEYS,
            suffix_keys: SUFFIX_KEYS,
            backends,
        }
    }
}

impl Layout {
    /// What is attended to what, each a launch of its own; the results are merged.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "only cards are counted"))]
    pub fn problems(self, prompts: usize) -> Result<Vec<Problem>> {
        let parts = match self {
            Self::Shared => vec![(1, prompts, PREFIX_KEYS), (prompts, 1, SUFFIX_KEYS)],
            Self::Copied => vec![(prompts, 1, PREFIX_KEYS + SUFFIX_KEYS)],
        };
        parts.into_iter().map(|part| packed((HEADS, KV_HEADS, HEAD_DIM), part)).collect()
    }

    /// `4 U (n + m) d` FLOPs for each head; every stored K/V and Q read once, the output written once.
    #[cfg_attr(not(any(test, feature = "cuda")), allow(dead_code, reason = "only cards are counted"))]
    pub fn model(self, prompts: usize) -> Cost {
        let documents = if self == Self::Shared { 1 } else { prompts };
        let keys = documents * PREFIX_KEYS + prompts * SUFFIX_KEYS;
        let elements = 2 * keys * KV_HEADS * HEAD_DIM + 2 * prompts * HEADS * HEAD_DIM;
        Cost {
            flops: (4 * prompts * (PREFIX_KEYS + SUFFIX_KEYS) * HEADS * HEAD_DIM) as u64,
            bytes: (elements * ELEMENT_BYTES) as u64,
        }
    }
}

#[cfg_attr(not(any(test, feature = "cuda")), allow(dead_code, reason = "only cards are counted"))]
pub fn points() -> impl Iterator<Item = (Layout, usize)> {
    LAYOUTS.into_iter().flat_map(|layout| PROMPTS.map(|prompts| (layout, prompts)))
}
