//! `cargo xtask codegen`: what two versions of ptxas made of every kernel on every card, into `cuda/codegen.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use onekv::plan::{Architecture, DeviceFacts, Variant, variants};
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use crate::run::{output, own_nvcc, root};
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

/// Compilers that the kernels are held to: that of `cargo xtask setup`, and the newest.
const COMPILERS: [&str; 2] = ["13.0", setup::NEWEST];

/// One kernel on one architecture, by one compiler.
struct Made {
    registers: usize,
    stack: usize,
    spills: usize,
    static_shared: usize,
    /// Instructions by opcode, of those in [`COUNTED`].
    opcodes: BTreeMap<&'static str, usize>,
}

/// Machine instructions that say what path a kernel takes: products of warpgroups and of warps, copies by the copy
/// engine, into one block and into all of a cluster. The longer name comes first.
const COUNTED: [&str; 4] = ["HGMMA", "HMMA", MULTICAST, "UTMALDG"];
const MULTICAST: &str = "UTMALDG.5D.MULTICAST";
/// Products of warpgroups that end a group, which a wait is for: all of them where ptxas puts one after the other.
const ENDS: &str = "HGMMA at a group's end";
/// Exponentials while products are in flight.
const HIDDEN: &str = "EX2 beside products";
/// Kernels that fetch before they wait.
const PRODUCT: &str = "t5_gemm_sm90_";
/// Loads of the copy engine that are asked for before the work before has ended.
const EARLY: &str = "UTMALDG before the wait";
/// What Hopper's own kernels are compiled for.
const HOPPER_ARCH: &str = "90a";
/// Folder of Hopper's kernels, compiled for 9.0a alone. Elsewhere the names of such files end with `sm90`.
const HOPPER: &str = "cuda/sm90";
/// Folder of the T5 example's.
const T5: &str = "examples/t5/cuda";
/// Folders whose kernels are in the table.
const FOLDERS: [&str; 3] = ["cuda", HOPPER, T5];
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
    for folder in FOLDERS {
        for source in files_of(folder, "cu") {
            let stem = source.file_stem().unwrap_or_default().to_string_lossy();
            let archs = match folder == HOPPER || stem.ends_with("sm90") {
                true => vec![HOPPER_ARCH],
                false => ARCHS.iter().map(|m| m.arch).collect(),
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
    std::fs::write(file(), text(&versions, &tables)?).context("cannot write cuda/codegen.md")?;
    println!("wrote cuda/codegen.md");
    check()
}

/// The table is of today's sources and compilers, no kernel spills, and each is what it is meant to be.
pub fn check() -> Result<()> {
    let text = std::fs::read_to_string(file()).context("cannot read cuda/codegen.md")?;
    if !text.contains(&format!("Sources: `{}`", digest()?)) {
        bail!("cuda/codegen.md is of other sources than there are now; run `cargo xtask codegen`");
    }
    if let Some(version) = COMPILERS.iter().find(|version| !text.contains(&format!(" V{version}."))) {
        bail!("cuda/codegen.md has nothing of nvcc {version}; run `cargo xtask codegen`");
    }
    if let Some(line) = text.lines().find(|line| line.contains("spills") && line.starts_with('|')) {
        bail!("cuda/codegen.md has a kernel that spills registers or has a stack frame: {line}");
    }
    for variant in variants::all() {
        let row = row(&text, &variant.kernel())?;
        match variant.architecture {
            Architecture::Sm80 => {
                for (m, cell) in ARCHS.iter().zip(&row[OF_ARCHS..]) {
                    check_resident(variant, m, cell)?;
                }
            }
            Architecture::Sm90a => {
                check_resident(variant, hopper()?, row[OF_ARCHS])?;
                for code in row[MACHINE_CODE].split(OR) {
                    check_machine_code(variant, code)?;
                }
            }
        }
    }
    for name in text.lines().filter_map(|line| line.strip_prefix("| ")?.split(' ').next()) {
        if name.starts_with(PRODUCT) {
            let row = row(&text, name)?;
            row[MACHINE_CODE].split(OR).try_for_each(|code| check_product(name, code))?;
            // As `GemmShape` in examples/t5/cuda/gemm_sm90.cu has it: a block begins beside those of the product before.
            let beside = if name.ends_with("_256") { 1 } else { 2 };
            if blocks(row[OF_ARCHS])? < beside {
                bail!("{name} is meant to have {beside} blocks on a multiprocessor: {}", row[OF_ARCHS]);
            }
        }
    }
    Ok(())
}

/// Columns of a row: the first of registers and blocks, and what machine code is counted in.
const OF_ARCHS: usize = 3;
const MACHINE_CODE: usize = 4;
/// Between what the compilers made, where it differs.
const OR: &str = " / ";

/// A kernel's row.
fn row<'t>(text: &'t str, kernel: &str) -> Result<Vec<&'t str>> {
    let line = text.lines().find(|line| line.starts_with(&format!("| {kernel} |")));
    let line = line.with_context(|| format!("cuda/codegen.md has no {kernel}"))?;
    let row: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
    if row.len() <= MACHINE_CODE {
        bail!("cuda/codegen.md has a row that is too short: {line}");
    }
    Ok(row)
}

