//! `cp.async` and bulk copies in hand-written kernels.

mod support;

use ptxsim::FaultKind;
use support::kernel::*;
use support::{config, noise};

/// Source and destination of this thread's `cp.async`.
fn ends(bytes: u32) -> String {
    format!(
        "mul.lo.u32 %r0, %t, {bytes};\ncvt.u64.u32 %a3, %r0;\nadd.s64 %a3, %a3, %a0;\nadd.s32 %r1, %r0, %r39;\n"
    )
}

#[test]
fn cp_async_copies_fills_and_ignores() {
    let data = numbers(256);
    let source = bytes_of(&data);
    for bytes in [4, 8, 16] {
        for (kind, last) in [("all", ""), ("part", ", %r2"), ("ignore", ", %p1")] {
            let body = ends(bytes)
                + &format!(
                    "rem.u32 %r2, %t, {};\nand.b32 %r3, %t, 1;\nsetp.eq.u32 %p1, %r3, 1;\n",
                    bytes + 1
                )
                + &format!("cp.async.ca.shared.global [%r1], [%a3], {bytes}{last};\n")
                + "cp.async.commit_group;\ncp.async.wait_group 0;\nbar.sync 0;\n"
                + &copy(false, 16 * bytes as usize);
            let what = format!("cp.async {bytes} {kind}");
            let got = bytes_of(&run(&what, &config(1, 64), &body, NO_MAP, &data, 16 * bytes as usize));
            for (i, byte) in got.iter().enumerate() {
                let (thread, at) = (i as u32 / bytes, i as u32 % bytes);
                let kept = match kind {
                    "all" => true,
                    "part" => at < thread % (bytes + 1),
                    _ => thread % 2 == 0,
                };
                assert_eq!(*byte, if kept { source[i] } else { 0 }, "{what}, byte {i}");
            }
        }
    }
}

#[test]
fn cp_async_groups_complete_in_order() {
    // Three groups of 1 KiB; then a copy that is in no group.
    let group = |i: u32| {
        format!("cp.async.cg.shared.global [%r1+{0}], [%a3+{0}], 16;\ncp.async.commit_group;\n", 1024 * i)
    };
    let issue = ends(16) + &group(0) + &group(1) + &group(2);
    let read = |i: u32| format!("ld.shared.b32 %r4, [%r1+{}];\n", 1024 * i);
    let body = issue.clone()
        + "cp.async.wait_group 1;\n"
        + &read(0)
        + &read(1)
        + "cp.async.cg.shared.global [%r1+3072], [%a3+3072], 16;\ncp.async.wait_all;\nbar.sync 0;\n"
        + &copy(false, 1024);
    let data = numbers(1024);
    assert_eq!(run("groups", &config(1, 64), &body, NO_MAP, &data, 1024), data);
    for (pending, early) in [(1, 2), (2, 1), (3, 0)] {
        let body = issue.clone() + &format!("cp.async.wait_group {pending};\n") + &read(early);
        assert_eq!(fault("early", 64, &body).kind, FaultKind::AsyncPending);
    }
    // Nobody writes where a copy still goes, nor copies there again.
    for late in ["st.shared.b32 [%r1+8], %r0;\n", "cp.async.ca.shared.global [%r1+8], [%a3], 8;\n"] {
        assert_eq!(fault("late write", 64, &(issue.clone() + late)).kind, FaultKind::AsyncPending);
    }
    for (odd, kind) in [("%r1, %r1, 8", FaultKind::Misaligned), ("%r1, %r1, 32768", FaultKind::OutOfBounds)] {
        assert_eq!(fault("place", 64, &(ends(16) + &format!("add.s32 {odd};\n") + &group(0))).kind, kind);
    }
    for (odd, kind) in [("%a3, %a3, 8", FaultKind::Misaligned), ("%a3, %a3, 16384", FaultKind::OutOfBounds)] {
        assert_eq!(fault("source", 64, &(ends(16) + &format!("add.s64 {odd};\n") + &group(0))).kind, kind);
    }
    // Waiting is each thread's own: others' copies are seen after a barrier.
    let body = issue + "cp.async.wait_all;\nxor.b32 %r5, %r1, 16;\nld.shared.b32 %r4, [%r5];\n";
    assert_eq!(fault("no barrier", 64, &body).kind, FaultKind::Race);
}

