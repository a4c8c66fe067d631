//! Texts and launches that are wrong in known ways: one error each, which names what is wrong.

mod support;

use ptxsim::{Card, GlobalMemory, LaunchConfig, LaunchError, Module, Options};
use support::kernel::{DRAIN, NO_MAP, PUBLISH, fault, first, gpu, init, wait};
use support::{Gpu, config};

const HEADER: &str = ".version 8.7\n.target sm_90a\n.address_size 64\n";

/// What loading or decoding says of a kernel with this body.
fn refused(declarations: &str, body: &str) -> String {
    let text = format!("{HEADER}{declarations}\n.visible .entry run() {{\n{body}\nret;\n}}\n");
    let memory = GlobalMemory::new(1 << 30);
    match Module::load(&text, Card::by_name("h200").unwrap(), &memory) {
        Err(error) => error.to_string(),
        Ok(module) => match module.launch("run", &config(1, 32), &[], &memory, Options::default()) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("`{declarations}{body}` runs"),
        },
    }
}

#[test]
fn a_version_is_a_small_number_with_one_decimal() {
    let memory = GlobalMemory::new(1 << 20);
    for version in ["4294967295.0", "429496730.9", "1000.0", "8.10", "8", "-1.0"] {
        let text = format!(".version {version}\n.target sm_80\n.address_size 64\n");
        let error = Module::load(&text, Card::by_name("a100").unwrap(), &memory).err().unwrap().to_string();
        assert!(
            error.contains(&format!("`{version}`")) || error.starts_with("PTX line 1"),
            "{version}: {error}"
        );
    }
}

