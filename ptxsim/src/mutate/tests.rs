use super::*;

/// What a rule makes of an instruction, alone in a kernel.
fn edited(rule: &str, instruction: &str) -> Vec<String> {
    edited_before(rule, instruction, "")
}

/// The same with instructions behind it.
fn edited_before(rule: &str, instruction: &str, rest: &str) -> Vec<String> {
    let text = format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n.visible .entry k() {{\n.reg .b32 %r<9>;\n.reg .f32 %f<9>;\n\
         .reg .b64 %d<9>;\n.reg .pred %p<9>;\n{instruction}\n{rest}\nret;\n}}\n"
    );
    let body = Body::new(&text, "k").unwrap();
    let rule = RULES.iter().find(|r| r.name == rule).unwrap();
    let edits = rule.edits(&body.sites[0], &body);
    let new = edits.into_iter().map(|edit| apply(&text, &edit));
    // Every edit leaves a text that parses.
    new.inspect(|new| drop(crate::ptx::parse(new).unwrap_or_else(|e| panic!("{e}: {new}"))))
        .map(|new| {
            let lines: Vec<_> = new.lines().skip(8).take_while(|line| *line != "ret;").collect();
            lines.join("|").trim_end_matches('|').to_owned()
        })
        .collect()
}

#[test]
fn each_rule_makes_its_mistake() {
    #[rustfmt::skip]
    let table: &[(&str, &str, &[&str])] = &[
        ("drop-fence", "fence.proxy.async.shared::cta;", &[""]),
        ("drop-fence", "membar.gl;", &[""]),
        ("drop-fence", "wgmma.fence.sync.aligned;", &[]),
        ("drop-wgmma-fence", "wgmma.fence.sync.aligned;", &[""]),
        ("drop-wait", "@%p1 cp.async.wait_all;", &[""]),
        ("drop-wait", "griddepcontrol.wait;", &[""]),
        ("drop-wait", "griddepcontrol.launch_dependents;", &[]),
        ("loosen-wait", "cp.async.bulk.wait_group.read 0;", &["cp.async.bulk.wait_group.read 1;"]),
        ("loosen-wait", "wgmma.wait_group.sync.aligned 2;", &["wgmma.wait_group.sync.aligned 3;"]),
        ("drop-commit", "cp.async.commit_group;", &[""]),
        ("drop-barrier", "bar.sync 0;", &[""]),
        ("drop-barrier", "bar.warp.sync -1;", &[]),
        ("drop-barrier", "barrier.cluster.arrive;", &[]),
        ("drop-warp-sync", "bar.warp.sync -1;", &[""]),
        ("barrier-threads", "bar.sync 1, 128;", &["bar.sync 1, 160;", "bar.sync 1, 96;"]),
        ("barrier-threads", "bar.arrive %r1, %r2;", &[
            "{ .reg .b32 changed; add.s32 changed, %r2, 32; bar.arrive %r1, changed; }",
            "{ .reg .b32 changed; add.s32 changed, %r2, -32; bar.arrive %r1, changed; }"]),
        ("barrier-number", "bar.sync 1, 128;", &["bar.sync 2, 128;"]),
        ("barrier-number", "bar.sync 0;", &[]),
        ("skip-mbarrier-wait", "@!%p1 mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r1], %r2;", &["@!%p1 setp.eq.u32 %p2, 0, 0;"]),
        ("wait-parity", "mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r1], 1;", &["mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r1], 0;"]),
        ("drop-arrival", "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], 64;", &[""]),
        ("expected-bytes", "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], 64;", &[
            "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], 80;", "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], 48;"]),
        ("expected-bytes", "mbarrier.arrive.shared::cta.b64 _, [%r1];", &[]),
        ("mbarrier-count", "mbarrier.init.shared::cta.b64 [%r1], 8;", &["mbarrier.init.shared::cta.b64 [%r1], 9;", "mbarrier.init.shared::cta.b64 [%r1], 7;"]),
        ("shuffle-lane", "shfl.sync.bfly.b32 %r1|%p1, %r2, 16, 31, -1;", &["shfl.sync.bfly.b32 %r1|%p1, %r2, 0, 31, -1;"]),
        ("shuffle-lane", "shfl.sync.idx.b32 %r1, %r2, 0, 31, -1;", &["shfl.sync.idx.b32 %r1, %r2, 1, 31, -1;"]),
        ("member-mask", "shfl.sync.idx.b32 %r1, %r2, 0, 31, -1;", &["shfl.sync.idx.b32 %r1, %r2, 0, 31, 2147483647;"]),
        ("member-mask", "vote.sync.all.pred %p1, %p2, 0xffffffff;", &["vote.sync.all.pred %p1, %p2, 2147483647;"]),
        ("copy-bytes", "cp.async.cg.shared.global [%r1], [%d1], 16;", &["cp.async.cg.shared.global [%r1], [%d1], 16, 8;"]),
        ("copy-bytes", "cp.async.cg.shared.global [%r1], [%d1], 16, %r2;", &[
            "{ .reg .b32 changed; shr.b32 changed, %r2, 1; cp.async.cg.shared.global [%r1], [%d1], 16, changed; }"]),
        ("copy-bytes", "cp.async.bulk.global.shared::cta.bulk_group [%d1], [%r1], 64;", &[
            "cp.async.bulk.global.shared::cta.bulk_group [%d1], [%r1], 80;", "cp.async.bulk.global.shared::cta.bulk_group [%d1], [%r1], 48;"]),
        ("copy-bytes", "cp.async.bulk.wait_group 0;", &[]),
        ("coordinate", "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%d1, {%r1, 3}], [%r2];", &[
            "{ .reg .b32 changed; add.s32 changed, %r1, 1; cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%d1, {changed, 3}], [%r2]; }",
            "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%d1, {%r1, 4}], [%r2];"]),
        ("multicast-mask", "cp.async.bulk.tensor.1d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%r1], [%d1, {%r2}], [%r3], 3;", &[
            "cp.async.bulk.tensor.1d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%r1], [%d1, {%r2}], [%r3], 2;"]),
        ("cluster-rank", "mapa.shared::cluster.u32 %r1, %r2, 0;", &["mapa.shared::cluster.u32 %r1, %r2, 1;"]),
        ("drop-copy", "cp.async.ca.shared.global [%r1], [%d1], 4;", &[""]),
        ("drop-copy", "cp.async.bulk.commit_group;", &[]),
        ("drop-store", "@%p1 st.global.f32 [%d1+8], %f1;", &[""]),
        ("drop-store", "ld.global.f32 %f1, [%d1];", &[]),
        ("address", "ld.shared.v2.f32 {%f1, %f2}, [%r1+8];", &["ld.shared.v2.f32 {%f1, %f2}, [%r1+12];", "ld.shared.v2.f32 {%f1, %f2}, [%r1+-8];"]),
        ("address", "st.shared.f32 [%r1], %f1;", &["st.shared.f32 [%r1+4], %f1;", "st.shared.f32 [%r1+-16], %f1;"]),
        ("address", "ld.param.b32 %r1, [%r1];", &[]),
        ("matrix-transpose", "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [%r2];", &["ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%r1}, [%r2];"]),
        ("matrix-transpose", "ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%r1}, [%r2];", &["ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [%r2];"]),
        ("fragment-order", "ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r1, %r3}, [%r2];", &["ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r3, %r1}, [%r2];"]),
        ("fragment-order", "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%f1, %f2, %f3, %f4}, {%r1, %r1}, {%r3}, {%f1, %f2, %f3, %f4};", &[
            "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%f2, %f1, %f3, %f4}, {%r1, %r1}, {%r3}, {%f1, %f2, %f3, %f4};"]),
        ("register-count", "setmaxnreg.dec.sync.aligned.u32 40;", &["setmaxnreg.dec.sync.aligned.u32 48;", "setmaxnreg.dec.sync.aligned.u32 32;"]),
        ("negate-guard", "@!%p1 add.s32 %r1, %r2, 1;", &["@%p1 add.s32 %r1, %r2, 1;"]),
        ("negate-guard", "@%p1 add.s32 %r1, %r2, 1;", &["@!%p1 add.s32 %r1, %r2, 1;"]),
        ("negate-guard", "add.s32 %r1, %r2, 1;", &[]),
    ];
    for (rule, instruction, wanted) in table {
        assert_eq!(edited(rule, instruction), *wanted, "{rule}: {instruction}");
    }
}

