//! Parts of the T5 example by themselves.

mod activations;
mod bytes;
mod choices;
mod need;
mod positions;
mod turns;

// The tests name the program's parts by these paths.
use t5::advice::memory;
use t5::{backend, buckets, config, load, schedule, tokenize};
