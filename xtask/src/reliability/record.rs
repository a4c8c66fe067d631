//! What a part leaves, and the files that hold it.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// What a part left.
#[derive(Serialize)]
pub struct Record {
    pub date: String,
    pub commit: String,
    /// The tool that looked, with its version.
    pub tool: String,
    pub runs: Vec<Run>,
}

/// One command that ended well.
#[derive(Serialize)]
pub struct Run {
    pub what: String,
    pub command: String,
    /// What it found, in words: numbers of tests, of cases.
    pub found: String,
}

pub fn write(path: &Path, text: &str) -> Result<()> {
    eprintln!("==> write {}", path.display());
    put(path, text)
}

pub fn put(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

pub fn parsed<T: for<'a> Deserialize<'a>>(file: &Path) -> Result<T> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not as this task writes it", file.display()))
}
