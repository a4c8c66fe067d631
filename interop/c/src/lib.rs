//! onekv for C and C++: the functions of `onekv_c_api`, as a shared and a static library.
//!
//! A package apart, as cargo writes these of every set of features to one file: what takes the functions in Rust need not be compiled
//! anew with each of them.

pub use onekv_c_api::*;
