//! Scalar and warp-level instructions: each of 32 threads loads three 64-bit operands, runs the instruction once, and
//! stores 64 bits.

use super::parts::{Compare, Input, Program, Target};

const THREADS: usize = 32;
/// Operands a thread loads.
const OPERANDS: usize = 3;

/// Rows of "instruction: result operands", in bits; `p` is a predicate result.
const INSTRUCTIONS: &str = "
add.s32: 32 32 32 | add.sat.s32: 32 32 32 | sub.u32: 32 32 32 | add.s64: 64 64 64 | sub.s64: 64 64 64 | add.u16: 16 16 16
mul.lo.s32: 32 32 32 | mul.hi.s32: 32 32 32 | mul.hi.u32: 32 32 32 | mul.wide.s32: 64 32 32 | mul.wide.u32: 64 32 32
mul.wide.u16: 32 16 16 | mul.lo.s64: 64 64 64 | mul.hi.u64: 64 64 64 | mul24.lo.u32: 32 32 32
mad.lo.s32: 32 32 32 32 | mad.hi.u32: 32 32 32 32 | mad.wide.s32: 64 32 32 64 | sad.s32: 32 32 32 32
div.u32: 32 32 32 | rem.u32: 32 32 32 | min.s32: 32 32 32 | max.u32: 32 32 32 | min.u64: 64 64 64 | max.s64: 64 64 64
abs.s32: 32 32 | neg.s32: 32 32 | popc.b32: 32 32 | popc.b64: 32 64 | clz.b32: 32 32 | clz.b64: 32 64 | brev.b32: 32 32 | brev.b64: 64 64
bfind.u32: 32 32 | bfind.s32: 32 32 | bfind.shiftamt.u32: 32 32 | bfe.u32: 32 32 32 32 | bfe.s32: 32 32 32 32
and.b32: 32 32 32 | or.b64: 64 64 64 | xor.b32: 32 32 32 | not.b64: 64 64 | cnot.b32: 32 32
shl.b32: 32 32 32 | shl.b64: 64 64 32 | shr.u32: 32 32 32 | shr.s32: 32 32 32 | shr.s64: 64 64 32 | shr.u16: 16 16 32
shf.l.wrap.b32: 32 32 32 32 | shf.l.clamp.b32: 32 32 32 32 | shf.r.wrap.b32: 32 32 32 32 | shf.r.clamp.b32: 32 32 32 32
prmt.b32: 32 32 32 32 | prmt.b32.f4e: 32 32 32 32 | prmt.b32.b4e: 32 32 32 32 | prmt.b32.rc8: 32 32 32 32 | prmt.b32.rc16: 32 32 32 32
dp4a.u32.u32: 32 32 32 32 | dp4a.s32.s32: 32 32 32 32 | dp2a.lo.s32.s32: 32 32 32 32
add.f32: 32 32 32 | add.rz.f32: 32 32 32 | add.rm.f32: 32 32 32 | add.rp.f32: 32 32 32 | add.ftz.f32: 32 32 32 | add.sat.f32: 32 32 32
mul.f32: 32 32 32 | mul.rz.f32: 32 32 32 | mul.ftz.f32: 32 32 32 | fma.rn.f32: 32 32 32 32 | fma.rz.f32: 32 32 32 32 | fma.rn.ftz.f32: 32 32 32 32 | fma.rn.sat.f32: 32 32 32 32
div.rn.f32: 32 32 32 | div.rz.f32: 32 32 32 | rcp.rn.f32: 32 32 | sqrt.rn.f32: 32 32 | sqrt.rz.f32: 32 32
min.f32: 32 32 32 | max.f32: 32 32 32 | min.NaN.f32: 32 32 32 | max.ftz.f32: 32 32 32 | abs.f32: 32 32 | neg.f32: 32 32 | copysign.f32: 32 32 32
ex2.approx.f32: 32 32 | ex2.approx.ftz.f32: 32 32 | lg2.approx.f32: 32 32 | rcp.approx.f32: 32 32 | rcp.approx.ftz.f32: 32 32
rsqrt.approx.f32: 32 32 | rsqrt.approx.ftz.f32: 32 32 | sqrt.approx.f32: 32 32 | sin.approx.f32: 32 32 | cos.approx.f32: 32 32 | tanh.approx.f32: 32 32
add.f64: 64 64 64 | add.rm.f64: 64 64 64 | mul.f64: 64 64 64 | fma.rn.f64: 64 64 64 64 | div.rn.f64: 64 64 64 | sqrt.rn.f64: 64 64 | min.f64: 64 64 64
add.f16: 16 16 16 | mul.f16: 16 16 16 | fma.rn.f16: 16 16 16 16 | fma.rn.sat.f16: 16 16 16 16 | min.f16: 16 16 16 | neg.f16: 16 16 | ex2.approx.f16: 16 16 | tanh.approx.f16: 16 16
add.f16x2: 32 32 32 | mul.f16x2: 32 32 32 | fma.rn.f16x2: 32 32 32 32 | fma.rn.relu.f16x2: 32 32 32 32 | max.f16x2: 32 32 32 | max.NaN.f16x2: 32 32 32 | abs.f16x2: 32 32
fma.rn.bf16: 16 16 16 16 | fma.rn.bf16x2: 32 32 32 32 | fma.rn.relu.bf16x2: 32 32 32 32 | min.bf16x2: 32 32 32 | max.bf16: 16 16 16 | neg.bf16x2: 32 32 | abs.bf16: 16 16
cvt.rn.f16.f32: 16 32 | cvt.rz.f16.f32: 16 32 | cvt.f32.f16: 32 16 | cvt.rn.bf16.f32: 16 32 | cvt.rz.bf16.f32: 16 32 | cvt.rn.relu.bf16.f32: 16 32
cvt.rn.bf16x2.f32: 32 32 32 | cvt.rz.bf16x2.f32: 32 32 32 | cvt.rn.f16x2.f32: 32 32 32 | cvt.rn.relu.f16x2.f32: 32 32 32 | cvt.rna.tf32.f32: 32 32
cvt.rn.f32.f64: 32 64 | cvt.rp.f32.f64: 32 64 | cvt.f64.f32: 64 32 | cvt.rn.f32.s32: 32 32 | cvt.rz.f32.u32: 32 32 | cvt.rn.f32.u64: 32 64 | cvt.rn.f64.s64: 64 64
cvt.rni.s32.f32: 32 32 | cvt.rzi.s32.f32: 32 32 | cvt.rmi.s32.f32: 32 32 | cvt.rpi.u32.f32: 32 32 | cvt.rzi.u64.f32: 64 32 | cvt.rzi.s64.f64: 64 64 | cvt.rni.f32.f32: 32 32
cvt.sat.u8.s32: 32 32 | cvt.s64.s32: 64 32 | cvt.u32.u16: 32 16 | cvt.s32.s16: 32 16 | cvt.sat.f32.f32: 32 32 | cvt.ftz.f32.f32: 32 32
setp.lt.s32: p 32 32 | setp.hi.u32: p 32 32 | setp.eq.f32: p 32 32 | setp.ltu.f32: p 32 32 | setp.num.f32: p 32 32 | setp.nan.f64: p 64 64 | setp.gt.ftz.f32: p 32 32 | setp.gt.f16: p 16 16
testp.normal.f32: p 32 | testp.subnormal.f32: p 32 | testp.infinite.f64: p 64
shfl.sync.idx.b32: w 32 32 | shfl.sync.up.b32: w 32 32 | shfl.sync.down.b32: w 32 32 | shfl.sync.bfly.b32: w 32 32
match.any.sync.b32: m 32 | redux.sync.add.s32: m 32 | redux.sync.min.u32: m 32 | redux.sync.max.s32: m 32 | redux.sync.xor.b32: m 32
add.s16: 16 16 16 | mul.wide.s16: 32 16 16 | mad.lo.s64: 64 64 64 64 | max.s32: 32 32 32 | div.s32: 32 32 32 | div.s64: 64 64 64
and.b16: 16 16 16 | or.b32: 32 32 32 | not.b32: 32 32 | shr.s16: 16 16 32 | setp.leu.f32: p 32 32 | setp.leu.ftz.f32: p 32 32 | setp.eq.s16: p 16 16 | setp.ge.s64: p 64 64
sub.f32: 32 32 32 | sub.ftz.f32: 32 32 32 | abs.ftz.f32: 32 32 | neg.ftz.f32: 32 32 | max.NaN.f32: 32 32 32 | lg2.approx.ftz.f32: 32 32
div.approx.f32: 32 32 32 | div.approx.ftz.f32: 32 32 32 | div.full.f32: 32 32 32 | cvt.u16.u32: 16 32 | cvt.s16.s8: 16 16 | cvt.s8.s32: 32 32
";

