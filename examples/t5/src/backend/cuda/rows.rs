//! The state of rows that are being decoded, on the device.

use anyhow::Result;
use bytemuck::{Pod, Zeroable};
use onekv::DType;

use super::memory::{Buffer, Pool};
use crate::backend::{BatchRow, RowsSpec};

/// Bias `[heads, span]`, f32, offset 0 at `zero`.
pub struct Bias {
    pub data: Buffer,
    pub heads: usize,
    pub span: usize,
    pub zero: usize,
}

/// Self-attention K/V of one layer, `[slots, capacity, 2, inner]`.
pub struct SelfCache {
    pub data: Buffer,
    pub slots: usize,
    pub capacity: usize,
    pub inner: usize,
}

/// `T5Row` of cuda/row.cuh.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct RowState {
    pub next: i32,
    pub length: i32,
    pub finished: i32,
    pub produced: i32,
}

/// `OVERFLOWED` of cuda/row.cuh.
pub const OVERFLOWED: i32 = 2;

/// `T5Rules` of cuda/row.cuh.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct RowRules {
    end: i32,
    more_ends: i32,
    suppressed: i32,
    suppressed_first: i32,
    forced_first: i32,
    forced_last: i32,
    max_new: i32,
}

/// Which tokens a pass has.
pub struct Pass {
    pub tokens: usize,
    /// Of each token, its row in the batch.
    pub token_row: Buffer,
    /// Row `r` has the tokens `first[r]..first[r + 1]`.
    pub first: Buffer,
    /// Their ids, where the rows' state does not have them.
    pub ids: Option<Buffer>,
}

/// The rows, by the slot that each keeps.
pub struct Rows {
    /// Slots of the rows in the batch, in its order.
    pub live: Vec<usize>,
    /// The same on the device, `[slots]`.
    pub slots: Buffer,
    /// `[slots]` of [`RowState`].
    pub state: Buffer,
    /// `[slots, max_new_tokens]`.
    pub outputs: Buffer,
    /// Slots.
    pub total: usize,
    pub max_new_tokens: usize,
    /// Tokens of the longest row at its end.
    pub longest: usize,
    pub rules: RowRules,
    /// The ids that the rules count: further ends, suppressed ones, those suppressed first.
    pub listed: Buffer,
    /// Words that the rules need there to be.
    pub words: usize,
    /// Of every layer's self-attention: K and V, and the bias, one for all layers or one for each.
    pub caches: Vec<SelfCache>,
    pub biases: Vec<Bias>,
    /// Over whole prompts of rows that begin and a token of each that goes on, if it comes next.
    pub first_pass: Option<Pass>,
    /// Over one token a row.
    step: Pass,
}

impl Rows {
    pub fn new(pool: &Pool, spec: RowsSpec, dtype: DType, biases: Vec<Bias>) -> Result<Self> {
        let (total, capacity, inner) = (spec.slots, spec.longest(), spec.inner);
        let cache = |_| {
            let data = pool.keep(total * capacity * 2 * inner * dtype.size_bytes())?;
            Ok(SelfCache { data, slots: total, capacity, inner })
        };
        // They are the largest: where there is no room, nothing else is filled first.
        let caches = (0..spec.layers).map(cache).collect::<Result<_>>()?;
        let numbers: Vec<i32> = (0..=total as i32).collect();
        let rules = &spec.rules;
        let more_ends = rules.ends.get(1..).unwrap_or_default();
        let listed = [more_ends, &rules.suppressed, &rules.suppressed_first].concat();
        let id = |id: Option<&u32>| id.map_or(-1, |id| *id as i32);
        let named = listed.iter().chain(&rules.forced_first).chain(&rules.forced_last);
        Ok(Self {
            live: Vec::new(),
            slots: pool.zeros(total * 4)?,
            state: pool.zeros(total * size_of::<RowState>())?,
            outputs: pool.zeros(total * spec.max_new_tokens * 4)?,
            total,
            max_new_tokens: spec.max_new_tokens,
            longest: capacity,
            rules: RowRules {
                end: id(rules.ends.first()),
                more_ends: more_ends.len() as i32,
                suppressed: rules.suppressed.len() as i32,
                suppressed_first: rules.suppressed_first.len() as i32,
                forced_first: id(rules.forced_first.as_ref()),
                forced_last: id(rules.forced_last.as_ref()),
                max_new: spec.max_new_tokens as i32,
            },
            listed: pool.upload(&listed)?,
            words: named.max().map_or(0, |id| *id as usize + 1),
            caches,
            biases,
            first_pass: None,
            // Row r of the batch has token r, however many there are.
            step: Pass {
                tokens: 0,
                token_row: pool.upload(&numbers[..total])?,
                first: pool.upload(&numbers)?,
                ids: None,
            },
        })
    }

    /// The pass that comes next.
    pub fn pass(&self) -> &Pass {
        self.first_pass.as_ref().unwrap_or(&self.step)
    }

    /// Makes these rows the batch. Nothing moves: what a recorded step refers to stays where it is.
    pub fn seat(&mut self, pool: &Pool, batch: &[BatchRow<'_>]) -> Result<()> {
        self.live = batch.iter().map(|row| row.slot).collect();
        let slots: Vec<i32> = self.live.iter().map(|slot| *slot as i32).collect();
        pool.write(&mut self.slots, &slots)?;
        self.step.tokens = batch.len();
        self.first_pass = None;
        if batch.iter().all(|row| row.begins.is_none()) {
            return Ok(());
        }
        let (mut ids, mut first, mut token_row) = (Vec::new(), vec![0i32], Vec::new());
        let all_begin = batch.iter().all(|row| row.begins.is_some());
        let mut states = if all_begin { vec![RowState::zeroed(); self.total] } else { self.states(pool)? };
        for (number, row) in (0i32..).zip(batch) {
            let state = &mut states[row.slot];
            match row.begins {
                Some(tokens) => {
                    *state = RowState::zeroed();
                    ids.extend_from_slice(tokens);
                }
                None => ids.push(state.next as u32),
            }
            token_row.resize(ids.len(), number);
            first.push(ids.len() as i32);
        }
        pool.write(&mut self.state, &states)?;
        self.first_pass = Some(Pass {
            tokens: ids.len(),
            token_row: pool.upload(&token_row)?,
            first: pool.upload(&first)?,
            ids: Some(pool.upload(&ids)?),
        });
        Ok(())
    }

    pub fn states(&self, pool: &Pool) -> Result<Vec<RowState>> {
        pool.download(&self.state, self.total)
    }
}
