//! The T5 example's CUDA backend: each kernel of `cuda/t5/` against plain CPU code, and whole models against the CPU
//! backend. On a card, or on the virtual one.
#![cfg(feature = "t5-cuda")]

mod attention;
mod batches;
mod command;
mod cublaslt;
mod elementwise;
mod models;
mod products;
mod reference;
mod support;

/// The example's modules; it is a program, not a library.
#[allow(dead_code, reason = "the program uses what the tests do not")]
#[path = "../../examples/t5"]
mod t5 {
    pub mod arguments;
    pub mod backend;
    pub mod buckets;
    pub mod config;
    pub mod convert;
    pub mod generate;
    pub mod load;
    pub mod memory;
    pub mod model;
    pub mod progress;
    pub mod read;
    pub mod report;
    pub mod schedule;
    pub mod weights;
}

// The modules name each other by these paths.
use t5::{
    arguments, backend, buckets, config, convert, generate, load, model, progress, read, report, schedule,
    weights,
};

#[path = "../t5_example/mod.rs"]
mod t5_example;
