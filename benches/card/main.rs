//! The table of a card: attention over a sweep of shapes, as JSON with the machine it ran on.
//!
//! `cargo bench --features cuda --bench card -- --sweep first --out results/card.json`
//!
//! Each line is the time of one attention, merge included, in a CUDA graph: `cold` over K/V that rotate through
//! more memory than the L2 holds, `warm` over the same K/V again and again. The bandwidth of a copy and an empty
//! pair of kernels are measured in the same run.

mod shapes;
mod timing;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use cudarc::driver::{CudaSlice, CudaStream, result};
use half::bf16;
use indicatif::ProgressBar;
use onekv::cuda::{DeviceKv, DeviceOutput, DeviceQueries, Kernels, Launch};
use onekv::plan::{Plan, PlanOptions, variants};
use onekv::{DType, Error};
use serde::Serialize;
use shapes::{Shape, Sweep};
use timing::{Micros, capture, replay};

/// Times onekv's attention on this machine's card.
#[derive(Parser)]
struct Arguments {
    /// What to measure
    #[arg(long, value_enum, default_value = "first")]
    sweep: Sweep,
    /// File for the results [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Timed graph replays per line
    #[arg(long, default_value_t = 21, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Also time every tile and several splits of each shape, for `cargo xtask fit`
    #[arg(long)]
    every_plan: bool,
    /// Also time the prompts with a copy of K and V each
    #[arg(long)]
    replicated: bool,
    /// Print the shapes as JSON and stop: what the peers read
    #[arg(long)]
    list: bool,
    /// Cargo hands this to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Serialize)]
struct Report {
    machine: Machine,
    /// Bytes read and written per second by a copy within the card's memory.
    copy_bytes_per_s: f64,
    /// A pair of kernels that do nothing: what two launches in a graph cost.
    empty_pair_us: Micros,
    lines: Vec<Line>,
}

#[derive(Serialize)]
struct Machine {
    card: String,
    compute_capability: String,
    multiprocessors: usize,
    /// True on ptxsim: then the times are of the simulator and say nothing.
    simulated: bool,
}

#[derive(Serialize)]
struct Line {
    system: &'static str,
    #[serde(flatten)]
    shape: Shape,
    kernel: String,
    split_keys: usize,
    tile_rows: usize,
    /// The plan that the cost model chose.
    chosen: bool,
    bytes: usize,
    flops: f64,
    cold_us: Micros,
    warm_us: Option<Micros>,
}

/// K/V of the cold measurement take at least this many bytes: more than twice the largest L2 there is.
const ROTATED_BYTES: usize = 256 << 20;
/// Shapes whose K/V, or copies of it, are larger are left out.
const MOST_BYTES: usize = 16 << 30;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let shapes = arguments.sweep.shapes();
    if arguments.list {
        println!("{}", serde_json::to_string(&shapes)?);
        return Ok(());
    }
    let context = match onekv::cuda::context(0) {
        Ok(context) => context,
        Err(error) => bail!("{error}; this benchmark needs a card"),
    };
    // SAFETY: one stream does everything, so nothing has to wait for another stream's events.
    unsafe { context.disable_event_tracking() };
    let card = Card {
        stream: context.new_stream()?,
        kernels: Kernels::new(&context)?,
        runs: arguments.runs as usize,
    };
    let facts = card.kernels.facts();
    let name = context.name()?;
    let machine = Machine {
        simulated: name.starts_with("ptxsim"),
        card: name,
        compute_capability: format!("{}.{}", facts.compute_capability.0, facts.compute_capability.1),
        multiprocessors: facts.multiprocessors,
    };
    let copy_bytes_per_s = card.copy_bandwidth(if machine.simulated { 1 << 20 } else { 1 << 30 })?;
    let empty_pair_us = card.empty_pair()?;
    let mut lines = Vec::new();
    let bar = ProgressBar::new(shapes.len() as u64);
    for shape in bar.wrap_iter(shapes.into_iter()) {
        if shape.bytes() <= MOST_BYTES {
            lines.push(card.line("onekv", shape, &PlanOptions::default(), true)?);
            if arguments.every_plan {
                for options in every_plan(&shape) {
                    match card.line("onekv", shape, &options, false) {
                        Ok(line) => lines.push(line),
                        Err(error) if matches!(error.downcast_ref(), Some(Error::NoKernel { .. })) => (),
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        let copies = shape.replicated();
        if arguments.replicated && shape.rows > 1 && copies.bytes() <= MOST_BYTES {
            lines.push(card.line("onekv, K/V per prompt", copies, &PlanOptions::default(), true)?);
        }
    }
    let report = serde_json::to_string_pretty(&Report { machine, copy_bytes_per_s, empty_pair_us, lines })?;
    match arguments.out {
        Some(file) => {
            std::fs::write(&file, report).with_context(|| format!("cannot write {}", file.display()))
        }
        None => {
            println!("{report}");
            Ok(())
        }
    }
}

/// Every tile, with splits from whole inputs down to 64 keys.
fn every_plan(shape: &Shape) -> Vec<PlanOptions> {
    let mut tiles: Vec<usize> = variants::all().map(|v| v.tile_rows).collect();
    tiles.sort();
    tiles.dedup();
    let splits = (0..).map(|power| shape.keys.div_ceil(1 << power)).take_while(|keys| *keys >= 64);
    splits
        .flat_map(|keys| {
            tiles.iter().map(move |&tile| PlanOptions {
                split_keys: Some(keys),
                tile_rows: Some(tile),
                architecture: None,
            })
        })
        .collect()
}

struct Card {
    stream: Arc<CudaStream>,
    kernels: Arc<Kernels>,
    runs: usize,
}

impl Card {
    fn line(&self, system: &'static str, shape: Shape, options: &PlanOptions, chosen: bool) -> Result<Line> {
        let problem = shape.problem()?;
        let plan = Plan::new(&problem, DType::Bf16, self.kernels.facts(), options)?;
        let launch = Launch::new(&self.kernels, plan, &self.stream)?;
        let plan = launch.plan();
        let copies = (ROTATED_BYTES / shape.bytes().max(1)).clamp(1, 64);
        let q = self.noise(shape.q_len())?;
        let kv: Vec<(CudaSlice<bf16>, CudaSlice<bf16>)> = (0..copies)
            .map(|_| Ok((self.noise(shape.kv_len())?, self.noise(shape.kv_len())?)))
            .collect::<Result<_>>()?;
        let mut out = self.stream.alloc_zeros::<bf16>(shape.q_len())?;
        let mut workspace = self.stream.alloc_zeros::<f32>(plan.workspace_len().max(1))?;
        let mut attend = |(k, v): &(CudaSlice<bf16>, CudaSlice<bf16>)| {
            launch.run(
                &self.stream,
                DeviceQueries::contiguous(&problem, q.as_view()),
                DeviceKv::contiguous(&problem, k.as_view(), v.as_view()),
                DeviceOutput::contiguous(&problem, out.as_view_mut()),
                None,
                &mut workspace.as_view_mut(),
            )
        };
        let cold = capture(&self.stream, || Ok(kv.iter().try_for_each(&mut attend)?))?;
        let cold_us = replay(&self.stream, &cold, copies, self.runs)?;
        let warm_us = match chosen {
            true => {
                let warm = capture(&self.stream, || Ok((0..20).try_for_each(|_| attend(&kv[0]))?))?;
                Some(replay(&self.stream, &warm, 20, self.runs)?)
            }
            false => None,
        };
        Ok(Line {
            system,
            shape,
            kernel: plan.variant().kernel(),
            split_keys: plan.split_keys(),
            tile_rows: plan.variant().tile_rows,
            chosen,
            bytes: shape.bytes(),
            flops: shape.flops(),
            cold_us,
            warm_us,
        })
    }

    /// Values between -1 and 1. A pattern is enough: time does not depend on it, but on zeros and NaN power would.
    fn noise(&self, len: usize) -> Result<CudaSlice<bf16>> {
        let period = 65_521.min(len);
        let pattern: Vec<bf16> =
            (0..period).map(|i| bf16::from_f32(((i * 7919) % 8191) as f32 / 4095.5 - 1.0)).collect();
        let mut memory = self.stream.alloc_zeros::<bf16>(len)?;
        // Doubling copies within the card are quicker than filling it from the host.
        self.stream.memcpy_htod(&pattern, &mut memory.slice_mut(..period))?;
        let mut filled = period;
        while filled < len {
            let more = filled.min(len - filled);
            let (from, mut to) = memory.split_at_mut(filled);
            self.stream.memcpy_dtod(&from.slice(..more), &mut to.slice_mut(..more))?;
            filled += more;
        }
        Ok(memory)
    }

    fn copy_bandwidth(&self, bytes: usize) -> Result<f64> {
        let from = self.stream.alloc_zeros::<u8>(bytes)?;
        let mut to = self.stream.alloc_zeros::<u8>(bytes)?;
        let graph = capture(&self.stream, || Ok(self.stream.memcpy_dtod(&from, &mut to)?))?;
        Ok(2.0 * bytes as f64 / (replay(&self.stream, &graph, 1, self.runs)?.median * 1e-6))
    }

    fn empty_pair(&self) -> Result<Micros> {
        let ptx = c".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry empty() { ret; }\n";
        // SAFETY: the text ends with a NUL; the kernel has no parameters and touches nothing; its module stays
        // loaded to the end of the process.
        let graph = unsafe {
            let module = result::module::load_data(ptx.as_ptr().cast())?;
            let empty = result::module::get_function(module, c"empty".into())?;
            capture(&self.stream, || {
                (0..40).try_for_each(|_| {
                    let (blocks, threads) = ((132, 1, 1), (128, 1, 1));
                    Ok(result::launch_kernel(empty, blocks, threads, 0, self.stream.cu_stream(), &mut [])?)
                })
            })?
        };
        replay(&self.stream, &graph, 20, self.runs)
    }
}
