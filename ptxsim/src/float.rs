//! Narrow float formats and directed rounding, to the bit.

/// How a result that does not fit is rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// To nearest, ties to even.
    Nearest,
    /// To nearest, ties away from zero.
    NearestAway,
    /// Toward zero.
    Zero,
    /// Toward minus infinity.
    Down,
    /// Toward plus infinity.
    Up,
}

/// What a format has besides finite numbers; without infinities the largest number stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Specials {
    Infinities,
    /// The largest code of either sign.
    Nan,
    None,
}

/// A binary format of at most 16 bits, or tf32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    pub exponent_bits: u32,
    pub mantissa_bits: u32,
    pub specials: Specials,
    /// What a NaN becomes.
    pub nan: u32,
}

pub const F16: Format =
    Format { exponent_bits: 5, mantissa_bits: 10, specials: Specials::Infinities, nan: 0x7fff };
pub const BF16: Format =
    Format { exponent_bits: 8, mantissa_bits: 7, specials: Specials::Infinities, nan: 0x7fff };
pub const TF32: Format =
    Format { exponent_bits: 8, mantissa_bits: 10, specials: Specials::Infinities, nan: 0x3_ffff };
pub const E4M3: Format = Format { exponent_bits: 4, mantissa_bits: 3, specials: Specials::Nan, nan: 0x7f };
pub const E5M2: Format =
    Format { exponent_bits: 5, mantissa_bits: 2, specials: Specials::Infinities, nan: 0x7f };
pub const E2M1: Format = Format { exponent_bits: 2, mantissa_bits: 1, specials: Specials::None, nan: 7 };
pub const E2M3: Format = Format { exponent_bits: 2, mantissa_bits: 3, specials: Specials::None, nan: 31 };
pub const E3M2: Format = Format { exponent_bits: 3, mantissa_bits: 2, specials: Specials::None, nan: 31 };

impl Format {
    /// Has infinities.
    const fn infinite(self) -> bool {
        matches!(self.specials, Specials::Infinities)
    }

    const fn sign_bit(self) -> u32 {
        self.exponent_bits + self.mantissa_bits
    }

    const fn bias(self) -> i32 {
        (1 << (self.exponent_bits - 1)) - 1
    }

    /// Magnitude bits of the largest finite value.
    pub const fn largest(self) -> u32 {
        match self.specials {
            Specials::Infinities => (((1 << self.exponent_bits) - 1) << self.mantissa_bits) - 1,
            Specials::Nan => (1 << self.sign_bit()) - 2,
            Specials::None => (1 << self.sign_bit()) - 1,
        }
    }

    /// Rounds `x`; a NaN becomes the format's own.
    pub fn encode(self, x: f64, rounding: Rounding) -> u32 {
        if x.is_nan() {
            return self.nan;
        }
        if rounding == Rounding::Nearest
            && let Some(bits) = self.encode_normal(x)
        {
            return bits;
        }
        let negative = x.is_sign_negative();
        let sign = u32::from(negative) << self.sign_bit();
        let magnitude = x.abs();
        let away = match rounding {
            Rounding::Up => !negative,
            Rounding::Down => negative,
            _ => false,
        };
        let overflow = || match rounding {
            Rounding::Nearest | Rounding::NearestAway if self.infinite() => self.largest() + 1,
            _ if away && self.infinite() => self.largest() + 1,
            _ => self.largest(),
        };
        if magnitude.is_infinite() {
            return sign | if self.infinite() { self.largest() + 1 } else { self.largest() };
        }
        if magnitude == 0.0 {
            return sign;
        }
        let least = 1 - self.bias();
        // An f64 subnormal is far below every format's smallest value.
        let exponent = (((magnitude.to_bits() >> 52) as i32) - 1023).max(least);
        if exponent > self.bias() + i32::from(!self.infinite()) {
            return sign | overflow();
        }
        // In units of the last place: below 2^(mantissa + 1), so exact, or a tiny fraction.
        let scaled = magnitude * power_of_two(self.mantissa_bits as i32 - exponent);
        let whole = scaled.floor();
        let rest = scaled - whole;
        let mut units = whole as u32;
        let up = match rounding {
            Rounding::Nearest => rest > 0.5 || (rest == 0.5 && units & 1 == 1),
            Rounding::NearestAway => rest >= 0.5,
            _ => away && rest > 0.0,
        };
        units += u32::from(up);
        let bits = if whole < f64::from(1u32 << self.mantissa_bits) {
            units
        } else {
            (((exponent - least + 1) as u32) << self.mantissa_bits) + units - (1 << self.mantissa_bits)
        };
        sign | if bits > self.largest() { overflow() } else { bits }
    }

