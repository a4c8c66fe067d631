//! mbarriers, barriers, and what is touched too early, in hand-written kernels.

mod support;

use ptxsim::FaultKind;
use support::config;
use support::kernel::*;

/// Runs steps by one thread, each of which leaves a number in `%r10`.
fn trace(what: &str, count: u32, steps: &[(&str, u32)]) {
    let mut text = format!("mbarrier.init.shared.b64 [bar], {count};\n");
    for (i, (step, _)) in steps.iter().enumerate() {
        text += &format!("mov.u32 %r10, 0;\n{step}\nst.global.b32 [%a1+{}], %r10;\n", 4 * i);
    }
    let got = run(what, &config(1, 1), &text, NO_MAP, &[0], steps.len());
    for ((step, want), got) in steps.iter().zip(got) {
        assert_eq!(got, *want, "{what}: {step}");
    }
}

#[test]
fn mbarriers_count_arrivals_and_phases() {
    let arrive = "mbarrier.arrive.shared.b64 %s0, [bar];\nmbarrier.pending_count.b64 %r10, %s0;";
    let two =
        "mbarrier.arrive.release.cta.shared::cta.b64 %s0, [bar], 2;\nmbarrier.pending_count.b64 %r10, %s0;";
    let drop = "mbarrier.arrive_drop.shared.b64 %s0, [bar];\nmbarrier.pending_count.b64 %r10, %s0;";
    let keep = "mov.b64 %s1, %s0;";
    let state = "mbarrier.test_wait.shared.b64 %p0, [bar], %s1;\nselp.u32 %r10, 1, 0, %p0;";
    let even = "mbarrier.test_wait.parity.shared.b64 %p0, [bar], 0;\nselp.u32 %r10, 1, 0, %p0;";
    let odd = "mbarrier.test_wait.parity.shared.b64 %p0, [bar], 1;\nselp.u32 %r10, 1, 0, %p0;";
    trace(
        "phases",
        3,
        &[
            // The phase before the first counts as complete.
            (even, 0),
            (odd, 1),
            (arrive, 3),
            (keep, 0),
            (arrive, 2),
            (state, 0),
            (even, 0),
            (arrive, 1),
            (state, 1),
            (even, 1),
            (odd, 0),
            (two, 3),
            (keep, 0),
            (drop, 1),
            (state, 1),
            (odd, 1),
            // One fewer from now on.
            (arrive, 2),
            (even, 0),
            (arrive, 1),
            (even, 1),
            (two, 2),
            (odd, 1),
            ("mbarrier.inval.shared.b64 [bar];\nmbarrier.init.shared.b64 [bar], 1;", 0),
            (even, 0),
            (arrive, 1),
            (even, 1),
        ],
    );
    let expect_arrive = "mbarrier.arrive.expect_tx.shared.b64 %s0, [bar], 64;";
    let expect = "mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [bar], 32;";
    let complete = "mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [bar], 32;";
    trace(
        "transactions",
        1,
        &[
            (expect_arrive, 0),
            (complete, 0),
            (even, 0),
            (complete, 0),
            (even, 1),
            // Bytes before they are expected.
            (complete, 0),
            (complete, 0),
            (odd, 0),
            (expect_arrive, 0),
            (odd, 1),
            (complete, 0),
            (arrive, 1),
            (even, 0),
            (expect, 0),
            (even, 1),
            // Neither bytes without arrivals nor arrivals without bytes complete a phase.
            (expect, 0),
            (complete, 0),
            (odd, 0),
            (expect, 0),
            (arrive, 1),
            (odd, 0),
            (complete, 0),
            (odd, 1),
        ],
    );
}

#[test]
fn mbarriers_misused_are_faults() {
    let arrive = "mbarrier.arrive.shared.b64 %s0, [bar];\n";
    let start = "mbarrier.init.shared.b64 [bar], 2;\n";
    let kind = |body: &str| fault("mbarrier misuse", 1, body).kind;
    assert_eq!(
        kind(&format!("{start}mbarrier.arrive.release.cta.shared::cta.b64 %s0, [bar], 3;")),
        FaultKind::BarrierMismatch
    );
    // The phase has its arrivals, but lacks bytes.
    let lacking = "mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [bar], 16;\n";
    assert_eq!(kind(&format!("{start}{lacking}{arrive}{arrive}{arrive}")), FaultKind::BarrierMismatch);
    assert_eq!(kind(arrive), FaultKind::Uninitialized);
    assert_eq!(kind(&wait(0)), FaultKind::Uninitialized);
    assert_eq!(kind("mbarrier.inval.shared.b64 [bar];"), FaultKind::Uninitialized);
    assert_eq!(kind(&format!("{start}mbarrier.inval.shared.b64 [bar];\n{arrive}")), FaultKind::Uninitialized);
    assert_eq!(kind(&format!("{start}{arrive}{}", wait(0))), FaultKind::Deadlock);
    assert_eq!(kind("mbarrier.init.shared.b64 [bar], 0;"), FaultKind::IllegalInstruction);
    let last = "mbarrier.arrive.noComplete.release.cta.shared::cta.b64 %s0, [bar], 2;\n";
    assert_eq!(kind(&format!("{start}{last}")), FaultKind::BarrierMismatch);
}

