//! The cards that can be played, from the vendor's data sheets and programming guide.

/// Facts of a card that programs can ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// Name, as `PTXSIM_DEVICE` spells it.
    pub name: &'static str,
    /// Compute capability: major, minor.
    pub compute_capability: (u32, u32),
    /// Number of multiprocessors.
    pub multiprocessors: u32,
    /// Shared bytes a block has without asking.
    pub shared_per_block: u32,
    /// Shared bytes a block can be raised to.
    pub shared_per_block_optin: u32,
    /// Shared bytes of a multiprocessor.
    pub shared_per_multiprocessor: u32,
    /// Threads a multiprocessor holds at once.
    pub threads_per_multiprocessor: u32,
    /// Blocks a multiprocessor holds at once.
    pub blocks_per_multiprocessor: u32,
    /// Bytes of the L2 cache.
    pub l2_bytes: u64,
    /// Bytes of device memory.
    pub memory_bytes: u64,
}

const KIB: u32 = 1024;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

#[rustfmt::skip]
static CARDS: [Card; 6] = [
    Card { name: "a100", compute_capability: (8, 0), multiprocessors: 108,
        shared_per_block: 48 * KIB, shared_per_block_optin: 163 * KIB, shared_per_multiprocessor: 164 * KIB,
        threads_per_multiprocessor: 2048, blocks_per_multiprocessor: 32, l2_bytes: 40 * MIB, memory_bytes: 80 * GIB },
    Card { name: "rtx4090", compute_capability: (8, 9), multiprocessors: 128,
        shared_per_block: 48 * KIB, shared_per_block_optin: 99 * KIB, shared_per_multiprocessor: 100 * KIB,
        threads_per_multiprocessor: 1536, blocks_per_multiprocessor: 24, l2_bytes: 72 * MIB, memory_bytes: 24 * GIB },
    Card { name: "h100", compute_capability: (9, 0), multiprocessors: 132,
        shared_per_block: 48 * KIB, shared_per_block_optin: 227 * KIB, shared_per_multiprocessor: 228 * KIB,
        threads_per_multiprocessor: 2048, blocks_per_multiprocessor: 32, l2_bytes: 50 * MIB, memory_bytes: 80 * GIB },
    Card { name: "h200", compute_capability: (9, 0), multiprocessors: 132,
        shared_per_block: 48 * KIB, shared_per_block_optin: 227 * KIB, shared_per_multiprocessor: 228 * KIB,
        threads_per_multiprocessor: 2048, blocks_per_multiprocessor: 32, l2_bytes: 60 * MIB, memory_bytes: 141 * GIB },
    Card { name: "b200", compute_capability: (10, 0), multiprocessors: 148,
        shared_per_block: 48 * KIB, shared_per_block_optin: 227 * KIB, shared_per_multiprocessor: 228 * KIB,
        threads_per_multiprocessor: 2048, blocks_per_multiprocessor: 32, l2_bytes: 126 * MIB, memory_bytes: 180 * GIB },
    Card { name: "rtx5090", compute_capability: (12, 0), multiprocessors: 170,
        shared_per_block: 48 * KIB, shared_per_block_optin: 99 * KIB, shared_per_multiprocessor: 100 * KIB,
        threads_per_multiprocessor: 1536, blocks_per_multiprocessor: 24, l2_bytes: 96 * MIB, memory_bytes: 32 * GIB },
];

impl Card {
    /// The card of that name.
    pub fn by_name(name: &str) -> Option<&'static Card> {
        CARDS.iter().find(|card| card.name == name)
    }

    /// All names.
    pub fn names() -> Vec<&'static str> {
        CARDS.iter().map(|card| card.name).collect()
    }

    /// Compute capability as ten times its value.
    pub fn architecture(&self) -> u32 {
        self.compute_capability.0 * 10 + self.compute_capability.1
    }
}
