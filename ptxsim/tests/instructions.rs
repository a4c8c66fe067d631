//! One instruction at a time, on random and corner operands, against arithmetic done another way: 128-bit
//! integers, loops over bits, f64 with explicit rounding.

mod support;

use support::rows::*;
use support::{Gpu, config};

#[test]
fn integers() {
    let rows: &[Row] = &[
        ("add.s32", "32 32 32", |a, b, _| (s(a, 32) + s(b, 32)) as u64),
        ("add.u64", "64 64 64", |a, b, _| (u(a, 64) + u(b, 64)) as u64),
        ("add.sat.s32", "32 32 32", |a, b, _| (s(a, 32) + s(b, 32)).clamp(-(1 << 31), (1 << 31) - 1) as u64),
        ("sub.s32", "32 32 32", |a, b, _| (s(a, 32) - s(b, 32)) as u64),
        ("sub.u16", "16 16 16", |a, b, _| (u(a, 16) - u(b, 16)) as u64),
        ("mul.lo.s32", "32 32 32", |a, b, _| (s(a, 32) * s(b, 32)) as u64),
        ("mul.hi.s32", "32 32 32", |a, b, _| ((s(a, 32) * s(b, 32)) >> 32) as u64),
        ("mul.hi.u32", "32 32 32", |a, b, _| ((u(a, 32) * u(b, 32)) >> 32) as u64),
        ("mul.wide.s32", "64 32 32", |a, b, _| (s(a, 32) * s(b, 32)) as u64),
        ("mul.wide.u16", "32 16 16", |a, b, _| (u(a, 16) * u(b, 16)) as u64),
        ("mul.hi.s64", "64 64 64", |a, b, _| ((s(a, 64) * s(b, 64)) >> 64) as u64),
        ("mad.lo.u32", "32 32 32 32", |a, b, c| (u(a, 32) * u(b, 32) + u(c, 32)) as u64),
        ("mad.hi.s32", "32 32 32 32", |a, b, c| (((s(a, 32) * s(b, 32)) >> 32) + s(c, 32)) as u64),
        ("mad.wide.u32", "64 32 32 64", |a, b, c| (u(a, 32) * u(b, 32) + u(c, 64)) as u64),
        ("mul24.lo.s32", "32 32 32", |a, b, _| (s(a, 24) * s(b, 24)) as u64),
        ("sad.s32", "32 32 32 32", |a, b, c| ((s(a, 32) - s(b, 32)).abs() + u(c, 32)) as u64),
        ("min.s32", "32 32 32", |a, b, _| s(a, 32).min(s(b, 32)) as u64),
        ("max.u64", "64 64 64", |a, b, _| u(a, 64).max(u(b, 64)) as u64),
        ("min.s16", "16 16 16", |a, b, _| s(a, 16).min(s(b, 16)) as u64),
        ("abs.s32", "32 32", |a, _, _| s(a, 32).unsigned_abs() as u64),
        ("neg.s64", "64 64", |a, _, _| (-s(a, 64)) as u64),
        ("div.s32", "32 32 32", |a, b, _| match s(b, 32) {
            0 => u64::MAX,
            b => (s(a, 32) / b) as u64,
        }),
        ("rem.u32", "32 32 32", |a, b, _| match u(b, 32) {
            0 => a,
            b => (u(a, 32) % b) as u64,
        }),
        ("dp4a.s32.u32", "32 32 32 32", |a, b, c| {
            (0..4).map(|i| s(a >> (8 * i), 8) * u(b >> (8 * i), 8)).sum::<i128>().wrapping_add(s(c, 32))
                as u64
        }),
        ("slct.b32.s32", "32 32 32 32", |a, b, c| if s(c, 32) >= 0 { a } else { b }),
    ];
    check(rows, "a100", "sm_80");
}

