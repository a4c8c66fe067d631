//! The cost model: what prompt-in-encoder (PIE) and prompt-in-decoder (PID) compute and move, what they occupy, from where on
//! sharing pays, and which of five ways to have many outputs of one input is the cheapest.
//!
//! The analysis of "prompt-in-decoder" (arXiv 2403.13112, section 3) as functions, with the projections and the feed-forward
//! layers that the paper's table leaves out. A FLOP is one multiplication or one addition; bytes are the fewest that must pass
//! through memory: every weight once per pass, every cached K/V element once per step, activations of the attention once.
//! Encoder activations are left out: they stay on chip in a fused implementation. The formulas are in f64, exact up to 2^53, as
//! their factors are what files and requests say, which may be anything; counts stay at 1.8e19, the largest of u64, where they
//! would pass it.
#![allow(missing_docs, reason = "names that T5 and the tools share, no interface")]

mod doubts;
mod memory;
mod numbers;
mod problem;
mod time;
mod ways;
mod work;

pub use doubts::doubts;
pub use memory::{ENCODE_TOKENS, Need, REST, most_prompts, most_rows, places};
pub use problem::{FLAN_T5_XL, Method, ModelShape, T5_BASE, T5_LARGE, T5_SMALL, Workload};
pub use time::{Crossover, Roofline, SEARCHED, crossover, gain};
pub use ways::{Way, cheapest, fewest};
pub use work::{Attention, Breakdown, Cost, breakdown, cross_kv_bytes, decode_step_bytes};
