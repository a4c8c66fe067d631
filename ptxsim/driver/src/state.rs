//! What the driver holds: the cards, their contexts and sticky errors, handle tables.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::ffi::CStr;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use crate::backend::{Device, Devices, KernelFacts, Program, Random};
use crate::image;
use crate::pages;
use crate::status::{Code, Failure, Outcome};
use crate::work::{Capture, Event, Executable, Graph, Handle, Point, Stream};

/// The legacy default stream as programs name it, beside 0; it orders itself against all blocking streams.
const LEGACY: usize = 1;
/// The per-thread default stream; here one for all threads.
const PER_THREAD: usize = 2;
/// Handles are multiples of this, which keeps them apart from small constants and counts.
const HANDLE_STEP: Handle = 0x10;

/// A loaded module.
pub(crate) struct LoadedModule {
    pub(crate) context: Handle,
    pub(crate) card: usize,
    pub(crate) program: Arc<Program>,
    /// The library that loaded it.
    pub(crate) library: Option<Handle>,
    /// Functions handed out, by name.
    pub(crate) functions: HashMap<String, Handle>,
}

/// A library: an image that is loaded into each context which uses it.
pub(crate) struct Library {
    pub(crate) text: Arc<str>,
    /// What the image holds. Its variables are in no card's memory.
    pub(crate) contents: Arc<Program>,
    /// Kernels handed out, by name.
    pub(crate) kernels: HashMap<String, Handle>,
    /// The modules it has been loaded as, by context.
    pub(crate) modules: HashMap<Handle, Handle>,
}

/// A kernel of a library, of no context.
pub(crate) struct Kernel {
    pub(crate) library: Handle,
    pub(crate) name: Arc<str>,
    /// The name as C has it.
    pub(crate) symbol: Arc<CStr>,
    pub(crate) facts: Arc<KernelFacts>,
    /// What was set on it, by card.
    pub(crate) settings: Vec<Settings>,
}

/// A link in progress: its options, and what goes in and comes out.
pub(crate) struct Link {
    pub(crate) options: Arc<image::Options>,
    pub(crate) text: Option<Vec<u8>>,
}

/// A function: a kernel in a context.
#[derive(Clone)]
pub(crate) struct Function {
    pub(crate) program: Arc<Program>,
    pub(crate) module: Handle,
    pub(crate) context: Handle,
    pub(crate) name: Arc<str>,
    /// The name as C has it.
    pub(crate) symbol: Arc<CStr>,
    /// What the module says of the kernel.
    pub(crate) facts: Arc<KernelFacts>,
    pub(crate) settings: Settings,
}

/// The attributes that a program sets on a kernel.
#[derive(Clone)]
pub(crate) struct Settings {
    /// Dynamic shared bytes that launches may ask for, once raised.
    pub(crate) raised_shared_bytes: Option<u32>,
    pub(crate) carveout: i32,
    pub(crate) required_cluster: [u32; 3],
    pub(crate) large_clusters: bool,
    pub(crate) cluster_policy: i32,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            raised_shared_bytes: None,
            carveout: -1,
            required_cluster: [0; 3],
            large_clusters: false,
            cluster_policy: 0,
        }
    }
}

impl Settings {
    /// Dynamic shared bytes a launch may ask for: up to the default block limit unless raised.
    pub(crate) fn dynamic_limit(&self, facts: &KernelFacts, device: &Device) -> u32 {
        let default = device.card.shared_per_block.saturating_sub(facts.static_shared_bytes);
        self.raised_shared_bytes.map_or(default, |raised| raised.max(default))
    }
}

/// What a card has beside its memory. Its contexts share it.
pub(crate) struct Card {
    /// The primary context, whether it is live or not.
    pub(crate) primary: Handle,
    pub(crate) primary_references: u32,
    pub(crate) contexts: Vec<Handle>,
    /// The default streams.
    pub(crate) legacy: Handle,
    per_thread: Handle,
    pub(crate) default_pool: Handle,
    /// The pool that allocations on streams come from.
    pub(crate) pool: Handle,
    pub(crate) limits: HashMap<i32, usize>,
    /// The error that lost the card's contexts.
    pub(crate) sticky: Option<Failure>,
    /// The place directly behind the kernel that ran last.
    pub(crate) latest_launch: Option<Point>,
}

