//! What the driver holds: the card, contexts, handle tables, the sticky error.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use crate::backend::{Device, KernelFacts, Program};
use crate::capture::{Capture, Graph};
use crate::schedule::{Event, LEGACY, PER_THREAD, Point, Stream};
use crate::status::{Code, Failure, Outcome};

/// A handle: a number in one of the tables, never an address.
pub(crate) type Handle = u64;

/// The primary context's handle.
pub(crate) const PRIMARY: Handle = 0x10;
/// Handles are multiples of this, which keeps them apart from small constants and counts.
const HANDLE_STEP: Handle = 0x10;

/// A loaded module.
pub(crate) struct LoadedModule {
    pub(crate) program: Arc<Program>,
    /// Functions handed out, by name.
    pub(crate) functions: HashMap<String, Handle>,
}

/// A function and the attributes set on it.
#[derive(Clone)]
pub(crate) struct Function {
    pub(crate) program: Arc<Program>,
    pub(crate) module: Handle,
    pub(crate) name: String,
    /// Dynamic shared bytes that launches may ask for, once raised.
    pub(crate) raised_shared_bytes: Option<u32>,
    pub(crate) carveout: i32,
    pub(crate) required_cluster: [u32; 3],
    pub(crate) large_clusters: bool,
}

impl Function {
    /// What the module says of the kernel.
    pub(crate) fn facts(&self) -> Outcome<&KernelFacts> {
        self.program.kernels.get(&self.name).ok_or_else(|| Code::INVALID_HANDLE.because("the kernel is gone"))
    }

    /// Dynamic shared bytes a launch may ask for: up to the default block limit unless raised.
    pub(crate) fn dynamic_limit(&self, device: &Device) -> Outcome<u32> {
        let default = device.card.shared_per_block.saturating_sub(self.facts()?.static_shared_bytes);
        Ok(self.raised_shared_bytes.map_or(default, |raised| raised.max(default)))
    }
}

/// The driver's whole state.
pub(crate) struct Driver {
    pub(crate) device: Option<Arc<Device>>,
    pub(crate) primary_references: u32,
    pub(crate) contexts: Vec<Handle>,
    pub(crate) modules: HashMap<Handle, LoadedModule>,
    pub(crate) functions: HashMap<Handle, Function>,
    pub(crate) streams: BTreeMap<Handle, Stream>,
    pub(crate) events: HashMap<Handle, Event>,
    pub(crate) captures: HashMap<Handle, Capture>,
    pub(crate) graphs: HashMap<Handle, Arc<Graph>>,
    pub(crate) executables: HashMap<Handle, Arc<Graph>>,
    /// Pinned host allocations: address to bytes.
    pub(crate) pinned: BTreeMap<usize, usize>,
    /// Host ranges the caller registered as pinned.
    pub(crate) registered: BTreeMap<usize, usize>,
    /// Memory pools and their attributes.
    pub(crate) pools: HashMap<Handle, HashMap<i32, u64>>,
    pub(crate) limits: HashMap<i32, usize>,
    /// The error that lost the context.
    pub(crate) sticky: Option<Failure>,
    pub(crate) tickets: u64,
    /// The place directly behind the kernel that ran last.
    pub(crate) latest_launch: Option<Point>,
    /// The state of the random choice, where `PTXSIM_SEED` is set.
    pub(crate) random: Option<u64>,
    handles: Handle,
}

static DRIVER: LazyLock<Mutex<Driver>> = LazyLock::new(|| Mutex::new(Driver::new()));

thread_local! {
    static CURRENT: RefCell<Vec<Handle>> = const { RefCell::new(Vec::new()) };
}

/// The driver's state. A panic of another thread under the lock leaves plain tables: usable.
pub(crate) fn lock() -> MutexGuard<'static, Driver> {
    DRIVER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The stack of contexts current to this thread.
pub(crate) fn current<T>(with: impl FnOnce(&mut Vec<Handle>) -> T) -> T {
    CURRENT.with_borrow_mut(with)
}

impl Driver {
    fn new() -> Driver {
        let seed = std::env::var("PTXSIM_SEED").ok().and_then(|text| match text.parse() {
            Ok(seed) => Some(seed),
            Err(_) => {
                eprintln!("ptxsim: PTXSIM_SEED={text} is not a number and is ignored");
                None
            }
        });
        Driver {
            device: None,
            primary_references: 0,
            contexts: Vec::new(),
            modules: HashMap::new(),
            functions: HashMap::new(),
            streams: default_streams(),
            events: HashMap::new(),
            captures: HashMap::new(),
            graphs: HashMap::new(),
            executables: HashMap::new(),
            pinned: BTreeMap::new(),
            registered: BTreeMap::new(),
            pools: HashMap::new(),
            limits: HashMap::new(),
            sticky: None,
            tickets: 0,
            latest_launch: None,
            random: seed,
            handles: 0x1000,
        }
    }

    /// A new handle.
    pub(crate) fn handle(&mut self) -> Handle {
        self.handles += HANDLE_STEP;
        self.handles
    }

    /// The card, once cuInit has run.
    pub(crate) fn device(&self) -> Outcome<Arc<Device>> {
        self.device.clone().ok_or_else(|| Code::NOT_INITIALIZED.because("cuInit has not been called"))
    }

    /// The card, where a context is current to this thread and not lost.
    pub(crate) fn ready(&self) -> Outcome<Arc<Device>> {
        let device = self.device()?;
        let context = current(|stack| stack.last().copied());
        match context {
            None => {
                return Err(Code::INVALID_CONTEXT.because("no context is current to this thread"));
            }
            Some(context) if !self.contexts.contains(&context) => {
                return Err(Code::CONTEXT_IS_DESTROYED.because("the current context was destroyed"));
            }
            Some(_) => {}
        }
        self.healthy()?;
        Ok(device)
    }

    /// The sticky error, if there is one.
    pub(crate) fn healthy(&self) -> Outcome {
        self.sticky.clone().map_or(Ok(()), Err)
    }

    /// The function behind a handle.
    pub(crate) fn function(&self, raw: usize) -> Outcome<&Function> {
        self.functions
            .get(&(raw as Handle))
            .ok_or_else(|| Code::INVALID_HANDLE.because(format!("{raw:#x} is not a live function")))
    }

    /// Whether a host range lies within pinned memory.
    pub(crate) fn is_pinned(&self, address: usize, bytes: usize) -> bool {
        [&self.pinned, &self.registered].into_iter().any(|table| {
            table
                .range(..=address)
                .next_back()
                .is_some_and(|(start, length)| address.saturating_add(bytes) <= start.saturating_add(*length))
        })
    }

    /// Ends a context: when it was the last, everything on the card goes and leaks are told.
    pub(crate) fn drop_context(&mut self, context: Handle) {
        self.contexts.retain(|held| *held != context);
        if !self.contexts.is_empty() {
            return;
        }
        if let Some(device) = &self.device {
            // Modules go with the context: their variables are no leaks.
            self.modules.values().for_each(|module| device.unload(&module.program));
            device.reset(self.sticky.is_none());
        }
        self.modules.clear();
        self.functions.clear();
        self.streams = default_streams();
        self.events.clear();
        self.captures.clear();
        self.graphs.clear();
        self.executables.clear();
        self.latest_launch = None;
        self.sticky = None;
    }
}

fn default_streams() -> BTreeMap<Handle, Stream> {
    BTreeMap::from([(LEGACY, Stream::new(0, 0)), (PER_THREAD, Stream::new(0, 0))])
}
