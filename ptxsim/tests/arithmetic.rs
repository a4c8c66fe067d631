//! Arithmetic that compilers emit less often, against the formulas of the PTX ISA 9.0.

mod support;

use half::{bf16, f16};
use support::rows::*;

/// Clamped and cut to a type of `cvt.pack` (9.7.9.22).
fn packed(x: u64, low: i128, bits: u32) -> u64 {
    s(x, 32).clamp(low, low + (1 << bits) - 1) as u64 & ((1 << bits) - 1)
}

fn dot2(a: u64, b: u64, c: u64, a_of: fn(u64, u32) -> i128, b_of: fn(u64, u32) -> i128) -> u64 {
    (a_of(a, 16) * b_of(b, 8) + a_of(a >> 16, 16) * b_of(b >> 8, 8) + u(c, 32)) as u64
}

/// 9.7.1.17, step by step.
fn nth(mask: u64, base: u64, n: i128) -> u64 {
    if n == 0 {
        return if bit(mask, base as u32) { base } else { u64::MAX };
    }
    let (mut place, mut left) = (base as i128, n.abs() - 1);
    while (0..32).contains(&place) {
        if bit(mask, place as u32) {
            if left == 0 {
                return place as u64;
            }
            left -= 1;
        }
        place += n.signum();
    }
    u64::MAX
}

/// A multiplication of 128 bits of each half, for carries.
fn carried(low: i128, high: i128) -> u64 {
    (low as u64 & 0xffff_ffff) | (high as u64) << 32
}

