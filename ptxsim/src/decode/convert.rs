//! `cvt`: every pair of types, with its rounding.

use super::value::Value;
use crate::float::{self, BF16, E4M3, E5M2, F16, Format, Rounding, TF32, flush, to_f32};

/// A type of `cvt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Signed(u32),
    Unsigned(u32),
    Small(Format),
    F32,
    F64,
}

/// A decoded `cvt`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conversion {
    to: Kind,
    from: Kind,
    rounding: Rounding,
    /// Rounds to an integral value (`.rni` and its like).
    integral: bool,
    saturate: bool,
    /// `.satfinite`
    finite: bool,
    relu: bool,
    flush: bool,
    /// Two elements at once.
    pair: bool,
}

fn kind(name: &str) -> Option<(Kind, bool)> {
    Some(match name {
        "u8" => (Kind::Unsigned(8), false),
        "u16" => (Kind::Unsigned(16), false),
        "u32" => (Kind::Unsigned(32), false),
        "u64" => (Kind::Unsigned(64), false),
        "s8" => (Kind::Signed(8), false),
        "s16" => (Kind::Signed(16), false),
        "s32" => (Kind::Signed(32), false),
        "s64" => (Kind::Signed(64), false),
        "f32" => (Kind::F32, false),
        "f64" => (Kind::F64, false),
        "f16" => (Kind::Small(F16), false),
        "bf16" => (Kind::Small(BF16), false),
        "tf32" => (Kind::Small(TF32), false),
        "f16x2" => (Kind::Small(F16), true),
        "bf16x2" => (Kind::Small(BF16), true),
        "e4m3x2" => (Kind::Small(E4M3), true),
        "e5m2x2" => (Kind::Small(E5M2), true),
        _ => return None,
    })
}

impl Conversion {
    /// Decodes the modifiers after `cvt`; `None` when unsupported.
    pub fn decode(modifiers: &[&str]) -> Option<Self> {
        let [flags @ .., to, from] = modifiers else { return None };
        let (to, pair) = kind(to)?;
        let (from, from_pair) = kind(from)?;
        // Pairs are made of two f32 or of a pair.
        if pair && !(from_pair || from == Kind::F32) || from_pair && !pair {
            return None;
        }
        let mut how = Self {
            to,
            from,
            rounding: Rounding::Nearest,
            integral: false,
            saturate: false,
            finite: false,
            relu: false,
            flush: false,
            pair,
        };
        for flag in flags {
            match *flag {
                "rn" => {}
                "rna" => how.rounding = Rounding::NearestAway,
                "rz" => how.rounding = Rounding::Zero,
                "rm" => how.rounding = Rounding::Down,
                "rp" => how.rounding = Rounding::Up,
                "rni" | "rzi" | "rmi" | "rpi" => {
                    how.integral = true;
                    how.rounding = match *flag {
                        "rni" => Rounding::Nearest,
                        "rzi" => Rounding::Zero,
                        "rmi" => Rounding::Down,
                        _ => Rounding::Up,
                    };
                }
                "sat" => how.saturate = true,
                "satfinite" => how.finite = true,
                "relu" => how.relu = true,
                "ftz" => how.flush = true,
                _ => return None,
            }
        }
        Some(how)
    }

    /// Takes two sources.
    pub fn two_sources(&self) -> bool {
        self.pair && self.from == Kind::F32
    }

    /// Converts; of a pair from two f32, `a` becomes the upper half.
    pub fn apply(&self, a: u64, b: u64) -> u64 {
        if !self.pair {
            return self.one(a);
        }
        let Kind::Small(to) = self.to else { return 0 };
        let shift = if to == F16 || to == BF16 { 16 } else { 8 };
        let (high, low) = match self.from {
            Kind::Small(from) => {
                let bits = if from == F16 || from == BF16 { 16 } else { 8 };
                (a >> bits & ((1 << bits) - 1), a & ((1 << bits) - 1))
            }
            _ => (a, b),
        };
        self.one(high) << shift | self.one(low)
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
                    return super::value::NAN32.into();
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
            Kind::Signed(_) | Kind::Unsigned(_) => 0,
        }
    }
}

/// tf32 bits of an f32 register, as tensor cores read it.
pub fn tf32(bits: u64) -> f32 {
    f32::from_bits(bits as u32 & 0xffff_e000)
}

/// Value of an element of a small type.
pub fn small(format: Format, bits: u32) -> f32 {
    match format {
        F16 => float::f16(bits),
        BF16 => float::bf16(bits),
        other => other.decode(bits) as f32,
    }
}
