//! What programs consist of, and the texts and numbers that several of them have.

use std::fmt::Write;

/// The least compute capability a program runs on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Target {
    Sm80,
    /// Runs on 9.0 only.
    Sm90a,
}

/// What a program loads.
pub enum Input {
    /// 64-bit operands with corner values, three per thread, another set each round ([`operands`]).
    Operands,
    /// The same, but the first operand of each thread is an f32 from -2 pi to 2 pi.
    Angles,
    /// These words, once.
    Words(Vec<u32>),
}

/// How results may differ from a card's.
#[derive(Clone, Copy)]
pub enum Compare {
    /// Not at all.
    Exact,
    /// Each 64-bit result holds an f32, or an f16 if `half`: equal, both NaN, or no further apart than
    /// `ulps` + `relative` x the card's + `absolute`.
    Near { half: bool, ulps: f64, relative: f64, absolute: f64 },
}

/// What a program's tensor map describes: a dense tensor that starts where the input or the results do.
pub struct Tensor {
    /// In the results; otherwise in the input.
    pub of_results: bool,
    pub element: Element,
    /// Elements, innermost first.
    pub dimensions: Vec<u64>,
    pub box_size: Vec<u32>,
    /// Every how many elements one is copied.
    pub steps: Vec<u32>,
    /// 0 none, 1 to 3 of 32, 64 and 128 bytes, as the driver numbers them.
    pub swizzle: u8,
    /// Elements out of bounds are NaN, not 0.
    pub fills_nan: bool,
}

/// Elements of tensors that programs copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Element {
    U8,
    U16,
    U32,
    F16,
    F32,
    Bf16,
    /// Subnormals are flushed.
    F32Ftz,
    Tf32,
    Tf32Ftz,
}

impl Element {
    pub fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::U16 | Self::F16 | Self::Bf16 => 2,
            _ => 4,
        }
    }
}

/// A program, and the name its golden goes by.
pub struct Program {
    /// The instruction with its variant.
    pub name: String,
    /// The module's text; its kernel is `k(results, input, map)`, or `k(results, input)`.
    pub ptx: String,
    pub target: Target,
    /// Threads of a block.
    pub threads: usize,
    /// Blocks, all of one cluster.
    pub cluster: usize,
    pub input: Input,
    /// What the results' memory holds at the start.
    pub results: Vec<u32>,
    pub tensor: Option<Tensor>,
    pub compare: Compare,
    /// The results, where the host can work them out another way.
    pub expected: Option<Vec<u32>>,
    /// What they tell, where the PTX ISA leaves them open.
    pub observation: Option<Observation>,
}

type Tell = Box<dyn Fn(&[u32]) -> String>;

/// What a device does where it may do as it likes: told, never a failure.
pub struct Observation {
    /// In words, from the results.
    pub tell: Tell,
    /// The words for ptxsim.
    pub of_virtual_card: String,
    /// What they begin with for ptxsim with `PTXSIM_MMA=truncate`, on 8.0 and on 9.0.
    pub of_truncating: Option<[String; 2]>,
}

/// Bytes of `tile`, the shared memory of programs other than the scalar ones.
pub const TILE_BYTES: usize = 40960;

/// A program of 32 threads around `body`, which finds:
/// `%t` and `%g` its thread in the block and in the grid, `%out` and `%in` results and input, `%to` and `%at` the same
/// plus 4 x `%g`, `%map` the tensor map, `%tile` shared memory, `bar` mbarriers; registers `%r`, `%l`, `%h`, `%p`;
/// `%first` is true in thread 0.
pub fn program(name: &str, target: Target, body: &str) -> Program {
    let head = match target {
        Target::Sm80 => ".version 8.0\n.target sm_80",
        Target::Sm90a => ".version 8.4\n.target sm_90a",
    };
    let ptx = format!(
        "{head}\n.address_size 64\n\
         .visible .entry k(.param .u64 results, .param .u64 input, .param .align 64 .b8 map[128])\n{{\n\
         .shared .align 1024 .b8 tile[{TILE_BYTES}];\n.shared .align 8 .b64 bar[2];\n\
         .reg .pred %p<8>, %first;\n.reg .b16 %h<8>;\n.reg .b32 %t, %g, %tile, %r<160>;\n\
         .reg .b64 %out, %in, %to, %at, %map, %l<16>;\n\
         ld.param.u64 %out, [results];\nld.param.u64 %in, [input];\nmov.b64 %map, map;\ncvta.param.u64 %map, %map;\n\
         mov.u32 %t, %tid.x;\nsetp.eq.u32 %first, %t, 0;\nmov.u32 %r0, %ctaid.x;\nmov.u32 %r1, %ntid.x;\n\
         mad.lo.u32 %g, %r0, %r1, %t;\nmad.wide.u32 %to, %g, 4, %out;\nmad.wide.u32 %at, %g, 4, %in;\n\
         mov.u32 %tile, tile;\n{body}ret;\n}}\n"
    );
    Program {
        name: name.to_owned(),
        ptx,
        target,
        threads: 32,
        cluster: 1,
        input: Input::Words(words(1024)),
        results: Vec::new(),
        tensor: None,
        compare: Compare::Exact,
        expected: None,
        observation: None,
    }
}

impl Program {
    /// With results of zeros at the start, and these at the end.
    pub fn expecting(mut self, expected: Vec<u32>) -> Self {
        self.results.resize(expected.len(), 0);
        self.expected = Some(expected);
        self
    }

