//! Look-up of the exported functions by name and release of CUDA.

use crate::exported::exported;
use crate::guard::{driver_api, trace};
use crate::host;
use crate::status::{Code, Outcome};

/// No symbol name is longer.
const NAME_LIMIT: usize = 256;
/// Flags: functions whose stream 0 is the legacy stream, or the thread's own.
const LEGACY_STREAM: u64 = 1;
const PER_THREAD_STREAM: u64 = 2;

/// What a look-up gives beside the address.
const FOUND: i32 = 0;
const NO_SYMBOL: i32 = 1;
const TOO_OLD: i32 = 2;

driver_api! {
    fn cuGetProcAddress(symbol: usize, function: usize, version: i32, flags: u64) {
        look_up(symbol, function, version, flags, 0)
    }

    fn cuGetProcAddress_v2(symbol: usize, function: usize, version: i32, flags: u64, status: usize) {
        look_up(symbol, function, version, flags, status)
    }
}

fn look_up(symbol: usize, function: usize, version: i32, flags: u64, status: usize) -> Outcome {
    if flags & !(LEGACY_STREAM | PER_THREAD_STREAM) != 0 || flags == LEGACY_STREAM | PER_THREAD_STREAM {
        return Err(Code::INVALID_VALUE.because(format!("look-up flags {flags:#x}, allowed are 0, 1, 2")));
    }
    let name = host::read_c_string(symbol, NAME_LIMIT)?;
    let name =
        String::from_utf8(name).map_err(|_| Code::INVALID_VALUE.because("a symbol name that is not text"))?;
    let (told, address) = match variant(&name, version) {
        None => (TOO_OLD, 0),
        Some(suffix) => {
            let per_thread = flags & PER_THREAD_STREAM != 0;
            let own = per_thread.then(|| {
                ["_ptsz", "_ptds"].into_iter().find_map(|stream| exported(&format!("{name}{suffix}{stream}")))
            });
            match own.flatten().or_else(|| exported(&format!("{name}{suffix}"))) {
                Some(address) => (FOUND, address),
                None => (NO_SYMBOL, 0),
            }
        }
    };
    trace(|| {
        format!(
            "look-up of {name} as of {version}, flags {flags}: {}",
            ["found", "not there", "release too old"][told as usize]
        )
    });
    host::write(function, address)?;
    host::write_optional(status, told)?;
    if told == FOUND { Ok(()) } else { Err(Code::NOT_FOUND.into()) }
}

/// The suffix of the variant that a release of CUDA has; `None`: it has none yet.
fn variant(name: &str, version: i32) -> Option<&'static str> {
    let Ok(at) = VARIANTS.binary_search_by_key(&name, |row| row.0) else {
        return Some("");
    };
    let count = VARIANTS[at].1.iter().take_while(|since| **since <= version).count();
    ["", "_v2", "_v3", "_v4"].get(count.checked_sub(1)?).copied()
}

