//! What the cost model says of a run before it: work, memory, and from where on sharing pays.

use crate::cost::{self, Crossover, Method, ModelShape, Roofline, SEARCHED, Workload};
use serde_json::{Value, json};

use crate::generate::Task;
use crate::memory::{Need, gigabytes, most_prompts, most_rows};
use crate::report::{name, table};

/// PID pays where it is this many times as fast as PIE.
const PAYS: f64 = 1.1;

/// The batch as the cost model takes it: the longest input and prompt stand for all.
pub fn workload(tasks: &[Task], max_new_tokens: usize) -> Workload {
    let most = |f: fn(&Task) -> usize| tasks.iter().map(f).max().unwrap_or(0) as u64;
    Workload {
        inputs: tasks.len() as u64,
        prompts: most(|t| t.prompts.len()),
        keys: most(|t| t.input.len()),
        prompt_tokens: most(|t| t.prompts.iter().map(Vec::len).max().unwrap_or(0)),
        new_tokens: max_new_tokens as u64,
    }
}

/// What is predicted of a run.
pub struct Prediction {
    pub model: ModelShape,
    pub work: Workload,
    /// The most rows at once.
    pub batch_rows: u64,
    pub methods: &'static [Method],
    pub free_bytes: Option<u64>,
    pub device: Option<Roofline>,
}

impl Prediction {
    fn crossover(&self) -> Option<(f64, Crossover)> {
        let device = self.device?;
        let gain = cost::gain(&self.model, &self.work, &device);
        Some((gain, cost::crossover(&self.model, &self.work, &device, PAYS)))
    }

    /// The most prompts per input that fit.
    fn most_prompts(&self, method: Method) -> Option<u64> {
        Some(most_prompts(method, &self.model, &self.work, self.free_bytes?))
    }

    /// One line on what fits, where memory is limited.
    pub fn memory_line(&self) -> Option<String> {
        let free = self.free_bytes?;
        let mut lines = Vec::new();
        for &method in self.methods {
            let (need, most) = (
                Need::new(method, &self.model, &self.work, self.batch_rows).total(),
                self.most_prompts(method)?,
            );
            let (name, needs) = (name(method), gigabytes(need));
            let rows = match most_rows(method, &self.model, &self.work, free) {
                rows if need > free && rows > 0 => format!(", all with --batch-rows {rows}"),
                _ => String::new(),
            };
            lines.push(format!("{name} needs {needs} and fits up to {most} prompts per input at once{rows}"));
        }
        Some(format!("{} of device memory are free: {}", gigabytes(free), lines.join("; ")))
    }

    pub fn json(&self) -> Value {
        let fit = |method: &Method| Some((name(*method).to_lowercase(), json!(self.most_prompts(*method)?)));
        let fit: serde_json::Map<String, Value> = self.methods.iter().filter_map(fit).collect();
        let w = &self.work;
        json!({
            "inputs": w.inputs,
            "prompts": w.prompts,
            "keys": w.keys,
            "prompt_tokens": w.prompt_tokens,
            "max_new_tokens": w.new_tokens,
            "free_bytes": self.free_bytes,
            "most_prompts_that_fit": fit,
            "roofline": self.device.map(|d| json!({ "flops_per_s": d.flops_per_s, "bytes_per_s": d.bytes_per_s })),
            "pays_from": PAYS,
            "gain": self.crossover().map(|(gain, _)| gain),
            "crossover": self.crossover().map(|(_, c)| json!({
                "least_prompts": c.least_prompts,
                "least_keys": c.least_keys,
                "most_new_tokens": c.most_new_tokens,
            })),
        })
    }

    pub fn print(&self) {
        let w = &self.work;
        println!(
            "{} input(s) of {} tokens, {} prompts each of {} tokens, {} new tokens",
            w.inputs, w.keys, w.prompts, w.prompt_tokens, w.new_tokens
        );
        let mut lines = table();
        lines.set_header(["", "GFLOP", "GB moved", "FLOP/byte", "memory", "least time"]);
        for &method in self.methods {
            let total = cost::breakdown(method, &self.model, w).total();
            lines.add_row([
                name(method).to_string(),
                format!("{:.1}", total.flops as f64 / 1e9),
                format!("{:.2}", total.bytes as f64 / 1e9),
                format!("{:.1}", total.intensity()),
                gigabytes(Need::new(method, &self.model, w, self.batch_rows).total()),
                self.device.map_or("-".into(), |d| {
                    format!("{:.2} ms", cost::least_seconds(method, &self.model, w, &d) * 1e3)
                }),
            ]);
        }
        println!("{lines}");
        self.memory_line().iter().for_each(|line| println!("{line}"));
        let (Some(device), Some((gain, c))) = (self.device, self.crossover()) else {
            return println!(
                "where sharing pays is not predicted: the device does not say how fast it is; give --roofline"
            );
        };
        println!(
            "predicted from {:.0} TFLOP/s and {:.0} GB/s, launches and waiting left out: PID {gain:.2}x as fast as PIE",
            device.flops_per_s / 1e12,
            device.bytes_per_s / 1e9,
        );
        let from = |least: Option<u64>, what| match least {
            Some(n) => format!("from {n} {what}"),
            None => format!("at no number of {what} up to {SEARCHED}"),
        };
        let long = match c.most_new_tokens {
            Some(n) => format!("up to {n} new tokens"),
            None if gain >= PAYS => "at every output length".into(),
            None => "at no output length".into(),
        };
        println!(
            "it is at least {PAYS}x as fast {}, {}, {long}",
            from(c.least_prompts, "prompts"),
            from(c.least_keys, "input tokens"),
        );
    }
}
