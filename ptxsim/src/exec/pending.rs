//! Asynchronous work that has not been waited for.

use std::collections::VecDeque;
use std::sync::Arc;

use super::shared::{Range, Sound};
use crate::fault::{FaultKind, Outcome, Trouble};
use crate::ir::{Class, Instr, MmaType, Wgmma, uses};

/// A thread's `cp.async` and bulk groups.
#[derive(Default)]
pub struct LaneCopies {
    pub open: Vec<Arriving>,
    pub groups: VecDeque<Vec<Arriving>>,
    pub bulk_open: Vec<Range>,
    pub bulk_groups: VecDeque<Vec<Range>>,
}

impl LaneCopies {
    pub fn commit(&mut self) {
        self.groups.push_back(std::mem::take(&mut self.open));
    }

    pub fn commit_bulk(&mut self) {
        self.bulk_groups.push_back(std::mem::take(&mut self.bulk_open));
    }
}

/// What an unfinished `cp.async` of a lane writes.
pub struct Arriving {
    pub range: Range,
    /// Its bytes, if they arrive no sooner than they are waited for.
    pub late: Option<[u8; 16]>,
}

/// A copy on its way to the shared memory of one block. Its checks were made when it was issued; what is left is that the
/// bytes arrive and the mbarrier learns of them.
pub struct Flight {
    pub cta: usize,
    pub offset: u32,
    pub swizzle_width: u32,
    pub data: Arc<[u8]>,
    pub mbarrier: (usize, u32),
    pub epoch: u32,
    /// Who issued it, and where.
    pub warp: usize,
    pub pc: u32,
}

/// A warp's matrix products that are not waited for.
#[derive(Default)]
pub struct WgmmaState {
    /// By register: whether they still write it.
    busy: Vec<bool>,
    /// Whether they write any.
    pub pending: bool,
    /// By register: whether an ordinary instruction used it since the last `wgmma.fence`.
    touched: Vec<bool>,
    fenced: bool,
    /// Shared memory that the open group reads.
    pub reads: Vec<Range>,
    /// Registers that the open group writes, and those of committed groups.
    open: Vec<u32>,
    groups: VecDeque<Vec<u32>>,
}

impl WgmmaState {
    pub fn start(&mut self, d: &[u32]) {
        self.open.extend(d);
        self.mark();
    }

    /// An ordinary instruction uses fragments. A move is none, but hands on whether its source was used.
    pub fn touch(&mut self, instruction: &Instr) {
        let (mut used, mut touched) = (Vec::new(), true);
        if instruction.class == Class::Move {
            let (from, to) = uses::moved(&instruction.op);
            touched = from.into_iter().any(|r| self.is_touched(r));
            used = to;
        } else {
            uses::registers(&instruction.op, &mut |r| used.push(r));
        }
        for register in used {
            let at = register as usize;
            self.touched.resize(self.touched.len().max(at + 1), false);
            // A guard may leave what was there.
            self.touched[at] = touched || instruction.guard.is_some() && self.touched[at];
        }
    }

    fn is_touched(&self, register: u32) -> bool {
        self.touched.get(register as usize).is_some_and(|touched| *touched)
    }

    pub fn fence(&mut self) {
        self.touched.fill(false);
        self.fenced = true;
    }

    /// Whether `wgmma.fence` lies between the ordinary uses of a product's fragments and the product.
    pub fn is_fenced(&self, op: &Wgmma) -> bool {
        let mut sound = self.fenced;
        uses::fragments(op, &mut |r| sound &= !self.is_touched(r));
        sound
    }

    pub fn writes(&self, register: u32) -> bool {
        self.busy.get(register as usize).is_some_and(|busy| *busy)
    }

    fn mark(&mut self) {
        let all = self.groups.iter().flatten().chain(&self.open);
        self.pending = false;
        self.busy.fill(false);
        for register in all {
            self.pending = true;
            let at = *register as usize;
            if at >= self.busy.len() {
                self.busy.resize(at + 1, false);
            }
            self.busy[at] = true;
        }
    }

    /// Closes the open group; the shared memory that it reads.
    pub fn commit(&mut self) -> Vec<Range> {
        self.groups.push_back(std::mem::take(&mut self.open));
        std::mem::take(&mut self.reads)
    }

    /// Completes all but the latest `pending` groups.
    pub fn wait(&mut self, pending: usize) {
        self.groups.drain(..self.groups.len().saturating_sub(pending));
        self.mark();
    }
}

/// Warps of a warpgroup.
pub const WARPGROUP: usize = 4;

/// An operand of a product that lies in shared memory.
pub struct Operand {
    pub values: Vec<f32>,
    /// Rows of M, or columns of N, of which nothing has written a part.
    pub unknown: Vec<usize>,
    /// Writes of its words.
    pub writes: Sound,
}