#[test]
fn cp_async_arrives_at_mbarriers() {
    let data = numbers(64);
    // Each lane reads its neighbour's copy, ordered by the mbarrier only.
    let read = "xor.b32 %r5, %r1, 4;\nld.shared.b32 %r4, [%r5];\nxor.b32 %r6, %r0, 4;\ncvt.u64.u32 %a4, %r6;\n\
                add.s64 %a4, %a4, %a1;\nst.global.b32 [%a4], %r4;\n";
    let issue = ends(4) + "cp.async.ca.shared.global [%r1], [%a3], 4;\n";
    let noinc = "cp.async.mbarrier.arrive.noinc.shared.b64 [bar];\n";
    let body = init(64) + &issue + noinc + &wait(0) + read;
    assert_eq!(run("noinc", &config(1, 64), &body, NO_MAP, &data, 64), data);
    let counted = "cp.async.mbarrier.arrive.shared.b64 [bar];\nmbarrier.arrive.shared.b64 %s0, [bar];\n";
    let body = init(64) + &issue + counted + &wait(0) + read;
    assert_eq!(run("inc", &config(1, 64), &body, NO_MAP, &data, 64), data);
    let body = issue + "cp.async.mbarrier.arrive.shared.b64 [bar];\n";
    assert_eq!(fault("no init", 32, &body).kind, FaultKind::Uninitialized);
}

#[test]
fn bulk_copies_go_every_way() {
    let data = numbers(256);
    let fetch = |to: u32, from: u32, bytes: u32| {
        format!(
            "add.s32 %r0, %r39, {to};\nadd.s64 %a3, %a0, {from};\nmov.u32 %r1, bar;\n\
             cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r0], [%a3], {bytes}, [%r1];\n"
        )
    };
    let expect = |bytes: u32| format!("mbarrier.arrive.expect_tx.shared.b64 %s0, [bar], {bytes};\n");
    let body = init(1)
        + &first(&(expect(1024) + &fetch(0, 512, 512) + &fetch(512, 16, 496) + &fetch(1008, 0, 16)))
        + &wait(0)
        + &copy(false, 256);
    let got = run("to shared", &config(1, 64), &body, NO_MAP, &data, 256);
    assert_eq!(got, [&data[128..], &data[4..128], &data[..4]].concat());

    let body = copy(true, 256)
        + PUBLISH
        + &first(
            &(String::from("add.s64 %a3, %a1, 32;\nadd.s32 %r0, %r39, 512;\n")
                + "cp.async.bulk.global.shared::cta.bulk_group [%a3], [%r0], 496;\n"
                + DRAIN),
        );
    let got = run("to global", &config(1, 64), &body, NO_MAP, &data, 256);
    assert_eq!(got, [&[0; 8], &data[128..252], &[0; 124]].concat());

    // Each of two blocks sends its words to the other; what the copy read is free once it has arrived.
    let send = "mapa.shared::cluster.u32 %r3, %r39, %r2;\nadd.s32 %r3, %r3, 1024;\nmov.u32 %r4, bar;\n\
                mapa.shared::cluster.u32 %r5, %r4, %r2;\n\
                cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r3], [%r39], 1024, [%r5];\n";
    let body = String::from(
        "mov.u32 %r0, %cluster_ctarank;\nmul.wide.u32 %a4, %r0, 1024;\nadd.s64 %a0, %a0, %a4;\n",
    ) + "add.s64 %a1, %a1, %a4;\nxor.b32 %r2, %r0, 1;\n"
        + &copy(true, 256)
        + &init(1)
        + &first(&expect(1024))
        + CLUSTER_SYNC
        + &first(send)
        + &wait(0)
        + CLUSTER_SYNC
        + "add.s32 %r39, %r39, 1024;\n"
        + &copy(false, 256)
        + "sub.s32 %r39, %r39, 1024;\n"
        + &copy(true, 256)
        + CLUSTER_SYNC;
    let both = numbers(512);
    let got = run("between blocks", &cluster(2, 64), &body, NO_MAP, &both, 512);
    assert_eq!(got, [&both[256..], &both[..256]].concat());

    let floats: Vec<u32> = noise(256, 1).iter().map(|x| x.to_bits()).collect();
    for (ty, input) in [("u32", &data), ("f32", &floats)] {
        let reduce =
            format!("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.{ty} [%a1], [%r39], 1024;\n");
        let body = copy(true, 256) + PUBLISH + &first(&(reduce.clone() + &reduce + DRAIN));
        let got = run(ty, &config(1, 64), &body, NO_MAP, input, 256);
        let twice = |x: &u32| match ty {
            "u32" => x.wrapping_mul(2),
            _ => (2.0 * f32::from_bits(*x)).to_bits(),
        };
        assert_eq!(got, input.iter().map(twice).collect::<Vec<_>>(), "{ty}");
    }
}

