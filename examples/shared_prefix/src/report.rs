//! What a run prints: the modes side by side.

use comfy_table::Table;
use serde_json::{Value, json};
use t5::cli::report::{Measure, measures_table, megabytes, milliseconds};

use crate::generate::{Method, Stats};

/// What one mode found and took.
pub struct Figures {
    pub method: Method,
    /// Of the fastest run.
    pub stats: Stats,
    /// New ids by prompt.
    pub outputs: Vec<Vec<u32>>,
}

impl Figures {
    pub fn name(&self) -> &'static str {
        match self.method {
            Method::Shared => "shared",
            Method::Copies => "copies",
            Method::Recompute => "recompute",
        }
    }

    /// What the name means.
    pub fn legend(&self) -> String {
        let meaning = match self.method {
            Method::Shared => "the document is prefilled once, and all prompts read its one K/V.",
            Method::Copies => "it is prefilled once, and its K/V copied in front of each prompt.",
            Method::Recompute => "each prompt has the document prefilled for itself.",
        };
        format!("{}: {meaning}", self.name())
    }

    /// Prompts whose ids are those of `other`.
    fn same_ids(&self, other: &Self) -> usize {
        self.outputs.iter().zip(&other.outputs).filter(|(own, other)| own == other).count()
    }

    /// New tokens per second, prefill included.
    fn tokens_per_s(&self) -> f64 {
        self.stats.new_tokens as f64 / self.stats.total().as_secs_f64()
    }

    /// `first`: the mode whose ids this one's are compared with.
    pub fn json(&self, first: &Self) -> Value {
        let s = &self.stats;
        json!({
            "prefilled_tokens": s.prefilled_tokens,
            "kv_bytes": s.kv_bytes,
            "decode_step_kv_bytes": s.step_kv_bytes(),
            "new_tokens": s.new_tokens,
            "decode_steps": s.steps.len(),
            "prefill_s": s.prefill.as_secs_f64(),
            "copy_kv_s": s.copy.as_secs_f64(),
            "decode_s": s.decode().as_secs_f64(),
            "decode_step_median_s": s.step().map(|step| step.as_secs_f64()),
            "total_s": s.total().as_secs_f64(),
            "tokens_per_s": self.tokens_per_s(),
            "same_ids": self.same_ids(first),
        })
    }
}

/// Work, memory and time of each mode, and how many times as much the others take as the first.
pub fn figures_table(figures: &[Figures]) -> Table {
    let lines: [Measure<Figures>; 9] = [
        ("prefilled tokens", |f| Some(f.stats.prefilled_tokens as f64), |x| format!("{x}")),
        ("K/V held", |f| Some(f.stats.kv_bytes as f64), megabytes),
        ("K/V that a decode step reads", |f| f.stats.step_kv_bytes().map(|b| b as f64), megabytes),
        ("time: prefill", |f| Some(f.stats.prefill.as_secs_f64()), milliseconds),
        ("time: copy K/V", |f| Some(f.stats.copy.as_secs_f64()).filter(|s| *s > 0.0), milliseconds),
        ("time: decode", |f| f.stats.step().map(|_| f.stats.decode().as_secs_f64()), milliseconds),
        ("time: total", |f| Some(f.stats.total().as_secs_f64()), milliseconds),
        ("one decode step", |f| f.stats.step().map(|s| s.as_secs_f64()), milliseconds),
        ("tokens per second", |f| Some(f.tokens_per_s()), |x| format!("{x:.0}")),
    ];
    let all: Vec<&Figures> = figures.iter().collect();
    let mut table = measures_table(&all, Figures::name, (!all.is_empty()).then_some(0), 2, &lines);
    if let [first, others @ ..] = figures
        && !others.is_empty()
    {
        let mut row = vec![format!("ids as of {}", first.name()), String::new()];
        row.extend(others.iter().map(|f| format!("{} of {}", f.same_ids(first), f.outputs.len())));
        table.add_row(row);
    }
    table
}
