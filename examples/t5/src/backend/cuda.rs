//! The CUDA backend: cublasLt for matrix products, or on Hopper a kernel of our own, onekv for cross-attention, `cuda/`
//! for the rest. Everything is on one stream. A decode step needs nothing from the host: it is recorded as a CUDA graph
//! and replayed.

mod cublaslt;
pub mod driver;
pub mod kernels;
pub mod memory;
pub mod rows;

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use bytemuck::Pod;
use cublaslt::CublasLt;
use cudarc::driver::sys::CUdevice_attribute as Attribute;
use driver::Driver;
use half::{bf16, f16};
use kernels::{Begun, Ids, Matrix, Residual, Target, Tile};
use memory::{Buffer, Pinned, Pool};
use onekv::cuda::{Memory, Prepared, Queue, Recorder};
use onekv::plan::{Plan, PlanOptions};
use onekv::{DType, Element, Problem, SharedKv, Strides, View};
use onekv_cost::Roofline;
use rayon::prelude::*;
use rows::{Bias, OVERFLOWED, RowState, Rows};

use super::{Backend, BatchRow, DeviceMemory, Facts, RowsSpec, Step, overflow};
use crate::cli::arguments::{Dtype, Products};
use crate::config::{Activated, Config};

/// Elements per head that the kernels of `cuda/` and of onekv are there for; smaller heads are filled up.
const HEAD_DIMS: [usize; 2] = [64, 128];

/// One card.
pub struct Cuda {
    // Fields are dropped in this order: what needs the driver goes first.
    /// None where products are those of `cuda/gemm_sm90a.cu`.
    cublaslt: Option<CublasLt>,
    /// The encoder's tiles for the last offsets: every layer asks for the same.
    tiles: RefCell<Option<(Vec<usize>, Buffer, usize)>>,
    attention: Arc<onekv::cuda::Kernels>,
    queue: Queue,
    /// While a step is recorded.
    recorder: RefCell<Option<Recorder>>,
    pub pool: Pool,
    pub driver: Driver,
    pub dtype: DType,
    /// How cross-attention is planned. With the split and the tile fixed, an input's bits do not depend on the batch.
    pub plans: PlanOptions,
}

/// Cross-attention K/V of one layer, `[keys, 2, inner]`.
pub struct CrossKv {
    pub data: Buffer,
    keys: usize,
    inner: usize,
}

/// A decode step as a graph; none yet where the step has only been tried.
pub struct Recording {
    step: Option<onekv::cuda::Recording>,
    _pinned: Pinned,
}

impl Cuda {
    /// Opens the first card. Where nothing is said: bf16, and the products that are made for the card and the type.
    pub fn open(dtype: Option<Dtype>, products: Option<Products>) -> Result<Self> {
        let driver = Driver::open()?;
        let attention = onekv::cuda::Kernels::new(&driver.context)?;
        let queue = Queue::new(&attention, &driver.stream)?;
        let pool = Pool::new(&queue);
        let dtype = match dtype {
            Some(Dtype::F32) => DType::F32,
            Some(Dtype::F16) => DType::F16,
            Some(Dtype::Bf16) | None => DType::Bf16,
        };
        let own = driver.hopper && dtype != DType::F32;
        let cublaslt = match products.unwrap_or(if own { Products::Own } else { Products::Cublaslt }) {
            Products::Cublaslt => Some(CublasLt::new(&driver.stream, &pool)?),
            Products::Own if own => None,
            Products::Own => {
                let card = driver.context.name()?;
                bail!(
                    "--gemm is own, allowed on {card} in {dtype}: cublaslt; own is for bf16 and f16 on Hopper"
                )
            }
        };
        let (tiles, recorder) = (RefCell::default(), RefCell::default());
        let plans = PlanOptions::default();
        Ok(Self { cublaslt, tiles, attention, queue, recorder, pool, driver, dtype, plans })
    }

    pub fn matrix(&self, rows: usize, cols: usize, dtype: DType) -> Result<Matrix> {
        Ok(Matrix {
            data: self.pool.take(rows * cols * dtype.size_bytes())?,
            rows,
            cols,
            dtype,
            squares: None,
        })
    }

