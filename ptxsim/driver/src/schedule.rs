//! Streams, events and the order work runs in.
//!
//! Nothing runs when it is issued. A stream is a queue; an entry names the points of other streams
//! it comes after. Whoever waits (a synchronise call, a blocking copy) runs what its goal needs:
//! without a seed exactly that, in the order it was issued; with `PTXSIM_SEED` a random choice
//! among everything that may run. So a missing wait shows as unwritten memory and not by luck.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, MutexGuard};
use std::time::Instant;

use crate::backend::{Device, Launch};
use crate::capture::Graph;
use crate::guard;
use crate::host::{self, Address};
use crate::state::{Driver, Handle, lock};
use crate::status::{Code, Failure, Outcome};

/// A queue longer than this is drained: the data of copies would pile up.
const QUEUE_LIMIT: usize = 4096;

/// The legacy default stream, which orders itself against all blocking streams.
pub(crate) const LEGACY: Handle = 1;
/// The per-thread default stream; here one for all threads.
pub(crate) const PER_THREAD: Handle = 2;

static PROGRESS: Condvar = Condvar::new();

/// A point in a stream: the stream and how many of its entries come before.
pub(crate) type Point = (Handle, u64);

/// Where a copy to the device takes its bytes.
#[derive(Clone)]
pub(crate) enum Source {
    /// Taken when the copy was issued (pageable memory).
    Taken(Arc<[u8]>),
    /// Read when the copy runs (pinned memory, captured copies): address and bytes.
    Later(Address, usize),
}

/// One piece of device work.
#[derive(Clone)]
pub(crate) enum Work {
    Nothing,
    Launch(Arc<Launch>),
    CopyIn { to: u64, from: Source },
    CopyOut { from: u64, to: Address, bytes: usize },
    CopyDevice { from: u64, to: u64, bytes: usize },
    Fill(Fill),
    Free(u64),
    Mark { event: Handle, version: u64 },
    Host { function: usize, data: usize },
    Graph(Arc<Graph>),
}

/// A memset: rows of elements.
#[derive(Clone)]
pub(crate) struct Fill {
    pub(crate) to: u64,
    /// The element; 1, 2 or 4 bytes.
    pub(crate) element: Vec<u8>,
    pub(crate) columns: usize,
    pub(crate) rows: usize,
    pub(crate) pitch_bytes: usize,
}

/// An entry of a stream's queue.
struct Entry {
    ticket: u64,
    after: Vec<Point>,
    work: Work,
}

/// A stream.
pub(crate) struct Stream {
    pub(crate) blocking: bool,
    pub(crate) flags: u32,
    pub(crate) priority: i32,
    pub(crate) capture: Option<Handle>,
    destroyed: bool,
    queue: VecDeque<Entry>,
    issued: u64,
    done: u64,
    busy: bool,
}

impl Stream {
    /// A stream with the driver's creation flags (1: not ordered against the legacy stream).
    pub(crate) fn new(flags: u32, priority: i32) -> Stream {
        Stream {
            blocking: flags & 1 == 0,
            flags,
            priority,
            capture: None,
            destroyed: false,
            queue: VecDeque::new(),
            issued: 0,
            done: 0,
            busy: false,
        }
    }
}

/// An event.
#[derive(Default)]
pub(crate) struct Event {
    pub(crate) flags: u32,
    pub(crate) point: Option<Point>,
    pub(crate) version: u64,
    pub(crate) time: Option<Instant>,
    /// Recorded in a capture: its handle and the nodes it stands behind.
    pub(crate) captured: Option<(Handle, Vec<usize>)>,
}

/// What a wait is for.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    Point(Point),
    Everything,
}

impl Driver {
    /// The stream behind a handle as the caller passed it (0 is the legacy stream).
    pub(crate) fn stream_handle(&self, raw: usize) -> Outcome<Handle> {
        let handle = if raw == 0 { LEGACY } else { raw as Handle };
        match self.streams.get(&handle) {
            Some(stream) if !stream.destroyed => Ok(handle),
            _ => Err(Code::INVALID_HANDLE.because(format!("{raw:#x} is not a live stream"))),
        }
    }

    /// Appends work to a stream; where the stream is being captured, to its graph.
    pub(crate) fn issue(&mut self, stream: Handle, work: Work) -> Outcome {
        self.issue_after(stream, Vec::new(), work)
    }

