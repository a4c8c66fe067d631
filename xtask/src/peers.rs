//! `cargo xtask peers cpu|gpu`: ours and its peers on the same work, in one run; `ptxsim`: kernels of others on the virtual GPU.

mod gpu;
mod measure;
mod ptxsim;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Subcommand, ValueEnum};
use comfy_table::Table;
use comfy_table::presets::UTF8_BORDERS_ONLY;
use serde::{Deserialize, Serialize};

use crate::report;
use crate::run::{cargo, command, output, root, step};
use crate::setup;
use crate::virtual_gpu::target;

#[derive(Subcommand)]
pub enum Device {
    /// PyTorch SDPA, HF T5, CTranslate2 (pinned, in a venv) and candle, on the CPU
    Cpu {
        /// Threads of every system
        #[arg(long, default_value_t = 2)]
        threads: usize,
        /// A Python environment with tools/peers/requirements.txt [default: made in target/]
        #[arg(long, value_name = "DIR")]
        venv: Option<PathBuf>,
        /// Times ours and the peers take turns; medians are over all of them
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Measure only this
        #[arg(long)]
        only: Option<Work>,
        /// Ours and candle's alone: nothing is installed, and no results are written
        #[arg(long)]
        candle: bool,
    },
    /// Attention and T5 beside PyTorch's kernels, a Triton kernel, HF T5 and CTranslate2, on this machine's card
    Gpu {
        /// Stages of the kit (tools/kit/run.sh --help)
        #[arg(default_values = ["must-show", "bench-first", "t5"])]
        stages: Vec<String>,
        /// A Python environment with tools/peers/requirements.txt [default: made in target/]
        #[arg(long, value_name = "DIR")]
        venv: Option<PathBuf>,
    },
    /// Kernels of other projects (pinned, in a venv) on the virtual GPU, each held to a NumPy reference
    ///
    /// Fetches the packages from PyPI and the virtual GPU from this tree, compiles the kernels without a card, runs each in
    /// a process of its own and writes results/ptxsim/: right; unsupported: ptxsim says that it does not run an instruction
    /// or a call; wrong: the result is not the reference's; blamed: a check of ptxsim's failed, or anything else went wrong.
    /// Fails where anything is wrong or blamed. Compiled kernels stay in target/ptxsim-peers/.
    Ptxsim {
        /// Run rows whose package, kernel or card contains this, and write no results
        #[arg(long, value_name = "TEXT")]
        only: Option<String>,
        /// Rows that run at once [default: one per core]
        #[arg(long)]
        jobs: Option<usize>,
        /// A Python environment with tools/ptxsim-peers/requirements.txt [default: made in target/]
        #[arg(long, value_name = "DIR")]
        venv: Option<PathBuf>,
    },
    /// Our attention alone, as one JSON document (what `cpu` runs in release)
    #[command(hide = true)]
    Measure {
        #[arg(long, default_value_t = 2)]
        threads: usize,
    },
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Work {
    Attention,
    T5,
    /// Where PID pays and where it does not, of ours alone
    Crossover,
}

const ALL: [Work; 3] = [Work::Attention, Work::T5, Work::Crossover];

/// Prompts and input lengths of the attention measurement.
pub const ROWS: [usize; 9] = [1, 2, 4, 8, 16, 30, 64, 128, 256];
pub const KEYS: [usize; 4] = [128, 512, 2048, 4096];
/// Prompts and input length of the T5 measurement.
const T5_ROWS: usize = 30;
const T5_KEYS: usize = 512;

pub const OURS: &str = "onekv";

/// One measured figure.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Line {
    pub system: String,
    pub rows: usize,
    pub keys: usize,
    pub median_s: f64,
    pub min_s: f64,
    pub max_s: f64,
    pub runs: usize,
}

/// What a Python or Rust measurement prints.
#[derive(Debug, Serialize, Deserialize)]
pub struct Measured {
    #[serde(default)]
    pub torch: Option<String>,
    pub lines: Vec<Line>,
}

/// A file under `results/`.
#[derive(Debug, Serialize, Deserialize)]
struct Results {
    machine: String,
    threads: usize,
    torch: Option<String>,
    date: String,
    lines: Vec<Line>,
}

/// `results/cpu/crossover.json`: who measured, and what tools/peers/crossover.py wrote.
#[derive(Serialize)]
struct Crossover {
    machine: String,
    threads: usize,
    date: String,
    #[serde(flatten)]
    measured: serde_json::Map<String, serde_json::Value>,
}

