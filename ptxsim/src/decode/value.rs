//! Typed views of a thread's 64 register bits, and functions over all threads of a warp.

use crate::float::{self, BF16, F16, Rounding};

/// A type that a register can hold.
pub trait Value: Copy {
    fn get(bits: u64) -> Self;
    fn put(self) -> u64;
}

macro_rules! integers {
    ($($t:ty: $u:ty),*) => {$(
        impl Value for $t {
            #[inline(always)]
            fn get(bits: u64) -> Self { bits as $t }
            #[inline(always)]
            fn put(self) -> u64 { u64::from(self as $u) }
        }
    )*};
}
integers!(u8: u8, i8: u8, u16: u16, i16: u16, u32: u32, i32: u32, u64: u64, i64: u64);

impl Value for f32 {
    #[inline(always)]
    fn get(bits: u64) -> Self {
        f32::from_bits(bits as u32)
    }
    #[inline(always)]
    fn put(self) -> u64 {
        self.to_bits().into()
    }
}

impl Value for f64 {
    #[inline(always)]
    fn get(bits: u64) -> Self {
        f64::from_bits(bits)
    }
    #[inline(always)]
    fn put(self) -> u64 {
        self.to_bits()
    }
}

/// f16 and bf16, computed in f64 (products are exact there) and rounded once.
pub trait Half: Copy {
    fn value(bits: u32) -> f64;
    fn round(x: f64) -> u32;
    /// Sign bit of one half.
    const SIGN: u32 = 0x8000;
}

#[derive(Clone, Copy)]
pub struct Ieee;
#[derive(Clone, Copy)]
pub struct Brain;

impl Half for Ieee {
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
    #[inline(always)]
    fn value(bits: u32) -> f64 {
        float::bf16(bits & 0xffff).into()
    }
    #[inline(always)]
    fn round(x: f64) -> u32 {
        BF16.encode(x, Rounding::Nearest)
    }
}

/// A function of up to four typed operands over the warp, as an [`AluFn`](crate::ir::AluFn).
macro_rules! alu {
    (|$a:ident: $ta:ty| $e:expr) => {{
        let f: $crate::ir::AluFn = |s, out| {
            for lane in 0..$crate::ir::WARP {
                let $a = <$ta as $crate::decode::value::Value>::get(s[0][lane]);
                out[lane] = $crate::decode::value::Value::put($e);
            }
        };
        f
    }};
    (|$a:ident: $ta:ty, $b:ident: $tb:ty| $e:expr) => {{
        let f: $crate::ir::AluFn = |s, out| {
            for lane in 0..$crate::ir::WARP {
                let $a = <$ta as $crate::decode::value::Value>::get(s[0][lane]);
                let $b = <$tb as $crate::decode::value::Value>::get(s[1][lane]);
                out[lane] = $crate::decode::value::Value::put($e);
            }
        };
        f
    }};
    (|$a:ident: $ta:ty, $b:ident: $tb:ty, $c:ident: $tc:ty| $e:expr) => {{
        let f: $crate::ir::AluFn = |s, out| {
            for lane in 0..$crate::ir::WARP {
                let $a = <$ta as $crate::decode::value::Value>::get(s[0][lane]);
                let $b = <$tb as $crate::decode::value::Value>::get(s[1][lane]);
                let $c = <$tc as $crate::decode::value::Value>::get(s[2][lane]);
                out[lane] = $crate::decode::value::Value::put($e);
            }
        };
        f
    }};
    (|$a:ident: $ta:ty, $b:ident: $tb:ty, $c:ident: $tc:ty, $d:ident: $td:ty| $e:expr) => {{
        let f: $crate::ir::AluFn = |s, out| {
            for lane in 0..$crate::ir::WARP {
                let $a = <$ta as $crate::decode::value::Value>::get(s[0][lane]);
                let $b = <$tb as $crate::decode::value::Value>::get(s[1][lane]);
                let $c = <$tc as $crate::decode::value::Value>::get(s[2][lane]);
                let $d = <$td as $crate::decode::value::Value>::get(s[3][lane]);
                out[lane] = $crate::decode::value::Value::put($e);
            }
        };
        f
    }};
}
pub(crate) use alu;

/// The same closure for each integer type; `None` for other types.
macro_rules! integer_alu {
    ($ty:expr, |$($x:ident),+| $e:expr) => {
        match $ty {
            "u16" | "b16" => Some($crate::decode::value::alu!(|$($x: u16),+| $e)),
            "s16" => Some($crate::decode::value::alu!(|$($x: i16),+| $e)),
            "u32" | "b32" => Some($crate::decode::value::alu!(|$($x: u32),+| $e)),
            "s32" => Some($crate::decode::value::alu!(|$($x: i32),+| $e)),
            "u64" | "b64" => Some($crate::decode::value::alu!(|$($x: u64),+| $e)),
            "s64" => Some($crate::decode::value::alu!(|$($x: i64),+| $e)),
            _ => None,
        }
    };
}
pub(crate) use integer_alu;

/// Canonical NaN of f32 arithmetic.
pub const NAN32: u32 = 0x7fff_ffff;

/// NaN results become the canonical one.
pub fn canonical32(lanes: &mut crate::ir::Lanes) {
    for x in lanes {
        if f32::get(*x).is_nan() {
            *x = NAN32.into();
        }
    }
}

/// Clamped to 0..1, NaN to 0.
pub fn saturate32(lanes: &mut crate::ir::Lanes) {
    for x in lanes {
        let value = f32::get(*x);
        *x = if value > 0.0 { value.min(1.0).put() } else { 0 };
    }
}

/// As [`saturate32`].
pub fn saturate64(lanes: &mut crate::ir::Lanes) {
    for x in lanes {
        let value = f64::get(*x);
        *x = if value > 0.0 { value.min(1.0).put() } else { 0 };
    }
}

/// Subnormals to zero.
pub fn flush32(lanes: &mut crate::ir::Lanes) {
    for x in lanes {
        *x = float::flush(f32::get(*x)).put();
    }
}

/// [`flush32`], then [`canonical32`].
pub fn flush_canonical32(lanes: &mut crate::ir::Lanes) {
    flush32(lanes);
    canonical32(lanes);
}

/// [`flush32`], then [`saturate32`].
pub fn flush_saturate32(lanes: &mut crate::ir::Lanes) {
    flush32(lanes);
    saturate32(lanes);
}
