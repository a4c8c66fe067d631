//! The CPU backend under callgrind.

use std::ops::Range;
use std::path::Path;

use anyhow::{Context as _, Result};
use onekv::{SharedKv, View, cpu};
use rayon::prelude::*;

use super::points::{Backend, Layout, Point, points};
use crate::run::{command, output};

/// The caches that callgrind plays: a core's L1, and for the last level a core's L2. K and V of one layer, 3.1 MB, do not stay
/// in it until the next step.
const CACHES: [&str; 3] = ["--I1=32768,8,64", "--D1=32768,8,64", "--LL=1048576,16,64"];
const LL_BYTES: usize = 1 << 20;
const LINE_BYTES: u64 = 64;
/// Steps of two runs: they differ by that of one step after others, without what a process does before it.
const STEPS: [usize; 2] = [1, 2];

/// Runs `steps` steps on this thread. K and V of 4 times the last level and more take turns, as those of a decoder's layers do: a
/// step finds nothing of its own in the caches.
pub fn steps(layout: Layout, prompts: usize, steps: usize) -> Result<()> {
    let problem = layout.problem(prompts)?;
    let (q_len, kv_len) = (problem.query_shape().elements(), problem.kv_shape().elements());
    let sets = (4 * LL_BYTES).div_ceil(2 * kv_len * size_of::<f32>());
    let q = noise(q_len, 1);
    let kv: Vec<[Vec<f32>; 2]> = (0..sets).map(|_| [noise(kv_len, 2), noise(kv_len, 3)]).collect();
    let mut out = noise(q_len, 4);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build()?;
    for [k, v] in kv.iter().cycle().take(steps) {
        let out_lines = lines(&out, q_len);
        pool.install(|| {
            cpu::attend(
                &problem,
                View::contiguous(problem.query_shape(), &q[lines(&q, q_len)]),
                SharedKv::contiguous(problem.kv_shape(), &k[lines(k, kv_len)], &v[lines(v, kv_len)]),
                View::contiguous(problem.query_shape(), &mut out[out_lines]),
                None,
            )
        })?;
    }
    Ok(())
}

/// `len` numbers in -1..1 and room to begin at a line. They repeat: to make them must not take longer than to read them.
fn noise(len: usize, seed: usize) -> Vec<f32> {
    let period: Vec<f32> = (0..8191).map(|i| ((i * 7919 + seed) % 8191) as f32 / 4095.5 - 1.0).collect();
    period.repeat((len + LINE_BYTES as usize).div_ceil(period.len()))
}

/// The first `len` from the begin of a line on: callgrind takes an access to two lines for one miss.
fn lines(numbers: &[f32], len: usize) -> Range<usize> {
    let begin = numbers.as_ptr().align_offset(LINE_BYTES as usize);
    begin..begin + len
}

/// Counts every point; `program` is this one, optimised.
pub fn counted(program: &Path, folder: &Path) -> Result<Backend> {
    let version = output("ask valgrind for its version", &mut command("valgrind", &["--version"]))?;
    let points: Vec<(Layout, usize)> = points().collect();
    let points = points.par_iter().map(|&(layout, prompts)| count(program, folder, layout, prompts));
    Ok(Backend {
        name: "CPU".to_owned(),
        dtype: "f32".to_owned(),
        counted: format!(
            "by callgrind of {}, lines of 64 bytes that miss the last level of its caches ({}: 1 MiB, as a core's L2), or are \
             written back from it; one thread, AVX2, as valgrind knows no wider vectors",
            version.trim(),
            CACHES.join(" ")
        ),
        points: points.collect::<Result<_>>()?,
    })
}

fn count(program: &Path, folder: &Path, layout: Layout, prompts: usize) -> Result<Point> {
    let name = format!("{layout:?}").to_lowercase();
    let [few, more] = STEPS.map(|steps| -> Result<Events> {
        let file = folder.join(format!("{name}-{prompts}-{steps}.callgrind"));
        let mut valgrind =
            command("valgrind", &["-q", "--tool=callgrind", "--cache-sim=yes", "--simulate-wb=yes"]);
        valgrind.args(CACHES).arg(format!("--callgrind-out-file={}", file.display()));
        // It warns of caches that are not this machine's.
        valgrind.arg(format!("--log-file={}", file.with_extension("log").display())).arg(program);
        valgrind.args(["intensity", "steps", &name, &prompts.to_string(), &steps.to_string()]);
        output(&format!("{name}, U = {prompts}, {steps} steps"), &mut valgrind)?;
        let text = std::fs::read_to_string(&file).with_context(|| format!("no {}", file.display()))?;
        Events::read(&text).with_context(|| file.display().to_string())
    });
    let (few, more) = (few?, more?);
    let per_step = |of: fn(&Events) -> u64| of(&more) - of(&few);
    let model = layout.model(prompts, "f32")?;
    Ok(Point {
        layout,
        prompts,
        flops: model.flops,
        read_bytes: LINE_BYTES * per_step(|events| events.loaded_lines),
        written_bytes: LINE_BYTES * per_step(|events| events.written_lines),
        model_bytes: model.bytes,
        instructions: Some(per_step(|events| events.instructions)),
        distinct_bytes: None,
        tensor_flops: None,
        kernels: Vec::new(),
    })
}

/// Totals of a run.
#[derive(Debug, PartialEq, Eq)]
pub struct Events {
    pub instructions: u64,
    /// Misses of the last level: a line comes from memory, for a write too.
    pub loaded_lines: u64,
    /// Those of them that put out a line which had been written.
    pub written_lines: u64,
}

impl Events {
    /// Of a file of callgrind's.
    pub fn read(text: &str) -> Result<Self> {
        let line = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name))
                .with_context(|| format!("it has no line \"{name}\""))
        };
        let names: Vec<&str> = line("events:")?.split_whitespace().collect();
        // Zeros at the end are left out.
        let counts = line("totals:")?.split_whitespace().map(str::parse).collect::<Result<Vec<u64>, _>>()?;
        let sum = |of: &[&str]| {
            of.iter().try_fold(0, |sum, event| {
                let at = names.iter().position(|name| name == event);
                let at = at.with_context(|| format!("it counts no {event}, but {}", names.join(", ")))?;
                Ok::<_, anyhow::Error>(sum + counts.get(at).copied().unwrap_or(0))
            })
        };
        Ok(Self {
            instructions: sum(&["Ir"])?,
            loaded_lines: sum(&["ILmr", "DLmr", "DLmw"])?,
            written_lines: sum(&["ILdmr", "DLdmr", "DLdmw"])?,
        })
    }
}
