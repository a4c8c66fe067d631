//! Elements and fragments of matrices as the PTX ISA lays them out, and kernels that move them.

use super::{config, noise};
use half::{bf16, f16};
use ptxsim::LaunchConfig;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ty {
    F16,
    Bf16,
    Tf32,
    E4M3,
    E5M2,
    S8,
    U8,
}
pub use Ty::{Bf16, E4M3, E5M2, F16, S8, Tf32, U8};

impl Ty {
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    pub fn bytes(self) -> usize {
        match self {
            F16 | Bf16 => 2,
            Tf32 => 4,
            _ => 1,
        }
    }

    /// Finite elements of about -2 to 2; any integer.
    pub fn random(self, n: usize, seed: u64) -> Vec<u32> {
        let code = |x: f32| match self {
            F16 => f16::from_f32(2.0 * x).to_bits().into(),
            Bf16 => bf16::from_f32(2.0 * x).to_bits().into(),
            Tf32 => x.to_bits() & 0xffff_e000,
            // The sign, and exponents up to 1.
            E4M3 => ((x * 64.0).abs() as u32) | if x < 0.0 { 0x80 } else { 0 },
            E5M2 => ((x * 64.0).abs() as u32) | if x < 0.0 { 0x80 } else { 0 },
            S8 | U8 => ((x + 1.0) * 128.0) as u32,
        };
        noise(n, seed).into_iter().map(code).collect()
    }

    pub fn value(self, code: u32) -> f64 {
        let small = |exponent_bits: u32, mantissa_bits: u32| {
            let bias = (1 << (exponent_bits - 1)) - 1;
            let mantissa = f64::from(code & ((1 << mantissa_bits) - 1)) / f64::from(1 << mantissa_bits);
            let exponent = (code >> mantissa_bits & ((1 << exponent_bits) - 1)) as i32;
            let magnitude = match exponent {
                0 => mantissa * 2f64.powi(1 - bias),
                e => (1.0 + mantissa) * 2f64.powi(e - bias),
            };
            if code & 0x80 != 0 { -magnitude } else { magnitude }
        };
        match self {
            F16 => f16::from_bits(code as u16).to_f64(),
            Bf16 => bf16::from_bits(code as u16).to_f64(),
            Tf32 => f32::from_bits(code).into(),
            E4M3 => small(4, 3),
            E5M2 => small(5, 2),
            S8 => f64::from(code as u8 as i8),
            U8 => f64::from(code as u8),
        }
    }
}

/// Registers of `threads` threads, all threads' first registers first: `at(thread, i)` is element `i`.
pub fn fragments(
    bytes: usize,
    threads: usize,
    elements: usize,
    at: impl Fn(usize, usize) -> u32,
) -> Vec<u32> {
    let each = 4 / bytes;
    let word = |r: usize, thread: usize| {
        (0..each).fold(0, |word, i| word | at(thread, r * each + i) << (8 * bytes * i))
    };
    (0..elements / each * threads).map(|x| word(x / threads, x % threads)).collect()
}

/// Place of element `i` of a thread's A: (row, column), as the ISA lists them per shape.
pub fn place_a(bytes: usize, elements: usize, lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane / 4, lane % 4);
    match (bytes, elements) {
        // .tf32 m16n8k4
        (4, 2) => (if i == 0 { group } else { group + 8 }, thread),
        // .tf32 m16n8k8
        (4, 4) => (if i == 0 || i == 2 { group } else { group + 8 }, if i < 2 { thread } else { thread + 4 }),
        // .f16 and .bf16 m16n8k8
        (2, 4) => (if i < 2 { group } else { group + 8 }, thread * 2 + (i & 1)),
        // .f16 and .bf16 m16n8k16
        (2, 8) => (
            if i < 2 || (4..6).contains(&i) { group } else { group + 8 },
            thread * 2 + (i & 1) + if i < 4 { 0 } else { 8 },
        ),
        // 8 bits m16n8k16
        (1, 8) => (if i < 4 { group } else { group + 8 }, thread * 4 + (i & 3)),
        // 8 bits m16n8k32
        (1, 16) => (
            if i < 4 || (8..12).contains(&i) { group } else { group + 8 },
            thread * 4 + (i & 3) + if i < 8 { 0 } else { 16 },
        ),
        other => panic!("{other:?}"),
    }
}

/// Row of element `i` of a thread's B; the column is the group.
pub fn row_of_b(bytes: usize, lane: usize, i: usize) -> usize {
    let thread = lane % 4;
    match bytes {
        4 => thread + 4 * i,
        2 => thread * 2 + (i & 1) + 8 * (i / 2),
        _ => thread * 4 + (i & 3) + 16 * (i / 4),
    }
}

