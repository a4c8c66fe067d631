//! `docs/performance.md`, `docs/method.md` and the figures and tables beside the results: all of them from `results/**.json`
//! alone, so that the same results give the same bytes.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::data::Results;
use super::page::Files;
use super::{card, cpu, intensity, method};
use crate::run::root;

const PAGE: &str = "docs/performance.md";

const HEAD: &str = "\
# Performance

<!-- Made by `cargo xtask report` from results/. Do not edit. -->

Every number here is from a file in [results](../results), whose machine and date stand with it. b is the number of
inputs, U the prompts (query rows) of each, n the keys of each. A peer's ratio is its time over ours in the same run:
more than 1 means that ours is the quicker. Ours with K/V per prompt or in e4m3 has its time over that with one K/V in
Q's type. Targets are those set for an H200.
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

/// The pages and what they show, of a folder of results.
pub fn files(results: &Path) -> Result<Files> {
    let mut files = Files::new();
    method::files(&results.join("method"), &mut files)?;
    let results = Results::read(results)?;
    let mut page = HEAD.to_owned();
    if results.cards.is_empty() {
        page += NO_CARD;
    }
    for (folder, one) in &results.cards {
        page += &card::section(folder, one, &mut files)?;
    }
    page += &cpu::section(&results.cpu, &mut files)?;
    if let Some(results) = &results.intensity {
        page += &intensity::section(results, &mut files)?;
    }
    files.insert(PAGE.to_owned(), page);
    Ok(files)
}
