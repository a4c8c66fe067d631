//! Whole models: the CUDA backend against the CPU backend.

use anyhow::Result;
use indicatif::ProgressBar;
use onekv::DType;
use onekv_cost::{Method, ModelShape, Need, Workload};

use crate::backend::cpu::Cpu;
use crate::backend::cuda::Cuda;
use crate::backend::{Backend, BatchRow, RowsSpec, overflow};
use crate::config::{Activation, Config, Reading, Rules};
use crate::generate::{Limits, Outputs, Session, Stats, Task, forced_logits, generate};
use crate::load::{Random, Shape};
use crate::model::{Model, Seat, Source};
use crate::support::{card, cards, dtypes};

/// A small model: v1.0, or v1.1 with heads that are filled up and more of the vocabulary.
pub fn config(gated: bool, d_kv: usize) -> Config {
    let activation = if gated { Activation::GeluTanh } else { Activation::Relu };
    Config {
        d_kv,
        gated,
        readings: [Reading { own_head: gated, scaled: !gated }; 2],
        activation,
        vocab: 100,
        d_ff: 72,
        d_model: 40,
        ..Shape::Tiny.config().unwrap()
    }
}

/// Random weights whose layers outweigh the embedding, and cross-attention the rest: ids then tell rows, steps and
/// inputs apart, where plain ones repeat the token that came in.
struct Lively(Random);

impl Source for Lively {
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let factor = match name {
            name if name.starts_with("shared") => 0.2,
            name if name.contains("EncDecAttention") => 2.0,
            name if name.contains("relative_attention_bias") => 4.0,
            _ => 1.0,
        };
        Ok(self.0.take(name, shape)?.into_iter().map(|x| x * factor).collect())
    }
}

/// What the cost model takes of it.
pub fn cost_shape<B: Backend>(model: &Model<'_, B>) -> ModelShape {
    let head_dim = model.backend.head_dim(&model.config).unwrap();
    model.config.cost_shape(head_dim, model.backend.facts().element_bytes)
}

pub fn load<'b, B: Backend>(config: &Config, backend: &'b B) -> Model<'b, B> {
    let mut source = Lively(Random::new(3, config.d_kv));
    Model::load(config.clone(), config.readings[0], &mut source, backend, &ProgressBar::hidden()).unwrap()
}

/// Inputs and prompts of unlike length; an input without prompts, a prompt without tokens.
fn tasks() -> Vec<Task> {
    let ids =
        |n: usize, seed: usize| (0..n).map(|i| (3 + (i * 37 + seed * 11) % 97) as u32).collect::<Vec<u32>>();
    vec![
        Task { input: ids(19, 1), prompts: vec![ids(3, 2), vec![], ids(1, 3)] },
        Task { input: ids(1, 4), prompts: vec![ids(6, 5)] },
        Task { input: ids(5, 6), prompts: vec![] },
        Task { input: ids(70, 7), prompts: vec![ids(2, 8), ids(2, 9)] },
    ]
}

fn run<B: Backend>(model: &Model<'_, B>, method: Method, limits: Limits) -> (Outputs, Stats) {
    generate(model, method, &tasks(), limits, 1, &ProgressBar::hidden()).unwrap()
}

/// The id at whose first appearance rows end at the most different steps.
fn telling_eos(outputs: &Outputs) -> u32 {
    let rows = || outputs.iter().flatten();
    let ends = |id: u32| {
        let mut ends: Vec<_> = rows().map(|ids| ids.iter().position(|x| *x == id)).collect();
        ends.sort();
        ends.dedup();
        ends.len()
    };
    rows().flatten().copied().max_by_key(|id| ends(*id)).unwrap()
}

/// In f32 the ids are the CPU's, by every method, and whoever stops when: the EOS is an id that rows produce at
/// different steps, so that rows finish between looks, are dropped, and the rest is recorded anew.
#[test]
fn ids_equal_the_cpus() {
    let Some(cuda) = card() else { return };
    let cpu = Cpu::new();
    let all = [Method::Pid, Method::PidReplicated, Method::Pie];
    for (config, methods) in [(config(true, 64), &all[..]), (config(false, 40), &all[..1])] {
        let (mut on_cpu, mut on_cuda) = (load(&config, &cpu), load(&config, &cuda));
        for &method in methods {
            let limits = Limits { max_new_tokens: 8, stop_at_eos: false, batch_rows: None };
            let (want, _) = run(&on_cpu, method, limits);
            assert_eq!(run(&on_cuda, method, limits).0, want, "{method:?}");
            let ends = vec![telling_eos(&want)];
            on_cpu.config.rules.ends.clone_from(&ends);
            on_cuda.config.rules.ends = ends;
            let limits = Limits { stop_at_eos: true, ..limits };
            let (want, cpu_stats) = run(&on_cpu, method, limits);
            let (got, stats) = run(&on_cuda, method, limits);
            assert_eq!(got, want, "{method:?} to EOS");
            assert_eq!(stats.new_tokens, cpu_stats.new_tokens);
            assert_eq!(stats.encoder_tokens, cpu_stats.encoder_tokens);
            let mut lengths: Vec<usize> = want.iter().flatten().map(Vec::len).collect();
            lengths.sort();
            lengths.dedup();
            assert!(lengths.len() >= 2, "{method:?}: all rows are {lengths:?} long");
        }
    }
}

