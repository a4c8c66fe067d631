//! wgmma in hand-written kernels, against products of f64 and layouts as the PTX ISA words them.

mod support;

use ptxsim::FaultKind;
use support::fragments::*;
use support::{Gpu, noise};

/// How a wgmma operand lies in shared memory: rows of `width` bytes (16: no swizzle).
#[derive(Debug, Clone, Copy)]
struct Layout {
    width: usize,
    /// K-major; otherwise M or N is contiguous.
    k_major: bool,
}

impl Layout {
    /// Byte of element (mn, k) of an operand of `mns` x `ks`, from its own place on: tiles as a TMA box of `width`
    /// bytes by all rows leaves them, one behind the other; core matrices of 128 bytes without swizzle.
    fn byte(self, place: Place, size: usize, (mns, ks): (usize, usize), mn: usize, k: usize) -> usize {
        let (inner, outer, outers) = if self.k_major { (k * size, mn, mns) } else { (mn * size, k, ks) };
        let (tile, within) = (inner / self.width, inner % self.width);
        let linear = place.at + tile * outers * self.width + outer * self.width + within - place.pattern;
        // The 16-byte chunk's number (bits 4-6) XOR the 128-byte row's (bits 7-9), as far as rows have chunks.
        let rows = match self.width {
            128 => 7,
            64 => 3,
            32 => 1,
            _ => 0,
        };
        let (chunk, row) = (linear / 16 % 8, linear / 128 % 8);
        place.pattern + linear / 128 * 128 + (chunk ^ (row & rows)) * 16 + linear % 16
    }

    /// Bytes of an operand: whole tiles.
    fn bytes(self, size: usize, (mns, ks): (usize, usize)) -> usize {
        let (inner, outers) = if self.k_major { (ks * size, mns) } else { (mns * size, ks) };
        inner.next_multiple_of(self.width) * outers
    }

    /// Start of step `step` of 32 bytes of K (16 rows of K if MN-major), leading and stride byte offsets.
    fn step(self, (mns, ks): (usize, usize), step: usize) -> (usize, usize, usize) {
        let w = self.width;
        match (self.k_major, w) {
            // Leading: next 16 bytes of K. Stride: next eight rows.
            (true, 16) => (2 * step * mns * 16, mns * 16, 128),
            (true, _) => (32 * step / w * mns * w + 32 * step % w, 16, 8 * w),
            // Leading: next eight of K. Stride: next 16 bytes of M or N.
            (false, 16) => (16 * step * 16, 128, ks * 16),
            // Leading: next `width` bytes of M or N. Stride: next eight of K.
            (false, _) => (16 * step * w, ks * w, 8 * w),
        }
    }

    /// Descriptor without its start address.
    fn descriptor(self, shape: (usize, usize)) -> u64 {
        let (_, leading, stride) = self.step(shape, 0);
        let mode: u64 = match self.width {
            128 => 1,
            64 => 2,
            32 => 3,
            _ => 0,
        };
        mode << 62 | (stride as u64 >> 4) << 32 | (leading as u64 >> 4) << 16
    }
}

/// Where an operand and its swizzle's pattern start, in bytes after a multiple of 1024 (PTX ISA, "Matrix Descriptor
/// Format").
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    at: usize,
    pattern: usize,
}

#[derive(Debug, Clone, Copy)]
struct Product {
    n: usize,
    a_ty: Ty,
    b_ty: Ty,
    kind: &'static str,
    /// Layout of A in shared memory; `None`: from registers.
    a: Option<Layout>,
    b: Layout,
    place: Place,
    /// Signs of A and B, and whether the first step adds to what the registers hold.
    signs: (i32, i32),
    adds: bool,
}

/// Steps of 32 bytes of K.
const STEPS: usize = 8;

