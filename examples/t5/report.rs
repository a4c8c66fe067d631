//! What a run prints: outputs by prompt, then PID against PIE.

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use onekv::cost::{self, Method, ModelShape, Workload};
use serde_json::{Value, json};

use crate::generate::{Stats, Task};

/// The figures of one method over a whole run.
pub struct Figures {
    pub method: Method,
    pub stats: Stats,
    pub flops: u64,
    pub predicted_kv_bytes: u64,
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
        let mut figures = Self { method, stats, flops: 0, predicted_kv_bytes: 0 };
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
            let shared = match method {
                Method::Pie => 0,
                Method::Pid => task.prompts.len().saturating_sub(1) as u64,
            };
            for work in task.prompts.iter().zip(outputs).map(single) {
                figures.flops += cost::breakdown(method, model, &work).total().flops;
                figures.predicted_kv_bytes += cost::cross_kv_bytes(method, model, &work);
            }
            let Some(work) = task.prompts.iter().zip(outputs).next().map(single) else { continue };
            let encode_only = Workload { new_tokens: 0, ..work };
            figures.flops -= shared * cost::breakdown(method, model, &encode_only).total().flops;
            figures.predicted_kv_bytes -= shared * cost::cross_kv_bytes(method, model, &work);
        }
        figures
    }

    pub fn json(&self) -> Value {
        let s = &self.stats;
        json!({
            "encoder_tokens": s.encoder_tokens,
            "cross_kv_bytes": s.cross_kv_bytes,
            "cross_kv_bytes_predicted": self.predicted_kv_bytes,
            "flops_predicted": self.flops,
            "new_tokens": s.new_tokens,
            "encode_s": s.encode.as_secs_f64(),
            "prefill_s": s.prefill.as_secs_f64(),
            "decode_s": s.decode.as_secs_f64(),
            "total_s": s.total().as_secs_f64(),
        })
    }

    pub fn name(&self) -> &'static str {
        match self.method {
            Method::Pid => "PID",
            Method::Pie => "PIE",
        }
    }

    /// What the name means.
    pub fn legend(&self) -> &'static str {
        match self.method {
            Method::Pid => {
                "PID: prompt in the decoder. The input is encoded once; all prompts read its one K/V."
            }
            Method::Pie => {
                "PIE: prompt in the encoder. The input is encoded, and its K/V kept, once per prompt."
            }
        }
    }
}

/// As wide as the terminal at most; elsewhere as wide as it likes.
fn table() -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    if let Some((_, columns)) = console::Term::stdout().size_checked() {
        table.set_width(columns);
    }
    table
}

/// Prompt and output, a column per method.
pub fn outputs_table(prompts: &[String], columns: &[(&str, Vec<String>)]) -> Table {
    let mut table = table();
    let names = columns.iter().map(|(name, _)| (*name).to_string());
    table.set_header(std::iter::once("prompt".to_string()).chain(names));
    for (i, prompt) in prompts.iter().enumerate() {
        let cells = columns.iter().map(|(_, outputs)| outputs[i].clone());
        table.add_row(std::iter::once(prompt.clone()).chain(cells));
    }
    table
}

/// Encoder tokens, K/V, FLOPs and time; with two methods, how many times as much PIE takes.
pub fn figures_table(figures: &[Figures]) -> Table {
    let mut table = table();
    let mut header: Vec<&str> = vec![""];
    header.extend(figures.iter().map(Figures::name));
    if figures.len() == 2 {
        header.push("PIE / PID");
    }
    table.set_header(header);
    type Measure = (&'static str, fn(&Figures) -> f64, fn(f64) -> String);
    let lines: [Measure; 6] = [
        ("encoder tokens", |f| f.stats.encoder_tokens as f64, |x| format!("{x}")),
        ("cross-attention K/V", |f| f.stats.cross_kv_bytes as f64, |x| format!("{:.2} MB", x / 1e6)),
        ("FLOPs, by formula", |f| f.flops as f64, |x| format!("{:.2} G", x / 1e9)),
        ("time: encode", |f| f.stats.encode.as_secs_f64(), milliseconds),
        ("time: decode", |f| (f.stats.prefill + f.stats.decode).as_secs_f64(), milliseconds),
        ("time: total", |f| f.stats.total().as_secs_f64(), milliseconds),
    ];
    for (name, value, format) in lines {
        let mut row = vec![name.to_string()];
        row.extend(figures.iter().map(|f| format(value(f))));
        if let [pid, pie] = figures {
            row.push(format!("{:.1}x", value(pie) / value(pid)));
        }
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.1} ms", seconds * 1e3)
}
