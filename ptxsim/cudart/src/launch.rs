//! Kernels and variables of a program, as the code that nvcc adds to it registers them, and launches.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys;

use crate::error::{INVALID_CONFIGURATION, INVALID_DEVICE_FUNCTION, INVALID_SYMBOL};
use crate::{DEVICE, Outcome, drive, pointer, runtime, start, write};

/// The runtime's `dim3`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Dimensions {
    x: u32,
    y: u32,
    z: u32,
}

/// A kernel or a variable: its fatbin, the address of its name, and the kernel's handle once it was asked for.
#[derive(Clone, Copy)]
struct Symbol {
    fatbin: usize,
    name: usize,
    kernel: usize,
}

/// What programs have registered. A fatbin is told by the address of its wrapper; kernels and variables by the addresses
/// that stand for them on the host.
#[derive(Default)]
struct Registry {
    /// The library of a fatbin, once it is loaded.
    libraries: HashMap<usize, usize>,
    kernels: HashMap<usize, Symbol>,
    variables: HashMap<usize, Symbol>,
}

static REGISTRY: Mutex<Option<Registry>> = Mutex::new(None);

thread_local! {
    /// Launches between `<<<` and the kernel's own stub: grid, block, shared bytes, stream.
    static CONFIGURATIONS: RefCell<Vec<(Dimensions, Dimensions, usize, usize)>> = const { RefCell::new(Vec::new()) };
}

fn registry() -> MutexGuard<'static, Option<Registry>> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

fn registered<T>(body: impl FnOnce(&mut Registry) -> T) -> T {
    body(registry().get_or_insert_default())
}

/// The library of a fatbin, loaded when something of it is first used.
fn library(registry: &mut Registry, fatbin: usize) -> Outcome<usize> {
    if let Some(known) = registry.libraries.get(&fatbin) {
        return Ok(*known);
    }
    start()?;
    let mut library = null_mut();
    drive!(cuLibraryLoadData(
        &mut library,
        pointer(fatbin),
        null_mut(),
        null_mut(),
        0,
        null_mut(),
        null_mut(),
        0
    ))?;
    registry.libraries.insert(fatbin, library.expose_provenance());
    Ok(library.addr())
}

/// The driver's kernel of a host function, or the kernel itself where the program has its handle.
fn kernel(function: usize) -> Outcome<usize> {
    registered(|registry| {
        let Some(symbol) = registry.kernels.get(&function).copied() else {
            let handle = registry.kernels.values().any(|symbol| symbol.kernel == function && function != 0);
            return if handle { Ok(function) } else { Err(INVALID_DEVICE_FUNCTION) };
        };
        if symbol.kernel != 0 {
            return Ok(symbol.kernel);
        }
        let (library, mut kernel) = (library(registry, symbol.fatbin)?, null_mut());
        drive!(cuLibraryGetKernel(&mut kernel, pointer(library), pointer(symbol.name)))?;
        let handle = kernel.expose_provenance();
        registry.kernels.insert(function, Symbol { kernel: handle, ..symbol });
        Ok(handle)
    })
}

/// Where a variable is on the current device, and its bytes.
pub(crate) fn variable(symbol: usize) -> Outcome<(u64, usize)> {
    registered(|registry| {
        let symbol = registry.variables.get(&symbol).copied().ok_or(INVALID_SYMBOL)?;
        let (library, mut address, mut bytes) = (library(registry, symbol.fatbin)?, 0, 0);
        drive!(cuLibraryGetGlobal(&mut address, &mut bytes, pointer(library), pointer(symbol.name)))?;
        Ok((address, bytes))
    })
}

/// The function in the current context, for what takes no kernel.
fn function(host: usize) -> Outcome<sys::CUfunction> {
    let mut function = null_mut();
    drive!(cuKernelGetFunction(&mut function, pointer(kernel(host)?)))?;
    Ok(function)
}

fn launch(
    host: usize,
    grid: Dimensions,
    block: Dimensions,
    values: usize,
    shared: usize,
    stream: usize,
) -> Outcome {
    let threads = [block.x, block.y, block.z].iter().map(|n| u64::from(*n)).product::<u64>();
    if [grid.x, grid.y, grid.z].contains(&0) || !(1..=1024).contains(&threads) {
        return Err(INVALID_CONFIGURATION);
    }
    let shared = u32::try_from(shared).map_err(|_| INVALID_CONFIGURATION)?;
    let kernel = pointer(kernel(host)?);
    drive!(cuLaunchKernel(
        kernel,
        grid.x,
        grid.y,
        grid.z,
        block.x,
        block.y,
        block.z,
        shared,
        pointer(stream),
        pointer(values),
        null_mut()
    ))
}

/// Registers a fatbin, by its wrapper; nvcc's code hands the answer back.
#[unsafe(no_mangle)]
pub extern "C" fn __cudaRegisterFatBinary(wrapper: usize) -> usize {
    wrapper
}

