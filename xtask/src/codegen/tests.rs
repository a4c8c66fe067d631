use onekv::plan::variants;

use super::check::{check_bounds, check_tile};
use super::sass::{ADDRESS, Counts};

#[test]
fn more_instructions_than_are_allowed_are_an_error() {
    let variant = variants::all().find(|v| v.kernel() == "onekv_sm90a_bf16_256_128").unwrap();
    let mut counts = Counts::default();
    counts[ADDRESS] = 103;
    check_tile(variant, &counts).unwrap();
    counts[ADDRESS] = 104;
    let error = check_tile(variant, &counts).unwrap_err().to_string();
    assert_eq!(
        error,
        "onekv_sm90a_bf16_256_128 takes 104 instructions a tile of keys (address), allowed: 103"
    );
}

#[test]
fn launch_bounds_without_blocks_are_not_allowed() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, "void __launch_bounds__(256, blocks(DIM)) one() {}\nvoid __launch_bounds__(128) two(int a, int b) {}\n").unwrap();
    let error = check_bounds(file.path()).unwrap_err().to_string();
    assert!(error.ends_with("__launch_bounds__(128) has no number of blocks"), "{error}");
}

#[test]
fn the_table_is_of_these_sources_and_nothing_spills() {
    super::check::check().unwrap();
}
