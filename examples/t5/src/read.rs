//! Text files, read without trusting their size, and JSON objects, read without trusting their fields.

use std::fs::File;
use std::io::Read as _;
use std::ops::RangeInclusive;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value, json};

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

/// A JSON object, read field by field.
pub struct Fields(pub Map<String, Value>);

impl Fields {
    /// The object in the file `path`, which errors call `what`.
    pub fn read(what: &str, path: &Path) -> Result<Self> {
        let text = text(what, path)?;
        let json = serde_json::from_str(&text).with_context(|| format!("in {}: not JSON", path.display()))?;
        let Value::Object(fields) = json else { bail!("in {}: not a JSON object", path.display()) };
        Ok(Self(fields))
    }

    pub fn of(json: Value) -> Result<Self> {
        match json {
            Value::Object(fields) => Ok(Self(fields)),
            other => bail!("it is {other}, allowed: a JSON object"),
        }
    }

    /// A field that is there, and not null.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    pub fn count(&self, name: &str, default: u64, allowed: RangeInclusive<u64>) -> Result<usize> {
        let value = self.get(name).cloned().unwrap_or_else(|| json!(default));
        let (least, most) = (allowed.start(), allowed.end());
        let count = value.as_u64().filter(|count| allowed.contains(count)).map(|count| count as usize);
        count.with_context(|| format!("{name} is {value}, allowed: an integer from {least} to {most}"))
    }

    /// An id of a vocabulary, or several, or none.
    pub fn ids(&self, name: &str, vocab: usize) -> Result<Vec<u32>> {
        let Some(value) = self.get(name) else { return Ok(Vec::new()) };
        let list = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        let id = |id: &Value| id.as_u64().filter(|id| *id < vocab as u64).map(|id| id as u32);
        let ids = list.iter().map(id).collect::<Option<_>>();
        ids.with_context(|| {
            format!("{name} is {value}, allowed: an integer from 0 to {}, or a list of them", vocab - 1)
        })
    }
}
