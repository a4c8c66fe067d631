//! `wgmma`: products of a warpgroup, operands from shared memory by descriptor.

use std::sync::Arc;

use super::accumulate::Gemm;
use super::fragments::{
    add_to_register, decode, order, place_of, register_of, rows_of_a, sums_of, transpose, turn,
};
use super::machine::{Flow, Machine};
use super::pending::{Operand, Shape, WARPGROUP};
use super::shared::{Range, Sound, swizzle};
use super::warp::{State, Warp};
use crate::fault::{FaultKind, Outcome, Trouble};
use crate::ir::{MmaType, Op, ScaleD, Src, WARP, Wgmma, uses};

/// Rows of A and columns of B of which nothing has written a part: so are they of the product.
#[derive(Default)]
struct Unknown {
    rows: Vec<usize>,
    columns: Vec<usize>,
}

impl Unknown {
    fn spread(&self, warp: &mut Warp, op: &Wgmma, accumulates: bool, exec: u32) {
        if self.rows.is_empty() && self.columns.is_empty() && warp.undefined.is_empty() {
            return;
        }
        let per_tile = if op.half_accumulate { 2 } else { 4 };
        for (at, register) in op.d.iter().enumerate() {
            let held = warp.undefined.bits(Src::Register(*register)).filter(|_| accumulates).copied();
            let mut bits = held.unwrap_or([0; WARP]);
            for (lane, bits) in bits.iter_mut().enumerate() {
                let r = at % per_tile;
                let (row, column) = place_of(if op.half_accumulate { 2 * r } else { r }, lane);
                let column = at / per_tile * 8 + column;
                let both = op.half_accumulate && self.columns.contains(&(column + 1));
                if self.rows.contains(&row) || self.columns.contains(&column) || both {
                    *bits = u64::from(u32::MAX);
                }
            }
            warp.undefined.set(*register, &bits, exec);
        }
    }
}

/// Adds 16 bytes to what is read, to the latest part where they lie beside it.
fn note(reads: &mut Vec<Range>, offset: u32) {
    match reads.last_mut() {
        Some(last) if last.offset + last.bytes == offset => last.bytes += 16,
        Some(last) if offset + 16 == last.offset => (last.offset, last.bytes) = (offset, last.bytes + 16),
        _ => reads.push(Range { offset, bytes: 16 }),
    }
}

impl Machine<'_, '_> {
    pub fn wgmma(&mut self, warp: &mut Warp, op: &Wgmma, exec: u32) -> Outcome {
        if self.grid.options.checks.wgmma_registers && !warp.wgmma.is_fenced(op) {
            let what = "wgmma uses registers that were used before it, without wgmma.fence between";
            return Err(Trouble::new(FaultKind::ProxyFence, what));
        }
        let (n, k) = (op.n, op.k);
        let quarter = warp.index % WARPGROUP;
        let mut unknown = Unknown::default();
        let mut a = vec![0f32; 16 * k];
        if let [descriptor] = op.a.as_ref() {
            let layout =
                MatrixLayout::decode(warp.scalar(*descriptor, 0, self.grid), op.a_type, op.transpose_a)?;
            // Each warp multiplies 16 of the 64 rows.
            let operand = self.operand(warp, &layout, op.a_type, 16 * quarter..16 * quarter + 16, k)?;
            unknown.rows = operand.unknown;
            match op.transpose_a {
                true => turn(&operand.values, 16, &mut a),
                false => a.copy_from_slice(&operand.values),
            }
        } else {
            self.reads_in_flight(warp, &op.a)?;
            let mut held = [None; 4];
            let registers = op.a.iter().zip(&mut held).map(|(src, held)| warp.view(*src, self.grid, held));
            rows_of_a(op.a_type, registers, k, &mut a);
            for (r, bits) in op.a.iter().enumerate().filter_map(|(r, s)| Some((r, warp.undefined.bits(*s)?)))
            {
                unknown.rows.extend((0..WARP).filter(|l| bits[*l] != 0).map(|l| l / 4 + 8 * (r & 1)));
            }
        }
        if op.negate_a != op.negate_b {
            a.iter_mut().for_each(|x| *x = -*x);
        }
        let b = self.rows_of_b(warp, op)?;
        unknown.columns.clone_from(&b.unknown);
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
        let places =
            op.d.iter().enumerate().map(|(at, register)| (at % per_tile, at / per_tile * 8, *register));
        let mut d = vec![0f32; 16 * n];
        if accumulates && !integer {
            for (r, column, register) in places.clone() {
                let lanes = &warp.registers[register as usize];
                sums_of(op.half_accumulate, r, lanes, n, &mut d[column..]);
            }
        }
        self.grid.multiply(op.a_type, Gemm { n, k, a: &a, b: &b.values, d: &mut d });
        for (r, column, register) in places {
            let lanes = &mut warp.registers[register as usize];
            if !integer {
                register_of(op.half_accumulate, r, n, &d[column..], lanes);
                continue;
            }
            if !accumulates {
                lanes.fill(0);
            }
            add_to_register(r, n, &d[column..], lanes);
        }
        unknown.spread(warp, op, accumulates, exec);
        warp.wgmma.start(&op.d);
        self.state.ctas[warp.cta].warpgroups[warp.index / WARPGROUP].products[quarter] += 1;
        self.tally.total.tensor_flops += 2 * (16 * n * k) as u64;
        Ok(())
    }

