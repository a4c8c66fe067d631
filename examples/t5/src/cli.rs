//! The command line: what is asked, and what is printed.

#[macro_use]
pub mod out;

pub mod answers;
pub mod arguments;
pub mod asked;
pub mod command;
pub mod explain;
pub mod report;
