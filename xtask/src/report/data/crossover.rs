//! `crossover.json`: PID and PIE of the T5 example along three lines through a base point.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::file::{Seconds, json, measured, positive};
use super::{CpuMachine, Machine};

/// Where sharing pays, measured and predicted.
pub struct Crossover {
    pub shape: String,
    pub dtype: String,
    pub prompt_tokens: usize,
    /// Where the lines meet.
    pub base: Point,
    /// PID pays where it is this many times as fast.
    pub pays_from: f64,
    /// What the prediction takes for the best that the machine does.
    pub flops_per_s: f64,
    pub bytes_per_s: f64,
    /// Predicted at the base, and where that ceases; see [`t5::cost::Crossover`].
    pub predicted_gain: f64,
    pub least_prompts: Option<usize>,
    pub least_keys: Option<usize>,
    pub most_new_tokens: Option<usize>,
    pub lines: Vec<CrossoverLine>,
    pub left_out: usize,
    pub errors: Vec<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Point {
    pub keys: usize,
    pub prompts: usize,
    pub new_tokens: usize,
}

/// One point: seconds of the fastest runs, and how many times as fast PID is predicted to be.
pub struct CrossoverLine {
    pub at: Point,
    pub pid_s: f64,
    pub pie_s: f64,
    pub predicted: f64,
}

impl CrossoverLine {
    /// PIE's time over PID's.
    pub fn gain(&self) -> f64 {
        self.pie_s / self.pid_s
    }
}

#[derive(Deserialize)]
struct File {
    shape: String,
    dtype: String,
    prompt_tokens: usize,
    base: Point,
    predicted: Predicted,
    #[serde(default)]
    left_out: Vec<serde_json::Value>,
    lines: Vec<FileLine>,
}

#[derive(Deserialize)]
struct Predicted {
    roofline: Roofline,
    pays_from: f64,
    gain: f64,
    crossover: Limits,
}

#[derive(Deserialize)]
struct Roofline {
    flops_per_s: f64,
    bytes_per_s: f64,
}

#[derive(Deserialize)]
struct Limits {
    least_prompts: Option<usize>,
    least_keys: Option<usize>,
    most_new_tokens: Option<usize>,
}

#[derive(Deserialize)]
struct FileLine {
    keys: usize,
    prompts: usize,
    new_tokens: usize,
    error: Option<String>,
    pid_s: Option<Seconds>,
    pie_s: Option<Seconds>,
    predicted_gain: Option<f64>,
}

#[derive(Deserialize)]
struct OnCard {
    machine: Machine,
}

/// `results/cpu/crossover.json`.
pub fn on_cpu(path: &Path) -> Result<(CpuMachine, Crossover)> {
    Ok((json(path)?, read(path)?))
}

/// `results/<card>/crossover.json`.
pub fn on_card(path: &Path) -> Result<(Machine, Crossover)> {
    let OnCard { machine } = json(path)?;
    measured(path, &machine)?;
    Ok((machine, read(path)?))
}

fn read(path: &Path) -> Result<Crossover> {
    let File { shape, dtype, prompt_tokens, base, predicted, left_out, lines } = json(path)?;
    let mut run = Crossover {
        shape,
        dtype,
        prompt_tokens,
        base,
        pays_from: positive(path, "predicted.pays_from", predicted.pays_from)?,
        flops_per_s: positive(path, "predicted.roofline.flops_per_s", predicted.roofline.flops_per_s)?,
        bytes_per_s: positive(path, "predicted.roofline.bytes_per_s", predicted.roofline.bytes_per_s)?,
        predicted_gain: positive(path, "predicted.gain", predicted.gain)?,
        least_prompts: predicted.crossover.least_prompts,
        least_keys: predicted.crossover.least_keys,
        most_new_tokens: predicted.crossover.most_new_tokens,
        lines: Vec::new(),
        left_out: left_out.len(),
        errors: Vec::new(),
    };
    for (i, line) in lines.into_iter().enumerate() {
        let at = Point { keys: line.keys, prompts: line.prompts, new_tokens: line.new_tokens };
        if let Some(error) = line.error {
            run.errors.push(("onekv".to_owned(), error));
            continue;
        }
        for (field, value) in [("keys", at.keys), ("prompts", at.prompts), ("new_tokens", at.new_tokens)] {
            if value == 0 {
                bail!("{}: lines[{i}].{field} is 0, allowed: 1 or more", path.display());
            }
        }
        let need = |field: &str, value: Option<f64>| {
            let value = value.with_context(|| {
                format!("{}: lines[{i}].{field} is missing, and there is no error to say why", path.display())
            })?;
            positive(path, format_args!("lines[{i}].{field}"), value)
        };
        if run.lines.iter().any(|known| known.at == at) {
            bail!("{}: lines[{i}] is a point that was measured before", path.display());
        }
        run.lines.push(CrossoverLine {
            at,
            pid_s: need("pid_s.min", line.pid_s.map(|s| s.min))?,
            pie_s: need("pie_s.min", line.pie_s.map(|s| s.min))?,
            predicted: need("predicted_gain", line.predicted_gain)?,
        });
    }
    Ok(run)
}
