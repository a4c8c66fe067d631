//! What a launch can do wrong.

use std::fmt;

/// The check that a launch failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// An access outside of live allocations, of the block's shared memory or of the thread's local memory.
    OutOfBounds,
    /// An address that is no multiple of the access's size.
    Misaligned,
    /// A read of memory that nothing has written.
    Uninitialized,
    /// Two threads, one writes shared memory, nothing orders them.
    Race,
    /// Use of what an asynchronous copy or matrix product has not finished with.
    AsyncPending,
    /// Asynchronous work on what ordinary instructions used, without `fence.proxy.async` (memory),
    /// `fence.mbarrier_init` (mbarriers) or `wgmma.fence` (registers) between.
    ProxyFence,
    /// Use of what the launch before may still work on, before `griddepcontrol.wait`.
    LaunchPending,
    /// A collective whose threads do not all come.
    Divergence,
    /// A barrier used with contradicting counts, or arrived at too often.
    BarrierMismatch,
    /// No thread can go on.
    Deadlock,
    /// `trap`.
    Trap,
    /// A failed device assertion.
    Assert,
    /// An instruction with operands that no card takes.
    IllegalInstruction,
    /// More instructions than the options allow.
    InstructionLimit,
}

/// A launch that failed, and where.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Fault {
    /// Which check failed.
    pub kind: FaultKind,
    /// Kernel.
    pub kernel: String,
    /// Block index.
    pub block: [u32; 3],
    /// Thread index, if one thread is to blame.
    pub thread: Option<[u32; 3]>,
    /// Line of the PTX text, from 1.
    pub line: u32,
    /// Address, if memory is concerned.
    pub address: Option<u64>,
    /// What happened, in words.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.block;
        write!(f, "{:?} in kernel `{}`, block ({x}, {y}, {z})", self.kind, self.kernel)?;
        if let Some([x, y, z]) = self.thread {
            write!(f, ", thread ({x}, {y}, {z})")?;
        }
        write!(f, ", PTX line {}", self.line)?;
        if let Some(address) = self.address {
            write!(f, ", address {address:#x}")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for Fault {}

/// A fault before its place is known: raised by an instruction, completed by the scheduler.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub kind: FaultKind,
    pub lane: Option<usize>,
    pub address: Option<u64>,
    pub message: String,
}

impl Trouble {
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Self { kind, lane: None, address: None, message: message.into() }
    }

    pub fn at(mut self, address: u64) -> Self {
        self.address = Some(address);
        self
    }

    pub fn by(mut self, lane: usize) -> Self {
        self.lane.get_or_insert(lane);
        self
    }
}

pub(crate) type Outcome<T = ()> = Result<T, Trouble>;
