//! Pieces of real machine code, of nvcc 13.0, thinned out: products, waits, branches and fetches are all there, of the rest some.

use super::{Counts, kernels};

/// `mma.sync`: a softcap, a mask and a fetch stand behind branches, a second wait behind the loop.
const WARPS: &str = include_str!("tests/warps.sass");
/// `wgmma`: the first tile's scores and the last one's values are peeled off.
const WARPGROUPS: &str = include_str!("tests/warpgroups.sass");
/// T5's product: two steps in one pass, with a way out between them.
const TWO_STEPS: &str = include_str!("tests/two_steps.sass");

/// Products of a tile of 32 keys and of 128, of head_dim 64; of a step in k.
const OF_WARP: usize = 2 * 16 * 32 * 64;
const OF_WARPGROUP: usize = 2 * 64 * 128 * 64;
const OF_STEP: usize = 64 * 128 * 64;

fn per_tile(text: &str, products: usize) -> Result<Counts, String> {
    let kernels = kernels(text).map_err(|e| format!("{e:#}"))?;
    let kernel = kernels.into_values().next().ok_or("no kernel")?;
    kernel.per_tile(products).map_err(|e| format!("{e:#}"))
}

#[test]
fn a_warps_loop_with_its_fetch_and_without_softcap_mask_and_second_wait() {
    assert_eq!(per_tile(WARPS, OF_WARP).unwrap(), [6, 32, 1, 4, 0, 4, 13, 2]);
}

#[test]
fn a_loop_whose_first_and_last_tiles_are_peeled_off() {
    assert_eq!(per_tile(WARPGROUPS, OF_WARPGROUP).unwrap(), [3, 12, 0, 5, 0, 7, 4, 0]);
}

#[test]
fn two_tiles_in_one_pass_count_as_two() {
    assert_eq!(per_tile(TWO_STEPS, OF_STEP).unwrap(), [7, 4, 0, 0, 0, 4, 2, 0]);
}

#[test]
fn a_loop_that_is_entered_in_its_middle() {
    let (name, rest) = WARPS.split_once('\n').unwrap();
    let entered = format!("{name}\n  /*0000*/  @P0 BRA `(.L_x_310) ;\n{rest}");
    assert_eq!(per_tile(&entered, OF_WARP), per_tile(WARPS, OF_WARP));
}

#[test]
fn a_loop_in_a_loop_counts_and_what_is_around_it_does_not() {
    // As of a grid whose blocks go on to the next tile of rows.
    let around = WARPS.replace(
        "  /*5950*/  EXIT ;",
        "  /*5950*/  FADD R1, R1, R1 ;\n  /*5960*/  @P4 BRA `(.L_x_1) ;\n  /*5970*/  EXIT ;",
    );
    let (name, rest) = around.split_once('\n').unwrap();
    let around = format!("{name}\n.L_x_1:\n  /*0000*/  HMMA.16816.F32.BF16 R100, R36, R88, RZ ;\n{rest}");
    assert_eq!(per_tile(&around, OF_WARP), per_tile(WARPS, OF_WARP));
}

#[test]
fn a_kernel_without_the_loop_is_an_error_that_says_so() {
    let straight = WARPS.replace("@!P2 BRA `(.L_x_300)", "NOP");
    let error = per_tile(&straight, OF_WARP).unwrap_err();
    assert!(error.contains("in no loop"), "{error}");
    let error = per_tile(WARPS, OF_WARP + 1).unwrap_err();
    assert!(error.contains("multiplies 65536 pairs, allowed: a multiple of 65537"), "{error}");
    let error = per_tile(&WARPS.replace(".L_x_310:", ""), OF_WARP).unwrap_err();
    assert!(error.contains(".L_x_310, which is nowhere"), "{error}");
}
