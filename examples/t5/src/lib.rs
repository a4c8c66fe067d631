//! What the T5 program is made of, and what its tests test by itself.
#![allow(missing_docs, clippy::new_without_default, reason = "no interface: the program's parts")]

#[macro_use]
pub mod cli;

pub mod advice;
pub mod backend;
pub mod buckets;
pub mod config;
pub mod cost;
pub mod count;
pub mod generate;
pub mod load;
pub mod model;
pub mod read;
pub mod schedule;
pub mod tokenize;
pub mod weights;
