//! Cross-attention in an engine on cust, in f32 and f16 with LSE, held to the definition in f64.

use std::error::Error;
use std::sync::Arc;

use cust::memory::DeviceBuffer;
use cust::stream::{Stream, StreamFlags};
use half_1::f16; // half 1.8, as cust has it
use onekv::cuda::Kernels;
use onekv::plan::{Plan, PlanOptions};
use onekv::{Element as _, Keys, Problem, ProblemSpec, SharedKv, View, reference};
use onekv_cust::{Element, Queue};

/// Copies the operands to the card, runs, copies output and LSE back.
fn attend<T: Element + Default>(
    queue: &Queue,
    problem: &Problem,
    [q, k, v]: [&[T]; 3],
) -> Result<(Vec<T>, Vec<f32>), Box<dyn Error>> {
    // Once per kind of batch.
    let facts = queue.kernels().facts();
    let plan = Plan::new(problem, T::Onekv::DTYPE, facts, &PlanOptions::default())?;
    let prepared = queue.prepare(&plan)?;

    // [rows, heads, head_dim] and [keys, kv_heads, head_dim]; slots of a cache and other strides: View::strided.
    let (query_shape, kv_shape) = (problem.query_shape(), problem.kv_shape());
    let lse_shape = problem.lse_shape();
    let [q, k, v] =
        [DeviceBuffer::from_slice(q)?, DeviceBuffer::from_slice(k)?, DeviceBuffer::from_slice(v)?];
    let mut out = DeviceBuffer::from_slice(&vec![T::default(); query_shape.elements()])?;
    let mut lse = DeviceBuffer::from_slice(&vec![0.0f32; lse_shape.elements()])?;

    // Every layer, every step.
    // SAFETY: the buffers live, and nothing else touches them, until the stream was waited for.
    unsafe {
        prepared.run(
            View::contiguous(query_shape, &q),
            SharedKv::contiguous(kv_shape, &k, &v),
            View::contiguous(query_shape, &mut out),
            Some(View::contiguous(lse_shape, &mut lse)),
        )?;
    }
    queue.stream().synchronize()?;
    Ok((out.as_host_vec()?, lse.as_host_vec()?))
}

fn main() -> Result<(), Box<dyn Error>> {
    let _context = cust::quick_init()?;
    // Once per card: the primary context, which is cust's too. Once per stream: a queue.
    let kernels = Kernels::new(&onekv::cuda::context(0)?)?;
    let queue = Queue::new(&kernels, &Arc::new(Stream::new(StreamFlags::DEFAULT, None)?))?;

    // 30 rows (prompts x beams x tokens) over one input of 300 keys; 8 query heads share 2 of K and V.
    let problem = Problem::new(ProblemSpec {
        heads: 8,
        kv_heads: 2,
        head_dim: 64,
        scale: 0.125,
        softcap: None,
        row_offsets: vec![0, 30],
        keys: Keys::Packed { offsets: vec![0, 300] },
    })?;
    let noise = |len: usize, seed: usize| {
        (0..len).map(|i| ((i * 7919 + seed) % 8191) as f32 / 4095.5 - 1.0).collect::<Vec<f32>>()
    };
    let (query_shape, kv_shape) = (problem.query_shape(), problem.kv_shape());
    let operands =
        [noise(query_shape.elements(), 1), noise(kv_shape.elements(), 2), noise(kv_shape.elements(), 3)];

    let check = |dtype: &str, [q, k, v]: [&[f32]; 3], out: &[f32], lse: &[f32], allowed: f32| {
        let (mut want_out, mut want_lse) = (vec![0.0; out.len()], vec![0.0; lse.len()]);
        reference::attend(
            &problem,
            View::contiguous(query_shape, q),
            SharedKv::contiguous(kv_shape, k, v),
            View::contiguous(query_shape, &mut want_out[..]),
            Some(View::contiguous(problem.lse_shape(), &mut want_lse[..])),
        )?;
        let worst = |got: &[f32], want: &[f32]| {
            got.iter().zip(want).map(|(got, want)| (got - want).abs()).fold(0.0, f32::max)
        };
        let (out_error, lse_error) = (worst(out, &want_out), worst(lse, &want_lse));
        println!(
            "{dtype}: out[0] {:.4}, lse[0] {:.4}; largest differences from f64: {out_error:.1e}, {lse_error:.1e}",
            out[0], lse[0],
        );
        assert!(out_error < allowed && lse_error < 1e-5, "{dtype} is not the reference");
        Ok::<(), onekv::Error>(())
    };

    let exact = operands.each_ref().map(|x| &x[..]);
    let (out, lse) = attend::<f32>(&queue, &problem, exact)?;
    check("f32", exact, &out, &lse, 1e-6)?;

    let halves = operands.each_ref().map(|x| x.iter().map(|&x| f16::from_f32(x)).collect::<Vec<_>>());
    let (out, lse) = attend::<f16>(&queue, &problem, halves.each_ref().map(|x| &x[..]))?;
    let wide = |x: &Vec<f16>| x.iter().map(|x| x.to_f32()).collect::<Vec<f32>>();
    let [q, k, v] = halves.each_ref().map(wide);
    check("f16", [&q, &k, &v], &wide(&out), &lse, 1e-3)?;
    Ok(())
}
