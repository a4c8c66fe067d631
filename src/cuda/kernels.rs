//! The library's kernels in a CUDA context.

use std::fmt;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};
use cudarc::driver::{CudaContext, DriverError, result};

use super::driver::{cuda, make_current};
use super::modules::{Function, Modules};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::plan::{DeviceFacts, variants};

include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));

// Has cargo compile this file again when another checkout built into the same target folder, whose fatbins.rs the line above
// would read: by file times alone cargo would not notice.
const _: Option<&str> = option_env!("ONEKV_CHECKOUT");

/// A release of CUDA, major and minor.
type Release = (u32, u32);

/// What the build script compiled, and with what.
struct Made {
    /// The release of nvcc.
    toolkit: Release,
    /// Whether machine code is compressed.
    compressed: bool,
    /// Compute capabilities that there is machine code for, times ten.
    machine_code: &'static [u32],
}

impl fmt::Debug for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernels").field("facts", &self.facts).finish_non_exhaustive()
    }
}

/// The library's kernels in one CUDA context, each module loaded when a plan first needs it. Cheap to share: clone
/// the `Arc`.
pub struct Kernels {
    facts: DeviceFacts,
    pub(super) modules: Modules,
}

impl Kernels {
    /// The kernels for `context` and its card.
    ///
    /// # Errors
    /// [`Error::Cuda`] with the driver's answer; [`Error::CudaUnavailable`] where it is too old for what nvcc made.
    pub fn new(context: &Arc<CudaContext>) -> Result<Arc<Self>> {
        make_current(context)?;
        let get = |attribute| -> Result<usize> {
            // SAFETY: the device of a live context.
            let value = unsafe { result::device::get_attribute(context.cu_device(), attribute) }
                .map_err(cuda("cuDeviceGetAttribute"))?;
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
        let (major, minor) = facts.compute_capability;
        MADE.loads(driver_release()?, 10 * major + minor)?;
        // SAFETY: what the build script had nvcc write.
        let modules = unsafe { Modules::new(context, FATBINS.to_vec()) };
        Ok(Arc::new(Self { facts, modules }))
    }

    /// What plans need to know of the card.
    pub fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    /// Loads every kernel that plans of this type may choose on this card, and those that merge states of it. Otherwise the first
    /// [`Queue::prepare`](super::Queue::prepare) or [`Queue::merge_states`](super::Queue::merge_states) that needs one loads it.
    ///
    /// # Errors
    /// [`Error::Cuda`].
    pub fn preload(&self, dtype: DType) -> Result<()> {
        for variant in variants::all().filter(|v| v.dtype == dtype && v.fits(&self.facts)) {
            self.modules.function(&variant.module(), &variant.kernel(), variant.shared_bytes)?;
            let (module, name) = variant.combine();
            self.modules.function(&module, &name, 0)?;
        }
        for from in [DType::F32, dtype] {
            self.merge_kernel(from, dtype)?;
        }
        Ok(())
    }

    /// The kernel that merges states of one type into another.
    pub(super) fn merge_kernel(&self, from: DType, to: DType) -> Result<Function> {
        let name = match (from, to) {
            (DType::F32, DType::F32) => "onekv_merge_f32_f32",
            (DType::F32, DType::F16) => "onekv_merge_f32_f16",
            (DType::F32, DType::Bf16) => "onekv_merge_f32_bf16",
            (DType::F16, DType::F16) => "onekv_merge_f16_f16",
            (DType::Bf16, DType::Bf16) => "onekv_merge_bf16_bf16",
            _ => return Err(Error::WrongDType { value: from, planned: to }),
        };
        self.modules.function("merge", name, 0)
    }

    /// The context that the kernels are loaded in.
    pub fn context(&self) -> &Arc<CudaContext> {
        self.modules.context()
    }
}

/// The release of CUDA that the driver supports.
fn driver_release() -> Result<Release> {
    let mut version = 0;
    // SAFETY: writes one integer, at an address that it may write to.
    let answer = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    answer.result().map_err(|error: DriverError| cuda("cuDriverGetVersion")(error))?;
    let version = u32::try_from(version).unwrap_or(0);
    Ok((version / 1000, version % 1000 / 10))
}

impl Made {
    /// Whether a driver loads this on a card. Drivers load machine code of all releases with their own major number or a
    /// lower one ("CUDA Compatibility", minor version compatibility), and compile PTX of their own release or a lower one.
    fn loads(&self, driver: Release, card: u32) -> Result<()> {
        // Machine code runs on cards of the same major number that came later.
        let is_compiled = self.machine_code.iter().any(|arch| arch / 10 == card / 10 && *arch <= card);
        let needed = match self.toolkit {
            // Drivers unpack it from R550 on.
            (12, _) if is_compiled && self.compressed => (12, 4),
            (major, _) if is_compiled => (major, 0),
            release => release,
        };
        if driver >= needed {
            return Ok(());
        }
        let dotted = |(major, minor): Release| format!("{major}.{minor}");
        let (driver, toolkit, needed) = (dotted(driver), dotted(self.toolkit), dotted(needed));
        let mut why = format!(
            "the driver is of CUDA {driver}, and what nvcc {toolkit} made for this card needs {needed} or newer: update the \
             driver, or build with an older nvcc"
        );
        if !is_compiled {
            why += &format!(", or with {card} in ONEKV_CUDA_ARCHS");
        }
        Err(Error::CudaUnavailable { what: "loading the kernels", why })
    }
}

#[cfg(test)]
mod tests {
    use super::{Made, Release};

    #[test]
    fn drivers_load_machine_code_of_their_major_release_and_ptx_of_their_own() {
        let made = |toolkit, compressed| Made { toolkit, compressed, machine_code: &[80, 90] };
        let loads = |driver: Release, toolkit: Release, card| {
            made(toolkit, toolkit >= (12, 8)).loads(driver, card).is_ok()
        };
        // Machine code, for the card or an older one of its kind.
        assert!(loads((12, 0), (12, 6), 90) && loads((12, 0), (12, 6), 86));
        assert!(loads((12, 4), (12, 8), 90) && !loads((12, 3), (12, 8), 90));
        assert!(made((12, 8), false).loads((12, 3), 90).is_ok());
        assert!(loads((13, 0), (13, 5), 90) && !loads((12, 9), (13, 0), 90));
        // PTX alone.
        assert!(loads((13, 5), (13, 5), 120) && !loads((13, 4), (13, 5), 120));
        assert!(!loads((12, 0), (12, 6), 75) && loads((13, 0), (12, 9), 100));
        let text = made((13, 0), true).loads((12, 2), 90).unwrap_err().to_string();
        let what = "the driver is of CUDA 12.2, and what nvcc 13.0 made for this card needs 13.0 or newer";
        assert!(text.contains(what) && !text.contains("ONEKV_CUDA_ARCHS"), "{text}");
        let text = made((13, 5), true).loads((13, 0), 120).unwrap_err().to_string();
        assert!(text.contains("with 120 in ONEKV_CUDA_ARCHS"), "{text}");
    }
}
