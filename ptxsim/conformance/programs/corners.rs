//! Results that the PTX ISA states one by one: the tables of corner cases of the approximations, NaN and zeros of min and
//! max, saturation to bytes, and products that are not to be fused.

use super::parts::{Observation, Program, Target, named, program};

const NAN: u32 = 0x7fff_ffff;
const INFINITE: u32 = 0x7f80_0000;
const MINUS: u32 = 0x8000_0000;
const ONE: u32 = 0x3f80_0000;
/// The largest subnormal, and 2^127, whose reciprocal is subnormal.
const SUBNORMAL: u32 = 0x007f_ffff;
const LARGE: u32 = 0x7f00_0000;
/// 1 + 2^-12, and minus its square as far as f32 has it: 1 + 2^-11.
const FACTOR: u32 = 0x3f80_0800;
const SQUARE: u32 = 0xbf80_1000;

/// Operands `a` and `b`, and the result.
type Row = (u32, u32, u32);

/// Of one operand.
const fn one(a: u32, result: u32) -> Row {
    (a, 0, result)
}

/// An instruction of `%r4`, from `%r5` and `%r6`; its rows.
const CORNERS: &[(&str, &str, &[Row])] = &[
    (
        "ex2.approx.f32",
        "",
        &[one(MINUS | INFINITE, 0), one(MINUS, ONE), one(0, ONE), one(INFINITE, INFINITE), one(NAN, NAN)],
    ),
    (
        "ex2.approx.ftz.f32",
        "",
        &[
            one(MINUS | INFINITE, 0),
            one(MINUS, ONE),
            one(INFINITE, INFINITE),
            one(NAN, NAN),
            one(MINUS | SUBNORMAL, ONE),
        ],
    ),
    (
        "lg2.approx.f32",
        "",
        &[
            one(MINUS | INFINITE, NAN),
            one(MINUS | ONE, NAN),
            one(MINUS, MINUS | INFINITE),
            one(0, MINUS | INFINITE),
            one(INFINITE, INFINITE),
            one(NAN, NAN),
        ],
    ),
    ("lg2.approx.ftz.f32", "", &[one(MINUS | ONE, NAN), one(INFINITE, INFINITE)]),
    (
        "rcp.approx.f32",
        "",
        &[
            one(MINUS | INFINITE, MINUS),
            one(MINUS, MINUS | INFINITE),
            one(0, INFINITE),
            one(INFINITE, 0),
            one(NAN, NAN),
        ],
    ),
    (
        "rcp.approx.ftz.f32",
        "",
        &[one(MINUS | SUBNORMAL, MINUS | INFINITE), one(INFINITE, 0), one(MINUS, MINUS | INFINITE)],
    ),
    (
        "rsqrt.approx.f32",
        "",
        &[
            one(MINUS | INFINITE, NAN),
            one(MINUS | ONE, NAN),
            one(MINUS, MINUS | INFINITE),
            one(0, INFINITE),
            one(INFINITE, 0),
            one(NAN, NAN),
        ],
    ),
    (
        "sqrt.approx.f32",
        "",
        &[
            one(MINUS | INFINITE, NAN),
            one(MINUS | ONE, NAN),
            one(MINUS, MINUS),
            one(0, 0),
            one(INFINITE, INFINITE),
            one(NAN, NAN),
        ],
    ),
    (
        "tanh.approx.f32",
        "",
        &[
            one(MINUS | INFINITE, MINUS | ONE),
            one(MINUS, MINUS),
            one(0, 0),
            one(INFINITE, ONE),
            one(NAN, NAN),
            one(SUBNORMAL, SUBNORMAL),
        ],
    ),
    // Above 2^126 the reciprocal is zero.
    (
        "div.approx.f32",
        ", %r6",
        &[
            (ONE, LARGE, 0),
            (ONE, MINUS | LARGE, MINUS),
            (INFINITE, LARGE, NAN),
            (LARGE, LARGE, 0),
            (ONE, 0, INFINITE),
            (0, 0, NAN),
            (ONE, INFINITE, 0),
        ],
    ),
    (
        "min.f32",
        ", %r6",
        &[(NAN, ONE, ONE), (ONE, NAN, ONE), (NAN, NAN, NAN), (0, MINUS, MINUS), (MINUS, 0, MINUS)],
    ),
    ("max.f32", ", %r6", &[(NAN, ONE, ONE), (ONE, NAN, ONE), (NAN, NAN, NAN), (0, MINUS, 0), (MINUS, 0, 0)]),
    ("min.NaN.f32", ", %r6", &[(NAN, ONE, NAN), (ONE, NAN, NAN), (0, MINUS, MINUS)]),
    ("max.NaN.f32", ", %r6", &[(NAN, ONE, NAN), (ONE, NAN, NAN), (MINUS, 0, 0)]),
    ("max.ftz.f32", ", %r6", &[(SUBNORMAL, 0, 0), (MINUS | SUBNORMAL, MINUS, MINUS), (SUBNORMAL, NAN, 0)]),
    (
        "fma.rn.f32",
        ", %r5, %r6",
        &[
            (FACTOR, SQUARE, 0x3380_0000),
            (INFINITE, MINUS | INFINITE, NAN),
            (SUBNORMAL, SUBNORMAL, SUBNORMAL),
        ],
    ),
    (
        "fma.rn.ftz.f32",
        ", %r5, %r6",
        &[(FACTOR, SQUARE, 0x3380_0000), (ONE, SUBNORMAL, ONE), (SUBNORMAL, SUBNORMAL, 0)],
    ),
    // With a rounding of their own they must not be folded.
    ("mul.rn.f32", ", %r5;\nadd.rn.f32 %r4, %r4, %r6", &[(FACTOR, SQUARE, 0)]),
];

