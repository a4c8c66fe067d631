//! Batches that rows enter while others go on: the ids are those of all rows at once.

use std::collections::BTreeSet;

use indicatif::ProgressBar;
use onekv::DType;
use onekv::plan::PlanOptions;
use onekv_cost::{Method, Need, REST, Workload, most_rows};

use crate::arguments::Products;
use crate::backend::Backend;
use crate::backend::cpu::Cpu;
use crate::config::Config;
use crate::generate::{Limits, Outputs, Session, Stats, Task, forced_logits, generate};
use crate::model::Model;
use crate::models::{config, cost_shape, load};
use crate::support::{card, cards, dtypes, stand_in};

const METHODS: [Method; 3] = [Method::Pid, Method::PidReplicated, Method::Pie];

/// Inputs of unlike length, the longest neither first nor last; prompts of unlike length and number: an input without
/// prompts, prompts without tokens, an input with more prompts than most limits.
fn tasks() -> Vec<Task> {
    let ids =
        |n: usize, seed: usize| (0..n).map(|i| (3 + (i * 37 + seed * 11) % 97) as u32).collect::<Vec<u32>>();
    let task = |n: usize, seed: usize, prompts: &[usize]| Task {
        input: ids(n, seed),
        prompts: prompts.iter().enumerate().map(|(p, n)| ids(*n, seed * 7 + p)).collect(),
    };
    vec![
        task(30, 1, &[2, 0]),
        task(3, 2, &[]),
        task(41, 3, &[1, 4, 0, 2, 3]),
        task(1, 4, &[0]),
        task(36, 5, &[3, 1, 1]),
        task(28, 6, &[5, 0, 1]),
    ]
}

const ROWS: usize = 14;
/// The most prompts of an input.
const MOST_PROMPTS: usize = 5;

fn run<B: Backend>(model: &Model<'_, B>, method: Method, limits: Limits) -> (Outputs, Stats) {
    generate(model, method, &tasks(), limits, 1, &ProgressBar::hidden()).unwrap()
}

/// The id at whose first appearance the most rows end early while as many go on: half of a batch is then left, and
/// what enters does so beside it.
fn halving_eos(outputs: &Outputs) -> u32 {
    let rows = || outputs.iter().flatten();
    let ends = |id: u32| {
        let ends: Vec<_> = rows().filter_map(|ids| ids.iter().position(|x| *x == id)).collect();
        let early = ends.iter().filter(|end| **end < 4).count();
        (early.min(ROWS - early), ends.into_iter().collect::<BTreeSet<_>>().len(), id)
    };
    rows().flatten().map(|id| ends(*id)).max().unwrap().2
}

/// `limits` with every one of `batch_rows`, against all rows at once.
fn check<B: Backend>(
    model: &Model<'_, B>,
    method: Method,
    limits: Limits,
    want: &Outputs,
    batch_rows: impl Iterator<Item = usize>,
) {
    let tokens: usize = tasks().iter().filter(|t| !t.prompts.is_empty()).map(|t| t.input.len()).sum();
    for most in batch_rows {
        let what = format!("{method:?}, {most} rows of {ROWS} at once");
        let limits = Limits { batch_rows: Some(most), ..limits };
        let mut session = Session::new(model, method, &tasks(), limits).unwrap();
        // Again: in the slots and places that the last rows left.
        let [(outputs, stats), (again, _)] = [0, 1].map(|_| session.run(&ProgressBar::hidden()).unwrap());
        assert_eq!(&outputs, want, "{what}");
        assert_eq!(&again, want, "{what}, again");
        assert_eq!(stats.rows, ROWS, "{what}");
        // Places are counted as if every input had the most prompts: with fewer, some slots stay empty.
        let full = most.min(ROWS);
        let fullest = if method == Method::Pie { full..=full } else { full.min(MOST_PROMPTS)..=full };
        assert!(fullest.contains(&stats.batch_rows), "{what}: {}", stats.batch_rows);
        assert_eq!(stats.admissions > 1, stats.batch_rows < ROWS, "{what}: {} admissions", stats.admissions);
        assert_eq!(stats.new_tokens, want.iter().flatten().map(Vec::len).sum::<usize>(), "{what}");
        if method != Method::Pie {
            assert_eq!(stats.encoder_tokens, tokens, "{what}");
        }
        // With an EOS there may be none at the fullest.
        assert!(limits.stop_at_eos || !stats.steps.is_empty(), "{what}");
    }
}

