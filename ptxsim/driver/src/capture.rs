//! Stream capture and graphs: work recorded with what it comes after, replayed as one entry of a stream.

use std::cell::Cell;
use std::collections::BTreeMap;

use crate::state::Driver;
use crate::status::{Code, Outcome};
use crate::work::{Capture, Graph, Handle, Node, Work};

/// Capture modes, of captures and of threads.
const GLOBAL: i32 = 0;
const RELAXED: i32 = 2;

thread_local! {
    static MODE: Cell<i32> = const { Cell::new(GLOBAL) };
}

/// Sets this thread's mode; gives the one before.
pub(crate) fn exchange_mode(mode: i32) -> i32 {
    MODE.replace(mode)
}

impl Driver {
    /// Refuses a call that is not ordered by a stream, by the rules of cuThreadExchangeStreamCaptureMode: while a capture
    /// of this thread goes on that is not relaxed, or one of any thread that is global; a thread whose mode is
    /// thread-local does not mind others', one that is relaxed none.
    pub(crate) fn refuse_during_capture(&self) -> Outcome {
        let (mode, own) = (MODE.get(), std::thread::current().id());
        let forbids = |capture: &Capture| match capture.thread == own {
            true => capture.mode != RELAXED,
            false => mode == GLOBAL && capture.mode == GLOBAL,
        };
        if mode != RELAXED && self.captures.values().any(forbids) {
            return Err(Code::STREAM_CAPTURE_UNSUPPORTED
                .because("not stream-ordered, and a stream is being captured in a mode that forbids it"));
        }
        Ok(())
    }

    /// Starts capturing a stream.
    pub(crate) fn begin_capture(&mut self, stream: Handle, id: Handle, mode: i32) -> Outcome {
        let Some(found) = self.streams.get_mut(&stream) else {
            return Err(Code::INVALID_HANDLE.into());
        };
        if found.capture.is_some() {
            return Err(Code::ILLEGAL_STATE.because("the stream is already being captured"));
        }
        found.capture = Some(id);
        let thread = std::thread::current().id();
        let members = BTreeMap::from([(stream, Vec::new())]);
        let graph = Graph { card: found.card, nodes: Vec::new() };
        self.captures.insert(id, Capture { origin: stream, mode, thread, graph, members, invalid: false });
        Ok(())
    }

    /// Ends the capture of a stream and hands out the graph.
    pub(crate) fn end_capture(&mut self, stream: Handle) -> Outcome<Graph> {
        let id = self.streams.get(&stream).and_then(|s| s.capture);
        let Some(id) = id else {
            return Err(Code::ILLEGAL_STATE.because("the stream is not being captured"));
        };
        if self.captures.get(&id).is_some_and(|c| c.origin != stream) {
            self.invalidate(stream);
            return Err(Code::STREAM_CAPTURE_UNMATCHED.because("the capture began on another stream"));
        }
        let own = std::thread::current().id();
        if self.captures.get(&id).is_some_and(|c| c.mode != RELAXED && c.thread != own) {
            return Err(Code::STREAM_CAPTURE_WRONG_THREAD.because("the capture began on another thread"));
        }
        let Some(capture) = self.captures.remove(&id) else {
            return Err(Code::ILLEGAL_STATE.into());
        };
        for member in capture.members.keys() {
            if let Some(found) = self.streams.get_mut(member) {
                found.capture = None;
            }
        }
        if capture.invalid {
            return Err(Code::STREAM_CAPTURE_INVALIDATED.because("an earlier call broke the capture"));
        }
        let joined = ancestors(&capture.graph, &capture.members[&stream]);
        if capture.members.values().flatten().any(|node| !joined[*node]) {
            return Err(
                Code::STREAM_CAPTURE_UNJOINED.because("another captured stream was not joined by an event")
            );
        }
        Ok(capture.graph)
    }

    /// Adds work behind what the stream has captured so far.
    pub(crate) fn capture_work(&mut self, stream: Handle, work: Work) -> Outcome {
        let id = self.streams.get(&stream).and_then(|s| s.capture);
        let Some(capture) = id.and_then(|id| self.captures.get_mut(&id)) else {
            return Err(Code::ILLEGAL_STATE.into());
        };
        if capture.invalid {
            return Err(Code::STREAM_CAPTURE_INVALIDATED.into());
        }
        let frontier = capture.members.entry(stream).or_default();
        let at = capture.graph.nodes.len();
        let after = std::mem::replace(frontier, vec![at]);
        capture.graph.nodes.push(Node { work, after });
        Ok(())
    }

    /// The capture of a stream and the nodes its next work would come after.
    pub(crate) fn capture_frontier(&self, stream: Handle) -> Option<(Handle, Vec<usize>)> {
        let id = self.streams.get(&stream)?.capture?;
        Some((id, self.captures.get(&id)?.members.get(&stream)?.clone()))
    }

    /// A wait for an event where the event, the stream, or both are captured.
    pub(crate) fn capture_wait(&mut self, stream: Handle, event: Option<(Handle, Vec<usize>)>) -> Outcome {
        let own = self.streams.get(&stream).and_then(|s| s.capture);
        match (own, event) {
            (Some(_), None) => {
                self.invalidate(stream);
                Err(Code::STREAM_CAPTURE_ISOLATION
                    .because("a captured stream waits for an event outside its capture"))
            }
            (Some(own), Some((id, _))) if own != id => {
                self.invalidate(stream);
                Err(Code::STREAM_CAPTURE_MERGE.because("the event belongs to another capture"))
            }
            (_, Some((id, nodes))) => {
                let Some(capture) = self.captures.get_mut(&id) else {
                    return Err(
                        Code::CAPTURED_EVENT.because("the event was recorded in a capture that has ended")
                    );
                };
                let frontier = capture.members.entry(stream).or_default();
                frontier.extend(nodes);
                frontier.sort_unstable();
                frontier.dedup();
                if let Some(found) = self.streams.get_mut(&stream) {
                    found.capture = Some(id);
                }
                Ok(())
            }
            (None, None) => Ok(()),
        }
    }

    /// Marks the capture of a stream as broken.
    pub(crate) fn invalidate(&mut self, stream: Handle) {
        let id = self.streams.get(&stream).and_then(|s| s.capture);
        if let Some(capture) = id.and_then(|id| self.captures.get_mut(&id)) {
            capture.invalid = true;
        }
    }

    /// Refuses a call that a captured stream cannot take, and breaks its capture.
    pub(crate) fn refuse_capturing(&mut self, stream: Handle) -> Outcome {
        if self.streams.get(&stream).is_some_and(|s| s.capture.is_some()) {
            self.invalidate(stream);
            return Err(Code::STREAM_CAPTURE_UNSUPPORTED.because("the stream is being captured"));
        }
        Ok(())
    }
}

/// For each node, whether it is among `from` or before one of them.
fn ancestors(graph: &Graph, from: &[usize]) -> Vec<bool> {
    let mut seen = vec![false; graph.nodes.len()];
    let mut open = from.to_vec();
    while let Some(at) = open.pop() {
        if !std::mem::replace(&mut seen[at], true) {
            open.extend(&graph.nodes[at].after);
        }
    }
    seen
}
