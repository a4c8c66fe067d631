//! The arithmetic of atomics and reductions.

use std::sync::Mutex;

use crate::float::{self, BF16, F16, Rounding, sum_to_odd};
use crate::ir::{AtomicOp, Element, Value};

/// Makes 64-bit atomics one step.
pub static WIDE: Mutex<()> = Mutex::new(());

/// The new value of `x`: `op` with `b` (and `c`, for compare-and-swap: `b` is compared, `c` stored).
pub fn apply(op: AtomicOp, element: Element, x: u64, b: u64, c: u64) -> u64 {
    match op {
        AtomicOp::Exchange => return b,
        AtomicOp::CompareExchange => {
            let mask = match element.bytes() {
                2 => 0xffff,
                4 => 0xffff_ffff,
                _ => u64::MAX,
            };
            return if x & mask == b & mask { c } else { x };
        }
        AtomicOp::And => return x & b,
        AtomicOp::Or => return x | b,
        AtomicOp::Xor => return x ^ b,
        AtomicOp::Increment => return if x as u32 >= b as u32 { 0 } else { x + 1 },
        AtomicOp::Decrement => return if x as u32 == 0 || x as u32 > b as u32 { b } else { x - 1 },
        AtomicOp::Add | AtomicOp::Min | AtomicOp::Max => {}
    }
    match element {
        Element::U32 => integer(op, x as u32, b as u32, u32::wrapping_add).put(),
        Element::S32 => integer(op, x as i32, b as i32, i32::wrapping_add).put(),
        Element::U64 => integer(op, x, b, u64::wrapping_add),
        Element::S64 => integer(op, x as i64, b as i64, i64::wrapping_add).put(),
        Element::F32 => (f32::get(x) + f32::get(b)).put(),
        Element::F64 => (f64::get(x) + f64::get(b)).put(),
        Element::F16 => half(op, x, b, float::f16, F16),
        Element::Bf16 => half(op, x, b, float::bf16, BF16),
        Element::F16x2 => half(op, x, b, float::f16, F16) | half(op, x >> 16, b >> 16, float::f16, F16) << 16,
        Element::Bf16x2 => {
            half(op, x, b, float::bf16, BF16) | half(op, x >> 16, b >> 16, float::bf16, BF16) << 16
        }
        Element::B16 => x,
    }
}

fn integer<T: Ord>(op: AtomicOp, x: T, b: T, add: fn(T, T) -> T) -> T {
    match op {
        AtomicOp::Min => x.min(b),
        AtomicOp::Max => x.max(b),
        _ => add(x, b),
    }
}

fn half(op: AtomicOp, x: u64, b: u64, decode: fn(u32) -> f32, format: float::Format) -> u64 {
    let (x, b) = (f64::from(decode(x as u32 & 0xffff)), f64::from(decode(b as u32 & 0xffff)));
    let y = match op {
        AtomicOp::Min => float::smaller(x, b, false),
        AtomicOp::Max => float::larger(x, b, false),
        _ => sum_to_odd(x, b),
    };
    format.encode(y, Rounding::Nearest).into()
}
