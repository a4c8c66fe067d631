//! Syntax tree to the compact form.

mod alu;
mod asynchronous;
mod atomic;
mod collective;
mod compare;
mod convert;
mod floating;
mod half;
mod integer;
mod layout;
mod matrix;
mod memory;
mod operand;
mod registers;
mod scalar;
mod tensormap;
mod value;
mod wmma;

use std::collections::HashMap;

use crate::ir::uses::mark_fragments;
use crate::ir::{Class, Code, Instr, Op};
use crate::ptx::{Function, Instruction, Module, Statement};
use layout::Layout;
use registers::places;

/// An instruction that the simulator does not run, or runs only on other cards.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("PTX line {line}: {why}: `{text}`{}", also(*.count))]
pub struct DecodeError {
    /// Line of the first, from 1.
    pub line: u32,
    /// How many instructions have this error.
    pub count: u32,
    /// The instruction.
    pub text: String,
    /// What is wrong with it.
    pub why: String,
}

fn also(count: u32) -> String {
    if count == 1 { String::new() } else { format!(" ({count} times)") }
}

/// What a decoder of one instruction says: done, or why not.
type Decoded = Result<(Op, Class), String>;

/// An opcode taken apart at its dots.
struct Opcode<'a> {
    base: &'a str,
    modifiers: Vec<&'a str>,
}

impl<'a> Opcode<'a> {
    fn new(text: &'a str) -> Self {
        let mut parts = text.split('.').filter(|part| !part.is_empty());
        Self { base: parts.next().unwrap_or_default(), modifiers: parts.collect() }
    }

    fn has(&self, modifier: &str) -> bool {
        self.modifiers.contains(&modifier)
    }

    /// Elements of `.v2`, `.v4`, `.v8`; 1 without.
    fn vector(&self) -> usize {
        [("v2", 2), ("v4", 4), ("v8", 8)].iter().find(|(name, _)| self.has(name)).map_or(1, |(_, n)| *n)
    }

    /// The last modifier: the type, for most instructions.
    fn ty(&self) -> &'a str {
        self.modifiers.last().copied().unwrap_or_default()
    }
}

/// Functions of a module, decoded into one stream of instructions for one kernel.
struct Decoder<'m> {
    module: &'m Module,
    layout: Layout<'m>,
    instructions: Vec<Instr>,
    /// Where each function starts.
    entries: HashMap<&'m str, u32>,
    /// Functions called but not decoded yet.
    wanted: Vec<&'m Function>,
    /// Calls: where, by which function, of which, whose place they are yet to be given.
    calls: Vec<(usize, &'m str, &'m str)>,
    errors: Vec<DecodeError>,
    registers: u32,
    predicates: u32,
    /// The function being decoded, its first register and predicate, and its labels.
    function: &'m Function,
    labels: HashMap<(&'m str, u32), u32>,
    /// Block of the instruction being decoded.
    scope: u32,
}

/// Decodes a kernel; all that is wrong with it otherwise.
pub fn decode(module: &Module, kernel: &Function) -> Result<Code, Vec<DecodeError>> {
    let mut apart = decode_with(module, kernel, &[])?;
    mark_fragments(&mut apart.instructions);
    let (places, count) = places(&apart.instructions, apart.registers);
    let mut code = decode_with(module, kernel, &places)?;
    code.registers = count;
    for (instruction, apart) in code.instructions.iter_mut().zip(&apart.instructions) {
        instruction.fragments = apart.fragments;
    }
    Ok(code)
}

/// Decodes a kernel whose registers are at these places, each at one of its own by default.
fn decode_with(module: &Module, kernel: &Function, places: &[u32]) -> Result<Code, Vec<DecodeError>> {
    let mut decoder = Decoder {
        module,
        layout: Layout::new(module, kernel, places),
        instructions: Vec::new(),
        entries: HashMap::new(),
        wanted: vec![kernel],
        calls: Vec::new(),
        errors: Vec::new(),
        registers: 0,
        predicates: 0,
        function: kernel,
        labels: HashMap::new(),
        scope: 0,
    };
    while let Some(function) = decoder.wanted.pop() {
        decoder.function(function);
    }
    for (at, _, name) in std::mem::take(&mut decoder.calls) {
        if let (Some(entry), Some(Instr { op: Op::Call { target, .. }, .. })) =
            (decoder.entries.get(name), decoder.instructions.get_mut(at))
        {
            *target = *entry;
        }
    }
    if !decoder.errors.is_empty() {
        return Err(decoder.errors);
    }
    let (parameters, parameter_bytes) = layout::parameters(kernel);
    Ok(Code {
        name: kernel.name.clone(),
        instructions: decoder.instructions,
        registers: decoder.registers,
        predicates: decoder.predicates,
        parameters,
        parameter_bytes,
        static_shared_bytes: decoder.layout.shared_bytes(),
        dynamic_shared_offset: decoder.layout.dynamic_offset(),
        local_bytes: decoder.layout.local_bytes(),
        max_threads: kernel.max_threads,
        blocks_at_once: kernel.blocks_at_once.unwrap_or(1),
        required_threads: kernel.required_threads,
        cluster: kernel.cluster,
    })
}

