//! The files of `results/method`: format in `results/README.md`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::peers::median;

/// `quality.json`.
#[derive(Deserialize)]
pub struct Quality {
    pub date: String,
    pub packages: BTreeMap<String, String>,
    pub examples_of_a_step: usize,
    pub prompts_of_an_example: usize,
    pub evaluated_examples: usize,
    pub tasks: BTreeMap<String, Task>,
    pub runs: Vec<Run>,
}

#[derive(Deserialize)]
pub struct Task {
    pub prompts: usize,
    pub input_tokens: f64,
    pub prompt_tokens: f64,
    pub new_tokens: f64,
    pub always_nothing: Option<Nothing>,
    /// Of a task that was trained at several.
    pub size: Option<Size>,
    pub example: Example,
}

/// How much of what the texts of a task hold.
#[derive(Deserialize)]
pub struct Size {
    /// The task whose texts these are, at another size or this one.
    pub of: String,
    pub counts: String,
    pub value: usize,
}

#[derive(Deserialize)]
pub struct Nothing {
    pub accuracy: f64,
}

#[derive(Deserialize)]
pub struct Example {
    pub text: String,
    pub prompts: Vec<String>,
    pub answers: Vec<String>,
}

#[derive(Deserialize)]
pub struct Run {
    pub task: String,
    pub way: String,
    pub steps: usize,
    pub parameters: u64,
    pub loss_every_50_steps: Vec<f64>,
    /// Shares of 1, by metric.
    pub held_out: BTreeMap<String, f64>,
}

/// `cost.json`.
#[derive(Deserialize)]
pub struct Costs {
    pub machine: String,
    pub date: String,
    pub threads: usize,
    pub transformers: String,
    pub shape: String,
    pub tasks: Vec<TaskCost>,
}

#[derive(Deserialize)]
pub struct TaskCost {
    pub task: String,
    pub prompts: usize,
    pub keys: usize,
    pub prompt_tokens: usize,
    pub new_tokens: usize,
    pub ways: Vec<WayCost>,
}

#[derive(Deserialize)]
pub struct WayCost {
    pub way: String,
    /// By turn.
    pub seconds: Vec<f64>,
    pub flops: Option<u64>,
    pub bytes: Option<u64>,
    pub peak_bytes: Option<u64>,
}

/// `decoder-only.json`.
#[derive(Deserialize)]
pub struct DecoderOnly {
    pub machine: String,
    pub date: String,
    pub threads: usize,
    pub shape: String,
    pub document_tokens: usize,
    pub prompts: usize,
    pub prompt_tokens: usize,
    pub new_tokens: usize,
    pub modes: Modes,
}

/// Runs by turn.
#[derive(Deserialize)]
pub struct Modes {
    pub shared: Vec<Mode>,
    pub copies: Vec<Mode>,
    pub recompute: Vec<Mode>,
}

#[derive(Deserialize)]
pub struct Mode {
    pub prefilled_tokens: u64,
    pub kv_bytes: u64,
    pub decode_step_kv_bytes: u64,
    pub prefill_s: f64,
    pub copy_kv_s: f64,
    pub decode_s: f64,
    pub tokens_per_s: f64,
    pub peak_bytes: u64,
}

impl TaskCost {
    pub fn way(&self, name: &str) -> Result<&WayCost> {
        let found = self.ways.iter().find(|way| way.way == name);
        found.with_context(|| format!("cost.json: {} lacks {name}", self.task))
    }
}

impl WayCost {
    pub fn median(&self) -> f64 {
        median(self.seconds.iter().copied())
    }

    pub fn least(&self) -> f64 {
        self.seconds.iter().copied().fold(f64::INFINITY, f64::min)
    }

    pub fn most(&self) -> f64 {
        self.seconds.iter().copied().fold(0.0, f64::max)
    }

    /// How many times as long as another, turn by turn.
    pub fn of(&self, other: &Self) -> f64 {
        median(self.seconds.iter().zip(&other.seconds).map(|(own, other)| own / other))
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    if !path.exists() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text)
        .map(Some)
        .with_context(|| format!("{} is not what it is to be", path.display()))
}

pub fn quality(path: &Path) -> Result<Option<Quality>> {
    let quality: Option<Quality> = read(path)?;
    for run in quality.iter().flat_map(|quality| &quality.runs) {
        for (metric, value) in &run.held_out {
            if !(0.0..=1.0).contains(value) {
                bail!("{}: {} of {} is {value}, allowed: 0 to 1", path.display(), metric, run.task);
            }
        }
    }
    Ok(quality)
}

pub fn costs(path: &Path) -> Result<Option<Costs>> {
    let costs: Option<Costs> = read(path)?;
    for task in costs.iter().flat_map(|costs| &costs.tasks) {
        for way in &task.ways {
            if way.seconds.is_empty() || way.seconds.iter().any(|s| !(*s > 0.0 && s.is_finite())) {
                bail!("{}: seconds of {} are {:?}, allowed: positive", path.display(), way.way, way.seconds);
            }
        }
    }
    Ok(costs)
}

pub fn decoder_only(path: &Path) -> Result<Option<DecoderOnly>> {
    let results: Option<DecoderOnly> = read(path)?;
    if results
        .as_ref()
        .is_some_and(|r| [&r.modes.shared, &r.modes.copies, &r.modes.recompute].iter().any(|m| m.is_empty()))
    {
        bail!("{}: a mode has no runs", path.display());
    }
    Ok(results)
}
