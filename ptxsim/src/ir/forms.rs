//! The parts of operations: functions, windows, element types, and the forms of matrix products and copies.

use super::{Lanes, PredicateSrc, Src};

pub type AluFn = fn(&[Lanes; 4], &mut Lanes);
pub type FixFn = fn(&mut Lanes);
pub type CompareFn = fn(&Lanes, &Lanes) -> u32;
/// `(a, b, c, carry in) -> (result, carry out)`
pub type CarryFn = fn(u64, u64, u64, u64) -> (u64, u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logic {
    And,
    Or,
    Xor,
}

impl Logic {
    pub fn apply(self, a: u32, b: u32) -> u32 {
        match self {
            Logic::And => a & b,
            Logic::Or => a | b,
            Logic::Xor => a ^ b,
        }
    }
}

/// A memory address: register or constant, plus offset.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Address {
    pub base: Src,
    pub offset: i64,
}

/// Where a load or store goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    Generic,
    Global,
    Const,
    Shared,
    /// `.shared::cluster`
    Cluster,
    Local,
    Param,
}

/// Element type of an atomic or reduction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    U32,
    S32,
    U64,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    F32,
    F64,
    B16,
}

impl Element {
    pub fn bytes(self) -> u8 {
        match self {
            Element::F16 | Element::Bf16 | Element::B16 => 2,
            Element::U64 | Element::S64 | Element::F64 => 8,
            _ => 4,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtomicOp {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exchange,
    CompareExchange,
    Increment,
    Decrement,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShuffleMode {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VoteMode {
    All,
    Any,
    Uniform,
    Ballot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MmaType {
    F16,
    Bf16,
    Tf32,
    E4M3,
    E5M2,
    S8,
    U8,
}

impl MmaType {
    pub fn bits(self) -> usize {
        match self {
            MmaType::F16 | MmaType::Bf16 => 16,
            MmaType::Tf32 => 32,
            _ => 8,
        }
    }

    /// Integers, whose products add up to s32.
    pub fn is_integer(self) -> bool {
        matches!(self, MmaType::S8 | MmaType::U8)
    }

    /// Whether the other operand may be `other`: the same type, or the other one of 8 bits.
    pub fn goes_with(self, other: Self) -> bool {
        self == other || self.bits() == 8 && other.bits() == 8 && self.is_integer() == other.is_integer()
    }
}

/// `mma.sync` of shape m16n8k: types and registers.
#[derive(Debug, Clone, PartialEq)]
pub struct Mma {
    pub k: usize,
    pub a_type: MmaType,
    pub b_type: MmaType,
    /// C and D are f16 pairs; otherwise f32, or s32 for integer types.
    pub half_accumulate: bool,
    pub d: Box<[u32]>,
    pub a: Box<[Src]>,
    pub b: Box<[Src]>,
    pub c: Box<[Src]>,
}

/// `wgmma.mma_async` m64nNk.
#[derive(Debug, Clone, PartialEq)]
pub struct Wgmma {
    pub n: usize,
    pub k: usize,
    pub a_type: MmaType,
    pub b_type: MmaType,
    pub half_accumulate: bool,
    pub d: Box<[u32]>,
    /// One descriptor, or four registers of fragments.
    pub a: Box<[Src]>,
    pub b: Src,
    pub scale_d: ScaleD,
    pub negate_a: bool,
    pub negate_b: bool,
    /// MN-major operands.
    pub transpose_a: bool,
    pub transpose_b: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ScaleD {
    Predicate(PredicateSrc),
    Constant(bool),
}

/// `mbarrier.*`
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MbarrierOp {
    Init {
        count: Src,
    },
    Invalidate,
    /// Arrivals `count`, after adding `tx` expected bytes.
    Arrive {
        count: Src,
        tx: Option<Src>,
        state: Option<u32>,
        no_complete: bool,
        drop: bool,
    },
    ExpectTx {
        tx: Src,
    },
    CompleteTx {
        tx: Src,
    },
    /// Sets `done` when the phase (by parity or by state) has completed.
    Wait {
        done: u32,
        phase: Src,
        parity: bool,
        blocking: bool,
    },
    PendingCount {
        dst: u32,
        state: Src,
    },
}

/// Reduction of bulk copies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BulkReduction {
    pub op: AtomicOp,
    pub element: Element,
}

/// `cp.async.bulk*` other than group bookkeeping, and `st.async`.
#[derive(Debug, Clone, PartialEq)]
pub enum Bulk {
    /// Global (or shared of the own block) to shared of the cluster.
    ToShared {
        dst: Address,
        src: Address,
        src_window: Window,
        bytes: Src,
        barrier: Address,
        multicast: Option<Src>,
    },
    /// Registers of `bytes` each to shared of the cluster.
    Store {
        dst: Address,
        src: Box<[Src]>,
        bytes: u8,
        barrier: Address,
    },
    ToGlobal {
        dst: Address,
        src: Address,
        bytes: Src,
        reduction: Option<BulkReduction>,
    },
    TensorToShared {
        dst: Address,
        map: Address,
        coordinates: Box<[Src]>,
        barrier: Address,
        multicast: Option<Src>,
    },
    TensorToGlobal {
        map: Address,
        coordinates: Box<[Src]>,
        src: Address,
        reduction: Option<AtomicOp>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceKind {
    /// Orders generic accesses only; nothing to track.
    Ordinary,
    /// `fence.proxy.async`: generic accesses before asynchronous ones.
    ProxyAsync,
    /// `fence.mbarrier_init`
    MbarrierInit,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BarrierReduction {
    /// `None` is popc.
    pub logic: Option<Logic>,
    pub value: PredicateSrc,
    /// A predicate for and/or, a register for popc.
    pub dst: u32,
}

/// Bytes of local memory copied by a call or its return.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LocalCopy {
    pub from: u32,
    pub to: u32,
    pub bytes: u32,
}
