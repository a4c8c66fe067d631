//! Tensor copies through tensor maps, in hand-written kernels.

mod support;

use ptxsim::{FaultKind, TensorMap};
use support::config;
use support::kernel::*;

const U8: u8 = 0;
const U16: u8 = 1;
const U32: u8 = 2;
const F16: u8 = 6;
const F32: u8 = 7;
const F64: u8 = 8;

/// A dense tensor and a box at `at`.
struct Case {
    data_type: u8,
    dimensions: Vec<u64>,
    box_size: Vec<u32>,
    steps: Vec<u32>,
    swizzle: u8,
    fill: u8,
    at: Vec<i32>,
}

impl Case {
    fn bytes(&self) -> usize {
        [1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4][usize::from(self.data_type)]
    }

    fn map(&self, address: u64) -> [u8; 128] {
        let row = |d: usize| self.dimensions[..d].iter().product::<u64>() * self.bytes() as u64;
        let map = TensorMap {
            data_type: self.data_type,
            address,
            dimensions: self.dimensions.clone(),
            strides: (1..self.dimensions.len()).map(row).collect(),
            box_size: self.box_size.clone(),
            element_strides: self.steps.clone(),
            interleave: 0,
            swizzle: self.swizzle,
            promotion: 0,
            fill: self.fill,
        };
        map.to_bytes()
    }

    fn elements(&self) -> usize {
        self.dimensions.iter().product::<u64>() as usize
    }

    /// For each element of the box: its byte in shared memory from `start`, a multiple of 1024 or not, and
    /// its number in the tensor.
    fn places(&self, start: usize) -> Vec<(usize, Option<usize>)> {
        let step = |d: usize| if d == 0 { 1 } else { self.steps[d] };
        let counts: Vec<u32> = self.box_size.iter().enumerate().map(|(d, n)| n.div_ceil(step(d))).collect();
        let total: u32 = counts.iter().product();
        let mut places = Vec::new();
        for i in 0..total {
            let (mut rest, mut number, mut scale, mut inside) = (i, 0i64, 1i64, true);
            for (d, count) in counts.iter().enumerate() {
                let x = i64::from(self.at[d]) + i64::from(rest % count * step(d));
                inside &= x >= 0 && x < self.dimensions[d] as i64;
                (number, scale, rest) = (number + x * scale, scale * self.dimensions[d] as i64, rest / count);
            }
            let linear = start + i as usize * self.bytes();
            let (chunk, row) = (linear / 16 % 8, linear / 128 % 8);
            let chunk = chunk ^ (row & [0, 1, 3, 7][usize::from(self.swizzle)]);
            places.push((linear / 128 * 128 + chunk * 16 + linear % 16, inside.then_some(number as usize)));
        }
        places
    }

    fn box_bytes(&self) -> usize {
        self.places(0).len() * self.bytes()
    }

    fn coordinates(&self) -> String {
        let all: Vec<String> = self.at.iter().map(i32::to_string).collect();
        format!("[%a2, {{{}}}]", all.join(", "))
    }

    fn element(&self, memory: &[u8], byte: usize) -> u64 {
        let word = memory[byte..byte + self.bytes()].iter().rev();
        word.fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }
}

/// Every rank, swizzle and base, inside and over the edges.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rank, swizzle) in (1..=5).flat_map(|rank| (0..4).map(move |swizzle| (rank, swizzle))) {
        for (data_type, fill) in [(U32, 0), (F32, 1), (U16, 0), (F16, 1), (U8, 0), (F64, 1)] {
            let element = [1, 2, 4, 4, 8, 8, 2, 4, 8][usize::from(data_type)];
            let inner = [64, 32, 64, 128][usize::from(swizzle)] / element;
            for (steps, at) in [
                ([1, 1, 1, 1, 1], [8, 1, 0, 0, 1]),
                ([1, 1, 1, 1, 1], [-3, -1, 2, 1, -1]),
                ([1, 2, 1, 3, 1], [64, 5, -1, 2, 0]),
                // The first dimension has no steps.
                ([2, 3, 2, 1, 2], [1, 0, 1, 0, 0]),
            ] {
                cases.push(Case {
                    data_type,
                    dimensions: [80, 9, 4, 5, 3][..rank].to_vec(),
                    box_size: [inner, 5, 3, 4, 2][..rank].to_vec(),
                    steps: steps[..rank].to_vec(),
                    swizzle,
                    fill,
                    at: at[..rank].to_vec(),
                });
            }
        }
    }
    cases
}

