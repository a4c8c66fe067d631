//! cp.async, mbarriers, bulk copies, clusters, named barriers.

use super::parts::Target::{Sm80, Sm90a};
use super::parts::{CLUSTER_SYNC, DRAIN, PUBLISH, copy, first, init, wait};
use super::parts::{Program, bf16, bytes_of, f16, program, words, words_of};
use std::fmt::Write;

pub fn all() -> Vec<Program> {
    let mut programs = Vec::new();
    for (cache, bytes) in [("ca", 4), ("ca", 8), ("ca", 16), ("cg", 16)] {
        for kind in ["all", "part", "ignore"] {
            programs.push(cp_async(cache, bytes, kind));
        }
    }
    programs.extend(groups());
    programs.extend(MBARRIERS.iter().map(|(name, body, expected)| {
        program(&format!("mbarrier.{name}"), Sm90a, &first(body)).expecting(expected.to_vec())
    }));
    programs.extend(arrivals());
    programs.extend(bulk());
    programs.extend(REDUCTIONS.iter().map(reduction));
    programs.extend(clusters());
    programs.extend(barriers());
    programs
}

/// A copy per thread: all of it, `thread % (bytes + 1)` bytes and zeros, or nothing by a predicate in odd threads.
fn cp_async(cache: &str, bytes: usize, kind: &str) -> Program {
    let last = match kind {
        "part" => ", %r5",
        "ignore" => ", %p0",
        _ => "",
    };
    let body = format!(
        "mad.wide.u32 %l0, %t, {bytes}, %in;\nmad.lo.u32 %r4, %t, {bytes}, %tile;\nrem.u32 %r5, %t, {};\n\
         and.b32 %r6, %t, 1;\nsetp.eq.u32 %p0, %r6, 1;\ncp.async.{cache}.shared.global [%r4], [%l0], {bytes}{last};\n\
         cp.async.commit_group;\ncp.async.wait_group 0;\nbar.sync 0;\n",
        bytes + 1
    ) + &copy(false, 8 * bytes, "%out");
    let kept = |i: usize| match kind {
        "part" => i % bytes < i / bytes % (bytes + 1),
        "ignore" => (i / bytes).is_multiple_of(2),
        _ => true,
    };
    let input = bytes_of(&words(1024));
    let expected: Vec<u8> = (0..32 * bytes).map(|i| if kept(i) { input[i] } else { 0 }).collect();
    program(&format!("cp.async.{cache}.{bytes}.{kind}"), Sm80, &body).expecting(words_of(&expected))
}

/// Three groups of 512 bytes, each used as soon as it is there, and the other ways to wait.
fn groups() -> Vec<Program> {
    let ends =
        "mad.wide.u32 %l0, %t, 16, %in;\nmad.lo.u32 %r4, %t, 16, %tile;\nmad.wide.u32 %l1, %t, 16, %out;\n";
    let (mut issue, mut used, mut plain) = (ends.to_owned(), String::new(), String::new());
    for group in 0..3 {
        let at = 512 * group;
        let one = format!("cp.async.cg.shared.global [%r4+{at}], [%l0+{at}], 16;\n");
        let _ = writeln!(issue, "{one}cp.async.commit_group;");
        plain += &one;
        let read = format!(
            "ld.shared.v4.b32 {{%r10, %r11, %r12, %r13}}, [%r4+{at}];\nst.global.v4.b32 [%l1+{at}], {{%r10, %r11, %r12, %r13}};\n"
        );
        let _ = write!(used, "cp.async.wait_group {};\n{read}", 2 - group);
    }
    let arrive = |how: &str| init(32) + ends + &plain + how + &wait(0) + &copy(false, 384, "%out");
    let expected = words(1024)[..384].to_vec();
    [
        ("cp.async.wait_group", Sm80, issue.clone() + &used),
        (
            "cp.async.wait_all",
            Sm80,
            format!("{ends}{plain}cp.async.wait_all;\nbar.sync 0;\n{}", copy(false, 384, "%out")),
        ),
        (
            "cp.async.mbarrier.arrive.noinc",
            Sm90a,
            arrive("cp.async.mbarrier.arrive.noinc.shared.b64 [bar];\n"),
        ),
        (
            "cp.async.mbarrier.arrive",
            Sm90a,
            arrive("cp.async.mbarrier.arrive.shared.b64 [bar];\nmbarrier.arrive.shared.b64 %l4, [bar];\n"),
        ),
    ]
    .into_iter()
    .map(|(name, target, body)| program(name, target, &body).expecting(expected.clone()))
    .collect()
}

