//! Memory that nothing has written: its values may be moved about and dropped, not decide anything.

mod support;

use ptxsim::{Checks, FaultKind};
use support::config;
use support::kernel::*;

/// Runs `body` with 32 or 128 threads: `%a0` holds 40 words of the numbers 0, 1, ..., of 4096; the fault and its words, or what
/// is in the output.
fn launch(body: &str, threads: u32, checks: Checks) -> Result<Vec<u32>, (FaultKind, String)> {
    let mut gpu = gpu("undefined", body);
    gpu.options.checks = checks;
    let input = gpu.space(4 * 4096);
    gpu.memory.write(input, &bytes_of(&(0..WRITTEN).collect::<Vec<_>>())).unwrap();
    let out = gpu.ints(&[0; 4096]);
    match gpu.try_run("run", &config(1, threads), &[&NO_MAP, &input, &out]) {
        Ok(_) => Ok(gpu.read_ints(out, 4096)),
        Err(fault) => Err((fault.kind, fault.message)),
    }
}

const WRITTEN: u32 = 40;
/// `%r0` is a word that nothing has written in lanes 8 and on, `%r1` the lane's number.
const LOAD: &str = "add.s32 %r2, %t, 32;\nmul.wide.u32 %a3, %r2, 4;\nadd.s64 %a3, %a3, %a0;\nld.global.b32 %r0, [%a3];\n\
    and.b32 %r1, %t, 31;\nmul.wide.u32 %a4, %r1, 4;\nadd.s64 %a4, %a4, %a1;\n";
/// What `%r3` is decides something.
const BRANCH: &str = "setp.gt.s32 %p1, %r3, 1000;\n@%p1 bra SKIP;\nadd.s32 %r4, %r4, 1;\nSKIP:\n";

/// Under the default checks, and under all of them.
fn outcome(what: &str, body: &str) -> Option<String> {
    let strict = launch(body, 32, Checks::ALL).unwrap_err();
    assert_eq!(strict.0, FaultKind::Uninitialized, "{what}: {}", strict.1);
    assert!(launch(body, 32, Checks::NONE).is_ok(), "{what}");
    launch(body, 32, Checks::default()).err().map(|(kind, message)| {
        assert_eq!(kind, FaultKind::Uninitialized, "{what}: {message}");
        message
    })
}

