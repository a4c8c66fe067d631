//! `cargo xtask peers cpu`: builds what is measured; tools/peers/turns.py has ours and the peers take turns.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use serde::Deserialize;

use crate::run::{cargo, command, root, step, target};
use crate::{report, setup};

#[derive(Args)]
pub struct Options {
    /// Threads of every system
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,
    /// A Python environment with tools/peers/requirements.txt [default: made in target/]
    #[arg(long, value_name = "DIR")]
    venv: Option<PathBuf>,
    /// Times ours and the peers take turns at each point
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Measure only this
    #[arg(long)]
    only: Option<Work>,
    /// Ours and candle's alone: nothing is installed
    #[arg(long, conflicts_with = "venv")]
    candle: bool,
    /// Only so many prompts, of those that are measured
    #[arg(long, value_name = "U", value_delimiter = ',')]
    rows: Vec<usize>,
    /// Only so many keys (input tokens), of those that are measured
    #[arg(long, value_name = "N", value_delimiter = ',')]
    keys: Vec<usize>,
}

/// What is measured.
#[derive(Clone, Copy, ValueEnum)]
enum Work {
    Attention,
    T5,
    /// Where PID pays and where it does not, of ours alone
    Crossover,
}

impl Work {
    /// As `--only` and the script take it.
    fn name(self) -> &'static str {
        match self {
            Self::Attention => "attention",
            Self::T5 => "t5",
            Self::Crossover => "crossover",
        }
    }
}

pub fn run(options: &Options) -> Result<()> {
    let part = options.candle || !options.rows.is_empty() || !options.keys.is_empty();
    let works = match (options.only, part) {
        (Some(Work::Crossover), true) => {
            bail!("--only is crossover, allowed with --candle, --rows or --keys: attention, t5")
        }
        (Some(one), _) => vec![one],
        (None, true) => vec![Work::Attention, Work::T5],
        (None, false) => vec![Work::Attention, Work::T5, Work::Crossover],
    };
    if part {
        let shapes = std::fs::read_to_string(root().join("tools/peers/shapes.json"))?;
        works.iter().try_for_each(|&work| points_exist(&shapes, work, options))?;
    }
    let python = if options.candle { None } else { Some(setup::peers_python(options.venv.as_deref())?) };
    step("build ours", &mut cargo(&["build", "--release", "--package", "onekv-peers"]))?;
    for work in works {
        let (what, package) = match work {
            Work::Crossover => ("build the T5 example", "t5"),
            _ => ("build the T5 on candle", "candle-t5"),
        };
        step(what, &mut cargo(&["build", "--release", "--package", package]))?;
        measure(options, work, part, python.as_deref())?;
    }
    Ok(())
}

/// Whether there is something to measure.
fn points_exist(shapes: &str, work: Work, options: &Options) -> Result<()> {
    #[derive(Deserialize)]
    struct Points {
        rows: Vec<usize>,
        keys: Vec<usize>,
    }
    let shapes: serde_json::Value = serde_json::from_str(shapes)?;
    let Points { rows, keys } = Points::deserialize(&shapes["cpu"][work.name()])?;
    for (name, all, asked) in [("--rows", rows, &options.rows), ("--keys", keys, &options.keys)] {
        if !asked.is_empty() && !all.iter().any(|n| asked.contains(n)) {
            bail!("{name} is {asked:?}, allowed: some of {all:?}");
        }
    }
    Ok(())
}

/// Into `results/cpu`, or into `target/peers-cpu` where only a part is measured.
fn measure(options: &Options, work: Work, part: bool, python: Option<&Path>) -> Result<()> {
    let folder = root().join(if part { "target/peers-cpu" } else { "results/cpu" });
    std::fs::create_dir_all(&folder)?;
    let mut script = command("python3", &["tools/peers/turns.py", work.name()]);
    script.arg("--programs").arg(target().join("release"));
    script.arg("--out").arg(folder.join(work.name()).with_extension("jsonl"));
    script.args(["--threads", &options.threads.to_string(), "--rounds", &options.rounds.to_string()]);
    for (name, asked) in [("--rows", &options.rows), ("--keys", &options.keys)] {
        script.arg(name).args(asked.iter().map(usize::to_string));
    }
    if let Some(python) = python {
        script.arg("--python").arg(python);
    }
    step(work.name(), &mut script)?;
    if part { Ok(()) } else { report::write() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_the_points_that_are_asked_for_must_be_measured() {
        let shapes =
            r#"{"cpu": {"attention": {"rows": [1, 2], "keys": [128]}, "t5": {"rows": [8], "keys": [128]}}}"#;
        let check = |work, rows: &[usize], keys: &[usize]| {
            let (rows, keys) = (rows.to_vec(), keys.to_vec());
            let options =
                Options { threads: 2, venv: None, rounds: 1, only: None, candle: false, rows, keys };
            points_exist(shapes, work, &options).map_err(|error| error.to_string())
        };
        assert_eq!(check(Work::Attention, &[], &[]), Ok(()));
        assert_eq!(check(Work::Attention, &[2, 3], &[128]), Ok(()));
        let rows = "--rows is [3], allowed: some of [1, 2]".to_owned();
        assert_eq!(check(Work::Attention, &[3], &[128]), Err(rows));
        let keys = "--keys is [1, 2], allowed: some of [128]".to_owned();
        assert_eq!(check(Work::T5, &[8], &[1, 2]), Err(keys));
    }
}
