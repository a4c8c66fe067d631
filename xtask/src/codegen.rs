//! `cargo xtask codegen`: what two versions of ptxas made of every kernel on every card, into `cuda/codegen.md`, by
//! tools/codegen/.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use onekv::plan::{Variant, variants};
use serde_json::{Value, json};

use crate::cards::{CARDS, facts};
use crate::run::{command, own_nvcc};
use crate::setup;

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