#[test]
fn tensor_boxes_arrive_where_the_swizzle_puts_them() {
    for (i, case) in cases().iter().enumerate() {
        let start = if i % 2 == 0 { 0 } else { 384 };
        let (rank, bytes) = (case.at.len(), case.box_bytes());
        let words = (start + bytes).div_ceil(128) * 32;
        let load = format!(
            "mbarrier.arrive.expect_tx.shared.b64 %s0, [bar], {bytes};\nadd.s32 %r0, %r39, {start};\nmov.u32 %r1, bar;\n\
             cp.async.bulk.tensor.{rank}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes \
             [%r0], {}, [%r1];\n",
            case.coordinates()
        );
        // What the box leaves alone is zero.
        let body = format!("mov.b64 %a9, %a0;\nadd.s64 %a0, %a1, 0;\n{}", copy(true, words))
            + &init(1)
            + &first(&load)
            + &wait(0)
            + &copy(false, words);
        let gpu = gpu(&format!("load {i}"), &body);
        let data = numbers((case.elements() * case.bytes() / 4) as u32);
        let (input, out) = (gpu.ints(&data), gpu.ints(&vec![0; words]));
        gpu.run("run", &config(1, 128), &[&case.map(input), &input, &out]);
        let (data, got) = (bytes_of(&data), bytes_of(&gpu.read_ints(out, words)));
        for (byte, number) in case.places(start) {
            let element = case.element(&got, byte);
            match number {
                Some(n) => {
                    assert_eq!(element, case.element(&data, n * case.bytes()), "case {i}, byte {byte}")
                }
                None if case.fill == 0 => assert_eq!(element, 0, "case {i}, byte {byte}"),
                None if case.bytes() == 2 => assert!(half::f16::from_bits(element as u16).is_nan()),
                None if case.bytes() == 4 => assert!(f32::from_bits(element as u32).is_nan()),
                None => assert!(f64::from_bits(element).is_nan()),
            }
        }
    }
}

#[test]
fn tensor_boxes_are_stored_and_added() {
    for (i, case) in cases().iter().enumerate() {
        let start = if i % 2 == 0 { 0 } else { 384 };
        let (rank, words) = (case.at.len(), (start + case.box_bytes()).div_ceil(128) * 32);
        let reduces = i % 3 == 0 && [U32, F16, F32].contains(&case.data_type);
        let (name, add) = if reduces { ("cp.reduce", ".add") } else { ("cp", "") };
        let store = format!(
            "add.s32 %r0, %r39, {start};\n\
             {name}.async.bulk.tensor.{rank}d.global.shared::cta{add}.tile.bulk_group {}, [%r0];\n{DRAIN}",
            case.coordinates()
        );
        let body = copy(true, words) + PUBLISH + &first(&store);
        let gpu = gpu(&format!("store {i}"), &body);
        // Small integers as each type has them.
        let number = |n: usize| match case.data_type {
            U32 => n as u64,
            F32 => (n as f32).to_bits().into(),
            F16 => half::f16::from_f32(n as f32).to_bits().into(),
            U8 => n as u64 & 0xff,
            F64 => (n as f64).to_bits(),
            _ => n as u64 & 0xffff,
        };
        let pack = |codes: &[u64]| -> Vec<u32> {
            let bytes =
                codes.iter().flat_map(|c| c.to_le_bytes()[..case.bytes()].to_vec()).collect::<Vec<_>>();
            bytes.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect()
        };
        let image: Vec<u64> = (0..4 * words / case.bytes()).map(|x| number(x % 1009)).collect();
        let mut want = vec![number(5); case.elements()];
        let (input, out) = (gpu.ints(&pack(&image)), gpu.ints(&pack(&want)));
        gpu.run("run", &config(1, 128), &[&case.map(out), &input, &out]);
        for (byte, place) in case.places(start) {
            if let Some(place) = place {
                let moved = byte / case.bytes() % 1009;
                want[place] = number(if reduces { moved + 5 } else { moved });
            }
        }
        let got = gpu.read_ints(out, case.elements() * case.bytes() / 4);
        assert_eq!(got, pack(&want), "case {i}");
    }
}

