//! `cargo xtask`: set-up, tests, peers and reports.

mod bindings;
mod checks;
mod codegen;
mod fit;
mod intensity;
mod kit;
#[cfg(test)]
mod layers;
mod method;
mod model;
mod package;
mod peers;
#[cfg(test)]
mod purposes;
mod report;
mod results;
mod run;
mod setup;
mod test;
mod tiny;
mod virtual_gpu;

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
    Planted(checks::Arguments),
    /// Run the fuzz targets: inputs that nobody thought of, by libFuzzer
    #[command(disable_help_flag = true)]
    Fuzz(checks::Arguments),
    /// Edit the kernels' PTX by rule, one mistake at a time, and see what the virtual GPU notices
    #[command(disable_help_flag = true)]
    Mutants(checks::Arguments),
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
    /// they ask for. Writes results/intensity.json and the report. No card is needed, and no time is measured.
    Intensity(intensity::Arguments),
    /// Train tiny T5s and time every way to have many outputs of one input: where the method holds and where it breaks
    ///
    /// The paper's three tasks and four that break its assumptions, PID and PIE, three seeds; then seconds and memory of ours, of
    /// Hugging Face's and of a decoder-only model. Writes results/method/ and docs/method.md. Packages come from PyPI into target/,
    /// several GB; on 2 cores the trainings take under two hours, the times about ten minutes.
    Method(method::Arguments),
    /// Refit the plan's cost constants to a sweep that was measured with every plan
    ///
    /// `cargo bench --features cuda --bench card -- --sweep fit --every-plan --out results/<card>/attention-fit.json`
    /// measures one. Prints how much longer the plan's choices take than the best plans measured, with today's constants
    /// and with the refitted ones, and the constants as they go into src/plan/cost.rs.
    Fit(fit::Arguments),
    /// Predict what a card should show, from what was counted and what is assumed: nothing of it is measured
    ///
    /// Instructions of a tile of keys come from cuda/codegen.md, blocks from the plan, clocks, rates and latencies from
    /// xtask/src/model/assumptions.rs, with their sources. Prints a table for few rows, many rows and T5's decode step beside
    /// their targets. Where results/ has a file of the card, prints how far off the model is and fails past 20 %.
    Model(model::Arguments),
    /// Look for what tests alone do not see: more cases, Miri, sanitizers, advisories, builds that differ
    #[command(disable_help_flag = true)]
    Reliability(checks::Arguments),
    /// Turn the measurements in results/ into docs/performance.md and docs/method.md, with figures and tables beside the results
    Report(report::Arguments),
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
        Task::Planted(arguments) => checks::run("planted", &arguments),
        Task::Fuzz(arguments) => checks::run("fuzz", &arguments),
        Task::Mutants(arguments) => checks::run("mutants", &arguments),
        Task::Peers { device } => peers::run(&device),
        Task::Intensity(arguments) => intensity::run(&arguments),
        Task::Method(arguments) => method::run(&arguments),
        Task::Fit(arguments) => fit::run(&arguments),
        Task::Model(arguments) => model::run(&arguments),
        Task::Reliability(arguments) => checks::run("reliability", &arguments),
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
