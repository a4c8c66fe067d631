//! Memory pools. A pool is its attributes: all memory comes from the card at once.

use std::collections::HashMap;

use crate::guard::driver_api;
use crate::host;
use crate::state::{Handle, lock};
use crate::status::{Code, Outcome};

/// The device's default pool.
const DEFAULT_POOL: Handle = 0x20;

/// Checks a pool's handle.
pub(crate) fn check(pool: Handle) -> Outcome {
    if pool == DEFAULT_POOL || lock().pools.contains_key(&pool) {
        return Ok(());
    }
    Err(Code::INVALID_VALUE.because(format!("{pool:#x} is not a live memory pool")))
}

/// Bytes of an attribute's value; 4-byte flags come first in the header's list.
fn attribute_bytes(attribute: i32) -> Outcome<usize> {
    match attribute {
        1..=3 => Ok(4),
        4..=8 => Ok(8),
        _ => Err(Code::INVALID_VALUE.because(format!("no pool attribute {attribute}"))),
    }
}

driver_api! {
    fn cuDeviceGetDefaultMemPool(pool: usize, device: i32) {
        super::device::get(device)?;
        host::write(pool, DEFAULT_POOL)
    }

    fn cuDeviceGetMemPool(pool: usize, device: i32) {
        super::device::get(device)?;
        host::write(pool, DEFAULT_POOL)
    }

    fn cuDeviceSetMemPool(device: i32, pool: usize) {
        super::device::get(device)?;
        check(pool as Handle)
    }

    fn cuMemPoolCreate(pool: usize, _properties: usize) {
        let mut driver = lock();
        driver.device()?;
        let handle = driver.handle();
        host::write(pool, handle)?;
        driver.pools.insert(handle, HashMap::new());
        Ok(())
    }

    fn cuMemPoolDestroy(pool: usize) {
        lock().pools.remove(&(pool as Handle)).map(|_| ())
            .ok_or_else(|| Code::INVALID_VALUE.because(format!("{pool:#x} is not a live memory pool")))
    }

    fn cuMemPoolTrimTo(pool: usize, _keep: usize) {
        check(pool as Handle)
    }

    fn cuMemPoolGetAttribute(pool: usize, attribute: i32, value: usize) {
        check(pool as Handle)?;
        let bytes = attribute_bytes(attribute)?;
        let driver = lock();
        let device = driver.device()?;
        let set = driver.pools.get(&(pool as Handle)).and_then(|held| held.get(&attribute)).copied();
        // Reuse policies are on by default; the byte counts are what is in use.
        let found = set.unwrap_or(match attribute {
            1..=3 => 1,
            4 => 0,
            _ => device.used_bytes(),
        });
        if bytes == 4 { host::write(value, found as u32) } else { host::write(value, found) }
    }

    fn cuMemPoolSetAttribute(pool: usize, attribute: i32, value: usize) {
        check(pool as Handle)?;
        let new = match attribute_bytes(attribute)? {
            4 => u64::from(host::read::<u32>(value)?),
            _ => host::read::<u64>(value)?,
        };
        lock().pools.entry(pool as Handle).or_default().insert(attribute, new);
        Ok(())
    }
}
