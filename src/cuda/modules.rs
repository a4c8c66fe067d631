//! Compiled kernels in a context and their launch, for the library's own kernels and a caller's.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{CString, c_void};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::sys::{self, CUfunction_attribute as Attribute};
use cudarc::driver::{CudaContext, result};

use super::driver::{cuda, make_current};
use crate::error::{Error, Result};

/// Dynamic shared memory that a block may have unless its kernel was raised to more.
const DEFAULT_SHARED_BYTES: usize = 48 << 10;

/// A function of a loaded module.
#[derive(Debug, Clone, Copy)]
pub struct Function {
    raw: sys::CUfunction,
    compiled_for: i32,
}

// SAFETY: a CUfunction is a handle that the driver lets any thread use; `Modules` keeps its module loaded.
unsafe impl Send for Function {}
// SAFETY: as above; launching changes nothing of the function.
unsafe impl Sync for Function {}

impl Function {
    /// The virtual architecture that it was compiled for: 90 for `compute_90`, also where the driver took machine code.
    pub fn compiled_for(&self) -> i32 {
        self.compiled_for
    }
}

/// The shape of a launch.
#[derive(Debug, Clone, Copy)]
pub struct Grid {
    /// Blocks along x.
    pub x: usize,
    /// Blocks along y.
    pub y: usize,
    /// Blocks of a cluster along x; 1 where there is none, or the kernel itself fixes it (`__cluster_dims__`).
    pub cluster: usize,
    /// Threads of a block.
    pub threads: usize,
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: usize,
    /// Whether blocks may be set up while the work before them on the stream still runs (programmatic dependent launch).
    pub overlaps: bool,
}

impl Default for Grid {
    /// A warp.
    fn default() -> Self {
        Self { x: 1, y: 1, cluster: 1, threads: 32, shared_bytes: 0, overlaps: false }
    }
}

/// A module and the functions found in it, by name, each with the dynamic shared memory that it may have.
struct Loaded {
    module: sys::CUmodule,
    functions: HashMap<String, (Function, usize)>,
}

// SAFETY: module handles may be used from any thread that has the context current.
unsafe impl Send for Loaded {}

impl Loaded {
    fn find(&self, name: &str) -> Result<Function> {
        let c_name = CString::new(name)
            .map_err(|e| Error::CudaUnavailable { what: "finding a kernel", why: e.to_string() })?;
        // SAFETY: the module is loaded, and stays so as long as its `Modules`.
        let raw = unsafe { result::module::get_function(self.module, c_name) }
            .map_err(cuda("cuModuleGetFunction"))?;
        // Attention, merges and a caller's products alternate. All prefer the same division between shared memory and L1, as a
        // multiprocessor must drain to change it.
        let attribute = Attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
        // SAFETY: the function was just found; 100 % is a preference.
        unsafe { result::function::set_function_attribute(raw, attribute, 100) }
            .map_err(cuda("cuFuncSetAttribute"))?;
        let attribute = Attribute::CU_FUNC_ATTRIBUTE_PTX_VERSION;
        // SAFETY: likewise.
        let compiled_for = unsafe { result::function::get_function_attribute(raw, attribute) }
            .map_err(cuda("cuFuncGetAttribute"))?;
        Ok(Function { raw, compiled_for })
    }
}

impl fmt::Debug for Modules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.fatbins.iter().map(|(name, _)| name);
        f.debug_list().entries(names).finish()
    }
}

/// Fatbins in one CUDA context, each loaded when a function of it is first asked for. The library launches its own kernels by
/// it, and an engine can launch others.
pub struct Modules {
    context: Arc<CudaContext>,
    fatbins: Vec<(&'static str, &'static [u8])>,
    /// By name.
    loaded: Mutex<HashMap<&'static str, Loaded>>,
}

impl Modules {
    /// Modules by name.
    ///
    /// # Safety
    /// The bytes of each are a fatbin or cubin that nvcc wrote, which carries its own length, or PTX that ends with 0: the
    /// driver reads them by that.
    pub unsafe fn new(context: &Arc<CudaContext>, fatbins: Vec<(&'static str, &'static [u8])>) -> Self {
        Self { context: context.clone(), fatbins, loaded: Mutex::default() }
    }