    /// B of a product, by rows. The first warp of the four reads it for all: a product is one operation of theirs, and where
    /// nobody may write what it reads, any time is as good. Each warp must have seen what it reads written.
    fn rows_of_b(&mut self, warp: &mut Warp, op: &Wgmma) -> Outcome<Arc<Operand>> {
        let descriptor = warp.scalar(op.b, 0, self.grid);
        let a = (op.a.len() == 1).then(|| warp.scalar(op.a[0], 0, self.grid));
        let Wgmma { n, k, b_type, transpose_b, .. } = *op;
        let shape = Shape { n, k, b_type, transpose_b, descriptors: [a, Some(descriptor)] };
        let cta = &mut self.state.ctas[warp.cta];
        if let Some(known) = cta.warpgroups[warp.index / WARPGROUP].begin(warp.index % WARPGROUP, shape)? {
            let fenced = |actor: usize, epoch: u32| warp.fenced(&self.state.fences, actor, epoch);
            if cta.shared.all_sound(&known.writes, &warp.who(0, warp.cta, false), fenced) {
                return Ok(known);
            }
        }
        let layout = MatrixLayout::decode(descriptor, op.b_type, op.transpose_b)?;
        let mut operand = self.operand(warp, &layout, op.b_type, 0..op.n, op.k)?;
        // Columns of B side by side, which lets the compiler use wide registers.
        if op.transpose_b {
            order(&mut operand.values);
        } else {
            let columns = std::mem::replace(&mut operand.values, vec![0.0; op.n * op.k]);
            transpose(&columns, op.k, op.n, &mut operand.values);
        }
        let operand = Arc::new(operand);
        self.state.ctas[warp.cta].warpgroups[warp.index / WARPGROUP].keep(warp.index % WARPGROUP, &operand);
        Ok(operand)
    }

    /// Reads rows of an operand, `k` columns, in the order of memory: by rows, or transposed by columns.
    fn operand(
        &mut self,
        warp: &mut Warp,
        layout: &MatrixLayout,
        ty: MmaType,
        rows: std::ops::Range<usize>,
        k: usize,
    ) -> Outcome<Operand> {
        let size = ty.bits() / 8;
        // 16 bytes at a time: along K, or along the rows when those are contiguous.
        let chunk = 16 / size;
        let who = warp.who(0, warp.cta, false);
        let fences = &self.state.fences;
        let fenced = |actor: usize, epoch: u32| warp.fenced(fences, actor, epoch);
        let memory = &mut self.state.ctas[warp.cta].shared;
        let (mut unknown, mut reads, mut sound) = (Vec::new(), Vec::new(), Sound::default());
        let mut words = Vec::with_capacity(rows.len() * k / (4 / size));
        let mut read = |row: usize, column: usize| -> Outcome {
            let offset = layout.address(row, column, size);
            memory.check(offset, 16)?;
            if !memory.proxy_reading(offset, 16, &who, fenced, &mut sound)?
                && (0..4).any(|w| memory.undefined(offset + 4 * w, 4) != 0)
            {
                let first = row - rows.start;
                unknown.extend(first..first + if layout.transpose { chunk } else { 1 });
            }
            note(&mut reads, offset);
            words.extend_from_slice(memory.words(offset, 16));
            Ok(())
        };
        if layout.transpose {
            for column in 0..k {
                rows.clone().step_by(chunk).try_for_each(|row| read(row, column))?;
            }
        } else {
            for row in rows.clone() {
                (0..k).step_by(chunk).try_for_each(|column| read(row, column))?;
            }
        }
        let mut values = vec![0.0; rows.len() * k];
        decode(ty, &words, &mut values);
        warp.wgmma.reads.extend(reads);
        Ok(Operand { values, unknown, writes: sound })
    }

    /// `wgmma.fence`, `.commit_group`, `.wait_group`.
    pub fn wgmma_order(&mut self, warp: &mut Warp, op: &Op) -> Outcome<Flow> {
        let group = &mut self.state.ctas[warp.cta].warpgroups[warp.index / WARPGROUP];
        let own = warp.index % WARPGROUP;
        match op {
            Op::WgmmaFence => warp.wgmma.fence(),
            Op::WgmmaCommit => group.commit(own, warp.wgmma.commit()),
            Op::WgmmaWait { pending } => {
                let groups = group.committed[own].saturating_sub(u64::from(*pending));
                if let Some(late) = group.behind(groups) {
                    if !group.gone[late] {
                        return Ok(Flow::Wait(State::Products { groups }));
                    }
                    let what = format!(
                        "wgmma.wait_group for {groups} groups, of which warp {late} of the warpgroup has committed {}: \
                         all four take part in each",
                        group.committed[late]
                    );
                    return Err(Trouble::new(FaultKind::Divergence, what));
                }
                let read = group.complete(groups);
                warp.wgmma.wait(*pending as usize);
                for range in read {
                    self.state.ctas[warp.cta].shared.proxy_read(range.offset, range.bytes);
                }
            }
            _ => {}
        }
        Ok(Flow::Next)
    }

    fn reads_in_flight(&self, warp: &Warp, sources: &[Src]) -> Outcome {
        let busy = |s: &&Src| matches!(s, Src::Register(r) if warp.wgmma.writes(*r));
        if self.grid.options.checks.wgmma_registers && sources.iter().any(|s| busy(&s)) {
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
    /// Where the swizzle's repeating pattern starts, modulo 1024: the base offset's 128-byte rows.
    pattern: u32,
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
        let base_offset = (descriptor >> 49 & 7) as u32;
        if base_offset != 0 && width == 16 {
            let what = format!(
                "a matrix descriptor without swizzle has base offset {base_offset}, allowed is 0: it says where a \
                 swizzle's pattern starts"
            );
            return Err(Trouble::new(FaultKind::IllegalInstruction, what));
        }
        let (start, leading, stride) = (field(0), field(16), field(32));
        Ok(Self { start, leading, stride, width, pattern: base_offset << 7, transpose })
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
        let in_pattern = (self.start + linear).wrapping_sub(self.pattern);
        swizzle(in_pattern, width).wrapping_add(self.pattern)
    }
}
