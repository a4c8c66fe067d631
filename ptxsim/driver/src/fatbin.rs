//! The container in which nvcc packs images for several architectures.
//!
//! ```text
//! header  16 bytes: magic 0xba55ed50 | version u16 | header bytes u16 | bytes of entries u64
//! entry   kind u16 (1 PTX, 2 machine code) | version u16 | header bytes u32 | padded payload bytes u64
//!         | compressed bytes u32 | . u32 | ISA minor u16 | ISA major u16 | architecture u32 | . u64 | flags u64
//!         | . u64 | unpacked bytes u64 | ...
//! ```
//! Flag bits seen in nvcc 13.0's output: 0x2000 LZ4 block, 0x8000 zstd frame, 0x10_0000 an
//! architecture-specific target such as `sm_90a`.

use std::fmt;
use std::io::Read;

/// First word of the container.
pub const MAGIC: u32 = 0xba55_ed50;
/// First word of the wrapper that host objects hold; its third and fourth words point to the container.
pub const WRAPPER_MAGIC: u32 = 0x4662_43b1;
/// Bytes of the container's header.
pub const HEADER_BYTES: usize = 16;
/// Bytes an entry header has at least, up to and with the unpacked size.
const ENTRY_BYTES: usize = 64;
/// No image of sane kernels is larger; a larger claim is a corrupt file.
const UNPACKED_LIMIT: u64 = 1 << 30;

const FLAG_LZ4: u64 = 0x2000;
const FLAG_ZSTD: u64 = 0x8000;
const FLAG_SPECIFIC: u64 = 0x10_0000;

/// What is wrong with a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FatbinError {
    /// The bytes do not begin with the magic number.
    Magic(u32),
    /// A header or payload reaches past the end: what, where, how many bytes there are.
    Truncated(&'static str, usize, usize),
    /// An entry's payload cannot be unpacked.
    Unpack(String),
    /// The PTX of an entry is not text.
    Text,
    /// An unpacked size that no image has.
    Size(u64),
}

impl fmt::Display for FatbinError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic(word) => {
                write!(out, "fatbin magic is {word:#010x}, expected {MAGIC:#010x}")
            }
            Self::Truncated(what, at, have) => {
                write!(out, "fatbin {what} at byte {at} reaches past the end ({have} bytes)")
            }
            Self::Unpack(why) => write!(out, "fatbin entry does not unpack: {why}"),
            Self::Text => write!(out, "fatbin PTX entry is not UTF-8 text"),
            Self::Size(bytes) => {
                write!(out, "fatbin entry claims {bytes} unpacked bytes, allowed are {UNPACKED_LIMIT}")
            }
        }
    }
}

impl std::error::Error for FatbinError {}

/// What an entry holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// PTX text.
    Ptx,
    /// Machine code, which the simulator cannot run.
    Machine,
    /// Something else, by its number.
    Other(u16),
}

/// One image of the container.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    /// What it holds.
    pub kind: Kind,
    /// Architecture as ten times the compute capability: 80, 90.
    pub architecture: u32,
    /// Whether only exactly this architecture can take it (the `a` of `sm_90a`).
    pub specific: bool,
    flags: u64,
    unpacked_bytes: u64,
    payload: &'a [u8],
}

impl Entry<'_> {
    /// The payload, unpacked.
    pub fn bytes(&self) -> Result<Vec<u8>, FatbinError> {
        if self.unpacked_bytes > UNPACKED_LIMIT {
            return Err(FatbinError::Size(self.unpacked_bytes));
        }
        let expected = self.unpacked_bytes as usize;
        let unpacked = if self.flags & FLAG_LZ4 != 0 {
            // A byte of LZ4 stands for 255 at most: more is a corrupt size, for which no memory is taken.
            if expected > self.payload.len().saturating_mul(255) {
                return Err(FatbinError::Size(self.unpacked_bytes));
            }
            lz4_flex::block::decompress(self.payload, expected)
                .map_err(|error| FatbinError::Unpack(error.to_string()))?
        } else if self.flags & FLAG_ZSTD != 0 {
            let decoder = ruzstd::decoding::StreamingDecoder::new(self.payload)
                .map_err(|error| FatbinError::Unpack(error.to_string()))?;
            let mut unpacked = Vec::with_capacity(expected.min(1 << 20));
            decoder
                .take(self.unpacked_bytes + 1)
                .read_to_end(&mut unpacked)
                .map_err(|error| FatbinError::Unpack(error.to_string()))?;
            unpacked
        } else {
            return Ok(self.payload.to_vec());
        };
        if unpacked.len() != expected {
            return Err(FatbinError::Unpack(format!("{} bytes, expected {expected}", unpacked.len())));
        }
        Ok(unpacked)
    }

    /// The payload as PTX text, without the padding behind it.
    pub fn text(&self) -> Result<String, FatbinError> {
        let mut bytes = self.bytes()?;
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        String::from_utf8(bytes).map_err(|_| FatbinError::Text)
    }
}

/// Bytes of the whole container, from its header alone.
pub fn total_bytes(header: &[u8]) -> Result<usize, FatbinError> {
    if header.len() < HEADER_BYTES {
        return Err(FatbinError::Truncated("header", 0, header.len()));
    }
    if u32_at(header, 0) != MAGIC {
        return Err(FatbinError::Magic(u32_at(header, 0)));
    }
    let start = usize::from(u16::from_le_bytes([header[6], header[7]]));
    let entries = u64_at(header, 8);
    if entries > UNPACKED_LIMIT {
        return Err(FatbinError::Size(entries));
    }
    Ok(start.max(HEADER_BYTES) + entries as usize)
}

