//! What a run prints: outputs by prompt, then the methods side by side.

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use onekv_cost::{Method, ModelShape, Workload, breakdown, cross_kv_bytes, decode_step_bytes};
use serde_json::{Value, json};

use crate::generate::{Stats, Task};

/// The figures of one method over a whole run.
pub struct Figures {
    pub method: Method,
    pub stats: Stats,
    pub flops: u64,
    pub predicted_kv_bytes: u64,
    /// Weights and K/V that a step over all rows must read; none where they took turns.
    pub step_floor_bytes: Option<u64>,
}

impl Figures {
    /// `tasks` as they were asked, prompts not yet moved into the encoder; `outputs` by task and prompt.
    pub fn new(
        method: Method,
        stats: Stats,
        model: &ModelShape,
        tasks: &[Task],
        outputs: &[Vec<Vec<u32>>],
    ) -> Self {
        let (mut flops, mut kv_bytes) = (0, 0);
        for (task, outputs) in tasks.iter().zip(outputs) {
            // Prompts and outputs of one input differ in length: the model takes each by itself and
            // the shared encoding once.
            let single = |(prompt, output): (&Vec<u32>, &Vec<u32>)| Workload {
                inputs: 1,
                prompts: 1,
                keys: task.input.len() as u64,
                prompt_tokens: prompt.len() as u64,
                new_tokens: output.len() as u64,
            };
            let more = task.prompts.len().saturating_sub(1) as u64;
            let encoded_again = if method == Method::Pie { 0 } else { more };
            let stored_again = if method == Method::Pid { more } else { 0 };
            for work in task.prompts.iter().zip(outputs).map(single) {
                flops += breakdown(method, model, &work).total().flops;
                kv_bytes += cross_kv_bytes(method, model, &work);
            }
            let Some(work) = task.prompts.iter().zip(outputs).next().map(single) else { continue };
            let encode_only = Workload { new_tokens: 0, ..work };
            flops -= encoded_again * breakdown(method, model, &encode_only).total().flops;
            kv_bytes -= stored_again * cross_kv_bytes(method, model, &work);
        }
        let step_floor_bytes = (stats.batch_rows == stats.rows)
            .then(|| decode_step_bytes(method, model, &Workload::default()) + kv_bytes);
        Self { method, stats, flops, predicted_kv_bytes: kv_bytes, step_floor_bytes }
    }

    /// New tokens per second, encoding included.
    fn tokens_per_s(&self) -> f64 {
        self.stats.new_tokens as f64 / self.stats.total().as_secs_f64()
    }

    /// What is worth a line where rows did not all enter at once.
    fn in_turns(&self, count: usize) -> Option<f64> {
        (self.stats.admissions > 1).then_some(count as f64)
    }

    pub fn json(&self) -> Value {
        let s = &self.stats;
        let step = s.step().map(|step| step.as_secs_f64());
        json!({
            "encoder_tokens": s.encoder_tokens,
            "cross_kv_bytes": s.cross_kv_bytes,
            "cross_kv_bytes_predicted": self.predicted_kv_bytes,
            "flops_predicted": self.flops,
            "rows": s.rows,
            "batch_rows": s.batch_rows,
            "admissions": s.admissions,
            "new_tokens": s.new_tokens,
            "setup_s": s.setup.as_secs_f64(),
            "encode_s": s.encode.as_secs_f64(),
            "copy_kv_s": s.copy.as_secs_f64(),
            "prefill_s": s.prefill.as_secs_f64(),
            "decode_s": s.decode.as_secs_f64(),
            "total_s": s.total().as_secs_f64(),
            "totals_s": s.totals.iter().map(|total| total.as_secs_f64()).collect::<Vec<_>>(),
            "tokens_per_s": self.tokens_per_s(),
            "decode_step_median_s": step,
            "decode_step_tokens_per_s": step.map(|step| s.batch_rows as f64 / step),
            "decode_step_floor_bytes": self.step_floor_bytes,
            "peak_device_bytes": s.peak_bytes,
        })
    }
}

/// As wide as the terminal at most; elsewhere as wide as it likes.
pub fn table() -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    if let Some((_, columns)) = console::Term::stdout().size_checked() {
        table.set_width(columns);
    }
    table
}

