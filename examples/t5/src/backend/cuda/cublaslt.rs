//! Matrix products by cublasLt: an algorithm is chosen once per shape and then reused, the workspace is taken once.
//!
//! Row-major `C [m, n] = A [m, k] W [n, k]^T` is column-major `C^T [n, m] = W^T A^T`: W is read transposed.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use cudarc::cublaslt::result::CublasError;
use cudarc::cublaslt::{result, sys};
use cudarc::driver::CudaStream;
use cudarc::driver::sys::CUstream;
use onekv::DType;

use super::kernels::{Matrix, Target, check_product};
use super::memory::{Buffer, Pool};

/// What NVIDIA recommends for Hopper, and enough before it.
const WORKSPACE_BYTES: usize = 32 << 20;

/// Bytes at whose multiples operands begin.
const ALIGNMENT: u64 = 256;

/// A product `[m, k] x [n, k]^T`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    m: usize,
    n: usize,
    k: usize,
    of: DType,
    to: DType,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { m, n, k, of, to } = self;
        write!(f, "[{m}, {k}] x [{n}, {k}]^T in {of}, to {to}")
    }
}

/// A descriptor, and how it is destroyed.
struct Owned<T: Copy>(T, unsafe fn(T) -> Result<(), CublasError>);

impl<T: Copy> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: made for this `Owned`, destroyed only here. A failure leaves nothing to do.
        let _ = unsafe { (self.1)(self.0) };
    }
}

/// A product made ready: its descriptors, and the algorithm.
struct Prepared {
    operation: Owned<sys::cublasLtMatmulDesc_t>,
    w: Owned<sys::cublasLtMatrixLayout_t>,
    x: Owned<sys::cublasLtMatrixLayout_t>,
    out: Owned<sys::cublasLtMatrixLayout_t>,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

/// Whether this machine has the library.
fn is_present() -> bool {
    // candle has cudarc link it: without it nothing would run.
    #[cfg(feature = "candle-cuda")]
    return true;
    // SAFETY: looks for the library and its symbols; nothing else is asked of it.
    #[cfg(not(feature = "candle-cuda"))]
    unsafe {
        sys::is_culib_present()
    }
}

/// The library's handle and what was prepared with it.
pub struct CublasLt {
    handle: sys::cublasLtHandle_t,
    stream: Arc<CudaStream>,
    workspace: Buffer,
    prepared: RefCell<HashMap<Shape, Prepared>>,
}

impl CublasLt {
    pub fn new(stream: &Arc<CudaStream>, pool: &Pool) -> Result<Self> {
        if !is_present() {
            bail!(
                "libcublasLt was not found; it comes with the CUDA toolkit, and with `pip install nvidia-cublas` \
                 (nvidia-cublas-cu12 for CUDA 12): put its folder in LD_LIBRARY_PATH"
            );
        }
        let workspace = pool.keep(WORKSPACE_BYTES)?;
        // The library's handle is for the context that is current.
        stream.context().bind_to_thread().context("cannot start cublasLt")?;
        let handle = result::create_handle().context("cannot start cublasLt")?;
        Ok(Self { handle, stream: stream.clone(), workspace, prepared: RefCell::default() })
    }