#[test]
fn rules_that_look_around_make_their_mistakes() {
    let rest = "mov.b32 %r4, 0;\nbarrier.cluster.wait.aligned;";
    let both = edited_before("drop-cluster-barrier", "barrier.cluster.arrive.aligned;", rest);
    assert_eq!(both, ["|mov.b32 %r4, 0;"]);
    assert!(edited("drop-cluster-barrier", "barrier.cluster.arrive.aligned;").is_empty(), "nobody waits");
    // An address by way of arithmetic; and a number that is none.
    let used = "shl.b32 %r4, %r1, 2;\nadd.s32 %r5, %r6, %r4;\nld.shared.b32 %r7, [%r5+16];";
    assert_eq!(
        edited_before("swizzle", "xor.b32 %r1, %r2, 7;", used),
        [format!("mov.b32 %r1, %r2;|{}", used.replace('\n', "|"))]
    );
    assert!(edited_before("swizzle", "xor.b32 %r7, %r2, 7;", used).is_empty());
}

#[test]
fn products_get_every_other_operand() {
    let product = |a: &str, b: &str, end: &str| {
        format!(
            "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {{%f1, %f2, %f3, %f4}}, {a}, {b}, {end};"
        )
    };
    let wrapped = |by: &str, inner: String| format!("{{ .reg .b64 changed; {by} {inner} }}");
    let plain = product("%d1", "%d2", "%p1, 1, 1, 0, 1");
    for (rule, operation, value) in [
        ("descriptor-start", "add.s64", "1"),
        ("descriptor-leading", "add.s64", "65536"),
        ("descriptor-stride", "add.s64", "4294967296"),
        ("descriptor-swizzle", "xor.b64", "4611686018427387904"),
    ] {
        let of = |register: &str| format!("{operation} changed, {register}, {value};");
        let both = [
            wrapped(&of("%d1"), product("changed", "%d2", "%p1, 1, 1, 0, 1")),
            wrapped(&of("%d2"), product("%d1", "changed", "%p1, 1, 1, 0, 1")),
        ];
        assert_eq!(edited(rule, &plain), both, "{rule}");
        let registers = edited(rule, &product("{%r1, %r2, %r3, %r4}", "%d2", "%p1, 1, 1, 0"));
        assert_eq!(registers.len(), 1, "{rule}: A is no descriptor");
    }
    assert_eq!(
        edited("wgmma-flags", &plain),
        [
            "{ .reg .pred changed; not.pred changed, %p1; ".to_owned()
                + &product("%d1", "%d2", "changed, 1, 1, 0, 1")
                + " }",
            product("%d1", "%d2", "%p1, -1, 1, 0, 1"),
            product("%d1", "%d2", "%p1, 1, -1, 0, 1"),
            product("%d1", "%d2", "%p1, 1, 1, 1, 1"),
            product("%d1", "%d2", "%p1, 1, 1, 0, 0"),
        ]
    );
    let always = edited("wgmma-flags", &product("%d1", "%d2", "1, 1, 1, 0, 1"));
    assert_eq!(always[0], product("%d1", "%d2", "0, 1, 1, 0, 1"));
    let swapped = edited("fragment-order", &product("{%r1, %r2, %r3, %r4}", "%d2", "1, 1, 1, 0"));
    assert!(
        swapped[0].contains("{%f2, %f1, %f3, %f4}") && swapped[1].contains("{%r2, %r1, %r3, %r4}"),
        "{swapped:?}"
    );
}

