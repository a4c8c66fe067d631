//! Streams and events.

use crate::guard::driver_api;
use crate::host;
use crate::schedule::{Event, Goal, Stream, Work, poll, relieve, wait};
use crate::state::{Handle, lock};
use crate::status::{Code, Outcome};

/// The event flag that forbids timing.
const NO_TIMING: u32 = 2;

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

fn record(event: usize, stream: usize) -> Outcome {
    let mut driver = lock();
    driver.ready()?;
    let stream = driver.stream_handle(stream)?;
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

    fn cuStreamGetFlags(stream: usize, flags: usize) {
        let driver = lock();
        driver.ready()?;
        let handle = driver.stream_handle(stream)?;
        host::write(flags, driver.streams[&handle].flags)
    }

    fn cuStreamGetPriority(stream: usize, priority: usize) {
        let driver = lock();
        driver.ready()?;
        let handle = driver.stream_handle(stream)?;
        host::write(priority, driver.streams[&handle].priority)
    }

    fn cuStreamGetId(stream: usize, id: usize) {
        let driver = lock();
        driver.ready()?;
        host::write(id, driver.stream_handle(stream)?)
    }

    fn cuStreamGetCtx(stream: usize, context: usize) {
        let driver = lock();
        driver.ready()?;
        let handle = driver.stream_handle(stream)?;
        host::write(context, driver.context_of(handle)?)
    }

    fn cuStreamSynchronize(stream: usize) {
        let mut driver = lock();
        driver.ready()?;
        let handle = driver.stream_handle(stream)?;
        driver.refuse_capturing(handle)?;
        let mut goals = vec![driver.goal(handle)];
        if driver.is_legacy(handle) {
            let card = driver.streams[&handle].card;
            let blocking = driver.streams.iter().filter(|(_, s)| s.blocking && s.card == card);
            goals.extend(blocking.map(|(other, _)| driver.goal(*other)));
        }
        drop(driver);
        goals.into_iter().try_for_each(wait)
    }

    fn cuStreamQuery(stream: usize) {
        let mut driver = lock();
        driver.ready()?;
        let handle = driver.stream_handle(stream)?;
        driver.refuse_capturing(handle)?;
        let goal = driver.goal(handle);
        drop(driver);
        poll(goal)
    }

    fn cuStreamWaitEvent(stream: usize, event: usize, _flags: u32) {
        let mut driver = lock();
        driver.ready()?;
        let stream = driver.stream_handle(stream)?;
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

    fn cuStreamAttachMemAsync(stream: usize, address: u64, _bytes: usize, _flags: u32) {
        let driver = lock();
        driver.ready()?;
        driver.stream_handle(stream)?;
        driver.device_of(address)?.check(address, 1)
    }

    fn cuLaunchHostFunc(stream: usize, function: usize, data: usize) {
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

    fn cuEventRecord(event: usize, stream: usize) {
        record(event, stream)
    }

    fn cuEventRecordWithFlags(event: usize, stream: usize, _flags: u32) {
        record(event, stream)
    }

    fn cuEventSynchronize(event: usize) {
        event_goal(event)?.map_or(Ok(()), wait)
    }

    fn cuEventQuery(event: usize) {
        event_goal(event)?.map_or(Ok(()), poll)
    }

    fn cuEventElapsedTime(milliseconds: usize, start: usize, end: usize) {
        elapsed(milliseconds, start, end)
    }

    fn cuEventElapsedTime_v2(milliseconds: usize, start: usize, end: usize) {
        elapsed(milliseconds, start, end)
    }
}