/// What one thread does with an mbarrier, and what it asks: each answer is a word of the results.
const MBARRIERS: &[(&str, &str, &[u32])] = &[
    (
        "test_wait.state",
        "mbarrier.init.shared.b64 [bar], 2;\nmbarrier.arrive.shared.b64 %l4, [bar];\n\
         mbarrier.test_wait.shared.b64 %p0, [bar], %l4;\nselp.u32 %r4, 1, 0, %p0;\nst.global.b32 [%out], %r4;\n\
         mbarrier.arrive.shared.b64 %l5, [bar];\nmbarrier.test_wait.shared.b64 %p0, [bar], %l4;\n\
         selp.u32 %r4, 1, 0, %p0;\nst.global.b32 [%out+4], %r4;\n",
        &[0, 1],
    ),
    (
        "test_wait.parity",
        "mbarrier.init.shared.b64 [bar], 1;\nmbarrier.test_wait.parity.shared.b64 %p0, [bar], 0;\n\
         mbarrier.test_wait.parity.shared.b64 %p1, [bar], 1;\nselp.u32 %r4, 1, 0, %p0;\nselp.u32 %r5, 1, 0, %p1;\n\
         st.global.v2.b32 [%out], {%r4, %r5};\nmbarrier.arrive.shared.b64 _, [bar];\n\
         mbarrier.test_wait.parity.shared.b64 %p0, [bar], 0;\nmbarrier.test_wait.parity.shared.b64 %p1, [bar], 1;\n\
         selp.u32 %r4, 1, 0, %p0;\nselp.u32 %r5, 1, 0, %p1;\nst.global.v2.b32 [%out+8], {%r4, %r5};\n",
        &[0, 1, 1, 0],
    ),
    (
        "try_wait.parity.two-phases",
        "mbarrier.init.shared.b64 [bar], 1;\nmbarrier.arrive.shared.b64 _, [bar];\n\
         mbarrier.try_wait.parity.shared.b64 %p0, [bar], 0;\nmbarrier.arrive.shared.b64 _, [bar];\n\
         mbarrier.try_wait.parity.shared.b64 %p1, [bar], 1;\nmbarrier.test_wait.parity.shared.b64 %p2, [bar], 0;\n\
         selp.u32 %r4, 1, 0, %p0;\nselp.u32 %r5, 1, 0, %p1;\nselp.u32 %r6, 1, 0, %p2;\n\
         st.global.v2.b32 [%out], {%r4, %r5};\nst.global.b32 [%out+8], %r6;\n",
        &[1, 1, 0],
    ),
    (
        "pending_count",
        "mbarrier.init.shared.b64 [bar], 5;\nmbarrier.arrive.shared.b64 %l4, [bar];\n\
         mbarrier.arrive.release.cta.shared::cta.b64 %l5, [bar], 2;\nmbarrier.arrive.shared.b64 %l6, [bar];\n\
         mbarrier.pending_count.b64 %r4, %l4;\nmbarrier.pending_count.b64 %r5, %l5;\nmbarrier.pending_count.b64 %r6, %l6;\n\
         st.global.v2.b32 [%out], {%r4, %r5};\nst.global.b32 [%out+8], %r6;\n",
        &[5, 4, 2],
    ),
    (
        "arrive_drop",
        "mbarrier.init.shared.b64 [bar], 2;\nmbarrier.arrive_drop.shared.b64 %l4, [bar];\n\
         mbarrier.arrive.shared.b64 %l5, [bar];\nmbarrier.test_wait.shared.b64 %p0, [bar], %l4;\n\
         mbarrier.arrive.shared.b64 %l6, [bar];\nmbarrier.test_wait.shared.b64 %p1, [bar], %l6;\n\
         mbarrier.pending_count.b64 %r6, %l6;\nselp.u32 %r4, 1, 0, %p0;\nselp.u32 %r5, 1, 0, %p1;\n\
         st.global.v2.b32 [%out], {%r4, %r5};\nst.global.b32 [%out+8], %r6;\n",
        &[1, 1, 1],
    ),
    (
        "arrive.expect_tx.complete_tx",
        "mbarrier.init.shared.b64 [bar], 1;\nmbarrier.arrive.expect_tx.shared.b64 %l4, [bar], 64;\n\
         mbarrier.test_wait.shared.b64 %p0, [bar], %l4;\nmbarrier.complete_tx.relaxed.cta.shared::cta.b64 [bar], 32;\n\
         mbarrier.test_wait.shared.b64 %p1, [bar], %l4;\nmbarrier.complete_tx.relaxed.cta.shared::cta.b64 [bar], 32;\n\
         mbarrier.test_wait.shared.b64 %p2, [bar], %l4;\nselp.u32 %r4, 1, 0, %p0;\nselp.u32 %r5, 1, 0, %p1;\n\
         selp.u32 %r6, 1, 0, %p2;\nst.global.v2.b32 [%out], {%r4, %r5};\nst.global.b32 [%out+8], %r6;\n",
        &[0, 0, 1],
    ),
    (
        "expect_tx.inval",
        "mbarrier.init.shared.b64 [bar], 1;\nmbarrier.expect_tx.relaxed.cta.shared::cta.b64 [bar], 16;\n\
         mbarrier.arrive.shared.b64 %l4, [bar];\nmbarrier.test_wait.shared.b64 %p0, [bar], %l4;\n\
         mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [bar], 16;\nmbarrier.test_wait.shared.b64 %p1, [bar], %l4;\n\
         mbarrier.inval.shared.b64 [bar];\nmbarrier.init.shared.b64 [bar], 1;\n\
         mbarrier.test_wait.parity.shared.b64 %p2, [bar], 0;\nselp.u32 %r4, 1, 0, %p0;\nselp.u32 %r5, 1, 0, %p1;\n\
         selp.u32 %r6, 1, 0, %p2;\nst.global.v2.b32 [%out], {%r4, %r5};\nst.global.b32 [%out+8], %r6;\n",
        &[0, 1, 0],
    ),
];