/// A range of host memory that the driver knows.
pub(crate) struct HostMemory {
    pub(crate) bytes: usize,
    /// The card that was current then.
    pub(crate) card: usize,
    /// The flags it was made with.
    pub(crate) flags: u32,
    /// Tells it from a later range at the same address.
    pub(crate) id: Handle,
    pub(crate) kind: HostKind,
}

/// What host memory is. Kernels see the first two.
#[derive(Clone, Copy)]
pub(crate) enum HostKind {
    Pinned(&'static [AtomicU32]),
    Managed(&'static [AtomicU32]),
    /// The program's own, which it has registered.
    Registered,
}

/// A memory pool.
pub(crate) struct Pool {
    pub(crate) card: usize,
    /// Reuse policies 1 to 3 and the release threshold, as they were set.
    pub(crate) attributes: HashMap<i32, u64>,
    /// The most bytes in use on the card since this was reset.
    pub(crate) high: u64,
}

impl Pool {
    pub(crate) fn new(card: usize) -> Pool {
        Pool { card, attributes: HashMap::new(), high: 0 }
    }
}

/// The driver's whole state.
pub(crate) struct Driver {
    /// The cards' memories, and by the same ordinals what else they have. Empty before cuInit.
    pub(crate) devices: Devices,
    pub(crate) cards: Vec<Card>,
    /// The flags of contexts, where any were given.
    pub(crate) context_flags: HashMap<Handle, u32>,
    pub(crate) modules: HashMap<Handle, LoadedModule>,
    pub(crate) functions: HashMap<Handle, Function>,
    pub(crate) libraries: HashMap<Handle, Library>,
    pub(crate) kernels: HashMap<Handle, Kernel>,
    pub(crate) links: HashMap<Handle, Link>,
    pub(crate) streams: BTreeMap<Handle, Stream>,
    pub(crate) events: HashMap<Handle, Event>,
    pub(crate) captures: HashMap<Handle, Capture>,
    pub(crate) graphs: HashMap<Handle, Arc<Graph>>,
    pub(crate) executables: HashMap<Handle, Arc<Executable>>,
    /// Pinned, managed and registered host memory, by address.
    pub(crate) host_memory: BTreeMap<usize, HostMemory>,
    pub(crate) pools: HashMap<Handle, Pool>,
    pub(crate) tickets: u64,
    /// Threads that wait for another's step.
    pub(crate) waiting: usize,
    /// The random choice, where `PTXSIM_SEED` is set.
    pub(crate) random: Option<Random>,
    handles: Handle,
}

static DRIVER: LazyLock<Mutex<Driver>> = LazyLock::new(|| Mutex::new(Driver::new()));

thread_local! {
    static CURRENT: RefCell<Vec<Handle>> = const { RefCell::new(Vec::new()) };
    static PER_THREAD_STREAM: Cell<bool> = const { Cell::new(false) };
}

/// The driver's state. A panic of another thread under the lock leaves plain tables: usable.
pub(crate) fn lock() -> MutexGuard<'static, Driver> {
    DRIVER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `body` with stream 0 as the thread's own default stream.
pub(crate) fn per_thread_stream(body: impl FnOnce() -> i32) -> i32 {
    let before = PER_THREAD_STREAM.replace(true);
    let code = body();
    PER_THREAD_STREAM.set(before);
    code
}

/// Whether stream 0 is the thread's own default stream.
fn is_per_thread_stream() -> bool {
    PER_THREAD_STREAM.get()
}

/// The stack of contexts current to this thread.
pub(crate) fn current<T>(with: impl FnOnce(&mut Vec<Handle>) -> T) -> T {
    CURRENT.with_borrow_mut(with)
}

impl Driver {
    fn new() -> Driver {
        Driver {
            devices: Devices::default(),
            cards: Vec::new(),
            context_flags: HashMap::new(),
            modules: HashMap::new(),
            functions: HashMap::new(),
            libraries: HashMap::new(),
            kernels: HashMap::new(),
            links: HashMap::new(),
            streams: BTreeMap::new(),
            events: HashMap::new(),
            captures: HashMap::new(),
            graphs: HashMap::new(),
            executables: HashMap::new(),
            host_memory: BTreeMap::new(),
            pools: HashMap::new(),
            tickets: 0,
            waiting: 0,
            random: None,
            handles: 0x1000,
        }
    }

    /// A new handle.
    pub(crate) fn handle(&mut self) -> Handle {
        self.handles += HANDLE_STEP;
        self.handles
    }

    /// Takes the cards of the environment, the first time.
    pub(crate) fn initialise(&mut self) -> Outcome {
        if !self.cards.is_empty() {
            return Ok(());
        }
        self.devices = Devices::from_environment()?;
        self.random = self.devices.0.first().and_then(|device| device.options.seed.map(Random::of));
        for ordinal in 0..self.devices.0.len() {
            let pool = self.handle();
            let card = Card {
                primary: self.handle(),
                primary_references: 0,
                contexts: Vec::new(),
                legacy: 0,
                per_thread: 0,
                default_pool: pool,
                pool,
                limits: HashMap::new(),
                sticky: None,
                latest_launch: None,
            };
            self.pools.insert(pool, Pool::new(ordinal));
            self.cards.push(card);
            self.make_default_streams(ordinal);
        }
        Ok(())
    }

    /// Gives a card default streams, with new handles: what waits for points of older ones is not held up.
    fn make_default_streams(&mut self, card: usize) {
        let handles = [self.handle(), self.handle()];
        [self.cards[card].legacy, self.cards[card].per_thread] = handles;
        self.streams.extend(handles.map(|handle| (handle, Stream::new(card, None, 0, 0))));
    }

    /// Any card, once cuInit has run: all are of one kind.
    pub(crate) fn any_device(&self) -> Outcome<Arc<Device>> {
        self.devices
            .0
            .first()
            .cloned()
            .ok_or_else(|| Code::NOT_INITIALIZED.because("cuInit has not been called"))
    }

    /// The card of a context.
    pub(crate) fn card_of(&self, context: Handle) -> Option<usize> {
        self.cards.iter().position(|card| card.contexts.contains(&context))
    }

    /// The context current to this thread.
    pub(crate) fn context(&self) -> Outcome<Handle> {
        current(|stack| stack.last().copied())
            .ok_or_else(|| Code::INVALID_CONTEXT.because("no context is current to this thread"))
    }

    /// The card of the context current to this thread, where it is live and not lost.
    pub(crate) fn ready(&self) -> Outcome<Arc<Device>> {
        self.any_device()?;
        let card = self.card_of(self.context()?);
        let card =
            card.ok_or_else(|| Code::CONTEXT_IS_DESTROYED.because("the current context was destroyed"))?;
        self.healthy(card)?;
        Ok(self.devices.0[card].clone())
    }

    /// The sticky error of a card, if there is one.
    pub(crate) fn healthy(&self, card: usize) -> Outcome {
        self.cards.get(card).and_then(|card| card.sticky.clone()).map_or(Ok(()), Err)
    }

    /// The stream behind a handle as the caller passed it: 0, 1 and 2 are default streams of the current context.
    pub(crate) fn stream_handle(&self, raw: usize) -> Outcome<Handle> {
        let handle = match raw {
            0 | LEGACY | PER_THREAD => {
                let card = self.ready()?.ordinal;
                if raw == PER_THREAD || raw == 0 && is_per_thread_stream() {
                    self.cards[card].per_thread
                } else {
                    self.cards[card].legacy
                }
            }
            other => other as Handle,
        };
        match self.streams.get(&handle) {
            Some(stream) if !stream.destroyed => Ok(handle),
            _ => Err(Code::INVALID_HANDLE.because(format!("{raw:#x} is not a live stream"))),
        }
    }

    /// The same for work that only a stream of the current context takes. CUDA programming guide, "Stream and event
    /// behavior": a kernel launch fails if it is issued to a stream that is not associated to the current device.
    pub(crate) fn own_stream(&self, raw: usize) -> Outcome<Handle> {
        let handle = self.stream_handle(raw)?;
        if self.context_of(handle)? != self.context()? {
            return Err(Code::INVALID_HANDLE.because(format!("{raw:#x} is a stream of another context")));
        }
        Ok(handle)
    }

    /// The context of a stream; default streams are the current context's.
    pub(crate) fn context_of(&self, stream: Handle) -> Outcome<Handle> {
        self.streams.get(&stream).and_then(|s| s.context).map_or_else(|| self.context(), Ok)
    }

    /// The live event behind a handle.
    pub(crate) fn event(&self, raw: usize) -> Outcome<&Event> {
        self.events
            .get(&(raw as Handle))
            .ok_or_else(|| Code::INVALID_HANDLE.because(format!("{raw:#x} is not a live event")))
    }

    /// The card that an address belongs to; the current one for those of no card.
    pub(crate) fn device_of(&self, address: u64) -> Outcome<Arc<Device>> {
        let own = self.ready()?;
        self.devices.of_address(address, own.ordinal).cloned()
    }

    /// The function behind a handle.
    pub(crate) fn function(&self, raw: usize) -> Outcome<&Function> {
        self.functions
            .get(&(raw as Handle))
            .ok_or_else(|| Code::INVALID_HANDLE.because(format!("{raw:#x} is not a live function")))
    }

    /// The pinned or registered memory that a host range lies in.
    pub(crate) fn pinned(&self, address: usize, bytes: usize) -> Option<&HostMemory> {
        let (_, found) = self.host_memory(address, bytes)?;
        (!matches!(found.kind, HostKind::Managed(_))).then_some(found)
    }

    /// The managed memory that an address lies in, and its start.
    pub(crate) fn managed(&self, address: u64) -> Option<(usize, &HostMemory)> {
        self.host_memory(address as usize, 1).filter(|(_, found)| matches!(found.kind, HostKind::Managed(_)))
    }

    /// The known host memory that a range lies in, and its start.
    pub(crate) fn host_memory(&self, address: usize, bytes: usize) -> Option<(usize, &HostMemory)> {
        let (start, found) = self.host_memory.range(..=address).next_back()?;
        (address.saturating_add(bytes) <= start.saturating_add(found.bytes)).then_some((*start, found))
    }

    /// Takes host memory from the table and from the cards.
    pub(crate) fn forget_host_memory(&mut self, address: usize) {
        if let Some(gone) = self.host_memory.remove(&address)
            && let HostKind::Pinned(words) | HostKind::Managed(words) = gone.kind
        {
            // All cards have it: the only failure would be that one does not, which is as good.
            self.devices.0.iter().for_each(|device| drop(device.free(address as u64)));
            pages::release(words);
        }
    }

    /// Ends a context: when it was its card's last, everything on the card goes and leaks are told.
    pub(crate) fn drop_context(&mut self, context: Handle) {
        let Some(card) = self.card_of(context) else { return };
        self.cards[card].contexts.retain(|held| *held != context);
        self.context_flags.remove(&context);
        if !self.cards[card].contexts.is_empty() {
            return;
        }
        let device = &self.devices.0[card];
        // Modules go with the context: their variables are no leaks.
        self.modules.values().filter(|m| m.card == card).for_each(|m| device.unload(&m.program));
        let managed = |(_, memory): &(&usize, &HostMemory)| {
            memory.card == card && matches!(memory.kind, HostKind::Managed(_))
        };
        let managed: Vec<_> =
            self.host_memory.iter().filter(managed).map(|(at, m)| (*at as u64, m.bytes as u64)).collect();
        device.reset(self.cards[card].sticky.is_none(), &managed);
        managed.iter().for_each(|(address, _)| self.forget_host_memory(*address as usize));
        self.modules.retain(|_, module| module.card != card);
        self.functions.retain(|_, function| self.modules.contains_key(&function.module));
        for library in self.libraries.values_mut() {
            library.modules.retain(|_, module| self.modules.contains_key(module));
        }
        self.streams.retain(|_, stream| stream.card != card);
        self.events.retain(|_, event| event.card != card);
        self.captures.retain(|_, capture| capture.graph.card != card);
        for stream in self.streams.values_mut() {
            stream.capture = stream.capture.filter(|capture| self.captures.contains_key(capture));
        }
        self.graphs.retain(|_, graph| graph.card != card);
        self.executables.retain(|_, executable| executable.graph.card != card);
        self.cards[card].latest_launch = None;
        self.cards[card].sticky = None;
        self.make_default_streams(card);
    }
}
