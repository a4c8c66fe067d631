//! Tensor maps that kernels change (PTX ISA 9.0, 9.7.9.26 and 9.7.13.16), and copies through them.

mod support;

use ptxsim::{FaultKind, TensorMap};
use support::config;
use support::kernel::*;

/// Of one dimension, and no field as in [`wanted`].
fn template() -> TensorMap {
    TensorMap {
        data_type: 0,
        address: 1 << 20,
        dimensions: vec![7],
        strides: vec![],
        box_size: vec![16],
        element_strides: vec![1],
        interleave: 1,
        swizzle: 3,
        promotion: 2,
        fill: 0,
    }
}

fn wanted(address: u64) -> TensorMap {
    TensorMap {
        data_type: 7,
        address,
        dimensions: vec![40, 6, 3],
        strides: vec![160, 960],
        box_size: vec![8, 3, 2],
        element_strides: vec![1, 2, 1],
        interleave: 0,
        swizzle: 1,
        promotion: 2,
        fill: 1,
    }
}

/// Every field, in an order that makes maps between which are none.
fn replace(space: &str, at: &str) -> String {
    let b32 = [
        ("rank", "2"),
        ("box_dim", "0, 8"),
        ("box_dim", "1, 3"),
        ("box_dim", "2, 2"),
        ("global_dim", "0, %r20"),
        ("global_dim", "1, 6"),
        ("global_dim", "2, 3"),
        ("element_stride", "0, 1"),
        ("element_stride", "1, 2"),
        ("element_stride", "2, 1"),
        ("elemtype", "7"),
        ("interleave_layout", "0"),
        ("swizzle_mode", "1"),
        ("fill_mode", "1"),
    ];
    let b64 = [("global_address", "%a0"), ("global_stride", "0, 160"), ("global_stride", "1, 960")];
    let one = |ty: &str, (field, value): &(&str, &str)| {
        format!("tensormap.replace.tile.{field}{space}.b1024.{ty} [{at}], {value};\n")
    };
    "mov.b32 %r20, 40;\n".to_owned()
        + &b32.iter().map(|f| one("b32", f)).collect::<String>()
        + &b64.iter().map(|f| one("b64", f)).collect::<String>()
}

/// Loads the box at (36, 1, 1) through the map at `%a6` to the tile, and stores it behind the map.
fn load_and_store() -> String {
    init(1)
        + &first(
            "fence.proxy.tensormap::generic.acquire.gpu [%a6], 128;\n\
             mbarrier.arrive.expect_tx.shared.b64 %s0, [bar], 128;\nmov.u32 %r1, bar;\n\
             cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r39], \
             [%a6, {36, 1, 1}], [%r1];\n",
        )
        + &wait(0)
        + "add.s64 %a1, %a1, 128;\n"
        + &copy(false, 32)
}

fn check(what: &str, change: &str) {
    let body = "add.s64 %a6, %a1, 0;\n".to_owned() + change + &load_and_store();
    let gpu = gpu(what, &body);
    let data: Vec<f32> = (0..40 * 6 * 3).map(|i| i as f32).collect();
    let tensor = gpu.floats(&data);
    let template: Vec<u8> = template().to_bytes().to_vec();
    let out = gpu.upload(&[template, vec![0; 128]].concat(), |byte| vec![byte]);
    let map: [u8; 128] = self::template().to_bytes();
    gpu.run("run", &config(1, 64), &[&map, &tensor, &out]);
    let mut bytes = [0; 128];
    gpu.memory.read(out, &mut bytes).unwrap();
    assert_eq!(TensorMap::from_bytes(&bytes), Some(wanted(tensor)), "{what}");
    // Rows 1 and 3 of planes 1 and 2, columns 36 to 39 and four that are none. Swizzled rows of 32 bytes: bit 4 of the
    // address is changed by bit 7, and the box ends at byte 128.
    let got = gpu.read_floats(out + 128, 32);
    for (i, got) in got.iter().enumerate() {
        let (column, row, plane) = (36 + i % 8, 1 + 2 * (i / 8 % 2), 1 + i / 16);
        match column {
            36..40 => assert_eq!(*got, data[column + 40 * row + 240 * plane], "{what}, element {i}"),
            _ => assert!(got.is_nan(), "{what}, element {i}: {got}"),
        }
    }
}

#[test]
fn copies_see_maps_changed_in_global_memory() {
    for space in ["", ".global"] {
        let change = first(&(replace(space, "%a6") + "fence.proxy.tensormap::generic.release.gpu;\n"));
        check(&format!("replace{space}"), &change);
    }
}