#[test]
fn blocks_of_a_cluster_arrive_at_each_others_mbarriers() {
    // Blocks 1 to 3 write their threads' words to block 0, which waits for 96 arrivals.
    let body = init(96)
        + CLUSTER_SYNC
        + "mov.u32 %r0, %cluster_ctarank;\nsetp.ne.u32 %p1, %r0, 0;\nmov.u32 %r2, bar;\n\
           mapa.shared::cluster.u32 %r3, %r39, 0;\nmapa.shared::cluster.u32 %r4, %r2, 0;\n\
           mad.lo.u32 %r5, %r0, 32, %t;\nshl.b32 %r6, %r5, 2;\nadd.s32 %r7, %r3, %r6;\n\
           @!%p1 bra OWNER;\nst.shared::cluster.b32 [%r7], %r5;\n\
           mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r4];\nbra END;\n\
           OWNER:\nst.shared.b32 [%r7], %r5;\n\
           LOOP:\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p2, [bar], 0;\n@!%p2 bra LOOP;\n"
        + &copy(false, 128)
        + "END:\nbar.sync 0;\n"
        + CLUSTER_SYNC;
    let got = run("remote", &cluster(4, 32), &body, NO_MAP, &[0], 128);
    assert_eq!(got, (0..128).collect::<Vec<_>>());
}

/// A block of a cluster must outlive what others do to its memory: arrivals, and reads and writes of words.
#[test]
fn a_block_stays_while_others_reach_it() {
    let body = |owner: u32, reach: &str, stay: &str| {
        init(32)
            + "@%p9 st.shared.b32 [%r39], 5;\n"
            + CLUSTER_SYNC
            + &format!(
                "mov.u32 %r0, %cluster_ctarank;\nsetp.eq.u32 %p1, %r0, {owner};\nmov.u32 %r2, bar;\n\
                 mapa.shared::cluster.u32 %r3, %r39, {owner};\nmapa.shared::cluster.u32 %r4, %r2, {owner};\n\
                 @%p1 bra OWNER;\n"
            )
            + reach
            + "bra END;\nOWNER:\n"
            + stay
            + "END:\nbar.warp.sync 0xffffffff;\n"
    };
    let arrive = "mbarrier.arrive.shared::cluster.b64 _, [%r4];\n";
    let (read, write) = ("ld.shared::cluster.b32 %r5, [%r3];\n", "@%p9 st.shared::cluster.b32 [%r3], 6;\n");
    let fault = |body: &str| {
        let gpu = gpu("leaves", body);
        let out = gpu.ints(&[0]);
        gpu.fault("run", &cluster(2, 32), &[&NO_MAP, &out, &out]).kind
    };
    // Blocks run in turn: the first is ahead of the others.
    for (owner, kind) in [(0, FaultKind::OutOfBounds), (1, FaultKind::Race)] {
        run("stays", &cluster(2, 32), &body(owner, arrive, &wait(0)), NO_MAP, &[0], 1);
        for reach in [arrive, read, write] {
            assert_eq!(fault(&body(owner, reach, "")), kind, "block {owner}: {reach}");
        }
    }
    // A word that its own block has read, written by another one.
    let read = "ld.shared.b32 %r5, [%r39];\n";
    assert_eq!(fault(&(body(0, write, read) + CLUSTER_SYNC)), FaultKind::Race);
}

/// Runs `texts[w]` in warp `w`.
fn by_warp(texts: &[String]) -> String {
    let mut all = "shr.u32 %r20, %t, 5;\n".to_owned();
    for (warp, text) in texts.iter().enumerate() {
        all += &format!("setp.ne.u32 %p5, %r20, {warp};\n@%p5 bra AFTER{warp};\n{text}AFTER{warp}:\n");
    }
    all
}

/// This thread's word of the tile is `%r21`, of the output `%a8`.
const OWN: &str =
    "shl.b32 %r22, %t, 2;\nadd.s32 %r21, %r22, %r39;\ncvt.u64.u32 %a8, %r22;\nadd.s64 %a8, %a8, %a1;\n";