    /// Values in the type of the backend.
    pub fn upload(&self, values: &[f32]) -> Result<Buffer> {
        match self.dtype {
            DType::F16 => self.pool.upload(&converted(values, f16::from_f32)),
            DType::Bf16 => self.pool.upload(&converted(values, bf16::from_f32)),
            _ => self.pool.upload(values),
        }
    }

    /// Where norms are begun by whom the residual stream is written: for products that end them, and in a type whose range
    /// is that of f32, as the stream is not divided yet.
    fn begin(&self, rows: usize, next: &Buffer, cols: usize, parts: usize) -> Result<Option<Begun>> {
        let begins = self.cublaslt.is_none() && self.dtype == DType::Bf16;
        begins.then(|| Begun::new(&self.pool, rows, next, cols, parts)).transpose()
    }

    fn multiply(&self, x: &Matrix, weights: &Matrix, target: Target<'_>) -> Result<()> {
        match &self.cublaslt {
            Some(library) => library.multiply(self.driver.launch_stream.get(), x, weights, target),
            None => kernels::gemm_sm90a(&self.driver, x, weights, target, None, None),
        }
    }

    fn product(&self, x: &Matrix, weights: &Matrix, dtype: DType) -> Result<Matrix> {
        let mut out = self.matrix(x.rows, weights.rows, dtype)?;
        self.multiply(x, weights, Target { data: &mut out.data, at: 0, dtype, add: false })?;
        Ok(out)
    }

    fn roofline(&self) -> Option<Roofline> {
        let known = |attribute| self.driver.context.attribute(attribute).ok().filter(|value| *value > 0);
        let of = |attribute| known(attribute).map(f64::from);
        // kHz, and a double data rate.
        let clock = of(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)? * 1e3;
        let memory_clock = of(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)? * 1e3;
        let bus_bytes = of(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)? / 8.0;
        let (tensor, plain) = flops_per_clock(self.driver.context.compute_capability().ok()?);
        let per_clock = if self.dtype == DType::F32 { plain } else { tensor };
        Some(Roofline {
            flops_per_s: clock * self.driver.multiprocessors as f64 * per_clock,
            bytes_per_s: 2.0 * memory_clock * bus_bytes,
        })
    }

    fn embedded(&self, table: &Matrix, ids: Ids<'_>, tokens: usize, next: &Buffer) -> Result<Residual> {
        let mut sum = self.matrix(tokens, table.cols, DType::F32)?;
        let mut begun = self.begin(tokens, next, table.cols, 1)?;
        kernels::embed(&self.driver, table, ids, &mut sum, begun.as_mut())?;
        Ok(Residual { sum, begun })
    }

    /// At once, or in the step that is being recorded.
    fn attend<E: Element + Pod>(&self, q: &Matrix, kv: &CrossKv, cross: &Prepared) -> Result<Matrix> {
        let out = self.matrix(q.rows, q.cols, self.dtype)?;
        let (dim, inputs) = (cross.query_shape().vector, cross.kv_shape().inputs);
        // Of each key K, then V.
        let keys = [inputs, kv.keys.checked_div(inputs).unwrap_or(0), kv.inner / dim, dim];
        let strides = Strides { input: keys[1] * 2 * kv.inner, row: 2 * kv.inner, head: dim };
        let all = 2 * kv.keys * kv.inner;
        let part = |at: usize| -> Result<View<Memory<E>>> {
            Ok(View::strided(keys, strides, kv.data.elements(at.min(all)..all)?))
        };
        let rows = |x: &Matrix| -> Result<View<Memory<E>>> {
            Ok(View::contiguous([x.rows, x.cols / dim, dim], x.data.elements(0..x.rows * x.cols)?))
        };
        let (q, kv, to) = (rows(q)?, SharedKv { k: part(0)?, v: part(kv.inner)? }, rows(&out)?);
        match &mut *self.recorder.borrow_mut() {
            Some(recorder) => recorder.run(cross, q, kv, to, None)?,
            None => cross.run(q, kv, to, None)?,
        }
        Ok(out)
    }
}

