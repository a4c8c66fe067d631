//! `cargo xtask method`: where prompt-in-decoder holds and where it breaks, by tiny models that are trained here and by what each
//! way to have many outputs costs; into results/method/, of which `cargo xtask report` makes docs/method.md.

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::run::{cargo, command, model, release, root, step};
use crate::{report, setup};

#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// Threads of what is timed, and trainings at a time, which take one each
    #[arg(long, default_value_t = 2, global = true, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,
}

#[derive(Clone, Copy, Subcommand)]
enum Part {
    /// Train and evaluate the tiny T5s, and ask the cost model about their tasks: results/method/quality.jsonl and formula.jsonl
    ///
    /// What has ended is kept in target/method/runs.
    Quality,
    /// Time every way to have many outputs, ours and Hugging Face's in turns, and the decoder-only example: the rest of
    /// results/method/
    Cost,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    std::fs::create_dir_all(root().join("results/method"))?;
    match arguments.part {
        Some(Part::Quality) => quality(arguments.threads)?,
        Some(Part::Cost) => cost(arguments.threads)?,
        None => {
            quality(arguments.threads)?;
            cost(arguments.threads)?;
        }
    }
    report::write()
}

fn quality(jobs: u32) -> Result<()> {
    let python = setup::python("method-venv", "tools/method/requirements.txt", &[])?;
    let mut trainings = command(&python.to_string_lossy(), &["tools/method/run.py", "--out"]);
    trainings.args(["results/method/quality.jsonl", "--work", "target/method/runs"]);
    step("train and evaluate the tiny T5s", trainings.args(["--jobs", &jobs.to_string()]))?;
    model("formula", &[])
}

fn cost(threads: u32) -> Result<()> {
    let mut build = cargo(&["build", "--release", "--package", "t5", "--package", "shared-prefix"]);
    step("build the examples", &mut build)?;
    let python = setup::peers_python(None)?;
    let mut script = command(&python.to_string_lossy(), &["tools/method/cost.py", "--out", "results/method"]);
    script.args(["--t5", &release("t5"), "--shared-prefix", &release("shared-prefix")]);
    step("what each way costs", script.args(["--threads", &threads.to_string()]))
}

#[cfg(test)]
mod tests {
    use crate::run::python_tests;

    /// What models are trained on and judged by is right.
    #[test]
    fn answers_are_what_the_texts_say() {
        python_tests(&["tools/method/test_tasks.py"]);
    }
}
