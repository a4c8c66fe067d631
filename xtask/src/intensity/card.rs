//! The kernels that the plan picks, on the virtual GPU: this process runs them, its driver counts.

use anyhow::{Context as _, Result, ensure};
use half::bf16;
use onekv::cuda::{Kernels, Memory, Queue};
use onekv::plan::{Plan, PlanOptions};
use onekv::{DType, PartialState, Problem, SharedKv, View};
use serde::Deserialize;
use t5::cost::Cost;

use super::points::{Point, points};
use super::prefix::{self, Counted};

/// What the driver reports of a launch.
#[derive(Deserialize)]
struct Launch {
    kernel: String,
    global_load_sectors: u64,
    global_store_sectors: u64,
    distinct_bytes: u64,
    tensor_flops: u64,
}

const SECTOR_BYTES: u64 = 32;

/// Counts every point and prints them as JSON.
pub fn print() -> Result<()> {
    let report = std::env::var("PTXSIM_REPORT").context("PTXSIM_REPORT is not set: on a virtual GPU only")?;
    let context = onekv::cuda::context(0)?;
    let queue = Queue::new(&Kernels::new(&context)?, &context.new_stream()?)?;
    let launches = || -> Result<Vec<Launch>> {
        queue.stream().synchronize()?;
        let text = std::fs::read_to_string(&report).with_context(|| format!("cannot read {report}"))?;
        Ok(text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
    };
    let count = |problems: &[Problem], of: String| -> Result<Vec<Launch>> {
        let before = launches()?.len();
        attend(&queue, problems)?;
        let launched = launches()?.split_off(before);
        ensure!(!launched.is_empty(), "{report} has no launch of {of}");
        Ok(launched)
    };
    let mut counted = Counted { points: Vec::new(), behind_prefix: Vec::new() };
    for (layout, prompts) in points() {
        let launched = count(&[layout.problem(prompts)?], format!("{layout:?}, U = {prompts}"))?;
        counted.points.push(point(layout, prompts, layout.model(prompts, "bf16")?, &launched));
    }
    for (layout, prompts) in prefix::points() {
        let of = format!("a prefix {layout:?}, U = {prompts}");
        let launched = count(&layout.problems(prompts)?, of)?;
        counted.behind_prefix.push(point(layout, prompts, layout.model(prompts), &launched));
    }
    println!("{}", serde_json::to_string(&counted)?);
    Ok(())
}

/// The same rows over each problem's keys; of several, merged.
fn attend(queue: &Queue, problems: &[Problem]) -> Result<()> {
    let several = problems.len() > 1;
    let mut states = Vec::new();
    for problem in problems {
        let plan = Plan::new(problem, DType::Bf16, queue.kernels().facts(), &PlanOptions::default())?;
        let prepared = queue.prepare(&plan)?;
        // What is read and written is the same whatever the numbers are.
        let rows = || queue.zeros::<bf16>(problem.query_shape().elements());
        let keys = || queue.zeros::<bf16>(problem.kv_shape().elements());
        let (out, lse) = (rows()?, queue.zeros::<f32>(problem.lse_shape().elements())?);
        prepared.run(
            View::contiguous(problem.query_shape(), rows()?),
            SharedKv::contiguous(problem.kv_shape(), keys()?, keys()?),
            View::contiguous(problem.query_shape(), out.clone()),
            several.then(|| View::contiguous(problem.lse_shape(), lse.clone())),
        )?;
        states.push(PartialState::contiguous(problem.query_shape(), out, lse));
    }
    if several {
        let shape = problems[0].query_shape();
        let out: Memory<bf16> = queue.zeros(shape.elements())?;
        queue.merge_states(&states, View::contiguous(shape, out), None)?;
    }
    Ok(())
}

fn point<L>(layout: L, prompts: usize, model: Cost, launches: &[Launch]) -> Point<L> {
    let sum = |of: fn(&Launch) -> u64| launches.iter().map(of).sum::<u64>();
    Point {
        layout,
        prompts,
        flops: model.flops,
        read_bytes: SECTOR_BYTES * sum(|launch| launch.global_load_sectors),
        written_bytes: SECTOR_BYTES * sum(|launch| launch.global_store_sectors),
        model_bytes: model.bytes,
        instructions: None,
        distinct_bytes: Some(sum(|launch| launch.distinct_bytes)),
        tensor_flops: Some(sum(|launch| launch.tensor_flops)),
        kernels: launches.iter().map(|launch| launch.kernel.clone()).collect(),
    }
}
