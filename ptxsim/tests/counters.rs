//! Counters of copies and bank conflicts, held to numbers counted by hand.

mod support;

use ptxsim::{Counters, LaunchConfig, TensorMap};
use support::kernel::*;
use support::{config, tensor_map};

const U32: u8 = 2;

/// 8 rows of 40 words, in boxes of 32 x 8.
fn map(address: u64) -> TensorMap {
    tensor_map(U32, address, &[40, 8], &[32, 8])
}

/// Counters of `body`, with a map of the input or of the output.
fn count(what: &str, shape: &LaunchConfig, body: &str, of_output: bool) -> Counters {
    let gpu = gpu(what, body);
    let (input, out) = (gpu.ints(&numbers(1024)), gpu.ints(&[0; 1024]));
    gpu.run("run", shape, &[&map(if of_output { out } else { input }).to_bytes(), &input, &out])
}

/// Bytes and sectors loaded, bytes and sectors stored, distinct bytes, bytes copied asynchronously.
fn bytes(c: &Counters) -> [u64; 6] {
    [
        c.global_load_bytes,
        c.global_load_sectors,
        c.global_store_bytes,
        c.global_store_sectors,
        c.distinct_bytes,
        c.async_copy_bytes,
    ]
}

fn load(coordinates: &str, more: &str, mask: &str) -> String {
    format!(
        "mov.u32 %r1, bar;\n\
         cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes{more} \
         [%r39], [%a2, {coordinates}], [%r1]{mask};\n"
    )
}

const EXPECT: &str = "mbarrier.arrive.expect_tx.shared.b64 %s0, [bar], 1024;\n";

#[test]
fn loads_count_what_lies_in_bounds_once() {
    let tensor = |at: &str| init(1) + &first(&format!("{EXPECT}{}", load(at, "", ""))) + &wait(0);
    let of = |at: &str| bytes(&count("tensor load", &config(1, 32), &tensor(at), false));
    assert_eq!(of("{0, 0}"), [1024, 32, 0, 0, 1024, 1024]);
    // Eight columns and five rows of the box are in bounds; rows of 160 bytes start at whole sectors.
    assert_eq!(of("{32, 3}"), [8 * 4 * 5, 5, 0, 0, 8 * 4 * 5, 1024]);
    assert_eq!(of("{-28, -7}"), [16, 1, 0, 0, 16, 1024]);
    assert_eq!(of("{40, 0}"), [0, 0, 0, 0, 0, 1024], "nothing in bounds");

    // Rows of 48 bytes, one behind the other: neighbours share sectors.
    let dense = gpu("dense", &tensor("{0, 0}").replace("1024;", "384;"));
    let input = dense.ints(&numbers(96));
    let map = tensor_map(U32, input, &[12, 8], &[12, 8]);
    let counters = dense.run("run", &config(1, 32), &[&map.to_bytes(), &input, &input]);
    assert_eq!(bytes(&counters), [384, 12, 0, 0, 384, 384]);

    // Twice the same box, by two blocks: loaded twice, distinct once.
    let twice = bytes(&count("twice", &config(2, 32), &tensor("{0, 0}"), false));
    assert_eq!(twice, [2048, 64, 0, 0, 1024, 2048]);
    // Once for both blocks of a cluster.
    let multicast = load("{0, 0}", ".multicast::cluster", ", %h0");
    let body = init(1)
        + &first(EXPECT)
        + CLUSTER_SYNC
        + "mov.u32 %r0, %cluster_ctarank;\nsetp.eq.and.u32 %p1, %r0, 0, %p9;\nmov.b16 %h0, 3;\n@!%p1 bra MEET;\n"
        + &multicast
        + "MEET:\n"
        + &wait(0)
        + CLUSTER_SYNC;
    assert_eq!(bytes(&count("multicast", &cluster(2, 32), &body, false)), [1024, 32, 0, 0, 1024, 2048]);

    let bulk = "add.s64 %a3, %a0, 16;\nmov.u32 %r1, bar;\n\
                cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r39], [%a3], 1024, [%r1];\n";
    let body = init(1) + &first(&format!("{EXPECT}{bulk}")) + &wait(0);
    assert_eq!(bytes(&count("bulk", &config(1, 32), &body, false)), [1024, 33, 0, 0, 1024, 1024]);

    // Half of each word, then one byte more of it.
    let halves = "mul.wide.u32 %a3, %t, 4;\nadd.s64 %a3, %a3, %a0;\nld.global.u16 %r0, [%a3+2];\n";
    assert_eq!(bytes(&count("halves", &config(1, 32), halves, false)), [64, 4, 0, 0, 64, 0]);
    let body = format!("{halves}ld.global.s8 %r0, [%a3+1];\nld.global.v2.u8 {{%h0, %h1}}, [%a3+2];\n");
    assert_eq!(bytes(&count("bytes", &config(1, 32), &body, false)), [160, 12, 0, 0, 96, 0]);

    // Every thread fetches 12 of 16 bytes, the rest is zero.
    let body = "mul.lo.u32 %r0, %t, 16;\ncvt.u64.u32 %a3, %r0;\nadd.s64 %a3, %a3, %a0;\nadd.s32 %r1, %r0, %r39;\n\
                mov.u32 %r2, 12;\ncp.async.cg.shared.global [%r1], [%a3], 16, %r2;\ncp.async.wait_all;\n";
    assert_eq!(bytes(&count("cp.async", &config(1, 32), body, false)), [384, 16, 0, 0, 384, 512]);
}

