//! f32, f64, f16 and bf16 arithmetic.

use super::value::{Brain, Half, Ieee, Value, alu};
use super::value::{canonical32, flush_canonical32, flush_saturate32, flush32, saturate32, saturate64};
use crate::float::{Rounding, sum_to_odd, to_f32};
use crate::ir::{AluFn, FixFn};

/// A function with what is done to its sources and its result.
pub type Fixed = (AluFn, Option<FixFn>, Option<FixFn>);

/// The function of a float instruction: base name, modifiers, type.
pub fn floating(base: &str, modifiers: &[&str], ty: &str) -> Option<Fixed> {
    let has = |m: &str| modifiers.contains(&m);
    match ty {
        "f32" => {
            let f = single(base, modifiers)?;
            // Sign operations and tests leave NaNs as they are.
            let keeps = matches!(base, "abs" | "neg" | "copysign");
            let pre: Option<FixFn> = has("ftz").then_some(flush32);
            let post: Option<FixFn> = match (has("ftz"), has("sat")) {
                (true, true) => Some(flush_saturate32),
                (false, true) => Some(saturate32),
                (true, false) if keeps => Some(flush32),
                (true, false) => Some(flush_canonical32),
                (false, false) if keeps => None,
                (false, false) => Some(canonical32),
            };
            Some((f, pre, post))
        }
        "f64" => Some((double(base, modifiers)?, None, has("sat").then_some(saturate64 as FixFn))),
        "f16" | "f16x2" => half::<Ieee>(base, modifiers, ty.ends_with("x2")),
        "bf16" | "bf16x2" => half::<Brain>(base, modifiers, ty.ends_with("x2")),
        _ => None,
    }
}

/// One of the four roundings: `nearest`, or a function of the exact operands and the rounding.
macro_rules! rounded {
    ($modifiers:expr, |$($x:ident),+| $nearest:expr, |$mode:ident| $directed:expr) => {
        if $modifiers.contains(&"rz") {
            alu!(|$($x: f32),+| { let $mode = Rounding::Zero; $directed })
        } else if $modifiers.contains(&"rm") {
            alu!(|$($x: f32),+| { let $mode = Rounding::Down; $directed })
        } else if $modifiers.contains(&"rp") {
            alu!(|$($x: f32),+| { let $mode = Rounding::Up; $directed })
        } else {
            alu!(|$($x: f32),+| $nearest)
        }
    };
}

/// `a + b`, rounded once. An exact zero of unlike signs is -0 when rounding down.
fn sum(a: f64, b: f64, rounding: Rounding) -> f32 {
    let s = sum_to_odd(a, b);
    if s == 0.0 && rounding == Rounding::Down && (a.is_sign_negative() || b.is_sign_negative()) {
        return -0.0;
    }
    to_f32(s, rounding)
}

