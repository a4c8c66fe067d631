//! What `cvt` does: every pair of types, with its rounding.

use pulp::Arch;

use super::{Lanes, NAN32, Single, Value, lanewise};
use crate::float::{self, BF16, E2M1, E4M3, E5M2, F16, Format, Rounding, TF32, flush, to_f32};

/// A type of `cvt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Signed(u32),
    Unsigned(u32),
    Small(Format),
    /// ue8m0
    Exponent,
    F32,
    F64,
}

/// A decoded `cvt`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conversion {
    pub to: Kind,
    pub from: Kind,
    pub rounding: Rounding,
    /// Rounds to an integral value (`.rni` and its like).
    pub integral: bool,
    pub saturate: bool,
    /// `.satfinite`
    pub finite: bool,
    pub relu: bool,
    pub flush: bool,
    /// Two elements at once.
    pub pair: bool,
}

impl Conversion {
    /// Takes two sources.
    pub fn two_sources(&self) -> bool {
        self.pair && self.from == Kind::F32
    }

    /// Converts a warp's registers; the commonest ways by vector instructions.
    pub fn convert(&self, arch: Arch, a: &Lanes, b: &Lanes, out: &mut Lanes) {
        let low = |x: u64, bits: u32| x << (64 - bits) >> (64 - bits);
        let extended = |x: u64, bits: u32| ((x as i64) << (64 - bits) >> (64 - bits)) as u64;
        use Kind::{F32, Signed, Small, Unsigned};
        let plain = !(self.integral || self.saturate || self.relu || self.flush);
        let nearest = plain && self.rounding == Rounding::Nearest;
        match (self.from, self.to) {
            (F32, Small(F16)) if nearest => self.narrow::<16>(arch, [a, b], out, F16),
            (F32, Small(BF16)) if nearest => self.narrow::<16>(arch, [a, b], out, BF16),
            (F32, Small(E4M3)) if nearest => self.narrow::<8>(arch, [a, b], out, E4M3),
            (F32, Small(E5M2)) if nearest => self.narrow::<8>(arch, [a, b], out, E5M2),
            (Small(F16), F32) if plain => lanewise(arch, [a], out, |[x]| Single(float::f16(x as u32)).put()),
            (Small(BF16), F32) if plain => {
                lanewise(arch, [a], out, |[x]| Single(float::bf16(x as u32)).put())
            }
            (Small(E4M3), Small(F16)) if plain && self.pair => self.widen(arch, a, out, float::e4m3_as_f16),
            (Small(E5M2), Small(F16)) if plain && self.pair => self.widen(arch, a, out, float::e5m2_as_f16),
            (Signed(32), F32) if nearest => lanewise(arch, [a], out, |[x]| (x as i32 as f32).put()),
            (Unsigned(32), F32) if nearest => lanewise(arch, [a], out, |[x]| (x as u32 as f32).put()),
            (Unsigned(from), Unsigned(to)) if !self.saturate => {
                lanewise(arch, [a], out, |[x]| low(x, from.min(to)));
            }
            (Unsigned(from), Signed(to)) if !self.saturate => {
                lanewise(arch, [a], out, |[x]| extended(low(x, from), to));
            }
            (Signed(from), Unsigned(to)) if !self.saturate => {
                lanewise(arch, [a], out, |[x]| low(extended(x, from), to));
            }
            (Signed(from), Signed(to)) if !self.saturate => {
                lanewise(arch, [a], out, |[x]| extended(x, from.min(to)));
            }
            _ => {
                for (lane, out) in out.iter_mut().enumerate() {
                    *out = self.apply(a[lane], b[lane]);
                }
            }
        }
    }

    /// Rounds f32 to nearest, one of them or a pair, to a format of `BITS`.
    #[inline(always)]
    fn narrow<const BITS: u32>(&self, arch: Arch, [a, b]: [&Lanes; 2], out: &mut Lanes, format: Format) {
        let finite = self.finite;
        match self.pair {
            true => lanewise(arch, [a, b], out, |[a, b]| {
                let (a, b) = (format.nearest(f32::get(a), finite), format.nearest(f32::get(b), finite));
                u64::from(a) << BITS | u64::from(b)
            }),
            false => lanewise(arch, [a], out, |[a]| format.nearest(f32::get(a), finite).into()),
        }
    }

    /// A pair of 8 bits each to one of 16.
    #[inline(always)]
    fn widen(&self, arch: Arch, a: &Lanes, out: &mut Lanes, f: impl Fn(u8) -> u16) {
        lanewise(arch, [a], out, |[a]| u64::from(f((a >> 8) as u8)) << 16 | u64::from(f(a as u8)));
    }

    /// Converts; of a pair from two f32, `a` becomes the upper half.
    fn apply(&self, a: u64, b: u64) -> u64 {
        if !self.pair {
            return self.one(a);
        }
        let width = |kind: Kind| match kind {
            Kind::Small(F16 | BF16) => 16,
            Kind::Small(E2M1) => 4,
            _ => 8,
        };
        let (high, low) = match self.from {
            Kind::F32 => (a, b),
            from => {
                let bits = width(from);
                (a >> bits & ((1 << bits) - 1), a & ((1 << bits) - 1))
            }
        };
        self.one(high) << width(self.to) | self.one(low)
    }

