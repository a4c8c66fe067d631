//! Tokens to the syntax tree. Scoped names (`{ .reg .pred p; ... }` of inline assembly) are resolved here.

use std::collections::HashMap;

use super::lexer::{Token, tokens};
use super::literal::{integer, literal_bits};
use super::{Function, Module, Register, Space, Statement, SyntaxError, Variable};

/// Largest variable: more is a damaged text.
const MOST_BYTES: usize = 1 << 32;
const MOST_ALIGNMENT: usize = 1 << 16;
/// Most registers of a function.
const MOST_REGISTERS: u64 = 1 << 17;

pub type Result<T> = std::result::Result<T, SyntaxError>;

/// Parses a module.
pub fn parse(text: &str) -> Result<Module> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0, depth: 0 };
    let mut module = Module::default();
    let mut dynamic = false;
    while let Some(word) = parser.peek() {
        let line = parser.line();
        parser.at += 1;
        match word {
            ".version" => {
                let word = parser.next()?;
                module.version = tenths(word)
                    .ok_or_else(|| SyntaxError::new(line, format!("no PTX version: `{word}`")))?;
            }
            ".target" => parser.target(&mut module)?,
            ".address_size" => {
                if parser.next()? != "64" {
                    return Err(SyntaxError::new(line, "only 64-bit addresses are supported"));
                }
            }
            ".extern" => dynamic = true,
            ".visible" | ".weak" | ".common" => {}
            ".entry" | ".func" => {
                let function = parser.function(word == ".entry", line)?;
                module.functions.push(function);
                dynamic = false;
            }
            ".global" | ".const" | ".shared" => {
                let space = match word {
                    ".global" => Space::Global,
                    ".const" => Space::Const,
                    _ => Space::Shared,
                };
                let mut variable = parser.variable(space)?;
                variable.dynamic = dynamic && space == Space::Shared;
                dynamic = false;
                module.variables.push(variable);
            }
            ".file" | ".loc" => parser.skip_line(line),
            ".section" => {
                parser.next()?;
                parser.skip_block("{", "}")?;
            }
            // 11.2.3: `.alias name, function;`
            ".alias" => {
                let name = parser.next()?.to_owned();
                parser.expect(",")?;
                module.aliases.push((name, parser.next()?.to_owned()));
                parser.expect(";")?;
            }
            ".pragma" => while parser.next()? != ";" {},
            ";" => {}
            other => {
                return Err(SyntaxError::new(line, format!("unexpected `{other}` outside of a function")));
            }
        }
    }
    if module.version == 0 || module.target == 0 {
        return Err(SyntaxError::new(1, "not PTX: no .version and .target"));
    }
    Ok(module)
}

pub struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
    /// Operands around the one being read.
    pub depth: u32,
}

/// A block of a body: its number and what its names stand for.
pub struct Scope {
    pub number: u32,
    pub registers: HashMap<String, Register>,
}

impl Scope {
    /// Opens a block within the innermost of `scopes`.
    fn open(function: &mut Function, scopes: &mut Vec<Scope>) {
        let number = function.scopes.len() as u32;
        function.scopes.push(scopes.last().map_or(number, |outer| outer.number));
        scopes.push(Scope { number, registers: HashMap::new() });
    }
}

/// What a name stands for, in the innermost block that has it.
pub fn lookup(scopes: &[Scope], name: &str) -> Option<Register> {
    scopes.iter().rev().find_map(|scope| scope.registers.get(name)).copied()
}