impl<'m> Decoder<'m> {
    fn function(&mut self, function: &'m Function) {
        if self.entries.contains_key(function.name.as_str()) {
            return;
        }
        self.function = function;
        self.entries.insert(&function.name, self.instructions.len() as u32);
        let (first_register, first_predicate) = (self.registers, self.predicates);
        self.registers += function.registers;
        self.predicates += function.predicates;
        self.layout.enter(function, first_register, first_predicate);

        // Labels first: every statement is one instruction.
        let mut at = self.instructions.len() as u32;
        self.labels.clear();
        for statement in &function.statements {
            match statement {
                Statement::Label(name, scope) => {
                    self.labels.insert((name, *scope), at);
                }
                Statement::Instruction(_) => at += 1,
            }
        }
        for statement in &function.statements {
            let Statement::Instruction(instruction) = statement else { continue };
            self.scope = instruction.scope;
            let guard = instruction.guard.map(|(index, negated)| (index + first_predicate, negated));
            let (op, class) = self.instruction(instruction).unwrap_or_else(|why| {
                self.refuse(instruction, why);
                (Op::Nop, Class::Control)
            });
            self.instructions.push(Instr { op, guard, line: instruction.line, class, fragments: false });
        }
        // Falling off the end is a return.
        self.instructions.push(Instr {
            op: Op::Return,
            guard: None,
            line: function.line,
            class: Class::Control,
            fragments: false,
        });
    }

    /// An instruction of newer cards: the text must be for one.
    fn requires(&self, target: u32) -> Result<(), String> {
        match self.module.target {
            own if own >= target => Ok(()),
            own => Err(format!("needs a target of sm_{target} or newer, this text is for sm_{own}")),
        }
    }

    /// An instruction of certain cards only: the text must be for one like them.
    fn requires_specific(&self, target: u32) -> Result<(), String> {
        if self.module.specific && self.module.target >= target {
            return Ok(());
        }
        Err(format!("needs a target like sm_{target}a, this text is for sm_{}", self.module.target))
    }

    /// Keeps an error, once per opcode.
    fn refuse(&mut self, instruction: &Instruction, why: String) {
        let (line, text) = (instruction.line, &instruction.opcode);
        match self.errors.iter_mut().find(|e| e.text == *text && e.why == why) {
            Some(held) => {
                held.count += 1;
                held.line = held.line.min(line);
            }
            None => self.errors.push(DecodeError { line, count: 1, text: text.clone(), why }),
        }
    }

    fn instruction(&mut self, instruction: &'m Instruction) -> Decoded {
        let opcode = Opcode::new(&instruction.opcode);
        let operands = &instruction.operands;
        match opcode.base {
            "ld" | "ldu" | "st" | "atom" | "red" | "cvta" | "isspacep" | "mapa" | "getctarank"
            | "multimem" | "prefetch" | "prefetchu" | "applypriority" | "discard" | "createpolicy" => {
                self.memory(&opcode, operands)
            }
            "bra" | "brx" | "call" | "ret" | "exit" | "trap" | "brkpt" | "nanosleep" | "setmaxnreg"
            | "pmevent" => self.control(&opcode, operands),
            "bar" | "barrier" | "membar" | "fence" | "shfl" | "vote" | "match" | "redux" | "elect"
            | "activemask" | "griddepcontrol" => self.collective(&opcode, operands),
            "ldmatrix" | "stmatrix" | "movmatrix" | "mma" | "wgmma" => self.matrix(&opcode, operands),
            "wmma" => self.wmma(&opcode, operands),
            "tensormap" => self.tensormap(&opcode, operands),
            "cp" | "mbarrier" => self.asynchronous(&opcode, operands),
            _ => self.scalar(&opcode, operands),
        }
    }
}

fn unsupported() -> String {
    "unsupported instruction".to_owned()
}