#[test]
fn integers() {
    let rows: &[Row] = &[
        ("mad.hi.u16", "16 16 16 16", |a, b, c| (((u(a, 16) * u(b, 16)) >> 16) + u(c, 16)) as u64),
        ("mad.hi.s16", "16 16 16 16", |a, b, c| (((s(a, 16) * s(b, 16)) >> 16) + s(c, 16)) as u64),
        ("mad.hi.s64", "64 64 64 64", |a, b, c| (((s(a, 64) * s(b, 64)) >> 64) + s(c, 64)) as u64),
        ("mad.hi.sat.s32", "32 32 32 32", |a, b, c| {
            (((s(a, 32) * s(b, 32)) >> 32) + s(c, 32)).clamp(-(1 << 31), (1 << 31) - 1) as u64
        }),
        ("mul24.hi.u32", "32 32 32", |a, b, _| ((u(a, 24) * u(b, 24)) >> 16) as u64),
        ("mul24.hi.s32", "32 32 32", |a, b, _| ((s(a, 24) * s(b, 24)) >> 16) as u64),
        ("mad24.hi.u32", "32 32 32 32", |a, b, c| (((u(a, 24) * u(b, 24)) >> 16) + u(c, 32)) as u64),
        ("mad24.hi.s32", "32 32 32 32", |a, b, c| (((s(a, 24) * s(b, 24)) >> 16) + s(c, 32)) as u64),
        ("mad24.hi.sat.s32", "32 32 32 32", |a, b, c| {
            (s(s(a, 24).wrapping_mul(s(b, 24)) as u64 >> 16, 32) + s(c, 32)).clamp(-(1 << 31), (1 << 31) - 1)
                as u64
        }),
        ("dp2a.lo.s32.u32", "32 32 32 32", |a, b, c| dot2(a, b, c, s, u)),
        ("dp2a.hi.s32.u32", "32 32 32 32", |a, b, c| dot2(a, b >> 16, c, s, u)),
        ("dp2a.lo.u32.s32", "32 32 32 32", |a, b, c| dot2(a, b, c, u, s)),
        ("dp2a.hi.u32.s32", "32 32 32 32", |a, b, c| dot2(a, b >> 16, c, u, s)),
        (
            "{ .reg .b32 %n; and.b32 %n, %b32, 31; bfe.s32 %c32, %c32, 3, 5; fns.b32 %r0, %a32, %n, %c32; } mov.b32",
            "32 #%r0",
            |a, b, c| nth(a, b & 31, s(c >> 3, 5)),
        ),
        ("cvt.pack.sat.u16.s32", "32 32 32", |a, b, _| packed(a, 0, 16) << 16 | packed(b, 0, 16)),
        ("cvt.pack.sat.s16.s32", "32 32 32", |a, b, _| packed(a, -32768, 16) << 16 | packed(b, -32768, 16)),
        ("cvt.pack.sat.u8.s32.b32", "32 32 32 32", |a, b, c| {
            c << 16 | packed(a, 0, 8) << 8 | packed(b, 0, 8)
        }),
        ("cvt.pack.sat.s8.s32.b32", "32 32 32 32", |a, b, c| {
            c << 16 | packed(a, -128, 8) << 8 | packed(b, -128, 8)
        }),
        ("cvt.pack.sat.s4.s32.b32", "32 32 32 32", |a, b, c| {
            c << 8 | packed(a, -8, 4) << 4 | packed(b, -8, 4)
        }),
        ("cvt.pack.sat.u2.s32.b32", "32 32 32 32", |a, b, c| c << 4 | packed(a, 0, 2) << 2 | packed(b, 0, 2)),
        // The carry shows in the sum of two zeros.
        (
            "{ .reg .b32 %x, %y; mad.hi.cc.s32 %x, %a32, %b32, %c32; addc.u32 %y, 0, 0; mov.b64 %l0, {%x, %y}; } mov.b64",
            "64 #%l0",
            |a, b, c| {
                let x = ((s(a, 32) * s(b, 32)) >> 32 & 0xffff_ffff) + u(c, 32);
                carried(x, x >> 32)
            },
        ),
        (
            "{ .reg .b64 %x; mad.lo.cc.u64 %x, %a64, %b64, %c64; addc.u64 %l0, 0, 0; add.u64 %l0, %l0, %x; } mov.b64",
            "64 #%l0",
            |a, b, c| {
                let x = u128::from(a.wrapping_mul(b)) + u128::from(c);
                (x as u64).wrapping_add((x >> 64) as u64)
            },
        ),
        (
            "{ .reg .b64 %x; mad.hi.cc.u64 %x, %a64, %b64, %c64; addc.u64 %l0, 0, 0; add.u64 %l0, %l0, %x; } mov.b64",
            "64 #%l0",
            |a, b, c| {
                let x = ((u128::from(a) * u128::from(b)) >> 64) + u128::from(c);
                (x as u64).wrapping_add((x >> 64) as u64)
            },
        ),
        (
            "{ .reg .b64 %x; mad.hi.cc.s64 %x, %a64, %b64, %c64; addc.u64 %l0, 0, 0; add.u64 %l0, %l0, %x; } mov.b64",
            "64 #%l0",
            |a, b, c| {
                let x = u128::from(((s(a, 64) * s(b, 64)) >> 64) as u64) + u128::from(c);
                (x as u64).wrapping_add((x >> 64) as u64)
            },
        ),
        // 9.7.8.6: F = a & b | c; whether it is not zero, or-ed and and-ed with a < b.
        (
            "{ .reg .pred %q; setp.lt.u32 %q, %a32, %b32; lop3.or.b32 %r0|%p0, %a32, %b32, %c32, 0xEA, %q; } \
             selp.b32",
            "32 #0 #1 #%p0",
            |a, b, c| u64::from(u(a & b | c, 32) == 0 && u(a, 32) >= u(b, 32)),
        ),
        (
            "{ .reg .pred %q; setp.lt.u32 %q, %a32, %b32; lop3.and.b32 _|%p0, %a32, %b32, %c32, 0x80, %q; } \
             selp.b32",
            "32 #7 #9 #%p0",
            |a, b, c| if u(a & b & c, 32) != 0 && u(a, 32) < u(b, 32) { 7 } else { 9 },
        ),
        (
            "{ .reg .pred %q; setp.ne.b32 %q, 0, 0; lop3.or.b32 %r0|%q, %a32, %b32, %c32, 0x96, !%q; } mov.b32",
            "32 #%r0",
            |a, b, c| a ^ b ^ c,
        ),
        // 128 bits are two registers; a swap reads both before it writes.
        (
            "{ .reg .b128 %q, %w; mov.b128 %q, {%a64, %b64}; mov.b128 %w, %q; mov.b128 {%b64, %a64}, %w; } sub.u64",
            "64 64 64",
            |a, b, _| b.wrapping_sub(a),
        ),
        ("mov.v2.u32 {%a32, %b32}, {%b32, %a32}; sub.u32", "32 32 32", |a, b, _| b.wrapping_sub(a)),
    ];
    check(rows, "a100", "sm_80");
}

