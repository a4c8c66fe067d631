//! Streams, events and the order work runs in.
//!
//! Nothing runs when it is issued. A stream is a queue; an entry names the points of other streams
//! it comes after. Whoever waits (a synchronise call, a blocking copy) runs what its goal needs:
//! without a seed exactly that, in the order it was issued; with `PTXSIM_SEED` a random choice
//! among everything that may run. So a missing wait shows as unwritten memory and not by luck.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, PoisonError};
use std::time::Instant;

use crate::backend::Devices;
use crate::execute::execute;
use crate::state::{Driver, lock};
use crate::status::{Code, Failure, Outcome};
use crate::work::{Entry, Handle, Point, Stream, Work};

/// A queue longer than this is drained: the data of copies would pile up.
const QUEUE_LIMIT: usize = 4096;
/// More destroyed streams with work than this are drained: nobody can wait for them any more.
const DESTROYED_LIMIT: usize = 64;

static PROGRESS: Condvar = Condvar::new();

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

    /// What waiting for a stream waits for: for the legacy stream, all blocking streams of its card as well.
    pub(crate) fn goals(&self, stream: Handle) -> Vec<Goal> {
        let mut goals = vec![self.goal(stream)];
        if self.is_legacy(stream) {
            let card = self.streams[&stream].card;
            let blocking = self.streams.iter().filter(|(_, s)| s.blocking && s.card == card);
            goals.extend(blocking.map(|(other, _)| self.goal(*other)));
        }
        goals
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
        self.random.as_mut().map_or(0, |random| random.below(bound.max(1)))
    }
}

/// What comes next towards a goal.
enum Next {
    Run(Box<Taken>),
    /// Another thread runs it.
    Busy,
    Nothing,
}

/// An entry taken from its stream, which is busy with it, and what running it takes.
struct Taken {
    entry: Entry,
    devices: Devices,
    stream: Handle,
    card: usize,
    place: Point,
    follows: bool,
    seed: u64,
    /// After a fault the context is lost: what remains is dropped, not run.
    poisoned: bool,
}

/// Takes the entry that comes next towards a goal.
fn take(driver: &mut Driver, goal: Goal) -> Next {
    let Some(stream) = driver.choose(goal) else {
        return if driver.streams.values().any(|s| s.busy) { Next::Busy } else { Next::Nothing };
    };
    let Some((entry, card, place)) = driver.streams.get_mut(&stream).and_then(|s| {
        s.busy = true;
        Some((s.queue.pop_front()?, s.card, (stream, s.done)))
    }) else {
        return Next::Nothing;
    };
    let devices = driver.devices.clone();
    let follows = driver.cards[card].latest_launch == Some(place);
    let seed = driver.pick(usize::MAX) as u64;
    let poisoned = driver.cards[card].sticky.is_some();
    Next::Run(Box::new(Taken { entry, devices, stream, card, place, follows, seed, poisoned }))
}

impl Taken {
    /// Runs the entry; the driver's state is not locked meanwhile.
    fn run(self) {
        let Taken { entry, devices, stream, card, place, follows, seed, poisoned } = self;
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
        if let Some(stream) = driver.streams.get_mut(&stream) {
            stream.busy = false;
            stream.done += 1;
        }
        driver.bury(stream);
        // Which asks the kernel, whether anybody waits or not.
        if driver.waiting > 0 {
            PROGRESS.notify_all();
        }
    }

    /// Whether the program's own functions are called.
    fn calls_host(&self) -> bool {
        let is_host = |work: &Work| matches!(work, Work::Host { .. });
        match &self.entry.work {
            Work::Graph(executable) => executable.graph.nodes.iter().any(|node| is_host(&node.work)),
            work => is_host(work),
        }
    }
}

/// Runs until the goal is reached, then reports the state of its card.
pub(crate) fn wait(goal: Goal) -> Outcome {
    loop {
        let mut driver = lock();
        if driver.reached(goal) {
            return driver.healthy(goal.card());
        }
        match take(&mut driver, goal) {
            Next::Run(taken) => {
                drop(driver);
                taken.run();
            }
            Next::Busy => {
                driver.waiting += 1;
                PROGRESS.wait(driver).unwrap_or_else(PoisonError::into_inner).waiting -= 1;
            }
            Next::Nothing => {
                return Err(
                    Code::UNKNOWN.because("streams wait for each other; this is a bug in the simulator")
                );
            }
        }
    }
}

/// Asks whether the goals are reached; if not, makes one step, so that polling comes to an end. It waits for nobody: a host
/// function, which may itself wait for whoever asks, runs on a thread of its own.
pub(crate) fn poll(goals: &[Goal]) -> Outcome {
    let mut driver = lock();
    for goal in goals {
        driver.healthy(goal.card())?;
        if driver.reached(*goal) {
            continue;
        }
        let next = take(&mut driver, *goal);
        drop(driver);
        match next {
            Next::Run(taken) if taken.calls_host() => drop(std::thread::spawn(|| taken.run())),
            Next::Run(taken) => taken.run(),
            Next::Busy | Next::Nothing => std::thread::yield_now(),
        }
        return Err(Code::NOT_READY.into());
    }
    Ok(())
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