/// Under every rule at once, with rows that enter while others go on.
#[test]
fn rules_are_the_cpus() {
    let (cuda, cpu) = (card(), Cpu::new());
    let config = Config { encoder_layers: 1, ..config(true, 64) };
    let mut on_cpu = load(&config, &cpu);
    let limits = Limits { max_new_tokens: 7, stop_at_eos: true, batch_rows: Some(3) };
    let mut on_cuda = cuda.as_ref().map(|cuda| load(&config, cuda));
    for method in [Method::Pid, Method::Pie] {
        on_cpu.config.rules = Rules::default();
        let (free, _) = run(&on_cpu, method, limits);
        // What rows like: at first, and later.
        let (first, later) = (free[0][0][0], free[0][0][3]);
        let rules = Rules {
            ends: vec![98, telling_eos(&free)],
            suppressed: vec![later],
            suppressed_first: vec![first],
            forced_first: Some(5),
            forced_last: Some(98),
        };
        on_cpu.config.rules = rules.clone();
        let (want, _) = run(&on_cpu, method, limits);
        assert_ne!(want, free, "{method:?}");
        // The second prompt is empty.
        assert_eq!((want[0][1][0], want[0][0][0] == 5), (5, method == Method::Pie));
        assert!(want.iter().flatten().any(|ids| ids[ids.len() - 1] == 98), "{method:?}: no end was forced");
        if let Some(on_cuda) = &mut on_cuda {
            on_cuda.config.rules = rules;
            assert_eq!(run(on_cuda, method, limits).0, want, "{method:?}");
        }
    }
}

/// PID over copies gives what PID gives, on the CPU.
#[test]
fn copies_change_nothing_but_memory() {
    let cpu = Cpu::new();
    let model = load(&config(true, 64), &cpu);
    let limits = Limits { max_new_tokens: 6, stop_at_eos: false, batch_rows: None };
    let (shared, copied) = (run(&model, Method::Pid, limits), run(&model, Method::PidReplicated, limits));
    assert_eq!(shared.0, copied.0);
    assert_eq!(shared.1.encoder_tokens, copied.1.encoder_tokens);
    let tokens = 19 * 3 + 1 + 70 * 2;
    assert_eq!(copied.1.cross_kv_bytes, tokens * 2 * 128 * 4 * 2);
    // Of an input that nothing is asked about there is none.
    assert_eq!(shared.1.cross_kv_bytes, (19 + 1 + 70) * 2 * 128 * 4 * 2);
}

/// Logits of 16-bit types are within their rounding of the f32 ones; f32's nearly equal.
#[test]
fn logits_are_close_to_the_cpus() {
    cards().for_each(|(products, cuda)| check_logits(dtypes(products), cuda));
}

fn check_logits(dtypes: &[DType], mut cuda: Cuda) {
    let cpu = Cpu::new();
    for config in [config(true, 64), config(false, 100)] {
        let task = &tasks()[..1];
        let want = forced_logits(&load(&config, &cpu), task).unwrap().concat();
        let size = (want.iter().map(|x| x * x).sum::<f32>() / want.len() as f32).sqrt();
        for &dtype in dtypes {
            let allowed = match dtype {
                DType::F16 => 5e-3,
                DType::Bf16 => 4e-2,
                _ => 2e-5,
            };
            cuda.dtype = dtype;
            let got = forced_logits(&load(&config, &cuda), task).unwrap().concat();
            assert_eq!(got.len(), want.len());
            let error = got.iter().zip(&want).map(|(g, w)| (g - w) * (g - w)).sum::<f32>();
            let error = (error / want.len() as f32).sqrt() / size;
            assert!(error <= allowed, "{dtype}: {error}");
            assert!(dtype == DType::F32 || error > 1e-6, "{dtype} is not what was computed in");
        }
    }
}

