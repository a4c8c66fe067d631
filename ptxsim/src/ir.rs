//! The compact form that a kernel is decoded to, once, and executed from.

use crate::decode::convert::Conversion;
use crate::ptx::Space;

/// Threads of a warp.
pub const WARP: usize = 32;
/// One register of a warp: the bits of each thread's.
pub type Lanes = [u64; WARP];

/// A source of up to 64 bits per thread.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Src {
    Register(u32),
    Immediate(u64),
    Special(Special),
    /// Address of a shared variable: offset in the block's shared memory.
    Shared(u32),
    /// Address of a local variable.
    Local(u32),
    /// Address of a kernel parameter.
    Parameter(u32),
    /// Address of a module variable (its number) and an offset.
    Global(u32, i64),
}

/// A predicate source and whether it is negated; `None` is constant true.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PredicateSrc {
    pub index: Option<u32>,
    pub negated: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    ClusterId(u8),
    NclusterId(u8),
    ClusterCtaid(u8),
    ClusterNctaid(u8),
    ClusterCtarank,
    ClusterNctarank,
    IsExplicitCluster,
    LaneId,
    WarpId,
    NwarpId,
    SmId,
    NsmId,
    GridId,
    LanemaskEq,
    LanemaskLe,
    LanemaskLt,
    LanemaskGe,
    LanemaskGt,
    Clock,
    GlobalTimer,
    DynamicSharedBytes,
    TotalSharedBytes,
}

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

/// `cp.async.bulk*` other than group bookkeeping.
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

#[derive(Debug, Clone)]
pub enum Op {
    Nop,
    Alu {
        f: AluFn,
        dst: u32,
        src: [Src; 4],
        count: u8,
        pre: Option<FixFn>,
        post: Option<FixFn>,
    },
    Carry {
        f: CarryFn,
        dst: u32,
        src: [Src; 3],
        reads: bool,
        writes: bool,
    },
    Convert {
        how: Conversion,
        dst: u32,
        a: Src,
        b: Src,
    },
    Select {
        dst: u32,
        a: Src,
        b: Src,
        predicate: PredicateSrc,
    },
    Compare {
        f: CompareFn,
        dst: Option<u32>,
        complement: Option<u32>,
        a: Src,
        b: Src,
        pre: Option<FixFn>,
        combine: Option<(Logic, PredicateSrc)>,
    },
    /// `setp.f16x2`: one predicate per half.
    ComparePair {
        f: CompareFn,
        low: Option<u32>,
        high: Option<u32>,
        a: Src,
        b: Src,
        combine: Option<(Logic, PredicateSrc)>,
    },
    /// `set`: all ones (or 1.0) where true.
    Set {
        f: CompareFn,
        dst: u32,
        a: Src,
        b: Src,
        truth: u64,
        pre: Option<FixFn>,
        combine: Option<(Logic, PredicateSrc)>,
    },
    PredicateLogic {
        logic: Logic,
        dst: u32,
        a: PredicateSrc,
        b: PredicateSrc,
    },
    Pack {
        dst: u32,
        parts: Box<[Src]>,
        bits: u32,
    },
    Unpack {
        dst: Box<[Option<u32>]>,
        src: Src,
        bits: u32,
    },
    Load {
        window: Window,
        address: Address,
        dst: Box<[Option<u32>]>,
        bytes: u8,
        signed: bool,
        strong: bool,
    },
    Store {
        window: Window,
        address: Address,
        src: Box<[Src]>,
        bytes: u8,
        strong: bool,
    },
    Atomic {
        window: Window,
        address: Address,
        op: AtomicOp,
        element: Element,
        dst: Option<u32>,
        b: Box<[Src]>,
        c: Src,
    },
    /// Generic address of an address in a window, or back.
    ToGeneric {
        window: Window,
        dst: u32,
        a: Src,
    },
    FromGeneric {
        window: Window,
        dst: u32,
        a: Src,
    },
    IsWindow {
        window: Window,
        dst: u32,
        a: Src,
    },
    MapShared {
        dst: u32,
        a: Src,
        rank: Src,
        generic: bool,
    },
    SharedRank {
        dst: u32,
        a: Src,
        generic: bool,
    },
    Branch {
        target: u32,
    },
    BranchIndexed {
        index: Src,
        targets: Box<[u32]>,
    },
    Call {
        target: u32,
        arguments: Box<[LocalCopy]>,
        results: Box<[LocalCopy]>,
    },
    Return,
    Exit,
    Trap,
    /// Local offsets of vprintf's parameters and of its result.
    Printf {
        format: u32,
        arguments: u32,
        result: Option<u32>,
    },
    AssertFail {
        message: u32,
        file: u32,
        line: u32,
    },
    Sleep,
    /// `setmaxnreg`
    SetRegisters {
        count: u32,
    },
    /// `bar`/`barrier`. `reduce` is (operation, value, result).
    Barrier {
        id: Src,
        count: Option<Src>,
        waits: bool,
        reduce: Option<BarrierReduction>,
    },
    ClusterArrive,
    ClusterWait,
    WarpSync {
        mask: Src,
    },
    Fence(FenceKind),
    /// `griddepcontrol.wait`
    LaunchWait,
    Shuffle {
        mode: ShuffleMode,
        dst: u32,
        predicate: Option<u32>,
        a: Src,
        b: Src,
        c: Src,
        mask: Src,
    },
    Vote {
        mode: VoteMode,
        dst: u32,
        value: PredicateSrc,
        mask: Src,
    },
    Match {
        all: bool,
        dst: u32,
        predicate: Option<u32>,
        a: Src,
        bits: u32,
        mask: Src,
    },
    Redux {
        op: AtomicOp,
        signed: bool,
        dst: u32,
        a: Src,
        mask: Src,
    },
    Elect {
        dst: Option<u32>,
        predicate: u32,
        mask: Src,
    },
    ActiveMask {
        dst: u32,
    },
    LoadMatrix {
        address: Address,
        dst: Box<[u32]>,
        transpose: bool,
    },
    StoreMatrix {
        address: Address,
        src: Box<[Src]>,
        transpose: bool,
    },
    MoveMatrix {
        dst: u32,
        a: Src,
    },
    Mma(Box<Mma>),
    Wgmma(Box<Wgmma>),
    WgmmaFence,
    WgmmaCommit,
    WgmmaWait {
        pending: u32,
    },
    CopyAsync {
        dst: Address,
        src: Address,
        bytes: u8,
        src_bytes: Option<Src>,
        ignore: Option<PredicateSrc>,
    },
    CopyAsyncCommit,
    CopyAsyncWait {
        pending: u32,
    },
    CopyAsyncArrive {
        barrier: Address,
        noinc: bool,
    },
    Mbarrier {
        window: Window,
        address: Address,
        op: MbarrierOp,
    },
    Bulk(Box<Bulk>),
    BulkCommit,
    BulkWait {
        pending: u32,
    },
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

/// One decoded instruction.
#[derive(Debug, Clone)]
pub struct Instr {
    pub op: Op,
    pub guard: Option<(u32, bool)>,
    pub line: u32,
    pub class: Class,
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
