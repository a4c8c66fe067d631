//! Contexts. Those of one card share its memory, its default streams and its errors.

use crate::guard::driver_api;
use crate::host;
use crate::schedule::{Goal, wait};
use crate::state::{current, lock};
use crate::status::{Code, Outcome};
use crate::work::Handle;

/// Limits that a context has by default: number, value.
const LIMITS: [(i32, usize); 7] =
    [(0, 1024), (1, 1 << 20), (2, 8 << 20), (3, 2), (4, 2048), (5, 128), (6, 0)];

/// The flags of a context: how a thread waits (one of 1, 2, 4), mapped host memory, local memory kept, memory operations
/// that synchronise. Here all of them hold anyway, or change nothing that a program can tell.
fn check_flags(flags: u32) -> Outcome {
    const CORE_DUMPS: u32 = 0x60;
    if flags & !0xff != 0 || (flags & 7).count_ones() > 1 {
        return Err(Code::INVALID_VALUE.because(format!(
            "context flags {flags:#x}, allowed: one of 1, 2, 4, with any of 0x8, 0x10, 0x20, 0x40, 0x80"
        )));
    }
    if flags & CORE_DUMPS != 0 {
        return Err(Code::NOT_SUPPORTED.because(format!("context flags {flags:#x}: there are no core dumps")));
    }
    Ok(())
}

fn create(out: usize, flags: u32, device: i32) -> Outcome {
    check_flags(flags)?;
    let card = super::device::get(device)?.ordinal;
    let mut driver = lock();
    let handle = driver.handle();
    host::write(out, handle)?;
    driver.context_flags.insert(handle, flags);
    driver.cards[card].contexts.push(handle);
    current(|stack| stack.push(handle));
    Ok(())
}

/// A live context and its card.
pub(super) fn known(context: usize) -> Outcome<(Handle, usize)> {
    let handle = context as Handle;
    let card = lock().card_of(handle);
    let card =
        card.ok_or_else(|| Code::INVALID_CONTEXT.because(format!("{context:#x} is not a live context")))?;
    Ok((handle, card))
}

fn set_current(context: usize) -> Outcome {
    lock().any_device()?;
    if context == 0 {
        current(Vec::pop);
        return Ok(());
    }
    let (handle, _) = known(context)?;
    current(|stack| {
        stack.pop();
        stack.push(handle);
    });
    Ok(())
}

fn release(device: i32, all: bool) -> Outcome {
    let ordinal = super::device::get(device)?.ordinal;
    let mut driver = lock();
    let card = &mut driver.cards[ordinal];
    if card.primary_references == 0 {
        return if all {
            Ok(())
        } else {
            Err(Code::INVALID_CONTEXT.because("the primary context is not retained"))
        };
    }
    card.primary_references = if all { 0 } else { card.primary_references - 1 };
    if card.primary_references > 0 {
        return Ok(());
    }
    drop(driver);
    // What is queued still runs: its faults are part of the program's result.
    let outcome = wait(Goal::Card(ordinal));
    let mut driver = lock();
    let card = &driver.cards[ordinal];
    // Another thread may have retained it meanwhile; then it lives on, as if that had come first.
    if all || card.primary_references == 0 {
        let primary = card.primary;
        driver.drop_context(primary);
    }
    outcome.or(Ok(()))
}

