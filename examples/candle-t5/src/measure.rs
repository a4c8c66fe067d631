//! What sharing saves: candle's T5 beside ours, and candle's attentions on the shapes that onekv's is measured on.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use candle_core::{DType, Device, Module as _, Tensor};
use candle_nn::attention::{AttnMask, flash_attn};
use candle_nn::ops::softmax_last_dim;
use candle_transformers::models::t5::linear_no_bias;
use clap::ValueEnum as _;
use onekv::interop::candle::Attention;
use onekv::plan::PlanOptions;
use onekv::{Keys, Problem, ProblemSpec};
use serde::{Deserialize, Serialize};
use serde_json::json;
use t5::cli::out;
use t5::load::Shape;

use crate::load::{self, Both};

/// What both models do: prompts of so many tokens on one input.
#[derive(Debug, Clone, Copy, PartialEq)]
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
    let bar = out::bar("onekv");
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
    let bar = out::bar("candle");
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

/// What `cargo xtask peers` asks on standard input, a line of JSON each.
#[derive(Debug, Deserialize)]
#[serde(tag = "what", rename_all = "lowercase")]
enum Order {
    Attention { system: String, rows: usize, keys: usize, seconds: f64 },
    T5 { system: String, shape: String, rows: usize, keys: usize, prompt_tokens: usize, new_tokens: usize },
}

const HEADS: usize = 12;
const HEAD_DIM: usize = 64;
const LEAST_RUNS: usize = 3;
/// Runs that begin sooner are not counted: threads that slept wake up on one core.
const SETTLING_S: f64 = 0.1;
/// A first run of less is not counted: it warms up.
const WARMING_S: f64 = 2.0;

/// Answers orders, a line of JSON each: seconds of runs, or an error. Copies of K and V are at most `most_bytes` together.
pub fn orders(input: impl BufRead, mut answers: impl Write, most_bytes: usize) -> Result<()> {
    let mut attention: Option<Attentions> = None;
    let mut model: Option<(String, Both)> = None;
    // Systems that are warm: a short first run of theirs on this work was not counted.
    let mut warm: (Option<Work>, Vec<String>) = (None, Vec::new());
    for line in input.lines() {
        let answer = match serde_json::from_str(&line?)? {
            Order::Attention { system, rows, keys, seconds } => {
                if attention.as_ref().is_none_or(|point| (point.rows, point.keys) != (rows, keys)) {
                    // Before the next one's copies are made.
                    drop(attention.take());
                    attention = Some(Attentions::new(rows, keys, most_bytes)?);
                }
                attention.as_ref().context("no point")?.burst(&system, seconds)
            }
            Order::T5 { system, shape, rows, keys, prompt_tokens, new_tokens } => {
                if model.as_ref().is_none_or(|(of, _)| *of != shape) {
                    let named = Shape::from_str(&shape, false).map_err(anyhow::Error::msg)?;
                    model = Some((shape, load::random(&named.config()?, &Device::Cpu)?));
                }
                let (_, both) = model.as_mut().context("no model")?;
                let work = Work { input_tokens: keys, prompts: rows, prompt_tokens, new_tokens };
                if warm.0 != Some(work) {
                    warm = (Some(work), Vec::new());
                }
                let mut run = || -> Result<f64> {
                    let (seconds, _) = match system.as_str() {
                        "onekv on candle, PID" => ours(both, &work)?,
                        "candle, encodes once" => candles(both, &work)?,
                        _ => bail!("system is {system}, allowed: onekv on candle, PID; candle, encodes once"),
                    };
                    Ok(seconds.total_s)
                };
                let first = run();
                if !warm.1.contains(&system) && matches!(first, Ok(seconds) if seconds < WARMING_S) {
                    warm.1.push(system.clone());
                    run().map(|seconds| vec![seconds])
                } else {
                    first.map(|seconds| vec![seconds])
                }
            }
        };
        let answer = match answer {
            Ok(seconds) => json!({ "seconds": seconds }),
            Err(error) => json!({ "error": format!("{error:#}") }),
        };
        writeln!(answers, "{answer}")?;
    }
    Ok(())
}

type Attend = Box<dyn Fn() -> candle_core::Result<Tensor>>;

/// Candle's attentions on one input of `keys` keys, 12 heads of 64 in f32, each given its layout: K/V expanded over the
/// prompts as copies of at most `most_bytes` together, or one K/V and the queries of all prompts folded into rows. Each is
/// held to onekv's.
struct Attentions {
    rows: usize,
    keys: usize,
    most_bytes: usize,
    systems: BTreeMap<&'static str, Attend>,
}

impl Attentions {
    fn new(rows: usize, keys: usize, most_bytes: usize) -> Result<Self> {
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
        let mut systems: BTreeMap<&'static str, Attend> = BTreeMap::new();
        {
            let (q, k, v) = (head_major(&q)?, head_major(&k)?, head_major(&v)?);
            systems.insert("candle matmul, queries folded", Box::new(move || by_matmul(&q, &k, &v)));
        }
        if 2 * rows * keys * HEADS * HEAD_DIM * size_of::<f32>() <= most_bytes {
            // A row, and K and V, for each prompt.
            let by_prompt = q.transpose(0, 1)?.contiguous()?;
            let copies = |x: &Tensor| x.repeat((rows, 1, 1, 1));
            let (one, ks, vs) =
                (head_major(&by_prompt)?, copies(&head_major(&k)?)?, copies(&head_major(&v)?)?);
            systems.insert("candle matmul, K/V expanded", Box::new(move || by_matmul(&one, &ks, &vs)));
            let (ks, vs) = (copies(&k)?, copies(&v)?);
            systems.insert("candle flash, K/V expanded", Box::new(move || flash(&by_prompt, &ks, &vs)));
        }
        systems.insert("candle flash, queries folded", Box::new(move || flash(&q, &k, &v)));
        for (system, attend) in &systems {
            // [inputs, heads, tokens, head_dim]
            let got = attend()?.transpose(1, 2)?.reshape(want.dims())?;
            let off = difference(&got, &want)?;
            if off.is_nan() || off > 1e-4 {
                bail!("{system}, {rows} rows, {keys} keys: off by {off} of the largest value from onekv's");
            }
        }
        Ok(Self { rows, keys, most_bytes, systems })
    }

    /// Seconds of each run, for so many seconds, after runs that warm up.
    fn burst(&self, system: &str, seconds: f64) -> Result<Vec<f64>> {
        let attend = self.systems.get(system).with_context(|| {
            format!("copies of K and V for every prompt would take more than {} MiB", self.most_bytes >> 20)
        })?;
        let settled = Instant::now() + Duration::from_secs_f64(SETTLING_S);
        black_box(attend()?);
        while Instant::now() < settled {
            black_box(attend()?);
        }
        let mut times = Vec::new();
        let end = Instant::now() + Duration::from_secs_f64(seconds);
        while times.len() < LEAST_RUNS || Instant::now() < end {
            let start = Instant::now();
            black_box(attend()?);
            times.push(start.elapsed().as_secs_f64());
        }
        Ok(times)
    }
}

/// As candle's T5: `[prompts, heads, tokens, head_dim]` each.
fn by_matmul(q: &Tensor, k: &Tensor, v: &Tensor) -> candle_core::Result<Tensor> {
    softmax_last_dim(&q.matmul(&k.t()?)?)?.matmul(v)
}

/// `[prompts, tokens, heads, head_dim]` each.
fn flash(q: &Tensor, k: &Tensor, v: &Tensor) -> candle_core::Result<Tensor> {
    flash_attn::<f32>(q, k, v, 1.0, AttnMask::None, None, None)
}
