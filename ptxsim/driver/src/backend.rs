//! The seam to the core: the card, its memory, programs and launches. Nothing else of the driver
//! knows how a kernel runs.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use ptxsim::{
    Card, Counters, FaultKind, GlobalMemory, LaunchConfig, LaunchError, LoadError, MemoryError, Module,
    Options, Recording,
};

pub(crate) use ptxsim::{KernelFacts, Random};

use crate::host;
use crate::record::Recorder;
use crate::status::{Code, Failure, Outcome};

/// The card that `PTXSIM_DEVICE` names when it is not set.
const DEFAULT_CARD: &str = "h200";
/// Cards that `PTXSIM_DEVICES` may ask for: 1 to this.
const MOST_CARDS: u8 = 8;

/// Bytes of shared memory the hardware keeps for itself per block, from compute capability 8.0 on.
pub(crate) const RESERVED_SHARED_BYTES: u32 = 1024;
/// Threads a block may have on every card there is.
pub(crate) const MAX_THREADS: u32 = 1024;
pub(crate) const WARP: u32 = 32;
/// Shared memory is given out in units of this many bytes.
pub(crate) const SHARED_UNIT: u32 = 128;
/// Bytes of parameters a kernel may take from compute capability 7.0 on.
pub(crate) const MAX_PARAMETER_BYTES: usize = 32_764;

/// A virtual card and what lies in its memory.
pub(crate) struct Device {
    pub(crate) ordinal: usize,
    pub(crate) card: &'static Card,
    memory: GlobalMemory,
    pub(crate) options: Options,
    /// Launches so far: each has an order of its own, where there is a seed.
    launches: AtomicU64,
    /// Whether kernels run when their turn comes (`PTXSIM_KERNELS`).
    kernels: bool,
    /// The file of `PTXSIM_REPORT`: one JSON object per launch and line.
    report: Option<Arc<Mutex<std::fs::File>>>,
    /// Of `PTXSIM_RECORD`.
    recorder: Option<Arc<Recorder>>,
}

/// A module, checked against the card.
pub(crate) struct Program {
    module: Module,
    /// What it was loaded from, kept for recordings.
    text: Option<String>,
    pub(crate) kernels: BTreeMap<String, Arc<KernelFacts>>,
    /// Kernels with instructions that the core does not run, and which.
    pub(crate) unsupported: BTreeMap<String, String>,
    /// Module variables: name to address and bytes.
    pub(crate) globals: BTreeMap<String, (u64, u64)>,
    /// The virtual architecture the module is written for.
    pub(crate) target: u32,
}

/// What an information log says of it.
impl fmt::Display for Program {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "ptxsim: PTX for sm_{}, kernels: {}", self.target, self.kernels.len())?;
        self.unsupported
            .iter()
            .try_for_each(|(name, why)| write!(out, "\nptxsim: `{name}` does not run: {why}"))
    }
}

/// A launch, complete and checked.
pub(crate) struct Launch {
    /// The card that the program is loaded on.
    pub(crate) card: usize,
    pub(crate) program: Arc<Program>,
    pub(crate) kernel: Arc<str>,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) cluster: [u32; 3],
    pub(crate) dynamic_shared_bytes: u32,
    /// May start before the kernel that it comes directly after has ended.
    pub(crate) overlaps: bool,
    pub(crate) parameters: Vec<u8>,
}

fn failure(error: MemoryError) -> Failure {
    let code = match error {
        MemoryError::OutOfMemory { .. } | MemoryError::OutOfAddresses { .. } => Code::OUT_OF_MEMORY,
        MemoryError::Outside { .. } => Code::ILLEGAL_ADDRESS,
        MemoryError::NotAnAllocation(_) => Code::INVALID_VALUE,
    };
    code.because(error.to_string())
}