/// Each thread's words to the other block, which waits for them by its mbarrier alone.
#[test]
fn async_stores_reach_the_other_block() {
    let both = numbers(512);
    for (form, each, values) in [
        ("b32", 4, "%r10"),
        ("v2.b32", 8, "{%r10, %r11}"),
        ("v4.f32", 16, "{%f0, %f1, %f2, %f3}"),
        ("u64", 8, "%s1"),
        ("v2.b64", 16, "{%s1, %s2}"),
    ] {
        // The thread's first word of the block's 256, and where it goes.
        let load = "mov.u32 %r0, %cluster_ctarank;\nmul.wide.u32 %a4, %r0, 1024;\nadd.s64 %a1, %a1, %a4;\n\
                    add.s64 %a0, %a0, %a4;\nxor.b32 %r2, %r0, 1;\n"
            .to_owned()
            + &format!("mul.lo.u32 %r6, %t, {each};\ncvt.u64.u32 %a3, %r6;\nadd.s64 %a3, %a3, %a0;\n")
            + &format!("ld.global.{form} {values}, [%a3];\n")
            + "add.s32 %r3, %r39, %r6;\nmov.u32 %r4, bar;\nmapa.shared::cluster.u32 %r3, %r3, %r2;\n\
               mapa.shared::cluster.u32 %r5, %r4, %r2;\n";
        let send =
            format!("st.async.shared::cluster.mbarrier::complete_tx::bytes.{form} [%r3], {values}, [%r5];\n");
        let threads = 1024 / each;
        let expect = first("mbarrier.arrive.expect_tx.shared.b64 %s0, [bar], 1024;\n");
        let body = load + &init(1) + &expect + CLUSTER_SYNC + &send + &wait(0) + &copy(false, 256);
        let got = run(form, &cluster(2, threads), &body, NO_MAP, &both, 512);
        assert_eq!(got, [&both[256..], &both[..256]].concat(), "{form}");
        let fails = |what: &str, body: &str| {
            let gpu = gpu(what, body);
            let (from, to) = (gpu.ints(&both), gpu.ints(&[0; 512]));
            gpu.fault("run", &cluster(2, threads), &[&NO_MAP, &from, &to]).kind
        };
        // Nobody reads before the mbarrier says so, nor leaves.
        let early = fails("no wait", &body.replace(&wait(0), ""));
        assert!(matches!(early, FaultKind::Uninitialized | FaultKind::Race), "{form}: {early:?}");
        let early = body.replace(&(wait(0) + &copy(false, 256)), "");
        let early = fails("early exit", &early);
        assert!(matches!(early, FaultKind::OutOfBounds | FaultKind::Race), "{form}: {early:?}");
        // The mbarrier is there before.
        assert_eq!(fails("no init", &body.replace(&init(1), "")), FaultKind::Uninitialized, "{form}");
        // It is one of the block that is written to.
        let own = body
            .replace("mapa.shared::cluster.u32 %r5, %r4, %r2;", "mapa.shared::cluster.u32 %r5, %r4, %r0;");
        assert_eq!(fails("own mbarrier", &own), FaultKind::IllegalInstruction, "{form}");
        let odd = body.replace(&send, &format!("add.s32 %r3, %r3, 2;\n{send}"));
        assert_eq!(fails("odd", &odd), FaultKind::Misaligned, "{form}");
        // What is still read, or was written by an ordinary store, is not written over.
        let over = |fence: &str, then: &str| {
            let written = copy(true, 256) + fence + "bar.sync 0;\n" + CLUSTER_SYNC;
            fails("over", &body.replace(&send, &(written + then + &send)))
        };
        let read = "ld.shared.b32 %r12, [%r39+8];\n";
        assert_eq!(over("fence.proxy.async;\n", read), FaultKind::Race, "{form}");
        assert_eq!(over("", ""), FaultKind::ProxyFence, "{form}");
    }
}