/// From one row at a time to all, by every method; to the last token and to an EOS that rows meet at different steps,
/// so that they leave, and others enter, in any order.
#[test]
fn ids_do_not_depend_on_the_limit() {
    let (cuda, cpu) = (card(), Cpu::new());
    // The virtual card is slow.
    let config = Config { encoder_layers: 1, decoder_layers: 1, ..config(true, 64) };
    let mut on_cpu = load(&config, &cpu);
    let mut on_cuda = cuda.as_ref().map(|cuda| load(&config, cuda));
    for method in METHODS {
        let limits = Limits { max_new_tokens: 6, stop_at_eos: false, batch_rows: None };
        let (want, _) = run(&on_cpu, method, limits);
        check(&on_cpu, method, limits, &want, 1..=ROWS + 1);
        let eos = halving_eos(&want);
        on_cpu.config.rules.ends = vec![eos];
        let limits = Limits { stop_at_eos: true, ..limits };
        let (want, _) = run(&on_cpu, method, limits);
        let lengths: BTreeSet<usize> = want.iter().flatten().map(Vec::len).collect();
        assert!(lengths.len() >= 2, "{method:?}: all rows are {lengths:?} long");
        check(&on_cpu, method, limits, &want, 1..=ROWS + 1);
        if let Some(on_cuda) = &mut on_cuda {
            on_cuda.config.rules.ends = vec![eos];
            check(on_cuda, method, limits, &want, [2, 7].into_iter());
        }
    }
}

/// An input's logits, of all its prompts, have the same bits alone and between others: on one thread, where no keys are split,
/// and on a card with the split and the tile fixed.
#[test]
fn bits_do_not_depend_on_the_batch() {
    let config = Config { encoder_layers: 1, decoder_layers: 1, ..config(true, 64) };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    pool.install(|| bits(&load(&config, &Cpu::new()), "cpu"));
    for (products, mut cuda) in cards() {
        // NVIDIA's library takes algorithms by the number of rows, whose sums round in other orders.
        if products == Products::Cublaslt && stand_in().is_none() {
            continue;
        }
        cuda.plans = PlanOptions::default().with_split_keys(64).with_tile_rows(16);
        for &dtype in dtypes(products) {
            cuda.dtype = dtype;
            bits(&load(&config, &cuda), &format!("{products:?}, {dtype}"));
        }
    }
}

fn bits<B: Backend>(model: &Model<'_, B>, what: &str) {
    let mut tasks = tasks();
    // Of more keys than a split has.
    tasks[2].input = [&tasks[2].input[..], &tasks[0].input, &tasks[4].input].concat();
    let logits = |tasks: &[Task]| {
        let logits = forced_logits(model, tasks).unwrap();
        logits.iter().map(|row| row.iter().map(|x| x.to_bits()).collect()).collect::<Vec<Vec<u32>>>()
    };
    let mut all = logits(&tasks).into_iter();
    for (i, task) in tasks.iter().enumerate() {
        let among: Vec<_> = all.by_ref().take(task.prompts.len()).collect();
        let alone = logits(&tasks[i..=i]);
        assert!(alone == among, "{what}: others changed input {i}'s bits");
    }
}