driver_api! {
    fn cuDevicePrimaryCtxRetain(context: usize, device: i32) {
        let ordinal = super::device::get(device)?.ordinal;
        let mut driver = lock();
        let card = &mut driver.cards[ordinal];
        host::write(context, card.primary)?;
        card.primary_references += 1;
        if !card.contexts.contains(&card.primary) {
            card.contexts.push(card.primary);
        }
        Ok(())
    }

    fn cuDevicePrimaryCtxRelease_v2(device: i32) {
        release(device, false)
    }

    fn cuDevicePrimaryCtxReset_v2(device: i32) {
        release(device, true)
    }

    fn cuDevicePrimaryCtxGetState(device: i32, flags: usize, active: usize) {
        let ordinal = super::device::get(device)?.ordinal;
        let driver = lock();
        let card = &driver.cards[ordinal];
        host::write(flags, driver.context_flags.get(&card.primary).copied().unwrap_or(0))?;
        host::write(active, i32::from(card.primary_references > 0))
    }

    fn cuDevicePrimaryCtxSetFlags_v2(device: i32, flags: u32) {
        let ordinal = super::device::get(device)?.ordinal;
        check_flags(flags)?;
        let mut driver = lock();
        let primary = driver.cards[ordinal].primary;
        driver.context_flags.insert(primary, flags);
        Ok(())
    }

    fn cuCtxCreate_v2(context: usize, flags: u32, device: i32) {
        create(context, flags, device)
    }

    fn cuCtxCreate_v3(context: usize, _affinity: usize, count: i32, flags: u32, device: i32) {
        if count != 0 {
            return Err(Code::UNSUPPORTED_EXEC_AFFINITY.because("a context on part of the multiprocessors"));
        }
        create(context, flags, device)
    }

    fn cuCtxCreate_v4(context: usize, parameters: usize, flags: u32, device: i32) {
        if parameters != 0 {
            // Execution affinities, their number as an int, a graphics context.
            let [_, count, graphics] = host::read_array::<usize, 3>(parameters)?;
            if (count as u32, graphics) != (0, 0) {
                return Err(Code::NOT_SUPPORTED.because("a context on part of the multiprocessors, or for graphics"));
            }
        }
        create(context, flags, device)
    }

    fn cuCtxDestroy_v2(context: usize) {
        let (handle, card) = known(context)?;
        if handle == lock().cards[card].primary {
            return Err(Code::INVALID_CONTEXT.because("the primary context is released, not destroyed"));
        }
        let outcome = wait(Goal::Card(card));
        lock().drop_context(handle);
        current(|stack| if stack.last() == Some(&handle) { stack.pop(); });
        outcome.or(Ok(()))
    }

    fn cuCtxSetCurrent(context: usize) {
        set_current(context)
    }

    fn cuCtxPushCurrent_v2(context: usize) {
        let (handle, _) = known(context)?;
        current(|stack| stack.push(handle));
        Ok(())
    }

    fn cuCtxPopCurrent_v2(context: usize) {
        let top = current(Vec::pop).ok_or_else(|| Code::INVALID_CONTEXT.because("no context is current"))?;
        host::write_optional(context, top)
    }

    fn cuCtxGetCurrent(context: usize) {
        lock().any_device()?;
        host::write(context, current(|stack| stack.last().copied()).unwrap_or(0))
    }

    fn cuCtxGetDevice(device: usize) {
        let ordinal = lock().ready()?.ordinal;
        host::write(device, ordinal as i32)
    }

    fn cuCtxGetDevice_v2(device: usize, context: usize) {
        let ordinal = if context == 0 { lock().ready()?.ordinal } else { known(context)?.1 };
        host::write(device, ordinal as i32)
    }

    fn cuCtxGetApiVersion(context: usize, version: usize) {
        if context == 0 { lock().context()?; } else { known(context)?; }
        host::write(version, 3020u32)
    }

    fn cuCtxGetFlags(flags: usize) {
        let driver = lock();
        driver.ready()?;
        host::write(flags, driver.context_flags.get(&driver.context()?).copied().unwrap_or(0))
    }

    fn cuCtxSetFlags(flags: u32) {
        check_flags(flags)?;
        let mut driver = lock();
        driver.ready()?;
        let context = driver.context()?;
        driver.context_flags.insert(context, flags);
        Ok(())
    }

    fn cuCtxSynchronize() {
        let driver = lock();
        let card = driver.ready()?.ordinal;
        if driver.streams.values().any(|stream| stream.card == card && stream.capture.is_some()) {
            return Err(Code::STREAM_CAPTURE_UNSUPPORTED.because("a stream is being captured"));
        }
        drop(driver);
        wait(Goal::Card(card))
    }

    fn cuCtxGetLimit(value: usize, limit: i32) {
        let driver = lock();
        let card = driver.ready()?.ordinal;
        let default = LIMITS.iter().find(|row| row.0 == limit).map(|row| row.1);
        let default = default.ok_or_else(|| Code::UNSUPPORTED_LIMIT.because(format!("no limit {limit}")))?;
        host::write(value, driver.cards[card].limits.get(&limit).copied().unwrap_or(default))
    }

    fn cuCtxSetLimit(limit: i32, value: usize) {
        let mut driver = lock();
        let card = driver.ready()?.ordinal;
        if !LIMITS.iter().any(|row| row.0 == limit) {
            return Err(Code::UNSUPPORTED_LIMIT.because(format!("no limit {limit}")));
        }
        driver.cards[card].limits.insert(limit, value);
        Ok(())
    }

    fn cuCtxGetCacheConfig(config: usize) {
        lock().ready()?;
        host::write(config, 0i32)
    }

    fn cuCtxSetCacheConfig(config: i32) {
        super::function::check_cache_config(config)?;
        lock().ready().map(|_| ())
    }

    fn cuCtxGetStreamPriorityRange(least: usize, greatest: usize) {
        lock().ready()?;
        host::write_optional(least, 0i32)?;
        host::write_optional(greatest, -5i32)
    }
}