#[test]
fn barriers_have_ids_and_counts() {
    // Two pairs of warps exchange words, each at a barrier of its own.
    let body = OWN.to_owned()
        + "st.shared.b32 [%r21], %t;\nshr.u32 %r0, %t, 6;\nadd.s32 %r0, %r0, 14;\nbarrier.sync %r0, 64;\n\
           xor.b32 %r1, %r21, 128;\nld.shared.b32 %r2, [%r1];\nst.global.b32 [%a8], %r2;\n";
    let got = run("pairs", &config(1, 128), &body, NO_MAP, &[0], 128);
    assert_eq!(got, (0..128).map(|t| t ^ 32).collect::<Vec<_>>());
    // The whole block, by its number of threads and without.
    let whole = body.replace(
        "barrier.sync %r0, 64;",
        "setp.lt.u32 %p3, %t, 64;\n@%p3 bra PART;\nbar.sync 0;\nbra JOIN;\nPART:\nbar.sync 0, 128;\nJOIN:\n",
    );
    assert_eq!(run("whole", &config(1, 128), &whole, NO_MAP, &[0], 128), got);
    // The other pair's words are not ordered.
    assert_eq!(fault("others", 128, &body.replace("%r21, 128", "%r21, 256")).kind, FaultKind::Race);

    // A warp that produces four words per lane in turn, one that consumes them.
    for producer in [0, 1] {
        let away = if producer == 0 { -128 } else { 128 };
        let round = |i: u32| {
            let (word, out) = (100 * i, 128 * i);
            (
                format!(
                    "bar.sync 1, 64;\nadd.s32 %r1, %t, {word};\nst.shared.b32 [%r21], %r1;\nbar.arrive 2, 64;\n"
                ),
                format!(
                    "bar.arrive 1, 64;\nbar.sync 2, 64;\nld.shared.b32 %r1, [%r21+{away}];\n\
                     st.global.b32 [%a8+{out}], %r1;\n"
                ),
            )
        };
        let (produce, consume): (Vec<_>, Vec<_>) = (0..4).map(round).unzip();
        let mut texts = [produce.concat(), consume.concat()];
        texts.rotate_left(producer);
        let got = run("rounds", &config(1, 64), &(OWN.to_owned() + &by_warp(&texts)), NO_MAP, &[0], 192);
        let want = |i: usize| i / 32 * 100 + i % 32 + 32 * producer;
        assert_eq!(got[32 - 32 * producer..][..128], (0..128).map(|i| want(i) as u32).collect::<Vec<_>>());
    }
}

#[test]
fn barriers_reduce() {
    let store = |i: u32| format!("st.global.b32 [%a8+{}], %r1;\n", 512 * i);
    let truth = |i: u32| "selp.u32 %r1, 1, 0, %p1;\n".to_owned() + &store(i);
    let body = OWN.to_owned()
        + "setp.lt.u32 %p0, %t, 70;\n"
        + "bar.red.popc.u32 %r1, 0, %p0;\n"
        + &store(0)
        + "bar.red.popc.u32 %r1, 0, !%p0;\n"
        + &store(1)
        + "bar.red.and.pred %p1, 0, %p0;\n"
        + &truth(2)
        + "bar.red.or.pred %p1, 0, %p0;\n"
        + &truth(3)
        + "setp.lt.u32 %p0, %t, 100;\n"
        + "barrier.cta.red.and.aligned.pred %p1, 3, %p0;\n"
        + &truth(4)
        + "barrier.cta.red.or.aligned.pred %p1, 3, !%p0;\n"
        + &truth(5);
    // The last warp is not whole.
    let got = run("reductions", &config(1, 100), &body, NO_MAP, &[0], 768);
    for (i, want) in [70, 30, 0, 1, 1, 0].into_iter().enumerate() {
        assert!(got[128 * i..128 * i + 100].iter().all(|x| *x == want), "{i}: {:?}", &got[128 * i..]);
    }
    // Of two warps.
    let body = OWN.to_owned()
        + "setp.gt.u32 %p0, %t, 10;\nshr.u32 %r0, %t, 6;\nbarrier.red.popc.u32 %r1, %r0, 64, %p0;\n"
        + &store(0);
    let got = run("partial", &config(1, 128), &body, NO_MAP, &[0], 128);
    assert!(got[..64].iter().all(|x| *x == 53) && got[64..].iter().all(|x| *x == 64));

    // Warp 1, which comes late, must get its own generation's result, though warps 0 and 2 go on without it.
    let late = "mov.u32 %r3, 0;\nSPIN:\nadd.s32 %r3, %r3, 1;\nsetp.lt.u32 %p2, %r3, 2000;\n@%p2 bra SPIN;\n";
    let count = |p: &str| format!("barrier.red.popc.u32 %r1, 1, 64, {p};\n");
    let body = OWN.to_owned()
        + "setp.lt.u32 %p0, %t, 999;\n"
        + &by_warp(&[
            format!("bar.sync 2, 64;\n{}", count("!%p0")),
            format!("{late}{}", count("%p0")),
            format!("{}bar.arrive 2, 64;\n{}", count("%p0"), count("!%p0")),
        ])
        + &store(0);
    let got = run("late", &config(1, 96), &body, NO_MAP, &[0], 96);
    assert_eq!((got[0], got[32], got[64]), (0, 64, 0));
}

#[test]
fn barriers_misused_are_faults() {
    let kind = |texts: &[&str]| {
        let texts: Vec<String> = texts.iter().map(|t| format!("{t}\n")).collect();
        fault("barrier misuse", 32 * texts.len() as u32, &by_warp(&texts)).kind
    };
    assert_eq!(kind(&["bar.sync 1, 64;", "bar.sync 1, 96;", ""]), FaultKind::BarrierMismatch);
    assert_eq!(kind(&["bar.sync 1, 64;", "bar.arrive 1, 96;", ""]), FaultKind::BarrierMismatch);
    assert_eq!(kind(&["mov.u32 %r0, 48;\nbar.sync 1, %r0;", ""]), FaultKind::BarrierMismatch);
    assert_eq!(kind(&["bar.sync 1, 64;", ""]), FaultKind::Deadlock);
    assert_eq!(kind(&["bar.sync 1, 64;", "bar.sync 2, 64;"]), FaultKind::Deadlock);
    assert_eq!(kind(&["mov.u32 %r0, 16;\nbar.sync %r0, 32;"]), FaultKind::IllegalInstruction);
    let cluster = |text: &str| fault("cluster misuse", 64, text).kind;
    assert_eq!(
        cluster("barrier.cluster.arrive.aligned;\nbarrier.cluster.arrive.aligned;"),
        FaultKind::BarrierMismatch
    );
    assert_eq!(cluster("barrier.cluster.wait.aligned;"), FaultKind::BarrierMismatch);
}