/// Prompt and output, a column per method.
pub fn outputs_table(prompts: &[Value], columns: &[(&str, &[Value])]) -> Table {
    let mut table = table();
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_string);
    table.set_header(std::iter::once("prompt").chain(columns.iter().map(|(name, _)| *name)));
    for (i, prompt) in prompts.iter().enumerate() {
        let cells = columns.iter().map(|(_, outputs)| &outputs[i]);
        table.add_row(std::iter::once(prompt).chain(cells).map(text));
    }
    table
}

/// A line of a table: what it is called, found by and written as.
pub type Measure<T> = (&'static str, fn(&T) -> Option<f64>, fn(f64) -> String);

/// A column of measures for each of `all`, and how many times as much the others take as the one at `base`, told to so many
/// digits.
pub fn measures_table<T>(
    all: &[&T],
    name: fn(&T) -> &'static str,
    base: Option<usize>,
    digits: usize,
    lines: &[Measure<T>],
) -> Table {
    let mut table = table();
    let base = base.map(|base| all[base]);
    let others: Vec<&T> =
        base.iter().flat_map(|base| all.iter().filter(|x| !std::ptr::eq(**x, *base))).copied().collect();
    let ratios = base.iter().flat_map(|base| others.iter().map(|x| format!("{} / {}", name(x), name(base))));
    let names = all.iter().map(|x| name(x).to_string());
    table.set_header(std::iter::once(String::new()).chain(names).chain(ratios));
    for (line, value, written) in lines {
        let mut row = vec![line.to_string()];
        row.extend(all.iter().map(|x| value(x).map_or("-".into(), written)));
        row.extend(others.iter().map(|x| match (value(x), base.and_then(value)) {
            (Some(other), Some(base)) => format!("{:.digits$}x", other / base),
            _ => "-".into(),
        }));
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Work, memory and time of each method; how many times as much the others take as PID.
pub fn figures_table(figures: &[&Figures]) -> Table {
    let pid = figures.iter().position(|f| f.method == Method::Pid);
    let lines: [Measure<Figures>; 14] = [
        ("encoder tokens", |f| Some(f.stats.encoder_tokens as f64), |x| format!("{x}")),
        ("cross-attention K/V", |f| Some(f.stats.cross_kv_bytes as f64), megabytes),
        ("rows at once", |f| f.in_turns(f.stats.batch_rows), |x| format!("{x}")),
        ("admissions", |f| f.in_turns(f.stats.admissions), |x| format!("{x}")),
        ("FLOPs, by formula", |f| Some(f.flops as f64), |x| format!("{:.2} G", x / 1e9)),
        ("peak device memory", |f| f.stats.peak_bytes.map(|b| b as f64), megabytes),
        ("time: set up", |f| some(f.stats.setup.as_secs_f64()), milliseconds),
        ("time: encode", |f| Some(f.stats.encode.as_secs_f64()), milliseconds),
        ("time: copy K/V", |f| some(f.stats.copy.as_secs_f64()), milliseconds),
        ("time: prefill", |f| Some(f.stats.prefill.as_secs_f64()), milliseconds),
        ("time: decode", |f| some(f.stats.decode.as_secs_f64()), milliseconds),
        ("time: total", |f| Some(f.stats.total().as_secs_f64()), milliseconds),
        ("one decode step", |f| f.stats.step().map(|s| s.as_secs_f64()), milliseconds),
        ("tokens per second", |f| some(f.tokens_per_s()), |x| format!("{x:.0}")),
    ];
    // What no method did has no line.
    let lines = lines.into_iter().filter(|(_, value, _)| figures.iter().any(|f| value(f).is_some()));
    measures_table(figures, |figures| figures.method.name(), pid, 1, &lines.collect::<Vec<_>>())
}

/// Nothing where nothing was done.
fn some(x: f64) -> Option<f64> {
    (x.is_finite() && x > 0.0).then_some(x)
}

pub fn milliseconds(seconds: f64) -> String {
    format!("{:.1} ms", seconds * 1e3)
}

pub fn gigabytes(bytes: u64) -> String {
    format!("{:.2} GB", bytes as f64 / 1e9)
}

pub fn megabytes(bytes: f64) -> String {
    format!("{:.2} MB", bytes / 1e6)
}