/// The same, of 8.9 and newer.
const OF_BYTES: &str = "
cvt.rn.satfinite.e4m3x2.f32: 16 32 32 | cvt.rn.satfinite.e5m2x2.f32: 16 32 32 | cvt.rn.satfinite.relu.e4m3x2.f32: 16 32 32 | cvt.rn.satfinite.e4m3x2.f16x2: 16 32
cvt.rn.satfinite.e5m2x2.f16x2: 16 32 | cvt.rn.f16x2.e4m3x2: 32 16 | cvt.rn.f16x2.e5m2x2: 32 16 | cvt.rn.relu.f16x2.e4m3x2: 32 16
";

/// Every program of one instruction.
pub fn all() -> Vec<Program> {
    let rows = |table: &'static str| table.split(['|', '\n']).map(str::trim).filter(|row| !row.is_empty());
    let mut programs: Vec<Program> = rows(INSTRUCTIONS).map(scalar).collect();
    programs.extend(rows(OF_BYTES).map(|row| {
        let mut program = scalar(row);
        program.ptx = program.ptx.replacen(".version 8.0\n.target sm_80", ".version 8.4\n.target sm_90a", 1);
        program.target = Target::Sm90a;
        program
    }));
    // All 256 truth tables would be 256 programs; these reach each input bit of the table.
    for table in [0x01, 0x80, 0x96, 0xca, 0xe8, 0x1b] {
        programs.push(program(
            &format!("lop3.b32.{table:02x}"),
            "32",
            &format!("lop3.b32 %r0, %a32, %b32, %c32, {table}"),
        ));
    }
    programs.push(program("bfi.b32", "32", "bfi.b32 %r0, %a32, %b32, %c32, %d32"));
    programs
}

