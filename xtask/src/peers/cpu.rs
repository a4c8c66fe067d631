//! `cargo xtask peers cpu`: ours and the peers in turn at every point, as the machine's speed drifts within minutes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use comfy_table::Table;
use comfy_table::presets::UTF8_BORDERS_ONLY;
use serde::Serialize;

use super::orders::{Answer, Library, Order, Server, T5Point};
use super::probe::{self, Probe};
use super::{OURS, OURS_PID};
use crate::run::{cargo, command, date, machine, root, step};
use crate::virtual_gpu::release;
use crate::{report, setup};

#[derive(Args)]
pub struct Options {
    /// Threads of every system
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// A Python environment with tools/peers/requirements.txt [default: made in target/]
    #[arg(long, value_name = "DIR")]
    venv: Option<PathBuf>,
    /// Times ours and the peers take turns at each point
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Measure only this
    #[arg(long)]
    only: Option<Work>,
    /// Ours and candle's alone: nothing is installed
    #[arg(long)]
    candle: bool,
    /// Only so many prompts, of those that are measured
    #[arg(long, value_name = "U", value_delimiter = ',')]
    rows: Vec<usize>,
    /// Only so many keys (input tokens), of those that are measured
    #[arg(long, value_name = "N", value_delimiter = ',')]
    keys: Vec<usize>,
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Work {
    Attention,
    T5,
    /// Where PID pays and where it does not, of ours alone
    Crossover,
}

/// Prompts and input lengths of the attention measurement.
const ROWS: [usize; 9] = [1, 2, 4, 8, 16, 30, 64, 128, 256];
const KEYS: [usize; 4] = [128, 512, 2048, 4096];
/// A turn of a system.
const BURST_S: f64 = 0.05;

const SHAPES: [&str; 2] = ["t5-small", "t5-base"];
const T5_ROWS: [usize; 5] = [1, 2, 8, 30, 64];
const T5_KEYS: [usize; 2] = [128, 512];
const PROMPT_TOKENS: usize = 3;
const NEW_TOKENS: usize = 10;

/// A system has no more turns at a point once its runs took so long together.
const BUDGET_S: f64 = 6.0;

/// Who measures a system.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum By {
    Ours,
    Python,
    Candle,
}

/// Of each work the first is what the others are compared with.
const ATTENTIONS: [(By, &str); 9] = [
    (By::Ours, OURS),
    (By::Ours, "onekv, bf16"),
    (By::Ours, "onekv, f16"),
    (By::Python, "PyTorch SDPA, queries folded"),
    (By::Python, "PyTorch SDPA, K/V expanded"),
    (By::Candle, "candle flash, queries folded"),
    (By::Candle, "candle flash, K/V expanded"),
    (By::Candle, "candle matmul, queries folded"),
    (By::Candle, "candle matmul, K/V expanded"),
];
/// Hugging Face's come before those that must answer alike.
const T5S: [(By, &str); 11] = [
    (By::Ours, OURS_PID),
    (By::Python, "HF, encoded once, batch 1 broadcast"),
    (By::Python, "HF, encoded once and expanded"),
    (By::Python, "ONNX Runtime, encoded once, batch 1 broadcast"),
    (By::Candle, "onekv on candle, PID"),
    (By::Candle, "candle, encodes once"),
    (By::Ours, "onekv, PIE"),
    (By::Python, "HF, PIE"),
    (By::Python, "CTranslate2, PIE"),
    (By::Python, "CTranslate2 int8, PIE"),
    (By::Python, "ONNX Runtime, PIE"),
];

