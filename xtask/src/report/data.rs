//! What is in `results/`: format in `results/README.md`.

mod crossover;
mod file;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use onekv::plan::{DeviceFacts, Plan, PlanOptions};
use onekv::{DType, Keys, Problem, ProblemSpec};
use serde::Deserialize;
use t5::cost::{ModelShape, Workload};

use crate::intensity::Intensity;
use crate::peers::{Library, Probe};

pub use crossover::{Crossover, CrossoverLine, Point};
pub use file::attention;
use file::{cpu, intensity, t5};

/// Everything in `results/`, machines by the name of their folder.
pub struct Results {
    pub cpu: Cpu,
    pub cards: BTreeMap<String, Card>,
    pub intensity: Option<Intensity>,
}

/// `results/cpu`.
#[derive(Default)]
pub struct Cpu {
    pub attention: Option<CpuRun>,
    pub t5: Option<CpuRun>,
    pub crossover: Option<(CpuMachine, Crossover)>,
}

/// Who measured `crossover.json` on a CPU.
#[derive(Deserialize)]
pub struct CpuMachine {
    pub machine: String,
    pub threads: usize,
    pub date: String,
}

/// One run of `cargo xtask peers cpu`.
#[derive(Clone)]
pub struct CpuRun {
    pub machine: String,
    pub threads: usize,
    pub date: String,
    pub peers: BTreeMap<String, Library>,
    /// The machine's rates before and after the lines.
    pub probes: [Probe; 2],
    pub lines: Vec<CpuLine>,
    /// Lines that have no time: system, and why.
    pub errors: Vec<(String, String)>,
}

#[derive(Clone)]
pub struct CpuLine {
    pub system: String,
    /// The T5's; none of attention.
    pub shape: Option<String>,
    pub rows: usize,
    pub keys: usize,
    pub median_s: f64,
    /// Of peers.
    pub of_ours: Option<Ratio>,
}

/// A peer's time over ours in the same turn, over turns.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Ratio {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

/// The runs of one card: a folder of `results/`.
#[derive(Default)]
pub struct Card {
    pub attention: Vec<AttentionRun>,
    pub t5: Option<T5Run>,
    pub crossover: Option<(Machine, Crossover)>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Machine {
    pub card: String,
    pub compute_capability: String,
    pub multiprocessors: usize,
    pub simulated: bool,
    pub date: Option<String>,
    pub driver: Option<String>,
    pub commit: Option<String>,
    pub torch: Option<String>,
}

/// What the peers' script found of a library: its version, or why it is not there.
#[derive(Debug, Clone, Deserialize)]
pub struct Peer {
    pub version: Option<String>,
    pub absent: Option<String>,
}

type Peers = BTreeMap<String, Peer>;

/// One sweep of attention.
pub struct AttentionRun {
    pub machine: Machine,
    pub peers: Peers,
    pub sweep: String,
    pub copy_bytes_per_s: f64,
    pub copy_bytes_per_s_after: Option<f64>,
    pub empty_pair_us: f64,
    /// Shapes that the time budget left out.
    pub left_out: usize,
    pub lines: Vec<Line>,
    /// Lines that have no time: system, and why.
    pub errors: Vec<(String, String)>,
}

/// One system on one shape.
#[derive(Debug, Clone)]
pub struct Line {
    /// The system, and a peer's layout with it.
    pub system: String,
    pub owner: Owner,
    pub shape: Shape,
    /// Bytes that must move, and operations.
    pub bytes: f64,
    pub flops: f64,
    /// Microseconds with cold and with warm L2; `alone_us` where nothing overlaps the attention before.
    pub cold_us: f64,
    pub warm_us: Option<f64>,
    pub alone_us: Option<f64>,
    /// Ours: what the plan took, and whether by itself.
    pub plan: Option<Chosen>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// onekv, one K/V for all rows.
    Ours,
    /// onekv, a copy of K/V per prompt: prompt-in-encoder.
    Replicated,
    /// onekv, one K/V in e4m3.
    E4m3,
    Peer,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Chosen {
    pub kernel: String,
    pub tile_rows: usize,
    pub split_keys: usize,
    /// Blocks of a cluster that share out a tile's keys.
    pub split_cluster: usize,
    pub by_cost: bool,
}

impl Machine {
    /// Dense bf16 TFLOPS with f32 sums, from the data sheets of cards that are known.
    pub fn data_sheet_tflops(&self) -> Option<f64> {
        let known = [("H100 PCIe", 756.0), ("H100", 989.0), ("H200", 989.0), ("A100", 312.0)];
        known.into_iter().find(|(name, _)| self.card.contains(name)).map(|(_, tflops)| tflops)
    }
}

impl Chosen {
    /// Whether the two launch the same, whoever chose.
    pub fn same(&self, other: &Self) -> bool {
        let launch = |chosen: &Self| (chosen.kernel.clone(), chosen.split_keys, chosen.split_cluster);
        launch(self) == launch(other)
    }
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
    /// The same with K and V in 16 bits.
    pub fn with_16_bit_kv(&self) -> Self {
        Self { e4m3_kv: false, ..self.clone() }
    }

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

/// T5 end to end.
pub struct T5Run {
    pub machine: Machine,
    /// Whether CPU and CUDA answer alike in f32, or why that is not known.
    pub same_answers_f32: std::result::Result<bool, String>,
    pub peers: Peers,
    pub left_out: usize,
    pub lines: Vec<T5Line>,
    pub errors: Vec<(String, String)>,
}

#[derive(Debug, Clone)]
pub struct T5Line {
    pub system: String,
    pub work: T5Work,
    /// Seconds of the whole generation, the fastest run: of ours no other is known.
    pub fastest_s: f64,
    pub peak_bytes: Option<f64>,
    /// Ours: seconds of a decoder step over all prompts, and the bytes of weights and K/V that it must read.
    pub step_s: Option<f64>,
    pub step_floor_bytes: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct T5Work {
    pub shape: String,
    pub dtype: String,
    pub keys: usize,
    pub prompts: usize,
    pub prompt_tokens: usize,
    pub new_tokens: usize,
}

impl Card {
    /// The bandwidth of a copy, from whichever sweep was read first.
    pub fn copy_bytes_per_s(&self) -> Option<f64> {
        self.attention.first().map(|run| run.copy_bytes_per_s)
    }
}

impl T5Work {
    /// Its model's shape, [`t5_shape`].
    pub fn model(&self) -> Option<ModelShape> {
        t5_shape(&self.shape, &self.dtype)
    }

