//! `wgmma`: products of a warpgroup, operands from shared memory by descriptor.

use std::collections::VecDeque;

use super::machine::{Flow, Machine};
use super::shared::{Range, swizzle};
use super::tensor::{accumulators, elements, pack, rows_of_a, whole};
use super::warp::{State, Warp};
use crate::fault::{FaultKind, Outcome, Trouble};
use crate::ir::{Class, Instr, Lanes, MmaType, Op, ScaleD, Src, Wgmma, uses};

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
    reads: Vec<Range>,
    open: Vec<u32>,
    groups: VecDeque<(Vec<u32>, Vec<Range>)>,
}

impl WgmmaState {
    fn start(&mut self, d: &[u32]) {
        self.open.extend(d);
        self.mark();
    }

    /// An ordinary instruction uses fragments. A move is none, but hands on that its source was used.
    pub fn touch(&mut self, instruction: &Instr) {
        let mut used = Vec::new();
        if instruction.class == Class::Move {
            let (from, to) = uses::moved(&instruction.op);
            if from.into_iter().any(|r| self.is_touched(r)) {
                used = to;
            }
        } else {
            uses::registers(&instruction.op, &mut |r| used.push(r));
        }
        for register in used {
            let at = register as usize;
            self.touched.resize(self.touched.len().max(at + 1), false);
            self.touched[at] = true;
        }
    }

    fn is_touched(&self, register: u32) -> bool {
        self.touched.get(register as usize).is_some_and(|touched| *touched)
    }

    fn fence(&mut self) {
        self.touched.fill(false);
        self.fenced = true;
    }

    /// Whether `wgmma.fence` lies between the ordinary uses of a product's fragments and the product.
    fn is_fenced(&self, op: &Wgmma) -> bool {
        let mut sound = self.fenced;
        uses::fragments(op, &mut |r| sound &= !self.is_touched(r));
        sound
    }

    fn writes(&self, register: u32) -> bool {
        self.busy.get(register as usize).is_some_and(|busy| *busy)
    }

