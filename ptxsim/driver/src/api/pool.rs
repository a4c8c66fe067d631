//! Memory pools. A pool is its attributes: all memory comes from the card at once.

use crate::guard::driver_api;
use crate::host;
use crate::state::{Driver, Pool, lock};
use crate::status::{Code, Failure, Outcome};
use crate::work::Handle;

fn stale(pool: usize) -> Failure {
    Code::INVALID_VALUE.because(format!("{pool:#x} is not a live memory pool"))
}

/// The pool behind a handle.
pub(crate) fn find(driver: &Driver, pool: usize) -> Outcome<&Pool> {
    driver.pools.get(&(pool as Handle)).ok_or_else(|| stale(pool))
}

/// Attributes: three flags, a threshold, and byte counts of which the highest so far can be reset.
const FLAGS: std::ops::RangeInclusive<i32> = 1..=3;
const THRESHOLD: i32 = 4;
const BYTES: [i32; 2] = [5, 7];
const MOST_BYTES: [i32; 2] = [6, 8];

driver_api! {
    fn cuDeviceGetDefaultMemPool(pool: usize, device: i32) {
        let ordinal = super::device::get(device)?.ordinal;
        host::write(pool, lock().cards[ordinal].default_pool)
    }

    fn cuDeviceGetMemPool(pool: usize, device: i32) {
        let ordinal = super::device::get(device)?.ordinal;
        host::write(pool, lock().cards[ordinal].pool)
    }

    fn cuDeviceSetMemPool(device: i32, pool: usize) {
        let ordinal = super::device::get(device)?.ordinal;
        let mut driver = lock();
        let card = find(&driver, pool)?.card;
        if card != ordinal {
            return Err(Code::INVALID_VALUE.because(format!("the pool is of card {card}, not of card {ordinal}")));
        }
        driver.cards[ordinal].pool = pool as Handle;
        Ok(())
    }

    fn cuMemPoolCreate(pool: usize, properties: usize) {
        // CUmemPoolProps: kind of allocation (1), kinds of handle to share it, place (1: a card) and ordinal, security
        // attributes, most bytes, use.
        let [kind, handles, place, ordinal, security @ .., most, most_high, usage] = host::read_array::<u32, 9>(properties)?;
        if (kind, place) != (1, 1) || security != [0; 2] {
            return Err(Code::INVALID_VALUE.because(format!(
                "a pool of kind {kind} at a place of kind {place}, allowed is 1 (pinned) at 1 (a card)"
            )));
        }
        if (handles, most, most_high, usage & 0xffff) != (0, 0, 0, 0) {
            return Err(Code::NOT_SUPPORTED.because("a pool that is shared, limited or for decompression"));
        }
        let card = super::device::get(ordinal as i32)?.ordinal;
        let mut driver = lock();
        let handle = driver.handle();
        host::write(pool, handle)?;
        driver.pools.insert(handle, Pool::new(card));
        Ok(())
    }

    fn cuMemPoolDestroy(pool: usize) {
        let mut driver = lock();
        if driver.cards.iter().any(|card| card.default_pool == pool as Handle) {
            // cuMemPoolDestroy: the default pool of a device cannot be destroyed.
            return Err(Code::INVALID_VALUE.because("a default pool cannot be destroyed"));
        }
        let gone = driver.pools.remove(&(pool as Handle)).ok_or_else(|| stale(pool))?;
        // cuMemPoolDestroy: where it was a device's current pool, the default pool becomes that.
        let card = &mut driver.cards[gone.card];
        if card.pool == pool as Handle {
            card.pool = card.default_pool;
        }
        Ok(())
    }

    fn cuMemPoolTrimTo(pool: usize, _keep: usize) {
        find(&lock(), pool).map(|_| ())
    }

    fn cuMemPoolGetAttribute(pool: usize, attribute: i32, value: usize) {
        let driver = lock();
        let found = find(&driver, pool)?;
        let used = driver.devices.0[found.card].used_bytes();
        let set = found.attributes.get(&attribute).copied();
        match attribute {
            // Reuse policies are on by default.
            _ if FLAGS.contains(&attribute) => host::write(value, set.unwrap_or(1) as u32),
            THRESHOLD => host::write(value, set.unwrap_or(0)),
            _ if BYTES.contains(&attribute) => host::write(value, used),
            _ if MOST_BYTES.contains(&attribute) => host::write(value, found.high.max(used)),
            _ => Err(Code::INVALID_VALUE.because(format!("no pool attribute {attribute}"))),
        }
    }

    fn cuMemPoolSetAttribute(pool: usize, attribute: i32, value: usize) {
        let new = if FLAGS.contains(&attribute) { host::read::<u32>(value)?.into() } else { host::read::<u64>(value)? };
        let wrong = |allowed: &str| {
            Err(Code::INVALID_VALUE.because(format!("pool attribute {attribute} is {new}, allowed is {allowed}")))
        };
        let mut driver = lock();
        let found = driver.pools.get_mut(&(pool as Handle)).ok_or_else(|| stale(pool))?;
        match attribute {
            _ if FLAGS.contains(&attribute) && new > 1 => return wrong("0 or 1"),
            1..=THRESHOLD => drop(found.attributes.insert(attribute, new)),
            _ if MOST_BYTES.contains(&attribute) && new == 0 => found.high = 0,
            _ if MOST_BYTES.contains(&attribute) => return wrong("0, which resets it"),
            _ => return wrong("attributes 1 to 4, 6 and 8: the others cannot be set"),
        }
        Ok(())
    }
}
