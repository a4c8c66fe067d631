//! `cargo xtask gpu-kit`: tests, benchmarks and scripts in one folder, for a machine with a card and without Rust.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::run::{cargo, command, output, root, step, target, workspace};
use crate::virtual_gpu::{on_virtual_card, virtual_driver};

#[derive(Args)]
pub struct Options {
    /// Folder to make, and to pack into an archive beside it; what an earlier kit left there is replaced
    #[arg(long, value_name = "DIR", default_value = "gpu-kit")]
    out: PathBuf,
    /// Cards to compile for, as ONEKV_CUDA_ARCHS: PTX serves all others
    #[arg(long, default_value = ARCHS)]
    archs: String,
    /// Fetch the wheels that the peers need beside PyTorch (tools/kit/wheels.txt)
    #[arg(long)]
    with_wheels: bool,
    /// Make a quick kit in target/ and run its smoke stage on the virtual card, from a copy, in a bare environment
    #[arg(long, conflicts_with_all = ["out", "archs", "with_wheels"])]
    check: bool,
}

/// Machine code of the cards that kits are for.
pub const ARCHS: &str = "80,90";
/// The largest archive: the way to a lent machine may take 64 MiB, with a checkout of this repository in it.
const MOST_BYTES: u64 = 46 << 20;

/// Programs of the kit: package, cargo's kind and name of it, its name in the kit. run.sh takes every `test-*` for a test
/// of the kernels.
const PROGRAMS: [[&str; 4]; 10] = [
    ["onekv", "bench", "card", "card"],
    ["onekv", "test", "attention", "test-attention"],
    ["onekv", "test", "cuda", "test-cuda"],
    ["onekv", "test", "e4m3", "test-e4m3"],
    ["onekv", "test", "streams", "test-streams"],
    ["onekv", "test", "allocations", "test-allocations"],
    ["onekv", "test", "soak", "test-soak"],
    ["t5", "test", "t5_cuda", "test-t5_cuda"],
    ["t5", "bin", "t5", "t5"],
    ["ptxsim-driver", "test", "conformance", "conformance"],
];

/// How programs are built.
enum Build<'a> {
    /// For the cards named; stripped.
    Release { archs: &'a str },
    /// What `cargo xtask test` has built already: PTX, without T5.
    Tested,
}

impl Build<'_> {
    fn archs(&self) -> &str {
        match self {
            Self::Release { archs } => archs,
            Self::Tested => "ptx",
        }
    }

    fn takes(&self, package: &str) -> bool {
        matches!(self, Self::Release { .. }) || package != "t5"
    }

    fn command(&self, package: &str) -> Command {
        let features = if package == "ptxsim-driver" { "" } else { "cuda" };
        let mut cargo = match self {
            Self::Release { .. } => {
                let mut cargo = cargo(&["build", "--release", "--package", package, "--features", features]);
                cargo.env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
                cargo
            }
            Self::Tested => workspace("build", features, &[]),
        };
        cargo.args(["--message-format", "json-render-diagnostics"]).env("ONEKV_CUDA_ARCHS", self.archs());
        cargo
    }
}

/// Files of the repository, and the kit's folder they go to.
const FILES: &[(&str, &str)] = &[
    ("tools/kit/run.sh", "."),
    ("tools/kit/collect.py", "scripts"),
    ("tools/peers/card.py", "scripts"),
    ("tools/peers/common.py", "scripts"),
    ("tools/peers/results_file.py", "scripts"),
    ("tools/peers/shapes.json", "scripts"),
    ("tools/peers/gpu_timing.py", "scripts"),
    ("tools/peers/triton_attention.py", "scripts"),
    ("tools/peers/t5_gpu.py", "scripts"),
    ("tools/peers/crossover.py", "scripts"),
];

/// Folders of the T5 example that its tests and the peers' script read; the kit has them under root/.
const FOLDERS: &[&str] = &["tests/goldens", "assets"];

pub fn run(options: &Options) -> Result<()> {
    if options.check {
        return check(&virtual_driver()?);
    }
    let out = root().join(&options.out);
    release(&out, &options.archs)?;
    if options.with_wheels {
        wheels(&out.join("wheels"))?;
    }
    pack(&out)
}

/// The kit without wheels.
pub fn release(out: &Path, archs: &str) -> Result<()> {
    gather(out, &Build::Release { archs })
}

