//! What instructions read: registers, constants, special registers, addresses of variables.

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

/// Stands in [`Src::Shared`] for the start of dynamic shared memory, known at the launch.
pub const DYNAMIC: u32 = u32::MAX;

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
    ClockHigh,
    GlobalTimer,
    GlobalTimerHigh,
    DynamicSharedBytes,
    TotalSharedBytes,
}
