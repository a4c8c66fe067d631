//! State spaces and their generic addresses, indexed branches, carries, parameters and constants.

mod support;

use ptxsim::FaultKind;
use support::kernel::*;
use support::{Gpu, config};

/// Lane `t` leaves `%r1` in the output's word `t`.
const KEEP: &str = "mul.wide.u32 %a5, %t, 4;\nadd.s64 %a5, %a5, %a1;\nst.global.b32 [%a5], %r1;\n";

#[test]
fn generic_addresses_lead_to_their_spaces() {
    // Bits: global, shared::cta, shared::cluster, local, param, as each address answers.
    let ask = |address: &str| {
        let bit = |i: u32, space: &str| {
            format!(
                "isspacep.{space} %p1, {address};\nselp.u32 %r2, {}, 0, %p1;\nor.b32 %r1, %r1, %r2;\n",
                1 << i
            )
        };
        let spaces = ["global", "shared::cta", "shared::cluster", "local", "param"];
        let bits: String = (0..).zip(spaces).map(|(i, space)| bit(i, space)).collect();
        format!("mov.u32 %r1, 0;\n{bits}")
    };
    let at = |i: u32| format!("st.global.b32 [%a1+{}], %r1;\n", 4 * i);
    let body = ".local .align 8 .b8 own[16];\ncvt.u64.u32 %a3, %r39;\ncvta.shared.u64 %a4, %a3;\n".to_owned()
        + "mov.u64 %a6, own;\ncvta.local.u64 %a7, %a6;\n"
        + &ask("%a0") + &at(0)
        + &ask("%a4") + &at(1)
        + &ask("%a7") + &at(2)
        + &ask("%a2") + &at(3)
        // The other block's shared memory.
        + "mov.u32 %r3, %cluster_ctarank;\nxor.b32 %r4, %r3, 1;\nmapa.u64 %a8, %a4, %r4;\n"
        + &ask("%a8") + &at(4)
        + "getctarank.u32 %r1, %a8;\nsub.u32 %r1, %r1, %r4;\n" + &at(5)
        + "getctarank.u32 %r1, %a4;\nsub.u32 %r1, %r1, %r3;\n" + &at(6)
        // There and back again; through generic addresses memory is the same.
        + "cvta.to.shared.u64 %a9, %a4;\nsub.s64 %a9, %a9, %a3;\ncvt.u32.u64 %r1, %a9;\n" + &at(7)
        + "mov.u32 %r5, 77;\nst.b32 [%a4+8], %r5;\nld.shared.b32 %r1, [%r39+8];\n" + &at(8)
        + "st.local.b32 [own+4], 78;\nld.b32 %r1, [%a7+4];\n" + &at(9)
        // Blocks write to each other.
        + CLUSTER_SYNC
        + "add.u32 %r5, %r3, 500;\nst.b32 [%a8+16], %r5;\n"
        + CLUSTER_SYNC
        + "ld.shared.b32 %r1, [%r39+16];\nadd.u32 %r1, %r1, %r3;\n" + &at(10)
        + CLUSTER_SYNC;
    let got = run("spaces", &cluster(2, 1), &body, NO_MAP, &[0], 11);
    assert_eq!(got, [1, 0b110, 0b1000, 0b10000, 0b100, 0, 0, 0, 77, 78, 501]);
}

#[test]
fn indexed_branches_go_where_the_index_says() {
    let arms: String =
        (0..4).map(|i| format!("ARM{i}:\nadd.u32 %r1, %r1, {};\nbra JOIN;\n", 10 * i + 7)).collect();
    let body = |index: &str| {
        format!(
            "WAYS: .branchtargets ARM0, ARM1, ARM2, ARM3;\nmov.u32 %r1, 0;\n{index}brx.idx %r0, WAYS;\n{arms}JOIN:\n\
             {KEEP}"
        )
    };
    let ran = |mask: u32| {
        let gpu = gpu("brx", &body(&format!("and.b32 %r0, %t, {mask};\n")));
        let out = gpu.ints(&[0; 32]);
        let counters = gpu.run("run", &config(1, 32), &[&NO_MAP, &out, &out]);
        let want = (0..32).map(|lane| 10 * (lane & mask) + 7);
        assert_eq!(gpu.read_ints(out, 32), want.collect::<Vec<_>>(), "lanes by {mask}");
        counters.thread_instructions
    };
    // Each lane its own way and no other, or all one way.
    assert_eq!(ran(3), ran(0));
    let past = fault("brx past", 32, &body("and.b32 %r0, %t, 7;\n"));
    assert_eq!(past.kind, FaultKind::IllegalInstruction, "{past}");
}

