//! What sharing saves: candle's T5 beside ours, and candle's attentions on the shapes that onekv's is measured on.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use candle_core::{DType, Device, Module as _, Tensor};
use candle_nn::attention::{AttnMask, flash_attn};
use candle_nn::ops::softmax_last_dim;
use candle_transformers::models::t5::linear_no_bias;
use onekv::interop::candle::Attention;
use onekv::plan::PlanOptions;
use onekv::{Keys, Problem, ProblemSpec};
use serde::Serialize;
use t5::progress;

use crate::load::Both;

/// What both models do: prompts of so many tokens on one input.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    pub input_tokens: usize,
    pub prompts: usize,
    pub prompt_tokens: usize,
    pub new_tokens: usize,
}

/// Seconds of one run.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Seconds {
    pub encode_s: f64,
    /// Of the cross-attention's K and V: ours once, within no other part; candle's in every pass of the decoder, within
    /// `decode_s`, and measured by themselves on one layer.
    pub cross_kv_s: f64,
    pub decode_s: f64,
    pub total_s: f64,
}

/// The input and the prompts, ids that do not repeat soon.
fn ids(work: &Work, vocab: usize) -> (Vec<u32>, Vec<Vec<u32>>) {
    let id = |i: usize| (2 + i * 7919 % (vocab - 2)) as u32;
    let prompt = |p| (0..work.prompt_tokens).map(|i| id(31 * p + i + 1)).collect();
    ((0..work.input_tokens).map(id).collect(), (0..work.prompts).map(prompt).collect())
}

/// One run of ours, and the logits of the first new tokens.
pub fn ours(both: &Both, work: &Work) -> Result<(Seconds, Tensor)> {
    let (input, prompts) = ids(work, both.ours.config.vocab);
    let bar = progress::bar("onekv");
    bar.set_length(work.new_tokens as u64);
    let start = Instant::now();
    let encoding = both.ours.encoding(&input)?;
    let encode_s = start.elapsed().as_secs_f64();
    let memory = both.ours.project(&[encoding])?;
    let encoded_s = start.elapsed().as_secs_f64();
    let (mut decoding, first) = both.ours.begin(&memory, &[prompts], work.new_tokens)?;
    let mut best = first.argmax(1)?;
    for _ in 1..work.new_tokens {
        bar.inc(1);
        best = decoding.step(&best.to_vec1()?)?.argmax(1)?;
    }
    black_box(best.to_vec1::<u32>()?);
    let total_s = start.elapsed().as_secs_f64();
    let (cross_kv_s, decode_s) = (encoded_s - encode_s, total_s - encoded_s);
    Ok((Seconds { encode_s, cross_kv_s, decode_s, total_s }, first))
}

/// One run of candle's as its users would call it: the input is encoded once, the encoding repeated for every prompt, and
/// the decoder has its cache.
pub fn candles(both: &mut Both, work: &Work) -> Result<(Seconds, Tensor)> {
    let config = both.ours.config.clone();
    let (input, prompts) = ids(work, config.vocab);
    let device = Device::Cpu;
    let bar = progress::bar("candle");
    bar.set_length(work.new_tokens as u64);
    let model = &mut both.candles;
    model.clear_kv_cache();
    let start = Instant::now();
    let encoding = model.encode(&Tensor::new(&input[..], &device)?.unsqueeze(0)?)?;
    let encode_s = start.elapsed().as_secs_f64();
    let encodings = encoding.repeat((work.prompts, 1, 1))?;
    let started =
        prompts.into_iter().flat_map(|prompt| [vec![config.decoder_start], prompt].concat()).collect();
    let ids = Tensor::from_vec(started, (work.prompts, 1 + work.prompt_tokens), &device)?;
    let first = model.decode(&ids, &encodings)?;
    let mut best = first.argmax(1)?;
    for _ in 1..work.new_tokens {
        bar.inc(1);
        best = model.decode(&best.unsqueeze(1)?, &encodings)?.argmax(1)?;
    }
    black_box(best.to_vec1::<u32>()?);
    let total_s = start.elapsed().as_secs_f64();
    let (d, inner) = (config.d_model, config.heads * config.d_kv);
    let weights = both.weights.pp("decoder.block.0.layer.1.EncDecAttention");
    let (k, v) = (linear_no_bias(d, inner, weights.pp("k"))?, linear_no_bias(d, inner, weights.pp("v"))?);
    let start = Instant::now();
    black_box((k.forward(&encodings)?, v.forward(&encodings)?));
    let cross_kv_s = start.elapsed().as_secs_f64() * (config.decoder_layers * work.new_tokens) as f64;
    Ok((Seconds { encode_s, cross_kv_s, decode_s: total_s - encode_s, total_s }, first))
}

/// The largest difference, of the largest value.
pub fn difference(x: &Tensor, y: &Tensor) -> Result<f32> {
    let largest = |x: Tensor| x.abs()?.max_all()?.to_scalar::<f32>();
    Ok(largest((x - y)?)? / largest(y.clone())?)
}