#[test]
fn maps_changed_in_shared_memory_are_copied_out() {
    let address = "mov.u32 %r21, tile;\nadd.s32 %r21, %r21, 1024;\n";
    // From the kernel's parameter to shared memory, word by word.
    let fill: String = (0..16)
        .map(|i| format!("ld.param.b64 %a7, [map+{0}];\nst.shared.b64 [%r21+{0}], %a7;\n", 8 * i))
        .collect();
    let release = "bar.sync 0;\nsetp.lt.u32 %p1, %t, 32;\n@!%p1 bra LATER;\n\
         tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync.aligned [%a6], [%r21], 128;\n\
         LATER:\nbar.sync 0;\n";
    let change = address.to_owned() + &first(&(fill.clone() + &replace(".shared::cta", "%r21"))) + release;
    check("replace.shared::cta", &change);
    let generic = address.to_owned()
        + "cvt.u64.u32 %a8, %r21;\ncvta.shared.u64 %a8, %a8;\n"
        + &first(&(fill + &replace("", "%a8")))
        + release;
    check("replace generic", &generic);
}

/// Table 33 of the ISA, and `CUtensorMapDataType` of the driver.
#[test]
fn element_types_have_other_numbers_than_the_drivers() {
    let table = [
        ("u8", 0),
        ("u16", 1),
        ("u32", 2),
        ("s32", 3),
        ("u64", 4),
        ("s64", 5),
        ("f16", 6),
        ("f32", 7),
        ("f32.ftz", 10),
        ("f64", 8),
        ("bf16", 9),
        ("tf32", 11),
        ("tf32.ftz", 12),
    ];
    for (value, (name, driver)) in table.iter().enumerate() {
        let body = first(&format!("tensormap.replace.tile.elemtype.global.b1024.b32 [%a1], {value};\n"));
        let gpu = gpu("elemtype", &body);
        let out = gpu.upload(&template().to_bytes(), |byte| vec![byte]);
        gpu.run("run", &config(1, 32), &[&NO_MAP, &out, &out]);
        let mut bytes = [0; 128];
        gpu.memory.read(out, &mut bytes).unwrap();
        assert_eq!(TensorMap::from_bytes(&bytes).map(|map| map.data_type), Some(*driver), "{name}");
    }
}

#[test]
fn maps_misused_are_faults() {
    let said = |body: &str, wanted: FaultKind, words: &str| {
        let gpu = gpu("misuse", &("add.s64 %a6, %a1, 0;\n".to_owned() + body));
        let out = gpu.upload(&template().to_bytes(), |byte| vec![byte]);
        let found = gpu.fault("run", &config(1, 32), &[&NO_MAP, &out, &out]);
        assert!(found.kind == wanted && found.message.contains(words), "{body}: {found}");
    };
    let illegal = FaultKind::IllegalInstruction;
    let set = |field: &str, ty: &str, operands: &str| {
        first(&format!("tensormap.replace.tile.{field}.global.b1024.{ty} [%a6], {operands};\n"))
    };
    said(&set("global_address", "b64", "24"), illegal, "global_address 24, allowed are multiples of 16");
    said(&set("global_stride", "b64", "0, 8"), illegal, "global_stride 8");
    said(&set("global_stride", "b64", "0, 0x10000000000"), illegal, "below 2^40");
    said(&set("box_dim", "b32", "0, 257"), illegal, "box_dim 257, allowed are 1 to 256");
    said(&set("box_dim", "b32", "0, 0"), illegal, "box_dim 0");
    said(&set("element_stride", "b32", "0, 9"), illegal, "element_stride 9");
    said(&set("rank", "b32", "5"), illegal, "rank 5, allowed are 0 to 4");
    said(
        &("add.s64 %a6, %a6, 16;\n".to_owned() + &set("rank", "b32", "1")),
        FaultKind::Misaligned,
        "64 bytes",
    );
    said(
        &("add.s64 %a6, %a6, 64;\n".to_owned() + &set("rank", "b32", "1")),
        FaultKind::OutOfBounds,
        "reach past",
    );
    let shared = "tensormap.replace.tile.rank.shared::cta.b1024.b32 [%r39], 1;\n";
    said(&first(shared), FaultKind::Uninitialized, "nothing has written");
    let zeros: String = (0..16).map(|i| format!("st.shared.b64 [%r39+{}], 0;\n", 8 * i)).collect();
    said(&first(&(zeros.clone() + shared)), illegal, "no tensor map");
    let copy = "tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync.aligned [%a6], [%r39], 128;\n";
    said(&format!("@%p9 {copy}"), FaultKind::Divergence, "by lanes 0x00000001");
    // Copies take no map in shared memory.
    let load = "cvt.u64.u32 %a8, %r39;\ncvta.shared.u64 %a8, %a8;\nmov.u32 %r1, bar;\n\
         cp.async.bulk.tensor.1d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r39+1024], [%a8, {0}], [%r1];\n";
    said(&(init(1) + &first(load)), illegal, "global memory");
}
