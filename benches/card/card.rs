//! The card: operands that rotate, graphs of launches, a check of every result.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use bytemuck::Pod;
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};
use cudarc::driver::{CudaContext, DeviceRepr, result};
use half::bf16;
use onekv::cuda::{Kernels, Memory, Prepared, QuantizedKv, Queue, Recorder, Recording};
use onekv::plan::{DeviceFacts, Plan, PlanOptions, Variant, variants};
use onekv::{Element, SharedKv, View};
use serde::Serialize;

use crate::check::{self, TOLERANCE};
use crate::shapes::Shape;
use crate::timing::{Micros, replay};

#[derive(Serialize)]
pub struct Machine {
    card: String,
    pub compute_capability: String,
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
    split_cluster: usize,
    tile_rows: usize,
    cluster: usize,
    /// The plan that the cost model chose.
    chosen: bool,
    blocks: usize,
    combines: usize,
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
    queue: Queue,
    /// A kernel that does nothing.
    empty: sys::CUfunction,
    effort: Effort,
    pub machine: Machine,
    /// Operands of more bytes, K and V in the type of Q, are left out.
    pub most_bytes: usize,
}

/// An element type of Q and the output.
pub trait BenchElement: Element + Pod + DeviceRepr {}
impl<E: Element + Pod + DeviceRepr> BenchElement for E {}

/// Memory for the operands of every shape of one type, filled once.
pub struct Pool<E: 'static> {
    q: Memory<E>,
    kv: [Memory<E>; 2],
    codes: [Memory<u8>; 2],
    /// Of one set, what the codes stand for.
    decoded: [Memory<E>; 2],
    /// Of every head.
    scales: Memory<f32>,
    out: Memory<E>,
}

enum Kv<E: 'static> {
    Unquantized(SharedKv<Memory<E>>),
    E4m3(QuantizedKv<Memory<u8>, Memory<f32>>),
}

/// Q, K and V, and the output: a set of operands.
struct Operands<E: 'static> {
    q: View<Memory<E>>,
    kv: Kv<E>,
    out: View<Memory<E>>,
}

/// Set `set` of K and V.
fn kv_set<E>(
    [k, v]: &[Memory<E>; 2],
    shape: &Shape,
    prepared: &Prepared,
    set: usize,
) -> Result<SharedKv<Memory<E>>> {
    let range = || set * shape.kv_len()..(set + 1) * shape.kv_len();
    Ok(SharedKv::contiguous(prepared.kv_shape(), k.slice(range())?, v.slice(range())?))
}

impl<E: BenchElement> Pool<E> {
    /// Set `set` of a shape.
    fn operands(&self, shape: &Shape, prepared: &Prepared, set: usize) -> Result<Operands<E>> {
        let kv = match shape.e4m3_kv {
            false => Kv::Unquantized(kv_set(&self.kv, shape, prepared, set)?),
            true => {
                let codes = kv_set(&self.codes, shape, prepared, set)?;
                Kv::E4m3(QuantizedKv { codes, k_scale: self.scales.clone(), v_scale: self.scales.clone() })
            }
        };
        let rows = |memory: &Memory<E>| -> Result<View<Memory<E>>> {
            let len = shape.q_len();
            Ok(View::contiguous(prepared.query_shape(), memory.slice(set * len..(set + 1) * len)?))
        };
        Ok(Operands { q: rows(&self.q)?, kv, out: rows(&self.out)? })
    }

    /// The first set of a shape with K and V in e4m3, for plans with K and V in the type of Q.
    fn decoded(&self, shape: &Shape, prepared: &Prepared) -> Result<Operands<E>> {
        let kv = Kv::Unquantized(kv_set(&self.decoded, shape, prepared, 0)?);
        Ok(Operands { kv, ..self.operands(shape, prepared, 0)? })
    }
}

impl Card {
    pub fn open(runs: usize) -> Result<Self> {
        let context = match onekv::cuda::context(0) {
            Ok(context) => context,
            Err(error) => bail!("{error}; this benchmark needs a card"),
        };
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
        let queue = Queue::new(&kernels, &context.new_stream()?)?;
        Ok(Self { queue, empty, effort, machine, most_bytes })
    }