/// The fewest blocks of `registers, blocks` by either compiler.
fn blocks(cell: &str) -> Result<usize> {
    let blocks = cell.split(OR).map(|made| made.split(", ").nth(1)?.parse::<usize>().ok());
    blocks.min().flatten().with_context(|| format!("cuda/codegen.md: cannot read `{cell}`"))
}

/// As many blocks fit on a multiprocessor as the plan counts on.
fn check_resident(variant: &Variant, m: &Multiprocessor, cell: &str) -> Result<()> {
    let (capability, facts) = (capability(m.arch), facts(&capability(m.arch), 1)?);
    let (found, wanted) = (blocks(cell)?, variant.resident(&facts));
    if variant.shared_bytes <= facts.shared_bytes_per_block && found < wanted {
        let kernel = variant.kernel();
        bail!(
            "{kernel} on {capability}: the plan counts on {wanted} blocks of a multiprocessor, found: {cell}"
        );
    }
    Ok(())
}

/// A kernel of Hopper's uses what it is there for.
fn check_machine_code(variant: &Variant, code: &str) -> Result<()> {
    let kernel = variant.kernel();
    let products = if variant.warpgroups { "HGMMA" } else { "HMMA" };
    let copies = if variant.cluster > 1 { MULTICAST } else { "UTMALDG" };
    // The exponentials of a thread's scores: those that a softcap adds stand behind a branch.
    if variant.warpgroups && count(code, HIDDEN) != Some(variant.tile_keys + 2) {
        bail!("the exponentials of {kernel} do not run beside its products: {code}");
    }
    for meant in [products, copies] {
        if count(code, meant).is_none() {
            bail!("the machine code of {kernel} has no {meant}: {code}");
        }
    }
    check_groups(&kernel, code)
}

/// Products of a group are in flight together.
fn check_groups(kernel: &str, code: &str) -> Result<()> {
    if count(code, "HGMMA").is_some() && count(code, ENDS) >= count(code, "HGMMA") {
        bail!("the products of {kernel} wait for each other: {code}");
    }
    Ok(())
}

/// What the wait for the work before is there to hide: copies that all come before some wait may all come behind
/// another.
fn check_product(name: &str, code: &str) -> Result<()> {
    if count(code, EARLY).is_none() || count(code, EARLY) >= count(code, "UTMALDG") {
        bail!("{name} waits before it fetches weights: {code}");
    }
    if count(code, "HGMMA").is_none() {
        bail!("the machine code of {name} has no HGMMA: {code}");
    }
    check_groups(name, code)
}

/// How often `opcode` occurs, of what [`Made::code`] wrote.
fn count(code: &str, opcode: &str) -> Option<usize> {
    code.split(", ").find_map(|item| item.strip_suffix(opcode)?.trim_end().parse().ok())
}

fn file() -> PathBuf {
    root().join("cuda/codegen.md")
}

/// Files of a folder, sorted; none where there is no such folder.
fn files_of(folder: &str, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(folder)).into_iter().flatten();
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == extension));
    files.sort();
    files
}

/// SHA-256 of the names and contents of all that the kernels are compiled from.
fn digest() -> Result<String> {
    let folders = FOLDERS.iter().chain(&HEADERS);
    let mut files: Vec<PathBuf> = folders
        .flat_map(|folder| ["cu", "cuh", "h"].map(|extension| files_of(folder, extension)).concat())
        .collect();
    files.sort();
    let mut hasher = Sha256::new();
    for path in files {
        hasher.update(path.strip_prefix(root())?.to_string_lossy().as_bytes());
        hasher.update(std::fs::read(&path)?);
    }
    Ok(hasher.finalize().iter().take(8).fold(String::new(), |hex, byte| hex + &format!("{byte:02x}")))
}

