//! wgmma of 64 x N x 64 in steps of 32 bytes of K, as shared memory and descriptors lie in every mode.

use super::Target::Sm90a;
use super::matrix::{Type, accumulator, fragments, place_a, place_d};
use super::{Program, copy, list, program, registers, small, words_of};
use std::fmt::Write;

/// Steps, 128 bytes of K: a whole row of the widest swizzle.
const STEPS: usize = 4;
const THREADS: usize = 128;
/// Registers of the accumulators and of A.
const D: usize = 4;
const A: usize = 132;

/// How an operand lies in shared memory.
#[derive(Clone, Copy)]
struct Layout {
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

    fn byte(self, shape: Shape, mn: usize, k: usize) -> usize {
        let (inner, outer) = if self.k_major { (k, mn) } else { (mn, k) };
        let inner = inner * shape.size;
        let linear = (inner / self.width * self.extents(shape).1 + outer) * self.width + inner % self.width;
        // Bits 4 to 6 are changed by bits 7 to 9, as many of them as rows have chunks of 16 bytes.
        linear ^ (linear >> 7 & (self.width / 16 - 1)) << 4
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

#[derive(Clone, Copy)]
struct Product {
    n: usize,
    a_type: Type,
    b_type: Type,
    kind: &'static str,
    /// `None`: from registers.
    a: Option<Layout>,
    b: Layout,
    signs: (i32, i32),
    /// Whether the first step adds to what the registers hold.
    adds: bool,
}

fn plain(n: usize, ty: Type, kind: &'static str) -> Product {
    Product { n, a_type: ty, b_type: ty, kind, a: Some(WIDE), b: WIDE, signs: (1, 1), adds: true }
}

pub fn all() -> Vec<Program> {
    let mut products = Vec::new();
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
    programs
}

fn wgmma(p: Product) -> Program {
    let size = p.a_type.bytes();
    let (per_step, k) = (32 / size, STEPS * 32 / size);
    let (of_a, of_b) = (Shape { mns: 64, ks: k, size }, Shape { mns: p.n, ks: k, size });
    let (a, b) = (p.a_type.integers(64 * k, 1), p.b_type.integers(p.n * k, 2));
    let c = small(64 * p.n, 3);
    let (per_word, d_words) = if p.kind == "f16" { (2, p.n / 4) } else { (1, p.n / 2) };

    // Swizzles repeat every 1024 bytes.
    let b_from = p.a.map_or(0, |layout| layout.bytes(of_a).next_multiple_of(1024));
    let mut tile = vec![0; b_from + p.b.bytes(of_b)];
    let mut put = |at: usize, code: u32| tile[at..at + size].copy_from_slice(&code.to_le_bytes()[..size]);
    for (layout, from, shape, ty, values) in
        p.a.map(|layout| (layout, 0, of_a, p.a_type, &a))
            .into_iter()
            .chain([(p.b, b_from, of_b, p.b_type, &b)])
    {
        for (i, x) in values.iter().enumerate() {
            put(from + layout.byte(shape, i / k, i % k), ty.code(*x));
        }
    }
    let mut input = words_of(&tile);
    let c_from = 4 * input.len();
    // Each warp has 16 rows.
    let of_d = |value: &dyn Fn(usize, usize) -> i32| {
        fragments(4 / per_word, THREADS, p.n / 2, |thread, i| {
            let (row, column) = place_d(thread % 32, i);
            accumulator(p.kind, value(16 * (thread / 32) + row, column))
        })
    };
    input.extend(of_d(&|row, column| c[row * p.n + column]));
    let a_from = 4 * input.len();

    let mut body = copy(true, tile.len() / 4, "%in") + "fence.proxy.async;\nbar.sync 0;\n";
    let _ = writeln!(body, "shr.u32 %r0, %tile, 4;\ncvt.u64.u32 %l0, %r0;\nadd.s64 %l3, %at, {c_from};");
    body += &registers(true, D..D + d_words, "%l3", THREADS);
    let _ = writeln!(body, "mov.u32 %r1, {};\nsetp.ne.b32 %p0, %r1, 0;", i32::from(p.adds));
    if p.a.is_none() {
        for step in 0..STEPS {
            input.extend(fragments(size, THREADS, 16 / size, |thread, i| {
                let (row, column) = place_a(size, thread % 32, i);
                p.a_type.code(a[(16 * (thread / 32) + row) * k + step * per_step + column])
            }));
        }
        let _ = writeln!(body, "add.s64 %l3, %at, {a_from};");
        body += &registers(true, A..A + 4 * STEPS, "%l3", THREADS);
    }
    body += "wgmma.fence.sync.aligned;\n";
    for step in 0..STEPS {
        let a = match p.a {
            None => list(A + 4 * step..A + 4 * step + 4),
            Some(layout) => {
                let _ = writeln!(body, "add.s64 %l1, %l0, {};", layout.descriptor(of_a, 0, step) as i64);
                "%l1".to_owned()
            }
        };
        let _ = writeln!(body, "add.s64 %l2, %l0, {};", p.b.descriptor(of_b, b_from, step) as i64);
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

    let expected = of_d(&|row, column| {
        let sum: i32 = (0..k).map(|x| a[row * k + x] * b[column * k + x]).sum();
        let held = if p.adds { c[row * p.n + column] } else { 0 };
        p.signs.0 * p.signs.1 * sum + held
    });
    let name = format!(
        "wgmma.m64n{}k{per_step}.{}.{}.{}.a-{}.b-{}{}{}{}",
        p.n,
        p.kind,
        p.a_type.name(),
        p.b_type.name(),
        p.a.map_or("registers".to_owned(), Layout::name),
        p.b.name(),
        if p.signs.0 < 0 { ".negative-a" } else { "" },
        if p.signs.1 < 0 { ".negative-b" } else { "" },
        if p.adds { "" } else { ".overwrites" },
    );
    program(&name, Sm90a, &body).threads(THREADS).given(input).expecting(expected)
}