#[test]
fn what_nothing_has_written_decides_nothing() {
    for (what, body, decides) in [
        ("a branch", format!("mov.b32 %r3, %r0;\n{BRANCH}"), Some("whether an instruction runs")),
        ("arithmetic", format!("mad.lo.s32 %r3, %r0, 3, %r1;\n{BRANCH}"), Some("whether an instruction runs")),
        ("an address", "mul.wide.u32 %a5, %r0, 4;\nadd.s64 %a5, %a5, %a0;\nld.global.b32 %r5, [%a5];\n".into(), Some("an address")),
        ("where a store goes", "and.b32 %r5, %r0, 7;\nshl.b32 %r5, %r5, 2;\nadd.s32 %r5, %r5, %r39;\nst.shared.b32 [%r5], %t;\n".into(), Some("an address")),
        ("what an atomic adds", "atom.global.add.u32 %r5, [%a1], %r0;\n".into(), Some("what an instruction does")),
        ("a guarded move", format!("mov.b32 %r3, 0;\nsetp.lt.u32 %p1, %r0, 5;\n@%p1 mov.b32 %r3, 2000;\n{BRANCH}"), Some("whether an instruction runs")),
        ("a guarded move that is dropped", "setp.lt.u32 %p1, %r0, 5;\n@%p1 mov.b32 %r5, 1;\n".into(), None),
        ("a guarded store", "setp.lt.u32 %p1, %r0, 5;\n@%p1 st.global.b32 [%a1], 1;\n".into(), Some("whether an instruction runs")),
        ("a sign", "mov.b32 %f0, %r0;\nsetp.lt.f32 %p1, %f0, 0f00000000;\n@%p1 bra SKIP;\nSKIP:\n".into(), Some("whether an instruction runs")),
        ("two that need not be equal", "mov.b32 %r5, %r0;\nxor.b32 %r5, %r5, 1;\nxor.b32 %r5, %r5, 1;\nshfl.sync.bfly.b32 %r6, %r0, 1, 31, 0xffffffff;\nsetp.eq.u32 %p1, %r5, %r6;\n@%p1 bra SKIP;\nSKIP:\n".into(), Some("whether an instruction runs")),
        ("a float", "mov.b32 %f0, %r0;\nadd.f32 %f0, %f0, 0f3f800000;\nsetp.gt.f32 %p1, %f0, 0f00000000;\n@%p1 bra SKIP;\nSKIP:\n".into(), Some("whether an instruction runs")),
        ("another lane's", format!("shfl.sync.bfly.b32 %r3, %r0, 16, 31, 0xffffffff;\n{BRANCH}"), Some("whether an instruction runs")),
        ("a vote", "setp.lt.u32 %p1, %r0, 5;\nvote.sync.any.pred %p2, %p1, 0xffffffff;\n@%p2 bra SKIP;\nSKIP:\n".into(), Some("whether an instruction runs")),
        // Dropped, masked, or chosen against.
        ("dropped", "add.s32 %r3, %r0, %r0;\n".into(), None),
        ("masked", format!("and.b32 %r3, %r0, 0;\n{BRANCH}"), None),
        ("chosen against", format!("setp.lt.u32 %p0, %r1, 8;\nselp.b32 %r3, %r0, 7, %p0;\n{BRANCH}"), None),
        ("chosen", format!("setp.lt.u32 %p0, %r1, 9;\nselp.b32 %r3, %r0, 7, %p0;\n{BRANCH}"), Some("whether an instruction runs")),
        ("overwritten", format!("mov.b32 %r3, %r0;\nmov.b32 %r3, 4;\n{BRANCH}"), None),
        ("those lanes stay away", format!("mov.b32 %r3, %r0;\nsetp.gt.u32 %p0, %r1, 7;\n@%p0 bra SKIP;\n{BRANCH}"), None),
        ("the other half", format!("mov.b32 {{%h0, %h1}}, %r0;\nmov.b32 %r5, {{%h1, %h0}};\nshl.b32 %r5, %r5, 16;\nshr.u32 %r3, %r1, 0;\n{BRANCH}"), None),
        // Through memory and back.
        ("stored", "st.global.b32 [%a4], %r0;\n".into(), None),
        ("through global memory", format!("st.global.b32 [%a4], %r0;\nld.global.b32 %r3, [%a4];\n{BRANCH}"), Some("whether an instruction runs")),
        ("through shared memory", format!("shl.b32 %r5, %r1, 2;\nadd.s32 %r5, %r5, %r39;\nst.shared.b32 [%r5], %r0;\nld.shared.b32 %r3, [%r5];\n{BRANCH}"), Some("whether an instruction runs")),
        ("written over", format!("shl.b32 %r5, %r1, 2;\nadd.s32 %r5, %r5, %r39;\nst.shared.b32 [%r5], %r0;\nst.shared.b32 [%r5], %r1;\nld.shared.b32 %r3, [%r5];\n{BRANCH}"), None),
        ("by a bulk copy", format!("shl.b32 %r5, %r1, 2;\nadd.s32 %r5, %r5, %r39;\nst.shared.b32 [%r5], %r0;\n{PUBLISH}{}ld.global.b32 %r3, [%a4];\n{BRANCH}",
            first(&format!("cp.async.bulk.global.shared::cta.bulk_group [%a1], [%r39], 128;\n{DRAIN}"))), Some("whether an instruction runs")),
    ] {
        let told = outcome(what, &format!("{LOAD}{body}"));
        match (&told, decides) {
            (None, None) => {}
            (Some(told), Some(decides)) => assert!(told.contains(&format!("decides {decides}")), "{what}: {told}"),
            _ => panic!("{what}: {told:?}"),
        }
    }
}

/// The last words of a row, loaded eight bytes at a time: the half that is written is like any other.
#[test]
fn halves_of_a_vector_are_told_apart() {
    let load = |word: u32| {
        format!(
            "ld.global.v2.b32 {{%r3, %r5}}, [%a0+{}];\nld.global.b64 %a5, [%a0+{}];\n",
            4 * word,
            4 * word
        )
    };
    let odd = |rest: &str| {
        // Word 40 is not written: 39 cannot be loaded with it, 38 and 39 can.
        launch(&format!("mov.b32 %r4, 0;\n{}{rest}", load(40)), 32, Checks::default())
            .map(|_| ())
            .map_err(|e| e.0)
    };
    let store = "st.global.b32 [%a1], 9;\nst.global.b32 [%a1+4], %r3;\nld.global.b64 %a6, [%a1];\ncvt.u32.u64 %r6, %a6;\n";
    assert_eq!(odd(&format!("{store}mov.b32 %r3, %r6;\n{BRANCH}")), Ok(()));
    assert_eq!(
        odd(&format!("{store}shr.u64 %a6, %a6, 32;\ncvt.u32.u64 %r3, %a6;\n{BRANCH}")),
        Err(FaultKind::Uninitialized)
    );
}