#[test]
fn carries_go_from_word_to_word() {
    // 128-bit sums, differences and products of words of the input, against u128.
    let words = numbers(8 * 32);
    let number = |lane: usize, i: usize| {
        (0..4).fold(0u128, |x, w| x | u128::from(words[8 * lane + 4 * i + w]) << (32 * w))
    };
    let load: String = (0..8).map(|i| format!("ld.global.b32 %r{}, [%a3+{}];\n", 10 + i, 4 * i)).collect();
    let keep: String = (0..4).map(|i| format!("st.global.b32 [%a4+{}], %r{};\n", 4 * i, 20 + i)).collect();
    type Wide = fn(u128, u128) -> u128;
    let cases: [(&str, String, Wide); 3] = [
        (
            "add",
            (0..4)
                .map(|i| format!("add{}{}.u32 %r{}, %r{}, %r{};\n", if i > 0 { "c" } else { "" }, if i < 3 { ".cc" } else { "" }, 20 + i, 10 + i, 14 + i))
                .collect(),
            u128::wrapping_add,
        ),
        (
            "sub",
            (0..4)
                .map(|i| format!("sub{}{}.u32 %r{}, %r{}, %r{};\n", if i > 0 { "c" } else { "" }, if i < 3 { ".cc" } else { "" }, 20 + i, 10 + i, 14 + i))
                .collect(),
            u128::wrapping_sub,
        ),
        (
            // (a0 + a1 2^32) b0 + the upper word of a, as multi-word products go.
            "mad",
            "mad.lo.cc.u32 %r20, %r10, %r14, %r13;\nmadc.hi.cc.u32 %r21, %r10, %r14, 0;\naddc.u32 %r22, 0, 0;\n\
             mad.lo.cc.u32 %r21, %r11, %r14, %r21;\nmadc.hi.u32 %r22, %r11, %r14, %r22;\nmov.u32 %r23, 0;\n"
                .to_owned(),
            |a, b| (a & 0xffff_ffff_ffff_ffff) * (b & 0xffff_ffff) + (a >> 96),
        ),
    ];
    for (name, text, want) in cases {
        let body = format!(
            "mul.wide.u32 %a3, %t, 32;\nadd.s64 %a3, %a3, %a0;\nmul.wide.u32 %a4, %t, 16;\nadd.s64 %a4, %a4, %a1;\n\
             {load}{text}{keep}"
        );
        let got = run(name, &config(1, 32), &body, NO_MAP, &words, 128);
        for lane in 0..32 {
            let sum = (0..4).fold(0u128, |x, w| x | u128::from(got[4 * lane + w]) << (32 * w));
            assert_eq!(sum, want(number(lane, 0), number(lane, 1)), "{name}, lane {lane}");
        }
    }
}

#[test]
fn constants_and_parameters_are_read() {
    let text = ".version 8.7\n.target sm_80\n.address_size 64\n\
        .const .align 4 .b8 table[8] = {1, 2, 3, 4, 5, 6, 7, 8};\n.global .align 4 .u32 count = 5;\n\
        .visible .entry run(.param .u64 out, .param .align 8 .b8 several[12], .param .u8 small) {\n\
        .reg .b32 %r<6>;\n.reg .b64 %a<4>;\nld.param.u64 %a0, [out];\n\
        ld.const.b32 %r0, [table+4];\nst.global.b32 [%a0], %r0;\nld.const.u8 %r0, [table+2];\nst.global.b32 [%a0+4], %r0;\n\
        ld.param.b32 %r0, [several+8];\nst.global.b32 [%a0+8], %r0;\nld.param.s8 %r0, [small];\nst.global.b32 [%a0+12], %r0;\n\
        atom.global.add.u32 %r0, [count], 3;\nld.global.u32 %r0, [count];\nst.global.b32 [%a0+16], %r0;\n\
        mov.u32 %r1, %laneid;\nmov.u64 %a1, table;\ncvta.const.u64 %a1, %a1;\nld.u8 %r0, [%a1+7];\nst.global.b32 [%a0+20], %r0;\nret;\n}\n";
    let gpu = Gpu::new("a100", text);
    let out = gpu.ints(&[0; 6]);
    let mut parameters = out.to_le_bytes().to_vec();
    parameters.extend([1u32, 2, 0xdead_beef].iter().flat_map(|x| x.to_le_bytes()));
    parameters.push(0xfe);
    gpu.module.launch("run", &config(1, 1), &parameters, &gpu.memory, gpu.options).unwrap();
    assert_eq!(gpu.read_ints(out, 6), [0x0807_0605, 3, 0xdead_beef, -2i32 as u32, 8, 8]);
    // The variable keeps what the kernel left there.
    gpu.module.launch("run", &config(1, 1), &parameters, &gpu.memory, gpu.options).unwrap();
    assert_eq!(gpu.read_ints(out, 5)[4], 11);
}
