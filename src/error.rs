//! The one error type of the library.

/// Why a problem, an operand or a call was refused.
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

    /// An operand has another shape than the problem, the plan or the output.
    #[error("{tensor} is {value}, allowed: {allowed}")]
    WrongShape {
        /// Which operand.
        tensor: &'static str,
        /// Its shape.
        value: crate::shape::Shape,
        /// The one it must have.
        allowed: crate::shape::Shape,
    },

    /// A stride lets neighbouring vectors overlap.
    #[error("{tensor}.strides.{stride} is {value}, allowed: {min} or more, so that no two vectors overlap")]
    StrideTooSmall {
        /// Which operand.
        tensor: &'static str,
        /// `input`, `row` or `head`.
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
        /// `data` (its address), `strides.input`, `strides.row` or `strides.head`.
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

    /// No CUDA kernel exists for this head_dim. Zeros behind each vector of Q, K and V change neither scores nor, but for more
    /// zeros, results.
    #[error("head_dim is {value}, allowed on CUDA: {}{}", join(allowed), padding_advice(*value, allowed))]
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
            + &split_cluster.map_or_else(String::new, |blocks| format!(", split_cluster {blocks}"))
            + &architecture.map_or_else(String::new, |architecture| format!(", architecture {architecture}")),
        capability.0,
        capability.1,
        match e4m3_kv {
            true => "bf16 or f16 with e4m3 K/V, 9.0 or newer, 16 or 32 tile_rows, cluster 1, split_cluster 1, 2, 4 or 8",
            false => "8.0 or newer (9.0 for sm_90a, 9.0 to 11.x for sm_90, 12.0 or newer for sm_120), 16, 32, 64, 128 or 192 tile_rows, cluster 1, or 2 for 128 tile_rows of sm_90a, \
                      split_cluster 1, or 2, 4 or 8 for 16 or 32 tile_rows of sm_90 and sm_120",
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
        /// [`PlanOptions::tile_rows`](crate::plan::PlanOptions::tile_rows).
        tile_rows: Option<usize>,
        /// [`PlanOptions::cluster`](crate::plan::PlanOptions::cluster).
        cluster: Option<usize>,
        /// [`PlanOptions::split_cluster`](crate::plan::PlanOptions::split_cluster).
        split_cluster: Option<usize>,
        /// [`PlanOptions::architecture`](crate::plan::PlanOptions::architecture).
        architecture: Option<crate::architecture::Architecture>,
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
    #[error(
        "{tensor} belongs to another CudaContext; allowed: the one that the kernels were loaded in (clones of its Arc)"
    )]
    WrongContext {
        /// Which one.
        tensor: &'static str,
    },

    /// Something belongs to another stream, and nothing can wait for that one here.
    #[error("{what} belongs to another stream; allowed: the queue's")]
    WrongStream {
        /// What.
        what: &'static str,
    },

    /// A stream's handle is that of each thread's own default stream.
    #[error(
        "{what} belongs to cudarc's per_thread_stream, which is another stream in every thread; allowed: a stream that is the \
         same for all threads"
    )]
    PerThreadStream {
        /// What.
        what: &'static str,
    },

    /// A stream is captured in a graph, which would not keep what is used.
    #[error(
        "{what} is captured in a graph, which would not keep the memory that is used; allowed: before the capture begins, or \
         after it has ended; runs also in a Recorder (Queue::record), or by run_raw, which is unsafe"
    )]
    Captured {
        /// The stream, or whose it is.
        what: &'static str,
    },

    /// A plan is for another launch than the one that was prepared.
    #[error(
        "{field} of the plan is {value}, allowed: {prepared}, as prepared ({})",
        if *field == "kernel" { "PlanOptions::like gives it" } else { "Queue::prepare takes others" }
    )]
    Replan {
        /// In what they differ.
        field: &'static str,
        /// What the plan has.
        value: String,
        /// What was prepared.
        prepared: String,
    },

    /// A plan is larger than the one that was prepared.
    #[error(
        "the plan has {value} {field}, allowed: at most {max}, as prepared (by a plan by PlanOptions::like; Queue::prepare takes \
         more)"
    )]
    OverPrepared {
        /// Of what.
        field: &'static str,
        /// How many.
        value: usize,
        /// How many there is memory for.
        max: usize,
    },

    /// The last replan failed: it is not known which plan's lists are in device memory.
    #[error("the last replan failed, and its lists may be there or not; allowed: another replan")]
    ReplanFailed,

    /// A plan was prepared on another queue.
    #[error("the plan was prepared on another Queue; allowed: the one that records")]
    WrongQueue,

    /// A plan is for another card.
    #[error(
        "the plan is for kernel {kernel}, which a card of compute capability {}.{} with {shared_bytes} bytes of shared memory per \
         block does not run; allowed: a plan for the facts of the queue's kernels",
        capability.0,
        capability.1
    )]
    WrongCard {
        /// The plan's kernel.
        kernel: String,
        /// The card's compute capability.
        capability: (u32, u32),
        /// Shared memory of one block on it.
        shared_bytes: usize,
    },

    /// A run of a recording failed.
    #[error(
        "a run of the recording failed, and may be there in part; allowed: a recording whose runs are all in order"
    )]
    NotRecorded,

    /// An address is 0.
    #[error("the address of {tensor} is 0, allowed: device memory")]
    Null {
        /// Of which operand.
        tensor: &'static str,
    },

    /// A range does not lie in memory.
    #[error(
        "the range {start}..{end} is not in memory of {len} elements; allowed: ranges that are, in ascending order"
    )]
    Range {
        /// Its start.
        start: usize,
        /// Its end.
        end: usize,
        /// Elements of the memory.
        len: usize,
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

    /// The CUDA driver refused a call.
    #[cfg(feature = "cuda")]
    #[error(
        "CUDA: {call}: {result:?}{}",
        if self.is_context_lost() { "; the context is lost: only a new process goes on" } else { "" }
    )]
    Cuda {
        /// The driver's function; several where it is not known which.
        call: &'static str,
        /// Its answer.
        result: cudarc::driver::sys::CUresult,
    },

    /// CUDA cannot be used as asked.
    #[error("CUDA: {what}: {why}")]
    CudaUnavailable {
        /// What was tried.
        what: &'static str,
        /// Why it cannot be.
        why: String,
    },

    /// A merge has no states.
    #[error("states is empty, allowed: at least one partial state")]
    NoStates,
}

