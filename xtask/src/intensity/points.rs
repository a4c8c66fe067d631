//! What is counted: the step of each layout at each number of prompts, and what the cost model says of it.

use anyhow::Result;
use clap::ValueEnum;
use onekv::{Keys, Problem, ProblemSpec};
use serde::{Deserialize, Serialize};
use t5::cost::{Cost, Method, Workload, cross_attention_step};
use t5::load;

/// How prompts find the input's K/V.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// One K/V for all of them.
    Shared,
    /// A copy of it for each.
    Replicated,
    /// Each its own, of the input and the prompt.
    Pie,
}

pub const LAYOUTS: [Layout; 3] = [Layout::Shared, Layout::Replicated, Layout::Pie];
pub const PROMPTS: [usize; 8] = [1, 2, 4, 8, 16, 32, 64, 128];
pub const HEADS: usize = 12;
pub const HEAD_DIM: usize = 64;
/// Tokens of the input and of a prompt.
pub const KEYS: usize = 512;
pub const PROMPT_TOKENS: usize = 3;
/// What was counted, and how.
#[derive(Debug, Serialize, Deserialize)]
pub struct Backend<L = Layout> {
    pub name: String,
    pub dtype: String,
    pub counted: String,
    pub points: Vec<Point<L>>,
}

/// One step of one layer, over all prompts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Point<L = Layout> {
    pub layout: L,
    pub prompts: usize,
    /// By the formula, `4 U n d` for each head of n keys.
    pub flops: u64,
    pub read_bytes: u64,
    pub written_bytes: u64,
    /// By the cost model: what must be read and written.
    pub model_bytes: u64,
    /// CPU: instructions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<u64>,
    /// Virtual GPU: different bytes that each launch read or wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distinct_bytes: Option<u64>,
    /// Virtual GPU: operations of tensor cores, those on rows that fill up a tile too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensor_flops: Option<u64>,
    /// Virtual GPU: what was launched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kernels: Vec<String>,
}

impl Layout {
    /// What is attended to what.
    pub fn problem(self, prompts: usize) -> Result<Problem> {
        let (inputs, rows, keys) = match self {
            Self::Shared => (1, prompts, KEYS),
            Self::Replicated => (prompts, 1, KEYS),
            Self::Pie => (prompts, 1, KEYS + PROMPT_TOKENS),
        };
        packed((HEADS, HEADS, HEAD_DIM), (inputs, rows, keys))
    }

    /// What the cost model says.
    pub fn model(self, prompts: usize, dtype: &str) -> Result<Cost> {
        let method = match self {
            Self::Shared => Method::Pid,
            Self::Replicated => Method::PidReplicated,
            Self::Pie => Method::Pie,
        };
        let [prompts, keys, prompt_tokens] = [prompts, KEYS, PROMPT_TOKENS].map(|count| count as u64);
        let work = Workload { inputs: 1, prompts, keys, prompt_tokens, new_tokens: 1 };
        let element_bytes = if dtype == "f32" { 4 } else { 2 };
        let model = load::Shape::Base.config()?.cost_shape(HEAD_DIM, element_bytes);
        Ok(cross_attention_step(method, &model, &work))
    }
}

/// `inputs` of `rows` query rows and `keys` keys each; heads, K/V heads and elements of a head.
pub fn packed(
    (heads, kv_heads, head_dim): (usize, usize, usize),
    (inputs, rows, keys): (usize, usize, usize),
) -> Result<Problem> {
    let offsets = |each| (0..=inputs).map(|input| input * each).collect();
    Ok(Problem::new(ProblemSpec {
        heads,
        kv_heads,
        head_dim,
        scale: 1.0,
        softcap: None,
        row_offsets: offsets(rows),
        keys: Keys::Packed { offsets: offsets(keys) },
    })?)
}

pub fn points() -> impl Iterator<Item = (Layout, usize)> {
    LAYOUTS.into_iter().flat_map(|layout| PROMPTS.map(|prompts| (layout, prompts)))
}
