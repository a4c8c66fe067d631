//! The example's kernels in a CUDA context: loading and launching them. Unsafe code of the driver's calls lives here.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::mem::MaybeUninit;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUdeviceptr, CUfunction_attribute};
use cudarc::driver::{CudaContext, CudaStream, result};
use onekv::DType;

/// A source in `cuda/t5/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Module {
    Elementwise,
    Decode,
    Encode,
    Gemm,
    GemmSm90,
}

/// The sources, compiled, in the order of [`Module`].
const FATBINS: [&[u8]; 5] = [
    include_bytes!(concat!(env!("OUT_DIR"), "/t5_elementwise.fatbin")),
    include_bytes!(concat!(env!("OUT_DIR"), "/t5_decode.fatbin")),
    include_bytes!(concat!(env!("OUT_DIR"), "/t5_encode.fatbin")),
    include_bytes!(concat!(env!("OUT_DIR"), "/t5_gemm.fatbin")),
    include_bytes!(concat!(env!("OUT_DIR"), "/t5_gemm_sm90.fatbin")),
];
/// Shared memory that a block gets without asking.
const DEFAULT_SHARED_BYTES: usize = 48 << 10;

/// A context, its one stream and the kernels.
pub struct Driver {
    pub context: Arc<CudaContext>,
    pub stream: Arc<CudaStream>,
    pub multiprocessors: usize,
    hopper: bool,
    modules: Vec<sys::CUmodule>,
    functions: RefCell<HashMap<String, Function>>,
}

#[derive(Clone, Copy)]
struct Function {
    raw: sys::CUfunction,
    /// It begins with `in_order` of cuda/t5/order.cuh, or waits as that does.
    waits: bool,
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

/// A matrix as the copy engine sees it, `TensorMap` of cuda/ptx/tensor_copy.cuh.
#[derive(Debug, Clone, Copy)]
pub struct TensorMap(sys::CUtensorMap);

impl TensorMap {
    /// Of `[planes, rows, cols]` of a 16-bit type, row-major, without gaps, in boxes of `box_rows` rows of every plane and 64
    /// columns; columns a multiple of 8. What lies past the end reads as zeros.
    pub fn new(
        at: CUdeviceptr,
        dtype: DType,
        [planes, rows, cols]: [usize; 3],
        box_rows: usize,
    ) -> Result<Self> {
        let data_type = match dtype {
            DType::F16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            DType::Bf16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            other => bail!("the type is {other:?}, allowed: F16 or Bf16"),
        };
        let dimensions = [cols, rows, planes, 1].map(|n| n as u64);
        let steps = [cols * 2, rows * cols * 2, planes * rows * cols * 2].map(|n| n as u64);
        let box_size = [64, box_rows as u32, planes as u32, 1];
        let mut map = MaybeUninit::<sys::CUtensorMap>::uninit();
        // SAFETY: the arrays have as many elements as the rank asks for, one less of strides; the map is written where
        // the call succeeds, and only then read.
        unsafe {
            sys::cuTensorMapEncodeTiled(
                map.as_mut_ptr(),
                data_type,
                4,
                at as *mut _,
                dimensions.as_ptr(),
                steps.as_ptr(),
                box_size.as_ptr(),
                [1u32; 4].as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
            .result()
            .context("cannot describe a matrix to the copy engine")?;
            Ok(Self(map.assume_init()))
        }
    }
}

/// A launch: blocks by x and y, blocks of a cluster along x, threads and dynamic shared memory of a block.
#[derive(Debug, Clone, Copy)]
pub struct Grid {
    pub x: usize,
    pub y: usize,
    pub cluster: usize,
    pub threads: usize,
    pub shared_bytes: usize,
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

impl Driver {
    pub fn open() -> Result<Self> {
        let context = onekv::cuda::context(0)?;
        let capability = context.compute_capability()?;
        capable(&context.name()?, capability)?;
        // SAFETY: all work is on the one stream that is made below, so no stream has to wait for another's events.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream()?;
        context.bind_to_thread()?;
        let multiprocessors = context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let mut driver = Self {
            multiprocessors: multiprocessors as usize,
            hopper: false,
            context,
            stream,
            modules: Vec::new(),
            functions: RefCell::default(),
        };
        for fatbin in FATBINS {
            // SAFETY: the bytes are a fatbin that nvcc wrote, which carries its own length; the context is current.
            let module = unsafe { result::module::load_data(fatbin.as_ptr().cast()) };
            driver.modules.push(module.context("cannot load the T5 kernels")?);
        }
        // Of the images in a fatbin the driver takes one; whether that is Hopper's is what it has.
        let own = c"t5_gemm_sm90_bf16_64".into();
        // SAFETY: the module was just loaded.
        let found =
            || unsafe { result::module::get_function(driver.modules[Module::GemmSm90 as usize], own) };
        driver.hopper = capability == (9, 0) && found().is_ok();
        Ok(driver)
    }

    /// Whether `cuda/t5/gemm_sm90.cu` runs here.
    pub fn is_hopper(&self) -> bool {
        self.hopper
    }

