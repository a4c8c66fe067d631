//! Devices and their properties.

use std::sync::PoisonError;

use crate::{CONTEXTS, DEVICE, Outcome, drive, outcome_of, pointer, runtime, write};

/// The release of CUDA whose structures are laid out here.
const RELEASE: i32 = 13_000;
const PROPERTIES_BYTES: usize = 1008;
const NAME_BYTES: usize = 256;
const TOTAL_MEMORY: usize = 288;

/// Fields of cudaDeviceProp, and the driver's number of the attribute that fills each: those of 8 bytes, those of 4.
#[rustfmt::skip]
const LONG_FIELDS: [(usize, i32); 6] = [(296, 8), (312, 11), (352, 9), (624, 81), (672, 97), (696, 111)];
#[rustfmt::skip]
const FIELDS: [(usize, i32); 31] = [
    (304, 12), (308, 10), (320, 1), (324, 2), (328, 3), (332, 4), (336, 5), (340, 6), (344, 7), (360, 75), (364, 76),
    (384, 16), (388, 18), (392, 19), (560, 31), (564, 32), (568, 33), (572, 34), (584, 40), (588, 41), (596, 38), (604, 39),
    (608, 78), (612, 79), (632, 82), (636, 83), (656, 89), (668, 95), (688, 106), (720, 115), (748, 120),
];

/// An attribute by its number, which is the driver's and the runtime's. cudarc's function takes known ones alone.
fn attribute(number: i32, device: i32) -> Outcome<i32> {
    type Get = unsafe extern "C" fn(*mut i32, i32, i32) -> i32;
    let mut value = 0;
    // SAFETY: the driver, which is loaded, has this function with this type, and the pointer is valid.
    let code = unsafe {
        let driver =
            libloading::os::unix::Library::open(Some("libcuda.so.1"), libloading::os::unix::RTLD_LAZY);
        let driver = driver.or_else(|_| {
            libloading::os::unix::Library::open(Some("libcuda.so"), libloading::os::unix::RTLD_LAZY)
        });
        let driver = driver.map_err(|_| crate::error::INITIALIZATION)?;
        let get = driver.get::<Get>(b"cuDeviceGetAttribute").map_err(|_| crate::error::INITIALIZATION)?;
        get(&mut value, number, device)
    };
    outcome_of(code).map(|()| value)
}

runtime! {
    fn cudaGetDeviceCount(count: usize) {
        drive!(cuDeviceGetCount(pointer(count)))
    }

    fn cudaGetDevice(device: usize) {
        write(device, DEVICE.get())
    }

    fn cudaDeviceSynchronize() {
        drive!(cuCtxSynchronize())
    }

    fn cudaDeviceReset() {
        let device = DEVICE.get();
        CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner)[device as usize] = 0;
        drive!(cuDevicePrimaryCtxReset_v2(device))
    }

    fn cudaDeviceGetAttribute(value: usize, number: i32, device: i32) {
        write(value, attribute(number, device)?)
    }

    fn cudaGetDeviceProperties(out: usize, device: i32) {
        let mut properties = [0u8; PROPERTIES_BYTES];
        let mut memory = 0usize;
        drive!(cuDeviceGetName(properties.as_mut_ptr().cast(), NAME_BYTES as i32, device))?;
        drive!(cuDeviceTotalMem_v2(&mut memory, device))?;
        properties[TOTAL_MEMORY..TOTAL_MEMORY + 8].copy_from_slice(&memory.to_le_bytes());
        for (at, number) in LONG_FIELDS {
            properties[at..at + 8].copy_from_slice(&i64::from(attribute(number, device)?).to_le_bytes());
        }
        for (at, number) in FIELDS {
            properties[at..at + 4].copy_from_slice(&attribute(number, device)?.to_le_bytes());
        }
        write(out, properties)
    }

    fn cudaDriverGetVersion(version: usize) {
        drive!(cuDriverGetVersion(pointer(version)))
    }

    fn cudaRuntimeGetVersion(version: usize) {
        write(version, RELEASE)
    }

    fn cudaDeviceGetStreamPriorityRange(least: usize, greatest: usize) {
        drive!(cuCtxGetStreamPriorityRange(pointer(least), pointer(greatest)))
    }
}

/// Sets this thread's device.
#[unsafe(no_mangle)]
pub extern "C" fn cudaSetDevice(device: i32) -> i32 {
    let before = DEVICE.get();
    let set = || {
        let device = u16::try_from(device).map_err(|_| crate::error::INVALID_DEVICE)?;
        DEVICE.set(device.into());
        crate::make_current()
    };
    crate::error::finish(set().inspect_err(|_| DEVICE.set(before)))
}
