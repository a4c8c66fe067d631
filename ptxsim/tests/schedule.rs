//! What an order decides, and what it must not: seeds, the waits of a warpgroup, and checks that are a matter of choice.

mod support;

use ptxsim::{Checks, FaultKind, Options};
use support::kernel::*;
use support::{Gpu, config};

/// Runs `body` with one host thread; the first `words` of the output.
fn ordered(
    body: &str,
    shape: &ptxsim::LaunchConfig,
    checks: Checks,
    seed: Option<u64>,
    words: usize,
) -> Result<Vec<u32>, FaultKind> {
    let mut gpu = gpu("schedule", body);
    gpu.options = Options { checks, seed, threads: 1, ..Options::default() };
    let (from, to) = (gpu.ints(&[ONES; 1024]), gpu.ints(&[0; 4096]));
    let done = gpu.try_run("run", shape, &[&NO_MAP, &from, &to]);
    done.map(|_| gpu.read_ints(to, words)).map_err(|fault| fault.kind)
}

/// Two bf16 of 1.
const ONES: u32 = 0x3f80_3f80;
/// 64 x 8 of A and B in the tile, no swizzle.
const PRODUCT: &str = "wgmma.fence.sync.aligned;\nshr.u32 %r0, %r39, 4;\ncvt.u64.u32 %a3, %r0;\n\
    add.s64 %a3, %a3, 0x0000000800400000;\n\
    wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f0, %f1, %f2, %f3}, %a3, %a3, 0, 1, 1, 0, 0;\n\
    wgmma.commit_group.sync.aligned;\n";
const DONE: &str = "wgmma.wait_group.sync.aligned 0;\n";
const ARRIVE: &str = "@%p9 mbarrier.arrive.shared.b64 %s0, [bar];\n";

/// Four warps multiply ones, each a while after the one before; a fifth clears the operands once the mbarrier lets it.
fn refilled(consume: &str) -> String {
    let fill = "mov.u32 %r4, 0;\nCLEAR:\nand.b32 %r5, %t, 31;\nshl.b32 %r5, %r5, 2;\nadd.s32 %r5, %r5, %r39;\n\
                shl.b32 %r6, %r4, 7;\nadd.s32 %r5, %r5, %r6;\nst.shared.b32 [%r5], 0;\nadd.s32 %r4, %r4, 1;\n\
                setp.lt.u32 %p2, %r4, 32;\n@%p2 bra CLEAR;\n";
    init(1)
        + &copy(true, 1024)
        + PUBLISH
        + "shr.u32 %r20, %t, 5;\nsetp.eq.u32 %p1, %r20, 4;\n@%p1 bra FILL;\n\
           mul.lo.u32 %r3, %r20, 1500;\nSPIN:\nsetp.eq.u32 %p2, %r3, 0;\n@%p2 bra SPUN;\n\
           sub.u32 %r3, %r3, 1;\nbra SPIN;\nSPUN:\n"
        + consume
        + "mul.wide.u32 %a4, %t, 4;\nadd.s64 %a4, %a4, %a1;\nst.global.f32 [%a4], %f0;\nbra END;\nFILL:\n"
        + &wait(0)
        + fill
        + "END:\n"
}

#[test]
fn one_warp_waits_for_the_products_of_four() {
    let (right, early) =
        (refilled(&format!("{PRODUCT}{DONE}{ARRIVE}")), refilled(&format!("{PRODUCT}{ARRIVE}{DONE}")));
    let want = vec![16f32.to_bits(); 128];
    for seed in [None].into_iter().chain((0..8).map(Some)) {
        for checks in [Checks::NONE, Checks::ALL] {
            assert_eq!(ordered(&right, &config(1, 160), checks, seed, 128).as_ref(), Ok(&want), "{seed:?}");
        }
        let told = ordered(&early, &config(1, 160), Checks::ALL, seed, 128);
        assert_eq!(told, Err(FaultKind::AsyncPending), "{seed:?}");
    }
    assert_ne!(ordered(&early, &config(1, 160), Checks::NONE, None, 128).as_ref(), Ok(&want));
}

/// A warp that never comes is a divergence; one that waits for the others in vain is not.
#[test]
fn a_warp_that_waits_is_not_one_that_left() {
    let by_warp_3 = |late: &str| {
        let body = init(1)
            + &copy(true, 1024)
            + PUBLISH
            + "setp.gt.u32 %p1, %t, 95;\n@!%p1 bra ON;\n"
            + late
            + &format!("ON:\n{PRODUCT}{DONE}{ARRIVE}OUT:\n");
        [None, Some(1), Some(2)].map(|seed| ordered(&body, &config(1, 128), Checks::ALL, seed, 1))
    };
    assert_eq!(by_warp_3("bra OUT;\n"), [const { Err(FaultKind::Divergence) }; 3]);
    assert_eq!(by_warp_3(&wait(0)), [const { Err(FaultKind::Deadlock) }; 3]);
}

