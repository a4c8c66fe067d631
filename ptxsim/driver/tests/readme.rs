//! The example of ptxsim's README is a program that runs.

mod support;

use support::in_child;

const EXAMPLE: &str = include_str!("../examples/ten_lines.rs");
const README: &str = include_str!("../../README.md");

#[path = "../examples/ten_lines.rs"]
mod ten_lines;

#[test]
fn the_example_is_quoted_as_it_is() {
    assert!(README.contains(&format!("```rust\n{EXAMPLE}```\n")), "ptxsim/README.md quotes another example");
}

#[test]
fn the_example_runs() {
    in_child("the_example_runs", &[], || ten_lines::main().unwrap());
}
