//! `cargo xtask`: set-up, tests, peers and reports.

mod bindings;
mod codegen;
mod kit;
mod peers;
mod planted;
mod report;
mod run;
mod setup;
mod test;

use std::process::ExitCode;

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
    /// Fetch the CUDA compiler from PyPI into target/, where the build script finds it
    Setup,
    /// Generate src/cuda/abi.rs from cuda/abi.h
    Bindings {
        /// Write nothing; fail where the file is not what would be written
        #[arg(long)]
        check: bool,
    },
    /// Compile every kernel for every card and write cuda/codegen.md: registers, shared memory, occupancy
    Codegen,
    /// Set up what the tests need and run all of them
    Test,
    /// Gather tests, benchmarks and scripts in one folder that runs on a machine with a card and without Rust
    GpuKit(kit::Options),
    /// Plant known bugs in a copy of the tree, one at a time, and see the tests catch them
    Planted {
        /// Only those whose name or file contains this
        #[arg(long)]
        only: Option<String>,
    },
    /// Measure ours beside PyTorch, Hugging Face and CTranslate2, in one run
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

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Setup => setup::run(),
        Task::Bindings { check } => bindings::run(check),
        Task::Codegen => codegen::run(),
        Task::Test => test::run(),
        Task::GpuKit(options) => kit::run(&options),
        Task::Planted { only } => planted::run(only.as_deref()),
        Task::Peers { device } => peers::run(&device),
        Task::Report { report } => report::run(&report),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