pub fn run(device: &Device) -> Result<()> {
    match device {
        Device::Gpu { stages, venv } => gpu::run(stages, venv.as_deref()),
        Device::Ptxsim { only, jobs, venv } => ptxsim::run(only.as_deref(), *jobs, venv.as_deref()),
        Device::Measure { threads } => measure::print(*threads),
        Device::Cpu { only: Some(Work::Crossover), candle: true, .. } => {
            bail!("--only is crossover, allowed with --candle: attention, t5")
        }
        Device::Cpu { threads, venv, rounds, only, candle } => {
            let all = if *candle { &ALL[..2] } else { &ALL };
            let work = only.map_or(all.to_vec(), |one| vec![one]);
            let (venv, rounds) = (venv.as_deref(), (*rounds).max(1));
            work.into_iter().try_for_each(|work| match work {
                Work::Crossover => crossover(*threads, venv, rounds),
                _ => cpu(work, *threads, venv, rounds, *candle),
            })
        }
    }
}

fn cpu(work: Work, threads: usize, venv: Option<&Path>, rounds: usize, candle_alone: bool) -> Result<()> {
    let python = if candle_alone { None } else { Some(python(venv)?) };
    step("build ours", &mut cargo(&["build", "--release", "--package", "xtask"]))?;
    step("build the T5 example", &mut cargo(&["build", "--release", "--package", "t5"]))?;
    step("build the T5 on candle", &mut cargo(&["build", "--release", "--package", "candle-t5"]))?;

    let count = threads.to_string();
    let mut measured = Vec::new();
    for round in 1..=rounds {
        eprintln!("==> round {round} of {rounds}");
        match work {
            Work::Attention => {
                let release = release("xtask");
                let ours = output(
                    "our attention",
                    &mut command(&release, &["peers", "measure", "--threads", &count]),
                )?;
                measured.push(serde_json::from_str::<Measured>(&ours)?);
                if let Some(python) = &python {
                    measured.push(peer(python, "attention", &count, &list(&ROWS), &list(&KEYS))?);
                }
                measured.push(candles_attention(&count)?);
            }
            Work::T5 => {
                measured.push(our_t5(&count)?);
                if let Some(python) = &python {
                    measured.push(peer(python, "t5", &count, &list(&[T5_ROWS]), &list(&[T5_KEYS]))?);
                }
                measured.push(candles_t5(&count)?);
            }
            Work::Crossover => bail!("crossover has no peers"),
        }
    }
    let torch = measured.iter().find_map(|m| m.torch.clone());
    let lines = merge(measured.into_iter().flat_map(|m| m.lines));
    if candle_alone {
        println!("{}", table(&lines));
        return Ok(());
    }
    let name = match work {
        Work::Attention => "attention",
        _ => "t5",
    };
    let results = Results { machine: machine(), threads, torch, date: date()?, lines };
    keep(name, &results)?;
    println!("{}", table(&results.lines));
    report::performance::write()
}

/// Writes `results/cpu/<name>.json`.
fn keep(name: &str, results: &impl Serialize) -> Result<()> {
    let folder = root().join("results/cpu");
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{name}.json"));
    std::fs::write(&path, serde_json::to_string_pretty(results)? + "\n")?;
    println!("{}", path.display());
    Ok(())
}

/// Where PID pays, by tools/peers/crossover.py; every method runs `runs` times at each point.
fn crossover(threads: usize, venv: Option<&Path>, runs: usize) -> Result<()> {
    let python = python(venv)?;
    step("build the T5 example", &mut cargo(&["build", "--release", "--package", "t5"]))?;
    let program = release("t5");
    let out = root().join("target/crossover.json");
    let mut script = command(&python.to_string_lossy(), &["tools/peers/crossover.py", "--t5"]);
    script.arg(program).arg("--out").arg(&out).args(["--threads", &threads.to_string()]);
    script.args(["--runs", &runs.to_string()]).env("OMP_NUM_THREADS", threads.to_string());
    step("where PID pays", &mut script)?;
    let measured = serde_json::from_str(&std::fs::read_to_string(&out)?)
        .with_context(|| format!("{} is no JSON", out.display()))?;
    keep("crossover", &Crossover { machine: machine(), threads, date: date()?, measured })?;
    report::performance::write()
}

/// The Python of an environment that holds the pinned peers.
fn python(venv: Option<&Path>) -> Result<PathBuf> {
    match venv {
        Some(folder) => Ok(folder.join("bin/python")),
        None => setup::python("peers-venv", "tools/peers/requirements.txt", &[]),
    }
}

fn peer(python: &Path, what: &str, threads: &str, rows: &[String], keys: &[String]) -> Result<Measured> {
    let mut peer = command(&python.to_string_lossy(), &["tools/peers/cpu.py", what, "--threads", threads]);
    peer.arg("--rows").args(rows).arg("--keys").args(keys).env("OMP_NUM_THREADS", threads);
    let text = output(&format!("peers: {what}"), &mut peer)?;
    serde_json::from_str(&text).with_context(|| format!("peers: {what} printed no JSON"))
}

