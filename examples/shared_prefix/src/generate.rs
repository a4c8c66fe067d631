//! Greedy generation of many sequences behind one document, with its K/V shared, copied or computed again.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use indicatif::ProgressBar;
use t5::backend::cpu::Matrix;

use crate::attention::Sequences;
use crate::cache::KvCache;
use crate::config::Config;
use crate::model::Model;

/// How sequences find the document's K/V.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// One K/V, which all of them read.
    Shared,
    /// Prefilled once, and copied in front of each.
    Copies,
    /// Prefilled again by each, in front of its prompt: nothing is shared.
    Recompute,
}

/// A document and the prompts behind it, as token ids.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub document: Vec<u32>,
    pub prompts: Vec<Vec<u32>>,
    /// The most tokens of an answer.
    pub new_tokens: usize,
    /// Ids that end an answer.
    pub ends: Vec<u32>,
}

impl Request {
    /// Refuses what the model has no embedding or no position for.
    ///
    /// # Errors
    /// An empty document or prompt, no prompts, an id past the vocabulary, sequences past the model's length: by field.
    pub fn check(&self, config: &Config) -> Result<()> {
        let ids = |name: String, ids: &[u32]| match ids.iter().position(|id| *id as usize >= config.vocab) {
            _ if ids.is_empty() => bail!("{name} is empty, allowed: at least one token"),
            Some(at) => bail!("{name}[{at}] is {}, allowed: 0 to {}", ids[at], config.vocab - 1),
            None => Ok(()),
        };
        ids("document".into(), &self.document)?;
        if self.prompts.is_empty() {
            bail!("prompts is empty, allowed: at least one prompt");
        }
        for (i, prompt) in self.prompts.iter().enumerate() {
            ids(format!("prompts[{i}]"), prompt)?;
        }
        let longest = self.longest_prompt();
        let most = config.most_tokens.saturating_sub(self.document.len() + longest);
        if !(1..=most).contains(&self.new_tokens) {
            bail!(
                "new_tokens is {}, allowed: 1 to {most}, so that {} tokens of document, {longest} of a prompt and the answer \
                 are within the model's {}",
                self.new_tokens,
                self.document.len(),
                config.most_tokens
            );
        }
        Ok(())
    }

    fn longest_prompt(&self) -> usize {
        self.prompts.iter().map(Vec::len).max().unwrap_or(0)
    }
}

/// What generation took.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// Tokens of documents and prompts that passed through the model.
    pub prefilled_tokens: usize,
    /// Bytes of K/V that are held while decoding.
    pub kv_bytes: usize,
    /// Bytes of K/V that decode steps read, of all steps: what was in the caches, each K/V once for those that share it.
    pub read_kv_bytes: usize,
    pub new_tokens: usize,
    /// Documents and prompts, up to the first new token of each sequence.
    pub prefill: Duration,
    /// Copying K/V for every sequence.
    pub copy: Duration,
    /// By decode step.
    pub steps: Vec<Duration>,
}

impl Stats {
    pub fn decode(&self) -> Duration {
        self.steps.iter().sum()
    }

    pub fn total(&self) -> Duration {
        self.prefill + self.copy + self.decode()
    }

    /// Bytes of K/V that a decode step reads, the mean over steps; none where the first token was the last.
    pub fn step_kv_bytes(&self) -> Option<usize> {
        self.read_kv_bytes.checked_div(self.steps.len())
    }

    /// The median time of a decode step.
    pub fn step(&self) -> Option<Duration> {
        let mut steps = self.steps.clone();
        steps.sort();
        steps.get(steps.len() / 2).copied()
    }
}

/// Tokens of one sequence that pass through the model at a time: bounds its activations.
const PREFILL_TOKENS: usize = 128;

/// The new ids of every prompt, the one that ends it included, and what they took. `progress` advances by tokens.
///
/// # Errors
/// What [`Request::check`] refuses; no memory for the K/V; logits that are no numbers.
pub fn generate(
    model: &Model,
    method: Method,
    request: &Request,
    progress: &ProgressBar,
) -> Result<(Vec<Vec<u32>>, Stats)> {
    request.check(&model.config)?;
    let Request { document, prompts, new_tokens, ends } = request;
    let in_prompts: usize = prompts.iter().map(Vec::len).sum();
    let documents = if method == Method::Recompute { prompts.len() } else { 1 };
    let mut stats = Stats { prefilled_tokens: documents * document.len() + in_prompts, ..Stats::default() };
    progress.reset();
    progress.set_length((stats.prefilled_tokens + prompts.len() * (new_tokens - 1)) as u64);

    let start = Instant::now();
    let (mut sequences, mut next) = begin(model, method, request, &mut stats, progress)?;
    stats.prefill = start.elapsed() - stats.copy;
    stats.kv_bytes = sequences.kv_bytes();

    let mut outputs = vec![Vec::new(); prompts.len()];
    loop {
        for (output, next) in outputs.iter_mut().zip(&mut next) {
            output.extend_from_slice(next);
            if output.len() == *new_tokens || next.iter().any(|id| ends.contains(id)) {
                next.clear();
            }
        }
        if next.iter().all(Vec::is_empty) {
            break;
        }
        let step = Instant::now();
        let new: Vec<usize> = next.iter().map(Vec::len).collect();
        next = next_ids(model, &next, &mut sequences)?;
        stats.steps.push(step.elapsed());
        stats.read_kv_bytes += sequences.step_kv_bytes(&new);
        progress.inc(new.iter().sum::<usize>() as u64);
    }
    progress.finish_and_clear();
    stats.new_tokens = outputs.iter().map(Vec::len).sum();
    Ok((outputs, stats))
}

