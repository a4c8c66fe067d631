//! `docs/performance.md` and the figures and tables beside the results: all of them from `results/**.json` alone, so
//! that the same results give the same bytes.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::data::{Machine, Peer, Results};
use super::{card, cpu};
use crate::run::root;

/// Texts by their path in the repository.
pub type Files = BTreeMap<String, String>;

const PAGE: &str = "docs/performance.md";

const HEAD: &str = "\
# Performance

<!-- Made by `cargo xtask report` from results/. Do not edit. -->

Every number here is from a file in [results](../results), whose machine and date stand with it. b is the number of
inputs, U the prompts (query rows) of each, n the keys of each. A peer's ratio is its time over ours in the same run:
more than 1 means that ours is the quicker. Targets are those set for an H200.
";

const NO_CARD: &str = "
## Cards

Nothing has been measured on a card yet. On a machine with a card and Rust:

```
cargo xtask peers gpu    # ours and the peers, into results/<card>/
cargo xtask report       # this page, from them
```

Without Rust there: `cargo xtask gpu-kit` makes a folder to take along, `gpu-kit/run.sh --out results-out` in it measures,
and the JSON files of results-out go into results/<card>/ here.
";

/// Writes all of it.
pub fn write() -> Result<()> {
    for (path, text) in files(&root().join("results"))? {
        let to = root().join(&path);
        let folder = to.parent().context("a path without a folder")?;
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        std::fs::write(&to, text).with_context(|| format!("cannot write {}", to.display()))?;
        println!("wrote {path}");
    }
    Ok(())
}

/// The page and what it shows, of a folder of results.
pub fn files(results: &Path) -> Result<Files> {
    let results = Results::read(results)?;
    let mut files = Files::new();
    let mut page = HEAD.to_owned();
    if results.cards.is_empty() {
        page += NO_CARD;
    }
    for (folder, one) in &results.cards {
        page += &card::section(folder, one, &mut files)?;
    }
    page += &cpu::section(&results.cpu, &mut files)?;
    files.insert(PAGE.to_owned(), page);
    Ok(files)
}

/// The machine in one line: what stands under a figure.
pub fn source(machine: &Machine) -> String {
    let mut parts = vec![
        machine.card.clone(),
        format!("compute capability {}", machine.compute_capability),
        format!("{} multiprocessors", machine.multiprocessors),
    ];
    parts.extend(machine.driver.as_ref().map(|driver| format!("driver {driver}")));
    parts.extend(machine.torch.as_ref().map(|torch| format!("PyTorch {torch}")));
    parts.extend(machine.commit.as_ref().map(|commit| format!("onekv at {commit}")));
    parts.push(machine.date.clone().unwrap_or_else(|| "date not recorded".to_owned()));
    parts.join(", ")
}

/// Three significant digits.
pub fn short(value: f64) -> String {
    let whole = if value > 0.0 { value.log10().floor() as i32 + 1 } else { 1 };
    format!("{value:.*}", (3 - whole).clamp(0, 6) as usize)
}

/// A figure in the page.
pub fn picture(title: &str, path: &str) -> String {
    format!("\n![{title}](../{path})\n")
}

/// What a reader need not see at first.
pub fn folded(summary: &str, text: &str) -> String {
    format!("\n<details><summary>{summary}</summary>\n\n{text}\n</details>\n")
}

/// What was not measured and why, each reason once.
pub fn without_time(peers: &BTreeMap<String, Peer>, errors: &[(String, String)], left_out: usize) -> String {
    let mut reasons: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for (system, error) in errors {
        *reasons.entry((system, error)).or_default() += 1;
    }
    let mut text = String::new();
    for (name, peer) in peers {
        match &peer.absent {
            Some(why) => text += &format!("- {name} was not measured: {why}\n"),
            None => {
                text += &format!("- {name} {}\n", peer.version.as_deref().unwrap_or("of unknown version"))
            }
        }
    }
    for ((system, error), shapes) in reasons {
        let error = error.lines().next().unwrap_or_default();
        text += &format!("- {system}: no time for {shapes} of its shapes: {error}\n");
    }
    if left_out > 0 {
        text += &format!("- The time budget left out {left_out} more measurements.\n");
    }
    if text.is_empty() { text } else { format!("\n{text}") }
}
