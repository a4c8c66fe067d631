//! Contexts. All contexts share the one card and its memory.

use crate::guard::driver_api;
use crate::host;
use crate::schedule::{Goal, wait};
use crate::state::{Handle, PRIMARY, current, lock};
use crate::status::{Code, Outcome};

/// Limits that a context has by default: number, value.
const LIMITS: [(i32, usize); 7] =
    [(0, 1024), (1, 1 << 20), (2, 8 << 20), (3, 2), (4, 2048), (5, 128), (6, 0)];

fn create(out: usize, device: i32) -> Outcome {
    super::device::get(device)?;
    let mut driver = lock();
    let handle = driver.handle();
    host::write(out, handle)?;
    driver.contexts.push(handle);
    current(|stack| stack.push(handle));
    Ok(())
}

fn known(context: usize) -> Outcome<Handle> {
    let driver = lock();
    let handle = context as Handle;
    if driver.contexts.contains(&handle) {
        return Ok(handle);
    }
    Err(Code::INVALID_CONTEXT.because(format!("{context:#x} is not a live context")))
}

fn set_current(context: usize) -> Outcome {
    lock().device()?;
    if context == 0 {
        current(Vec::pop);
        return Ok(());
    }
    let handle = known(context)?;
    current(|stack| {
        stack.pop();
        stack.push(handle);
    });
    Ok(())
}

fn release(device: i32, all: bool) -> Outcome {
    super::device::get(device)?;
    let mut driver = lock();
    if driver.primary_references == 0 {
        return if all {
            Ok(())
        } else {
            Err(Code::INVALID_CONTEXT.because("the primary context is not retained"))
        };
    }
    driver.primary_references = if all { 0 } else { driver.primary_references - 1 };
    if driver.primary_references > 0 {
        return Ok(());
    }
    drop(driver);
    // What is queued still runs: its faults are part of the program's result.
    let outcome = wait(Goal::Everything);
    let mut driver = lock();
    // Another thread may have retained it meanwhile; then it lives on, as if that had come first.
    if all || driver.primary_references == 0 {
        driver.drop_context(PRIMARY);
    }
    outcome.or(Ok(()))
}

driver_api! {
    fn cuDevicePrimaryCtxRetain(context: usize, device: i32) {
        super::device::get(device)?;
        host::write(context, PRIMARY)?;
        let mut driver = lock();
        driver.primary_references += 1;
        if !driver.contexts.contains(&PRIMARY) {
            driver.contexts.push(PRIMARY);
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
        super::device::get(device)?;
        host::write(flags, 0u32)?;
        host::write(active, i32::from(lock().primary_references > 0))
    }

    fn cuDevicePrimaryCtxSetFlags_v2(device: i32, _flags: u32) {
        super::device::get(device).map(|_| ())
    }

    fn cuCtxCreate_v2(context: usize, _flags: u32, device: i32) {
        create(context, device)
    }

    fn cuCtxCreate_v3(context: usize, _affinity: usize, _count: i32, _flags: u32, device: i32) {
        create(context, device)
    }

    fn cuCtxCreate_v4(context: usize, _parameters: usize, _flags: u32, device: i32) {
        create(context, device)
    }

    fn cuCtxDestroy_v2(context: usize) {
        let handle = known(context)?;
        if handle == PRIMARY {
            return Err(Code::INVALID_CONTEXT.because("the primary context is released, not destroyed"));
        }
        let outcome = wait(Goal::Everything);
        lock().drop_context(handle);
        current(|stack| if stack.last() == Some(&handle) { stack.pop(); });
        outcome.or(Ok(()))
    }

    fn cuCtxSetCurrent(context: usize) {
        set_current(context)
    }

    fn cuCtxPushCurrent_v2(context: usize) {
        let handle = known(context)?;
        current(|stack| stack.push(handle));
        Ok(())
    }

    fn cuCtxPopCurrent_v2(context: usize) {
        let top = current(Vec::pop).ok_or_else(|| Code::INVALID_CONTEXT.because("no context is current"))?;
        host::write_optional(context, top)
    }

    fn cuCtxGetCurrent(context: usize) {
        lock().device()?;
        host::write(context, current(|stack| stack.last().copied()).unwrap_or(0))
    }

    fn cuCtxGetDevice(device: usize) {
        lock().ready()?;
        host::write(device, 0i32)
    }

    fn cuCtxGetDevice_v2(device: usize, context: usize) {
        if context != 0 {
            known(context)?;
        }
        host::write(device, 0i32)
    }

    fn cuCtxGetApiVersion(_context: usize, version: usize) {
        host::write(version, 3020u32)
    }

    fn cuCtxGetFlags(flags: usize) {
        lock().ready()?;
        host::write(flags, 0u32)
    }

    fn cuCtxSetFlags(_flags: u32) {
        lock().ready().map(|_| ())
    }

    fn cuCtxSynchronize() {
        let driver = lock();
        driver.ready()?;
        if !driver.captures.is_empty() {
            return Err(Code::STREAM_CAPTURE_UNSUPPORTED.because("a stream is being captured"));
        }
        drop(driver);
        wait(Goal::Everything)
    }

    fn cuCtxGetLimit(value: usize, limit: i32) {
        let driver = lock();
        driver.ready()?;
        let default = LIMITS.iter().find(|row| row.0 == limit).map(|row| row.1);
        let default = default.ok_or_else(|| Code::UNSUPPORTED_LIMIT.because(format!("no limit {limit}")))?;
        host::write(value, driver.limits.get(&limit).copied().unwrap_or(default))
    }

    fn cuCtxSetLimit(limit: i32, value: usize) {
        let mut driver = lock();
        driver.ready()?;
        if !LIMITS.iter().any(|row| row.0 == limit) {
            return Err(Code::UNSUPPORTED_LIMIT.because(format!("no limit {limit}")));
        }
        driver.limits.insert(limit, value);
        Ok(())
    }

    fn cuCtxGetCacheConfig(config: usize) {
        lock().ready()?;
        host::write(config, 0i32)
    }

    fn cuCtxSetCacheConfig(_config: i32) {
        lock().ready().map(|_| ())
    }

    fn cuCtxGetStreamPriorityRange(least: usize, greatest: usize) {
        lock().ready()?;
        host::write_optional(least, 0i32)?;
        host::write_optional(greatest, -5i32)
    }
}
