//! `cargo xtask intensity`: FLOP per byte of a decode step's cross-attention against the number of prompts, from bytes that
//! were counted. arXiv 2403.13112 says that it rises with the prompts where they share K/V, and stays where they do not.

#[cfg(feature = "cuda")]
mod card;
mod cpu;
mod points;
mod prefix;
#[cfg(test)]
mod tests;

use std::path::Path;

use anyhow::{Context as _, Result};
use clap::Subcommand;
use serde::{Deserialize, Serialize};

use self::points::{Backend, HEAD_DIM, HEADS, KEYS, Layout, PROMPT_TOKENS, Point};
use self::prefix::{Counted, DecoderOnly};
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

const CARDS: [&str; 2] = ["h200", "a100"];

/// `results/intensity.json`.
#[derive(Serialize, Deserialize)]
struct Intensity {
    date: String,
    heads: usize,
    head_dim: usize,
    keys: usize,
    prompt_tokens: usize,
    backends: Vec<Backend>,
    decoder_only: DecoderOnly,
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
    let decoder_only = DecoderOnly::new(behind_prefix);
    let results = Intensity { date, heads, head_dim, keys, prompt_tokens, backends, decoder_only };
    let path = root().join("results/intensity.json");
    std::fs::write(&path, serde_json::to_string_pretty(&results)? + "\n")
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("{}", path.display());
    report::write()
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