/// By name and architecture.
type Table = BTreeMap<(String, &'static str), Made>;

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
            let opcodes = BTreeMap::new();
            made.insert((name, arch), Made { registers, stack, spills, static_shared, opcodes });
        }
    }
    if arch == HOPPER_ARCH {
        count_opcodes(disassembler, &binary, &mut made)?;
    }
    std::fs::remove_file(&binary).with_context(|| format!("cannot remove {}", binary.display()))?;
    Ok(made)
}

/// Adds how often the instructions of [`COUNTED`] occur in each kernel.
fn count_opcodes(disassembler: &Path, binary: &Path, made: &mut Table) -> Result<()> {
    let result = std::process::Command::new(disassembler)
        .arg("-c")
        .arg(binary)
        .output()
        .with_context(|| format!("cannot run {}", disassembler.display()))?;
    if !result.status.success() {
        bail!("nvdisasm failed on {}: {}", binary.display(), String::from_utf8_lossy(&result.stderr));
    }
    let mut kernel = String::new();
    // Between the wait that leaves one group of products in flight and the next.
    let mut in_flight = false;
    for line in String::from_utf8_lossy(&result.stdout).lines() {
        if let Some(name) = line.strip_prefix(".text.") {
            kernel = name.trim_end_matches(':').to_owned();
        }
        if line.contains("DEPBAR.LE gsb0") {
            in_flight = line.contains("0x1");
        }
        if in_flight
            && line.contains("MUFU.EX2")
            && let Some(made) = made.get_mut(&(kernel.clone(), HOPPER_ARCH))
        {
            *made.opcodes.entry(HIDDEN).or_default() += 1;
        }
        // Of products: other kernels fetch behind their wait, and have another where there is nothing to do.
        if kernel.starts_with(PRODUCT)
            && line.contains("ACQBULK")
            && let Some(made) = made.get_mut(&(kernel.clone(), HOPPER_ARCH))
            && let Some(early) = made.opcodes.get("UTMALDG").copied()
        {
            made.opcodes.entry(EARLY).or_insert(early);
        }
        if line.contains("HGMMA")
            && line.contains("gsb0")
            && let Some(made) = made.get_mut(&(kernel.clone(), HOPPER_ARCH))
        {
            *made.opcodes.entry(ENDS).or_default() += 1;
        }
        let opcode = COUNTED.iter().find(|opcode| {
            line.split_whitespace().any(|word| word == **opcode || word.starts_with(&format!("{opcode}.")))
        });
        if let Some(opcode) = opcode
            && let Some(made) = made.get_mut(&(kernel.clone(), HOPPER_ARCH))
        {
            *made.opcodes.entry(opcode).or_default() += 1;
        }
    }
    Ok(())
}

fn text(versions: &[String], tables: &[Table; 2]) -> Result<String> {
    let mut text = String::from(
        "# What ptxas made of the kernels\n\n\
         Generated by `cargo xtask codegen`. Per architecture: registers of a thread, and blocks that a multiprocessor\n\
         holds at once; two pairs where the compilers differ, the older one's first. A stack frame, spilled registers or\n\
         fewer blocks than the plan counts on fail a test.\n\n",
    );
    writeln!(text, "Sources: `{}`. Compilers: nvcc {}.", digest()?, versions.join(" and "))?;
    let archs: Vec<String> = ARCHS.iter().map(|m| capability(m.arch)).collect();
    writeln!(text, "\n| kernel | threads | shared memory, KiB | {} |", archs.join(" | "))?;
    writeln!(text, "| --- | --- | --- |{}", " --- |".repeat(ARCHS.len()))?;
    // Of both compilers, what `of` says of a kernel.
    let both = |name: &str, arch: &'static str, of: &dyn Fn(&Made) -> String| {
        let made =
            tables.each_ref().map(|table| table.get(&(name.to_owned(), arch)).map_or("none".to_owned(), of));
        if made[0] == made[1] { made[0].clone() } else { made.join(OR) }
    };
    let names = |hoppers: bool| -> BTreeSet<&String> {
        let all = tables.iter().flat_map(Table::keys);
        all.filter(|(_, arch)| (*arch == HOPPER_ARCH) == hoppers).map(|(name, _)| name).collect()
    };
    for name in names(false) {
        let (threads, dynamic) = block(name);
        write!(text, "| {name} | {threads} | {} |", dynamic.div_ceil(1024))?;
        for m in &ARCHS {
            write!(text, " {} |", both(name, m.arch, &|made| made.summary(m, threads, dynamic)))?;
        }
        text.push('\n');
    }
    text.push_str(
        "\n## Hopper's own (9.0a)\n\n\
         Products of warpgroups are HGMMA, those at a group's end as many as there are waits, and those of warps HMMA;\n\
         UTMALDG is the copy engine, with MULTICAST into both blocks of a cluster, `before the wait` for the launches\n\
         before. `setmaxnreg` moves registers from the producer to the consumers later; these are the kernel's own.\n\n\
         | kernel | threads | shared memory, KiB | registers, blocks | machine code |\n\
         | --- | --- | --- | --- | --- |\n",
    );
    let hopper = hopper()?;
    for name in names(true) {
        let (threads, dynamic) = block(name);
        let summary = both(name, HOPPER_ARCH, &|made| made.summary(hopper, threads, dynamic));
        let (shared, code) = (dynamic.div_ceil(1024), both(name, HOPPER_ARCH, &Made::code));
        writeln!(text, "| {name} | {threads} | {shared} | {summary} | {code} |")?;
    }
    Ok(text)
}