#[test]
fn barriers_do_not_wait_for_the_dead() {
    let body = OWN.to_owned()
        + "setp.gt.u32 %p0, %t, 63;\n@%p0 bra END;\nst.shared.b32 [%r21], %t;\nbar.sync 0;\n\
           xor.b32 %r1, %r21, 128;\nld.shared.b32 %r2, [%r1];\nst.global.b32 [%a8], %r2;\nEND:\n";
    let got = run("dead", &config(1, 128), &body, NO_MAP, &[0], 64);
    assert_eq!(got, (0..64).map(|t| t ^ 32).collect::<Vec<_>>());
}

#[test]
fn clusters_meet_at_their_barrier() {
    // Each block writes to the next one's memory, in two rounds, with work between arrival and wait.
    let round = |i: u32| {
        format!(
            "add.s32 %r3, %r0, {};\nst.shared::cluster.b32 [%r2], %r3;\n\
             barrier.cluster.arrive.release;\nadd.s32 %r4, %r3, 1;\nbarrier.cluster.wait.acquire;\n\
             ld.shared.b32 %r5, [%r21];\nst.global.b32 [%a8+{}], %r5;\n{CLUSTER_SYNC}",
            10 * (i + 1),
            4 * 96 * i
        )
    };
    let body = OWN.to_owned()
        + "mov.u32 %r0, %cluster_ctarank;\nadd.s32 %r1, %r0, 1;\nrem.u32 %r1, %r1, 3;\n\
           mapa.shared::cluster.u32 %r2, %r21, %r1;\nmul.wide.u32 %a4, %r0, 128;\nadd.s64 %a8, %a8, %a4;\n"
        + &round(0)
        + &round(1);
    let got = run("cluster", &cluster(3, 32), &body, NO_MAP, &[0], 192);
    let want = |i: usize| 10 * (i / 96 + 1) + (i % 96 / 32 + 2) % 3;
    assert_eq!(got, (0..192).map(|i| want(i) as u32).collect::<Vec<_>>());
    let body = body
        .replace("barrier.cluster.arrive.release", "mov.u32 %r6, 0")
        .replace("barrier.cluster.wait.acquire", "mov.u32 %r6, 0");
    let (gpu, shape) = (gpu("no barrier", &body), cluster(3, 32));
    let out = gpu.ints(&[0; 192]);
    let kind = gpu.fault("run", &shape, &[&NO_MAP, &out, &out]).kind;
    assert!(matches!(kind, FaultKind::Race | FaultKind::Uninitialized), "{kind:?}");
}

/// A relaxed arrival orders what is done, and publishes nothing that was written.
#[test]
fn relaxed_arrivals_publish_nothing() {
    let sync = |arrive: &str| {
        format!("barrier.cluster.arrive{arrive}.aligned;\nbarrier.cluster.wait.acquire.aligned;\n")
    };
    let relaxed = sync(".relaxed");
    let other = OWN.to_owned()
        + "mov.u32 %r0, %cluster_ctarank;\nxor.b32 %r1, %r0, 1;\nmapa.shared::cluster.u32 %r2, %r21, %r1;\n";
    let write = "st.shared.b32 [%r21], %t;\n";
    let read = "ld.shared::cluster.b32 %r3, [%r2];\nst.global.b32 [%a8], %r3;\n";
    let launch = |body: String| {
        let gpu = gpu("relaxed", &(other.clone() + &body + CLUSTER_SYNC));
        let out = gpu.ints(&[0; 64]);
        let done = gpu.try_run("run", &cluster(2, 64), &[&NO_MAP, &out, &out]);
        done.map(|_| gpu.read_ints(out, 64)).map_err(|fault| fault.kind)
    };
    let right = Ok((0..64).collect::<Vec<u32>>());
    assert_eq!(launch(format!("{write}{relaxed}{read}")), Err(FaultKind::Race));
    assert_eq!(launch(format!("{write}{relaxed}{relaxed}{read}")), Err(FaultKind::Race));
    for arrive in ["", ".release"] {
        assert_eq!(launch(format!("{write}{}{read}", sync(arrive))), right, "{arrive}");
        assert_eq!(launch(format!("{write}{relaxed}{}{read}", sync(arrive))), right, "{arrive}");
    }
    for fence in ["fence.acq_rel.cluster", "fence.sc.gpu", "membar.gl"] {
        assert_eq!(launch(format!("{write}{fence};\n{relaxed}{read}")), right, "{fence}");
        assert_eq!(launch(format!("{fence};\n{write}{relaxed}{read}")), Err(FaultKind::Race), "{fence}");
    }
    assert_eq!(launch(format!("{write}fence.acq_rel.cta;\n{relaxed}{read}")), Err(FaultKind::Race));
    // A fence publishes what its thread has seen, too: the other warp's words after a barrier of the block.
    let by_another = format!(
        "{write}bar.sync 0;\nsetp.lt.u32 %p1, %t, 32;\n@!%p1 bra LATER;\nfence.acq_rel.cluster;\nLATER:\n{relaxed}"
    );
    assert_eq!(launch(format!("{by_another}{read}")), right);
    // Reads are done, so the other block may write over them; and an mbarrier has a fence of its own.
    let over = "ld.shared.b32 %r4, [%r21];\n".to_owned() + &relaxed + "st.shared::cluster.b32 [%r2], 7;\n";
    assert!(launch(format!("{write}bar.sync 0;\n{over}")).is_ok());
    let arrive = "mov.u32 %r5, bar;\nmapa.shared::cluster.u32 %r6, %r5, %r1;\n\
                  @%p9 mbarrier.arrive.shared::cluster.b64 _, [%r6];\n"
        .to_owned()
        + &wait(0);
    let init = |fence: &str| {
        format!("@%p9 mbarrier.init.shared.b64 [bar], 1;\n{fence}bar.sync 0;\n{relaxed}{arrive}")
    };
    assert!(launch(init("fence.mbarrier_init.release.cluster;\n")).is_ok());
    assert_eq!(launch(init("")), Err(FaultKind::Race));
}