#[test]
fn each_broken_text_has_one_error() {
    let registers =
        ".reg .b32 %r<8>;\n.reg .b64 %a<4>;\n.reg .pred %p<2>;\n.shared .align 16 .b8 tile[512];\n";
    let with = |body: &str| refused("", &format!("{registers}{body}"));
    let deep = "[".repeat(100_000);
    for (said, wanted) in [
        (with(&format!("ld.global.b32 %r0, {deep}")), "nested too deep"),
        (with(&format!("add.s32 %r0, {}%r1, 1;", "%r1|".repeat(100_000))), "nested too deep"),
        (with("frobnicate.b32 %r0, %r1;"), "PTX line 10: unsupported instruction: `frobnicate.b32`"),
        (with("add.s32 %r0, %r9, 1;"), "`%r9` is not declared"),
        (with("add.s32 %r0, %p1, 1;"), "where a value is expected"),
        (with("add.s32 %r0, %r1;"), "2 operands, 3 are expected"),
        (with("mov.u32 %r0, %envreg2;"), "`%envreg2` of cooperative grids is not supported"),
        (with("bra NOWHERE;"), "no label `NOWHERE`"),
        (with("@%r1 bra HERE;\nHERE:"), "`%r1` is not a declared predicate"),
        (with("mov.b64 {%a0}, %a1;"), "unsupported instruction"),
        (with("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r0, %r1}, [tile];"), "2 registers"),
        (with("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r0, %r1, %r2, %r3, %r4}, [tile];"), "5 registers"),
        (with("stmatrix.sync.aligned.m8n8.x2.shared.b16 [tile], {%r0};"), "1 registers"),
        (with("ld.shared.v4.b32 {%r0, %r1}, [tile];"), "2 elements where 4 are expected"),
        (with("red.shared.add.v2.f32 [tile], {%r0, %r1, %r2};"), "3 elements where 2 are expected"),
        (with("setmaxnreg.inc.sync.aligned.u32 100;"), "multiples of 8 from 24 to 256"),
        (with("griddepcontrol.await;"), "unsupported instruction"),
        (
            with(
                "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b64 [%r0], {%a0, %a0, %a0, %a0}, [%r1];",
            ),
            "unsupported instruction",
        ),
        (with("st.async.release.gpu.global.b32 [%a0], %r0;"), "unsupported instruction"),
        (with("tensormap.replace.tile.rank.shared::cta.b1024.b64 [tile], %a0;"), "rank has the type .b32"),
        (
            with("tensormap.replace.tile.global_stride.b1024.b64 [%a0], 4, %a1;"),
            "global_stride 4, allowed are 0 to 3",
        ),
        (
            with("tensormap.replace.tile.elemtype.shared::cta.b1024.b32 [tile], 13;"),
            "the value 13, allowed are 0 to 12",
        ),
        (
            with("tensormap.replace.tile.fill_mode.shared::cta.b1024.b32 [tile], %r0;"),
            "a register of 32 bits where a constant is expected",
        ),
        (
            with("tensormap.replace.tile.swizzle_atomicity.shared::cta.b1024.b32 [tile], 0;"),
            "needs a target like sm_100a",
        ),
        (
            with(
                "tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync.aligned [%a0], [tile], 64;",
            ),
            "64 bytes, allowed are 128",
        ),
        (with("fence.proxy.tensormap::generic.acquire.gpu [%a0], 64;"), "64 bytes, allowed are 128"),
        (with("fence.proxy.generic;"), "unsupported instruction"),
        (with("atom.global.min.f32 %r0, [%a0], %r1;"), "unsupported instruction"),
        (with("atom.shared.add.v2.f32 {%r0, %r1}, [tile], {%r0, %r1};"), "vectors are for global memory"),
        (with("atom.global.add.v4.f32 {%r0, %r1}, [%a0], {%r0, %r1, %r2, %r3};"), "2 elements where 4"),
        (with("atom.global.add.v8.f32 {%r0, %r1}, [%a0], {%r0, %r1};"), "unsupported instruction"),
        (
            with(
                "red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.min.u64 [%r0], %a0, [%r1];",
            ),
            "unsupported instruction",
        ),
        (with("red.async.release.gpu.global.add.u32 [%a0], %r0;"), "unsupported instruction"),
        (with("set.lt.u16.s16 %r0, %r1, %r2;"), "unsupported instruction"),
        (with("setp.lo.s32 %p0, %r1, %r2;"), "unsupported instruction"),
        (
            with("wmma.load.a.sync.aligned.row.m16n16k16.global.f16 {%r0, %r1}, [%a0];"),
            "2 registers of a, 8 are expected",
        ),
        (
            with("wmma.load.a.sync.aligned.row.m16n16k8.global.f16 {%r0, %r1}, [%a0];"),
            "unsupported instruction",
        ),
        (
            with(
                "wmma.load.a.sync.aligned.m16n16k16.global.f16 {%r0, %r1, %r2, %r3, %r4, %r5, %r6, %r7}, [%a0];",
            ),
            "unsupported instruction",
        ),
        (
            with("wmma.store.d.sync.aligned.row.m16n16k16.global.f32 [%a0], {%r0, %r1};"),
            "2 registers of d, 8 are expected",
        ),
        (
            with("wmma.mma.sync.aligned.row.col.m8n32k16.s32.s8.u8.s32 {%r0}, {%r0}, {%r0}, {%r0};"),
            "unsupported instruction",
        ),
        (
            with("wmma.mma.sync.aligned.row.col.m8n32k16.s32.s8.s8.s32 {%r0}, {%r0}, {%r0}, {%r0};"),
            "1 registers of D, 8 are expected",
        ),
        (
            with(
                "mma.sync.aligned.m16n8k8.row.col.f64.f64.f64.f64 {%a0,%a0}, {%a0,%a0}, {%a0,%a0}, {%a0,%a0};",
            ),
            "2 registers of D, 4 are expected",
        ),
        (
            with("mma.sync.aligned.m16n8k16.row.col.satfinite.s32.s8.f16.s32 {%r0}, {%r0}, {%r0}, {%r0};"),
            "unsupported instruction",
        ),
        (with("ld.global.v4.b64 {%a0, %a1, %a2, %a3}, [%a0];"), "needs a target of sm_100"),
        (
            with("ld.shared.v8.b32 {%r0, %r1, %r2, %r3, %r4, %r5, %r6, %r7}, [tile];"),
            "32 bytes, allowed are 16",
        ),
        (with("ld.global.curious.b32 %r0, [%a0];"), "unsupported instruction"),
        (with("st.bulk.shared::cta [%a0], 128, 0;"), "unsupported instruction"),
        (
            with("cp.async.bulk.global.shared::cta.bulk_group.cp_mask [%a0], [tile], 128, %r0;"),
            "unsupported instruction",
        ),
        (with("multimem.red.relaxed.sys.global.add.f32 [%a0], %r0;"), "multimem addresses are not supported"),
        (with("cvt.rn.satfinite.e2m1x2.f32 %r0, %r1, %r2;"), "needs a target like sm_100a"),
        (with("lop3.b32 %r0, %r1, %r2, %r3, 256;"), "table 256, allowed are 0 to 255"),
        (with("add.f32x2 %a0, %a1, %a2;"), "needs a target of sm_100 or newer, this text is for sm_90"),
        (with("max.f32 %r0, %r1, %r2, %r3;"), "needs a target of sm_100"),
        (with("max.s32 %r0, %r1, %r2, %r3;"), "4 operands, 3 are expected"),
        (with("fma.rn.oob.f16x2 %r0, %r1, %r2, %r3;"), "unsupported instruction"),
        (with(".shared .align 3 .b8 odd[4];"), "alignment 3 of `odd`"),
        (with(".shared .align 4294967296 .b8 odd[4];"), "alignment 4294967296 of `odd`"),
        (with(".shared .b8 large[4294967297];"), "`4294967297` where a number is expected"),
        (with(".reg .b32 %x<4000000000>;"), "4000000000 registers `%x`"),
        (refused(".global .b32 few[1] = {1, 2};", ""), "too many initial values for `few`"),
        (refused(".global .b128 wide = 1;", ""), "initial values of this type are not supported"),
        (refused(".global .b8 huge[2000000000];", ""), "variable `huge`: 2000000000 bytes asked for"),
        (
            with(".local .b8 much[600000];\nst.local.b32 [much], %r0;"),
            "local memory is 600000 bytes, allowed is at most 524288",
        ),
        (with(".shared .b8 much[300000];\nst.shared.b32 [much], %r0;"), "shared memory is 300512 bytes"),
    ] {
        assert!(said.contains(wanted), "`{said}` does not say `{wanted}`");
        assert!(said.len() < 2000, "{} bytes", said.len());
    }
}

