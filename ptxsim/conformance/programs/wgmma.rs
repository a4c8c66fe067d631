//! wgmma of 64 x N x 64 in steps of 32 bytes of K, as shared memory and descriptors lie in every mode.

use super::matrix::{Type, accumulator, fragments, of_d, place_a};
use super::parts::Target::Sm90a;
use super::parts::{Program, copy, list, mixed, program, registers, small, words_of};
use std::fmt::Write;

/// Steps, 128 bytes of K: a whole row of the widest swizzle.
pub const STEPS: usize = 4;
pub const THREADS: usize = 128;
/// Registers of the accumulators and of A.
const D: usize = 4;
const A: usize = 132;

/// How an operand lies in shared memory.
#[derive(Clone, Copy)]
pub struct Layout {
    /// Bytes of a row: 32, 64 or 128 as swizzled, 16 without swizzle.
    width: usize,
    /// K is contiguous; otherwise M or N.
    k_major: bool,
}

const WIDE: Layout = Layout { width: 128, k_major: true };

/// `mns` of M or N by `ks` of K, elements of `size` bytes.
#[derive(Clone, Copy)]
struct Shape {
    mns: usize,
    ks: usize,
    size: usize,
}

impl Layout {
    fn name(self) -> String {
        let swizzle = if self.width == 16 { "none".to_owned() } else { self.width.to_string() };
        format!("{}{swizzle}", if self.k_major { 'k' } else { 'm' })
    }

    /// Elements along the contiguous dimension, and along the other.
    fn extents(self, shape: Shape) -> (usize, usize) {
        if self.k_major { (shape.ks, shape.mns) } else { (shape.mns, shape.ks) }
    }

    /// Bytes of whole tiles, each `width` bytes by all of the other dimension.
    fn bytes(self, shape: Shape) -> usize {
        let (inner, outer) = self.extents(shape);
        (inner * shape.size).next_multiple_of(self.width) * outer
    }

    fn byte(self, shape: Shape, place: Place, mn: usize, k: usize) -> usize {
        let (inner, outer) = if self.k_major { (k, mn) } else { (mn, k) };
        let inner = inner * shape.size;
        let linear = (inner / self.width * self.extents(shape).1 + outer) * self.width + inner % self.width;
        let linear = place.at + linear - place.pattern;
        // Bits 4 to 6 are changed by bits 7 to 9, as many of them as rows have chunks of 16 bytes.
        place.pattern + (linear ^ (linear >> 7 & (self.width / 16 - 1)) << 4)
    }

    /// Descriptor of step `step` of an operand that starts at byte `from` of a tile at address 0.
    fn descriptor(self, shape: Shape, from: usize, step: usize) -> u64 {
        let (width, Shape { mns, ks, .. }) = (self.width, shape);
        // Byte of the step, leading and stride offset.
        let (at, leading, stride) = match (self.k_major, width) {
            (true, 16) => (2 * step * mns * 16, mns * 16, 128),
            (true, _) => (32 * step / width * mns * width + 32 * step % width, 16, 8 * width),
            (false, 16) => (16 * step * 16, 128, ks * 16),
            (false, _) => (16 * step * width, ks * width, 8 * width),
        };
        let mode: u64 = match width {
            128 => 1,
            64 => 2,
            32 => 3,
            _ => 0,
        };
        mode << 62 | (stride as u64 / 16) << 32 | (leading as u64 / 16) << 16 | ((from + at) as u64 / 16)
    }
}

/// Where an operand and its swizzle's pattern start, in bytes after a multiple of 1024.
#[derive(Clone, Copy, Default)]
pub struct Place {
    at: usize,
    pattern: usize,
}

#[derive(Clone, Copy)]
pub struct Product {
    pub n: usize,
    pub a_type: Type,
    pub b_type: Type,
    pub kind: &'static str,
    /// `None`: from registers.
    pub a: Option<Layout>,
    pub b: Layout,
    pub place: Place,
    pub signs: (i32, i32),
    /// Whether the first step adds to what the registers hold.
    pub adds: bool,
}

pub fn plain(n: usize, ty: Type, kind: &'static str) -> Product {
    let place = Place::default();
    Product { n, a_type: ty, b_type: ty, kind, a: Some(WIDE), b: WIDE, place, signs: (1, 1), adds: true }
}