#[test]
fn maps_lie_in_global_memory_and_barriers_at_generic_addresses() {
    let case = Case {
        data_type: U32,
        dimensions: vec![32, 8],
        box_size: vec![32, 8],
        steps: vec![1, 1],
        swizzle: 2,
        fill: 0,
        at: vec![0, 0],
    };
    let body =
        "cvt.u64.u32 %a3, %r39;\ncvta.shared.u64 %a3, %a3;\nmov.u64 %a4, bar;\ncvta.shared.u64 %a4, %a4;\n\
                @%p9 mbarrier.init.b64 [%a4], 1;\nfence.mbarrier_init.release.cluster;\nbar.sync 0;\n"
            .to_owned()
            + &first(
                "fence.proxy.tensormap::generic.acquire.gpu [%a0], 128;\n\
             mbarrier.arrive.expect_tx.b64 %s0, [%a4], 1024;\nmov.u32 %r1, bar;\n\
             cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r39], \
             [%a0, {0, 0}], [%r1];\n",
            )
            + "WAIT:\nmbarrier.try_wait.parity.b64 %p7, [%a4], 0;\n@!%p7 bra WAIT;\n"
            + &copy(false, 256);
    let gpu = gpu("map in memory", &body);
    let data = numbers(256);
    let (tensor, out) = (gpu.ints(&data), gpu.space(1024));
    let map = gpu.upload(&case.map(tensor), |byte| vec![byte]);
    gpu.run("run", &config(1, 64), &[&NO_MAP, &map, &out]);
    let got = gpu.read_ints(out, 256);
    assert!(case.places(0).iter().all(|(byte, place)| got[byte / 4] == data[place.unwrap()]));
}

#[test]
fn tensor_copies_misused_are_faults() {
    let case = Case {
        data_type: U32,
        dimensions: vec![32, 8],
        box_size: vec![32, 8],
        steps: vec![1, 1],
        swizzle: 0,
        fill: 0,
        at: vec![0, 0],
    };
    let load = format!(
        "mbarrier.arrive.expect_tx.shared.b64 %s0, [bar], 1024;\nmov.u32 %r1, bar;\n\
         cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r39], {}, [%r1];\n",
        case.coordinates()
    );
    let store = format!(
        "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group {}, [%r39];\n{DRAIN}",
        case.coordinates()
    );
    let multicast = load.replace("::bytes", "::bytes.multicast::cluster").replace("[%r1];", "[%r1], %h0;");
    let kind = |map: Option<&Case>, body: &str| {
        let gpu = gpu("tensor misuse", body);
        let tensor = gpu.ints(&[7; 256]);
        let map = map.map_or(NO_MAP, |case| case.map(tensor));
        gpu.fault("run", &config(1, 32), &[&map, &tensor, &tensor]).kind
    };
    let off = "add.s32 %r39, %r39, 64;\n";
    assert_eq!(kind(Some(&case), &(init(1) + off + &first(&load))), FaultKind::Misaligned);
    assert_eq!(
        kind(Some(&case), &(off.to_owned() + &copy(true, 256) + PUBLISH + &first(&store))),
        FaultKind::Misaligned
    );
    assert_eq!(kind(None, &(init(1) + &first(&load))), FaultKind::IllegalInstruction);
    assert_eq!(
        kind(Some(&case), &(copy(true, 256) + "bar.sync 0;\n" + &first(&store))),
        FaultKind::ProxyFence
    );
    assert_eq!(kind(Some(&case), &first(&store)), FaultKind::Uninitialized);
    assert_eq!(
        kind(Some(&case), &(init(1) + "mov.b16 %h0, 2;\n" + &first(&multicast))),
        FaultKind::IllegalInstruction
    );
    let larger = Case { dimensions: vec![32, 9], at: vec![0, 1], ..case };
    let body = (init(1) + &first(&load)).replace("{0, 0}", "{0, 1}");
    assert_eq!(kind(Some(&larger), &body), FaultKind::OutOfBounds);
}

