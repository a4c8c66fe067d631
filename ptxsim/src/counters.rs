//! What a launch did, counted exactly.

use std::collections::BTreeMap;

use crate::ir::{Class, Code};

/// Counts of one launch. Exact, and the same in every run of a deterministic kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Kernel.
    pub kernel: String,
    /// Instructions, once per thread that ran them.
    pub thread_instructions: u64,
    /// Instructions, once per warp.
    pub warp_instructions: u64,
    /// Thread instructions of each class.
    pub by_class: BTreeMap<Class, u64>,
    /// Bytes read from global memory by ordinary loads, `cp.async`, bulk and tensor copies: what lies in bounds,
    /// once for each copy, multicast ones too. Atomics and reductions count in neither direction.
    pub global_load_bytes: u64,
    /// Bytes written to global memory by ordinary stores, bulk and tensor copies.
    pub global_store_bytes: u64,
    /// 32-byte sectors of those loads, once per warp instruction, or per copy.
    pub global_load_sectors: u64,
    /// 32-byte sectors of those stores.
    pub global_store_sectors: u64,
    /// Different bytes of global memory that were read or written in any way.
    pub distinct_bytes: u64,
    /// Passes over the banks that shared-memory instructions took.
    pub shared_wavefronts: u64,
    /// Of these, more than the access's width needs.
    pub bank_conflicts: u64,
    /// The conflicts by PTX line.
    pub bank_conflicts_by_line: BTreeMap<u32, u64>,
    /// Multiplications and additions of matrix instructions.
    pub tensor_flops: u64,
    /// Arrivals of warps at barriers (`bar`, `barrier`).
    pub barriers: u64,
    /// Bytes that `cp.async`, bulk and tensor copies put into shared memory (fill too, and once for each block
    /// of a multicast), or took from it.
    pub async_copy_bytes: u64,
}

/// Counts of one host thread, by instruction.
pub(crate) struct Tally {
    /// Warp and thread instructions.
    pub executed: Vec<(u64, u64)>,
    pub conflicts: Vec<u64>,
    pub total: Counters,
}

impl Tally {
    pub fn new(code: &Code) -> Self {
        let n = code.instructions.len();
        Self { executed: vec![(0, 0); n], conflicts: vec![0; n], total: Counters::default() }
    }

    /// Adds up the tallies of all host threads; the counts of warps by instruction beside.
    pub fn sum(code: &Code, tallies: Vec<Tally>) -> (Counters, Vec<u64>) {
        let mut sum = Counters { kernel: code.name.clone(), ..Counters::default() };
        let mut executed = vec![0; code.instructions.len()];
        for tally in tallies {
            let part = tally.total;
            sum.global_load_bytes += part.global_load_bytes;
            sum.global_store_bytes += part.global_store_bytes;
            sum.global_load_sectors += part.global_load_sectors;
            sum.global_store_sectors += part.global_store_sectors;
            sum.distinct_bytes += part.distinct_bytes;
            sum.shared_wavefronts += part.shared_wavefronts;
            sum.tensor_flops += part.tensor_flops;
            sum.barriers += part.barriers;
            sum.async_copy_bytes += part.async_copy_bytes;
            let counts = tally.executed.iter().zip(&tally.conflicts);
            let each = code.instructions.iter().zip(&mut executed).zip(counts);
            for ((instruction, all), ((warps, threads), conflicts)) in each {
                *all += warps;
                sum.warp_instructions += warps;
                sum.thread_instructions += threads;
                if *threads > 0 {
                    *sum.by_class.entry(instruction.class).or_default() += threads;
                }
                if *conflicts > 0 {
                    sum.bank_conflicts += conflicts;
                    *sum.bank_conflicts_by_line.entry(instruction.line).or_default() += conflicts;
                }
            }
        }
        (sum, executed)
    }
}

/// 32-byte sectors that accesses of `bytes` at these addresses touch.
pub(crate) fn sectors(addresses: impl Iterator<Item = u64>, bytes: u64) -> u64 {
    let mut seen = [0; 64];
    let (mut count, mut most) = (0, 0);
    for address in addresses {
        for sector in address / 32..=(address + bytes - 1) / 32 {
            // Neighbouring threads mostly share the latest one, or go on to the next.
            let known =
                |seen: &[u64]| seen.last() == Some(&sector) || sector <= most && seen.contains(&sector);
            if count < seen.len() && !known(&seen[..count]) {
                seen[count] = sector;
                count += 1;
                most = most.max(sector);
            }
        }
    }
    count as u64
}

/// As [`sectors`], of a warp's lanes whose accesses lie in one sector each.
#[inline]
pub(crate) fn sectors_of_lanes(addresses: &[u64; 32], exec: u32) -> u64 {
    // Most warps go on through memory: without a branch for each lane.
    let steps =
        addresses.iter().zip(&addresses[1..]).map(|(a, b)| (a / 32 <= b / 32, u64::from(a / 32 != b / 32)));
    let (ascend, count) = steps.fold((true, 1), |(ascend, count), (up, step)| (ascend & up, count + step));
    if exec == u32::MAX && ascend {
        return count;
    }
    let lanes = addresses.iter().enumerate().filter(|(lane, _)| exec >> lane & 1 == 1);
    sectors(lanes.map(|(_, address)| *address), 1)
}