    /// What the cost model calls it.
    pub fn workload(&self) -> Workload {
        Workload {
            inputs: 1,
            prompts: self.prompts as u64,
            keys: self.keys as u64,
            prompt_tokens: self.prompt_tokens as u64,
            new_tokens: self.new_tokens as u64,
        }
    }
}

/// The shape that the T5 example's `--random` makes of this name, in this type.
pub fn t5_shape(name: &str, dtype: &str) -> Option<ModelShape> {
    let (d_model, heads, d_ff, gated, layers) = match name {
        "t5-base" => (768, 12, 3072, false, 12),
        "t5-large" => (1024, 16, 4096, false, 24),
        "flan-t5-xl" => (2048, 32, 5120, true, 24),
        _ => return None,
    };
    Some(ModelShape {
        d_model,
        heads,
        head_dim: 64,
        d_ff,
        gated,
        vocab: 32128,
        encoder_layers: layers,
        decoder_layers: layers,
        element_bytes: if dtype == "f32" { 4 } else { 2 },
    })
}

impl Results {
    /// Reads all of a folder. A file of an unknown name is an error: it would silently be missing from the report.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("intensity.json");
        let intensity = path.exists().then(|| intensity(&path)).transpose()?;
        let mut results = Self { cpu: Cpu::default(), cards: BTreeMap::new(), intensity };
        for machine in entries(folder)?.iter().filter(|path| path.is_dir()) {
            let name = file_name(machine);
            for path in entries(machine)?.iter().filter(|p| p.extension().is_some_and(|e| e == "json")) {
                let file = file_name(path);
                match (name.as_str(), file.as_str()) {
                    ("cpu", "attention.json") => results.cpu.attention = Some(cpu(path)?),
                    ("cpu", "t5.json") => results.cpu.t5 = Some(cpu(path)?),
                    ("cpu", "crossover.json") => results.cpu.crossover = Some(crossover::on_cpu(path)?),
                    // How a run of the kit went: nothing to report.
                    (_, "stages.json") => {}
                    // Pages of their own: cargo xtask reliability and cargo xtask peers ptxsim write them.
                    ("reliability", _) => {}
                    ("ptxsim", "peers.json") => {}
                    // A page of its own, which is made of them beside this one.
                    ("method", "quality.json" | "cost.json" | "decoder-only.json") => {}
                    ("method", _) => bail!(
                        "{}: known names are cost.json, decoder-only.json and quality.json",
                        path.display()
                    ),
                    ("cpu", _) => bail!(
                        "{}: known names are attention.json, crossover.json and t5.json",
                        path.display()
                    ),
                    (_, "t5.json") => {
                        let run = t5(path)?;
                        same_card(path, results.cards.get(&name), &run.machine)?;
                        results.cards.entry(name.clone()).or_default().t5 = Some(run);
                    }
                    (_, "crossover.json") => {
                        let run = crossover::on_card(path)?;
                        same_card(path, results.cards.get(&name), &run.0)?;
                        results.cards.entry(name.clone()).or_default().crossover = Some(run);
                    }
                    (_, file) if file.starts_with("attention-") => {
                        let run = attention(path)?;
                        same_card(path, results.cards.get(&name), &run.machine)?;
                        let sweep = &run.sweep;
                        if file != format!("attention-{sweep}.json") {
                            bail!(
                                "{}: sweep is {sweep}, which belongs into attention-{sweep}.json",
                                path.display()
                            );
                        }
                        results.cards.entry(name.clone()).or_default().attention.push(run);
                    }
                    _ => bail!(
                        "{}: known names are attention-<sweep>.json, crossover.json and t5.json",
                        path.display()
                    ),
                }
            }
        }
        Ok(results)
    }
}

/// A folder is of one card.
fn same_card(path: &Path, card: Option<&Card>, machine: &Machine) -> Result<()> {
    let other = card.and_then(|card| card.attention.first()).map(|run| &run.machine.card);
    match other.filter(|other| **other != machine.card) {
        Some(other) => bail!(
            "{}: machine.card is {}, but other files of its folder are of {other}",
            path.display(),
            machine.card
        ),
        None => Ok(()),
    }
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut paths: Vec<PathBuf> = list.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.sort();
    Ok(paths)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
