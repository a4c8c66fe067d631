//! One instruction per kernel, on random and corner operands, compared with a function of them.

use super::{Gpu, config};
use half::{bf16, f16};

/// Operands of a thread and what the instruction must give, in the result's bits.
pub type Expected = fn(u64, u64, u64) -> u64;

/// Instruction, widths of the result and the operands (`p` is a predicate), expected bits.
pub type Row = (&'static str, &'static str, Expected);

pub const CORNERS: [u64; 18] = [
    0,
    1,
    2,
    u64::MAX,
    1 << 63,
    1 << 31,
    0x7fff_ffff,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0000,
    0x0000_0001,
    0x8000_0001,
    0x3f80_0000,
    0xbf80_0000,
    0x7c00_8000,
    0x7ff0_0000_0000_0000,
    0x7ff8_0000_0000_0000,
    0x3ff0_0000_0000_0000,
];

pub fn operands(seed: u64) -> Vec<u64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    (0..96)
        .map(|_| match next() {
            c if c % 3 == 0 => CORNERS[(c / 3) as usize % CORNERS.len()],
            // Floats near each other, so that sums cancel and comparisons meet.
            c if c % 3 == 1 => next() & 0x83ff_ffff_83ff_ffff | 0x3c00_0000_3c00_0000,
            _ => next(),
        })
        .collect()
}

/// A module with one kernel per row: loads three operands, runs the instruction, stores 64 bits.
pub fn module(rows: &[Row], target: &str) -> String {
    let mut text = format!(".version 8.0\n.target {target}\n.address_size 64\n");
    for (i, (name, widths, _)) in rows.iter().enumerate() {
        let mut widths = widths.split(' ');
        let result = widths.next().unwrap();
        let sources: Vec<String> = widths
            .zip(["a", "b", "c"])
            .map(|(w, letter)| w.strip_prefix('#').map_or_else(|| format!("%{letter}{w}"), str::to_owned))
            .collect();
        let (target, widen) = match result {
            "p" => ("%p0", "selp.u64 %out, 1, 0, %p0;"),
            "16" => ("%h0", "cvt.u64.u16 %out, %h0;"),
            "32" => ("%r0", "cvt.u64.u32 %out, %r0;"),
            _ => ("%l0", "mov.b64 %out, %l0;"),
        };
        let mut narrow = String::new();
        for letter in ["a", "b", "c"] {
            narrow +=
                &format!("cvt.u32.u64 %{letter}32, %{letter}64; cvt.u16.u64 %{letter}16, %{letter}64;\n");
        }
        let sources = sources.join(", ");
        text += &format!(
            ".visible .entry k{i}(.param .u64 results, .param .u64 operands) {{
            .reg .pred %p<2>; .reg .b16 %h<1>, %a16, %b16, %c16; .reg .b32 %r<1>, %t, %a32, %b32, %c32;
            .reg .b64 %l<1>, %out, %a64, %b64, %c64, %at, %to;
            mov.u32 %t, %tid.x; ld.param.u64 %at, [operands]; ld.param.u64 %to, [results];
            mad.wide.u32 %at, %t, 24, %at; mad.wide.u32 %to, %t, 8, %to;
            ld.global.b64 %a64, [%at]; ld.global.b64 %b64, [%at+8]; ld.global.b64 %c64, [%at+16];
            {narrow} {name} {target}, {sources}; {widen} st.global.b64 [%to], %out; ret; }}\n"
        );
    }
    text
}

pub fn check(rows: &[Row], card: &str, target: &str) {
    let gpu = Gpu::new(card, &module(rows, target));
    for (i, (name, widths, expected)) in rows.iter().enumerate() {
        for seed in 0..8 {
            let data = operands(seed);
            let (input, out) = (gpu.upload(&data, |x| x.to_le_bytes().to_vec()), gpu.space(256));
            gpu.run(&format!("k{i}"), &config(1, 32), &[&out, &input]);
            let got = gpu.read_ints(out, 64);
            let mask = match widths.split(' ').next() {
                Some("p") => 1,
                Some("16") => 0xffff,
                Some("32") => 0xffff_ffff,
                _ => u64::MAX,
            };
            for lane in 0..32 {
                let (a, b, c) = (data[3 * lane], data[3 * lane + 1], data[3 * lane + 2]);
                let got = u64::from(got[2 * lane]) | u64::from(got[2 * lane + 1]) << 32;
                let want = expected(a, b, c) & mask;
                assert_eq!(got & mask, want, "{name} of {a:#x}, {b:#x}, {c:#x}: {got:#x}, not {want:#x}");
            }
            gpu.memory.free(input).unwrap();
            gpu.memory.free(out).unwrap();
        }
    }
}

pub fn s(x: u64, bits: u32) -> i128 {
    let x = i128::from(x) & ((1 << bits) - 1);
    if x >> (bits - 1) & 1 == 1 { x - (1 << bits) } else { x }
}

pub fn u(x: u64, bits: u32) -> i128 {
    i128::from(x) & ((1 << bits) - 1)
}

pub fn bit(x: u64, i: u32) -> bool {
    i < 64 && x >> i & 1 == 1
}

/// Bits of a function of bit positions.
pub fn bits(n: u32, f: impl Fn(u32) -> bool) -> u64 {
    (0..n).filter(|i| f(*i)).fold(0, |x, i| x | 1 << i)
}

pub fn f(x: u64) -> f64 {
    f32::from_bits(x as u32).into()
}

/// The result of f32 arithmetic: canonical NaN.
pub fn single(x: f32) -> u64 {
    if x.is_nan() { 0x7fff_ffff } else { x.to_bits().into() }
}

pub fn h(x: u64) -> f64 {
    f16::from_bits(x as u16).to_f64()
}

pub fn b(x: u64) -> f64 {
    bf16::from_bits(x as u16).to_f64()
}

/// Results of half arithmetic that the operands' f32 sums and products round like.
pub fn half_of(x: f64) -> u64 {
    if x.is_nan() { 0x7fff } else { f16::from_f32(x as f32).to_bits().into() }
}

pub fn brain_of(x: f64) -> u64 {
    if x.is_nan() { 0x7fff } else { bf16::from_f32(x as f32).to_bits().into() }
}