/// Prefills document and prompts: the sequences, and the first new id of each.
fn begin(
    model: &Model,
    method: Method,
    request: &Request,
    stats: &mut Stats,
    progress: &ProgressBar,
) -> Result<(Sequences, Vec<Vec<u32>>)> {
    let Request { document, prompts, new_tokens, .. } = request;
    let (config, n) = (&model.config, document.len());
    // Tokens of a slot behind the document. The last new token is never read.
    let behind = request.longest_prompt() + new_tokens - 1;
    let prefill_document = || {
        let mut alone = Sequences { prefix: None, own: KvCache::new(config, 1, n)? };
        prefill(model, &mut alone, 0, document, progress)?;
        anyhow::Ok(alone.own)
    };
    let mut sequences = match method {
        Method::Shared => {
            Sequences { prefix: Some(prefill_document()?), own: KvCache::new(config, prompts.len(), behind)? }
        }
        Method::Copies => {
            let document = prefill_document()?;
            let start = Instant::now();
            let mut own = KvCache::new(config, prompts.len(), n + behind)?;
            (0..prompts.len()).for_each(|slot| own.copy_into(slot, &document));
            stats.copy = start.elapsed();
            Sequences { prefix: None, own }
        }
        Method::Recompute => {
            let own = KvCache::new(config, prompts.len(), n + behind)?;
            let mut sequences = Sequences { prefix: None, own };
            let mut next = Vec::new();
            for (slot, prompt) in prompts.iter().enumerate() {
                let whole = [&document[..], prompt].concat();
                let (x, last) = prefill(model, &mut sequences, slot, &whole, progress)?;
                next.push(vec![argmax(&model.logits(&x, &[last])?)?]);
            }
            return Ok((sequences, next));
        }
    };
    let next = next_ids(model, prompts, &mut sequences)?;
    progress.inc(prompts.iter().map(|prompt| prompt.len() as u64).sum());
    Ok((sequences, next))
}

/// Passes the tokens of one sequence through the model, piece by piece: the residual stream of the last piece, and its last
/// row there.
///
/// # Errors
/// No tokens; what [`Model::pass`] refuses.
pub fn prefill(
    model: &Model,
    sequences: &mut Sequences,
    slot: usize,
    tokens: &[u32],
    progress: &ProgressBar,
) -> Result<(Matrix, u32)> {
    let mut next = vec![Vec::new(); sequences.own.lengths().len()];
    let mut last = None;
    for piece in tokens.chunks(PREFILL_TOKENS) {
        next[slot] = piece.to_vec();
        last = Some((model.pass(&next, sequences)?, piece.len() as u32 - 1));
        progress.inc(piece.len() as u64);
    }
    last.context("a sequence is empty, allowed: at least one token")
}

/// Passes the `next` tokens of every sequence through the model: the id that follows them, as a list, empty where
/// `next` has none.
fn next_ids(model: &Model, next: &[Vec<u32>], sequences: &mut Sequences) -> Result<Vec<Vec<u32>>> {
    let x = model.pass(next, sequences)?;
    let mut end = 0;
    let ends = next.iter().map(|ids| {
        end += ids.len() as u32;
        (!ids.is_empty()).then(|| end - 1)
    });
    let ends: Vec<Option<u32>> = ends.collect();
    let logits = model.logits(&x, &ends.iter().copied().flatten().collect::<Vec<_>>())?;
    let mut logits = logits.chunks_exact(model.config.vocab);
    let id = |end: &Option<u32>| end.and_then(|_| logits.next()).map(argmax).transpose();
    Ok(ends.iter().map(id).collect::<Result<Vec<_>>>()?.into_iter().map(Vec::from_iter).collect())
}

/// The id of the largest logit, the first of equals.
fn argmax(logits: &[f32]) -> Result<u32> {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, logit) in (0..).zip(logits) {
        if *logit > best.1 {
            best = (id, *logit);
        }
    }
    if best.1.is_finite() {
        Ok(best.0)
    } else {
        bail!("the largest logit of a sequence is no number, allowed: finite ones")
    }
}
