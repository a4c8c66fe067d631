//! Modules: loading, what they show, launching their kernels.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use crate::card::Card;
use crate::counters::Counters;
use crate::decode::{DecodeError, decode};
use crate::exec::{self, LaunchConfig, Options};
use crate::fault::Fault;
use crate::ir::{Code, Parameter};
use crate::memory::{GlobalMemory, MemoryError};
use crate::ptx::{self, Space, SyntaxError};

/// The newest PTX version taken, times ten.
const NEWEST_VERSION: u32 = 95;
/// Threads a block may have on every card.
const MAX_THREADS: u32 = 1024;
/// Bytes of local memory that a thread may have on every card.
const MAX_LOCAL_BYTES: u32 = 512 * 1024;

/// Why a module cannot be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The text is not PTX.
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    /// PTX of a newer version than is known.
    #[error("PTX {}.{}; the newest known is {}.{}", .0 / 10, .0 % 10, NEWEST_VERSION / 10, NEWEST_VERSION % 10)]
    Version(u32),
    /// PTX for another card than the one that is played.
    #[error("PTX for sm_{target}{}; the card {card} is sm_{own}", if *.specific { "a" } else { "" })]
    Target {
        /// Ten times the compute capability that the text is for.
        target: u32,
        /// It runs on this capability only.
        specific: bool,
        /// Name of the card.
        card: &'static str,
        /// Ten times its compute capability.
        own: u32,
    },
    /// No room for the module's variables.
    #[error("variable `{name}`: {why}")]
    Variable {
        /// Variable.
        name: String,
        /// What the memory said.
        why: MemoryError,
    },
}

/// Why a launch did not happen, or failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// The module has no such kernel.
    #[error("no kernel `{0}` in the module")]
    NoKernel(String),
    /// Instructions that the simulator does not run.
    #[error("kernel `{kernel}`: {}", .errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Unsupported {
        /// Kernel.
        kernel: String,
        /// All of them.
        errors: Vec<DecodeError>,
    },
    /// A launch that the card cannot do.
    #[error("launch of `{kernel}`: {field} is {value}, allowed is {allowed}")]
    Config {
        /// Kernel.
        kernel: String,
        /// What is wrong.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// The kernel did something wrong.
    #[error(transparent)]
    Fault(#[from] Box<Fault>),
}

/// What a kernel needs of a launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelFacts {
    /// Its parameters.
    pub parameters: Vec<Parameter>,
    /// Bytes of all parameters.
    pub parameter_bytes: usize,
    /// Static shared memory of a block.
    pub static_shared_bytes: u32,
    /// Local memory of a thread.
    pub local_bytes: u32,
    /// Most threads of a block, if the kernel says so.
    pub max_threads: Option<u32>,
    /// Its cluster's size, if the kernel says so.
    pub cluster: Option<[u32; 3]>,
}

type Decoded = Result<Arc<Code>, Vec<DecodeError>>;

/// A module on a card.
pub struct Module {
    tree: ptx::Module,
    card: &'static Card,
    /// Address of each variable; 0 for those without bytes.
    addresses: Vec<u64>,
    kernels: BTreeMap<String, (usize, OnceLock<Decoded>)>,
}

impl Module {
    /// Parses a text, checks that the card takes it, puts its variables into memory.
    pub fn load(text: &str, card: &'static Card, memory: &GlobalMemory) -> Result<Self, LoadError> {
        let mut module = Self::restore(text, card, Vec::new())?;
        for variable in &module.tree.variables {
            let placed = place(variable, memory).map_err(|why| {
                module.unload(memory);
                LoadError::Variable { name: variable.name.clone(), why }
            })?;
            module.addresses.push(placed);
        }
        Ok(module)
    }

    /// The same with variables that are in memory already.
    pub(crate) fn restore(text: &str, card: &'static Card, addresses: Vec<u64>) -> Result<Self, LoadError> {
        let tree = ptx::parse(text)?;
        if tree.version > NEWEST_VERSION {
            return Err(LoadError::Version(tree.version));
        }
        let own = card.architecture();
        if tree.target > own || (tree.specific && tree.target != own) {
            return Err(LoadError::Target {
                target: tree.target,
                specific: tree.specific,
                card: card.name,
                own,
            });
        }
        let kernels = tree.functions.iter().enumerate().filter(|(_, f)| f.is_kernel && f.has_body);
        let kernels = kernels.map(|(at, f)| (f.name.clone(), (at, OnceLock::new()))).collect();
        Ok(Self { tree, card, addresses, kernels })
    }

    /// Frees the module's variables.
    pub fn unload(&self, memory: &GlobalMemory) {
        for address in self.addresses.iter().filter(|a| **a != 0) {
            // A program that freed one itself has been told so then.
            let _ = memory.free(*address);
        }
    }

    /// The virtual architecture that the module is written for, 90 for sm_90 and sm_90a.
    pub fn target(&self) -> u32 {
        self.tree.target
    }

