//! nvcc's output for small known kernels, against CPU results; and planted bugs, each caught by its check.

mod support;

use ptxsim::{Class, FaultKind, LaunchConfig, LaunchError, Options};
use support::{Gpu, config, noise};

fn gpu() -> Gpu {
    Gpu::new("a100", include_str!("kernels/basic.ptx"))
}

#[test]
fn vector_add_adds_and_counts() {
    let gpu = gpu();
    let n = 1000;
    let (a, b) = (noise(n, 1), noise(n, 2));
    let (pa, pb, out) = (gpu.floats(&a), gpu.floats(&b), gpu.space(4 * n as u64));
    let counters = gpu.run("vector_add", &config(8, 128), &[&pa, &pb, &out, &(n as i32)]);
    let want: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
    assert_eq!(gpu.read_floats(out, n), want);
    assert_eq!(counters.global_load_bytes, 8000);
    assert_eq!(counters.global_store_bytes, 4000);
    assert_eq!((counters.global_load_sectors, counters.global_store_sectors), (250, 125));
    assert_eq!(counters.distinct_bytes, 12_000);
    assert_eq!(counters.by_class[&Class::Float], n as u64);
}

#[test]
fn one_element_too_far_is_out_of_bounds() {
    let gpu = gpu();
    let n = 127i32;
    let (pa, pb, out) = (gpu.floats(&noise(128, 1)), gpu.floats(&noise(128, 2)), gpu.space(4 * n as u64));
    let fault = gpu.fault("vector_add_off_by_one", &config(1, 128), &[&pa, &pb, &out, &n]);
    assert_eq!(fault.kind, FaultKind::OutOfBounds);
    assert_eq!(fault.thread, Some([127, 0, 0]));
    assert_eq!(fault.address, Some(out + 4 * n as u64));
    let line = include_str!("kernels/basic.ptx").lines().nth(fault.line as usize - 1).unwrap();
    assert!(line.contains("st.global"), "{line}");
    assert!(fault.message.contains(&format!("{out:#x}")), "{fault}");
}

#[test]
fn freed_and_unwritten_memory_is_told() {
    let gpu = gpu();
    let (pa, pb, out) = (gpu.floats(&[1.0; 32]), gpu.space(128), gpu.space(128));
    let fault = gpu.fault("vector_add", &config(1, 32), &[&pa, &pb, &out, &32]);
    assert_eq!((fault.kind, fault.address), (FaultKind::Uninitialized, Some(pb)));
    gpu.memory.write(pb, &[0; 128]).unwrap();
    gpu.memory.free(pa).unwrap();
    let fault = gpu.fault("vector_add", &config(1, 32), &[&pa, &pb, &out, &32]);
    assert_eq!(fault.kind, FaultKind::OutOfBounds);
    assert!(fault.message.contains("freed"), "{fault}");
    let fault = gpu.fault("vector_add", &config(1, 32), &[&(pb + 2), &pb, &out, &32]);
    assert_eq!(fault.kind, FaultKind::Misaligned);
    let fault = gpu.fault("vector_add", &config(1, 32), &[&0u64, &pb, &out, &32]);
    assert_eq!(fault.kind, FaultKind::OutOfBounds);
}

#[test]
fn reduction_sums_and_needs_its_barrier() {
    let gpu = gpu();
    let n = 5000;
    // Whole numbers: the sum is exact in any order.
    let data: Vec<f32> = (0..n).map(|i| (i % 17) as f32).collect();
    let (input, out) = (gpu.floats(&data), gpu.floats(&[0.0]));
    let counters = gpu.run("reduce", &config(4, 256), &[&input, &out, &n]);
    assert_eq!(gpu.read_floats(out, 1), [data.iter().sum::<f32>()]);
    assert_eq!(counters.barriers, 4 * 8);
    let fault = gpu.fault("reduce_missing_barrier", &config(1, 256), &[&input, &out, &n]);
    // The first warp reads what the others have not even written yet, or wrote without a barrier.
    assert!(matches!(fault.kind, FaultKind::Race | FaultKind::Uninitialized), "{fault}");
}

#[test]
fn a_missing_barrier_is_a_race_even_when_the_data_are_there() {
    let mut gpu = gpu();
    (gpu.options.checks.loads, gpu.options.checks.written) = (false, false);
    let n = 5000;
    let (input, out) = (gpu.floats(&vec![1.0; n as usize]), gpu.floats(&[0.0]));
    let fault = gpu.fault("reduce_missing_barrier", &config(1, 256), &[&input, &out, &n]);
    assert_eq!(fault.kind, FaultKind::Race, "{fault}");
    gpu.options.checks.races = false;
    gpu.run("reduce_missing_barrier", &config(1, 256), &[&input, &out, &n]);
}

