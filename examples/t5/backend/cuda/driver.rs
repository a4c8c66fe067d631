//! The example's kernels in a CUDA context: loading and launching them. Unsafe code of the driver's calls lives here.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUdeviceptr, CUfunction_attribute};
use cudarc::driver::{CudaContext, CudaStream, result};

/// A source in `cuda/t5/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Module {
    Elementwise,
    Decode,
    Encode,
    Gemm,
}

/// The sources, compiled, in the order of [`Module`].
const FATBINS: [&[u8]; 4] = [
    include_bytes!(concat!(env!("OUT_DIR"), "/t5_elementwise.fatbin")),
    include_bytes!(concat!(env!("OUT_DIR"), "/t5_decode.fatbin")),
    include_bytes!(concat!(env!("OUT_DIR"), "/t5_encode.fatbin")),
    include_bytes!(concat!(env!("OUT_DIR"), "/t5_gemm.fatbin")),
];
/// Shared memory that a block gets without asking.
const DEFAULT_SHARED_BYTES: usize = 48 << 10;

/// A context, its one stream and the kernels.
pub struct Driver {
    pub context: Arc<CudaContext>,
    pub stream: Arc<CudaStream>,
    modules: Vec<sys::CUmodule>,
    functions: RefCell<HashMap<String, sys::CUfunction>>,
}

/// One argument of a kernel.
#[derive(Debug, Clone, Copy)]
pub enum Argument {
    /// Device memory, or 0.
    At(CUdeviceptr),
    Int(i32),
    Long(i64),
    Float(f32),
}

/// A launch: blocks by x and y, threads and dynamic shared memory of a block.
#[derive(Debug, Clone, Copy)]
pub struct Grid {
    pub x: usize,
    pub y: usize,
    pub threads: usize,
    pub shared_bytes: usize,
}

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
        capable(&context.name()?, context.compute_capability()?)?;
        // SAFETY: all work is on the one stream that is made below, so no stream has to wait for another's events.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream()?;
        context.bind_to_thread()?;
        let mut driver = Self { context, stream, modules: Vec::new(), functions: RefCell::default() };
        for fatbin in FATBINS {
            // SAFETY: the bytes are a fatbin that nvcc wrote, which carries its own length; the context is current.
            let module = unsafe { result::module::load_data(fatbin.as_ptr().cast()) };
            driver.modules.push(module.context("cannot load the T5 kernels")?);
        }
        Ok(driver)
    }

    /// A device attribute, `None` where the driver does not know it or it is 0.
    pub fn attribute(&self, attribute: Attribute) -> Option<f64> {
        self.context.attribute(attribute).ok().filter(|value| *value > 0).map(f64::from)
    }

    fn function(&self, module: Module, name: &str, shared_bytes: usize) -> Result<sys::CUfunction> {
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
        self.functions.borrow_mut().insert(name.to_owned(), function);
        Ok(function)
    }

    /// Queues a kernel on the stream; nothing where there are no blocks.
    ///
    /// # Safety
    /// `arguments` are those of the kernel `name` of `module`, by order and type; its pointers are memory of this context that is
    /// as large as the kernel reaches, and that is released by way of this stream.
    pub unsafe fn launch(
        &self,
        module: Module,
        name: &str,
        grid: Grid,
        arguments: &[Argument],
    ) -> Result<()> {
        if grid.x == 0 || grid.y == 0 {
            return Ok(());
        }
        let Grid { threads, shared_bytes, .. } = grid;
        let (Ok(x), Ok(y)) = (i32::try_from(grid.x), u16::try_from(grid.y)) else {
            bail!("{name} would take {} x {} blocks, allowed: 2147483647 x 65535", grid.x, grid.y);
        };
        self.context.bind_to_thread()?;
        let function = self.function(module, name, shared_bytes)?;
        // The driver copies each argument from its address, by the size that the kernel declares; on a
        // little-endian machine the lower bytes come first.
        let mut values: Vec<u64> = arguments
            .iter()
            .map(|argument| match *argument {
                Argument::At(at) => at,
                Argument::Int(x) => u64::from(x as u32),
                Argument::Long(x) => x as u64,
                Argument::Float(x) => u64::from(x.to_bits()),
            })
            .collect();
        let mut pointers: Vec<*mut c_void> =
            values.iter_mut().map(|v| std::ptr::from_mut(v).cast()).collect();
        // SAFETY: every pointer is to 8 bytes, no argument is larger, and the driver has copied them when the call
        // returns; the rest is this function's contract.
        unsafe {
            result::launch_kernel(
                function,
                (x as u32, u32::from(y), 1),
                (threads as u32, 1, 1),
                shared_bytes as u32,
                self.stream.cu_stream(),
                &mut pointers,
            )
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