/// One system at one point, over all its turns.
#[derive(Serialize)]
struct Line {
    system: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    shape: Option<String>,
    rows: usize,
    keys: usize,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Outcome {
    Timed {
        /// Of the turns' medians.
        median_s: f64,
        min_s: f64,
        max_s: f64,
        runs: usize,
        /// Its median over ours in the same turn.
        #[serde(skip_serializing_if = "Option::is_none")]
        of_ours: Option<Ratio>,
    },
    Failed {
        error: String,
    },
}

/// Over turns.
#[derive(Debug, PartialEq, Serialize)]
struct Ratio {
    median: f64,
    min: f64,
    max: f64,
    turns: usize,
}

/// A file under `results/cpu`.
#[derive(Serialize)]
struct Results {
    machine: String,
    threads: usize,
    date: String,
    peers: BTreeMap<String, Library>,
    /// Before and after the lines.
    probes: [Probe; 2],
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

pub fn run(options: &Options) -> Result<()> {
    let all = match options.candle {
        true if options.only == Some(Work::Crossover) => {
            bail!("--only is crossover, allowed with --candle: attention, t5")
        }
        true => vec![Work::Attention, Work::T5],
        false => vec![Work::Attention, Work::T5, Work::Crossover],
    };
    for work in options.only.map_or(all, |one| vec![one]) {
        match work {
            Work::Attention => in_turn(options, "attention", &ATTENTIONS, &attention_points(options)?)?,
            Work::T5 => in_turn(options, "t5", &T5S, &t5_points(options)?)?,
            Work::Crossover => crossover(options)?,
        }
    }
    Ok(())
}

/// Those of `all` that were asked for.
fn chosen(name: &str, all: &[usize], asked: &[usize]) -> Result<Vec<usize>> {
    let chosen: Vec<usize> = all.iter().copied().filter(|n| asked.is_empty() || asked.contains(n)).collect();
    if chosen.is_empty() {
        bail!("{name} is {asked:?}, allowed: some of {all:?}");
    }
    Ok(chosen)
}

/// A point's shape, prompts and keys.
type Point = (Option<&'static str>, usize, usize);

fn attention_points(options: &Options) -> Result<Vec<Point>> {
    let rows = chosen("--rows", &ROWS, &options.rows)?;
    let keys = chosen("--keys", &KEYS, &options.keys)?;
    Ok(keys.iter().flat_map(|&n| rows.iter().map(move |&u| (None, u, n))).collect())
}

fn t5_points(options: &Options) -> Result<Vec<Point>> {
    let rows = chosen("--rows", &T5_ROWS, &options.rows)?;
    let keys = chosen("--keys", &T5_KEYS, &options.keys)?;
    let of_shape = |shape| {
        let rows = &rows;
        keys.iter().flat_map(move |&n| rows.iter().map(move |&u| (Some(shape), u, n)))
    };
    Ok(SHAPES.into_iter().flat_map(of_shape).collect())
}

fn order(system: &str, (shape, rows, keys): Point) -> Order {
    let system = system.to_owned();
    match shape {
        None => Order::Attention { system, rows, keys, seconds: BURST_S },
        Some(shape) => {
            let (prompt_tokens, new_tokens) = (PROMPT_TOKENS, NEW_TOKENS);
            Order::T5 {
                system,
                point: T5Point { shape: shape.to_owned(), rows, keys, prompt_tokens, new_tokens },
            }
        }
    }
}

/// Whether a system is measured at a point. Candle's T5 takes a minute where the others take seconds.
fn taken(by: By, (shape, rows, keys): Point) -> bool {
    match shape {
        Some(shape) if by == By::Candle => shape == "t5-base" && keys == 512 && [8, 30].contains(&rows),
        _ => true,
    }
}

fn in_turn(options: &Options, name: &str, systems: &[(By, &'static str)], points: &[Point]) -> Result<()> {
    let mut servers = servers(options)?;
    let systems: Vec<_> = systems.iter().filter(|(by, _)| servers.contains_key(by)).copied().collect();
    let before = probe(&mut servers)?;
    let mut lines = Vec::new();
    for (i, &point) in points.iter().enumerate() {
        let (shape, rows, keys) = point;
        eprintln!(
            "==> {name}, point {} of {}: {} U = {rows}, n = {keys}",
            i + 1,
            points.len(),
            shape.unwrap_or_default()
        );
        let systems: Vec<_> = systems.iter().filter(|(by, _)| taken(*by, point)).copied().collect();
        lines.extend(lines_at(&mut servers, &systems, point, options.rounds)?);
    }
    let probes = [before, probe(&mut servers)?];
    let mut peers = servers.get_mut(&By::Python).map(peers).transpose()?.unwrap_or_default();
    peers.insert("candle".to_owned(), candle()?);
    let results =
        Results { machine: machine(), threads: options.threads, date: date()?, peers, probes, lines };
    println!("{}", table(&results.lines));
    let whole = !options.candle && options.rows.is_empty() && options.keys.is_empty();
    keep(whole, name, &results)?;
    if whole { report::write() } else { Ok(()) }
}

/// The programs that measure, built and running.
fn servers(options: &Options) -> Result<BTreeMap<By, Server>> {
    let threads = options.threads.to_string();
    let python = if options.candle { None } else { Some(setup::peers_python(options.venv.as_deref())?) };
    step("build ours", &mut cargo(&["build", "--release", "--package", "xtask"]))?;
    step("build the T5 on candle", &mut cargo(&["build", "--release", "--package", "candle-t5"]))?;
    let mut ours = command(&release("xtask"), &["peers", "measure", "--threads", &threads]);
    let mut candles = command(&release("candle-t5"), &["--orders"]);
    let mut servers = BTreeMap::from([
        (By::Ours, Server::start("ours", &mut ours)?),
        (By::Candle, Server::start("candle", candles.env("RAYON_NUM_THREADS", &threads))?),
    ]);
    if let Some(python) = python {
        let arguments = ["tools/peers/cpu.py", "--threads", &threads];
        let mut python = command(&python.to_string_lossy(), &arguments);
        python.env("OMP_NUM_THREADS", &threads).env("HF_HUB_OFFLINE", "1");
        let mut server = Server::start("tools/peers/cpu.py", &mut python)?;
        // It has read its libraries, which takes seconds, when it answers.
        peers(&mut server)?;
        servers.insert(By::Python, server);
    }
    Ok(servers)
}

/// What the peers' script says of its libraries.
fn peers(server: &mut Server) -> Result<BTreeMap<String, Library>> {
    match server.ask(&Order::Peers)? {
        Answer::Peers(peers) => Ok(peers),
        other => bail!("the peers' versions: {other:?}"),
    }
}

fn ask(servers: &mut BTreeMap<By, Server>, by: By, order: &Order) -> Result<Answer> {
    servers.get_mut(&by).context("not started")?.ask(order)
}

fn probe(servers: &mut BTreeMap<By, Server>) -> Result<Probe> {
    eprintln!("==> the machine's rates");
    match ask(servers, By::Ours, &Order::Probe)? {
        Answer::Probe(probe) => Ok(probe),
        other => bail!("the machine's rates: {other:?}"),
    }
}

/// Seconds of a system's runs by its turns, and why it has no more.
#[derive(Default)]
struct Turns {
    turns: Vec<Vec<f64>>,
    error: Option<String>,
}

impl Turns {
    fn done(&self) -> bool {
        self.error.is_some() || self.turns.iter().flatten().sum::<f64>() > BUDGET_S
    }
}

/// A B C, C B A, A B C: `rounds` times, or until there is none left to compare ours with. So none always follows the same
/// other.
fn lines_at(
    servers: &mut BTreeMap<By, Server>,
    systems: &[(By, &'static str)],
    point: Point,
    rounds: u32,
) -> Result<Vec<Line>> {
    let mut all: Vec<Turns> = systems.iter().map(|_| Turns::default()).collect();
    for round in 0..rounds {
        if all.iter().skip(1).all(Turns::done) {
            break;
        }
        let mut order_of_turn: Vec<usize> = (0..systems.len()).collect();
        if round % 2 == 1 {
            order_of_turn.reverse();
        }
        for i in order_of_turn {
            let (turns, (by, system)) = (&mut all[i], systems[i]);
            if i > 0 && turns.done() {
                continue;
            }
            match ask(servers, by, &order(system, point))? {
                Answer::Seconds(seconds) if !seconds.is_empty() => turns.turns.push(seconds),
                Answer::Error(error) if by == By::Ours => bail!("{system}: {error}"),
                Answer::Error(error) => {
                    eprintln!("{system}: {error}");
                    turns.error = Some(error);
                }
                other => bail!("{system}: {other:?}"),
            }
        }
    }
    let (shape, rows, keys) = point;
    let ours = all.first().map(|ours| ours.turns.clone()).unwrap_or_default();
    let line = |(i, (turns, (_, system))): (usize, (Turns, &(By, &str)))| Line {
        system: (*system).to_owned(),
        shape: shape.map(str::to_owned),
        rows,
        keys,
        outcome: outcome(turns, (i > 0).then_some(&ours)),
    };
    Ok(all.into_iter().zip(systems).enumerate().map(line).collect())
}

/// Of an even number the upper one; NaN of none.
fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn extremes(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, 0.0), |(min, max), x| (x.min(min), x.max(max)))
}

fn outcome(Turns { turns, error }: Turns, ours: Option<&Vec<Vec<f64>>>) -> Outcome {
    if let Some(error) = error {
        return Outcome::Failed { error };
    }
    let of_turn = |turn: &Vec<f64>| median(turn.iter().copied());
    let of_ours = ours.map(|ours| {
        let ratios: Vec<f64> =
            turns.iter().zip(ours).map(|(peer, ours)| of_turn(peer) / of_turn(ours)).collect();
        let (min, max) = extremes(ratios.iter().copied());
        Ratio { turns: ratios.len(), median: median(ratios), min, max }
    });
    let (min_s, max_s) = extremes(turns.iter().flatten().copied());
    let runs = turns.iter().map(Vec::len).sum();
    Outcome::Timed { median_s: median(turns.iter().map(of_turn)), min_s, max_s, runs, of_ours }
}

/// Writes `<name>.json`: into `results/cpu`, or into `target/peers-cpu` where only a part was measured.
fn keep(whole: bool, name: &str, results: &impl Serialize) -> Result<()> {
    let folder = root().join(if whole { "results/cpu" } else { "target/peers-cpu" });
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{name}.json"));
    std::fs::write(&path, serde_json::to_string_pretty(results)? + "\n")?;
    println!("{}", path.display());
    Ok(())
}

/// Where PID pays, by tools/peers/crossover.py; every method runs `rounds` times at each point.
fn crossover(options: &Options) -> Result<()> {
    let python = setup::peers_python(options.venv.as_deref())?;
    step("build the T5 example", &mut cargo(&["build", "--release", "--package", "t5"]))?;
    let (program, threads) = (release("t5"), options.threads.to_string());
    let out = root().join("target/crossover.json");
    let mut script = command(&python.to_string_lossy(), &["tools/peers/crossover.py", "--t5"]);
    script.arg(program).arg("--out").arg(&out).args(["--threads", &threads]);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build()?;
    let Probe { fma_flops_per_s, copy_bytes_per_s } = pool.install(probe::probe);
    let roofline = format!("{},{}", fma_flops_per_s / 1e12, copy_bytes_per_s / 1e9);
    script.args(["--runs", &options.rounds.to_string(), "--roofline", &roofline]);
    step("where PID pays", &mut script)?;
    let measured = serde_json::from_str(&std::fs::read_to_string(&out)?)
        .with_context(|| format!("{} is no JSON", out.display()))?;
    let results = Crossover { machine: machine(), threads: options.threads, date: date()?, measured };
    keep(true, "crossover", &results)?;
    report::write()
}

/// Medians, and how many times as long as ours each peer takes, with the spread over turns.
fn table(lines: &[Line]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY);
    table.set_header(["shape", "keys", "rows", "system", "median", "runs", "of ours", "spread"]);
    for line in lines {
        let place = [line.shape.clone().unwrap_or_default(), line.keys.to_string(), line.rows.to_string()];
        let rest = match &line.outcome {
            Outcome::Timed { median_s, runs, of_ours, .. } => {
                let text = |show: fn(&Ratio) -> String| of_ours.as_ref().map(show).unwrap_or_default();
                let spread = text(|r| format!("{:.2} to {:.2}", r.min, r.max));
                [
                    format!("{:.3} ms", median_s * 1e3),
                    runs.to_string(),
                    text(|r| format!("{:.2}x", r.median)),
                    spread,
                ]
            }
            Outcome::Failed { error } => [error.clone(), String::new(), String::new(), String::new()],
        };
        table.add_row(place.into_iter().chain([line.system.clone()]).chain(rest));
    }
    table
}

/// Candle, in the version that is built.
fn candle() -> Result<Library> {
    let lock = std::fs::read_to_string(root().join("Cargo.lock"))?;
    let version =
        lock.split_once("name = \"candle-core\"\nversion = \"").and_then(|(_, rest)| rest.split_once('"'));
    let version = version.context("Cargo.lock has no candle-core")?.0.to_owned();
    let note =
        "flash: its flash_attn; matmul: products and softmax as in its T5, which projects K and V again in every step".to_owned();
    Ok(Library { version, note })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine that becomes half as fast from turn to turn leaves the ratio as it is.
    #[test]
    fn ratios_are_of_the_same_turn() {
        let ours = vec![vec![1.0, 1.0, 9.0], vec![2.0], vec![4.0]];
        let turns = vec![vec![3.0], vec![6.0, 0.5, 7.0], vec![14.0]];
        let Outcome::Timed { median_s, min_s, max_s, runs, of_ours } =
            outcome(Turns { turns, error: None }, Some(&ours))
        else {
            panic!("failed");
        };
        assert_eq!((median_s, min_s, max_s, runs), (6.0, 0.5, 14.0, 5));
        assert_eq!(of_ours, Some(Ratio { median: 3.0, min: 3.0, max: 3.5, turns: 3 }));
    }
}
