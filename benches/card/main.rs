//! The table of a card: attention over a sweep of shapes, as JSON lines behind the machine it ran on.
//!
//! `cargo bench --features cuda --bench card -- --sweep first --out attention-first.jsonl`
//!
//! A shape of your own: `-- --shape b=8,U=30,n=512,h=12,d=64,dtype=bf16`.
//!
//! Each line is the time of one attention, the combination of split keys included, in a CUDA graph: `cold` over operands that rotate through
//! more memory than the L2 holds, `warm` over the same ones again and again. A wrong result is an error, never a time.
//! The bandwidth of a copy and an empty pair of kernels are measured in the same run. results/README.md describes
//! the file; tools/peers/card.py measures the peers in the same way.

mod card;
mod check;
#[path = "../common/shape.rs"]
mod own;
mod shapes;
mod timing;

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use card::{BenchElement, Card, Ceilings, Machine, Pool, Timed};
use clap::Parser;
use half::{bf16, f16};
use indicatif::ProgressBar;
use onekv::DType;
use onekv::plan::variants::E4M3_HEAD_DIMS;
use own::OwnShape;
use serde::Serialize;
use shapes::{Model, Shape, Sweep};

/// Times onekv's attention on this machine's card.
#[derive(Parser)]
struct Arguments {
    /// What to measure
    #[arg(long, value_enum, default_value = "first")]
    sweep: Sweep,
    /// Measure this instead; may be there several times
    #[arg(long, value_name = "b=8,U=30,n=512,h=12,d=64,dtype=bf16", conflicts_with_all = ["sweep", "list"], long_help = format!("Measure this instead of a sweep: {}. May be there several times", own::HELP))]
    shape: Vec<OwnShape>,
    /// File for the results, a line as each is measured [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Timed graph replays per figure; fewer where one takes long
    #[arg(long, default_value_t = 21, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Start no further shape after this many seconds
    #[arg(long, value_name = "SECONDS")]
    budget: Option<u64>,
    /// Also time every tile and many splits of each shape, for `cargo xtask fit`
    #[arg(long)]
    every_plan: bool,
    /// Also time the prompts with a copy of K and V each
    #[arg(long)]
    replicated: bool,
    /// Also time each shape with K and V in e4m3, a scale per head: few rows of 16 bits, head_dim 64, 128 and 256, on cards from
    /// 9.0 on
    #[arg(long)]
    e4m3: bool,
    /// Print the shapes that peers measure as JSON and stop
    #[arg(long)]
    list: bool,
    /// Describe this machine as JSON and stop
    #[arg(long)]
    machine: bool,
    /// Cargo hands this to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The first line.
#[derive(Serialize)]
struct Head<'a> {
    machine: &'a Machine,
    /// Of shapes of the caller's own: `None`.
    sweep: Option<Sweep>,
    #[serde(flatten)]
    ceilings: &'a Ceilings,
}

#[derive(Serialize)]
struct Line {
    system: &'static str,
    layout: &'static str,
    #[serde(flatten)]
    shape: Shape,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Outcome {
    Timed(Box<Timed>),
    Failed {
        error: String,
    },
    /// Not tried.
    TooLarge {
        error: String,
    },
}

/// Lines that are of no measurement of a shape.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Other {
    /// The time budget had no room for it.
    #[serde(rename = "left out")]
    LeftOut {
        system: &'static str,
        #[serde(flatten)]
        shape: Shape,
    },
    /// How steady the card was.
    After { copy_bytes_per_s: f64 },
}

/// Where results go, a line at a time: whoever stops this program in the middle finds what it had measured.
struct Results(Box<dyn Write>);

impl Results {
    fn open(arguments: &Arguments) -> Result<Self> {
        Ok(Self(match &arguments.out {
            Some(file) => {
                Box::new(File::create(file).with_context(|| format!("cannot write {}", file.display()))?)
            }
            None => Box::new(std::io::stdout()),
        }))
    }

