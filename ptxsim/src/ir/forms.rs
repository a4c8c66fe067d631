//! The parts of operations: functions, windows, element types, and the forms of matrix products and copies.

use pulp::Arch;

use super::{Lanes, PredicateSrc, Src};

/// By the host's vector instructions: sources to result.
pub type AluFn = fn(Arch, &[&Lanes; 4], &mut Lanes);
pub type FixFn = fn(&mut Lanes);
pub type CompareFn = fn(Arch, &Lanes, &Lanes) -> u32;
/// `(a, b, c, carry in) -> (result, carry out)`
pub type CarryFn = fn(u64, u64, u64, u64) -> (u64, u64);

/// A register as a function of the first `count` sources; `pre` is done to each of them, `post` to the result.
#[derive(Debug, Clone)]
pub struct Alu {
    pub f: AluFn,
    pub dst: u32,
    pub src: [Src; 4],
    pub count: u8,
    pub pre: Option<FixFn>,
    pub post: Option<FixFn>,
}

/// What the registers of an f32 function hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operands {
    Plain,
    /// Two f32 each.
    Pair,
    /// All sources but the last an f16.
    F16,
    Bf16,
}

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

/// What a [`Product`] multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Products {
    F64,
    /// Sums of s32 that wrap, or end at its limits.
    Integer {
        a: MmaType,
        b: MmaType,
        saturate: bool,
    },
    Float(MmaType),
}

impl Products {
    /// Bits of a multiplicand.
    pub fn bits(self) -> usize {
        match self {
            Self::F64 => 64,
            Self::Integer { .. } => 8,
            Self::Float(ty) => ty.bits(),
        }
    }
}

/// How registers hold matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fragments {
    /// As the ISA lays them out for `mma`.
    Mma,
    /// As `wmma.load` does.
    Wmma { a_by_column: bool, b_by_column: bool },
}

/// `wmma.mma`, and the `mma.sync` that [`Mma`] is not for.
#[derive(Debug, Clone, PartialEq)]
pub struct Product {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub products: Products,
    pub fragments: Fragments,
    /// C holds f16 pairs.
    pub half_c: bool,
    pub half_d: bool,
    pub d: Box<[u32]>,
    pub a: Box<[Src]>,
    pub b: Box<[Src]>,
    pub c: Box<[Src]>,
}

/// The memory of `wmma.load` and `wmma.store`: `lines` of `length` neighbours.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WmmaTransfer {
    pub window: Window,
    pub address: Address,
    /// Elements from line to line; `length` without.
    pub stride: Option<Src>,
    pub lines: usize,
    pub length: usize,
    pub element_bytes: u32,
    /// The fragment's order is across the lines.
    pub across: bool,
    pub fragment_bytes: u64,
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

/// `cp.async.bulk*` other than group bookkeeping, `st.async` and `red.async`.
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
    /// `red.async`
    Reduce {
        dst: Address,
        value: Src,
        reduction: BulkReduction,
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

/// A field of a tensor map, with its dimension where it has one for each; strides begin with the second dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapField {
    Address,
    /// Less one.
    Rank,
    Box(u8),
    Dimension(u8),
    Stride(u8),
    Step(u8),
    DataType,
    Interleave,
    Swizzle,
    Atomicity,
    Fill,
}

impl MapField {
    /// The largest value of a field that takes constants only (PTX ISA 9.7.9.26, table 33). Sub-byte types, swizzles of
    /// 96 bytes and atomicities other than 16 bytes are not there.
    pub fn most(self) -> Option<u64> {
        match self {
            Self::DataType => Some(12),
            Self::Interleave => Some(2),
            Self::Swizzle => Some(3),
            Self::Atomicity => Some(0),
            Self::Fill => Some(1),
            _ => None,
        }
    }
}

/// `tensormap.replace`
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MapReplace {
    pub window: Window,
    pub address: Address,
    pub field: MapField,
    pub value: Src,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceKind {
    /// Nothing to track.
    Ordinary,
    /// Publishes what was written to other blocks: scope `.cluster` or wider.
    Cluster,
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
