//! Memory, copies and variables.

use cudarc::driver::sys;

use crate::error::INVALID_COPY;
use crate::launch::variable;
use crate::{INVALID_VALUE, Outcome, drive, pointer, runtime, write};

/// Kinds of copies.
const HOST_TO_HOST: i32 = 0;
const HOST_TO_DEVICE: i32 = 1;
const DEVICE_TO_HOST: i32 = 2;
const DEVICE_TO_DEVICE: i32 = 3;
const BY_ADDRESS: i32 = 4;

/// Whether the driver knows an address.
fn known(address: usize) -> bool {
    let mut kind = 0u32;
    let attribute = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE;
    drive!(cuPointerGetAttribute((&raw mut kind).cast(), attribute, address as u64)).is_ok()
}

/// A copy on a stream, or one that is waited for.
fn copy(to: usize, from: usize, bytes: usize, kind: i32, stream: Option<usize>) -> Outcome {
    let (device_to, device_from) = (to as u64, from as u64);
    let (host_to, host_from) = (pointer(to), pointer(from));
    match (kind, stream.map(pointer)) {
        _ if bytes == 0 => Ok(()),
        (HOST_TO_HOST, _) => copy_on_host(to, from, bytes, stream),
        (BY_ADDRESS, _) if !known(to) && !known(from) => copy_on_host(to, from, bytes, stream),
        (HOST_TO_DEVICE, None) => drive!(cuMemcpyHtoD_v2(device_to, host_from, bytes)),
        (DEVICE_TO_HOST, None) => drive!(cuMemcpyDtoH_v2(host_to, device_from, bytes)),
        (DEVICE_TO_DEVICE, None) => drive!(cuMemcpyDtoD_v2(device_to, device_from, bytes)),
        (BY_ADDRESS, None) => drive!(cuMemcpy(device_to, device_from, bytes)),
        (HOST_TO_DEVICE, Some(stream)) => drive!(cuMemcpyHtoDAsync_v2(device_to, host_from, bytes, stream)),
        (DEVICE_TO_HOST, Some(stream)) => drive!(cuMemcpyDtoHAsync_v2(host_to, device_from, bytes, stream)),
        (DEVICE_TO_DEVICE, Some(stream)) => {
            drive!(cuMemcpyDtoDAsync_v2(device_to, device_from, bytes, stream))
        }
        (BY_ADDRESS, Some(stream)) => drive!(cuMemcpyAsync(device_to, device_from, bytes, stream)),
        _ => Err(INVALID_COPY),
    }
}

/// A copy from host to host comes after what is queued on its stream.
fn copy_on_host(to: usize, from: usize, bytes: usize, stream: Option<usize>) -> Outcome {
    drive!(cuStreamSynchronize(pointer(stream.unwrap_or(0))))?;
    // SAFETY: by the runtime's documentation both are the caller's memory of so many bytes.
    unsafe { std::ptr::copy(pointer::<u8>(from).cast_const(), pointer(to), bytes) };
    Ok(())
}

/// The address of a part of a variable.
fn part(symbol: usize, bytes: usize, offset: usize) -> Outcome<usize> {
    let (address, room) = variable(symbol)?;
    if offset.checked_add(bytes).is_none_or(|end| end > room) {
        return Err(INVALID_VALUE);
    }
    Ok(address as usize + offset)
}

runtime! {
    fn cudaMalloc(out: usize, bytes: usize) {
        // The runtime gives a null pointer where nothing is asked for.
        if bytes == 0 { write(out, 0usize) } else { drive!(cuMemAlloc_v2(pointer(out), bytes)) }
    }

    fn cudaFree(address: usize) {
        drive!(cuMemFree_v2(address as u64))
    }

    fn cudaMallocAsync(out: usize, bytes: usize, stream: usize) {
        drive!(cuMemAllocAsync(pointer(out), bytes, pointer(stream)))
    }

    fn cudaFreeAsync(address: usize, stream: usize) {
        drive!(cuMemFreeAsync(address as u64, pointer(stream)))
    }

    fn cudaMallocManaged(out: usize, bytes: usize, flags: u32) {
        drive!(cuMemAllocManaged(pointer(out), bytes, flags))
    }

    fn cudaMallocHost(out: usize, bytes: usize) {
        drive!(cuMemHostAlloc(pointer(out), bytes, 0))
    }

    fn cudaHostAlloc(out: usize, bytes: usize, flags: u32) {
        drive!(cuMemHostAlloc(pointer(out), bytes, flags))
    }

    fn cudaFreeHost(address: usize) {
        if address == 0 { Ok(()) } else { drive!(cuMemFreeHost(pointer(address))) }
    }

    fn cudaHostGetDevicePointer(out: usize, address: usize, flags: u32) {
        drive!(cuMemHostGetDevicePointer_v2(pointer(out), pointer(address), flags))
    }

    fn cudaMemGetInfo(free: usize, total: usize) {
        drive!(cuMemGetInfo_v2(pointer(free), pointer(total)))
    }

    fn cudaMemcpy(to: usize, from: usize, bytes: usize, kind: i32) {
        copy(to, from, bytes, kind, None)
    }

    fn cudaMemcpyAsync(to: usize, from: usize, bytes: usize, kind: i32, stream: usize) {
        copy(to, from, bytes, kind, Some(stream))
    }

    fn cudaMemset(to: usize, value: i32, bytes: usize) {
        drive!(cuMemsetD8_v2(to as u64, value as u8, bytes))
    }

    fn cudaMemsetAsync(to: usize, value: i32, bytes: usize, stream: usize) {
        drive!(cuMemsetD8Async(to as u64, value as u8, bytes, pointer(stream)))
    }

    fn cudaMemcpyToSymbol(symbol: usize, from: usize, bytes: usize, offset: usize, kind: i32) {
        copy(part(symbol, bytes, offset)?, from, bytes, kind, None)
    }

    fn cudaMemcpyFromSymbol(to: usize, symbol: usize, bytes: usize, offset: usize, kind: i32) {
        copy(to, part(symbol, bytes, offset)?, bytes, kind, None)
    }

    fn cudaMemcpyToSymbolAsync(symbol: usize, from: usize, bytes: usize, offset: usize, kind: i32, stream: usize) {
        copy(part(symbol, bytes, offset)?, from, bytes, kind, Some(stream))
    }

    fn cudaMemcpyFromSymbolAsync(to: usize, symbol: usize, bytes: usize, offset: usize, kind: i32, stream: usize) {
        copy(to, part(symbol, bytes, offset)?, bytes, kind, Some(stream))
    }

    fn cudaGetSymbolAddress(out: usize, symbol: usize) {
        write(out, variable(symbol)?.0)
    }

    fn cudaGetSymbolSize(out: usize, symbol: usize) {
        write(out, variable(symbol)?.1)
    }
}
