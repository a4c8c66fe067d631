//! wmma (PTX ISA 9.0, 9.7.14.4) of every shape, type, layout and space against products of f64; fragments are scaled as
//! programs may.

mod support;

use half::f16;
use ptxsim::FaultKind;
use support::fragments::*;
use support::{Gpu, config, noise};

const SHAPES: [(usize, usize, usize); 3] = [(16, 16, 16), (32, 8, 16), (8, 32, 16)];

/// A matrix in memory: by columns or rows, with a distance between these.
#[derive(Clone, Copy)]
struct Place {
    rows: usize,
    columns: usize,
    by_column: bool,
    stride: usize,
}

impl Place {
    fn of(rows: usize, columns: usize, by_column: bool, gap: usize) -> Self {
        Self { rows, columns, by_column, stride: if by_column { rows } else { columns } + gap }
    }

    fn index(&self, row: usize, column: usize) -> usize {
        if self.by_column { column * self.stride + row } else { row * self.stride + column }
    }

    fn elements(&self) -> usize {
        self.stride * if self.by_column { self.columns } else { self.rows }
    }

    fn name(&self) -> &'static str {
        if self.by_column { "col" } else { "row" }
    }

    /// The operand, left out where it is the default.
    fn operand(&self) -> String {
        let lines = if self.by_column { self.rows } else { self.columns };
        if self.stride == lines { String::new() } else { format!(", {}", self.stride) }
    }

    fn bytes(&self, element: usize, at: impl Fn(usize, usize) -> u64) -> Vec<u8> {
        let mut all = vec![0xee; self.elements() * element];
        for (row, column) in (0..self.rows).flat_map(|row| (0..self.columns).map(move |column| (row, column)))
        {
            let from = self.index(row, column) * element;
            all[from..from + element].copy_from_slice(&at(row, column).to_le_bytes()[..element]);
        }
        all
    }
}

/// Multiplicands and accumulators of a kernel.
#[derive(Clone, Copy)]
struct Types {
    ab: &'static str,
    c: &'static str,
    d: &'static str,
    saturate: bool,
}

/// Register type, their number and bytes of an element.
fn fragment(ty: &str, elements: usize, multiplicand: bool) -> (&'static str, usize, usize) {
    let each = elements / 32;
    match ty {
        "f16" if multiplicand => ("b32", 8, 2),
        "f16" | "bf16" => ("b32", each / 2, 2),
        "s8" | "u8" => ("b32", each / 4, 1),
        "f64" => ("f64", each, 8),
        _ => ("b32", each, 4),
    }
}