    fn one(&self, a: u64) -> u64 {
        let real = match self.from {
            Kind::Signed(bits) => {
                return self.of_integer(i128::from((a as i64) << (64 - bits) >> (64 - bits)));
            }
            Kind::Unsigned(bits) => return self.of_integer(i128::from(a << (64 - bits) >> (64 - bits))),
            Kind::F32 => {
                let x = f32::get(a);
                f64::from(if self.flush { flush(x) } else { x })
            }
            Kind::F64 => f64::get(a),
            Kind::Small(format) => format.decode(a as u32),
            Kind::Exponent if a & 0xff == 0xff => f64::NAN,
            Kind::Exponent => 2f64.powi((a & 0xff) as i32 - 127),
        };
        match self.to {
            Kind::Signed(_) | Kind::Unsigned(_) => self.integer_of(real),
            _ => self.real_of(real),
        }
    }

    fn range(to: Kind) -> (i128, i128, u32) {
        match to {
            Kind::Signed(bits) => (-(1 << (bits - 1)), (1 << (bits - 1)) - 1, bits),
            Kind::Unsigned(bits) => (0, (1 << bits) - 1, bits),
            _ => (i128::MIN, i128::MAX, 64),
        }
    }

    fn of_integer(&self, x: i128) -> u64 {
        match self.to {
            Kind::Signed(_) | Kind::Unsigned(_) => {
                let (low, high, _) = Self::range(self.to);
                let x = if self.saturate { x.clamp(low, high) } else { x };
                // Signed results fill the whole register, unsigned ones stay in their width.
                match self.to {
                    Kind::Signed(bits) => ((x as i64) << (64 - bits) >> (64 - bits)) as u64,
                    Kind::Unsigned(bits) => (x as u64) << (64 - bits) >> (64 - bits),
                    _ => 0,
                }
            }
            Kind::F64 => {
                let y = x as f64;
                let exact = y as i128;
                self.directed(exact.cmp(&x), x < 0, y, f64::next_down, f64::next_up).put()
            }
            Kind::F32 => {
                let y = x as f32;
                let exact = y as i128;
                self.directed(exact.cmp(&x), x < 0, y, f32::next_down, f32::next_up).put()
            }
            Kind::Exponent => float::exponent(x as f64, self.rounding == Rounding::Up, self.finite).into(),
            Kind::Small(format) => {
                // Beyond 2^53 every small format has overflowed or rounds alike: a sticky bit keeps ties apart.
                let sticky = if x.unsigned_abs() >> 53 != 0 { (x >> 11 << 11) | 1 << 12 } else { x };
                u64::from(format.encode(sticky as f64, self.rounding))
            }
        }
    }

    fn directed<T>(
        &self,
        order: std::cmp::Ordering,
        negative: bool,
        y: T,
        down: fn(T) -> T,
        up: fn(T) -> T,
    ) -> T {
        use std::cmp::Ordering::{Greater, Less};
        match (self.rounding, order) {
            (Rounding::Down, Greater) => down(y),
            (Rounding::Up, Less) => up(y),
            (Rounding::Zero, Greater) if !negative => down(y),
            (Rounding::Zero, Less) if negative => up(y),
            _ => y,
        }
    }

    fn integral(&self, x: f64) -> f64 {
        match self.rounding {
            Rounding::Nearest | Rounding::NearestAway => x.round_ties_even(),
            Rounding::Zero => x.trunc(),
            Rounding::Down => x.floor(),
            Rounding::Up => x.ceil(),
        }
    }

    fn integer_of(&self, x: f64) -> u64 {
        let (low, high, bits) = Self::range(self.to);
        let value = if x.is_nan() {
            // The ISA: zero, but the top bit alone when either side has 64 bits.
            if self.from == Kind::F64 || bits == 64 { if low < 0 { low } else { 1 << (bits - 1) } } else { 0 }
        } else {
            // `as` clamps to i128, far outside of any range here.
            (self.integral(x) as i128).clamp(low, high)
        };
        value as u64
    }

    fn real_of(&self, x: f64) -> u64 {
        let mut x = if self.integral { self.integral(x) } else { x };
        if self.relu && x < 0.0 {
            x = 0.0;
        }
        if self.saturate {
            x = if x > 0.0 { x.min(1.0) } else { 0.0 };
        }
        match self.to {
            Kind::F64 => x.put(),
            Kind::F32 => {
                let y = if self.integral { x as f32 } else { to_f32(x, self.rounding) };
                if y.is_nan() {
                    return NAN32.into();
                }
                (if self.flush { flush(y) } else { y }).put()
            }
            Kind::Small(format) => {
                let bits = format.encode(x, self.rounding);
                let sign_and = |magnitude| {
                    u64::from(
                        (bits & !((1 << (format.exponent_bits + format.mantissa_bits)) - 1)) | magnitude,
                    )
                };
                let bits = if self.finite && !x.is_nan() && bits != 0 && format.decode(bits).is_infinite() {
                    sign_and(format.largest())
                } else {
                    bits.into()
                };
                // tf32 lies in the upper 19 bits of a register.
                if format == TF32 { bits << 13 } else { bits }
            }
            Kind::Exponent => float::exponent(x, self.rounding == Rounding::Up, self.finite).into(),
            Kind::Signed(_) | Kind::Unsigned(_) => 0,
        }
    }
}