/// Nothing more comes of a fatbin.
#[unsafe(no_mangle)]
pub extern "C" fn __cudaRegisterFatBinaryEnd(_fatbin: usize) {}

/// Forgets a fatbin. Programs do so at their end, when the driver may be gone: its library stays.
#[unsafe(no_mangle)]
pub extern "C" fn __cudaUnregisterFatBinary(fatbin: usize) {
    registered(|registry| {
        registry.kernels.retain(|_, symbol| symbol.fatbin != fatbin);
        registry.variables.retain(|_, symbol| symbol.fatbin != fatbin);
    });
}

/// Says that a fatbin is ready: it is loaded when it is used.
#[unsafe(no_mangle)]
pub extern "C" fn __cudaInitModule(_fatbin: usize) -> i8 {
    1
}

/// Registers a kernel. What nvcc's code passes behind the name is not read.
#[unsafe(no_mangle)]
pub extern "C" fn __cudaRegisterFunction(fatbin: usize, host: usize, _device: usize, name: usize) {
    registered(|registry| registry.kernels.insert(host, Symbol { fatbin, name, kernel: 0 }));
}

/// Registers a variable, likewise.
#[unsafe(no_mangle)]
pub extern "C" fn __cudaRegisterVar(fatbin: usize, host: usize, _device: usize, name: usize) {
    registered(|registry| registry.variables.insert(host, Symbol { fatbin, name, kernel: 0 }));
}

/// Keeps what stands between `<<<` and `>>>` for the kernel's stub. 0: it shall be called.
#[unsafe(no_mangle)]
pub extern "C" fn __cudaPushCallConfiguration(
    grid: Dimensions,
    block: Dimensions,
    shared: usize,
    stream: usize,
) -> u32 {
    CONFIGURATIONS.with_borrow_mut(|kept| kept.push((grid, block, shared, stream)));
    0
}

runtime! {
    fn __cudaPopCallConfiguration(grid: usize, block: usize, shared: usize, stream: usize) {
        let kept = CONFIGURATIONS.with_borrow_mut(Vec::pop).ok_or(INVALID_CONFIGURATION)?;
        write(grid, kept.0)?;
        write(block, kept.1)?;
        write(shared, kept.2)?;
        write(stream, kept.3)
    }

    fn __cudaGetKernel(out: usize, host: usize) {
        write(out, kernel(host)?)
    }

    fn __cudaLaunchKernel(kernel: usize, grid: Dimensions, block: Dimensions, values: usize, shared: usize, stream: usize) {
        launch(kernel, grid, block, values, shared, stream)
    }

    fn cudaLaunchKernel(host: usize, grid: Dimensions, block: Dimensions, values: usize, shared: usize, stream: usize) {
        launch(host, grid, block, values, shared, stream)
    }

    fn cudaFuncGetAttributes(out: usize, host: usize) {
        let (kernel, device) = (kernel(host)?, DEVICE.get());
        let get = |attribute| {
            let mut value = 0;
            drive!(cuKernelGetAttribute(&mut value, attribute, pointer(kernel), device)).map(|()| value)
        };
        // cudaFuncAttributes: bytes of shared, constant and local memory, then numbers; what is not asked for is 0.
        use sys::CUfunction_attribute as A;
        let bytes = [
            get(A::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?,
            get(A::CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES)?,
            get(A::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES)?,
        ];
        let numbers = [
            get(A::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?,
            get(A::CU_FUNC_ATTRIBUTE_NUM_REGS)?,
            get(A::CU_FUNC_ATTRIBUTE_PTX_VERSION)?,
            get(A::CU_FUNC_ATTRIBUTE_BINARY_VERSION)?,
            get(A::CU_FUNC_ATTRIBUTE_CACHE_MODE_CA)?,
            get(A::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)?,
            get(A::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT)?,
        ];
        write(out, bytes.map(|bytes| bytes as usize))?;
        write(out + 24, numbers)?;
        write(out + 52, [0i32; 23])
    }

    fn cudaFuncSetAttribute(host: usize, attribute: i32, value: i32) {
        use sys::CUfunction_attribute as A;
        let attribute = match attribute {
            8 => A::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
            9 => A::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT,
            _ => return Err(crate::INVALID_VALUE),
        };
        drive!(cuKernelSetAttribute(attribute, value, pointer(kernel(host)?), DEVICE.get()))
    }

    fn cudaOccupancyMaxActiveBlocksPerMultiprocessor(count: usize, host: usize, threads: i32, shared: usize) {
        drive!(cuOccupancyMaxActiveBlocksPerMultiprocessor(pointer(count), function(host)?, threads, shared))
    }

    fn cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        count: usize, host: usize, threads: i32, shared: usize, flags: u32,
    ) {
        drive!(cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
            pointer(count), function(host)?, threads, shared, flags
        ))
    }
}
