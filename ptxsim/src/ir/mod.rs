//! The compact form that a kernel is decoded to, once, and executed from.

mod convert;
mod forms;
mod lanewise;
mod op;
mod operand;
pub mod uses;
mod value;

pub use convert::{Conversion, Kind};
pub use forms::*;
pub use lanewise::{Single, lanemask, lanes_of, lanes_where, lanewise};
pub use op::Op;
pub use operand::{DYNAMIC, Lanes, PredicateSrc, Special, Src, WARP};
pub use value::{NAN32, Value};

use crate::ptx::Space;

/// One decoded instruction.
#[derive(Debug, Clone)]
pub struct Instr {
    pub op: Op,
    pub guard: Option<(u32, bool)>,
    pub line: u32,
    pub class: Class,
    /// An ordinary use of registers that a `wgmma` of the kernel has as fragments, or that moves make ones.
    pub fragments: bool,
}

/// Classes that the counters tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Integer and bit arithmetic.
    Integer,
    /// Float arithmetic.
    Float,
    /// Reciprocals, roots, exponentials and their like.
    Special,
    /// `cvt`.
    Convert,
    /// Moves and selections.
    Move,
    /// Comparisons and predicate logic.
    Predicate,
    /// Branches, calls, exits.
    Control,
    /// Loads from global (or generic) addresses.
    GlobalLoad,
    /// Stores to them.
    GlobalStore,
    /// Loads from shared memory, `ldmatrix` too.
    SharedLoad,
    /// Stores to it.
    SharedStore,
    /// Parameters, constants, local memory, prefetches.
    OtherMemory,
    /// Atomics and reductions on memory.
    Atomic,
    /// Exchanges within a warp.
    Collective,
    /// Barriers, fences, waits.
    Synchronization,
    /// Matrix products.
    TensorCore,
    /// Asynchronous copies.
    AsyncCopy,
}

/// A parameter of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter {
    /// Byte offset in the parameter buffer.
    pub offset: usize,
    /// Bytes.
    pub bytes: usize,
}

/// A decoded kernel.
#[derive(Debug, Clone)]
pub struct Code {
    pub name: String,
    pub instructions: Vec<Instr>,
    pub registers: u32,
    pub predicates: u32,
    pub parameters: Vec<Parameter>,
    pub parameter_bytes: usize,
    pub static_shared_bytes: u32,
    /// Alignment that the dynamic shared memory starts with.
    pub dynamic_shared_offset: u32,
    pub local_bytes: u32,
    pub max_threads: Option<u32>,
    /// Blocks that a multiprocessor must hold at once.
    pub blocks_at_once: u32,
    pub required_threads: Option<[u32; 3]>,
    pub cluster: Option<[u32; 3]>,
}

impl Code {
    /// Shared memory of a block with so much dynamic shared memory.
    pub fn shared_bytes(&self, dynamic: u32) -> u32 {
        match dynamic {
            0 => self.static_shared_bytes,
            dynamic => self.dynamic_shared_offset.saturating_add(dynamic),
        }
    }
}

pub(crate) fn window_of(space: Space) -> Window {
    match space {
        Space::Global => Window::Global,
        Space::Const => Window::Const,
        Space::Shared => Window::Shared,
        Space::Local => Window::Local,
        Space::Param => Window::Param,
    }
}
