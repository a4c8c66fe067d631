//! mma, ldmatrix, stmatrix and movmatrix in hand-written kernels, against products of f64 and layouts as the PTX ISA words them.

mod support;

use half::f16;
use ptxsim::FaultKind;
use support::fragments::*;
use support::{Gpu, config, noise};

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
    let halves: Vec<u32> = (0..512).map(|i| (i * 57 + 11) & 0xffff).collect();
    let image = fragments(2, 1, 512, |_, i| halves[i]);
    let rows = scattered_rows();
    for (count, trans) in [1, 2, 4].into_iter().flat_map(|n| [(n, false), (n, true)]) {
        let what = format!("ldmatrix x{count} {trans}");
        // Generic addresses too.
        let (space, address) = if count == 2 { ("", "%ra") } else { (".shared", "%r") };
        let body = fill(256)
            + "ld.global.b32 %r, [%p_rows];\nadd.s32 %r, %r, %base;\n"
            + &format!(
                "cvt.u64.u32 %ra, %r;\ncvta.shared.u64 %ra, %ra;\n\
                 ldmatrix.sync.aligned.m8n8.x{count}{}{space}.b16 {}, [{address}];\n",
                if trans { ".trans" } else { "" },
                list("%d", 0..count)
            )
            + &registers(false, "%d", count, "%p_d", 32);
        let parameters = [("image", false), ("rows", true), ("d", true)];
        let text = kernel("sm_80", &parameters, ".reg .b32 %r, %d<4>;\n.reg .b64 %ra;", &body);
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

/// The mma of f64 (9.7.14.5.2, .6 to .8), of eight rows (.3), and sums of s32 that wrap or end at the limits.
#[test]
fn mma_of_f64_and_exact_integers() {
    // Place of element `i` of a lane: neighbours of a register, registers down eight rows, then right.
    let place_a = |m: usize, each: usize, lane: usize, i: usize| {
        let (register, i) = (i / each, i % each);
        let (down, right) = if m == 16 { (register % 2, register / 2) } else { (0, register) };
        (lane / 4 + 8 * down, each * (lane % 4) + i + 4 * each * right)
    };
    let run = |(m, n, k): (usize, usize, usize), a_ty: &str, b_ty: &str, saturate: bool| {
        let what = format!("m{m}n{n}k{k} {a_ty} {b_ty} {saturate}");
        let double = a_ty == "f64";
        let each = if double { 1 } else { 4 };
        let of = |count: usize, ty: &str, seed: u64| -> Vec<f64> {
            noise(count, seed)
                .iter()
                .map(|x| match ty {
                    "f64" => f64::from(*x) / 3.0,
                    "s8" => (x * 128.0).floor().into(),
                    _ => ((x + 1.0) * 128.0).floor().into(),
                })
                .collect()
        };
        let (a, b) = (of(m * k, a_ty, 5), of(k * n, b_ty, 6));
        // Near both limits, and near 2^24, past which f32 skips numbers.
        let c: Vec<f64> = noise(m * n, 7)
            .iter()
            .enumerate()
            .map(|(i, x)| match i % 3 {
                _ if double => f64::from(*x),
                0 => 2f64.powi(31) - 1.0 - (f64::from(*x) * 1000.0).abs().round(),
                1 => -2f64.powi(31) + (f64::from(*x) * 1000.0).abs().round(),
                _ => 2f64.powi(24) + (f64::from(*x) * 1000.0).round(),
            })
            .collect();
        let code = |x: f64| if double { x.to_bits() } else { u64::from(x as i32 as u32) };
        let (kind, sum, load) = if double { ("b64", "f64", "b64") } else { ("b32", "s32", "b32") };
        let width = if double { 8 } else { 4 };
        let count = |elements: usize| elements / 32 / each;
        let moves = |load_it: bool, name: &str, n: usize| -> String {
            let one = |i: usize| {
                let at = format!("[%p_{name}+{}]", 32 * width * i);
                if load_it {
                    format!("ld.global.{load} %{name}{i}, {at};\n")
                } else {
                    format!("st.global.{load} {at}, %{name}{i};\n")
                }
            };
            (0..n).map(one).collect()
        };
        let (na, nb, nd) = (count(m * k), count(k * n), m * n / 32);
        let mut body = format!(".reg .b64 %each;\nmul.wide.u32 %each, %t, {width};\n");
        for name in ["a", "b", "c", "d"] {
            body += &format!("add.s64 %p_{name}, %p_{name}, %each;\n");
        }
        body += &(moves(true, "a", na) + &moves(true, "b", nb) + &moves(true, "c", nd));
        body += &format!(
            "mma.sync.aligned.m{m}n{n}k{k}.row.col{}.{sum}.{a_ty}.{b_ty}.{sum} {}, {}, {}, {};\n",
            if saturate { ".satfinite" } else { "" },
            list("%d", 0..nd),
            list("%a", 0..na),
            list("%b", 0..nb),
            list("%c", 0..nd)
        );
        body += &moves(false, "d", nd);
        let registers = format!(".reg .{kind} %a<8>, %b<4>, %c<4>, %d<4>;");
        let parameters = [("a", false), ("b", false), ("c", false), ("d", false)];
        let text = kernel("sm_90", &parameters, &registers, &body);
        dump(&what, &text);
        let gpu = Gpu::new("h200", &text);
        // Registers of all lanes, one after the other.
        let upload = |registers: usize, each: usize, at: &dyn Fn(usize, usize) -> f64| {
            let (mut all, mask) = (Vec::new(), u64::MAX >> (64 - 8 * width / each));
            for (r, lane) in (0..registers).flat_map(|r| (0..32).map(move |lane| (r, lane))) {
                let word =
                    (0..each).fold(0, |word, i| word | (code(at(lane, r * each + i)) & mask) << (8 * i));
                all.extend_from_slice(&word.to_le_bytes()[..width]);
            }
            gpu.upload(&all, |byte| vec![byte])
        };
        let pa = upload(na, each, &|lane, i| {
            let (row, column) = place_a(m, each, lane, i);
            a[row * k + column]
        });
        let pb = upload(nb, each, &|lane, i| {
            let row = each * (lane % 4) + i % each + 4 * each * (i / each);
            b[row * n + lane / 4]
        });
        let pc = upload(nd, 1, &|lane, i| {
            let (row, column) = place_d(lane, i);
            c[row * n + column]
        });
        let pd = gpu.space((32 * width * nd) as u64);
        gpu.run("run", &config(1, 32), &[&pa, &pb, &pc, &pd]);
        let words = gpu.read_ints(pd, 8 * width * nd);
        for (lane, i) in (0..32).flat_map(|lane| (0..nd).map(move |i| (lane, i))) {
            let (row, column) = place_d(lane, i);
            let exact = c[row * n + column] + (0..k).map(|x| a[row * k + x] * b[x * n + column]).sum::<f64>();
            if double {
                let at = 2 * (32 * i + lane);
                let got = f64::from_bits(u64::from(words[at]) | u64::from(words[at + 1]) << 32);
                assert!((got - exact).abs() <= 1e-14, "{what}: {got} for {exact}");
            } else {
                let want = match saturate {
                    true => exact.clamp(-2f64.powi(31), 2f64.powi(31) - 1.0) as i32,
                    false => exact as i64 as i32,
                };
                assert_eq!(words[32 * i + lane] as i32, want, "{what}: row {row}, column {column}");
            }
        }
    };
    run((8, 8, 4), "f64", "f64", false);
    for k in [4, 8, 16] {
        run((16, 8, k), "f64", "f64", false);
    }
    for (a, b) in [("s8", "s8"), ("u8", "u8"), ("s8", "u8"), ("u8", "s8")] {
        for shape in [(8, 8, 16), (16, 8, 16), (16, 8, 32)] {
            run(shape, a, b, true);
            run(shape, a, b, false);
        }
    }
}

#[test]
fn matrix_instructions_take_a_whole_warp() {
    let (words, floats) = (list("%r", 0..8), list("%f", 0..8));
    let (four, sums) = (list("%r", 0..4), list("%f", 0..4));
    for text in [
        "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r0}, [%r39];".to_owned(),
        "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r39], {%r0};".to_owned(),
        "movmatrix.sync.aligned.m8n8.trans.b16 %r0, %r1;".to_owned(),
        format!("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {sums}, {four}, {{%r4, %r5}}, {sums};"),
        "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%a5, %a6}, {%a7}, {%a8}, {%a5, %a6};".to_owned(),
        format!("wmma.load.a.sync.aligned.row.m16n16k16.global.f16 {words}, [%a0];"),
        format!("wmma.store.d.sync.aligned.row.m16n16k16.global.f32 [%a1], {floats};"),
        format!("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {sums}, %a3, %a3, 1, 1, 1, 0, 0;"),
    ] {
        // A block of half a warp, and a warp of which one thread comes.
        for (threads, text) in [(16, text.clone()), (32, format!("@%p9 {text}"))] {
            let found = support::kernel::fault("part of a warp", threads, &text);
            assert_eq!(found.kind, FaultKind::Divergence, "{text}: {found}");
            assert!(found.message.contains("it takes a whole warp"), "{text}: {found}");
        }
    }
}