#[test]
fn maps_are_found_and_changed_in_one_field_each() {
    let map = TensorMap {
        data_type: 9,
        address: 0x1000,
        dimensions: vec![64, 100, 1],
        strides: vec![128, 12800],
        box_size: vec![64, 32, 1],
        element_strides: vec![1, 1, 1],
        interleave: 0,
        swizzle: 3,
        promotion: 2,
        fill: 0,
    };
    let mut parameters = vec![0; 200];
    parameters[64..192].copy_from_slice(&map.to_bytes());
    assert_eq!(tensor_maps(&parameters), [(64, map.clone())]);
    let others = other_maps(&map);
    // Two boxes, two sizes, the stride of the second dimension, the swizzle, the address.
    assert_eq!(others.len(), 7);
    for other in &others {
        let (was, now) = (map.to_bytes(), TensorMap::from_bytes(&other.to_bytes()).unwrap());
        assert_eq!(&now, other);
        assert_eq!(was.iter().zip(other.to_bytes()).filter(|(a, b)| *a != b).count(), 1, "{other:?}");
    }
}

#[test]
fn long_lines_are_shortened_where_they_are_shown() {
    let text = format!("one\n  two  {}  end\nthree\n", "x".repeat(400));
    let edit = vec![(4..9, "2".to_owned())];
    let (before, after) = shown(&text, &edit);
    assert!(before.starts_with("two x") && before.ends_with(" end") && before.len() < 310, "{before}");
    assert!(after.starts_with("2 x"), "{after}");
}