/// Room is for as many inputs as rows that stand one after the other can be of, each as long as the longest, or for all
/// where that is less; for copies by row. What lies behind a shorter input is never used, in no type.
#[test]
fn kv_has_room_for_what_is_there_at_once() {
    let key = 2 * 128 * 4 * 2;
    let cpu = Cpu::new();
    let model = load(&config(true, 64), &cpu);
    for (method, batch_rows, keys) in [
        (Method::Pid, 1, 41),
        (Method::Pid, 6, 2 * 41),
        (Method::Pid, 7, 3 * 41),
        (Method::Pid, 12, 30 + 41 + 1 + 36 + 28),
        (Method::Pid, 1000, 30 + 41 + 1 + 36 + 28),
        (Method::PidReplicated, 4, 4 * 41),
        (Method::PidReplicated, ROWS, 2 * 30 + 5 * 41 + 1 + 3 * 36 + 3 * 28),
        // The longest input and its longest prompt.
        (Method::Pie, 4, 4 * 45),
    ] {
        let limits = Limits { max_new_tokens: 2, stop_at_eos: false, batch_rows: Some(batch_rows) };
        assert_eq!(run(&model, method, limits).1.cross_kv_bytes, keys * key, "{method:?} {batch_rows}");
    }
    let Some(mut cuda) = card() else { return };
    for dtype in [DType::F16, DType::Bf16] {
        cuda.dtype = dtype;
        let model = load(&config(true, 64), &cuda);
        let limits = Limits { max_new_tokens: 3, stop_at_eos: false, batch_rows: Some(6) };
        assert_eq!(run(&model, Method::Pid, limits).1.new_tokens, 3 * ROWS, "{dtype}");
    }
}

/// A run within a limit needs at most what was predicted for it, however many rows of unlike length enter, and less
/// than all at once; the limit that is offered is the largest that fits.
#[test]
fn memory_stays_below_what_the_limit_needs() {
    let cpu = Cpu::new();
    let shape = cost_shape(&load(&config(true, 64), &cpu));
    let work =
        Workload { inputs: 6, prompts: MOST_PROMPTS as u64, keys: 41, prompt_tokens: 5, new_tokens: 4 };
    for method in METHODS {
        let need = |rows| Need::new(method, &shape, &work, rows).total();
        assert_eq!(need(30), need(u64::MAX), "{method:?}");
        for rows in [1, 4, 13] {
            let fits = most_rows(method, &shape, &work, need(rows));
            assert!(
                fits >= rows && need(fits) == need(rows) && need(fits + 1) > need(rows),
                "{method:?} {rows}"
            );
        }
        assert_eq!(most_rows(method, &shape, &work, need(1) - 1), 0);
    }
    let Some(cuda) = card() else { return };
    let workspace = cuda.pool.peak();
    let config = Config { encoder_layers: 1, decoder_layers: 1, ..config(true, 64) };
    let model = load(&config, &cuda);
    // Inputs that are encoded one after the other take what the longest alone takes.
    let mut memory = model.memory([64; 4].into_iter()).unwrap();
    let mut peak_of = |lengths: &[usize]| {
        let ids = [5; 64];
        let inputs: Vec<(usize, &[u32])> = (0..).zip(lengths.iter().map(|n| &ids[..*n])).collect();
        cuda.release().unwrap();
        model.encode(&inputs, &mut memory, &ProgressBar::hidden()).unwrap();
        cuda.memory().unwrap().unwrap().peak
    };
    let (several, longest) = (peak_of(&[40, 63, 33, 20]), peak_of(&[63]));
    // And the list of tiles of the one before.
    assert!(several <= longest + 512, "{several}, the longest alone {longest}");
    drop(memory);
    cuda.release().unwrap();
    // Passes of ever other sizes, run again.
    let task = |i: usize| Task {
        input: vec![5; 3 + i * 29 % 64],
        prompts: vec![vec![6; i * 5 % 9], vec![7; i * 7 % 10], vec![]],
    };
    let tasks: Vec<Task> = [2, 11, 0, 7, 4, 9].map(task).into();
    let work = Workload { inputs: 6, prompts: 3, keys: 66, prompt_tokens: 9, new_tokens: 2 };
    let limits = Limits { max_new_tokens: 2, stop_at_eos: false, batch_rows: None };
    for method in METHODS {
        for rows in [1, 5, 18] {
            let limits = Limits { batch_rows: Some(rows), ..limits };
            let mut session = Session::new(&model, method, &tasks, limits).unwrap();
            let [_, (_, stats)] = [0, 1].map(|_| session.run(&ProgressBar::hidden()).unwrap());
            drop(session);
            cuda.release().unwrap();
            let peak = (stats.peak_bytes.unwrap() - workspace) as u64;
            // What the formula sees does without the allowance for what it does not, as cublasLt's workspace.
            let need = Need::new(method, &cost_shape(&model), &work, rows as u64).total() - REST;
            assert!(peak <= need, "{method:?}, {rows} rows: {peak} of {need}");
        }
    }
}
