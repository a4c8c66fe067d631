//! `cargo xtask`: set-up, tests, peers and reports.

mod peers;
mod report;
mod run;
mod test;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// One entry point for what the project does beside the library itself.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Set up what the tests need and run all of them
    Test,
    /// Measure our CPU path beside PyTorch, Hugging Face and CTranslate2, in one run
    Peers {
        #[command(subcommand)]
        device: peers::Device,
    },
    /// Rebuild a report from the Rust side
    Report {
        #[command(subcommand)]
        report: report::Report,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().task {
        Task::Test => test::run(),
        Task::Peers { device } => peers::run(&device),
        Task::Report { report } => report::run(&report),
    }
}
