//! `cargo xtask intensity`: FLOP per byte of a decode step's cross-attention against the number of prompts, from bytes that
//! were counted. arXiv 2403.13112 says that it rises with the prompts where they share K/V, and stays where they do not.

#[cfg(feature = "cuda")]
mod card;
mod cpu;
pub mod prefix;
#[cfg(test)]
mod tests;

use std::path::Path;

use anyhow::{Context as _, Result};
use clap::{Subcommand, ValueEnum};
use onekv::{Keys, Problem, ProblemSpec};
use serde::{Deserialize, Serialize};
use t5::cost::{Cost, Method, Workload, cross_attention_step};
use t5::load;

use self::prefix::DecoderOnly;
use crate::run::{cargo, command, date, nvcc, output, root, step};
use crate::virtual_gpu::{optimised_driver, target};
use crate::{report, setup};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
}

/// What runs where it is counted.
#[derive(Subcommand)]
enum Part {
    /// Steps of the CPU backend, and nothing else (what valgrind counts)
    #[command(hide = true)]
    Steps {
        layout: Layout,
        prompts: usize,
        #[arg(default_value_t = 1)]
        steps: usize,
    },
    /// One step of every point on the virtual GPU, as one JSON document
    #[cfg(feature = "cuda")]
    #[command(hide = true)]
    Launches,
}

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
const HEADS: usize = 12;
const HEAD_DIM: usize = 64;
/// Tokens of the input and of a prompt.
const KEYS: usize = 512;
const PROMPT_TOKENS: usize = 3;
const CARDS: [&str; 2] = ["h200", "a100"];

/// `results/intensity.json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Intensity {
    pub date: String,
    pub heads: usize,
    pub head_dim: usize,
    pub keys: usize,
    pub prompt_tokens: usize,
    pub backends: Vec<Backend>,
    /// What was counted before this was is without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoder_only: Option<DecoderOnly>,
}

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
    fn problem(self, prompts: usize) -> Result<Problem> {
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
fn packed(
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

fn points() -> impl Iterator<Item = (Layout, usize)> {
    LAYOUTS.into_iter().flat_map(|layout| PROMPTS.map(|prompts| (layout, prompts)))
}

pub fn run(arguments: &Arguments) -> Result<()> {
    match arguments.part {
        Some(Part::Steps { layout, prompts, steps }) => cpu::steps(layout, prompts, steps),
        #[cfg(feature = "cuda")]
        Some(Part::Launches) => card::print(),
        None => measure(),
    }
}

fn measure() -> Result<()> {
    if nvcc()?.is_none() {
        setup::run()?;
    }
    let mut build = cargo(&["build", "--release", "--package", "xtask", "--features", "cuda"]);
    // PTX alone is what a simulator runs.
    step("build what is counted", build.env("ONEKV_CUDA_ARCHS", "ptx"))?;
    let folder = target().join("intensity");
    let driver = optimised_driver(&folder)?;
    let program = target().join("release/xtask");
    let mut backends = vec![cpu::counted(&program, &folder)?];
    let mut behind_prefix = Vec::new();
    for card in CARDS {
        let counted = on_card(card, &program, &driver)?;
        backends.push(backend(card, counted.points));
        behind_prefix.push(backend(card, counted.behind_prefix));
    }
    let (date, heads, head_dim, keys, prompt_tokens) = (date()?, HEADS, HEAD_DIM, KEYS, PROMPT_TOKENS);
    let decoder_only = Some(DecoderOnly::new(behind_prefix));
    let results = Intensity { date, heads, head_dim, keys, prompt_tokens, backends, decoder_only };
    let path = root().join("results/intensity.json");
    std::fs::write(&path, serde_json::to_string_pretty(&results)? + "\n")
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("{}", path.display());
    report::write()
}

/// What a card was counted to do.
#[derive(Serialize, Deserialize)]
struct Counted {
    points: Vec<Point>,
    behind_prefix: Vec<Point<prefix::Layout>>,
}

fn on_card(card: &str, program: &Path, driver: &Path) -> Result<Counted> {
    let report = driver.join(format!("{card}.jsonl"));
    std::fs::write(&report, "")?;
    let mut launches = command(&program.to_string_lossy(), &["intensity", "launches"]);
    launches.env("LD_LIBRARY_PATH", driver).env("PTXSIM_DEVICE", card).env("PTXSIM_REPORT", &report);
    // Of right kernels counts are the same without.
    launches.env("PTXSIM_CHECKS", "none");
    let text = output(&format!("count on a virtual {card}"), &mut launches)?;
    serde_json::from_str(&text).context("the counts are no JSON")
}

fn backend<L>(card: &str, points: Vec<Point<L>>) -> Backend<L> {
    Backend {
        name: format!("virtual {card}"),
        dtype: "bf16".to_owned(),
        counted: "by the virtual GPU's counters, 32-byte sectors that the multiprocessors ask for. It has no L2: memory moves at \
                  most that, and at least what each launch touches, each byte once"
            .to_owned(),
        points,
    }
}