/// Whether an operand has a result that is `testp`'s.
const SUBNORMALS: &[(&str, u32, &str, bool)] = &[
    // 2^-130.
    ("ex2.approx.f32", 0xc302_0000, "subnormal", true),
    ("ex2.approx.ftz.f32", 0xc302_0000, "subnormal", false),
    ("rcp.approx.f32", LARGE, "subnormal", true),
    ("rcp.approx.ftz.f32", LARGE, "subnormal", false),
    ("lg2.approx.f32", 1, "finite", true),
    ("lg2.approx.ftz.f32", 1, "finite", false),
    ("rsqrt.approx.f32", 1, "finite", true),
    ("rsqrt.approx.ftz.f32", 1, "finite", false),
];

/// `%r5` becomes the lower byte of the result, `%r6` the upper one. NaN, infinite, beyond the largest, halfway to the next
/// after it, subnormals.
const TO_BYTES: &[(&str, &[Row])] = &[
    (
        "cvt.rn.satfinite.e4m3x2.f32",
        &[
            (NAN, ONE, 0x387f),
            (INFINITE, MINUS | INFINITE, 0xfe7e),
            (0x43e8_0000, 0xc600_0000, 0xfe7e),
            // 2^-9, the least; half of it and a little more than half; 1.5 of it.
            (0x3b00_0000, 0x3a80_0000, 0x0001),
            (0x3a80_0001, 0x3b40_0000, 0x0201),
            (MINUS, 0, 0x0080),
        ],
    ),
    (
        "cvt.rn.satfinite.e5m2x2.f32",
        &[
            (NAN, ONE, 0x3c7f),
            (INFINITE, MINUS | INFINITE, 0xfb7b),
            (0x4780_0000, 0xc780_0000, 0xfb7b),
            // 2^-16, the least; half of it.
            (0x3780_0000, 0x3700_0000, 0x0001),
        ],
    ),
    ("cvt.rn.satfinite.relu.e4m3x2.f32", &[(MINUS | ONE, ONE, 0x3800), (MINUS | INFINITE, INFINITE, 0x7e00)]),
];

/// Runs `code` on each row's operands.
fn on_rows(name: &str, target: Target, code: &str, rows: &[Row]) -> Program {
    let body = format!(
        "mad.wide.u32 %l0, %t, 8, %in;\nld.global.v2.b32 {{%r5, %r6}}, [%l0];\n{code}st.global.b32 [%to], %r4;\n"
    );
    let input: Vec<u32> = rows.iter().flat_map(|(a, b, _)| [*a, *b]).collect();
    program(name, target, &body).threads(rows.len()).given(input)
}

fn results(rows: &[Row]) -> Vec<u32> {
    rows.iter().map(|(.., result)| *result).collect()
}

pub fn all() -> Vec<Program> {
    let mut programs = Vec::new();
    for (name, rest, rows) in CORNERS {
        // Which NaN is not stated.
        let code =
            format!("{name} %r4, %r5{rest};\nsetp.nan.f32 %p0, %r4, %r4;\nselp.b32 %r4, {NAN}, %r4, %p0;\n");
        programs
            .push(on_rows(&format!("{name}.corners"), Target::Sm80, &code, rows).expecting(results(rows)));
    }
    for (name, operand, test, holds) in SUBNORMALS {
        let code = format!("{name} %r4, %r5;\ntestp.{test}.f32 %p0, %r4;\nselp.b32 %r4, 1, 0, %p0;\n");
        let rows = [one(*operand, u32::from(*holds))];
        let name = format!("{name}.subnormals");
        programs.push(on_rows(&name, Target::Sm80, &code, &rows).expecting(results(&rows)));
    }
    for (name, rows) in TO_BYTES {
        let code = format!("{name} %h0, %r6, %r5;\ncvt.u32.u16 %r4, %h0;\n");
        programs
            .push(on_rows(&format!("{name}.corners"), Target::Sm90a, &code, rows).expecting(results(rows)));
    }
    programs.push(may_fuse());
    programs
}

/// Without a rounding of their own, "instructions may be folded into a multiply-add" (PTX ISA 9.7.3): which they are is
/// ptxas's to say.
fn may_fuse() -> Program {
    let code = "mul.f32 %r4, %r5, %r5;\nadd.f32 %r4, %r4, %r6;\n";
    let mut program = on_rows("mul.add.f32", Target::Sm80, code, &[(FACTOR, SQUARE, 0)]);
    program.results = vec![0];
    let tell =
        |results: &[u32]| named("a product and a sum", results[0], &[(0, "apart"), (0x3380_0000, "fused")]);
    program.observation = Some(Observation {
        tell: Box::new(tell),
        of_virtual_card: "a product and a sum apart".to_owned(),
        of_truncating: None,
    });
    program
}
