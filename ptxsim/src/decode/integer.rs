//! Integer and bit instructions.

use super::value::{alu, integer_alu};
use crate::ir::{AluFn, CarryFn};

/// The function of an integer instruction: base name, modifiers, type.
pub fn integer(base: &str, modifiers: &[&str], ty: &str) -> Option<AluFn> {
    let has = |m: &str| modifiers.contains(&m);
    match base {
        "add" if has("sat") && ty == "s32" => Some(alu!(|a: i32, b: i32| a.saturating_add(b))),
        "sub" if has("sat") && ty == "s32" => Some(alu!(|a: i32, b: i32| a.saturating_sub(b))),
        "add" if ty == "u16x2" || ty == "s16x2" => {
            Some(alu!(|a: u32, b: u32| halves(a, b, u16::wrapping_add)))
        }
        "add" => integer_alu!(ty, |a, b| a.wrapping_add(b)),
        "sub" => integer_alu!(ty, |a, b| a.wrapping_sub(b)),
        "mul" if has("lo") => integer_alu!(ty, |a, b| a.wrapping_mul(b)),
        "mad" if has("lo") && !has("sat") => integer_alu!(ty, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        "mul" if has("hi") => match ty {
            "u16" => Some(alu!(|a: u16, b: u16| ((u32::from(a) * u32::from(b)) >> 16) as u16)),
            "s16" => Some(alu!(|a: i16, b: i16| ((i32::from(a) * i32::from(b)) >> 16) as i16)),
            "u32" => Some(alu!(|a: u32, b: u32| high_u32(a, b))),
            "s32" => Some(alu!(|a: i32, b: i32| high_s32(a, b))),
            "u64" => Some(alu!(|a: u64, b: u64| high_u64(a, b))),
            "s64" => Some(alu!(|a: i64, b: i64| high_s64(a, b))),
            _ => None,
        },
        "mad" if has("sat") => (has("hi") && ty == "s32")
            .then_some(alu!(|a: i32, b: i32, c: i32| high_s32(a, b).saturating_add(c))),
        "mad" if has("hi") => match ty {
            "u16" => Some(alu!(
                |a: u16, b: u16, c: u16| (((u32::from(a) * u32::from(b)) >> 16) as u16).wrapping_add(c)
            )),
            "s16" => Some(alu!(
                |a: i16, b: i16, c: i16| (((i32::from(a) * i32::from(b)) >> 16) as i16).wrapping_add(c)
            )),
            "s64" => Some(alu!(|a: i64, b: i64, c: i64| high_s64(a, b).wrapping_add(c))),
            "u32" => Some(alu!(|a: u32, b: u32, c: u32| high_u32(a, b).wrapping_add(c))),
            "s32" => Some(alu!(|a: i32, b: i32, c: i32| high_s32(a, b).wrapping_add(c))),
            "u64" => Some(alu!(|a: u64, b: u64, c: u64| high_u64(a, b).wrapping_add(c))),
            _ => None,
        },
        "mul" if has("wide") => match ty {
            "u16" => Some(alu!(|a: u16, b: u16| u32::from(a) * u32::from(b))),
            "s16" => Some(alu!(|a: i16, b: i16| i32::from(a) * i32::from(b))),
            "u32" => Some(alu!(|a: u32, b: u32| u64::from(a) * u64::from(b))),
            "s32" => Some(alu!(|a: i32, b: i32| i64::from(a) * i64::from(b))),
            _ => None,
        },
        "mad" if has("wide") => match ty {
            "u16" => Some(alu!(|a: u16, b: u16, c: u32| (u32::from(a) * u32::from(b)).wrapping_add(c))),
            "s16" => Some(alu!(|a: i16, b: i16, c: i32| (i32::from(a) * i32::from(b)).wrapping_add(c))),
            "u32" => Some(alu!(|a: u32, b: u32, c: u64| (u64::from(a) * u64::from(b)).wrapping_add(c))),
            "s32" => Some(alu!(|a: i32, b: i32, c: i64| (i64::from(a) * i64::from(b)).wrapping_add(c))),
            _ => None,
        },
        "mul24" if has("lo") => match ty {
            "u32" => Some(alu!(|a: u32, b: u32| (a & 0xff_ffff).wrapping_mul(b & 0xff_ffff))),
            "s32" => Some(alu!(|a: i32, b: i32| (a << 8 >> 8).wrapping_mul(b << 8 >> 8))),
            _ => None,
        },
        "mad24" if has("lo") => match ty {
            "u32" => Some(alu!(|a: u32, b: u32, c: u32| (a & 0xff_ffff)
                .wrapping_mul(b & 0xff_ffff)
                .wrapping_add(c))),
            "s32" => {
                Some(alu!(|a: i32, b: i32, c: i32| (a << 8 >> 8).wrapping_mul(b << 8 >> 8).wrapping_add(c)))
            }
            _ => None,
        },
        "mul24" if has("hi") => match ty {
            "u32" => Some(alu!(|a: u32, b: u32| high24_u32(a, b))),
            "s32" => Some(alu!(|a: i32, b: i32| high24_s32(a, b))),
            _ => None,
        },
        "mad24" if has("hi") => match (ty, has("sat")) {
            ("u32", false) => Some(alu!(|a: u32, b: u32, c: u32| high24_u32(a, b).wrapping_add(c))),
            ("s32", false) => Some(alu!(|a: i32, b: i32, c: i32| high24_s32(a, b).wrapping_add(c))),
            ("s32", true) => Some(alu!(|a: i32, b: i32, c: i32| high24_s32(a, b).saturating_add(c))),
            _ => None,
        },
        "sad" => match ty {
            "u16" => Some(alu!(|a: u16, b: u16, c: u16| a.abs_diff(b).wrapping_add(c))),
            "s16" => Some(alu!(|a: i16, b: i16, c: u16| a.abs_diff(b).wrapping_add(c))),
            "u32" => Some(alu!(|a: u32, b: u32, c: u32| a.abs_diff(b).wrapping_add(c))),
            "s32" => Some(alu!(|a: i32, b: i32, c: u32| a.abs_diff(b).wrapping_add(c))),
            "u64" => Some(alu!(|a: u64, b: u64, c: u64| a.abs_diff(b).wrapping_add(c))),
            "s64" => Some(alu!(|a: i64, b: i64, c: u64| a.abs_diff(b).wrapping_add(c))),
            _ => None,
        },
        // Division by zero is unspecified: cards give all ones, and the dividend as the remainder.
        "div" => integer_alu!(ty, |a, b| if b == 0 { !0 } else { a.wrapping_div(b) }),
        "rem" => integer_alu!(ty, |a, b| if b == 0 { a } else { a.wrapping_rem(b) }),
        "abs" => match ty {
            "s16" => Some(alu!(|a: i16| a.wrapping_abs())),
            "s32" => Some(alu!(|a: i32| a.wrapping_abs())),
            "s64" => Some(alu!(|a: i64| a.wrapping_abs())),
            _ => None,
        },
        "neg" => match ty {
            "s16" => Some(alu!(|a: i16| a.wrapping_neg())),
            "s32" => Some(alu!(|a: i32| a.wrapping_neg())),
            "s64" => Some(alu!(|a: i64| a.wrapping_neg())),
            _ => None,
        },
        "min" if has("relu") && ty == "s32" => Some(alu!(|a: i32, b: i32| a.min(b).max(0))),
        "max" if has("relu") && ty == "s32" => Some(alu!(|a: i32, b: i32| a.max(b).max(0))),
        "min" | "max" if ty.ends_with("16x2") => match (base, ty) {
            ("min", "u16x2") => Some(alu!(|a: u32, b: u32| halves(a, b, u16::min))),
            ("max", "u16x2") => Some(alu!(|a: u32, b: u32| halves(a, b, u16::max))),
            ("min", "s16x2") => {
                Some(alu!(|a: u32, b: u32| halves(a, b, |a, b| (a as i16).min(b as i16) as u16)))
            }
            ("max", "s16x2") => {
                Some(alu!(|a: u32, b: u32| halves(a, b, |a, b| (a as i16).max(b as i16) as u16)))
            }
            _ => None,
        },
        "min" => integer_alu!(ty, |a, b| a.min(b)),
        "max" => integer_alu!(ty, |a, b| a.max(b)),
        "popc" => match ty {
            "b32" => Some(alu!(|a: u32| a.count_ones())),
            "b64" => Some(alu!(|a: u64| a.count_ones())),
            _ => None,
        },
        "clz" => match ty {
            "b32" => Some(alu!(|a: u32| a.leading_zeros())),
            "b64" => Some(alu!(|a: u64| a.leading_zeros())),
            _ => None,
        },
        "brev" => match ty {
            "b32" => Some(alu!(|a: u32| a.reverse_bits())),
            "b64" => Some(alu!(|a: u64| a.reverse_bits())),
            _ => None,
        },
        "bfind" if has("shiftamt") => match ty {
            "u32" => Some(alu!(|a: u32| found(a.leading_zeros(), 32, true))),
            "s32" => Some(alu!(|a: i32| found((a ^ (a >> 31)).leading_zeros(), 32, true))),
            "u64" => Some(alu!(|a: u64| found(a.leading_zeros(), 64, true))),
            "s64" => Some(alu!(|a: i64| found((a ^ (a >> 63)).leading_zeros(), 64, true))),
            _ => None,
        },
        "bfind" => match ty {
            "u32" => Some(alu!(|a: u32| found(a.leading_zeros(), 32, false))),
            "s32" => Some(alu!(|a: i32| found((a ^ (a >> 31)).leading_zeros(), 32, false))),
            "u64" => Some(alu!(|a: u64| found(a.leading_zeros(), 64, false))),
            "s64" => Some(alu!(|a: i64| found((a ^ (a >> 63)).leading_zeros(), 64, false))),
            _ => None,
        },
        "bfe" => match ty {
            "u32" => Some(alu!(|a: u32, b: u32, c: u32| extract(a.into(), b, c, 32, false) as u32)),
            "s32" => Some(alu!(|a: u32, b: u32, c: u32| extract(a.into(), b, c, 32, true) as u32)),
            "u64" => Some(alu!(|a: u64, b: u32, c: u32| extract(a, b, c, 64, false))),
            "s64" => Some(alu!(|a: u64, b: u32, c: u32| extract(a, b, c, 64, true))),
            _ => None,
        },
        "bfi" => match ty {
            "b32" => Some(alu!(|a: u32, b: u32, c: u32, d: u32| insert(a.into(), b.into(), c, d, 32) as u32)),
            "b64" => Some(alu!(|a: u64, b: u64, c: u32, d: u32| insert(a, b, c, d, 64))),
            _ => None,
        },
        "bmsk" if has("clamp") => Some(alu!(|a: u32, b: u32| mask(a, b))),
        "bmsk" if has("wrap") => Some(alu!(|a: u32, b: u32| mask(a & 31, b & 31))),
        "szext" => match (ty, has("wrap")) {
            ("u32", wrap) if wrap => {
                Some(alu!(|a: u32, b: u32| extract(a.into(), 0, b & 31, 32, false) as u32))
            }
            ("u32", _) => Some(alu!(|a: u32, b: u32| extract(a.into(), 0, b.min(32), 32, false) as u32)),
            ("s32", wrap) if wrap => {
                Some(alu!(|a: u32, b: u32| extract(a.into(), 0, b & 31, 32, true) as u32))
            }
            ("s32", _) => Some(alu!(|a: u32, b: u32| extract(a.into(), 0, b.min(32), 32, true) as u32)),
            _ => None,
        },
        "and" => integer_alu!(ty, |a, b| a & b),
        "or" => integer_alu!(ty, |a, b| a | b),
        "xor" => integer_alu!(ty, |a, b| a ^ b),
        "not" => integer_alu!(ty, |a| !a),
        "cnot" => integer_alu!(ty, |a| if a == 0 { 1 } else { 0 }),
        "shl" => match ty {
            "b16" => Some(alu!(|a: u16, b: u32| a.checked_shl(b).unwrap_or(0))),
            "b32" => Some(alu!(|a: u32, b: u32| a.checked_shl(b).unwrap_or(0))),
            "b64" => Some(alu!(|a: u64, b: u32| a.checked_shl(b).unwrap_or(0))),
            _ => None,
        },
        "shr" => match ty {
            "b16" | "u16" => Some(alu!(|a: u16, b: u32| a.checked_shr(b).unwrap_or(0))),
            "b32" | "u32" => Some(alu!(|a: u32, b: u32| a.checked_shr(b).unwrap_or(0))),
            "b64" | "u64" => Some(alu!(|a: u64, b: u32| a.checked_shr(b).unwrap_or(0))),
            "s16" => Some(alu!(|a: i16, b: u32| a >> b.min(15))),
            "s32" => Some(alu!(|a: i32, b: u32| a >> b.min(31))),
            "s64" => Some(alu!(|a: i64, b: u32| a >> b.min(63))),
            _ => None,
        },
        "shf" => match (has("l"), has("clamp")) {
            (true, true) => Some(alu!(|a: u32, b: u32, c: u32| (join(a, b) << c.min(32) >> 32) as u32)),
            (true, false) => Some(alu!(|a: u32, b: u32, c: u32| (join(a, b) << (c & 31) >> 32) as u32)),
            (false, true) => Some(alu!(|a: u32, b: u32, c: u32| (join(a, b) >> c.min(32)) as u32)),
            (false, false) => Some(alu!(|a: u32, b: u32, c: u32| (join(a, b) >> (c & 31)) as u32)),
        },
        "prmt" => {
            const MODES: [&str; 6] = ["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"];
            match modifiers.iter().find(|m| MODES.contains(m)) {
                None => Some(alu!(|a: u32, b: u32, c: u32| permute(join(a, b), c))),
                Some(&"f4e") => Some(alu!(|a: u32, b: u32, c: u32| permute(
                    join(a, b),
                    [0x3210, 0x4321, 0x5432, 0x6543][c as usize & 3]
                ))),
                Some(&"b4e") => Some(alu!(|a: u32, b: u32, c: u32| permute(
                    join(a, b),
                    [0x5670, 0x6701, 0x7012, 0x0123][c as usize & 3]
                ))),
                Some(&"rc8") => Some(alu!(|a: u32, b: u32, c: u32| permute(
                    join(a, b),
                    [0x0000, 0x1111, 0x2222, 0x3333][c as usize & 3]
                ))),
                Some(&"ecl") => Some(alu!(|a: u32, b: u32, c: u32| permute(
                    join(a, b),
                    [0x3210, 0x3211, 0x3222, 0x3333][c as usize & 3]
                ))),
                Some(&"ecr") => Some(alu!(|a: u32, b: u32, c: u32| permute(
                    join(a, b),
                    [0x0000, 0x1110, 0x2210, 0x3210][c as usize & 3]
                ))),
                Some(_) => Some(alu!(|a: u32, b: u32, c: u32| permute(
                    join(a, b),
                    [0x1010, 0x3232, 0x1010, 0x3232][c as usize & 3]
                ))),
            }
        }
        "lop3" => Some(alu!(|a: u32, b: u32, c: u32, d: u32| lop3(a, b, c, d))),
        "dp4a" => match modifiers {
            [.., "u32", "u32"] => Some(alu!(|a: u32, b: u32, c: u32| dot4(a, b, c, false, false))),
            [.., "u32", "s32"] => Some(alu!(|a: u32, b: u32, c: u32| dot4(a, b, c, false, true))),
            [.., "s32", "u32"] => Some(alu!(|a: u32, b: u32, c: u32| dot4(a, b, c, true, false))),
            [.., "s32", "s32"] => Some(alu!(|a: u32, b: u32, c: u32| dot4(a, b, c, true, true))),
            _ => None,
        },
        "dp2a" if has("lo") || has("hi") => match (modifiers, has("hi")) {
            ([.., "u32", "s32"], false) => Some(alu!(|a: u32, b: u32, c: u32| dot2(a, b, c, false, true))),
            ([.., "u32", "s32"], true) => {
                Some(alu!(|a: u32, b: u32, c: u32| dot2(a, b >> 16, c, false, true)))
            }
            ([.., "s32", "u32"], false) => Some(alu!(|a: u32, b: u32, c: u32| dot2(a, b, c, true, false))),
            ([.., "s32", "u32"], true) => {
                Some(alu!(|a: u32, b: u32, c: u32| dot2(a, b >> 16, c, true, false)))
            }
            ([.., "u32", "u32"], false) => Some(alu!(|a: u32, b: u32, c: u32| dot2(a, b, c, false, false))),
            ([.., "u32", "u32"], true) => {
                Some(alu!(|a: u32, b: u32, c: u32| dot2(a, b >> 16, c, false, false)))
            }
            ([.., "s32", "s32"], false) => Some(alu!(|a: u32, b: u32, c: u32| dot2(a, b, c, true, true))),
            ([.., "s32", "s32"], true) => {
                Some(alu!(|a: u32, b: u32, c: u32| dot2(a, b >> 16, c, true, true)))
            }
            _ => None,
        },
        "fns" if ty == "b32" => Some(alu!(|a: u32, b: u32, c: i32| nth_bit(a, b, c))),
        "slct" => match ty {
            "s32" => Some(alu!(|a: u64, b: u64, c: i32| if c >= 0 { a } else { b })),
            "f32" => Some(alu!(|a: u64, b: u64, c: f32| if c >= 0.0 { a } else { b })),
            _ => None,
        },
        _ => None,
    }
}

/// Instructions with a carry: the function, whether it reads the carry, whether it writes it.
pub fn carry(base: &str, modifiers: &[&str], ty: &str) -> Option<(CarryFn, bool, bool)> {
    let writes = modifiers.contains(&"cc");
    let wide = matches!(ty, "u64" | "s64" | "b64");
    if !wide && !matches!(ty, "u32" | "s32" | "b32") {
        return None;
    }
    let add64: CarryFn = |a, b, _, k| sum(u128::from(a) + u128::from(b) + u128::from(k), 64);
    let add32: CarryFn = |a, b, _, k| sum(u128::from(a as u32) + u128::from(b as u32) + u128::from(k), 32);
    // The flag of a subtraction is the borrow.
    let sub64: CarryFn =
        |a, b, _, k| sum(u128::from(a).wrapping_sub(u128::from(b)).wrapping_sub(k.into()), 64);
    let sub32: CarryFn =
        |a, b, _, k| sum(u128::from(a as u32).wrapping_sub(u128::from(b as u32)).wrapping_sub(k.into()), 32);
    let low32: CarryFn = |a, b, c, k| {
        let product = (a as u32).wrapping_mul(b as u32);
        sum(u128::from(product) + u128::from(c as u32) + u128::from(k), 32)
    };
    let high32: CarryFn = |a, b, c, k| {
        let product = high_u32(a as u32, b as u32);
        sum(u128::from(product) + u128::from(c as u32) + u128::from(k), 32)
    };
    let high32_signed: CarryFn = |a, b, c, k| {
        let product = high_s32(a as i32, b as i32) as u32;
        sum(u128::from(product) + u128::from(c as u32) + u128::from(k), 32)
    };
    let low64: CarryFn = |a, b, c, k| sum(u128::from(a.wrapping_mul(b)) + u128::from(c) + u128::from(k), 64);
    let high64: CarryFn = |a, b, c, k| sum(u128::from(high_u64(a, b)) + u128::from(c) + u128::from(k), 64);
    let high64_signed: CarryFn = |a, b, c, k| {
        let product = high_s64(a as i64, b as i64) as u64;
        sum(u128::from(product) + u128::from(c) + u128::from(k), 64)
    };
    let f = match (base, wide) {
        ("add" | "addc", true) => add64,
        ("add" | "addc", false) => add32,
        ("sub" | "subc", true) => sub64,
        ("sub" | "subc", false) => sub32,
        ("mad" | "madc", false) if modifiers.contains(&"lo") => low32,
        ("mad" | "madc", true) if modifiers.contains(&"lo") => low64,
        ("mad" | "madc", false) if modifiers.contains(&"hi") && ty == "u32" => high32,
        ("mad" | "madc", false) if modifiers.contains(&"hi") && ty == "s32" => high32_signed,
        ("mad" | "madc", true) if modifiers.contains(&"hi") && ty == "u64" => high64,
        ("mad" | "madc", true) if modifiers.contains(&"hi") && ty == "s64" => high64_signed,
        _ => return None,
    };
    Some((f, base.ends_with('c'), writes))
}

fn sum(x: u128, bits: u32) -> (u64, u64) {
    let low = if bits == 64 { x as u64 } else { u64::from(x as u32) };
    (low, (x >> bits) as u64 & 1)
}

fn halves(a: u32, b: u32, f: impl Fn(u16, u16) -> u16) -> u32 {
    u32::from(f(a as u16, b as u16)) | u32::from(f((a >> 16) as u16, (b >> 16) as u16)) << 16
}

fn high_u32(a: u32, b: u32) -> u32 {
    ((u64::from(a) * u64::from(b)) >> 32) as u32
}

fn high_s32(a: i32, b: i32) -> i32 {
    ((i64::from(a) * i64::from(b)) >> 32) as i32
}

fn high_u64(a: u64, b: u64) -> u64 {
    ((u128::from(a) * u128::from(b)) >> 64) as u64
}

fn high_s64(a: i64, b: i64) -> i64 {
    ((i128::from(a) * i128::from(b)) >> 64) as i64
}

/// 9.7.1.5: bits 16 to 47 of the product of two numbers of 24 bits.
fn high24_u32(a: u32, b: u32) -> u32 {
    ((u64::from(a & 0xff_ffff) * u64::from(b & 0xff_ffff)) >> 16) as u32
}

fn high24_s32(a: i32, b: i32) -> i32 {
    ((i64::from(a << 8 >> 8) * i64::from(b << 8 >> 8)) >> 16) as i32
}

/// 9.7.1.17, `fns`: the place of the set bit that is the `n`-th from `base` on, upwards or, below zero, downwards.
fn nth_bit(mask: u32, base: u32, n: i32) -> u32 {
    let set = |place: &u32| mask >> place & 1 == 1;
    let (all, skipped) = (0..32u32, n.unsigned_abs().saturating_sub(1) as usize);
    let found = match n {
        0 => all.filter(|place| *place == base).find(set),
        1.. => all.filter(|place| *place >= base).filter(set).nth(skipped),
        _ => all.rev().filter(|place| *place <= base).filter(set).nth(skipped),
    };
    found.unwrap_or(u32::MAX)
}

/// 9.7.9.22, `cvt.pack`: `a` above `b`, clamped to a type; above them what `c` has lowest.
pub fn pack(to: &str) -> Option<AluFn> {
    macro_rules! pack {
        ($bits:expr, $low:expr) => {
            Some(alu!(|a: i32, b: i32, c: u32| {
                let clamp = |x: i32| (x.clamp($low, $low + ((1 << $bits) - 1)) & ((1 << $bits) - 1)) as u32;
                ((u64::from(c) << (2 * $bits)) as u32) | clamp(a) << $bits | clamp(b)
            }))
        };
    }
    match to {
        "u2" => pack!(2, 0),
        "s2" => pack!(2, -2),
        "u4" => pack!(4, 0),
        "s4" => pack!(4, -8),
        "u8" => pack!(8, 0),
        "s8" => pack!(8, -128),
        "u16" => pack!(16, 0),
        "s16" => pack!(16, -32768),
        _ => None,
    }
}

fn join(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

fn found(leading: u32, bits: u32, shift: bool) -> u32 {
    if leading == bits {
        u32::MAX
    } else if shift {
        leading
    } else {
        bits - 1 - leading
    }
}

/// `bfe`: `len` bits of `a` from bit `pos`; the sign of the field's top bit (or of `a`'s, past its end).
fn extract(a: u64, pos: u32, len: u32, bits: u32, signed: bool) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    if len == 0 {
        return 0;
    }
    let top = (pos + len - 1).min(bits - 1);
    let sign = signed && a >> top & 1 == 1;
    let mut out = if sign { u64::MAX } else { 0 };
    let kept = if pos >= bits { 0 } else { len.min(bits - pos) };
    if kept > 0 {
        let mask = u64::MAX >> (64 - kept);
        out = (out & !mask) | (a >> pos & mask);
    }
    out
}

/// `bfi`: the low `len` bits of `a` into `b` at bit `pos`.
fn insert(a: u64, b: u64, pos: u32, len: u32, bits: u32) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    if pos >= bits || len == 0 {
        return b;
    }
    let kept = len.min(bits - pos);
    let mask = u64::MAX >> (64 - kept);
    (b & !(mask << pos)) | (a & mask) << pos
}