/// Threads and dynamic shared memory of a kernel's block.
fn block(kernel: &str) -> (usize, usize) {
    // Of T5, by name; `GemmShape` of examples/t5/cuda/gemm_sm90.cu.
    let plain = || match kernel {
        "t5_choose" => 1024,
        _ if ["t5_attend_", "t5_gemm_bf16", "t5_gemm_f16", "onekv"].iter().any(|n| kernel.starts_with(n)) => {
            128
        }
        _ => 256,
    };
    let of_gemm = || match kernel.strip_prefix(PRODUCT)?.split('_').next_back()? {
        "64" => Some((160, 4 * (24 << 10) + 64)),
        "128" => Some((288, 3 * (32 << 10) + 48)),
        _ => Some((544, 4 * (48 << 10) + 64)),
    };
    // `attend_tensor` of examples/t5/cuda/encode.cu.
    let of_encoder = || match kernel.strip_prefix("t5_attend_encoder_")?.split_once('_')? {
        ("f32", _) => None,
        (_, "64") => Some((128, 5 * (8 << 10) + 1024)),
        _ => Some((128, 16 * 1024 + 4 * (8 << 10) + 768)),
    };
    variants::all()
        .find(|v| v.kernel() == kernel)
        .map(|v| (v.threads, v.shared_bytes))
        .or_else(of_gemm)
        .or_else(of_encoder)
        .unwrap_or_else(|| (plain(), 0))
}

impl Made {
    fn code(&self) -> String {
        let counted: Vec<String> =
            self.opcodes.iter().map(|(code, count)| format!("{count} {code}")).collect();
        counted.join(", ")
    }

    fn summary(&self, m: &Multiprocessor, threads: usize, dynamic: usize) -> String {
        let mut text = format!("{}, {}", self.registers, m.resident(threads, dynamic, self));
        if self.stack + self.spills > 0 {
            text += &format!(", **spills {} B, stack {} B**", self.spills, self.stack);
        }
        text
    }
}

/// What the plan needs to know of a card, from what a results file says of it.
pub fn facts(compute_capability: &str, multiprocessors: usize) -> Result<DeviceFacts> {
    let known = ARCHS.iter().find(|m| capability(m.arch) == compute_capability).with_context(|| {
        let known = ARCHS.map(|m| capability(m.arch)).join(", ");
        format!("compute_capability is {compute_capability}, allowed: {known}")
    })?;
    let (major, minor) = compute_capability.split_once('.').context("compute_capability without a point")?;
    Ok(DeviceFacts {
        compute_capability: (major.parse()?, minor.parse()?),
        multiprocessors,
        // The hardware keeps 1 KiB per block.
        shared_bytes_per_block: known.shared_bytes - 1024,
        shared_bytes_per_multiprocessor: known.shared_bytes,
        threads_per_multiprocessor: known.threads,
    })
}

/// `90` as `9.0`.
fn capability(arch: &str) -> String {
    let (major, minor) = arch.split_at(arch.len() - 1);
    format!("{major}.{minor}")
}

/// What Hopper's multiprocessor holds.
fn hopper() -> Result<&'static Multiprocessor> {
    ARCHS.iter().find(|m| m.arch == "90").context("no table of what Hopper holds")
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