    /// The same, after points of other streams as well.
    pub(crate) fn issue_after(&mut self, stream: Handle, mut after: Vec<Point>, work: Work) -> Outcome {
        if self.streams.get(&stream).is_some_and(|s| s.capture.is_some()) {
            return self.capture_work(stream, work);
        }
        if stream == LEGACY {
            if self.streams.values().any(|s| s.blocking && s.capture.is_some()) {
                return Err(Code::STREAM_CAPTURE_IMPLICIT
                    .because("work on the legacy stream while a blocking stream is captured"));
            }
            let others = self.streams.iter().filter(|(handle, s)| **handle != LEGACY && s.blocking);
            after.extend(others.map(|(handle, s)| (*handle, s.issued)));
        } else if self.streams.get(&stream).is_some_and(|s| s.blocking)
            && let Some(legacy) = self.streams.get(&LEGACY)
        {
            after.push((LEGACY, legacy.issued));
        }
        self.tickets += 1;
        let ticket = self.tickets;
        let Some(queue) = self.streams.get_mut(&stream) else {
            return Err(Code::INVALID_HANDLE.into());
        };
        queue.issued += 1;
        queue.queue.push_back(Entry { ticket, after, work });
        Ok(())
    }

    /// The point behind everything issued to a stream so far.
    pub(crate) fn tail(&self, stream: Handle) -> Point {
        (stream, self.streams.get(&stream).map_or(0, |s| s.issued))
    }

    /// Records an event behind everything issued to a stream so far.
    pub(crate) fn record(&mut self, event: Handle, stream: Handle) -> Outcome {
        let frontier = self.capture_frontier(stream);
        let Some(found) = self.events.get_mut(&event) else {
            return Err(Code::INVALID_HANDLE.because("not a live event"));
        };
        if let Some(captured) = frontier {
            found.captured = Some(captured);
            return Ok(());
        }
        found.captured = None;
        found.version += 1;
        found.time = None;
        let version = found.version;
        self.issue(stream, Work::Mark { event, version })?;
        let tail = self.tail(stream);
        if let Some(found) = self.events.get_mut(&event) {
            found.point = Some(tail);
        }
        Ok(())
    }

    /// Marks a stream as gone; what it holds still runs.
    pub(crate) fn destroy_stream(&mut self, handle: Handle) {
        if let Some(stream) = self.streams.get_mut(&handle) {
            stream.destroyed = true;
        }
        self.bury(handle);
    }

    fn bury(&mut self, handle: Handle) {
        if self.streams.get(&handle).is_some_and(|s| s.destroyed && s.queue.is_empty() && !s.busy) {
            self.streams.remove(&handle);
        }
    }

    fn passed(&self, (stream, count): Point) -> bool {
        self.streams.get(&stream).is_none_or(|s| s.done >= count)
    }

    /// Whether all that the goal needs has run.
    pub(crate) fn reached(&self, goal: Goal) -> bool {
        match goal {
            Goal::Point(point) => self.passed(point),
            Goal::Everything => self.streams.values().all(|s| s.queue.is_empty() && !s.busy),
        }
    }

    /// The stream whose first entry runs next towards the goal.
    fn choose(&mut self, goal: Goal) -> Option<Handle> {
        let ready = |(handle, s): (&Handle, &Stream)| {
            let entry = s.queue.front().filter(|_| !s.busy)?;
            entry.after.iter().all(|point| self.passed(*point)).then_some((entry.ticket, *handle))
        };
        let mut runnable: Vec<(u64, Handle)> = self.streams.iter().filter_map(ready).collect();
        runnable.sort_unstable();
        if runnable.is_empty() {
            return None;
        }
        if self.random.is_some() {
            let at = self.pick(runnable.len());
            return Some(runnable[at].1);
        }
        match goal {
            Goal::Everything => Some(runnable[0].1),
            Goal::Point((mut stream, _)) => loop {
                // Follow what the entry waits for: points lie in the past, so this ends.
                let first = self.streams.get(&stream)?;
                if first.busy {
                    return None;
                }
                match first.queue.front()?.after.iter().find(|point| !self.passed(**point)) {
                    Some((other, _)) => stream = *other,
                    None => return Some(stream),
                }
            },
        }
    }

    /// A number below `bound` from the seed; 0 without one.
    pub(crate) fn pick(&mut self, bound: usize) -> usize {
        let Some(state) = self.random.as_mut() else {
            return 0;
        };
        // SplitMix64.
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound.max(1) as u64) as usize
    }
}

