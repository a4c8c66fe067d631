//! Device memory.

use std::sync::Arc;

use crate::backend::Device;
use crate::guard::driver_api;
use crate::host;
use crate::schedule::{Goal, relieve, wait};
use crate::state::{Driver, lock};
use crate::status::{Code, Outcome};
use crate::work::{Fill, Handle, Work};

fn allocate(out: usize, bytes: usize) -> Outcome {
    let driver = lock();
    let device = driver.ready()?;
    driver.refuse_during_capture()?;
    let address = device.allocate(bytes as u64)?;
    host::write(out, address).inspect_err(|_| drop(device.free(address)))
}

/// Memory of a pool, or of the pool of the stream's card.
fn allocate_ordered(out: usize, bytes: usize, pool: Option<Handle>, stream: usize) -> Outcome {
    let mut driver = lock();
    driver.ready()?;
    let stream = driver.stream_handle(stream)?;
    let found = &driver.streams[&stream];
    let (card, captured) = (found.card, found.capture.is_some());
    let pool = pool.unwrap_or(driver.cards[card].pool);
    let device = driver.devices.0[super::pool::find(&driver, pool as usize)?.card].clone();
    let address = device.allocate(bytes as u64)?;
    if let Some(pool) = driver.pools.get_mut(&pool) {
        pool.high = pool.high.max(device.used_bytes());
    }
    host::write(out, address).inspect_err(|_| drop(device.free(address)))?;
    let work = if captured { Work::Allocate { at: address, bytes: bytes as u64 } } else { Work::Nothing };
    driver.issue(stream, work)?;
    drop(driver);
    relieve(stream)
}

/// The card of an allocation that starts at an address.
fn owner(driver: &Driver, address: u64) -> Outcome<Arc<Device>> {
    let device = driver.device_of(address)?;
    let host = driver.host_memory(address as usize, 1).is_some();
    if host || device.allocation(address).is_none_or(|(start, _)| start != address) {
        return Err(
            Code::INVALID_VALUE.because(format!("{address:#x} is not the start of a live allocation"))
        );
    }
    Ok(device)
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
        driver.refuse_during_capture()?;
        if address == 0 {
            return Ok(());
        }
        if driver.managed(address).is_some_and(|(start, _)| start as u64 == address) {
            let cards = driver.devices.0.len();
            drop(driver);
            (0..cards).try_for_each(|card| wait(Goal::Card(card)))?;
            lock().forget_host_memory(address as usize);
            return Ok(());
        }
        let device = owner(&driver, address)?;
        drop(driver);
        // The driver frees only when the card is idle.
        wait(Goal::Card(device.ordinal))?;
        device.free(address)
    }

    fn cuMemAllocAsync as cuMemAllocAsync_ptsz(out: usize, bytes: usize, stream: usize) {
        allocate_ordered(out, bytes, None, stream)
    }

    fn cuMemAllocFromPoolAsync as cuMemAllocFromPoolAsync_ptsz(out: usize, bytes: usize, pool: usize, stream: usize) {
        allocate_ordered(out, bytes, Some(pool as Handle), stream)
    }

    fn cuMemFreeAsync as cuMemFreeAsync_ptsz(address: u64, stream: usize) {
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

    fn cuMemsetD8_v2 as cuMemsetD8_v2_ptds(to: u64, value: u8, count: usize) {
        fill(to, &[value], count, 1, 0, 0, true)
    }

    fn cuMemsetD16_v2 as cuMemsetD16_v2_ptds(to: u64, value: u16, count: usize) {
        fill(to, &value.to_le_bytes(), count, 1, 0, 0, true)
    }

    fn cuMemsetD32_v2 as cuMemsetD32_v2_ptds(to: u64, value: u32, count: usize) {
        fill(to, &value.to_le_bytes(), count, 1, 0, 0, true)
    }

    fn cuMemsetD8Async as cuMemsetD8Async_ptsz(to: u64, value: u8, count: usize, stream: usize) {
        fill(to, &[value], count, 1, 0, stream, false)
    }

    fn cuMemsetD16Async as cuMemsetD16Async_ptsz(to: u64, value: u16, count: usize, stream: usize) {
        fill(to, &value.to_le_bytes(), count, 1, 0, stream, false)
    }

    fn cuMemsetD32Async as cuMemsetD32Async_ptsz(to: u64, value: u32, count: usize, stream: usize) {
        fill(to, &value.to_le_bytes(), count, 1, 0, stream, false)
    }

    fn cuMemsetD2D8_v2 as cuMemsetD2D8_v2_ptds(to: u64, pitch: usize, value: u8, width: usize, height: usize) {
        fill(to, &[value], width, height, pitch, 0, true)
    }

    fn cuMemsetD2D32_v2 as cuMemsetD2D32_v2_ptds(to: u64, pitch: usize, value: u32, width: usize, height: usize) {
        fill(to, &value.to_le_bytes(), width, height, pitch, 0, true)
    }
}
