//! The card: operands that rotate, graphs of launches, a check of every result.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtrMut as _, result};
use half::bf16;
use onekv::cuda::{DeviceKv, DeviceOutput, DeviceQueries, Kernels, Launch};
use onekv::plan::{DeviceFacts, Plan, PlanOptions, Variant, variants};
use onekv::{DType, Problem};
use serde::Serialize;

use crate::check::{self, PERIOD, TOLERANCE};
use crate::shapes::Shape;
use crate::timing::{Micros, capture, replay};

#[derive(Clone, Serialize)]
pub struct Machine {
    card: String,
    compute_capability: String,
    multiprocessors: usize,
    l2_bytes: usize,
    memory_bytes: usize,
    max_clock_khz: i32,
    max_memory_clock_khz: i32,
    /// Newest CUDA that the driver speaks.
    driver_cuda: String,
    /// True on ptxsim: then the times are of the simulator and say nothing.
    pub simulated: bool,
}

/// Replays of a plan that was not chosen: there are many.
const RUNS_OF_OTHERS: usize = 11;

/// What is measured beside the attentions, before them.
#[derive(Serialize)]
pub struct Ceilings {
    /// Bytes read and written per second by a copy within the card's memory.
    pub copy_bytes_per_s: f64,
    copy_bytes: usize,
    /// A pair of kernels that do nothing: what two launches in a graph cost.
    empty_pair_us: Micros,
}

/// What is known of a plan that ran.
#[derive(Serialize)]
pub struct Timed {
    pub kernel: String,
    architecture: String,
    split_keys: usize,
    tile_rows: usize,
    cluster: usize,
    /// The plan that the cost model chose.
    chosen: bool,
    blocks: usize,
    merges: usize,
    bytes: usize,
    flops: f64,
    pub cold_us: Micros,
    warm_us: Option<Micros>,
    /// As `cold_us`, but nothing of an attention overlaps the one before it.
    alone_us: Option<Micros>,
    sets: usize,
    launches: usize,
    gb_per_s: f64,
    /// Part of the copy's bandwidth.
    pub of_copy: f64,
    pub tflops: f64,
    mean_abs: f64,
}

/// How much work goes into one figure.
struct Effort {
    /// Bytes that the operands of a cold measurement take.
    rotated_bytes: usize,
    /// Least length of a graph replay.
    replay_us: f64,
    runs: usize,
    copy_bytes: usize,
    warm_ups: usize,
}

pub struct Card {
    stream: Arc<CudaStream>,
    kernels: Arc<Kernels>,
    /// A kernel that does nothing.
    empty: sys::CUfunction,
    effort: Effort,
    pub machine: Machine,
    /// Operands of more bytes are left out.
    pub most_bytes: usize,
}

/// Memory for the operands of every shape, filled once.
pub struct Pool {
    q: CudaSlice<bf16>,
    k: CudaSlice<bf16>,
    v: CudaSlice<bf16>,
    out: CudaSlice<bf16>,
    workspace: CudaSlice<f32>,
}

impl Card {
    pub fn open(runs: usize) -> Result<Self> {
        let context = match onekv::cuda::context(0) {
            Ok(context) => context,
            Err(error) => bail!("{error}; this benchmark needs a card"),
        };
        // SAFETY: one stream does everything, so nothing has to wait for another stream's events.
        unsafe { context.disable_event_tracking() };
        let kernels = Kernels::new(&context)?;
        let machine = Machine::new(&context, kernels.facts())?;
        let effort = match machine.simulated {
            // Two sets of the smallest shapes.
            true => {
                Effort { rotated_bytes: 1 << 20, replay_us: 0.0, runs: 1, copy_bytes: 1 << 20, warm_ups: 0 }
            }
            // Four times the L2: whatever its replacement, next to nothing of a set is there when its turn comes.
            false => Effort {
                rotated_bytes: (4 * machine.l2_bytes).max(256 << 20),
                replay_us: 1500.0,
                runs,
                copy_bytes: 1 << 30,
                warm_ups: 200,
            },
        };
        let ptx = c".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry empty() { ret; }\n";
        // SAFETY: the text ends with a NUL; its module stays loaded to the end of the process.
        let empty = unsafe {
            let module = result::module::load_data(ptx.as_ptr().cast())?;
            result::module::get_function(module, c"empty".into())?
        };
        let most_bytes = (context.mem_get_info()?.0 / 4).min(16 << 30);
        Ok(Self { stream: context.new_stream()?, kernels, empty, effort, machine, most_bytes })
    }