/// 64 threads hand words to each other through an mbarrier, in three phases.
fn arrivals() -> Vec<Program> {
    let mut body =
        init(64) + "mad.lo.u32 %r4, %t, 4, %tile;\nxor.b32 %r5, %t, 63;\nmad.lo.u32 %r5, %r5, 4, %tile;\n";
    for phase in 0..3 {
        let at = 256 * phase;
        let _ = write!(
            body,
            "ld.global.b32 %r6, [%at+{at}];\nst.shared.b32 [%r4+{at}], %r6;\nmbarrier.arrive.shared.b64 %l4, [bar];\n{}\
             ld.shared.b32 %r7, [%r5+{at}];\nst.global.b32 [%to+{at}], %r7;\n",
            wait(phase % 2)
        );
    }
    let state = body.replace(
        "mbarrier.try_wait.parity.shared.b64 %p6, [bar], 0",
        "mbarrier.try_wait.shared.b64 %p6, [bar], %l4",
    );
    let state = state.replace(
        "mbarrier.try_wait.parity.shared.b64 %p6, [bar], 1",
        "mbarrier.test_wait.shared.b64 %p6, [bar], %l4",
    );
    let input = words(1024);
    let expected: Vec<u32> = (0..192).map(|i| input[i / 64 * 64 + 63 - i % 64]).collect();
    [("mbarrier.arrive.try_wait.parity", body), ("mbarrier.arrive.try_wait.state", state)]
        .map(|(name, body)| program(name, Sm90a, &body).threads(64).expecting(expected.clone()))
        .into()
}

fn expect(bytes: usize) -> String {
    format!("mbarrier.arrive.expect_tx.shared.b64 %l4, [bar], {bytes};\n")
}

