//! A kernel as the rules see it: each instruction with the places of its parts in the text.

use std::collections::HashSet;
use std::ops::Range;

use crate::ptx::{self, Statement, SyntaxError, tokens};

/// Replacements of parts of the text, in order, without overlap.
pub type Edit = Vec<(Range<usize>, String)>;

/// A kernel's body.
pub struct Body<'t> {
    pub sites: Vec<Site<'t>>,
    /// Registers that addresses are computed from.
    pub addressing: HashSet<&'t str>,
}

/// An instruction.
pub struct Site<'t> {
    text: &'t str,
    /// Number in the body.
    pub number: usize,
    pub line: u32,
    /// Number of its basic block.
    pub block: usize,
    /// All of it, guard and semicolon too.
    pub whole: Range<usize>,
    /// `@%p`, `@!%p`, or empty.
    pub guard: &'t str,
    pub opcode: &'t str,
    pub operands: Vec<Range<usize>>,
}

impl<'t> Body<'t> {
    pub fn new(text: &'t str, kernel: &str) -> Result<Self, SyntaxError> {
        let tree = ptx::parse(text)?;
        let mut sites = Vec::new();
        let (mut block, mut ended) = (0, false);
        for function in tree.functions.iter().filter(|f| f.is_kernel && f.has_body && f.name == kernel) {
            for statement in &function.statements {
                let Statement::Instruction(instruction) = statement else {
                    ended = true;
                    continue;
                };
                block += usize::from(ended);
                let site = Site::new(text, instruction, sites.len(), block)?;
                ended = matches!(site.base(), "bra" | "brx" | "ret" | "exit" | "call");
                sites.push(site);
            }
        }
        let mut body = Self { sites, addressing: HashSet::new() };
        body.find_addressing();
        Ok(body)
    }

    /// The opcodes around an instruction, its own in angle brackets.
    pub fn around(&self, number: usize) -> String {
        let near = self.sites[number.saturating_sub(2)..].iter().take_while(|s| s.number <= number + 2);
        let opcode =
            |s: &Site<'_>| if s.number == number { format!("<{}>", s.opcode) } else { s.opcode.to_owned() };
        near.map(opcode).collect::<Vec<_>>().join(" ")
    }

    /// The instructions of a site's basic block that have no guard, so that they run when one comes to it; `None` where
    /// there are none.
    pub fn beside(&self, site: &Site<'t>) -> Option<impl Iterator<Item = &Site<'t>>> {
        let block = site.block;
        let mut found = self.sites.iter().filter(move |s| s.block == block && s.guard.is_empty()).peekable();
        found.peek().is_some().then_some(found)
    }

    /// Registers in brackets, and those that they come from.
    fn find_addressing(&mut self) {
        let brackets = |site: &Site<'t>| {
            let found = site.operands.iter().filter(|o| site.text[o.start..].starts_with('['));
            found.flat_map(|o| site.registers(o)).collect::<Vec<_>>()
        };
        let roots = self.sites.iter().flat_map(brackets).collect();
        self.addressing = self.sources(roots, |_| true);
    }

    /// Registers whose values matter where just these instructions run: that others than integer arithmetic and moves have
    /// as operands or guards, and those that they come from.
    pub fn live(&self, runs: impl Fn(&Site<'t>) -> bool) -> HashSet<&'t str> {
        let used = self.sites.iter().filter(|site| runs(site)).flat_map(|site| {
            let operands = if site.hands_on() { &[] } else { &site.operands[..] };
            let guard = site.guard.trim_start_matches(['@', '!']);
            operands.iter().flat_map(|o| site.registers(o)).chain((!guard.is_empty()).then_some(guard))
        });
        self.sources(used.collect(), &runs)
    }

    /// These registers and, over integer arithmetic and moves that run, those that they come from.
    fn sources(&self, mut found: HashSet<&'t str>, runs: impl Fn(&Site<'t>) -> bool) -> HashSet<&'t str> {
        loop {
            let before = found.len();
            for site in self.sites.iter().filter(|site| site.hands_on() && runs(site)) {
                let mut operands = site.operands.iter();
                let Some(to) = operands.next() else { continue };
                if site.registers(to).any(|register| found.contains(register)) {
                    found.extend(operands.flat_map(|o| site.registers(o)));
                }
            }
            if found.len() == before {
                return found;
            }
        }
    }
}

impl<'t> Site<'t> {
    fn new(
        text: &'t str,
        instruction: &ptx::Instruction,
        number: usize,
        block: usize,
    ) -> Result<Self, SyntaxError> {
        let whole = instruction.text.clone();
        let tokens = tokens(&text[whole.clone()])?;
        let place = |at: usize| tokens.get(at).map_or(whole.end, |t| whole.start + t.at);
        let end = |at: usize| tokens.get(at).map_or(whole.end, |t| whole.start + t.at + t.text.len());
        let guard = match (tokens.first().map(|t| t.text), tokens.get(1).map(|t| t.text)) {
            (Some("@"), Some("!")) => 3,
            (Some("@"), _) => 2,
            _ => 0,
        };
        let mut operands = Vec::new();
        let (mut depth, mut from) = (0, guard + 1);
        for (at, token) in tokens.iter().enumerate().skip(guard + 1) {
            match token.text {
                "{" | "[" | "(" => depth += 1,
                "}" | "]" | ")" => depth -= 1,
                "," | ";" if depth == 0 => {
                    if from < at {
                        operands.push(place(from)..end(at - 1));
                    }
                    from = at + 1;
                }
                _ => {}
            }
        }
        Ok(Self {
            text,
            number,
            line: instruction.line,
            block,
            guard: if guard == 0 { "" } else { &text[whole.start..end(guard - 1)] },
            opcode: &text[place(guard)..end(guard)],
            operands,
            whole,
        })
    }

