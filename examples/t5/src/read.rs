//! Text files, read without trusting their size.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

/// No configuration, prompt list or input is longer; a device or a wrong file may be endless.
const MAX_BYTES: u64 = 64 << 20;

/// The text of `path`, which errors call `what`.
pub fn text(what: &str, path: &Path) -> Result<String> {
    let cannot = || format!("cannot read {what} {}", path.display());
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(cannot)?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).with_context(cannot)?;
    if bytes.len() as u64 > MAX_BYTES {
        bail!("{what} {} is longer than allowed: at most {MAX_BYTES} bytes", path.display());
    }
    String::from_utf8(bytes).with_context(|| format!("{what} {} is not text, allowed: UTF-8", path.display()))
}