/// A row of A and a column of B spoil their row and column of the product, nothing else.
#[test]
fn products_keep_rows_and_columns_apart() {
    // Thread t holds rows t / 4 and t / 4 + 8 of A, column t / 4 of B; of `which` the word of lane 9 (row, column 2) is unwritten.
    let load = "setp.eq.u32 %p0, %t, 9;\nselp.b32 %r2, 64, 1, %p0;\nmul.wide.u32 %a3, %r2, 4;\nadd.s64 %a3, %a3, %a0;\n\
        ld.global.b32 %r0, [%a3];\nmov.b32 %r1, 0x3f803f80;\nmov.f32 %f0, 0f00000000;\nmov.f32 %f1, %f0;\nmov.f32 %f2, %f0;\n\
        mov.f32 %f3, %f0;\n";
    let product = |a: &str, b: &str| {
        format!(
            "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {{%f0, %f1, %f2, %f3}}, {{{a}, %r1}}, {{{b}}}, \
             {{%f0, %f1, %f2, %f3}};\n"
        )
    };
    // Lanes that use their sum `register` where `keep` is true.
    let use_of = |register: u32, keep: &str| {
        format!(
            "{keep}@!%p1 bra SKIP;\nsetp.gt.f32 %p2, %f{register}, 0f00000000;\n@%p2 bra SKIP;\nadd.s32 %r4, %r4, 1;\nSKIP:\n"
        )
    };
    let all = "setp.lt.u32 %p1, %t, 32;\n";
    let row_2 = "shr.u32 %r5, %t, 2;\nsetp.eq.u32 %p1, %r5, 2;\n";
    let not_row_2 = "shr.u32 %r5, %t, 2;\nsetp.ne.u32 %p1, %r5, 2;\n";
    let column_2 = "and.b32 %r5, %t, 3;\nsetp.eq.u32 %p1, %r5, 1;\n";
    let not_column_2 = "and.b32 %r5, %t, 3;\nsetp.ne.u32 %p1, %r5, 1;\n";
    let ((a, b), bad) = ((product("%r0", "%r1"), product("%r1", "%r0")), FaultKind::Uninitialized);
    for (what, multiply, use_of, right) in [
        ("row 2", &a, use_of(0, row_2), false),
        ("other rows", &a, use_of(0, not_row_2), true),
        ("rows from 8 on", &a, use_of(2, all), true),
        ("column 2", &b, use_of(0, column_2), false),
        ("column 3", &b, use_of(1, all), true),
        ("other columns", &b, use_of(2, not_column_2), true),
    ] {
        let got =
            launch(&format!("{load}{multiply}{use_of}"), 32, Checks::default()).map(|_| ()).map_err(|e| e.0);
        assert_eq!(got, if right { Ok(()) } else { Err(bad) }, "{what}");
    }

    // wgmma: A of 64 x 16, B of 16 x 8, no swizzle; of the tile's first 16 rows of 16 bytes row 5 is not written.
    let tile = "setp.eq.u32 %p0, %t, 5;\n@%p0 bra FILLED;\nshl.b32 %r1, %t, 4;\nadd.s32 %r1, %r1, %r39;\n\
        st.shared.v4.b32 [%r1], {1065369472, 1065369472, 1065369472, 1065369472};\nFILLED:\n";
    // Both operands begin at `from`; rows 0 to 7 of each are there, leading 2048 bytes on, the next eight 128 bytes on.
    let multiply = |a: u32, b: u32| {
        format!(
            "wgmma.fence.sync.aligned;\nshr.u32 %r0, %r39, 4;\ncvt.u64.u32 %a3, %r0;\nadd.s64 %a3, %a3, 0x0000000800400000;\n\
             add.s64 %a4, %a3, {};\nadd.s64 %a3, %a3, {};\n\
             wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {{%f0, %f1, %f2, %f3}}, %a3, %a4, 0, 1, 1, 0, 0;\n\
             wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n",
            b / 16,
            a / 16
        )
    };
    let set_up = format!("{}{tile}{PUBLISH}mov.b32 %r4, 0;\n", fill(128));
    let row_5 = "shr.u32 %r5, %t, 2;\nsetp.eq.u32 %p1, %r5, 5;\n";
    let not_row_5 = "shr.u32 %r5, %t, 2;\nsetp.ne.u32 %p1, %r5, 5;\n";
    let column_5 = "and.b32 %r5, %t, 3;\nsetp.eq.u32 %p1, %r5, 2;\n";
    for (what, multiply, use_of, right) in [
        ("row 5", multiply(0, 256), use_of(0, row_5), false),
        ("other rows", multiply(0, 256), use_of(0, not_row_5), true),
        ("column 5", multiply(256, 0), use_of(1, column_5), false),
        ("column 4", multiply(256, 0), use_of(0, "setp.lt.u32 %p1, %t, 128;\n"), true),
    ] {
        let got = launch(&format!("{set_up}{multiply}{use_of}"), 128, Checks::default())
            .map(|_| ())
            .map_err(|e| e.0);
        assert_eq!(got, if right { Ok(()) } else { Err(bad) }, "{what}");
    }
}

/// Threads write ones to the tile's rows of 16 bytes from 128 on, a row each `step`.
fn fill(step: u32) -> String {
    (1..3)
        .map(|i| {
            format!(
                "add.s32 %r1, %t, {};\nshl.b32 %r1, %r1, 4;\nadd.s32 %r1, %r1, %r39;\n\
                 st.shared.v4.b32 [%r1], {{1065369472, 1065369472, 1065369472, 1065369472}};\n",
                step * i
            )
        })
        .collect()
}