    /// Bytes that a copy reads and writes per second.
    pub fn copy_bandwidth(&self) -> Result<f64> {
        let bytes = self.effort.copy_bytes;
        let (from, to) =
            (self.filled(bytes / 2, &check::noise::<bf16>(1))?, self.queue.zeros::<bf16>(bytes / 2)?);
        let recording = self.record(|recorder| {
            // SAFETY: both are that long, and live until the last replay is over.
            let copy =
                || unsafe { result::memcpy_dtod_async(to.at(), from.at(), bytes, recorder.cu_stream()) };
            Ok((0..4).try_for_each(|_| copy())?)
        })?;
        // A card at rest takes its clocks up only after a while.
        for _ in 0..self.effort.warm_ups {
            recording.replay()?;
        }
        let copied_us = self.replay(&recording, 4, self.effort.runs)?.median;
        Ok(2.0 * bytes as f64 / (copied_us * 1e-6))
    }

    /// Records what `work` queues: as in a decode step, K and V are there before.
    fn record(&self, work: impl FnOnce(&mut Recorder) -> Result<()>) -> Result<Recording> {
        let mut recorder = self.queue.record()?;
        // SAFETY: K and V are filled when the benchmark begins; nothing that is recorded writes them.
        unsafe { recorder.assume_kv_settled() };
        work(&mut recorder)?;
        Ok(recorder.finish()?)
    }

    /// Time of one of the `launches` launches of a recording.
    fn replay(&self, recording: &Recording, launches: usize, runs: usize) -> Result<Micros> {
        replay(self.queue.stream(), recording, launches, runs)
    }

    /// What limits every kernel.
    pub fn ceilings(&self) -> Result<Ceilings> {
        let pairs = if self.machine.simulated { 1 } else { 400 };
        let recording = self.record(|recorder| (0..2 * pairs).try_for_each(|_| self.empty(recorder)))?;
        Ok(Ceilings {
            copy_bytes_per_s: self.copy_bandwidth()?,
            copy_bytes: self.effort.copy_bytes,
            empty_pair_us: self.replay(&recording, pairs, self.effort.runs)?,
        })
    }

    /// Records a kernel that does nothing, a block on every multiprocessor.
    fn empty(&self, recorder: &Recorder) -> Result<()> {
        let (blocks, threads) = ((self.machine.multiprocessors as u32, 1, 1), (128, 1, 1));
        // SAFETY: the kernel has no parameters and touches nothing; its module stays loaded.
        let launched =
            unsafe { result::launch_kernel(self.empty, blocks, threads, 0, recorder.cu_stream(), &mut []) };
        Ok(launched?)
    }

    /// Operand sets that a cold measurement rotates through.
    fn sets(&self, shape: &Shape) -> usize {
        self.effort.rotated_bytes.div_ceil(shape.bytes().max(1)).max(1)
    }

    /// Memory in which each of `shapes` that is of this type finds its operands.
    pub fn pool<E: BenchElement>(&self, shapes: &[Shape]) -> Result<Pool<E>> {
        let fits = |s: &&Shape| s.dtype == E::DTYPE && s.with_unquantized_kv().bytes() <= self.most_bytes;
        let fitting: Vec<&Shape> = shapes.iter().filter(fits).collect();
        let (e4m3, unquantized): (Vec<&Shape>, Vec<&Shape>) = fitting.iter().partition(|s| s.e4m3_kv);
        let most = |some: &[&Shape], len: &dyn Fn(&Shape) -> usize| {
            some.iter().map(|shape| len(shape)).max().unwrap_or(0)
        };
        let q_len = most(&fitting, &|s| s.q_len() * self.sets(s));
        let kv_len = |some| most(some, &|s| s.kv_len() * self.sets(s));
        let [k, v] = [2, 3].map(check::quantized::<E>);
        let codes_len = kv_len(&e4m3);
        let decoded_len = most(&e4m3, &Shape::kv_len);
        Ok(Pool {
            q: self.filled(q_len, &check::noise(1))?,
            kv: [
                self.filled(kv_len(&unquantized), &check::noise(2))?,
                self.filled(kv_len(&unquantized), &check::noise(3))?,
            ],
            codes: [self.filled(codes_len, &k.0)?, self.filled(codes_len, &v.0)?],
            decoded: [self.filled(decoded_len, &k.1)?, self.filled(decoded_len, &v.1)?],
            scales: self.filled(most(&e4m3, &|s| s.model.kv_heads), &[check::SCALE])?,
            out: self.queue.zeros(q_len)?,
        })
    }