    /// To nearest, where the result is no subnormal and does not overflow: then the bits above those dropped are the
    /// result's, and a carry goes where it belongs.
    fn encode_normal(self, x: f64) -> Option<u32> {
        let magnitude = x.to_bits() & !(1 << 63);
        let exponent = (magnitude >> 52) as i32 - 1023;
        if exponent < 1 - self.bias() || exponent > self.bias() {
            return None;
        }
        let dropped = 52 - self.mantissa_bits;
        let even = magnitude >> dropped & 1;
        let rounded = (magnitude + (1 << (dropped - 1)) - 1 + even) >> dropped;
        let bits = rounded as u32 - (((1023 - self.bias()) as u32) << self.mantissa_bits);
        (bits <= self.largest()).then_some(bits | u32::from(x.is_sign_negative()) << self.sign_bit())
    }

    /// An f32 to nearest, as [`Format::encode`] has it; `finite`: the largest number stands for infinity. Selections only:
    /// they become vector instructions.
    #[inline(always)]
    pub const fn nearest(self, x: f32, finite: bool) -> u32 {
        let (magnitude, sign) = (x.to_bits() & 0x7fff_ffff, x.to_bits() >> 31 << self.sign_bit());
        let dropped = 23 - self.mantissa_bits;
        let even = magnitude >> dropped & 1;
        let rebased = magnitude.wrapping_sub(((127 - self.bias()) as u32) << 23);
        let normal = rebased.wrapping_add((1 << (dropped - 1)) - 1 + even) >> dropped;
        // Units of its last place are those of the format's subnormals.
        let unit = ((127 + 24 - self.bias() - self.mantissa_bits as i32) as u32) << 23;
        let subnormal = (f32::from_bits(magnitude) + f32::from_bits(unit)).to_bits().wrapping_sub(unit);
        let bits = if magnitude < ((128 - self.bias()) as u32) << 23 { subnormal } else { normal };
        let most = self.largest() + if self.infinite() && !finite { 1 } else { 0 };
        let code = sign | if bits > most { most } else { bits };
        if magnitude > 0x7f80_0000 { self.nan } else { code }
    }

    /// The values of all codes of 8 bits.
    const fn values(self) -> [f32; 256] {
        let mut all = [0.0; 256];
        let mut bits = 0;
        while bits < 256 {
            all[bits] = self.decode(bits as u32) as f32;
            bits += 1;
        }
        all
    }

    /// What all codes of 8 bits are in f16.
    const fn as_f16(self) -> [u16; 256] {
        let (mut all, values) = ([0; 256], self.values());
        let mut bits = 0;
        while bits < 256 {
            all[bits] = F16.nearest(values[bits], false) as u16;
            bits += 1;
        }
        all
    }

    /// The value of `bits`.
    pub const fn decode(self, bits: u32) -> f64 {
        let mantissa = bits & ((1 << self.mantissa_bits) - 1);
        let exponent = (bits >> self.mantissa_bits) & ((1 << self.exponent_bits) - 1);
        let sign = if bits >> self.sign_bit() & 1 == 1 { -1.0 } else { 1.0 };
        let magnitude = bits & ((1 << self.sign_bit()) - 1);
        if magnitude > self.largest() {
            return if self.infinite() && mantissa == 0 { sign * f64::INFINITY } else { f64::NAN };
        }
        let (exponent, units) =
            if exponent == 0 { (1, mantissa) } else { (exponent, mantissa + (1 << self.mantissa_bits)) };
        sign * units as f64 * power_of_two(exponent as i32 - self.bias() - self.mantissa_bits as i32)
    }
}

/// 2^n, for exponents of normal f64.
const fn power_of_two(n: i32) -> f64 {
    f64::from_bits(((n + 1023) as u64) << 52)
}