fn mask(start: u32, width: u32) -> u32 {
    let (start, width) = (start.min(32), width.min(32));
    let ones = ((1u64 << width) - 1) as u32;
    ones.checked_shl(start).unwrap_or(0)
}

/// `prmt`: four selector nibbles, bit 3 of each replicates the sign of its byte.
fn permute(bytes: u64, selector: u32) -> u32 {
    (0..4).fold(0, |out, i| {
        let nibble = selector >> (4 * i) & 15;
        let byte = (bytes >> (8 * (nibble & 7))) as u8;
        let byte = if nibble & 8 == 0 { byte } else { ((byte as i8) >> 7) as u8 };
        out | u32::from(byte) << (8 * i)
    })
}

/// `lop3`: bit i of the table answers (a, b, c) = bits of i.
pub(super) fn lop3(a: u32, b: u32, c: u32, table: u32) -> u32 {
    let mut out = 0;
    for i in 0..8 {
        if table >> i & 1 == 1 {
            let pick = |x: u32, bit: u32| if i >> bit & 1 == 1 { x } else { !x };
            out |= pick(a, 2) & pick(b, 1) & pick(c, 0);
        }
    }
    out
}

fn dot4(a: u32, b: u32, c: u32, a_signed: bool, b_signed: bool) -> u32 {
    (0..4).fold(c, |sum, i| {
        let byte = |x: u32, signed: bool| {
            let x = (x >> (8 * i)) as u8;
            if signed { i32::from(x as i8) } else { i32::from(x) }
        };
        sum.wrapping_add((byte(a, a_signed) * byte(b, b_signed)) as u32)
    })
}

fn dot2(a: u32, b: u32, c: u32, a_signed: bool, b_signed: bool) -> u32 {
    (0..2).fold(c, |sum, i| {
        let half = (a >> (16 * i)) as u16;
        let half = if a_signed { i32::from(half as i16) } else { i32::from(half) };
        let byte = (b >> (8 * i)) as u8;
        let byte = if b_signed { i32::from(byte as i8) } else { i32::from(byte) };
        sum.wrapping_add(half.wrapping_mul(byte) as u32)
    })
}
