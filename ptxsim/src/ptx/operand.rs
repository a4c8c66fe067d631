//! Instructions and their operands.

use super::literal::{integer, literal};
use super::parser::{Parser, Result, Scope, lookup};
use super::{Function, Instruction, Operand, Statement, SyntaxError};

/// Deepest nesting of operands; real ones have three levels.
const MOST_DEPTH: u32 = 8;

impl Parser<'_> {
    pub fn instruction(
        &mut self,
        function: &mut Function,
        scopes: &[Scope],
        guard: Option<(u32, bool)>,
        opcode: &str,
        start: (u32, usize),
    ) -> Result<()> {
        let mut operands = Vec::new();
        if !self.accept(";") {
            loop {
                operands.push(self.operand(scopes)?);
                if self.accept(";") {
                    break;
                }
                self.expect(",")?;
            }
        }
        let scope = scopes.last().map_or(0, |scope| scope.number);
        let (line, from) = start;
        let text = from..self.end();
        let instruction = Instruction { guard, opcode: opcode.to_owned(), operands, line, text, scope };
        function.statements.push(Statement::Instruction(instruction));
        Ok(())
    }

    fn operands(&mut self, scopes: &[Scope], end: &str) -> Result<Vec<Operand>> {
        let mut found = Vec::new();
        while !self.accept(end) {
            found.push(self.operand(scopes)?);
            if !self.accept(",") {
                self.expect(end)?;
                break;
            }
        }
        Ok(found)
    }

    fn operand(&mut self, scopes: &[Scope]) -> Result<Operand> {
        if self.depth >= MOST_DEPTH {
            return Err(SyntaxError::new(self.line(), "operands are nested too deep"));
        }
        self.depth += 1;
        let operand = self.operand_within(scopes);
        self.depth -= 1;
        operand
    }

    fn operand_within(&mut self, scopes: &[Scope]) -> Result<Operand> {
        let line = self.line();
        let first = match self.next()? {
            "{" => Operand::Vector(self.operands(scopes, "}")?),
            "(" => Operand::List(self.operands(scopes, ")")?),
            "[" => {
                let mut parts = self.operands(scopes, "]")?;
                match (parts.len(), parts.pop()) {
                    (1, Some(Operand::NameOffset(name, offset))) => {
                        Operand::Address(Box::new(Operand::Name(name)), offset)
                    }
                    (1, Some(Operand::Address(base, offset))) => Operand::Address(base, offset),
                    (1, Some(base)) => Operand::Address(Box::new(base), 0),
                    (_, Some(last)) => {
                        parts.push(last);
                        Operand::AddressList(parts)
                    }
                    (_, None) => return Err(SyntaxError::new(line, "empty brackets")),
                }
            }
            "!" => {
                let name = self.next()?;
                let register = lookup(scopes, name)
                    .ok_or_else(|| SyntaxError::new(line, format!("`{name}` is not a declared predicate")))?;
                Operand::Not(register)
            }
            "-" => {
                let word = self.next()?;
                match integer(word) {
                    Some(n) => Operand::Integer(n.wrapping_neg()),
                    None => match literal(word) {
                        Some(Operand::F32(bits)) => Operand::F32(bits ^ (1 << 31)),
                        Some(Operand::F64(bits)) => Operand::F64(bits ^ (1 << 63)),
                        _ => return Err(SyntaxError::new(line, format!("`-{word}` is not a number"))),
                    },
                }
            }
            "_" => Operand::Sink,
            word => {
                if let Some(n) = integer(word) {
                    Operand::Integer(n)
                } else if let Some(number) = literal(word) {
                    number
                } else if let Some(register) = lookup(scopes, word) {
                    Operand::Register(register)
                } else {
                    Operand::Name(word.to_owned())
                }
            }
        };
        // 9.7.9.8, of a load: the address is the same in all threads.
        if matches!(first, Operand::Address(..)) {
            self.accept(".unified");
        }
        if self.accept("|") {
            return Ok(Operand::Pair(Box::new(first), Box::new(self.operand(scopes)?)));
        }
        if self.accept("+") {
            let negative = self.accept("-");
            let word = self.next()?;
            let n = integer(word).ok_or_else(|| SyntaxError::new(line, format!("offset `{word}`")))? as i64;
            let offset = if negative { n.wrapping_neg() } else { n };
            return match first {
                Operand::Name(name) => Ok(Operand::NameOffset(name, offset)),
                // Only within brackets: `[%rd1 + 4]`.
                other => Ok(Operand::Address(Box::new(other), offset)),
            };
        }
        Ok(first)
    }
}
