//! `wmma`, and the `mma.sync` of f64, of eight rows and with `.satfinite`.
//!
//! The ISA leaves the fragments of `wmma` open. Here lane `l` of 32 holds the elements from `l * count` on, in the
//! order of memory (multiplicands) or row by row (accumulators). Where there are more registers than elements, they
//! begin anew.

use super::access::{Site, bytes_of};
use super::accumulate::Gemm;
use super::machine::Machine;
use super::warp::Warp;
use crate::counters::sectors;
use crate::fault::{FaultKind, Outcome, Trouble};
use crate::float::{self, F16, Rounding};
use crate::ir::{Fragments, Lanes, MmaType, Product, Products, Src, WARP, WmmaTransfer};

/// A fragment: elements of `bits` in registers.
struct Fragment<'a> {
    registers: &'a [Lanes],
    bits: usize,
}

impl Fragment<'_> {
    fn element(&self, lane: usize, i: usize) -> u64 {
        let each = (32 / self.bits).max(1);
        let mask = if self.bits == 64 { u64::MAX } else { (1 << self.bits) - 1 };
        self.registers[i / each][lane] >> (self.bits * (i % each)) & mask
    }

    /// All elements of a matrix by rows; `place` is that of a lane's element.
    fn matrix(
        &self,
        elements: usize,
        columns: usize,
        place: impl Fn(usize, usize) -> (usize, usize),
    ) -> Vec<u64> {
        let mut all = vec![0; elements];
        for (lane, i) in (0..WARP).flat_map(|lane| (0..elements / WARP).map(move |i| (lane, i))) {
            let (row, column) = place(lane, i);
            all[row * columns + column] = self.element(lane, i);
        }
        all
    }
}

fn real(ty: MmaType, bits: u64) -> f32 {
    match ty {
        MmaType::F16 => float::f16(bits as u32),
        MmaType::Bf16 => float::bf16(bits as u32),
        _ => float::tf32(bits),
    }
}

fn integer(ty: MmaType, bits: u64) -> i64 {
    if ty == MmaType::S8 { (bits as u8 as i8).into() } else { (bits as u8).into() }
}

/// Place of an element in a fragment of `wmma` that goes by rows, or by columns.
fn linear(
    count: usize,
    rows: usize,
    columns: usize,
    by_column: bool,
) -> impl Fn(usize, usize) -> (usize, usize) {
    move |lane, i| {
        let x = lane * count + i;
        if by_column { (x % rows, x / rows) } else { (x / columns, x % columns) }
    }
}

/// What lanes touch at a time: a run each.
struct Touched {
    run_bytes: u32,
    /// Offsets, and the lanes that have one.
    shared: Vec<([u32; WARP], u32)>,
    global: Vec<Vec<u64>>,
}

impl Touched {
    fn new(of: &WmmaTransfer, count: usize) -> Self {
        let (times, run) = if of.across { (count, 1) } else { (1, count) };
        let run_bytes = run as u32 * of.element_bytes;
        Self { run_bytes, shared: vec![([0; WARP], 0); times], global: vec![Vec::new(); times] }
    }
}

impl Machine<'_, '_> {
    /// Counts wavefronts; the global bytes and sectors.
    fn count(&mut self, touched: &Touched, pc: usize) -> (u64, u64) {
        touched.shared.iter().for_each(|(offsets, lanes)| self.banks(offsets, *lanes, touched.run_bytes, pc));
        let run = u64::from(touched.run_bytes);
        touched.global.iter().fold((0, 0), |(bytes, all), at| {
            (bytes + run * at.len() as u64, all + sectors(at.iter().copied(), run))
        })
    }

    fn fragment(&self, warp: &Warp, sources: &[Src]) -> Vec<Lanes> {
        sources.iter().map(|s| warp.lanes(*s, self.grid)).collect()
    }