/// A warp that arrives and exits is not waited for, and not taken for another.
#[test]
fn arrivals_of_those_that_exit_do_not_count() {
    let late = "mov.u32 %r3, 0;\nSPIN:\nadd.s32 %r3, %r3, 1;\nsetp.lt.u32 %p2, %r3, 2000;\n@%p2 bra SPIN;\n";
    let body = OWN.to_owned()
        + &by_warp(&[
            "barrier.cluster.arrive;\nexit;\n".to_owned(),
            format!("{CLUSTER_SYNC}ld.shared.b32 %r5, [%r21+128];\nst.global.b32 [%a8], %r5;\n"),
            format!("{late}st.shared.b32 [%r21], %t;\n{CLUSTER_SYNC}"),
        ]);
    let got = run("exit", &cluster(1, 96), &body, NO_MAP, &[0], 96);
    assert_eq!(got[32..64], (64..96).collect::<Vec<_>>());
}

#[test]
fn what_bulk_copies_still_read_is_left_alone() {
    let send = "cp.async.bulk.global.shared::cta.bulk_group [%a1], [%r39], 1024;\n";
    let overwrite = "st.shared.b32 [%r39+64], %t;\n";
    let with = |drain: &str, more: &str| {
        copy(true, 256) + PUBLISH + &first(&format!("{send}{drain}{more}{overwrite}"))
    };
    assert_eq!(fault("early store", 64, &with("", "")).kind, FaultKind::AsyncPending);
    assert_eq!(
        fault("early store", 64, &with("cp.async.bulk.commit_group;\n", "")).kind,
        FaultKind::AsyncPending
    );
    let pending = "cp.async.bulk.commit_group;\ncp.async.bulk.wait_group.read 1;\n";
    assert_eq!(fault("early store", 64, &with(pending, "")).kind, FaultKind::AsyncPending);
    let words = numbers(256);
    // The block's memory is gone with the block.
    let left = copy(true, 256) + PUBLISH + &first(&format!("{send}cp.async.bulk.commit_group;\n"));
    assert_eq!(fault("left", 64, &left).kind, FaultKind::AsyncPending);
    for drain in [DRAIN, DRAIN_READ] {
        assert_eq!(run("drained", &config(1, 64), &with(drain, ""), NO_MAP, &words, 256), words);
    }
    assert_eq!(
        fault("no fence", 64, &(copy(true, 256) + "bar.sync 0;\n" + &first(send))).kind,
        FaultKind::ProxyFence
    );

    // A word whose bytes another warp wrote again, and one that it has not seen written.
    let zeros = "mov.u32 %r1, 0;\nsetp.eq.u32 %p2, %t, 32;\n@%p9 st.shared.v4.b32 [%r39], {%r1, %r1, %r1, %r1};\n\
                 mov.b16 %h0, 0;\n";
    let bytes: String = (0..4).map(|i| format!("@%p2 st.shared.b8 [%r39+{i}], %h0;\n")).collect();
    let send = "@%p2 cp.async.bulk.global.shared::cta.bulk_group [%a1], [%r39], 16;\n\
                @%p2 cp.async.bulk.commit_group;\n@%p2 cp.async.bulk.wait_group 0;\n";
    let fence = "fence.proxy.async;\n";
    let unseen = fault("bytes of a word", 64, &format!("{zeros}{fence}{bytes}{fence}{send}"));
    assert_eq!(unseen.kind, FaultKind::Race, "{unseen}");
    let body = format!("{zeros}{fence}bar.sync 0;\n{bytes}{fence}{send}");
    assert_eq!(run("bytes of a word", &config(1, 64), &body, NO_MAP, &[0], 4), [0; 4]);

    // Another copy over what half of is still read.
    let fetch = "mov.u32 %r1, bar;\nmbarrier.arrive.expect_tx.shared.b64 %s0, [bar], 1024;\n\
                 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r39], [%a0], 1024, [%r1];\n";
    let half = "add.s32 %r2, %r39, 512;\ncp.async.bulk.global.shared::cta.bulk_group [%a1], [%r2], 512;\n\
                cp.async.bulk.commit_group;\n";
    let over = |drain: &str| {
        let again = first(&format!("{half}{drain}{fetch}"));
        init(1) + &first(fetch) + &wait(0) + "bar.sync 0;\n" + &again + &wait(1) + DRAIN
    };
    assert_eq!(fault("early copy", 64, &over("")).kind, FaultKind::AsyncPending);
    run("copy", &config(1, 64), &over(DRAIN_READ), NO_MAP, &words, 128);

    // Between shared memories, until the mbarrier's phase is seen.
    let move_on = "mov.u32 %r1, bar;\nadd.s32 %r2, %r39, 2048;\nmbarrier.arrive.expect_tx.shared.b64 %s0, [bar], 1024;\n\
                   cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r2], [%r39], 1024, [%r1];\n";
    let body = copy(true, 256) + &init(1) + &first(&format!("{move_on}{overwrite}"));
    assert_eq!(fault("early move", 64, &body).kind, FaultKind::AsyncPending);
}