    /// What is timed of a shape: the plan that the cost model chooses; with `every` also the other tiles of its
    /// card with many splits, joined in clusters and by a second launch, and superseded tiles with the splits that suit them
    /// best.
    pub fn plans(&self, shape: &Shape, every: bool) -> Result<Vec<Plan>> {
        let facts = self.facts();
        let mut plans = vec![shape.plan(facts, &PlanOptions::default())?];
        if !every {
            return Ok(plans);
        }
        // Tiles that are mostly empty, and far more blocks than the card holds, are never the best.
        let most_rows = 16.max(4 * shape.folded_rows());
        let most_blocks = 8 * facts.multiprocessors;
        for variant in kernels(shape).into_iter().filter(|v| v.tile_rows <= most_rows) {
            let parts: &[usize] = &[1, 2, 3, 4, 6, 8, 11, 16, 22, 32, 48, 64, 128];
            let superseded = variants::all().any(|v| v.fits(facts) && v.supersedes(variant));
            let splits: Vec<PlanOptions> = match superseded {
                false => parts
                    .iter()
                    .map(|parts| options(Some(shape.keys.div_ceil(*parts)), variant))
                    .flat_map(|options| [options, options.with_split_cluster(1)])
                    .collect(),
                true => vec![options(None, variant)],
            };
            for options in splits {
                // A kernel that this card does not run is no plan of it.
                let Ok(plan) = shape.plan(facts, &options) else { continue };
                let too_many = !plan.combines().is_empty() && plan.work().len() > most_blocks;
                if !too_many && !plans.iter().any(|other| same(other, &plan)) {
                    plans.push(plan);
                }
            }
        }
        Ok(plans)
    }

