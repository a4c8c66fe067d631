//! The CUDA driver API over ptxsim's virtual GPU.
//!
//! The crate builds `libptxsim_driver.so`: name it `libcuda.so`, put its folder on `LD_LIBRARY_PATH` and
//! any program that loads the driver at run time, cudarc among them, runs on the virtual card.
//!
//! | module | holds |
//! | --- | --- |
//! | `status` | error codes, their names, the failure type |
//! | `guard` | the boundary: no panic leaves the library |
//! | `host` | the only access to the caller's memory, probed first |
//! | `state` | contexts, handles, the sticky error |
//! | `schedule` | streams, events and the order work runs in |
//! | `capture` | stream capture and graphs |
//! | `fatbin` | the container nvcc writes, and the choice of a PTX image |
//! | `backend` | the seam to the core: card, memory, modules, launches |
//! | `api` | the exported functions, by topic |
//!
//! Handles are numbers in tables and never addresses, so a foreign one is an error and not a crash.
#![deny(unsafe_op_in_unsafe_fn)]
// The exported names are the driver's, not ours.
#![allow(non_snake_case)]

pub mod api;
mod backend;
mod capture;
pub mod fatbin;
mod guard;
mod host;
mod schedule;
mod state;
pub mod status;
