//! The virtual GPU, what stands in for NVIDIA's libraries on it, and `cargo xtask on`: a command on a virtual card.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::run::{cargo, nvcc, root, step, target, workspace};

/// The cards that ptxsim plays.
const CARDS: [&str; 6] = ["a100", "rtx4090", "h100", "h200", "b200", "rtx5090"];

#[derive(clap::Args)]
pub struct On {
    /// The card that the virtual GPU plays
    #[arg(value_parser = CARDS)]
    card: String,
    /// Let cargo build candle with CUDA, too: for the feature `candle-cuda`
    #[arg(long)]
    candle: bool,
    /// Run nothing, and print what is set in the environment: a line NAME=VALUE for each variable
    #[arg(long)]
    print_env: bool,
    /// What is run, with its arguments, e.g. `-- cargo test --features cuda --test streams`
    #[arg(last = true, required_unless_present = "print_env", conflicts_with = "print_env")]
    command: Vec<OsString>,
}

pub fn on(arguments: &On) -> Result<()> {
    let driver = virtual_driver()?;
    let program = arguments.command.first().cloned().unwrap_or_default();
    let mut command = Command::new(&program);
    command.args(arguments.command.iter().skip(1));
    if let Some(nvcc) = nvcc()? {
        command.env("NVCC", nvcc);
    }
    on_virtual_card(&mut command, &driver, &arguments.card);
    if arguments.candle {
        with_candle(&mut command, &driver)?;
    }
    if arguments.print_env {
        for (name, value) in command.get_envs() {
            println!("{}={}", name.display(), value.unwrap_or_default().display());
        }
        return Ok(());
    }
    // In this process's place: its end is the command's.
    Err(command.exec()).with_context(|| format!("cannot run {}", program.display()))
}

/// Lets `tests` find the virtual GPU as its driver.
pub fn on_virtual_card(tests: &mut Command, driver: &Path, card: &str) {
    tests
        .env("LD_LIBRARY_PATH", driver)
        .env("PTXSIM_DEVICE", card)
        // Some tests want another.
        .env("PTXSIM_DEVICES", "2")
        // Those too that kernels in production do without.
        .env("PTXSIM_CHECKS", "all")
        .env("ONEKV_REQUIRE_CUDA", "1")
        .env("ONEKV_REQUIRE_CUBLASLT", "stand-in")
        // PTX alone is what a simulator runs.
        .env("ONEKV_CUDA_ARCHS", "ptx");
}

/// Lets cargo build candle with CUDA: without candle's kernels, and linked with what `driver` holds.
pub fn with_candle(build: &mut Command, driver: &Path) -> Result<()> {
    let stand_in = root().join("tools/candle");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(stand_in.clone()).chain(std::env::split_paths(&path)))?;
    build
        .env("REAL_NVCC", nvcc()?.context("no CUDA compiler; run `cargo xtask setup`, or set NVCC")?)
        .env("NVCC", stand_in.join("nvcc"))
        .env("PATH", path)
        // Else it asks the card.
        .env("CUDA_COMPUTE_CAP", "80")
        .env("LIBRARY_PATH", driver);
    Ok(())
}

/// A folder with the virtual GPU's driver and the stand-ins for NVIDIA's libraries, under the names that CUDA programs look
/// for.
pub fn virtual_driver() -> Result<PathBuf> {
    // Not the libraries for C: cargo writes those of every set of features to one file, and tests may be linking the ones with CUDA.
    let without = ["--exclude", "onekv-c"];
    let mut build = workspace("build", "", &["--lib", "--examples"]);
    step("build the virtual GPU's driver and the examples", build.args(without))?;
    let folder = target().join("virtual-gpu");
    put_driver("debug", &folder)?;
    for (library, name) in [
        ("libcublaslt_stand_in.so", "libcublasLt.so"),
        // candle links these, and calls of them what the stand-ins have.
        ("libcandle_stand_ins.so", "libcublas.so"),
        ("libcandle_stand_ins.so", "libcurand.so"),
        ("libcandle_stand_ins.so", "libcudart.so"),
        ("libcandle_stand_ins.so", "libnvrtc.so"),
    ] {
        let (from, to) = (target().join("debug").join(library), folder.join(name));
        replace(&to, |new| std::fs::copy(&from, new).map(drop))?;
    }
    // Where cust's build looks, as in a CUDA toolkit.
    std::fs::create_dir_all(folder.join("lib64"))?;
    replace(&folder.join("lib64/libcuda.so"), |new| std::fs::hard_link(folder.join("libcuda.so"), new))?;
    Ok(folder)
}

/// The driver alone, optimised, under the names that programs look for.
pub fn optimised_driver(folder: &Path) -> Result<PathBuf> {
    let mut build = cargo(&["build", "--release", "--package", "ptxsim-driver"]);
    step("build the virtual GPU's driver", &mut build)?;
    put_driver("release", folder)?;
    Ok(folder.to_path_buf())
}

/// Both names are one file, as of a real driver: programs that link the one and load the other get one driver.
fn put_driver(profile: &str, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let built = target().join(profile).join("libptxsim_driver.so");
    let [library, name] = ["libcuda.so", "libcuda.so.1"].map(|name| folder.join(name));
    replace(&library, |new| std::fs::copy(&built, new).map(drop))?;
    replace(&name, |new| std::fs::hard_link(&library, new))
}

/// Puts what `make` makes in the place of a file that a program may have loaded: written over, it would end that program.
fn replace(file: &Path, make: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<()> {
    let new = file.with_extension("new");
    let _ = std::fs::remove_file(&new);
    make(&new)
        .and_then(|()| std::fs::rename(&new, file))
        .with_context(|| format!("cannot replace {}", file.display()))
}

#[test]
fn cards_are_those_of_ptxsim() {
    let known = std::fs::read_to_string(root().join("ptxsim/src/card.rs")).unwrap();
    let names: Vec<&str> =
        known.split("Card { name: \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(names, CARDS);
}

#[test]
fn programs_keep_the_library_that_they_have_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("libcuda.so");
    std::fs::write(&file, "loaded").unwrap();
    let mut loaded = std::fs::File::open(&file).unwrap();
    replace(&file, |new| std::fs::write(new, "new")).unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), b"new");
    assert_eq!(std::io::read_to_string(&mut loaded).unwrap(), "loaded");
}
