//! `cargo xtask setup`: the CUDA toolkit from PyPI wheels, into `target/cuda-toolkit`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::run::{command, root, step, toolkit};

/// The CUDA release of the compiler that everything is built with.
pub const VERSION: &str = "13.0";
/// The newest compiler that the kernels are held to, in `cargo xtask codegen`.
pub const NEWEST: &str = "13.5";
/// CCCL counts for itself: this is that of [`NEWEST`].
const NEWEST_CCCL: &str = "13.3.5";

/// What nvcc needs to compile device code: compiler, headers, PTX optimiser.
pub fn wheels(version: &str, cccl: &str) -> Vec<String> {
    let names = ["nvidia-cuda-nvcc", "nvidia-cuda-crt", "nvidia-nvvm", "nvidia-cuda-runtime"];
    let wheels = names.iter().map(|name| format!("{name}=={version}.*"));
    wheels.chain([format!("nvidia-cuda-cccl=={cccl}.*")]).collect()
}

/// Shows machine code; any version reads older ones.
const DISASSEMBLER: &str = "nvidia-cuda-nvdisasm==13.*";

/// Fetches the toolkit unless it is there.
pub fn run() -> Result<()> {
    let folder = root().join("target/cuda-wheels");
    let nvcc = toolkit().join("bin/nvcc");
    if nvcc.exists() {
        println!("the CUDA toolkit is at {}", toolkit().display());
        return Ok(());
    }
    // The link below says that all of them are there.
    let what = format!("fetch the CUDA {VERSION} compiler from PyPI into target/ (about 150 MB)");
    download(&what, &mut pip(&folder, &wheels(VERSION, VERSION))?, &PAUSES)?;
    let found = folder.join("nvidia/cu13");
    if !found.join("bin/nvcc").exists() {
        bail!("the wheels hold no nvcc under {}", found.display());
    }
    link(&found, &toolkit())?;
    println!("the CUDA toolkit is at {}", toolkit().display());
    Ok(())
}

/// A file of wheels, which are fetched from PyPI into `folder` unless it is there.
pub fn fetched(what: &str, wheels: &[String], folder: &Path, file: &str) -> Result<PathBuf> {
    let found = folder.join(file);
    if !found.exists() {
        download(&format!("fetch {what} from PyPI into target/"), &mut pip(folder, wheels)?, &PAUSES)?;
    }
    if !found.exists() {
        bail!("{} put no {file} into {}", wheels.join(", "), folder.display());
    }
    Ok(found)
}

/// After these, what failed is tried again: a network may be gone for some seconds.
const PAUSES: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(30)];