fn bulk() -> Vec<Program> {
    let mut programs = Vec::new();
    let input = words(1024);
    for bytes in [16, 496, 4096 - 16] {
        let body = init(1)
            + &first(&format!(
                "{}mov.u32 %r4, bar;\ncp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes \
                 [%tile], [%in+16], {bytes}, [%r4];\n",
                expect(bytes)
            ))
            + &wait(0)
            + &copy(false, bytes / 4, "%out");
        programs.push(
            program(&format!("cp.async.bulk.shared.global.{bytes}"), Sm90a, &body)
                .expecting(input[4..4 + bytes / 4].to_vec()),
        );
        for (wait, read) in [("", ""), (".read", ".read")] {
            let body = copy(true, bytes / 4, "%in")
                + PUBLISH
                + &first(&format!(
                    "cp.async.bulk.global.shared::cta.bulk_group [%out+32], [%tile], {bytes};\n\
                     cp.async.bulk.commit_group;\ncp.async.bulk.wait_group{wait} 0;\n"
                ));
            let mut expected = vec![0; 8];
            expected.extend(&input[..bytes / 4]);
            programs.push(
                program(&format!("cp.async.bulk.global.shared.{bytes}{read}"), Sm90a, &body)
                    .expecting(expected),
            );
        }
    }
    programs
}

/// Operation and type; what the memory holds, what is sent and what it then holds, as numbers of that type.
const REDUCTIONS: &[(&str, i32, i32, i32)] = &[
    ("add.u32", 7, 9, 16),
    ("add.s32", -5, 3, -2),
    ("add.u64", 7, 9, 16),
    ("min.s32", -5, 3, -5),
    ("min.u32", -5, 3, 3),
    ("max.s32", -5, 3, 3),
    ("max.u32", -5, 3, -5),
    ("min.u64", 4, 5, 4),
    ("max.s64", -4, 5, 5),
    ("inc.u32", 7, 9, 8),
    ("dec.u32", 4, 9, 3),
    ("and.b32", 0b1100, 0b1010, 0b1000),
    ("or.b32", 0b1100, 0b1010, 0b1110),
    ("xor.b32", 0b1100, 0b1010, 0b0110),
    ("and.b64", 0b1100, 0b1010, 0b1000),
    ("add.f32", 4, -9, -5),
    ("add.f64", 4, -9, -5),
    ("add.noftz.f16", 4, -9, -5),
    ("add.noftz.bf16", 4, -9, -5),
    ("min.f16", 4, -9, -9),
    ("max.bf16", 4, -9, 4),
];

/// `cp.reduce.async.bulk` of 512 bytes.
fn reduction((operation, held, sent, want): &(&str, i32, i32, i32)) -> Program {
    let ty = operation.rsplit_once('.').map_or("", |(_, ty)| ty);
    let fill = |x: i32| -> Vec<u32> {
        let wide = |x: u64| [x as u32, (x >> 32) as u32].repeat(64);
        match ty {
            "f32" => vec![(x as f32).to_bits(); 128],
            "f64" => wide(f64::from(x).to_bits()),
            "f16" => vec![f16(x) * 0x1_0001; 128],
            "bf16" => vec![bf16(x) * 0x1_0001; 128],
            "u64" | "s64" | "b64" => wide(i64::from(x) as u64),
            _ => vec![x as u32; 128],
        }
    };
    let body = copy(true, 128, "%in")
        + PUBLISH
        + &first(&format!(
            "cp.reduce.async.bulk.global.shared::cta.bulk_group.{operation} [%out], [%tile], 512;\n{DRAIN}"
        ));
    let mut program = program(&format!("cp.reduce.async.bulk.{operation}"), Sm90a, &body).given(fill(*sent));
    program.results = fill(*held);
    program.expecting(fill(*want))
}

