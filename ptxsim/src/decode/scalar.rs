//! Arithmetic, moves, predicates and control flow.

use std::collections::HashSet;

use super::alu::exactly;
use super::convert::conversion;
use super::memory::assign;
use super::{Decoded, Decoder, Opcode, floating, integer, unsupported};
use crate::ir::{Class, LocalCopy, Logic, Op, PredicateSrc, Src};
use crate::ptx::{Operand, Register};

impl<'m> Decoder<'m> {
    pub(super) fn scalar(&mut self, op: &Opcode<'_>, operands: &'m [Operand]) -> Decoded {
        let ty = op.ty();
        match op.base {
            "mov" => self.mov(op, operands),
            "cvt" if op.has("pack") => self.pack(op, operands),
            "cvt" => {
                let how = conversion(&op.modifiers).ok_or_else(unsupported)?;
                if ["e2m1x2", "e2m3x2", "e3m2x2", "ue8m0x2"].iter().any(|ty| op.has(ty)) {
                    self.requires_specific(100)?;
                }
                let wanted = if how.two_sources() { 3 } else { 2 };
                expect(operands, wanted)?;
                let dst = self.register(operands.first())?;
                let a = self.source(operands.get(1), ty)?;
                let b = if how.two_sources() { self.source(operands.get(2), ty)? } else { Src::Immediate(0) };
                Ok((Op::Convert { how, dst, a, b }, Class::Convert))
            }
            "selp" => {
                expect(operands, 4)?;
                let dst = self.register(operands.first())?;
                let (a, b) = (self.source(operands.get(1), ty)?, self.source(operands.get(2), ty)?);
                let predicate = self.predicate(operands.get(3))?;
                Ok((Op::Select { dst, a, b, predicate }, Class::Move))
            }
            "setp" => self.setp(op, operands),
            "set" => self.set(op, operands),
            "testp" => self.testp(op, operands),
            "and" | "or" | "xor" | "not" if ty == "pred" => self.predicate_logic(op.base, operands),
            "add" | "sub" | "mad" | "addc" | "subc" | "madc" if op.has("cc") || op.base.ends_with('c') => {
                let (f, reads, writes) =
                    integer::carry(op.base, &op.modifiers, ty).ok_or_else(unsupported)?;
                let count = if op.base.starts_with("mad") { 4 } else { 3 };
                expect(operands, count)?;
                let dst = self.register(operands.first())?;
                let mut src = [Src::Immediate(0); 3];
                for (place, operand) in src.iter_mut().zip(&operands[1..]) {
                    *place = self.source(Some(operand), ty)?;
                }
                Ok((Op::Carry { f, dst, src, reads, writes }, Class::Integer))
            }
            "lop3" => self.lop3(op, operands),
            _ => self.alu(op, operands),
        }
    }

