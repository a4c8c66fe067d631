//! The kernels that the plan picks, on the virtual GPU: this process runs them, its driver counts.

use anyhow::{Context as _, Result, ensure};
use half::bf16;
use onekv::cuda::{Kernels, Queue};
use onekv::plan::{Plan, PlanOptions};
use onekv::{DType, SharedKv, View};
use serde::Deserialize;

use super::{Layout, Point, points};

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
    let mut counted = Vec::new();
    for (layout, prompts) in points() {
        let before = launches()?.len();
        attend(&queue, layout, prompts)?;
        let launched = &launches()?[before..];
        ensure!(!launched.is_empty(), "{report} has no launch of {layout:?}, U = {prompts}");
        counted.push(point(layout, prompts, launched)?);
    }
    println!("{}", serde_json::to_string(&counted)?);
    Ok(())
}

fn attend(queue: &Queue, layout: Layout, prompts: usize) -> Result<()> {
    let problem = layout.problem(prompts)?;
    let plan = Plan::new(&problem, DType::Bf16, queue.kernels().facts(), &PlanOptions::default())?;
    let prepared = queue.prepare(&plan)?;
    // What is read and written is the same whatever the numbers are.
    let rows = || queue.zeros::<bf16>(problem.query_shape().elements());
    let keys = || queue.zeros::<bf16>(problem.kv_shape().elements());
    prepared.run(
        View::contiguous(problem.query_shape(), rows()?),
        SharedKv::contiguous(problem.kv_shape(), keys()?, keys()?),
        View::contiguous(problem.query_shape(), rows()?),
        None,
    )?;
    Ok(())
}

fn point(layout: Layout, prompts: usize, launches: &[Launch]) -> Result<Point> {
    let sum = |of: fn(&Launch) -> u64| launches.iter().map(of).sum::<u64>();
    Ok(Point {
        layout,
        prompts,
        flops: layout.model(prompts, "bf16")?.flops,
        read_bytes: SECTOR_BYTES * sum(|launch| launch.global_load_sectors),
        written_bytes: SECTOR_BYTES * sum(|launch| launch.global_store_sectors),
        instructions: None,
        distinct_bytes: Some(sum(|launch| launch.distinct_bytes)),
        tensor_flops: Some(sum(|launch| launch.tensor_flops)),
        kernels: launches.iter().map(|launch| launch.kernel.clone()).collect(),
    })
}
