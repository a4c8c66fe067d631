//! Greedy decoding of many prompts over each input.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use indicatif::ProgressBar;

use onekv::cost::Method;

use crate::backend::{Backend, RowsSpec};
use crate::config::Config;
use crate::model::{Decoding, Memory, Model};

/// One input and its prompts, as token ids.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Encoder ids, the trailing EOS included.
    pub input: Vec<u32>,
    /// Decoder ids after the start token, per prompt; may be empty.
    pub prompts: Vec<Vec<u32>>,
}

impl Task {
    /// The same questions with the prompt in the encoder: an input of its own per prompt.
    pub fn prompts_in_encoder(&self) -> Vec<Self> {
        let with = |prompt: &Vec<u32>| Self {
            input: [prompt.as_slice(), &self.input].concat(),
            prompts: vec![Vec::new()],
        };
        self.prompts.iter().map(with).collect()
    }
}

/// When to stop.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub max_new_tokens: usize,
    /// Off for benchmarks on random weights, whose EOS means nothing.
    pub stop_at_eos: bool,
}

/// What decoding took.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    pub encoder_tokens: usize,
    /// Bytes of the cross-attention K/V of all layers that is read, as allocated.
    pub cross_kv_bytes: usize,
    pub rows: usize,
    pub new_tokens: usize,
    /// Taking memory and planning; nothing where a batch is run again.
    pub setup: Duration,
    pub encode: Duration,
    /// Copying K/V for every prompt.
    pub copy: Duration,
    pub prefill: Duration,
    pub decode: Duration,
    /// Steps of the whole batch, each the mean between two looks at it.
    pub steps: Vec<Duration>,
    pub peak_bytes: Option<usize>,
    /// What every counted run took in all.
    pub totals: Vec<Duration>,
}

impl Stats {
    pub fn total(&self) -> Duration {
        self.setup + self.encode + self.copy + self.prefill + self.decode
    }

    /// The median decode step, where the whole batch took one.
    pub fn step(&self) -> Option<Duration> {
        let mut steps = self.steps.clone();
        steps.sort();
        steps.get(steps.len() / 2).copied()
    }
}

/// New ids by task and prompt.
pub type Outputs = Vec<Vec<Vec<u32>>>;

/// The most tokens to decode per row: over this a request is a mistake.
const MAX_NEW_TOKENS: usize = 1 << 20;

/// Refuses tasks the model has no embedding for, and outputs of no end.
pub fn check(config: &Config, tasks: &[Task], limits: Limits) -> Result<()> {
    if limits.max_new_tokens > MAX_NEW_TOKENS {
        bail!("max_new_tokens is {}, allowed: at most {MAX_NEW_TOKENS}", limits.max_new_tokens);
    }
    let vocab = config.vocab;
    let over = |ids: &[u32]| ids.iter().position(|&id| id as usize >= vocab);
    for (t, task) in tasks.iter().enumerate() {
        if task.input.is_empty() {
            bail!("input_ids is empty, allowed: at least one token (input {t})");
        }
        if let Some(at) = over(&task.input) {
            bail!("input_ids[{at}] is {}, allowed: 0 to {}", task.input[at], vocab - 1);
        }
        for (p, prompt) in task.prompts.iter().enumerate() {
            if let Some(at) = over(prompt) {
                bail!("prompts[{p}][{at}] is {}, allowed: 0 to {}", prompt[at], vocab - 1);
            }
        }
    }
    Ok(())
}

/// A batch in its memory, planned: what an engine keeps for the next batch of the same shape.
pub struct Session<'m, 'b, B: Backend> {
    model: &'m Model<'b, B>,
    /// Prompts of every task as it was asked.
    prompts: Vec<usize>,
    /// What is encoded: the tasks, or with the prompts in the encoder one for each prompt.
    tasks: Vec<Task>,
    limits: Limits,
    memory: Memory<B>,
    /// A copy of the K/V for every prompt.
    copies: Option<Memory<B>>,
    decoding: Decoding<B>,
    recording: Option<B::Recording>,
    setup: Duration,
}