/// Place of element `i` of a thread's C or D, of any number of columns.
pub fn place_d(lane: usize, i: usize) -> (usize, usize) {
    (lane / 4 + if i % 4 < 2 { 0 } else { 8 }, lane % 4 * 2 + (i & 1) + i / 4 * 8)
}

pub fn header(target: &str) -> String {
    format!(".version 8.7\n.target {target}\n.address_size 64\n.extern .shared .align 1024 .b8 tile[];\n")
}

/// `ld`/`st` of `count` registers `{prefix}i` at `base` + 4 * (thread + threads * i).
pub fn registers(load: bool, prefix: &str, count: usize, base: &str, threads: usize) -> String {
    let one = |i: usize| match load {
        true => format!("ld.global.b32 {prefix}{i}, [{base}+{}];\n", 4 * threads * i),
        false => format!("st.global.b32 [{base}+{}], {prefix}{i};\n", 4 * threads * i),
    };
    (0..count).map(one).collect()
}

pub fn list(prefix: &str, range: std::ops::Range<usize>) -> String {
    let all: Vec<String> = range.map(|i| format!("{prefix}{i}")).collect();
    format!("{{{}}}", all.join(", "))
}

/// Kernel `run(parameters...)`; `%p_name` hold the parameters, each advanced by 4 bytes per thread if `each`.
pub fn kernel(target: &str, parameters: &[(&str, bool)], registers: &str, body: &str) -> String {
    let declared: Vec<String> = parameters.iter().map(|(name, _)| format!(".param .u64 {name}")).collect();
    let mut text =
        header(target) + &format!(".visible .entry run({}) {{\n{registers}\n", declared.join(", "));
    text += ".reg .b64 %lane4;\n.reg .b32 %t;\nmov.u32 %t, %tid.x;\nmul.wide.u32 %lane4, %t, 4;\n";
    for (name, each) in parameters {
        text += &format!(".reg .b64 %p_{name};\nld.param.u64 %p_{name}, [{name}];\n");
        if *each {
            text += &format!("add.s64 %p_{name}, %p_{name}, %lane4;\n");
        }
    }
    text + body + "ret;\n}\n"
}

pub fn check(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (i, (a, b)) in got.iter().zip(want).enumerate() {
        assert!((a - b).abs() <= tolerance * b.abs().max(1.0), "{what}, element {i}: {a} for {b}");
    }
}

/// Bits of accumulators: f32, s32 or f16.
pub fn accumulator(kind: &str, x: f64) -> u32 {
    match kind {
        "f32" => (x as f32).to_bits(),
        "f16" => f16::from_f64(x).to_bits().into(),
        _ => x as i32 as u32,
    }
}

pub fn unpack(kind: &str, word: u32, half: usize) -> f64 {
    match kind {
        "f32" => f32::from_bits(word).into(),
        "f16" => f16::from_bits((word >> (16 * half)) as u16).to_f64(),
        _ => f64::from(word as i32),
    }
}

/// Writes a kernel where `PTX_DUMP` says, to be checked by other tools.
pub fn dump(what: &str, text: &str) {
    if let Ok(folder) = std::env::var("PTX_DUMP") {
        let name: String = what.chars().map(|c| if c.is_alphanumeric() { c } else { '_' }).collect();
        std::fs::write(format!("{folder}/{name}.ptx"), text).unwrap();
    }
}

/// Copies `words` words from `%p_image` to shared memory.
pub fn fill(words: usize) -> String {
    format!(
        ".reg .b32 %i, %v, %o, %n, %base;\n.reg .b64 %from;\n.reg .pred %past;\n\
         mov.u32 %base, tile;\nmov.u32 %i, %tid.x;\nmov.u32 %n, %ntid.x;\n\
         FILL:\nsetp.ge.u32 %past, %i, {words};\n@%past bra FILLED;\n\
         mul.wide.u32 %from, %i, 4;\nadd.s64 %from, %from, %p_image;\nld.global.b32 %v, [%from];\n\
         shl.b32 %o, %i, 2;\nadd.s32 %o, %o, %base;\nst.shared.b32 [%o], %v;\n\
         add.s32 %i, %i, %n;\nbra FILL;\nFILLED:\nbar.sync 0;\n"
    )
}

pub fn shared(threads: u32, bytes: usize) -> LaunchConfig {
    LaunchConfig { dynamic_shared_bytes: bytes as u32, ..config(1, threads) }
}