#[test]
fn narrow_boxes_may_be_swizzled() {
    // Rows of 16 bytes, three of them, at the end of shared memory.
    for swizzle in 1..4 {
        let case = Case {
            data_type: F32,
            dimensions: vec![8, 8],
            box_size: vec![4, 3],
            steps: vec![1, 1],
            swizzle,
            fill: 0,
            at: vec![4, 1],
        };
        let start = 32768 - 128;
        let load = format!(
            "mbarrier.arrive.expect_tx.shared.b64 %s0, [bar], 48;\nadd.s32 %r0, %r39, {start};\nmov.u32 %r1, bar;\n\
             cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r0], {0}, [%r1];\n{1}\
             cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group {0}, [%r0];\n{DRAIN}",
            case.coordinates(),
            wait(0)
        );
        let gpu = gpu("narrow", &(init(1) + &first(&load)));
        let mut want: Vec<f32> = (0..64).map(|i| i as f32).collect();
        let tensor = gpu.floats(&want);
        gpu.run("run", &config(1, 32), &[&case.map(tensor), &tensor, &tensor]);
        for (_, place) in case.places(start) {
            want[place.unwrap()] *= 2.0;
        }
        assert_eq!(gpu.read_floats(tensor, 64), want, "swizzle {swizzle}");
    }
}

/// PTX ISA, "Tensor Dimension, size and format": tf32 is rounded to nearest even; the others' names say that
/// subnormals are flushed.
#[test]
fn elements_become_what_their_type_has() {
    let given = [0x3f80_1000, 0x3f80_3000, 0x3f80_1001, 0x8000_0001, 0x007f_ffff, 0xff80_0000, 0x7fc0_0001];
    let expected = |flush: bool, round: bool| {
        let [mut small, mut large] = if flush { [0x8000_0000, 0] } else { [0x8000_0001, 0x007f_ffff] };
        if round && !flush {
            (small, large) = (0x8000_0000, 0x0080_0000);
        }
        match round {
            true => [0x3f80_0000, 0x3f80_4000, 0x3f80_2000, small, large, 0xff80_0000, 0x7fff_e000],
            false => [0x3f80_1000, 0x3f80_3000, 0x3f80_1001, small, large, 0xff80_0000, 0x7fc0_0001],
        }
    };
    for (data_type, flush, round) in
        [(F32, false, false), (10, true, false), (11, false, true), (12, true, true)]
    {
        let case = Case {
            data_type,
            dimensions: vec![8],
            box_size: vec![8],
            steps: vec![1],
            swizzle: 0,
            fill: 0,
            at: vec![0],
        };
        let load = first(
            "mbarrier.arrive.expect_tx.shared.b64 %s0, [bar], 32;\nmov.u32 %r1, bar;\n\
             cp.async.bulk.tensor.1d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r39], \
             [%a2, {0}], [%r1];\n",
        );
        let gpu_of_load = gpu("types", &(init(1) + &load + &wait(0) + &copy(false, 8)));
        let (input, out) = (gpu_of_load.ints(&[&given[..], &[0]].concat()), gpu_of_load.space(32));
        gpu_of_load.run("run", &config(1, 32), &[&case.map(input), &input, &out]);
        assert_eq!(gpu_of_load.read_ints(out, 7), expected(flush, round), "data type {data_type}");

        let store = "cp.async.bulk.tensor.1d.global.shared::cta.tile.bulk_group [%a2, {0}], [%r39];\n";
        let gpu = gpu("store of types", &(copy(true, 8) + PUBLISH + &first(&(store.to_owned() + DRAIN))));
        let (input, out) = (gpu.ints(&[5; 8]), gpu.ints(&[7; 8]));
        if data_type == F32 {
            gpu.run("run", &config(1, 32), &[&case.map(out), &input, &out]);
            assert_eq!(gpu.read_ints(out, 8), [5; 8]);
        } else {
            let fault = gpu.fault("run", &config(1, 32), &[&case.map(out), &input, &out]);
            let what = format!("a tensor store of data type {data_type}");
            assert!(
                fault.kind == FaultKind::IllegalInstruction && fault.to_string().contains(&what),
                "{fault}"
            );
        }
    }
}