#[test]
fn what_bulk_copies_write_is_awaited() {
    let fetch = "mov.u32 %r1, bar;\nmbarrier.arrive.expect_tx.shared.b64 %s0, [bar], 1024;\n\
                 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r39], [%a0], 1024, [%r1];\n";
    let read = "ld.shared.b32 %r2, [%r39+4];\n";
    let body = init(1) + &first(fetch) + read;
    assert_eq!(fault("no wait", 32, &body).kind, FaultKind::Race);
    assert_eq!(fault("left", 32, &(init(1) + &first(fetch))).kind, FaultKind::Race);
    // A barrier of the block does not stand in for the wait.
    assert_eq!(
        fault("bar only", 64, &(init(1) + &first(fetch) + "bar.sync 0;\n" + read)).kind,
        FaultKind::Race
    );
    // The barrier's own initialisation is an ordinary write that the copy reads; either fence will do.
    let bare = |fence: &str| {
        format!("@%p9 mbarrier.init.shared.b64 [bar], 1;\n{fence}bar.sync 0;\n") + &first(fetch)
    };
    let unfenced = fault("no init fence", 32, &bare(""));
    assert_eq!(unfenced.kind, FaultKind::ProxyFence, "{unfenced}");
    for fence in ["fence.mbarrier_init.release.cluster;\n", "fence.proxy.async;\n"] {
        run("init fence", &config(1, 32), &(bare(fence) + &wait(0)), NO_MAP, &[7; 256], 1);
    }
    // So is what the copy overwrites.
    let over = |fence: &str| {
        init(1) + "@%p9 st.shared.b32 [%r39+8], %t;\n" + fence + "bar.sync 0;\n" + &first(fetch)
    };
    assert_eq!(fault("no overwrite fence", 64, &over("")).kind, FaultKind::ProxyFence);
    run("overwrite", &config(1, 64), &(over("fence.proxy.async;\n") + &wait(0)), NO_MAP, &[7; 256], 1);
    // One warp waits; the other only meets it there, which suffices.
    let body = init(1) + &first(&format!("{fetch}{}", wait(0))) + "bar.sync 0;\n" + &copy(false, 256);
    assert_eq!(run("handed on", &config(1, 64), &body, NO_MAP, &numbers(256), 256), numbers(256));
    // Refilled while another warp may still read.
    let again = init(1)
        + &first(fetch)
        + &wait(0)
        + read
        + &first(&fetch.replace("[%r39], [%a0]", "[%r39], [%a0+1024]"));
    assert_eq!(fault("early refill", 64, &again).kind, FaultKind::Race);

    let odd =
        fetch.replace("1024, [%r1]", "%r6, [%r1]").replace("mov.u32 %r1", "mov.u32 %r6, 1000;\nmov.u32 %r1");
    assert_eq!(fault("size", 32, &(init(1) + &first(&odd))).kind, FaultKind::Misaligned);
    let off = format!("add.s32 %r39, %r39, 8;\n{fetch}");
    assert_eq!(fault("destination", 32, &(init(1) + &first(&off))).kind, FaultKind::Misaligned);
    let past = fetch.replace("[%a0]", "[%a0+15872]");
    assert_eq!(fault("source", 32, &(init(1) + &first(&past))).kind, FaultKind::OutOfBounds);
    assert_eq!(
        fault("no init", 32, &first(&fetch.replace("mbarrier.arrive", "//"))).kind,
        FaultKind::Uninitialized
    );
}

