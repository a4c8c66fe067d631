//! The front end: PTX text to a syntax tree, with registers resolved.

mod excerpt;
mod lexer;
mod literal;
mod operand;
mod parser;

use std::ops::Range;

pub use excerpt::excerpt;
pub(crate) use lexer::tokens;
pub(crate) use literal::integer;
pub(crate) use parser::bits_of;
pub use parser::parse;

/// What is wrong with a PTX text, and where.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("PTX line {line}: {what}")]
pub struct SyntaxError {
    /// Line, from 1.
    pub line: u32,
    /// What is wrong there.
    pub what: String,
}

impl SyntaxError {
    pub(crate) fn new(line: u32, what: impl Into<String>) -> Self {
        Self { line, what: what.into() }
    }
}

/// State spaces of variables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    Global,
    Const,
    Shared,
    Local,
    Param,
}

/// A declared variable or parameter.
#[derive(Debug, Clone)]
pub struct Variable {
    pub name: String,
    pub space: Space,
    pub bytes: usize,
    pub align: usize,
    /// Initial contents of module variables; what follows them is zero.
    pub contents: Vec<u8>,
    /// `.extern .shared x[]`: the launch's dynamic shared memory.
    pub dynamic: bool,
}

/// A register of a function: predicates and others are numbered apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Register {
    Predicate(u32),
    Value { index: u32, bits: u8 },
}

#[derive(Debug, Clone)]
pub enum Operand {
    Register(Register),
    /// `!%p`
    Not(Register),
    Integer(u64),
    /// Bits of an f32 literal.
    F32(u32),
    /// Bits of an f64 literal.
    F64(u64),
    /// A special register, a variable, a label or a function.
    Name(String),
    /// `name + offset` outside of brackets.
    NameOffset(String, i64),
    /// `[base + offset]`.
    Address(Box<Operand>, i64),
    /// `[base, {coordinates}]` and like lists in brackets.
    AddressList(Vec<Operand>),
    Vector(Vec<Operand>),
    /// `a|b`
    Pair(Box<Operand>, Box<Operand>),
    /// `_`
    Sink,
    /// `(a, b)` of a call.
    List(Vec<Operand>),
}

#[derive(Debug, Clone)]
pub struct Instruction {
    /// The predicate that lets it run, and whether it is negated.
    pub guard: Option<(u32, bool)>,
    pub opcode: String,
    pub operands: Vec<Operand>,
    pub line: u32,
    /// Its part of the text, from the guard to the semicolon.
    pub text: Range<usize>,
    /// Block of the function it stands in; labels are looked up from there outwards.
    pub scope: u32,
}

#[derive(Debug, Clone)]
pub enum Statement {
    Instruction(Instruction),
    /// Name and block.
    Label(String, u32),
}

#[derive(Debug, Clone, Default)]
pub struct Function {
    pub name: String,
    pub line: u32,
    pub is_kernel: bool,
    pub has_body: bool,
    pub returns: Vec<Variable>,
    pub params: Vec<Variable>,
    /// Shared, local and call-parameter variables of the body.
    pub variables: Vec<Variable>,
    pub statements: Vec<Statement>,
    /// The block around each block; the outermost is its own.
    pub scopes: Vec<u32>,
    /// Labels of `.branchtargets` lists.
    pub branch_targets: Vec<(String, Vec<String>)>,
    pub registers: u32,
    pub predicates: u32,
    pub max_threads: Option<u32>,
    /// `.minnctapersm`
    pub blocks_at_once: Option<u32>,
    pub required_threads: Option<[u32; 3]>,
    pub cluster: Option<[u32; 3]>,
}

/// A parsed module.
#[derive(Debug, Clone, Default)]
pub struct Module {
    /// Ten times the PTX version.
    pub version: u32,
    /// Ten times the compute capability.
    pub target: u32,
    /// The target is architecture- or family-specific (`sm_90a`).
    pub specific: bool,
    pub functions: Vec<Function>,
    /// Other names of functions.
    pub aliases: Vec<(String, String)>,
    pub variables: Vec<Variable>,
}