    /// Bytes that a copy reads and writes per second.
    pub fn copy_bandwidth(&self) -> Result<f64> {
        let bytes = self.effort.copy_bytes;
        let from = self.filled(bytes / 2, 1)?;
        let mut to = self.stream.alloc_zeros::<bf16>(bytes / 2)?;
        let mut copy = || Ok(self.stream.memcpy_dtod(&from, &mut to)?);
        let graph = capture(&self.stream, || (0..4).try_for_each(|_| copy()))?;
        // A card at rest takes its clocks up only after a while.
        for _ in 0..self.effort.warm_ups {
            graph.launch()?;
        }
        Ok(2.0 * bytes as f64 / (replay(&self.stream, &graph, 4, self.effort.runs)?.median * 1e-6))
    }

    /// What limits every kernel.
    pub fn ceilings(&self) -> Result<Ceilings> {
        let pairs = if self.machine.simulated { 1 } else { 400 };
        let graph = capture(&self.stream, || (0..2 * pairs).try_for_each(|_| self.empty()))?;
        Ok(Ceilings {
            copy_bytes_per_s: self.copy_bandwidth()?,
            copy_bytes: self.effort.copy_bytes,
            empty_pair_us: replay(&self.stream, &graph, pairs, self.effort.runs)?,
        })
    }

    /// Queues a kernel that does nothing, a block on every multiprocessor.
    fn empty(&self) -> Result<()> {
        let (blocks, threads) = ((self.machine.multiprocessors as u32, 1, 1), (128, 1, 1));
        // SAFETY: the kernel has no parameters and touches nothing; its module stays loaded.
        let launched = unsafe {
            result::launch_kernel(self.empty, blocks, threads, 0, self.stream.cu_stream(), &mut [])
        };
        Ok(launched?)
    }

    /// Operand sets that a cold measurement rotates through.
    fn sets(&self, shape: &Shape) -> usize {
        self.effort.rotated_bytes.div_ceil(shape.bytes().max(1)).max(1)
    }

    /// Memory in which each of `shapes` finds its operands.
    pub fn pool(&self, shapes: &[Shape]) -> Result<Pool> {
        let most = |len: fn(&Shape) -> usize| {
            let fitting = shapes.iter().filter(|shape| shape.bytes() <= self.most_bytes);
            fitting.map(|shape| len(shape) * self.sets(shape)).max().unwrap_or(0).max(1)
        };
        let (q_len, kv_len) = (most(Shape::q_len), most(Shape::kv_len));
        Ok(Pool {
            q: self.filled(q_len, 1)?,
            k: self.filled(kv_len, 2)?,
            v: self.filled(kv_len, 3)?,
            out: self.stream.alloc_zeros(q_len)?,
            workspace: self.stream.alloc_zeros(1)?,
        })
    }

    /// What is timed of a shape: the plan that the cost model chooses; with `every` also the other tiles of its
    /// architecture with many splits, and the other architectures' tiles with the splits that suit them best.
    pub fn plans(&self, shape: &Shape, every: bool) -> Result<Vec<Plan>> {
        let problem = shape.problem()?;
        let facts = self.kernels.facts();
        let mut plans = vec![Plan::new(&problem, DType::Bf16, facts, &PlanOptions::default())?];
        if !every {
            return Ok(plans);
        }
        let own = plans[0].variant().architecture;
        // Tiles that are mostly empty, and far more blocks than the card holds, are never the best.
        let most_rows = 16.max(4 * shape.rows * problem.group());
        let most_blocks = 8 * facts.multiprocessors;
        for variant in kernels(&problem).into_iter().filter(|v| v.tile_rows <= most_rows) {
            let parts: &[usize] = &[1, 2, 3, 4, 6, 8, 11, 16, 22, 32, 48, 64, 128];
            let splits: Vec<Option<usize>> = match variant.architecture == own {
                true => parts.iter().map(|parts| Some(shape.keys.div_ceil(*parts))).collect(),
                false => vec![None],
            };
            for split_keys in splits {
                // A kernel that this card does not run is no plan of it.
                let options = options(split_keys, variant);
                let Ok(plan) = Plan::new(&problem, DType::Bf16, facts, &options) else { continue };
                let too_many = !plan.merges().is_empty() && plan.work().len() > most_blocks;
                if !too_many && !plans.iter().any(|other| same(other, &plan)) {
                    plans.push(plan);
                }
            }
        }
        Ok(plans)
    }

