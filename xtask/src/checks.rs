//! `cargo xtask planted`, `fuzz`, `mutants` and `reliability`: starts the programs of tools/checks.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result};

use crate::run::{WORKSPACE, command, nvcc, root};

pub fn run(program: &str, arguments: &[OsString]) -> Result<()> {
    let script = root().join("tools/checks").join(program).with_extension("py");
    let mut python = command("python3", &["-B"]);
    python.arg(script).args(arguments);
    // It asks this tool for virtual cards, and compiles the same packages with the same nvcc.
    python.env("XTASK", std::env::current_exe()?).env("WORKSPACE", WORKSPACE.join(" "));
    if let Some(nvcc) = nvcc()? {
        python.env("NVCC", nvcc);
    }
    // In this process's place: its end is the program's.
    Err(python.exec()).context("cannot run python3; is it installed?")
}

#[cfg(test)]
mod tests {
    use crate::run::python_tests;

    #[test]
    fn programs_do_what_they_say() {
        for program in ["fuzz", "mutants", "planted", "reliability"] {
            python_tests(&[&format!("tools/checks/test_{program}.py")]);
        }
    }

    /// By itself: where a bug is planted, its place is gone.
    #[test]
    fn planted_bugs_fit_the_tree() {
        python_tests(&["tools/checks/test_table.py"]);
    }
}
