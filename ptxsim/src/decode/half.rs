//! f16 and bf16 arithmetic.

use super::value::{Fixed, alu};
use crate::float::{self, BF16, F16, Rounding, larger, signed_by, smaller, sum_to_odd};
use crate::ir::{FixFn, Lanes};

/// f16 and bf16, computed in f64 (products are exact there) and rounded once.
pub trait Half: Copy {
    fn value(bits: u32) -> f64;
    fn round(x: f64) -> u32;
    /// Sign bit of one half.
    const SIGN: u32 = 0x8000;
    /// The exponents of both halves.
    const EXPONENT: u64;
}

#[derive(Clone, Copy)]
pub struct Ieee;
#[derive(Clone, Copy)]
pub struct Brain;

impl Half for Ieee {
    const EXPONENT: u64 = 0x7c00_7c00;
    #[inline(always)]
    fn value(bits: u32) -> f64 {
        float::f16(bits & 0xffff).into()
    }
    #[inline(always)]
    fn round(x: f64) -> u32 {
        F16.encode(x, Rounding::Nearest)
    }
}

impl Half for Brain {
    const EXPONENT: u64 = 0x7f80_7f80;
    #[inline(always)]
    fn value(bits: u32) -> f64 {
        float::bf16(bits & 0xffff).into()
    }
    #[inline(always)]
    fn round(x: f64) -> u32 {
        BF16.encode(x, Rounding::Nearest)
    }
}

/// f16 and bf16 instructions, on one half or both.
pub fn half<H: Half>(base: &str, modifiers: &[&str], pair: bool) -> Option<Fixed> {
    let has = |m: &str| modifiers.contains(&m);
    if modifiers.iter().any(|m| matches!(*m, "rz" | "rm" | "rp")) || has("xorsign") != has("abs") {
        return None;
    }
    macro_rules! both {
        (|$($x:ident),+| $e:expr) => {
            if pair {
                alu!(|$($x: u32),+| {
                    let low = { $(let $x = H::value($x);)+ $e };
                    let high = { $(let $x = H::value($x >> 16);)+ $e };
                    low | high << 16
                })
            } else {
                alu!(|$($x: u32),+| { $(let $x = H::value($x);)+ $e })
            }
        };
    }
    // Clamping comes before rounding: it moves no value that rounds into the range.
    macro_rules! arithmetic {
        (|$($x:ident),+| $e:expr) => {
            if has("sat") {
                both!(|$($x),+| { let y: f64 = $e; H::round(if y > 0.0 { y.min(1.0) } else { 0.0 }) })
            } else if has("relu") {
                both!(|$($x),+| { let y: f64 = $e; H::round(if y.is_nan() || y > 0.0 { y } else { 0.0 }) })
            } else {
                both!(|$($x),+| H::round($e))
            }
        };
    }
    macro_rules! extreme {
        ($pick:ident, $strict:expr) => {
            if has("xorsign") {
                both!(|a, b| H::round(signed_by($pick(a.abs(), b.abs(), $strict), a, b)))
            } else {
                both!(|a, b| H::round($pick(a, b, $strict)))
            }
        };
    }
    let sign = if pair { H::SIGN << 16 | H::SIGN } else { H::SIGN };
    let f = match base {
        "add" => arithmetic!(|a, b| sum_to_odd(a, b)),
        "sub" => arithmetic!(|a, b| sum_to_odd(a, -b)),
        "mul" => arithmetic!(|a, b| a * b),
        "fma" => arithmetic!(|a, b, c| sum_to_odd(a * b, c)),
        "min" if has("NaN") => extreme!(smaller, true),
        "max" if has("NaN") => extreme!(larger, true),
        "min" => extreme!(smaller, false),
        "max" => extreme!(larger, false),
        "ex2" => both!(|a| H::round(a.exp2())),
        "tanh" => both!(|a| H::round(a.tanh())),
        "abs" if sign > 0xffff => alu!(|a: u32| a & 0x7fff_7fff),
        "abs" => alu!(|a: u32| a & 0x7fff),
        "neg" if sign > 0xffff => alu!(|a: u32| a ^ 0x8000_8000),
        "neg" => alu!(|a: u32| a ^ 0x8000),
        _ => return None,
    };
    // Two halves of a register, or one with zeros above it: both are flushed.
    let flushed: Option<FixFn> = has("ftz").then_some(flush::<H>);
    Some((f, flushed, flushed))
}

/// Subnormals to zeros of their sign.
pub fn flush<H: Half>(lanes: &mut Lanes) {
    for x in lanes {
        for half in [0x7fff, 0x7fff_0000] {
            if *x & half & H::EXPONENT == 0 {
                *x &= !half;
            }
        }
    }
}
