//! Greedy decoding of many prompts over each input.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use indicatif::ProgressBar;

use crate::backend::Backend;
use crate::model::Model;

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
#[derive(Debug, Clone, Copy, Default)]
pub struct Stats {
    pub encoder_tokens: usize,
    /// Bytes of the cross-attention K/V of all layers, as allocated.
    pub cross_kv_bytes: usize,
    pub new_tokens: usize,
    pub encode: Duration,
    pub prefill: Duration,
    pub decode: Duration,
}

impl Stats {
    pub fn total(&self) -> Duration {
        self.encode + self.prefill + self.decode
    }
}

/// The most tokens to decode per row: over this a request is a mistake.
const MAX_NEW_TOKENS: usize = 1 << 20;

/// Refuses tasks the model has no embedding for.
fn check<B: Backend>(model: &Model<'_, B>, tasks: &[Task]) -> Result<()> {
    let vocab = model.config.vocab;
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

/// Rows still being decoded, in the order of their inputs.
struct Row {
    task: usize,
    prompt: usize,
}

/// Encodes every input once and decodes all prompts of all inputs together. Each row ends at its
/// own EOS and then leaves the batch. Returns the new ids by task and prompt.
pub fn generate<B: Backend>(
    model: &Model<'_, B>,
    backend: &B,
    tasks: &[Task],
    limits: Limits,
    progress: &ProgressBar,
) -> Result<(Vec<Vec<Vec<u32>>>, Stats)> {
    check(model, tasks)?;
    if limits.max_new_tokens > MAX_NEW_TOKENS {
        bail!("max_new_tokens is {}, allowed: at most {MAX_NEW_TOKENS}", limits.max_new_tokens);
    }
    let mut outputs: Vec<Vec<Vec<u32>>> =
        tasks.iter().map(|task| vec![Vec::new(); task.prompts.len()]).collect();
    let mut rows: Vec<Row> = (0..tasks.len())
        .flat_map(|task| (0..tasks[task].prompts.len()).map(move |prompt| Row { task, prompt }))
        .collect();
    let mut stats = Stats::default();
    if rows.is_empty() || limits.max_new_tokens == 0 {
        return Ok((outputs, stats));
    }
    progress.set_length((tasks.len() + limits.max_new_tokens) as u64);

    let start = Instant::now();
    let inputs: Vec<&[u32]> = tasks.iter().map(|task| task.input.as_slice()).collect();
    progress.set_message("encoding");
    let memory = model.encode(&inputs, progress);
    stats.encode = start.elapsed();
    stats.encoder_tokens = inputs.iter().map(|ids| ids.len()).sum();
    stats.cross_kv_bytes = model.cross_kv_bytes(&memory);

    // Prefill: the start token and the prompt of every row, ragged, in one pass.
    let (mut tokens, mut counts) = decoder_ids(model.config.decoder_start, tasks);
    let longest = counts.iter().max().unwrap_or(&1) + limits.max_new_tokens;
    let mut decoding = model.begin(rows.len(), longest);
    progress.set_message("decoding");
    for step in 0..limits.max_new_tokens {
        let start = Instant::now();
        let mut per_input = vec![0; tasks.len()];
        rows.iter().for_each(|row| per_input[row.task] += 1);
        let hidden = model.decode(&mut decoding, &memory, &tokens, &counts, &per_input)?;
        let ids = backend.argmax(&model.logits(&hidden, &last_positions(&counts)));
        let keep: Vec<bool> = ids.iter().map(|id| !(limits.stop_at_eos && *id == model.config.eos)).collect();
        for (row, id) in rows.iter().zip(&ids) {
            outputs[row.task][row.prompt].push(*id);
        }
        stats.new_tokens += ids.len();
        if keep.contains(&false) {
            let mut it = keep.iter();
            rows.retain(|_| it.next().copied().unwrap_or(false));
            model.retain(&mut decoding, &keep);
        }
        tokens = ids.iter().zip(&keep).filter(|(_, keep)| **keep).map(|(id, _)| *id).collect();
        counts = vec![1; tokens.len()];
        *(if step == 0 { &mut stats.prefill } else { &mut stats.decode }) += start.elapsed();
        progress.inc(1);
        if rows.is_empty() {
            break;
        }
    }
    progress.finish_and_clear();
    Ok((outputs, stats))
}

/// Teacher-forced logits of every prompt of `task`, each `[1 + len(prompt), vocab]`.
pub fn forced_logits<B: Backend>(model: &Model<'_, B>, backend: &B, task: &Task) -> Result<Vec<Vec<f32>>> {
    check(model, std::slice::from_ref(task))?;
    if task.prompts.is_empty() {
        return Ok(Vec::new());
    }
    let memory = model.encode(&[&task.input], &ProgressBar::hidden());
    let (tokens, counts) = decoder_ids(model.config.decoder_start, std::slice::from_ref(task));
    let longest = counts.iter().copied().max().unwrap_or(1);
    let mut decoding = model.begin(counts.len(), longest);
    let hidden = model.decode(&mut decoding, &memory, &tokens, &counts, &[counts.len()])?;
    let mut first = 0;
    let logits = counts.iter().map(|count| {
        let rows: Vec<usize> = (first..first + count).collect();
        first += count;
        backend.to_host(&model.logits(&hidden, &rows))
    });
    Ok(logits.collect())
}

/// `[start] + prompt` of every row, and how many ids each row has.
fn decoder_ids(start: u32, tasks: &[Task]) -> (Vec<u32>, Vec<usize>) {
    let prompts = || tasks.iter().flat_map(|task| &task.prompts);
    let ids = prompts().flat_map(|prompt| std::iter::once(start).chain(prompt.iter().copied())).collect();
    (ids, prompts().map(|prompt| prompt.len() + 1).collect())
}

/// The position of each row's last token.
fn last_positions(counts: &[usize]) -> Vec<usize> {
    counts
        .iter()
        .scan(0, |end, count| {
            *end += count;
            Some(*end - 1)
        })
        .collect()
}
