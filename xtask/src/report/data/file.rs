//! Reading one file. What it lacks, or holds that cannot be, is an error with the file and the field.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::intensity::{Backend, Intensity};
use crate::peers::{Library, Probe};

use super::{
    AttentionRun, Chosen, CpuLine, CpuRun, Line, Machine, Owner, Peers, Ratio, Shape, T5Line, T5Run, T5Work,
};

#[derive(Deserialize)]
struct AttentionFile {
    machine: Machine,
    sweep: String,
    copy_bytes_per_s: f64,
    copy_bytes_per_s_after: Option<f64>,
    empty_pair_us: Micros,
    peers: Option<Peers>,
    #[serde(default)]
    left_out: Vec<serde_json::Value>,
    lines: Vec<AttentionLine>,
}

#[derive(Deserialize)]
struct AttentionLine {
    system: String,
    layout: Layout,
    // Not one flattened `Shape`: an error would not name the field.
    model: String,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    inputs: usize,
    rows: usize,
    keys: usize,
    error: Option<String>,
    kernel: Option<String>,
    split_keys: Option<usize>,
    split_cluster: Option<usize>,
    tile_rows: Option<usize>,
    chosen: Option<bool>,
    bytes: Option<f64>,
    flops: Option<f64>,
    cold_us: Option<Micros>,
    alone_us: Option<Micros>,
    warm_us: Option<Micros>,
    mean_abs: Option<f64>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Layout {
    Shared,
    Replicated,
    E4m3,
    Expanded,
    Folded,
}

impl AttentionLine {
    fn shape(&self) -> Shape {
        let Self { heads, kv_heads, head_dim, inputs, rows, keys, .. } = *self;
        let e4m3_kv = self.layout == Layout::E4m3;
        Shape { model: self.model.clone(), heads, kv_heads, head_dim, inputs, rows, keys, e4m3_kv }
    }

    fn check_shape(&self, path: &Path, i: usize) -> Result<()> {
        for (field, value) in [
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("inputs", self.inputs),
            ("rows", self.rows),
            ("keys", self.keys),
        ] {
            if value == 0 {
                bail!("{}: lines[{i}].{field} is 0, allowed: 1 or more", path.display());
            }
        }
        Ok(())
    }

    /// Whose line it is, and its name in the report: a peer's layout is a part of it.
    fn owner_and_system(&self) -> Result<(Owner, String)> {
        let system = &self.system;
        Ok(match (system.as_str(), self.layout) {
            (OURS, Layout::Shared) => (Owner::Ours, system.clone()),
            (REPLICATED, Layout::Replicated) => (Owner::Replicated, system.clone()),
            (E4M3, Layout::E4m3) => (Owner::E4m3, system.clone()),
            (peer, Layout::Expanded) if !peer.starts_with(OURS) => (Owner::Peer, format!("{peer}, expanded")),
            (peer, Layout::Folded) if !peer.starts_with(OURS) => (Owner::Peer, format!("{peer}, folded")),
            _ => bail!(
                "layout does not fit system \"{system}\", allowed: \"{OURS}\" shared, \"{REPLICATED}\" replicated, \
                 \"{E4M3}\" e4m3, others expanded or folded"
            ),
        })
    }

