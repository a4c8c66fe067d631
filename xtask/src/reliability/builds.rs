//! What others wrote and what is built of it: advisories, the list of all parts, the same kernels from the same sources.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use super::record::{Run, write};
use crate::package;
use crate::run::{cargo, command, output, root, step};

/// Writes the list of all parts in CycloneDX's format.
const CYCLONEDX: (&str, &str) = ("cargo-cyclonedx", "0.5.9");

/// `offline`: the advisories are those that cargo-deny fetched before.
pub fn run(results: &Path, offline: bool) -> Result<(String, Vec<Run>)> {
    let (tool, advisories) = advisories(offline)?;
    let other = root().join("target/reproducible/another/checkout");
    if other.exists() {
        std::fs::remove_dir_all(&other).with_context(|| format!("cannot remove {}", other.display()))?;
    }
    step("clone the repository", command("git", &["clone", "--quiet", "."]).arg(&other))?;
    Ok((tool, vec![advisories, parts(&other, results)?, kernels(&other)?]))
}

fn advisories(offline: bool) -> Result<(String, Run)> {
    let flags: &[&str] = if offline { &["--offline"] } else { &[] };
    let check = ["--locked", "--workspace", "check", "advisories"];
    let program = package::cargo_deny()?;
    let program = program.to_string_lossy();
    step("look for advisories", &mut command(&program, &[flags, &check].concat()))?;
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(std::env::home_dir()?.join(".cargo"))).context("no CARGO_HOME")?;
    let databases =
        std::fs::read_dir(home.join("advisory-dbs"))?.filter_map(|entry| Some(entry.ok()?.path()));
    let database = databases.into_iter().find(|path| path.is_dir()).context("cargo-deny left no database")?;
    let mut log = command("git", &["-C"]);
    log.arg(database).args(["log", "-1", "--format=%cs"]);
    let date = output("the database's date", &mut log)?.trim().to_owned();
    let found = format!("none but those that deny.toml lists; RustSec's database of {date}");
    let what = "advisories on any dependency, with all features".to_owned();
    let version = output("cargo-deny", &mut command(&program, &["--version"]))?.trim().to_owned();
    Ok((version, Run { what, command: "cargo deny --workspace check advisories".to_owned(), found }))
}

/// The library's parts, with the features that it has of its own, into a file.
fn parts(checkout: &Path, results: &Path) -> Result<Run> {
    let (name, version) = CYCLONEDX;
    let tools = root().join("target/cyclonedx");
    let mut install = cargo(&["install", "--locked", name, "--version", version, "--root"]);
    step(&format!("install {name} {version}"), install.arg(&tools))?;
    let arguments = ["cyclonedx", "--format", "json", "--spec-version", "1.5", "--features", "cuda,tracing"];
    let mut list = command(&tools.join("bin").join(name).to_string_lossy(), &arguments);
    // The same at any time, and wherever the checkout is.
    list.args(["--override-filename", "parts"]).env("SOURCE_DATE_EPOCH", "0").current_dir(checkout);
    step("list the library's parts", &mut list)?;
    let file = checkout.join("parts.json");
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let text = text.replace(&format!("file://{}", checkout.display()), "file://.");
    // Who wrote a part, with their addresses, its own package says.
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("\"author\": "));
    let text: String = lines.flat_map(|line| [line, "\n"]).collect();
    let found = text.matches("\"purl\"").count();
    write(&results.join("onekv.cdx.json"), &text)?;
    Ok(Run {
        what:
            "all parts, with features `cuda` and `tracing`, as CycloneDX: results/reliability/onekv.cdx.json"
                .to_owned(),
        command: "cargo cyclonedx --format json --spec-version 1.5 --features cuda,tracing".to_owned(),
        found: format!("{found} parts, onekv and its targets among them"),
    })
}

/// Two builds of the kernels, in folders of different names, both without a network, and with all in memory at the same
/// addresses: by these nvcc 13.0.88 numbers some registers of PTX.
fn kernels(other: &Path) -> Result<Run> {
    step("fetch the dependencies", &mut cargo(&["fetch", "--locked"]))?;
    let mut made = Vec::new();
    for (place, target) in [(root(), "a"), (other.to_owned(), "b")] {
        let target = root().join("target/reproducible").join(target);
        // In a namespace of the kernel's that has no network.
        let mut build = command("setarch", &["--addr-no-randomize", "unshare", "--map-root-user", "--net"]);
        build.args(["cargo", "build", "--offline", "--locked"]);
        build.args(["--package", "onekv", "--lib", "--features", "cuda", "--target-dir"]).arg(&target);
        if let Some(nvcc) = crate::run::nvcc()? {
            build.env("NVCC", nvcc);
        }
        build.current_dir(place).env_remove("ONEKV_CUDA_ARCHS");
        step("compile the kernels for all cards, without a network", &mut build)?;
        made.push(fatbins(&target)?);
    }
    if made[0] != made[1] {
        let differ: Vec<_> = made[0].iter().filter(|(name, hash)| made[1].get(*name) != Some(hash)).collect();
        bail!("built twice, the kernels differ: {differ:?}");
    }
    Ok(Run {
        what: "the kernels for all cards, compiled twice in folders of different names, without a network; by random addresses \
               nvcc 13.0.88 makes one of two PTX texts of cuda/attention_f32.cu"
            .to_owned(),
        command: "setarch --addr-no-randomize unshare --map-root-user --net cargo build --offline --locked --features cuda"
            .to_owned(),
        found: format!("{} files, the same bytes", made[0].len()),
    })
}

/// Hashes of what the build script made, by name.
fn fatbins(target: &Path) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for package in std::fs::read_dir(target.join("debug/build"))? {
        let Ok(files) = std::fs::read_dir(package?.path().join("out")) else { continue };
        for file in files {
            let file = file?.path();
            if file.extension().is_some_and(|extension| extension == "fatbin") {
                let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let hash = format!("{:x}", Sha256::digest(std::fs::read(&file)?));
                if found.insert(name.clone(), hash).is_some() {
                    bail!("{name} was made twice in {}: remove it", target.display());
                }
            }
        }
    }
    if found.is_empty() {
        bail!("no kernels in {}", target.display());
    }
    Ok(found)
}