fn scalar(row: &str) -> Program {
    let (name, widths) = row.split_once(": ").unwrap_or((row, "32"));
    let mut widths = widths.split(' ');
    let result = widths.next().unwrap_or("32");
    let operands: Vec<String> =
        widths.zip(["a", "b", "c"]).map(|(bits, letter)| format!("%{letter}{bits}")).collect();
    let operands = operands.join(", ");
    // The two 32-bit halves of a shuffle's segment and the member mask are fixed.
    let (target, tail) = match result {
        "p" => ("%p0".to_owned(), ""),
        "w" => ("%r0|%p0".to_owned(), ", 0x1f, 0xffffffff"),
        "m" => ("%r0".to_owned(), ", 0xffffffff"),
        "16" => ("%h0".to_owned(), ""),
        "64" => ("%l0".to_owned(), ""),
        _ => ("%r0".to_owned(), ""),
    };
    program(name, result, &format!("{name} {target}, {operands}{tail}"))
}

/// Wraps one instruction, its result in `%h0`, `%r0`, `%l0` or `%p0`.
fn program(name: &str, result: &str, instruction: &str) -> Program {
    let widen = match result {
        "16" => "cvt.u64.u16 %out, %h0;",
        "64" => "mov.b64 %out, %l0;",
        "p" => "selp.u64 %out, 1, 0, %p0;",
        "w" => "selp.u64 %l1, 4294967296, 0, %p0;\n  cvt.u64.u32 %l0, %r0;\n  or.b64 %out, %l0, %l1;",
        _ => "cvt.u64.u32 %out, %r0;",
    };
    let mut narrow = String::new();
    for letter in ["a", "b", "c"] {
        narrow +=
            &format!("  cvt.u32.u64 %{letter}32, %{letter}64;\n  cvt.u16.u64 %{letter}16, %{letter}64;\n");
    }
    let ptx = format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n\
         .visible .entry k(.param .u64 results, .param .u64 operands)\n{{\n\
         \x20 .reg .pred %p<1>;\n  .reg .b16 %h<1>, %a16, %b16, %c16;\n  .reg .b32 %r<1>, %t, %a32, %b32, %c32, %d32;\n\
         \x20 .reg .b64 %l<2>, %out, %a64, %b64, %c64, %at, %to;\n\
         \x20 mov.u32 %t, %tid.x;\n  ld.param.u64 %at, [operands];\n  ld.param.u64 %to, [results];\n\
         \x20 mad.wide.u32 %at, %t, 24, %at;\n  mad.wide.u32 %to, %t, 8, %to;\n\
         \x20 ld.global.b64 %a64, [%at];\n  ld.global.b64 %b64, [%at+8];\n  ld.global.b64 %c64, [%at+16];\n\
         {narrow}  shr.u64 %l0, %c64, 32;\n  cvt.u32.u64 %d32, %l0;\n  mov.u32 %r0, 0;\n\
         \x20 {instruction};\n  {widen}\n  st.global.b64 [%to], %out;\n  ret;\n}}\n"
    );
    Program {
        name: name.to_owned(),
        ptx,
        target: Target::Sm80,
        threads: THREADS,
        cluster: 1,
        // How far approximations are off is only specified for angles near zero.
        input: if name.starts_with("sin") || name.starts_with("cos") {
            Input::Angles
        } else {
            Input::Operands
        },
        results: vec![0; 2 * THREADS],
        tensor: None,
        compare: compare(name),
        expected: None,
        observation: None,
    }
}

