//! `cargo xtask report`: results/ as docs/performance.md, method.md and reliability.md with their figures, by tools/report.

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::run::{cargo, command, release, step};
use crate::setup;

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    /// Write nothing; fail where a file is not what the results give
    #[arg(long)]
    check: bool,
    #[command(subcommand)]
    report: Option<Report>,
}

#[derive(Subcommand)]
enum Report {
    /// Run the built-in models: PID against PIE on held-out dialogues, into results/cpu/tiny.md
    Tiny,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    match arguments.report {
        Some(Report::Tiny) => tiny(),
        None if arguments.check => check(),
        None => write(),
    }
}

pub fn write() -> Result<()> {
    made("make pages and figures of the results", &[])
}

pub fn check() -> Result<()> {
    made("are the pages and figures what the results give?", &["--check"])
}

fn tiny() -> Result<()> {
    step("build the T5 example", &mut cargo(&["build", "--release", "--package", "t5"]))?;
    let mut script = command("python3", &["tools/tiny-t5/table.py", "--t5", &release("t5")]);
    step("answer the held-out dialogues", &mut script)
}

fn made(what: &str, options: &[&str]) -> Result<()> {
    let python = setup::python("report-venv", "tools/report/requirements.txt", &[])?;
    let mut script = command(&python.to_string_lossy(), &["-B", "tools/report/report.py", "--root", "."]);
    step(what, script.args(options))
}

#[cfg(test)]
mod tests {
    use crate::run::python_tests;

    /// Texts, also the committed ones; what is drawn needs matplotlib: `cargo xtask test`.
    #[test]
    fn pages_are_what_the_results_give() {
        python_tests(&["-m", "unittest", "discover", "--start", "tools/report"]);
    }
}