/// Reads the entries of a container.
pub fn entries(bytes: &[u8]) -> Result<Vec<Entry<'_>>, FatbinError> {
    let end = total_bytes(bytes)?;
    if bytes.len() < end {
        return Err(FatbinError::Truncated("container", end, bytes.len()));
    }
    let mut at = usize::from(u16::from_le_bytes([bytes[6], bytes[7]])).max(HEADER_BYTES);
    let mut found = Vec::new();
    while at < end {
        let header =
            bytes.get(at..at + ENTRY_BYTES).ok_or(FatbinError::Truncated("entry header", at, end))?;
        let header_bytes = u32_at(header, 4) as usize;
        let padded = usize::try_from(u64_at(header, 8)).unwrap_or(usize::MAX);
        let compressed = u32_at(header, 16) as usize;
        let flags = u64_at(header, 40);
        let start = at.saturating_add(header_bytes.max(ENTRY_BYTES));
        let next = start.saturating_add(padded);
        let packed = flags & (FLAG_LZ4 | FLAG_ZSTD) != 0;
        let length = if packed { compressed.min(padded) } else { padded };
        if next > end {
            return Err(FatbinError::Truncated("entry payload", start, end));
        }
        found.push(Entry {
            kind: match u16::from_le_bytes([header[0], header[1]]) {
                1 => Kind::Ptx,
                2 => Kind::Machine,
                other => Kind::Other(other),
            },
            architecture: u32_at(header, 28),
            specific: flags & FLAG_SPECIFIC != 0,
            flags,
            unpacked_bytes: u64_at(header, 56),
            payload: &bytes[start..start + length],
        });
        at = next;
    }
    Ok(found)
}

/// The PTX image that a card of this architecture takes: an architecture-specific one that fits
/// exactly, else the newest that is not newer than the card.
pub fn choose<'a, 'b>(entries: &'a [Entry<'b>], architecture: u32) -> Option<&'a Entry<'b>> {
    entries
        .iter()
        .filter(|entry| entry.kind == Kind::Ptx)
        .filter(|entry| match entry.specific {
            true => entry.architecture == architecture,
            false => entry.architecture <= architecture,
        })
        .max_by_key(|entry| (entry.architecture, entry.specific))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: &[u8] = include_bytes!("../tests/data/scale.plain.fatbin");
    const LZ4: &[u8] = include_bytes!("../tests/data/scale.speed.fatbin");
    const ZSTD_BALANCE: &[u8] = include_bytes!("../tests/data/scale.balance.fatbin");
    const ZSTD_SIZE: &[u8] = include_bytes!("../tests/data/scale.size.fatbin");

    /// Every packing of nvcc gives the same text as the unpacked container.
    #[test]
    fn packed_images_hold_the_same_text() {
        let plain = entries(PLAIN).unwrap();
        assert_eq!(plain.len(), 3);
        for packed in [LZ4, ZSTD_BALANCE, ZSTD_SIZE] {
            let packed = entries(packed).unwrap();
            assert_eq!(packed.len(), 3);
            for (a, b) in plain.iter().zip(&packed) {
                assert_eq!((a.kind, a.architecture, a.specific), (b.kind, b.architecture, b.specific));
                if a.kind == Kind::Ptx {
                    assert_eq!(a.text().unwrap().trim(), b.text().unwrap().trim());
                }
            }
        }
        assert!(plain[0].text().unwrap().contains(".target sm_80"));
        assert!(plain[2].text().unwrap().contains(".target sm_90a"));
    }

    #[test]
    fn the_image_that_fits_the_card_is_taken() {
        let all = entries(PLAIN).unwrap();
        let chosen =
            |architecture| choose(&all, architecture).map(|entry| (entry.architecture, entry.specific));
        assert_eq!(chosen(75), None);
        assert_eq!(chosen(80), Some((80, false)));
        assert_eq!(chosen(89), Some((80, false)));
        assert_eq!(chosen(90), Some((90, true)));
        assert_eq!(chosen(100), Some((80, false)), "an sm_90a image runs on 9.0 alone");
    }

    #[test]
    fn a_container_that_was_cut_is_an_error() {
        for source in [PLAIN, LZ4, ZSTD_BALANCE, ZSTD_SIZE] {
            for length in 0..source.len() {
                assert!(entries(&source[..length]).is_err(), "cut to {length} bytes");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

        /// Damaged anywhere, a container is an error or other text, never a panic.
        #[test]
        fn damage_does_not_panic(
            source in 0..4usize,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..8),
        ) {
            let mut damaged = [PLAIN, LZ4, ZSTD_BALANCE, ZSTD_SIZE][source].to_vec();
            for (at, byte, in_headers) in changes {
                // Headers are small and matter most.
                let end = if in_headers { HEADER_BYTES + 2 * ENTRY_BYTES } else { damaged.len() };
                damaged[at.index(end)] = byte;
            }
            if let Ok(all) = entries(&damaged) {
                all.iter().for_each(|entry| drop(entry.text()));
                drop(choose(&all, 90).map(|entry| entry.text()));
            }
        }
    }
}