#[test]
fn bulk_copies_reduce() {
    let half = |x: u32| u32::from(half::f16::from_f32(x as f32).to_bits()) * 0x1_0001;
    let brain = |x: u32| u32::from(half::bf16::from_f32(x as f32).to_bits()) * 0x1_0001;
    let float = |x: u32| (x as f32).to_bits();
    // What the memory holds, what is sent, what it then holds; in every word.
    for (operation, held, sent, want) in [
        ("min.s32", -5i32 as u32, 3, -5i32 as u32),
        ("min.u32", -5i32 as u32, 3, 3),
        ("max.s32", -5i32 as u32, 3, 3),
        ("max.u32", -5i32 as u32, 3, -5i32 as u32),
        ("inc.u32", 7, 9, 8),
        ("inc.u32", 9, 9, 0),
        ("dec.u32", 0, 9, 9),
        ("dec.u32", 4, 9, 3),
        ("and.b32", 0b1100, 0b1010, 0b1000),
        ("or.b32", 0b1100, 0b1010, 0b1110),
        ("xor.b32", 0b1100, 0b1010, 0b0110),
        ("add.s32", -5i32 as u32, 3, -2i32 as u32),
        ("add.f32", float(4), float(5), float(9)),
        ("add.noftz.f16", half(4), half(5), half(9)),
        ("add.noftz.bf16", brain(4), brain(5), brain(9)),
        ("min.f16", half(4), half(5), half(4)),
        ("max.bf16", brain(4), brain(5), brain(5)),
        ("min.u64", 4, 5, 4),
        ("max.s64", 4, 5, 5),
        ("and.b64", 12, 10, 8),
    ] {
        let reduce =
            format!("cp.reduce.async.bulk.global.shared::cta.bulk_group.{operation} [%a1], [%r39], 64;\n");
        let body = copy(true, 16) + PUBLISH + &first(&(reduce + DRAIN));
        let gpu = gpu(operation, &body);
        let (input, out) = (gpu.ints(&[sent; 16]), gpu.ints(&[held; 16]));
        gpu.run("run", &config(1, 32), &[&NO_MAP, &input, &out]);
        assert_eq!(gpu.read_ints(out, 16), [want; 16], "{operation}");
    }
    // 64 bits, with a carry.
    let reduce = "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u64 [%a1], [%r39], 16;\n";
    let body = copy(true, 4) + PUBLISH + &first(&(reduce.to_owned() + reduce + DRAIN));
    let got = run("add.u64", &config(1, 32), &body, NO_MAP, &[0x8000_0001, 3, 1, 2], 4);
    assert_eq!(got, [2, 7, 2, 4]);
}
