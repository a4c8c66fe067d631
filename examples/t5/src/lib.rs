//! What the T5 program is made of, and what its tests test by itself.
//!
//! One prompt, from the command line to the fused cross-attention on a card, passes through five files:
//!
//! 1. `main.rs`: chooses a device; for every method loads the model and has it answer the tasks.
//! 2. [`generate`]: decides which rows are decoded together, encodes their inputs once, takes steps until all have ended.
//! 3. [`model`]: the layers of T5; gives all rows of an input to the device as query rows over its one K/V.
//! 4. [`backend`]: the seam, what is asked of a device.
//! 5. `backend/cuda.rs`: plans the cross-attention once per batch (`plan_cross`) and runs it (`attend`: `Prepared::run`).
//!
//! Beside them: the folder ([`config`], [`weights`], [`tokenize`], [`load`]), the turns of rows ([`schedule`]), the bias
//! ([`buckets`]). What it costs, the paper's analysis, is a package by itself (`onekv_cost`); what is not the method is in [`cli`].
#![allow(missing_docs, clippy::new_without_default, reason = "no interface: the program's parts")]

#[macro_use]
pub mod cli;

pub mod backend;
pub mod buckets;
pub mod config;
pub mod convert;
pub mod generate;
pub mod load;
pub mod model;
pub mod read;
pub mod schedule;
pub mod tokenize;
pub mod weights;
