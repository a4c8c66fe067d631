//! Occupancy.

use super::library::resolve;
use crate::backend::{MAX_THREADS, RESERVED_SHARED_BYTES, SHARED_UNIT, WARP};
use crate::guard::driver_api;
use crate::host;
use crate::state::lock;
use crate::status::{Code, Outcome};

fn threads_of(threads: i32) -> Outcome<u32> {
    let count = u32::try_from(threads).ok().filter(|threads| *threads > 0);
    count.ok_or_else(|| Code::INVALID_VALUE.because(format!("block of {threads} threads")))
}

/// The one flag is on caching, which nothing depends on here.
fn check_flags(flags: u32) -> Outcome {
    if flags > 1 {
        return Err(Code::INVALID_VALUE.because(format!("occupancy flags {flags:#x}, allowed are 0 and 1")));
    }
    Ok(())
}

fn active_blocks(count: usize, function: usize, threads: i32, dynamic_bytes: usize) -> Outcome {
    let function = resolve(function)?;
    let driver = lock();
    let device = driver.ready()?;
    let facts = &driver.function(function)?.facts;
    let threads = threads_of(threads)?;
    let dynamic_bytes = u32::try_from(dynamic_bytes).unwrap_or(u32::MAX);
    host::write(count, device.blocks_per_multiprocessor(facts, threads, dynamic_bytes) as i32)
}

/// The block size with the most threads in flight; of equals the largest.
fn best_block(
    grid: usize,
    block: usize,
    function: usize,
    per_block: usize,
    dynamic_bytes: usize,
    limit: i32,
) -> Outcome {
    let function = resolve(function)?;
    let driver = lock();
    let device = driver.ready()?;
    let facts = driver.function(function)?.facts.clone();
    drop(driver);
    let most = facts.max_threads.unwrap_or(MAX_THREADS).min(MAX_THREADS);
    let most = u32::try_from(limit).ok().filter(|limit| *limit > 0).map_or(most, |limit| limit.min(most));
    let shared_for = |threads: u32| -> u32 {
        if per_block == 0 {
            return u32::try_from(dynamic_bytes).unwrap_or(u32::MAX);
        }
        // SAFETY: by the driver's contract a non-null address is the caller's function of this type.
        let function: extern "C" fn(i32) -> usize = unsafe { std::mem::transmute(per_block) };
        u32::try_from(function(threads as i32)).unwrap_or(u32::MAX)
    };
    let sizes = (1..=most / WARP).map(|warps| warps * WARP).chain((most < WARP).then_some(most));
    let choice = sizes
        .map(|threads| (device.blocks_per_multiprocessor(&facts, threads, shared_for(threads)), threads))
        .max_by_key(|(blocks, threads)| (blocks * threads, *threads))
        .filter(|(blocks, _)| *blocks > 0)
        .ok_or_else(|| Code::INVALID_VALUE.because("no block size fits"))?;
    host::write(grid, (choice.0 * device.card.multiprocessors) as i32)?;
    host::write(block, choice.1 as i32)
}

driver_api! {
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(count: usize, function: usize, threads: i32, dynamic_bytes: usize) {
        active_blocks(count, function, threads, dynamic_bytes)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        count: usize, function: usize, threads: i32, dynamic_bytes: usize, flags: u32,
    ) {
        check_flags(flags)?;
        active_blocks(count, function, threads, dynamic_bytes)
    }

    fn cuOccupancyMaxPotentialBlockSize(
        grid: usize, block: usize, function: usize, per_block: usize, dynamic_bytes: usize, limit: i32,
    ) {
        best_block(grid, block, function, per_block, dynamic_bytes, limit)
    }

    fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        grid: usize, block: usize, function: usize, per_block: usize, dynamic_bytes: usize, limit: i32, flags: u32,
    ) {
        check_flags(flags)?;
        best_block(grid, block, function, per_block, dynamic_bytes, limit)
    }

    fn cuOccupancyAvailableDynamicSMemPerBlock(bytes: usize, function: usize, blocks: i32, threads: i32) {
        let function = resolve(function)?;
        let driver = lock();
        let device = driver.ready()?;
        let facts = &driver.function(function)?.facts;
        let blocks = u32::try_from(blocks).ok().filter(|blocks| *blocks > 0)
            .ok_or_else(|| Code::INVALID_VALUE.because(format!("{blocks} blocks")))?;
        let fit = threads_of(threads).map(|threads| device.blocks_per_multiprocessor(facts, threads, 0))?;
        if blocks > fit {
            return Err(Code::INVALID_VALUE.because(format!("{blocks} blocks of {threads} threads, {fit} fit")));
        }
        let share = (device.card.shared_per_multiprocessor / blocks / SHARED_UNIT * SHARED_UNIT)
            .saturating_sub(RESERVED_SHARED_BYTES);
        host::write(bytes, share.min(device.card.shared_per_block_optin).saturating_sub(facts.static_shared_bytes) as usize)
    }

    fn cuOccupancyMaxPotentialClusterSize(size: usize, function: usize, config: usize) {
        let function = resolve(function)?;
        let driver = lock();
        let device = driver.ready()?;
        let found = driver.function(function)?;
        let (request, _) = super::launch::Request::read(config)?;
        let threads = request.threads();
        if device.blocks_per_multiprocessor(&found.facts, threads, request.shared_bytes) == 0 {
            return Err(Code::INVALID_VALUE.because("no block of this size fits"));
        }
        let most = if device.card.compute_capability.0 < 9 { 1 } else if found.settings.large_clusters { 16 } else { 8 };
        host::write(size, most)
    }

    fn cuOccupancyMaxActiveClusters(count: usize, function: usize, config: usize) {
        let function = resolve(function)?;
        let driver = lock();
        let device = driver.ready()?;
        let (request, _) = super::launch::Request::read(config)?;
        let found = driver.function(function)?;
        let cluster: u32 = request.check(found, &device)?.iter().product();
        let threads = request.threads();
        let blocks = device.blocks_per_multiprocessor(&found.facts, threads, request.shared_bytes);
        host::write(count, (blocks * device.card.multiprocessors / cluster.max(1)) as i32)
    }
}
