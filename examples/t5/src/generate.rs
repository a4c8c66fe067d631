//! Greedy decoding of many prompts over each input.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use indicatif::ProgressBar;
use onekv_cost::{Method, places};

use crate::backend::{Backend, BatchRow, RowsSpec};
use crate::config::{Config, Rules};
use crate::model::{Decoding, Memory, Model, Seat};
use crate::schedule::{Entered, Schedule, Seated};

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

/// When to stop, and how much at once.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub max_new_tokens: usize,
    /// Off for benchmarks on random weights, whose EOS means nothing.
    pub stop_at_eos: bool,
    /// The most rows that are decoded at once; `None` for all.
    pub batch_rows: Option<usize>,
}

/// What decoding took.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    pub encoder_tokens: usize,
    /// Bytes of the cross-attention K/V of all layers that is read, as allocated.
    pub cross_kv_bytes: usize,
    pub rows: usize,
    /// The most rows that were decoded at once, and how often rows entered.
    pub batch_rows: usize,
    pub admissions: usize,
    pub new_tokens: usize,
    /// Taking memory and planning; nothing where a batch is run again.
    pub setup: Duration,
    pub encode: Duration,
    /// Copying K/V for every prompt.
    pub copy: Duration,
    /// Passes in which rows begin.
    pub prefill: Duration,
    pub decode: Duration,
    /// Steps of the batch at its fullest, each the mean between two looks at it.
    pub steps: Vec<Duration>,
    pub peak_bytes: Option<usize>,
    /// What every counted run took in all.
    pub totals: Vec<Duration>,
}

impl Stats {
    pub fn total(&self) -> Duration {
        self.setup + self.encode + self.copy + self.prefill + self.decode
    }

    /// The median decode step, where the batch took one at its fullest.
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
    let below = |name: String, ids: &[u32]| match ids.iter().position(|&id| id as usize >= vocab) {
        Some(at) => bail!("{name}[{at}] is {}, allowed: 0 to {}", ids[at], vocab - 1),
        None => Ok(()),
    };
    for (t, task) in tasks.iter().enumerate() {
        if task.input.is_empty() {
            bail!("input_ids is empty, allowed: at least one token (input {t})");
        }
        below("input_ids".into(), &task.input)?;
        let mut prompts = task.prompts.iter().enumerate();
        prompts.try_for_each(|(p, prompt)| below(format!("prompts[{p}]"), prompt))?;
    }
    Ok(())
}

/// Inputs and prompts with the memory to answer them: what an engine keeps for the next ones of the same shape.
pub struct Session<'m, 'b, B: Backend> {
    model: &'m Model<'b, B>,
    /// Prompts of every task as it was asked.
    prompts: Vec<usize>,
    /// What is encoded: the tasks that have prompts, or with the prompts in the encoder one for each prompt.
    tasks: Vec<Task>,
    /// `[start] + prompt` of every row.
    tokens: Vec<Vec<u32>>,
    max_new_tokens: usize,
    /// All rows wait.
    schedule: Schedule,
    memory: Memory<B>,
    /// A copy of the K/V for every row, by slot.
    copies: Option<Memory<B>>,
    decoding: Decoding<B>,
    recording: Option<B::Recording>,
    setup: Duration,
}