/// What all warps of a warpgroup say alike of a product.
#[derive(Clone, Copy, PartialEq)]
pub struct Shape {
    pub n: usize,
    pub k: usize,
    pub b_type: MmaType,
    pub transpose_b: bool,
    /// Of A, if it lies in shared memory, and of B.
    pub descriptors: [Option<u64>; 2],
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let transposed = if self.transpose_b { ", transposed" } else { "" };
        write!(f, "m64n{}k{} of {:?}{transposed}, descriptors", self.n, self.k, self.b_type)?;
        self.descriptors.iter().flatten().try_for_each(|descriptor| write!(f, " {descriptor:#x}"))
    }
}

/// A product that a warp has begun.
struct Begun {
    number: u64,
    shape: Shape,
    b: Option<Arc<Operand>>,
}

/// Products that are kept for warps behind.
const KEPT: usize = 64;

/// What the warps of a warpgroup have in common. A product is one operation of all four, and so is a group of them (PTX ISA,
/// "wgmma.commit_group": one per warpgroup): who has waited for it knows that all four have read its operands, and may say so
/// for the others.
#[derive(Default)]
pub struct Warpgroup {
    /// By warp: groups committed, products run, and whether it has exited or never was.
    pub committed: [u64; WARPGROUP],
    pub products: [u64; WARPGROUP],
    pub gone: [bool; WARPGROUP],
    /// Shared memory that groups read, from the oldest on that nobody has waited for, and how many there were before.
    reads: VecDeque<Vec<Range>>,
    before: u64,
    /// Products that not all warps have run.
    begun: VecDeque<Begun>,
    /// Registers of a thread, once set by `setmaxnreg`.
    pub registers: Option<u32>,
}

impl Warpgroup {
    /// The warpgroups of a block.
    pub fn of_block(warps: usize) -> Vec<Self> {
        let group = |first: usize| Self {
            gone: std::array::from_fn(|warp| first + warp >= warps),
            ..Self::default()
        };
        (0..warps).step_by(WARPGROUP).map(group).collect()
    }

    /// A warp comes to its next product; B, if another warp has read it. All four take part in one product: `a-desc` and `b-desc`
    /// "must be same across all the warps in the warpgroup" (PTX ISA, "wgmma.mma_async").
    pub fn begin(&mut self, warp: usize, shape: Shape) -> Outcome<Option<Arc<Operand>>> {
        let number = self.products[warp];
        if let Some(known) = self.begun.iter().find(|known| known.number == number) {
            if known.shape == shape {
                return Ok(known.b.clone());
            }
            let what = format!(
                "the warps of a warpgroup multiply differently: {shape}, but another one {}",
                known.shape
            );
            return Err(Trouble::new(FaultKind::Divergence, what));
        }
        let behind = self.products.iter().min().copied().unwrap_or(0);
        self.begun.retain(|known| known.number >= behind);
        if self.begun.len() == KEPT {
            self.begun.pop_front();
        }
        self.begun.push_back(Begun { number, shape, b: None });
        Ok(None)
    }

    /// Keeps B of a warp's product for the others.
    pub fn keep(&mut self, warp: usize, b: &Arc<Operand>) {
        let number = self.products[warp];
        if let Some(known) = self.begun.iter_mut().find(|known| known.number == number) {
            known.b = Some(Arc::clone(b));
        }
    }

    pub fn commit(&mut self, warp: usize, reads: Vec<Range>) {
        let at = (self.committed[warp] - self.before) as usize;
        self.reads.resize(self.reads.len().max(at + 1), Vec::new());
        self.reads[at].extend(reads);
        self.committed[warp] += 1;
    }

    /// The first warp that has not committed so many groups; one that never will before the others.
    pub fn behind(&self, groups: u64) -> Option<usize> {
        let late = |warp: &usize| self.committed[*warp] < groups;
        (0..WARPGROUP).filter(late).max_by_key(|warp| (self.gone[*warp], WARPGROUP - warp))
    }

    /// Whether a wait for so many groups need not go on: they are complete, or never will be.
    pub fn decided(&self, groups: u64) -> bool {
        self.behind(groups).is_none_or(|warp| self.gone[warp])
    }

    /// So many groups are complete; what they have read.
    pub fn complete(&mut self, groups: u64) -> Vec<Range> {
        let done = groups.saturating_sub(self.before) as usize;
        self.before = self.before.max(groups);
        self.reads.drain(..done).flatten().collect()
    }

    /// A warp exits. With the last one of the block all must have run the same number of products.
    pub fn leave(&mut self, warp: usize) {
        self.gone[warp % WARPGROUP] = true;
    }

    /// Products that each warp has run, unless it was the same number.
    pub fn uneven(&self) -> Option<[u64; WARPGROUP]> {
        self.products.iter().any(|n| *n != self.products[0]).then_some(self.products)
    }
}
