//! Device and pinned host memory.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::sync::Arc;

use crate::backend::Device;
use crate::guard::driver_api;
use crate::host;
use crate::schedule::{Fill, Goal, Work, relieve, wait};
use crate::state::{Driver, Pinned, lock};
use crate::status::{Code, Outcome};

const PAGE: usize = 4096;
/// More pinned memory than this is a mistake.
const PINNED_LIMIT: usize = 1 << 36;

fn refuse_during_capture(driver: &Driver) -> Outcome {
    if driver.captures.is_empty() {
        return Ok(());
    }
    Err(Code::STREAM_CAPTURE_UNSUPPORTED.because("not stream-ordered, and a stream is being captured"))
}

fn allocate(out: usize, bytes: usize) -> Outcome {
    let driver = lock();
    let device = driver.ready()?;
    refuse_during_capture(&driver)?;
    let address = device.allocate(bytes as u64)?;
    host::write(out, address).inspect_err(|_| drop(device.free(address)))
}

/// Memory of a card, or of the stream's.
fn allocate_ordered(out: usize, bytes: usize, card: Option<usize>, stream: usize) -> Outcome {
    let mut driver = lock();
    driver.ready()?;
    let stream = driver.stream_handle(stream)?;
    let found = &driver.streams[&stream];
    let device = driver.devices.0[card.unwrap_or(found.card)].clone();
    let captured = found.capture.is_some();
    let address = device.allocate(bytes as u64)?;
    host::write(out, address).inspect_err(|_| drop(device.free(address)))?;
    let work = if captured { Work::Allocate { at: address, bytes: bytes as u64 } } else { Work::Nothing };
    driver.issue(stream, work)?;
    drop(driver);
    relieve(stream)
}

/// The card of an allocation that starts at an address.
fn owner(driver: &Driver, address: u64) -> Outcome<Arc<Device>> {
    let device = driver.device_of(address)?;
    if device.allocation(address).is_none_or(|(start, _)| start != address) {
        return Err(
            Code::INVALID_VALUE.because(format!("{address:#x} is not the start of a live allocation"))
        );
    }
    Ok(device)
}

fn pin(out: usize, bytes: usize) -> Outcome {
    let mut driver = lock();
    let card = driver.ready()?.ordinal;
    if bytes == 0 || bytes > PINNED_LIMIT {
        return Err(Code::INVALID_VALUE.because(format!("{bytes} bytes of pinned memory")));
    }
    let layout = Layout::from_size_align(bytes, PAGE).map_err(|_| Code::INVALID_VALUE)?;
    // SAFETY: the layout has a size above zero.
    let address = unsafe { alloc_zeroed(layout) } as usize;
    if address == 0 {
        return Err(Code::OUT_OF_MEMORY.because(format!("{bytes} bytes of pinned memory")));
    }
    let id = driver.handle();
    driver.pinned.insert(address, Pinned { bytes, card, id });
    host::write(out, address)
}

/// Queues a fill of rows of 1, 2 or 4-byte elements.
fn fill(
    to: u64,
    element: &[u8],
    columns: usize,
    rows: usize,
    pitch: usize,
    stream: usize,
    block: bool,
) -> Outcome {
    let mut driver = lock();
    let device = driver.ready()?;
    let stream = driver.own_stream(stream)?;
    let row_bytes = columns.saturating_mul(element.len());
    if !to.is_multiple_of(element.len() as u64) {
        return Err(Code::INVALID_VALUE.because(format!("{to:#x} is not aligned to {} bytes", element.len())));
    }
    if rows > 1 && pitch < row_bytes {
        return Err(
            Code::INVALID_VALUE.because(format!("pitch {pitch} is less than a row of {row_bytes} bytes"))
        );
    }
    if columns == 0 || rows == 0 {
        return Ok(());
    }
    device.check(to, (pitch.saturating_mul(rows - 1)).saturating_add(row_bytes) as u64)?;
    driver.issue(
        stream,
        Work::Fill(Fill { to, element: element.to_vec(), columns, rows, pitch_bytes: pitch }),
    )?;
    let goal = driver.goal(stream);
    drop(driver);
    if block { wait(goal) } else { relieve(stream) }
}

