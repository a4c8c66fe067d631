//! `set`, `setp` and `testp`.

use super::alu::exactly;
use super::half::{Ieee, flush};
use super::operand::pair;
use super::value::flush32;
use super::{Decoded, Decoder, Opcode, floating, unsupported};
use crate::ir::{Class, CompareFn, FixFn, Logic, Op, PredicateSrc, Src};
use crate::ptx::Operand;

/// A comparison's parts, and the types after them.
struct Comparison<'a> {
    f: CompareFn,
    logic: Option<Logic>,
    flush: Option<FixFn>,
    types: &'a [&'a str],
}

impl<'m> Decoder<'m> {
    /// `.CmpOp{.BoolOp}{.ftz}` and types, the last of which is compared.
    fn comparison<'a>(&self, op: &'a Opcode<'_>) -> Result<Comparison<'a>, String> {
        let [name, rest @ ..] = op.modifiers.as_slice() else { return Err(unsupported()) };
        let (logic, rest) = match rest {
            ["and", rest @ ..] => (Some(Logic::And), rest),
            ["or", rest @ ..] => (Some(Logic::Or), rest),
            ["xor", rest @ ..] => (Some(Logic::Xor), rest),
            rest => (None, rest),
        };
        let (ftz, types) = match rest {
            ["ftz", types @ ..] => (true, types),
            types => (false, types),
        };
        let ty = types.last().ok_or_else(unsupported)?;
        let f = floating::comparison(name, ty).ok_or_else(unsupported)?;
        if types.iter().any(|ty| ty.starts_with("bf16")) {
            self.requires(90)?;
        }
        let flush: Option<FixFn> = match (ftz, *ty) {
            (false, _) => None,
            (true, "f32") => Some(flush32),
            (true, "f16" | "f16x2") => Some(flush::<Ieee>),
            (true, _) => return Err(unsupported()),
        };
        Ok(Comparison { f, logic, flush, types })
    }

    fn combined(
        &self,
        logic: Option<Logic>,
        operands: &[Operand],
    ) -> Result<Option<(Logic, PredicateSrc)>, String> {
        exactly(operands, if logic.is_some() { 4 } else { 3 })?;
        logic.map(|logic| Ok((logic, self.predicate(operands.get(3))?))).transpose()
    }

    /// 9.7.6.2 and 9.7.7.2
    pub(super) fn setp(&mut self, op: &Opcode<'_>, operands: &'m [Operand]) -> Decoded {
        let Comparison { f, logic, flush: pre, types: [ty] } = self.comparison(op)? else {
            return Err(unsupported());
        };
        let combine = self.combined(logic, operands)?;
        let (first, second) = pair(operands.first());
        let dst = self.predicate_target(first)?;
        let complement = self.optional_predicate(second)?;
        let (a, b) = (self.source(operands.get(1), ty)?, self.source(operands.get(2), ty)?);
        if ty.ends_with("16x2") {
            return Ok((
                Op::ComparePair { f, low: dst, high: complement, a, b, pre, combine },
                Class::Predicate,
            ));
        }
        Ok((Op::Compare { f, dst, complement, a, b, pre, combine }, Class::Predicate))
    }

    /// 9.7.6.1 and 9.7.7.1
    pub(super) fn set(&mut self, op: &Opcode<'_>, operands: &'m [Operand]) -> Decoded {
        let Comparison { f, logic, flush: pre, types: [to, ty] } = self.comparison(op)? else {
            return Err(unsupported());
        };
        let pair = ty.ends_with("x2");
        let truth = match (*to, *ty) {
            ("u32" | "s32", "f16x2" | "bf16x2") => 0xffff,
            ("u32" | "s32", _) => u32::MAX.into(),
            ("u16" | "s16", "f16" | "bf16") => u16::MAX.into(),
            ("f32", ty) if !ty.contains("f16") => 1f32.to_bits().into(),
            ("f16", ty) if !ty.starts_with("bf16") && !pair => 0x3c00,
            ("bf16", _) if !pair => 0x3f80,
            ("f16x2", "f16x2") => 0x3c00,
            ("bf16x2", "bf16x2") => 0x3f80,
            _ => return Err(unsupported()),
        };
        let combine = self.combined(logic, operands)?;
        let dst = self.register(operands.first())?;
        let (a, b) = (self.source(operands.get(1), ty)?, self.source(operands.get(2), ty)?);
        Ok((Op::Set { f, dst, a, b, truth, pair, pre, combine }, Class::Integer))
    }

    pub(super) fn testp(&mut self, op: &Opcode<'_>, operands: &'m [Operand]) -> Decoded {
        let [kind, ty] = op.modifiers.as_slice() else { return Err(unsupported()) };
        let f = floating::test_mask(kind, ty).ok_or_else(unsupported)?;
        exactly(operands, 2)?;
        let dst = self.predicate_target(operands.first())?;
        let a = self.source(operands.get(1), ty)?;
        let compare =
            Op::Compare { f, dst, complement: None, a, b: Src::Immediate(0), pre: None, combine: None };
        Ok((compare, Class::Predicate))
    }
}
