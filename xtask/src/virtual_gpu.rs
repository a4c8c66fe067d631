//! The virtual GPU, and what stands in for NVIDIA's libraries on it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::run::{cargo, root, step};

/// Lets `tests` find the virtual GPU as its driver.
pub fn on_virtual_card(tests: &mut std::process::Command, driver: &Path, card: &str) {
    tests
        .env("LD_LIBRARY_PATH", driver)
        .env("PTXSIM_DEVICE", card)
        .env("ONEKV_REQUIRE_CUDA", "1")
        .env("ONEKV_REQUIRE_CUBLASLT", "stand-in")
        // PTX alone is what a simulator runs.
        .env("ONEKV_CUDA_ARCHS", "ptx");
}

/// A folder with the virtual GPU's driver, and the stand-in for cublasLt, under the names that CUDA programs look for.
pub fn virtual_driver() -> Result<PathBuf> {
    let packages = ["build", "--package", "ptxsim-driver", "--package", "cublaslt-stand-in"];
    step("build the virtual GPU's driver", &mut cargo(&packages))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let folder = target.join("virtual-gpu");
    std::fs::create_dir_all(&folder)?;
    for (library, name) in [
        ("libptxsim_driver.so", "libcuda.so"),
        ("libptxsim_driver.so", "libcuda.so.1"),
        ("libcublaslt_stand_in.so", "libcublasLt.so"),
    ] {
        let (from, to) = (target.join("debug").join(library), folder.join(name));
        std::fs::copy(&from, &to)
            .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    }
    Ok(folder)
}
