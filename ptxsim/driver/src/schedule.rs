//! Streams, events and the order work runs in.
//!
//! Nothing runs when it is issued. A stream is a queue; an entry names the points of other streams
//! it comes after. Whoever waits (a synchronise call, a blocking copy) runs what its goal needs:
//! without a seed exactly that, in the order it was issued; with `PTXSIM_SEED` a random choice
//! among everything that may run. So a missing wait shows as unwritten memory and not by luck.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, MutexGuard, PoisonError};
use std::time::Instant;

use crate::backend::{Devices, Launch};
use crate::capture::Graph;
use crate::guard;
use crate::host::{self, Address};
use crate::state::{Driver, Handle, lock};
use crate::status::{Code, Failure, Outcome};

/// A queue longer than this is drained: the data of copies would pile up.
const QUEUE_LIMIT: usize = 4096;
/// More destroyed streams with work than this are drained: nobody can wait for them any more.
const DESTROYED_LIMIT: usize = 64;

static PROGRESS: Condvar = Condvar::new();

/// A point in a stream: the stream and how many of its entries come before.
pub(crate) type Point = (Handle, u64);

/// Where a copy to the device takes its bytes.
#[derive(Clone)]
pub(crate) enum Source {
    /// Taken when the copy was issued (pageable memory).
    Taken(Arc<[u8]>),
    /// Read when the copy runs (pinned memory, captured copies).
    Later(HostRange),
}

/// Host memory that a copy uses when it runs.
#[derive(Clone)]
pub(crate) struct HostRange {
    pub(crate) address: Address,
    pub(crate) bytes: usize,
    /// The pinned memory it lay in when the copy was issued.
    pub(crate) pinned: Option<Handle>,
}

/// One piece of device work. `Allocate` is a graph's own allocation: one made on a stream is there at once.
#[derive(Clone)]
pub(crate) enum Work {
    Nothing,
    Launch(Arc<Launch>),
    CopyIn { to: u64, from: Source },
    CopyOut { from: u64, to: HostRange },
    CopyDevice { from: u64, to: u64, bytes: usize },
    Fill(Fill),
    Allocate { at: u64, bytes: u64 },
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
    pub(crate) card: usize,
    /// The context it was made in; default streams belong to every context of the card.
    pub(crate) context: Option<Handle>,
    pub(crate) blocking: bool,
    pub(crate) flags: u32,
    pub(crate) priority: i32,
    pub(crate) capture: Option<Handle>,
    pub(crate) destroyed: bool,
    queue: VecDeque<Entry>,
    issued: u64,
    done: u64,
    busy: bool,
}

