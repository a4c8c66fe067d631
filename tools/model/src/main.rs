//! What is predicted and fitted: times of cards, the plan's cost constants, the costs of the ways to have many outputs.

mod assumptions;
mod attention;
mod cards;
mod decode_step;
mod fit;
mod formula;
mod measured;
mod predict;
mod scripts;
// Of the benchmark, which measures what is predicted here.
#[allow(dead_code)]
#[path = "../../../benches/card/shapes.rs"]
mod shapes;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What cards and methods should cost.
#[derive(Parser)]
// Whose tasks `fit` and `model` are, to the user.
#[command(bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Refit the plan's cost constants to a sweep that was measured with every plan
    ///
    /// `cargo bench --features cuda --bench card -- --sweep fit --every-plan --out results/<card>/attention-fit.jsonl`
    /// measures one. Prints how much longer the plan's choices take than the best plans measured, with today's constants
    /// and with the refitted ones, and the constants as they go into src/plan/cost.rs.
    Fit(fit::Arguments),
    /// Predict what a card should show, from what was counted and what is assumed: nothing of it is measured
    ///
    /// Instructions of a tile of keys come from cuda/codegen.md, blocks from the plan, clocks, rates and latencies from
    /// tools/model/src/assumptions.rs, with their sources. Prints a table for few rows, many rows and T5's decode step beside
    /// their targets. Where results/ has a file of the card, prints how far off the model is and fails past 20 %.
    Model(predict::Arguments),
    /// Write results/method/formula.jsonl: by the cost model, what each way costs on the tasks of quality.jsonl beside it
    Formula,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Fit(arguments) => fit::run(&arguments),
        Task::Model(arguments) => predict::run(&arguments),
        Task::Formula => formula::run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