#[test]
fn transpose_has_the_conflicts_that_it_should() {
    let gpu = gpu();
    let n = 64;
    let data = noise(n * n, 3);
    let (input, out) = (gpu.floats(&data), gpu.space(4 * (n * n) as u64));
    let shape = LaunchConfig::new([2, 2, 1], [32, 8, 1]);
    for (kernel, conflicts) in [("transpose", 0), ("transpose_conflicts", 4 * 32 * 31)] {
        let counters = gpu.run(kernel, &shape, &[&input, &out, &(n as i32)]);
        let back = gpu.read_floats(out, n * n);
        assert!((0..n * n).all(|i| back[i] == data[i % n * n + i / n]));
        assert_eq!(counters.bank_conflicts, conflicts, "{kernel}");
        assert_eq!(counters.bank_conflicts_by_line.values().sum::<u64>(), conflicts);
    }
}

#[test]
fn threads_have_their_own_program_counters() {
    let gpu = gpu();
    let data: Vec<u32> = (1..=500).collect();
    let (input, out) = (gpu.ints(&data), gpu.space(2000));
    gpu.run("collatz", &config(4, 128), &[&input, &out, &500]);
    let steps = |x: &u32| {
        let (mut x, mut count) = (*x, 0);
        while x != 1 {
            x = if x % 2 == 1 { 3 * x + 1 } else { x / 2 };
            count += 1;
        }
        count
    };
    assert_eq!(gpu.read_ints(out, 500), data.iter().map(steps).collect::<Vec<_>>());
}

#[test]
fn deadlocks_and_absent_threads_are_told_with_their_lines() {
    let gpu = gpu();
    let out = gpu.space(4 * 128);
    let fault = gpu.fault("deadlock", &config(1, 128), &[&out]);
    assert_eq!(fault.kind, FaultKind::Deadlock);
    assert!(fault.message.contains("barrier 0") && fault.message.contains("barrier 1"), "{fault}");
    let fault = gpu.fault("absent", &config(1, 32), &[&out]);
    assert_eq!(fault.kind, FaultKind::Divergence);
    assert!(fault.message.contains("0xffff0000"), "{fault}");
}

#[test]
fn blocks_see_each_other_through_global_memory() {
    let mut gpu = gpu();
    for threads in [1, 2] {
        gpu.options.threads = threads;
        let blocks = 20;
        let data: Vec<f32> = (0..32 * blocks).map(|i| (i % 5) as f32).collect();
        let (input, partial) = (gpu.floats(&data), gpu.space(4 * blocks as u64));
        let (done, out) = (gpu.ints(&[0]), gpu.space(4));
        gpu.run("last_block", &config(blocks, 32), &[&input, &partial, &done, &out]);
        assert_eq!(gpu.read_floats(out, 1), [data.iter().sum::<f32>()]);

        let (arrived, out) = (gpu.ints(&[0]), gpu.space(4 * 8));
        gpu.run("grid_barrier", &config(8, 32), &[&arrived, &out]);
        assert_eq!(gpu.read_ints(out, 8), [1; 8]);
    }
}

#[test]
fn calls_locals_and_traps() {
    let gpu = gpu();
    let out = gpu.space(128);
    gpu.run("calls", &config(1, 32), &[&out]);
    let want: Vec<u32> = (0..32).map(|t| 2 * t + 5 + 2 + t).collect();
    assert_eq!(gpu.read_ints(out, 32), want);
    let table: Vec<u32> = (0..16).map(|i| (7 * i) % 16).collect();
    let input = gpu.ints(&table);
    gpu.run("locals", &config(1, 32), &[&input, &out]);
    let want: Vec<u32> = (0..32).map(|t| table[table[t % 16] as usize] + t as u32).collect();
    assert_eq!(gpu.read_ints(out, 32), want);
    gpu.run("asserts", &config(1, 32), &[&3]);
    assert_eq!(gpu.fault("asserts", &config(1, 32), &[&4]).kind, FaultKind::Trap);
    gpu.run("says", &config(1, 32), &[&7]);
}

#[test]
fn lanes_of_a_warp_need_a_sync_too() {
    let gpu = gpu();
    let out = gpu.space(128);
    gpu.run("warp_exchange", &config(1, 32), &[&out]);
    assert_eq!(gpu.read_ints(out, 32), (0..32).rev().collect::<Vec<_>>());
    assert_eq!(gpu.fault("warp_exchange_missing_sync", &config(1, 32), &[&out]).kind, FaultKind::Race);
}