/// PID and PIE of our T5 example on random weights.
fn our_t5(threads: &str) -> Result<Measured> {
    #[derive(Deserialize)]
    struct Figures {
        total_s: f64,
    }
    let arguments = ["--random", "t5-base", "--json", "--threads", threads];
    let text = output("our T5", &mut command(&release("t5"), &arguments))?;
    let figures: BTreeMap<String, Figures> = serde_json::from_str(&text)?;
    let lines = figures
        .into_iter()
        .map(|(method, Figures { total_s })| t5_line(format!("{OURS}, {}", method.to_uppercase()), total_s))
        .collect();
    Ok(Measured { torch: None, lines })
}

/// One run of a T5.
fn t5_line(system: String, seconds: f64) -> Line {
    let [median_s, min_s, max_s] = [seconds; 3];
    Line { system, rows: T5_ROWS, keys: T5_KEYS, median_s, min_s, max_s, runs: 1 }
}

/// Candle's attentions, each with its own layout: on the CPU its flash attention, and its T5's products and softmax.
fn candles_attention(threads: &str) -> Result<Measured> {
    let arguments =
        ["--measure", "attention", "--rows", &list(&ROWS).join(","), "--keys", &list(&KEYS).join(",")];
    let mut program = command(&release("candle-t5"), &arguments);
    Ok(serde_json::from_str(&output("candle's attention", program.env("RAYON_NUM_THREADS", threads))?)?)
}

/// Candle's T5 on random weights, and the same model with its cross-attention by onekv.
fn candles_t5(threads: &str) -> Result<Measured> {
    #[derive(Deserialize)]
    struct Seconds {
        total_s: f64,
    }
    #[derive(Deserialize)]
    struct Both {
        onekv: Seconds,
        candle: Seconds,
    }
    let (prompts, tokens) = (T5_ROWS.to_string(), T5_KEYS.to_string());
    let arguments = ["--json", "--prompts", &prompts, "--input-tokens", &tokens];
    let mut program = command(&release("candle-t5"), &arguments);
    let text = output("candle's T5", program.env("RAYON_NUM_THREADS", threads))?;
    let Both { onekv, candle } = serde_json::from_str(&text)?;
    let lines = vec![
        t5_line(format!("{OURS} on candle, PID"), onekv.total_s),
        t5_line("candle, encodes once".to_owned(), candle.total_s),
    ];
    Ok(Measured { torch: None, lines })
}

/// A program of this workspace.
fn release(name: &str) -> String {
    target().join("release").join(name).to_string_lossy().into_owned()
}

fn list(numbers: &[usize]) -> Vec<String> {
    numbers.iter().map(ToString::to_string).collect()
}

/// One line per system and shape: the median of the rounds' medians, the extremes of all.
fn merge(lines: impl Iterator<Item = Line>) -> Vec<Line> {
    let mut groups: Vec<Vec<Line>> = Vec::new();
    for line in lines {
        let same = |l: &Line| (&l.system, l.rows, l.keys) == (&line.system, line.rows, line.keys);
        match groups.iter_mut().find(|group| group.first().is_some_and(same)) {
            Some(group) => group.push(line),
            None => groups.push(vec![line]),
        }
    }
    groups
        .into_iter()
        .filter_map(|mut group| {
            group.sort_by(|a, b| a.median_s.total_cmp(&b.median_s));
            let mut line = group.get(group.len() / 2)?.clone();
            line.min_s = group.iter().map(|l| l.min_s).fold(f64::INFINITY, f64::min);
            line.max_s = group.iter().map(|l| l.max_s).fold(0.0, f64::max);
            line.runs = group.iter().map(|l| l.runs).sum();
            Some(line)
        })
        .collect()
}

/// Medians, and how many times as long as ours each peer takes.
fn table(lines: &[Line]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY);
    table.set_header(["system", "rows", "keys", "median", "of ours"]);
    for line in lines {
        let ours = lines
            .iter()
            .find(|l| l.system.starts_with(OURS) && (l.rows, l.keys) == (line.rows, line.keys))
            .map_or(f64::NAN, |l| l.median_s);
        table.add_row([
            line.system.clone(),
            line.rows.to_string(),
            line.keys.to_string(),
            format!("{:.3} ms", line.median_s * 1e3),
            format!("{:.2}x", line.median_s / ours),
        ]);
    }
    table
}

fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or("unknown CPU");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{}, {cores} cores", model.trim_start_matches([' ', '\t', ':']))
}

fn date() -> Result<String> {
    Ok(output("the date", &mut command("date", &["--utc", "+%Y-%m-%d"]))?.trim().to_string())
}