    /// `target = x W^T`, or added to it, on a stream: the library's, or a recording of it.
    pub fn multiply(&self, on: CUstream, x: &Matrix, w: &Matrix, target: Target<'_>) -> Result<()> {
        x.check("x", w.dtype)?;
        check_product(x, w, w.rows, &target)?;
        if x.rows == 0 {
            return Ok(());
        }
        let out = target.data.at() + target.at as u64;
        // What the library takes for granted unless it is told otherwise.
        if [x.data.at(), w.data.at(), out].iter().any(|at| !at.is_multiple_of(ALIGNMENT)) {
            bail!("an operand of a product is not at a multiple of {ALIGNMENT} bytes");
        }
        let shape = Shape { m: x.rows, n: w.rows, k: w.cols, of: w.dtype, to: target.dtype };
        self.stream.context().bind_to_thread().with_context(|| format!("cublasLt failed on {shape}"))?;
        if !self.prepared.borrow().contains_key(&shape) {
            let ready =
                self.prepare(&shape).with_context(|| format!("cublasLt has no algorithm for {shape}"))?;
            self.prepared.borrow_mut().insert(shape, ready);
        }
        let prepared = self.prepared.borrow();
        let Some(p) = prepared.get(&shape) else { bail!("{shape} was not prepared") };
        let (one, beta) = (1f32, if target.add { 1f32 } else { 0f32 });
        // SAFETY: handle and descriptors live as long as `self`; alpha and beta are f32, as the descriptor's scale type
        // says, and read before the call returns. `check_product` shows that the operands are as large as the layouts
        // reach. The result is computed in place (C is D), and overlaps no operand: it is borrowed mutably. The workspace
        // is used by this stream alone, one product after the other, replays included. A CUstream is a cudaStream_t.
        unsafe {
            result::matmul(
                self.handle,
                p.operation.0,
                std::ptr::from_ref(&one).cast(),
                std::ptr::from_ref(&beta).cast(),
                w.data.at() as *const c_void,
                p.w.0,
                x.data.at() as *const c_void,
                p.x.0,
                out as *const c_void,
                p.out.0,
                out as *mut c_void,
                p.out.0,
                &p.algorithm,
                self.workspace.at() as *mut c_void,
                WORKSPACE_BYTES,
                on.cast(),
            )
        }
        .with_context(|| format!("cublasLt failed on {shape}"))
    }

    fn prepare(&self, shape: &Shape) -> Result<Prepared, CublasError> {
        let (m, n, k) = (shape.m as u64, shape.n as u64, shape.k as u64);
        let layout = |dtype, rows: u64, cols| -> Result<_, CublasError> {
            let layout = result::create_matrix_layout(data_type(dtype), rows, cols, rows as i64)?;
            Ok(Owned(layout, result::destroy_matrix_layout))
        };
        let (w, x, out) = (layout(shape.of, k, n)?, layout(shape.of, k, m)?, layout(shape.to, n, m)?);
        // f32 in f32: no TF32, whose ids would differ from the CPU's.
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let operation = result::create_matmul_desc(compute, sys::cudaDataType_t::CUDA_R_32F)?;
        let operation = Owned(operation, result::destroy_matmul_desc);
        let preference = Owned(result::create_matmul_pref()?, result::destroy_matmul_pref);
        // CUBLAS_OP_T, which these bindings leave out.
        let transposed = 1i32;
        let workspace = WORKSPACE_BYTES as u64;
        // SAFETY: the descriptors were just made; each attribute is given by address and size of a value of the type
        // that the library documents for it (an operation is an i32; u64), and copied.
        let algorithm = unsafe {
            result::set_matmul_desc_attribute(
                operation.0,
                sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA,
                std::ptr::from_ref(&transposed).cast(),
                size_of_val(&transposed),
            )?;
            result::set_matmul_pref_attribute(
                preference.0,
                sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                std::ptr::from_ref(&workspace).cast(),
                size_of_val(&workspace),
            )?;
            let (w, x, out) = (w.0, x.0, out.0);
            result::get_matmul_algo_heuristic(self.handle, operation.0, w, x, out, out, preference.0)?.algo
        };
        Ok(Prepared { operation, w, x, out, algorithm })
    }
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        self.prepared.take();
        let _ = self.stream.synchronize();
        // SAFETY: made in `new`, destroyed only here, when no product is under way.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

fn data_type(dtype: DType) -> sys::cudaDataType_t {
    match dtype {
        DType::F16 => sys::cudaDataType_t::CUDA_R_16F,
        DType::Bf16 => sys::cudaDataType_t::CUDA_R_16BF,
        _ => sys::cudaDataType_t::CUDA_R_32F,
    }
}