impl<'m, 'b, B: Backend> Session<'m, 'b, B> {
    /// Takes the memory for answering all prompts of all inputs together by one method.
    pub fn new(model: &'m Model<'b, B>, method: Method, tasks: &[Task], limits: Limits) -> Result<Self> {
        check(&model.config, tasks, limits)?;
        let start = Instant::now();
        let prompts: Vec<usize> = tasks.iter().map(|task| task.prompts.len()).collect();
        let tasks = match method {
            Method::Pie => tasks.iter().flat_map(Task::prompts_in_encoder).collect(),
            Method::Pid | Method::PidReplicated => tasks.to_vec(),
        };
        let memory = model.memory(tasks.iter().map(|task| task.input.len()))?;
        let tokens = decoder_ids(model.config.decoder_start, &tasks);
        let lengths = || tasks.iter().flat_map(|task| vec![task.input.len(); task.prompts.len()]);
        let copies = match method {
            Method::PidReplicated => Some(model.memory(lengths())?),
            Method::Pid | Method::Pie => None,
        };
        let inputs = match &copies {
            Some(_) => (0..tokens.len()).collect(),
            None => (0..tasks.len()).flat_map(|task| vec![task; tasks[task].prompts.len()]).collect(),
        };
        let eos = limits.stop_at_eos.then_some(model.config.eos);
        let spec = RowsSpec { tokens: &tokens, max_new_tokens: limits.max_new_tokens, eos };
        let decoding = model.begin(copies.as_ref().unwrap_or(&memory), inputs, spec)?;
        model.backend.synchronize()?;
        let setup = start.elapsed();
        Ok(Self { model, prompts, tasks, limits, memory, copies, decoding, recording: None, setup })
    }

    /// Answers the batch, again if it was answered before. Each row ends at its own EOS.
    pub fn run(&mut self, progress: &ProgressBar) -> Result<(Outputs, Stats)> {
        let mut stats = Stats { setup: std::mem::take(&mut self.setup), ..Stats::default() };
        let rows = self.prompts.iter().sum();
        let mut outputs = vec![Vec::new(); rows];
        if rows > 0 && self.limits.max_new_tokens > 0 {
            progress.reset();
            progress.set_length((self.tasks.len() + self.limits.max_new_tokens) as u64);
            self.encode(&mut stats, progress)?;
            outputs = self.decode(&mut stats, progress)?;
            progress.finish_and_clear();
        }
        stats.rows = rows;
        stats.new_tokens = outputs.iter().map(Vec::len).sum();
        stats.peak_bytes = self.model.backend.peak_bytes();
        let mut outputs = outputs.into_iter();
        Ok((self.prompts.iter().map(|rows| outputs.by_ref().take(*rows).collect()).collect(), stats))
    }

    fn encode(&mut self, stats: &mut Stats, progress: &ProgressBar) -> Result<()> {
        progress.set_message("encoding");
        let (model, backend) = (self.model, self.model.backend);
        let inputs: Vec<&[u32]> = self.tasks.iter().map(|task| task.input.as_slice()).collect();
        stats.encoder_tokens = inputs.iter().map(|ids| ids.len()).sum();
        let memory = &mut self.memory;
        ((), stats.encode) = timed(backend, || model.encode(&inputs, memory, progress))?;
        if let Some(copies) = &mut self.copies {
            let memory = &self.memory;
            ((), stats.copy) = timed(backend, || model.replicate(memory, &self.prompts, copies))?;
        }
        stats.cross_kv_bytes = model.cross_kv_bytes(self.copies.as_ref().unwrap_or(&self.memory));
        Ok(())
    }