#[test]
fn calls_may_meet_but_not_recur() {
    let function = |name: &str, callees: &[&str]| {
        let calls: String = callees.iter().map(|callee| format!("call {callee};\n")).collect();
        format!(".func {name}()\n{{\n{calls}ret;\n}}\n")
    };
    let forward = |name: &str| format!(".func {name}();\n");
    let all = |functions: &[(&str, &[&str])]| -> String {
        let declared: String = functions.iter().map(|(name, _)| forward(name)).collect();
        functions.iter().fold(declared, |text, (name, callees)| text + &function(name, callees))
    };
    for cycle in [
        &[("f", &["f"][..])][..],
        &[("f", &["g"]), ("g", &["f"])],
        &[("f", &["g", "h"]), ("g", &["h"]), ("h", &["f"])],
    ] {
        let said = refused(&all(cycle), "call f;");
        assert!(said.contains("recursion through"), "{said}");
    }
    // Two ways to the same function.
    let declarations = all(&[("f", &["g", "h"]), ("g", &["h"]), ("h", &[])]);
    for first in [["f", "g"], ["g", "f"], ["h", "f"]] {
        let calls = first.map(|name| format!("call {name};\n")).concat();
        let text = format!("{HEADER}{declarations}.visible .entry run() {{\n{calls}ret;\n}}\n");
        Gpu::new("h200", &text).run("run", &config(1, 32), &[]);
    }
}

#[test]
fn launches_that_no_card_does_are_refused() {
    let gpu = Gpu::new("h200", &format!("{HEADER}.visible .entry run(.param .u32 n) {{\nret;\n}}\n"));
    let one = config(1, 32);
    let cluster = |size: [u32; 3], grid: u32| LaunchConfig { cluster: size, ..config(grid, 32) };
    for (shape, bytes, field) in [
        (config(0, 32), 4, "grid"),
        (LaunchConfig { grid: [1, 65_536, 1], ..one.clone() }, 4, "grid"),
        (config(1, 0), 4, "block"),
        (config(1, 1025), 4, "block"),
        (LaunchConfig { block: [1024, 2, 1], ..one.clone() }, 4, "threads per block"),
        (LaunchConfig { block: [1, 1, 65], ..one.clone() }, 4, "block"),
        (LaunchConfig { dynamic_shared_bytes: u32::MAX, ..one.clone() }, 4, "shared memory"),
        (LaunchConfig { dynamic_shared_bytes: 227 * 1024 + 1, ..one.clone() }, 4, "shared memory"),
        (cluster([0, 1, 1], 1), 4, "blocks per cluster"),
        (cluster([u32::MAX, u32::MAX, 2], 1), 4, "blocks per cluster"),
        (cluster([3, 1, 1], 4), 4, "cluster"),
        (one.clone(), 0, "parameters"),
        (one.clone(), 8, "parameters"),
    ] {
        let parameters = vec![0; bytes];
        match gpu.module.launch("run", &shape, &parameters, &gpu.memory, gpu.options) {
            Err(LaunchError::Config { field: found, .. }) => assert_eq!(found, field, "{shape:?}"),
            other => panic!("{shape:?}: {other:?}"),
        }
    }
    assert!(matches!(gpu.launch("no", &one, &[]), Err(LaunchError::NoKernel(_))));
}

