//! Kernels written in tests: what they share.

use super::{Gpu, config};
use ptxsim::{Fault, LaunchConfig};

/// Kernel `run` of (tensor map, input, output) for an H200. `%a0` holds the input's address, `%a1` the output's,
/// `%a2` the map's, `%t` the thread; `tile` and `bar` are shared.
pub fn ptx(body: &str) -> String {
    format!(
        ".version 8.7\n.target sm_90a\n.address_size 64\n\
         .visible .entry run(.param .align 64 .b8 map[128], .param .u64 in, .param .u64 out) {{\n\
         .shared .align 1024 .b8 tile[32768];\n.shared .align 8 .b64 bar[4];\n\
         .reg .b32 %t, %r<40>;\n.reg .f32 %f<8>;\n.reg .b64 %a<20>, %s<8>;\n.reg .b16 %h<4>;\n.reg .pred %p<10>;\n\
         ld.param.u64 %a0, [in];\nld.param.u64 %a1, [out];\nmov.b64 %a2, map;\ncvta.param.u64 %a2, %a2;\n\
         mov.u32 %t, %tid.x;\nsetp.eq.u32 %p9, %t, 0;\nmov.u32 %r39, tile;\n{body}\nret;\n}}\n"
    )
}

/// That kernel on an H200.
pub fn gpu(what: &str, body: &str) -> Gpu {
    let text = ptx(body);
    // Written where PTX_DUMP says, to be checked by other tools.
    if let Ok(folder) = std::env::var("PTX_DUMP") {
        let name: String = what.chars().map(|c| if c.is_alphanumeric() { c } else { '_' }).collect();
        std::fs::write(format!("{folder}/{name}.ptx"), &text).unwrap();
    }
    Gpu::new("h200", &text)
}

/// Threads copy `words` words between `%a0`/`%a1` and the tile.
pub fn copy(load: bool, words: usize) -> String {
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
pub fn init(count: u32) -> String {
    format!(
        "@%p9 mbarrier.init.shared.b64 [bar], {count};\nfence.mbarrier_init.release.cluster;\n\
         fence.proxy.async;\nbar.sync 0;\n"
    )
}

pub fn wait(parity: u32) -> String {
    format!("{{\nWAIT:\nmbarrier.try_wait.parity.shared.b64 %p7, [bar], {parity};\n@!%p7 bra WAIT;\n}}\n")
}

/// Thread 0 runs `text`.
pub fn first(text: &str) -> String {
    format!("{{\n@!%p9 bra OTHERS;\n{text}\nOTHERS:\n}}\nbar.warp.sync 0xffffffff;\n")
}

pub const NO_MAP: [u8; 128] = [0; 128];
/// Commits the bulk copies so far and waits until they have read, or written.
pub const DRAIN: &str = "cp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;\n";
pub const DRAIN_READ: &str = "cp.async.bulk.commit_group;\ncp.async.bulk.wait_group.read 0;\n";
pub const PUBLISH: &str = "fence.proxy.async;\nbar.sync 0;\n";

/// The output's words after a run.
pub fn run(
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

pub fn fault(what: &str, threads: u32, body: &str) -> Fault {
    let gpu = gpu(what, body);
    let (from, to) = (gpu.ints(&[7; 4096]), gpu.ints(&[0; 4096]));
    gpu.fault("run", &config(1, threads), &[&NO_MAP, &from, &to])
}

pub fn numbers(n: u32) -> Vec<u32> {
    (0..n).map(|i| i.wrapping_mul(0x9e37_79b9) ^ 0x5bd1_e995).collect()
}

pub fn bytes_of(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

pub fn cluster(blocks: u32, threads: u32) -> LaunchConfig {
    LaunchConfig { cluster: [blocks, 1, 1], ..config(blocks, threads) }
}

pub const CLUSTER_SYNC: &str = "barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;\n";