fn kernel_of(types: Types, shape: (usize, usize, usize), places: &[Place; 4], space: &str) -> String {
    let (m, n, k) = shape;
    let size = format!("m{m}n{n}k{k}");
    let Types { ab, c, d, saturate } = types;
    let (a_of, b_of) = (fragment(ab, m * k, true), fragment(ab, k * n, true));
    let (c_of, d_of) = (fragment(c, m * n, false), fragment(d, m * n, false));
    let mut body = String::new();
    // Shared memory holds A, B, C and D behind each other, 4 KiB each.
    let at = |i: usize| match space {
        ".shared" => format!("[tile+{}]", 4096 * i),
        _ => format!("[%p_{}]", ["a", "b", "c", "d"][i]),
    };
    if space == ".shared" {
        body += ".reg .b32 %i, %v, %o;\n.reg .b64 %from;\n.reg .pred %past;\n";
        for (i, name) in ["a", "b", "c"].iter().enumerate() {
            body += &format!(
                "mul.lo.u32 %i, %t, 4;\nNEXT{i}:\nsetp.ge.u32 %past, %i, 4096;\n@%past bra DONE{i};\n\
                 cvt.u64.u32 %from, %i;\nadd.s64 %from, %from, %p_{name};\nld.global.b32 %v, [%from];\n\
                 mov.u32 %o, tile;\nadd.s32 %o, %o, %i;\nst.shared.b32 [%o+{}], %v;\nadd.s32 %i, %i, 128;\nbra NEXT{i};\nDONE{i}:\n",
                4096 * i
            );
        }
        body += "bar.sync 0;\n";
    }
    let load = |i: usize, name: &str, ty: &str, count: usize| {
        let (place, list) = (&places[i], list(&format!("%{name}"), 0..count));
        format!(
            "wmma.load.{name}.sync.aligned.{}.{size}{space}.{ty} {list}, {}{};\n",
            place.name(),
            at(i),
            place.operand()
        )
    };
    body += &(load(0, "a", ab, a_of.1) + &load(1, "b", ab, b_of.1) + &load(2, "c", c, c_of.1));
    // A's elements double, all of them, whatever a register holds of them.
    for i in 0..a_of.1 {
        match ab {
            "f16" => body += &format!("add.f16x2 %a{i}, %a{i}, %a{i};\n"),
            "tf32" => body += &format!("add.f32 %a{i}, %a{i}, %a{i};\n"),
            "f64" => body += &format!("add.f64 %a{i}, %a{i}, %a{i};\n"),
            _ => {}
        }
    }
    let kinds = if ab == "f16" { format!("{d}.{c}") } else { format!("{d}.{ab}.{ab}.{c}") };
    body += &format!(
        "wmma.mma.sync.aligned.{}.{}.{size}.{kinds}{} {}, {}, {}, {};\n",
        places[0].name(),
        places[1].name(),
        if saturate { ".satfinite" } else { "" },
        list("%d", 0..d_of.1),
        list("%a", 0..a_of.1),
        list("%b", 0..b_of.1),
        list("%c", 0..c_of.1),
    );
    body += &format!(
        "wmma.store.d.sync.aligned.{}.{size}{space}.{d} {}, {}{};\n",
        places[3].name(),
        at(3),
        list("%d", 0..d_of.1),
        places[3].operand()
    );
    if space == ".shared" {
        let bytes = places[3].elements() * d_of.2;
        body += &format!(
            "bar.sync 0;\nmul.lo.u32 %i, %t, {0};\nNEXT:\nsetp.ge.u32 %past, %i, {bytes};\n@%past bra DONE;\n\
             cvt.u64.u32 %from, %i;\nadd.s64 %from, %from, %p_d;\nmov.u32 %o, tile;\nadd.s32 %o, %o, %i;\n",
            d_of.2
        );
        // The gaps between lines stay unwritten.
        let line = if places[3].by_column { m } else { n } * d_of.2;
        body += &format!(
            "rem.u32 %v, %i, {};\nsetp.ge.u32 %past, %v, {line};\n@%past bra SKIP;\n",
            places[3].stride * d_of.2
        );
        body += match d_of.2 {
            2 => ".reg .b16 %h;\nld.shared.b16 %h, [%o+12288];\nst.global.b16 [%from], %h;\n",
            4 => "ld.shared.b32 %v, [%o+12288];\nst.global.b32 [%from], %v;\n",
            _ => ".reg .b64 %w;\nld.shared.b64 %w, [%o+12288];\nst.global.b64 [%from], %w;\n",
        };
        body += &format!("SKIP:\nadd.s32 %i, %i, {};\nbra NEXT;\nDONE:\n", 32 * d_of.2);
    }
    let registers = format!(
        ".shared .align 128 .b8 tile[16384];\n.reg .{} %a<9>;\n.reg .{} %b<9>;\n.reg .{} %c<9>;\n.reg .{} %d<9>;",
        a_of.0, b_of.0, c_of.0, d_of.0
    );
    let parameters = [("a", false), ("b", false), ("c", false), ("d", false)];
    let text = kernel("sm_80", &parameters, &registers, &body);
    text.replace(".extern .shared .align 1024 .b8 tile[];\n", "")
}

fn code(ty: &str, x: f64) -> u64 {
    match ty {
        "f16" => f16::from_f64(x).to_bits().into(),
        "f32" => (x as f32).to_bits().into(),
        "f64" => x.to_bits(),
        _ => u64::from(x as i32 as u32),
    }
}

fn value(ty: &str, code: u64) -> f64 {
    match ty {
        "f16" => f16::from_bits(code as u16).to_f64(),
        "f32" => f32::from_bits(code as u32).into(),
        "f64" => f64::from_bits(code),
        _ => f64::from(code as u32 as i32),
    }
}