    fn timed(self, path: &Path, i: usize, owner: Owner, system: String) -> Result<Line> {
        let shape = self.shape();
        let plan = match (owner, self.kernel, self.tile_rows, self.split_keys, self.split_cluster) {
            (Owner::Peer, ..) => None,
            (_, Some(kernel), Some(tile_rows), Some(split_keys), Some(split_cluster)) => {
                let by_cost = self.chosen.unwrap_or(true);
                Some(Chosen { kernel, tile_rows, split_keys, split_cluster, by_cost })
            }
            _ => bail!(
                "{}: lines[{i}] is ours and lacks kernel, tile_rows, split_keys or split_cluster",
                path.display()
            ),
        };
        let need = |field: &str, value: Option<f64>| {
            let value = value.with_context(|| {
                format!("{}: lines[{i}].{field} is missing, and there is no error to say why", path.display())
            })?;
            positive(path, format_args!("lines[{i}].{field}"), value)
        };
        Ok(Line {
            bytes: need("bytes", self.bytes)?,
            flops: need("flops", self.flops)?,
            cold_us: need("cold_us.median", self.cold_us.map(|t| t.median))?,
            warm_us: self.warm_us.map(|t| need("warm_us.median", Some(t.median))).transpose()?,
            alone_us: self.alone_us.map(|t| need("alone_us.median", Some(t.median))).transpose()?,
            system,
            owner,
            shape,
            plan,
        })
    }
}

#[derive(Deserialize)]
struct T5File {
    machine: Machine,
    same_answers_f32: Option<Alike>,
    peers: Option<Peers>,
    #[serde(default)]
    left_out: Vec<serde_json::Value>,
    lines: Vec<T5FileLine>,
}

#[derive(Deserialize)]
struct T5FileLine {
    system: String,
    shape: String,
    dtype: String,
    keys: usize,
    prompts: usize,
    prompt_tokens: usize,
    new_tokens: usize,
    error: Option<String>,
    latency_s: Option<Seconds>,
    peak_bytes: Option<f64>,
    decode_step_median_s: Option<f64>,
    decode_step_floor_bytes: Option<f64>,
}

#[derive(Deserialize)]
pub struct Seconds {
    pub median: f64,
    pub min: f64,
}

/// Whether CPU and CUDA answer alike, or why that could not be told.
#[derive(Deserialize)]
#[serde(untagged)]
enum Alike {
    Known(bool),
    Unknown(String),
}

const OURS: &str = "onekv";
const REPLICATED: &str = "onekv, K/V per prompt";
const E4M3: &str = "onekv, K/V in e4m3";

/// Times in microseconds.
#[derive(Clone, Copy, Deserialize)]
struct Micros {
    median: f64,
}

/// A JSON file; an error names the file and the field.
pub fn json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    // A stage of the kit that came to nothing leaves this.
    #[derive(Deserialize)]
    struct Failed {
        error: String,
    }
    if let Ok(Failed { error }) = serde_json::from_str(&text) {
        bail!("{}: nothing was measured: {error}; delete the file", path.display());
    }
    let mut reader = serde_json::Deserializer::from_str(&text);
    let value = serde_path_to_error::deserialize(&mut reader)
        .map_err(|e| match e.path().to_string().as_str() {
            "." => anyhow::anyhow!("{}", e.inner()),
            field => anyhow::anyhow!("{field}: {}", e.inner()),
        })
        .with_context(|| path.display().to_string())?;
    reader.end().with_context(|| path.display().to_string())?;
    Ok(value)
}

/// A measured figure: more than nothing.
pub fn positive(path: &Path, field: impl std::fmt::Display, value: f64) -> Result<f64> {
    if value > 0.0 && value.is_finite() {
        return Ok(value);
    }
    bail!("{}: {field} is {value}, allowed: more than 0", path.display())
}

/// Simulated times are of the simulator, and no report is made of them.
pub fn measured(path: &Path, machine: &Machine) -> Result<()> {
    if machine.simulated {
        bail!(
            "{}: machine.simulated is true ({}): a simulator's time says nothing about a card; delete the file",
            path.display(),
            machine.card
        );
    }
    Ok(())
}

#[derive(Deserialize)]
struct CpuFile {
    machine: String,
    threads: usize,
    date: String,
    peers: BTreeMap<String, Library>,
    probes: [Probe; 2],
    lines: Vec<CpuFileLine>,
}

#[derive(Deserialize)]
struct CpuFileLine {
    system: String,
    shape: Option<String>,
    rows: usize,
    keys: usize,
    error: Option<String>,
    median_s: Option<f64>,
    of_ours: Option<Ratio>,
}

/// `attention.json` and `t5.json` of `cpu/`.
pub fn cpu(path: &Path) -> Result<CpuRun> {
    let CpuFile { machine, threads, date, peers, probes, lines } = json(path)?;
    for (i, probe) in probes.iter().enumerate() {
        positive(path, format_args!("probes[{i}].fma_flops_per_s"), probe.fma_flops_per_s)?;
        positive(path, format_args!("probes[{i}].copy_bytes_per_s"), probe.copy_bytes_per_s)?;
    }
    let mut run = CpuRun { machine, threads, date, peers, probes, lines: Vec::new(), errors: Vec::new() };
    for (i, line) in lines.into_iter().enumerate() {
        let CpuFileLine { system, shape, rows, keys, error, median_s, of_ours } = line;
        if let Some(error) = error {
            run.errors.push((system, error));
            continue;
        }
        let median_s = median_s.with_context(|| {
            format!("{}: lines[{i}].median_s is missing, and there is no error to say why", path.display())
        })?;
        let median_s = positive(path, format_args!("lines[{i}].median_s"), median_s)?;
        run.lines.push(CpuLine { system, shape, rows, keys, median_s, of_ours });
    }
    Ok(run)
}

/// `intensity.json`.
pub fn intensity(path: &Path) -> Result<Intensity> {
    let intensity: Intensity = json(path)?;
    counted(path, "backends", &intensity.backends)?;
    if let Some(decoder_only) = &intensity.decoder_only {
        counted(path, "decoder_only.backends", &decoder_only.backends)?;
    }
    Ok(intensity)
}

