//! ldmatrix, stmatrix, movmatrix and mma, of integers so small that sums are exact in any order.

use super::parts::Target::{self, Sm80, Sm90a};
use super::parts::{Program, bf16, copy, f16, list, program, registers, small, words, words_of};

pub fn all() -> Vec<Program> {
    let mut programs = Vec::new();
    for (count, trans) in [1, 2, 4].into_iter().flat_map(|count| [(count, false), (count, true)]) {
        programs.push(ldmatrix(count, trans));
        programs.push(stmatrix(count, trans));
    }
    programs.push(movmatrix());
    for k in [8, 16] {
        programs.push(mma(Sm80, k, Type::F16, Type::F16, "f32"));
        programs.push(mma(Sm80, k, Type::F16, Type::F16, "f16"));
        programs.push(mma(Sm80, k, Type::Bf16, Type::Bf16, "f32"));
    }
    programs.push(mma(Sm80, 4, Type::Tf32, Type::Tf32, "f32"));
    programs.push(mma(Sm80, 8, Type::Tf32, Type::Tf32, "f32"));
    for k in [16, 32] {
        for (a, b) in [(Type::S8, Type::S8), (Type::U8, Type::U8), (Type::S8, Type::U8), (Type::U8, Type::S8)]
        {
            programs.push(mma(Sm80, k, a, b, "s32"));
        }
    }
    for (a, b) in [(Type::E4m3, Type::E4m3), (Type::E5m2, Type::E5m2), (Type::E4m3, Type::E5m2)] {
        programs.push(mma(Sm90a, 32, a, b, "f32"));
    }
    programs
}

/// Element types of products.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Type {
    F16,
    Bf16,
    Tf32,
    S8,
    U8,
    E4m3,
    E5m2,
}

impl Type {
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    pub fn bytes(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::Tf32 => 4,
            _ => 1,
        }
    }

    /// Integers that the type has: -4 to 4, or 0 to 8.
    pub fn integers(self, count: usize, seed: u32) -> Vec<i32> {
        let lift = if self == Self::U8 { 4 } else { 0 };
        small(count, seed).into_iter().map(|x| x + lift).collect()
    }

    pub fn code(self, x: i32) -> u32 {
        match self {
            Self::F16 => f16(x),
            Self::Bf16 => bf16(x),
            Self::Tf32 => (x as f32).to_bits(),
            Self::S8 | Self::U8 => x as u32 & 0xff,
            // Both have the sign first; the exponent's bias is 7, or 15 as in f16 with two bits of the fraction.
            Self::E5m2 => f16(x) >> 8,
            Self::E4m3 if x == 0 => 0,
            Self::E4m3 => (f16(x) >> 8 & 0x80) | ((f16(x) & 0x7fff) - (8 << 10)) >> 7,
        }
    }
}

/// An accumulator's registers per element, as f32, f16 or s32.
pub fn accumulator(kind: &str, x: i32) -> u32 {
    match kind {
        "f32" => (x as f32).to_bits(),
        "f16" => f16(x),
        _ => x as u32,
    }
}

/// Fragments of a matrix: registers of all threads, all threads' first ones first. `at(thread, i)` is the code of a
/// thread's element `i`; the lowest bits of a register hold the first.
pub fn fragments(
    bytes: usize,
    threads: usize,
    elements: usize,
    at: impl Fn(usize, usize) -> u32,
) -> Vec<u32> {
    let each = 4 / bytes;
    let word = |x: usize| {
        let (register, thread) = (x / threads, x % threads);
        (0..each).fold(0, |word, i| word | at(thread, register * each + i) << (8 * bytes * i))
    };
    (0..elements / each * threads).map(word).collect()
}

/// (row, column) of element `i` of a lane's A, 16 x K: a register holds neighbours of a row; the next one is eight rows
/// down, then the other half of K.
pub fn place_a(bytes: usize, lane: usize, i: usize) -> (usize, usize) {
    let each = 4 / bytes;
    let (register, within) = (i / each, i % each);
    (lane / 4 + 8 * (register % 2), (lane % 4 + 4 * (register / 2)) * each + within)
}

