//! `device.rs` of a build without CUDA: there are no handles, and every call that needs CUDA fails.

use std::convert::Infallible;
use std::ffi::c_int;

use crate::status::{Failure, Result};

pub type Kernels = Infallible;
pub type Queue = Infallible;
pub type Plan = Infallible;
pub type Prepared = Infallible;

/// The body of a call that needs CUDA is not compiled.
macro_rules! with_cuda {
    ($($body:tt)*) => {
        Err($crate::status::Failure::without_cuda())
    };
}
pub(crate) use with_cuda;

pub fn kernels(_: c_int) -> Result<Kernels> {
    Err(Failure::without_cuda())
}
