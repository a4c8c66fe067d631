//! The state of rows that are being decoded, on the device.

use anyhow::Result;
use bytemuck::{Pod, Zeroable};

use super::memory::{Buffer, Pool};
use crate::backend::RowsSpec;

/// `T5Row` of cuda/t5/row.cuh.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct RowState {
    pub next: i32,
    pub length: i32,
    pub finished: i32,
    pub produced: i32,
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

/// The rows, by the slot that each has for good.
pub struct Rows {
    /// Slots of the rows in the batch, ascending.
    pub live: Vec<usize>,
    pub slots: Buffer,
    /// `[slots]` of [`RowState`].
    pub state: Buffer,
    /// `[slots, max_new_tokens]`.
    pub outputs: Buffer,
    pub total: usize,
    pub max_new_tokens: usize,
    /// Tokens of the longest row at its end.
    pub longest: usize,
    pub eos: i32,
    /// The next pass is the prefill.
    pub begins: bool,
    /// Over whole prompts.
    prefill: Pass,
    /// Over one token a row.
    step: Pass,
}

impl Rows {
    pub fn new(pool: &Pool, spec: &RowsSpec<'_>) -> Result<Self> {
        let total = spec.tokens.len();
        let numbers: Vec<i32> = (0..=total as i32).collect();
        let mut first = vec![0];
        let mut token_row = Vec::new();
        for (row, ids) in (0..).zip(spec.tokens) {
            token_row.resize(token_row.len() + ids.len(), row);
            first.push(token_row.len() as i32);
        }
        let ids = spec.tokens.concat();
        Ok(Self {
            live: (0..total).collect(),
            slots: pool.upload(&numbers[..total])?,
            state: pool.zeros(total * size_of::<RowState>())?,
            outputs: pool.zeros(total * spec.max_new_tokens * 4)?,
            total,
            max_new_tokens: spec.max_new_tokens,
            longest: spec.tokens.iter().map(Vec::len).max().unwrap_or(0) + spec.max_new_tokens,
            eos: spec.eos.map_or(-1, |id| id as i32),
            begins: true,
            prefill: Pass {
                tokens: ids.len(),
                token_row: pool.upload::<i32>(&token_row)?,
                first: pool.upload::<i32>(&first)?,
                ids: Some(pool.upload(&ids)?),
            },
            step: Pass {
                tokens: total,
                token_row: pool.upload(&numbers[..total])?,
                first: pool.upload(&numbers)?,
                ids: None,
            },
        })
    }

    /// The pass that comes next.
    pub fn pass(&self) -> &Pass {
        if self.begins { &self.prefill } else { &self.step }
    }

    pub fn restart(&mut self, pool: &Pool) -> Result<()> {
        if self.live.len() < self.total {
            self.live = (0..self.total).collect();
            self.place(pool)?;
        }
        self.begins = true;
        pool.clear(&mut self.state)
    }

    pub fn retain(&mut self, pool: &Pool, keep: &[bool]) -> Result<()> {
        let mut it = keep.iter();
        self.live.retain(|_| it.next().copied().unwrap_or(false));
        self.place(pool)
    }

    fn place(&mut self, pool: &Pool) -> Result<()> {
        let slots: Vec<i32> = self.live.iter().map(|slot| *slot as i32).collect();
        self.slots = pool.upload(&slots)?;
        // Row r of the batch has token r: the first of these are right for any number of rows.
        self.step.tokens = slots.len();
        Ok(())
    }

    pub fn states(&self, pool: &Pool) -> Result<Vec<RowState>> {
        pool.download(&self.state, self.total)
    }
}
