//! `cargo xtask peers ptxsim`: starts tools/ptxsim-peers/run.py, which holds the virtual GPU to kernels that the
//! world already runs.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::run::{command, nvcc, root, step};
use crate::setup;
use crate::virtual_gpu::optimised_driver;

const REQUIREMENTS: &str = "tools/ptxsim-peers/requirements.txt";

pub fn run(only: Option<&str>, jobs: Option<u32>, venv: Option<&Path>) -> Result<()> {
    let python = match venv {
        Some(folder) => setup::named_python(folder)?,
        // All are named there: what they ask for by themselves would be several GB more, for kernels that do not need it.
        None => setup::python("ptxsim-peers-venv", REQUIREMENTS, &["--no-deps"])?,
    };
    let folder = root().join("target/ptxsim-peers");
    let gpu = optimised_driver(&folder.join("gpu"))?;
    let mut script = command(&python.to_string_lossy(), &["tools/ptxsim-peers/run.py"]);
    script.arg("--only").arg(only.unwrap_or_default());
    if let Some(jobs) = jobs {
        script.args(["--jobs", &jobs.to_string()]);
    }
    script.env("NVCC", nvcc()?.context("no CUDA compiler; run `cargo xtask setup`, or set NVCC")?);
    script.env("LD_LIBRARY_PATH", &gpu).env("TRITON_LIBCUDA_PATH", &gpu);
    script.env("PEERS_WORK", folder);
    // Rows run side by side.
    script.env("PTXSIM_THREADS", "1");
    step("run the kernels of others on the virtual GPU", &mut script)
}
