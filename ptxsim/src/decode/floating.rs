//! f32, f64, f16 and bf16 arithmetic.

use super::half::{Brain, Half, Ieee, half};
use super::value::{Fixed, alu};
use super::value::{flush_saturate32, flush32, saturate32, saturate64};
use crate::float::{Rounding, larger, signed_by, smaller, sum_to_odd, to_f32};
use crate::ir::{AluFn, FixFn, Single, Value, lanemask};

/// A function of f32; its NaNs are the canonical one.
macro_rules! single {
    (|$($x:ident),+| $e:expr) => { alu!(|$($x: f32),+| Single($e)) };
}

/// The function of a float instruction: base name, modifiers, type.
pub fn floating(base: &str, modifiers: &[&str], ty: &str) -> Option<Fixed> {
    let has = |m: &str| modifiers.contains(&m);
    match ty {
        "f32" => {
            let f = single(base, modifiers)?;
            let pre: Option<FixFn> = has("ftz").then_some(flush32);
            let post: Option<FixFn> = match (has("ftz"), has("sat")) {
                (true, true) => Some(flush_saturate32),
                (false, true) => Some(saturate32),
                (true, false) => Some(flush32),
                (false, false) => None,
            };
            Some((f, pre, post))
        }
        "f64" if base == "rcp" && has("approx") => Some((alu!(|a: f64| coarse(1.0 / coarse(a))), None, None)),
        "f64" => Some((double(base, modifiers)?, None, has("sat").then_some(saturate64 as FixFn))),
        "f16" | "f16x2" => half::<Ieee>(base, modifiers, ty.ends_with("x2")),
        "bf16" | "bf16x2" => half::<Brain>(base, modifiers, ty.ends_with("x2")),
        _ => None,
    }
}

/// 9.7.3.11 and .12: `min` and `max` of three f32.
pub fn of_three(base: &str, modifiers: &[&str]) -> Option<Fixed> {
    let has = |m: &str| modifiers.contains(&m);
    if has("xorsign") {
        return None;
    }
    macro_rules! of_three {
        ($pick:ident, $strict:expr, |$x:ident| $value:expr) => {
            single!(|a, b, c| {
                let v = |$x: f32| -> f64 { $value.into() };
                $pick($pick(v(a), v(b), $strict), v(c), $strict) as f32
            })
        };
    }
    let f = match (base, has("NaN"), has("abs")) {
        ("min", false, false) => of_three!(smaller, false, |x| x),
        ("min", true, false) => of_three!(smaller, true, |x| x),
        ("min", false, true) => of_three!(smaller, false, |x| x.abs()),
        ("min", true, true) => of_three!(smaller, true, |x| x.abs()),
        ("max", false, false) => of_three!(larger, false, |x| x),
        ("max", true, false) => of_three!(larger, true, |x| x),
        ("max", false, true) => of_three!(larger, false, |x| x.abs()),
        ("max", true, true) => of_three!(larger, true, |x| x.abs()),
        _ => return None,
    };
    let flush: Option<FixFn> = has("ftz").then_some(flush32);
    Some((f, flush, flush))
}

/// 9.7.3.14, `rcp.approx.ftz.f64`: the upper 32 bits, subnormals as zeros.
fn coarse(x: f64) -> f64 {
    match x {
        x if x.is_nan() => f64::from_bits(0x7fff_ffff_0000_0000),
        x if x.is_subnormal() => 0f64.copysign(x),
        x => f64::from_bits(x.to_bits() >> 32 << 32),
    }
}

