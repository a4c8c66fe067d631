//! Running commands: said before they run, an error when they fail.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

/// The repository's root: of the checkout that cargo runs this in, which need not be the one it was built in.
pub fn root() -> PathBuf {
    let built_in = || env!("CARGO_MANIFEST_DIR").to_owned();
    let manifest = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| built_in()));
    manifest.parent().map_or_else(|| manifest.clone(), Path::to_path_buf)
}

/// A command that runs in the root.
pub fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root());
    command
}

/// Runs `command`; `what` says it to the reader, and at its end how long it took.
pub fn step(what: &str, command: &mut Command) -> Result<()> {
    eprintln!("==> {what}");
    let began = Instant::now();
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("cannot run {program}; is it installed?"))?;
    if !status.success() {
        bail!("{what}: {program} ended with {status}");
    }
    eprintln!("<== {what}: {:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}

/// Runs two steps at a time, for such as leave cores idle; what each prints comes when it has ended, in one piece. After one that
/// fails, none begins.
pub fn side_by_side(steps: Vec<(String, Command)>) -> Result<()> {
    let waiting = Mutex::new(VecDeque::from(steps));
    let waiting = || waiting.lock().unwrap_or_else(PoisonError::into_inner);
    let worker = || {
        loop {
            let next = waiting().pop_front();
            let Some((what, command)) = next else { return Ok(()) };
            quiet_step(&what, command).inspect_err(|_| waiting().clear())?;
        }
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(worker);
        let done = worker();
        other.join().unwrap_or_else(|_| bail!("a thread that runs steps panicked")).and(done)
    })
}

/// As [`step`], but what the command prints comes at its end.
fn quiet_step(what: &str, mut command: Command) -> Result<()> {
    eprintln!("==> {what}");
    let began = Instant::now();
    let program = command.get_program().to_string_lossy().into_owned();
    let (mut reader, writer) = std::io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().with_context(|| format!("cannot run {program}; is it installed?"))?;
    // It holds the pipe open.
    drop(command);
    let mut printed = Vec::new();
    reader.read_to_end(&mut printed)?;
    let status = child.wait()?;
    let printed = String::from_utf8_lossy(&printed);
    if !status.success() {
        eprint!("{printed}");
        bail!("{what}: {program} ended with {status}");
    }
    eprintln!("{printed}<== {what}: {:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}

/// Runs `command` and returns its standard output, which is shown where it fails; its standard error stays visible.
pub fn output(what: &str, command: &mut Command) -> Result<String> {
    eprintln!("==> {what}");
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {program}; is it installed?"))?;
    if !output.status.success() {
        eprint!("{}", String::from_utf8_lossy(&output.stdout));
        bail!("{what}: {program} ended with {}", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("{what}: the output is not UTF-8"))
}

/// The cargo that runs this task. What it builds, the compiler of `setup` compiles, unless NVCC names another: what the tests
/// expect is of that one.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = command(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_string()), arguments);
    if let Ok(Some(nvcc)) = nvcc() {
        cargo.env("NVCC", nvcc);
    }
    cargo
}

/// All packages but those that are built by themselves: what they depend on links NVIDIA's libraries, or has others link them.
/// The features of dependencies are those that all of these ask for together, so that every command with these words finds them
/// compiled by the first; onekv's `candle` and `tracing` are among them for the same reason: candle asks for most.
pub const WORKSPACE: [&str; 7] =
    ["--workspace", "--features", "candle,tracing", "--exclude", "onekv-cust", "--exclude", "onekv-nccl"];

/// A command of cargo's for [`WORKSPACE`], with more `features` of onekv and T5.
pub fn workspace(what: &str, features: &str, arguments: &[&str]) -> Command {
    let mut cargo = cargo(&[what]);
    cargo.args(WORKSPACE).args(["--features", features]).args(arguments);
    cargo
}

/// Where cargo builds: it runs in the root.
pub fn target() -> PathBuf {
    root().join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// A program of this workspace.
pub fn release(name: &str) -> String {
    target().join("release").join(name).to_string_lossy().into_owned()
}

/// Runs a task of tools/model where the user stands, with what the user tells it. It says by itself what is wrong, and so ends
/// this one too.
pub fn model(task: &str, arguments: &[OsString]) -> Result<()> {
    let mut program = cargo(&["run", "--quiet", "--package", "onekv-model", "--manifest-path"]);
    program.arg(root().join("Cargo.toml")).args(["--", task]).args(arguments).current_dir(".");
    let status = program.status().context("cannot run cargo; is it installed?")?;
    if !status.success() {
        std::process::exit(status.code().unwrap_or(1));
    }
    Ok(())
}

/// Where `setup` puts the CUDA toolkit; the build script looks there.
pub fn toolkit() -> PathBuf {
    root().join("target/cuda-toolkit")
}

/// The compiler of `setup`, if it was run.
pub fn own_nvcc() -> Option<PathBuf> {
    Some(toolkit().join("bin/nvcc")).filter(|nvcc| nvcc.exists())
}

/// The compiler that this tool's builds use: what `NVCC` names, else that of `setup`, if it was run.
pub fn nvcc() -> Result<Option<PathBuf>> {
    let Some(named) = std::env::var_os("NVCC").filter(|named| !named.is_empty()) else {
        return Ok(own_nvcc());
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).map(|folder| folder.join(&named));
    let found = std::iter::once(root().join(&named)).chain(places).find(|file| file.is_file());
    // The build script takes `ccache nvcc` too; here others are given it by its path.
    let found =
        found.with_context(|| format!("NVCC is {}, allowed: the compiler's path", named.display()))?;
    Ok(Some(found))
}

/// Runs tests that are written in Python, with its standard library alone.
#[cfg(test)]
pub fn python_tests(arguments: &[&str]) {
    let ended = command("python3", &[&["-B"], arguments].concat()).output().expect("python3 runs");
    let said = String::from_utf8_lossy(&ended.stderr);
    // Python 3.12 and newer fail where there are none.
    assert!(ended.status.success() && !said.contains("Ran 0 tests"), "{arguments:?}: {said}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> (String, Command) {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]);
        (script.to_owned(), shell)
    }

    /// Each waits for what the other makes.
    #[test]
    fn two_steps_run_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let steps = [("a", "b"), ("b", "a")].map(|(mine, other)| {
            let (what, mut command) = shell(&format!(
                "touch {mine}; for i in $(seq 1000); do [ -e {other} ] && exit; sleep 0.01; done; exit 1"
            ));
            command.current_dir(&folder);
            (what, command)
        });
        side_by_side(steps.into()).unwrap();
    }

    #[test]
    fn after_a_step_that_fails_none_begins() {
        let folder = tempfile::tempdir().unwrap();
        let late = format!("touch {}/begun", folder.path().display());
        let steps = ["exit 3", "sleep 3", &late].map(shell);
        let error = side_by_side(steps.into()).unwrap_err().to_string();
        assert!(error.starts_with("exit 3: sh ended with") && error.ends_with(": 3"), "{error}");
        assert!(!folder.path().join("begun").exists());
    }
}