    fn mark(&mut self) {
        let all = self.groups.iter().flat_map(|(d, _)| d).chain(&self.open);
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

    fn commit(&mut self) {
        self.groups.push_back((std::mem::take(&mut self.open), std::mem::take(&mut self.reads)));
    }

    /// Completes all but the latest `pending` groups; what they read.
    fn wait(&mut self, pending: usize) -> Vec<Range> {
        let mut done = Vec::new();
        while self.groups.len() > pending {
            if let Some((_, reads)) = self.groups.pop_front() {
                done.extend(reads);
            }
        }
        self.mark();
        done
    }
}

/// Where the elements of an operand go: steps of a row (of M or N) and of a column (of K).
#[derive(Clone, Copy)]
struct Steps {
    row: usize,
    column: usize,
}

impl Machine<'_, '_> {
    pub fn wgmma(&mut self, warp: &mut Warp, op: &Wgmma, exec: u32) -> Outcome<Flow> {
        if exec != warp.alive {
            return Ok(Flow::Wait(State::Gather));
        }
        whole(exec)?;
        if self.grid.options.check_asynchronous && !warp.wgmma.is_fenced(op) {
            let what = "wgmma uses registers that were used before it, without wgmma.fence between";
            return Err(Trouble::new(FaultKind::ProxyFence, what));
        }
        let (n, k) = (op.n, op.k);
        let quarter = warp.index % 4;
        let mut a = vec![0f32; 16 * k];
        if let [descriptor] = op.a.as_ref() {
            let layout =
                MatrixLayout::decode(warp.scalar(*descriptor, 0, self.grid), op.a_type, op.transpose_a)?;
            // Each warp multiplies 16 of the 64 rows.
            let rows = 16 * quarter..16 * quarter + 16;
            self.operand(warp, &layout, op.a_type, rows, k, Steps { row: k, column: 1 }, &mut a)?;
        } else {
            let registers: Vec<Lanes> = op.a.iter().map(|s| warp.lanes(*s, self.grid)).collect();
            self.reads_in_flight(warp, &op.a)?;
            rows_of_a(op.a_type, &registers, k, &mut a);
        }
        // Columns of B side by side, which lets the compiler use wide registers.
        let mut b = vec![0f32; n * k];
        let layout = MatrixLayout::decode(warp.scalar(op.b, 0, self.grid), op.b_type, op.transpose_b)?;
        self.operand(warp, &layout, op.b_type, 0..n, k, Steps { row: 1, column: n }, &mut b)?;
        if op.negate_a != op.negate_b {
            a.iter_mut().for_each(|x| *x = -*x);
        }
        let accumulates = match op.scale_d {
            ScaleD::Constant(scale) => scale,
            ScaleD::Predicate(p) => match warp.predicate(p) {
                0 => false,
                u32::MAX => true,
                some => {
                    let what = format!("scale-d is true for the lanes {some:#010x} of the warp only");
                    return Err(Trouble::new(FaultKind::Divergence, what));
                }
            },
        };
        let per_tile = if op.half_accumulate { 2 } else { 4 };
        let integer = op.a_type.is_integer();
        let mut d = vec![0f32; 16 * n];
        if accumulates && !integer {
            for (tile, registers) in op.d.chunks_exact(per_tile).enumerate() {
                let c: Vec<Lanes> = registers.iter().map(|r| warp.registers[*r as usize]).collect();
                accumulators(op.half_accumulate, &c, n, &mut d[tile * 8..]);
            }
        }
        for (row, out) in d.chunks_exact_mut(n).enumerate() {
            for (x, b) in a[row * k..row * k + k].iter().zip(b.chunks_exact(n)) {
                for (y, b) in out.iter_mut().zip(b) {
                    *y += x * b;
                }
            }
        }
        for (tile, registers) in op.d.chunks_exact(per_tile).enumerate() {
            let held = |r: &u32| if accumulates { warp.registers[*r as usize] } else { [0; 32] };
            let c: Vec<Lanes> = if integer { registers.iter().map(held).collect() } else { Vec::new() };
            let results = pack(op.half_accumulate, integer, n, &d[tile * 8..], &c);
            for (register, lanes) in registers.iter().zip(&results) {
                warp.put(*register, lanes, exec);
            }
        }
        warp.wgmma.start(&op.d);
        self.state.ctas[warp.cta].products[warp.index] += 1;
        self.tally.total.tensor_flops += 2 * (16 * n * k) as u64;
        Ok(Flow::Next)
    }

    /// Reads rows of an operand, `k` columns.
    #[allow(clippy::too_many_arguments, reason = "the operand's own parts")]
    fn operand(
        &mut self,
        warp: &mut Warp,
        layout: &MatrixLayout,
        ty: MmaType,
        rows: std::ops::Range<usize>,
        k: usize,
        steps: Steps,
        into: &mut [f32],
    ) -> Outcome {
        let size = ty.bits() / 8;
        // 16 bytes at a time: along K, or along the rows when those are contiguous.
        let chunk = 16 / size;
        let (mn_step, k_step, within) =
            if layout.transpose { (chunk, 1, steps.row) } else { (1, chunk, steps.column) };
        let who = warp.who(0, warp.cta, false);
        let fences = &self.state.fences;
        let fenced = |actor: usize, epoch: u32| warp.fenced(fences, actor, epoch);
        let memory = &mut self.state.ctas[warp.cta].shared;
        let (mut sound, mut reads) = (None, Vec::with_capacity(rows.len() * k / chunk));
        for row in rows.clone().step_by(mn_step) {
            for column in (0..k).step_by(k_step) {
                let offset = layout.address(row, column, size);
                memory.check(offset, 16)?;
                memory.proxy_reading(offset, 16, &who, fenced, &mut sound)?;
                reads.push(Range { offset, bytes: 16 });
                let words = [0, 4, 8, 12].map(|at| memory.peek(offset + at, 4));
                let first = (row - rows.start) * steps.row + column * steps.column;
                for (w, word) in words.into_iter().enumerate() {
                    let from = &mut into[first + w * (4 / size) * within..];
                    elements(ty, word as u32, |i, x| from[i * within] = x);
                }
            }
        }
        warp.wgmma.reads.extend(reads);
        Ok(())
    }