/// Two blocks of 32 threads, each other's peers: rank in `%r4`, the peer's in `%r5`, its tile in `%r6`, its mbarrier in `%r7`.
fn clusters() -> Vec<Program> {
    let peer = "mov.u32 %r4, %cluster_ctarank;\nxor.b32 %r5, %r4, 1;\nmov.u32 %r8, bar;\n\
                mapa.shared::cluster.u32 %r6, %tile, %r5;\nmapa.shared::cluster.u32 %r7, %r8, %r5;\n\
                mad.lo.u32 %r9, %t, 4, %tile;\nmad.lo.u32 %r10, %t, 4, %r6;\nld.global.b32 %r11, [%at];\n";
    let publish = format!("st.shared.b32 [%r9], %r11;\n{CLUSTER_SYNC}");
    let send = format!("st.shared::cluster.b32 [%r10], %r11;\n{CLUSTER_SYNC}ld.shared.b32 %r12, [%r9];\n");
    let store = "st.global.b32 [%to], %r12;\n";
    let input = words(1024);
    let swapped: Vec<u32> = [&input[32..64], &input[..32]].concat();
    let both = |x: [u32; 2]| [vec![x[0]; 32], vec![x[1]; 32]].concat();
    let sends = |more: &str| {
        copy(true, 128, "%l5")
            + &init(1)
            + &first(&expect(512))
            + CLUSTER_SYNC
            + more
            + &wait(0)
            + "add.s32 %tile, %tile, 1024;\n"
            + &copy(false, 128, "%l6")
            + CLUSTER_SYNC
    };
    let own = "mul.wide.u32 %l4, %r4, 512;\nadd.s64 %l5, %in, %l4;\nadd.s64 %l6, %out, %l4;\n";
    let between = format!(
        "{peer}{own}{}",
        sends(&first(
            "add.s32 %r6, %r6, 1024;\ncp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes \
             [%r6], [%tile], 512, [%r7];\n"
        ))
    );
    // Block 0 sends the input's second half to both.
    let multicast = format!(
        "{peer}{own}{}",
        sends(&first(
            "setp.eq.u32 %p0, %r4, 0;\nmov.b16 %h0, 3;\nadd.s32 %r12, %tile, 1024;\n\
             @%p0 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster \
             [%r12], [%in+512], 512, [%r8], %h0;\n"
        ))
    );
    let arrive = format!(
        "{peer}{}{CLUSTER_SYNC}st.shared::cluster.b32 [%r10], %r11;\n\
         mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r7];\n\
         {{\nWAIT:\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p6, [bar], 0;\n@!%p6 bra WAIT;\n}}\n\
         ld.shared.b32 %r12, [%r9];\n{store}{CLUSTER_SYNC}",
        init(32)
    );
    let stores = format!(
        "{peer}{}{}{CLUSTER_SYNC}st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%r10], %r11, [%r7];\n\
         {}ld.shared.b32 %r12, [%r9];\n{store}{CLUSTER_SYNC}",
        init(1),
        first(&expect(128)),
        wait(0)
    );
    let ranks = [0, 1].map(|rank| rank + 16 * (1 - rank) + 256 * 2);
    [
        (
            "mapa.ld.shared::cluster",
            format!("{peer}{publish}ld.shared::cluster.b32 %r12, [%r10];\n{store}{CLUSTER_SYNC}"),
            swapped.clone(),
        ),
        ("mapa.st.shared::cluster", format!("{peer}{send}{store}"), swapped.clone()),
        (
            "mapa.u64.ld",
            format!(
                "{peer}{publish}cvt.u64.u32 %l4, %r9;\ncvta.shared.u64 %l4, %l4;\nmapa.u64 %l5, %l4, %r5;\n\
                 ld.b32 %r12, [%l5];\n{store}{CLUSTER_SYNC}"
            ),
            swapped.clone(),
        ),
        (
            "atom.shared::cluster.add.u32",
            format!(
                "{peer}{publish}atom.shared::cluster.add.u32 %r13, [%r10], %t;\n{CLUSTER_SYNC}ld.shared.b32 %r12, [%r9];\n{store}"
            ),
            (0..64).map(|i: usize| input[i].wrapping_add(i as u32 % 32)).collect(),
        ),
        (
            "getctarank.shared::cluster",
            format!(
                "{peer}getctarank.shared::cluster.u32 %r12, %r6;\nmov.u32 %r13, %cluster_nctarank;\n\
                 mad.lo.u32 %r12, %r12, 16, %r4;\nmad.lo.u32 %r12, %r13, 256, %r12;\n{store}{CLUSTER_SYNC}"
            ),
            both(ranks),
        ),
        ("mbarrier.arrive.shared::cluster", arrive, swapped.clone()),
        ("st.async.shared::cluster.b32", stores, swapped),
        (
            "cp.async.bulk.shared::cluster.shared::cta",
            between,
            [&input[128..256], &input[..128]].concat(),
        ),
        ("cp.async.bulk.multicast::cluster", multicast, input[128..256].repeat(2)),
    ]
    .into_iter()
    .map(|(name, body, expected)| {
        let mut program = program(name, Sm90a, &body).expecting(expected);
        program.cluster = 2;
        program
    })
    .collect()
}