/// The code that the driver gives for what a kernel did.
fn code_of(kind: FaultKind) -> Code {
    match kind {
        FaultKind::OutOfBounds => Code::ILLEGAL_ADDRESS,
        FaultKind::Misaligned => Code::MISALIGNED_ADDRESS,
        FaultKind::Assert => Code::ASSERT,
        FaultKind::IllegalInstruction => Code::ILLEGAL_INSTRUCTION,
        FaultKind::Deadlock | FaultKind::InstructionLimit => Code::LAUNCH_TIMEOUT,
        _ => Code::LAUNCH_FAILED,
    }
}

/// The cards, by ordinal.
#[derive(Clone, Default)]
pub(crate) struct Devices(pub(crate) Arc<[Arc<Device>]>);

impl Devices {
    /// `PTXSIM_DEVICES` cards of the kind `PTXSIM_DEVICE`.
    pub(crate) fn from_environment() -> Outcome<Devices> {
        let name = std::env::var("PTXSIM_DEVICE").unwrap_or_else(|_| DEFAULT_CARD.to_owned());
        let card = Card::by_name(&name).ok_or_else(|| {
            let known = Card::names().join(", ");
            Code::INVALID_DEVICE.because(format!("PTXSIM_DEVICE={name} is not a known card: {known}"))
        })?;
        let options = Options::from_environment().map_err(|why| Code::INVALID_DEVICE.because(why))?;
        let report = match std::env::var("PTXSIM_REPORT") {
            Ok(path) if !path.is_empty() => {
                let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
                let why =
                    |e| Code::INVALID_DEVICE.because(format!("PTXSIM_REPORT={path} cannot be written: {e}"));
                Some(Arc::new(Mutex::new(file.map_err(why)?)))
            }
            _ => None,
        };
        let recorder = match std::env::var_os("PTXSIM_RECORD") {
            Some(folder) if !folder.is_empty() => {
                let folder = Path::new(&folder);
                let why = |e| {
                    let what = format!("PTXSIM_RECORD={} cannot be made: {e}", folder.display());
                    Code::INVALID_DEVICE.because(what)
                };
                Some(Arc::new(Recorder::new(folder).map_err(why)?))
            }
            _ => None,
        };
        let count = match std::env::var("PTXSIM_DEVICES") {
            Err(_) => 1,
            Ok(text) => text.parse().ok().filter(|n| (1..=MOST_CARDS).contains(n)).ok_or_else(|| {
                Code::INVALID_DEVICE.because(format!("PTXSIM_DEVICES={text}, allowed: 1 to {MOST_CARDS}"))
            })?,
        };
        let kernels = match std::env::var("PTXSIM_KERNELS").as_deref() {
            Err(_) | Ok("1") => true,
            Ok("0") => false,
            Ok(text) => {
                return Err(Code::INVALID_DEVICE.because(format!("PTXSIM_KERNELS={text}, allowed: 0, 1")));
            }
        };
        host::probe(kernels);
        let device = |ordinal: u8| {
            Arc::new(Device {
                ordinal: ordinal.into(),
                card,
                memory: GlobalMemory::of_card(card.memory_bytes, ordinal),
                options,
                launches: AtomicU64::new(0),
                kernels,
                report: report.clone(),
                recorder: recorder.clone(),
            })
        };
        Ok(Devices((0..count).map(device).collect()))
    }

    /// The card whose memory an address belongs to, allocated or not; `default` for what is no card's.
    /// Unified addressing: the address alone says the card.
    pub(crate) fn of_address(&self, address: u64, default: usize) -> Outcome<&Arc<Device>> {
        let ordinal = GlobalMemory::card_of(address).map(usize::from);
        let found = ordinal.and_then(|ordinal| self.0.get(ordinal)).or_else(|| self.0.get(default));
        found.ok_or_else(|| Code::NOT_INITIALIZED.into())
    }
}

