//! The library's kernels in a CUDA context.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::CudaContext;
use cudarc::driver::sys::CUdevice_attribute as Attribute;

use super::modules::{Modules, cuda};
use crate::error::Result;
use crate::plan::DeviceFacts;

include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));

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
    /// [`Error::Cuda`](crate::Error::Cuda) with the driver's answer.
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
        // SAFETY: what the build script had nvcc write.
        let modules = unsafe { Modules::new(context, FATBINS.to_vec()) };
        Ok(Arc::new(Self { facts, modules }))
    }

    /// What plans need to know of the card.
    pub fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    /// The context that the kernels are loaded in.
    pub fn context(&self) -> &Arc<CudaContext> {
        self.modules.context()
    }
}

/// A parameter as [`Modules::launch`] takes it: read, never written.
pub(super) fn address_of<P>(parameter: &P) -> *mut c_void {
    std::ptr::from_ref(parameter).cast_mut().cast()
}