fn gather(out: &Path, how: &Build<'_>) -> Result<()> {
    if out.exists() {
        // Only what this command made is ever removed.
        if !out.join("kit.json").exists() {
            bail!("{} exists and is no kit, allowed: a folder that does not exist, or a kit", out.display());
        }
        std::fs::remove_dir_all(out).with_context(|| format!("cannot remove {}", out.display()))?;
    }
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let commit =
        output("the commit", &mut command("git", &["describe", "--always", "--dirty", "--abbrev=40"]))?;
    let date = output("the date", &mut command("date", &["--utc", "+%Y-%m-%d"]))?;
    let about = json!({ "commit": commit.trim(), "kit_date": date.trim(), "archs": how.archs() });
    std::fs::write(out.join("kit.json"), format!("{about:#}\n"))?;
    std::fs::create_dir(out.join("bin"))?;
    for programs in PROGRAMS.chunk_by(|a, b| a[0] == b[0]).filter(|programs| how.takes(programs[0][0])) {
        for ([.., file], from) in programs.iter().zip(build(programs, how)?) {
            copy(&from, &out.join("bin").join(file))?;
        }
    }
    for (from, folder) in FILES {
        let from = root().join(from);
        let folder = out.join(folder);
        std::fs::create_dir_all(&folder)?;
        copy(&from, &folder.join(from.file_name().context("a file without a name")?))?;
    }
    let example = root().join("examples/t5");
    for folder in FOLDERS {
        let mut files = Vec::new();
        list(&example.join(folder), &mut files)?;
        for (from, _) in files {
            let to = out.join("root").join(from.strip_prefix(&example)?);
            std::fs::create_dir_all(to.parent().context("a file without a folder")?)?;
            copy(&from, &to)?;
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

/// Builds programs of one package; where each is.
fn build(programs: &[[&str; 4]], how: &Build<'_>) -> Result<Vec<PathBuf>> {
    let package = programs[0][0];
    let mut cargo = how.command(package);
    for [_, kind, name, _] in programs {
        cargo.args([&format!("--{kind}"), *name]);
    }
    let text = output(&format!("build the programs of {package}"), &mut cargo)?;
    let messages: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let find = |[_, kind, name, _]: &[&str; 4]| {
        let is_this = |m: &&Value| m["target"]["name"] == *name && m["target"]["kind"][0] == *kind;
        let built = messages.iter().filter(is_this).find_map(|message| message["executable"].as_str());
        built.map(PathBuf::from).with_context(|| format!("cargo built no {name}"))
    };
    programs.iter().map(find).collect()
}

/// Wheels for the machine with the card: not for this one.
fn wheels(folder: &Path) -> Result<()> {
    let text = std::fs::read_to_string(root().join("tools/kit/wheels.txt"))?;
    let names: Vec<&str> = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let mut pip =
        command("python3", &["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]);
    pip.args(["--python-version", "3.12", "--implementation", "cp"]);
    for glibc in ["manylinux_2_28", "manylinux_2_17", "manylinux2014"] {
        pip.arg("--platform").arg(format!("{glibc}_x86_64"));
    }
    step("fetch wheels", pip.arg("--dest").arg(folder).args(names))
}

/// Prints what the kit holds, and packs it; fails where that is too large.
fn pack(out: &Path) -> Result<()> {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let mut files = Vec::new();
    list(out, &mut files)?;
    files.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    for (path, bytes) in files.iter().filter(|(_, bytes)| *bytes >= 100_000) {
        println!("{:>8.1} MiB  {}", mib(*bytes), path.display());
    }
    let all: u64 = files.iter().map(|(_, bytes)| bytes).sum();
    println!("{:>8.1} MiB  {} in all, {} files", mib(all), out.display(), files.len());
    let newest = files.iter().filter(|(path, _)| path.parent().is_some_and(|p| p.ends_with("bin")));
    let newest = newest.filter_map(|(path, _)| Some((glibc(&std::fs::read(path).ok()?)?, path))).max();
    if let Some((minor, path)) = newest {
        println!("needs glibc 2.{minor} or newer ({})", path.display());
    }
    let (folder, name) = out.parent().zip(out.file_name()).context("the kit's folder has no name")?;
    let archive = out.with_file_name(format!("{}.tar.xz", name.display()));
    let mut tar = command("python3", &["-m", "tarfile", "--create"]);
    step("pack the kit", tar.arg(&archive).arg(name).current_dir(folder))?;
    let bytes = archive.metadata()?.len();
    println!("{:>8.1} MiB  {}", mib(bytes), archive.display());
    if bytes > MOST_BYTES {
        let archive = archive.display();
        bail!("{archive} has {bytes} bytes, allowed: {MOST_BYTES}; --archs names fewer cards");
    }
    println!("copy it to a machine with a card, then:");
    println!("python3 -m tarfile --extract {0}.tar.xz && {0}/run.sh --help", name.display());
    Ok(())
}

fn list(folder: &Path, files: &mut Vec<(PathBuf, u64)>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => list(&entry.path(), files)?,
            false => files.push((entry.path(), entry.metadata()?.len())),
        }
    }
    Ok(())
}

/// The newest version of glibc's symbols that a program asks for, 2.x.
fn glibc(program: &[u8]) -> Option<u32> {
    let tag = b"GLIBC_2.";
    let places = program.windows(tag.len()).enumerate().filter(|(_, window)| *window == tag);
    let minors = places.filter_map(|(at, _)| {
        let digits = program[at + tag.len()..].iter().take_while(|byte| byte.is_ascii_digit());
        digits.map(|byte| u32::from(byte - b'0')).reduce(|number, digit| 10 * number + digit)
    });
    minors.max()
}

/// Runs a kit where nothing of this repository is in reach but the virtual card.
pub fn check(driver: &Path) -> Result<()> {
    step("is run.sh a script?", &mut command("bash", &["-n", "tools/kit/run.sh"]))?;
    let kit = target().join("gpu-kit-check");
    gather(&kit, &Build::Tested)?;
    let elsewhere = std::env::temp_dir().join(format!("onekv-kit-{}", std::process::id()));
    let done = check_in(&kit, &elsewhere, driver);
    std::fs::remove_dir_all(&elsewhere).ok();
    done
}

fn check_in(kit: &Path, elsewhere: &Path, driver: &Path) -> Result<()> {
    let mut copy = Command::new("cp");
    step("copy the kit", copy.arg("-r").arg(kit).arg(elsewhere))?;
    let results = elsewhere.join("results");
    let mut script = Command::new(elsewhere.join("run.sh"));
    script.arg("--out").arg(&results).arg("smoke").current_dir(elsewhere).env_clear();
    on_virtual_card(&mut script, driver, "h200");
    script.env("PATH", "/usr/bin:/bin").env("HOME", elsewhere).stdin(Stdio::null());
    // Peers need a card that PyTorch knows: what they say here is not looked at.
    let python =
        output("find Python", &mut command("python3", &["-c", "import sys; print(sys.executable)"]))?;
    script.env("PYTHON", python.trim());
    eprintln!("==> run it with a driver that is too old");
    let old = script.env("PTXSIM_CUDA", "11.8").output().context("cannot run the kit")?;
    let said = String::from_utf8_lossy(&old.stderr).into_owned();
    if old.status.success() || !said.contains("error: CUDA: loading the kernels: the driver is of CUDA 11.8")
    {
        bail!("the kit does not say that the driver is too old: {said}");
    }
    eprintln!("==> run its smoke stage on a virtual card");
    script.env_remove("PTXSIM_CUDA").status().context("cannot run the kit")?;
    judge(&results)
}

/// What a smoke run does.
const SMOKE_STEPS: [&str; 5] = ["start", "smoke-attention", "smoke-graphs", "conformance", "ours-smoke"];

/// Whether a smoke run left what it should.
fn judge(results: &Path) -> Result<()> {
    let read = |name: &str| -> Result<Vec<Value>> {
        let text =
            std::fs::read_to_string(results.join(name)).with_context(|| format!("the kit left no {name}"))?;
        let lines: serde_json::Result<_> = text.lines().map(serde_json::from_str).collect();
        lines.with_context(|| format!("{name} is no JSON lines"))
    };
    let (steps, lines) = (read("stages.jsonl")?, read("attention-smoke.jsonl")?);
    let (_, steps) = steps.split_first().context("no steps")?;
    for name in SMOKE_STEPS {
        match steps.iter().find(|step| step["name"] == name) {
            Some(step) if step["outcome"] == "passed" => (),
            Some(step) => bail!("the kit's {name} {}", step["outcome"].as_str().unwrap_or_default()),
            None => bail!("the kit never ran {name}"),
        }
    }
    let (head, lines) = lines.split_first().context("no lines")?;
    let ours = lines.iter().filter(|line| line["system"].as_str().is_some_and(|s| s.starts_with("onekv")));
    if let Some(error) = ours.clone().find_map(|line| line["error"].as_str()) {
        bail!("the kit's benchmark: {error}");
    }
    let timed: Vec<&Value> = ours.filter(|line| line["cold_us"]["median"].is_f64()).collect();
    for system in ["onekv", "onekv, K/V per prompt", "onekv, K/V in e4m3"] {
        if !timed.iter().any(|line| line["system"] == system) {
            bail!("the kit's benchmark has no line of {system}");
        }
    }
    if head["machine"]["simulated"] != true {
        bail!("the kit's benchmark was not simulated");
    }
    println!("the kit runs: {} steps, {} lines of the benchmark", steps.len(), timed.len());
    Ok(())
}

#[test]
fn results_of_a_kit_are_put_together_as_its_scripts_test_says() {
    crate::run::python_tests(&["tools/kit/test_collect.py"]);
}

#[test]
fn a_kit_that_left_out_what_it_should_do_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let judged = |stages: &str, bench: &str| {
        std::fs::write(folder.path().join("stages.jsonl"), stages).unwrap();
        std::fs::write(folder.path().join("attention-smoke.jsonl"), bench).unwrap();
        judge(folder.path()).map_err(|error| error.to_string())
    };
    let text = |lines: &[Value]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    let step = |name| json!({ "name": name, "outcome": "passed" });
    let steps = SMOKE_STEPS.map(step);
    let stages = text(&[&[json!({ "machine": {} })], &steps[..]].concat());
    let line = |system| json!({ "system": system, "cold_us": { "median": 1.5 }, "error": null });
    let lines = ["onekv", "onekv, K/V per prompt", "onekv, K/V in e4m3"].map(line);
    let bench = text(&[&[json!({ "machine": { "simulated": true } })], &lines[..]].concat());
    assert_eq!(judged(&stages, &bench), Ok(()));
    // Of a peer nothing is asked.
    assert_eq!(judged(&stages, &format!("{bench}{}\n", json!({ "system": "copy", "error": "no" }))), Ok(()));
    for (what, stages, bench) in [
        ("the kit never ran conformance", stages.replace("conformance", "other"), bench.clone()),
        ("the kit's start failed", stages.replacen("passed", "failed", 9), bench.clone()),
        ("the kit's benchmark: out of memory", stages.clone(), bench.replace("null", r#""out of memory""#)),
        ("the kit's benchmark has no line of onekv", stages.clone(), bench.replace("1.5", "null")),
        ("the kit's benchmark was not simulated", stages.clone(), bench.replace("true", "false")),
    ] {
        assert_eq!(judged(&stages, &bench), Err(what.to_owned()));
    }
}

/// libtest passes over a name that no test has, and ends well.
#[test]
fn tests_that_the_kit_names_are_there() {
    let script = std::fs::read_to_string(root().join("tools/kit/run.sh")).unwrap().replace("\\\n", " ");
    let calls = script.lines().filter_map(|line| Some(line.split_once("named ")?.1.split_whitespace()));
    let mut seen = 0;
    // Behind the step's name and its seconds.
    for mut call in calls.filter(|call| call.clone().nth(1).is_some_and(|limit| limit.parse::<u32>().is_ok()))
    {
        let program = call.nth(2).unwrap();
        for test in call {
            let (file, name) = match test.split_once("::") {
                Some((module, name)) => (format!("examples/t5/tests/{program}/{module}.rs"), name),
                None => (format!("tests/{program}.rs"), test),
            };
            let source = std::fs::read_to_string(root().join(&file)).expect(&file);
            assert!(source.contains(&format!("fn {name}(")), "{file} has no test {name}");
            seen += 1;
        }
    }
    assert!(seen >= 15, "{seen}");
}

#[test]
fn stages_are_known_before_anything_runs() {
    let listed = |stages: &[&str]| {
        let done = command("tools/kit/run.sh", &["--dry-run"]).args(stages).output().unwrap();
        (done.status.code(), [done.stdout, done.stderr].map(|said| String::from_utf8(said).unwrap()))
    };
    let (status, [said, _]) = listed(&["must-show", "t5"]);
    assert_eq!((status, said.as_str()), (Some(0), "must-show\nt5\n"));
    let (status, [_, said]) = listed(&["t5", "must-shown"]);
    assert!(
        status == Some(2) && said.starts_with("error: stage is must-shown, allowed: features "),
        "{said}"
    );
    assert!(listed(&[]).1[0].starts_with("features\n"));
}
