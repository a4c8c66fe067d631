//! Matrix instructions. Fragment layouts as in the PTX ISA, "Matrix Fragments"; `g` is the lane's group
//! (lane / 4), `t` its place in the group (lane % 4).

use super::access::Site;
use super::asynchronous::Range;
use super::machine::{Flow, Machine};
use super::warp::{State, Warp};
use crate::decode::convert::{small, tf32};
use crate::fault::{FaultKind, Outcome, Trouble};
use crate::float::{BF16, E4M3, E5M2, F16, Rounding};
use crate::ir::{Address, Lanes, Mma, MmaType, Op, ScaleD, Src, Wgmma, Window};

/// Value of element `i` of a register.
fn element(ty: MmaType, bits: u64, i: usize) -> f32 {
    let part = |width: usize| (bits >> (width * i)) as u32 & ((1 << width) - 1);
    match ty {
        MmaType::F16 => small(F16, part(16)),
        MmaType::Bf16 => small(BF16, part(16)),
        MmaType::Tf32 => tf32(bits),
        MmaType::E4M3 => small(E4M3, part(8)),
        MmaType::E5M2 => small(E5M2, part(8)),
        // Exact: sums of products of bytes stay below 2^24 for every shape.
        MmaType::S8 => f32::from(part(8) as u8 as i8),
        MmaType::U8 => f32::from(part(8) as u8),
    }
}

/// 16 rows of A from registers: row-major, `k` columns.
fn rows_of_a(ty: MmaType, registers: &[Lanes], k: usize, a: &mut [f32]) {
    let each = 32 / ty.bits();
    for (r, lanes) in registers.iter().enumerate() {
        for (lane, bits) in lanes.iter().enumerate() {
            let (g, t) = (lane / 4, lane % 4);
            let (row, column) = (g + 8 * (r & 1), t * each + (r >> 1) * 4 * each);
            for i in 0..each {
                a[row * k + column + i] = element(ty, *bits, i);
            }
        }
    }
}

impl Machine<'_, '_> {
    /// Offset in the block's own shared memory of a shared address, or of a generic one.
    fn own_shared(&self, warp: &Warp, address: u64) -> Outcome<Option<u32>> {
        let window = if address >> 32 == 0 { Window::Shared } else { Window::Generic };
        Ok(match self.site(warp, window, address)? {
            Site::Shared(cta, offset) if cta == warp.cta => Some(offset),
            _ => None,
        })
    }

    /// The eight addresses of each 8x8 matrix, from lanes 0-7, 8-15, ...
    fn matrix_rows(&self, warp: &Warp, address: Address, matrices: usize) -> Outcome<Vec<u32>> {
        let addresses = self.addresses(warp, address);
        (0..8 * matrices)
            .map(|lane| match self.own_shared(warp, addresses[lane]) {
                Ok(Some(offset)) => Ok(offset),
                Ok(_) => Err(Trouble::new(
                    FaultKind::IllegalInstruction,
                    "an address that is not in the block's shared memory",
                )
                .by(lane)),
                Err(t) => Err(t.by(lane)),
            })
            .collect()
    }

    fn count_matrix(&mut self, rows: &[u32], pc: usize) {
        // Each matrix is one pass of eight rows of 16 bytes.
        for rows in rows.chunks(8) {
            let mut offsets = [None; 32];
            for (place, row) in offsets.iter_mut().zip(rows) {
                *place = Some(*row);
            }
            self.banks(&offsets, 16, pc);
        }
    }

    pub fn load_matrix(
        &mut self,
        warp: &mut Warp,
        address: Address,
        dst: &[u32],
        transpose: bool,
        exec: u32,
        pc: usize,
    ) -> Outcome<Flow> {
        if exec != warp.alive {
            return Ok(Flow::Wait(State::Gather));
        }
        whole(exec)?;
        let rows = self.matrix_rows(warp, address, dst.len())?;
        self.count_matrix(&rows, pc);
        for (matrix, register) in dst.iter().enumerate() {
            let mut halves = [[0u16; 8]; 8];
            for (r, half_row) in halves.iter_mut().enumerate() {
                let (lane, offset) = (8 * matrix + r, rows[8 * matrix + r]);
                let who = warp.who(lane, warp.cta, false);
                let memory = &mut self.state.ctas[warp.cta].shared;
                memory.check(offset, 16).map_err(|t| t.by(lane))?;
                memory.reading(offset, 16, &who).map_err(|t| t.by(lane))?;
                for (c, half) in half_row.iter_mut().enumerate() {
                    *half = memory.peek(offset + 2 * c as u32, 2) as u16;
                }
            }
            let out: Lanes = std::array::from_fn(|lane| {
                let (g, t) = (lane / 4, 2 * (lane % 4));
                let pair = if transpose {
                    (halves[t][g], halves[t + 1][g])
                } else {
                    (halves[g][t], halves[g][t + 1])
                };
                u64::from(pair.0) | u64::from(pair.1) << 16
            });
            warp.put(*register, &out, exec);
        }
        Ok(Flow::Next)
    }