fn check_one(types: Types, shape: (usize, usize, usize), layouts: [bool; 4], gap: usize, space: &str) {
    let (m, n, k) = shape;
    let what = format!("{shape:?} {} {} {} {layouts:?} {gap} {space}", types.ab, types.c, types.d);
    let element = match types.ab {
        "f16" => F16,
        "bf16" => Bf16,
        "tf32" => Tf32,
        "s8" => S8,
        _ => U8,
    };
    let double = types.ab == "f64";
    let operands = |count: usize, seed: u64| -> (Vec<u64>, Vec<f64>) {
        if double {
            let values: Vec<f64> = noise(count, seed).iter().map(|x| f64::from(*x) / 3.0).collect();
            return (values.iter().map(|x| x.to_bits()).collect(), values);
        }
        let codes = element.random(count, seed);
        (codes.iter().map(|c| u64::from(*c)).collect(), codes.iter().map(|c| element.value(*c)).collect())
    };
    let ((a, a_values), (b, b_values)) = (operands(m * k, 11), operands(k * n, 12));
    let c_values: Vec<f64> = noise(m * n, 13)
        .iter()
        .map(|x| match types.c {
            // Sums on both sides of 2^24, and past the limits of s32.
            "s32" => (f64::from(*x) * 2f64.powi(31)).clamp(-2f64.powi(31), 2f64.powi(31) - 1.0).round(),
            "f16" => f16::from_f32(*x).to_f64(),
            _ => f64::from(*x),
        })
        .collect();
    let gaps = |ty: &str| gap / fragment(ty, 1024, false).2;
    let places = [
        Place::of(m, k, layouts[0], gaps(types.ab)),
        Place::of(k, n, layouts[1], gaps(types.ab)),
        Place::of(m, n, layouts[2], gaps(types.c)),
        Place::of(m, n, layouts[3], gaps(types.d)),
    ];
    let text = kernel_of(types, shape, &places, space);
    dump(&format!("wmma {what}"), &text);
    let gpu = Gpu::new("a100", &text);
    let padded = |mut bytes: Vec<u8>| {
        bytes.resize(bytes.len().max(4096), 0xee);
        gpu.upload(&bytes, |byte| vec![byte])
    };
    let [ab, cs, ds] = [types.ab, types.c, types.d].map(|ty| fragment(ty, 1024, false).2);
    let pa = padded(places[0].bytes(ab, |row, column| a[row * k + column]));
    let pb = padded(places[1].bytes(ab, |row, column| b[row * n + column]));
    let pc = padded(places[2].bytes(cs, |row, column| code(types.c, c_values[row * n + column])));
    let pd = padded(vec![0xee; places[3].elements() * ds]);
    gpu.run("run", &config(1, 32), &[&pa, &pb, &pc, &pd]);
    let mut got = vec![0; places[3].elements() * ds];
    gpu.memory.read(pd, &mut got).unwrap();
    let scale = if matches!(types.ab, "f16" | "tf32" | "f64") { 2.0 } else { 1.0 };
    let mut seen = vec![false; got.len()];
    for (row, column) in (0..m).flat_map(|row| (0..n).map(move |column| (row, column))) {
        let at = places[3].index(row, column) * ds;
        let word = got[at..at + ds].iter().rev().fold(0u64, |x, byte| x << 8 | u64::from(*byte));
        seen[at..at + ds].fill(true);
        let products = (0..k).map(|x| scale * a_values[row * k + x] * b_values[x * n + column]);
        let exact = c_values[row * n + column] + products.sum::<f64>();
        let want = match (types.d, types.saturate) {
            ("s32", true) => exact.clamp(-2f64.powi(31), 2f64.powi(31) - 1.0),
            ("s32", false) => f64::from(exact as i64 as i32),
            _ => exact,
        };
        let tolerance = match types.d {
            "f16" => 2e-3,
            "f32" => 1e-5,
            "f64" => 1e-14,
            _ => 0.0,
        };
        let found = value(types.d, word);
        assert!(
            (found - want).abs() <= tolerance * want.abs().max(1.0),
            "{what}: row {row}, column {column}: {found} for {want}"
        );
    }
    // Nothing is stored between the lines.
    assert!(got.iter().zip(&seen).all(|(byte, seen)| *seen || *byte == 0xee), "{what}");
}

/// All layouts with and without gaps, in every space.
fn check_all(types: Types, shape: (usize, usize, usize)) {
    for bits in 0..16 {
        let layouts = [0, 1, 2, 3].map(|i| bits >> i & 1 == 1);
        let space = ["", ".global", ".shared"][bits % 3];
        check_one(types, shape, layouts, if bits % 2 == 0 { 0 } else { 16 }, space);
    }
}

#[test]
fn halves() {
    for (c, d) in [("f16", "f16"), ("f32", "f32"), ("f16", "f32"), ("f32", "f16")] {
        for shape in SHAPES {
            check_all(Types { ab: "f16", c, d, saturate: false }, shape);
        }
    }
}

#[test]
fn bf16_tf32_and_f64() {
    for shape in SHAPES {
        check_all(Types { ab: "bf16", c: "f32", d: "f32", saturate: false }, shape);
    }
    check_all(Types { ab: "tf32", c: "f32", d: "f32", saturate: false }, (16, 16, 8));
    check_all(Types { ab: "f64", c: "f64", d: "f64", saturate: false }, (8, 8, 4));
}

#[test]
fn integers_are_exact() {
    for ab in ["s8", "u8"] {
        for (shape, saturate) in SHAPES.into_iter().flat_map(|shape| [(shape, false), (shape, true)]) {
            check_all(Types { ab, c: "s32", d: "s32", saturate }, shape);
        }
    }
}