/// umT5: every layer has a bias of its own.
#[test]
fn biases_by_layer_are_the_cpus() {
    let Some(cuda) = card() else { return };
    let cpu = Cpu::new();
    let config = Config { bias_by_layer: true, ..config(true, 64) };
    let (on_cpu, on_cuda) = (load(&config, &cpu), load(&config, &cuda));
    let task = &tasks()[..1];
    let want = forced_logits(&on_cpu, task).unwrap().concat();
    let got = forced_logits(&on_cuda, task).unwrap().concat();
    let error = got.iter().zip(&want).map(|(g, w)| (g - w) * (g - w)).sum::<f32>();
    let size = want.iter().map(|x| x * x).sum::<f32>();
    assert!((error / size).sqrt() <= 2e-5, "{error} of {size}");
    let limits = Limits { max_new_tokens: 5, stop_at_eos: false, batch_rows: None };
    let (want, _) = run(&on_cpu, Method::Pid, limits);
    assert_eq!(run(&on_cuda, Method::Pid, limits).0, want);
}

/// Activations past f16's largest number are an error; bf16 holds them.
#[test]
fn overflow_is_an_error() {
    /// The feed-forward's first matrix is large, and what it gives is larger.
    struct Loud(Lively);

    impl Source for Loud {
        fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
            let factor = if name.ends_with(".wi.weight") { 1e5 } else { 1.0 };
            Ok(self.0.take(name, shape)?.into_iter().map(|x| x * factor).collect())
        }
    }

    let config = Config { encoder_layers: 1, decoder_layers: 1, ..config(false, 64) };
    let limits = Limits { max_new_tokens: 2, stop_at_eos: true, batch_rows: None };
    for (products, mut cuda) in cards() {
        let mut answer = |dtype| {
            cuda.dtype = dtype;
            let mut source = Loud(Lively(Random::new(3, config.d_kv)));
            let hidden = ProgressBar::hidden();
            let model = Model::load(config.clone(), config.readings[0], &mut source, &cuda, &hidden).unwrap();
            generate(&model, Method::Pid, &tasks(), limits, 1, &hidden).map(|_| ()).map_err(|e| e.to_string())
        };
        assert_eq!(answer(DType::F16), Err(overflow().to_string()), "{products:?}");
        assert_eq!(answer(DType::Bf16), Ok(()), "{products:?}");
    }
}

/// A batch that is run again gives the same, whether its steps were recorded whole or rows had left the batch.
#[test]
fn a_batch_can_be_run_again() {
    fn check<B: Backend>(model: &mut Model<'_, B>, limits: Limits, eos: u32) {
        model.config.rules.ends = vec![eos];
        let mut session = Session::new(model, Method::PidReplicated, &tasks(), limits).unwrap();
        let first = session.run(&ProgressBar::hidden()).unwrap();
        assert!(first.1.setup > std::time::Duration::ZERO);
        // The second run may place what the first one left; the third needs nothing new.
        let [second, third] = [0, 1].map(|_| session.run(&ProgressBar::hidden()).unwrap());
        for (outputs, stats) in [&second, &third] {
            assert_eq!(outputs, &first.0);
            assert_eq!(stats.setup, std::time::Duration::ZERO);
        }
        assert_eq!(third.1.peak_bytes, second.1.peak_bytes);
    }
    let (cuda, cpu) = (card(), Cpu::new());
    let config = config(false, 64);
    let mut on_cpu = load(&config, &cpu);
    let limits = Limits { max_new_tokens: 9, stop_at_eos: false, batch_rows: None };
    let eos = telling_eos(&run(&on_cpu, Method::Pid, limits).0);
    for stop_at_eos in [false, true] {
        let limits = Limits { stop_at_eos, ..limits };
        check(&mut on_cpu, limits, eos);
        if let Some(cuda) = &cuda {
            check(&mut load(&config, cuda), limits, eos);
        }
    }
}