fn single(base: &str, modifiers: &[&str]) -> Option<AluFn> {
    let has = |m: &str| modifiers.contains(&m);
    Some(match base {
        "add" => rounded!(modifiers, |a, b| a + b, |mode| sum(a.into(), b.into(), mode)),
        "sub" => rounded!(modifiers, |a, b| a - b, |mode| sum(a.into(), -f64::from(b), mode)),
        "mul" => rounded!(modifiers, |a, b| a * b, |mode| to_f32(f64::from(a) * f64::from(b), mode)),
        "fma" | "mad" => {
            rounded!(modifiers, |a, b, c| a.mul_add(b, c), |mode| sum(
                f64::from(a) * f64::from(b),
                c.into(),
                mode
            ))
        }
        "div" if has("approx") || has("full") || has("rn") => alu!(|a: f32, b: f32| a / b),
        "div" => match () {
            () if has("rz") => alu!(|a: f32, b: f32| quotient(a, b, Rounding::Zero)),
            () if has("rm") => alu!(|a: f32, b: f32| quotient(a, b, Rounding::Down)),
            () if has("rp") => alu!(|a: f32, b: f32| quotient(a, b, Rounding::Up)),
            () => return None,
        },
        "rcp" if has("approx") || has("rn") => alu!(|a: f32| 1.0 / a),
        "rcp" if has("rz") => alu!(|a: f32| quotient(1.0, a, Rounding::Zero)),
        "rcp" if has("rm") => alu!(|a: f32| quotient(1.0, a, Rounding::Down)),
        "rcp" if has("rp") => alu!(|a: f32| quotient(1.0, a, Rounding::Up)),
        "sqrt" if has("approx") || has("rn") => alu!(|a: f32| a.sqrt()),
        "sqrt" if has("rz") => alu!(|a: f32| root(a, Rounding::Zero)),
        "sqrt" if has("rm") => alu!(|a: f32| root(a, Rounding::Down)),
        "sqrt" if has("rp") => alu!(|a: f32| root(a, Rounding::Up)),
        "rsqrt" => alu!(|a: f32| (1.0 / f64::from(a).sqrt()) as f32),
        "ex2" => alu!(|a: f32| f64::from(a).exp2() as f32),
        "lg2" => alu!(|a: f32| f64::from(a).log2() as f32),
        "sin" => alu!(|a: f32| f64::from(a).sin() as f32),
        "cos" => alu!(|a: f32| f64::from(a).cos() as f32),
        "tanh" => alu!(|a: f32| f64::from(a).tanh() as f32),
        "abs" => alu!(|a: u32| a & 0x7fff_ffff),
        "neg" => alu!(|a: u32| a ^ 0x8000_0000),
        "copysign" => alu!(|a: u32, b: u32| (a & 0x8000_0000) | (b & 0x7fff_ffff)),
        // Three-operand forms exist on newer cards only.
        "min" if has("xorsign") || has("abs") => return None,
        "max" if has("xorsign") || has("abs") => return None,
        "min" if has("NaN") => alu!(|a: f32, b: f32| smaller(a.into(), b.into(), true) as f32),
        "max" if has("NaN") => alu!(|a: f32, b: f32| larger(a.into(), b.into(), true) as f32),
        "min" => alu!(|a: f32, b: f32| smaller(a.into(), b.into(), false) as f32),
        "max" => alu!(|a: f32, b: f32| larger(a.into(), b.into(), false) as f32),
        _ => return None,
    })
}

fn double(base: &str, modifiers: &[&str]) -> Option<AluFn> {
    let has = |m: &str| modifiers.contains(&m);
    let directed = has("rz") || has("rm") || has("rp");
    Some(match base {
        "add" if has("rz") => alu!(|a: f64, b: f64| directed_sum(a, b, Rounding::Zero)),
        "add" if has("rm") => alu!(|a: f64, b: f64| directed_sum(a, b, Rounding::Down)),
        "add" if has("rp") => alu!(|a: f64, b: f64| directed_sum(a, b, Rounding::Up)),
        _ if directed => return None,
        "add" => alu!(|a: f64, b: f64| a + b),
        "sub" => alu!(|a: f64, b: f64| a - b),
        "mul" => alu!(|a: f64, b: f64| a * b),
        "fma" | "mad" => alu!(|a: f64, b: f64, c: f64| a.mul_add(b, c)),
        "div" => alu!(|a: f64, b: f64| a / b),
        "rcp" => alu!(|a: f64| 1.0 / a),
        "sqrt" => alu!(|a: f64| a.sqrt()),
        "rsqrt" => alu!(|a: f64| 1.0 / a.sqrt()),
        "abs" => alu!(|a: f64| a.abs()),
        "neg" => alu!(|a: f64| -a),
        "copysign" => alu!(|a: f64, b: f64| b.copysign(a)),
        "min" => alu!(|a: f64, b: f64| smaller(a, b, false)),
        "max" => alu!(|a: f64, b: f64| larger(a, b, false)),
        _ => return None,
    })
}

