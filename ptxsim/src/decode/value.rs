//! Functions of typed values over all threads of a warp.

use crate::float;
use crate::ir::{Lanes, Value};

/// A function with what is done to its sources and its result.
pub type Fixed = (crate::ir::AluFn, Option<crate::ir::FixFn>, Option<crate::ir::FixFn>);

/// A function of up to four typed operands over the warp, as an [`AluFn`](crate::ir::AluFn).
macro_rules! alu {
    (|$a:ident: $ta:ty| $e:expr) => {
        $crate::decode::value::alu!(1, |$a: $ta| $e)
    };
    (|$a:ident: $ta:ty, $b:ident: $tb:ty| $e:expr) => {
        $crate::decode::value::alu!(2, |$a: $ta, $b: $tb| $e)
    };
    (|$a:ident: $ta:ty, $b:ident: $tb:ty, $c:ident: $tc:ty| $e:expr) => {
        $crate::decode::value::alu!(3, |$a: $ta, $b: $tb, $c: $tc| $e)
    };
    (|$a:ident: $ta:ty, $b:ident: $tb:ty, $c:ident: $tc:ty, $d:ident: $td:ty| $e:expr) => {
        $crate::decode::value::alu!(4, |$a: $ta, $b: $tb, $c: $tc, $d: $td| $e)
    };
    ($n:literal, |$($x:ident: $t:ty),+| $e:expr) => {{
        let f: $crate::ir::AluFn = |arch, sources, out| {
            let sources: [&$crate::ir::Lanes; $n] = std::array::from_fn(|at| sources[at]);
            $crate::ir::lanewise(arch, sources, out, |[$($x),+]: [u64; $n]| {
                $(let $x = <$t as $crate::ir::Value>::get($x);)+
                $crate::ir::Value::put($e)
            });
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

/// Clamped to 0..1, NaN to 0.
pub fn saturate32(lanes: &mut Lanes) {
    for x in lanes {
        let value = f32::get(*x);
        *x = if value > 0.0 { value.min(1.0).put() } else { 0 };
    }
}

/// As [`saturate32`].
pub fn saturate64(lanes: &mut Lanes) {
    for x in lanes {
        let value = f64::get(*x);
        *x = if value > 0.0 { value.min(1.0).put() } else { 0 };
    }
}

/// Subnormals to zero.
pub fn flush32(lanes: &mut Lanes) {
    for x in lanes {
        *x = float::flush(f32::get(*x)).put();
    }
}

/// [`flush32`], then [`saturate32`].
pub fn flush_saturate32(lanes: &mut Lanes) {
    flush32(lanes);
    saturate32(lanes);
}
