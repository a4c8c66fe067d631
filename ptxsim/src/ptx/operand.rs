//! Instructions and their operands.

use super::parser::{Parser, Result, Scope};
use super::{Function, Instruction, Operand, Register, Statement, SyntaxError};

/// Deepest nesting of operands; real ones have three levels.
const MOST_DEPTH: u32 = 8;

impl Parser<'_> {
    pub fn instruction(
        &mut self,
        function: &mut Function,
        scopes: &[Scope],
        guard: Option<(u32, bool)>,
        opcode: &str,
        line: u32,
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
        let instruction = Instruction { guard, opcode: opcode.to_owned(), operands, line, scope };
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

pub fn lookup(scopes: &[Scope], name: &str) -> Option<Register> {
    scopes.iter().rev().find_map(|scope| scope.registers.get(name)).copied()
}

pub fn integer(word: &str) -> Option<u64> {
    let digits = word.strip_suffix('U').unwrap_or(word);
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if let Some(hex) = digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        return u64::from_str_radix(hex, 16).ok();
    }
    if let Some(binary) = digits.strip_prefix("0b").or(digits.strip_prefix("0B")) {
        return u64::from_str_radix(binary, 2).ok();
    }
    if digits.len() > 1 && digits.starts_with('0') && !digits.contains('.') {
        return u64::from_str_radix(&digits[1..], 8).ok();
    }
    digits.parse().ok()
}

/// `0f` and `0d` literals and decimal fractions.
fn literal(word: &str) -> Option<Operand> {
    match word.get(..2) {
        Some("0f" | "0F") => u32::from_str_radix(&word[2..], 16).ok().map(Operand::F32),
        Some("0d" | "0D") => u64::from_str_radix(&word[2..], 16).ok().map(Operand::F64),
        _ if word.starts_with(|c: char| c.is_ascii_digit()) => {
            word.parse::<f64>().ok().map(|x| Operand::F64(x.to_bits()))
        }
        _ => None,
    }
}

pub fn literal_bits(word: &str) -> Option<u64> {
    match literal(word)? {
        Operand::F32(bits) => Some(bits.into()),
        Operand::F64(bits) => Some(bits),
        _ => None,
    }
}
