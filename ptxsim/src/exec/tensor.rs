//! Matrix instructions. Fragment layouts as in the PTX ISA, "Matrix Fragments"; `g` is the lane's group
//! (lane / 4), `t` its place in the group (lane % 4).

use super::access::{Site, bytes_of};
use super::accumulate::Product;
use super::machine::{Flow, Machine};
use super::warp::{State, Warp};
use crate::fault::{FaultKind, Outcome, Trouble};
use crate::float::{self, BF16, E4M3, E5M2, F16, Rounding, small, tf32};
use crate::ir::{Address, Lanes, Mma, MmaType, NAN32, Src, Window};

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

/// Calls `put` with each element of a word and its number.
#[inline]
pub fn elements(ty: MmaType, word: u32, mut put: impl FnMut(usize, f32)) {
    match ty {
        MmaType::Bf16 => {
            put(0, f32::from_bits(word << 16));
            put(1, f32::from_bits(word & 0xffff_0000));
        }
        MmaType::F16 => {
            put(0, float::f16(word & 0xffff));
            put(1, float::f16(word >> 16));
        }
        _ => (0..32 / ty.bits()).for_each(|i| put(i, element(ty, word.into(), i))),
    }
}

/// 16 rows of A from registers: row-major, `k` columns.
pub fn rows_of_a(ty: MmaType, registers: &[Lanes], k: usize, a: &mut [f32]) {
    let each = 32 / ty.bits();
    for (r, lanes) in registers.iter().enumerate() {
        for (lane, bits) in lanes.iter().enumerate() {
            let (g, t) = (lane / 4, lane % 4);
            let (row, column) = (g + 8 * (r & 1), t * each + (r >> 1) * 4 * each);
            let row = &mut a[row * k + column..];
            elements(ty, *bits as u32, |i, x| row[i] = x);
        }
    }
}

