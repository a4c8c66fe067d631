//! `cargo xtask codegen`: what two versions of ptxas made of every kernel on every card, into `cuda/codegen.md`.

mod cards;
mod check;
pub mod sass;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use crate::run::{output, own_nvcc, root};
use crate::setup;
use cards::ARCHS;
pub use cards::facts;
use table::{Made, Table, products_of_tile};
pub use table::{per_tile, read};

/// Compilers that the kernels are held to: that of `cargo xtask setup`, and the newest.
const COMPILERS: [&str; 2] = ["13.0", setup::NEWEST];

/// Machine instructions that say what path a kernel takes: products of warpgroups and of warps, copies by the copy
/// engine, into one block and into all of a cluster. The longer name comes first.
const COUNTED: [&str; 5] = ["HGMMA", "HMMA", ROWS_OUT, MULTICAST, "UTMALDG"];
/// Stores of sixteen bytes to global memory.
const ROWS_OUT: &str = "STG.E.128";
const MULTICAST: &str = "UTMALDG.5D.MULTICAST";
/// Products of warpgroups that end a group, which a wait is for: all of them where ptxas puts one after the other.
const ENDS: &str = "HGMMA at a group's end";
/// Exponentials while products are in flight.
const HIDDEN: &str = "EX2 beside products";
/// Kernels that fetch before they wait.
const PRODUCT: &str = "t5_gemm_sm90a_";
/// Loads of the copy engine that are asked for before the work before has ended.
const EARLY: &str = "UTMALDG before the wait";
/// What Hopper's own kernels are compiled for.
const HOPPER_ARCH: &str = "90a";
/// Folder of the T5 example's: for every card, but for files whose names end with `sm90a`.
const T5: &str = "examples/t5/cuda";
/// Folders whose kernels are in the table, and what they are compiled for: nothing for every card.
const FOLDERS: [(&str, &[&str]); 5] = [
    ("cuda", &[]),
    ("cuda/sm90", &["90", "100"]),
    ("cuda/sm90a", &[HOPPER_ARCH]),
    ("cuda/sm120", &["120"]),
    (T5, &[]),
];
/// Folders with headers.
const HEADERS: [&str; 2] = ["cuda/attention", "cuda/ptx"];

/// Compiles everything and writes the table.
pub fn run() -> Result<()> {
    let first = own_nvcc().context("no CUDA compiler; run `cargo xtask setup`")?;
    let compilers = [first, setup::newest()?];
    let mut versions = Vec::new();
    for (nvcc, wanted) in compilers.iter().zip(COMPILERS) {
        let version = output("ask nvcc for its version", std::process::Command::new(nvcc).arg("--version"))?;
        let line = version.lines().find(|line| line.contains("release")).unwrap_or_default();
        let version = line.rsplit(' ').next().unwrap_or_default();
        if !version.starts_with(&format!("V{wanted}.")) {
            bail!("{} is {version}, wanted: {wanted}; `cargo xtask setup` fetches that", nvcc.display());
        }
        versions.push(version.to_owned());
    }
    let disassembler = setup::disassembler()?;
    let mut jobs: Vec<(usize, PathBuf, &str, &str)> = Vec::new();
    for (folder, archs) in FOLDERS {
        for source in files_of(folder, "cu") {
            let stem = source.file_stem().unwrap_or_default().to_string_lossy();
            let archs = match archs {
                [] if stem.ends_with("sm90a") => vec![HOPPER_ARCH],
                [] => ARCHS.iter().map(|m| m.arch).collect(),
                archs => archs.to_vec(),
            };
            for arch in archs {
                jobs.extend((0..COMPILERS.len()).map(|compiler| (compiler, source.clone(), folder, arch)));
            }
        }
    }
    let bar = indicatif::ProgressBar::new(jobs.len() as u64).with_message("compiling");
    let made: Vec<(usize, Table)> = jobs
        .par_iter()
        .map(|(compiler, source, folder, arch)| {
            let made =
                compile((COMPILERS[*compiler], &compilers[*compiler]), &disassembler, source, folder, arch);
            bar.inc(1);
            Ok((*compiler, made?))
        })
        .collect::<Result<_>>()?;
    bar.finish_and_clear();
    let mut tables = [Table::new(), Table::new()];
    made.into_iter().for_each(|(compiler, made)| tables[compiler].extend(made));
    std::fs::write(table::file(), table::text(&versions, &tables)?)
        .context("cannot write cuda/codegen.md")?;
    println!("wrote cuda/codegen.md");
    check::check()
}

/// Files of a folder, sorted; none where there is no such folder.
fn files_of(folder: &str, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(folder)).into_iter().flatten();
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == extension));
    files.sort();
    files
}

/// All that the kernels are compiled from.
fn sources() -> Vec<PathBuf> {
    let folders = FOLDERS.iter().map(|(folder, _)| folder).chain(&HEADERS);
    let mut files: Vec<PathBuf> = folders
        .flat_map(|folder| ["cu", "cuh", "h"].map(|extension| files_of(folder, extension)).concat())
        .collect();
    files.sort();
    files
}