    fn add(&mut self, line: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(line)? + "\n";
        self.0.write_all(text.as_bytes()).context("cannot write a line of the results")
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    if arguments.list {
        println!("{}", serde_json::to_string(&arguments.sweep.peers())?);
        return Ok(());
    }
    let begin = Instant::now();
    let card = Card::open(arguments.runs as usize)?;
    if arguments.machine {
        let text = serde_json::to_string_pretty(&card.machine)?;
        return match &arguments.out {
            Some(file) => {
                std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
            }
            None => {
                println!("{text}");
                Ok(())
            }
        };
    }
    let e4m3 = arguments.e4m3 && card.has_e4m3();
    if arguments.e4m3 && !e4m3 {
        let capability = &card.machine.compute_capability;
        eprintln!(
            "--e4m3 adds nothing: this card is {capability}, kernels for K and V in e4m3 are for 9.0 and newer"
        );
    }
    // System, layout, operands, and whether every plan is timed.
    let ways = |shape: &Shape| {
        let mut ways = vec![("onekv", "shared", *shape, arguments.every_plan)];
        if arguments.replicated && is_replicated(shape) {
            ways.push(("onekv, K/V per prompt", "replicated", shape.replicated(), false));
        }
        if e4m3 && suits_e4m3(shape) {
            ways.push(("onekv, K/V in e4m3", "e4m3", shape.with_e4m3_kv(), arguments.every_plan));
        }
        ways
    };
    let mut shapes: VecDeque<Shape> = match arguments.shape.is_empty() {
        true => arguments.sweep.shapes().into(),
        false => arguments.shape.iter().map(|own| Shape::from(*own)).collect(),
    };
    let operands: Vec<Shape> = shapes.iter().flat_map(ways).map(|way| way.2).collect();
    let pools = Pools { bf16: card.pool(&operands)?, f16: card.pool(&operands)?, f32: card.pool(&operands)? };
    let ceilings = card.ceilings()?;
    let sweep = arguments.shape.is_empty().then_some(arguments.sweep);
    let mut results = Results::open(arguments)?;
    results.add(&Head { machine: &card.machine, sweep, ceilings: &ceilings })?;
    let (mut lines, mut failed) = (0, 0);
    let bar = ProgressBar::new(shapes.len() as u64);
    while let Some(shape) = shapes.pop_front() {
        if arguments.budget.is_some_and(|seconds| begin.elapsed().as_secs() >= seconds) {
            for shape in std::iter::once(shape).chain(shapes) {
                results.add(&Other::LeftOut { system: "onekv", shape })?;
            }
            break;
        }
        for (system, layout, operands, every) in ways(&shape) {
            let mut add = |outcome: Outcome| {
                bar.suspend(|| eprintln!("{system}: {}: {}", describe(&shape), told(&card, &outcome)));
                lines += 1;
                failed += usize::from(matches!(outcome, Outcome::Failed { .. }));
                results.add(&Line { system, layout, shape, outcome })
            };
            match operands.dtype {
                DType::Bf16 => measure(&card, &pools.bf16, &operands, every, &ceilings, &mut add),
                DType::F16 => measure(&card, &pools.f16, &operands, every, &ceilings, &mut add),
                _ => measure(&card, &pools.f32, &operands, every, &ceilings, &mut add),
            }?;
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    if let Ok(copy_bytes_per_s) = card.copy_bandwidth() {
        results.add(&Other::After { copy_bytes_per_s })?;
    }
    if failed > 0 {
        bail!("{failed} of {lines} lines have an error instead of a time");
    }
    Ok(())
}

impl From<OwnShape> for Shape {
    fn from(own: OwnShape) -> Self {
        let OwnShape { inputs, rows, keys, heads, kv_heads, head_dim, softcap, dtype } = own;
        let model = Model { model: "own", heads, kv_heads, head_dim, softcap };
        Self { model, inputs, rows, keys, e4m3_kv: false, dtype: dtype.unwrap_or(DType::Bf16) }
    }
}

/// Whether the shape is also measured with a K/V per prompt: with more prompts that takes long, and shows nothing new.
fn is_replicated(shape: &Shape) -> bool {
    (2..=256).contains(&shape.rows)
}

/// Whether the shape is also measured in e4m3, which is for few rows: its tiles have 32 at most, and each reads all of its keys.
fn suits_e4m3(shape: &Shape) -> bool {
    let has_kernels = shape.dtype != DType::F32 && E4M3_HEAD_DIMS.contains(&shape.model.head_dim);
    has_kernels && shape.folded_rows() <= 64
}

/// Operands by their type.
struct Pools {
    bf16: Pool<bf16>,
    f16: Pool<f16>,
    f32: Pool<f32>,
}

/// Hands the outcome of every plan of a shape to `add`; a failure is a line, not the end.
fn measure<E: BenchElement>(
    card: &Card,
    pool: &Pool<E>,
    shape: &Shape,
    every: bool,
    run: &Ceilings,
    add: &mut dyn FnMut(Outcome) -> Result<()>,
) -> Result<()> {
    let failed = |error: anyhow::Error| Outcome::Failed { error: format!("{error:#}") };
    let bytes = shape.with_unquantized_kv().bytes();
    if bytes > card.most_bytes {
        let error = format!("needs {bytes} bytes, the benchmark takes {} of this card", card.most_bytes);
        return add(Outcome::TooLarge { error });
    }
    match card.plans(shape, every) {
        Ok(plans) => plans.iter().enumerate().try_for_each(|(i, plan)| {
            let timed = card.time(pool, shape, plan, i == 0, run);
            add(timed.map_or_else(failed, |timed| Outcome::Timed(Box::new(timed))))
        }),
        Err(error) => add(failed(error)),
    }
}

fn describe(shape: &Shape) -> String {
    let Shape { model, inputs, rows, keys, dtype, .. } = shape;
    let Model { model, heads, kv_heads, head_dim, .. } = model;
    let heads = if heads == kv_heads { format!("{heads}") } else { format!("{heads} of {kv_heads}") };
    format!("{model}, b {inputs}, U {rows}, n {keys}, heads {heads} x {head_dim}, {dtype}")
}

fn told(card: &Card, outcome: &Outcome) -> String {
    match outcome {
        Outcome::Timed(timed) if card.machine.simulated => {
            format!("{} ran; a simulator has no times", timed.kernel)
        }
        Outcome::Timed(timed) => format!(
            "{:.2} us, {:.1} % of the copy bandwidth, {:.1} TFLOP/s",
            timed.cold_us.median,
            100.0 * timed.of_copy,
            timed.tflops
        ),
        Outcome::Failed { error } | Outcome::TooLarge { error } => error.clone(),
    }
}