impl Device {
    /// Blocks of a kernel that one multiprocessor holds at once. PTX names no hardware registers: they do not count.
    pub(crate) fn blocks_per_multiprocessor(
        &self,
        facts: &KernelFacts,
        threads: u32,
        dynamic_bytes: u32,
    ) -> u32 {
        let card = &self.card;
        if threads == 0 || threads > facts.max_threads.unwrap_or(MAX_THREADS) {
            return 0;
        }
        let shared = u64::from(facts.static_shared_bytes) + u64::from(dynamic_bytes);
        if shared > u64::from(card.shared_per_block_optin) {
            return 0;
        }
        let shared = (shared as u32).next_multiple_of(SHARED_UNIT) + RESERVED_SHARED_BYTES;
        let by_threads = card.threads_per_multiprocessor / threads.next_multiple_of(WARP);
        let by_shared = card.shared_per_multiprocessor / shared;
        card.blocks_per_multiprocessor.min(by_threads).min(by_shared)
    }

    /// Compute capability as ten times its value.
    pub(crate) fn architecture(&self) -> u32 {
        self.card.architecture()
    }

    /// Bytes in live allocations.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.memory.used_bytes()
    }

    /// Live allocations.
    pub(crate) fn allocations(&self) -> usize {
        self.memory.allocations().len()
    }

    /// Allocates device memory. Its contents are unwritten.
    pub(crate) fn allocate(&self, bytes: u64) -> Outcome<u64> {
        if bytes == 0 {
            return Err(Code::INVALID_VALUE.because("an allocation of 0 bytes"));
        }
        self.memory.allocate(bytes).map_err(failure)
    }

    /// Lets kernels use memory of the host's, at its address.
    pub(crate) fn share(&self, words: &'static [AtomicU32], bytes: usize) -> Outcome {
        self.memory.share(words, bytes as u64).map_err(failure)
    }

    /// Makes an allocation anew where it was.
    pub(crate) fn renew(&self, address: u64, bytes: u64) -> Outcome {
        self.memory.renew(address, bytes).map_err(failure)
    }

    /// Frees an allocation.
    pub(crate) fn free(&self, address: u64) -> Outcome {
        self.memory.free(address).map_err(failure)
    }

    /// The live allocation that an address lies in: start and bytes.
    pub(crate) fn allocation(&self, address: u64) -> Option<(u64, u64)> {
        self.memory.allocation(address)
    }

    /// Checks a range of device memory before work on it is queued.
    pub(crate) fn check(&self, address: u64, bytes: u64) -> Outcome {
        if bytes == 0 {
            return Ok(());
        }
        match self.allocation(address) {
            None => Err(Code::INVALID_VALUE.because(format!("{address:#x} is not in a live allocation"))),
            Some((start, length)) if bytes > start + length - address => {
                Err(Code::INVALID_VALUE.because(format!(
                    "{bytes} bytes at {address:#x} reach past the allocation {start:#x} of {length} bytes"
                )))
            }
            Some(_) => Ok(()),
        }
    }

    /// Reads device memory.
    pub(crate) fn read(&self, from: u64, into: &mut [u8]) -> Outcome {
        if into.is_empty() { Ok(()) } else { self.memory.read(from, into).map_err(failure) }
    }

    /// Writes device memory.
    pub(crate) fn write(&self, to: u64, bytes: &[u8]) -> Outcome {
        if bytes.is_empty() { Ok(()) } else { self.memory.write(to, bytes).map_err(failure) }
    }

    /// Frees everything. With `tell`, what the program left is named on stderr, and managed memory with it.
    pub(crate) fn reset(&self, tell: bool, managed: &[(u64, u64)]) {
        let own = self.memory.allocations();
        let left = [&own, managed].concat();
        if tell && !left.is_empty() {
            let bytes: u64 = left.iter().map(|(_, bytes)| bytes).sum();
            eprintln!(
                "ptxsim: leak: {} allocations ({bytes} bytes) live at the end of the context",
                left.len()
            );
            for (address, bytes) in left.iter().take(8) {
                eprintln!("ptxsim: leak: {address:#x}, {bytes} bytes");
            }
        }
        for (address, _) in own {
            // Listed a moment ago: the only failure would be another thread's free, which is as good.
            let _ = self.memory.free(address);
        }
    }

    /// Reads a module for this card and puts its variables into memory.
    pub(crate) fn load(&self, text: &str) -> Outcome<Program> {
        self.load_into(text, &self.memory)
    }

    /// Reads a module for this card; its variables are in no card's memory.
    pub(crate) fn inspect(&self, text: &str) -> Outcome<Program> {
        self.load_into(text, &GlobalMemory::new(self.card.memory_bytes))
    }

    fn load_into(&self, text: &str, memory: &GlobalMemory) -> Outcome<Program> {
        let module = Module::load(text, self.card, memory).map_err(|error| {
            let code = match &error {
                LoadError::Syntax(_) | LoadError::Target { .. } => Code::INVALID_PTX,
                LoadError::Version(_) => Code::UNSUPPORTED_PTX_VERSION,
                LoadError::Variable { .. } => Code::OUT_OF_MEMORY,
            };
            code.because(error.to_string())
        })?;
        let (mut kernels, mut unsupported) = (BTreeMap::new(), BTreeMap::new());
        for name in module.kernels() {
            match module.facts(name) {
                Ok(facts) => drop(kernels.insert(name.to_owned(), Arc::new(facts))),
                Err(why) => drop(unsupported.insert(name.to_owned(), why.to_string())),
            }
        }
        let globals = module.variables().map(|(name, at, bytes)| (name.to_owned(), (at, bytes))).collect();
        let target = module.target();
        let text = self.recorder.as_ref().map(|_| text.to_owned());
        Ok(Program { module, text, kernels, unsupported, globals, target })
    }

    /// Frees what a module holds on the card.
    pub(crate) fn unload(&self, program: &Program) {
        program.module.unload(&self.memory);
    }

    /// Runs a launch to its end, where kernels run. `follows`: the kernel that ran last is the one it comes directly after.
    pub(crate) fn launch(&self, launch: &Launch, follows: bool) -> Outcome {
        if !self.kernels {
            return Ok(());
        }
        let config = LaunchConfig {
            grid: launch.grid,
            block: launch.block,
            cluster: launch.cluster,
            dynamic_shared_bytes: launch.dynamic_shared_bytes,
            overlaps: launch.overlaps && follows,
        };
        let module = &launch.program.module;
        let number = self.launches.fetch_add(1, Relaxed);
        let seed = self.options.seed.map(|seed| seed.wrapping_add(number));
        let options = Options { seed, ..self.options };
        let recording = match (&self.recorder, &launch.program.text) {
            (Some(recorder), Some(text)) => {
                let parameters = &launch.parameters;
                let begun = Recording::begin(text, module, &launch.kernel, &config, parameters, &self.memory);
                Some((recorder, begun))
            }
            _ => None,
        };
        let done = module.launch(&launch.kernel, &config, &launch.parameters, &self.memory, options);
        match recording {
            Some((recorder, begun)) if done.is_err() => recorder.save(&begun)?,
            Some((recorder, begun)) if recorder.first(&launch.kernel, &config) => {
                recorder.save(&begun.end(&self.memory))?;
            }
            _ => {}
        }
        match done {
            Ok(counters) => self.tell(&counters),
            Err(LaunchError::Fault(fault)) => Err(code_of(fault.kind).because(fault.to_string())),
            Err(error @ (LaunchError::NoKernel(_) | LaunchError::Config { .. })) => {
                Err(Code::INVALID_VALUE.because(error.to_string()))
            }
            Err(error @ LaunchError::Unsupported { .. }) => {
                Err(Code::NOT_SUPPORTED.because(error.to_string()))
            }
        }
    }

    fn tell(&self, counters: &Counters) -> Outcome {
        let Some(report) = &self.report else { return Ok(()) };
        let line = serde_json::to_string(counters)
            .map_err(|e| Code::UNKNOWN.because(format!("PTXSIM_REPORT: {e}")))?;
        let mut file = report.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(file, "{line}").map_err(|e| Code::UNKNOWN.because(format!("PTXSIM_REPORT: {e}")))
    }
}