/// Runs pip. Its last words are part of the error: by the time that somebody reads this one, other work may have printed
/// thousands of lines after them.
fn download(what: &str, pip: &mut Command, pauses: &[Duration]) -> Result<()> {
    let program = pip.get_program().to_string_lossy().into_owned();
    let mut left = pauses.iter();
    loop {
        eprintln!("==> {what}");
        let output = pip.output().with_context(|| format!("cannot run {program}; is it installed?"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        eprint!("{said}");
        if output.status.success() {
            return Ok(());
        }
        let Some(pause) = left.next() else {
            let tries = pauses.len() + 1;
            bail!(
                "{what}: {program} failed {tries} times, the last time with {}:\n{}",
                output.status,
                said.trim()
            );
        };
        eprintln!("that ended with {}; again in {pause:?}", output.status);
        std::thread::sleep(*pause);
    }
}

/// The command that puts wheels into a folder.
fn pip(folder: &Path, wheels: &[String]) -> Result<Command> {
    let python = ["python3", "python"].into_iter().find(|python| runs(python, &["-m", "pip", "--version"]));
    let Some(python) = python else {
        bail!(
            "no pip: `python3 -m pip` does not run, and {} comes from PyPI. Install it, e.g. `apt-get install \
             python3-pip`; for the CUDA compiler you can also set NVCC to one of CUDA 12.4 or newer",
            wheels.join(", ")
        );
    };
    let mut pip = command(python, &["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    pip.args(["--no-deps", "--upgrade", "--target"]).arg(folder).args(wheels);
    Ok(pip)
}

/// nvcc of [`NEWEST`], fetched unless it is there.
pub fn newest() -> Result<PathBuf> {
    let wheels = wheels(NEWEST, NEWEST_CCCL);
    let folder = root().join("target/cuda-newest").join(NEWEST);
    fetched(&format!("the CUDA {NEWEST} compiler (about 150 MB)"), &wheels, &folder, "nvidia/cu13/bin/nvcc")
}

/// nvdisasm, fetched unless it is there.
pub fn disassembler() -> Result<PathBuf> {
    let folder = root().join("target/cuda-tools");
    fetched("nvdisasm (about 5 MB)", &[DISASSEMBLER.to_owned()], &folder, "nvidia/cu13/bin/nvdisasm")
}

/// Whether Python can make environments.
pub fn has_venv() -> bool {
    runs("python3", &["-c", "import venv, ensurepip"])
}

/// A Python environment in target/ with these requirements, made unless it is there. `options` are pip's.
pub fn python(name: &str, requirements: &str, options: &[&str]) -> Result<PathBuf> {
    let folder = root().join("target").join(name);
    let python = folder.join("bin/python");
    let wanted = std::fs::read(root().join(requirements))?;
    if std::fs::read(folder.join("ready")).ok().as_ref() != Some(&wanted) {
        let text = folder.to_string_lossy();
        step(
            "make a Python environment in target/",
            &mut command("python3", &["-m", "venv", "--clear", &text]),
        )?;
        let mut pip =
            command(&python.to_string_lossy(), &["-m", "pip", "install", "--quiet", "-r", requirements]);
        let size = if String::from_utf8_lossy(&wanted).contains("torch==") { " (several GB)" } else { "" };
        download(&format!("install {requirements} from PyPI{size}"), pip.args(options), &PAUSES)?;
        std::fs::write(folder.join("ready"), wanted)?;
    }
    Ok(python)
}

/// The Python of an environment that holds the pinned peers.
pub fn peers_python(venv: Option<&Path>) -> Result<PathBuf> {
    match venv {
        Some(folder) => named_python(folder),
        None => python("peers-venv", "tools/peers/requirements.txt", &[]),
    }
}

/// The Python of an environment that the user names.
pub fn named_python(venv: &Path) -> Result<PathBuf> {
    let python = std::path::absolute(venv)?.join("bin/python");
    if !python.exists() {
        bail!("--venv is {}, allowed: a Python environment, with bin/python in it", venv.display());
    }
    Ok(python)
}

pub fn runs(program: &str, arguments: &[&str]) -> bool {
    command(program, arguments).output().is_ok_and(|output| output.status.success())
}

#[cfg(unix)]
fn link(from: &Path, to: &Path) -> Result<()> {
    // A link of an interrupted run may be left.
    let _ = std::fs::remove_file(to);
    std::os::unix::fs::symlink(from, to).with_context(|| format!("cannot link {}", to.display()))
}

#[cfg(not(unix))]
fn link(_: &Path, _: &Path) -> Result<()> {
    bail!("setup works on Linux; elsewhere set NVCC to the compiler")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A command that counts its runs in a file, says which one it is, and succeeds from run `good` on.
    fn counting(file: &Path, good: usize) -> Command {
        let mut shell =
            command("sh", &["-c", r#"echo >>"$1"; n=$(wc -l <"$1"); echo "run $n" >&2; test "$n" -ge "$2""#]);
        shell.arg("sh").arg(file).arg(good.to_string());
        shell
    }

    #[test]
    fn a_download_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let runs = |file: &Path| std::fs::read_to_string(file).unwrap().len();
        let none = [Duration::ZERO; 2];

        let file = folder.path().join("third");
        download("fetch", &mut counting(&file, 3), &none).unwrap();
        assert_eq!(runs(&file), 3);

        let file = folder.path().join("first");
        download("fetch", &mut counting(&file, 1), &none).unwrap();
        assert_eq!(runs(&file), 1);

        let file = folder.path().join("never");
        let error = download("fetch", &mut counting(&file, 4), &none).unwrap_err().to_string();
        assert_eq!(runs(&file), 3);
        assert_eq!(error, "fetch: sh failed 3 times, the last time with exit status: 1:\nrun 3");
    }
}