impl<'m, 'b, B: Backend> Session<'m, 'b, B> {
    /// Takes the memory for answering all prompts of all inputs by one method, as many rows at once as the limits say.
    pub fn new(model: &'m Model<'b, B>, method: Method, tasks: &[Task], limits: Limits) -> Result<Self> {
        check(&model.config, tasks, limits)?;
        let start = Instant::now();
        let prompts: Vec<usize> = tasks.iter().map(|task| task.prompts.len()).collect();
        let tasks: Vec<Task> = match method {
            Method::Pie => tasks.iter().flat_map(Task::prompts_in_encoder).collect(),
            Method::Pid | Method::PidReplicated => {
                tasks.iter().filter(|task| !task.prompts.is_empty()).cloned().collect()
            }
        };
        let start_token = [model.config.decoder_start];
        let tokens_of = |prompt: &Vec<u32>| [&start_token, prompt.as_slice()].concat();
        let rows_of = |(input, task): (usize, &Task)| {
            task.prompts.iter().map(|prompt| (input, tokens_of(prompt))).collect::<Vec<_>>()
        };
        let (inputs, tokens): (Vec<usize>, Vec<Vec<u32>>) =
            tasks.iter().enumerate().flat_map(rows_of).unzip();
        let at_once = limits.batch_rows.unwrap_or(usize::MAX);
        let slots = at_once.min(tokens.len());
        let lengths: Vec<usize> = tasks.iter().map(|task| task.input.len()).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let most_prompts = tasks.iter().map(|task| task.prompts.len()).max().unwrap_or(0);
        let places = places(tasks.len() as u64, most_prompts as u64, at_once as u64) as usize;
        // A place of its own for each input, where that takes no more than places that any of them can take.
        let own = lengths.iter().sum::<usize>() <= longest * places;
        let room = if own { lengths.clone() } else { vec![longest; places] };
        let places = room.len();
        let memory = model.memory(room.into_iter())?;
        // Slots are taken in order: where there is one for each row, it is that row's.
        let of_slot = |slot| if slots == inputs.len() { lengths[inputs[slot]] } else { longest };
        let copies = match method {
            Method::PidReplicated => Some(model.memory((0..slots).map(of_slot))?),
            Method::Pid | Method::Pie => None,
        };
        let decoding = model.begin(RowsSpec {
            slots,
            most_tokens: tokens.iter().map(Vec::len).max().unwrap_or(0),
            max_new_tokens: limits.max_new_tokens,
            rules: if limits.stop_at_eos { model.config.rules.clone() } else { Rules::default() },
            ..RowsSpec::default()
        })?;
        let mut session = Self {
            model,
            prompts,
            tasks,
            tokens,
            max_new_tokens: limits.max_new_tokens,
            schedule: Schedule::new(inputs, slots, places),
            memory,
            copies,
            decoding,
            recording: None,
            setup: Duration::ZERO,
        };
        // Plans the first batch.
        let mut schedule = session.schedule.clone();
        let entered = schedule.enter();
        session.seat(&mut schedule, &entered)?;
        model.backend.synchronize()?;
        session.setup = start.elapsed();
        Ok(session)
    }

    /// Answers all prompts, again if they were answered before. Each row ends at its own EOS.
    pub fn run(&mut self, progress: &ProgressBar) -> Result<(Outputs, Stats)> {
        let mut stats = Stats { setup: std::mem::take(&mut self.setup), ..Stats::default() };
        let mut outputs = vec![Vec::new(); self.tokens.len()];
        if self.max_new_tokens > 0 {
            let encoded: usize = self.tasks.iter().map(|task| task.input.len()).sum();
            progress.reset();
            progress.set_length((encoded + outputs.len() * self.max_new_tokens) as u64);
            let mut schedule = self.schedule.clone();
            while self.admit(&mut schedule, &mut stats, progress)? {
                let ended = self.decode(schedule.entered, &mut stats, progress)?;
                for (seated, ids) in schedule.batch.iter().zip(&ended) {
                    outputs[seated.row] = ids.clone().unwrap_or_default();
                }
                schedule.leave(&ended.iter().map(Option::is_some).collect::<Vec<_>>());
            }
            progress.finish_and_clear();
        }
        stats.rows = outputs.len();
        stats.new_tokens = outputs.iter().map(Vec::len).sum();
        stats.peak_bytes = self.model.backend.memory()?.map(|memory| memory.peak);
        let mut outputs = outputs.into_iter();
        Ok((self.prompts.iter().map(|rows| outputs.by_ref().take(*rows).collect()).collect(), stats))
    }

    /// Lets rows enter, encodes their inputs and takes the pass in which they begin, while the others go on; whether
    /// the batch has rows.
    fn admit(&mut self, schedule: &mut Schedule, stats: &mut Stats, progress: &ProgressBar) -> Result<bool> {
        let (model, backend) = (self.model, self.model.backend);
        let begins = schedule.entered == 0;
        let entered = schedule.enter();
        if schedule.batch.is_empty() {
            return Ok(false);
        }
        let (planned_before, seat) = timed(backend, || self.seat(schedule, &entered))?;
        // A session that is run again begins with the batch that it began with before.
        let as_recorded = begins && planned_before;
        if !as_recorded {
            self.recording = None;
        }
        if entered.rows.is_empty() {
            stats.decode += seat;
            return Ok(true);
        }
        if !as_recorded {
            backend.trim();
        }
        progress.set_message("encoding");
        let inputs: Vec<(usize, &[u32])> = entered
            .inputs
            .iter()
            .map(|(input, place)| (*place, self.tasks[*input].input.as_slice()))
            .collect();
        let memory = &mut self.memory;
        let ((), encode) = timed(backend, || model.encode(&inputs, memory, progress))?;
        stats.encoder_tokens += inputs.iter().map(|(_, ids)| ids.len()).sum::<usize>();
        stats.encode += encode;
        if let Some(copies) = &mut self.copies {
            let (memory, tasks) = (&self.memory, &self.tasks);
            let mut new = schedule.batch.iter().filter(|seated| entered.rows.contains(&seated.row));
            let copy = |seated: &Seated| {
                model.copy(memory, seated.place, tasks[seated.input].input.len(), copies, seated.slot)
            };
            let ((), copy) = timed(backend, || new.try_for_each(copy))?;
            stats.copy += copy;
        }
        progress.set_message("decoding");
        let memory = self.copies.as_ref().unwrap_or(&self.memory);
        let ((), prefill) = timed(backend, || model.step(&mut self.decoding, memory))?;
        stats.prefill += seat + prefill;
        stats.cross_kv_bytes = model.cross_kv_bytes(memory);
        if schedule.batch.len() > stats.batch_rows {
            stats.batch_rows = schedule.batch.len();
            stats.steps.clear();
        }
        stats.admissions += 1;
        Ok(true)
    }