fn counted<L>(path: &Path, field: &str, backends: &[Backend<L>]) -> Result<()> {
    for (i, backend) in backends.iter().enumerate() {
        for (j, point) in backend.points.iter().enumerate() {
            for (name, value) in [
                ("prompts", point.prompts as f64),
                ("flops", point.flops as f64),
                ("read_bytes", point.read_bytes as f64),
                ("written_bytes", point.written_bytes as f64),
            ] {
                positive(path, format_args!("{field}[{i}].points[{j}].{name}"), value)?;
            }
        }
    }
    Ok(())
}

/// A file `attention-<sweep>.json`.
pub fn attention(path: &Path) -> Result<AttentionRun> {
    let file: AttentionFile = json(path)?;
    measured(path, &file.machine)?;
    let mut run = AttentionRun {
        machine: file.machine,
        peers: file.peers.unwrap_or_default(),
        sweep: file.sweep,
        copy_bytes_per_s: positive(path, "copy_bytes_per_s", file.copy_bytes_per_s)?,
        copy_bytes_per_s_after: file.copy_bytes_per_s_after,
        empty_pair_us: positive(path, "empty_pair_us.median", file.empty_pair_us.median)?,
        left_out: file.left_out.len(),
        lines: Vec::new(),
        errors: Vec::new(),
    };
    // What every system's output must agree with, but for copies of K and V, which differ.
    let ours: BTreeMap<Shape, f64> = file
        .lines
        .iter()
        .filter(|line| line.layout == Layout::Shared)
        .filter_map(|line| Some((line.shape(), line.mean_abs?)))
        .collect();
    let mut seen = BTreeSet::new();
    for (i, line) in file.lines.into_iter().enumerate() {
        let (owner, system) =
            line.owner_and_system().with_context(|| format!("{}: lines[{i}]", path.display()))?;
        line.check_shape(path, i)?;
        let reference = ours.get(&line.shape().with_16_bit_kv()).filter(|_| owner != Owner::Replicated);
        let disagrees = |mean: f64, reference: &f64| (mean - reference).abs() > 0.01 * reference;
        if let Some(error) = line.error {
            run.errors.push((system, error));
        } else if line.mean_abs.zip(reference).is_some_and(|(mean, r)| disagrees(mean, r)) {
            run.errors.push((system, "left out: its output is not ours within 1 %".to_owned()));
        } else {
            let line = line.timed(path, i, owner, system)?;
            if !seen.insert((line.system.clone(), line.shape.clone(), line.plan.clone())) {
                bail!(
                    "{}: lines[{i}] measures {} on {} a second time",
                    path.display(),
                    line.system,
                    line.shape
                );
            }
            run.lines.push(line);
        }
    }
    Ok(run)
}

/// A file `t5.json`.
pub fn t5(path: &Path) -> Result<T5Run> {
    let file: T5File = json(path)?;
    measured(path, &file.machine)?;
    let mut run = T5Run {
        machine: file.machine,
        same_answers_f32: match file.same_answers_f32 {
            Some(Alike::Known(same)) => Ok(same),
            Some(Alike::Unknown(why)) => Err(why),
            None => Err("not recorded".to_owned()),
        },
        peers: file.peers.unwrap_or_default(),
        left_out: file.left_out.len(),
        lines: Vec::new(),
        errors: Vec::new(),
    };
    for (i, line) in file.lines.into_iter().enumerate() {
        if let Some(error) = line.error {
            run.errors.push((line.system, error));
            continue;
        }
        for (field, value) in
            [("keys", line.keys), ("prompts", line.prompts), ("new_tokens", line.new_tokens)]
        {
            if value == 0 {
                bail!("{}: lines[{i}].{field} is 0, allowed: 1 or more", path.display());
            }
        }
        let latency = line.latency_s.with_context(|| {
            format!("{}: lines[{i}].latency_s is missing, and there is no error to say why", path.display())
        })?;
        positive(path, format_args!("lines[{i}].latency_s.median"), latency.median)?;
        let optional = |field: &str, value: Option<f64>| {
            value.map(|v| positive(path, format_args!("lines[{i}].{field}"), v)).transpose()
        };
        let line = T5Line {
            fastest_s: positive(path, format_args!("lines[{i}].latency_s.min"), latency.min)?,
            peak_bytes: optional("peak_bytes", line.peak_bytes)?,
            step_s: optional("decode_step_median_s", line.decode_step_median_s)?,
            step_floor_bytes: optional("decode_step_floor_bytes", line.decode_step_floor_bytes)?,
            system: line.system,
            work: T5Work {
                shape: line.shape,
                dtype: line.dtype,
                keys: line.keys,
                prompts: line.prompts,
                prompt_tokens: line.prompt_tokens,
                new_tokens: line.new_tokens,
            },
        };
        if run.lines.iter().any(|known| known.system == line.system && known.work == line.work) {
            bail!("{}: lines[{i}] measures {} a second time on the same work", path.display(), line.system);
        }
        run.lines.push(line);
    }
    Ok(run)
}