    pub fn given(mut self, input: Vec<u32>) -> Self {
        self.input = Input::Words(input);
        self
    }

    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }
}

/// What was asked, and the name of its result, or its bits.
pub fn named(label: &str, result: u32, names: &[(u32, &str)]) -> String {
    match names.iter().find(|(bits, _)| *bits == result) {
        Some((_, name)) => format!("{label} {name}"),
        None => format!("{label} {result:#x}"),
    }
}

/// Words with no pattern.
pub fn words(count: u32) -> Vec<u32> {
    (0..count).map(|i| (i + 1).wrapping_mul(0x9e37_79b9) ^ i.rotate_left(19)).collect()
}

pub fn bytes_of(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub fn words_of(bytes: &[u8]) -> Vec<u32> {
    let word = |part: &[u8]| part.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
    bytes.chunks(4).map(word).collect()
}

/// `ld` or `st` of registers `%r{from}..` at `base` + 4 x threads x index.
pub fn registers(load: bool, range: std::ops::Range<usize>, base: &str, threads: usize) -> String {
    let mut text = String::new();
    for (i, register) in range.enumerate() {
        let at = 4 * threads * i;
        let _ = match load {
            true => writeln!(text, "ld.global.b32 %r{register}, [{base}+{at}];"),
            false => writeln!(text, "st.global.b32 [{base}+{at}], %r{register};"),
        };
    }
    text
}

/// `{%r4, %r5}` for `4..6`.
pub fn list(range: std::ops::Range<usize>) -> String {
    let all: Vec<String> = range.map(|i| format!("%r{i}")).collect();
    format!("{{{}}}", all.join(", "))
}

/// All threads of a block copy `words` words from address `base` to the tile, or from the tile to `base`. They do not
/// meet after it.
pub fn copy(to_tile: bool, words: usize, base: &str) -> String {
    let step = match to_tile {
        true => "ld.global.b32 %r151, [%l15];\nst.shared.b32 [%r152], %r151;",
        false => "ld.shared.b32 %r151, [%r152];\nst.global.b32 [%l15], %r151;",
    };
    format!(
        "{{\nmov.u32 %r150, %t;\nmov.u32 %r153, %ntid.x;\nNEXT:\nsetp.ge.u32 %p7, %r150, {words};\n@%p7 bra DONE;\n\
         mad.wide.u32 %l15, %r150, 4, {base};\nshl.b32 %r152, %r150, 2;\nadd.s32 %r152, %r152, %tile;\n{step}\n\
         add.s32 %r150, %r150, %r153;\nbra NEXT;\nDONE:\n}}\n"
    )
}

/// Thread 0 runs `text`.
pub fn first(text: &str) -> String {
    format!("{{\n@!%first bra OTHERS;\n{text}OTHERS:\n}}\nbar.warp.sync 0xffffffff;\n")
}

/// Thread 0 makes the first of `bar` an mbarrier of `count`.
pub fn init(count: u32) -> String {
    format!(
        "@%first mbarrier.init.shared.b64 [bar], {count};\nfence.mbarrier_init.release.cluster;\n\
         fence.proxy.async;\nbar.sync 0;\n"
    )
}

pub fn wait(parity: u32) -> String {
    format!("{{\nWAIT:\nmbarrier.try_wait.parity.shared.b64 %p6, [bar], {parity};\n@!%p6 bra WAIT;\n}}\n")
}

pub const CLUSTER_SYNC: &str = "barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;\n";
/// Commits the bulk copies so far and waits until they have written.
pub const DRAIN: &str = "cp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;\n";
/// Makes the block's shared memory ready for the async proxy.
pub const PUBLISH: &str = "fence.proxy.async;\nbar.sync 0;\n";

/// Bits of a small integer as f16: |x| up to 2048.
pub fn f16(x: i32) -> u32 {
    let sign = if x < 0 { 0x8000 } else { 0 };
    match x.unsigned_abs() {
        0 => sign,
        magnitude => {
            let exponent = magnitude.ilog2();
            let fraction = (magnitude << 10 >> exponent) & 0x3ff;
            sign | (exponent + 15) << 10 | fraction
        }
    }
}

/// The value of an f16's bits.
pub fn f16_value(bits: u16) -> f64 {
    let (sign, exponent) = (if bits >> 15 == 0 { 1.0 } else { -1.0 }, i32::from(bits >> 10 & 31));
    let fraction = f64::from(bits & 0x3ff) / 1024.0;
    sign * match exponent {
        31 if fraction > 0.0 => f64::NAN,
        31 => f64::INFINITY,
        0 => fraction * 2f64.powi(-14),
        _ => (1.0 + fraction) * 2f64.powi(exponent - 15),
    }
}

/// Bits of a small integer as bf16: |x| up to 256.
pub fn bf16(x: i32) -> u32 {
    (x as f32).to_bits() >> 16
}

/// Integers from -4 to 4 with no pattern, another sequence for each seed.
pub fn small(count: usize, seed: u32) -> Vec<i32> {
    let mix = |i: usize| mixed((i as u32 + 1).wrapping_mul(0x85eb_ca6b) ^ seed.wrapping_mul(0xc2b2_ae35));
    (0..count).map(|i| (mix(i) % 9) as i32 - 4).collect()
}

/// Bits with no pattern.
pub fn mixed(x: u32) -> u32 {
    let x = (x ^ x >> 15).wrapping_mul(0x2c1b_3c6d);
    x ^ x >> 13
}