impl<'a> Parser<'a> {
    pub fn peek(&self) -> Option<&'a str> {
        self.tokens.get(self.at).map(|t| t.text)
    }

    pub fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |t| t.line)
    }

    /// Where the token that was read last ends in the text.
    pub fn end(&self) -> usize {
        self.at.checked_sub(1).and_then(|at| self.tokens.get(at)).map_or(0, |t| t.at + t.text.len())
    }

    pub fn next(&mut self) -> Result<&'a str> {
        let word = self.peek().ok_or_else(|| SyntaxError::new(self.line(), "the text ends too early"))?;
        self.at += 1;
        Ok(word)
    }

    pub fn accept(&mut self, wanted: &str) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    pub fn expect(&mut self, wanted: &str) -> Result<()> {
        let line = self.line();
        match self.next()? {
            word if word == wanted => Ok(()),
            word => Err(SyntaxError::new(line, format!("`{word}` where `{wanted}` is expected"))),
        }
    }

    fn skip_line(&mut self, line: u32) {
        while self.peek().is_some() && self.line() == line {
            self.at += 1;
        }
    }

    fn skip_block(&mut self, open: &str, close: &str) -> Result<()> {
        self.expect(open)?;
        let mut depth = 1;
        while depth > 0 {
            match self.next()? {
                word if word == open => depth += 1,
                word if word == close => depth -= 1,
                _ => {}
            }
        }
        Ok(())
    }

    fn target(&mut self, module: &mut Module) -> Result<()> {
        let line = self.line();
        let name = self.next()?;
        let wrong = || SyntaxError::new(line, format!("target `{name}` is not of the form sm_NN"));
        let rest = name.strip_prefix("sm_").ok_or_else(wrong)?;
        let digits = rest.trim_end_matches(['a', 'f']);
        module.specific = digits.len() != rest.len();
        module.target = digits.parse().map_err(|_| wrong())?;
        while self.accept(",") {
            self.next()?;
        }
        Ok(())
    }

    fn count(&mut self) -> Result<usize> {
        let line = self.line();
        let word = self.next()?;
        integer(word)
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| *n <= MOST_BYTES)
            .ok_or_else(|| SyntaxError::new(line, format!("`{word}` where a number is expected")))
    }

    fn counts(&mut self) -> Result<[u32; 3]> {
        let mut found = [1; 3];
        let mut at = 0;
        loop {
            let line = self.line();
            let n = self.count()?;
            let place =
                found.get_mut(at).ok_or_else(|| SyntaxError::new(line, "more than three dimensions"))?;
            *place = u32::try_from(n).unwrap_or(u32::MAX);
            at += 1;
            if !self.accept(",") {
                return Ok(found);
            }
        }
    }

    /// `[.align n] .type name[dimensions]` after the state space; returns a scalar's bytes too.
    fn declaration(&mut self, space: Space) -> Result<(Variable, usize)> {
        let (mut align, mut element, mut vector) = (0, 0, 1);
        let mut pointer = false;
        loop {
            let line = self.line();
            match self.next()? {
                // "Kernel Function Parameter Attribute: .ptr": this one is of what the parameter points to.
                ".align" if pointer => {
                    self.count()?;
                }
                ".align" => align = self.count()?,
                ".ptr" => pointer = true,
                ".global" | ".const" | ".shared" | ".local" => {}
                ".attribute" => self.skip_block("(", ")")?,
                ".v2" => vector = 2,
                ".v4" => vector = 4,
                word if word.starts_with('.') => {
                    element = type_bits(word)
                        .ok_or_else(|| SyntaxError::new(line, format!("no type `{word}`")))?
                        / 8;
                }
                name => {
                    let mut count = 1usize;
                    while self.accept("[") {
                        let size = if self.peek() == Some("]") { 0 } else { self.count()? };
                        self.expect("]")?;
                        count = count.saturating_mul(size);
                    }
                    let whole = element * vector;
                    let bytes = count
                        .checked_mul(whole)
                        .filter(|bytes| *bytes <= MOST_BYTES)
                        .ok_or_else(|| SyntaxError::new(line, format!("`{name}` is too large")))?;
                    if align != 0 && (!align.is_power_of_two() || align > MOST_ALIGNMENT) {
                        return Err(SyntaxError::new(line, format!("alignment {align} of `{name}`")));
                    }
                    let align = if align == 0 { whole.max(1) } else { align };
                    let variable = Variable {
                        name: name.to_owned(),
                        space,
                        bytes,
                        align,
                        contents: Vec::new(),
                        dynamic: false,
                    };
                    return Ok((variable, element));
                }
            }
        }
    }

    fn variable(&mut self, space: Space) -> Result<Variable> {
        let (mut variable, element) = self.declaration(space)?;
        if self.accept("=") {
            if element > 8 {
                return Err(SyntaxError::new(self.line(), "initial values of this type are not supported"));
            }
            while self.peek() != Some(";") {
                let line = self.line();
                let negative = self.accept("-");
                let word = self.next()?;
                if matches!(word, "{" | "}" | ",") {
                    continue;
                }
                let name = &variable.name;
                let bits = integer(word).or_else(|| literal_bits(word)).ok_or_else(|| {
                    SyntaxError::new(line, format!("initial value `{word}` of `{name}` is not supported"))
                })?;
                let bits = if negative { bits.wrapping_neg() } else { bits };
                if variable.contents.len() + element > variable.bytes {
                    return Err(SyntaxError::new(line, format!("too many initial values for `{name}`")));
                }
                variable.contents.extend(&bits.to_le_bytes()[..element]);
            }
        }
        self.expect(";")?;
        Ok(variable)
    }

    fn parameters(&mut self) -> Result<Vec<Variable>> {
        let mut found = Vec::new();
        if self.accept("(") {
            while !self.accept(")") {
                self.expect(".param")?;
                found.push(self.declaration(Space::Param)?.0);
                self.accept(",");
            }
        }
        Ok(found)
    }

    fn function(&mut self, is_kernel: bool, line: u32) -> Result<Function> {
        let mut function = Function { is_kernel, line, ..Function::default() };
        if self.accept(".attribute") {
            self.skip_block("(", ")")?;
        }
        if !is_kernel {
            function.returns = self.parameters()?;
        }
        function.name = self.next()?.to_owned();
        function.params = self.parameters()?;
        loop {
            let line = self.line();
            match self.next()? {
                "{" => break,
                ";" => return Ok(function),
                ".maxntid" => {
                    let n: [u32; 3] = self.counts()?;
                    function.max_threads = Some(n.iter().fold(1, |a, b| a.saturating_mul(*b)));
                }
                ".reqntid" => {
                    let n = self.counts()?;
                    function.required_threads = Some(n);
                    function.max_threads = Some(n.iter().fold(1, |a, b| a.saturating_mul(*b)));
                }
                ".reqnctapercluster" => function.cluster = Some(self.counts()?),
                ".minnctapersm" => function.blocks_at_once = Some(self.counts()?[0].max(1)),
                ".maxnctapersm"
                | ".maxnreg"
                | ".maxclusterrank"
                | ".abi_preserve"
                | ".abi_preserve_control" => {
                    self.counts()?;
                }
                ".explicitcluster" | ".noreturn" | ".blocksareclusters" => {}
                ".pragma" => while self.next()? != ";" {},
                other => {
                    let name = &function.name;
                    return Err(SyntaxError::new(
                        line,
                        format!("unexpected `{other}` before the body of `{name}`"),
                    ));
                }
            }
        }
        function.has_body = true;
        let mut scopes = Vec::new();
        Scope::open(&mut function, &mut scopes);
        while !scopes.is_empty() {
            self.statement(&mut function, &mut scopes)?;
        }
        Ok(function)
    }

    fn statement(&mut self, function: &mut Function, scopes: &mut Vec<Scope>) -> Result<()> {
        let line = self.line();
        let start = (line, self.tokens.get(self.at).map_or(0, |t| t.at));
        let word = self.next()?;
        match word {
            "{" => Scope::open(function, scopes),
            "}" => drop(scopes.pop()),
            ";" => {}
            ".reg" => self.registers(function, scopes)?,
            ".shared" | ".local" | ".param" => {
                let space = match word {
                    ".shared" => Space::Shared,
                    ".local" => Space::Local,
                    _ => Space::Param,
                };
                let variable = self.declaration(space)?.0;
                self.expect(";")?;
                // A call's parameters (`param0`) are declared anew in the block of each call: the name
                // is the innermost one, and the largest of one name serves all.
                match function.variables.iter_mut().find(|v| v.name == variable.name && space == Space::Param)
                {
                    Some(held) => {
                        held.bytes = held.bytes.max(variable.bytes);
                        held.align = held.align.max(variable.align);
                    }
                    None => function.variables.push(variable),
                }
            }
            ".loc" | ".file" => self.skip_line(line),
            ".pragma" => while self.next()? != ";" {},
            _ if self.peek() == Some(":") && !word.starts_with('@') => {
                self.at += 1;
                if self.accept(".branchtargets") {
                    let mut targets = vec![self.next()?.to_owned()];
                    while self.accept(",") {
                        targets.push(self.next()?.to_owned());
                    }
                    self.expect(";")?;
                    function.branch_targets.push((word.to_owned(), targets));
                } else if matches!(self.peek(), Some(".callprototype" | ".calltargets")) {
                    return Err(SyntaxError::new(line, "calls through pointers are not supported"));
                } else {
                    let scope = scopes.last().map_or(0, |scope| scope.number);
                    function.statements.push(Statement::Label(word.to_owned(), scope));
                }
            }
            "@" => {
                let negated = self.accept("!");
                let name = self.next()?;
                let Some(Register::Predicate(guard)) = lookup(scopes, name) else {
                    return Err(SyntaxError::new(line, format!("`{name}` is not a declared predicate")));
                };
                let opcode = self.next()?;
                self.instruction(function, scopes, Some((guard, negated)), opcode, start)?;
            }
            opcode if opcode.starts_with(|c: char| c.is_ascii_alphabetic()) => {
                self.instruction(function, scopes, None, opcode, start)?;
            }
            other => return Err(SyntaxError::new(line, format!("unexpected `{other}` in a body"))),
        }
        Ok(())
    }

    fn registers(&mut self, function: &mut Function, scopes: &mut [Scope]) -> Result<()> {
        let line = self.line();
        let mut kind = self.next()?;
        if matches!(kind, ".v2" | ".v4") {
            return Err(SyntaxError::new(line, "vector registers are not supported"));
        }
        if kind == ".align" {
            self.count()?;
            kind = self.next()?;
        }
        let bits = match kind {
            ".pred" => 1,
            _ => type_bits(kind).ok_or_else(|| SyntaxError::new(line, format!("no type `{kind}`")))?,
        };
        loop {
            let name = self.next()?;
            let mut names = Vec::new();
            if self.accept("<") {
                let count = self.count()? as u64;
                if count + u64::from(function.registers) + u64::from(function.predicates) > MOST_REGISTERS {
                    return Err(SyntaxError::new(line, format!("{count} registers `{name}`")));
                }
                self.expect(">")?;
                names.extend((0..count).map(|i| format!("{name}{i}")));
            } else {
                names.push(name.to_owned());
            }
            let Some(scope) = scopes.last_mut() else { return Ok(()) };
            for name in names {
                let register = if bits == 1 {
                    function.predicates += 1;
                    Register::Predicate(function.predicates - 1)
                } else {
                    // A 128-bit register is two of 64 bits.
                    let index = function.registers;
                    function.registers += if bits == 128 { 2 } else { 1 };
                    Register::Value { index, bits: bits as u8 }
                };
                scope.registers.insert(name, register);
            }
            if !self.accept(",") {
                break;
            }
        }
        self.expect(";")
    }
}

/// Bits of a type, without its dot; 1 of a predicate, 0 of what is no type.
pub(crate) fn bits_of(ty: &str) -> u32 {
    match ty {
        "pred" => 1,
        _ => type_bits(&format!(".{ty}")).unwrap_or(0) as u32,
    }
}

/// Bits of a fundamental type.
fn type_bits(word: &str) -> Option<usize> {
    Some(match word {
        ".b8" | ".u8" | ".s8" => 8,
        ".b16" | ".u16" | ".s16" | ".f16" | ".bf16" => 16,
        ".b32" | ".u32" | ".s32" | ".f32" | ".f16x2" | ".bf16x2" | ".tf32" => 32,
        ".b64" | ".u64" | ".s64" | ".f64" => 64,
        ".b128" => 128,
        _ => return None,
    })
}

/// A number with one decimal, times ten.
fn tenths(word: &str) -> Option<u32> {
    let (whole, tenth) = word.split_once('.')?;
    let (whole, tenth): (u32, u32) = (whole.parse().ok()?, tenth.parse().ok()?);
    (whole < 1000 && tenth < 10).then(|| whole * 10 + tenth)
}
