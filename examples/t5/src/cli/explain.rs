//! What is said of a run before it: which way to have its outputs costs least, memory, from where on sharing pays, and what
//! speaks against the method.

use anyhow::{Result, bail};
use onekv_cost::{Crossover, Method, ModelShape, Need, Roofline, SEARCHED, Way, Workload};
use onekv_cost::{cheapest, crossover, fewest, gain, most_prompts, most_rows};
use serde_json::{Map, Value, json};

use super::report::{gigabytes, table};
use crate::generate::Task;

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

/// An error where a run needs more than `free`.
pub fn check_memory(
    method: Method,
    model: &ModelShape,
    work: &Workload,
    batch_rows: u64,
    free: u64,
) -> Result<()> {
    let need = Need::new(method, model, work, batch_rows);
    if need.total() <= free {
        return Ok(());
    }
    let fits = match most_rows(method, model, work, free) {
        0 => "not even one prompt fits".to_string(),
        rows => format!("--batch-rows {rows} fits"),
    };
    let [total, weights, cross_kv, self_kv, activations, free] =
        [need.total(), need.weights, need.cross_kv, need.self_kv, need.activations, free].map(gigabytes);
    bail!(
        "{} with {} prompts at once needs {total} of device memory ({weights} of weights, {cross_kv} of cross-attention \
         K/V, {self_kv} of self-attention K/V, {activations} of activations), free: {free}; {fits}",
        method.name(),
        need.rows,
    )
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
    /// Where an assumption of the method looks broken.
    pub doubts: Vec<String>,
}

impl Prediction {
    fn crossover(&self) -> Option<(f64, Crossover)> {
        let device = self.device?;
        let gain = gain(&self.model, &self.work, &device);
        Some((gain, crossover(&self.model, &self.work, &device, PAYS)))
    }

    /// One line on what fits, where memory is limited.
    pub fn memory_line(&self) -> Option<String> {
        let free = self.free_bytes?;
        let mut lines = Vec::new();
        for &method in self.methods {
            let need = Need::new(method, &self.model, &self.work, self.batch_rows).total();
            let most = most_prompts(method, &self.model, &self.work, free);
            let (name, needs) = (method.name(), gigabytes(need));
            let rows = match most_rows(method, &self.model, &self.work, free) {
                rows if need > free && rows > 0 => format!(", all with --batch-rows {rows}"),
                _ => String::new(),
            };
            lines.push(format!("{name} needs {needs} and fits up to {most} prompts per input at once{rows}"));
        }
        Some(format!("{} of device memory are free: {}", gigabytes(free), lines.join("; ")))
    }

    fn cheapest(&self) -> Option<Way> {
        cheapest(&self.model, &self.work, self.device.as_ref())
    }

    /// Which way costs least and why, in one line.
    fn recommendation(&self) -> String {
        let Some(way) = self.cheapest() else {
            let (flops, bytes) = fewest(&self.model, &self.work);
            return format!(
                "cheapest: {} has the fewest FLOPs, {} the fewest bytes, so it depends on the device; give --roofline",
                flops.name(),
                bytes.name()
            );
        };
        // With what else a user is likely to have.
        let other = Way::Prompts(if way == Way::Prompts(Method::Pie) { Method::Pid } else { Method::Pie });
        let [least, more] = [way, other].map(|way| way.cost(&self.model, &self.work));
        let times = |more: u64, least: u64| more as f64 / least.max(1) as f64;
        let why = format!(
            "{} takes {:.2}x its FLOPs and {:.2}x its bytes",
            other.name(),
            times(more.flops, least.flops),
            times(more.bytes, least.bytes)
        );
        format!("cheapest: {}; {why}; it needs {}", way.name(), way.needs())
    }

    fn ways_json(&self) -> Value {
        let of_way = |way: Way| {
            let cost = way.cost(&self.model, &self.work);
            let seconds = self.device.map(|device| way.least_seconds(&self.model, &self.work, &device));
            let memory = way.memory_bytes(&self.model, &self.work, self.batch_rows);
            json!({ "flops": cost.flops, "bytes": cost.bytes, "memory_bytes": memory, "least_s": seconds, "needs": way.needs() })
        };
        Way::ALL.map(|way| (way.name().to_lowercase(), of_way(way))).into_iter().collect::<Map<_, _>>().into()
    }

    pub fn json(&self) -> Value {
        let fit = |method: &Method| {
            let most = most_prompts(*method, &self.model, &self.work, self.free_bytes?);
            Some((method.name().to_lowercase(), json!(most)))
        };
        let fit: Map<_, _> = self.methods.iter().filter_map(fit).collect();
        let w = &self.work;
        json!({
            "inputs": w.inputs,
            "prompts": w.prompts,
            "keys": w.keys,
            "prompt_tokens": w.prompt_tokens,
            "max_new_tokens": w.new_tokens,
            "free_bytes": self.free_bytes,
            "most_prompts_that_fit": fit,
            "roofline": self.device,
            "ways": self.ways_json(),
            "cheapest": self.cheapest().map(|way| way.name().to_lowercase()),
            "doubts": self.doubts,
            "pays_from": PAYS,
            "gain": self.crossover().map(|(gain, _)| gain),
            "crossover": self.crossover().map(|(_, crossover)| crossover),
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
        for way in Way::ALL {
            let total = way.cost(&self.model, w);
            lines.add_row([
                way.name().to_string(),
                format!("{:.1}", total.flops as f64 / 1e9),
                format!("{:.2}", total.bytes as f64 / 1e9),
                format!("{:.1}", total.intensity()),
                gigabytes(way.memory_bytes(&self.model, w, self.batch_rows)),
                self.device
                    .map_or("-".into(), |d| format!("{:.2} ms", way.least_seconds(&self.model, w, &d) * 1e3)),
            ]);
        }
        println!("{lines}");
        println!("{}", self.recommendation());
        self.doubts.iter().for_each(|doubt| println!("look twice: {doubt}"));
        self.memory_line().iter().for_each(|line| println!("{line}"));
        let (Some(device), Some((gain, c))) = (self.device, self.crossover()) else {
            return println!(
                "where sharing pays is not predicted: the device does not say how fast it is; give --roofline"
            );
        };
        println!(
            "predicted from {} TFLOP/s and {} GB/s, launches and waiting left out: PID {gain:.2}x as fast as PIE",
            // As it was given, to nine digits: a CPU's rate is a fraction.
            (device.flops_per_s / 1e3).round() / 1e9,
            (device.bytes_per_s / 1e3).round() / 1e6,
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
