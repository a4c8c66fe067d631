//! `cargo xtask peers cpu|gpu`: ours and its peers on the same work, in one run; `ptxsim`: kernels of others on the virtual GPU.

mod cpu;
mod gpu;
mod ptxsim;

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;

#[derive(Subcommand)]
pub enum Device {
    /// PyTorch SDPA, HF T5, CTranslate2, ONNX Runtime (pinned, in a venv) and candle, on the CPU
    ///
    /// At every point ours and the peers take turns, as a machine's speed drifts. On 2 cores, after the builds, attention takes
    /// about 4 minutes, T5 20 and the crossover 15 at most; T5 takes 16 GB of memory. Writes results/cpu/ and the page; with
    /// --candle, --rows or --keys target/peers-cpu/ alone, and no crossover.
    Cpu(cpu::Options),
    /// Attention and T5 beside PyTorch's kernels, a Triton kernel, HF T5 and CTranslate2, on this machine's card
    Gpu {
        /// Stages of the kit (tools/kit/run.sh --help)
        #[arg(default_values = ["must-show", "bench-first", "t5"])]
        stages: Vec<String>,
        /// A Python environment with tools/peers/requirements.txt [default: made in target/]
        #[arg(long, value_name = "DIR")]
        venv: Option<PathBuf>,
    },
    /// Kernels of other projects (pinned, in a venv) on the virtual GPU, each held to a NumPy reference
    ///
    /// Fetches the packages from PyPI and the virtual GPU from this tree, compiles the kernels without a card, runs each in
    /// a process of its own and writes results/ptxsim/: right; unsupported: ptxsim says that it does not run an instruction
    /// or a call; wrong: the result is not the reference's; blamed: a check of ptxsim's failed, or anything else went wrong.
    /// Fails where anything is wrong or blamed. Compiled kernels stay in target/ptxsim-peers/.
    Ptxsim {
        /// Run rows whose package, kernel or card contains this, and write no results
        #[arg(long, value_name = "TEXT")]
        only: Option<String>,
        /// Rows that run at once [default: one per core]
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
        jobs: Option<u32>,
        /// A Python environment with tools/ptxsim-peers/requirements.txt [default: made in target/]
        #[arg(long, value_name = "DIR")]
        venv: Option<PathBuf>,
    },
}

pub fn run(device: &Device) -> Result<()> {
    match device {
        Device::Gpu { stages, venv } => gpu::run(stages, venv.as_deref()),
        Device::Ptxsim { only, jobs, venv } => ptxsim::run(only.as_deref(), *jobs, venv.as_deref()),
        Device::Cpu(options) => cpu::run(options),
    }
}

#[cfg(test)]
mod tests {
    use crate::run::python_tests;

    #[test]
    fn turns_are_taken_and_pages_written_as_the_scripts_tests_say() {
        for script in
            ["tools/peers/test_turns.py", "tools/peers/test_t5_gpu.py", "tools/ptxsim-peers/test_page.py"]
        {
            python_tests(&[script]);
        }
    }
}
