//! The T5 example's CUDA backend: each kernel of `cuda/` against plain CPU code, and whole models against the CPU
//! backend. On a card, or on the virtual one.
#![cfg(feature = "cuda")]

mod attention;
mod batches;
mod command;
mod cublaslt;
mod elementwise;
mod models;
mod products;
mod reference;
mod rounds;
mod support;

// The tests name the program's parts by these paths.
use t5::cli::arguments;
use t5::{backend, config, generate, load, model};

#[path = "../t5_example/mod.rs"]
mod t5_example;