/// The functions of which there are several variants, and the release that each came with, as cudaTypedefs.h has
/// them: the first is exported under the plain name, the next ones with `_v2`, `_v3`, `_v4`. Ordered by name.
#[rustfmt::skip]
static VARIANTS: &[(&str, &[i32])] = &[
    ("cuArray3DCreate", &[2000, 3020]),
    ("cuArray3DGetDescriptor", &[2000, 3020]),
    ("cuArrayCreate", &[2000, 3020]),
    ("cuArrayGetDescriptor", &[2000, 3020]),
    ("cuCtxCreate", &[2000, 3020, 11040, 12050]),
    ("cuCtxDestroy", &[2000, 4000]),
    ("cuCtxGetDevice", &[2000, 13000]),
    ("cuCtxPopCurrent", &[2000, 4000]),
    ("cuCtxPushCurrent", &[2000, 4000]),
    ("cuCtxSynchronize", &[2000, 13000]),
    ("cuDeviceGetUuid", &[9020, 11040]),
    ("cuDevicePrimaryCtxRelease", &[7000, 11000]),
    ("cuDevicePrimaryCtxReset", &[7000, 11000]),
    ("cuDevicePrimaryCtxSetFlags", &[7000, 11000]),
    ("cuDeviceTotalMem", &[2000, 3020]),
    ("cuEventDestroy", &[2000, 4000]),
    ("cuEventElapsedTime", &[2000, 12080]),
    ("cuGetProcAddress", &[11030, 12000]),
    ("cuGraphAddDependencies", &[10000, 12030]),
    ("cuGraphAddKernelNode", &[10000, 12000]),
    ("cuGraphAddNode", &[12020, 12030, 13040]),
    ("cuGraphExecKernelNodeSetParams", &[10010, 12000]),
    ("cuGraphExecUpdate", &[10020, 12000]),
    ("cuGraphGetEdges", &[10000, 12030]),
    ("cuGraphInstantiate", &[10000, 11000]),
    ("cuGraphKernelNodeGetParams", &[10000, 12000]),
    ("cuGraphKernelNodeSetParams", &[10000, 12000]),
    ("cuGraphNodeGetDependencies", &[10000, 12030]),
    ("cuGraphNodeGetDependentNodes", &[10000, 12030]),
    ("cuGraphNodeSetParams", &[12020, 13040]),
    ("cuGraphRemoveDependencies", &[10000, 12030]),
    ("cuGraphicsResourceGetMappedPointer", &[3000, 3020]),
    ("cuGraphicsResourceSetMapFlags", &[3000, 6050]),
    ("cuIpcOpenMemHandle", &[4010, 11000]),
    ("cuLaunchHostFunc", &[10000, 13010]),
    ("cuLinkAddData", &[5050, 6050]),
    ("cuLinkAddFile", &[5050, 6050]),
    ("cuLinkCreate", &[5050, 6050]),
    ("cuMemAdvise", &[8000, 12020]),
    ("cuMemAlloc", &[2000, 3020]),
    ("cuMemAllocHost", &[2000, 3020]),
    ("cuMemAllocPitch", &[2000, 3020]),
    ("cuMemFree", &[2000, 3020]),
    ("cuMemGetAddressRange", &[2000, 3020]),
    ("cuMemGetInfo", &[2000, 3020]),
    ("cuMemHostGetDevicePointer", &[2020, 3020]),
    ("cuMemHostRegister", &[4000, 6050]),
    ("cuMemPrefetchAsync", &[8000, 12020]),
    ("cuMemcpy2D", &[2000, 3020]),
    ("cuMemcpy2DAsync", &[2000, 3020]),
    ("cuMemcpy2DUnaligned", &[2000, 3020]),
    ("cuMemcpy3D", &[2000, 3020]),
    ("cuMemcpy3DAsync", &[2000, 3020]),
    ("cuMemcpy3DBatchAsync", &[12080, 13000]),
    ("cuMemcpyAtoA", &[2000, 3020]),
    ("cuMemcpyAtoD", &[2000, 3020]),
    ("cuMemcpyAtoH", &[2000, 3020]),
    ("cuMemcpyAtoHAsync", &[2000, 3020]),
    ("cuMemcpyBatchAsync", &[12080, 13000]),
    ("cuMemcpyDtoA", &[2000, 3020]),
    ("cuMemcpyDtoD", &[2000, 3020]),
    ("cuMemcpyDtoDAsync", &[3000, 3020]),
    ("cuMemcpyDtoH", &[2000, 3020]),
    ("cuMemcpyDtoHAsync", &[2000, 3020]),
    ("cuMemcpyHtoA", &[2000, 3020]),
    ("cuMemcpyHtoAAsync", &[2000, 3020]),
    ("cuMemcpyHtoD", &[2000, 3020]),
    ("cuMemcpyHtoDAsync", &[2000, 3020]),
    ("cuMemsetD16", &[2000, 3020]),
    ("cuMemsetD2D16", &[2000, 3020]),
    ("cuMemsetD2D32", &[2000, 3020]),
    ("cuMemsetD2D8", &[2000, 3020]),
    ("cuMemsetD32", &[2000, 3020]),
    ("cuMemsetD8", &[2000, 3020]),
    ("cuModuleGetGlobal", &[2000, 3020]),
    ("cuMulticastBindAddr", &[12010, 13010]),
    ("cuMulticastBindMem", &[12010, 13010]),
    ("cuStreamBatchMemOp", &[8000, 11070]),
    ("cuStreamBeginCapture", &[10000, 10010]),
    ("cuStreamDestroy", &[2000, 4000]),
    ("cuStreamGetCaptureInfo", &[10010, 11030, 12030]),
    ("cuStreamGetCtx", &[9020, 12050]),
    ("cuStreamUpdateCaptureDependencies", &[11030, 12030]),
    ("cuStreamWaitValue32", &[8000, 11070]),
    ("cuStreamWaitValue64", &[9000, 11070]),
    ("cuStreamWriteValue32", &[8000, 11070]),
    ("cuStreamWriteValue64", &[9000, 11070]),
    ("cuTexRefGetAddress", &[2000, 3020]),
    ("cuTexRefSetAddress", &[2000, 3020]),
    ("cuTexRefSetAddress2D", &[2020, 3020, 4010]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_gets_the_variant_it_was_made_for() {
        assert!(VARIANTS.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(variant("cuStreamGetCaptureInfo", 10_010), Some(""));
        assert_eq!(variant("cuStreamGetCaptureInfo", 12_020), Some("_v2"));
        assert_eq!(variant("cuStreamGetCaptureInfo", 13_000), Some("_v3"));
        assert_eq!(variant("cuStreamGetCaptureInfo", 9_000), None);
        assert_eq!(variant("cuInit", 2_000), Some(""));
    }
}