    /// Checks and times one plan.
    pub fn time(
        &self,
        pool: &mut Pool,
        shape: &Shape,
        plan: Plan,
        chosen: bool,
        run: &Ceilings,
    ) -> Result<Timed> {
        let second = self.second(shape, &plan)?;
        let needed = plan.workspace_len().max(second.workspace_len());
        if pool.workspace.len() < needed {
            pool.workspace = self.stream.alloc_zeros(needed)?;
        }
        let launch = Launch::new(&self.kernels, plan, &self.stream)?;
        let mean_abs = self.check(pool, shape, &launch, second)?;

        let sets = self.sets(shape);
        // As many launches as fill a replay if they run at what no card reaches yet.
        let floor_us = 2.0 + (shape.bytes() as f64 / 8e6).max(shape.flops() / 1e9);
        let rounds = (self.effort.replay_us / (floor_us * sets as f64)).ceil().max(1.0) as usize;
        let launches = sets * rounds;
        let cold = capture(&self.stream, || {
            (0..launches).try_for_each(|i| self.attend(pool, shape, &launch, i % sets))
        })?;
        let runs = if chosen { self.effort.runs } else { self.effort.runs.min(RUNS_OF_OTHERS) };
        let cold_us = replay(&self.stream, &cold, launches, runs)?;
        drop(cold);
        let (mut warm_us, mut alone_us) = (None, None);
        if chosen {
            let apart = capture(&self.stream, || {
                (0..launches).try_for_each(|i| {
                    self.empty()?;
                    self.attend(pool, shape, &launch, i % sets)
                })
            })?;
            let with_empty = replay(&self.stream, &apart, launches, self.effort.runs)?;
            alone_us = Some(with_empty.less(0.5 * run.empty_pair_us.median));
            let launches = (self.effort.replay_us / floor_us).ceil().max(1.0) as usize;
            let warm = capture(&self.stream, || {
                (0..launches).try_for_each(|_| self.attend(pool, shape, &launch, 0))
            })?;
            warm_us = Some(replay(&self.stream, &warm, launches, self.effort.runs)?);
        }
        let plan = launch.plan();
        let seconds = cold_us.median * 1e-6;
        Ok(Timed {
            kernel: plan.variant().kernel(),
            architecture: plan.variant().architecture.to_string(),
            split_keys: plan.split_keys(),
            tile_rows: plan.variant().tile_rows,
            cluster: plan.variant().cluster,
            chosen,
            blocks: plan.work().len(),
            merges: plan.merges().len(),
            bytes: shape.bytes(),
            flops: shape.flops(),
            cold_us,
            warm_us,
            alone_us,
            sets,
            launches,
            gb_per_s: shape.bytes() as f64 / seconds / 1e9,
            of_copy: shape.bytes() as f64 / seconds / run.copy_bytes_per_s,
            tflops: shape.flops() / seconds / 1e12,
            mean_abs,
        })
    }

    /// Queues one attention over operand set `set`.
    fn attend(&self, pool: &mut Pool, shape: &Shape, launch: &Launch, set: usize) -> Result<()> {
        let problem = launch.plan().problem();
        let (q_len, kv_len) = (shape.q_len(), shape.kv_len());
        let (q, kv) = (set * q_len..(set + 1) * q_len, set * kv_len..(set + 1) * kv_len);
        Ok(launch.run(
            &self.stream,
            DeviceQueries::contiguous(problem, pool.q.slice(q.clone())),
            DeviceKv::contiguous(problem, pool.k.slice(kv.clone()), pool.v.slice(kv)),
            DeviceOutput::contiguous(problem, pool.out.slice_mut(q)),
            None,
            &mut pool.workspace.as_view_mut(),
        )?)
    }

