//! Runs attention of given sizes and nothing else: what count.py counts, on the CPU or on a virtual card.

#[cfg(feature = "cuda")]
mod card;
mod cpu;
#[cfg(test)]
mod tests;

use std::str::FromStr;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use onekv::{Keys, Problem, ProblemSpec};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    on: On,
}

#[derive(Subcommand)]
enum On {
    /// In f32, on one thread
    Cpu {
        #[command(flatten)]
        heads: Heads,
        /// Times that it runs
        #[arg(long)]
        steps: usize,
        batch: Batch,
    },
    /// In bf16, each batch by a launch of its own; the results of several are merged
    #[cfg(feature = "cuda")]
    Card {
        #[command(flatten)]
        heads: Heads,
        #[arg(required = true)]
        batches: Vec<Batch>,
    },
}

#[derive(Clone, Copy, Args)]
struct Heads {
    #[arg(long)]
    heads: usize,
    #[arg(long)]
    kv_heads: usize,
    #[arg(long)]
    head_dim: usize,
}

/// Inputs, and of each its query rows and its keys; as text 1x8x512.
#[derive(Clone, Copy)]
struct Batch([usize; 3]);

impl FromStr for Batch {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let numbers: Option<Vec<usize>> = text.split('x').map(|number| number.parse().ok()).collect();
        let numbers = numbers.and_then(|numbers| numbers.try_into().ok());
        numbers.map(Self).context("allowed: inputs, rows and keys of each, as 1x8x512")
    }
}

impl Heads {
    fn problem(self, Batch([inputs, rows, keys]): Batch) -> Result<Problem> {
        let Self { heads, kv_heads, head_dim } = self;
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
}

fn main() -> Result<()> {
    match Arguments::parse().on {
        On::Cpu { heads, steps, batch } => cpu::run(&heads.problem(batch)?, steps),
        #[cfg(feature = "cuda")]
        On::Card { heads, batches } => {
            let problems: Result<Vec<_>> = batches.into_iter().map(|batch| heads.problem(batch)).collect();
            card::run(&problems?)
        }
    }
}
