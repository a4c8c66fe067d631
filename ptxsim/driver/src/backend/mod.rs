//! The seam to the core: the card, its memory, programs and launches. Nothing else of the driver
//! knows how a kernel runs.
//!
//! The core is not there yet. Until it is, `card`, `memory` and `interface` stand in for its card
//! table, global memory and parser, and a launch that passes every check fails its stream with
//! `CUDA_ERROR_NOT_SUPPORTED`. `Device::load` and `Device::launch` are the two places to join it.

mod card;
mod interface;
mod memory;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::status::{Code, Outcome};
use card::Card;
use memory::Memory;

/// The newest PTX the played driver takes, times ten.
const NEWEST_VERSION: u32 = 90;

/// The card that `PTXSIM_DEVICE` names when it is not set.
const DEFAULT_CARD: &str = "h200";

/// Bytes of shared memory the hardware keeps for itself per block, from compute capability 8.0 on.
pub(crate) const RESERVED_SHARED_BYTES: u32 = 1024;
/// Threads a block may have on every card there is.
pub(crate) const MAX_THREADS: u32 = 1024;
/// Bytes of parameters a kernel may take from compute capability 7.0 on.
pub(crate) const MAX_PARAMETER_BYTES: usize = 32_764;

/// The virtual card and what lies in its memory.
pub(crate) struct Device {
    pub(crate) card: &'static Card,
    memory: Memory,
}

/// A module, checked against the card.
pub(crate) struct Program {
    pub(crate) kernels: BTreeMap<String, KernelFacts>,
    /// Module variables: name to address and bytes.
    pub(crate) globals: BTreeMap<String, (u64, u64)>,
    /// Ten times the PTX version the module is written in.
    pub(crate) version: u32,
}

/// What the API needs to know of a kernel.
#[derive(Clone, Default)]
pub(crate) struct KernelFacts {
    /// Offset and size of each parameter, in bytes.
    pub(crate) parameters: Vec<(usize, usize)>,
    pub(crate) parameter_bytes: usize,
    pub(crate) static_shared_bytes: u32,
    pub(crate) local_bytes: u32,
    /// From `.maxntid` or `.reqntid`.
    pub(crate) max_threads: Option<u32>,
    /// From `.reqnctapercluster`.
    pub(crate) cluster: Option<[u32; 3]>,
}

/// A launch, complete and checked.
pub(crate) struct Launch {
    pub(crate) program: Arc<Program>,
    pub(crate) kernel: String,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) cluster: [u32; 3],
    pub(crate) dynamic_shared_bytes: u32,
    pub(crate) parameters: Vec<u8>,
}

impl Device {
    /// The card of `PTXSIM_DEVICE`.
    pub(crate) fn from_environment() -> Outcome<Device> {
        let name = std::env::var("PTXSIM_DEVICE").unwrap_or_else(|_| DEFAULT_CARD.to_owned());
        let card = Card::by_name(&name).ok_or_else(|| {
            let known = Card::names().join(", ");
            Code::INVALID_DEVICE
                .because(format!("PTXSIM_DEVICE={name} is not a known card: {known}"))
        })?;
        Ok(Device {
            card,
            memory: Memory::default(),
        })
    }

    /// Compute capability as ten times its value.
    pub(crate) fn architecture(&self) -> u32 {
        self.card.compute_capability.0 * 10 + self.card.compute_capability.1
    }

    /// Bytes in live allocations.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.memory.used_bytes()
    }

    /// Allocates device memory. Its contents are unwritten.
    pub(crate) fn allocate(&self, bytes: u64) -> Outcome<u64> {
        if bytes == 0 {
            return Err(Code::INVALID_VALUE.because("an allocation of 0 bytes"));
        }
        let used = self.used_bytes();
        if bytes > self.card.memory_bytes.saturating_sub(used) {
            return Err(
                Code::OUT_OF_MEMORY.because(format!("{bytes} bytes asked for, {used} in use"))
            );
        }
        self.memory.allocate(bytes)
    }

    /// Frees an allocation.
    pub(crate) fn free(&self, address: u64) -> Outcome {
        self.memory.free(address)
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
            Some((start, length)) if bytes > start + length - address => Err(Code::INVALID_VALUE.because(format!(
                "{bytes} bytes at {address:#x} reach past the allocation {start:#x} of {length} bytes"
            ))),
            Some(_) => Ok(()),
        }
    }

    /// Reads device memory.
    pub(crate) fn read(&self, from: u64, into: &mut [u8]) -> Outcome {
        if into.is_empty() {
            Ok(())
        } else {
            self.memory.read(from, into)
        }
    }

    /// Writes device memory.
    pub(crate) fn write(&self, to: u64, bytes: &[u8]) -> Outcome {
        if bytes.is_empty() {
            Ok(())
        } else {
            self.memory.write(to, bytes)
        }
    }

    /// Copies within device memory.
    pub(crate) fn copy(&self, to: u64, from: u64, bytes: usize) -> Outcome {
        let mut buffer = vec![0; bytes];
        self.read(from, &mut buffer)?;
        self.write(to, &buffer)
    }

    /// Frees everything. With `tell`, what the program left is named on stderr.
    pub(crate) fn reset(&self, tell: bool) {
        let left = self.memory.allocations();
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
        for (address, _) in left {
            // Listed a moment ago: the only failure would be another thread's free, which is as good.
            let _ = self.memory.free(address);
        }
    }

    /// Reads a module for this card and puts its variables into memory.
    pub(crate) fn load(&self, text: &str) -> Outcome<Program> {
        let broken = |(line, what): interface::Wrong| {
            Code::INVALID_PTX.because(format!("PTX line {line}: {what}"))
        };
        let module = interface::read(text).map_err(broken)?;
        if module.version > NEWEST_VERSION {
            return Err(Code::UNSUPPORTED_PTX_VERSION.because(format!(
                "PTX {}.{}, the newest known is {}.{}",
                module.version / 10,
                module.version % 10,
                NEWEST_VERSION / 10,
                NEWEST_VERSION % 10
            )));
        }
        let own = self.architecture();
        if module.target > own || (module.specific && module.target != own) {
            return Err(Code::INVALID_PTX.because(format!(
                "PTX for sm_{}{}, the card {} is sm_{own}",
                module.target,
                if module.specific { "a" } else { "" },
                self.card.name
            )));
        }
        let mut program = Program {
            kernels: module.kernels,
            globals: BTreeMap::new(),
            version: module.version,
        };
        for variable in module
            .variables
            .into_iter()
            .filter(|variable| !variable.contents.is_empty())
        {
            let address = self
                .allocate(variable.contents.len() as u64)
                .inspect_err(|_| self.unload(&program))?;
            program
                .globals
                .insert(variable.name, (address, variable.contents.len() as u64));
            self.write(address, &variable.contents)?;
        }
        Ok(program)
    }

    /// Frees what a module holds on the card.
    pub(crate) fn unload(&self, program: &Program) {
        for (address, _) in program.globals.values() {
            // A program that freed a module variable itself has been told so by cuMemFree.
            let _ = self.memory.free(*address);
        }
    }

    /// Runs a launch to its end.
    pub(crate) fn launch(&self, launch: &Launch) -> Outcome {
        Err(Code::NOT_SUPPORTED.because(format!(
            "kernel `{}`, PTX {}.{}, grid {:?}, block {:?}, cluster {:?}, {} + {} bytes: the core that runs kernels is not built in",
            launch.kernel, launch.program.version / 10, launch.program.version % 10, launch.grid, launch.block,
            launch.cluster, launch.dynamic_shared_bytes, launch.parameters.len()
        )))
    }
}
