//! `cargo xtask intensity`: builds what is counted; tools/intensity/count.py counts.

use anyhow::Result;

use crate::run::{cargo, command, nvcc, release, step, target};
use crate::virtual_gpu::optimised_driver;
use crate::{report, setup};

pub fn run() -> Result<()> {
    if nvcc()?.is_none() {
        setup::run()?;
    }
    let driver = optimised_driver(&target().join("intensity"))?;
    let mut build = cargo(&["build", "--release", "--package", "onekv-intensity", "--features", "cuda"]);
    // PTX alone is what a simulator runs.
    step("build what is counted", build.env("ONEKV_CUDA_ARCHS", "ptx"))?;
    let mut script = command("python3", &["tools/intensity/count.py", "--out", "results/intensity.jsonl"]);
    script.args(["--program", &release("onekv-intensity")]).arg("--work").arg(driver);
    step("count", &mut script)?;
    report::write()
}

#[test]
fn what_callgrind_counted_is_read_as_the_scripts_tests_say() {
    crate::run::python_tests(&["tools/intensity/test_count.py"]);
}
