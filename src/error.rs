//! The one error type of the library.

/// Why a problem, an operand or a merge was refused.
///
/// Every message names the field, the value it had and what is allowed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A count that must be positive is zero.
    #[error("{field} is 0, allowed: 1 or more")]
    Zero {
        /// Which count.
        field: &'static str,
    },

    /// A size is larger than the library supports.
    #[error("{field} is {value}, allowed: at most {max}")]
    TooLarge {
        /// Which size.
        field: &'static str,
        /// What was asked for.
        value: usize,
        /// The largest supported value.
        max: usize,
    },

    /// Query heads cannot be shared evenly among the K/V heads.
    #[error("heads is {heads}, allowed: a multiple of kv_heads, which is {kv_heads}")]
    HeadsNotMultiple {
        /// Query heads.
        heads: usize,
        /// K/V heads.
        kv_heads: usize,
    },

    /// A factor is not a usable number.
    #[error("{field} is {value}, allowed: a finite number above 0")]
    NotPositive {
        /// `scale` or `softcap`.
        field: &'static str,
        /// Its value.
        value: f32,
    },

    /// A list of offsets does not begin with 0.
    #[error(
        "{field}[0] is {}, allowed: 0 (offsets hold one entry more than there are inputs)",
        value.map_or_else(|| "missing".to_string(), |v| v.to_string())
    )]
    OffsetsStart {
        /// Which offsets.
        field: &'static str,
        /// The first entry, or `None` where the list is empty.
        value: Option<usize>,
    },

    /// An offset is below the one before it.
    #[error("{field}[{index}] is {value}, allowed: {previous} or more, the offset before it")]
    OffsetsDecrease {
        /// Which offsets.
        field: &'static str,
        /// Position of the offending entry.
        index: usize,
        /// Its value.
        value: usize,
        /// The entry before it.
        previous: usize,
    },

    /// Rows and keys are given for different numbers of inputs.
    #[error("{field} describes {value} inputs, allowed: {inputs}, as many as row_offsets")]
    InputsDiffer {
        /// The keys' field.
        field: &'static str,
        /// How many inputs it describes.
        value: usize,
        /// How many inputs `row_offsets` describes.
        inputs: usize,
    },

    /// A padded input is longer than its slot.
    #[error("keys.lengths[{input}] is {value}, allowed: at most keys.max_keys, which is {max_keys}")]
    LengthOverSlot {
        /// Which input.
        input: usize,
        /// Its number of keys.
        value: usize,
        /// Keys per slot.
        max_keys: usize,
    },

    /// A size in bytes or elements does not fit the address space.
    #[error("{field} overflows the address space; allowed: at most isize::MAX bytes")]
    Overflow {
        /// What overflowed.
        field: &'static str,
    },

    /// A stride lets neighbouring vectors overlap.
    #[error("{tensor}.strides.{stride} is {value}, allowed: {min} or more, so that no two vectors overlap")]
    StrideTooSmall {
        /// Which operand.
        tensor: &'static str,
        /// `row` or `head`.
        stride: &'static str,
        /// Its value in elements.
        value: usize,
        /// The smallest stride that keeps the vectors apart.
        min: usize,
    },

    /// A base address or stride is not aligned for vector access.
    #[error("{tensor}.{part} is {value} bytes, allowed: a multiple of {align} bytes")]
    Misaligned {
        /// Which operand.
        tensor: &'static str,
        /// `data` (its address), `strides.row` or `strides.head`.
        part: &'static str,
        /// Address or stride in bytes.
        value: usize,
        /// Required alignment in bytes.
        align: usize,
    },

    /// A buffer ends before the last vector that the problem reaches.
    #[error("{tensor} has {value} elements, allowed: {min} or more for its shape and strides")]
    TooShort {
        /// Which operand.
        tensor: &'static str,
        /// Its length in elements.
        value: usize,
        /// The least length in elements.
        min: usize,
    },

    /// No CUDA kernel exists for this head_dim.
    #[error("head_dim is {value}, allowed on CUDA: {}", join(allowed))]
    UnsupportedHeadDim {
        /// The problem's head_dim.
        value: usize,
        /// Those that kernels exist for.
        allowed: &'static [usize],
    },

    /// No kernel fits the card and the options.
    #[error(
        "no kernel for {dtype}{}, head_dim {head_dim}{} on a card of compute capability {}.{} with {shared_bytes} \
         bytes of shared memory per block; allowed: {}",
        if *e4m3_kv { " with e4m3 K/V" } else { "" },
        tile_rows.map_or_else(String::new, |rows| format!(", tile_rows {rows}"))
            + &cluster.map_or_else(String::new, |blocks| format!(", cluster {blocks}"))
            + &architecture.map_or_else(String::new, |architecture| format!(", architecture {architecture}")),
        capability.0,
        capability.1,
        match e4m3_kv {
            true => "bf16 or f16 with e4m3 K/V, 9.0, 16 or 32 tile_rows, cluster 1",
            false => "8.0 or newer (9.0 for sm_90a), 16, 32, 64, 128 or 192 tile_rows, cluster 1, or 2 for 128 tile_rows of sm_90a",
        }
    )]
    NoKernel {
        /// Element type of Q and the output.
        dtype: crate::DType,
        /// Whether K and V are e4m3.
        e4m3_kv: bool,
        /// Elements per head.
        head_dim: usize,
        /// The card's compute capability.
        capability: (u32, u32),
        /// Shared memory of one block on it.
        shared_bytes: usize,
        /// The wish of the options.
        tile_rows: Option<usize>,
        /// Likewise.
        cluster: Option<usize>,
        /// Likewise.
        architecture: Option<crate::architecture::Architecture>,
    },

    /// A buffer for partial states is too small.
    #[error("workspace has {value} elements of f32, allowed: {min} or more for this plan")]
    Workspace {
        /// Its length.
        value: usize,
        /// What the plan needs.
        min: usize,
    },

    /// Output memory overlaps other operands.
    #[error("{tensor} overlaps {other}; allowed: memory of its own")]
    Overlap {
        /// What is written.
        tensor: &'static str,
        /// What it overlaps.
        other: &'static str,
    },

    /// An operand or stream belongs to another CUDA context.
    #[error("{tensor} belongs to another CUDA context; allowed: the context that the kernels were loaded in")]
    WrongContext {
        /// Which one.
        tensor: &'static str,
    },

    /// The plan is for another element type.
    #[error("the operands are {value}, allowed: {planned}, which the plan is for")]
    WrongDType {
        /// Type of the operands.
        value: crate::DType,
        /// Type of the plan.
        planned: crate::DType,
    },

    /// The plan is for another format of K and V.
    #[error("K and V are {value}, allowed: {planned}, which the plan is for")]
    WrongKv {
        /// Format of the operands.
        value: &'static str,
        /// Format of the plan.
        planned: &'static str,
    },

    /// The CUDA driver refused.
    #[error("CUDA: {what}: {why}")]
    Cuda {
        /// What was tried.
        what: &'static str,
        /// The driver's answer.
        why: String,
    },

    /// A call was made without anything to merge.
    #[error("states is empty, allowed: at least one partial state")]
    NoStates,
}

fn join(values: &[usize]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The library's result.
pub type Result<T> = std::result::Result<T, Error>;