#[test]
fn stores_count_and_reductions_do_not() {
    let tensor = |name: &str, add: &str, at: &str| {
        format!(
            "{name}.async.bulk.tensor.2d.global.shared::cta{add}.tile.bulk_group [%a2, {at}], [%r39];\n{DRAIN}"
        )
    };
    let with = |text: String| copy(true, 256) + PUBLISH + &first(&text);
    let of = |text: String| {
        let all = bytes(&count("store", &config(1, 32), &with(text), true));
        // The tile came by ordinary loads.
        assert_eq!(all[..2], [1024, 32]);
        [all[2], all[3], all[4] - 1024, all[5]]
    };
    assert_eq!(of(tensor("cp", "", "{0, 0}")), [1024, 32, 1024, 1024]);
    assert_eq!(of(tensor("cp", "", "{36, 6}")), [4 * 4 * 2, 2, 32, 32]);
    assert_eq!(of(tensor("cp.reduce", ".add", "{0, 0}")), [0, 0, 1024, 1024]);
    let bulk = format!("cp.async.bulk.global.shared::cta.bulk_group [%a1], [%r39], 512;\n{DRAIN}");
    assert_eq!(of(bulk), [512, 16, 512, 512]);
}

/// Wavefronts and conflicts of `access`, which uses the address `%r1` = tile + `offset` of each lane `%t`.
fn conflicts(offset: &str, access: &str) -> (u64, u64) {
    let body = format!(
        "mov.u32 %r2, 0;\n{offset}add.s32 %r1, %r1, %r39;\nmov.u32 %r3, %r2;\nmov.u32 %r4, %r2;\nmov.u32 %r5, %r2;\n\
         {access}"
    );
    // What loads read must be there: stored without a conflict first, 4 bytes per lane.
    let clear = "mov.u32 %r6, %r39;\nmad.lo.u32 %r6, %t, 4, %r6;\nmov.u32 %r7, 0;\nCLEAR:\nst.shared.b32 [%r6], %r7;\n\
                 add.s32 %r6, %r6, 128;\nadd.s32 %r7, %r7, 1;\nsetp.lt.u32 %p1, %r7, 64;\n@%p1 bra CLEAR;\nbar.sync 0;\n";
    let c = count("conflicts", &config(1, 32), &format!("{clear}{body}"), false);
    assert_eq!(c.bank_conflicts, c.bank_conflicts_by_line.values().sum::<u64>());
    (c.shared_wavefronts - 64, c.bank_conflicts)
}

#[test]
fn wide_and_matrix_accesses_conflict_as_banks_do() {
    let load4 = "ld.shared.v4.b32 {%r10, %r11, %r12, %r13}, [%r1];\n";
    let store4 = "st.shared.v4.b32 [%r1], {%r2, %r3, %r4, %r5};\n";
    let load2 = "ld.shared.v2.b32 {%r10, %r11}, [%r1];\n";
    // Rows of 16 bytes side by side: a quarter of the warp per pass.
    assert_eq!(conflicts("mul.lo.u32 %r1, %t, 16;\n", load4), (4, 0));
    assert_eq!(conflicts("mul.lo.u32 %r1, %t, 16;\n", store4), (4, 0));
    assert_eq!(conflicts("mul.lo.u32 %r1, %t, 8;\n", load2), (2, 0));
    // 128 bytes apart: the eight of a pass share four banks.
    assert_eq!(conflicts("mul.lo.u32 %r1, %t, 128;\n", load4), (32, 28));
    // 144 bytes apart (a row padded by 16): none do.
    assert_eq!(conflicts("mul.lo.u32 %r1, %t, 144;\n", load4), (4, 0));
    // Chunks XOR row, as the 128-byte swizzle has them.
    let swizzled =
        "and.b32 %r3, %t, 7;\nshl.b32 %r3, %r3, 4;\nmul.lo.u32 %r1, %t, 128;\nadd.s32 %r1, %r1, %r3;\n";
    assert_eq!(conflicts(swizzled, load4), (4, 0));
    // All lanes the same 16 bytes.
    assert_eq!(conflicts("mov.u32 %r1, 0;\n", load4), (4, 0));

    for (matrices, name) in [(1, "x1"), (2, "x2"), (4, "x4")] {
        let load: Vec<String> = (10..10 + matrices).map(|r| format!("%r{r}")).collect();
        let store: Vec<String> = (2..2 + matrices).map(|r| format!("%r{r}")).collect();
        let accesses = [
            format!("ldmatrix.sync.aligned.m8n8.{name}.shared.b16 {{{}}}, [%r1];\n", load.join(", ")),
            format!("ldmatrix.sync.aligned.m8n8.{name}.trans.shared.b16 {{{}}}, [%r1];\n", load.join(", ")),
            format!("stmatrix.sync.aligned.m8n8.{name}.shared.b16 [%r1], {{{}}};\n", store.join(", ")),
        ];
        for access in accesses {
            let of = |offset: &str| conflicts(offset, &access);
            // One pass per matrix of eight rows; eight where the rows are 128 bytes apart.
            assert_eq!(of("mul.lo.u32 %r1, %t, 144;\n"), (matrices, 0), "{access}");
            assert_eq!(of("mul.lo.u32 %r1, %t, 128;\n"), (8 * matrices, 7 * matrices), "{access}");
            assert_eq!(of("mul.lo.u32 %r1, %t, 32;\n"), (2 * matrices, matrices), "{access}");
            assert_eq!(of(swizzled), (matrices, 0), "{access}");
        }
    }
}