/// A step is called twice, once to try it and once to record it, however often it runs.
#[test]
fn steps_are_recorded_and_replayed() {
    let Some(cuda) = card() else { return };
    let config = Config { encoder_layers: 1, decoder_layers: 1, ..config(false, 64) };
    let model = load(&config, &cuda);
    let task = &tasks()[0];
    let keys = task.input.len();
    let mut memory = model.memory([keys].into_iter()).unwrap();
    model.encode(&[(0, &task.input)], &mut memory, &ProgressBar::hidden()).unwrap();
    let tokens = [vec![0u32], vec![0, 5]];
    let spec = RowsSpec { slots: 2, most_tokens: 2, max_new_tokens: 9, ..RowsSpec::default() };
    let mut decoding = model.begin(spec).unwrap();
    let seat = |slot| Seat { row: BatchRow { slot, begins: Some(&tokens[slot]) }, place: 0, keys };
    assert!(!model.seat(&mut decoding, &memory, &[0, 1].map(seat)).unwrap());
    model.step(&mut decoding, &memory).unwrap();
    let (mut calls, mut recording) = (0, None);
    for times in [3, 4, 1] {
        cuda.repeat(&mut recording, times, &mut || {
            calls += 1;
            model.step(&mut decoding, &memory)
        })
        .unwrap();
    }
    assert_eq!(calls, 2);
    let lengths: Vec<usize> = model.outputs(&decoding).unwrap().iter().map(Vec::len).collect();
    assert_eq!(lengths, [9, 9]);
}

/// What a device cannot hold is an error, and the next request is served.
#[test]
fn out_of_memory_leaves_a_usable_process() {
    let Some(cuda) = card() else { return };
    let error = cuda.pool.keep(1 << 50).err().unwrap().to_string();
    assert!(error.starts_with("out of device memory: asked for 1125899906842624 bytes, "), "{error}");
    let config = Config { encoder_layers: 1, decoder_layers: 1, ..config(false, 64) };
    let model = load(&config, &cuda);
    let limits = Limits { max_new_tokens: 2, stop_at_eos: false, batch_rows: None };
    // Midway: the caches of a row of this length.
    let long = Limits { max_new_tokens: 1 << 20, ..limits };
    let many = Task { input: vec![3], prompts: vec![vec![]; 2000] };
    let error = Session::new(&model, Method::Pid, &[many], long).err().unwrap().to_string();
    assert!(error.starts_with("out of device memory"), "{error}");
    cuda.release().unwrap();
    assert_eq!(run(&model, Method::Pid, limits).1.new_tokens, 12);
}

/// Shapes that the kernels are not there for, and cards.
#[test]
fn what_cuda_cannot_take_is_named() {
    let capable = |version| crate::backend::cuda::driver::capable("T4", version);
    assert!(capable((8, 0)).is_ok());
    let error = capable((7, 5)).unwrap_err().to_string();
    assert!(error.contains("T4 has compute capability 7.5, allowed: 8.0 or newer"), "{error}");
    let Some(cuda) = card() else { return };
    let text = |config: Config| cuda.head_dim(&config).unwrap_err().to_string();
    assert_eq!(text(config(true, 129)), "d_kv is 129, allowed on CUDA: at most 128");
    let odd = Config { d_model: 44, ..config(true, 64) };
    assert_eq!(text(odd), "d_model is 44, allowed on CUDA: a multiple of 8");
}

/// Random weights are the same for every backend, differ by tensor, and have the deviation that was asked for.
#[test]
fn random_weights_are_repeatable() -> Result<()> {
    let draw = || -> Result<[Vec<f32>; 2]> {
        let mut source = Random::new(1, 64);
        Ok([source.take("a.k.weight", &[300, 400])?, source.take("b.k.weight", &[300, 400])?])
    };
    let [a, b] = draw()?;
    assert_eq!([a.clone(), b.clone()], draw()?);
    assert_ne!(a, b);
    let deviation = (a.iter().map(|x| x * x).sum::<f32>() / a.len() as f32).sqrt();
    assert!((deviation * 20.0 - 1.0).abs() < 0.02, "{deviation}");
    // No row begins like another.
    let mut beginnings: Vec<[u32; 4]> =
        a.chunks_exact(400).map(|row| std::array::from_fn(|i| row[i].to_bits())).collect();
    beginnings.sort();
    beginnings.dedup();
    assert_eq!(beginnings.len(), 300);
    Ok(())
}

/// A whole run never needs more than was predicted before it was loaded.
#[test]
fn memory_stays_below_what_is_predicted() {
    let Some(cuda) = card() else { return };
    let config = config(true, 64);
    let model = load(&config, &cuda);
    let limits = Limits { max_new_tokens: 5, stop_at_eos: false, batch_rows: None };
    for method in [Method::Pid, Method::PidReplicated, Method::Pie] {
        let (_, stats) = run(&model, method, limits);
        let work = Workload { inputs: 4, prompts: 3, keys: 70, prompt_tokens: 6, new_tokens: 5 };
        let need = Need::new(method, &cost_shape(&model), &work, u64::MAX);
        let peak = stats.peak_bytes.unwrap() as u64;
        assert!(peak <= need.total(), "{method:?}: {peak} of {}", need.total());
        assert!(peak > need.weights, "{method:?}");
    }
}