    pub fn store_matrix(
        &mut self,
        warp: &mut Warp,
        address: Address,
        src: &[Src],
        transpose: bool,
        exec: u32,
        pc: usize,
    ) -> Outcome<Flow> {
        if exec != warp.alive {
            return Ok(Flow::Wait(State::Gather));
        }
        whole(exec)?;
        let rows = self.matrix_rows(warp, address, src.len())?;
        self.count_matrix(&rows, pc);
        for (matrix, register) in src.iter().enumerate() {
            let value = warp.lanes(*register, self.grid);
            for r in 0..8 {
                let (lane, offset) = (8 * matrix + r, rows[8 * matrix + r]);
                let who = warp.who(lane, warp.cta, false);
                let memory = &mut self.state.ctas[warp.cta].shared;
                memory.check(offset, 16).map_err(|t| t.by(lane))?;
                memory.writing(offset, 16, &who, false).map_err(|t| t.by(lane))?;
                for c in 0..8 {
                    // Element (row, column) of the matrix lies with lane 4 row + column / 2.
                    let (row, column) = if transpose { (c, r) } else { (r, c) };
                    let half = value[4 * row + column / 2] >> (16 * (column % 2)) & 0xffff;
                    memory.poke(offset + 2 * c as u32, 2, half);
                }
            }
        }
        Ok(Flow::Next)
    }

    /// `movmatrix`: transposes an 8x8 matrix across the warp.
    pub fn move_matrix(&mut self, warp: &mut Warp, dst: u32, a: Src, exec: u32) -> Outcome<Flow> {
        if exec != warp.alive {
            return Ok(Flow::Wait(State::Gather));
        }
        whole(exec)?;
        let a = warp.lanes(a, self.grid);
        let at = |row: usize, column: usize| a[4 * row + column / 2] >> (16 * (column % 2)) & 0xffff;
        let out = std::array::from_fn(|lane| {
            let (g, t) = (lane / 4, 2 * (lane % 4));
            at(t, g) | at(t + 1, g) << 16
        });
        warp.put(dst, &out, exec);
        Ok(Flow::Next)
    }

    pub fn mma(&mut self, warp: &mut Warp, mma: &Mma, exec: u32) -> Outcome<Flow> {
        if exec != warp.alive {
            return Ok(Flow::Wait(State::Gather));
        }
        whole(exec)?;
        let k = mma.k;
        let (mut a, mut b) = ([0f32; 16 * 32], [0f32; 8 * 32]);
        let registers = |list: &[Src]| list.iter().map(|s| warp.lanes(*s, self.grid)).collect::<Vec<_>>();
        rows_of_a(mma.a_type, &registers(&mma.a), k, &mut a);
        let each = 32 / mma.b_type.bits();
        for (r, lanes) in registers(&mma.b).iter().enumerate() {
            for (lane, bits) in lanes.iter().enumerate() {
                let (g, t) = (lane / 4, lane % 4);
                for i in 0..each {
                    // Transposed: column `g` of B is a row of eight here.
                    b[(t * each + i + r * 4 * each) * 8 + g] = element(mma.b_type, *bits, i);
                }
            }
        }
        let integer = mma.a_type.is_integer();
        let c = registers(&mma.c);
        let mut d = [0f32; 16 * 8];
        // Products are exact in f32; their sum is rounded at each step, as tensor cores' order is free.
        for (row, out) in d.chunks_exact_mut(8).enumerate() {
            for (j, y) in out.iter_mut().enumerate() {
                *y = if integer { 0.0 } else { accumulator(mma.half_accumulate, &c, row, j) };
            }
            for (x, b) in a[row * k..row * k + k].iter().zip(b.chunks_exact(8)) {
                for (y, b) in out.iter_mut().zip(b) {
                    *y += x * b;
                }
            }
        }
        let results = pack(mma.half_accumulate, integer, mma.d.len(), |row, j| d[row * 8 + j], &c);
        for (register, lanes) in mma.d.iter().zip(&results) {
            warp.put(*register, lanes, exec);
        }
        self.tally.total.tensor_flops += 2 * 16 * 8 * k as u64;
        Ok(Flow::Next)
    }

