//! Host memory that cards use, pinned and managed, and what pointers tell.
//!
//! Kernels and the host work on the same bytes. There is one copy, so that advice and prefetches change nothing.

use crate::guard::driver_api;
use crate::host;
use crate::pages;
use crate::schedule::relieve;
use crate::state::{Driver, HostKind, HostMemory, lock};
use crate::status::{Code, Outcome};
use crate::work::Work;

/// More host memory than this is a mistake.
const LIMIT: usize = 1 << 36;

/// Flags of pinned memory: for all contexts and mapped, which it always is, and write-combined, which nothing shows.
const PINNED_FLAGS: u32 = 7;
/// Of registered memory: for all contexts, mapped for kernels, of a device, read-only.
const REGISTERED_FLAGS: u32 = 0xf;
const PORTABLE: u32 = 1;
/// Of managed memory: who may use it first. A stream's own comes with an attachment alone.
const ATTACH_GLOBAL: u32 = 1;
const ATTACH_HOST: u32 = 2;
const ATTACH_SINGLE: u32 = 4;

/// Places of memory: a card, the host, one of its nodes, the calling thread's node.
const PLACE_CARD: u32 = 1;
const PLACES: u32 = 4;

/// Maps memory, lets every card use it and writes where it is.
fn allocate(
    out: usize,
    bytes: usize,
    flags: u32,
    kind: impl FnOnce(&'static [std::sync::atomic::AtomicU32]) -> HostKind,
) -> Outcome {
    let mut driver = lock();
    let card = driver.ready()?.ordinal;
    if bytes == 0 || bytes > LIMIT {
        return Err(
            Code::INVALID_VALUE.because(format!("{bytes} bytes of host memory, allowed are 1 to {LIMIT}"))
        );
    }
    let words = pages::map(bytes)
        .ok_or_else(|| Code::OUT_OF_MEMORY.because(format!("{bytes} bytes of host memory")))?;
    let address = words.as_ptr().addr();
    let id = driver.handle();
    driver.host_memory.insert(address, HostMemory { bytes, card, flags, id, kind: kind(words) });
    let shared = driver.devices.0.iter().try_for_each(|device| device.share(words, bytes));
    shared.and_then(|()| host::write(out, address)).inspect_err(|_| driver.forget_host_memory(address))
}

/// Checks that a range lies in managed memory.
fn check_managed(driver: &Driver, address: u64, bytes: usize) -> Outcome {
    driver.ready()?;
    let (start, found) = driver
        .managed(address)
        .ok_or_else(|| Code::INVALID_VALUE.because(format!("{address:#x} is not in managed memory")))?;
    let left = start + found.bytes - address as usize;
    if bytes == 0 || bytes > left {
        return Err(
            Code::INVALID_VALUE.because(format!("{bytes} bytes at {address:#x}, allowed are 1 to {left}"))
        );
    }
    Ok(())
}

/// A place as older calls name it: a card, or -1 for the host.
fn check_device(device: i32) -> Outcome {
    if device == -1 { Ok(()) } else { super::device::get(device).map(|_| ()) }
}

/// A place as newer calls name it: CUmemLocation, a kind and a number.
fn check_location(location: u64) -> Outcome {
    match location as u32 {
        PLACE_CARD => super::device::get((location >> 32) as i32).map(|_| ()),
        2..=PLACES => Ok(()),
        kind => Err(Code::INVALID_VALUE.because(format!("place of kind {kind}, allowed are 1 to {PLACES}"))),
    }
}

fn advise(address: u64, bytes: usize, advice: i32, place: Outcome) -> Outcome {
    check_managed(&lock(), address, bytes)?;
    match advice {
        // Mostly read, or no longer: the place does not count.
        1 | 2 => Ok(()),
        3..=6 => place,
        _ => Err(Code::INVALID_VALUE.because(format!("advice {advice}, allowed are 1 to 6"))),
    }
}

fn prefetch(address: u64, bytes: usize, stream: usize) -> Outcome {
    let mut driver = lock();
    check_managed(&driver, address, bytes)?;
    let stream = driver.stream_handle(stream)?;
    driver.issue(stream, Work::Nothing)?;
    drop(driver);
    relieve(stream)
}

/// What a pointer's attribute is: its bytes, and where there is none, what cuPointerGetAttributes gives.
fn attribute(driver: &Driver, attribute: i32, address: u64) -> Outcome<(u64, usize)> {
    let device = driver.device_of(address)?;
    let known = driver.host_memory(address as usize, 1);
    let own = device.allocation(address).filter(|_| known.is_none());
    let card = known.map(|(_, memory)| memory.card).or(own.map(|_| device.ordinal));
    let managed = driver.managed(address).is_some();
    let registered = known.is_some_and(|(_, memory)| matches!(memory.kind, HostKind::Registered));
    let range = known.map(|(start, memory)| (start as u64, memory.bytes as u64)).or(own);
    Ok(match attribute {
        1 => (card.map_or(0, |card| driver.cards[card].primary), 8),
        // Memory type: 1 host, 2 device.
        2 => (card.map_or(0, |_| if own.is_some() || managed { 2 } else { 1 }), 4),
        3 => (if range.is_some() && !registered { address } else { 0 }, 8),
        4 => (if known.is_some() { address } else { 0 }, 8),
        8 => (managed.into(), 4),
        9 => (card.map_or(-2i32 as u32, |card| card as u32).into(), 4),
        // Handles to share it: for IPC, of any other kind.
        10 | 14 => (0, 4),
        11 => (range.map_or(0, |range| range.0), 8),
        12 => (range.map_or(0, |range| range.1), 8),
        13 => (range.is_some().into(), 4),
        _ => return Err(Code::NOT_SUPPORTED.because(format!("pointer attribute {attribute}"))),
    })
}

fn write_attribute(out: usize, (value, bytes): (u64, usize)) -> Outcome {
    host::write_bytes(out, &value.to_le_bytes()[..bytes])
}

driver_api! {
    fn cuMemHostAlloc(out: usize, bytes: usize, flags: u32) {
        if flags & !PINNED_FLAGS != 0 {
            return Err(Code::INVALID_VALUE.because(format!("flags {flags:#x}, allowed are 0 to {PINNED_FLAGS}")));
        }
        allocate(out, bytes, flags, HostKind::Pinned)
    }

    fn cuMemAllocHost_v2(out: usize, bytes: usize) {
        allocate(out, bytes, 0, HostKind::Pinned)
    }

    fn cuMemFreeHost(address: usize) {
        let mut driver = lock();
        driver.ready()?;
        if !driver.host_memory.get(&address).is_some_and(|found| matches!(found.kind, HostKind::Pinned(_))) {
            return Err(Code::INVALID_VALUE.because(format!("{address:#x} is not a pinned allocation")));
        }
        driver.forget_host_memory(address);
        Ok(())
    }

    fn cuMemHostRegister_v2(address: usize, bytes: usize, flags: u32) {
        let mut driver = lock();
        let card = driver.ready()?.ordinal;
        if bytes == 0 || flags & !REGISTERED_FLAGS != 0 {
            return Err(Code::INVALID_VALUE.because(format!(
                "{bytes} bytes to register with flags {flags:#x}, allowed are 1 byte and more, flags 0 to {REGISTERED_FLAGS}"
            )));
        }
        if flags & !PORTABLE != 0 {
            return Err(Code::NOT_SUPPORTED.because(
                "registered memory that kernels use, or of a device: the program's own memory serves copies alone",
            ));
        }
        for at in [address, address.saturating_add(bytes - 1)] {
            host::read::<u8>(at)?;
        }
        let below = driver.host_memory.range(..address.saturating_add(bytes)).next_back();
        if let Some((start, found)) = below && start + found.bytes > address {
            return Err(Code::HOST_MEMORY_ALREADY_REGISTERED.because(format!(
                "{bytes} bytes at {address:#x}: the {} bytes at {start:#x} are pinned, managed or registered already",
                found.bytes
            )));
        }
        let id = driver.handle();
        driver.host_memory.insert(address, HostMemory { bytes, card, flags, id, kind: HostKind::Registered });
        Ok(())
    }

    fn cuMemHostUnregister(address: usize) {
        let mut driver = lock();
        driver.ready()?;
        if !driver.host_memory.get(&address).is_some_and(|found| matches!(found.kind, HostKind::Registered)) {
            return Err(Code::HOST_MEMORY_NOT_REGISTERED.because(format!("{address:#x} is not registered")));
        }
        driver.forget_host_memory(address);
        Ok(())
    }

    fn cuMemHostGetDevicePointer_v2(out: usize, address: usize, flags: u32) {
        let driver = lock();
        driver.ready()?;
        if flags != 0 {
            return Err(Code::INVALID_VALUE.because(format!("flags {flags:#x}, allowed is 0")));
        }
        match driver.pinned(address, 1).map(|found| found.kind) {
            Some(HostKind::Pinned(_)) => host::write(out, address),
            Some(_) => Err(Code::NOT_SUPPORTED.because("registered memory that kernels use")),
            None => Err(Code::INVALID_VALUE.because(format!("{address:#x} is not pinned memory"))),
        }
    }

    fn cuMemHostGetFlags(flags: usize, address: usize) {
        let driver = lock();
        driver.ready()?;
        let found = driver.pinned(address, 1)
            .ok_or_else(|| Code::INVALID_VALUE.because(format!("{address:#x} is not pinned memory")))?;
        host::write(flags, found.flags)
    }

    fn cuMemAllocManaged(out: usize, bytes: usize, flags: u32) {
        if !matches!(flags, ATTACH_GLOBAL | ATTACH_HOST) {
            return Err(Code::INVALID_VALUE.because(format!(
                "flags {flags:#x}, allowed are {ATTACH_GLOBAL} (any stream) and {ATTACH_HOST} (the host)"
            )));
        }
        lock().refuse_during_capture()?;
        allocate(out, bytes, flags, HostKind::Managed)
    }

    fn cuStreamAttachMemAsync as cuStreamAttachMemAsync_ptsz(stream: usize, address: u64, bytes: usize, flags: u32) {
        if !matches!(flags, ATTACH_GLOBAL | ATTACH_HOST | ATTACH_SINGLE) {
            return Err(Code::INVALID_VALUE.because(format!("flags {flags:#x}, allowed are 1, 2, 4")));
        }
        // Concurrent access is allowed here, whatever memory is attached to. A length of 0 means all of it.
        prefetch(address, bytes.max(1), stream)
    }

    fn cuMemAdvise(address: u64, bytes: usize, advice: i32, device: i32) {
        advise(address, bytes, advice, check_device(device))
    }

    fn cuMemAdvise_v2(address: u64, bytes: usize, advice: i32, location: u64) {
        advise(address, bytes, advice, check_location(location))
    }

    fn cuMemPrefetchAsync as cuMemPrefetchAsync_ptsz(address: u64, bytes: usize, device: i32, stream: usize) {
        check_device(device)?;
        prefetch(address, bytes, stream)
    }

    fn cuMemPrefetchAsync_v2 as cuMemPrefetchAsync_v2_ptsz(
        address: u64, bytes: usize, location: u64, flags: u32, stream: usize,
    ) {
        check_location(location)?;
        if flags != 0 {
            return Err(Code::INVALID_VALUE.because(format!("flags {flags:#x}, allowed is 0")));
        }
        prefetch(address, bytes, stream)
    }

    fn cuPointerGetAttribute(out: usize, number: i32, address: u64) {
        let driver = lock();
        let value = attribute(&driver, number, address)?;
        let found = attribute(&driver, 1, address)?.0 != 0;
        if !found || matches!(number, 3 | 4) && value.0 == 0 {
            return Err(Code::INVALID_VALUE.because(format!(
                "{address:#x} is neither device nor pinned memory, or has no address on that side"
            )));
        }
        write_attribute(out, value)
    }

    fn cuPointerGetAttributes(count: u32, numbers: usize, out: usize, address: u64) {
        let driver = lock();
        let places: Vec<usize> = host::read_many(out, count as usize)?;
        for (number, place) in host::read_many::<i32>(numbers, count as usize)?.into_iter().zip(places) {
            write_attribute(place, attribute(&driver, number, address)?)?;
        }
        Ok(())
    }
}
