//! Streams and events.

use crate::guard::driver_api;
use crate::host;
use crate::schedule::{Goal, poll, relieve, wait};
use crate::state::{Driver, lock};
use crate::status::{Code, Outcome};
use crate::work::{Event, Handle, Stream, Work};

/// The event flag that forbids timing.
const NO_TIMING: u32 = 2;
/// The one that shares it with other processes.
const INTERPROCESS: u32 = 4;

fn create(out: usize, flags: u32, priority: i32) -> Outcome {
    let mut driver = lock();
    let card = driver.ready()?.ordinal;
    if flags > 1 {
        return Err(Code::INVALID_VALUE.because(format!("stream flags {flags:#x}, allowed are 0 and 1")));
    }
    let handle = driver.handle();
    host::write(out, handle)?;
    let context = driver.context()?;
    driver.streams.insert(handle, Stream::new(card, Some(context), flags, priority.clamp(-5, 0)));
    Ok(())
}

/// The flag that makes a captured record of an event, or a captured wait for one, a node of the graph.
const EXTERNAL: u32 = 1;

/// Checks the flags of a record or wait on a stream.
fn check_external(driver: &Driver, stream: Handle, flags: u32) -> Outcome {
    let capturing = driver.streams.get(&stream).is_some_and(|s| s.capture.is_some());
    match flags {
        0 => Ok(()),
        // CUDA_EVENT_RECORD_EXTERNAL, CUDA_EVENT_WAIT_EXTERNAL: invalid outside of stream capture.
        EXTERNAL if !capturing => {
            Err(Code::INVALID_VALUE.because("the external flag, and the stream is not being captured"))
        }
        EXTERNAL => Err(Code::NOT_SUPPORTED.because("events as nodes of a graph")),
        _ => Err(Code::INVALID_VALUE.because(format!("flags {flags:#x}, allowed are 0 and {EXTERNAL}"))),
    }
}

fn record(event: usize, stream: usize, flags: u32) -> Outcome {
    let mut driver = lock();
    driver.ready()?;
    let stream = driver.stream_handle(stream)?;
    check_external(&driver, stream, flags)?;
    driver.record(event as Handle, stream)?;
    drop(driver);
    relieve(stream)
}

/// The point a host wait for an event goes to; `None` for an event never recorded.
fn event_goal(event: usize) -> Outcome<Option<Goal>> {
    let driver = lock();
    driver.ready()?;
    let found = driver.event(event)?;
    if found.captured.is_some() {
        return Err(Code::CAPTURED_EVENT.because("the event was recorded in a capture"));
    }
    Ok(found.point.map(|point| Goal::Point { card: found.card, point }))
}

fn elapsed(milliseconds: usize, start: usize, end: usize) -> Outcome {
    let driver = lock();
    driver.ready()?;
    if driver.event(start)?.context != driver.event(end)?.context {
        // CUDA programming guide, "Stream and event behavior": cudaEventElapsedTime fails for events of two devices.
        return Err(Code::INVALID_HANDLE.because("the events are of different contexts"));
    }
    let time = |event: usize| -> Outcome<_> {
        let found = driver.event(event)?;
        if found.flags & NO_TIMING != 0 || found.point.is_none() {
            return Err(Code::INVALID_HANDLE.because("the event was made without timing or never recorded"));
        }
        found.time.ok_or_else(|| Code::NOT_READY.into())
    };
    let (start, end) = (time(start)?, time(end)?);
    let span = if end >= start { (end - start).as_secs_f32() } else { -(start - end).as_secs_f32() };
    host::write(milliseconds, span * 1e3)
}

