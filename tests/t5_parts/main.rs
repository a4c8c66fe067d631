//! Parts of the T5 example by themselves.

mod activations;
mod bytes;
mod choices;
mod need;
mod positions;
mod turns;

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
    pub mod tokenize;
    pub mod weights;
}

// The modules name each other by these paths.
#[cfg(feature = "t5-cuda")]
use t5::arguments;
use t5::{
    backend, buckets, config, convert, generate, load, memory, model, progress, read, report, schedule,
    tokenize, weights,
};