/// Runs one entry towards the goal, or waits for another thread that does. False: nothing is left.
fn step(mut driver: MutexGuard<'_, Driver>, goal: Goal) -> bool {
    let Some(handle) = driver.choose(goal) else {
        if driver.streams.values().any(|s| s.busy) {
            drop(PROGRESS.wait(driver));
            return true;
        }
        return false;
    };
    let Some(entry) = driver.streams.get_mut(&handle).and_then(|s| {
        s.busy = true;
        s.queue.pop_front()
    }) else {
        return false;
    };
    let device = driver.device.clone();
    let place = (handle, driver.streams.get(&handle).map_or(0, |s| s.done));
    let follows = driver.latest_launch == Some(place);
    let seed = driver.pick(usize::MAX) as u64;
    let poisoned = driver.sticky.is_some();
    drop(driver);

    // After a fault the context is lost: what remains is dropped, not run.
    let result = if poisoned {
        Ok(())
    } else {
        catch_unwind(AssertUnwindSafe(|| execute(&entry.work, device.as_deref(), seed, follows)))
            .unwrap_or_else(|_| Err(Code::UNKNOWN.because("the simulator panicked; this is a bug in it")))
    };

    let mut driver = lock();
    if let Err(failure) = result {
        let code = failure.code.name().and_then(|n| n.to_str().ok()).unwrap_or("error");
        eprintln!("ptxsim: {code}: {}", failure.message.as_deref().unwrap_or("device work failed"));
        driver.sticky.get_or_insert(Failure { message: None, ..failure });
    }
    if let Work::Mark { event, version } = entry.work
        && let Some(found) = driver.events.get_mut(&event)
        && found.version == version
    {
        found.time = Some(Instant::now());
    }
    match entry.work {
        Work::Launch(_) => driver.latest_launch = Some((place.0, place.1 + 1)),
        Work::Graph(_) => driver.latest_launch = None,
        // Marks do not keep kernels apart.
        Work::Mark { .. } | Work::Nothing if follows => driver.latest_launch = Some((place.0, place.1 + 1)),
        _ => {}
    }
    if let Some(stream) = driver.streams.get_mut(&handle) {
        stream.busy = false;
        stream.done += 1;
    }
    driver.bury(handle);
    PROGRESS.notify_all();
    true
}

/// Runs until the goal is reached, then reports the context's state.
pub(crate) fn wait(goal: Goal) -> Outcome {
    loop {
        let driver = lock();
        if driver.reached(goal) {
            return driver.healthy();
        }
        if !step(driver, goal) {
            return Err(Code::UNKNOWN.because("streams wait for each other; this is a bug in the simulator"));
        }
    }
}

/// Asks whether the goal is reached; if not, makes one step, so that polling comes to an end.
pub(crate) fn poll(goal: Goal) -> Outcome {
    let driver = lock();
    driver.healthy()?;
    if driver.reached(goal) {
        return Ok(());
    }
    step(driver, goal);
    Err(Code::NOT_READY.into())
}

/// Drains a stream whose queue has grown too long.
pub(crate) fn relieve(stream: Handle) -> Outcome {
    let driver = lock();
    if driver.streams.get(&stream).is_some_and(|s| s.queue.len() > QUEUE_LIMIT) {
        let goal = Goal::Point(driver.tail(stream));
        drop(driver);
        return wait(goal);
    }
    Ok(())
}

/// Runs one piece of work. The driver's state is not locked meanwhile. `follows`: the kernel that ran last on
/// the card is what this work comes directly after.
pub(crate) fn execute(work: &Work, device: Option<&Device>, seed: u64, follows: bool) -> Outcome {
    let device = device.ok_or(Code::NOT_INITIALIZED)?;
    match work {
        Work::Nothing | Work::Mark { .. } => Ok(()),
        Work::Launch(launch) => device.launch(launch, follows),
        Work::CopyIn { to, from: Source::Taken(bytes) } => device.write(*to, bytes),
        Work::CopyIn { to, from: Source::Later(from, bytes) } => {
            let mut buffer = vec![0; *bytes];
            host::read_bytes(*from, &mut buffer)?;
            device.write(*to, &buffer)
        }
        Work::CopyOut { from, to, bytes } => {
            let mut buffer = vec![0; *bytes];
            device.read(*from, &mut buffer)?;
            host::write_bytes(*to, &buffer)
        }
        Work::CopyDevice { from, to, bytes } => device.copy(*to, *from, *bytes),
        Work::Fill(fill) => {
            let row = fill.element.repeat(fill.columns);
            (0..fill.rows).try_for_each(|at| device.write(fill.to + (at * fill.pitch_bytes) as u64, &row))
        }
        Work::Free(address) => device.free(*address),
        Work::Host { function, data } => {
            // SAFETY: by cuLaunchHostFunc's contract the address is a function of this type, alive until
            // the stream has run it; null was refused when the work was issued.
            let function: extern "C" fn(usize) = unsafe { std::mem::transmute(*function) };
            guard::in_callback(|| function(*data));
            Ok(())
        }
        Work::Graph(graph) => graph.run(device, seed),
    }
}
