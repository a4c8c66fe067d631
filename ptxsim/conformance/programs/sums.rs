//! Sums whose results tell how matrix products round. The PTX ISA leaves order and rounding of accumulation open ("mma"
//! and "wgmma.mma_async", precision and rounding): nothing is right or wrong here.

use super::matrix::{Mma, Type, codes_of_d};
use super::parts::{Observation, Program, Target, f16_value, mixed};
use super::wgmma::{self, Product};
use std::fmt;

/// `significand` x 2^`exponent`.
#[derive(Clone, Copy)]
struct Number {
    significand: i128,
    exponent: i32,
}

impl Number {
    /// Of the first bit.
    fn top(self) -> Option<i32> {
        (self.significand != 0).then(|| self.exponent + self.significand.unsigned_abs().ilog2() as i32)
    }

    fn value(self) -> f64 {
        self.significand as f64 * 2f64.powi(self.exponent)
    }

    /// Rounded to f16 or f32.
    fn rounded(self, half: bool, to_nearest: bool) -> Self {
        let (bits, least) = if half { (11, -24) } else { (24, -149) };
        let Some(top) = self.top() else { return self };
        let drop = (top + 1 - bits).max(least) - self.exponent;
        if drop <= 0 {
            return self;
        }
        let magnitude = self.significand.unsigned_abs();
        let (kept, rest) = (magnitude >> drop, magnitude & ((1 << drop) - 1));
        let tie = 1 << (drop - 1);
        let up = to_nearest && (rest > tie || rest == tie && kept & 1 == 1);
        let significand = self.significand.signum() * (kept + u128::from(up)) as i128;
        Self { significand, exponent: self.exponent + drop }
    }
}

/// How an instruction may add.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Model {
    /// Products that are added at a time, with the sum so far.
    at_once: usize,
    /// Bits that addends keep below the largest's first, the others cut off; `None`: all.
    kept: Option<i32>,
    /// A product is as large as its factors' exponents add up to, 2 to 4 as well as 1 to 2.
    by_exponents: bool,
    to_nearest: bool,
    /// Sums within an instruction are f16, not f32.
    half: bool,
}

/// f32, one product after the other.
const SEQUENTIAL: Model =
    Model { at_once: 1, kept: None, by_exponents: false, to_nearest: true, half: false };

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} at once, ", self.at_once)?;
        match (self.kept, self.by_exponents) {
            (None, _) => write!(f, "exact")?,
            (Some(kept), false) => write!(f, "cut {kept} bits below the largest addend's first")?,
            (Some(kept), true) => write!(f, "cut {kept} bits below the largest sum of exponents")?,
        }
        let how = if self.to_nearest { "to nearest" } else { "toward zero" };
        write!(f, ", sums rounded {how} {}", if self.half { "f16" } else { "f32" })
    }
}

impl Model {
    /// All that fit an instruction.
    fn all(kind: &str, k: usize) -> Vec<Self> {
        let mut models = Vec::new();
        let kept = (8..=26).flat_map(|kept| [(Some(kept), false), (Some(kept), true)]);
        for (kept, by_exponents) in [(None, false)].into_iter().chain(kept) {
            for at_once in [1, 2, 4, 8, 16, 32].into_iter().filter(|n| *n <= k) {
                for to_nearest in [true, false] {
                    models.push(Self { at_once, kept, by_exponents, to_nearest, half: false });
                    if kind == "f16" {
                        models.push(Self { at_once, kept, by_exponents, to_nearest, half: true });
                    }
                }
            }
        }
        models
    }

    /// `c` and products, each with the sum of its exponents.
    fn add(self, c: Number, products: &[(Number, i32)]) -> Number {
        let largest = |(x, by_exponents): &(Number, i32)| {
            if self.by_exponents { Some(*by_exponents) } else { x.top() }
        };
        let top = products.iter().filter_map(largest).chain(c.top()).max().unwrap_or(0);
        let addends = || products.iter().map(|(x, _)| *x).chain([c]);
        let least = || addends().map(|x| x.exponent).min().unwrap_or(0);
        let exponent = self.kept.map_or_else(least, |kept| top - kept);
        let cut = |x: Number| match x.exponent - exponent {
            up @ 0.. => x.significand << up,
            down => x.significand / (1 << (-down).min(126)),
        };
        Number { significand: addends().map(cut).sum(), exponent }.rounded(self.half, self.to_nearest)
    }
}

/// A factor, 1.`fraction` x 2^`exponent`.
#[derive(Clone, Copy)]
struct Factor {
    negative: bool,
    exponent: i32,
    fraction: u32,
}

/// Bits of a type's exponent and fraction, and unused ones below.
fn format(ty: Type) -> (u32, u32, u32) {
    match ty {
        Type::F16 => (5, 10, 0),
        Type::Bf16 => (8, 7, 0),
        Type::Tf32 => (8, 10, 13),
        Type::E4m3 => (4, 3, 0),
        _ => (5, 2, 0),
    }
}