/// One measured figure, as `cargo xtask peers` has them.
#[derive(Debug, Serialize)]
pub struct Line {
    pub system: &'static str,
    pub rows: usize,
    pub keys: usize,
    pub median_s: f64,
    pub min_s: f64,
    pub max_s: f64,
    pub runs: usize,
}

const HEADS: usize = 12;
const HEAD_DIM: usize = 64;
/// As long as the others are measured.
const SECONDS: f64 = 0.3;
/// Candle's attentions on one input of `keys` keys, 12 heads of 64 in f32, each given its layout, K/V expanded over the
/// prompts as copies of at most `most_bytes` together, or one K/V and the queries of all prompts folded into rows. Each is
/// held to onekv's.
pub fn attention(rows: &[usize], keys: &[usize], most_bytes: usize) -> Result<Vec<Line>> {
    let bar = progress::bar("attention");
    bar.set_length((rows.len() * keys.len()) as u64);
    let mut lines = Vec::new();
    for &keys in keys {
        for &rows in rows {
            lines.extend(point(rows, keys, most_bytes)?);
            bar.inc(1);
        }
    }
    Ok(lines)
}

fn point(rows: usize, keys: usize, most_bytes: usize) -> Result<Vec<Line>> {
    let noise = |tokens: usize| Tensor::rand(-1f32, 1f32, (1, tokens, HEADS, HEAD_DIM), &Device::Cpu);
    let (q, k, v) = (noise(rows)?, noise(keys)?, noise(keys)?);
    let problem = Problem::new(ProblemSpec {
        heads: HEADS,
        kv_heads: HEADS,
        head_dim: HEAD_DIM,
        scale: 1.0,
        softcap: None,
        row_offsets: vec![0, rows],
        keys: Keys::Packed { offsets: vec![0, keys] },
    })?;
    let planned = Attention::new(&Device::Cpu)?.plan(&problem, DType::F32, &PlanOptions::default())?;
    let want = planned.run(&q, &k, &v)?;
    let head_major = |x: &Tensor| x.transpose(1, 2)?.contiguous();
    // A row, and K and V, for each prompt.
    let by_prompt = q.transpose(0, 1)?.contiguous()?;
    let copies = |x: &Tensor| x.repeat((rows, 1, 1, 1));

    let mut lines = Vec::new();
    let mut measure = |system, work: &dyn Fn() -> candle_core::Result<Tensor>| {
        // [inputs, heads, tokens, head_dim]
        let got = work()?.transpose(1, 2)?.reshape(want.dims())?;
        let off = difference(&got, &want)?;
        if off.is_nan() || off > 1e-4 {
            bail!("{system}, {rows} rows, {keys} keys: off by {off} of the largest value from onekv's");
        }
        lines.push(line(system, rows, keys, work)?);
        Ok(())
    };
    {
        let (q, k, v) = (head_major(&q)?, head_major(&k)?, head_major(&v)?);
        measure("candle matmul, queries folded", &|| by_matmul(&q, &k, &v))?;
    }
    measure("candle flash, queries folded", &|| flash(&q, &k, &v))?;
    if 2 * rows * keys * HEADS * HEAD_DIM * size_of::<f32>() <= most_bytes {
        {
            let (q, k, v) = (head_major(&by_prompt)?, copies(&head_major(&k)?)?, copies(&head_major(&v)?)?);
            measure("candle matmul, K/V expanded", &|| by_matmul(&q, &k, &v))?;
        }
        let (k, v) = (copies(&k)?, copies(&v)?);
        measure("candle flash, K/V expanded", &|| flash(&by_prompt, &k, &v))?;
    }
    Ok(lines)
}

/// As candle's T5: `[prompts, heads, tokens, head_dim]` each.
fn by_matmul(q: &Tensor, k: &Tensor, v: &Tensor) -> candle_core::Result<Tensor> {
    softmax_last_dim(&q.matmul(&k.t()?)?)?.matmul(v)
}

/// `[prompts, tokens, heads, head_dim]` each.
fn flash(q: &Tensor, k: &Tensor, v: &Tensor) -> candle_core::Result<Tensor> {
    flash_attn::<f32>(q, k, v, 1.0, AttnMask::None, None, None)
}

fn line(
    system: &'static str,
    rows: usize,
    keys: usize,
    work: &dyn Fn() -> candle_core::Result<Tensor>,
) -> Result<Line> {
    let mut times = Vec::new();
    let end = Instant::now() + Duration::from_secs_f64(SECONDS);
    while times.len() < 5 || Instant::now() < end {
        let start = Instant::now();
        black_box(work()?);
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    let (median_s, min_s, max_s) = (times[times.len() / 2], times[0], times[times.len() - 1]);
    Ok(Line { system, rows, keys, median_s, min_s, max_s, runs: times.len() })
}