#[test]
fn launches_past_a_limit_are_refused() {
    let gpu = gpu();
    let refused = |kernel: &str, config: LaunchConfig, bytes: usize| match gpu.module.launch(
        kernel,
        &config,
        &vec![0; bytes],
        &gpu.memory,
        gpu.options,
    ) {
        Err(LaunchError::Config { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused("calls", config(0, 32), 8), "grid");
    assert_eq!(refused("calls", config(1, 1025), 8), "block");
    assert_eq!(refused("calls", LaunchConfig::new([1; 3], [64, 32, 1]), 8), "threads per block");
    assert_eq!(refused("calls", config(1, 32), 4), "parameters");
    assert_eq!(
        refused("calls", LaunchConfig { dynamic_shared_bytes: 1 << 20, ..config(1, 32) }, 8),
        "shared memory"
    );
    assert_eq!(
        refused("calls", LaunchConfig { cluster: [2, 1, 1], ..config(2, 32) }, 8),
        "blocks per cluster"
    );
    assert!(matches!(
        gpu.module.launch("none", &config(1, 1), &[], &gpu.memory, gpu.options),
        Err(LaunchError::NoKernel(_))
    ));
}

#[test]
fn the_alignment_of_what_a_parameter_points_to_is_not_its_own() {
    // ISA, "Kernel Function Parameter Attribute: .ptr".
    let text = ".version 9.0\n.target sm_80\n.address_size 64\n\
        .visible .entry run(.param .u32 n, .param .u64 .ptr .global .align 1 out) {\n\
        .reg .b32 %n;\n.reg .b64 %a;\nld.param.u32 %n, [n];\nld.param.u64 %a, [out];\nst.global.u32 [%a], %n;\nret;\n}\n";
    let gpu = Gpu::new("a100", text);
    let out = gpu.space(4);
    gpu.run("run", &config(1, 1), &[&7u32, &out]);
    assert_eq!(gpu.read_ints(out, 1), [7]);
}

#[test]
fn directives_need_no_space_between() {
    // cuda_fp16.hpp: `{.reg.b32 f, C, nZ;`.
    let text = ".version 9.0\n.target sm_80\n.address_size 64\n.visible .entry run(.param.u64 out) {\n\
        .reg.b64 %a;\nld.param.u64 %a, [out];\n{.reg.b32 n;\nmov.b32 n, 7;\nst.global.u32 [%a], n;}\nret;\n}\n";
    let gpu = Gpu::new("a100", text);
    let out = gpu.space(4);
    gpu.run("run", &config(1, 1), &[&out]);
    assert_eq!(gpu.read_ints(out, 1), [7]);
}

#[test]
fn thirty_two_bit_addresses_wrap() {
    let text = ".version 9.0\n.target sm_80\n.address_size 64\n.visible .entry run(.param .u64 out) {\n\
        .shared .align 4 .b8 tile[64];\n.reg .b32 %n, %s;\n.reg .b64 %a;\nld.param.u64 %a, [out];\nmov.u32 %s, tile;\n\
        mov.u32 %n, 7;\nst.shared.u32 [%s+32], %n;\nsub.u32 %s, %s, 16;\nld.shared.u32 %n, [%s+48];\n\
        st.global.u32 [%a], %n;\nret;\n}\n";
    let gpu = Gpu::new("a100", text);
    let out = gpu.space(4);
    gpu.run("run", &config(1, 1), &[&out]);
    assert_eq!(gpu.read_ints(out, 1), [7]);
}

#[test]
fn the_last_lane_of_a_store_is_the_one_that_counts() {
    // CUDA C++ Programming Guide, "SIMT Architecture": of a warp's lanes that write to one place, one does.
    let text = |value: &str| {
        format!(
            ".version 9.0\n.target sm_80\n.address_size 64\n.visible .entry run(.param .u64 out) {{\n\
             .shared .align 4 .b8 word[4];\n.reg .b32 %t, %n;\n.reg .b64 %a;\nld.param.u64 %a, [out];\nmov.u32 %t, {value};\n\
             st.shared.u32 [word], %t;\nbar.sync 0;\nld.shared.u32 %n, [word];\nst.global.u32 [%a], %n;\nret;\n}}\n"
        )
    };
    let gpu = |value: &str| {
        let gpu = Gpu::new("a100", &text(value));
        Gpu { options: Options::default(), ..gpu }
    };
    let strict = Gpu::new("a100", &text("%laneid"));
    assert_eq!(strict.fault("run", &config(1, 64), &[&0u64]).kind, FaultKind::Race, "same-word");
    let (word, race) = (gpu("%laneid"), gpu("%tid.x"));
    let out = word.space(4);
    word.run("run", &config(1, 64), &[&out]);
    assert_eq!(word.read_ints(out, 1), [31]);
    assert_eq!(race.fault("run", &config(1, 64), &[&race.space(4)]).kind, FaultKind::Race);
}