/// SHA-256 of the names and contents of files, in hexadecimal, shortened.
pub fn digest(files: Vec<PathBuf>) -> Result<String> {
    let mut hasher = Sha256::new();
    for path in files {
        hasher.update(path.strip_prefix(root())?.to_string_lossy().as_bytes());
        hasher.update(std::fs::read(&path)?);
    }
    Ok(hasher.finalize().iter().take(8).fold(String::new(), |hex, byte| hex + &format!("{byte:02x}")))
}

fn compile(
    (version, nvcc): (&str, &Path),
    disassembler: &Path,
    source: &Path,
    folder: &str,
    arch: &'static str,
) -> Result<Table> {
    // As the build scripts have it.
    let made_for = if (folder, arch) == (T5, "90") { HOPPER_ARCH } else { arch };
    let binary = root().join(format!(
        "target/codegen-{version}-{}-{}-{arch}.cubin",
        folder.replace('/', "-"),
        source.file_stem().unwrap_or_default().to_string_lossy()
    ));
    let result = std::process::Command::new(nvcc)
        .args(["-cubin", "-O3", "-std=c++17", "-Xptxas", "-v", "-I"])
        .arg(root().join("cuda"))
        .args(["-gencode", &format!("arch=compute_{made_for},code=sm_{made_for}"), "-o"])
        .arg(&binary)
        .arg(source)
        .output()
        .with_context(|| format!("cannot run {}", nvcc.display()))?;
    let text = String::from_utf8_lossy(&result.stderr);
    if !result.status.success() {
        bail!("nvcc failed on {}:\n{text}", source.display());
    }
    // ptxas tells of products that it puts one after the other (C7510 and their like) as information.
    if let Some(line) = text.lines().find(|line| line.contains("warning") || line.contains("(C75")) {
        bail!("{}: {line}", source.display());
    }
    let mut made = BTreeMap::new();
    let mut name = None;
    let (mut stack, mut spills) = (0, 0);
    for line in text.lines() {
        let number = |what: &str| line[..line.find(what)?].split_whitespace().last()?.parse::<usize>().ok();
        if let Some(start) = line.find("Compiling entry function '") {
            name = line[start..].split('\'').nth(1).map(str::to_owned);
            (stack, spills) = (0, 0);
        } else if line.contains("bytes stack frame") {
            let bytes = |what: &str| number(what).with_context(|| format!("cannot read: {line}"));
            // Of the kernel, and of what it calls.
            stack += bytes(" bytes stack frame")?;
            spills += bytes(" bytes spill stores")? + bytes(" bytes spill loads")?;
        } else if let Some(registers) = number(" registers")
            && let Some(name) = name.take()
        {
            let static_shared = number(" bytes smem").unwrap_or(0);
            let (opcodes, per_tile) = (BTreeMap::new(), None);
            made.insert((name, arch), Made { registers, stack, spills, static_shared, opcodes, per_tile });
        }
    }
    if arch == HOPPER_ARCH || folder != T5 && folder != "cuda" {
        count(disassembler, &binary, arch, &mut made)?;
    }
    std::fs::remove_file(&binary).with_context(|| format!("cannot remove {}", binary.display()))?;
    Ok(made)
}

/// Adds how often the instructions of [`COUNTED`] occur in each kernel, and what a tile of keys takes.
fn count(disassembler: &Path, binary: &Path, arch: &'static str, made: &mut Table) -> Result<()> {
    let result = std::process::Command::new(disassembler)
        .arg("-c")
        .arg(binary)
        .output()
        .with_context(|| format!("cannot run {}", disassembler.display()))?;
    if !result.status.success() {
        bail!("nvdisasm failed on {}: {}", binary.display(), String::from_utf8_lossy(&result.stderr));
    }
    for (name, kernel) in sass::kernels(&String::from_utf8_lossy(&result.stdout))? {
        let Some(made) = made.get_mut(&(name.to_owned(), arch)) else { continue };
        made.opcodes = opcodes(name, &kernel);
        let of_tile = |products| kernel.per_tile(products).with_context(|| format!("{name} for {arch}"));
        made.per_tile = products_of_tile(name).map(of_tile).transpose()?;
    }
    Ok(())
}

fn opcodes(name: &str, kernel: &sass::Kernel<'_>) -> BTreeMap<&'static str, usize> {
    let mut opcodes: BTreeMap<&str, usize> = BTreeMap::new();
    // Between the wait that leaves one group of products in flight and the next.
    let mut in_flight = false;
    for instruction in &kernel.instructions {
        let (opcode, text) = (instruction.opcode, instruction.text);
        if text.contains("DEPBAR.LE gsb0") {
            in_flight = text.contains("0x1");
        }
        if in_flight && opcode == "MUFU.EX2" {
            *opcodes.entry(HIDDEN).or_default() += 1;
        }
        // Of products: other kernels fetch behind their wait, and have another where there is nothing to do.
        if name.starts_with(PRODUCT)
            && opcode.starts_with("ACQBULK")
            && let Some(early) = opcodes.get("UTMALDG").copied()
        {
            opcodes.entry(EARLY).or_insert(early);
        }
        if opcode.starts_with("HGMMA") && text.contains("gsb0") {
            *opcodes.entry(ENDS).or_default() += 1;
        }
        let is = |counted: &&&str| {
            opcode.strip_prefix(**counted).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        if let Some(counted) = COUNTED.iter().find(is) {
            *opcodes.entry(counted).or_default() += 1;
        }
    }
    opcodes
}
