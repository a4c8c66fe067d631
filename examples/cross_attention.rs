//! From slices to the result: 30 query rows over one shared K/V of 512 keys, on the first card if there is one.
//!
//! `cargo run --release --example cross_attention [--features cuda]`

use onekv::{Keys, Problem, ProblemSpec, SharedKv, View, cpu};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let problem = Problem::new(ProblemSpec {
        heads: 12,
        kv_heads: 12,
        head_dim: 64,
        scale: 0.125,
        softcap: None,
        row_offsets: vec![0, 30],
        keys: Keys::Packed { offsets: vec![0, 512] },
    })?;
    let noise = |len: usize| (0..len).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect::<Vec<f32>>();
    let (q, k, v) = (noise(30 * 12 * 64), noise(512 * 12 * 64), noise(512 * 12 * 64));

    #[cfg(feature = "cuda")]
    match onekv::cuda::context(0) {
        Ok(context) => {
            let out = on_the_card(&context, &problem, &q, &k, &v)?;
            println!("on {}: out[0][..4] = {:?}", context.name()?, &out[..4]);
            return Ok(());
        }
        Err(error) => println!("no card: {error}"),
    }
    let mut out = vec![0.0; q.len()];
    cpu::attend(
        &problem,
        View::contiguous(problem.query_shape(), &q[..]),
        SharedKv::contiguous(problem.kv_shape(), &k[..], &v[..]),
        View::contiguous(problem.query_shape(), &mut out[..]),
        None,
    )?;
    println!("on the CPU: out[0][..4] = {:?}", &out[..4]);
    Ok(())
}

#[cfg(feature = "cuda")]
fn on_the_card(
    context: &std::sync::Arc<cudarc::driver::CudaContext>,
    problem: &Problem,
    q: &[f32],
    k: &[f32],
    v: &[f32],
) -> Result<Vec<f32>, Box<dyn std::error::Error>> {
    use onekv::cuda::{Kernels, Queue};
    use onekv::plan::{Plan, PlanOptions};

    let stream = context.new_stream()?;
    let kernels = Kernels::new(context)?;
    let plan = Plan::new(problem, onekv::DType::F32, kernels.facts(), &PlanOptions::default())?;
    println!("{}", plan.explain());
    let prepared = Queue::new(&kernels, &stream)?.prepare(&plan)?;
    let (q, k, v) = (stream.clone_htod(q)?, stream.clone_htod(k)?, stream.clone_htod(v)?);
    let mut out = stream.alloc_zeros::<f32>(q.len())?;
    prepared.run(
        View::contiguous(problem.query_shape(), q.as_view()),
        SharedKv::contiguous(problem.kv_shape(), k.as_view(), v.as_view()),
        View::contiguous(problem.query_shape(), out.as_view_mut()),
        None,
    )?;
    Ok(stream.clone_dtoh(&out)?)
}
