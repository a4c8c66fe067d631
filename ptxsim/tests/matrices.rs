//! Matrix instructions in hand-written kernels, against products of f64 and layouts as the PTX ISA words them.

mod support;

use half::{bf16, f16};
use ptxsim::LaunchConfig;
use support::{Gpu, config, noise};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ty {
    F16,
    Bf16,
    Tf32,
    E4M3,
    E5M2,
    S8,
    U8,
}
use Ty::{Bf16, E4M3, E5M2, F16, S8, Tf32, U8};

impl Ty {
    fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    fn bytes(self) -> usize {
        match self {
            F16 | Bf16 => 2,
            Tf32 => 4,
            _ => 1,
        }
    }

    /// Finite elements of about -2 to 2; any integer.
    fn random(self, n: usize, seed: u64) -> Vec<u32> {
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

    fn value(self, code: u32) -> f64 {
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
fn fragments(bytes: usize, threads: usize, elements: usize, at: impl Fn(usize, usize) -> u32) -> Vec<u32> {
    let each = 4 / bytes;
    let word = |r: usize, thread: usize| {
        (0..each).fold(0, |word, i| word | at(thread, r * each + i) << (8 * bytes * i))
    };
    (0..elements / each * threads).map(|x| word(x / threads, x % threads)).collect()
}

/// Place of element `i` of a thread's A: (row, column), as the ISA lists them per shape.
fn place_a(bytes: usize, elements: usize, lane: usize, i: usize) -> (usize, usize) {
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
fn row_of_b(bytes: usize, lane: usize, i: usize) -> usize {
    let thread = lane % 4;
    match bytes {
        4 => thread + 4 * i,
        2 => thread * 2 + (i & 1) + 8 * (i / 2),
        _ => thread * 4 + (i & 3) + 16 * (i / 4),
    }
}

/// Place of element `i` of a thread's C or D, of any number of columns.
fn place_d(lane: usize, i: usize) -> (usize, usize) {
    (lane / 4 + if i % 4 < 2 { 0 } else { 8 }, lane % 4 * 2 + (i & 1) + i / 4 * 8)
}

fn header(target: &str) -> String {
    format!(".version 8.7\n.target {target}\n.address_size 64\n.extern .shared .align 1024 .b8 tile[];\n")
}

/// `ld`/`st` of `count` registers `{prefix}i` at `base` + 4 * (thread + threads * i).
fn registers(load: bool, prefix: &str, count: usize, base: &str, threads: usize) -> String {
    let one = |i: usize| match load {
        true => format!("ld.global.b32 {prefix}{i}, [{base}+{}];\n", 4 * threads * i),
        false => format!("st.global.b32 [{base}+{}], {prefix}{i};\n", 4 * threads * i),
    };
    (0..count).map(one).collect()
}

fn list(prefix: &str, range: std::ops::Range<usize>) -> String {
    let all: Vec<String> = range.map(|i| format!("{prefix}{i}")).collect();
    format!("{{{}}}", all.join(", "))
}

/// Kernel `run(parameters...)`; `%p_name` hold the parameters, each advanced by 4 bytes per thread if `each`.
fn kernel(target: &str, parameters: &[(&str, bool)], registers: &str, body: &str) -> String {
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

fn check(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (i, (a, b)) in got.iter().zip(want).enumerate() {
        assert!((a - b).abs() <= tolerance * b.abs().max(1.0), "{what}, element {i}: {a} for {b}");
    }
}

/// Bits of accumulators: f32, s32 or f16.
fn accumulator(kind: &str, x: f64) -> u32 {
    match kind {
        "f32" => (x as f32).to_bits(),
        "f16" => f16::from_f64(x).to_bits().into(),
        _ => x as i32 as u32,
    }
}

fn unpack(kind: &str, word: u32, half: usize) -> f64 {
    match kind {
        "f32" => f32::from_bits(word).into(),
        "f16" => f16::from_bits((word >> (16 * half)) as u16).to_f64(),
        _ => f64::from(word as i32),
    }
}

fn mma(card: &str, target: &str, k: usize, a_ty: Ty, b_ty: Ty, kind: &str) {
    let what = format!("m16n8k{k} {kind} {a_ty:?} {b_ty:?}");
    let (bytes, elements) = (a_ty.bytes(), 16 * k / 32);
    let per_word = if kind == "f16" { 2 } else { 1 };
    let (a_words, b_words, d_words) = (elements * bytes / 4, elements * bytes / 8, 4 / per_word);
    let (a, b) = (a_ty.random(16 * k, 1), b_ty.random(k * 8, 2));
    let c: Vec<f64> =
        noise(128, 3).iter().map(|x| f16::from_f64((f64::from(*x) * 64.0).round() / 16.0).to_f64()).collect();
    let c: Vec<f64> = if kind == "s32" { c.iter().map(|x| (x * 1e5).round()).collect() } else { c };

    let regs = ".reg .b32 %a<4>, %b<2>, %c<4>, %d<4>;";
    let mut body = registers(true, "%a", a_words, "%p_a", 32)
        + &registers(true, "%b", b_words, "%p_b", 32)
        + &registers(true, "%c", d_words, "%p_c", 32);
    body += &format!(
        "mma.sync.aligned.m16n8k{k}.row.col.{kind}.{}.{}.{kind} {}, {}, {}, {};\n",
        a_ty.name(),
        b_ty.name(),
        list("%d", 0..d_words),
        list("%a", 0..a_words),
        list("%b", 0..b_words),
        list("%c", 0..d_words)
    );
    body += &registers(false, "%d", d_words, "%p_d", 32);
    let text = kernel(target, &[("a", true), ("b", true), ("c", true), ("d", true)], regs, &body);
    dump(&what, &text);
    let gpu = Gpu::new(card, &text);

    let pa = gpu.ints(&fragments(bytes, 32, elements, |lane, i| {
        let (row, column) = place_a(bytes, elements, lane, i);
        a[row * k + column]
    }));
    let pb =
        gpu.ints(&fragments(bytes, 32, elements / 2, |lane, i| b[row_of_b(bytes, lane, i) * 8 + lane / 4]));
    let pc = gpu.ints(&fragments(4 / per_word, 32, 4, |lane, i| {
        let (row, column) = place_d(lane, i);
        accumulator(kind, c[row * 8 + column])
    }));
    let pd = gpu.space(4 * 32 * d_words as u64);
    gpu.run("run", &config(1, 32), &[&pa, &pb, &pc, &pd]);
    let words = gpu.read_ints(pd, 32 * d_words);
    let (mut got, mut want) = (vec![f64::NAN; 128], vec![0.0; 128]);
    for (lane, i) in (0..32).flat_map(|lane| (0..4).map(move |i| (lane, i))) {
        let (row, column) = place_d(lane, i);
        got[row * 8 + column] = unpack(kind, words[i / per_word * 32 + lane], i % per_word);
        want[row * 8 + column] = c[row * 8 + column]
            + (0..k).map(|x| a_ty.value(a[row * k + x]) * b_ty.value(b[x * 8 + column])).sum::<f64>();
    }
    check(
        &what,
        &got,
        &want,
        [1e-5, 2e-3, 0.0][["f32", "f16", "s32"].iter().position(|n| *n == kind).unwrap()],
    );
}

/// Writes a kernel where `PTX_DUMP` says, to be checked by other tools.
fn dump(what: &str, text: &str) {
    if let Ok(folder) = std::env::var("PTX_DUMP") {
        let name: String = what.chars().map(|c| if c.is_alphanumeric() { c } else { '_' }).collect();
        std::fs::write(format!("{folder}/{name}.ptx"), text).unwrap();
    }
}

#[test]
fn mma_of_every_shape_and_type() {
    for k in [8, 16] {
        mma("a100", "sm_80", k, F16, F16, "f32");
        mma("a100", "sm_80", k, F16, F16, "f16");
        mma("a100", "sm_80", k, Bf16, Bf16, "f32");
    }
    mma("a100", "sm_80", 4, Tf32, Tf32, "f32");
    mma("a100", "sm_80", 8, Tf32, Tf32, "f32");
    for (a, b) in [(E4M3, E4M3), (E5M2, E5M2), (E4M3, E5M2), (E5M2, E4M3)] {
        for kind in ["f32", "f16"] {
            mma("rtx4090", "sm_89", 32, a, b, kind);
            mma("rtx4090", "sm_89", 16, a, b, kind);
        }
    }
    for (a, b) in [(S8, S8), (U8, U8), (S8, U8), (U8, S8)] {
        mma("a100", "sm_80", 16, a, b, "s32");
        mma("a100", "sm_80", 32, a, b, "s32");
    }
}

/// Copies `words` words from `%p_image` to shared memory.
fn fill(words: usize) -> String {
    format!(
        ".reg .b32 %i, %v, %o, %n, %base;\n.reg .b64 %from;\n.reg .pred %past;\n\
         mov.u32 %base, tile;\nmov.u32 %i, %tid.x;\nmov.u32 %n, %ntid.x;\n\
         FILL:\nsetp.ge.u32 %past, %i, {words};\n@%past bra FILLED;\n\
         mul.wide.u32 %from, %i, 4;\nadd.s64 %from, %from, %p_image;\nld.global.b32 %v, [%from];\n\
         shl.b32 %o, %i, 2;\nadd.s32 %o, %o, %base;\nst.shared.b32 [%o], %v;\n\
         add.s32 %i, %i, %n;\nbra FILL;\nFILLED:\nbar.sync 0;\n"
    )
}

fn shared(threads: u32, bytes: usize) -> LaunchConfig {
    LaunchConfig { dynamic_shared_bytes: bytes as u32, ..config(1, threads) }
}

/// Offsets of 32 rows of 16 bytes in 1024, in no order.
fn scattered_rows() -> Vec<u32> {
    (0..32).map(|i| (i * 27 + 5) % 64 * 16).collect()
}

/// Element (row, column) of matrix `m` lies at half (column) of row address 8 m + row.
fn half_index(rows: &[u32], m: usize, row: usize, column: usize) -> usize {
    rows[8 * m + row] as usize / 2 + column
}

#[test]
fn ldmatrix_loads_rows_and_columns() {
    let halves: Vec<u32> = (0..512).map(|i| i * 57 + 11 & 0xffff).collect();
    let image = fragments(2, 1, 512, |_, i| halves[i]);
    let rows = scattered_rows();
    for (count, trans) in [1, 2, 4].into_iter().flat_map(|n| [(n, false), (n, true)]) {
        let what = format!("ldmatrix x{count} {trans}");
        let body = fill(256)
            + "ld.global.b32 %r, [%p_rows];\nadd.s32 %r, %r, %base;\n"
            + &format!(
                "ldmatrix.sync.aligned.m8n8.x{count}{}.shared.b16 {}, [%r];\n",
                if trans { ".trans" } else { "" },
                list("%d", 0..count)
            )
            + &registers(false, "%d", count, "%p_d", 32);
        let parameters = [("image", false), ("rows", true), ("d", true)];
        let text = kernel("sm_80", &parameters, ".reg .b32 %r, %d<4>;", &body);
        dump(&what, &text);
        let gpu = Gpu::new("a100", &text);
        // Lanes past the last matrix may hold any address.
        let mut given = rows.clone();
        given[8 * count..].fill(3);
        let (image, given, d) = (gpu.ints(&image), gpu.ints(&given), gpu.space(4 * 32 * 4));
        gpu.run("run", &shared(32, 1024), &[&image, &given, &d]);
        let got = gpu.read_ints(d, 32 * count);
        for (x, word) in got.iter().enumerate() {
            let (m, lane) = (x / 32, x % 32);
            for half in 0..2 {
                let (a, b) = (lane / 4, lane % 4 * 2 + half);
                let (row, column) = if trans { (b, a) } else { (a, b) };
                let want = halves[half_index(&rows, m, row, column)];
                assert_eq!(word >> (16 * half) & 0xffff, want, "{what}: matrix {m} lane {lane}");
            }
        }
    }
}

#[test]
fn stmatrix_stores_rows_and_columns() {
    let rows = scattered_rows();
    let values: Vec<u32> = (0..128).map(|i: u32| i.wrapping_mul(0x9e37_79b9)).collect();
    for (count, trans) in [1, 2, 4].into_iter().flat_map(|n| [(n, false), (n, true)]) {
        let what = format!("stmatrix x{count} {trans}");
        let body = fill(256)
            + "ld.global.b32 %r, [%p_rows];\nadd.s32 %r, %r, %base;\n"
            + &registers(true, "%d", count, "%p_values", 32)
            + &format!(
                "stmatrix.sync.aligned.m8n8.x{count}{}.shared.b16 [%r], {};\n",
                if trans { ".trans" } else { "" },
                list("%d", 0..count)
            )
            + "bar.sync 0;\nshl.b32 %o, %t, 2;\nadd.s32 %o, %o, %base;\n"
            + &(0..8)
                .map(|i| format!("ld.shared.b32 %v, [%o+{0}];\nst.global.b32 [%p_out+{0}], %v;\n", 128 * i))
                .collect::<String>();
        let parameters = [("image", false), ("rows", true), ("values", true), ("out", true)];
        let text = kernel("sm_90", &parameters, ".reg .b32 %r, %d<4>;", &body);
        dump(&what, &text);
        let gpu = Gpu::new("h200", &text);
        let (image, given, input, out) =
            (gpu.ints(&[0xdead_beef; 256]), gpu.ints(&rows), gpu.ints(&values), gpu.space(1024));
        gpu.run("run", &shared(32, 1024), &[&image, &given, &input, &out]);
        let words = gpu.read_ints(out, 256);
        let mut want: Vec<u32> = (0..512).map(|i| if i % 2 == 0 { 0xbeef } else { 0xdead }).collect();
        for (m, row, column) in (0..64 * count).map(|x| (x / 64, x / 8 % 8, x % 8)) {
            let (a, b) = if trans { (column, row) } else { (row, column) };
            want[half_index(&rows, m, row, column)] =
                values[32 * m + 4 * a + b / 2] >> (16 * (b % 2)) & 0xffff;
        }
        assert_eq!(words, fragments(2, 1, 512, |_, i| want[i]), "{what}");
    }
}

#[test]
fn movmatrix_transposes() {
    let body = "ld.global.b32 %a, [%p_a];\nmovmatrix.sync.aligned.m8n8.trans.b16 %d, %a;\nst.global.b32 [%p_d], %d;\n";
    let text = kernel("sm_80", &[("a", true), ("d", true)], ".reg .b32 %a, %d;", body);
    dump("movmatrix", &text);
    let gpu = Gpu::new("a100", &text);
    // Element (row, column) is 8 row + column.
    let matrix = |transposed: bool| {
        fragments(2, 32, 2, |lane, i| {
            let (row, column) = (lane as u32 / 4, lane as u32 % 4 * 2 + i as u32);
            if transposed { 8 * column + row } else { 8 * row + column }
        })
    };
    let (a, d) = (gpu.ints(&matrix(false)), gpu.space(128));
    gpu.run("run", &config(1, 32), &[&a, &d]);
    assert_eq!(gpu.read_ints(d, 32), matrix(true));
}

/// How a wgmma operand lies in shared memory: rows of `width` bytes (16: no swizzle).
#[derive(Debug, Clone, Copy)]
struct Layout {
    width: usize,
    /// K-major; otherwise M or N is contiguous.
    k_major: bool,
}

impl Layout {
    /// Byte of element (mn, k) of an operand of `mns` x `ks`: tiles as a TMA box of `width` bytes by all rows
    /// leaves them, one behind the other; core matrices of 128 bytes without swizzle.
    fn byte(self, size: usize, (mns, ks): (usize, usize), mn: usize, k: usize) -> usize {
        let (inner, outer, outers) = if self.k_major { (k * size, mn, mns) } else { (mn * size, k, ks) };
        let (tile, within) = (inner / self.width, inner % self.width);
        let linear = tile * outers * self.width + outer * self.width + within;
        // The 16-byte chunk's number (bits 4-6) XOR the 128-byte row's (bits 7-9), as far as rows have chunks.
        let rows = match self.width {
            128 => 7,
            64 => 3,
            32 => 1,
            _ => 0,
        };
        let (chunk, row) = (linear / 16 % 8, linear / 128 % 8);
        linear / 128 * 128 + (chunk ^ (row & rows)) * 16 + linear % 16
    }

    /// Start of step `step` of 32 bytes of K (16 rows of K if MN-major), leading and stride byte offsets.
    fn step(self, (mns, ks): (usize, usize), step: usize) -> (usize, usize, usize) {
        let w = self.width;
        match (self.k_major, w) {
            // Leading: next 16 bytes of K. Stride: next eight rows.
            (true, 16) => (2 * step * mns * 16, mns * 16, 128),
            (true, _) => (32 * step / w * mns * w + 32 * step % w, 16, 8 * w),
            // Leading: next eight of K. Stride: next 16 bytes of M or N.
            (false, 16) => (16 * step * 16, 128, ks * 16),
            // Leading: next `width` bytes of M or N. Stride: next eight of K.
            (false, _) => (16 * step * w, ks * w, 8 * w),
        }
    }

    /// Descriptor without its start address.
    fn descriptor(self, shape: (usize, usize)) -> u64 {
        let (_, leading, stride) = self.step(shape, 0);
        let mode: u64 = match self.width {
            128 => 1,
            64 => 2,
            32 => 3,
            _ => 0,
        };
        mode << 62 | (stride as u64 >> 4) << 32 | (leading as u64 >> 4) << 16
    }
}

#[derive(Debug, Clone, Copy)]
struct Product {
    n: usize,
    a_ty: Ty,
    b_ty: Ty,
    kind: &'static str,
    /// Layout of A in shared memory; `None`: from registers.
    a: Option<Layout>,
    b: Layout,
    /// Signs of A and B, and whether the first step adds to what the registers hold.
    signs: (i32, i32),
    adds: bool,
}

/// Steps of 32 bytes of K.
const STEPS: usize = 8;

fn wgmma(p: Product) {
    let what = format!("{p:?}");
    let size = p.a_ty.bytes();
    let (per_step, k, per_word) = (32 / size, STEPS * 32 / size, if p.kind == "f16" { 2 } else { 1 });
    let (a, b) = (p.a_ty.random(64 * k, 1), p.b_ty.random(p.n * k, 2));
    let d_words = p.n / 2 / per_word;
    let b_start = if p.a.is_some() { 64 * k * size } else { 0 };
    let bytes = b_start + p.n * k * size;
    let mut image = vec![0u32; bytes / 4];
    let mut put = |byte: usize, code: u32| image[byte / 4] |= code << (8 * (byte % 4));
    for (mn, x) in (0..64 * k).map(|i| (i / k, i % k)) {
        if let Some(layout) = p.a {
            put(layout.byte(size, (64, k), mn, x), a[mn * k + x]);
        }
    }
    for (mn, x) in (0..p.n * k).map(|i| (i / k, i % k)) {
        put(b_start + p.b.byte(size, (p.n, k), mn, x), b[mn * k + x]);
    }

    let mut body =
        fill(bytes / 4) + "fence.proxy.async;\nbar.sync 0;\nshr.u32 %o, %base, 4;\ncvt.u64.u32 %b, %o;\n";
    body += &registers(true, "%c", d_words, "%p_c", 128);
    if p.a.is_none() {
        body += &registers(true, "%a", 4 * STEPS, "%p_a", 128);
    }
    body += &format!("mov.b32 %v, {};\nsetp.ne.b32 %adds, %v, 0;\n", i32::from(p.adds));
    body += "wgmma.fence.sync.aligned;\n";
    for step in 0..STEPS {
        let start = |layout: Layout, shape, from: usize| (from + layout.step(shape, step).0) as u64 / 16;
        let from_registers = || list("%a", 4 * step..4 * step + 4);
        let a = p.a.map_or_else(from_registers, |layout| {
            let descriptor = layout.descriptor((64, k)) + start(layout, (64, k), 0);
            body += &format!("add.s64 %da, %b, {};\n", descriptor as i64);
            "%da".to_owned()
        });
        let descriptor = p.b.descriptor((p.n, k)) + start(p.b, (p.n, k), b_start);
        body += &format!("add.s64 %db, %b, {};\n", descriptor as i64);
        body += &format!(
            "wgmma.mma_async.sync.aligned.m64n{}k{per_step}.{}.{}.{} {}, {a}, %db, {}",
            p.n,
            p.kind,
            p.a_ty.name(),
            p.b_ty.name(),
            list("%c", 0..d_words),
            if step == 0 { "%adds" } else { "1" },
        );
        if p.kind != "s32" {
            body += &format!(", {}, {}", p.signs.0, p.signs.1);
        }
        if size == 2 {
            if let Some(layout) = p.a {
                body += if layout.k_major { ", 0" } else { ", 1" };
            }
            body += if p.b.k_major { ", 0" } else { ", 1" };
        }
        body += ";\n";
    }
    body += "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n";
    body += &registers(false, "%c", d_words, "%p_d", 128);
    let text = kernel(
        "sm_90a",
        &[("image", false), ("a", true), ("c", true), ("d", true)],
        ".reg .b32 %a<32>, %c<128>;\n.reg .b64 %b, %da, %db;\n.reg .pred %adds;",
        &body,
    );
    dump(&format!("wgmma {what}"), &text);
    let gpu = Gpu::new("h200", &text);

    let c: Vec<f64> = noise(64 * p.n, 3).iter().map(|x| (f64::from(*x) * 64.0).round() / 16.0).collect();
    let c: Vec<f64> = if p.kind == "s32" { c.iter().map(|x| x * 16.0).collect() } else { c };
    // Row of a thread's element: each warp holds 16 rows.
    let rows = |thread: usize| 16 * (thread / 32 % 4);
    let a_words: Vec<u32> = (0..STEPS)
        .flat_map(|step| {
            let a = &a;
            fragments(size, 128, 16 / size, move |thread, i| {
                let (row, column) = place_a(size, 16 / size, thread % 32, i);
                a[(rows(thread) + row) * k + step * per_step + column]
            })
        })
        .collect();
    let c_words = fragments(4 / per_word, 128, p.n / 2, |thread, i| {
        let (row, column) = place_d(thread % 32, i);
        accumulator(p.kind, c[(rows(thread) + row) * p.n + column])
    });
    let (image, pa, pc) = (gpu.ints(&image), gpu.ints(&a_words), gpu.ints(&c_words));
    let d = gpu.space(4 * 128 * d_words as u64);
    gpu.run("run", &shared(128, bytes), &[&image, &pa, &pc, &d]);
    let words = gpu.read_ints(d, 128 * d_words);
    let (mut got, mut want) = (vec![f64::NAN; 64 * p.n], vec![0.0; 64 * p.n]);
    let values = |ty: Ty, codes: &[u32]| codes.iter().map(|code| ty.value(*code)).collect::<Vec<_>>();
    let (a, b) = (values(p.a_ty, &a), values(p.b_ty, &b));
    let sign = f64::from(p.signs.0 * p.signs.1);
    for (thread, i) in (0..128).flat_map(|thread| (0..p.n / 2).map(move |i| (thread, i))) {
        let (row, column) = place_d(thread % 32, i);
        let row = rows(thread) + row;
        got[row * p.n + column] = unpack(p.kind, words[i / per_word * 128 + thread], i % per_word);
        let sum: f64 = (0..k).map(|x| a[row * k + x] * b[column * k + x]).sum();
        want[row * p.n + column] = sign * sum + if p.adds { c[row * p.n + column] } else { 0.0 };
    }
    check(
        &what,
        &got,
        &want,
        [2e-5, 5e-2, 0.0][["f32", "f16", "s32"].iter().position(|n| *n == p.kind).unwrap()],
    );
}

fn layouts(k_major: bool) -> [Layout; 4] {
    [16, 32, 64, 128].map(|width| Layout { width, k_major })
}

const WIDE: Layout = Layout { width: 128, k_major: true };

fn plain(n: usize, ty: Ty, kind: &'static str) -> Product {
    Product { n, a_ty: ty, b_ty: ty, kind, a: Some(WIDE), b: WIDE, signs: (1, 1), adds: true }
}

#[test]
fn wgmma_reads_both_operands_in_every_layout() {
    for layout in layouts(true) {
        for (ty, kind) in [(Bf16, "f32"), (Tf32, "f32"), (E4M3, "f32")] {
            wgmma(Product { a: Some(layout), ..plain(64, ty, kind) });
            wgmma(Product { b: layout, ..plain(64, ty, kind) });
        }
    }
    for layout in layouts(false) {
        for ty in [F16, Bf16] {
            wgmma(Product { a: Some(layout), ..plain(64, ty, "f32") });
            wgmma(Product { b: layout, ..plain(128, ty, "f32") });
            wgmma(Product { a: Some(layout), b: layout, ..plain(256, ty, "f32") });
        }
    }
}

#[test]
fn wgmma_of_every_width_and_accumulator() {
    for n in [8, 64, 128, 256] {
        wgmma(plain(n, Bf16, "f32"));
        wgmma(plain(n, F16, "f32"));
        wgmma(plain(n, F16, "f16"));
        wgmma(plain(n, Tf32, "f32"));
        wgmma(plain(n, E4M3, "f32"));
        wgmma(plain(n, E4M3, "f16"));
        wgmma(Product { b_ty: E5M2, ..plain(n, E4M3, "f32") });
        wgmma(plain(n, S8, "s32"));
        wgmma(Product { a_ty: U8, ..plain(n, S8, "s32") });
    }
}

#[test]
fn wgmma_takes_a_from_registers() {
    for (ty, kind) in [(F16, "f32"), (Bf16, "f32"), (F16, "f16"), (Tf32, "f32"), (E5M2, "f32"), (U8, "s32")] {
        wgmma(Product { a: None, ..plain(64, ty, kind) });
    }
    wgmma(Product { a: None, b: Layout { width: 64, k_major: false }, ..plain(64, Bf16, "f32") });
}

#[test]
fn wgmma_scales_by_zero_and_minus_one() {
    for (signs, adds) in [((1, 1), false), ((-1, 1), true), ((1, -1), false), ((-1, -1), true)] {
        wgmma(Product { signs, adds, ..plain(64, F16, "f32") });
        wgmma(Product { signs, adds, ..plain(64, F16, "f16") });
        wgmma(Product { signs, adds, a: None, ..plain(64, Bf16, "f32") });
        wgmma(Product { adds, ..plain(64, S8, "s32") });
    }
}