impl Stream {
    /// A stream with the driver's creation flags (1: not ordered against the legacy stream).
    pub(crate) fn new(card: usize, context: Option<Handle>, flags: u32, priority: i32) -> Stream {
        Stream {
            card,
            context,
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
pub(crate) struct Event {
    pub(crate) card: usize,
    pub(crate) context: Handle,
    pub(crate) flags: u32,
    pub(crate) point: Option<Point>,
    pub(crate) version: u64,
    pub(crate) time: Option<Instant>,
    /// Recorded in a capture: its handle and the nodes it stands behind.
    pub(crate) captured: Option<(Handle, Vec<usize>)>,
}

impl Event {
    /// An event that is not recorded.
    pub(crate) fn new(card: usize, context: Handle, flags: u32) -> Event {
        Event { card, context, flags, point: None, version: 0, time: None, captured: None }
    }
}

/// What a wait is for, and the card whose error it gives: a point of a stream, or everything issued to a card.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    Point { card: usize, point: Point },
    Card(usize),
}

impl Goal {
    fn card(self) -> usize {
        match self {
            Goal::Point { card, .. } | Goal::Card(card) => card,
        }
    }
}

impl Driver {
    /// Appends work to a stream; where the stream is being captured, to its graph.
    pub(crate) fn issue(&mut self, stream: Handle, work: Work) -> Outcome {
        self.issue_after(stream, Vec::new(), work)
    }

    /// The same, after points of other streams as well.
    pub(crate) fn issue_after(&mut self, stream: Handle, mut after: Vec<Point>, work: Work) -> Outcome {
        let Some(own) = self.streams.get(&stream) else {
            return Err(Code::INVALID_HANDLE.into());
        };
        if own.capture.is_some() {
            return self.capture_work(stream, work);
        }
        let legacy = self.cards[own.card].legacy;
        if stream == legacy {
            self.refuse_legacy_capture(stream)?;
            let others = self
                .streams
                .iter()
                .filter(|(handle, s)| **handle != legacy && s.blocking && s.card == own.card);
            after.extend(others.map(|(handle, s)| (*handle, s.issued)));
        } else if own.blocking {
            after.push(self.tail(legacy));
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

    /// Whether a stream is a card's legacy stream, which orders itself against all its blocking streams.
    pub(crate) fn is_legacy(&self, stream: Handle) -> bool {
        self.streams.get(&stream).is_some_and(|s| self.cards[s.card].legacy == stream)
    }

    /// Refuses the legacy stream while a blocking stream of its card is captured.
    pub(crate) fn refuse_legacy_capture(&self, stream: Handle) -> Outcome {
        let captured = |s: &Stream| s.blocking && s.capture.is_some() && self.cards[s.card].legacy == stream;
        if self.streams.values().any(captured) {
            return Err(Code::STREAM_CAPTURE_IMPLICIT
                .because("use of the legacy stream while a blocking stream is captured"));
        }
        Ok(())
    }

    /// A wait for everything issued to a stream so far.
    pub(crate) fn goal(&self, stream: Handle) -> Goal {
        Goal::Point { card: self.streams.get(&stream).map_or(0, |s| s.card), point: self.tail(stream) }
    }

    /// The point behind everything issued to a stream so far.
    pub(crate) fn tail(&self, stream: Handle) -> Point {
        (stream, self.streams.get(&stream).map_or(0, |s| s.issued))
    }

    /// Records an event behind everything issued to a stream so far.
    pub(crate) fn record(&mut self, event: Handle, stream: Handle) -> Outcome {
        let frontier = self.capture_frontier(stream);
        let context = self.context_of(stream)?;
        let Some(found) = self.events.get_mut(&event) else {
            return Err(Code::INVALID_HANDLE.because("not a live event"));
        };
        if found.context != context {
            // cuEventRecord: event and stream must be from the same context.
            return Err(Code::INVALID_HANDLE.because("the event is of another context than the stream"));
        }
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

    /// Marks a stream as gone; what it holds still runs. Gives the oldest such stream where there are too many.
    pub(crate) fn destroy_stream(&mut self, handle: Handle) -> Option<Goal> {
        if let Some(stream) = self.streams.get_mut(&handle) {
            stream.destroyed = true;
        }
        self.bury(handle);
        let mut destroyed = self.streams.iter().filter(|(_, s)| s.destroyed).map(|(handle, _)| *handle);
        let oldest = destroyed.next()?;
        (destroyed.count() >= DESTROYED_LIMIT).then(|| self.goal(oldest))
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
            Goal::Point { point, .. } => self.passed(point),
            Goal::Card(card) => {
                self.streams.values().all(|s| s.card != card || s.queue.is_empty() && !s.busy)
            }
        }
    }

    /// The stream whose first entry runs next towards the goal.
    fn choose(&mut self, goal: Goal) -> Option<Handle> {
        let ready = |(handle, s): (&Handle, &Stream)| {
            let entry = s.queue.front().filter(|_| !s.busy)?;
            entry.after.iter().all(|point| self.passed(*point)).then_some((entry.ticket, *handle))
        };
        if self.random.is_some() {
            let mut runnable: Vec<(u64, Handle)> = self.streams.iter().filter_map(ready).collect();
            runnable.sort_unstable();
            return if runnable.is_empty() { None } else { Some(runnable[self.pick(runnable.len())].1) };
        }
        let mut stream = match goal {
            Goal::Point { point, .. } => point.0,
            Goal::Card(card) => {
                let own = |(handle, s): (&Handle, &Stream)| {
                    (s.card == card).then_some((s.queue.front()?.ticket, *handle))
                };
                let own_ready = self.streams.iter().filter(|(_, s)| s.card == card).filter_map(ready).min();
                match own_ready {
                    Some((_, handle)) => return Some(handle),
                    // All wait for other cards.
                    None => self.streams.iter().filter_map(own).min()?.1,
                }
            }
        };
        loop {
            // Follow what the entry waits for: points lie in the past, so this ends.
            let first = self.streams.get(&stream)?;
            if first.busy {
                return None;
            }
            match first.queue.front()?.after.iter().find(|point| !self.passed(**point)) {
                Some((other, _)) => stream = *other,
                None => return Some(stream),
            }
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
            driver.waiting += 1;
            PROGRESS.wait(driver).unwrap_or_else(PoisonError::into_inner).waiting -= 1;
            return true;
        }
        return false;
    };
    let Some((entry, card, place)) = driver.streams.get_mut(&handle).and_then(|s| {
        s.busy = true;
        Some((s.queue.pop_front()?, s.card, (handle, s.done)))
    }) else {
        return false;
    };
    let devices = driver.devices.clone();
    let follows = driver.cards[card].latest_launch == Some(place);
    let seed = driver.pick(usize::MAX) as u64;
    let poisoned = driver.cards[card].sticky.is_some();
    drop(driver);

    // After a fault the context is lost: what remains is dropped, not run.
    let result = if poisoned {
        Ok(())
    } else {
        catch_unwind(AssertUnwindSafe(|| execute(&entry.work, &devices, card, seed, follows)))
            .unwrap_or_else(|_| Err(Code::UNKNOWN.because("the simulator panicked; this is a bug in it")))
    };

    let mut driver = lock();
    if let Err(failure) = result {
        let code = failure.code.name().and_then(|n| n.to_str().ok()).unwrap_or("error");
        eprintln!("ptxsim: {code}: {}", failure.message.as_deref().unwrap_or("device work failed"));
        driver.cards[card].sticky.get_or_insert(Failure { message: None, ..failure });
    }
    if let Work::Mark { event, version } = entry.work
        && let Some(found) = driver.events.get_mut(&event)
        && found.version == version
    {
        found.time = Some(Instant::now());
    }
    let latest = &mut driver.cards[card].latest_launch;
    match entry.work {
        Work::Launch(_) => *latest = Some((place.0, place.1 + 1)),
        Work::Graph(_) => *latest = None,
        // Marks do not keep kernels apart.
        Work::Mark { .. } | Work::Nothing if follows => *latest = Some((place.0, place.1 + 1)),
        _ => {}
    }
    if let Some(stream) = driver.streams.get_mut(&handle) {
        stream.busy = false;
        stream.done += 1;
    }
    driver.bury(handle);
    // Which asks the kernel, whether anybody waits or not.
    if driver.waiting > 0 {
        PROGRESS.notify_all();
    }
    true
}

/// Runs until the goal is reached, then reports the state of its card.
pub(crate) fn wait(goal: Goal) -> Outcome {
    loop {
        let driver = lock();
        if driver.reached(goal) {
            return driver.healthy(goal.card());
        }
        if !step(driver, goal) {
            return Err(Code::UNKNOWN.because("streams wait for each other; this is a bug in the simulator"));
        }
    }
}

/// Asks whether the goal is reached; if not, makes one step, so that polling comes to an end.
pub(crate) fn poll(goal: Goal) -> Outcome {
    let driver = lock();
    driver.healthy(goal.card())?;
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
        let goal = driver.goal(stream);
        drop(driver);
        return wait(goal);
    }
    Ok(())
}

/// Runs one piece of work of a card's stream. The driver's state is not locked meanwhile. `follows`: the kernel that ran
/// last on the card is what this work comes directly after.
pub(crate) fn execute(work: &Work, devices: &Devices, card: usize, seed: u64, follows: bool) -> Outcome {
    let at = |address| devices.of_address(address, card);
    match work {
        Work::Nothing | Work::Mark { .. } => Ok(()),
        Work::Launch(launch) => devices.0[launch.card].launch(launch, follows),
        Work::CopyIn { to, from: Source::Taken(bytes) } => at(*to)?.write(*to, bytes),
        Work::CopyIn { to, from: Source::Later(from) } => {
            let mut buffer = vec![0; from.bytes];
            from.still_pinned(|| host::read_bytes(from.address, &mut buffer))?;
            at(*to)?.write(*to, &buffer)
        }
        Work::CopyOut { from, to } => {
            let mut buffer = vec![0; to.bytes];
            at(*from)?.read(*from, &mut buffer)?;
            to.still_pinned(|| host::write_bytes(to.address, &buffer))
        }
        Work::CopyDevice { from, to, bytes } => {
            let mut buffer = vec![0; *bytes];
            at(*from)?.read(*from, &mut buffer)?;
            at(*to)?.write(*to, &buffer)
        }
        Work::Fill(fill) => {
            let row = fill.element.repeat(fill.columns);
            let device = at(fill.to)?;
            (0..fill.rows).try_for_each(|at| device.write(fill.to + (at * fill.pitch_bytes) as u64, &row))
        }
        Work::Allocate { at: base, bytes } => at(*base)?.renew(*base, *bytes),
        Work::Free(address) => at(*address)?.free(*address),
        Work::Host { function, data } => {
            // SAFETY: by cuLaunchHostFunc's contract the address is a function of this type, alive until
            // the stream has run it; null was refused when the work was issued.
            let function: extern "C" fn(usize) = unsafe { std::mem::transmute(*function) };
            guard::in_callback(|| function(*data));
            Ok(())
        }
        Work::Graph(graph) => graph.run(devices, seed),
    }
}

impl HostRange {
    /// Does the host's side of a copy, unless the pinned memory it was issued with has been freed since. The lock
    /// keeps it from being freed meanwhile. A card may take such a copy or not: cuMemFreeHost may synchronise, but no
    /// documentation says that it does, so here it is always a fault.
    fn still_pinned(&self, body: impl FnOnce() -> Outcome) -> Outcome {
        let driver = lock();
        if self.pinned.is_some() && driver.pinned(self.address, self.bytes).map(|now| now.id) != self.pinned {
            return Err(Code::ILLEGAL_ADDRESS.because(format!(
                "a copy uses {} bytes of pinned memory at {:#x}, which was freed or unregistered before it ran",
                self.bytes, self.address
            )));
        }
        body()
    }
}
