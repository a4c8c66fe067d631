//! Causal attention of sequences behind a shared prefix, by attention that has no causal mask.
//!
//! ```text
//!                    keys ->  document           own, before     this pass
//!                            +-----------------+
//!  rows of sequence 1        |                 | 1 | ......... | \
//!  rows of sequence 2        | one K/V         | 2 | ......... |   \   token i of a sequence reads tokens 0..=i
//!  rows of sequence 3        |                 | 3 | ......... |     \
//!                            +-----------------+
//!                             one input,        an input for    an attention for each i
//!                             all rows          each sequence
//! ```
//!
//! What lies before a pass is read by all its tokens and needs no mask. In a decode step a sequence has one token, the last:
//! it reads all of its own keys, and the third part falls away.

use anyhow::Result;
use onekv::cpu::{attend, merge_states};
use onekv::{Keys, PartialState, Problem, ProblemSpec, SharedKv, View};

use crate::cache::KvCache;
use crate::config::Config;

/// Sequences in the middle of generation.
pub struct Sequences {
    /// The document that all of them are behind: one slot, which each of them reads whole.
    pub prefix: Option<KvCache>,
    /// What each has behind the prefix; without one, all that it has.
    pub own: KvCache,
}

impl Sequences {
    /// Where a sequence's next token stands: behind the document and what it has itself.
    pub fn position(&self, sequence: usize) -> usize {
        self.prefix.as_ref().map_or(0, |prefix| prefix.lengths()[0]) + self.own.lengths()[sequence]
    }

    /// Bytes of K/V that are held.
    pub fn kv_bytes(&self) -> usize {
        self.prefix.as_ref().map_or(0, KvCache::bytes) + self.own.bytes()
    }

    /// Bytes of K/V that the last step read, which had `new` tokens of each sequence: those of the sequences that took
    /// part, and the document's once.
    pub fn step_kv_bytes(&self, new: &[usize]) -> usize {
        let in_step = self.own.lengths().iter().zip(new).filter(|(_, new)| **new > 0);
        let own: usize = in_step.map(|(length, _)| length).sum();
        let prefix = self.prefix.as_ref().map_or(0, |prefix| prefix.lengths()[0]);
        (prefix + own) * self.own.token_bytes()
    }

    /// Attention in one layer of the next tokens of every sequence, `new` of each, sequence after sequence; their K and V
    /// are written to the cache. `q` and the result are `[tokens, heads, head_dim]`, `k` and `v` `[tokens, kv_heads,
    /// head_dim]`, rotated.
    ///
    /// # Errors
    /// What [`KvCache::write`], [`attend`] and [`merge_states`] refuse.
    pub fn attend(
        &mut self,
        config: &Config,
        layer: usize,
        (q, k, v): (&[f32], &[f32], &[f32]),
        new: &[usize],
    ) -> Result<Vec<f32>> {
        self.own.write(layer, k, v, new)?;
        let mut parts = Vec::new();
        if let Some(prefix) = &self.prefix {
            let keys = slot_keys(prefix, prefix.lengths().to_vec());
            parts.push(unmasked(config, &[new.iter().sum()], keys, q, prefix.layer(layer))?);
        }
        let own = self.own.layer(layer);
        let before = self.own.lengths();
        if new.iter().all(|new| *new <= 1) {
            // A sequence's only token reads all keys before it and its own: they are one part.
            let lengths = before.iter().zip(new).map(|(before, new)| before + new).collect();
            parts.push(unmasked(config, new, slot_keys(&self.own, lengths), q, own)?);
        } else {
            if before.iter().any(|before| *before > 0) {
                parts.push(unmasked(config, new, slot_keys(&self.own, before.to_vec()), q, own)?);
            }
            parts.push(causal(config, (q, k, v), new)?);
        }
        merge(config, parts)
    }
}