    /// Names of the kernels.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.kernels.keys().map(String::as_str)
    }

    /// The module's variables: name, address, bytes.
    pub fn variables(&self) -> impl Iterator<Item = (&str, u64, u64)> {
        let all = self.tree.variables.iter().zip(&self.addresses);
        all.filter(|(_, a)| **a != 0).map(|(v, a)| (v.name.as_str(), *a, v.bytes as u64))
    }

    /// The card it is on, and the address of each variable; 0 for those without bytes.
    pub(crate) fn places(&self) -> (&'static Card, &[u64]) {
        (self.card, &self.addresses)
    }

    fn code(&self, kernel: &str) -> Result<Arc<Code>, LaunchError> {
        let none = || LaunchError::NoKernel(kernel.to_owned());
        let (at, decoded) = self.kernels.get(kernel).ok_or_else(none)?;
        let function = self.tree.functions.get(*at).ok_or_else(none)?;
        let decoded = decoded.get_or_init(|| decode(&self.tree, function).map(Arc::new));
        decoded.clone().map_err(|errors| LaunchError::Unsupported { kernel: kernel.to_owned(), errors })
    }

    /// What a kernel needs; also tells whether all its instructions are supported.
    pub fn facts(&self, kernel: &str) -> Result<KernelFacts, LaunchError> {
        let code = self.code(kernel)?;
        Ok(KernelFacts {
            parameters: code.parameters.clone(),
            parameter_bytes: code.parameter_bytes,
            static_shared_bytes: code.static_shared_bytes,
            local_bytes: code.local_bytes,
            max_threads: code.max_threads,
            cluster: code.cluster,
        })
    }

    /// Runs a kernel to its end.
    pub fn launch(
        &self,
        kernel: &str,
        config: &LaunchConfig,
        parameters: &[u8],
        memory: &GlobalMemory,
        options: Options,
    ) -> Result<Counters, LaunchError> {
        self.launch_counted(kernel, config, parameters, memory, options).map(|(counters, _)| counters)
    }

    /// The same; beside the counters how often warps ran each instruction, the kernel's own first.
    pub(crate) fn launch_counted(
        &self,
        kernel: &str,
        config: &LaunchConfig,
        parameters: &[u8],
        memory: &GlobalMemory,
        options: Options,
    ) -> Result<(Counters, Vec<u64>), LaunchError> {
        let code = self.code(kernel)?;
        self.check(&code, config, parameters)?;
        Ok(exec::run(&code, config, self.card, parameters, &self.addresses, memory, options)?)
    }

    fn check(&self, code: &Code, config: &LaunchConfig, parameters: &[u8]) -> Result<(), LaunchError> {
        let wrong = |field, value: String, allowed: String| {
            Err(LaunchError::Config { kernel: code.name.clone(), field, value, allowed })
        };
        let most = [0x7fff_ffff, 65_535, 65_535];
        if config.grid.iter().zip(most).any(|(n, most)| *n == 0 || *n > most) {
            return wrong("grid", format!("{:?}", config.grid), format!("1 to {most:?}"));
        }
        let most = [1024, 1024, 64];
        if config.block.iter().zip(most).any(|(n, most)| *n == 0 || *n > most) {
            return wrong("block", format!("{:?}", config.block), format!("1 to {most:?}"));
        }
        let threads: u32 = config.block.iter().product();
        let most = code.max_threads.unwrap_or(MAX_THREADS).min(MAX_THREADS);
        if threads > most {
            return wrong("threads per block", threads.to_string(), format!("at most {most}"));
        }
        if let Some(required) = code.required_threads
            && required != config.block
        {
            return wrong(
                "block",
                format!("{:?}", config.block),
                format!("{required:?}, as the kernel requires"),
            );
        }
        let blocks = config.cluster.iter().fold(1u32, |a, b| a.saturating_mul(*b));
        let most = if self.card.compute_capability.0 >= 9 { 16 } else { 1 };
        if blocks == 0 || blocks > most {
            return wrong("blocks per cluster", blocks.to_string(), format!("1 to {most}"));
        }
        if let Some(own) = code.cluster
            && own != config.cluster
        {
            return wrong(
                "cluster",
                format!("{:?}", config.cluster),
                format!("{own:?}, as the kernel requires"),
            );
        }
        if config.grid.iter().zip(config.cluster).any(|(grid, n)| grid % n != 0) {
            return wrong(
                "cluster",
                format!("{:?}", config.cluster),
                format!("divisors of {:?}", config.grid),
            );
        }
        if code.local_bytes > MAX_LOCAL_BYTES {
            let local = format!("{} bytes", code.local_bytes);
            return wrong("local memory", local, format!("at most {MAX_LOCAL_BYTES}"));
        }
        let shared = code.shared_bytes(config.dynamic_shared_bytes);
        if shared > self.card.shared_per_block_optin {
            let most = self.card.shared_per_block_optin;
            return wrong("shared memory", format!("{shared} bytes"), format!("at most {most}"));
        }
        if parameters.len() != code.parameter_bytes {
            let given = format!("{} bytes", parameters.len());
            return wrong("parameters", given, format!("{} bytes", code.parameter_bytes));
        }
        Ok(())
    }
}

fn place(variable: &ptx::Variable, memory: &GlobalMemory) -> Result<u64, MemoryError> {
    if variable.space == Space::Shared || variable.bytes == 0 {
        return Ok(0);
    }
    let address = memory.allocate(variable.bytes as u64)?;
    memory.write(address, &variable.contents)?;
    memory
        .clear(address + variable.contents.len() as u64, (variable.bytes - variable.contents.len()) as u64)?;
    Ok(address)
}