    /// A device attribute, `None` where the driver does not know it or it is 0.
    pub fn attribute(&self, attribute: Attribute) -> Option<f64> {
        self.context.attribute(attribute).ok().filter(|value| *value > 0).map(f64::from)
    }

    fn function(&self, module: Module, name: &str, shared_bytes: usize) -> Result<Function> {
        if let Some(function) = self.functions.borrow().get(name) {
            return Ok(*function);
        }
        let c_name = CString::new(name)?;
        // SAFETY: the module is loaded, and stays so as long as `self`.
        let function = unsafe { result::module::get_function(self.modules[module as usize], c_name) }
            .with_context(|| format!("no kernel is called {name}"))?;
        if shared_bytes > DEFAULT_SHARED_BYTES {
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function was just found; the driver refuses a size that the card does not have.
            unsafe { result::function::set_function_attribute(function, attribute, shared_bytes as i32) }
                .with_context(|| {
                    format!("the card lacks {shared_bytes} bytes of shared memory for {name}")
                })?;
        }
        // Attention and products want shared memory: one division between it and L1 for all kernels, so that the card
        // need not drain to change it.
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
        // SAFETY: the function was just found; 100 % is a preference.
        unsafe { result::function::set_function_attribute(function, attribute, 100) }?;
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_PTX_VERSION;
        // SAFETY: likewise. What it was compiled for says whether it waits, whichever image the driver took.
        let compiled_for = unsafe { result::function::get_function_attribute(function, attribute) }?;
        let function = Function { raw: function, waits: compiled_for >= OVERLAPS_FROM };
        self.functions.borrow_mut().insert(name.to_owned(), function);
        Ok(function)
    }

    /// Queues a kernel on the stream; nothing where there are no blocks.
    ///
    /// # Safety
    /// `arguments` are those of the kernel `name` of `module`, by order, type and size; its pointers are memory of this context that is
    /// as large as the kernel reaches, and that is released by way of this stream.
    pub unsafe fn launch(
        &self,
        module: Module,
        name: &str,
        grid: Grid,
        arguments: &[Argument<'_>],
    ) -> Result<()> {
        if grid.x == 0 || grid.y == 0 {
            return Ok(());
        }
        let (Ok(x), Ok(y)) = (i32::try_from(grid.x), u16::try_from(grid.y)) else {
            bail!("{name} would take {} x {} blocks, allowed: 2147483647 x 65535", grid.x, grid.y);
        };
        self.context.bind_to_thread()?;
        let function = self.function(module, name, grid.shared_bytes)?;
        // The driver copies each argument from its address, by the size that the kernel declares; on a
        // little-endian machine the lower bytes come first.
        let values: Vec<u64> = arguments
            .iter()
            .map(|argument| match *argument {
                Argument::At(at) => at,
                Argument::Int(x) => u64::from(x as u32),
                Argument::Long(x) => x as u64,
                Argument::Float(x) => u64::from(x.to_bits()),
                Argument::Map(_) | Argument::Bytes(_) => 0,
            })
            .collect();
        let mut pointers: Vec<*mut c_void> = arguments
            .iter()
            .zip(&values)
            .map(|(argument, value)| match *argument {
                Argument::Map(map) => std::ptr::from_ref(&map.0).cast(),
                Argument::Bytes(bytes) => bytes.as_ptr().cast(),
                _ => std::ptr::from_ref(value).cast(),
            })
            .map(|at: *const c_void| at.cast_mut())
            .collect();
        let mut attributes = [
            sys::CUlaunchAttribute {
                id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                pad: [0; 4],
                value: sys::CUlaunchAttributeValue {
                    programmaticStreamSerializationAllowed: i32::from(function.waits),
                },
            },
            sys::CUlaunchAttribute {
                id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
                pad: [0; 4],
                value: sys::CUlaunchAttributeValue {
                    clusterDim: sys::CUlaunchAttributeValue_union__bindgen_ty_1 {
                        x: grid.cluster as u32,
                        y: 1,
                        z: 1,
                    },
                },
            },
        ];
        let config = sys::CUlaunchConfig {
            gridDimX: x as u32,
            gridDimY: u32::from(y),
            gridDimZ: 1,
            blockDimX: grid.threads as u32,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: grid.shared_bytes as u32,
            hStream: self.stream.cu_stream(),
            attrs: attributes.as_mut_ptr(),
            // Without clusters, and on cards that know neither, none.
            numAttrs: match (grid.cluster, function.waits) {
                (1, false) => 0,
                (1, true) => 1,
                _ => 2,
            },
        };
        // SAFETY: every pointer is to as many bytes as the kernel declares for the argument, or to 8 where it declares at
        // most that; the driver reads them and has copied them, and the configuration, when the call returns. The rest
        // is this function's contract.
        unsafe {
            sys::cuLaunchKernelEx(&config, function.raw, pointers.as_mut_ptr(), std::ptr::null_mut()).result()
        }
        .with_context(|| format!("cannot launch {name}"))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // Recordings that hold the functions are gone, but their last replay may not have ended.
            let _ = self.stream.synchronize();
            for module in self.modules.drain(..) {
                // SAFETY: loaded in `open`, unloaded only here. A failure leaves nothing to do.
                let _ = unsafe { result::module::unload(module) };
            }
        }
    }
}
