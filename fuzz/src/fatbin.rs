//! Containers of images, packed or not.
//!
//! Promised: no panic; memory by the container's size: at most 255 bytes for a byte of LZ4, and for zstd what its
//! blocks say, 128 KiB for four bytes; entries lie in the container.

use ptxsim_driver::fatbin;

/// Bytes of a container: longer ones find nothing more, and every block of zstd may be 128 KiB of memory.
const LONGEST: usize = 4096;

pub fn run(data: &[u8]) {
    let data = &data[..data.len().min(LONGEST)];
    let total = fatbin::total_bytes(data);
    let entries = match fatbin::entries(data) {
        Ok(entries) => entries,
        Err(error) => return assert!(error.to_string().starts_with("fatbin ")),
    };
    assert!(
        total.as_ref().is_ok_and(|total| *total <= data.len()),
        "entries of a container that ends later: {total:?}"
    );
    for entry in &entries {
        match (entry.bytes(), entry.text()) {
            (Ok(bytes), Ok(text)) => assert!(bytes.starts_with(text.as_bytes())),
            (Err(error), Err(again)) => assert_eq!(error, again),
            (Ok(_), Err(error)) => assert_eq!(error, fatbin::FatbinError::Text),
            (Err(error), Ok(_)) => panic!("text of what does not unpack: {error}"),
        }
    }
    for architecture in [0, 80, 90, 120, u32::MAX] {
        let chosen = fatbin::choose(&entries, architecture);
        assert!(
            chosen.is_none_or(|entry| entry.kind == fatbin::Kind::Ptx && entry.architecture <= architecture)
        );
    }
}