/// Of two numbers, or of the numbers among them; -0 is below +0.
fn pick(a: f64, b: f64, greater: bool, strict: bool) -> f64 {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => f64::NAN,
        (true, false) if !strict => b,
        (false, true) if !strict => a,
        (false, false) if a.total_cmp(&b).is_gt() == greater => a,
        (false, false) => b,
        _ => f64::NAN,
    }
}

/// The smaller or larger magnitude; minus where the signs differ.
fn pick_signed(a: f64, b: f64, greater: bool, strict: bool) -> f64 {
    let x = pick(a.abs(), b.abs(), greater, strict);
    if a.is_sign_negative() != b.is_sign_negative() { -x } else { x }
}

fn bits_of_f16(x: f64) -> u64 {
    if x.is_nan() { 0x7fff } else { f16::from_f64(x).to_bits().into() }
}

fn bits_of_bf16(x: f64) -> u64 {
    if x.is_nan() { 0x7fff } else { bf16::from_f64(x).to_bits().into() }
}

fn flushed_f16(x: u64) -> f64 {
    if x & 0x7c00 == 0 { h(x & 0x8000) } else { h(x) }
}

#[test]
fn minima_with_signs_and_flushed_halves() {
    let rows: &[Row] = &[
        ("min.xorsign.abs.f32", "32 32 32", |a, b, _| single(pick_signed(f(a), f(b), false, false) as f32)),
        ("max.NaN.xorsign.abs.f32", "32 32 32", |a, b, _| single(pick_signed(f(a), f(b), true, true) as f32)),
        ("max.xorsign.abs.f16", "16 16 16", |a, b, _| bits_of_f16(pick_signed(h(a), h(b), true, false))),
        ("min.NaN.xorsign.abs.bf16x2", "32 32 32", |x, y, _| {
            bits_of_bf16(pick_signed(b(x), b(y), false, true))
                | bits_of_bf16(pick_signed(b(x >> 16), b(y >> 16), false, true)) << 16
        }),
        ("add.ftz.f16x2", "32 32 32", |x, y, _| {
            let sum = |x, y| bits_of_f16(flushed_f16(bits_of_f16(flushed_f16(x) + flushed_f16(y))));
            sum(x, y) | sum(x >> 16, y >> 16) << 16
        }),
        // 9.7.3.14: of the upper 32 bits, with zeros below them.
        ("rcp.approx.ftz.f64", "64 64", |a, _, _| {
            let upper = f64::from_bits(a >> 32 << 32);
            let upper = if upper.is_subnormal() { 0.0 * upper.signum() } else { upper };
            match 1.0 / upper {
                x if x.is_nan() => 0x7fff_ffff_0000_0000,
                x if x.is_subnormal() => x.to_bits() & 1 << 63,
                x => x.to_bits() >> 32 << 32,
            }
        }),
    ];
    check(rows, "h200", "sm_90");
    // The direction of a sum is the addition's, with the other sign.
    let both = |direction: &str| {
        format!(
            "{{ .reg .f64 %x, %y; neg.f64 %x, %b64; add.{direction}.f64 %x, %a64, %x; \
             sub.{direction}.f64 %y, %a64, %b64; xor.b64 %l0, %x, %y; \
             setp.nan.f64 %p0, %x, %x; selp.b64 %l0, 0, %l0, %p0; }} mov.b64"
        )
    };
    for direction in ["rz", "rm", "rp"] {
        check(&[(Box::leak(both(direction).into_boxed_str()), "64 #%l0", |_, _, _| 0)], "a100", "sm_80");
    }
}