/// An access that begins in an allocation and ends a byte behind it, of every kind.
#[test]
fn a_byte_past_the_end_is_out_of_bounds() {
    let bulk_load = "mbarrier.arrive.expect_tx.shared.b64 %a9, [bar], 16;\n\
                     cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r39], [%a0], 16, [bar];";
    let bulk_store = format!("cp.async.bulk.global.shared::cta.bulk_group [%a0], [%r39], 16;\n{DRAIN}");
    for (access, bytes) in [
        ("ld.global.b16 %h0, [%a0];", 2),
        ("ld.global.b32 %r0, [%a0];", 4),
        ("ld.global.v4.b32 {%r0, %r1, %r2, %r3}, [%a0];", 16),
        ("ld.b64 %a9, [%a0];", 8),
        ("st.global.v2.b32 [%a0], {%t, %t};", 8),
        ("st.b32 [%a0], %t;", 4),
        ("atom.global.add.u64 %a9, [%a0], 1;", 8),
        ("red.global.add.u32 [%a0], 1;", 4),
        ("cp.async.cg.shared.global [%r39], [%a0], 16;", 16),
        (bulk_load, 16),
        (&bulk_store, 16),
    ] {
        let filled = "st.shared.v4.b32 [%r39], {%t, %t, %t, %t};";
        let end = if access == bulk_load { wait(0) } else { String::new() };
        let body = [init(1), first(filled), PUBLISH.to_owned(), first(access), end].concat();
        let gpu = gpu("end", &body);
        let launch = |bytes| {
            let at = gpu.upload(&vec![7u8; bytes], |byte| vec![byte]);
            gpu.launch("run", &config(1, 32), &[&NO_MAP, &at, &at])
        };
        assert!(launch(bytes).is_ok(), "{access}: {:?}", launch(bytes).err());
        match launch(bytes - 1) {
            Err(LaunchError::Fault(found)) => {
                assert_eq!(found.kind, ptxsim::FaultKind::OutOfBounds, "{access}: {found}");
            }
            other => panic!("{access} of {} bytes: {other:?}", bytes - 1),
        }
    }
}

#[test]
fn addresses_far_out_are_out_of_bounds() {
    for access in [
        "ld.global.b32 %r0, [%a9];",
        "st.global.b32 [%a9], %t;",
        "ld.shared.b32 %r0, [%a9];",
        "ld.local.b32 %r0, [%a9];",
        "ld.param.b32 %r0, [%a9];",
        "ld.b32 %r0, [%a9];",
        "atom.global.add.u32 %r0, [%a9], 1;",
        "cp.async.ca.shared.global [%r39], [%a9], 4;",
        "cp.async.ca.shared.global [%a9], [%a0], 4;",
        "mbarrier.init.shared.b64 [%a9], 1;",
        "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r0}, [%a9];",
    ] {
        // Null, a small number, past every window, the largest, and one that wraps around to something valid.
        for address in
            ["0x7000000000", "0x1000000000000000", "0x0200ffffffffff00", "0xfffffffffffffff0", "0x100000000"]
        {
            let found = fault("far", 32, &format!("mov.u64 %a9, {address};\n{access}\n"));
            assert_eq!(found.kind, ptxsim::FaultKind::OutOfBounds, "{access} at {address}: {found}");
        }
    }
    let null = fault("null", 32, "mov.u64 %a9, 0;\nld.global.b32 %r0, [%a9];\n");
    assert!(null.to_string().contains("before the allocation of 16384 bytes"), "{null}");
}

#[test]
fn warpgroups_share_the_registers() {
    let body = |counts: &[u32]| -> String {
        counts
            .iter()
            .enumerate()
            .map(|(group, count)| {
                let way = if *count > 100 { "inc" } else { "dec" };
                format!(
                    "setp.ne.u32 %p1, %r0, {group};\n@%p1 bra AFTER{group};\n\
                     setmaxnreg.{way}.sync.aligned.u32 {count};\nAFTER{group}:\n"
                )
            })
            .collect()
    };
    let kernel =
        |counts: &[u32]| support::kernel::gpu("registers", &format!("shr.u32 %r0, %t, 7;\n{}", body(counts)));
    let out = |gpu: &Gpu| gpu.ints(&[0; 4]);
    let sound = kernel(&[24, 240, 240]);
    let at = out(&sound);
    sound.run("run", &config(1, 384), &[&support::kernel::NO_MAP, &at, &at]);
    // 65,536 for 384 threads are 168 each: 504 for three.
    let greedy = kernel(&[32, 240, 240]);
    let at = out(&greedy);
    let found = greedy.fault("run", &config(1, 384), &[&support::kernel::NO_MAP, &at, &at]);
    assert!(found.message.contains("[32, 240, 240] registers per thread, 512 of 504"), "{found}");
    // Two blocks on a multiprocessor have half each.
    let half = |counts: &[u32], of: &str| {
        let text = support::kernel::ptx(&format!("shr.u32 %r0, %t, 7;\n{}", body(counts)));
        let gpu = Gpu::new("h200", &text.replace(".param .u64 out) {", &format!(".param .u64 out) {of} {{")));
        let at = out(&gpu);
        gpu.launch("run", &config(1, 256), &[&support::kernel::NO_MAP, &at, &at]).is_ok()
    };
    assert!(half(&[40, 216], ".maxntid 256 .minnctapersm 2"));
    assert!(!half(&[48, 216], ".maxntid 256 .minnctapersm 2"));
    assert!(half(&[48, 216], ".maxntid 256 .minnctapersm 1"));
}