#[test]
fn accumulators_and_operands_of_wgmma_are_left_alone() {
    // 64 x 8 of A and B of zeros, no swizzle.
    let product = "wgmma.fence.sync.aligned;\nshr.u32 %r0, %r39, 4;\ncvt.u64.u32 %a3, %r0;\n\
                   add.s64 %a3, %a3, 0x0000000800400000;\n\
                   wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f0, %f1, %f2, %f3}, %a3, %a3, 1, 1, 1, 0, 0;\n\
                   wgmma.commit_group.sync.aligned;\n";
    let zeros = "mov.f32 %f0, 0f00000000;\nmov.f32 %f1, %f0;\nmov.f32 %f2, %f0;\nmov.f32 %f3, %f0;\n";
    let done = "wgmma.wait_group.sync.aligned 0;\n";
    let (use_d, reuse) = ("st.global.f32 [%a1], %f2;\n", "st.shared.b32 [%r39+64], %t;\n");
    let set_up = copy(true, 1024) + PUBLISH + zeros;
    let kind = |text: &str| fault("wgmma misuse", 128, &format!("{set_up}{product}{text}")).kind;
    assert_eq!(kind(use_d), FaultKind::AsyncPending);
    assert_eq!(kind("add.f32 %f4, %f3, %f3;\n"), FaultKind::AsyncPending);
    assert_eq!(kind("mov.f32 %f1, %f4;\n"), FaultKind::AsyncPending);
    assert_eq!(kind("shfl.sync.bfly.b32 %f4, %f3, 1, 31, 0xffffffff;\n"), FaultKind::AsyncPending);
    assert_eq!(
        kind("mov.b32 %r1, %f4;\nmovmatrix.sync.aligned.m8n8.trans.b16 %f0, %r1;\n"),
        FaultKind::AsyncPending
    );
    assert_eq!(kind(&format!("wgmma.wait_group.sync.aligned 1;\n{use_d}")), FaultKind::AsyncPending);
    assert_eq!(kind(reuse), FaultKind::AsyncPending);
    // Lane 0 writes a word again, which is free now.
    let body = format!("{set_up}{product}{done}bar.sync 0;\n@%p9 {reuse}@%p9 {use_d}");
    assert_eq!(run("wgmma", &config(1, 128), &body, NO_MAP, &[0; 1024], 1), [0]);
    // Registers used before need wgmma.fence; moves are a compiler's own business.
    let fence = "wgmma.fence.sync.aligned;\n";
    let kind = |text: &str| fault("wgmma.fence", 128, &format!("{set_up}{text}")).kind;
    assert_eq!(kind(&product.replace(fence, "")), FaultKind::ProxyFence);
    let scaled = |scale: &str| product.replace(fence, &format!("{fence}{scale}"));
    assert_eq!(kind(&scaled("mul.f32 %f2, %f2, %f2;\n")), FaultKind::ProxyFence);
    assert_eq!(kind(&scaled("st.global.f32 [%a1], %f3;\n")), FaultKind::ProxyFence);
    assert_eq!(
        kind(&format!("{product}{done}add.f32 %f4, %f1, %f1;\n{}", product.replace(fence, ""))),
        FaultKind::ProxyFence
    );
    for sound in
        [scaled("mov.f32 %f2, %f3;\n"), format!("mul.f32 %f2, %f2, %f2;\n{product}"), product.repeat(2)]
    {
        run("fenced", &config(1, 128), &format!("{set_up}{sound}{done}"), NO_MAP, &[0; 1024], 1);
    }
    // All four warps of a warpgroup take part.
    let three = format!("setp.gt.u32 %p1, %t, 95;\n@%p1 bra OUT;\n{product}{done}OUT:\n");
    let absent = fault("three warps", 128, &format!("{}{PUBLISH}{zeros}{three}", copy(true, 1024)));
    assert_eq!(absent.kind, FaultKind::Divergence, "{absent}");
    let few = fault("a block of three", 96, &format!("{set_up}{product}{done}"));
    assert_eq!(few.kind, FaultKind::Divergence, "{few}");
    let unfenced = copy(true, 1024) + "bar.sync 0;\n" + zeros + product;
    assert_eq!(fault("wgmma fence", 128, &unfenced).kind, FaultKind::ProxyFence);
}

