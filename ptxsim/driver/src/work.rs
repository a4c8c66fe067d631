//! What is queued and recorded: device work, streams, events, graphs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::ThreadId;
use std::time::Instant;

use crate::backend::Launch;
use crate::host::Address;

/// A handle: a number in one of the tables, never an address.
pub(crate) type Handle = u64;

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
    Graph(Arc<Executable>),
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
pub(crate) struct Entry {
    pub(crate) ticket: u64,
    pub(crate) after: Vec<Point>,
    pub(crate) work: Work,
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
    pub(crate) queue: VecDeque<Entry>,
    pub(crate) issued: u64,
    pub(crate) done: u64,
    pub(crate) busy: bool,
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

/// A recorded piece of work and the nodes it comes after.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) work: Work,
    pub(crate) after: Vec<usize>,
}

/// A graph; a node only follows earlier ones.
#[derive(Clone)]
pub(crate) struct Graph {
    /// The card of the stream that the capture began on.
    pub(crate) card: usize,
    pub(crate) nodes: Vec<Node>,
}

/// A graph that can be launched.
pub(crate) struct Executable {
    pub(crate) graph: Arc<Graph>,
    /// The flags it was instantiated with.
    pub(crate) flags: u64,
    /// Whether a launch of it has run.
    pub(crate) launched: AtomicBool,
}

impl Graph {
    /// Number of edges.
    pub(crate) fn edges(&self) -> usize {
        self.nodes.iter().map(|node| node.after.len()).sum()
    }
}

/// A capture in progress.
pub(crate) struct Capture {
    pub(crate) origin: Handle,
    pub(crate) mode: i32,
    /// The thread that began it.
    pub(crate) thread: ThreadId,
    pub(crate) graph: Graph,
    /// Per captured stream: the nodes its next work comes after.
    pub(crate) members: BTreeMap<Handle, Vec<usize>>,
    pub(crate) invalid: bool,
}