    fn mov(&mut self, op: &Opcode<'_>, operands: &'m [Operand]) -> Decoded {
        exactly(operands, 2)?;
        let ty = op.ty();
        let bits = crate::ptx::bits_of(ty);
        match (&operands[0], &operands[1]) {
            (Operand::Register(Register::Predicate(_)), _) if ty == "pred" => {
                let dst = self.predicate_target(operands.first())?.ok_or_else(unsupported)?;
                // A special register of one bit.
                if let Some(Operand::Name(_)) = operands.get(1) {
                    let f = floating::comparison("ne", "u32").ok_or_else(unsupported)?;
                    let (a, b) = (self.source(operands.get(1), ty)?, Src::Immediate(0));
                    let (dst, complement) = (Some(dst), None);
                    let compare = Op::Compare { f, dst, complement, a, b, pre: None, combine: None };
                    return Ok((compare, Class::Predicate));
                }
                let a = self.predicate(operands.get(1))?;
                let b = PredicateSrc { index: None, negated: false };
                Ok((Op::PredicateLogic { logic: Logic::And, dst, a, b }, Class::Predicate))
            }
            // Two or four registers at once: `mov.v2.u32`, and 128 bits, which are two of 64.
            _ if bits == 128 || op.vector() > 1 => {
                let (dst, src) = (self.targets(operands.first())?, self.sources(operands.get(1), ty)?);
                let wanted = op.vector() * if bits == 128 { 2 } else { 1 };
                if dst.len() != wanted || src.len() != wanted {
                    return Err(format!(
                        "{} and {} elements where {wanted} are expected",
                        dst.len(),
                        src.len()
                    ));
                }
                Ok((Op::Moves { dst, src }, Class::Move))
            }
            (Operand::Vector(parts), _) => {
                let bits = bits / parts.len().max(1) as u32;
                let dst = self.targets(operands.first())?;
                let src = self.source(operands.get(1), ty)?;
                if !matches!(bits, 8 | 16 | 32) || dst.len() as u32 * bits > 64 {
                    return Err(unsupported());
                }
                Ok((Op::Unpack { dst, src, bits }, Class::Move))
            }
            (_, Operand::Vector(parts)) => {
                let bits = bits / parts.len().max(1) as u32;
                let dst = self.register(operands.first())?;
                let parts = self.sources(operands.get(1), ty)?;
                if !matches!(bits, 8 | 16 | 32) || parts.len() as u32 * bits > 64 {
                    return Err(unsupported());
                }
                Ok((Op::Pack { dst, parts, bits }, Class::Move))
            }
            _ => {
                let dst = self.register(operands.first())?;
                let src = self.source(operands.get(1), ty)?;
                Ok((Op::Alu(assign(dst, src)), Class::Move))
            }
        }
    }

    fn predicate_logic(&mut self, base: &str, operands: &'m [Operand]) -> Decoded {
        let dst = self.predicate_target(operands.first())?.ok_or_else(unsupported)?;
        let mut a = self.predicate(operands.get(1))?;
        let (logic, b) = match base {
            "and" => (Logic::And, self.predicate(operands.get(2))?),
            "or" => (Logic::Or, self.predicate(operands.get(2))?),
            "xor" => (Logic::Xor, self.predicate(operands.get(2))?),
            _ => {
                a.negated = !a.negated;
                (Logic::And, PredicateSrc { index: None, negated: false })
            }
        };
        Ok((Op::PredicateLogic { logic, dst, a, b }, Class::Predicate))
    }

    pub(super) fn control(&mut self, op: &Opcode<'_>, operands: &'m [Operand]) -> Decoded {
        let decoded = match op.base {
            "bra" => Op::Branch { target: self.label(operands.first())? },
            "brx" if op.has("idx") => {
                let index = self.source(operands.first(), "u32")?;
                let Some(Operand::Name(list)) = operands.get(1) else { return Err(unsupported()) };
                let targets = self.function.branch_targets.iter().find(|(name, _)| name == list);
                let (_, names) = targets.ok_or_else(|| format!("no branch targets `{list}`"))?;
                Op::BranchIndexed {
                    index,
                    targets: names.iter().map(|name| self.target_of(name)).collect::<Result<_, _>>()?,
                }
            }
            "ret" => Op::Return,
            "exit" => Op::Exit,
            "trap" | "brkpt" => Op::Trap,
            "nanosleep" => Op::Sleep,
            "setmaxnreg" => {
                let count = self.constant(operands.first())?;
                if !(24..=256).contains(&count) || count % 8 != 0 {
                    return Err(format!("{count} registers, allowed are multiples of 8 from 24 to 256"));
                }
                Op::SetRegisters { count: count as u32 }
            }
            "pmevent" => Op::Nop,
            "call" => return self.call(operands),
            _ => return Err(unsupported()),
        };
        Ok((decoded, Class::Control))
    }

    /// Whether a function calls another, or is it, as far as calls were decoded.
    fn reaches(&self, from: &str, to: &str) -> bool {
        let (mut open, mut seen) = (vec![from], HashSet::new());
        while let Some(name) = open.pop() {
            if name == to {
                return true;
            }
            if seen.insert(name) {
                open.extend(
                    self.calls.iter().filter(|(_, caller, _)| *caller == name).map(|(_, _, callee)| *callee),
                );
            }
        }
        false
    }

