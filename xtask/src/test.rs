//! `cargo xtask test`: everything that can be tested on this machine.

use std::path::Path;

use anyhow::{Result, bail};

use crate::run::{cargo, command, step};
use crate::virtual_gpu::{on_virtual_card, virtual_driver, with_candle};
use crate::{bindings, kit, setup};

/// Cards that the virtual GPU plays for the CUDA tests.
const CARDS: [&str; 3] = ["a100", "rtx4090", "h200"];
/// And for the T5 example's: one on which launches overlap, and one on which they do not.
const T5_CARDS: [&str; 2] = ["a100", "h200"];
/// And for candle's tensors.
const CANDLE_CARDS: [&str; 2] = ["a100", "h200"];

/// Checks the prerequisites, then runs every test of the workspace; `transformers`: also those that need it.
pub fn run(transformers: bool) -> Result<()> {
    // Some crates link with the C compiler; Rust alone is not enough to link on every system.
    if command("cc", &["--version"]).output().is_err() {
        bail!("no linker: `cc` was not found. Install one, e.g. `apt-get install gcc`, and try again");
    }
    if setup::nvcc().is_err() {
        setup::run()?;
    }
    // It takes minutes, most of them waiting: meanwhile the rest is built and tested.
    let python = (transformers && setup::has_venv()).then(|| {
        std::thread::spawn(|| setup::python("transformers-venv", "tools/goldens/requirements-5.txt"))
    });
    step(
        "build the T5 example, which its tests run as a program",
        &mut cargo(&["build", "--example", "t5"]),
    )?;
    step(
        "test the library, the example, the virtual GPU and the tools",
        &mut cargo(&["test", "--workspace", "--all-targets"]),
    )?;
    step("test the documentation's examples", &mut cargo(&["test", "--workspace", "--doc"]))?;
    for (example, features) in [("cross_attention", ""), ("shared_prefix", ""), ("candle", "candle")] {
        let what = format!("run the example {example}");
        step(&what, &mut cargo(&["run", "--quiet", "--features", features, "--example", example]))?;
    }
    eprintln!("==> are the bindings of cuda/abi.h fresh?");
    bindings::run(true)?;
    let driver = virtual_driver()?;
    for card in CARDS {
        let mut tests = cuda_tests();
        on_virtual_card(&mut tests, &driver, card);
        step(&format!("test the CUDA kernels on a virtual {card}"), &mut tests)?;
    }
    for card in T5_CARDS {
        let mut tests = t5_tests();
        on_virtual_card(&mut tests, &driver, card);
        step(&format!("test T5 on a virtual {card}"), &mut tests)?;
    }
    for card in CANDLE_CARDS {
        let mut tests = candle_tests();
        on_virtual_card(tests.args(["--test", "candle"]), &driver, card);
        with_candle(&mut tests, &driver)?;
        step(&format!("test candle's tensors on the CPU and a virtual {card}"), &mut tests)?;
    }
    let mut tests = candle_tests();
    on_virtual_card(tests.arg("--doc"), &driver, CANDLE_CARDS[0]);
    with_candle(&mut tests, &driver)?;
    step("test the documentation's examples with candle", &mut tests)?;
    kit::check()?;
    match python.map(std::thread::JoinHandle::join) {
        None if transformers => {
            eprintln!("not tested, as Python has no venv or pip: folders that are converted")
        }
        None => eprintln!("not tested, as asked: folders that are converted"),
        Some(Ok(python)) => convert(&python?)?,
        Some(Err(_)) => bail!("the thread that installs transformers panicked"),
    }
    if Path::new("/dev/nvidiactl").exists() {
        step("test the CUDA kernels on this machine's card", &mut cuda_tests())?;
        step("test T5 on this machine's card", &mut t5_tests())?;
    }
    Ok(())
}

/// Folders that must be converted first are, by the command that the example prints.
fn convert(python: &Path) -> Result<()> {
    let folders = python.parent().map(Path::to_path_buf).into_iter();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(folders.chain(std::env::split_paths(&path)))?;
    let mut tests = cargo(&["test", "--test", "t5_goldens", "--", "--ignored", "conversions"]);
    step("test T5 on folders that transformers 5 converts", tests.env("PATH", path))
}

fn cuda_tests() -> std::process::Command {
    let mut tests = cargo(&["test", "--package", "onekv", "--features", "cuda"]);
    tests.args(["--test", "attention", "--test", "cuda", "--test", "e4m3"]).env("ONEKV_REQUIRE_CUDA", "1");
    tests
}

fn t5_tests() -> std::process::Command {
    let mut tests = cargo(&["test", "--package", "onekv", "--features", "t5-cuda"]);
    tests.args(["--test", "t5_cuda"]).env("ONEKV_REQUIRE_CUDA", "1");
    tests
}

fn candle_tests() -> std::process::Command {
    cargo(&["test", "--package", "onekv", "--features", "candle-cuda"])
}
