//! Of results/<card>/attention-<sweep>.json what `fit` and `model` need: lines of ours. All of results/ is read, and more strictly,
//! by tools/report/results.py.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use onekv::plan::{DeviceFacts, Plan, PlanOptions};
use onekv::{DType, Keys, Problem, ProblemSpec};
use serde::Deserialize;

/// One sweep of ours.
pub struct Sweep {
    pub machine: Machine,
    pub name: String,
    pub lines: Vec<Line>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Machine {
    pub card: String,
    pub compute_capability: String,
    pub multiprocessors: usize,
    pub simulated: bool,
    pub date: Option<String>,
}

/// A plan on a shape, with cold L2.
pub struct Line {
    pub shape: Shape,
    pub plan: Chosen,
    pub us: f64,
}

pub struct Chosen {
    pub kernel: String,
    pub tile_rows: usize,
    pub split_keys: usize,
    /// Blocks of a cluster that share out a tile's keys.
    pub split_cluster: usize,
    /// By the cost model; else it was asked for.
    pub by_cost: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shape {
    pub model: String,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub inputs: usize,
    pub rows: usize,
    pub keys: usize,
    /// K and V in e4m3 with a scale per head; else in 16 bits.
    pub e4m3_kv: bool,
}

impl Shape {
    /// The library's plan for it.
    pub fn plan(&self, dtype: DType, facts: &DeviceFacts, options: &PlanOptions) -> onekv::Result<Plan> {
        let Self { heads, kv_heads, head_dim, inputs, rows, keys, .. } = *self;
        let problem = Problem::new(ProblemSpec {
            heads,
            kv_heads,
            head_dim,
            scale: 1.0,
            softcap: None,
            row_offsets: (0..=inputs).map(|b| b * rows).collect(),
            keys: Keys::Packed { offsets: (0..=inputs).map(|b| b * keys).collect() },
        })?;
        match self.e4m3_kv {
            true => Plan::with_e4m3_kv(&problem, dtype, facts, options),
            false => Plan::new(&problem, dtype, facts, options),
        }
    }

    /// Rows that read one K/V head of one input.
    pub fn folded_rows(&self) -> usize {
        self.rows * self.heads / self.kv_heads
    }