#[test]
fn matrices_misused_are_faults() {
    let list = list("%r1", 0..8);
    let said = |body: &str, wanted: FaultKind, words: &str| {
        let found = support::kernel::fault("wmma misuse", 32, body);
        assert!(found.kind == wanted && found.message.contains(words), "{body}: {found}");
    };
    let load = |rest: &str| format!("wmma.load.a.sync.aligned.row.m16n16k16.global.f16 {list}, {rest};\n");
    let illegal = FaultKind::IllegalInstruction;
    said(&load("[%a0], 8"), illegal, "a stride of 8 elements for lines of 16");
    said(&load("[%a0], %t"), illegal, "different addresses or strides");
    said(&load("[%a0+16]"), FaultKind::Misaligned, "multiple of 32 bytes");
    said(&load("[%a0], 20"), FaultKind::Misaligned, "a stride of 40 bytes");
    said(&load("[%a0], 1024"), FaultKind::OutOfBounds, "");
    said(&format!("@%p9 {}", load("[%a0]")), FaultKind::Divergence, "");
    said(&load("[%a0]").replace(".global", "").replace("%a0", "%a2"), illegal, "lies in global memory");
    said(&load("[tile]").replace(".global", ".shared"), FaultKind::Uninitialized, "");
    // Loads of one lane, loads of all: nothing has ordered them.
    let fill: String = (0..128).map(|i| format!("st.shared.b32 [%r39+{}], 0;\n", 4 * i)).collect();
    let race =
        format!("{{\n@!%p9 bra OTHERS;\n{fill}OTHERS:\n}}\n") + &load("[tile]").replace(".global", ".shared");
    said(&race, FaultKind::Race, "");
}

/// What nvcc makes of `nvcuda::wmma` (`kernels/wmma.cu`).
#[test]
fn the_cpp_interface() {
    let gpu = Gpu::new("a100", include_str!("kernels/wmma.ptx"));
    let (m, n, k) = (64, 48, 80);
    let grid = |columns: u32, rows: u32| ptxsim::LaunchConfig {
        grid: [n as u32 / columns, m as u32 / rows, 1],
        ..config(1, 32)
    };
    let close = |what: &str, got: &[f32], want: &dyn Fn(usize, usize) -> f64| {
        for (i, got) in got.iter().enumerate() {
            let want = want(i / n, i % n);
            assert!(
                (f64::from(*got) - want).abs() <= 1e-5 * want.abs().max(1.0),
                "{what}, {i}: {got} for {want}"
            );
        }
    };
    let half = |n: usize, seed: u64| noise(n, seed).into_iter().map(f16::from_f32).collect::<Vec<_>>();
    let (a, b, c) = (half(m * k, 1), half(n * k, 2), noise(m * n, 3));
    let upload = |x: &[f16]| gpu.upload(x, |x| x.to_le_bytes().to_vec());
    let (pa, pb, pc) = (upload(&a), upload(&b), gpu.floats(&c));
    let alpha = 0.75f32;
    let counters = gpu.run("gemm_f16", &grid(16, 16), &[&pa, &pb, &pc, &(n as i32), &(k as i32), &alpha]);
    assert_eq!(counters.tensor_flops, 2 * (m * n * k) as u64);
    assert_eq!(counters.global_store_bytes, 4 * (m * n) as u64);
    close("f16", &gpu.read_floats(pc, m * n), &|row, column| {
        let sum = (0..k).map(|x| a[row * k + x].to_f64() * b[column * k + x].to_f64()).sum::<f64>();
        0.75 * sum + f64::from(c[row * n + column])
    });

    let bytes =
        |n: usize, seed: u64| -> Vec<i8> { noise(n, seed).iter().map(|x| (x * 128.0) as i8).collect() };
    let (a, b) = (bytes(m * k, 4), bytes(n * k, 5));
    let upload = |x: &[i8]| gpu.upload(x, |x| x.to_le_bytes().to_vec());
    let (pa, pb, pc) = (upload(&a), upload(&b), gpu.space(4 * (m * n) as u64));
    gpu.run("gemm_s8", &grid(8, 32), &[&pa, &pb, &pc, &(m as i32), &(k as i32)]);
    for (i, got) in gpu.read_ints(pc, m * n).into_iter().enumerate() {
        let (row, column) = (i % m, i / m);
        let want: i32 = (0..k).map(|x| i32::from(a[row * k + x]) * i32::from(b[column * k + x])).sum();
        assert_eq!(got as i32, want, "s8: row {row}, column {column}");
    }

    // To ten bits of mantissa, ties away from zero.
    let tf32 = |x: f32| f64::from(f32::from_bits((x.to_bits() + 0x1000) & 0xffff_e000));
    let (a, b) = (noise(m * k, 6), noise(k * n, 7));
    let (pa, pb, pc) = (gpu.floats(&a), gpu.floats(&b), gpu.space(4 * (m * n) as u64));
    gpu.run("gemm_tf32", &grid(16, 16), &[&pa, &pb, &pc, &(n as i32), &(k as i32)]);
    close("tf32", &gpu.read_floats(pc, m * n), &|row, column| {
        (0..k).map(|x| tf32(a[row * k + x]) * tf32(b[x * n + column])).sum()
    });
}