    /// The context that they are loaded in.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// A kernel of a module by name, with its shared memory raised to `shared_bytes`.
    ///
    /// # Errors
    /// [`Error::Cuda`] where there is none of this name, or the card lacks the memory.
    pub fn function(&self, module: &str, name: &str, shared_bytes: usize) -> Result<Function> {
        let mut all = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let found = all.get(module).and_then(|loaded| loaded.functions.get(name));
        if let Some((function, _)) = found.filter(|(_, raised_to)| shared_bytes <= *raised_to) {
            return Ok(*function);
        }
        make_current(&self.context)?;
        let loaded = self.module(&mut all, module)?;
        let function = match loaded.functions.get(name) {
            Some((function, _)) => *function,
            None => loaded.find(name)?,
        };
        let too_much = || {
            let why = format!("{shared_bytes} bytes of shared memory, allowed: at most {}", i32::MAX);
            Error::CudaUnavailable { what: "raising a kernel's shared memory", why }
        };
        let shared = i32::try_from(shared_bytes).map_err(|_| too_much())?;
        if shared_bytes > DEFAULT_SHARED_BYTES {
            let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is of a loaded module; the driver refuses a size that the card does not have.
            unsafe { result::function::set_function_attribute(function.raw, attribute, shared) }
                .map_err(cuda("cuFuncSetAttribute"))?;
        }
        let raised_to = shared_bytes.max(DEFAULT_SHARED_BYTES);
        loaded.functions.insert(name.to_owned(), (function, raised_to));
        Ok(function)
    }

    /// A module, which is loaded if it is not; the context is current.
    fn module<'l>(&self, all: &'l mut HashMap<&'static str, Loaded>, name: &str) -> Result<&'l mut Loaded> {
        let Some((key, fatbin)) = self.fatbins.iter().find(|(key, _)| *key == name) else {
            return Err(Error::CudaUnavailable {
                what: "finding a kernel",
                why: format!("no module `{name}`"),
            });
        };
        match all.entry(key) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                // SAFETY: the bytes are what the contract of `new` says; the context is current.
                let module = unsafe { result::module::load_data(fatbin.as_ptr().cast()) }
                    .map_err(cuda("cuModuleLoadData"))?;
                Ok(entry.insert(Loaded { module, functions: HashMap::new() }))
            }
        }
    }

    /// Launches a kernel; nothing where there are no blocks.
    ///
    /// # Safety
    /// `function` is of these modules; `stream` is a live stream of their context; `parameters` point to the function's
    /// parameters, in order, of its types; the device memory they name, and these modules, stay until the launch has run, the
    /// memory as large as the kernel reaches; with `grid.overlaps` the kernel waits for its predecessors before it touches such memory.
    ///
    /// # Errors
    /// [`Error::Cuda`] with the driver's answer, or for more blocks than a card takes.
    pub unsafe fn launch(
        &self,
        function: Function,
        grid: Grid,
        stream: sys::CUstream,
        parameters: &mut [*mut c_void],
    ) -> Result<()> {
        if grid.x == 0 || grid.y == 0 {
            return Ok(());
        }
        let (Ok(x), Ok(y)) = (i32::try_from(grid.x), u16::try_from(grid.y)) else {
            let why = format!("{} x {} blocks, allowed: 2147483647 x 65535", grid.x, grid.y);
            return Err(Error::CudaUnavailable { what: "launching a kernel", why });
        };
        make_current(&self.context)?;
        let overlaps = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let cluster = sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: grid.cluster as u32, y: 1, z: 1 };
        let clusters = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { clusterDim: cluster },
        };
        // `numAttrs` counts from the front: those in use come first. Cards before 9.0 know neither.
        let mut attributes = if grid.overlaps { [overlaps, clusters] } else { [clusters, overlaps] };
        let config = sys::CUlaunchConfig {
            gridDimX: x as u32,
            gridDimY: u32::from(y),
            gridDimZ: 1,
            blockDimX: grid.threads as u32,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: grid.shared_bytes as u32,
            hStream: stream,
            attrs: attributes.as_mut_ptr(),
            numAttrs: u32::from(grid.overlaps) + u32::from(grid.cluster > 1),
        };
        // SAFETY: the driver copies configuration and parameters before the call returns; the rest is this
        // function's contract.
        unsafe {
            sys::cuLaunchKernelEx(&config, function.raw, parameters.as_mut_ptr(), std::ptr::null_mut())
                .result()
        }
        .map_err(cuda("cuLaunchKernelEx"))
    }
}

impl Drop for Modules {
    fn drop(&mut self) {
        let loaded = self.loaded.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (_, Loaded { module, .. }) in loaded.drain() {
            // Where that fails the context may be current all the same, and unloading is tried.
            let _ = make_current(&self.context);
            // SAFETY: loaded in `function`, unloaded only here. Nothing of it runs any more: the library's queues wait for
            // their streams before they let go of it (`QueueInner` in queue.rs), others by the contract of `launch`. A failure
            // leaves nothing to do.
            let _ = unsafe { result::module::unload(module) };
        }
    }
}
