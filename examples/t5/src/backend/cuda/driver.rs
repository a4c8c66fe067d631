//! The example's kernels in a CUDA context, launched as onekv launches its own.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::from_ref;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use cudarc::driver::sys::{CUdevice_attribute as Attribute, CUdeviceptr, CUresult, CUstream};
use cudarc::driver::{CudaContext, CudaStream};
use onekv::Error;
use onekv::cuda::{Grid, Modules, TensorMap};

/// The sources in `cuda/`, compiled.
const FATBINS: [(&str, &[u8]); 4] = [
    ("elementwise", include_bytes!(concat!(env!("OUT_DIR"), "/elementwise.fatbin"))),
    ("decode", include_bytes!(concat!(env!("OUT_DIR"), "/decode.fatbin"))),
    ("encode", include_bytes!(concat!(env!("OUT_DIR"), "/encode.fatbin"))),
    ("gemm_sm90a", include_bytes!(concat!(env!("OUT_DIR"), "/gemm_sm90a.fatbin"))),
];

/// What the driver says where a fatbin has no such kernel for the card.
const NOT_FOR_THIS_CARD: [CUresult; 2] =
    [CUresult::CUDA_ERROR_NOT_FOUND, CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU];

/// A context, its one stream and the kernels.
pub struct Driver {
    pub context: Arc<CudaContext>,
    pub stream: Arc<CudaStream>,
    /// Where kernels go: to that stream, or to a recording.
    pub launch_stream: Cell<CUstream>,
    pub multiprocessors: usize,
    /// Whether `cuda/gemm_sm90a.cu` runs here.
    pub hopper: bool,
    modules: Modules,
}

/// One argument of a kernel.
#[derive(Debug, Clone, Copy)]
pub enum Argument<'a> {
    /// Device memory, or 0.
    At(CUdeviceptr),
    Int(i32),
    Long(i64),
    Float(f32),
    Map(&'a TensorMap),
    /// A structure of C.
    Bytes(&'a [u8]),
}

/// The first virtual architecture whose launches can overlap.
const OVERLAPS_FROM: i32 = 90;

/// An error for a card that is too old.
pub fn capable(card: &str, (major, minor): (i32, i32)) -> Result<()> {
    if major < 8 {
        bail!(
            "{card} has compute capability {major}.{minor}, allowed: 8.0 or newer, for bf16 and for the kernels as such"
        );
    }
    Ok(())
}

/// Waits for all work of a stream.
pub fn wait(stream: &CudaStream) -> Result<()> {
    stream.synchronize().context("cannot wait for the card")
}

impl Driver {
    pub fn open() -> Result<Self> {
        let context = onekv::cuda::context(0)?;
        let card = "cannot open the card";
        let capability = context.compute_capability().context(card)?;
        capable(&context.name().context(card)?, capability)?;
        let stream = context.new_stream().context(card)?;
        context.bind_to_thread().context(card)?;
        let multiprocessors = context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
        let multiprocessors = multiprocessors.context(card)?;
        // SAFETY: what the build script had nvcc write.
        let modules = unsafe { Modules::new(&context, FATBINS.to_vec()) };
        // Of the images in a fatbin the driver takes one; whether that is Hopper's is what it has.
        let found = || match modules.function("gemm_sm90a", "t5_gemm_sm90a_bf16_64", 0) {
            Ok(_) => Ok(true),
            Err(Error::Cuda { result, .. }) if NOT_FOR_THIS_CARD.contains(&result) => Ok(false),
            Err(error) => Err(error),
        };
        let hopper = capability == (9, 0) && found()?;
        let launch_stream = Cell::new(stream.cu_stream());
        Ok(Self {
            multiprocessors: multiprocessors as usize,
            hopper,
            context,
            stream,
            launch_stream,
            modules,
        })
    }

    /// Queues a kernel; nothing where there are no blocks.
    ///
    /// # Safety
    /// `arguments` are those of the kernel `name` of `module`, by order, type and size; its pointers are memory of this context that is
    /// as large as the kernel reaches, and that is released by way of this stream, and not before a recording is that it is
    /// queued to.
    pub unsafe fn launch(
        &self,
        module: &str,
        name: &str,
        grid: Grid,
        arguments: &[Argument<'_>],
    ) -> Result<()> {
        let function = self.modules.function(module, name, grid.shared_bytes)?;
        // It begins with `in_order` of cuda/order.cuh, or waits as that does.
        let grid = Grid { overlaps: function.compiled_for() >= OVERLAPS_FROM, ..grid };
        let address = |argument: &Argument<'_>| -> *const c_void {
            match argument {
                Argument::At(x) => from_ref(x).cast(),
                Argument::Int(x) => from_ref(x).cast(),
                Argument::Long(x) => from_ref(x).cast(),
                Argument::Float(x) => from_ref(x).cast(),
                Argument::Map(map) => from_ref(*map).cast(),
                Argument::Bytes(bytes) => bytes.as_ptr().cast(),
            }
        };
        let mut list: Vec<*mut c_void> = arguments.iter().map(|a| address(a).cast_mut()).collect();
        // SAFETY: every pointer is to a value of the type that the kernel declares for the argument, and lives until the
        // call returns; the rest is this function's contract.
        unsafe { self.modules.launch(function, grid, self.launch_stream.get(), &mut list) }
            .with_context(|| format!("cannot launch {name}"))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Recordings that hold the kernels are gone, but their last replay may not have ended.
        let _ = self.stream.synchronize();
    }
}
