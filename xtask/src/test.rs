//! `cargo xtask test`: everything that can be tested on this machine.

use anyhow::{Result, bail};

use crate::run::{cargo, command, step};

/// Checks the prerequisites, then runs every test of the workspace.
pub fn run() -> Result<()> {
    // Some crates link with the C compiler; Rust alone is not enough to link on every system.
    if command("cc", &["--version"]).output().is_err() {
        bail!("no linker: `cc` was not found. Install one, e.g. `apt-get install gcc`, and try again");
    }
    step(
        "build the T5 example, which its tests run as a program",
        &mut cargo(&["build", "--example", "t5"]),
    )?;
    step(
        "test the library, the example and the tools",
        &mut cargo(&["test", "--workspace", "--all-targets"]),
    )?;
    step("test the documentation's examples", &mut cargo(&["test", "--workspace", "--doc"]))
}