    /// `wgmma.fence`, `.commit_group`, `.wait_group`.
    pub fn wgmma_order(&mut self, warp: &mut Warp, op: &Op, exec: u32) -> Outcome<Flow> {
        if exec != warp.alive {
            return Ok(Flow::Wait(State::Gather));
        }
        match op {
            Op::WgmmaFence => warp.wgmma.fence(),
            Op::WgmmaCommit => warp.wgmma.commit(),
            Op::WgmmaWait { pending } => {
                for range in warp.wgmma.wait(*pending as usize) {
                    self.state.ctas[warp.cta].shared.proxy_read(range.offset, range.bytes);
                }
            }
            _ => {}
        }
        Ok(Flow::Next)
    }

    fn reads_in_flight(&self, warp: &Warp, sources: &[Src]) -> Outcome {
        let busy = |s: &&Src| matches!(s, Src::Register(r) if warp.wgmma.writes(*r));
        if self.grid.options.check_asynchronous && sources.iter().any(|s| busy(&s)) {
            let what = "a wgmma reads fragments of A from registers that a wgmma not waited for still writes";
            return Err(Trouble::new(FaultKind::AsyncPending, what));
        }
        Ok(())
    }

    /// No ordinary instruction uses registers that a wgmma still writes.
    pub fn accumulators_untouched(&self, warp: &Warp, op: &Op) -> Outcome {
        if matches!(op, Op::Wgmma(_)) {
            return Ok(());
        }
        let mut touched = false;
        uses::registers(op, &mut |r| touched |= warp.wgmma.writes(r));
        if touched {
            let what = "use of a register that a wgmma writes, before wgmma.wait_group";
            return Err(Trouble::new(FaultKind::AsyncPending, what));
        }
        Ok(())
    }
}
/// A shared-memory operand of wgmma, from its 64-bit descriptor (PTX ISA, "Matrix Descriptor Format").
struct MatrixLayout {
    start: u32,
    leading: u32,
    stride: u32,
    /// Bytes of a row of a swizzle atom; 16 without swizzle.
    width: u32,
    transpose: bool,
}

impl MatrixLayout {
    fn decode(descriptor: u64, ty: MmaType, transpose: bool) -> Outcome<Self> {
        let field = |from: u32| ((descriptor >> from & 0x3fff) << 4) as u32;
        let width = match descriptor >> 62 {
            0 => 16,
            1 => 128,
            2 => 64,
            _ => 32,
        };
        if transpose && ty.bits() != 16 {
            return Err(Trouble::new(
                FaultKind::IllegalInstruction,
                "only 16-bit operands can be transposed",
            ));
        }
        if descriptor >> 49 & 7 != 0 {
            let what =
                "a matrix descriptor with a base offset is not supported: align tiles to their swizzle";
            return Err(Trouble::new(FaultKind::IllegalInstruction, what));
        }
        Ok(Self { start: field(0), leading: field(16), stride: field(32), width, transpose })
    }

    /// Shared address of element (row of M or N, k), with its swizzle.
    fn address(&self, row: usize, k: usize, size: usize) -> u32 {
        let (row, k, size) = (row as u32, k as u32, size as u32);
        let (width, leading, stride) = (self.width, self.leading, self.stride);
        let linear = if self.transpose {
            // Rows are contiguous: `width` bytes of them, for eight k; then the next atoms.
            let per_atom = width / size;
            let (along_rows, along_k) = if width == 16 { (stride, leading) } else { (leading, stride) };
            (row % per_atom) * size + row / per_atom * along_rows + k % 8 * width + k / 8 * along_k
        } else if width == 16 {
            // Core matrices of 8 rows x 16 bytes.
            let per_core = 16 / size;
            row % 8 * 16 + row / 8 * stride + k % per_core * size + k / per_core * leading
        } else {
            row % 8 * width + row / 8 * stride + k * size
        };
        swizzle(self.start + linear, width)
    }
}
