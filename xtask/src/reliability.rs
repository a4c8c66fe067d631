//! `cargo xtask reliability`: what the library promises to survive, and how that was looked at.
//!
//! Each part is run by itself and leaves a file in results/reliability/, of which tools/report makes docs/reliability.md.

mod builds;
mod checks;
#[cfg(test)]
mod purposes;
mod record;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::report;
use crate::run::{command, date, output, root};
use record::{Record, parsed, put, write};

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Part {
    /// Property tests with many more cases: plans and the CPU
    Soak,
    /// The same for the kernels, on virtual cards
    Cards,
    /// A driver each of whose calls fails in turn
    Driver,
    /// Undefined behaviour, by Miri (nightly Rust with `miri` and `rust-src`)
    Miri,
    /// Reads and writes outside of memory, by AddressSanitizer (nightly)
    Address,
    /// Data races, by ThreadSanitizer (nightly with `rust-src`)
    Thread,
    /// Advisories, the list of all parts, and whether kernels compile to the same bytes, without a network
    Builds,
}

impl Part {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    fn file(self, results: &Path) -> PathBuf {
        results.join(self.name()).with_extension("json")
    }
}

#[derive(clap::Args)]
pub struct Arguments {
    /// Only these; `--part` can be given several times [default: all]
    #[arg(long = "part")]
    parts: Vec<Part>,
    /// Cases of each property in `soak` and `cards` [default: 500000 of plans, 10000 on the CPU, 1000 on each card, which takes
    /// hours]
    #[arg(long)]
    cases: Option<NonZeroU32>,
    /// Take the advisories that cargo-deny fetched before
    #[arg(long)]
    offline: bool,
}

/// How a fuzz target did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fuzzed {
    /// Inputs that were run.
    pub runs: u64,
    pub seconds: u64,
    /// libFuzzer's `cov:`, edges of the program that some input took.
    pub coverage: u64,
    /// libFuzzer's `ft:`, edges by how often they were taken, and comparisons.
    pub features: u64,
    /// Inputs that each reach something of their own, and their bytes.
    pub corpus: u64,
    pub corpus_bytes: String,
    pub peak_mb: u64,
    pub date: String,
    pub commit: String,
}

impl std::fmt::Display for Fuzzed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Fuzzed { runs, seconds, coverage, features, corpus, corpus_bytes, peak_mb, .. } = self;
        write!(f, "{runs} runs in {seconds} s, cov {coverage}, ft {features}, ")?;
        write!(f, "corpus {corpus} inputs of {corpus_bytes}, peak {peak_mb} MB")
    }
}

/// Writes how targets did beside those that were not run now, and the page.
pub fn record_fuzzed(figures: impl Iterator<Item = (String, Fuzzed)>) -> Result<()> {
    let results = results();
    let mut all = fuzzed(&results)?;
    all.extend(figures);
    write(&results.join(FUZZED), &(serde_json::to_string_pretty(&all)? + "\n"))?;
    write_page()
}

/// The test that failed while a bug was planted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Caught {
    pub test: String,
    pub date: String,
    pub commit: String,
}

/// Writes which planted bugs there are, and how those were caught that were; says nothing, as it is done for each.
pub fn record_planted(planted: &BTreeMap<String, Option<Caught>>) -> Result<()> {
    put(&results().join(PLANTED), &(serde_json::to_string_pretty(planted)? + "\n"))
}

/// What [`record_planted`] wrote; nothing where there is no such file.
pub fn planted() -> Result<BTreeMap<String, Option<Caught>>> {
    let path = results().join(PLANTED);
    if path.exists() { parsed(&path) } else { Ok(BTreeMap::new()) }
}

const PLANTED: &str = "planted.json";
const FUZZED: &str = "fuzz.json";

/// Every target's last run; none where there is no such file.
fn fuzzed(results: &Path) -> Result<BTreeMap<String, Fuzzed>> {
    let path = results.join(FUZZED);
    if path.exists() { parsed(&path) } else { Ok(BTreeMap::new()) }
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let results = results();
    let all = Part::value_variants();
    let asked = if arguments.parts.is_empty() { all } else { &arguments.parts };
    if let Some(cases) = arguments.cases
        && !asked.iter().any(|part| [Part::Soak, Part::Cards].contains(part))
    {
        bail!("--cases is {cases}, allowed: with --part soak or --part cards");
    }
    let (date, commit) = (date()?, commit()?);
    for part in asked {
        let (tool, runs) = match part {
            Part::Driver => {
                checks::failing_driver(&results, &date, &commit)?;
                continue;
            }
            Part::Builds => builds::run(&results, arguments.offline)?,
            _ if cfg!(not(all(target_os = "linux", target_arch = "x86_64"))) => {
                bail!("--part {} runs on Linux on x86-64", part.name())
            }
            Part::Soak => checks::soak(arguments.cases)?,
            Part::Cards => checks::cards(arguments.cases)?,
            Part::Miri => checks::miri()?,
            Part::Address => checks::address()?,
            Part::Thread => checks::thread()?,
        };
        let record = Record { date: date.clone(), commit: commit.clone(), tool, runs };
        write(&part.file(&results), &(serde_json::to_string_pretty(&record)? + "\n"))?;
    }
    write_page()
}

/// Writes docs/reliability.md from what is in results/reliability/.
pub fn write_page() -> Result<()> {
    report::write_text("docs/reliability.md")
}

/// Where the parts, and fuzzing, leave what they found.
fn results() -> PathBuf {
    root().join("results/reliability")
}

/// The commit that is checked out; with `+` where the tree is not it, but for what these tasks write.
pub fn commit() -> Result<String> {
    let asked = |arguments: &[&str]| output("the commit", &mut command("git", arguments));
    let all_but_results = ["--", ".", ":!results", ":!docs/reliability.md"];
    let status = ["status", "--porcelain", "--untracked-files=no"];
    let changed = !asked(&[&status[..], &all_but_results].concat())?.trim().is_empty();
    let commit = asked(&["rev-parse", "--short", "HEAD"])?.trim().to_owned();
    Ok(if changed { commit + "+" } else { commit })
}