    /// Checks and times one plan.
    pub fn time<E: BenchElement>(
        &self,
        pool: &Pool<E>,
        shape: &Shape,
        plan: &Plan,
        chosen: bool,
        run: &Ceilings,
    ) -> Result<Timed> {
        let prepared = self.queue.prepare(plan)?;
        let mean_abs = self.check(pool, shape, plan, &prepared)?;

        let sets = self.sets(shape);
        // As many launches as fill a replay if they run at what no card reaches yet.
        let floor_us = 2.0 + (shape.bytes() as f64 / 8e6).max(shape.flops() / 1e9);
        let rounds = (self.effort.replay_us / (floor_us * sets as f64)).ceil().max(1.0) as usize;
        let launches = sets * rounds;
        let attend = |recorder: &mut Recorder, set: usize| -> Result<()> {
            let Operands { q, kv, out } = pool.operands(shape, &prepared, set)?;
            Ok(match kv {
                Kv::Unquantized(kv) => recorder.run(&prepared, q, kv, out, None),
                Kv::E4m3(kv) => recorder.run_e4m3(&prepared, q, kv, out, None),
            }?)
        };
        let cold = self.record(|recorder| (0..launches).try_for_each(|i| attend(recorder, i % sets)))?;
        let runs = if chosen { self.effort.runs } else { self.effort.runs.min(RUNS_OF_OTHERS) };
        let cold_us = self.replay(&cold, launches, runs)?;
        drop(cold);
        let (mut warm_us, mut alone_us) = (None, None);
        if chosen {
            let apart = self.record(|recorder| {
                (0..launches).try_for_each(|i| {
                    self.empty(recorder)?;
                    attend(recorder, i % sets)
                })
            })?;
            let with_empty = self.replay(&apart, launches, self.effort.runs)?;
            alone_us = Some(with_empty.less(0.5 * run.empty_pair_us.median));
            let launches = (self.effort.replay_us / floor_us).ceil().max(1.0) as usize;
            let warm = self.record(|recorder| (0..launches).try_for_each(|_| attend(recorder, 0)))?;
            warm_us = Some(self.replay(&warm, launches, self.effort.runs)?);
        }
        let seconds = cold_us.median * 1e-6;
        Ok(Timed {
            kernel: plan.variant().kernel(),
            architecture: plan.variant().architecture.to_string(),
            split_keys: plan.split_keys(),
            split_cluster: plan.split_cluster(),
            tile_rows: plan.variant().tile_rows,
            cluster: plan.variant().cluster,
            chosen,
            blocks: plan.work().len(),
            combines: plan.combines().len(),
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

    /// Compares with a second plan, and in e4m3 with one of the type of Q on what the codes stand for; gives the output's mean
    /// absolute value.
    fn check<E: BenchElement>(
        &self,
        pool: &Pool<E>,
        shape: &Shape,
        plan: &Plan,
        prepared: &Prepared,
    ) -> Result<f64> {
        let got = once(prepared, pool.operands(shape, prepared, 0)?)?;
        let compare = |other: &Plan, want: Vec<E>| {
            let error = check::worst_error(&got, &want, shape.model.head_dim);
            if error > TOLERANCE {
                let name =
                    |plan: &Plan| format!("{} with splits of {}", plan.variant().kernel(), plan.split_keys());
                bail!("{} and {} differ by {error:.3}", name(plan), name(other));
            }
            Ok(())
        };
        let second = self.second(shape, plan)?;
        let with_second = self.queue.prepare(&second)?;
        compare(&second, once(&with_second, pool.operands(shape, &with_second, 0)?)?)?;
        if shape.e4m3_kv {
            let plain = shape.with_unquantized_kv().plan(self.facts(), &PlanOptions::default())?;
            let with_plain = self.queue.prepare(&plain)?;
            compare(&plain, once(&with_plain, pool.decoded(shape, &with_plain)?)?)?;
        }
        Ok(check::mean_abs(&got))
    }

    fn facts(&self) -> &DeviceFacts {
        self.queue.kernels().facts()
    }

    /// Whether the card has kernels for K and V in e4m3.
    pub fn has_e4m3(&self) -> bool {
        variants::all().any(|v| v.e4m3_kv() && v.fits(self.facts()))
    }

    /// A plan of another kernel, if there is one, of another architecture if there is that, and another number of
    /// splits.
    fn second(&self, shape: &Shape, plan: &Plan) -> Result<Plan> {
        let own = plan.variant();
        let mut others = kernels(shape);
        // The nearest other tile: far ones take long. At last its own.
        others.sort_by_key(|other| {
            let (more, fewer) = (other.tile_rows.max(own.tile_rows), other.tile_rows.min(own.tile_rows));
            (*other == own, other.architecture == own.architecture, more / fewer)
        });
        let split_keys = Some(if plan.combines().is_empty() { shape.keys.div_ceil(3) } else { shape.keys });
        others
            .into_iter()
            .map(|variant| options(split_keys, variant))
            .filter_map(|options| shape.plan(self.facts(), &options).ok())
            .find(|second| !same(second, plan))
            .context("no second plan to compare with")
    }

    /// `period`, again and again.
    fn filled<E: Pod + DeviceRepr>(&self, len: usize, period: &[E]) -> Result<Memory<E>> {
        let memory = self.queue.zeros::<E>(len)?;
        let mut filled = period.len().min(len);
        memory.write(&period[..filled])?;
        // Doubling copies within the card are quicker than filling it from the host.
        while filled < len {
            let more = filled.min(len - filled);
            memory.slice(filled..filled + more)?.copy_from(&memory.slice(0..more)?)?;
            filled += more;
        }
        Ok(memory)
    }
}

/// One run into poisoned memory.
fn once<E: BenchElement>(prepared: &Prepared, Operands { q, kv, out }: Operands<E>) -> Result<Vec<E>> {
    let memory = out.data.clone();
    memory.write(&vec![E::from_f32(f32::NAN); memory.len()])?;
    match kv {
        Kv::Unquantized(kv) => prepared.run(q, kv, out, None),
        Kv::E4m3(kv) => prepared.run_e4m3(q, kv, out, None),
    }?;
    Ok(memory.read()?)
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

/// Every kernel that can compute this shape, on whatever card.
fn kernels(shape: &Shape) -> Vec<&'static Variant> {
    let wanted = (shape.dtype, shape.e4m3_kv, shape.model.head_dim);
    variants::all().filter(|v| (v.dtype, v.e4m3_kv(), v.head_dim) == wanted).collect()
}

fn options(split_keys: Option<usize>, variant: &Variant) -> PlanOptions {
    let options = PlanOptions::of(variant);
    split_keys.map_or(options, |keys| options.with_split_keys(keys))
}

fn same(one: &Plan, other: &Plan) -> bool {
    let splits = |plan: &Plan| (plan.split_keys(), plan.split_cluster());
    std::ptr::eq(one.variant(), other.variant()) && splits(one) == splits(other)
}
