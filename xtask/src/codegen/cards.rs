//! What cards hold.

use anyhow::{Context as _, Result};
use onekv::plan::DeviceFacts;

/// What a multiprocessor of an architecture holds: CUDA C++ Programming Guide, "Compute Capabilities".
pub struct Multiprocessor {
    pub arch: &'static str,
    pub threads: usize,
    blocks: usize,
    shared_bytes: usize,
}

const REGISTERS: usize = 65536;

const fn holds(arch: &'static str, threads: usize, blocks: usize, shared_kib: usize) -> Multiprocessor {
    Multiprocessor { arch, threads, blocks, shared_bytes: shared_kib << 10 }
}

pub const ARCHS: [Multiprocessor; 6] = [
    holds("80", 2048, 32, 164),
    holds("86", 1536, 16, 100),
    holds("89", 1536, 24, 100),
    holds("90", 2048, 32, 228),
    holds("100", 2048, 32, 228),
    holds("120", 1536, 24, 100),
];

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

/// `90` as `9.0`, `90a` as `9.0a`.
pub fn capability(arch: &str) -> String {
    let (major, minor) = arch.split_at(arch.trim_end_matches('a').len() - 1);
    format!("{major}.{minor}")
}

impl Multiprocessor {
    /// Blocks that fit at once.
    pub fn resident(&self, threads: usize, shared_bytes: usize, registers: usize) -> usize {
        // Registers are given out by warp, 256 at a time; each block's shared memory costs 1 KiB more.
        let of_warp = (registers * 32).next_multiple_of(256);
        let by_registers = REGISTERS / of_warp / (threads / 32);
        let by_shared = self.shared_bytes / (shared_bytes + 1024);
        self.blocks.min(self.threads / threads).min(by_registers).min(by_shared)
    }
}
