//! Our side of tools/peers/orders.py: attention, T5 and the probe of the machine, in one process that stays.

mod probe;

use std::hint::black_box;
use std::io::BufRead as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use half::{bf16, f16};
use indicatif::ProgressBar;
use onekv::{Element, Keys, Problem, ProblemSpec, SharedKv, View, cpu};
use onekv_cost::Method;
use serde::{Deserialize, Serialize};
use t5::backend::cpu::Cpu;
use t5::generate::{Limits, Task, generate};
use t5::load::{self, Shape};
use t5::model::Model;

use self::probe::{Probe, probe};

const OURS: &str = "onekv";
const OURS_PID: &str = "onekv, PID";
const HEADS: usize = 12;
const HEAD_DIM: usize = 64;
const LEAST_RUNS: usize = 3;
/// Runs that begin sooner are not counted: threads that slept while others were asked wake up on one core, and stay there
/// until the system looks again.
const SETTLING_S: f64 = 0.1;
/// A first run of less is not counted: it warms up.
const WARMING_S: f64 = 2.0;
/// Nor is the first of a turn, of less: settling would be much of it.
const SHORT_S: f64 = 10.0 * SETTLING_S;

/// What is asked.
#[derive(Deserialize)]
#[serde(tag = "what", rename_all = "lowercase")]
enum Order {
    /// A few runs on one input, 12 heads of 64.
    Attention { system: String, rows: usize, keys: usize, seconds: f64 },
    /// One run.
    T5 {
        system: String,
        #[serde(flatten)]
        point: T5Point,
    },
    /// The machine's rates.
    Probe,
}

/// Random weights and ids: an input of `keys` tokens, `rows` prompts.
#[derive(Clone, PartialEq, Deserialize)]
struct T5Point {
    shape: String,
    rows: usize,
    keys: usize,
    prompt_tokens: usize,
    new_tokens: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    /// Of each run.
    Seconds(Vec<f64>),
    Probe(Probe),
    Error(String),
}