#[test]
fn bit_instructions() {
    let rows: &[Row] = &[
        ("popc.b64", "32 64", |a, _, _| (0..64).filter(|i| bit(a, *i)).count() as u64),
        ("clz.b32", "32 32", |a, _, _| (0..32).rev().take_while(|i| !bit(a, *i)).count() as u64),
        ("brev.b32", "32 32", |a, _, _| bits(32, |i| bit(a, 31 - i))),
        ("bfind.u32", "32 32", |a, _, _| (0..32).rev().find(|i| bit(a, *i)).map_or(u64::MAX, u64::from)),
        ("bfind.s32", "32 32", |a, _, _| {
            (0..32).rev().find(|i| bit(a, *i) != bit(a, 31)).map_or(u64::MAX, u64::from)
        }),
        ("and.b32", "32 32 32", |a, b, _| bits(32, |i| bit(a, i) && bit(b, i))),
        ("xor.b64", "64 64 64", |a, b, _| bits(64, |i| bit(a, i) != bit(b, i))),
        ("not.b16", "16 16", |a, _, _| bits(16, |i| !bit(a, i))),
        ("cnot.b32", "32 32", |a, _, _| u64::from(u(a, 32) == 0)),
        ("shl.b32", "32 32 32", |a, b, _| bits(32, |i| u(b, 32) <= i.into() && bit(a, i - b as u32))),
        ("shr.u64", "64 64 32", |a, b, _| {
            bits(64, |i| u128::from(i) + u(b, 32) as u128 <= 63 && bit(a, i + b as u32))
        }),
        ("shr.s32", "32 32 32", |a, b, _| bits(32, |i| bit(a, (i128::from(i) + u(b, 32)).min(31) as u32))),
        ("shf.l.wrap.b32", "32 32 32 32", |a, b, c| {
            bits(32, |i| {
                let from = i128::from(i) + 32 - (u(c, 32) & 31);
                if from >= 32 { bit(b, (from - 32) as u32) } else { bit(a, from as u32) }
            })
        }),
        ("shf.r.clamp.b32", "32 32 32 32", |a, b, c| {
            bits(32, |i| {
                let from = i128::from(i) + u(c, 32).min(32);
                if from >= 32 { from < 64 && bit(b, (from - 32) as u32) } else { bit(a, from as u32) }
            })
        }),
        ("bfe.u32", "32 32 32 32", |a, b, c| {
            let (pos, len) = (u(b, 8) as u32, u(c, 8) as u32);
            bits(32, |i| i < len && pos + i < 32 && bit(a, pos + i))
        }),
        ("bfe.s32", "32 32 32 32", |a, b, c| {
            let (pos, len) = (u(b, 8) as u32, u(c, 8) as u32);
            let sign = len > 0 && bit(a, (pos + len - 1).min(31));
            bits(32, |i| if i < len && pos + i < 32 { bit(a, pos + i) } else { sign })
        }),
        // The length is a constant, in place of a fourth operand.
        (
            "{ .reg .b32 %n; mov.u32 %n, 7; bfi.b32 %r0, %a32, %b32, %c32, %n; } mov.b32",
            "32 #%r0",
            |a, b, c| {
                let pos = u(c, 8) as u32;
                bits(32, |i| if i >= pos && i < pos + 7 { bit(a, i - pos) } else { bit(b, i) })
            },
        ),
        ("prmt.b32", "32 32 32 32", |a, b, c| {
            let byte = |i: u64| if i < 4 { a >> (8 * i) & 255 } else { b >> (8 * (i - 4)) & 255 };
            (0..4).fold(0, |x, i| {
                let select = c >> (4 * i) & 15;
                let value = byte(select & 7);
                let value = if select & 8 != 0 { if value >= 128 { 255 } else { 0 } } else { value };
                x | value << (8 * i)
            })
        }),
    ];
    check(rows, "a100", "sm_80");
}

#[test]
fn every_table_of_lop3() {
    for table in 0..256u32 {
        let text = format!("lop3.b32 %r0, %a32, %b32, %c32, {table}; mov.b32");
        let name: &'static str = Box::leak(text.into_boxed_str());
        let gpu = Gpu::new("a100", &module(&[(name, "32 #%r0", |_, _, _| 0)], "sm_80"));
        let data = operands(u64::from(table));
        let (input, out) = (gpu.upload(&data, |x| x.to_le_bytes().to_vec()), gpu.space(256));
        gpu.run("k0", &config(1, 32), &[&out, &input]);
        let got = gpu.read_ints(out, 64);
        for lane in 0..32 {
            let of = |operand: usize, i: u32| u32::from(bit(data[3 * lane + operand], i));
            let want = bits(32, |i| table >> (4 * of(0, i) + 2 * of(1, i) + of(2, i)) & 1 == 1);
            assert_eq!(u64::from(got[2 * lane]), want, "table {table:#x}");
        }
    }
}

/// `exact` is within an f64; the f32 toward zero.
fn toward_zero(exact: f64) -> u64 {
    let near = exact as f32;
    let over = f64::from(near).abs() > exact.abs() && exact.is_finite();
    single(if over { f32::from_bits(near.to_bits() - 1) } else { near })
}

