//! Asynchronous copies, tensor maps, mbarriers and barriers in hand-written kernels.

mod support;

use ptxsim::{Fault, FaultKind, LaunchConfig, TensorMap};
use support::{Gpu, config, noise};

/// A kernel of (tensor map, input, output) on an H200. `%a0` holds the input's address, `%a1` the output's,
/// `%a2` the map's, `%t` the thread; `tile` and `bar` are shared.
fn gpu(what: &str, body: &str) -> Gpu {
    let text = format!(
        ".version 8.7\n.target sm_90a\n.address_size 64\n\
         .visible .entry run(.param .align 64 .b8 map[128], .param .u64 in, .param .u64 out) {{\n\
         .shared .align 1024 .b8 tile[32768];\n.shared .align 8 .b64 bar[4];\n\
         .reg .b32 %t, %r<40>;\n.reg .f32 %f<8>;\n.reg .b64 %a<20>, %s<8>;\n.reg .b16 %h<4>;\n.reg .pred %p<10>;\n\
         ld.param.u64 %a0, [in];\nld.param.u64 %a1, [out];\nmov.b64 %a2, map;\ncvta.param.u64 %a2, %a2;\n\
         mov.u32 %t, %tid.x;\nsetp.eq.u32 %p9, %t, 0;\nmov.u32 %r39, tile;\n{body}\nret;\n}}\n"
    );
    // Written where PTX_DUMP says, to be checked by other tools.
    if let Ok(folder) = std::env::var("PTX_DUMP") {
        let name: String = what.chars().map(|c| if c.is_alphanumeric() { c } else { '_' }).collect();
        std::fs::write(format!("{folder}/{name}.ptx"), &text).unwrap();
    }
    Gpu::new("h200", &text)
}

/// Threads copy `words` words between `%a0`/`%a1` and the tile.
fn copy(load: bool, words: usize) -> String {
    let step = match load {
        true => "ld.global.b32 %r31, [%a10];\nst.shared.b32 [%r32], %r31;",
        false => "ld.shared.b32 %r31, [%r32];\nst.global.b32 [%a10], %r31;",
    };
    let from = if load { "%a0" } else { "%a1" };
    format!(
        "{{\nmov.u32 %r30, %t;\nmov.u32 %r33, %ntid.x;\nNEXT:\nsetp.ge.u32 %p8, %r30, {words};\n@%p8 bra DONE;\n\
         mul.wide.u32 %a10, %r30, 4;\nadd.s64 %a10, %a10, {from};\nshl.b32 %r32, %r30, 2;\n\
         add.s32 %r32, %r32, %r39;\n{step}\nadd.s32 %r30, %r30, %r33;\nbra NEXT;\nDONE:\n}}\n"
    )
}

/// Thread 0 makes `bar` a barrier of `count`.
fn init(count: u32) -> String {
    format!(
        "@%p9 mbarrier.init.shared.b64 [bar], {count};\nfence.mbarrier_init.release.cluster;\n\
         fence.proxy.async;\nbar.sync 0;\n"
    )
}

fn wait(parity: u32) -> String {
    format!("{{\nWAIT:\nmbarrier.try_wait.parity.shared.b64 %p7, [bar], {parity};\n@!%p7 bra WAIT;\n}}\n")
}

/// Thread 0 runs `text`.
fn first(text: &str) -> String {
    format!("{{\n@!%p9 bra OTHERS;\n{text}\nOTHERS:\n}}\nbar.warp.sync 0xffffffff;\n")
}

const NO_MAP: [u8; 128] = [0; 128];
/// Commits the bulk copies so far and waits until they have read, or written.
const DRAIN: &str = "cp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;\n";
const DRAIN_READ: &str = "cp.async.bulk.commit_group;\ncp.async.bulk.wait_group.read 0;\n";
const PUBLISH: &str = "fence.proxy.async;\nbar.sync 0;\n";

/// The output's words after a run.
fn run(
    what: &str,
    shape: &LaunchConfig,
    body: &str,
    map: [u8; 128],
    input: &[u32],
    words: usize,
) -> Vec<u32> {
    let gpu = gpu(what, body);
    let (from, to) = (gpu.ints(input), gpu.ints(&vec![0; words]));
    gpu.run("run", shape, &[&map, &from, &to]);
    gpu.read_ints(to, words)
}

fn fault(what: &str, threads: u32, body: &str) -> Fault {
    let gpu = gpu(what, body);
    let (from, to) = (gpu.ints(&[7; 4096]), gpu.ints(&[0; 4096]));
    gpu.fault("run", &config(1, threads), &[&NO_MAP, &from, &to])
}

fn numbers(n: u32) -> Vec<u32> {
    (0..n).map(|i| i.wrapping_mul(0x9e37_79b9) ^ 0x5bd1_e995).collect()
}

fn bytes_of(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

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
}

fn cluster(blocks: u32, threads: u32) -> LaunchConfig {
    LaunchConfig { cluster: [blocks, 1, 1], ..config(blocks, threads) }
}

const CLUSTER_SYNC: &str = "barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;\n";

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