/// Wavefronts of a shared-memory access by the lanes of `mask`, and how many more than its width needs. A pass serves
/// 32 banks of 4 bytes: all threads at once, halves of the warp for 8 bytes each, quarters for 16.
pub(crate) fn wavefronts(offsets: &[u32; 32], mask: u32, bytes: u32) -> (u64, u64) {
    // Aligned accesses of one size: each takes as many banks, whose words all differ where one does.
    let bytes = bytes.next_power_of_two().clamp(4, 128);
    let threads_per_pass = (128 / bytes) as usize;
    let (mut total, mut needed) = (0, 0);
    for (group, offsets) in offsets.chunks(threads_per_pass).enumerate() {
        let passes = passes(offsets, mask >> (group * threads_per_pass), bytes);
        total += passes;
        needed += passes.min(1);
    }
    (total, total - needed)
}

/// The most different places that the lanes of `mask` ask of one bank, or of one row of banks.
fn passes(offsets: &[u32], mask: u32, bytes: u32) -> u64 {
    let bank_of = |place: u32| place & (128 / bytes - 1);
    // Banks asked, the first place asked of each, and those that differ from it.
    let (mut asked, mut first) = (0u32, [0; 32]);
    let mut more: Vec<u32> = Vec::new();
    for (_, offset) in offsets.iter().enumerate().filter(|(lane, _)| mask >> lane & 1 == 1) {
        let place = offset >> bytes.trailing_zeros();
        let held = &mut first[bank_of(place) as usize];
        if asked >> bank_of(place) & 1 == 0 {
            asked |= 1 << bank_of(place);
            *held = place;
        } else if *held != place && !more.contains(&place) {
            more.push(place);
        }
    }
    if more.is_empty() {
        return u64::from(asked != 0);
    }
    let mut depth = [1; 32];
    more.iter().for_each(|place| depth[bank_of(*place) as usize] += 1);
    depth.into_iter().max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(f: impl Fn(u32) -> u32) -> [u32; 32] {
        std::array::from_fn(|lane| f(lane as u32))
    }

    #[test]
    fn conflicts_of_known_patterns() {
        assert_eq!(wavefronts(&lanes(|l| 4 * l), u32::MAX, 4), (1, 0), "a row");
        assert_eq!(wavefronts(&lanes(|_| 64), u32::MAX, 4), (1, 0), "a broadcast");
        assert_eq!(wavefronts(&lanes(|l| 8 * l), u32::MAX, 4), (2, 1), "every second word");
        assert_eq!(wavefronts(&lanes(|l| 128 * l), u32::MAX, 4), (32, 31), "a column of 32 words");
        assert_eq!(wavefronts(&lanes(|l| 16 * l), u32::MAX, 16), (4, 0), "16 bytes each, in a row");
        assert_eq!(wavefronts(&lanes(|l| 128 * l), u32::MAX, 16), (32, 28), "16 bytes each, in a column");
        assert_eq!(wavefronts(&lanes(|l| 2 * l), u32::MAX, 2), (1, 0), "half words");
        assert_eq!(wavefronts(&lanes(|l| 128 * l), 0x8000_0101, 4), (3, 2), "three lanes of a column");
        assert_eq!(wavefronts(&lanes(|l| 128 * l), 0, 4), (0, 0), "nobody");
    }

    #[test]
    fn sectors_of_known_patterns() {
        assert_eq!(sectors((0..32).map(|l| 4 * l), 4), 4);
        assert_eq!(sectors((0..32).map(|l| 16 * l), 16), 16);
        assert_eq!(sectors((0..32).map(|l| 1024 * l), 4), 32);
        assert_eq!(sectors((0..32).map(|l| 4 + 4 * l), 4), 5);
        assert_eq!(sectors((0..32).map(|l| 64 * (l ^ 5) % 1024), 4), 16, "in no order, each twice");
        assert_eq!(sectors(std::iter::repeat_n(64, 32), 4), 1);
        for mask in [u32::MAX, 0xffff, 0x8000_0001] {
            for of_lane in [
                |l| 4 * l,
                |l| 16 * (l / 2),
                |l| 1024 * l,
                |l| 16 * (31 - l),
                |l| 64 * (l ^ 5) % 1024,
                |_| 96,
            ] {
                let addresses = std::array::from_fn(|lane| of_lane(lane as u64));
                let lanes = (0..32).filter(|lane| mask >> lane & 1 == 1).map(of_lane);
                assert_eq!(
                    sectors_of_lanes(&addresses, mask),
                    sectors(lanes, 4),
                    "{addresses:?} by {mask:x}"
                );
            }
        }
    }
}
