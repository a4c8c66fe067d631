//! What an instruction does.

use super::{
    Address, Alu, AluFn, AtomicOp, BarrierReduction, Bulk, CarryFn, CompareFn, Conversion, Element,
    FenceKind, FixFn, LocalCopy, Logic, MapReplace, MbarrierOp, Mma, Operands, PredicateSrc, Product,
    ShuffleMode, Src, VoteMode, Wgmma, Window, WmmaTransfer,
};

#[derive(Debug, Clone)]
pub enum Op {
    Nop,
    Alu(Alu),
    /// The same with operands of another form.
    AluOf {
        form: Operands,
        alu: Alu,
    },
    /// `lop3.BoolOp`: whether the result is not zero too, combined with a predicate.
    AluTest {
        f: AluFn,
        dst: Option<u32>,
        predicate: Option<u32>,
        src: Box<[Src; 4]>,
        logic: Logic,
        with: PredicateSrc,
    },
    /// Several registers at once.
    Moves {
        dst: Box<[Option<u32>]>,
        src: Box<[Src]>,
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
        pre: Option<FixFn>,
        combine: Option<(Logic, PredicateSrc)>,
    },
    /// `set`: all ones (or 1.0) where true, of each half for pairs.
    Set {
        f: CompareFn,
        dst: u32,
        a: Src,
        b: Src,
        truth: u64,
        pair: bool,
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
        /// None of a reduction.
        dst: Box<[Option<u32>]>,
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
    /// `relaxed`: what was written before it is not published.
    ClusterArrive {
        relaxed: bool,
    },
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
    Product(Box<Product>),
    WmmaLoad(Box<(WmmaTransfer, Box<[u32]>)>),
    WmmaStore(Box<(WmmaTransfer, Box<[Src]>)>),
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
    MapReplace(Box<MapReplace>),
    /// `tensormap.cp_fenceproxy`
    MapCopy {
        dst: Address,
        src: Address,
    },
    BulkCommit,
    BulkWait {
        pending: u32,
    },
}