pub fn all() -> Vec<Program> {
    let mut products = Vec::new();
    products.push(plain(80, Type::Bf16, "f32"));
    for n in [8, 64, 128, 256] {
        products.push(plain(n, Type::Bf16, "f32"));
        products.push(plain(n, Type::F16, "f32"));
        products.push(plain(n, Type::F16, "f16"));
        products.push(Product { a: None, ..plain(n, Type::Bf16, "f32") });
        products.push(Product { a: None, ..plain(n, Type::F16, "f32") });
        products.push(Product { b: Layout { width: 128, k_major: false }, ..plain(n, Type::Bf16, "f32") });
    }
    for (width, k_major) in [16, 32, 64, 128].into_iter().flat_map(|width| [(width, true), (width, false)]) {
        let layout = Layout { width, k_major };
        products.push(Product { a: Some(layout), ..plain(64, Type::Bf16, "f32") });
        products.push(Product { b: layout, ..plain(128, Type::F16, "f32") });
        products.push(Product { a: None, b: layout, ..plain(64, Type::F16, "f32") });
        products.push(Product { a: Some(layout), b: layout, ..plain(256, Type::Bf16, "f32") });
    }
    for (signs, adds) in [((1, 1), false), ((-1, 1), true), ((1, -1), true), ((-1, -1), false)] {
        products.push(Product { signs, adds, ..plain(64, Type::Bf16, "f32") });
        products.push(Product { signs, adds, ..plain(64, Type::F16, "f16") });
        products.push(Product { signs, adds, a: None, ..plain(128, Type::F16, "f32") });
    }
    // Starts within a pattern as a tensor copy leaves it, patterns that start elsewhere, both.
    for (at, pattern) in [(384, 0), (128, 128), (640, 256)] {
        for layout in [32, 64, 128].map(|width| Layout { width, k_major: true }) {
            let place = Place { at, pattern };
            products.push(Product { a: Some(layout), b: layout, place, ..plain(64, Type::Bf16, "f32") });
        }
    }
    for n in [8, 128] {
        products.push(plain(n, Type::Tf32, "f32"));
        products.push(plain(n, Type::E4m3, "f32"));
        products.push(Product { b_type: Type::E5m2, ..plain(n, Type::E4m3, "f32") });
        products.push(plain(n, Type::S8, "s32"));
        products.push(Product { a: None, b_type: Type::U8, ..plain(n, Type::S8, "s32") });
    }
    let mut programs: Vec<Program> = products.into_iter().map(wgmma).collect();
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    programs.dedup_by(|a, b| a.name == b.name);
    programs.extend([cuts_tf32(Some(WIDE)), cuts_tf32(None)]);
    programs
}

/// The low 13 bits of tf32 factors are cut off (PTX ISA, "wgmma.mma_async", precision and rounding).
fn cuts_tf32(a: Option<Layout>) -> Program {
    let p = Product { a, ..plain(8, Type::Tf32, "f32") };
    let low = |x: &i32, i: usize| Type::Tf32.code(*x) | (mixed(i as u32) & 0x1fff | 0x1000);
    let k = 8;
    let (a, b) = (Type::Tf32.integers(64 * k, 1), Type::Tf32.integers(8 * k, 2));
    let codes = |x: &[i32]| -> Vec<u32> { x.iter().enumerate().map(|(i, x)| low(x, i)).collect() };
    let sum = |i: usize| (0..k).map(|x| a[i / 8 * k + x] * b[x * 8 + i % 8]).sum();
    let sums: Vec<u32> = (0..64 * 8).map(|i| accumulator("f32", sum(i))).collect();
    let mut program = p.first_step(&codes(&a), &codes(&b), &[0; 64 * 8]);
    program.name += ".low-bits";
    program.expecting(of_d("f32", 8, THREADS, &sums))
}

fn wgmma(p: Product) -> Program {
    let k = STEPS * 32 / p.a_type.bytes();
    let (a, b) = (p.a_type.integers(64 * k, 1), p.b_type.integers(p.n * k, 2));
    let c = small(64 * p.n, 3);
    let sum = |i: usize| {
        let sum: i32 = (0..k).map(|x| a[i / p.n * k + x] * b[i % p.n * k + x]).sum();
        p.signs.0 * p.signs.1 * sum + if p.adds { c[i] } else { 0 }
    };
    let codes = |ty: Type, x: &[i32]| -> Vec<u32> { x.iter().map(|x| ty.code(*x)).collect() };
    let accumulators = |value: &dyn Fn(usize) -> i32| -> Vec<u32> {
        (0..64 * p.n).map(|i| accumulator(p.kind, value(i))).collect()
    };
    let expected = of_d(p.kind, p.n, THREADS, &accumulators(&sum));
    p.program(&codes(p.a_type, &a), &codes(p.b_type, &b), &accumulators(&|i| c[i])).expecting(expected)
}

impl Product {
    /// Only the first of the steps has a product: A [64, k], B [k, 8], added to C [64, 8]. The others are of zeros.
    pub fn first_step(self, a: &[u32], b: &[u32], c: &[u32]) -> Program {
        let k = 32 / self.a_type.bytes();
        let padded = |rows: usize, at: &dyn Fn(usize, usize) -> u32| -> Vec<u32> {
            let at = |i: usize| if i % (STEPS * k) < k { at(i / (STEPS * k), i % (STEPS * k)) } else { 0 };
            (0..rows * STEPS * k).map(at).collect()
        };
        let (a, b) = (padded(64, &|row, x| a[row * k + x]), padded(8, &|column, x| b[x * 8 + column]));
        self.program(&a, &b, c)
    }

