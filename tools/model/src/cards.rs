//! What a multiprocessor holds, by compute capability: CUDA C++ Programming Guide, "Compute Capabilities".

use anyhow::{Context as _, Result};
use onekv::plan::DeviceFacts;
use serde::Serialize;

#[derive(Serialize)]
pub struct Card {
    pub capability: &'static str,
    pub threads: usize,
    pub blocks: usize,
    pub shared_bytes: usize,
}

const fn card(capability: &'static str, threads: usize, blocks: usize, shared_kib: usize) -> Card {
    Card { capability, threads, blocks, shared_bytes: shared_kib << 10 }
}

pub const CARDS: [Card; 6] = [
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
