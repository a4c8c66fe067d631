//! The kernels that the plan picks, on a card whose driver counts.

use anyhow::Result;
use half::bf16;
use onekv::cuda::{Kernels, Memory, Queue};
use onekv::plan::{Plan, PlanOptions};
use onekv::{DType, PartialState, Problem, SharedKv, View};

/// The same rows over each problem's keys; of several, merged.
pub fn run(problems: &[Problem]) -> Result<()> {
    let context = onekv::cuda::context(0)?;
    let queue = Queue::new(&Kernels::new(&context)?, &context.new_stream()?)?;
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
    queue.stream().synchronize()?;
    Ok(())
}
