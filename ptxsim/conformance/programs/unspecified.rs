//! What matrix products do with factors and sums that the PTX ISA leaves open: subnormal ones (precision and rounding of
//! "mma" and "wgmma.mma_async"), NaN, and for mma the low bits of tf32 (5.2.3: its layout is implementation defined).

use super::matrix::{Mma, Type, codes_of_d};
use super::parts::{Observation, Program, Target, named};
use super::wgmma::{self, Product};
use std::fmt::Write;

/// A row of A that has one factor, at `at`, and what its C is; results that have a name.
struct Fact {
    label: &'static str,
    at: usize,
    factor: u32,
    c: u32,
    names: Vec<(u32, &'static str)>,
}

/// Codes of a type.
struct Codes {
    one: u32,
    /// The smallest subnormal, and a power of 2 that makes it normal as f32.
    tiny: u32,
    scale: u32,
    /// Bits of their product, as f32 and as f16.
    product: (u32, u32),
    infinite: Option<u32>,
    nan: u32,
}

fn codes(ty: Type) -> Codes {
    let two_to = |exponent: i32| ((exponent + 127) as u32) << 23;
    let (one, tiny, scale, product, infinite, nan) = match ty {
        Type::F16 => (0x3c00, 1, 0x3c00, (two_to(-24), 1), Some(0x7c00), 0x7e00),
        Type::Bf16 => (0x3f80, 1, two_to(100) >> 16, (two_to(-33), 0), Some(0x7f80), 0x7fc0),
        Type::Tf32 => (0x3f80_0000, 1 << 13, two_to(100), (two_to(-36), 0), Some(0x7f80_0000), 0x7fc0_0000),
        Type::E4m3 => (0x38, 1, 0x38, (two_to(-9), 0x1800), None, 0x7f),
        _ => (0x3c, 1, 0x3c, (two_to(-16), 0x100), Some(0x7c), 0x7e),
    };
    Codes { one, tiny, scale, product, infinite, nan }
}

/// B's first column: 1, the scale, 0, and for tf32 a factor with low bits.
fn column(ty: Type) -> [u32; 4] {
    let Codes { one, scale, .. } = codes(ty);
    [one, scale, 0, if ty == Type::Tf32 { 0x3f80_1000 } else { 0 }]
}

fn facts(ty: Type, kind: &str) -> Vec<Fact> {
    let Codes { one, tiny, product, infinite, nan, .. } = codes(ty);
    let half = kind == "f16";
    let product = if half { product.1 } else { product.0 };
    let minus_infinite = if half { 0xfc00 } else { 0xff80_0000 };
    let kept = |bits: u32| vec![(bits, "kept"), (0, "flushed")];
    let mut facts = vec![
        Fact { label: "subnormal factors", at: 1, factor: tiny, c: 0, names: kept(product) },
        Fact { label: "subnormal C", at: 0, factor: 0, c: 1, names: kept(1) },
        Fact { label: "NaN", at: 0, factor: nan, c: 0, names: Vec::new() },
    ];
    if let Some(infinite) = infinite {
        facts.push(Fact { label: "infinite x 0", at: 2, factor: infinite, c: 0, names: Vec::new() });
        let c = minus_infinite;
        facts.push(Fact { label: "infinite - infinite", at: 0, factor: infinite, c, names: Vec::new() });
    }
    if ty == Type::Tf32 {
        // 1 + 2^-11 lies between two tf32, an even and an odd one; 1 + 3 x 2^-11 between an odd and an even one.
        let low = vec![(0x3f80_0000, "cut"), (0x3f80_2000, "away from zero"), (0x3f80_1000, "used")];
        facts.push(Fact { label: "A = 1 + 2^-11", at: 0, factor: 0x3f80_1000, c: 0, names: low.clone() });
        facts.push(Fact { label: "B = 1 + 2^-11", at: 3, factor: one, c: 0, names: low });
        let names = vec![(0x3f80_2000, "cut"), (0x3f80_4000, "to nearest"), (0x3f80_3000, "used")];
        facts.push(Fact { label: "A = 1 + 3 x 2^-11", at: 0, factor: 0x3f80_3000, c: 0, names });
    }
    facts
}

/// A fact per row, of the first column.
fn observing(
    ty: Type,
    kind: &'static str,
    k: usize,
    rows: usize,
    make: impl Fn([&[u32]; 3]) -> Program,
) -> Program {
    let (facts, first) = (facts(ty, kind), column(ty));
    let (mut a, mut b, mut c) = (vec![0; rows * k], vec![0; k * 8], vec![0; rows * 8]);
    for (row, fact) in facts.iter().enumerate() {
        a[row * k + fact.at] = fact.factor;
        c[row * 8] = fact.c;
    }
    for (x, factor) in first.into_iter().enumerate() {
        b[x * 8] = factor;
    }
    let mut program = make([&a, &b, &c]);
    program.name += ".unspecified";
    program.results = vec![0; 2 * rows * if kind == "f16" { 2 } else { 4 }];
    let tell = move |results: &[u32]| {
        let d = codes_of_d(kind, 8, 2 * rows, results);
        let tell = |(row, fact): (usize, &Fact)| named(fact.label, d[row * 8], &fact.names);
        let all: Vec<String> = facts.iter().enumerate().map(tell).collect();
        all.join(", ")
    };
    let mut of_virtual_card = "subnormal factors kept, subnormal C kept".to_owned();
    let nan = if kind == "f16" { "0x7fff" } else { "0x7fffffff" };
    let _ = write!(of_virtual_card, ", NaN {nan}");
    if codes(ty).infinite.is_some() {
        let _ = write!(of_virtual_card, ", infinite x 0 {nan}, infinite - infinite {nan}");
    }
    if ty == Type::Tf32 {
        of_virtual_card += ", A = 1 + 2^-11 cut, B = 1 + 2^-11 cut, A = 1 + 3 x 2^-11 cut";
    }
    program.observation = Some(Observation { tell: Box::new(tell), of_virtual_card, of_truncating: None });
    program
}

pub fn all() -> Vec<Program> {
    let mut programs = Vec::new();
    for (ty, kind) in [
        (Type::F16, "f32"),
        (Type::F16, "f16"),
        (Type::Bf16, "f32"),
        (Type::Tf32, "f32"),
        (Type::E4m3, "f32"),
        (Type::E5m2, "f32"),
    ] {
        let k = 32 / ty.bytes();
        let target = if ty.bytes() == 1 { Target::Sm90a } else { Target::Sm80 };
        let mma = Mma { target, k, a_type: ty, b_type: ty, kind };
        programs.push(observing(ty, kind, k, 16, |[a, b, c]| mma.program(a, b, c)));
        let product = wgmma::plain(8, ty, kind);
        programs.push(observing(ty, kind, k, 64, |[a, b, c]| Product::first_step(product, a, b, c)));
    }
    programs
}
