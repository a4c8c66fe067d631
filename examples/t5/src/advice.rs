//! What is said before a run: which way costs least, what fits, what speaks against it, and what makes files that are missing.

pub mod convert;
pub mod doubts;
pub mod explain;
pub mod memory;
pub mod ways;