/// Runs a kernel where block 2 of 4 sends the box to blocks 0, 2 and 3, and checks what each has.
fn multicast(what: &str, case: &Case) {
    let (rank, bytes) = (case.at.len(), case.box_bytes());
    let words = bytes / 4;
    let body = init(1)
        + &first(&format!("mbarrier.arrive.expect_tx.shared.b64 %s0, [bar], {bytes};\n"))
        + CLUSTER_SYNC
        + &format!(
            "mov.u32 %r0, %cluster_ctarank;\nmul.wide.u32 %a4, %r0, {bytes};\nadd.s64 %a1, %a1, %a4;\n\
             setp.eq.and.u32 %p1, %r0, 2, %p9;\nmov.b16 %h0, 13;\nmov.u32 %r1, bar;\n@%p1 \
             cp.async.bulk.tensor.{rank}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes\
             .multicast::cluster [%r39], {}, [%r1], %h0;\n",
            case.coordinates()
        )
        + "setp.ne.u32 %p2, %r0, 1;\n@!%p2 bra SKIP;\n"
        + &wait(0)
        + &copy(false, words)
        + "SKIP:\n"
        + CLUSTER_SYNC;
    let gpu = gpu(what, &body);
    let data = numbers(case.elements() as u32);
    let (input, out) = (gpu.ints(&data), gpu.ints(&vec![0; 4 * words]));
    gpu.run("run", &cluster(4, 64), &[&case.map(input), &input, &out]);
    let got = gpu.read_ints(out, 4 * words);
    for (byte, place) in case.places(0) {
        for block in 0..4 {
            let want = if block == 1 { 0 } else { place.map_or(0, |place| data[place]) };
            assert_eq!(got[words * block + byte / 4], want, "{what}: block {block}, byte {byte}");
        }
    }
}

#[test]
fn boxes_are_multicast() {
    let case = Case {
        data_type: U32,
        dimensions: vec![64, 8],
        box_size: vec![32, 8],
        steps: vec![1, 1],
        swizzle: 3,
        fill: 0,
        at: vec![16, 0],
    };
    multicast("multicast", &case);
}

#[test]
fn boxes_of_five_dimensions_are_multicast() {
    // Inside, then over the edge of every dimension, below and above.
    for (i, at) in [[16, 1, 0, 1, 1], [-3, -1, -1, -2, -1], [48, 7, 3, 4, 2]].into_iter().enumerate() {
        for swizzle in 0..4 {
            let case = Case {
                data_type: U32,
                dimensions: vec![64, 8, 4, 5, 3],
                box_size: vec![[16, 8, 16, 32][usize::from(swizzle)], 4, 2, 2, 2],
                steps: vec![1; 5],
                swizzle,
                fill: 0,
                at: at.to_vec(),
            };
            let outside = case.places(0).iter().filter(|(_, place)| place.is_none()).count();
            assert_eq!(outside > 0, i > 0, "what the case is for");
            multicast(&format!("multicast 5d {i} {swizzle}"), &case);
        }
    }
}