/// Every warp, or block, takes a ticket.
#[test]
fn seeds_choose_the_order_of_warps_and_blocks() {
    let ticket = "and.b32 %r0, %t, 31;\nsetp.ne.u32 %p1, %r0, 0;\n@%p1 bra END;\n\
        shr.u32 %r1, %t, 5;\nmov.u32 %r2, %ctaid.x;\nadd.s32 %r1, %r1, %r2;\natom.global.add.u32 %r3, [%a1], 1;\n\
        mul.wide.u32 %a3, %r3, 4;\nadd.s64 %a3, %a3, %a1;\nst.global.b32 [%a3+64], %r1;\nEND:\n";
    for shape in [config(1, 256), config(8, 32)] {
        let order = |seed| ordered(ticket, &shape, Checks::ALL, seed, 24).unwrap()[16..].to_vec();
        assert_eq!(order(None), (0..8).collect::<Vec<_>>());
        let mut orders: Vec<Vec<u32>> = (0..16).map(|seed| order(Some(seed))).collect();
        assert_eq!(order(Some(5)), orders[5], "a seed stands for one order");
        for order in &orders {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..8).collect::<Vec<_>>());
        }
        assert!(orders.iter().any(|order| order[0] >= 6), "the last come first: {orders:?}");
        orders.sort();
        orders.dedup();
        assert!(orders.len() >= 8, "{orders:?}");
    }
}

/// Without its wait a copy has arrived or not, as the seed will.
#[test]
fn seeds_choose_when_copies_arrive() {
    let bulk = "mov.u32 %r1, bar;\nmbarrier.arrive.expect_tx.shared.b64 %s0, [bar], 1024;\n\
        cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r39], [%a0], 1024, [%r1];\n";
    let lanes = "cp.async.ca.shared.global [%r39], [%a0], 16;\ncp.async.commit_group;\n";
    let read = "ld.shared.b32 %r2, [%r39+4];\nst.global.b32 [%a1], %r2;\n";
    for (copy, done) in [(bulk, wait(0)), (lanes, "cp.async.wait_group 0;\n".to_owned())] {
        let body = |done: &str| init(1) + &first(&format!("{copy}{done}{read}"));
        let seen = |done: &str, seed| ordered(&body(done), &config(1, 32), Checks::NONE, seed, 1).unwrap()[0];
        assert_eq!(seen("", None), ONES);
        let all: Vec<u32> = (0..16).map(|seed| seen("", Some(seed))).collect();
        assert!(all.contains(&0) && all.contains(&ONES), "{copy}: {all:?}");
        assert!((0..16).all(|seed| seen(&done, Some(seed)) == ONES), "{copy}");
    }
    // The mbarrier is gone before the copy has come.
    let gone = init(1) + &first(&format!("{bulk}mbarrier.inval.shared.b64 [bar];\n"));
    let told: Vec<_> =
        (0..16).map(|seed| ordered(&gone, &config(1, 32), Checks::NONE, Some(seed), 1)).collect();
    assert!(told.contains(&Err(FaultKind::AsyncPending)), "{told:?}");
}

