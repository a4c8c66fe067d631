//! `cargo xtask report`: measurements as pages.

mod card;
mod cpu;
mod crossover;
pub mod data;
mod figures;
mod intensity;
mod method;
pub mod page;
pub mod performance;
pub mod sweep;
mod t5;
mod targets;
#[cfg(test)]
mod tests;
mod tiny;

use anyhow::Result;
use clap::Subcommand;

#[derive(Subcommand)]
pub enum Report {
    /// results/**.json as docs/performance.md and docs/method.md, with tables and figures beside the results; what is done by default
    Performance,
    /// Run the built-in models: PID against PIE on held-out dialogues, into results/cpu/tiny.md
    Tiny,
}

pub fn run(report: &Report) -> Result<()> {
    match report {
        Report::Performance => performance::write(),
        Report::Tiny => tiny::run(),
    }
}