/// f16 and bf16 instructions, on one half or both.
fn half<H: Half>(base: &str, modifiers: &[&str], pair: bool) -> Option<Fixed> {
    let has = |m: &str| modifiers.contains(&m);
    if modifiers.iter().any(|m| matches!(*m, "rz" | "rm" | "rp" | "xorsign")) {
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
    let sign = if pair { H::SIGN << 16 | H::SIGN } else { H::SIGN };
    let f = match base {
        "add" => arithmetic!(|a, b| sum_to_odd(a, b)),
        "sub" => arithmetic!(|a, b| sum_to_odd(a, -b)),
        "mul" => arithmetic!(|a, b| a * b),
        "fma" => arithmetic!(|a, b, c| sum_to_odd(a * b, c)),
        "min" if has("NaN") => both!(|a, b| H::round(smaller(a, b, true))),
        "max" if has("NaN") => both!(|a, b| H::round(larger(a, b, true))),
        "min" => both!(|a, b| H::round(smaller(a, b, false))),
        "max" => both!(|a, b| H::round(larger(a, b, false))),
        "ex2" => both!(|a| H::round(a.exp2())),
        "tanh" => both!(|a| H::round(a.tanh())),
        "abs" if sign > 0xffff => alu!(|a: u32| a & 0x7fff_7fff),
        "abs" => alu!(|a: u32| a & 0x7fff),
        "neg" if sign > 0xffff => alu!(|a: u32| a ^ 0x8000_8000),
        "neg" => alu!(|a: u32| a ^ 0x8000),
        _ => return None,
    };
    Some((f, None, None))
}

/// `testp`
pub fn test_mask(kind: &str, ty: &str) -> Option<crate::ir::CompareFn> {
    macro_rules! test {
        (|$x:ident| $e:expr) => {
            match ty {
                "f32" => test!(f32, |$x| $e),
                "f64" => test!(f64, |$x| $e),
                _ => return None,
            }
        };
        ($t:ty, |$x:ident| $e:expr) => {{
            let f: crate::ir::CompareFn = |lanes, _| {
                lanes.iter().enumerate().fold(0, |mask, (lane, bits)| {
                    let $x = <$t as Value>::get(*bits);
                    mask | u32::from($e) << lane
                })
            };
            f
        }};
    }
    Some(match kind {
        "finite" => test!(|x| x.is_finite()),
        "infinite" => test!(|x| x.is_infinite()),
        "number" => test!(|x| !x.is_nan()),
        "notanumber" => test!(|x| x.is_nan()),
        "normal" => test!(|x| x.is_normal()),
        "subnormal" => test!(|x| x.is_subnormal()),
        _ => return None,
    })
}

/// The smaller; -0 below +0; a NaN only if both are, or `strict`.
pub fn smaller(a: f64, b: f64, strict: bool) -> f64 {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => f64::NAN,
        (true, false) | (false, true) if strict => f64::NAN,
        (true, false) => b,
        (false, true) => a,
        _ if a == b => {
            if a.is_sign_negative() {
                a
            } else {
                b
            }
        }
        _ => {
            if a < b {
                a
            } else {
                b
            }
        }
    }
}

/// The larger, likewise.
pub fn larger(a: f64, b: f64, strict: bool) -> f64 {
    -smaller(-a, -b, strict)
}

fn directed_sum(a: f64, b: f64, rounding: Rounding) -> f64 {
    let s = a + b;
    if !s.is_finite() {
        return s;
    }
    let t = s - a;
    let error = (a - (s - t)) + (b - t);
    match rounding {
        Rounding::Down if s == 0.0 && error == 0.0 && (a.is_sign_negative() || b.is_sign_negative()) => -0.0,
        Rounding::Down if error < 0.0 => s.next_down(),
        Rounding::Up if error > 0.0 => s.next_up(),
        Rounding::Zero if s > 0.0 && error < 0.0 => s.next_down(),
        Rounding::Zero if s < 0.0 && error > 0.0 => s.next_up(),
        _ => s,
    }
}

/// The quotient is no tie in f64 unless exact, so the nearest f64 tells the direction; the remainder
/// tells what an exact-looking one lacks.
fn quotient(a: f32, b: f32, rounding: Rounding) -> f32 {
    let (x, y) = (f64::from(a), f64::from(b));
    let q = x / y;
    if !q.is_finite() || q == 0.0 {
        return q as f32;
    }
    let rest = (-q).mul_add(y, x);
    // Sign of (exact - q).
    let lacking = if rest == 0.0 { 0.0 } else { rest.signum() * y.signum() };
    to_f32(odd(q, lacking), rounding)
}