/// Both halves of f32 pairs.
fn halves(x: u64, y: u64, g: impl Fn(f32, f32) -> u64) -> u64 {
    let at = |x: u64, i: u32| f32::from_bits((x >> (32 * i)) as u32);
    g(at(x, 0), at(y, 0)) | g(at(x, 1), at(y, 1)) << 32
}

fn flushed(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

/// An exact f64 to f32, upwards.
fn upward(exact: f64) -> u64 {
    let near = exact as f32;
    single(if f64::from(near) < exact { near.next_up() } else { near })
}

#[test]
fn pairs_and_mixed_precision_of_newer_cards() {
    let rows: &[Row] = &[
        ("add.rn.f32x2", "64 64 64", |a, b, _| halves(a, b, |x, y| single(x + y))),
        ("sub.f32x2", "64 64 64", |a, b, _| halves(a, b, |x, y| single(x - y))),
        ("mul.rp.f32x2", "64 64 64", |a, b, _| halves(a, b, |x, y| upward(f64::from(x) * f64::from(y)))),
        ("mul.ftz.f32x2", "64 64 64", |a, b, _| {
            halves(a, b, |x, y| single(flushed(flushed(x) * flushed(y))))
        }),
        ("fma.rn.f32x2", "64 64 64 64", |a, b, c| {
            let at = |x: u64, i: u32| f32::from_bits((x >> (32 * i)) as u32);
            let one = |i| single(at(a, i).mul_add(at(b, i), at(c, i)));
            one(0) | one(1) << 32
        }),
        // 9.7.5: the narrow operands come first; a sum of an f16 and an f32 need not be an f64.
        ("add.f32.f16", "32 16 32", |a, c, _| single(h(a) as f32 + f32::from_bits(c as u32))),
        ("add.rn.f32.bf16", "32 16 32", |a, c, _| single(b(a) as f32 + f32::from_bits(c as u32))),
        ("sub.sat.f32.bf16", "32 16 32", |a, c, _| {
            let x = b(a) as f32 - f32::from_bits(c as u32);
            if x > 0.0 { single(x.min(1.0)) } else { 0 }
        }),
        ("fma.rn.f32.f16", "32 16 16 32", |x, y, c| {
            single((h(x) as f32).mul_add(h(y) as f32, f32::from_bits(c as u32)))
        }),
        ("fma.rn.f32.bf16", "32 16 16 32", |x, y, c| {
            single((b(x) as f32).mul_add(b(y) as f32, f32::from_bits(c as u32)))
        }),
        ("min.f32", "32 32 32 32", |a, b, c| {
            single(pick(pick(f(a), f(b), false, false), f(c), false, false) as f32)
        }),
        ("max.NaN.abs.f32", "32 32 32 32", |a, b, c| {
            single(pick(pick(f(a).abs(), f(b).abs(), true, true), f(c).abs(), true, true) as f32)
        }),
    ];
    check(rows, "b200", "sm_100");
}

/// 9.7.7.1: what is written for true, and 9.7.7.2.
#[test]
fn comparisons_of_halves() {
    fn low(x: u64, y: u64, holds: fn(f64, f64) -> bool, of: fn(u64) -> f64, truth: u64) -> u64 {
        if holds(of(x), of(y)) { truth } else { 0 }
    }
    fn two(x: u64, y: u64, holds: fn(f64, f64) -> bool, of: fn(u64) -> f64, truth: u64) -> u64 {
        low(x, y, holds, of, truth) | low(x >> 16, y >> 16, holds, of, truth) << 16
    }
    // Unordered operands make it true.
    fn geu(x: f64, y: f64) -> bool {
        x.is_nan() || y.is_nan() || x >= y
    }
    let rows: &[Row] = &[
        ("set.lt.f16x2.f16x2", "32 32 32", |x, y, _| two(x, y, |x, y| x < y, h, 0x3c00)),
        ("set.geu.u32.f16x2", "32 32 32", |x, y, _| two(x, y, geu, h, 0xffff)),
        ("set.nan.s32.bf16x2", "32 32 32", |x, y, _| {
            two(x, y, |x, y| x.is_nan() || y.is_nan(), brain, 0xffff)
        }),
        ("set.eq.bf16x2.bf16x2", "32 32 32", |x, y, _| two(x, y, |x, y| x == y, brain, 0x3f80)),
        ("set.le.ftz.f16x2.f16x2", "32 32 32", |x, y, _| two(x, y, |x, y| x <= y, flushed_f16, 0x3c00)),
        ("set.gt.f16.f16", "16 16 16", |x, y, _| low(x, y, |x, y| x > y, h, 0x3c00)),
        ("set.lt.s32.f16", "32 16 16", |x, y, _| low(x, y, |x, y| x < y, h, 0xffff_ffff)),
        ("set.lt.u16.bf16", "16 16 16", |x, y, _| low(x, y, |x, y| x < y, brain, 0xffff)),
        ("set.ne.bf16.f64", "16 64 64", |x, y, _| {
            let (x, y) = (f64::from_bits(x), f64::from_bits(y));
            if x != y && !x.is_nan() && !y.is_nan() { 0x3f80 } else { 0 }
        }),
        ("set.lo.f16.u32", "16 32 32", |x, y, _| if u(x, 32) < u(y, 32) { 0x3c00 } else { 0 }),
        (
            "{ .reg .pred %q; setp.lt.s32 %q, %c32, 0; set.gt.xor.f16x2.f16x2 %r0, %a32, %b32, !%q; } mov.b32",
            "32 #%r0",
            |x, y, c| {
                let one = |x, y| if (h(x) > h(y)) != (s(c, 32) >= 0) { 0x3c00 } else { 0 };
                one(x, y) | one(x >> 16, y >> 16) << 16
            },
        ),
        ("setp.lt.bf16", "p 16 16", |x, y, _| u64::from(b(x) < b(y))),
        ("setp.ge.ftz.f16", "p 16 16", |x, y, _| u64::from(flushed_f16(x) >= flushed_f16(y))),
        (
            "{ .reg .pred %q, %w; setp.lt.ftz.f16x2 %q|%w, %a32, %b32; selp.b32 %r0, 1, 0, %q; \
             @%w add.u32 %r0, %r0, 2; } mov.b32",
            "32 #%r0",
            |x, y, _| {
                u64::from(flushed_f16(x) < flushed_f16(y))
                    | u64::from(flushed_f16(x >> 16) < flushed_f16(y >> 16)) << 1
            },
        ),
    ];
    check(rows, "h200", "sm_90");
}

fn brain(x: u64) -> f64 {
    b(x)
}

/// The number that a code of few bits stands for; all are finite.
fn narrow(code: u64, exponent_bits: u32, mantissa_bits: u32) -> f64 {
    let magnitude = code & ((1 << (exponent_bits + mantissa_bits)) - 1);
    let (exponent, mantissa) = (magnitude >> mantissa_bits, magnitude & ((1 << mantissa_bits) - 1));
    let (whole, exponent) = if exponent == 0 { (0.0, 1) } else { (1.0, exponent as i32) };
    let value = (whole + mantissa as f64 / 2f64.powi(mantissa_bits as i32))
        * 2f64.powi(exponent - ((1 << (exponent_bits - 1)) - 1));
    if magnitude == code { value } else { -value }
}

/// The nearest code, found by trying all; of two as near the even one. NaN is the largest (9.7.9.21).
fn nearest(x: f64, exponent_bits: u32, mantissa_bits: u32) -> u64 {
    let sign = 1 << (exponent_bits + mantissa_bits);
    let (x, sign) =
        if x.is_nan() { (f64::INFINITY, 0) } else { (x, if x.is_sign_negative() { sign } else { 0 }) };
    let magnitude =
        x.abs().min(narrow((1 << (exponent_bits + mantissa_bits)) - 1, exponent_bits, mantissa_bits));
    let distance = |code: u64| (narrow(code, exponent_bits, mantissa_bits) - magnitude).abs();
    let all = 0..1 << (exponent_bits + mantissa_bits);
    let best = all.min_by(|a, b| distance(*a).total_cmp(&distance(*b)).then((a & 1).cmp(&(b & 1))));
    best.unwrap() | sign
}

/// ue8m0 of a magnitude: the largest power of two below, or the smallest above.
fn power(x: f64, up: bool, finite: bool) -> u64 {
    if x.is_nan() {
        return 255;
    }
    let fits = |code: &i32| {
        let value = 2f64.powi(*code - 127);
        if up { value >= x.abs() } else { value <= x.abs() }
    };
    let most = if finite { 254 } else { 255 };
    match up {
        true => (0..most).find(fits).unwrap_or(most) as u64,
        false if x.is_infinite() => most as u64,
        false => (0..=most).rev().find(fits).unwrap_or(0) as u64,
    }
}

/// 9.7.9.21, the narrowest formats. Floats around their range.
#[test]
fn conversions_to_a_few_bits() {
    // Exponents of 121 to 136 keep both ends of each format in sight.
    const NEAR: &str = "{ .reg .b32 %x<2>; and.b32 %x0, %a32, 0x87FFFFFF; xor.b32 %x0, %x0, 0x3C800000; \
                        and.b32 %x1, %b32, 0x87FFFFFF; xor.b32 %x1, %x1, 0x3C800000; .reg .b8 %y; ";
    fn near(x: u64) -> f64 {
        f(x & 0x87ff_ffff ^ 0x3c80_0000)
    }
    fn leaked(text: String) -> &'static str {
        Box::leak(text.into_boxed_str())
    }
    let rows: Vec<Row> = vec![
        (
            leaked(
                NEAR.to_owned() + "cvt.rn.satfinite.e2m1x2.f32 %y, %x0, %x1; cvt.u32.u8 %r0, %y; } mov.b32",
            ),
            "32 #%r0",
            |a, b, _| nearest(near(a), 2, 1) << 4 | nearest(near(b), 2, 1),
        ),
        (
            leaked(NEAR.to_owned() + "cvt.rn.satfinite.e2m3x2.f32 %h0, %x0, %x1; } mov.b16"),
            "16 #%h0",
            |a, b, _| nearest(near(a), 2, 3) << 8 | nearest(near(b), 2, 3),
        ),
        (
            leaked(NEAR.to_owned() + "cvt.rn.satfinite.relu.e3m2x2.f32 %h0, %x0, %x1; } mov.b16"),
            "16 #%h0",
            |a, b, _| nearest(near(a).max(0.0), 3, 2) << 8 | nearest(near(b).max(0.0), 3, 2),
        ),
        ("cvt.rn.satfinite.e2m3x2.f32", "16 32 32", |a, b, _| nearest(f(a), 2, 3) << 8 | nearest(f(b), 2, 3)),
        (
            "{ .reg .b8 %y; cvt.u8.u32 %y, %a32; cvt.rn.f16x2.e2m1x2 %r0, %y; } mov.b32",
            "32 #%r0",
            |a, _, _| bits_of_f16(narrow(a >> 4 & 15, 2, 1)) << 16 | bits_of_f16(narrow(a & 15, 2, 1)),
        ),
        ("{ and.b16 %h0, %a16, 0x3F3F; cvt.rn.f16x2.e3m2x2 %r0, %h0; } mov.b32", "32 #%r0", |a, _, _| {
            bits_of_f16(narrow(a >> 8 & 63, 3, 2)) << 16 | bits_of_f16(narrow(a & 63, 3, 2))
        }),
        ("cvt.rz.satfinite.ue8m0x2.f32", "16 32 32", |a, b, _| {
            power(f(a), false, true) << 8 | power(f(b), false, true)
        }),
        ("cvt.rp.ue8m0x2.f32", "16 32 32", |a, b, _| {
            power(f(a), true, false) << 8 | power(f(b), true, false)
        }),
        ("cvt.rp.satfinite.ue8m0x2.bf16x2", "16 32", |a, _, _| {
            power(b(a >> 16), true, true) << 8 | power(b(a), true, true)
        }),
        ("cvt.rn.bf16x2.ue8m0x2", "32 16", |a, _, _| {
            let one =
                |code: u64| if code == 255 { 0x7fff } else { bits_of_bf16(2f64.powi(code as i32 - 127)) };
            one(a >> 8 & 255) << 16 | one(a & 255)
        }),
    ];
    check(&rows, "b200", "sm_100a");
}