/// `wgmma.fence` lies between what uses the registers of a product and the product, whatever moves lie between, too.
#[test]
fn products_of_registers_wait_for_a_fence() {
    const FENCE: &str = "wgmma.fence.sync.aligned;\n";
    // A of 64 x 16 bf16 from registers, B of 16 x 8, zeros without a swizzle.
    const PRODUCT: &str = "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f0, %f1, %f2, %f3}, \
        {%r10, %r11, %r12, %r13}, %a4, 1, 1, 1, 0;\n\
        wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n";
    let first = format!(
        "shl.b32 %r0, %t, 3;\nadd.s32 %r0, %r0, %r39;\nmov.b64 %a3, 0;\nst.shared.b64 [%r0], %a3;\n{PUBLISH}\
         shr.u32 %r0, %r39, 4;\ncvt.u64.u32 %a4, %r0;\nadd.s64 %a4, %a4, 0x80000;\n\
         and.b32 %r10, %t, 0;\nmov.b32 %r11, 0;\nmov.b32 %r12, 0;\nmov.b32 %r13, 0;\n\
         mov.f32 %f0, 0f00000000;\nmov.f32 %f1, %f0;\nmov.f32 %f2, %f0;\nmov.f32 %f3, %f0;\n"
    );
    let another = format!("{FENCE}{PRODUCT}");
    let launch = |what: &str, body: String| {
        let gpu = gpu(what, &(first.clone() + &body));
        let space = gpu.space(1024);
        gpu.try_run("run", &config(1, 128), &[&NO_MAP, &space, &space]).err().map(|fault| fault.kind)
    };
    let (used, used10) = ("and.b32 %r20, %t, 0;\n", "and.b32 %r10, %t, 0;\n");
    let every_other = "and.b32 %r20, %t, 1;\nsetp.eq.u32 %p1, %r20, 0;\n@%p1 ";
    for (what, body, fenced) in [
        ("fenced", another.clone(), true),
        ("never fenced", PRODUCT.to_owned(), false),
        ("twice in the same registers", format!("{another}{PRODUCT}"), true),
        ("another A", format!("{another}{used10}{PRODUCT}"), false),
        ("another A, fenced", format!("{another}{used10}{another}"), true),
        ("the sums are scaled", format!("{another}mul.f32 %f3, %f3, %f3;\n{PRODUCT}"), false),
        ("the sums are read", format!("{another}add.f32 %f4, %f3, %f3;\n{PRODUCT}"), false),
        ("moved from what was used", format!("{another}{used}mov.b32 %r10, %r20;\n{PRODUCT}"), false),
        ("moved twice", format!("{another}{used}mov.b32 %r21, %r20;\nmov.b32 %r10, %r21;\n{PRODUCT}"), false),
        ("used, fenced, moved", format!("{another}{used}{FENCE}mov.b32 %r10, %r20;\n{PRODUCT}"), true),
        ("used, and moved over", format!("{another}{used10}mov.b32 %r10, %r13;\n{PRODUCT}"), true),
        (
            "used, and moved over in part",
            format!("{another}{used10}{every_other}mov.b32 %r10, %r13;\n{PRODUCT}"),
            false,
        ),
        ("renamed", format!("{another}mov.f32 %f5, %f3;\nmov.f32 %f3, %f5;\n{PRODUCT}"), true),
    ] {
        let wanted = (!fenced).then_some(FaultKind::ProxyFence);
        assert_eq!(launch(what, body), wanted, "{what}");
    }
}

/// B of a product is one for four warps, but each has its own reasons to trust it.
#[test]
fn every_warp_of_a_product_has_waited_for_its_operand() {
    // A from registers; B of 16 x 8 without a swizzle, which one warp writes.
    let set_up = "shr.u32 %r0, %r39, 4;\ncvt.u64.u32 %a4, %r0;\nadd.s64 %a4, %a4, 0x80000;\nmov.b64 %a3, 0;\n\
                  and.b32 %r0, %t, 31;\nshl.b32 %r0, %r0, 3;\nadd.s32 %r0, %r0, %r39;\nshr.u32 %r1, %t, 5;\n\
                  setp.eq.u32 %p1, %r1, WRITER;\nsetp.eq.u32 %p2, %r1, 0;\n\
                  mov.b32 %r10, 0;\nmov.b32 %r11, 0;\nmov.b32 %r12, 0;\nmov.b32 %r13, 0;\n\
                  mov.f32 %f0, 0f00000000;\nmov.f32 %f1, %f0;\nmov.f32 %f2, %f0;\nmov.f32 %f3, %f0;\n";
    let product = "bar.warp.sync 0xffffffff;\nwgmma.fence.sync.aligned;\n\
                   wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f0, %f1, %f2, %f3}, \
                   {%r10, %r11, %r12, %r13}, %a4, 1, 1, 1, 0;\n\
                   wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n";
    let write = "@%p1 st.shared.b64 [%r0], %a3;\n";
    let (fence, meet) = ("fence.proxy.async;\n", "bar.sync 0;\n");
    let launch = |writer: u32, body: String| {
        let body = format!("{}{body}{product}", set_up.replace("WRITER", &writer.to_string()));
        let gpu = gpu("warps of a product", &body);
        let space = gpu.space(64);
        gpu.try_run("run", &config(1, 128), &[&NO_MAP, &space, &space]).err().map(|fault| fault.kind)
    };
    // All four name the same operands.
    let other = product.replace("%a4", "%a5");
    let apart = |by: u64| format!("add.s64 %a5, %a4, {by};\n@!%p2 add.s64 %a5, %a4, 0;\n{other}{meet}");
    assert_eq!(launch(0, format!("{write}{fence}{meet}{}", apart(0))), None);
    // Another stride between rows of B, of which it has eight.
    assert_eq!(launch(0, format!("{write}{fence}{meet}{}", apart(1 << 32))), Some(FaultKind::Divergence));
    let (race, unfenced) = (Some(FaultKind::Race), Some(FaultKind::ProxyFence));
    // Warp 0, which comes first, has written it, and knows.
    assert_eq!(launch(0, format!("{write}{fence}")), race);
    assert_eq!(launch(0, format!("{write}{fence}{meet}")), None);
    // Or it has fenced what another wrote, which the others have not.
    assert_eq!(launch(1, format!("{write}{meet}@%p2 {fence}")), unfenced);
    assert_eq!(launch(1, format!("{write}{meet}{fence}")), None);
    // What was written before is trusted, what was written since is not.
    let again = format!("{write}{fence}{meet}{product}{meet}");
    assert_eq!(launch(0, format!("{again}{write}{fence}{meet}")), None);
    // Warp 0 is no longer the first: it writes what another multiplies already.
    assert_eq!(launch(0, format!("{again}{write}{fence}")), Some(FaultKind::AsyncPending));
}