fn root(a: f32, rounding: Rounding) -> f32 {
    let x = f64::from(a);
    let s = x.sqrt();
    if !s.is_finite() || s == 0.0 {
        return s as f32;
    }
    let rest = (-s).mul_add(s, x);
    to_f32(odd(s, if rest == 0.0 { 0.0 } else { rest.signum() }), rounding)
}

fn odd(nearest: f64, lacking: f64) -> f64 {
    match lacking {
        l if l == 0.0 || nearest.to_bits() & 1 == 1 => nearest,
        l if l > 0.0 => nearest.next_up(),
        _ => nearest.next_down(),
    }
}

/// Comparison of type `ty`: name as in `setp`.
pub fn comparison(name: &str, ty: &str) -> Option<crate::ir::CompareFn> {
    macro_rules! compare {
        ($t:ty, |$a:ident, $b:ident| $e:expr) => {{
            let f: crate::ir::CompareFn = |x, y| {
                let mut mask = 0;
                for lane in 0..crate::ir::WARP {
                    let ($a, $b) = (<$t as Value>::get(x[lane]), <$t as Value>::get(y[lane]));
                    mask |= u32::from($e) << lane;
                }
                mask
            };
            f
        }};
    }
    macro_rules! ordered {
        ($t:ty) => {
            Some(match name {
                "eq" => compare!($t, |a, b| a == b),
                "ne" => compare!($t, |a, b| a != b),
                "lt" | "lo" => compare!($t, |a, b| a < b),
                "le" | "ls" => compare!($t, |a, b| a <= b),
                "gt" | "hi" => compare!($t, |a, b| a > b),
                "ge" | "hs" => compare!($t, |a, b| a >= b),
                _ => return None,
            })
        };
    }
    macro_rules! partial {
        ($t:ty, |$x:ident| $v:expr) => {{
            #[inline(always)]
            fn v($x: $t) -> f64 {
                $v
            }
            #[inline(always)]
            fn unordered(a: $t, b: $t) -> bool {
                v(a).is_nan() || v(b).is_nan()
            }
            Some(match name {
                "eq" => compare!($t, |a, b| v(a) == v(b)),
                // Unordered operands make the plain comparisons false, this one too.
                "ne" => compare!($t, |a, b| v(a) < v(b) || v(a) > v(b)),
                "lt" => compare!($t, |a, b| v(a) < v(b)),
                "le" => compare!($t, |a, b| v(a) <= v(b)),
                "gt" => compare!($t, |a, b| v(a) > v(b)),
                "ge" => compare!($t, |a, b| v(a) >= v(b)),
                "equ" => compare!($t, |a, b| v(a) == v(b) || unordered(a, b)),
                "neu" => compare!($t, |a, b| v(a) != v(b)),
                "ltu" => compare!($t, |a, b| v(a) < v(b) || unordered(a, b)),
                "leu" => compare!($t, |a, b| v(a) <= v(b) || unordered(a, b)),
                "gtu" => compare!($t, |a, b| v(a) > v(b) || unordered(a, b)),
                "geu" => compare!($t, |a, b| v(a) >= v(b) || unordered(a, b)),
                "num" => compare!($t, |a, b| !unordered(a, b)),
                "nan" => compare!($t, |a, b| unordered(a, b)),
                _ => return None,
            })
        }};
    }
    match ty {
        "b16" | "u16" => ordered!(u16),
        "s16" => ordered!(i16),
        "b32" | "u32" => ordered!(u32),
        "s32" => ordered!(i32),
        "b64" | "u64" => ordered!(u64),
        "s64" => ordered!(i64),
        "f32" => partial!(f32, |x| x.into()),
        "f64" => partial!(f64, |x| x),
        "f16" | "f16x2" => partial!(u16, |x| <Ieee as Half>::value(x.into())),
        "bf16" | "bf16x2" => partial!(u16, |x| <Brain as Half>::value(x.into())),
        _ => None,
    }
}
