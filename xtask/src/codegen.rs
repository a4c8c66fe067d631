//! `cargo xtask codegen`: what ptxas made of every kernel on every card, into `cuda/codegen.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use onekv::plan::variants;
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use crate::run::{output, root};
use crate::setup;

/// What a multiprocessor of an architecture holds: CUDA C++ Programming Guide, "Compute Capabilities".
struct Multiprocessor {
    arch: &'static str,
    threads: usize,
    blocks: usize,
    shared_bytes: usize,
}

const REGISTERS: usize = 65536;

const fn holds(arch: &'static str, threads: usize, blocks: usize, shared_kib: usize) -> Multiprocessor {
    Multiprocessor { arch, threads, blocks, shared_bytes: shared_kib << 10 }
}

const ARCHS: [Multiprocessor; 6] = [
    holds("80", 2048, 32, 164),
    holds("86", 1536, 16, 100),
    holds("89", 1536, 24, 100),
    holds("90", 2048, 32, 228),
    holds("100", 2048, 32, 228),
    holds("120", 1536, 24, 100),
];

/// One kernel on one architecture.
struct Made {
    registers: usize,
    stack: usize,
    spills: usize,
    static_shared: usize,
}

/// Compiles everything and writes the table.
pub fn run() -> Result<()> {
    let nvcc = setup::nvcc()?;
    let version = output("ask nvcc for its version", std::process::Command::new(&nvcc).arg("--version"))?;
    let version = version.lines().find(|line| line.contains("release")).unwrap_or_default().trim().to_owned();
    let jobs: Vec<(PathBuf, &str)> = sources()?
        .into_iter()
        .flat_map(|source| ARCHS.iter().map(move |m| (source.clone(), m.arch)))
        .collect();
    let bar = indicatif::ProgressBar::new(jobs.len() as u64).with_message("compiling");
    let made: Vec<BTreeMap<(String, &str), Made>> = jobs
        .par_iter()
        .map(|(source, arch)| {
            let made = compile(&nvcc, source, arch);
            bar.inc(1);
            made
        })
        .collect::<Result<_>>()?;
    bar.finish_and_clear();
    let text = table(&version, &made.into_iter().flatten().collect())?;
    std::fs::write(file(), text).context("cannot write cuda/codegen.md")?;
    println!("wrote cuda/codegen.md");
    check()
}

/// The table is of today's sources, and no kernel spills.
pub fn check() -> Result<()> {
    let text = std::fs::read_to_string(file()).context("cannot read cuda/codegen.md")?;
    if !text.contains(&format!("Sources: `{}`", digest()?)) {
        bail!("cuda/codegen.md is of other sources than cuda/ has now; run `cargo xtask codegen`");
    }
    if let Some(line) = text.lines().find(|line| line.contains("spills") && line.starts_with('|')) {
        bail!("cuda/codegen.md has a kernel that spills registers or has a stack frame: {line}");
    }
    Ok(())
}

fn file() -> PathBuf {
    root().join("cuda/codegen.md")
}

fn sources() -> Result<Vec<PathBuf>> {
    let files = std::fs::read_dir(root().join("cuda"))?.map(|entry| Ok(entry?.path()));
    let mut files: Vec<PathBuf> = files.collect::<Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|e| e == "cu"));
    files.sort();
    Ok(files)
}

/// SHA-256 of the names and contents of all that the kernels are compiled from.
fn digest() -> Result<String> {
    let mut files = sources()?;
    files.push(root().join("cuda/abi.h"));
    for folder in ["cuda/attention", "cuda/ptx"] {
        for entry in std::fs::read_dir(root().join(folder))? {
            files.push(entry?.path());
        }
    }
    files.sort();
    let mut hasher = Sha256::new();
    for path in files {
        hasher.update(path.strip_prefix(root())?.to_string_lossy().as_bytes());
        hasher.update(std::fs::read(&path)?);
    }
    Ok(hasher.finalize().iter().take(8).fold(String::new(), |hex, byte| hex + &format!("{byte:02x}")))
}

