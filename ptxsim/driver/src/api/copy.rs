//! Copies.

use std::sync::Arc;

use crate::guard::driver_api;
use crate::host;
use crate::schedule::{Goal, Source, Work, relieve, wait};
use crate::state::lock;
use crate::status::{Code, Outcome};

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
    let goal = Goal::Point(driver.tail(stream));
    drop(driver);
    if mode == Mode::Blocking { wait(goal) } else { relieve(stream) }
}

fn to_device(to: u64, from: usize, bytes: usize, stream: usize, mode: Mode) -> Outcome {
    let driver = lock();
    let device = driver.ready()?;
    device.check(to, bytes as u64)?;
    let handle = driver.stream_handle(stream)?;
    let later =
        driver.is_pinned(from, bytes) || driver.streams.get(&handle).is_some_and(|s| s.capture.is_some());
    drop(driver);
    if bytes == 0 {
        return Ok(());
    }
    let source = if later {
        Source::Later(from, bytes)
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
    let device = driver.ready()?;
    device.check(from, bytes as u64)?;
    let handle = driver.stream_handle(stream)?;
    let capturing = driver.streams.get(&handle).is_some_and(|s| s.capture.is_some());
    let pinned = driver.is_pinned(to, bytes);
    drop(driver);
    if bytes == 0 {
        return Ok(());
    }
    // A wrong address is told by this call, not by the stream.
    let mut probe = [0];
    host::read_bytes(to, &mut probe)?;
    host::read_bytes(to.saturating_add(bytes - 1), &mut probe)?;
    // Into pageable memory the driver returns only once the copy is done.
    let mode = if pinned || capturing { mode } else { Mode::Blocking };
    issue(stream, mode, Work::CopyOut { from, to, bytes })
}

fn within(to: u64, from: u64, bytes: usize, stream: usize, mode: Mode) -> Outcome {
    let device = lock().ready()?;
    device.check(to, bytes as u64)?;
    device.check(from, bytes as u64)?;
    if bytes == 0 {
        return Ok(());
    }
    issue(stream, mode, Work::CopyDevice { from, to, bytes })
}

/// The kind of copy told by the addresses.
fn any(to: u64, from: u64, bytes: usize, stream: usize, mode: Mode) -> Outcome {
    let device = lock().ready()?;
    match (device.allocation(to).is_some(), device.allocation(from).is_some()) {
        (true, true) => within(to, from, bytes, stream, mode),
        (true, false) => to_device(to, from as usize, bytes, stream, mode),
        (false, true) => to_host(to as usize, from, bytes, stream, mode),
        (false, false) => Err(Code::INVALID_VALUE.because("neither address is device memory")),
    }
}

driver_api! {
    fn cuMemcpyHtoD_v2(to: u64, from: usize, bytes: usize) {
        to_device(to, from, bytes, 0, Mode::Blocking)
    }

    fn cuMemcpyDtoH_v2(to: usize, from: u64, bytes: usize) {
        to_host(to, from, bytes, 0, Mode::Blocking)
    }

    fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) {
        within(to, from, bytes, 0, Mode::Blocking)
    }

    fn cuMemcpy(to: u64, from: u64, bytes: usize) {
        any(to, from, bytes, 0, Mode::Blocking)
    }

    fn cuMemcpyHtoDAsync_v2(to: u64, from: usize, bytes: usize, stream: usize) {
        to_device(to, from, bytes, stream, Mode::Queued)
    }

    fn cuMemcpyDtoHAsync_v2(to: usize, from: u64, bytes: usize, stream: usize) {
        to_host(to, from, bytes, stream, Mode::Queued)
    }

    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: usize) {
        within(to, from, bytes, stream, Mode::Queued)
    }

    fn cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: usize) {
        any(to, from, bytes, stream, Mode::Queued)
    }

    fn cuMemcpyPeer(to: u64, _to_context: usize, from: u64, _from_context: usize, bytes: usize) {
        within(to, from, bytes, 0, Mode::Blocking)
    }

    fn cuMemcpyPeerAsync(to: u64, _to_context: usize, from: u64, _from_context: usize, bytes: usize, stream: usize) {
        within(to, from, bytes, stream, Mode::Queued)
    }
}
