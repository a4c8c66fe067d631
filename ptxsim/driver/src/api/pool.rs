//! Memory pools. A pool is its attributes: all memory comes from the card at once.

use std::collections::HashMap;

use crate::guard::driver_api;
use crate::host;
use crate::state::{Driver, Handle, Pool, lock};
use crate::status::{Code, Failure, Outcome};

/// Offset of the card's ordinal in CUmemPoolProps.
const LOCATION: usize = 12;

fn stale(pool: usize) -> Failure {
    Code::INVALID_VALUE.because(format!("{pool:#x} is not a live memory pool"))
}

/// The pool behind a handle.
pub(crate) fn find(driver: &Driver, pool: usize) -> Outcome<&Pool> {
    driver.pools.get(&(pool as Handle)).ok_or_else(|| stale(pool))
}

fn default_pool(out: usize, device: i32) -> Outcome {
    let ordinal = super::device::get(device)?.ordinal;
    host::write(out, lock().cards[ordinal].default_pool)
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
        default_pool(pool, device)
    }

    fn cuDeviceGetMemPool(pool: usize, device: i32) {
        default_pool(pool, device)
    }

    fn cuDeviceSetMemPool(device: i32, pool: usize) {
        super::device::get(device)?;
        find(&lock(), pool).map(|_| ())
    }

    fn cuMemPoolCreate(pool: usize, properties: usize) {
        let card = super::device::get(host::read(properties.wrapping_add(LOCATION))?)?.ordinal;
        let mut driver = lock();
        let handle = driver.handle();
        host::write(pool, handle)?;
        driver.pools.insert(handle, Pool { card, attributes: HashMap::new() });
        Ok(())
    }

    fn cuMemPoolDestroy(pool: usize) {
        let mut driver = lock();
        if driver.cards.iter().any(|card| card.default_pool == pool as Handle) {
            // cuMemPoolDestroy: the default pool of a device cannot be destroyed.
            return Err(Code::INVALID_VALUE.because("a default pool cannot be destroyed"));
        }
        driver.pools.remove(&(pool as Handle)).map(|_| ()).ok_or_else(|| stale(pool))
    }

    fn cuMemPoolTrimTo(pool: usize, _keep: usize) {
        find(&lock(), pool).map(|_| ())
    }

    fn cuMemPoolGetAttribute(pool: usize, attribute: i32, value: usize) {
        let bytes = attribute_bytes(attribute)?;
        let driver = lock();
        let found = find(&driver, pool)?;
        let device = &driver.devices.0[found.card];
        let set = found.attributes.get(&attribute).copied();
        // Reuse policies are on by default; the byte counts are what is in use.
        let found = set.unwrap_or(match attribute {
            1..=3 => 1,
            4 => 0,
            _ => device.used_bytes(),
        });
        if bytes == 4 { host::write(value, found as u32) } else { host::write(value, found) }
    }

    fn cuMemPoolSetAttribute(pool: usize, attribute: i32, value: usize) {
        let new = match attribute_bytes(attribute)? {
            4 => u64::from(host::read::<u32>(value)?),
            _ => host::read::<u64>(value)?,
        };
        let mut driver = lock();
        let found = driver.pools.get_mut(&(pool as Handle)).ok_or_else(|| stale(pool))?;
        found.attributes.insert(attribute, new);
        Ok(())
    }
}
