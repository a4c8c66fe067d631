//! What Python reads: the repository's results and pages have one reader, in tools/.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;

/// The repository's root: of the checkout that cargo runs this in, which need not be the one it was built in.
pub fn root() -> PathBuf {
    let manifest = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&manifest).ancestors().nth(2).unwrap_or(Path::new("")).to_path_buf()
}

/// What a script of tools/ prints, told what to read: a value of JSON a line.
pub fn lines<T: DeserializeOwned>(script: &str, of: &[&str], paths: &[PathBuf]) -> Result<Vec<T>> {
    let mut python = Command::new("python3");
    python.arg("-B").arg(root().join("tools").join(script)).args(of).args(paths);
    let output = python.output().context("cannot run python3; is it installed?")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    let read = |line| serde_json::from_str(line).with_context(|| format!("{script} printed {line}"));
    str::from_utf8(&output.stdout)?.lines().map(read).collect()
}
