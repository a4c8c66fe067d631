//! `ptxsim mutate`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use ptxsim::Options;
use ptxsim::mutate::{Selection, Tried, Verdict, mutate, rules};
use serde_json::json;

use super::replay::load;

#[derive(clap::Args)]
pub struct Mutate {
    /// Files that the driver wrote into the folder of PTXSIM_RECORD
    #[arg(required = true)]
    recordings: Vec<PathBuf>,
    /// Make mistakes of this rule only
    #[arg(long)]
    rule: Option<String>,
    /// Try so many of each rule and kernel [default: all]
    #[arg(long)]
    limit: Option<usize>,
    /// Choose them by another number
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Leave out launches that failed when they were recorded; else one is an error
    #[arg(long)]
    skip_failed: bool,
    /// Print JSON lines: first the number of launches and the rules, then each mutant
    #[arg(long)]
    pub json: bool,
}

/// Counts of one rule.
#[derive(Default)]
struct Count {
    fault: usize,
    differs: usize,
    survived: usize,
    not_run: usize,
    refused: usize,
    panicked: usize,
}

pub fn run(arguments: &Mutate) -> Result<String> {
    let mut recordings = arguments.recordings.iter().map(|file| load(file)).collect::<Result<Vec<_>>>()?;
    recordings.retain(|recording| !(arguments.skip_failed && recording.failed()));
    let launches = recordings.len();
    let Mutate { rule, limit, seed, .. } = arguments;
    let selection = Selection { rule: rule.clone(), limit: *limit, seed: *seed };
    let start = Instant::now();
    let said = std::sync::Mutex::new(Duration::ZERO);
    let progress = |done: usize, all: usize| {
        // Whoever holds the lock says it.
        if let Ok(mut last) = said.try_lock()
            && (done == all || start.elapsed() > *last + Duration::from_millis(200))
        {
            *last = start.elapsed();
            let _ = write!(std::io::stderr(), "\r{done} of {all} mutants, {} s ", last.as_secs());
        }
    };
    let tried =
        mutate(recordings, &selection, Options::from_environment().map_err(anyhow::Error::msg)?, &progress)?;
    eprintln!();
    if arguments.json { lines(launches, &tried) } else { table(&tried) }
}

fn lines(launches: usize, tried: &[Tried]) -> Result<String> {
    let rules: Vec<_> = rules().map(|(name, about)| json!({ "name": name, "about": about })).collect();
    let mut text = json!({ "launches": launches, "rules": rules }).to_string() + "\n";
    for mutant in tried {
        text += &(serde_json::to_string(mutant)? + "\n");
    }
    Ok(text)
}

fn table(tried: &[Tried]) -> Result<String> {
    let mut counts: BTreeMap<&str, Count> = BTreeMap::new();
    for Tried { rule, verdict, .. } in tried {
        let count = counts.entry(rule).or_default();
        *match verdict {
            Verdict::Fault(_) => &mut count.fault,
            Verdict::Differs(_) => &mut count.differs,
            Verdict::Survived => &mut count.survived,
            Verdict::NotRun => &mut count.not_run,
            Verdict::Refused(_) => &mut count.refused,
            Verdict::Panicked => &mut count.panicked,
        } += 1;
    }
    let mut text = format!(
        "{:20}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}\n",
        "rule", "fault", "differs", "survived", "not run", "refused", "panicked"
    );
    for (rule, _) in rules() {
        let Some(c) = counts.get(rule) else { continue };
        let numbers = [c.fault, c.differs, c.survived, c.not_run, c.refused, c.panicked];
        writeln!(text, "{rule:20}{}", numbers.map(|n| format!("{n:>9}")).concat())?;
    }
    for Tried { rule, kernel, card, line, before, after, verdict, .. } in tried {
        if matches!(verdict, Verdict::Survived | Verdict::Panicked) {
            let what = if *verdict == Verdict::Survived { "survived" } else { "panicked" };
            writeln!(text, "{what}: {rule}, {kernel} on {card}, line {line}\n  {before}\n  {after}")?;
        }
    }
    Ok(text)
}