driver_api! {
    fn cuStreamCreate(out: usize, flags: u32) {
        create(out, flags, 0)
    }

    fn cuStreamCreateWithPriority(out: usize, flags: u32, priority: i32) {
        create(out, flags, priority)
    }

    fn cuStreamDestroy_v2(stream: usize) {
        let mut driver = lock();
        let handle = driver.stream_handle(stream)?;
        if driver.streams[&handle].context.is_none() {
            return Err(Code::INVALID_HANDLE.because("a default stream cannot be destroyed"));
        }
        let surplus = driver.destroy_stream(handle);
        drop(driver);
        surplus.map_or(Ok(()), wait)
    }

    fn cuStreamGetFlags as cuStreamGetFlags_ptsz(stream: usize, flags: usize) {
        let driver = lock();
        driver.ready()?;
        let handle = driver.stream_handle(stream)?;
        host::write(flags, driver.streams[&handle].flags)
    }

    fn cuStreamGetPriority as cuStreamGetPriority_ptsz(stream: usize, priority: usize) {
        let driver = lock();
        driver.ready()?;
        let handle = driver.stream_handle(stream)?;
        host::write(priority, driver.streams[&handle].priority)
    }

    fn cuStreamGetId as cuStreamGetId_ptsz(stream: usize, id: usize) {
        let driver = lock();
        driver.ready()?;
        host::write(id, driver.stream_handle(stream)?)
    }

    fn cuStreamGetCtx as cuStreamGetCtx_ptsz(stream: usize, context: usize) {
        let driver = lock();
        driver.ready()?;
        let handle = driver.stream_handle(stream)?;
        host::write(context, driver.context_of(handle)?)
    }

    fn cuStreamSynchronize as cuStreamSynchronize_ptsz(stream: usize) {
        let mut driver = lock();
        driver.ready()?;
        let handle = driver.stream_handle(stream)?;
        driver.refuse_capturing(handle)?;
        let goals = driver.goals(handle);
        drop(driver);
        goals.into_iter().try_for_each(wait)
    }

    fn cuStreamQuery as cuStreamQuery_ptsz(stream: usize) {
        let mut driver = lock();
        driver.ready()?;
        let handle = driver.stream_handle(stream)?;
        driver.refuse_capturing(handle)?;
        let goals = driver.goals(handle);
        drop(driver);
        poll(&goals)
    }

    fn cuStreamWaitEvent as cuStreamWaitEvent_ptsz(stream: usize, event: usize, flags: u32) {
        let mut driver = lock();
        driver.ready()?;
        let stream = driver.stream_handle(stream)?;
        check_external(&driver, stream, flags)?;
        // cuStreamWaitEvent: the event may be from a different context than the stream.
        let found = driver.event(event)?;
        let (captured, point) = (found.captured.clone(), found.point);
        let capturing = driver.streams.get(&stream).is_some_and(|s| s.capture.is_some());
        if captured.is_some() || capturing {
            return driver.capture_wait(stream, captured);
        }
        match point {
            Some(point) => driver.issue_after(stream, vec![point], Work::Nothing)?,
            None => return Ok(()),
        }
        drop(driver);
        relieve(stream)
    }

    fn cuLaunchHostFunc as cuLaunchHostFunc_ptsz(stream: usize, function: usize, data: usize) {
        let mut driver = lock();
        driver.ready()?;
        let stream = driver.stream_handle(stream)?;
        if function == 0 {
            return Err(Code::INVALID_VALUE.because("the host function is null"));
        }
        driver.issue(stream, Work::Host { function, data })?;
        drop(driver);
        relieve(stream)
    }

    fn cuEventCreate(out: usize, flags: u32) {
        let mut driver = lock();
        let card = driver.ready()?.ordinal;
        if flags & !7 != 0 {
            return Err(Code::INVALID_VALUE.because(format!("event flags {flags:#x}, allowed are 0 to 7")));
        }
        if flags & INTERPROCESS != 0 {
            return Err(match flags & NO_TIMING {
                0 => Code::INVALID_VALUE.because("an interprocess event must be made without timing"),
                _ => Code::NOT_SUPPORTED.because("events of several processes"),
            });
        }
        let handle = driver.handle();
        host::write(out, handle)?;
        let context = driver.context()?;
        driver.events.insert(handle, Event::new(card, context, flags));
        Ok(())
    }

    fn cuEventDestroy_v2(event: usize) {
        lock().events.remove(&(event as Handle)).map(|_| ())
            .ok_or_else(|| Code::INVALID_HANDLE.because(format!("{event:#x} is not a live event")))
    }

    fn cuEventRecord as cuEventRecord_ptsz(event: usize, stream: usize) {
        record(event, stream, 0)
    }

    fn cuEventRecordWithFlags as cuEventRecordWithFlags_ptsz(event: usize, stream: usize, flags: u32) {
        record(event, stream, flags)
    }

    fn cuEventSynchronize(event: usize) {
        event_goal(event)?.map_or(Ok(()), wait)
    }

    fn cuEventQuery(event: usize) {
        event_goal(event)?.map_or(Ok(()), |goal| poll(&[goal]))
    }

    fn cuEventElapsedTime(milliseconds: usize, start: usize, end: usize) {
        elapsed(milliseconds, start, end)
    }

    fn cuEventElapsedTime_v2(milliseconds: usize, start: usize, end: usize) {
        elapsed(milliseconds, start, end)
    }
}
