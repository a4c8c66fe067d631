//! `cargo xtask codegen`: what two versions of ptxas made of every kernel on every card, into `cuda/codegen.md`, by
//! tools/codegen/; and what others read of it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use onekv::plan::{DeviceFacts, Variant, variants};
use serde::Serialize;
use serde_json::{Value, json};

use crate::run::{command, own_nvcc, root};
use crate::setup;

/// Instructions of a kind, in the order of the last table of cuda/codegen.md: how it begins, and where they are in it.
pub type Counts = [usize; 8];
const COLUMNS: &str = "| kernel | for | in flight, KiB | address | products | exponentials | FP32 |";

pub const ADDRESS: usize = 0;
pub const EXPONENTIALS: usize = 2;
pub const FP32: usize = 3;

/// What a multiprocessor holds: CUDA C++ Programming Guide, "Compute Capabilities".
#[derive(Serialize)]
struct Card {
    capability: &'static str,
    threads: usize,
    blocks: usize,
    shared_bytes: usize,
}

const fn card(capability: &'static str, threads: usize, blocks: usize, shared_kib: usize) -> Card {
    Card { capability, threads, blocks, shared_bytes: shared_kib << 10 }
}

const CARDS: [Card; 6] = [
    card("8.0", 2048, 32, 164),
    card("8.6", 1536, 16, 100),
    card("8.9", 1536, 24, 100),
    card("9.0", 2048, 32, 228),
    card("10.0", 2048, 32, 228),
    card("12.0", 1536, 24, 100),
];

/// What the plan needs to know of a card, from what a results file says of it.
pub fn facts(compute_capability: &str, multiprocessors: usize) -> Result<DeviceFacts> {
    let known = CARDS.iter().find(|card| card.capability == compute_capability).with_context(|| {
        let known = CARDS.map(|card| card.capability).join(", ");
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

/// Compiles everything, writes the table and checks it.
pub fn run() -> Result<()> {
    let first = own_nvcc().context("no CUDA compiler; run `cargo xtask setup`")?;
    let compilers = [first, setup::newest()?].map(|nvcc| nvcc.to_string_lossy().into_owned());
    let disassembler = setup::disassembler()?.to_string_lossy().into_owned();
    script("run.py", &["--nvdisasm", &disassembler, "--nvcc", &compilers[0], &compilers[1]])
}

/// Runs a script of tools/codegen/, which reads what it must know of compilers, cards and kernels.
fn script(name: &str, arguments: &[&str]) -> Result<()> {
    let mut script = command("python3", &["-B", &format!("tools/codegen/{name}")]);
    script.args(arguments).stdin(Stdio::piped());
    let mut script = script.spawn().context("cannot run python3; is it installed?")?;
    let known = json!({
        "compilers": [setup::VERSION, setup::NEWEST],
        "cards": CARDS,
        "variants": variants::all().map(described).collect::<Result<Vec<_>>>()?,
    });
    script.stdin.take().context("no pipe")?.write_all(known.to_string().as_bytes())?;
    let status = script.wait()?;
    if !status.success() {
        bail!("tools/codegen/{name} ended with {status}");
    }
    Ok(())
}

fn described(v: &Variant) -> Result<Value> {
    // Blocks that the plan counts on, by card.
    let mut resident = BTreeMap::new();
    for card in &CARDS {
        let facts = facts(card.capability, 1)?;
        if v.fits(&facts) {
            resident.insert(card.capability, v.resident(&facts));
        }
    }
    Ok(json!({
        "kernel": v.kernel(), "architecture": v.architecture.to_string(), "kv_bytes": v.kv_bytes,
        "head_dim": v.head_dim, "tile_rows": v.tile_rows, "cluster": v.cluster, "tile_keys": v.tile_keys,
        "key_warps": v.key_warps, "threads": v.threads, "stages": v.stages,
        "shared_bytes": v.shared_bytes, "warpgroups": v.warpgroups, "resident": resident,
    }))
}

/// The last table of cuda/codegen.md: instructions of a tile of keys.
pub fn tiles() -> Result<String> {
    let text = std::fs::read_to_string(root().join("cuda/codegen.md"));
    let text = text.context("cannot read cuda/codegen.md")?;
    let (_, tiles) = text.split_once(COLUMNS).with_context(|| format!("cuda/codegen.md has no {COLUMNS}"))?;
    Ok(tiles.to_owned())
}

/// The most instructions of each kind that either compiler made of a tile: those of the card that is named, where there is
/// such a row, else of the first. `None` of a kernel without.
pub fn per_tile(tiles: &str, kernel: &str, capability: &str) -> Result<Option<Counts>> {
    let row = |start: String| tiles.lines().find(|line| line.starts_with(&start));
    let row = row(format!("| {kernel} | {capability} |")).or_else(|| row(format!("| {kernel} |")));
    let Some(row) = row else { return Ok(None) };
    let most = |cell: &str| {
        let counts: Option<Vec<usize>> = cell.split('/').map(|count| count.trim().parse().ok()).collect();
        counts?.into_iter().max()
    };
    // Behind the kernel, its card and what is in flight.
    let mut cells = row.split('|').skip(4).map(most);
    let mut counts = Counts::default();
    for count in &mut counts {
        *count = cells.next().flatten().with_context(|| format!("cuda/codegen.md: cannot read {row}"))?;
    }
    Ok(Some(counts))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Registers, spills, blocks, machine code: nothing is compiled.
    #[test]
    fn the_table_is_of_these_sources_and_nothing_spills() {
        script("run.py", &[]).unwrap();
    }

    /// Machine code is read, and what is wrong in the table is an error.
    #[test]
    fn its_own_tests_pass() {
        script("test_codegen.py", &[]).unwrap();
    }
}
