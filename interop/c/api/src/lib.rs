//! onekv for C and C++: opaque handles, a status from every call that can fail. The header `../include/onekv.h` is
//! generated from this crate by `cargo xtask bindings`, its comments too.

#![allow(non_camel_case_types, reason = "names as C has them")]
#![allow(
    clippy::missing_safety_doc,
    reason = "the contract stands at the top of the header, and at functions that add to it"
)]

pub mod cpu;
pub mod cuda;
#[cfg_attr(not(feature = "cuda"), path = "without_cuda.rs")]
mod device;
mod handles;
pub mod operands;
pub mod problem;
pub mod status;
