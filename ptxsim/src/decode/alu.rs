//! Arithmetic: the function, and the form of its operands.

use super::operand::pair;
use super::{Decoded, Decoder, Opcode, floating, integer, unsupported};
use crate::ir::{Alu, Class, Logic, Op, Operands, Src};
use crate::ptx::{Operand, bits_of};

/// What arithmetic opcodes may have besides types.
const QUALIFIERS: [&str; 26] = [
    "rn", "rz", "rm", "rp", "ftz", "sat", "approx", "full", "relu", "NaN", "xorsign", "abs", "lo", "hi",
    "wide", "shiftamt", "clamp", "wrap", "l", "r", "f4e", "b4e", "rc8", "rc16", "ecl", "ecr",
];
const SPECIAL: [&str; 8] = ["rcp", "sqrt", "rsqrt", "ex2", "lg2", "sin", "cos", "tanh"];

fn is_type(word: &str) -> bool {
    bits_of(word) != 0 || matches!(word, "f32x2" | "u16x2" | "s16x2")
}

impl<'m> Decoder<'m> {
    pub(super) fn alu(&mut self, op: &Opcode<'_>, operands: &'m [Operand]) -> Decoded {
        if !op.modifiers.iter().all(|m| is_type(m) || QUALIFIERS.contains(m)) {
            return Err(unsupported());
        }
        let types: Vec<&str> = op.modifiers.iter().copied().filter(|m| is_type(m)).collect();
        // 9.7.5, mixed precision: `.f32.f16` and `.f32.bf16`; 9.7.3: `.f32x2`.
        let (form, ty) = match (op.base, types.as_slice()) {
            ("add" | "sub" | "fma", ["f32", half @ ("f16" | "bf16")]) => {
                (if *half == "f16" { Operands::F16 } else { Operands::Bf16 }, "f32")
            }
            ("add" | "sub" | "mul" | "fma", ["f32x2"]) => (Operands::Pair, "f32"),
            (_, [.., last]) => (Operands::Plain, *last),
            (_, []) => return Err(unsupported()),
        };
        let three = matches!(op.base, "min" | "max") && ty == "f32" && operands.len() == 4;
        if form != Operands::Plain || three {
            self.requires(100)?;
        }
        if matches!(op.base, "min" | "max") && op.has("xorsign") {
            self.requires(86)?;
        }
        let found = match three {
            true => floating::of_three(op.base, &op.modifiers),
            false => floating::floating(op.base, &op.modifiers, ty),
        };
        let (f, pre, post, class) = match found {
            Some((f, pre, post)) => {
                (f, pre, post, if SPECIAL.contains(&op.base) { Class::Special } else { Class::Float })
            }
            None => {
                let f = integer::integer(op.base, &op.modifiers, ty).ok_or_else(unsupported)?;
                (f, None, None, Class::Integer)
            }
        };
        let wanted = match op.base {
            "not" | "cnot" | "abs" | "neg" | "popc" | "clz" | "brev" | "bfind" | "rcp" | "sqrt" | "rsqrt"
            | "ex2" | "lg2" | "sin" | "cos" | "tanh" => 1,
            "mad" | "mad24" | "fma" | "sad" | "bfe" | "shf" | "prmt" | "dp4a" | "dp2a" | "slct" | "fns" => 3,
            "bfi" => 4,
            _ if three => 3,
            _ => 2,
        };
        exactly(operands, wanted + 1)?;
        let dst = self.register(operands.first())?;
        let src = self.first_sources(operands, wanted, ty, Src::Immediate(0))?;
        let alu = Alu { f, dst, src, count: wanted as u8, pre, post };
        Ok(match form {
            Operands::Plain => (Op::Alu(alu), class),
            form => (Op::AluOf { form, alu }, class),
        })
    }

    /// The sources behind the result, so many; the rest is `rest`.
    fn first_sources(
        &mut self,
        operands: &[Operand],
        count: usize,
        ty: &str,
        rest: Src,
    ) -> Result<[Src; 4], String> {
        let mut sources = [rest; 4];
        for (source, operand) in sources.iter_mut().zip(operands.iter().skip(1)).take(count) {
            *source = self.source(Some(operand), ty)?;
        }
        Ok(sources)
    }

    /// 9.7.8.6: `lop3.b32 d, a, b, c, table` and `lop3.BoolOp.b32 d|p, a, b, c, table, q`.
    pub(super) fn lop3(&mut self, op: &Opcode<'_>, operands: &'m [Operand]) -> Decoded {
        let logic = match op.modifiers.as_slice() {
            ["b32"] => None,
            ["and", "b32"] => Some(Logic::And),
            ["or", "b32"] => Some(Logic::Or),
            _ => return Err(unsupported()),
        };
        exactly(operands, if logic.is_some() { 6 } else { 5 })?;
        let table = self.constant(operands.get(4))?;
        if table > 255 {
            return Err(format!("table {table}, allowed are 0 to 255"));
        }
        let src = self.first_sources(operands, 3, "b32", Src::Immediate(table))?;
        let f = integer::integer("lop3", &op.modifiers, "b32").ok_or_else(unsupported)?;
        let Some(logic) = logic else {
            let dst = self.register(operands.first())?;
            return Ok((Op::Alu(Alu { f, dst, src, count: 4, pre: None, post: None }), Class::Integer));
        };
        let (first, second) = pair(operands.first());
        let dst = self.target(first)?;
        let predicate = self.predicate_target(second)?;
        let with = self.predicate(operands.get(5))?;
        Ok((Op::AluTest { f, dst, predicate, src: Box::new(src), logic, with }, Class::Integer))
    }

    /// 9.7.9.22: `cvt.pack.sat.to.s32{.b32} d, a, b{, c}`
    pub(super) fn pack(&mut self, op: &Opcode<'_>, operands: &'m [Operand]) -> Decoded {
        let (to, wanted) = match op.modifiers.as_slice() {
            ["pack", "sat", to @ ("u16" | "s16"), "s32"] => (*to, 2),
            ["pack", "sat", to, "s32", "b32"] if !to.ends_with("16") => (*to, 3),
            _ => return Err(unsupported()),
        };
        let f = integer::pack(to).ok_or_else(unsupported)?;
        exactly(operands, wanted + 1)?;
        let dst = self.register(operands.first())?;
        let src = self.first_sources(operands, wanted, "b32", Src::Immediate(0))?;
        Ok((Op::Alu(Alu { f, dst, src, count: 3, pre: None, post: None }), Class::Convert))
    }
}

pub(super) fn exactly(operands: &[Operand], count: usize) -> Result<(), String> {
    match operands.len() {
        n if n == count => Ok(()),
        n => Err(format!("{n} operands, {count} are expected")),
    }
}