    pub fn wgmma(&mut self, warp: &mut Warp, op: &Wgmma, exec: u32) -> Outcome<Flow> {
        if exec != warp.alive {
            return Ok(Flow::Wait(State::Gather));
        }
        whole(exec)?;
        let (n, k) = (op.n, op.k);
        let quarter = warp.index % 4;
        let mut a = vec![0f32; 16 * k];
        if let [descriptor] = op.a.as_ref() {
            let descriptor = warp.scalar(*descriptor, 0, self.grid);
            // Each warp multiplies 16 of the 64 rows.
            self.operand(warp, descriptor, op.a_type, op.transpose_a, 16 * quarter, 16, k, &mut a)?;
        } else {
            let registers: Vec<Lanes> = op.a.iter().map(|s| warp.lanes(*s, self.grid)).collect();
            self.reads_in_flight(warp, &op.a)?;
            rows_of_a(op.a_type, &registers, k, &mut a);
        }
        let mut b = vec![0f32; n * k];
        let descriptor = warp.scalar(op.b, 0, self.grid);
        self.operand(warp, descriptor, op.b_type, op.transpose_b, 0, n, k, &mut b)?;
        if op.negate_a != op.negate_b {
            a.iter_mut().for_each(|x| *x = -*x);
        }
        let accumulates = match op.scale_d {
            ScaleD::Constant(scale) => scale,
            ScaleD::Predicate(p) => warp.predicate(p) & exec == exec,
        };
        // Column-major B: eight columns side by side let the compiler use registers well.
        let mut columns = vec![0f32; n * k];
        for (j, row) in b.chunks_exact(k).enumerate() {
            for (i, x) in row.iter().enumerate() {
                columns[i * n + j] = *x;
            }
        }
        let per_tile = if op.half_accumulate { 2 } else { 4 };
        let integer = op.a_type.is_integer();
        let mut d = vec![0f32; 16 * n];
        if accumulates && !integer {
            for (tile, registers) in op.d.chunks_exact(per_tile).enumerate() {
                let c: Vec<Lanes> = registers.iter().map(|r| warp.registers[*r as usize]).collect();
                for row in 0..16 {
                    for j in 0..8 {
                        d[row * n + tile * 8 + j] = accumulator(op.half_accumulate, &c, row, j);
                    }
                }
            }
        }
        for (row, out) in d.chunks_exact_mut(n).enumerate() {
            for (x, b) in a[row * k..row * k + k].iter().zip(columns.chunks_exact(n)) {
                for (y, b) in out.iter_mut().zip(b) {
                    *y += x * b;
                }
            }
        }
        for (tile, registers) in op.d.chunks_exact(per_tile).enumerate() {
            let held = |r: &u32| if accumulates { warp.registers[*r as usize] } else { [0; 32] };
            let c: Vec<Lanes> = if integer { registers.iter().map(held).collect() } else { Vec::new() };
            let at = |row: usize, j: usize| d[row * n + tile * 8 + j];
            let results = pack(op.half_accumulate, integer, per_tile, at, &c);
            for (register, lanes) in registers.iter().zip(&results) {
                warp.put(*register, lanes, exec);
            }
        }
        warp.wgmma.start(&op.d);
        self.tally.total.tensor_flops += 2 * (16 * n * k) as u64;
        Ok(Flow::Next)
    }

    /// Reads rows `first..first + rows` of an operand through its descriptor, `k` columns, row-major.
    #[allow(clippy::too_many_arguments, reason = "the operand's own parts")]
    fn operand(
        &mut self,
        warp: &mut Warp,
        descriptor: u64,
        ty: MmaType,
        transpose: bool,
        first: usize,
        rows: usize,
        k: usize,
        into: &mut [f32],
    ) -> Outcome {
        let layout = MatrixLayout::decode(descriptor, ty, transpose)?;
        let size = ty.bits() / 8;
        // 16 bytes at a time: along K, or along the rows when those are contiguous.
        let chunk = 16 / size;
        let (mn_step, k_step) = if transpose { (chunk, 1) } else { (1, chunk) };
        for row in (0..rows).step_by(mn_step) {
            for column in (0..k).step_by(k_step) {
                let offset = layout.address(first + row, column, size);
                let who = warp.who(0, warp.cta, false);
                let fences = &self.state.fences;
                let fenced = |actor: usize, epoch: u32| self_fenced(warp, fences, actor, epoch);
                let memory = &mut self.state.ctas[warp.cta].shared;
                memory.check(offset, 16)?;
                memory.proxy_reading(offset, 16, &who, fenced)?;
                warp.wgmma.reads.push(Range { offset, bytes: 16 });
                for i in 0..chunk {
                    let bits = memory.peek(offset + (i * size) as u32, size as u32);
                    let (r, c) = if transpose { (row + i, column) } else { (row, column + i) };
                    into[r * k + c] = element(ty, bits, 0);
                }
            }
        }
        Ok(())
    }

