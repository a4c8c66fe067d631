//! Programmatic dependent launch: what the launch before may still work on is left alone until
//! `griddepcontrol.wait`.

mod support;

use ptxsim::{FaultKind, LaunchConfig};
use support::kernel::*;
use support::{Gpu, config};

const WAIT: &str = "griddepcontrol.wait;\n";
/// Stores this thread's number to its word of the output.
const STORE: &str = "mul.wide.u32 %a3, %t, 4;\nadd.s64 %a3, %a3, %a1;\nst.global.b32 [%a3], %t;\n";

/// Kernel `run` (of `gpu`) and kernel `before`, which stores 64 words of the output and reads 64 of the input.
fn two(body: &str) -> Gpu {
    let text = ptx(body)
        + ".visible .entry before(.param .u64 in, .param .u64 out) {\n.reg .b64 %a<4>;\n.reg .b32 %r<3>;\n\
           ld.param.u64 %a0, [in];\nld.param.u64 %a1, [out];\nmov.u32 %r0, %tid.x;\nmul.wide.u32 %a2, %r0, 4;\n\
           add.s64 %a0, %a0, %a2;\nadd.s64 %a1, %a1, %a2;\nld.global.b32 %r1, [%a0];\n\
           griddepcontrol.launch_dependents;\nadd.s32 %r1, %r1, 1;\nst.global.b32 [%a1], %r1;\nret;\n}\n";
    Gpu::new("h200", &text)
}

/// Runs `before`, then `body` as a launch that may overlap with it: `%a0` is what `before` read, `%a1` what
/// it stored, each of 128 words.
fn after(body: &str, overlaps: bool) -> Option<FaultKind> {
    let gpu = two(body);
    let (input, out) = (gpu.ints(&[7; 128]), gpu.ints(&[0; 128]));
    gpu.run("before", &config(1, 64), &[&input, &out]);
    let shape = LaunchConfig { overlaps, ..config(1, 64) };
    gpu.try_run("run", &shape, &[&NO_MAP, &input, &out]).err().map(|fault| fault.kind)
}

#[test]
fn what_the_launch_before_stores_is_read_after_the_wait() {
    let early = Some(FaultKind::LaunchPending);
    let read = "ld.global.b32 %r0, [%a1+252];\n";
    assert_eq!(after(read, false), None, "launches without the attribute follow each other");
    assert_eq!(after(read, true), early);
    assert_eq!(after(&format!("{WAIT}{read}"), true), None);
    assert_eq!(after(&format!("{read}{WAIT}"), true), early);
    assert_eq!(after("ld.global.b32 %r0, [%a1+256];\n", true), None, "it stored 64 words");
    assert_eq!(after("ld.global.b32 %r0, [%a0];\n", true), None, "it only read these");
    assert_eq!(after("ld.global.v4.b32 {%r0, %r1, %r2, %r3}, [%a1+240];\n", true), early);
    assert_eq!(after("atom.global.add.u32 %r0, [%a0], 1;\n", true), early);
    let copy = "cp.async.ca.shared.global [%r39], [%a1], 4;\ncp.async.wait_all;\n";
    assert_eq!(after(&first(copy), true), early);
    assert_eq!(after(&first(&format!("{WAIT}{copy}")), true), None);
}

#[test]
fn what_the_launch_before_uses_is_stored_to_after_the_wait() {
    let early = Some(FaultKind::LaunchPending);
    for place in ["%a0", "%a1"] {
        let store = format!("@%p9 st.global.b32 [{place}], %t;\n");
        assert_eq!(after(&store, true), early, "{place}");
        assert_eq!(after(&format!("{WAIT}{store}"), true), None);
        assert_eq!(after(&store.replace(&format!("[{place}]"), &format!("[{place}+508]")), true), None);
    }
}

#[test]
fn one_warps_wait_counts_for_those_that_it_meets() {
    let read = "ld.global.b32 %r0, [%a1+4];\n";
    let wait = "setp.lt.u32 %p1, %t, 32;\n@%p1 griddepcontrol.wait;\n";
    assert_eq!(after(&format!("{wait}bar.sync 0;\n{read}"), true), None);
    assert_eq!(after(&format!("{wait}{read}"), true), Some(FaultKind::LaunchPending));
    assert_eq!(after(&format!("bar.sync 0;\n{wait}{read}"), true), Some(FaultKind::LaunchPending));
    // By mbarrier, as from a producer warp to its consumers.
    let arrive = "@%p1 mbarrier.arrive.shared.b64 %s0, [bar];\n";
    let body = init(32) + wait + arrive + &support::kernel::wait(0) + read;
    assert_eq!(after(&body, true), None);
}

#[test]
fn copies_by_tma_wait_too() {
    let load = "mbarrier.arrive.expect_tx.shared.b64 %s0, [bar], 256;\nmov.u32 %r1, bar;\n\
                cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r39], [%a1], 256, [%r1];\n";
    let (early, late) = (init(1) + &first(load), init(1) + &first(&format!("{WAIT}{load}")));
    assert_eq!(after(&(early + &support::kernel::wait(0)), true), Some(FaultKind::LaunchPending));
    assert_eq!(after(&(late + &support::kernel::wait(0)), true), None);
    let store = "cp.async.bulk.global.shared::cta.bulk_group [%a0], [%r39], 256;\n";
    let send = |before: &str| {
        copy(true, 64).replace("%a0", "%a1") + PUBLISH + &first(&format!("{before}{store}{DRAIN}"))
    };
    let copied = |wait: &str| format!("{wait}{}", send(""));
    assert_eq!(after(&copied(WAIT), true), None);
    assert_eq!(after(&copied(""), true), Some(FaultKind::LaunchPending));
}

#[test]
fn a_chain_of_launches_looks_back_by_one() {
    let gpu = two(&format!("{WAIT}{STORE}"));
    let (input, out, other) = (gpu.ints(&[7; 128]), gpu.ints(&[0; 128]), gpu.ints(&[0; 128]));
    let shape = LaunchConfig { overlaps: true, ..config(1, 64) };
    // `before` stores `out`, `run` stores `other`: the next `before` reads `out`, which has long been there.
    gpu.run("before", &config(1, 64), &[&input, &out]);
    gpu.run("run", &shape, &[&NO_MAP, &input, &other]);
    gpu.run("before", &shape, &[&out, &input]);
    assert_eq!(gpu.read_ints(input, 64), [9; 64]);
    // Now `input` is what has just been stored.
    assert_eq!(gpu.fault("before", &shape, &[&input, &other]).kind, FaultKind::LaunchPending);
}