    /// Makes the scheduled rows the batch; whether recorded steps are still what steps do.
    fn seat(&mut self, schedule: &mut Schedule, entered: &Entered) -> Result<bool> {
        let copied = self.copies.is_some();
        let place = |seated: &Seated| if copied { seated.slot } else { seated.place };
        schedule.batch.sort_by_key(|seated| (place(seated), seated.row));
        let seat = |seated: &Seated| Seat {
            row: BatchRow {
                slot: seated.slot,
                begins: entered.rows.contains(&seated.row).then(|| self.tokens[seated.row].as_slice()),
            },
            place: place(seated),
            keys: self.tasks[seated.input].input.len(),
        };
        let seats: Vec<Seat<'_>> = schedule.batch.iter().map(seat).collect();
        self.model.seat(&mut self.decoding, self.copies.as_ref().unwrap_or(&self.memory), &seats)
    }

    /// Takes steps until rows leave: the outputs of those that have ended, by row of the batch. `entered` rows are in
    /// the batch or behind it.
    fn decode(
        &mut self,
        entered: usize,
        stats: &mut Stats,
        progress: &ProgressBar,
    ) -> Result<Vec<Option<Vec<u32>>>> {
        let (model, backend) = (self.model, self.model.backend);
        let memory = self.copies.as_ref().unwrap_or(&self.memory);
        let start = Instant::now();
        let mut left = model.left(&self.decoding)?;
        loop {
            let (rows, live) = (left.len(), left.iter().filter(|left| **left > 0).count());
            let produced = entered * self.max_new_tokens - left.iter().sum::<usize>();
            progress.set_position((stats.encoder_tokens + produced) as u64);
            if live == 0 || (live < rows && live as f64 <= B::DROP_AT * rows as f64) {
                let outputs = model.outputs(&self.decoding)?;
                stats.decode += start.elapsed();
                return Ok(left.iter().zip(outputs).map(|(left, ids)| (*left == 0).then_some(ids)).collect());
            }
            let most = left.iter().copied().max().unwrap_or(0);
            let times = B::STEPS_PER_LOOK.min(most);
            let look = Instant::now();
            backend.repeat(&mut self.recording, times, &mut || model.step(&mut self.decoding, memory))?;
            left = model.left(&self.decoding)?;
            if left.iter().any(|left| *left > most - times) {
                bail!(
                    "a row has {left:?} tokens to go after {times} steps, allowed: at most {}",
                    most - times
                );
            }
            if rows == stats.batch_rows {
                stats.steps.push(look.elapsed() / times as u32);
            }
        }
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

/// Teacher-forced logits of every prompt of every task, in order, each `[1 + len(prompt), vocab]`; all in one batch.
pub fn forced_logits<B: Backend>(model: &Model<'_, B>, tasks: &[Task]) -> Result<Vec<Vec<f32>>> {
    let limits = Limits { max_new_tokens: 1, stop_at_eos: false, batch_rows: None };
    let mut session = Session::new(model, Method::Pid, tasks, limits)?;
    if session.tokens.is_empty() {
        return Ok(Vec::new());
    }
    // The session has seated its first batch: all prompts, each input in a place of its own.
    let Session { tasks, memory, decoding, tokens, .. } = &mut session;
    let inputs: Vec<(usize, &[u32])> = tasks.iter().map(|task| task.input.as_slice()).enumerate().collect();
    model.encode(&inputs, memory, &ProgressBar::hidden())?;
    let mut x = model.pass(decoding, memory)?;
    let logits = model.backend.to_host(&model.logits(&mut x)?)?;
    let mut rest = &logits[..];
    let of_row =
        |ids: &Vec<u32>| rest.split_off(..ids.len() * model.config.vocab).unwrap_or_default().to_vec();
    Ok(tokens.iter().map(of_row).collect())
}