/// The errors that the PTX ISA states for approximations, and the last bit of the simulator's own rounding.
fn compare(name: &str) -> Compare {
    let half = name.ends_with(".f16");
    let near = |relative: f64, absolute: f64| Compare::Near { half, ulps: 1.0, relative, absolute };
    let ulps = |stated: f64| Compare::Near { half, ulps: 1.0 + stated, relative: 0.0, absolute: 0.0 };
    match name {
        "ex2.approx.f32" | "ex2.approx.ftz.f32" => ulps(2.0),
        "div.approx.f32" | "div.approx.ftz.f32" | "div.full.f32" => ulps(2.0),
        "rcp.approx.f32" | "rcp.approx.ftz.f32" => ulps(1.0),
        // Absolute for operands between 1/2 and 2, else relative.
        "lg2.approx.f32" | "lg2.approx.ftz.f32" => near(2f64.powi(-22), 2f64.powi(-22)),
        "sqrt.approx.f32" => near(2f64.powi(-23), 0.0),
        "rsqrt.approx.f32" | "rsqrt.approx.ftz.f32" => near(2f64.powf(-22.9), 0.0),
        "sin.approx.f32" | "cos.approx.f32" => near(0.0, 2f64.powf(-20.5)),
        "tanh.approx.f32" => near(2f64.powi(-11), 0.0),
        "tanh.approx.f16" => near(0.0, 2f64.powf(-10.987)),
        "ex2.approx.f16" => near(2f64.powf(-9.9), 0.0),
        _ => Compare::Exact,
    }
}

/// Operands of a program in a round: random bits, with a corner value in place of every fourth. With `angles` each
/// thread's first one is an f32 from -2 pi to 2 pi.
pub fn operands(round: u64, angles: bool) -> Vec<u64> {
    // Zeros, ones, infinities, NaN, the smallest and largest numbers, as 16, 32 and 64-bit patterns.
    const CORNERS: [u64; 16] = [
        0,
        1,
        u64::MAX,
        1 << 63,
        0x8000_0000,
        0x7fff_ffff,
        0x7f80_0000,
        0xff80_0000,
        0x7fc0_0000,
        0x0080_0000,
        0x0000_0001,
        0x3f80_0000,
        0x7c00_7c00,
        0x7ff0_0000_0000_0000,
        0x7ff8_0000_0000_0000,
        0x3ff0_0000_0000_0000,
    ];
    let mut state = 0x5851_f42d_4c95_7f2d ^ round;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    let mut operands: Vec<u64> = (0..THREADS * OPERANDS)
        .map(|_| match next() {
            choice if choice % 4 == 0 => CORNERS[(choice / 4) as usize % CORNERS.len()],
            _ => next(),
        })
        .collect();
    if angles {
        for operand in operands.iter_mut().step_by(OPERANDS) {
            let turns = (*operand >> 32) as f64 / f64::from(u32::MAX) * 2.0 - 1.0;
            *operand = ((turns * std::f64::consts::TAU) as f32).to_bits().into();
        }
    }
    operands
}