/// The value of f16 bits: those of an f32 with other exponents, and a NaN is quiet.
#[inline(always)]
pub fn f16(bits: u32) -> f32 {
    let (sign, magnitude) = ((bits & 0x8000) << 16, (bits & 0x7fff) << 13);
    let finite = (f32::from_bits(magnitude) * f32::from_bits(239 << 23)).to_bits();
    let quiet = if magnitude > 0x7c00 << 13 { 0x40_0000 } else { 0 };
    f32::from_bits(sign | if magnitude >= 0x7c00 << 13 { 0x7f80_0000 | magnitude | quiet } else { finite })
}

/// The value of e4m3 bits.
#[inline]
pub fn e4m3(bits: u8) -> f32 {
    static VALUES: [f32; 256] = E4M3.values();
    VALUES[usize::from(bits)]
}

/// e4m3 bits to f16's of the same value.
#[inline]
pub fn e4m3_as_f16(bits: u8) -> u16 {
    static CODES: [u16; 256] = E4M3.as_f16();
    CODES[usize::from(bits)]
}

/// e5m2 bits to f16's of the same value.
#[inline]
pub fn e5m2_as_f16(bits: u8) -> u16 {
    static CODES: [u16; 256] = E5M2.as_f16();
    CODES[usize::from(bits)]
}

/// The value of e5m2 bits.
#[inline]
pub fn e5m2(bits: u8) -> f32 {
    static VALUES: [f32; 256] = E5M2.values();
    VALUES[usize::from(bits)]
}

/// The value of bf16 bits.
pub fn bf16(bits: u32) -> f32 {
    f32::from_bits(bits << 16)
}

/// `p + c` rounded to odd: rounding the result again, to two bits less or fewer, is as rounding the exact sum.
pub fn sum_to_odd(p: f64, c: f64) -> f64 {
    let s = p + c;
    if !s.is_finite() {
        return s;
    }
    // Knuth's TwoSum: `error` is exactly what `s` lacks.
    let b = s - p;
    let error = (p - (s - b)) + (c - b);
    if error == 0.0 || s.to_bits() & 1 == 1 {
        return s;
    }
    if error > 0.0 { s.next_up() } else { s.next_down() }
}

/// Rounds to f32.
pub fn to_f32(x: f64, rounding: Rounding) -> f32 {
    let y = x as f32;
    let exact = f64::from(y);
    match rounding {
        _ if x.is_nan() || exact == x || x.is_infinite() => y,
        Rounding::Nearest | Rounding::NearestAway => y,
        Rounding::Zero if exact.abs() > x.abs() => {
            if x > 0.0 {
                y.next_down()
            } else {
                y.next_up()
            }
        }
        Rounding::Down if exact > x => y.next_down(),
        Rounding::Up if exact < x => y.next_up(),
        _ => y,
    }
}

/// Subnormals become zero of the same sign.
pub fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

/// The smaller; -0 below +0; a NaN only if both are, or `strict`. Selections only: they become vector instructions.
#[inline(always)]
pub fn smaller(a: f64, b: f64, strict: bool) -> f64 {
    let first = (a < b) | ((a == b) & a.is_sign_negative()) | b.is_nan();
    let least = if first { a } else { b };
    let (one, both) = (a.is_nan() | b.is_nan(), a.is_nan() & b.is_nan());
    if both | (one & strict) { f64::NAN } else { least }
}

/// The larger, likewise.
#[inline(always)]
pub fn larger(a: f64, b: f64, strict: bool) -> f64 {
    -smaller(-a, -b, strict)
}

/// `x` in ue8m0, the exponent of a power of two alone: of the magnitude, down or up. Its NaN stands for what is too
/// large as well, unless `finite`.
pub fn exponent(x: f64, up: bool, finite: bool) -> u32 {
    const NAN: u32 = 0xff;
    let magnitude = x.abs();
    if magnitude.is_nan() {
        return NAN;
    }
    // f32 and bf16 are normal numbers here, but for zero.
    let (whole, rest) = (magnitude.to_bits() >> 52, magnitude.to_bits() << 12);
    let code = (whole as i64 - 1023 + 127 + i64::from(up && rest != 0)).clamp(0, NAN.into()) as u32;
    if finite { code.min(NAN - 1) } else { code }
}

/// `x` with the sign of `.xorsign`: minus where those of `a` and `b` differ. A NaN stays.
pub fn signed_by(x: f64, a: f64, b: f64) -> f64 {
    if x.is_nan() {
        x
    } else {
        x.abs().copysign(if a.is_sign_negative() == b.is_sign_negative() { 1.0 } else { -1.0 })
    }
}

