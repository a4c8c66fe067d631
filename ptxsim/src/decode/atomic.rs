//! Atomics and reductions.

use super::memory::check_vector;
use super::{Decoded, Decoder, Opcode, unsupported};
use crate::ir::{AtomicOp, Bulk, BulkReduction, Class, Element, Op, Src, Window};
use crate::ptx::Operand;

impl<'m> Decoder<'m> {
    /// 9.7.13.5 and 9.7.13.6
    pub(super) fn atomic(&mut self, op: &Opcode<'_>, operands: &'m [Operand]) -> Decoded {
        if op.has("async") {
            return self.reduce_async(op, operands);
        }
        // Some compilers put the operation last.
        let ty = op.modifiers.iter().copied().rfind(|m| element(m).is_some()).ok_or_else(unsupported)?;
        let (Some(kind), Some(element)) = (atomic_op(op), element(ty)) else { return Err(unsupported()) };
        let vector = op.vector();
        if !exists(kind, element, vector) {
            return Err(unsupported());
        }
        let reduces = op.base == "red";
        let mut rest = operands.iter();
        let dst = if reduces { Box::default() } else { self.targets(rest.next())? };
        let (address, space) = self.address(rest.next())?;
        let b = self.sources(rest.next(), ty)?;
        check_vector(op, b.len())?;
        if !reduces {
            check_vector(op, dst.len())?;
        }
        let window = self.place(op, space);
        if vector > 1 {
            self.requires(90)?;
            if !matches!(window, Window::Global | Window::Generic) {
                return Err("vectors are for global memory".to_owned());
            }
        }
        let c = match kind {
            AtomicOp::CompareExchange => self.source(rest.next(), ty)?,
            _ => Src::Immediate(0),
        };
        Ok((Op::Atomic { window, address, op: kind, element, dst, b, c }, Class::Atomic))
    }

    /// 9.7.13.7: `red.async.relaxed.cluster{.shared::cluster}.mbarrier::complete_tx::bytes.op.type [a], b, [mbar]`
    fn reduce_async(&mut self, op: &Opcode<'_>, operands: &'m [Operand]) -> Decoded {
        let ["async", "relaxed", "cluster", rest @ ..] = op.modifiers.as_slice() else {
            return Err(unsupported());
        };
        let rest = rest.strip_prefix(&["shared::cluster"]).unwrap_or(rest);
        let rest = rest.strip_prefix(&["mbarrier::complete_tx::bytes"]).unwrap_or(rest);
        let [kind, ty] = rest else { return Err(unsupported()) };
        let (Some(reduction), Some(element)) = (atomic_op(op), element(ty)) else {
            return Err(unsupported());
        };
        match (*kind, *ty) {
            ("inc" | "dec", "u32")
            | ("min" | "max", "u32" | "s32")
            | ("and" | "or" | "xor", "b32")
            | ("add", "u32" | "s32" | "u64") => {}
            _ => return Err(unsupported()),
        }
        self.requires(90)?;
        let (dst, _) = self.address(operands.first())?;
        let value = self.source(operands.get(1), ty)?;
        let (barrier, _) = self.address(operands.get(2))?;
        let reduction = BulkReduction { op: reduction, element };
        Ok((Op::Bulk(Box::new(Bulk::Reduce { dst, value, reduction, barrier })), Class::AsyncCopy))
    }
}

/// Whether the ISA's tables have an operation on a type.
fn exists(kind: AtomicOp, element: Element, vector: usize) -> bool {
    use AtomicOp::{Add, And, CompareExchange, Decrement, Exchange, Increment, Max, Min, Or, Xor};
    use Element::{B16, Bf16, Bf16x2, F16, F16x2, F32, F64, S32, S64, U32, U64};
    match (kind, element) {
        (Add | Min | Max, F16 | Bf16) if vector > 1 => vector <= 8,
        (Add | Min | Max, F16x2 | Bf16x2) | (Add, F32) if vector > 1 => vector <= 4,
        _ if vector > 1 => false,
        (Add, B16) => false,
        (Add, _) => true,
        (Min | Max, U32 | S32 | U64 | S64) => true,
        (Increment | Decrement, U32) => true,
        (And | Or | Xor, U32 | U64) => true,
        (Exchange, element) => !matches!(element, F16 | Bf16 | F16x2 | Bf16x2 | B16),
        (CompareExchange, element) => !matches!(element, F16 | Bf16 | F16x2 | Bf16x2 | F32 | F64),
        _ => false,
    }
}

pub(super) fn atomic_op(op: &Opcode<'_>) -> Option<AtomicOp> {
    op.modifiers.iter().find_map(|m| atomic_op_of(m))
}

pub(super) fn atomic_op_of(word: &str) -> Option<AtomicOp> {
    Some(match word {
        "add" => AtomicOp::Add,
        "min" => AtomicOp::Min,
        "max" => AtomicOp::Max,
        "and" => AtomicOp::And,
        "or" => AtomicOp::Or,
        "xor" => AtomicOp::Xor,
        "exch" => AtomicOp::Exchange,
        "cas" => AtomicOp::CompareExchange,
        "inc" => AtomicOp::Increment,
        "dec" => AtomicOp::Decrement,
        _ => return None,
    })
}

pub(super) fn element(ty: &str) -> Option<Element> {
    Some(match ty {
        "u32" | "b32" => Element::U32,
        "s32" => Element::S32,
        "u64" | "b64" => Element::U64,
        "s64" => Element::S64,
        "f16" => Element::F16,
        "f16x2" => Element::F16x2,
        "bf16" => Element::Bf16,
        "bf16x2" => Element::Bf16x2,
        "f32" => Element::F32,
        "f64" => Element::F64,
        "b16" => Element::B16,
        _ => return None,
    })
}