fn wgmma(p: Product) {
    let what = format!("{p:?}");
    let size = p.a_ty.bytes();
    let (per_step, k, per_word) = (32 / size, STEPS * 32 / size, if p.kind == "f16" { 2 } else { 1 });
    let (a, b) = (p.a_ty.random(64 * k, 1), p.b_ty.random(p.n * k, 2));
    let d_words = p.n / 2 / per_word;
    let b_start = if p.a.is_some() { (p.place.at + 64 * k * size).next_multiple_of(1024) } else { 0 };
    let bytes = b_start + p.place.at + p.b.bytes(size, (p.n, k));
    let mut image = vec![0u32; bytes / 4];
    let mut put = |byte: usize, code: u32| image[byte / 4] |= code << (8 * (byte % 4));
    for (mn, x) in (0..64 * k).map(|i| (i / k, i % k)) {
        if let Some(layout) = p.a {
            put(layout.byte(p.place, size, (64, k), mn, x), a[mn * k + x]);
        }
    }
    for (mn, x) in (0..p.n * k).map(|i| (i / k, i % k)) {
        put(b_start + p.b.byte(p.place, size, (p.n, k), mn, x), b[mn * k + x]);
    }

    let mut body =
        fill(bytes / 4) + "fence.proxy.async;\nbar.sync 0;\nshr.u32 %o, %base, 4;\ncvt.u64.u32 %b, %o;\n";
    body += &registers(true, "%c", d_words, "%p_c", 128);
    if p.a.is_none() {
        body += &registers(true, "%a", 4 * STEPS, "%p_a", 128);
    }
    body += &format!("mov.b32 %v, {};\nsetp.ne.b32 %adds, %v, 0;\n", i32::from(p.adds));
    body += "wgmma.fence.sync.aligned;\n";
    for step in 0..STEPS {
        let start = |layout: Layout, shape, from: usize| {
            let base_offset = (p.place.pattern as u64 / 128) << 49;
            base_offset | ((from + p.place.at + layout.step(shape, step).0) as u64 / 16)
        };
        let from_registers = || list("%a", 4 * step..4 * step + 4);
        let a = p.a.map_or_else(from_registers, |layout| {
            let descriptor = layout.descriptor((64, k)) + start(layout, (64, k), 0);
            body += &format!("add.s64 %da, %b, {};\n", descriptor as i64);
            "%da".to_owned()
        });
        let descriptor = p.b.descriptor((p.n, k)) + start(p.b, (p.n, k), b_start);
        body += &format!("add.s64 %db, %b, {};\n", descriptor as i64);
        body += &format!(
            "wgmma.mma_async.sync.aligned.m64n{}k{per_step}.{}.{}.{} {}, {a}, %db, {}",
            p.n,
            p.kind,
            p.a_ty.name(),
            p.b_ty.name(),
            list("%c", 0..d_words),
            if step == 0 { "%adds" } else { "1" },
        );
        if p.kind != "s32" {
            body += &format!(", {}, {}", p.signs.0, p.signs.1);
        }
        if size == 2 {
            if let Some(layout) = p.a {
                body += if layout.k_major { ", 0" } else { ", 1" };
            }
            body += if p.b.k_major { ", 0" } else { ", 1" };
        }
        body += ";\n";
    }
    body += "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n";
    body += &registers(false, "%c", d_words, "%p_d", 128);
    let text = kernel(
        "sm_90a",
        &[("image", false), ("a", true), ("c", true), ("d", true)],
        ".reg .b32 %a<32>, %c<128>;\n.reg .b64 %b, %da, %db;\n.reg .pred %adds;",
        &body,
    );
    dump(&format!("wgmma {what}"), &text);
    let gpu = Gpu::new("h200", &text);

    let c: Vec<f64> = noise(64 * p.n, 3).iter().map(|x| (f64::from(*x) * 64.0).round() / 16.0).collect();
    let c: Vec<f64> = if p.kind == "s32" { c.iter().map(|x| x * 16.0).collect() } else { c };
    // Row of a thread's element: each warp holds 16 rows.
    let rows = |thread: usize| 16 * (thread / 32 % 4);
    let a_words: Vec<u32> = (0..STEPS)
        .flat_map(|step| {
            let a = &a;
            fragments(size, 128, 16 / size, move |thread, i| {
                let (row, column) = place_a(size, 16 / size, thread % 32, i);
                a[(rows(thread) + row) * k + step * per_step + column]
            })
        })
        .collect();
    let c_words = fragments(4 / per_word, 128, p.n / 2, |thread, i| {
        let (row, column) = place_d(thread % 32, i);
        accumulator(p.kind, c[(rows(thread) + row) * p.n + column])
    });
    let (image, pa, pc) = (gpu.ints(&image), gpu.ints(&a_words), gpu.ints(&c_words));
    let d = gpu.space(4 * 128 * d_words as u64);
    gpu.run("run", &shared(128, bytes), &[&image, &pa, &pc, &d]);
    let words = gpu.read_ints(d, 128 * d_words);
    let (mut got, mut want) = (vec![f64::NAN; 64 * p.n], vec![0.0; 64 * p.n]);
    let values = |ty: Ty, codes: &[u32]| codes.iter().map(|code| ty.value(*code)).collect::<Vec<_>>();
    let (a, b) = (values(p.a_ty, &a), values(p.b_ty, &b));
    let sign = f64::from(p.signs.0 * p.signs.1);
    for (thread, i) in (0..128).flat_map(|thread| (0..p.n / 2).map(move |i| (thread, i))) {
        let (row, column) = place_d(thread % 32, i);
        let row = rows(thread) + row;
        got[row * p.n + column] = unpack(p.kind, words[i / per_word * 128 + thread], i % per_word);
        let sum: f64 = (0..k).map(|x| a[row * k + x] * b[column * k + x]).sum();
        want[row * p.n + column] = sign * sum + if p.adds { c[row * p.n + column] } else { 0.0 };
    }
    check(
        &what,
        &got,
        &want,
        [2e-5, 5e-2, 0.0][["f32", "f16", "s32"].iter().position(|n| *n == p.kind).unwrap()],
    );
}

