//! Numbers of NVIDIA's headers: cublas_api.h, cublasLt.h, library_types.h.

/// cublasStatus_t.
pub const SUCCESS: u32 = 0;
pub const NOT_INITIALIZED: u32 = 1;
pub const INVALID_VALUE: u32 = 7;
pub const EXECUTION_FAILED: u32 = 13;
pub const NOT_SUPPORTED: u32 = 15;

/// cudaDataType.
pub const R_32F: u32 = 0;
pub const R_16F: u32 = 2;
pub const R_16BF: u32 = 14;

/// cublasComputeType_t.
pub const COMPUTE_32F: u32 = 68;

/// cublasOperation_t.
pub const OP_N: i32 = 0;
pub const OP_T: i32 = 1;

/// cublasLtMatmulDescAttributes_t.
pub const DESC_TRANSA: u32 = 3;
pub const DESC_TRANSB: u32 = 4;

/// cublasLtMatmulPreferenceAttributes_t.
pub const PREF_MAX_WORKSPACE_BYTES: u32 = 1;
pub const PREF_MIN_ALIGNMENT_A_BYTES: u32 = 5;
pub const PREF_MIN_ALIGNMENT_D_BYTES: u32 = 8;

/// At whose multiples a workspace begins.
pub const WORKSPACE_ALIGNMENT: u64 = 256;
/// At whose multiples operands begin, unless a preference says something else.
pub const DEFAULT_ALIGNMENT: u32 = 256;
