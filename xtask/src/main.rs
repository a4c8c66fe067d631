//! `cargo xtask`: set-up, tests, peers and reports.
fn main() {}