    /// Compares with the second plan; gives the output's mean absolute value.
    fn check(&self, pool: &mut Pool, shape: &Shape, launch: &Launch, second: Plan) -> Result<f64> {
        let got = self.once(pool, shape, launch)?;
        let second = Launch::new(&self.kernels, second, &self.stream)?;
        let want = self.once(pool, shape, &second)?;
        let error = check::worst_error(&got, &want, shape.model.head_dim);
        if error > TOLERANCE {
            let name =
                |plan: &Plan| format!("{} with splits of {}", plan.variant().kernel(), plan.split_keys());
            bail!("{} and {} differ by {error:.3}", name(launch.plan()), name(second.plan()));
        }
        Ok(check::mean_abs(&got))
    }

    /// One run into poisoned memory.
    fn once(&self, pool: &mut Pool, shape: &Shape, launch: &Launch) -> Result<Vec<bf16>> {
        {
            let mut out = pool.out.slice_mut(..shape.q_len());
            let (at, _out) = out.device_ptr_mut(&self.stream);
            // SAFETY: the view is that long; bytes of ones are NaN.
            unsafe { result::memset_d8_async(at, 0xff, 2 * shape.q_len(), self.stream.cu_stream()) }?;
        }
        self.attend(pool, shape, launch, 0)?;
        Ok(self.stream.clone_dtoh(&pool.out.slice(..shape.q_len()))?)
    }

    /// A plan of another kernel, if there is one, of another architecture if there is that, and another number of
    /// splits.
    fn second(&self, shape: &Shape, plan: &Plan) -> Result<Plan> {
        let problem = plan.problem();
        let own = plan.variant();
        let mut others = kernels(problem);
        // The nearest other tile: far ones take long. At last its own.
        others.sort_by_key(|other| {
            let (more, fewer) = (other.tile_rows.max(own.tile_rows), other.tile_rows.min(own.tile_rows));
            (*other == own, other.architecture == own.architecture, more / fewer)
        });
        let split_keys = Some(if plan.merges().is_empty() { shape.keys.div_ceil(3) } else { shape.keys });
        others
            .into_iter()
            .map(|variant| options(split_keys, variant))
            .filter_map(|options| Plan::new(problem, DType::Bf16, self.kernels.facts(), &options).ok())
            .find(|second| !same(second, plan))
            .context("no second plan to compare with")
    }

    /// Noise of `seed`, again and again.
    fn filled(&self, len: usize, seed: u32) -> Result<CudaSlice<bf16>> {
        let pattern = check::noise(seed);
        let mut memory = self.stream.alloc_zeros::<bf16>(len)?;
        let mut filled = PERIOD.min(len);
        self.stream.memcpy_htod(&pattern[..filled], &mut memory.slice_mut(..filled))?;
        // Doubling copies within the card are quicker than filling it from the host.
        while filled < len {
            let more = filled.min(len - filled);
            let (from, mut to) = memory.split_at_mut(filled);
            self.stream.memcpy_dtod(&from.slice(..more), &mut to.slice_mut(..more))?;
            filled += more;
        }
        Ok(memory)
    }
}

impl Machine {
    fn new(context: &Arc<CudaContext>, facts: &DeviceFacts) -> Result<Self> {
        let card = context.name()?;
        let mut version = 0;
        // SAFETY: a valid pointer to a live value.
        unsafe { sys::cuDriverGetVersion(&mut version) }.result()?;
        Ok(Self {
            simulated: card.starts_with("ptxsim"),
            card,
            compute_capability: format!("{}.{}", facts.compute_capability.0, facts.compute_capability.1),
            multiprocessors: facts.multiprocessors,
            l2_bytes: context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)? as usize,
            memory_bytes: context.total_mem()?,
            max_clock_khz: context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?,
            max_memory_clock_khz: context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?,
            driver_cuda: format!("{}.{}", version / 1000, version % 1000 / 10),
        })
    }
}

/// Kernels that there are for this problem.
fn kernels(problem: &Problem) -> Vec<&'static Variant> {
    let fits = |v: &&Variant| (v.dtype, v.kv_bytes, v.head_dim) == (DType::Bf16, 2, problem.head_dim());
    variants::all().filter(fits).collect()
}

fn options(split_keys: Option<usize>, variant: &Variant) -> PlanOptions {
    PlanOptions {
        split_keys,
        tile_rows: Some(variant.tile_rows),
        cluster: Some(variant.cluster),
        architecture: Some(variant.architecture),
    }
}

fn same(one: &Plan, other: &Plan) -> bool {
    std::ptr::eq(one.variant(), other.variant()) && one.split_keys() == other.split_keys()
}