driver_api! {
    fn cuMemAlloc_v2(out: usize, bytes: usize) {
        allocate(out, bytes)
    }

    fn cuMemAllocPitch_v2(out: usize, pitch: usize, width: usize, height: usize, element: u32) {
        if !matches!(element, 4 | 8 | 16) {
            return Err(Code::INVALID_VALUE.because(format!("element size {element}, allowed are 4, 8, 16")));
        }
        let row = width.checked_next_multiple_of(512).ok_or(Code::INVALID_VALUE)?;
        let bytes = row.checked_mul(height).ok_or(Code::INVALID_VALUE)?;
        host::write(pitch, row)?;
        allocate(out, bytes)
    }

    fn cuMemFree_v2(address: u64) {
        let driver = lock();
        driver.ready()?;
        refuse_during_capture(&driver)?;
        if address == 0 {
            return Ok(());
        }
        let device = owner(&driver, address)?;
        drop(driver);
        // The driver frees only when the card is idle.
        wait(Goal::Card(device.ordinal))?;
        device.free(address)
    }

    fn cuMemAllocAsync(out: usize, bytes: usize, stream: usize) {
        allocate_ordered(out, bytes, None, stream)
    }

    fn cuMemAllocFromPoolAsync(out: usize, bytes: usize, pool: usize, stream: usize) {
        let card = super::pool::find(&lock(), pool)?.card;
        allocate_ordered(out, bytes, Some(card), stream)
    }

    fn cuMemFreeAsync(address: u64, stream: usize) {
        let mut driver = lock();
        driver.ready()?;
        let stream = driver.stream_handle(stream)?;
        owner(&driver, address)?;
        driver.issue(stream, Work::Free(address))?;
        drop(driver);
        relieve(stream)
    }

    fn cuMemGetInfo_v2(free: usize, total: usize) {
        let device = lock().ready()?;
        host::write(free, device.card.memory_bytes.saturating_sub(device.used_bytes()))?;
        host::write(total, device.card.memory_bytes)
    }

    fn cuMemGetAddressRange_v2(base: usize, bytes: usize, address: u64) {
        let device = lock().device_of(address)?;
        let (start, length) = device.allocation(address)
            .ok_or_else(|| Code::NOT_FOUND.because(format!("{address:#x} is not in a live allocation")))?;
        host::write_optional(base, start)?;
        host::write_optional(bytes, length)
    }

    fn cuPointerGetAttribute(out: usize, attribute: i32, address: u64) {
        let driver = lock();
        let device = driver.device_of(address)?;
        let found = device.allocation(address);
        let pinned = driver.pinned(address as usize, 1);
        if found.is_none() && pinned.is_none() {
            return Err(Code::INVALID_VALUE.because(format!("{address:#x} is neither device nor pinned memory")));
        }
        let (start, length) = found.unwrap_or((address, 0));
        let card = pinned.map_or(device.ordinal, |pinned| pinned.card);
        match attribute {
            1 => host::write(out, driver.cards[card].primary),
            // Memory type: 1 host, 2 device.
            2 => host::write(out, if found.is_some() { 2u32 } else { 1 }),
            3 if found.is_some() => host::write(out, address),
            4 if pinned.is_some() => host::write(out, address),
            8 => host::write(out, 0u32),
            9 => host::write(out, card as i32),
            11 => host::write(out, start),
            12 => host::write(out, length),
            13 => host::write(out, 1u32),
            _ => Err(Code::NOT_SUPPORTED.because(format!("pointer attribute {attribute}"))),
        }
    }

    fn cuMemHostAlloc(out: usize, bytes: usize, _flags: u32) {
        pin(out, bytes)
    }

    fn cuMemAllocHost_v2(out: usize, bytes: usize) {
        pin(out, bytes)
    }

    fn cuMemFreeHost(address: usize) {
        let mut driver = lock();
        driver.ready()?;
        let gone = driver.pinned.remove(&address)
            .ok_or_else(|| Code::INVALID_VALUE.because(format!("{address:#x} is not a pinned allocation")))?;
        if let Ok(layout) = Layout::from_size_align(gone.bytes, PAGE) {
            // SAFETY: the table held this address, so `pin` allocated it with this layout, and removing
            // the entry made this the only free. Copies that are queued find the entry gone; those that run
            // hold the lock while they use the memory.
            unsafe { dealloc(address as *mut u8, layout) };
        }
        Ok(())
    }

    fn cuMemHostRegister_v2(address: usize, bytes: usize, _flags: u32) {
        let mut driver = lock();
        let card = driver.ready()?.ordinal;
        let mut probe = [0];
        host::read_bytes(address, &mut probe)?;
        if bytes == 0 {
            return Err(Code::INVALID_VALUE.because("0 bytes to register"));
        }
        let id = driver.handle();
        driver.registered.insert(address, Pinned { bytes, card, id });
        Ok(())
    }

    fn cuMemHostUnregister(address: usize) {
        let mut driver = lock();
        driver.ready()?;
        driver.registered.remove(&address).map(|_| ())
            .ok_or_else(|| Code::INVALID_VALUE.because(format!("{address:#x} is not registered")))
    }

    fn cuMemsetD8_v2(to: u64, value: u8, count: usize) {
        fill(to, &[value], count, 1, 0, 0, true)
    }

    fn cuMemsetD16_v2(to: u64, value: u16, count: usize) {
        fill(to, &value.to_le_bytes(), count, 1, 0, 0, true)
    }

    fn cuMemsetD32_v2(to: u64, value: u32, count: usize) {
        fill(to, &value.to_le_bytes(), count, 1, 0, 0, true)
    }

    fn cuMemsetD8Async(to: u64, value: u8, count: usize, stream: usize) {
        fill(to, &[value], count, 1, 0, stream, false)
    }

    fn cuMemsetD16Async(to: u64, value: u16, count: usize, stream: usize) {
        fill(to, &value.to_le_bytes(), count, 1, 0, stream, false)
    }

    fn cuMemsetD32Async(to: u64, value: u32, count: usize, stream: usize) {
        fill(to, &value.to_le_bytes(), count, 1, 0, stream, false)
    }

    fn cuMemsetD2D8_v2(to: u64, pitch: usize, value: u8, width: usize, height: usize) {
        fill(to, &[value], width, height, pitch, 0, true)
    }

    fn cuMemsetD2D32_v2(to: u64, pitch: usize, value: u32, width: usize, height: usize) {
        fill(to, &value.to_le_bytes(), width, height, pitch, 0, true)
    }
}