/// One of the four roundings: `nearest`, or a function of the exact operands and the rounding.
macro_rules! rounded {
    ($modifiers:expr, |$($x:ident),+| $nearest:expr, |$mode:ident| $directed:expr) => {
        if $modifiers.contains(&"rz") {
            single!(|$($x),+| { let $mode = Rounding::Zero; $directed })
        } else if $modifiers.contains(&"rm") {
            single!(|$($x),+| { let $mode = Rounding::Down; $directed })
        } else if $modifiers.contains(&"rp") {
            single!(|$($x),+| { let $mode = Rounding::Up; $directed })
        } else {
            single!(|$($x),+| $nearest)
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

/// As `div.approx` (PTX ISA, "div"): what lies above 2^126 has a reciprocal of zero.
fn approximate_quotient(a: f32, b: f32) -> f32 {
    let most = 2f32.powi(126);
    if b.is_finite() && b.abs() > most { a * 0f32.copysign(b) } else { a / b }
}

/// `min` or `max`; with `.xorsign.abs` of the magnitudes, minus where the signs differ.
macro_rules! extreme {
    ($xorsign:expr, $pick:ident, $strict:expr) => {
        if $xorsign {
            single!(
                |a, b| signed_by($pick(a.abs().into(), b.abs().into(), $strict), a.into(), b.into()) as f32
            )
        } else {
            single!(|a, b| $pick(a.into(), b.into(), $strict) as f32)
        }
    };
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
        "div" if has("approx") => single!(|a, b| approximate_quotient(a, b)),
        "div" if has("full") || has("rn") => single!(|a, b| a / b),
        "div" => match () {
            () if has("rz") => single!(|a, b| quotient(a, b, Rounding::Zero)),
            () if has("rm") => single!(|a, b| quotient(a, b, Rounding::Down)),
            () if has("rp") => single!(|a, b| quotient(a, b, Rounding::Up)),
            () => return None,
        },
        "rcp" if has("approx") || has("rn") => single!(|a| 1.0 / a),
        "rcp" if has("rz") => single!(|a| quotient(1.0, a, Rounding::Zero)),
        "rcp" if has("rm") => single!(|a| quotient(1.0, a, Rounding::Down)),
        "rcp" if has("rp") => single!(|a| quotient(1.0, a, Rounding::Up)),
        "sqrt" if has("approx") || has("rn") => single!(|a| a.sqrt()),
        "sqrt" if has("rz") => single!(|a| root(a, Rounding::Zero)),
        "sqrt" if has("rm") => single!(|a| root(a, Rounding::Down)),
        "sqrt" if has("rp") => single!(|a| root(a, Rounding::Up)),
        "rsqrt" => single!(|a| (1.0 / f64::from(a).sqrt()) as f32),
        "ex2" => single!(|a| f64::from(a).exp2() as f32),
        "lg2" => single!(|a| f64::from(a).log2() as f32),
        "sin" => single!(|a| f64::from(a).sin() as f32),
        "cos" => single!(|a| f64::from(a).cos() as f32),
        "tanh" => single!(|a| f64::from(a).tanh() as f32),
        // Sign operations leave NaNs as they are.
        "abs" => alu!(|a: u32| a & 0x7fff_ffff),
        "neg" => alu!(|a: u32| a ^ 0x8000_0000),
        "copysign" => alu!(|a: u32, b: u32| (a & 0x8000_0000) | (b & 0x7fff_ffff)),
        "min" | "max" if has("xorsign") != has("abs") => return None,
        "min" if has("NaN") => extreme!(has("xorsign"), smaller, true),
        "max" if has("NaN") => extreme!(has("xorsign"), larger, true),
        "min" => extreme!(has("xorsign"), smaller, false),
        "max" => extreme!(has("xorsign"), larger, false),
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
        "sub" if has("rz") => alu!(|a: f64, b: f64| directed_sum(a, -b, Rounding::Zero)),
        "sub" if has("rm") => alu!(|a: f64, b: f64| directed_sum(a, -b, Rounding::Down)),
        "sub" if has("rp") => alu!(|a: f64, b: f64| directed_sum(a, -b, Rounding::Up)),
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
            let f: crate::ir::CompareFn = |arch, a, b| {
                lanemask(arch, a, b, |a, _| {
                    let $x = <$t as Value>::get(a);
                    $e
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
            let f: crate::ir::CompareFn = |arch, a, b| {
                lanemask(arch, a, b, |a, b| {
                    let ($a, $b) = (<$t as Value>::get(a), <$t as Value>::get(b));
                    $e
                })
            };
            f
        }};
    }
    // 9.7.6.1: bits are equal or not; lower and higher are of unsigned numbers.
    let bits = matches!(ty, "b16" | "b32" | "b64");
    let unsigned = ty.starts_with('u');
    if bits && !matches!(name, "eq" | "ne") || matches!(name, "lo" | "ls" | "hi" | "hs") && !unsigned {
        return None;
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