fn compile<'a>(nvcc: &Path, source: &Path, arch: &'a str) -> Result<BTreeMap<(String, &'a str), Made>> {
    let result = std::process::Command::new(nvcc)
        .args([
            "-cubin",
            "-O3",
            "-std=c++17",
            "-Xptxas",
            "-v",
            "-o",
            "/dev/null",
            &format!("-arch=sm_{arch}"),
        ])
        .arg(source)
        .output()
        .with_context(|| format!("cannot run {}", nvcc.display()))?;
    let text = String::from_utf8_lossy(&result.stderr);
    if !result.status.success() {
        bail!("nvcc failed on {}:\n{text}", source.display());
    }
    let mut made = BTreeMap::new();
    let mut name = None;
    let (mut stack, mut spills) = (0, 0);
    for line in text.lines() {
        let number = |after: &str, before: &str| -> Option<usize> {
            let head = &line[..line.find(before)?];
            let tail = head.rfind(after).map_or(head, |at| &head[at + after.len()..]);
            tail.trim().parse().ok()
        };
        if let Some(start) = line.find("Compiling entry function '") {
            name = line[start..].split('\'').nth(1).map(str::to_owned);
        } else if line.contains("bytes stack frame") {
            stack = number("", " bytes stack frame").unwrap_or(0);
            let stores = number(",", " bytes spill stores");
            let loads = number(",", " bytes spill loads");
            spills = stores.zip(loads).map(|(s, l)| s + l).ok_or_else(|| anyhow!("cannot read: {line}"))?;
        } else if let Some(registers) = number("Used ", " registers")
            && let Some(name) = name.take()
        {
            let static_shared = number(",", " bytes smem").unwrap_or(0);
            made.insert((name, arch), Made { registers, stack, spills, static_shared });
        }
    }
    Ok(made)
}

fn table(version: &str, made: &BTreeMap<(String, &str), Made>) -> Result<String> {
    let mut text = String::from(
        "# What ptxas made of the kernels\n\n\
         Generated by `cargo xtask codegen`. Per architecture: registers of a thread, and blocks that a multiprocessor\n\
         holds at once. A stack frame or spilled registers would stand beside them, and fail a test.\n\n",
    );
    writeln!(text, "Sources: `{}`. Compiler: {version}.\n", digest()?)?;
    let archs: Vec<String> = ARCHS.iter().map(|m| capability(m.arch)).collect();
    writeln!(text, "| kernel | threads | shared memory, KiB | {} |", archs.join(" | "))?;
    writeln!(text, "| --- | --- | --- |{}", " --- |".repeat(ARCHS.len()))?;
    let mut names: Vec<&String> = made.keys().map(|(name, _)| name).collect();
    names.dedup();
    for name in names {
        let variant = variants::all().find(|v| v.kernel() == *name);
        let threads = variant.map_or(128, |v| v.threads);
        let dynamic = variant.map_or(0, |v| v.shared_bytes);
        write!(text, "| {name} | {threads} | {} |", dynamic.div_ceil(1024))?;
        for m in &ARCHS {
            match made.get(&(name.clone(), m.arch)) {
                None => write!(text, " none |")?,
                Some(made) => {
                    write!(text, " {}, {}", made.registers, m.resident(threads, dynamic, made))?;
                    if made.stack + made.spills > 0 {
                        write!(text, ", **spills {} B, stack {} B**", made.spills, made.stack)?;
                    }
                    write!(text, " |")?;
                }
            }
        }
        text.push('\n');
    }
    Ok(text)
}

/// `90` as `9.0`.
fn capability(arch: &str) -> String {
    let (major, minor) = arch.split_at(arch.len() - 1);
    format!("{major}.{minor}")
}

impl Multiprocessor {
    /// Blocks that fit at once.
    fn resident(&self, threads: usize, dynamic: usize, made: &Made) -> usize {
        // Registers are given out by warp, 256 at a time; each block's shared memory costs 1 KiB more.
        let of_warp = (made.registers * 32).next_multiple_of(256);
        let by_registers = REGISTERS / of_warp / (threads / 32);
        let by_shared = self.shared_bytes / (dynamic + made.static_shared + 1024);
        self.blocks.min(self.threads / threads).min(by_registers).min(by_shared)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_table_is_of_these_sources_and_nothing_spills() {
        super::check().unwrap();
    }
}