    /// `call (results), function, (arguments)`: both lists name call parameters, which are local
    /// variables of the caller; they are copied by `st.param`/`ld.param` to and from the function's.
    fn call(&mut self, operands: &'m [Operand]) -> Decoded {
        let name = operands.iter().find_map(|o| match o {
            Operand::Name(name) => Some(name.as_str()),
            _ => None,
        });
        let name = name.ok_or("a call through a pointer is not supported")?;
        let lists: Vec<&'m Vec<Operand>> = operands
            .iter()
            .filter_map(|o| match o {
                Operand::List(list) => Some(list),
                _ => None,
            })
            .collect();
        let named_first = matches!(operands.first(), Some(Operand::Name(_)));
        let (results, arguments): (&[Operand], &[Operand]) = match lists.as_slice() {
            [] => (&[], &[]),
            [one] if named_first => (&[], one),
            [one] => (one, &[]),
            [results, arguments, ..] => (results, arguments),
        };
        let caller = self.function.name.as_str();
        let slot = |operand: Option<&Operand>, layout: &super::layout::Layout<'_>| match operand {
            Some(Operand::Name(name)) => {
                layout.local_of(caller, name).ok_or_else(|| format!("`{name}` is no call parameter"))
            }
            other => Err(format!("{other:?} where a call parameter is expected")),
        };
        match name {
            "vprintf" => {
                let format = slot(arguments.first(), &self.layout)?;
                let values = slot(arguments.get(1), &self.layout)?;
                let result = results.first().map(|r| slot(Some(r), &self.layout)).transpose()?;
                return Ok((Op::Printf { format, arguments: values, result }, Class::Control));
            }
            "__assertfail" => {
                let message = slot(arguments.first(), &self.layout)?;
                let file = slot(arguments.get(1), &self.layout)?;
                let line = slot(arguments.get(2), &self.layout)?;
                return Ok((Op::AssertFail { message, file, line }, Class::Control));
            }
            _ => {}
        }
        let alias = self.module.aliases.iter().find(|(alias, _)| alias == name);
        let name = alias.map_or(name, |(_, function)| function);
        let function = self.module.functions.iter().find(|f| f.name == name && f.has_body && !f.is_kernel);
        let function = function.ok_or_else(|| format!("function `{name}` has no body here"))?;
        if self.reaches(&function.name, caller) {
            // Registers are not saved over calls: a function active twice would overwrite its own.
            return Err(format!("recursion through `{name}` is not supported"));
        }
        self.layout.signature(function);
        let copy =
            |variable: &Operand, parameter: &crate::ptx::Variable, layout: &super::layout::Layout<'_>| {
                let callee = layout.local_of(name, &parameter.name).ok_or_else(unsupported)?;
                Ok::<_, String>((slot(Some(variable), layout)?, callee, parameter.bytes as u32))
            };
        let inward = arguments
            .iter()
            .zip(&function.params)
            .map(|(v, p)| copy(v, p, &self.layout).map(|(from, to, bytes)| LocalCopy { from, to, bytes }))
            .collect::<Result<_, _>>()?;
        let outward = results
            .iter()
            .zip(&function.returns)
            .map(|(v, p)| copy(v, p, &self.layout).map(|(to, from, bytes)| LocalCopy { from, to, bytes }))
            .collect::<Result<_, _>>()?;
        self.wanted.push(function);
        self.calls.push((self.instructions.len(), caller, &function.name));
        Ok((Op::Call { target: 0, arguments: inward, results: outward }, Class::Control))
    }
}

fn expect(operands: &[Operand], count: usize) -> Result<(), String> {
    if operands.len() < count {
        return Err(format!("{} operands, {count} are expected", operands.len()));
    }
    Ok(())
}
