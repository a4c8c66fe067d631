//! NVIDIA's private tables of functions.

use crate::guard::driver_api;
use crate::status::Code;

driver_api! {
    // The CUDA runtime (libcudart 12 and 13, linked or loaded) asks for seven of them. With two it has the driver answer a
    // challenge, and where the answer is not its driver's it gives up with cudaErrorSoftwareValidityNotEstablished, "at least
    // one of these tests has failed and the validity of either the runtime or the driver could not be established". This
    // driver is another one and does not pretend; without the tables the runtime gives up with cudaErrorNotSupported.
    fn cuGetExportTable(_table: usize, _id: usize) {
        static TOLD: std::sync::Once = std::sync::Once::new();
        let mut failure = Code::NOT_SUPPORTED.into();
        TOLD.call_once(|| failure = Code::NOT_SUPPORTED.because(
            "NVIDIA's CUDA runtime (libcudart) checks that the driver is NVIDIA's own, and this one is not. Programs that \
             load the runtime (nvcc -cudart shared) can load ptxsim's in its place, see ptxsim/cudart; those that it is \
             linked into do not run here",
        ));
        Err(failure)
    }
}
