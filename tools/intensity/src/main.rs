//! Runs attention of given sizes and nothing else, on the CPU or on a virtual card: what count.py counts. And what it costs by
//! the cost model.

#[cfg(feature = "cuda")]
mod card;
mod cpu;
#[cfg(test)]
mod tests;

use std::str::FromStr;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use onekv::{Keys, Problem, ProblemSpec};
use onekv_cost::Attention;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// FLOPs and bytes by the cost model, of batches that are merged
    Formula {
        #[command(flatten)]
        heads: Heads,
        /// Of an operand's element
        #[arg(long)]
        element_bytes: u64,
        #[arg(required = true)]
        batches: Vec<Batch>,
    },
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
    /// As JSON.
    fn formula(self, element_bytes: u64, batches: &[Batch]) -> String {
        let [heads, kv_heads, head_dim] = [self.heads, self.kv_heads, self.head_dim].map(|n| n as u64);
        let batches: Vec<_> = batches.iter().map(|batch| batch.0.map(|n| n as u64)).collect();
        let cost = Attention { heads, kv_heads, head_dim, element_bytes }.step(&batches);
        format!("{{\"flops\": {}, \"model_bytes\": {}}}", cost.flops, cost.bytes)
    }

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
    match Arguments::parse().what {
        What::Formula { heads, element_bytes, batches } => {
            println!("{}", heads.formula(element_bytes, &batches));
            Ok(())
        }
        What::Cpu { heads, steps, batch } => cpu::run(&heads.problem(batch)?, steps),
        #[cfg(feature = "cuda")]
        What::Card { heads, batches } => {
            let problems: Result<Vec<_>> = batches.into_iter().map(|batch| heads.problem(batch)).collect();
            card::run(&problems?)
        }
    }
}