    pub fn product(&mut self, warp: &mut Warp, op: &Product, exec: u32) {
        let Product { m, n, k, products, fragments, half_c, half_d, d, a, b, c } = op;
        let (m, n, k) = (*m, *n, *k);
        let (a, b, c) = (self.fragment(warp, a), self.fragment(warp, b), self.fragment(warp, c));
        let bits = products.bits();
        let sum_bits = |half: bool| if half { 16 } else { bits.max(32) };
        let (a, b) = (Fragment { registers: &a, bits }, Fragment { registers: &b, bits });
        let c = Fragment { registers: &c, bits: sum_bits(*half_c) };
        // 9.7.14.5: registers of A go down eight rows, then right; `each` elements are neighbours.
        let each = (32 / bits).max(1);
        let (a, b) = match *fragments {
            Fragments::Mma => (
                a.matrix(m * k, k, |lane, i| {
                    let (r, i) = (i / each, i % each);
                    let (down, right) = if m == 16 { (r & 1, r >> 1) } else { (0, r) };
                    (lane / 4 + 8 * down, each * (lane % 4) + i + 4 * each * right)
                }),
                b.matrix(k * n, n, |lane, i| {
                    let (r, i) = (i / each, i % each);
                    (each * (lane % 4) + i + 4 * each * r, lane / 4)
                }),
            ),
            Fragments::Wmma { a_by_column, b_by_column } => (
                a.matrix(m * k, k, linear(m * k / WARP, m, k, a_by_column)),
                b.matrix(k * n, n, linear(k * n / WARP, k, n, b_by_column)),
            ),
        };
        let place = |lane: usize, i: usize| match *fragments {
            Fragments::Mma => (lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2),
            Fragments::Wmma { .. } => linear(m * n / WARP, m, n, false)(lane, i),
        };
        let c = c.matrix(m * n, n, place);
        let mut floats = Vec::new();
        if let Products::Float(ty) = *products {
            let reals = |x: &[u64]| -> Vec<f32> { x.iter().map(|bits| real(ty, *bits)).collect() };
            let start = |c: &u64| if *half_c { float::f16(*c as u32) } else { f32::from_bits(*c as u32) };
            floats = c.iter().map(start).collect();
            let gemm = Gemm { n, k, a: &reals(&a), b: &reals(&b), d: &mut floats };
            self.grid.multiply(ty, gemm);
        }
        let sum = |row: usize, column: usize| -> u64 {
            let pairs = (0..k).map(|x| (a[row * k + x], b[x * n + column]));
            let c = c[row * n + column];
            match *products {
                Products::F64 => {
                    let sum = pairs.fold(f64::from_bits(c), |sum, (a, b)| {
                        f64::from_bits(a).mul_add(f64::from_bits(b), sum)
                    });
                    sum.to_bits()
                }
                Products::Integer { a: a_type, b: b_type, saturate } => {
                    let all: i64 = pairs.map(|(a, b)| integer(a_type, a) * integer(b_type, b)).sum();
                    let all = all + i64::from(c as i32);
                    let clamped = all.clamp(i32::MIN.into(), i32::MAX.into());
                    u64::from(if saturate { clamped } else { all } as u32)
                }
                Products::Float(_) => {
                    let sum = floats[row * n + column];
                    match half_d {
                        true => F16.encode(sum.into(), Rounding::Nearest).into(),
                        false => sum.to_bits().into(),
                    }
                }
            }
        };
        let width = sum_bits(*half_d);
        let each = (32 / width).max(1);
        for (r, register) in d.iter().enumerate() {
            let out: Lanes = std::array::from_fn(|lane| {
                (0..each).fold(0, |word, i| {
                    let (row, column) = place(lane, r * each + i);
                    word | sum(row, column) << (width * i)
                })
            });
            warp.put(*register, &out, exec);
        }
        self.tally.total.tensor_flops += 2 * (m * n * k) as u64;
    }

    /// Where each lane's elements lie: runs of neighbours, as address, first element and their number.
    fn runs(&self, warp: &Warp, of: &WmmaTransfer) -> Outcome<Vec<(usize, u64, usize, usize)>> {
        let WmmaTransfer { address, lines, length, element_bytes, across, fragment_bytes, .. } = *of;
        let addresses = self.addresses(warp, address);
        let strides = of.stride.map(|s| warp.lanes(s, self.grid).map(|s| s & 0xffff_ffff));
        let strides = strides.unwrap_or([length as u64; WARP]);
        let other = (0..WARP).find(|l| (addresses[*l], strides[*l]) != (addresses[0], strides[0]));
        let (at, stride) = (addresses[0], strides[0]);
        let illegal = |what: String| Err(Trouble::new(FaultKind::IllegalInstruction, what).at(at));
        if let Some(lane) = other {
            return illegal("lanes of a wmma have different addresses or strides".to_owned())
                .map_err(|t| t.by(lane));
        }
        if stride < length as u64 {
            return illegal(format!("a stride of {stride} elements for lines of {length}"));
        }
        // 9.7.14.4.2; the C++ interface asks 16 bytes of strides, not a fragment's.
        Self::aligned(at, fragment_bytes.min(32))?;
        let step = stride * u64::from(element_bytes);
        if !step.is_multiple_of(fragment_bytes.min(16)) {
            let what =
                format!("a stride of {step} bytes; it must be a multiple of {}", fragment_bytes.min(16));
            return Err(Trouble::new(FaultKind::Misaligned, what).at(at));
        }
        let count = lines * length / WARP;
        let place = |line: usize, at_in: usize| {
            at.wrapping_add(line as u64 * step).wrapping_add(at_in as u64 * u64::from(element_bytes))
        };
        let mut runs = Vec::new();
        for lane in 0..WARP {
            let x = lane * count;
            match across {
                false => runs.push((lane, place(x / length, x % length), 0, count)),
                true => {
                    runs.extend((0..count).map(|i| (lane, place((x + i) % lines, (x + i) / lines), i, 1)))
                }
            }
        }
        Ok(runs)
    }