#[cfg(feature = "cuda")]
impl Error {
    /// Whether memory ran out: the same may succeed with less of it in use.
    pub fn is_out_of_memory(&self) -> bool {
        use cudarc::driver::sys::CUresult;
        matches!(self, Self::Cuda { result: CUresult::CUDA_ERROR_OUT_OF_MEMORY, .. })
    }

    /// Whether the context is lost, as after a kernel's fault: every later call fails too, and memory is gone. Only a new
    /// process, or a new primary context after a reset, goes on.
    pub fn is_context_lost(&self) -> bool {
        use cudarc::driver::sys::CUresult as R;
        // Those that "leave the process in an inconsistent state" by cuda.h.
        matches!(
            self,
            Self::Cuda {
                result: R::CUDA_ERROR_ECC_UNCORRECTABLE
                    | R::CUDA_ERROR_NVLINK_UNCORRECTABLE
                    | R::CUDA_ERROR_ILLEGAL_ADDRESS
                    | R::CUDA_ERROR_LAUNCH_TIMEOUT
                    | R::CUDA_ERROR_ASSERT
                    | R::CUDA_ERROR_HARDWARE_STACK_ERROR
                    | R::CUDA_ERROR_ILLEGAL_INSTRUCTION
                    | R::CUDA_ERROR_MISALIGNED_ADDRESS
                    | R::CUDA_ERROR_INVALID_ADDRESS_SPACE
                    | R::CUDA_ERROR_INVALID_PC
                    | R::CUDA_ERROR_LAUNCH_FAILED
                    | R::CUDA_ERROR_EXTERNAL_DEVICE,
                ..
            }
        )
    }
}

/// To which kernel's head_dim the operands can be padded, and what that costs.
fn padding_advice(head_dim: usize, allowed: &[usize]) -> String {
    allowed.iter().find(|dim| **dim > head_dim).map_or_else(String::new, |dim| {
        let more = (100 * (dim - head_dim)).div_ceil(head_dim);
        format!(
            "; Q, K and V padded with zeros to {dim}, with the same scale, give the same result, and have {more} % more bytes"
        )
    })
}

fn join(values: &[usize]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The library's result.
pub type Result<T> = std::result::Result<T, Error>;