/// 256 bits at once (9.7.9.8 and .11), and hints of every kind.
#[test]
fn wide_loads_and_hints() {
    let text = ".version 9.0\n.target sm_100\n.address_size 64\n.visible .entry run(.param .u64 from, .param .u64 to) {\n\
         .reg .f32 %f<8>;\n.reg .b32 %r<8>;\n.reg .b64 %a<4>, %x<4>, %policy;\n.reg .b128 %q;\n\
         ld.param.u64 %a0, [from];\nld.param.u64 %a1, [to];\n\
         createpolicy.fractional.L2::evict_last.L2::evict_unchanged.b64 %policy, 0f3F800000;\n\
         prefetch.global.L2::evict_last [%a0];\napplypriority.global.L2::evict_normal [%a0], 128;\n\
         ld.global.nc.L2::256B.v8.f32 {%f0, %f1, %f2, %f3, %f4, %f5, %f6, %f7}, [%a0];\n\
         st.global.L1::no_allocate.L2::evict_first.v8.f32 [%a1], {%f7, %f6, %f5, %f4, %f3, %f2, %f1, %f0};\n\
         ld.global.L1::evict_last.L2::evict_last.v4.b64 {%x0, %x1, %x2, %x3}, [%a0+32];\n\
         st.global.L2::cache_hint.v4.b64 [%a1+32], {%x3, %x2, %x1, %x0}, %policy;\n\
         ld.relaxed.gpu.global.L1::no_allocate.b128 %q, [%a0+64];\nst.global.b128 [%a1+64], %q;\n\
         ld.global.nc.L1::no_allocate.L2::cache_hint.v4.u32 {%r0, %r1, %r2, %r3}, [%a0+80], %policy;\n\
         st.global.cs.v4.u32 [%a1+80], {%r0, %r1, %r2, %r3};\ndiscard.global.L2 [%a0], 128;\nret;\n}\n";
    let gpu = support::Gpu::new("b200", text);
    let data: Vec<u32> = (100..124).collect();
    let (from, to) = (gpu.ints(&data), gpu.ints(&[0; 24]));
    let counters = gpu.run("run", &support::config(1, 1), &[&from, &to]);
    let want: Vec<u32> =
        (100..108).rev().chain([114, 115, 112, 113, 110, 111, 108, 109]).chain(116..124).collect();
    assert_eq!(gpu.read_ints(to, 24), want);
    assert_eq!((counters.global_load_bytes, counters.global_store_bytes), (96, 96));
    // Of 32 bytes the address is a multiple.
    let off = gpu.fault("run", &support::config(1, 1), &[&(from + 16), &to]);
    assert_eq!(off.kind, ptxsim::FaultKind::Misaligned);
}
