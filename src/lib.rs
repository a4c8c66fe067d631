//! Shared cross-attention: one encoder K/V, many query rows.

pub mod cost;
pub mod cpu;
mod dtype;
mod error;
mod problem;
pub mod reference;

pub use dtype::{DType, Element};
pub use error::{Error, Result};
pub use problem::{Input, Keys, Lse, MAX_HEAD_DIM, Output, Problem, ProblemSpec, Queries, SharedKv, Strides};
