//! Parts of the T5 example by themselves.

mod choices;
mod cost;
mod doubts;
mod elementwise;
mod need;
mod positions;
mod products;
mod texts;
mod turns;
mod ways;

// The tests name the program's parts by these paths.
use t5::advice::memory;
use t5::{backend, buckets, config, load, schedule, tokenize};
