//! A virtual GPU for tests: runs the PTX that nvcc emits on the CPU, checks what hardware does not check,
//! and counts what it does.
//!
//! ```
//! use ptxsim::{Card, GlobalMemory, LaunchConfig, Module, Options};
//!
//! let text = "
//!     .version 9.0
//!     .target sm_80
//!     .address_size 64
//!     .visible .entry twice(.param .u64 data) {
//!         .reg .b32 %r<3>;
//!         .reg .b64 %a<3>;
//!         ld.param.u64 %a0, [data];
//!         mov.u32 %r0, %tid.x;
//!         mul.wide.u32 %a1, %r0, 4;
//!         add.s64 %a2, %a0, %a1;
//!         ld.global.u32 %r1, [%a2];
//!         add.s32 %r2, %r1, %r1;
//!         st.global.u32 [%a2], %r2;
//!         ret;
//!     }";
//! let card = Card::by_name("a100").unwrap();
//! let memory = GlobalMemory::new(card.memory_bytes);
//! let module = Module::load(text, card, &memory)?;
//! let data = memory.allocate(4 * 64)?;
//! memory.write(data, &[3; 4 * 64])?;
//! let config = LaunchConfig::new([1, 1, 1], [64, 1, 1]);
//! let counters = module.launch("twice", &config, &data.to_le_bytes(), &memory, Options::default())?;
//! let mut back = [0; 4];
//! memory.read(data, &mut back)?;
//! assert_eq!(back, [6; 4]);
//! assert_eq!(counters.global_load_sectors, 2 * 4);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | module | holds |
//! | --- | --- |
//! | `ptx` | text to syntax tree |
//! | `decode`, `ir` | syntax tree to the compact form that is run |
//! | `exec` | warps, blocks, clusters; memory accesses; asynchronous work; races |
//! | `memory` | global memory |
//! | `float` | narrow formats and directed rounding |
//! | `fault`, `counters` | what a launch did wrong, and what it did |
//! | `mutate` | recorded launches with planted mistakes |
//! | `recording` | launches taken down, to be run again |
//! | `card`, `tensor_map` | what the driver's face and the core share |
#![forbid(unsafe_code)]

mod card;
mod counters;
mod decode;
mod exec;
mod fault;
mod float;
mod ir;
mod memory;
mod module;
pub mod mutate;
mod ptx;
mod recording;
mod tensor_map;

pub use card::Card;
pub use counters::Counters;
pub use decode::DecodeError;
#[doc(hidden)]
pub use exec::Random;
pub use exec::{Accumulation, Checks, LaunchConfig, Options};
pub use fault::{Fault, FaultKind};
pub use ir::{Class, Parameter};
pub use memory::{GlobalMemory, MemoryError};
pub use module::{KernelFacts, LaunchError, LoadError, Module};
pub use ptx::SyntaxError;
pub use recording::{Difference, Recording, RecordingError, Replay, ReplayError};
pub use tensor_map::{TENSOR_MAP_BYTES, TensorMap};