fn converted<T: Send>(values: &[f32], convert: impl Fn(f32) -> T + Sync + Send) -> Vec<T> {
    values.par_iter().with_min_len(1 << 16).map(|x| convert(*x)).collect()
}

/// Multiplications and additions per clock and multiprocessor: 16-bit on tensor cores with f32 sums, and f32. From
/// NVIDIA's data sheets.
fn flops_per_clock(capability: (i32, i32)) -> (f64, f64) {
    match capability {
        (8, 0) => (2048.0, 128.0),
        (9, _) => (4096.0, 256.0),
        (10, _) => (8192.0, 256.0),
        _ => (512.0, 256.0),
    }
}

impl Backend for Cuda {
    type Matrix = Matrix;
    type Stream = Residual;
    type Linear = Matrix;
    type Norm = Buffer;
    type Bias = Bias;
    type Rows = Rows;
    type CrossKv = CrossKv;
    type Cross = Prepared;
    type Recording = Recording;

    const STEPS_PER_LOOK: usize = 4;
    // A smaller batch needs another recording.
    const DROP_AT: f64 = 0.5;

    fn facts(&self) -> Facts {
        let card = self.driver.context.name().unwrap_or_else(|_| "unknown card".into());
        let products = if self.cublaslt.is_some() { "cublasLt" } else { "own gemm" };
        let name = format!("cuda: {card}, {}, {products}", self.dtype);
        Facts { name, element_bytes: self.dtype.size_bytes(), roofline: self.roofline() }
    }

    fn head_dim(&self, config: &Config) -> Result<usize> {
        for (field, value) in [("d_model", config.d_model), ("d_ff", config.d_ff)] {
            if !value.is_multiple_of(8) {
                bail!("{field} is {value}, allowed on CUDA: a multiple of 8");
            }
        }
        match HEAD_DIMS.into_iter().find(|dim| config.d_kv <= *dim) {
            Some(dim) => Ok(dim),
            None => bail!("d_kv is {}, allowed on CUDA: at most {}", config.d_kv, HEAD_DIMS[1]),
        }
    }

    fn memory(&self) -> Result<Option<DeviceMemory>> {
        let info = self.driver.context.mem_get_info();
        let (free, _) = info.context("cannot ask the card for its free memory")?;
        Ok(Some(DeviceMemory { free, peak: self.pool.peak() }))
    }

    fn release(&self) -> Result<()> {
        self.tiles.replace(None);
        self.pool.release()
    }

    fn trim(&self) {
        self.pool.trim();
    }

    fn synchronize(&self) -> Result<()> {
        driver::wait(&self.driver.stream)
    }

    fn linear_weights(&self, data: Vec<f32>, inputs: usize) -> Result<Matrix> {
        let rows = data.len() / inputs;
        Ok(Matrix { data: self.upload(&data)?, rows, cols: inputs, dtype: self.dtype, squares: None })
    }

    fn table(&self, data: Vec<f32>, width: usize) -> Result<Matrix> {
        self.linear_weights(data, width)
    }

    fn norm(&self, weights: Vec<f32>) -> Result<Buffer> {
        self.pool.upload(&weights)
    }

    fn bias(&self, values: Vec<Vec<f32>>, zero: usize) -> Result<Bias> {
        let (heads, span) = (values.len(), values.first().map_or(0, Vec::len));
        Ok(Bias { data: self.pool.upload(&values.concat())?, heads, span, zero })
    }

    fn embed(&self, table: &Matrix, ids: &[u32], next: &Buffer) -> Result<Residual> {
        self.embedded(table, Ids::List(&self.pool.upload(ids)?), ids.len(), next)
    }

    fn rms_norm(&self, x: &mut Residual, weight: &Buffer, epsilon: f32) -> Result<Matrix> {
        if let Some(begun) = x.begun.take().and_then(|begun| begun.end(weight, epsilon)) {
            return Ok(begun);
        }
        let mut out = self.matrix(x.sum.rows, x.sum.cols, self.dtype)?;
        kernels::rms_norm(&self.driver, &x.sum, weight, epsilon, &mut out)?;
        Ok(out)
    }

    fn linear(&self, x: &Matrix, weights: &Matrix) -> Result<Matrix> {
        self.product(x, weights, self.dtype)
    }