fn flushed(x: u64) -> f32 {
    let x = f32::from_bits(x as u32);
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

#[test]
fn floats() {
    let rows: &[Row] = &[
        ("add.f32", "32 32 32", |a, b, _| single((f(a) + f(b)) as f32)),
        ("sub.f32", "32 32 32", |a, b, _| single(f32::from_bits(a as u32) - f32::from_bits(b as u32))),
        ("mul.f32", "32 32 32", |a, b, _| single((f(a) * f(b)) as f32)),
        ("mul.rz.f32", "32 32 32", |a, b, _| toward_zero(f(a) * f(b))),
        ("mul.ftz.f32", "32 32 32", |a, b, _| {
            single(flushed(((f64::from(flushed(a)) * f64::from(flushed(b))) as f32).to_bits().into()))
        }),
        ("add.sat.f32", "32 32 32", |a, b, _| {
            let x = (f(a) + f(b)) as f32;
            if x.is_nan() { 0 } else { single(x.clamp(0.0, 1.0) + 0.0) }
        }),
        ("div.rn.f32", "32 32 32", |a, b, _| single((f(a) / f(b)) as f32)),
        ("sqrt.rn.f32", "32 32", |a, _, _| single(f(a).sqrt() as f32)),
        ("rcp.rn.f32", "32 32", |a, _, _| single((1.0 / f(a)) as f32)),
        ("abs.f32", "32 32", |a, _, _| a & 0x7fff_ffff),
        ("neg.f32", "32 32", |a, _, _| a ^ 0x8000_0000),
        ("min.f32", "32 32 32", |a, b, _| match (f(a).is_nan(), f(b).is_nan()) {
            (true, true) => 0x7fff_ffff,
            (true, false) => b,
            (false, true) => a,
            // Total order puts -0 below +0.
            _ => {
                if f(a).total_cmp(&f(b)).is_le() {
                    a
                } else {
                    b
                }
            }
        }),
        ("max.NaN.f32", "32 32 32", |a, b, _| {
            if f(a).is_nan() || f(b).is_nan() {
                0x7fff_ffff
            } else if f(a).total_cmp(&f(b)).is_ge() {
                a
            } else {
                b
            }
        }),
        ("copysign.f32", "32 32 32", |a, b, _| a & 0x8000_0000 | b & 0x7fff_ffff),
        ("testp.normal.f32", "p 32", |a, _, _| u64::from((1..255).contains(&(a >> 23 & 255)))),
        ("testp.notanumber.f32", "p 32", |a, _, _| u64::from(f(a).is_nan())),
        ("setp.lt.f32", "p 32 32", |a, b, _| u64::from(f(a) < f(b))),
        ("setp.ne.f32", "p 32 32", |a, b, _| u64::from(f(a) != f(b) && !f(a).is_nan() && !f(b).is_nan())),
        ("setp.geu.f32", "p 32 32", |a, b, _| u64::from(f(a) >= f(b) || f(a).is_nan() || f(b).is_nan())),
        ("setp.num.f32", "p 32 32", |a, b, _| u64::from(!f(a).is_nan() && !f(b).is_nan())),
        ("setp.lt.s32", "p 32 32", |a, b, _| u64::from(s(a, 32) < s(b, 32))),
        ("setp.hi.u32", "p 32 32", |a, b, _| u64::from(u(a, 32) > u(b, 32))),
        ("set.le.u32.f32", "32 32 32", |a, b, _| if f(a) <= f(b) { 0xffff_ffff } else { 0 }),
    ];
    check(rows, "a100", "sm_80");
}

/// Fused multiply-add rounds once: checked where the exact result is an f64 (operands of 12 bits).
#[test]
fn fused_multiply_add() {
    let short: Expected = |a, b, c| {
        let cut = |x: u64| f64::from(f32::from_bits(x as u32 & 0xffff_f000));
        single((cut(a) * cut(b) + cut(c)) as f32)
    };
    let name = "{ .reg .b32 %x<3>; and.b32 %x0, %a32, 0xfffff000; and.b32 %x1, %b32, 0xfffff000; \
                and.b32 %x2, %c32, 0xfffff000; fma.rn.f32 %r0, %x0, %x1, %x2; } mov.b32";
    // Exponents far apart round twice in f64; those cases are left to the other tests.
    let gpu = Gpu::new("a100", &module(&[(name, "32 #%r0", short)], "sm_80"));
    for seed in 0..20 {
        let data: Vec<u64> = operands(seed).iter().map(|x| x & 0x83ff_f000 | 0x3c00_0000).collect();
        let (input, out) = (gpu.upload(&data, |x| x.to_le_bytes().to_vec()), gpu.space(256));
        gpu.run("k0", &config(1, 32), &[&out, &input]);
        let got = gpu.read_ints(out, 64);
        for lane in 0..32 {
            let want = short(data[3 * lane], data[3 * lane + 1], data[3 * lane + 2]);
            assert_eq!(u64::from(got[2 * lane]), want);
        }
    }
}

/// A sum to bf16, by comparing with both neighbours of the nearest f32's bf16: the distances are exact.
fn brain_of_exact(product: f64, one: f64) -> u64 {
    let near = brain_of(product + one);
    if product.is_nan() || !product.is_finite() || near & 0x7fff >= 0x7f80 {
        return near;
    }
    let distance = |bits: u64| ((b(bits) - one) - product).abs();
    [near.wrapping_sub(1), near + 1]
        .into_iter()
        .filter(|other| b(*other).is_finite())
        .fold(near, |best, other| if distance(other) < distance(best) { other } else { best })
}

#[test]
fn half_floats() {
    let rows: &[Row] = &[
        // f32 holds sums and products of halves to more than twice their bits: rounding twice is harmless.
        ("add.f16", "16 16 16", |x, y, _| half_of(f64::from((h(x) + h(y)) as f32))),
        ("mul.f16", "16 16 16", |x, y, _| half_of(h(x) * h(y))),
        ("mul.f16x2", "32 32 32", |x, y, _| half_of(h(x) * h(y)) | half_of(h(x >> 16) * h(y >> 16)) << 16),
        (
            "{ .reg .b16 %n; mov.b16 %n, 0xBF80; fma.rn.bf16 %h0, %a16, %b16, %n; } mov.b16",
            "16 #%h0",
            |x, y, _| brain_of_exact(b(x) * b(y), -1.0),
        ),
        ("neg.bf16x2", "32 32", |x, _, _| x ^ 0x8000_8000),
        ("abs.f16", "16 16", |x, _, _| x & 0x7fff),
        ("max.f16", "16 16 16", |x, y, _| match (h(x).is_nan(), h(y).is_nan()) {
            (true, true) => 0x7fff,
            (true, false) => y,
            (false, true) => x,
            _ => {
                if h(x).total_cmp(&h(y)).is_ge() {
                    x
                } else {
                    y
                }
            }
        }),
        ("setp.gt.f16", "p 16 16", |x, y, _| u64::from(h(x) > h(y))),
    ];
    check(rows, "a100", "sm_80");
}

#[test]
fn conversions() {
    let rows: &[Row] = &[
        ("cvt.rn.f16.f32", "16 32", |a, _, _| half_of(f(a))),
        ("cvt.rn.bf16.f32", "16 32", |a, _, _| brain_of(f(a))),
        ("cvt.f32.f16", "32 16", |a, _, _| single(h(a) as f32)),
        ("cvt.rn.bf16x2.f32", "32 32 32", |a, b, _| brain_of(f(a)) << 16 | brain_of(f(b))),
        ("cvt.rn.f16x2.f32", "32 32 32", |a, b, _| half_of(f(a)) << 16 | half_of(f(b))),
        ("cvt.rz.bf16.f32", "16 32", |a, _, _| if f(a).is_nan() { 0x7fff } else { a >> 16 & 0xffff }),
        ("cvt.rn.relu.f16.f32", "16 32", |a, _, _| {
            if f(a) < 0.0 { 0 } else { half_of(f(a)) & if f(a) == 0.0 { 0x8000 } else { 0xffff } }
        }),
        ("cvt.rn.f32.s32", "32 32", |a, _, _| single(s(a, 32) as f64 as f32)),
        ("cvt.rz.f32.u32", "32 32", |a, _, _| toward_zero(u(a, 32) as f64)),
        // A NaN's payload is the card's own business: quieted and cleared here.
        (
            "{ .reg .f32 %x; and.b32 %x, %a32, 0xff7fffff; cvt.f64.f32 %l0, %x; } mov.b64",
            "64 #%l0",
            |a, _, _| f(a & 0xff7f_ffff).to_bits(),
        ),
        ("cvt.rzi.s32.f32", "32 32", |a, _, _| {
            if f(a).is_nan() { 0 } else { (f(a).trunc() as i128).clamp(-(1 << 31), (1 << 31) - 1) as u64 }
        }),
        ("cvt.rni.u32.f32", "32 32", |a, _, _| {
            if f(a).is_nan() { 0 } else { (f(a).round_ties_even() as i128).clamp(0, (1 << 32) - 1) as u64 }
        }),
        ("cvt.rmi.s64.f32", "64 32", |a, _, _| {
            if f(a).is_nan() {
                1 << 63
            } else {
                (f(a).floor() as i128).clamp(-(1 << 63), (1 << 63) - 1) as u64
            }
        }),
        ("cvt.s64.s32", "64 32", |a, _, _| s(a, 32) as u64),
        ("cvt.u32.u16", "32 16", |a, _, _| u(a, 16) as u64),
        ("cvt.s32.s16", "32 16", |a, _, _| s(a, 16) as u64),
        ("cvt.sat.u8.s32", "32 32", |a, _, _| s(a, 32).clamp(0, 255) as u64),
        ("cvt.rpi.f32.f32", "32 32", |a, _, _| single(f32::from_bits(a as u32).ceil())),
        // Half of the last place that stays, added to the magnitude, carries into the exponent.
        ("cvt.rna.tf32.f32", "32 #0f3F801000", |_, _, _| 0x3f80_2000),
        ("cvt.rna.tf32.f32", "32 #0fBF800FFF", |_, _, _| 0xbf80_0000),
    ];
    check(rows, "a100", "sm_80");
}

/// Approximations within the bounds of the PTX ISA: relative 2^-22 or so, exact at the corners.
#[test]
fn approximations() {
    type Approximation = (&'static str, fn(f64) -> f64);
    let list: [Approximation; 5] = [
        ("ex2.approx.f32", f64::exp2),
        ("lg2.approx.f32", f64::log2),
        ("rcp.approx.f32", |x| 1.0 / x),
        ("rsqrt.approx.f32", |x| 1.0 / x.sqrt()),
        ("tanh.approx.f32", f64::tanh),
    ];
    let rows: Vec<Row> = list.iter().map(|(name, _)| (*name, "32 32", (|_, _, _| 0) as Expected)).collect();
    let gpu = Gpu::new("a100", &module(&rows, "sm_80"));
    for (i, (name, exact)) in list.iter().enumerate() {
        let data: Vec<u64> = (0..96).map(|j| u64::from((0.03 + 0.31 * j as f32).to_bits())).collect();
        let (input, out) = (gpu.upload(&data, |x| x.to_le_bytes().to_vec()), gpu.space(256));
        gpu.run(&format!("k{i}"), &config(1, 32), &[&out, &input]);
        for (lane, got) in gpu.read_ints(out, 64).chunks_exact(2).enumerate() {
            let (got, want) = (f64::from(f32::from_bits(got[0])), exact(f(data[3 * lane])));
            assert!((got - want).abs() <= want.abs() * 2f64.powi(-21), "{name}: {got} for {want}");
        }
    }
}

/// 11.2.3, and 9.7.9.8 with `.unified`; directives that change nothing here.
#[test]
fn aliases_are_called() {
    let text = ".version 9.0\n.target sm_90\n.address_size 64\n\
         .func .attribute(.unified(0xABC, 0x123)) (.param .b32 out) twice (.param .b32 x) .abi_preserve 8\n\
         {\n.reg.b32 %r;\nld.param.b32 %r, [x];\nadd.s32 %r, %r, %r;\nst.param.b32 [out], %r;\nret;\n}\n\
         .func (.param .b32 out) other (.param .b32 x);\n.alias other, twice;\n\
         .visible .entry run(.param .u64 to) {\n.reg .b32 %r<2>;\n.reg .b64 %a;\nld.param.u64 %a, [to].unified;\n\
         ld.global.b32 %r0, [%a].unified;\n{\n.param .b32 p;\n.param .b32 q;\nst.param.b32 [p], %r0;\n\
         call.uni (q), other, (p);\nld.param.b32 %r1, [q];\n}\nst.global.b32 [%a+4], %r1;\nret;\n}\n";
    let gpu = Gpu::new("h200", text);
    let at = gpu.ints(&[21, 0]);
    gpu.run("run", &config(1, 1), &[&at]);
    assert_eq!(gpu.read_ints(at, 2), [21, 42]);
}
