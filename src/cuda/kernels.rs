//! The compiled kernels in a CUDA context, and the only code that calls the driver unsafely.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUfunction_attribute};
use cudarc::driver::{CudaContext, DriverError, result};

use crate::error::{Error, Result};
use crate::plan::DeviceFacts;

include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));

/// Shared memory that a block gets without asking.
const DEFAULT_SHARED_BYTES: usize = 48 << 10;

pub(super) fn cuda(what: &'static str) -> impl Fn(DriverError) -> Error {
    move |error| Error::Cuda { what, why: format!("{error:?}") }
}

/// A function of a loaded module.
#[derive(Clone, Copy)]
pub(super) struct Function(sys::CUfunction);

// SAFETY: a CUfunction is a handle that the driver lets any thread use; `Kernels` keeps its module loaded.
unsafe impl Send for Function {}
// SAFETY: as above; launching changes nothing of the function.
unsafe impl Sync for Function {}

/// What was loaded so far: modules by the name of their source, functions by their own.
#[derive(Default)]
struct Loaded {
    modules: HashMap<&'static str, sys::CUmodule>,
    functions: HashMap<String, Function>,
}

// SAFETY: module handles may be used from any thread that has the context current.
unsafe impl Send for Loaded {}

/// The library's kernels in one CUDA context, each module loaded when a plan first needs it. Cheap to share: clone
/// the `Arc`.
pub struct Kernels {
    context: Arc<CudaContext>,
    facts: DeviceFacts,
    loaded: Mutex<Loaded>,
}

impl Kernels {
    /// The kernels for `context` and its card.
    ///
    /// # Errors
    /// [`Error::Cuda`] with the driver's answer.
    pub fn new(context: &Arc<CudaContext>) -> Result<Arc<Self>> {
        context.bind_to_thread().map_err(cuda("making the context current"))?;
        let get = |attribute| -> Result<usize> {
            let value = context.attribute(attribute).map_err(cuda("asking for a device attribute"))?;
            Ok(usize::try_from(value).unwrap_or(0))
        };
        let facts = DeviceFacts {
            compute_capability: (
                get(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)? as u32,
                get(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)? as u32,
            ),
            multiprocessors: get(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_bytes_per_block: get(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            shared_bytes_per_multiprocessor: get(
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR,
            )?,
            threads_per_multiprocessor: get(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR)?,
        };
        Ok(Arc::new(Self { context: context.clone(), facts, loaded: Mutex::default() }))
    }

    /// What plans need to know of the card.
    pub fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    /// The context that the kernels are loaded in.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// A kernel of a module by name, with its shared memory raised to `shared_bytes`.
    pub(super) fn function(&self, module: &str, name: &str, shared_bytes: usize) -> Result<Function> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = loaded.functions.get(name) {
            return Ok(*function);
        }
        self.context.bind_to_thread().map_err(cuda("making the context current"))?;
        let c_name =
            CString::new(name).map_err(|e| Error::Cuda { what: "finding a kernel", why: e.to_string() })?;
        let Some((key, fatbin)) = FATBINS.iter().find(|(key, _)| *key == module) else {
            return Err(Error::Cuda { what: "finding a kernel", why: format!("no module `{module}`") });
        };
        let module = match loaded.modules.get(key) {
            Some(module) => *module,
            None => {
                // SAFETY: the bytes are a fatbin that nvcc wrote, which carries its own length; the context is
                // current.
                let module = unsafe { result::module::load_data(fatbin.as_ptr().cast()) }
                    .map_err(cuda("loading the kernels"))?;
                loaded.modules.insert(key, module);
                module
            }
        };
        // SAFETY: the module is loaded, and stays so as long as `self`.
        let function =
            unsafe { result::module::get_function(module, c_name) }.map_err(cuda("finding a kernel"))?;
        if shared_bytes > DEFAULT_SHARED_BYTES {
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function was just found; the plan checked the size against the card.
            unsafe { result::function::set_function_attribute(function, attribute, shared_bytes as i32) }
                .map_err(cuda("raising a kernel's shared memory"))?;
        }
        // Attention and merges alternate: one division between shared memory and L1 for both, so that the card need not
        // drain to change it.
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
        // SAFETY: the function was just found; 100 % is a preference.
        unsafe { result::function::set_function_attribute(function, attribute, 100) }
            .map_err(cuda("preferring shared memory"))?;
        loaded.functions.insert(name.to_owned(), Function(function));
        Ok(Function(function))
    }

    /// Launches a kernel.
    ///
    /// # Safety
    /// `stream` is a live stream of [`Kernels::context`]; `parameters` point to the function's parameters, in order,
    /// of its types; the device memory they name stays allocated until the launch has run, as large as the kernel
    /// reaches; with `launch.overlaps` the kernel waits for its predecessors before it touches such memory.
    pub(super) unsafe fn launch(
        &self,
        function: Function,
        launch: Grid,
        stream: sys::CUstream,
        parameters: &mut [*mut c_void],
    ) -> Result<()> {
        self.context.bind_to_thread().map_err(cuda("making the context current"))?;
        let mut attribute = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: launch.blocks as u32,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: launch.threads as u32,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: launch.shared_bytes as u32,
            hStream: stream,
            attrs: &mut attribute,
            numAttrs: u32::from(launch.overlaps),
        };
        // SAFETY: the driver copies configuration and parameters before the call returns; the rest is this
        // function's contract.
        unsafe {
            sys::cuLaunchKernelEx(&config, function.0, parameters.as_mut_ptr(), std::ptr::null_mut()).result()
        }
        .map_err(cuda("launching a kernel"))
    }
}

/// A parameter as [`Kernels::launch`] takes it: read, never written.
pub(super) fn address_of<P>(parameter: &P) -> *mut c_void {
    std::ptr::from_ref(parameter).cast_mut().cast()
}

/// The shape of a launch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    pub(super) blocks: usize,
    pub(super) threads: usize,
    pub(super) shared_bytes: usize,
    /// Whether blocks may be set up while the work before them on the stream still runs.
    pub(super) overlaps: bool,
}

impl Drop for Kernels {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            let loaded = self.loaded.get_mut().unwrap_or_else(PoisonError::into_inner);
            for (_, module) in loaded.modules.drain() {
                // SAFETY: loaded in `function`, unloaded only here. Launches hold an `Arc` of `self` until they are
                // dropped, and the driver finishes what it was given. A failure leaves nothing to do.
                let _ = unsafe { result::module::unload(module) };
            }
        }
    }
}