    fn add(&self, x: &mut Residual, y: &Matrix, weights: &Matrix, next: &Buffer) -> Result<()> {
        let Residual { sum, begun } = x;
        let target = Target { data: &mut sum.data, at: 0, dtype: sum.dtype, add: true };
        *begun = self.begin(sum.rows, next, sum.cols, Begun::parts_of_product(sum.cols))?;
        match begun {
            Some(_) => kernels::gemm_sm90a(&self.driver, y, weights, target, None, begun.as_mut()),
            None => self.multiply(y, weights, target),
        }
    }

    fn logits(&self, x: &Matrix, weights: &Matrix) -> Result<Matrix> {
        self.product(x, weights, DType::F32)
    }

    fn linear_activated(&self, x: &Matrix, w: &Matrix, by: Activated) -> Result<Matrix> {
        let width = if by.gated { w.rows / 2 } else { w.rows };
        let mut out = self.matrix(x.rows, width, self.dtype)?;
        if self.cublaslt.is_none() {
            let target = Target { data: &mut out.data, at: 0, dtype: self.dtype, add: false };
            kernels::gemm_sm90a(&self.driver, x, w, target, Some(by), None)?;
        } else {
            kernels::activate(&self.driver, &self.linear(x, w)?, by, &mut out)?;
        }
        Ok(out)
    }

    fn to_host(&self, x: &Matrix) -> Result<Vec<f32>> {
        self.pool.download_as(&x.data, x.rows * x.cols, x.dtype)
    }

