//! `cargo xtask`: set-up, tests, peers and reports.

mod bindings;
// What a multiprocessor holds is told to tools/codegen too.
#[path = "../../tools/model/src/cards.rs"]
mod cards;
mod checks;
mod codegen;
mod intensity;
mod kit;
#[cfg(test)]
mod layers;
mod method;
mod package;
mod peers;
#[cfg(test)]
mod purposes;
mod report;
mod run;
mod setup;
mod test;
mod virtual_gpu;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// One entry point for what the project does beside the library itself.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Fetch the CUDA compiler from PyPI into target/, where the build script finds it
    Setup,
    /// Generate src/cuda/abi.rs from cuda/abi.h, and cuda/attention/variants.h from src/plan/variants.rs
    Bindings {
        /// Write nothing; fail where a file is not what would be written
        #[arg(long)]
        check: bool,
    },
    /// Compile every kernel for every card by two versions of nvcc and write cuda/codegen.md: registers, occupancy, instructions
    Codegen,
    /// Set up what the tests need and run all of them
    Test {
        /// Leave out what needs transformers 5: several GB, fetched from PyPI into target/
        #[arg(long)]
        without_transformers: bool,
    },
    /// Gather tests, benchmarks and scripts in one folder that runs on a machine with a card and without Rust
    GpuKit(kit::Options),
    /// Check the licences of all dependencies, several versions of one, and every feature on the Rust that is stated for it
    Package(package::Arguments),
    /// Run a command on a virtual card, e.g. `cargo xtask on h200 -- cargo test --features cuda --test streams`
    ///
    /// Builds the virtual GPU's driver first, and has the command find it as its CUDA driver.
    On(virtual_gpu::On),
    /// Plant known bugs in a copy of the tree, one at a time, and see the tests catch them
    #[command(disable_help_flag = true)]
    Planted(Passed),
    /// Run the fuzz targets: inputs that nobody thought of, by libFuzzer
    #[command(disable_help_flag = true)]
    Fuzz(Passed),
    /// Edit the kernels' PTX by rule, one mistake at a time, and see what the virtual GPU notices
    #[command(disable_help_flag = true)]
    Mutants(Passed),
    /// Measure ours beside PyTorch, Hugging Face and CTranslate2, in one run
    Peers {
        #[command(subcommand)]
        device: peers::Device,
    },
    /// Count the bytes of one decode step's cross-attention against the number of prompts: FLOP per byte, shared K/V or not
    ///
    /// 1 to 128 prompts over an input of 512 tokens, T5-base's heads: one K/V for all of them, a copy of it for each, and PIE's
    /// K/V of each. The CPU backend in f32 runs under valgrind's callgrind (which must be installed), whose caches say what comes
    /// from memory; the kernels in bf16, which nvcc compiles, run on a virtual h200 and a virtual a100, whose counters say what
    /// they ask for. Writes results/intensity.jsonl and the report. No card is needed, and no time is measured.
    Intensity,
    /// Train tiny T5s and time every way to have many outputs of one input: where the method holds and where it breaks
    ///
    /// The paper's three tasks and four that break its assumptions, PID and PIE, three seeds; then seconds and memory of ours, of
    /// Hugging Face's and of a decoder-only model. Writes results/method/ and docs/method.md. Packages come from PyPI into target/,
    /// several GB; on 2 cores the trainings take under two hours, the times about ten minutes.
    Method(method::Arguments),
    /// Refit the plan's cost constants to a sweep that was measured with every plan
    #[command(disable_help_flag = true)]
    Fit(Passed),
    /// Predict what a card should show, from what was counted and what is assumed: nothing of it is measured
    #[command(disable_help_flag = true)]
    Model(Passed),
    /// Look for what tests alone do not see: more cases, Miri, sanitizers, advisories, builds that differ
    #[command(disable_help_flag = true)]
    Reliability(Passed),
    /// Turn results/ into docs/performance.md, method.md and reliability.md, with figures and tables beside the results
    Report(report::Arguments),
}

/// What a program in another package is told, `--help` too.
#[derive(Args)]
struct Passed {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Setup => setup::run(),
        Task::Bindings { check } => bindings::run(check),
        Task::Codegen => codegen::run(),
        Task::Test { without_transformers } => test::run(!without_transformers),
        Task::GpuKit(options) => kit::run(&options),
        Task::Package(arguments) => package::run(&arguments),
        Task::On(arguments) => virtual_gpu::on(&arguments),
        Task::Planted(passed) => checks::run("planted", &passed.arguments),
        Task::Fuzz(passed) => checks::run("fuzz", &passed.arguments),
        Task::Mutants(passed) => checks::run("mutants", &passed.arguments),
        Task::Peers { device } => peers::run(&device),
        Task::Intensity => intensity::run(),
        Task::Method(arguments) => method::run(&arguments),
        Task::Fit(passed) => run::model("fit", &passed.arguments),
        Task::Model(passed) => run::model("model", &passed.arguments),
        Task::Reliability(passed) => checks::run("reliability", &passed.arguments),
        Task::Report(arguments) => report::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
