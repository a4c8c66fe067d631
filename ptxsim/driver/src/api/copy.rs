//! Copies.

use std::sync::Arc;

use crate::guard::driver_api;
use crate::host;
use crate::schedule::{relieve, wait};
use crate::state::{Driver, lock};
use crate::status::{Code, Failure, Outcome};
use crate::work::{Handle, HostRange, Source, Work};

/// Whether the call returns before the copy has run.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Blocking,
    Queued,
}

/// Queues work on a stream and, for a blocking call, runs it.
fn issue(stream: usize, mode: Mode, work: Work) -> Outcome {
    let mut driver = lock();
    let stream = driver.stream_handle(stream)?;
    if mode == Mode::Blocking {
        driver.refuse_capturing(stream)?;
    }
    driver.issue(stream, work)?;
    let goal = driver.goal(stream);
    drop(driver);
    if mode == Mode::Blocking { wait(goal) } else { relieve(stream) }
}

/// The host's side of a copy, and whether the copy is on its own there: from and to pinned memory, or captured.
fn host_range(driver: &Driver, address: usize, bytes: usize, stream: Handle) -> (HostRange, bool) {
    let pinned = driver.pinned(address, bytes).map(|found| found.id);
    let capturing = driver.streams.get(&stream).is_some_and(|s| s.capture.is_some());
    (HostRange { address, bytes, pinned }, pinned.is_some() || capturing)
}

fn to_device(to: u64, from: usize, bytes: usize, stream: usize, mode: Mode) -> Outcome {
    let driver = lock();
    driver.device_of(to)?.check(to, bytes as u64)?;
    let (range, later) = host_range(&driver, from, bytes, driver.stream_handle(stream)?);
    drop(driver);
    if bytes == 0 {
        return Ok(());
    }
    let source = if later {
        Source::Later(range)
    } else {
        // Pageable memory is staged before the call returns.
        let mut taken = vec![0; bytes];
        host::read_bytes(from, &mut taken)?;
        Source::Taken(Arc::from(taken))
    };
    issue(stream, mode, Work::CopyIn { to, from: source })
}

fn to_host(to: usize, from: u64, bytes: usize, stream: usize, mode: Mode) -> Outcome {
    let driver = lock();
    driver.device_of(from)?.check(from, bytes as u64)?;
    let (range, later) = host_range(&driver, to, bytes, driver.stream_handle(stream)?);
    drop(driver);
    if bytes == 0 {
        return Ok(());
    }
    // A wrong address is told by this call, not by the stream.
    let mut probe = [0];
    host::read_bytes(to, &mut probe)?;
    host::read_bytes(to.saturating_add(bytes - 1), &mut probe)?;
    // Into pageable memory the driver returns only once the copy is done.
    let mode = if later { mode } else { Mode::Blocking };
    issue(stream, mode, Work::CopyOut { from, to: range })
}

/// A copy from device memory to device memory, of one card or of two.
fn within(to: u64, from: u64, bytes: usize, stream: usize, mode: Mode) -> Outcome {
    let driver = lock();
    driver.device_of(to)?.check(to, bytes as u64)?;
    driver.device_of(from)?.check(from, bytes as u64)?;
    drop(driver);
    if bytes == 0 {
        return Ok(());
    }
    issue(stream, mode, Work::CopyDevice { from, to, bytes })
}

/// A copy whose ends must be memory of the cards of these contexts.
fn peer(to: (u64, usize), from: (u64, usize), bytes: usize, stream: usize, mode: Mode) -> Outcome {
    for (address, context) in [to, from] {
        let (_, card) = super::context::known(context)?;
        let own = lock().device_of(address)?.ordinal;
        if own != card {
            return Err(Code::INVALID_VALUE.because(format!(
                "{address:#x} is an address of card {own}, its context is of card {card}"
            )));
        }
    }
    within(to.0, from.0, bytes, stream, mode)
}

/// Where an address is, for a copy that is told no kind. Pinned memory is on both sides.
#[derive(Clone, Copy)]
enum Side {
    Device,
    Pinned,
    Host,
}

/// The kind of copy told by the addresses.
fn any(to: u64, from: u64, bytes: usize, stream: usize, mode: Mode) -> Outcome {
    let driver = lock();
    let side = |address| {
        let known = driver.device_of(address)?.allocation(address).is_some();
        Ok::<_, Failure>(match (known, driver.pinned(address as usize, 1)) {
            (true, None) => Side::Device,
            (true, Some(_)) => Side::Pinned,
            (false, _) => Side::Host,
        })
    };
    let ends = (side(to)?, side(from)?);
    drop(driver);
    match ends {
        (Side::Device, Side::Device) | (Side::Pinned, Side::Pinned) => within(to, from, bytes, stream, mode),
        (Side::Device, _) | (Side::Pinned, Side::Host) => to_device(to, from as usize, bytes, stream, mode),
        (_, Side::Device) | (Side::Host, Side::Pinned) => to_host(to as usize, from, bytes, stream, mode),
        (Side::Host, Side::Host) => {
            Err(Code::INVALID_VALUE.because("neither address is device, managed or pinned memory"))
        }
    }
}

driver_api! {
    fn cuMemcpyHtoD_v2 as cuMemcpyHtoD_v2_ptds(to: u64, from: usize, bytes: usize) {
        to_device(to, from, bytes, 0, Mode::Blocking)
    }

    fn cuMemcpyDtoH_v2 as cuMemcpyDtoH_v2_ptds(to: usize, from: u64, bytes: usize) {
        to_host(to, from, bytes, 0, Mode::Blocking)
    }

    fn cuMemcpyDtoD_v2 as cuMemcpyDtoD_v2_ptds(to: u64, from: u64, bytes: usize) {
        within(to, from, bytes, 0, Mode::Blocking)
    }

    fn cuMemcpy as cuMemcpy_ptds(to: u64, from: u64, bytes: usize) {
        any(to, from, bytes, 0, Mode::Blocking)
    }

    fn cuMemcpyHtoDAsync_v2 as cuMemcpyHtoDAsync_v2_ptsz(to: u64, from: usize, bytes: usize, stream: usize) {
        to_device(to, from, bytes, stream, Mode::Queued)
    }

    fn cuMemcpyDtoHAsync_v2 as cuMemcpyDtoHAsync_v2_ptsz(to: usize, from: u64, bytes: usize, stream: usize) {
        to_host(to, from, bytes, stream, Mode::Queued)
    }

    fn cuMemcpyDtoDAsync_v2 as cuMemcpyDtoDAsync_v2_ptsz(to: u64, from: u64, bytes: usize, stream: usize) {
        within(to, from, bytes, stream, Mode::Queued)
    }

    fn cuMemcpyAsync as cuMemcpyAsync_ptsz(to: u64, from: u64, bytes: usize, stream: usize) {
        any(to, from, bytes, stream, Mode::Queued)
    }

    fn cuMemcpyPeer as cuMemcpyPeer_ptds(to: u64, to_context: usize, from: u64, from_context: usize, bytes: usize) {
        peer((to, to_context), (from, from_context), bytes, 0, Mode::Blocking)
    }

    fn cuMemcpyPeerAsync as cuMemcpyPeerAsync_ptsz(to: u64, to_context: usize, from: u64, from_context: usize, bytes: usize, stream: usize) {
        peer((to, to_context), (from, from_context), bytes, stream, Mode::Queued)
    }
}
