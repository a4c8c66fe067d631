//! Parts of the T5 example by themselves.

mod choices;
mod elementwise;
mod need;
mod positions;
mod products;
mod texts;
mod turns;

// The tests name the program's parts by these paths.
use t5::cli::explain;
use t5::{backend, buckets, config, load, schedule, tokenize};
