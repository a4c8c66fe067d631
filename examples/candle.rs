//! The cross-attention of a decoder layer on candle's tensors: 30 prompts in the decoder over one encoded input, beside
//! what candle does by itself, a copy of the K/V for every prompt.
//!
//! `cargo run --release --features candle --example candle`, on a card with `--features candle-cuda`

use candle_core::{D, DType, Device, Result, Tensor};
use onekv::interop::candle::Attention;
use onekv::plan::PlanOptions;
use onekv::{Keys, Problem, ProblemSpec};

const PROMPTS: usize = 30;
const KEYS: usize = 512;
const HEADS: usize = 12;
const HEAD_DIM: usize = 64;
const WIDTH: usize = HEADS * HEAD_DIM;

fn noise(dims: (usize, usize), seed: usize, device: &Device) -> Result<Tensor> {
    let values: Vec<f32> =
        (0..dims.0 * dims.1).map(|i| ((i * 7919 + seed) % 8191) as f32 / 4095.5 - 1.0).collect();
    Tensor::from_vec(values, dims, device)
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    // One new token of every prompt, and the encoder's output; weights as of T5-base.
    let device = Device::cuda_if_available(0)?;
    let (hidden, encoded) = (noise((PROMPTS, WIDTH), 1, &device)?, noise((KEYS, WIDTH), 2, &device)?);
    let projections = (3..6).map(|seed| noise((WIDTH, WIDTH), seed, &device)? / 100.0);
    let projections = projections.collect::<Result<Vec<_>>>()?;
    let q = hidden.matmul(&projections[0])?.reshape((PROMPTS, HEADS, HEAD_DIM))?;
    // Once per input, for all prompts and steps.
    let k = encoded.matmul(&projections[1])?.reshape((KEYS, HEADS, HEAD_DIM))?;
    let v = encoded.matmul(&projections[2])?.reshape((KEYS, HEADS, HEAD_DIM))?;

    let problem = Problem::new(ProblemSpec {
        heads: HEADS,
        kv_heads: HEADS,
        head_dim: HEAD_DIM,
        scale: 1.0,
        softcap: None,
        row_offsets: vec![0, PROMPTS],
        keys: Keys::Packed { offsets: vec![0, KEYS] },
    })?;
    let planned = Attention::new(&device)?.plan(&problem, DType::F32, &PlanOptions::default())?;
    let out = planned.run(&q, &k, &v)?;

    // Candle by itself: [prompts, heads, 1, head_dim] against [prompts, heads, keys, head_dim].
    let expand = |kv: &Tensor| -> Result<Tensor> {
        kv.transpose(0, 1)?.unsqueeze(0)?.expand((PROMPTS, HEADS, KEYS, HEAD_DIM))?.contiguous()
    };
    let (copies_k, copies_v) = (expand(&k)?, expand(&v)?);
    let scores = q.unsqueeze(2)?.matmul(&copies_k.t()?)?;
    let exps = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    let weights = exps.broadcast_div(&exps.sum_keepdim(D::Minus1)?)?;
    let over_copies = weights.matmul(&copies_v)?.squeeze(2)?;

    let kib = |k: &Tensor| 2 * k.elem_count() * k.dtype().size_in_bytes() / 1024;
    println!("{PROMPTS} prompts over {KEYS} keys: {} KiB of K/V, {} KiB as copies", kib(&k), kib(&copies_k));
    let largest = |x: Tensor| x.abs()?.max_all()?.to_scalar::<f32>();
    let worst = largest((out - &over_copies)?)? / largest(over_copies)?;
    println!("largest difference from attention on the copies: {worst:.1e} of the largest value");
    assert!(worst < 1e-5, "shared attention is not attention on copies");
    Ok(())
}