/// (row, column) of element `i` of a lane's B, K x 8.
fn place_b(bytes: usize, lane: usize, i: usize) -> (usize, usize) {
    let each = 4 / bytes;
    ((lane % 4 + 4 * (i / each)) * each + i % each, lane / 4)
}

/// (row, column) of element `i` of a lane's accumulators, 16 x N: pairs of a row, the same eight rows down, the next
/// eight columns.
pub fn place_d(lane: usize, i: usize) -> (usize, usize) {
    (lane / 4 + 8 * (i / 2 % 2), i / 4 * 8 + lane % 4 * 2 + i % 2)
}

/// An `mma.sync` of 16 x 8 x k.
pub struct Mma {
    pub target: Target,
    pub k: usize,
    pub a_type: Type,
    pub b_type: Type,
    pub kind: &'static str,
}

impl Mma {
    /// The product of A [16, k] and B [k, 8], added to C [16, 8]: codes of all three.
    pub fn program(&self, a: &[u32], b: &[u32], c: &[u32]) -> Program {
        let Self { target, k, ref a_type, ref b_type, kind } = *self;
        let bytes = a_type.bytes();
        // Elements of a lane's A, B and C, and registers of them.
        let (of_a, of_b, words_c) = (16 * k / 32, 8 * k / 32, if kind == "f16" { 2 } else { 4 });
        let (words_a, words_b) = (of_a * bytes / 4, of_b * bytes / 4);
        let (at_b, at_c, at_d) = (10 + words_a, 10 + words_a + words_b, 10 + words_a + words_b + words_c);
        let types = format!("{kind}.{}.{}.{kind}", a_type.name(), b_type.name());
        let body = registers(true, 10..at_d, "%at", 32)
            + &format!(
                "mma.sync.aligned.m16n8k{k}.row.col.{types} {}, {}, {}, {};\n",
                list(at_d..at_d + words_c),
                list(10..at_b),
                list(at_b..at_c),
                list(at_c..at_d)
            )
            + &registers(false, at_d..at_d + words_c, "%to", 32);
        let mut input = fragments(bytes, 32, of_a, |lane, i| {
            let (row, column) = place_a(bytes, lane, i);
            a[row * k + column]
        });
        input.extend(fragments(bytes, 32, of_b, |lane, i| {
            let (row, column) = place_b(bytes, lane, i);
            b[row * 8 + column]
        }));
        input.extend(of_d(kind, 8, 32, c));
        program(&format!("mma.sync.m16n8k{k}.{types}"), target, &body).given(input)
    }
}

/// Fragments of accumulators, 16 rows x n for each 32 threads, of these codes.
pub fn of_d(kind: &str, n: usize, threads: usize, codes: &[u32]) -> Vec<u32> {
    fragments(if kind == "f16" { 2 } else { 4 }, threads, n / 2, |thread, i| {
        let (row, column) = place_d(thread % 32, i);
        codes[(16 * (thread / 32) + row) * n + column]
    })
}

/// The codes that such fragments hold.
pub fn codes_of_d(kind: &str, n: usize, threads: usize, fragments: &[u32]) -> Vec<u32> {
    let (each, mask) = if kind == "f16" { (2, 0xffff) } else { (1, u32::MAX) };
    let mut codes = vec![0; threads / 2 * n];
    for (thread, i) in (0..threads).flat_map(|thread| (0..n / 2).map(move |i| (thread, i))) {
        let (row, column) = place_d(thread % 32, i);
        let word = fragments[i / each * threads + thread];
        codes[(16 * (thread / 32) + row) * n + column] = word >> (16 * (i % each)) & mask;
    }
    codes
}

