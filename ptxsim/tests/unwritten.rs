//! Copies of global memory that nothing has written: a fault where the bytes are used, not where they are copied.

mod support;

use ptxsim::{FaultKind, TensorMap};
use support::kernel::*;
use support::{config, tensor_map};

const U32: u8 = 2;
/// Words written of an allocation of 256: the last row of 32 in part.
const WRITTEN: usize = 150;

/// The copies that bring 256 words from `%a0` (or through the map) to the tile.
fn copies() -> [(&'static str, String); 3] {
    let expect = "mbarrier.arrive.expect_tx.shared.b64 %s0, [bar], 1024;\nmov.u32 %r1, bar;\n";
    let bulk =
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r39], [%a0], 1024, [%r1];\n";
    let tensor = "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes \
                  [%r39], [%a2, {0, 0}], [%r1];\n";
    let each = "setp.gt.u32 %p1, %t, 63;\n@%p1 bra PAST;\nmul.lo.u32 %r0, %t, 16;\ncvt.u64.u32 %a3, %r0;\nadd.s64 %a3, %a3, %a0;\nadd.s32 %r1, %r0, %r39;\n\
                cp.async.cg.shared.global [%r1], [%a3], 16;\ncp.async.wait_all;\nPAST:\nbar.sync 0;\n";
    [
        ("cp.async", each.to_owned()),
        ("bulk", init(1) + &first(&format!("{expect}{bulk}")) + &wait(0)),
        ("tensor", init(1) + &first(&format!("{expect}{tensor}")) + &wait(0)),
    ]
}

/// Runs `body` on an input of 256 words of which 150 are written.
fn launch(what: &str, body: &str) -> Result<Vec<u32>, ptxsim::Fault> {
    let gpu = gpu(what, body);
    let (input, out) = (gpu.space(1024), gpu.ints(&[0; 256]));
    gpu.memory.write(input, &bytes_of(&numbers(WRITTEN as u32))).unwrap();
    let map = TensorMap { swizzle: 3, ..tensor_map(U32, input, &[32, 8], &[32, 8]) };
    gpu.try_run("run", &config(1, 128), &[&map.to_bytes(), &input, &out]).map(|_| gpu.read_ints(out, 256))
}

#[test]
fn unwritten_bytes_may_be_copied_but_not_used() {
    for (what, copy) in copies() {
        // Without a swizzle every word is where it was; row 0 and the chunks of row 4 stay under one, too.
        let swizzled = |word: u32| match what {
            "tensor" => {
                let (chunk, row) = (word / 4 % 8, word / 32 % 8);
                word / 32 * 32 + (chunk ^ row) * 4 + word % 4
            }
            _ => word,
        };
        let read = |word: u32| {
            format!("ld.shared.b32 %r5, [%r39+{}];\nst.global.b32 [%a1], %r5;\n", 4 * swizzled(word))
        };
        for word in [0, 31, 128, WRITTEN as u32 - 1] {
            let got = launch(what, &(copy.clone() + &read(word))).unwrap();
            assert_eq!(got[0], numbers(256)[word as usize], "{what}, word {word}");
        }
        for word in [WRITTEN as u32, 159, 160, 255] {
            let fault = launch(what, &(copy.clone() + &read(word))).unwrap_err();
            assert_eq!(fault.kind, FaultKind::Uninitialized, "{what}, word {word}: {fault}");
            assert!(fault.message.contains("copied from memory"), "{what}: {fault}");
        }
        // Written over, the bytes are like any others.
        let at = 4 * swizzled(200);
        let fill =
            format!("fence.proxy.async;\nbar.sync 0;\n@%p9 st.shared.b32 [%r39+{at}], %t;\nbar.sync 0;\n");
        assert!(launch(what, &(copy.clone() + &fill + &read(200))).is_ok(), "{what}");
    }
}

#[test]
fn unwritten_bytes_are_not_stored_nor_multiplied() {
    let [_, (_, bulk), _] = copies();
    let store = "cp.async.bulk.global.shared::cta.bulk_group [%a1], [%r39], ";
    let kept = first(&format!("{store}592;\n{DRAIN}"));
    assert_eq!(launch("store", &(bulk.clone() + &kept)).unwrap()[..148], numbers(148));
    let lost = first(&format!("{store}608;\n{DRAIN}"));
    assert_eq!(launch("store", &(bulk.clone() + &lost)).unwrap_err().kind, FaultKind::Uninitialized);

    // A of 64 x 16 (its groups of eight rows all the same) and B of 16 x 8 bf16, 256 bytes each, no swizzle.
    let product = |b: u32| {
        format!(
            "shr.u32 %r0, %r39, 4;\ncvt.u64.u32 %a3, %r0;\nadd.s64 %a3, %a3, 0x80000;\nadd.s64 %a4, %a3, {};\n\
             wgmma.fence.sync.aligned;\n\
             wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {{%f0, %f1, %f2, %f3}}, %a3, %a4, 0, 1, 1, 0, 0;\n\
             wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n",
            b / 16
        )
    };
    assert!(launch("product", &(bulk.clone() + &product(256))).is_ok());
    let fault = launch("product", &(bulk + &product(512))).unwrap_err();
    assert_eq!(fault.kind, FaultKind::Uninitialized, "{fault}");
}