    fn decode(&mut self, stats: &mut Stats, progress: &ProgressBar) -> Result<Vec<Vec<u32>>> {
        progress.set_message("decoding");
        let (model, backend) = (self.model, self.model.backend);
        let (memory, decoding) = (self.copies.as_ref().unwrap_or(&self.memory), &mut self.decoding);
        // The first step is over the start token and the prompt of every row, ragged, in one pass.
        let (same, prefill) = timed(backend, || {
            let same = model.restart(decoding, memory)?;
            model.step(decoding, memory)?;
            Ok(same)
        })?;
        stats.prefill = prefill;
        progress.inc(1);
        let mut recording = self.recording.take().filter(|_| same);

        let start = Instant::now();
        let mut left = self.limits.max_new_tokens - 1;
        let mut finished = model.finished(decoding)?;
        let mut whole = true;
        while left > 0 {
            let (rows, live) = (finished.len(), finished.iter().filter(|done| !**done).count());
            if live == 0 {
                break;
            }
            if live < rows && live as f64 <= B::DROP_AT * rows as f64 {
                let keep: Vec<bool> = finished.iter().map(|done| !done).collect();
                // What was recorded has the rows that go now.
                recording = None;
                model.retain(decoding, memory, &keep)?;
                whole = false;
            }
            let times = left.min(B::STEPS_PER_LOOK);
            let look = Instant::now();
            backend.repeat(&mut recording, times, &mut || model.step(decoding, memory))?;
            finished = model.finished(decoding)?;
            if whole {
                stats.steps.push(look.elapsed() / times as u32);
            }
            left -= times;
            progress.inc(times as u64);
        }
        let outputs = model.outputs(decoding)?;
        stats.decode = start.elapsed();
        self.recording = recording;
        Ok(outputs)
    }
}

/// Answers all prompts of all inputs by one method. Of several `runs` the first is one more that does not count, the
/// rest is in memory and recorded; the fastest is told.
pub fn generate<B: Backend>(
    model: &Model<'_, B>,
    method: Method,
    tasks: &[Task],
    limits: Limits,
    runs: usize,
    progress: &ProgressBar,
) -> Result<(Outputs, Stats)> {
    let mut session = Session::new(model, method, tasks, limits)?;
    let (outputs, mut best) = session.run(progress)?;
    let mut totals = vec![best.total()];
    if runs > 1 {
        totals.clear();
        for run in 0..runs {
            let (again, stats) = session.run(progress)?;
            if again != outputs {
                bail!("two runs of the same batch gave different outputs");
            }
            totals.push(stats.total());
            if run == 0 || stats.total() < best.total() {
                best = stats;
            }
        }
    }
    drop(session);
    model.backend.release()?;
    Ok((outputs, Stats { totals, ..best }))
}

/// The result of `work` and how long the device took for it.
fn timed<B: Backend, T>(backend: &B, work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let start = Instant::now();
    let result = work()?;
    backend.synchronize()?;
    Ok((result, start.elapsed()))
}

/// Teacher-forced logits of every prompt of `task`, each `[1 + len(prompt), vocab]`.
pub fn forced_logits<B: Backend>(model: &Model<'_, B>, task: &Task) -> Result<Vec<Vec<f32>>> {
    let limits = Limits { max_new_tokens: 1, stop_at_eos: false };
    check(&model.config, std::slice::from_ref(task), limits)?;
    if task.prompts.is_empty() {
        return Ok(Vec::new());
    }
    let mut memory = model.memory(std::iter::once(task.input.len()))?;
    model.encode(&[&task.input], &mut memory, &ProgressBar::hidden())?;
    let tokens = decoder_ids(model.config.decoder_start, std::slice::from_ref(task));
    let spec = RowsSpec { tokens: &tokens, max_new_tokens: 1, eos: None };
    let mut decoding = model.begin(&memory, vec![0; tokens.len()], spec)?;
    let x = model.pass(&mut decoding, &memory)?;
    let logits = model.backend.to_host(&model.logits(&x)?)?;
    let mut rest = &logits[..];
    let of_row =
        |ids: &Vec<u32>| rest.split_off(..ids.len() * model.config.vocab).unwrap_or_default().to_vec();
    Ok(tokens.iter().map(of_row).collect())
}

/// `[start] + prompt` of every row.
fn decoder_ids(start: u32, tasks: &[Task]) -> Vec<Vec<u32>> {
    tasks.iter().flat_map(|task| &task.prompts).map(|prompt| [&[start], prompt.as_slice()].concat()).collect()
}