impl Factor {
    /// Normal, of an exponent in the range.
    fn random(ty: Type, (least, most): (i32, i32), seed: u32) -> Self {
        let x = mixed(seed);
        let exponent = least + (x >> 16) as i32 % (most - least + 1);
        Self { negative: x & 1 == 1, exponent, fraction: x >> 1 & ((1 << format(ty).1) - 1) }
    }

    fn code(self, ty: Type) -> u32 {
        let (exponent_bits, fraction_bits, unused) = format(ty);
        let exponent = (self.exponent + (1 << (exponent_bits - 1)) - 1) as u32;
        (u32::from(self.negative) << (exponent_bits + fraction_bits)
            | exponent << fraction_bits
            | self.fraction)
            << unused
    }

    fn number(self, ty: Type) -> Number {
        let bits = format(ty).1;
        let magnitude = i128::from(1 << bits | self.fraction);
        let significand = if self.negative { -magnitude } else { magnitude };
        Number { significand, exponent: self.exponent - bits as i32 }
    }
}

/// Products that one instruction adds to C.
struct Sums {
    kind: &'static str,
    k: usize,
    a_type: Type,
    b_type: Type,
    /// A [rows, k], B [k, 8], C [rows, 8].
    a: Vec<Factor>,
    b: Vec<Factor>,
    c: Vec<Number>,
    /// Steps that follow, of zeros: sums of few bits are cut again.
    more_steps: usize,
}

impl Sums {
    fn new(kind: &'static str, a_type: Type, b_type: Type, rows: usize, k: usize) -> Self {
        // The largest product, and f16 sums of a few such, are in every range.
        let range = if kind == "f16" { (-6, 5) } else { (-6, 7) };
        let least = if b_type == Type::E4m3 { -6 } else { -14 };
        let a: Vec<Factor> = (0..rows * k).map(|i| Factor::random(a_type, range, i as u32)).collect();
        // In the first columns C is minus one large product, here or there: what small addends lose is seen.
        let large = [0, 1, k / 4, k / 2, k - 2, k - 1];
        let b = |i: usize| match large.get(i % 8) {
            Some(at) if *at == i / 8 => Factor { negative: false, exponent: 8, fraction: 0 },
            Some(_) => Factor::random(b_type, (least, [3, -4, 0, -5, -1, -5][i % 8]), 1 << 20 | i as u32),
            None => Factor::random(b_type, (-4, 3), 1 << 20 | i as u32),
        };
        let c = |i: usize| match large.get(i % 8) {
            Some(at) => {
                let x = a[i / 8 * k + at].number(a_type);
                Number { significand: -x.significand, exponent: x.exponent + 8 }
            }
            None if i % 8 == 6 => {
                let significand = i128::from(mixed(2 << 20 | i as u32) as i32);
                Number { significand, exponent: -24 }.rounded(kind == "f16", true)
            }
            None => Number { significand: 0, exponent: 0 },
        };
        let (b, c) = ((0..k * 8).map(b).collect(), (0..rows * 8).map(c).collect());
        Self { kind, k, a_type, b_type, a, b, c, more_steps: 0 }
    }

    fn codes(&self) -> [Vec<u32>; 3] {
        let codes = |ty: Type, x: &[Factor]| x.iter().map(|x| x.code(ty)).collect();
        let c = |x: &Number| match self.kind {
            "f16" => f16_code(x.value()),
            _ => (x.value() as f32).to_bits(),
        };
        [codes(self.a_type, &self.a), codes(self.b_type, &self.b), self.c.iter().map(c).collect()]
    }

    /// The products of result `i`.
    fn products(&self, i: usize) -> Vec<(Number, i32)> {
        let product = |x: usize| {
            let (a, b) = (self.a[i / 8 * self.k + x], self.b[x * 8 + i % 8]);
            let (p, q) = (a.number(self.a_type), b.number(self.b_type));
            let significand = p.significand * q.significand;
            (Number { significand, exponent: p.exponent + q.exponent }, a.exponent + b.exponent)
        };
        (0..self.k).map(product).collect()
    }

    /// Result `i` as a model has it.
    fn predicted(&self, model: Model, i: usize, products: &[(Number, i32)]) -> f64 {
        let sum = products.chunks(model.at_once).fold(self.c[i], |sum, some| model.add(sum, some));
        let sum = (0..self.more_steps).fold(sum, |sum, _| model.add(sum, &[]));
        sum.rounded(self.kind == "f16", true).value()
    }

    /// The models nearest to these results, and how many results they have otherwise.
    fn nearest(&self, results: &[f64]) -> (Vec<Model>, usize) {
        let products: Vec<_> = (0..results.len()).map(|i| self.products(i)).collect();
        let (mut nearest, mut least) = (Vec::new(), usize::MAX);
        for model in Model::all(self.kind, self.k) {
            let others =
                (0..results.len()).filter(|i| self.predicted(model, *i, &products[*i]) != results[*i]);
            // No more than tells that it is not nearer.
            let others = others.take(least.saturating_add(1)).count();
            if others < least {
                (nearest, least) = (Vec::new(), others);
            }
            if others == least {
                nearest.push(model);
            }
        }
        (nearest, least)
    }