/// tf32 bits of an f32 register, as tensor cores read it.
pub fn tf32(bits: u64) -> f32 {
    f32::from_bits(bits as u32 & 0xffff_e000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_and_bf16_survives_a_round_trip() {
        for bits in 0..=0xffffu32 {
            let half = half::f16::from_bits(bits as u16);
            assert_eq!(f16(bits).to_bits(), half.to_f32().to_bits());
            if !half.is_nan() {
                assert_eq!(F16.decode(bits), half.to_f64());
                for mode in [Rounding::Nearest, Rounding::Zero, Rounding::Up, Rounding::Down] {
                    assert_eq!(F16.encode(F16.decode(bits), mode), bits);
                }
            }
            let brain = f32::from_bits(bits << 16);
            if !brain.is_nan() {
                assert_eq!(BF16.encode(f64::from(brain), Rounding::Nearest), bits);
            }
        }
    }

    #[test]
    fn rounding_to_f16_is_the_half_crates_from_f32() {
        let mut state = 1u32;
        for _ in 0..200_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Exponents around f16's range.
            let x = f32::from_bits((state & 0x807f_ffff) | ((100 + (state >> 23 & 63)) << 23));
            assert_eq!(
                F16.encode(x.into(), Rounding::Nearest),
                u32::from(half::f16::from_f32(x).to_bits()),
                "{x:e}"
            );
            assert_eq!(
                BF16.encode(x.into(), Rounding::Nearest),
                u32::from(half::bf16::from_f32(x).to_bits())
            );
        }
    }

    #[test]
    fn the_vector_way_to_round_is_the_other_one() {
        let mut state = 7u32;
        for i in 0..1_000_000u32 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // All exponents, ties and their neighbours, infinities, NaN.
            let tie = 1 << (12 + i % 10);
            let bits = if i % 3 == 0 {
                state
            } else {
                (state & !(2 * tie - 1) | tie).wrapping_add(i % 5).wrapping_sub(2)
            };
            let x = f32::from_bits(bits);
            for format in [F16, BF16, E4M3, E5M2] {
                let wanted = format.encode(x.into(), Rounding::Nearest);
                assert_eq!(format.nearest(x, false), wanted, "{x:e} {format:?}");
                let infinite = !x.is_nan() && format.decode(wanted).is_infinite();
                assert_eq!(format.nearest(x, true), wanted - u32::from(infinite), "{x:e} {format:?}");
            }
        }
    }

    #[test]
    fn fp8_corners() {
        for bits in 0..=255u8 {
            let same = |x: f32, y: f64| f64::from(x) == y || x.is_nan() && y.is_nan();
            let right =
                same(e4m3(bits), E4M3.decode(bits.into())) && same(e5m2(bits), E5M2.decode(bits.into()));
            assert!(right, "{bits:#x}");
            for (format, code) in [(E4M3, e4m3_as_f16(bits)), (E5M2, e5m2_as_f16(bits))] {
                let wanted = F16.encode(format.decode(bits.into()), Rounding::Nearest);
                assert_eq!(u32::from(code), wanted, "{bits:#x} of {format:?}");
            }
        }
        assert_eq!(E4M3.decode(0x7e), 448.0);
        assert!(E4M3.decode(0x7f).is_nan());
        assert_eq!(E4M3.encode(1e9, Rounding::Nearest), 0x7e);
        assert_eq!(E4M3.encode(460.0, Rounding::Nearest), 0x7e);
        assert_eq!(E4M3.encode(2f64.powi(-9), Rounding::Nearest), 1);
        assert_eq!(E5M2.decode(0x7b), 57344.0);
        assert_eq!(E5M2.encode(1.25, Rounding::Nearest), 0x3d);
    }

    #[test]
    fn sums_round_once() {
        // 1 + 2^-53 + 2^-80 lies above the tie between 1 and the next f64.
        let odd = sum_to_odd(1.0 + 2f64.powi(-24), 2f64.powi(-80));
        assert_eq!(to_f32(odd, Rounding::Nearest), 1.0f32.next_up());
        assert_eq!(to_f32(odd, Rounding::Zero), 1.0);
        assert_eq!(to_f32(sum_to_odd(1.0, -2f64.powi(-80)), Rounding::Down), 1.0f32.next_down());
    }
}