/// Attention over a part of the keys.
struct State {
    /// `[rows, heads, head_dim]`.
    out: Vec<f32>,
    /// `[rows, heads]`.
    lse: Vec<f32>,
}

/// The first tokens of a cache's slots, as keys.
fn slot_keys(cache: &KvCache, lengths: Vec<usize>) -> Keys {
    Keys::Padded { max_keys: cache.capacity(), lengths }
}

/// Attention of each input's rows, `rows` of them, over all of its keys.
fn unmasked(config: &Config, rows: &[usize], keys: Keys, q: &[f32], kv: SharedKv<&[f32]>) -> Result<State> {
    let problem = Problem::new(ProblemSpec {
        heads: config.heads,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        scale: (config.head_dim as f32).powf(-0.5),
        softcap: None,
        row_offsets: offsets(rows),
        keys,
    })?;
    let mut state = State { out: vec![0.0; q.len()], lse: vec![0.0; q.len() / config.head_dim] };
    attend(
        &problem,
        View::contiguous(problem.query_shape(), q),
        kv,
        View::contiguous(problem.query_shape(), &mut state.out[..]),
        Some(View::contiguous(problem.lse_shape(), &mut state.lse[..])),
    )?;
    Ok(state)
}

/// Attention of a pass's tokens to each other: token `i` of a sequence reads its tokens `0..=i`. One attention for each `i`,
/// over all sequences that have so many tokens.
fn causal(config: &Config, (q, k, v): (&[f32], &[f32], &[f32]), new: &[usize]) -> Result<State> {
    let width = config.heads * config.head_dim;
    let starts = offsets(new);
    let shape = [starts[new.len()], config.kv_heads, config.head_dim];
    let mut all = State { out: vec![0.0; q.len()], lse: vec![0.0; q.len() / config.head_dim] };
    for i in 0..new.iter().copied().max().unwrap_or(0) {
        // A sequence is two inputs: the tokens that its row reads, and those behind them, which have no row. A sequence
        // of fewer tokens has no row this time.
        let (mut rows, mut keys, mut tokens) = (Vec::new(), vec![0], Vec::new());
        for (start, new) in starts.iter().zip(new).filter(|(_, new)| **new > 0) {
            let read = (i + 1).min(*new);
            rows.extend([usize::from(i < *new), 0]);
            keys.extend([start + read, start + new]);
            tokens.extend((i < *new).then_some(start + i));
        }
        let q: Vec<f32> = tokens.iter().flat_map(|token| &q[token * width..][..width]).copied().collect();
        let kv = SharedKv::contiguous(shape, k, v);
        let state = unmasked(config, &rows, Keys::Packed { offsets: keys }, &q, kv)?;
        for (row, token) in tokens.into_iter().enumerate() {
            all.out[token * width..][..width].copy_from_slice(&state.out[row * width..][..width]);
            let heads = config.heads;
            all.lse[token * heads..][..heads].copy_from_slice(&state.lse[row * heads..][..heads]);
        }
    }
    Ok(all)
}

/// Attention over all parts of the keys, `[rows, heads, head_dim]`.
fn merge(config: &Config, mut parts: Vec<State>) -> Result<Vec<f32>> {
    if let [_] = parts[..] {
        return Ok(parts.remove(0).out);
    }
    let rows = parts[0].lse.len() / config.heads;
    let shape = [rows, config.heads, config.head_dim];
    let mut out = vec![0.0; parts[0].out.len()];
    let states: Vec<_> =
        parts.iter().map(|part| PartialState::contiguous(shape, &part.out[..], &part.lse[..])).collect();
    merge_states(&states, View::contiguous(shape, &mut out[..]), None)?;
    Ok(out)
}

/// 0, and the sum of `counts` up to each: where each begins, and the end.
pub fn offsets(counts: &[usize]) -> Vec<usize> {
    let sums = counts.iter().scan(0, |sum, count| {
        *sum += count;
        Some(*sum)
    });
    std::iter::once(0).chain(sums).collect()
}