    fn tell(&self, results: &[f64]) -> String {
        let (nearest, others) = self.nearest(results);
        let mut text = nearest.iter().take(2).map(Model::to_string).collect::<Vec<_>>().join(", or ");
        if nearest.len() > 2 {
            text += &format!(", or {} more", nearest.len() - 2);
        }
        match others {
            0 => text,
            _ => format!("none of the models known here; nearest, {others} of {} off: {text}", results.len()),
        }
    }
}

/// Bits of an f16 with this value.
fn f16_code(x: f64) -> u32 {
    let found = (0..0x7c00).find(|bits| f16_value(*bits) == x.abs());
    u32::from(found.expect("an f16")) | if x < 0.0 { 0x8000 } else { 0 }
}

/// Names what the sums tell.
fn observing(sums: Sums, threads: usize, mut program: Program) -> Program {
    let (kind, k, size) = (sums.kind, sums.k, sums.a_type.bytes());
    let values = move |fragments: &[u32]| -> Vec<f64> {
        let value = |code: u32| match kind {
            "f16" => f16_value(code as u16),
            _ => f32::from_bits(code).into(),
        };
        codes_of_d(kind, 8, threads, fragments).into_iter().map(value).collect()
    };
    program.name += ".sums";
    program.results = vec![0; threads * if kind == "f16" { 2 } else { 4 }];
    let tell = Box::new(move |results: &[u32]| sums.tell(&values(results)));
    let of_truncating = Some([(16, 24), (32, 25)].map(|(bytes, kept)| {
        let kept = if size == 1 { 13 } else { kept };
        format!("{} at once, cut {kept} bits below", k.min(bytes / size))
    }));
    program.observation = Some(Observation { tell, of_virtual_card: SEQUENTIAL.to_string(), of_truncating });
    program
}

/// Types of A and B, and of the sums.
const TYPES: [(Type, Type, &str); 7] = [
    (Type::F16, Type::F16, "f32"),
    (Type::F16, Type::F16, "f16"),
    (Type::Bf16, Type::Bf16, "f32"),
    (Type::Tf32, Type::Tf32, "f32"),
    (Type::E4m3, Type::E4m3, "f32"),
    (Type::E5m2, Type::E5m2, "f32"),
    (Type::E5m2, Type::E5m2, "f16"),
];

pub fn all() -> Vec<Program> {
    let mut programs = Vec::new();
    for (a_type, b_type, kind) in TYPES {
        let k = 32 / a_type.bytes();
        // mma of bytes takes 8.9, and PTX 8.7 for sums of f16.
        let target = if a_type.bytes() == 1 { Target::Sm90a } else { Target::Sm80 };
        let shapes = match (a_type.bytes(), kind) {
            (1, "f16") => vec![],
            (1, _) => vec![k],
            _ => vec![k / 2, k],
        };
        for k in shapes {
            let sums = Sums::new(kind, a_type, b_type, 16, k);
            let [a, b, c] = sums.codes();
            let program = Mma { target, k, a_type, b_type, kind }.program(&a, &b, &c);
            programs.push(observing(sums, 32, program));
        }
        let sums = Sums { more_steps: wgmma::STEPS - 1, ..Sums::new(kind, a_type, b_type, 64, k) };
        let [a, b, c] = sums.codes();
        let product = Product { b_type, ..wgmma::plain(8, a_type, kind) };
        programs.push(observing(sums, wgmma::THREADS, product.first_step(&a, &b, &c)));
    }
    programs
}

/// Models of cards that have been published, and their neighbours.
#[test]
fn models_are_told_apart() {
    for (a_type, b_type, kind) in TYPES {
        let k = 32 / a_type.bytes();
        let sums = Sums::new(kind, a_type, b_type, 16, k);
        for (at_once, kept, by_exponents) in [
            (1, None, false),
            (k, None, false),
            (4, Some(23), false),
            (k / 2, Some(24), true),
            (k, Some(25), false),
            (k, Some(25), true),
            (k, Some(13), false),
        ] {
            let model = Model { at_once, kept, by_exponents, to_nearest: kept.is_none(), half: false };
            let results: Vec<f64> =
                (0..16 * 8).map(|i| sums.predicted(model, i, &sums.products(i))).collect();
            let (nearest, others) = sums.nearest(&results);
            assert!(others == 0 && nearest.contains(&model), "{model}");
            // Sums of few bits are not rounded, and f16 hides what lies below it.
            for other in nearest {
                assert!(
                    other.at_once == at_once && other.kept == kept,
                    "{a_type:?} {kind}: {model}, or {other}"
                );
                assert!(
                    kind == "f16" || kept == Some(13) || other == model,
                    "{a_type:?}: {model}, or {other}"
                );
            }
        }
    }
}