/// Row and column of lane `lane`'s accumulator `r` of 32 bits in a 16x8 tile.
#[inline]
pub fn place_of(r: usize, lane: usize) -> (usize, usize) {
    (lane / 4 + 8 * (r / 2), 2 * (lane % 4) + r % 2)
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
    fn matrix_rows(&self, warp: &Warp, address: Address, matrices: usize) -> Outcome<[u32; 32]> {
        let addresses = self.addresses(warp, address);
        let mut rows = [0; 32];
        for (lane, row) in rows.iter_mut().enumerate().take(8 * matrices) {
            *row = self.own_shared(warp, addresses[lane]).map_err(|t| t.by(lane))?.ok_or_else(|| {
                let what = "the address is not in the block's shared memory";
                Trouble::new(FaultKind::OutOfBounds, what).at(addresses[lane]).by(lane)
            })?;
        }
        Ok(rows)
    }

    fn count_matrix(&mut self, rows: &[u32], pc: usize) {
        // Each matrix is one pass of eight rows of 16 bytes.
        for rows in rows.chunks(8) {
            let mut offsets = [0; 32];
            offsets[..rows.len()].copy_from_slice(rows);
            self.banks(&offsets, 0xff, 16, pc);
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
        self.count_matrix(&rows[..8 * dst.len()], pc);
        for (matrix, register) in dst.iter().enumerate() {
            let mut halves = [[0u16; 8]; 8];
            // Bits that nothing has written.
            let mut undefined = [[0u16; 8]; 8];
            for (r, half_row) in halves.iter_mut().enumerate() {
                let (lane, offset) = (8 * matrix + r, rows[8 * matrix + r]);
                let who = warp.who(lane, warp.cta, false);
                let memory = &mut self.state.ctas[warp.cta].shared;
                memory.check(offset, 16).map_err(|t| t.by(lane))?;
                memory.reading(offset, 16, &who).map_err(|t| t.by(lane))?;
                for (c, half) in half_row.iter_mut().enumerate() {
                    *half = memory.peek(offset + 2 * c as u32, 2) as u16;
                    undefined[r][c] = memory.undefined(offset + 2 * c as u32, 2) as u16;
                }
            }
            let spread = |m: &[[u16; 8]; 8]| -> Lanes {
                std::array::from_fn(|lane| {
                    let (g, t) = (lane / 4, 2 * (lane % 4));
                    let pair = if transpose { (m[t][g], m[t + 1][g]) } else { (m[g][t], m[g][t + 1]) };
                    u64::from(pair.0) | u64::from(pair.1) << 16
                })
            };
            warp.put(*register, &spread(&halves), exec);
            if undefined != [[0; 8]; 8] || !warp.undefined.is_empty() {
                self.loaded_undefined(warp, *register, &spread(&undefined), exec, pc);
            }
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
        self.count_matrix(&rows[..8 * src.len()], pc);
        for (matrix, register) in src.iter().enumerate() {
            let value = warp.lanes(*register, self.grid);
            let undefined = warp.undefined.bits(*register).copied();
            for r in 0..8 {
                let (lane, offset) = (8 * matrix + r, rows[8 * matrix + r]);
                let who = warp.who(lane, warp.cta, false);
                let memory = &mut self.state.ctas[warp.cta].shared;
                memory.check(offset, 16).map_err(|t| t.by(lane))?;
                // Element (row, column) of the matrix lies with lane 4 row + column / 2.
                let half = |of: &Lanes, c: usize| {
                    let (row, column) = if transpose { (c, r) } else { (r, c) };
                    of[4 * row + column / 2] >> (16 * (column % 2)) & 0xffff
                };
                let same = (0..8).all(|c| memory.peek(offset + 2 * c as u32, 2) == half(&value, c));
                memory.writing(offset, 16, &who, same).map_err(|t| t.by(lane))?;
                for c in 0..8 {
                    let at = offset + 2 * c as u32;
                    memory.poke(at, 2, half(&value, c));
                    bytes_of(undefined.as_ref().map_or(0, |bits| half(bits, c)))
                        .for_each(|i| memory.hollow(at + i));
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
        let registers = |list: &[Src]| {
            let mut held = [[0; 32]; 4];
            list.iter().zip(&mut held).for_each(|(src, lanes)| *lanes = warp.lanes(*src, self.grid));
            held
        };
        rows_of_a(mma.a_type, &registers(&mma.a)[..mma.a.len()], k, &mut a);
        let each = 32 / mma.b_type.bits();
        for (r, lanes) in registers(&mma.b).iter().enumerate().take(mma.b.len()) {
            for (lane, bits) in lanes.iter().enumerate() {
                let (g, t) = (lane / 4, lane % 4);
                // Transposed: column `g` of B is a row of eight here.
                let column = &mut b[(t * each + r * 4 * each) * 8 + g..];
                elements(mma.b_type, *bits as u32, |i, x| column[8 * i] = x);
            }
        }
        let integer = mma.a_type.is_integer();
        let c = registers(&mma.c);
        let mut d = [0f32; 16 * 8];
        if !integer {
            accumulators(mma.half_accumulate, &c[..mma.c.len()], 8, &mut d);
        }
        self.grid.multiply(mma.a_type, Product { n: 8, k, a: &a[..16 * k], b: &b[..8 * k], d: &mut d });
        let results = pack(mma.half_accumulate, integer, 8, &d, &c);
        for (register, lanes) in mma.d.iter().zip(&results) {
            warp.put(*register, lanes, exec);
        }
        self.tally.total.tensor_flops += 2 * 16 * 8 * k as u64;
        Ok(Flow::Next)
    }
}

pub fn whole(exec: u32) -> Outcome {
    if exec != u32::MAX {
        let what = format!("a matrix instruction by lanes {exec:#010x}; it takes a whole warp");
        return Err(Trouble::new(FaultKind::Divergence, what));
    }
    Ok(())
}

/// A 16x8 tile of C from registers of f32 or of pairs of f16, to rows of `stride` elements.
pub fn accumulators(half: bool, c: &[Lanes], stride: usize, tile: &mut [f32]) {
    for (r, lanes) in c.iter().enumerate() {
        for (lane, bits) in lanes.iter().enumerate() {
            if half {
                let at = (lane / 4 + 8 * r) * stride + 2 * (lane % 4);
                elements(MmaType::F16, *bits as u32, |i, x| tile[at + i] = x);
            } else {
                let (row, column) = place_of(r, lane);
                tile[row * stride + column] = f32::from_bits(*bits as u32);
            }
        }
    }
}

/// Registers of a 16x8 tile, two of pairs of f16 or four; integer sums add to `c`.
pub fn pack(half: bool, integer: bool, stride: usize, tile: &[f32], c: &[Lanes]) -> [Lanes; 4] {
    let mut out = [[0; 32]; 4];
    for (r, lanes) in out.iter_mut().enumerate().take(if half { 2 } else { 4 }) {
        for (lane, bits) in lanes.iter_mut().enumerate() {
            if half {
                let at = (lane / 4 + 8 * r) * stride + 2 * (lane % 4);
                let code = |x: f32| u64::from(F16.encode(x.into(), Rounding::Nearest));
                *bits = code(tile[at]) | code(tile[at + 1]) << 16;
                continue;
            }
            let (row, column) = place_of(r, lane);
            let value = tile[row * stride + column];
            *bits = match integer {
                true => (value as i32).wrapping_add(c[r][lane] as i32) as u32,
                // The host's NaN is of either sign.
                false if value.is_nan() => NAN32,
                false => value.to_bits(),
            }
            .into();
        }
    }
    out
}