    /// The product of A [64, k] and B [n, k], added to C [64, n]: codes of all three.
    pub fn program(self, a: &[u32], b: &[u32], c: &[u32]) -> Program {
        let p = self;
        let size = p.a_type.bytes();
        let (per_step, k) = (32 / size, STEPS * 32 / size);
        let (of_a, of_b) = (Shape { mns: 64, ks: k, size }, Shape { mns: p.n, ks: k, size });
        let d_words = if p.kind == "f16" { p.n / 4 } else { p.n / 2 };

        // Swizzles repeat every 1024 bytes.
        let b_from = p.a.map_or(0, |layout| (p.place.at + layout.bytes(of_a)).next_multiple_of(1024));
        let mut tile = vec![0; b_from + p.place.at + p.b.bytes(of_b)];
        let mut put = |at: usize, code: u32| tile[at..at + size].copy_from_slice(&code.to_le_bytes()[..size]);
        for (layout, from, shape, codes) in
            p.a.map(|layout| (layout, 0, of_a, a)).into_iter().chain([(p.b, b_from, of_b, b)])
        {
            for (i, code) in codes.iter().enumerate() {
                put(from + layout.byte(shape, p.place, i / k, i % k), *code);
            }
        }
        let mut input = words_of(&tile);
        let c_from = 4 * input.len();
        input.extend(of_d(p.kind, p.n, THREADS, c));
        let a_from = 4 * input.len();

        let mut body = copy(true, tile.len() / 4, "%in") + "fence.proxy.async;\nbar.sync 0;\n";
        let _ = writeln!(body, "shr.u32 %r0, %tile, 4;\ncvt.u64.u32 %l0, %r0;\nadd.s64 %l3, %at, {c_from};");
        body += &registers(true, D..D + d_words, "%l3", THREADS);
        let _ = writeln!(body, "mov.u32 %r1, {};\nsetp.ne.b32 %p0, %r1, 0;", i32::from(p.adds));
        if p.a.is_none() {
            for step in 0..STEPS {
                input.extend(fragments(size, THREADS, 16 / size, |thread, i| {
                    let (row, column) = place_a(size, thread % 32, i);
                    a[(16 * (thread / 32) + row) * k + step * per_step + column]
                }));
            }
            let _ = writeln!(body, "add.s64 %l3, %at, {a_from};");
            body += &registers(true, A..A + 4 * STEPS, "%l3", THREADS);
        }
        body += "wgmma.fence.sync.aligned;\n";
        let base_offset = (p.place.pattern as u64 >> 7 & 7) << 49;
        for step in 0..STEPS {
            let a = match p.a {
                None => list(A + 4 * step..A + 4 * step + 4),
                Some(layout) => {
                    let _ = writeln!(
                        body,
                        "add.s64 %l1, %l0, {};",
                        (base_offset | layout.descriptor(of_a, p.place.at, step)) as i64
                    );
                    "%l1".to_owned()
                }
            };
            let descriptor = base_offset | p.b.descriptor(of_b, b_from + p.place.at, step);
            let _ = writeln!(body, "add.s64 %l2, %l0, {};", descriptor as i64);
            let _ = write!(
                body,
                "wgmma.mma_async.sync.aligned.m64n{}k{per_step}.{}.{}.{} {}, {a}, %l2, {}",
                p.n,
                p.kind,
                p.a_type.name(),
                p.b_type.name(),
                list(D..D + d_words),
                if step == 0 { "%p0" } else { "1" },
            );
            if p.kind != "s32" {
                let _ = write!(body, ", {}, {}", p.signs.0, p.signs.1);
            }
            if size == 2 {
                for layout in p.a.into_iter().chain([p.b]) {
                    body += if layout.k_major { ", 0" } else { ", 1" };
                }
            }
            body += ";\n";
        }
        body += "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n";
        body += &registers(false, D..D + d_words, "%to", THREADS);

        let name = format!(
            "wgmma.m64n{}k{per_step}.{}.{}.{}.a-{}.b-{}{}{}{}{}",
            p.n,
            p.kind,
            p.a_type.name(),
            p.b_type.name(),
            p.a.map_or("registers".to_owned(), Layout::name),
            p.b.name(),
            if p.signs.0 < 0 { ".negative-a" } else { "" },
            if p.signs.1 < 0 { ".negative-b" } else { "" },
            if p.adds { "" } else { ".overwrites" },
            match p.place {
                Place { at: 0, .. } => String::new(),
                Place { at, pattern } => format!(".at-{at}.pattern-{pattern}"),
            },
        );
        program(&name, Sm90a, &body).threads(THREADS).given(input)
    }
}
