//! `ldmatrix`, `stmatrix`, `movmatrix` and `mma.sync`. `g` is the lane's group (lane / 4), `t` its place in the group (lane % 4).

use super::access::{Site, bytes_of};
use super::accumulate::Gemm;
use super::fragments::{add_to_register, register_of, rows_of_a, rows_of_b, sums_of};
use super::machine::Machine;
use super::warp::Warp;
use crate::fault::{FaultKind, Outcome, Trouble};
use crate::ir::{Address, Lanes, Mma, Src, WARP, Window};

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
    ) -> Outcome {
        let rows = self.matrix_rows(warp, address, dst.len())?;
        self.count_matrix(&rows[..8 * dst.len()], pc);
        let memory = &mut self.state.ctas[warp.cta].shared;
        let lanes = u32::MAX >> (WARP - 8 * dst.len());
        let first = rows.map(|row| (row / 4) as usize);
        let glance = rows[..8 * dst.len()].iter().all(|row| memory.check(*row, 16).is_ok())
            && memory.reads_at_a_glance(&first, 4, lanes, warp.who(0, warp.cta, false));
        for (matrix, (rows, register)) in rows.chunks_exact(8).zip(dst).enumerate() {
            let memory = &mut self.state.ctas[warp.cta].shared;
            for (r, offset) in rows.iter().enumerate().filter(|_| !glance) {
                let lane = 8 * matrix + r;
                let who = warp.who(lane, warp.cta, false);
                memory.check(*offset, 16).map_err(|t| t.by(lane))?;
                memory.reading(*offset, 16, &who).map_err(|t| t.by(lane))?;
            }
            warp.registers[*register as usize] =
                spread(transpose, |row, byte, bytes| memory.peek(rows[row] + byte, bytes));
            // Bits that nothing has written: where a glance is enough, there are none.
            let undefined = match glance {
                true => [0; WARP],
                false => spread(transpose, |row, byte, bytes| memory.undefined(rows[row] + byte, bytes)),
            };
            if undefined != [0; WARP] || !warp.undefined.is_empty() {
                self.loaded_undefined(warp, *register, &undefined, exec, pc);
            }
        }
        Ok(())
    }

    pub fn store_matrix(
        &mut self,
        warp: &mut Warp,
        address: Address,
        src: &[Src],
        transpose: bool,
        pc: usize,
    ) -> Outcome {
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
        Ok(())
    }

    /// `movmatrix`: transposes an 8x8 matrix across the warp.
    pub fn move_matrix(&mut self, warp: &mut Warp, dst: u32, a: Src, exec: u32) {
        let a = warp.lanes(a, self.grid);
        let at = |row: usize, column: usize| a[4 * row + column / 2] >> (16 * (column % 2)) & 0xffff;
        let out = std::array::from_fn(|lane| {
            let (g, t) = (lane / 4, 2 * (lane % 4));
            at(t, g) | at(t + 1, g) << 16
        });
        warp.put(dst, &out, exec);
    }

    pub fn mma(&mut self, warp: &mut Warp, mma: &Mma) {
        let (k, grid) = (mma.k, self.grid);
        let (mut a, mut b, mut d) = ([0.0; 16 * 32], [0.0; 8 * 32], [0.0; 16 * 8]);
        let mut held = [None; 4];
        let registers = mma.a.iter().zip(&mut held).map(|(src, held)| warp.view(*src, grid, held));
        rows_of_a(mma.a_type, registers, k, &mut a);
        let registers = mma.b.iter().zip(&mut held).map(|(src, held)| warp.view(*src, grid, held));
        rows_of_b(mma.b_type, registers, k, &mut b);
        let integer = mma.a_type.is_integer();
        // Registers of C may be those of D in another order.
        let mut sums = [[0; WARP]; 4];
        for (r, (src, sums)) in mma.c.iter().zip(&mut sums).enumerate() {
            match integer {
                true => *sums = warp.lanes(*src, grid),
                false => sums_of(mma.half_accumulate, r, warp.view(*src, grid, &mut held[0]), 8, &mut d),
            }
        }
        grid.multiply(mma.a_type, Gemm { n: 8, k, a: &a[..16 * k], b: &b[..8 * k], d: &mut d });
        for (r, (register, sums)) in mma.d.iter().zip(&mut sums).enumerate() {
            let register = &mut warp.registers[*register as usize];
            if integer {
                add_to_register(r, 8, &d, sums);
                *register = *sums;
            } else {
                register_of(mma.half_accumulate, r, 8, &d, register);
            }
        }
        self.tally.total.tensor_flops += 2 * 16 * 8 * k as u64;
    }
}

/// A register of an 8x8 matrix of 16 bits each; `bits` reads a row, from a byte on so many.
fn spread(transpose: bool, bits: impl Fn(usize, u32, u32) -> u64) -> Lanes {
    let mut lanes = [0; WARP];
    for (lane, pair) in lanes.iter_mut().enumerate() {
        let (g, t) = (lane / 4, lane % 4);
        *pair = if transpose {
            bits(2 * t, 2 * g as u32, 2) | bits(2 * t + 1, 2 * g as u32, 2) << 16
        } else {
            bits(g, 4 * t as u32, 4)
        };
    }
    lanes
}