fn layouts(k_major: bool) -> [Layout; 4] {
    [16, 32, 64, 128].map(|width| Layout { width, k_major })
}

const WIDE: Layout = Layout { width: 128, k_major: true };

fn plain(n: usize, ty: Ty, kind: &'static str) -> Product {
    Product {
        n,
        a_ty: ty,
        b_ty: ty,
        kind,
        a: Some(WIDE),
        b: WIDE,
        place: Place::default(),
        signs: (1, 1),
        adds: true,
    }
}

#[test]
fn wgmma_reads_both_operands_in_every_layout() {
    for layout in layouts(true) {
        for (ty, kind) in [(Bf16, "f32"), (Tf32, "f32"), (E4M3, "f32")] {
            wgmma(Product { a: Some(layout), ..plain(64, ty, kind) });
            wgmma(Product { b: layout, ..plain(64, ty, kind) });
        }
    }
    for layout in layouts(false) {
        for ty in [F16, Bf16] {
            wgmma(Product { a: Some(layout), ..plain(64, ty, "f32") });
            wgmma(Product { b: layout, ..plain(128, ty, "f32") });
            wgmma(Product { a: Some(layout), b: layout, ..plain(256, ty, "f32") });
        }
    }
}

#[test]
fn wgmma_of_every_width_and_accumulator() {
    for n in (8..=256).step_by(8) {
        wgmma(plain(n, Bf16, "f32"));
        wgmma(Product { a: None, ..plain(n, F16, "f32") });
        // MN-major: whole rows of 64, as TMA boxes leave them; the last of several may be used in part.
        wgmma(Product { b: Layout { width: 128, k_major: false }, ..plain(n, Bf16, "f32") });
    }
    for n in [8, 64, 128, 256] {
        wgmma(plain(n, F16, "f32"));
        wgmma(plain(n, F16, "f16"));
        wgmma(plain(n, Tf32, "f32"));
        wgmma(plain(n, E4M3, "f32"));
        wgmma(plain(n, E4M3, "f16"));
        wgmma(Product { b_ty: E5M2, ..plain(n, E4M3, "f32") });
        wgmma(plain(n, S8, "s32"));
        wgmma(Product { a_ty: U8, ..plain(n, S8, "s32") });
    }
}

#[test]
fn wgmma_takes_a_from_registers() {
    for (ty, kind) in [(F16, "f32"), (Bf16, "f32"), (F16, "f16"), (Tf32, "f32"), (E5M2, "f32"), (U8, "s32")] {
        wgmma(Product { a: None, ..plain(64, ty, kind) });
    }
    wgmma(Product { a: None, b: Layout { width: 64, k_major: false }, ..plain(64, Bf16, "f32") });
}

/// Operands that start within a pattern, patterns that start between multiples of 1024, and both.
#[test]
fn wgmma_reads_patterns_from_their_base_offset() {
    for (at, pattern) in [(384, 0), (128, 128), (896, 896), (640, 256), (1024, 512)] {
        let place = Place { at, pattern };
        for width in [32, 64, 128] {
            let layout = Layout { width, k_major: true };
            wgmma(Product { a: Some(layout), b: layout, place, ..plain(64, Bf16, "f32") });
            wgmma(Product { a: Some(layout), b: layout, place, ..plain(64, E4M3, "f32") });
            let layout = Layout { width, k_major: false };
            wgmma(Product { a: Some(layout), b: layout, place, ..plain(128, F16, "f32") });
        }
    }
}

#[test]
fn a_base_offset_without_swizzle_is_told() {
    let body = "mov.b64 %b, 0x0002000000000000;\nwgmma.fence.sync.aligned;\n\
                wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%c0, %c1, %c2, %c3}, %b, %b, 0, 1, 1, 0, 0;\n";
    let text = kernel("sm_90a", &[], ".reg .b32 %c<4>;\n.reg .b64 %b;", body);
    let fault = Gpu::new("h200", &text).fault("run", &shared(128, 1024), &[]);
    let what = "a matrix descriptor without swizzle has base offset 1, allowed is 0";
    assert!(fault.kind == FaultKind::IllegalInstruction && fault.to_string().contains(what), "{fault}");
}

#[test]
fn wgmma_scales_by_zero_and_minus_one() {
    for (signs, adds) in [((1, 1), false), ((-1, 1), true), ((1, -1), false), ((-1, -1), true)] {
        wgmma(Product { signs, adds, ..plain(64, F16, "f32") });
        wgmma(Product { signs, adds, ..plain(64, F16, "f16") });
        wgmma(Product { signs, adds, a: None, ..plain(64, Bf16, "f32") });
        wgmma(Product { adds, ..plain(64, S8, "s32") });
    }
}