    fn attend_inputs(&self, qkv: &Matrix, starts: &[usize], bias: &Bias) -> Result<Matrix> {
        let longest = starts.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0);
        let reaches = longest <= bias.zero + 1 && bias.zero + longest <= bias.span;
        if !reaches || starts.last() != Some(&qkv.rows) {
            bail!("the encoder's offsets or bias do not fit its activations");
        }
        let mut out = self.matrix(qkv.rows, qkv.cols / 3, self.dtype)?;
        let mut tiles = self.tiles.borrow_mut();
        if tiles.as_ref().is_none_or(|(of, ..)| of != starts) {
            let of_input = |w: &[usize]| {
                let (start, end) = (w[0] as i32, w[1] as i32);
                (start..end).step_by(kernels::tile_rows(self.dtype)).map(move |first| [start, end, first, 0])
            };
            let list: Vec<Tile> = starts.windows(2).flat_map(of_input).collect();
            *tiles = Some((starts.to_vec(), self.pool.upload(&list)?, list.len()));
        }
        let Some((_, list, count)) = tiles.as_ref() else { bail!("no tiles") };
        kernels::attend_encoder(&self.driver, qkv, (list, *count), bias, &mut out)?;
        Ok(out)
    }

    fn cross_kv(&self, keys: usize, inner: usize) -> Result<CrossKv> {
        // Kernels load whole tiles, also past the keys of an input that does not fill its place.
        Ok(CrossKv { data: self.pool.zeros(keys * 2 * inner * self.dtype.size_bytes())?, keys, inner })
    }

    fn project(&self, kv: &mut CrossKv, at: usize, x: &Matrix, weights: &Matrix) -> Result<()> {
        let at = at * 2 * kv.inner * self.dtype.size_bytes();
        self.multiply(x, weights, Target { data: &mut kv.data, at, dtype: self.dtype, add: false })
    }

    fn copy(&self, of: &CrossKv, keys: Range<usize>, to: &mut CrossKv, at: usize) -> Result<()> {
        let key_bytes = 2 * of.inner * self.dtype.size_bytes();
        let bytes = keys.len() * key_bytes;
        self.pool.copy(&of.data, keys.start * key_bytes, &mut to.data, at * key_bytes, bytes)
    }

    fn cross_kv_bytes(&self, kv: &CrossKv) -> usize {
        kv.data.bytes()
    }

    fn plan_cross(&self, problem: &Problem) -> Result<Prepared> {
        let plan = Plan::new(problem, self.dtype, self.attention.facts(), &self.plans)?;
        Ok(self.queue.prepare(&plan)?)
    }

    fn attend_cross(&self, q: &Matrix, kv: &CrossKv, plan: &Prepared) -> Result<Matrix> {
        match self.dtype {
            DType::F16 => self.attend::<f16>(q, kv, plan),
            DType::Bf16 => self.attend::<bf16>(q, kv, plan),
            _ => self.attend::<f32>(q, kv, plan),
        }
    }

    fn rows(&self, spec: RowsSpec, biases: Vec<Bias>) -> Result<Rows> {
        Rows::new(&self.pool, spec, self.dtype, biases)
    }

    fn seat(&self, rows: &mut Rows, batch: &[BatchRow<'_>]) -> Result<()> {
        rows.seat(&self.pool, batch)
    }

    fn embed_next(&self, table: &Matrix, rows: &Rows, next: &Buffer) -> Result<Residual> {
        let ids = rows.pass().ids.as_ref().map_or(Ids::Next(rows), Ids::List);
        self.embedded(table, ids, rows.pass().tokens, next)
    }

    fn attend_rows(&self, qkv: &Matrix, layer: usize, rows: &mut Rows) -> Result<Matrix> {
        let (cache, bias) = (&rows.caches[layer], &rows.biases[layer % rows.biases.len()]);
        let mut out = self.matrix(qkv.rows, cache.inner, self.dtype)?;
        kernels::attend_self(&self.driver, qkv, cache, rows, bias, &mut out)?;
        Ok(out)
    }

    fn last_tokens(&self, x: Residual, rows: &Rows) -> Result<Residual> {
        if x.sum.rows == rows.live.len() {
            return Ok(x);
        }
        let mut sum = self.matrix(rows.live.len(), x.sum.cols, DType::F32)?;
        kernels::last_tokens(&self.driver, &x.sum, rows, &mut sum)?;
        Ok(Residual { sum, begun: None })
    }

    fn choose(&self, mut logits: Matrix, rows: &mut Rows) -> Result<()> {
        kernels::choose(&self.driver, &mut logits, rows)?;
        rows.first_pass = None;
        Ok(())
    }

    fn left(&self, rows: &Rows) -> Result<Vec<usize>> {
        let states = rows.states(&self.pool)?;
        let left = |state: RowState| match state.finished {
            0 => Ok(rows.max_new_tokens - state.produced as usize),
            OVERFLOWED => Err(overflow()),
            _ => Ok(0),
        };
        rows.live.iter().map(|slot| left(states[*slot])).collect()
    }

    fn outputs(&self, rows: &Rows) -> Result<Vec<Vec<u32>>> {
        let states = rows.states(&self.pool)?;
        let ids = self.pool.download::<u32>(&rows.outputs, rows.total * rows.max_new_tokens)?;
        let of_slot = |slot: &usize| {
            let produced = states[*slot].produced as usize;
            ids[slot * rows.max_new_tokens..][..produced].to_vec()
        };
        Ok(rows.live.iter().map(of_slot).collect())
    }

    fn repeat(&self, recording: &mut Option<Recording>, times: usize, step: Step<'_>) -> Result<()> {
        let mut left = times;
        if recording.is_none() && left > 0 {
            // The first step is run as it is: it loads and allocates what a recorded one finds ready.
            step()?;
            left -= 1;
            *recording = Some(Recording { step: None, _pinned: self.pool.pin() });
        }
        let Some(recorded) = recording.as_mut().filter(|_| left > 0) else { return Ok(()) };
        if recorded.step.is_none() {
            let mut recorder = self.queue.record()?;
            // SAFETY: K and V of the encoder are written when an input is admitted (`project`, `copy`), before
            // its steps are replayed and never by a step.
            unsafe { recorder.assume_kv_settled() };
            self.driver.launch_stream.set(recorder.cu_stream());
            self.recorder.replace(Some(recorder));
            let result = self.pool.without_new(step);
            self.driver.launch_stream.set(self.driver.stream.cu_stream());
            let recorder = self.recorder.take();
            result?;
            recorded.step = recorder.map(Recorder::finish).transpose()?;
        }
        let Some(step) = &recorded.step else { bail!("no step was recorded") };
        (0..left).try_for_each(|_| Ok(step.replay()?))
    }
}