    /// `wgmma.fence`, `.commit_group`, `.wait_group`.
    pub fn wgmma_order(&mut self, warp: &mut Warp, op: &Op, exec: u32) -> Outcome<Flow> {
        if exec != warp.alive {
            return Ok(Flow::Wait(State::Gather));
        }
        match op {
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
        let busy = |s: &&Src| matches!(s, Src::Register(r) if warp.wgmma.pending.contains(r));
        if self.grid.options.check_asynchronous && sources.iter().any(|s| busy(&s)) {
            let what = "a wgmma reads fragments of A from registers that a wgmma not waited for still writes";
            return Err(Trouble::new(FaultKind::AsyncPending, what));
        }
        Ok(())
    }

    /// No ordinary instruction uses registers that a wgmma still writes.
    pub fn accumulators_untouched(&self, warp: &Warp, op: &Op) -> Outcome {
        if !self.grid.options.check_asynchronous || matches!(op, Op::Wgmma(_)) {
            return Ok(());
        }
        let mut touched = false;
        super::uses::registers(op, &mut |r| touched |= warp.wgmma.pending.contains(&r));
        if touched {
            let what = "use of a register that a wgmma writes, before wgmma.wait_group";
            return Err(Trouble::new(FaultKind::AsyncPending, what));
        }
        Ok(())
    }
}

/// Whether a proxy fence lies between a write and this warp's asynchronous read: the reader's own fence
/// after it saw the write, or the writer's after the write. `fences` holds each actor's epoch at its last.
pub fn self_fenced(warp: &Warp, fences: &[u32], actor: usize, epoch: u32) -> bool {
    let reaches = |clock: &[u32]| clock.get(actor).is_some_and(|e| *e >= epoch);
    reaches(&warp.fenced) || reaches(fences)
}

fn whole(exec: u32) -> Outcome {
    if exec != u32::MAX {
        let what = format!("a matrix instruction by lanes {exec:#010x}; it takes a whole warp");
        return Err(Trouble::new(FaultKind::Divergence, what));
    }
    Ok(())
}

/// Element (row, column) of a 16x8 tile of C.
fn accumulator(half: bool, c: &[Lanes], row: usize, column: usize) -> f32 {
    let lane = 4 * (row % 8) + column / 2;
    if half {
        let bits = c[row / 8][lane] >> (16 * (column % 2));
        return small(F16, bits as u32 & 0xffff);
    }
    f32::from_bits(c[2 * (row / 8) + column % 2][lane] as u32)
}

/// Registers of a 16x8 tile; integer sums add to `c`.
fn pack(
    half: bool,
    integer: bool,
    registers: usize,
    at: impl Fn(usize, usize) -> f32,
    c: &[Lanes],
) -> Vec<Lanes> {
    (0..registers)
        .map(|r| {
            std::array::from_fn(|lane| {
                let (g, t) = (lane / 4, 2 * (lane % 4));
                if half {
                    let bits = |j| u64::from(F16.encode(at(g + 8 * r, j).into(), Rounding::Nearest));
                    return bits(t) | bits(t + 1) << 16;
                }
                let value = at(g + 8 * (r / 2), t + r % 2);
                if integer {
                    return u64::from((value as i32).wrapping_add(c[r][lane] as i32) as u32);
                }
                value.to_bits().into()
            })
        })
        .collect()
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

/// Permutes the 16-byte chunks of an address by its higher bits: XOR of bits 4-6 with bits 7-9 for rows of
/// 128 bytes, fewer for shorter rows.
pub fn swizzle(address: u32, width: u32) -> u32 {
    let mask = width / 16 - 1;
    address ^ ((address >> 7 & mask) << 4)
}
