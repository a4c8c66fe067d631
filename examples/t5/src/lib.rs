//! What the T5 program is made of, and what its tests test by itself.
#![allow(missing_docs, clippy::new_without_default, reason = "no interface: the program's parts")]

#[macro_use]
pub mod out;

pub mod arguments;
pub mod asked;
pub mod backend;
pub mod buckets;
pub mod command;
pub mod config;
pub mod convert;
pub mod cost;
pub mod count;
pub mod doubts;
pub mod explain;
pub mod generate;
pub mod load;
pub mod memory;
pub mod model;
pub mod progress;
pub mod read;
pub mod report;
pub mod schedule;
pub mod tokenize;
pub mod ways;
pub mod weights;