fn mma(target: Target, k: usize, a_type: Type, b_type: Type, kind: &'static str) -> Program {
    let (a, b, c) = (a_type.integers(16 * k, 1), b_type.integers(k * 8, 2), small(16 * 8, 3));
    let sum = |i: usize| c[i] + (0..k).map(|x| a[i / 8 * k + x] * b[x * 8 + i % 8]).sum::<i32>();
    let codes = |ty: Type, x: &[i32]| -> Vec<u32> { x.iter().map(|x| ty.code(*x)).collect() };
    let accumulators = |value: &dyn Fn(usize) -> i32| -> Vec<u32> {
        (0..16 * 8).map(|i| accumulator(kind, value(i))).collect()
    };
    Mma { target, k, a_type, b_type, kind }
        .program(&codes(a_type, &a), &codes(b_type, &b), &accumulators(&|i| c[i]))
        .expecting(of_d(kind, 8, 32, &accumulators(&sum)))
}

/// Bytes of 1024 at which lane `lane`'s row of 16 lies: in no order.
fn row_at(lane: usize) -> usize {
    (lane * 27 + 5) % 64 * 16
}

/// Code for a lane's row address in `%r4`.
const ROW: &str = "mad.lo.u32 %r4, %t, 27, 5;\nand.b32 %r4, %r4, 63;\nmad.lo.u32 %r4, %r4, 16, %tile;\n";

/// (row, column) of half `half` of a lane's word of an 8 x 8 matrix.
fn place_of_half(lane: usize, half: usize, trans: bool) -> (usize, usize) {
    let (row, column) = (lane / 4, lane % 4 * 2 + half);
    if trans { (column, row) } else { (row, column) }
}

fn variant(count: usize, trans: bool) -> String {
    format!("m8n8.x{count}{}", if trans { ".trans" } else { "" })
}

fn ldmatrix(count: usize, trans: bool) -> Program {
    let variant = variant(count, trans);
    let body = copy(true, 256, "%in")
        + "bar.sync 0;\n"
        + ROW
        + &format!("ldmatrix.sync.aligned.{variant}.shared.b16 {}, [%r4];\n", list(10..10 + count))
        + &registers(false, 10..10 + count, "%to", 32);
    let memory = words(1024);
    let half = |byte: usize| memory[byte / 4] >> (8 * (byte % 4)) & 0xffff;
    let expected = fragments(2, 32, 2 * count, |lane, i| {
        let (row, column) = place_of_half(lane, i % 2, trans);
        half(row_at(i / 2 * 8 + row) + 2 * column)
    });
    program(&format!("ldmatrix.{variant}.b16"), Sm80, &body).expecting(expected)
}

fn stmatrix(count: usize, trans: bool) -> Program {
    let variant = variant(count, trans);
    // Over what the input's first words are.
    let body = copy(true, 256, "%in")
        + "bar.sync 0;\n"
        + ROW
        + &registers(true, 10..10 + count, "%at", 32)
        + &format!(
            "stmatrix.sync.aligned.{variant}.shared.b16 [%r4], {};\nbar.sync 0;\n",
            list(10..10 + count)
        )
        + &copy(false, 256, "%out");
    let input = words(1024);
    let mut memory = super::parts::bytes_of(&input[..256]);
    for (matrix, lane, half) in (0..64 * count).map(|x| (x / 64, x / 2 % 32, x % 2)) {
        let (row, column) = place_of_half(lane, half, trans);
        let at = row_at(8 * matrix + row) + 2 * column;
        let value = input[32 * matrix + lane] >> (16 * half);
        memory[at..at + 2].copy_from_slice(&(value as u16).to_le_bytes());
    }
    program(&format!("stmatrix.{variant}.b16"), Sm90a, &body).expecting(words_of(&memory))
}

fn movmatrix() -> Program {
    let body = registers(true, 10..11, "%at", 32)
        + "movmatrix.sync.aligned.m8n8.trans.b16 %r11, %r10;\n"
        + &registers(false, 11..12, "%to", 32);
    let input = words(1024);
    let expected = fragments(2, 32, 2, |lane, i| {
        // (column, row) of the source lies in lane 4 x its row + column / 2.
        let (row, column) = place_of_half(lane, i, true);
        input[4 * row + column / 2] >> (16 * (column % 2)) & 0xffff
    });
    program("movmatrix.m8n8.trans.b16", Sm80, &body).expecting(expected)
}