    pub fn wmma_load(
        &mut self,
        warp: &mut Warp,
        of: &WmmaTransfer,
        dst: &[u32],
        exec: u32,
        pc: usize,
    ) -> Outcome {
        let runs = self.runs(warp, of)?;
        let each = of.element_bytes;
        let count = of.lines * of.length / WARP;
        // Their bits, and those that nothing has written.
        let (mut elements, mut undefined) = (vec![[0u64; WARP]; count], vec![[0u64; WARP]; count]);
        let checks = self.grid.options.checks;
        let (mut held, mut touched) = (None, Touched::new(of, count));
        for (lane, at, first, n) in runs {
            let bytes = n as u32 * each;
            (|| -> Outcome {
                match self.site(warp, of.window, at)? {
                    Site::Global(at) => {
                        let a = self.allocation(&mut held, at, bytes.into())?;
                        self.uses(warp, a, at, bytes, false)?;
                        self.global_written(a, at, bytes, checks.loads)?;
                        for k in 0..n {
                            let offset = at - a.base + u64::from(k as u32 * each);
                            elements[first + k][lane] = a.load(offset, each);
                            if checks.written {
                                undefined[first + k][lane] = a.undefined(offset, each);
                            }
                        }
                        touched.global[first].push(at);
                    }
                    Site::Shared(cta, offset) if cta == warp.cta => {
                        let who = warp.who(lane, cta, false);
                        let memory = &mut self.state.ctas[cta].shared;
                        memory.check_range(offset, bytes)?;
                        memory.reading(offset, bytes, &who)?;
                        for k in 0..n {
                            let offset = offset + k as u32 * each;
                            elements[first + k][lane] = memory.peek(offset, each);
                            undefined[first + k][lane] = memory.undefined(offset, each);
                        }
                        touched.shared[first].0[lane] = offset;
                        touched.shared[first].1 |= 1 << lane;
                    }
                    _ => return Err(elsewhere(at)),
                }
                Ok(())
            })()
            .map_err(|t| t.by(lane))?;
        }
        let (bytes, sectors) = self.count(&touched, pc);
        self.tally.total.global_load_bytes += bytes;
        self.tally.total.global_load_sectors += sectors;
        let packed = (4 / each).max(1) as usize;
        for (r, register) in dst.iter().enumerate() {
            let pack = |of: &[Lanes]| -> Lanes {
                std::array::from_fn(|lane| {
                    let part = |i: usize| of[(r * packed + i) % count][lane] << (8 * each as usize * i);
                    (0..packed).fold(0, |word, i| word | part(i))
                })
            };
            warp.put(*register, &pack(&elements), exec);
            let undefined = pack(&undefined);
            if undefined != [0; WARP] || !warp.undefined.is_empty() {
                self.loaded_undefined(warp, *register, &undefined, exec, pc);
            }
        }
        Ok(())
    }

    pub fn wmma_store(&mut self, warp: &mut Warp, of: &WmmaTransfer, src: &[Src], pc: usize) -> Outcome {
        let runs = self.runs(warp, of)?;
        let registers = self.fragment(warp, src);
        let each = of.element_bytes;
        let fragment = Fragment { registers: &registers, bits: 8 * each as usize };
        let none = [0; WARP];
        let undefined: Vec<Lanes> = src.iter().map(|s| *warp.undefined.bits(*s).unwrap_or(&none)).collect();
        let undefined = Fragment { registers: &undefined, bits: 8 * each as usize };
        let (mut held, mut touched) = (None, Touched::new(of, of.lines * of.length / WARP));
        for (lane, at, first, n) in runs {
            let bytes = n as u32 * each;
            (|| -> Outcome {
                match self.site(warp, of.window, at)? {
                    Site::Global(at) => {
                        let a = self.allocation(&mut held, at, bytes.into())?;
                        self.uses(warp, a, at, bytes, true)?;
                        for k in 0..n {
                            let offset = at - a.base + u64::from(k as u32 * each);
                            a.store(offset, each, fragment.element(lane, first + k));
                            bytes_of(undefined.element(lane, first + k))
                                .for_each(|i| a.forget(offset + u64::from(i), 1));
                        }
                        touched.global[first].push(at);
                    }
                    Site::Shared(cta, offset) if cta == warp.cta => {
                        let who = warp.who(lane, cta, false);
                        let memory = &mut self.state.ctas[cta].shared;
                        memory.check_range(offset, bytes)?;
                        memory.writing(offset, bytes, &who, false)?;
                        for k in 0..n {
                            let offset = offset + k as u32 * each;
                            memory.poke(offset, each, fragment.element(lane, first + k));
                            bytes_of(undefined.element(lane, first + k))
                                .for_each(|i| memory.hollow(offset + i));
                        }
                        touched.shared[first].0[lane] = offset;
                        touched.shared[first].1 |= 1 << lane;
                    }
                    _ => return Err(elsewhere(at)),
                }
                Ok(())
            })()
            .map_err(|t| t.by(lane))?;
        }
        let (bytes, sectors) = self.count(&touched, pc);
        self.tally.total.global_store_bytes += bytes;
        self.tally.total.global_store_sectors += sectors;
        Ok(())
    }
}

fn elsewhere(address: u64) -> Trouble {
    let what = "a matrix of wmma lies in global memory or in the block's own shared memory";
    Trouble::new(FaultKind::IllegalInstruction, what).at(address)
}