/// Barriers of parts of a block, and of two warpgroups that share its registers unevenly.
fn barriers() -> Vec<Program> {
    let input = words(1024);
    let odd = |i: usize| input[i] % 2;
    let ask = "ld.global.b32 %r4, [%at];\nand.b32 %r5, %r4, 1;\nsetp.ne.u32 %p0, %r5, 0;\n";
    let count: u32 = (0..64).map(odd).sum();
    let mut programs = vec![
        program(
            "bar.red.popc.u32",
            Sm80,
            &format!("{ask}bar.red.popc.u32 %r6, 0, %p0;\nst.global.b32 [%to], %r6;\n"),
        )
        .expecting(vec![count; 64]),
    ];
    for (name, value) in [("and", u32::from(count == 64)), ("or", u32::from(count > 0))] {
        let body = format!(
            "{ask}bar.red.{name}.pred %p1, 0, %p0;\nselp.u32 %r6, 1, 0, %p1;\nst.global.b32 [%to], %r6;\n"
        );
        programs.push(program(&format!("bar.red.{name}.pred"), Sm80, &body).expecting(vec![value; 64]));
    }
    // Warp 0 makes words and goes on; warp 1 waits for them.
    let hand_over = "ld.global.b32 %r4, [%at];\nmad.lo.u32 %r6, %t, 4, %tile;\nsetp.gt.u32 %p0, %t, 31;\n@%p0 bra TAKES;\n\
                     st.shared.b32 [%r6], %r4;\nbar.arrive 1, 64;\nst.global.b32 [%to], %r4;\nbra END;\n\
                     TAKES:\nbar.sync 1, 64;\nld.shared.b32 %r5, [%r6+-128];\nst.global.b32 [%to], %r5;\nEND:\n";
    programs.push(program("bar.arrive", Sm80, hand_over).expecting(input[..32].repeat(2)));
    let mut programs: Vec<Program> = programs.into_iter().map(|p| p.threads(64)).collect();

    let groups = "setp.gt.u32 %p0, %t, 127;\nmad.lo.u32 %r6, %t, 4, %tile;\nld.global.b32 %r4, [%at];\n@%p0 bra TAKES;\n\
                  setmaxnreg.dec.sync.aligned.u32 40;\nst.shared.b32 [%r6], %r4;\nbar.arrive 1, 256;\nbra END;\n\
                  TAKES:\nsetmaxnreg.inc.sync.aligned.u32 208;\nbar.sync 1, 256;\nld.shared.b32 %r5, [%r6+-512];\n\
                  st.shared.b32 [%r6], %r5;\nbar.sync 2, 128;\nxor.b32 %r7, %t, 127;\nmad.lo.u32 %r7, %r7, 4, %tile;\n\
                  ld.shared.b32 %r5, [%r7];\nst.global.b32 [%to+-512], %r5;\nEND:\n";
    let mut two = program("setmaxnreg.bar", Sm90a, groups)
        .threads(256)
        .expecting(input[..128].iter().rev().copied().collect());
    // Registers are only moved in kernels whose number of them is stated.
    two.ptx = two.ptx.replacen(")\n{\n", ")\n.maxntid 256, 1, 1\n.maxnreg 128\n{\n", 1);
    programs.push(two);
    programs
}