/// What kernels in production do, and cards and compilers bear: a fault only where its check is asked for.
#[test]
fn strict_checks_are_a_matter_of_choice() {
    let only = |f: fn(&mut Checks) -> &mut bool| {
        let mut checks = Checks::NONE;
        *f(&mut checks) = true;
        checks
    };
    let store = "mul.wide.u32 %a4, %t, 4;\nadd.s64 %a4, %a4, %a1;\nst.global.f32 [%a4], %f0;\n";
    // Operands brought by cp.async, no fence.proxy.async before the product.
    let copied = "shl.b32 %r1, %t, 4;\nadd.s32 %r2, %r1, %r39;\ncvt.u64.u32 %a3, %r1;\nadd.s64 %a3, %a3, %a0;\n\
        cp.async.ca.shared.global [%r2], [%a3], 16;\ncp.async.ca.shared.global [%r2+2048], [%a3+2048], 16;\n\
        cp.async.wait_all;\nbar.sync 0;\n";
    let copied = format!("{copied}{PRODUCT}{DONE}{store}");
    // Sums read before the wait.
    let early = copy(true, 1024) + PUBLISH + PRODUCT + store + DONE;
    // No wgmma.fence.
    let unfenced =
        copy(true, 1024) + PUBLISH + &PRODUCT.replace("wgmma.fence.sync.aligned;\n", "") + DONE + store;
    // An mbarrier that the same thread, or another one of the block, made without a fence.
    let made = |order: &str| {
        format!("@%p9 mbarrier.init.shared.b64 [bar], 1;\n{order}")
            + &first(
                "mov.u32 %r1, bar;\nmbarrier.arrive.expect_tx.shared.b64 %s0, [bar], 1024;\n\
                 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r39], [%a0], 1024, [%r1];\n",
            )
            + &(wait(0) + "mov.f32 %f0, 0f41800000;\n" + store)
    };
    for (what, body, strict, kind) in [
        ("copies", copied, only(|c| &mut c.copy_fence), FaultKind::ProxyFence),
        ("early", early, only(|c| &mut c.wgmma_registers), FaultKind::AsyncPending),
        ("unfenced", unfenced, only(|c| &mut c.wgmma_registers), FaultKind::ProxyFence),
        ("own mbarrier", made("bar.sync 0;\n"), only(|c| &mut c.init_fence), FaultKind::ProxyFence),
    ] {
        for checks in [Checks::NONE, Checks::default()] {
            let got = ordered(&body, &config(1, 128), checks, None, 128);
            assert_eq!(got, Ok(vec![16f32.to_bits(); 128]), "{what}");
        }
        for checks in [strict, Checks::ALL] {
            assert_eq!(ordered(&body, &config(1, 128), checks, None, 128), Err(kind), "{what}");
        }
    }
    // Lanes of one store meet in a word; those of two stores do not.
    let read = "bar.sync 0;\nld.shared.b32 %r2, [%r39];\nst.global.b32 [%a1], %r2;\n";
    let one = format!("st.shared.b32 [%r39], %t;\n{read}");
    let two = format!(
        "setp.lt.u32 %p1, %t, 16;\n@%p1 bra LOW;\nst.shared.b32 [%r39], %t;\nbra JOIN;\nLOW:\n\
         st.shared.b32 [%r39], 5;\nJOIN:\n{read}"
    );
    let run = |body: &str, checks| ordered(body, &config(1, 32), checks, None, 1);
    assert_eq!(run(&one, Checks::default()), Ok(vec![31]));
    assert_eq!(run(&one, Checks::ALL), Err(FaultKind::Race));
    assert_eq!(run(&two, Checks::default()), Err(FaultKind::Race));
    // Two warps that are alike, lane by lane, and two that are not.
    for (last, right) in [("31", Ok(vec![31])), ("63", Err(FaultKind::Race))] {
        let alike = format!("and.b32 %r1, %t, {last};\nst.shared.b32 [%r39], %r1;\n{read}");
        assert_eq!(ordered(&alike, &config(1, 64), Checks::default(), None, 1), right);
    }
    // Whoever stores the bits that are there changes nothing: two warps, by any store.
    for store in [
        "st.shared.b32 [%r39], 1065369472;",
        "mov.b16 %h0, 7;\nst.shared.b16 [%r39], %h0;",
        "shl.b32 %r3, %t, 4;\nand.b32 %r3, %r3, 112;\nadd.s32 %r3, %r3, %r39;\nmov.b32 %r4, 9;\n\
         stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r3], {%r4};",
    ] {
        assert!(ordered(&format!("{store}\n"), &config(1, 64), Checks::ALL, None, 1).is_ok(), "{store}");
        let other = store.replace(", 1065369472", ", %t").replace("mov.b16 %h0, 7", "cvt.u16.u32 %h0, %t");
        let other = other.replace("mov.b32 %r4, 9", "mov.b32 %r4, %t");
        let told = ordered(&format!("{other}\n"), &config(1, 64), Checks::default(), None, 1);
        assert_eq!(told, Err(FaultKind::Race), "{other}");
    }
    // Between blocks the fence is asked for.
    let remote = |fence: &str| {
        format!("@%p9 mbarrier.init.shared.b64 [bar], 1;\n{fence}{CLUSTER_SYNC}")
            + "mov.u32 %r3, bar;\nmapa.shared::cluster.u32 %r4, %r3, 0;\nmapa.shared::cluster.u32 %r5, %r39, 0;\n\
               mov.u32 %r6, %cluster_ctarank;\nsetp.eq.u32 %p1, %r6, 0;\n@%p1 bra OWNER;\n"
            + &first(
                "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r5], [%a0], 1024, [%r4];\n",
            )
            + "bra END;\nOWNER:\n"
            + &first("mbarrier.arrive.expect_tx.shared.b64 %s0, [bar], 1024;\n")
            + &wait(0)
            + "END:\n"
            + CLUSTER_SYNC
    };
    let run = |fence: &str| ordered(&remote(fence), &cluster(2, 32), Checks::default(), None, 1);
    assert_eq!(run(""), Err(FaultKind::ProxyFence));
    assert_eq!(run("fence.mbarrier_init.release.cluster;\n"), Ok(vec![0]));
}

/// A launch on several host threads, too, is right under every seed.
#[test]
fn seeds_leave_right_kernels_right() {
    let body = refilled(&format!("{PRODUCT}{DONE}{ARRIVE}"));
    for seed in 0..4 {
        let mut gpu: Gpu = gpu("threads", &body);
        gpu.options.seed = Some(seed);
        let (from, to) = (gpu.ints(&[ONES; 1024]), gpu.ints(&[0; 4096]));
        gpu.run("run", &config(9, 160), &[&NO_MAP, &from, &to]);
        assert_eq!(gpu.read_ints(to, 128), [16f32.to_bits(); 128]);
    }
}