/// Answers orders on standard input, one JSON document a line.
#[derive(Parser)]
struct Arguments {
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn main() -> Result<()> {
    let Arguments { threads } = Arguments::parse();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let backend = Cpu::new();
    let mut attention: Option<Attention> = None;
    let mut model: Option<(Shape, Model<'_, Cpu>)> = None;
    let mut at: Option<T5Point> = None;
    let mut ran: Vec<String> = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let order: Order = serde_json::from_str(&line?)?;
        let answer = pool.install(|| match order {
            Order::Probe => Ok(Answer::Probe(probe())),
            Order::Attention { system, rows, keys, seconds } => {
                if attention.as_ref().is_none_or(|of| (of.rows, of.keys) != (rows, keys)) {
                    attention = Some(Attention::new(rows, keys)?);
                }
                let Attention { f32, bf16, f16, .. } = attention.as_mut().context("no operands")?;
                match system.as_str() {
                    OURS => f32.burst(seconds),
                    "onekv, bf16" => bf16.burst(seconds),
                    "onekv, f16" => f16.burst(seconds),
                    _ => bail!("system is {system}, allowed: {OURS}; {OURS}, bf16; {OURS}, f16"),
                }
            }
            Order::T5 { system, point } => {
                let method = if system == OURS_PID { Method::Pid } else { Method::Pie };
                let shape = <Shape as clap::ValueEnum>::from_str(&point.shape, false);
                let shape = shape.map_err(anyhow::Error::msg)?;
                if model.as_ref().is_none_or(|(of, _)| *of != shape) {
                    drop(model.take());
                    model = Some((shape, load::random(shape.config()?, 1, &backend)?));
                }
                let (_, model) = model.as_ref().context("no model")?;
                if at.as_ref() != Some(&point) {
                    at = Some(point.clone());
                    ran.clear();
                }
                let mut seconds = t5(model, method, &point)?;
                let new = !ran.contains(&system);
                if seconds < if new { WARMING_S } else { SHORT_S } {
                    seconds = t5(model, method, &point)?;
                }
                if new {
                    ran.push(system);
                }
                Ok(Answer::Seconds(vec![seconds]))
            }
        });
        let answer = answer.unwrap_or_else(|error| Answer::Error(format!("{error:#}")));
        println!("{}", serde_json::to_string(&answer)?);
    }
    Ok(())
}

fn t5(model: &Model<'_, Cpu>, method: Method, point: &T5Point) -> Result<f64> {
    let vocab = model.config.vocab;
    // Ids that do not repeat soon.
    let id = |i: usize| (3 + i * 7919 % (vocab - 3)) as u32;
    let ids = |first: usize, tokens: usize| (first..first + tokens).map(id).collect::<Vec<u32>>();
    let task = Task {
        input: ids(0, point.keys),
        prompts: (0..point.rows).map(|p| ids(p * 31, point.prompt_tokens)).collect(),
    };
    let tasks = if method == Method::Pie { task.prompts_in_encoder() } else { vec![task] };
    let limits = Limits { max_new_tokens: point.new_tokens, stop_at_eos: false, batch_rows: None };
    let start = Instant::now();
    let (outputs, _) = generate(model, method, &tasks, limits, 1, &ProgressBar::hidden())?;
    let seconds = start.elapsed().as_secs_f64();
    let new: usize = outputs.iter().flatten().map(Vec::len).sum();
    if new != point.rows * point.new_tokens {
        bail!("decoded {new} tokens, wanted {} rows of {}", point.rows, point.new_tokens);
    }
    Ok(seconds)
}

/// Attention at one point, in every type.
struct Attention {
    rows: usize,
    keys: usize,
    f32: Operands<f32>,
    bf16: Operands<bf16>,
    f16: Operands<f16>,
}

impl Attention {
    fn new(rows: usize, keys: usize) -> Result<Self> {
        Ok(Self {
            rows,
            keys,
            f32: Operands::new(rows, keys)?,
            bf16: Operands::new(rows, keys)?,
            f16: Operands::new(rows, keys)?,
        })
    }
}

/// What attention reads and writes.
struct Operands<E> {
    problem: Problem,
    q: Vec<E>,
    k: Vec<E>,
    v: Vec<E>,
    out: Vec<E>,
}

impl<E: Element> Operands<E> {
    fn new(rows: usize, keys: usize) -> Result<Self> {
        let problem = Problem::new(ProblemSpec {
            heads: HEADS,
            kv_heads: HEADS,
            head_dim: HEAD_DIM,
            scale: 1.0,
            softcap: None,
            row_offsets: vec![0, rows],
            keys: Keys::Packed { offsets: vec![0, keys] },
        })?;
        let width = HEADS * HEAD_DIM;
        let (q, k, v) = (noise(rows * width, 1), noise(keys * width, 2), noise(keys * width, 3));
        Ok(Self { problem, q, k, v, out: vec![E::from_f32(f32::NAN); rows * width] })
    }

    /// Runs after some that warm up.
    fn burst(&mut self, seconds: f64) -> Result<Answer> {
        let Self { problem, q, k, v, out } = self;
        let mut attend = || {
            cpu::attend(
                problem,
                View::contiguous(problem.query_shape(), &q[..]),
                SharedKv::contiguous(problem.kv_shape(), &k[..], &v[..]),
                View::contiguous(problem.query_shape(), black_box(&mut out[..])),
                None,
            )
        };
        let settled = Instant::now() + Duration::from_secs_f64(SETTLING_S);
        attend()?;
        while Instant::now() < settled {
            attend()?;
        }
        let mut times = Vec::new();
        let end = Instant::now() + Duration::from_secs_f64(seconds);
        while times.len() < LEAST_RUNS || Instant::now() < end {
            let start = Instant::now();
            attend()?;
            times.push(start.elapsed().as_secs_f64());
        }
        Ok(Answer::Seconds(times))
    }
}

/// Numbers in -1..1 that do not repeat soon.
fn noise<E: Element>(n: usize, seed: u64) -> Vec<E> {
    let mut state = seed;
    let step = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        E::from_f32((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0)
    };
    (0..n).map(step).collect()
}