    /// The opcode up to its first dot.
    pub fn base(&self) -> &'t str {
        self.opcode.split('.').next().unwrap_or_default()
    }

    /// Makes a register of others, and does nothing else.
    fn hands_on(&self) -> bool {
        let known = "add sub xor or and shl shr mad mul mov cvta cvt lop3 bfi bfe shf selp prmt";
        known.split(' ').any(|base| base == self.base())
    }

    /// The opcode begins with one of these, up to a dot or its end.
    pub fn is(&self, starts: &[&str]) -> bool {
        let follows = |start: &&str| self.opcode.strip_prefix(*start);
        starts.iter().filter_map(follows).any(|rest| rest.is_empty() || rest.starts_with(['.', ':']))
    }

    pub fn has(&self, modifier: &str) -> bool {
        self.opcode.split('.').any(|part| part == modifier)
    }

    pub fn operand(&self, at: usize) -> Option<&'t str> {
        Some(self.part(self.operands.get(at)?))
    }

    /// The registers that a part of the text names.
    fn registers(&self, part: &Range<usize>) -> impl Iterator<Item = &'t str> + use<'t> {
        let within = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '%');
        let text = &self.text[part.clone()];
        text.split(move |c| !within(c))
            .filter(|word| word.starts_with(|c: char| c == '%' || c.is_ascii_alphabetic() || c == '_'))
    }

    /// A part of the text.
    pub fn part(&self, range: &Range<usize>) -> &'t str {
        &self.text[range.clone()]
    }

    /// The parts of a list in braces within an operand.
    pub fn list(&self, operand: usize) -> Vec<Range<usize>> {
        let Some(range) = self.operands.get(operand) else { return Vec::new() };
        let text = &self.text[range.clone()];
        let Some((open, close)) = text.find('{').zip(text.find('}')) else { return Vec::new() };
        let mut found = Vec::new();
        let mut at = range.start + open + 1;
        for part in text[open + 1..close.max(open + 1)].split(',') {
            let lead = part.len() - part.trim_start().len();
            found.push(at + lead..at + lead + part.trim().len());
            at += part.len() + 1;
        }
        found
    }

    /// Without the instruction.
    pub fn dropped(&self) -> Edit {
        vec![(self.whole.clone(), String::new())]
    }

    /// Another instruction in its place, under the same guard.
    pub fn replaced(&self, by: &str) -> Edit {
        vec![(self.whole.clone(), format!("{} {by};", self.guard).trim_start().to_owned())]
    }

    /// Another opcode.
    pub fn renamed(&self, opcode: String) -> Edit {
        let start = self.whole.start + self.text[self.whole.clone()].find(self.opcode).unwrap_or_default();
        vec![(start..start + self.opcode.len(), opcode)]
    }

    /// A part of it becomes `operation` of itself and `value`: in the text if it is a number, else by an instruction
    /// before. `operation` is `add`, `xor`, `shr` or, of a predicate, `not`, of so many bits.
    pub fn changed(&self, part: &Range<usize>, operation: &str, bits: u32, value: i64) -> Edit {
        let held = &self.text[part.clone()];
        if let Some(number) = number(held) {
            let new = match operation {
                "xor" => number ^ value,
                "shr" => number >> value,
                "not" => number ^ 1,
                _ => number.wrapping_add(value),
            };
            let new = if bits == 32 { i64::from(new as i32) } else { new };
            return vec![(part.clone(), new.to_string())];
        }
        let kind = match (operation, bits) {
            ("add", _) => format!("s{bits}"),
            (_, 1) => "pred".to_owned(),
            _ => format!("b{bits}"),
        };
        let declared = if bits == 1 { "pred".to_owned() } else { format!("b{bits}") };
        let before = match (operation, bits) {
            ("not", _) => format!("not.{kind} changed, {held};"),
            _ => format!("{operation}.{kind} changed, {held}, {value};"),
        };
        let start = self.whole.start..self.whole.start;
        let end = self.whole.end..self.whole.end;
        vec![
            (start, format!("{{ .reg .{declared} changed; {before} ")),
            (part.clone(), "changed".to_owned()),
            (end, " }".to_owned()),
        ]
    }

    /// An operand changes so, if there is one.
    pub fn operand_changed(&self, at: usize, operation: &str, bits: u32, value: i64) -> Vec<Edit> {
        self.operands.get(at).map(|part| self.changed(part, operation, bits, value)).into_iter().collect()
    }
}

/// An integer as PTX writes it.
pub fn number(text: &str) -> Option<i64> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let value = ptx::integer(digits)? as i64;
    Some(if negative { value.wrapping_neg() } else { value })
}

/// The text after an edit.
pub fn apply(text: &str, edit: &Edit) -> String {
    let mut new = String::with_capacity(text.len());
    let mut at = 0;
    for (range, by) in edit {
        new.push_str(&text[at..range.start]);
        new.push_str(by);
        at = range.end;
    }
    new.push_str(&text[at..]);
    new
}