    /// Bytes of one K and one V.
    pub fn kv_bytes(&self) -> f64 {
        let of_element = if self.e4m3_kv { 1 } else { 2 };
        (2 * of_element * self.inputs * self.keys * self.kv_heads * self.head_dim) as f64
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let kv = if self.e4m3_kv { ", K/V in e4m3" } else { "" };
        write!(f, "{}, b = {}, U = {}, n = {}{kv}", self.model, self.inputs, self.rows, self.keys)
    }
}

#[derive(Deserialize)]
struct File {
    machine: Machine,
    sweep: String,
    lines: Vec<FileLine>,
}

#[derive(Deserialize)]
struct FileLine {
    system: String,
    layout: String,
    model: String,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    inputs: usize,
    rows: usize,
    keys: usize,
    error: Option<String>,
    kernel: Option<String>,
    tile_rows: Option<usize>,
    split_keys: Option<usize>,
    split_cluster: Option<usize>,
    chosen: Option<bool>,
    cold_us: Option<Micros>,
    mean_abs: Option<f64>,
}

#[derive(Deserialize)]
struct Micros {
    median: f64,
}

/// Reads a sweep.
pub fn attention(path: &Path) -> Result<Sweep> {
    let file = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let File { machine, sweep: name, lines } =
        serde_json::from_str(&file).with_context(|| path.display().to_string())?;
    if machine.simulated {
        bail!("{}: machine.simulated is true ({}): its times are of no card", path.display(), machine.card);
    }
    let ours = |line: &FileLine| match (line.system.as_str(), line.layout.as_str(), &line.error) {
        ("onekv", "shared", None) => Some(false),
        ("onekv, K/V in e4m3", "e4m3", None) => Some(true),
        _ => None,
    };
    let shape = |line: &FileLine, e4m3_kv| {
        let FileLine { model, heads, kv_heads, head_dim, inputs, rows, keys, .. } = line;
        let [heads, kv_heads, head_dim, inputs, rows, keys] =
            [heads, kv_heads, head_dim, inputs, rows, keys].map(|count| *count);
        Shape { model: model.clone(), heads, kv_heads, head_dim, inputs, rows, keys, e4m3_kv }
    };
    // What the output in e4m3 must agree with.
    let in_16_bits = lines.iter().filter(|line| ours(line) == Some(false));
    let means: BTreeMap<Shape, f64> =
        in_16_bits.filter_map(|line| Some((shape(line, false), line.mean_abs?))).collect();
    let mut sweep = Sweep { machine, name, lines: Vec::new() };
    for (i, line) in lines.iter().enumerate() {
        let Some(e4m3_kv) = ours(line) else { continue };
        let both = line.mean_abs.zip(means.get(&shape(line, false)));
        if both.is_some_and(|(mean, of_16_bits)| (mean - of_16_bits).abs() > 0.01 * of_16_bits) {
            continue;
        }
        let place = || format!("{}: lines[{i}]", path.display());
        let lacks =
            || format!("{}: kernel, tile_rows, split_keys, split_cluster or cold_us is missing", place());
        let plan = || {
            Some(Chosen {
                kernel: line.kernel.clone()?,
                tile_rows: line.tile_rows?,
                split_keys: line.split_keys?,
                split_cluster: line.split_cluster?,
                by_cost: line.chosen.unwrap_or(true),
            })
        };
        let (plan, us) = plan().zip(line.cold_us.as_ref()).with_context(lacks)?;
        if !(us.median > 0.0 && us.median.is_finite()) {
            bail!("{}.cold_us.median is {}, allowed: more than 0", place(), us.median);
        }
        sweep.lines.push(Line { shape: shape(line, e4m3_kv), plan, us: us.median });
    }
    Ok(sweep)
}

/// The sweeps of all cards, by the names of their folders.
pub fn cards(results: &Path) -> Result<Vec<(String, Sweep)>> {
    let mut sweeps = Vec::new();
    for folder in entries(results)?.into_iter().filter(|path| path.is_dir()) {
        for path in entries(&folder)? {
            let name = file_name(&path);
            if file_name(&folder) != "cpu" && name.starts_with("attention-") && name.ends_with(".json") {
                sweeps.push((file_name(&folder), attention(&path)?));
            }
        }
    }
    Ok(sweeps)
}

fn entries(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let list = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut paths = list.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn line(system: &str, layout: &str, mean_abs: f64) -> Value {
        json!({
            "system": system, "layout": layout, "model": "m", "heads": 8, "kv_heads": 4, "head_dim": 64, "inputs": 2, "rows": 3,
            "keys": 16, "kernel": "k", "tile_rows": 16, "split_keys": 8, "split_cluster": 1, "cold_us": { "median": 5.0 },
            "mean_abs": mean_abs,
        })
    }

    fn read(lines: &[Value]) -> Result<Vec<(String, Sweep)>> {
        let folder = tempfile::tempdir()?;
        std::fs::create_dir(folder.path().join("a-card"))?;
        let machine = json!({ "card": "A card", "compute_capability": "9.0", "multiprocessors": 1, "simulated": false });
        let file = json!({ "machine": machine, "sweep": "full", "lines": lines });
        std::fs::write(folder.path().join("a-card/attention-full.json"), file.to_string())?;
        std::fs::write(folder.path().join("a-card/t5.json"), "{}")?;
        cards(folder.path())
    }

    #[test]
    fn lines_of_ours_are_read_and_no_others() {
        let mut failed = line("onekv", "shared", 1.0);
        failed["error"] = json!("out of memory");
        failed["keys"] = json!(32);
        let mut asked_for = line("onekv", "shared", 1.0);
        asked_for["chosen"] = json!(false);
        let lines = [
            line("onekv", "shared", 1.0),
            line("onekv, K/V in e4m3", "e4m3", 1.009),
            line("onekv, K/V per prompt", "replicated", 2.0),
            line("a peer", "folded", 1.0),
            failed,
            asked_for,
        ];
        let [(folder, sweep)] = &read(&lines).unwrap()[..] else { panic!("one sweep") };
        assert_eq!(
            (folder.as_str(), sweep.name.as_str(), sweep.machine.card.as_str()),
            ("a-card", "full", "A card")
        );
        let read: Vec<_> = sweep.lines.iter().map(|l| (l.shape.to_string(), l.plan.by_cost, l.us)).collect();
        let own = "m, b = 2, U = 3, n = 16";
        assert_eq!(
            read,
            [
                (own.to_owned(), true, 5.0),
                (format!("{own}, K/V in e4m3"), true, 5.0),
                (own.to_owned(), false, 5.0)
            ]
        );
        let [own, e4m3] = [0, 1].map(|i| &sweep.lines[i].shape);
        // K and V: 2 x 2 inputs x 16 keys x 4 heads x 64 elements, of two bytes and of one.
        assert_eq!((own.folded_rows(), own.kv_bytes(), e4m3.kv_bytes()), (6, 32768.0, 16384.0));
    }

    #[test]
    fn what_is_wrong_is_left_out_and_what_is_missing_named() {
        let lines = [line("onekv", "shared", 1.0), line("onekv, K/V in e4m3", "e4m3", 1.02)];
        assert_eq!(read(&lines).unwrap()[0].1.lines.len(), 1);
        for (field, value, says) in [
            ("split_keys", Value::Null, "split_cluster or cold_us is missing"),
            ("cold_us", json!({ "median": 0.0 }), "lines[0].cold_us.median is 0, allowed: more than 0"),
            ("keys", json!(-1), "invalid value: integer `-1`"),
        ] {
            let mut bad = line("onekv", "shared", 1.0);
            bad[field] = value;
            let error = format!("{:#}", read(&[bad]).err().expect("should be refused"));
            assert!(error.contains("attention-full.json") && error.contains(says), "{error}\nlacks: {says}");
        }
    }
}
