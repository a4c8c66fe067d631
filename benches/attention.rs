//! CPU attention over prompts U and input length n, and PID's shared K/V against PIE's copies.
//!
//! `cargo bench --bench attention`; a shape of your own: `-- --shape b=8,U=30,n=512,h=12,d=64,dtype=bf16` (all cores;
//! `RAYON_NUM_THREADS` for fewer). Peers on the same work: `cargo xtask peers cpu`.

#[path = "common/shape.rs"]
mod shape;

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Duration;

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{BenchmarkId, Criterion, Throughput};
use half::{bf16, f16};
use onekv::{DType, Element, Problem, SharedKv, View, cpu};
use shape::OwnShape;

/// Wall time; work counted in FLOPs, multiplications and additions of scores and values.
struct Flops;

impl Measurement for Flops {
    type Intermediate = <WallTime as Measurement>::Intermediate;
    type Value = <WallTime as Measurement>::Value;

    fn start(&self) -> Self::Intermediate {
        WallTime.start()
    }
    fn end(&self, started: Self::Intermediate) -> Self::Value {
        WallTime.end(started)
    }
    fn add(&self, a: &Self::Value, b: &Self::Value) -> Self::Value {
        WallTime.add(a, b)
    }
    fn zero(&self) -> Self::Value {
        WallTime.zero()
    }
    fn to_f64(&self, value: &Self::Value) -> f64 {
        WallTime.to_f64(value)
    }
    fn formatter(&self) -> &dyn ValueFormatter {
        self
    }
}

impl ValueFormatter for Flops {
    fn scale_values(&self, typical: f64, values: &mut [f64]) -> &'static str {
        WallTime.formatter().scale_values(typical, values)
    }
    fn scale_throughputs(&self, _: f64, work: &Throughput, values: &mut [f64]) -> &'static str {
        let Throughput::Elements(flops) = work else { unreachable!("this benchmark counts FLOPs") };
        // FLOPs per nanosecond.
        values.iter_mut().for_each(|value| *value = *flops as f64 / *value);
        "GFLOP/s"
    }
    fn scale_for_machines(&self, values: &mut [f64]) -> &'static str {
        WallTime.formatter().scale_for_machines(values)
    }
}

/// T5-base's heads in f32.
fn base(inputs: usize, rows: usize, keys: usize) -> OwnShape {
    let (heads, head_dim, softcap, dtype) = (12, 64, None, None);
    OwnShape { inputs, rows, keys, heads, kv_heads: heads, head_dim, softcap, dtype }
}

struct Bench<E> {
    problem: Problem,
    q: Vec<E>,
    k: Vec<E>,
    v: Vec<E>,
    out: Vec<E>,
}

impl<E: Element> Bench<E> {
    fn new(shape: &OwnShape) -> Self {
        let problem = shape.problem().expect("a valid shape");
        let noise = |len: usize, seed: usize| {
            let element = |i: usize| ((i * 7919 + seed * 104_729) % 8191) as f32 / 4095.5 - 1.0;
            (0..len).map(|i| E::from_f32(element(i))).collect::<Vec<E>>()
        };
        let (rows, keys) = (problem.query_shape().elements(), problem.kv_shape().elements());
        let (q, k, v) = (noise(rows, 1), noise(keys, 2), noise(keys, 3));
        let out = vec![E::from_f32(f32::NAN); q.len()];
        Self { problem, q, k, v, out }
    }

    fn run(&mut self) {
        cpu::attend(
            &self.problem,
            View::contiguous(self.problem.query_shape(), &self.q[..]),
            SharedKv::contiguous(self.problem.kv_shape(), &self.k[..], &self.v[..]),
            View::contiguous(self.problem.query_shape(), black_box(&mut self.out[..])),
            None,
        )
        .expect("a valid call");
    }

    /// Multiplications and additions of scores and values.
    fn flops(&self) -> Throughput {
        let pairs: usize = self.problem.inputs().iter().map(|i| i.rows.len() * i.keys.len()).sum();
        Throughput::Elements((4 * pairs * self.problem.heads() * self.problem.head_dim()) as u64)
    }
}

fn sweep(c: &mut Criterion<Flops>) {
    for keys in [128, 512, 2048, 4096] {
        let mut group = c.benchmark_group(format!("shared, {keys} keys"));
        for rows in [1, 2, 4, 8, 16, 30, 64, 128, 256] {
            let mut bench = Bench::<f32>::new(&base(1, rows, keys));
            group.throughput(bench.flops());
            group.bench_function(BenchmarkId::from_parameter(rows), |b| b.iter(|| bench.run()));
        }
    }
}

fn pid_against_pie(c: &mut Criterion<Flops>) {
    let (prompts, keys) = (30, 512);
    let mut group = c.benchmark_group("30 prompts, 512 keys");
    for (name, shape) in
        [("PID, one K/V", base(1, prompts, keys)), ("PIE, a K/V per prompt", base(prompts, 1, keys))]
    {
        let mut bench = Bench::<f32>::new(&shape);
        group.throughput(bench.flops());
        group.bench_function(name, |b| b.iter(|| bench.run()));
    }
}

fn own(c: &mut Criterion<Flops>, name: &str, shape: &OwnShape) {
    match shape.dtype.unwrap_or(DType::F32) {
        DType::F16 => own_as::<f16>(c, name, shape),
        DType::Bf16 => own_as::<bf16>(c, name, shape),
        _ => own_as::<f32>(c, name, shape),
    }
}

fn own_as<E: Element>(c: &mut Criterion<Flops>, name: &str, shape: &OwnShape) {
    let mut bench = Bench::<E>::new(shape);
    let mut group = c.benchmark_group(format!("{name} in {}", E::DTYPE));
    group.throughput(bench.flops());
    group.bench_function("shared", |b| b.iter(|| bench.run()));
}

/// What follows each `--shape`, which criterion does not know.
fn own_shapes(arguments: impl Iterator<Item = String>) -> Result<Vec<(String, OwnShape)>, String> {
    let (mut shapes, mut arguments) = (Vec::new(), arguments);
    while let Some(argument) = arguments.next() {
        let text = match argument.strip_prefix("--shape") {
            Some("") => arguments.next().ok_or(format!("--shape wants a value: {}", shape::HELP))?,
            Some(value) if value.starts_with('=') => value[1..].to_owned(),
            _ => continue,
        };
        let shape = text.parse().map_err(|error| format!("--shape {text}: {error} ({})", shape::HELP))?;
        shapes.push((text, shape));
    }
    Ok(shapes)
}

fn main() -> ExitCode {
    let shapes = match own_shapes(std::env::args().skip(1)) {
        Ok(shapes) => shapes,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let criterion = Criterion::default()
        .with_measurement(Flops)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20);
    if shapes.is_empty() {
        let mut criterion = criterion.configure_from_args();
        sweep(&mut criterion);
        pid_against_pie(&mut criterion);
        criterion.final_summary();
    } else {
        let mut criterion = criterion.without_plots();
        shapes.iter().for_each(|(name, shape)| own(&mut criterion, name, shape));
        criterion.final_summary();
    }
    ExitCode::SUCCESS
}
