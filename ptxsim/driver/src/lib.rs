//! The CUDA driver API over ptxsim's virtual GPU.
//!
//! The crate builds `libptxsim_driver.so`: name it `libcuda.so`, put its folder on `LD_LIBRARY_PATH` and
//! any program that loads the driver at run time, cudarc among them, runs on the virtual card.
//!
//! | module | holds |
//! | --- | --- |
//! | `status` | error codes, their names, the failure type |
//! | `exported` | the addresses of the functions that this library exports |
//! | `host` | the only access to the caller's memory, probed first |
//! | `pages` | pinned and managed memory |
//! | `fatbin` | the container nvcc writes, and the choice of a PTX image |
//! | `record` | launches written to files |
//! | `backend` | the seam to the core: card, memory, modules, launches |
//! | `image` | the PTX of an image, and the options it is loaded with |
//! | `work` | what is queued and recorded: work, streams, events, graphs |
//! | `state` | contexts, handles, the sticky error |
//! | `inject` | calls that fail because a test asks for it |
//! | `guard` | the boundary: no panic leaves the library |
//! | `execute` | runs one piece of work, or a graph |
//! | `capture` | stream capture |
//! | `schedule` | the order work runs in |
//! | `api` | the exported functions, by topic |
//!
//! Each imports only what stands above it. Handles are numbers in tables and never addresses, so a foreign one is an error and not a crash.
#![deny(unsafe_op_in_unsafe_fn)]
// The exported names are the driver's, not ours.
#![allow(non_snake_case)]

pub mod api;
mod backend;
mod capture;
mod execute;
mod exported;
pub mod fatbin;
mod guard;
mod host;
mod image;
mod inject;
mod pages;
mod record;
mod schedule;
mod state;
pub mod status;
mod work;
