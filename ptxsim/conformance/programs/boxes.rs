//! What tensor copies do where no text says it: which NaN lies out of bounds (PTX ISA 5.5.3.3: "a special NaN"), how rows
//! narrower than the swizzle lie (the CUDA programming guide asks for the memory of its full width), what becomes of f32
//! on its way to shared memory (5.5.1: tf32 is rounded to nearest even).

use super::parts::Target::Sm90a;
use super::parts::{
    Element, Observation, Program, Tensor, bytes_of, copy, first, init, named, program, words,
};
use super::tensor::{Case, load};

pub fn all() -> Vec<Program> {
    let mut programs: Vec<Program> = [Element::F16, Element::Bf16, Element::F32].map(fills_nan).into();
    for (swizzle, inner) in [(1, 16), (2, 16), (2, 32), (3, 16), (3, 32), (3, 48), (3, 64)] {
        programs.push(narrow(swizzle, inner));
    }
    programs.extend([Element::F32, Element::F32Ftz, Element::Tf32, Element::Tf32Ftz].map(converted));
    programs
}

fn fills_nan(element: Element) -> Program {
    let mut case = Case::new(2, 3, element, "nan");
    case.tensor.fills_nan = true;
    case.at = vec![-3, 4];
    let (places, size) = (case.places(), element.bytes());
    let mut program = load(case, false);
    let expected = bytes_of(&program.expected.take().expect("what lies in bounds"));
    let tell = move |results: &[u32]| {
        let results = bytes_of(results);
        let mut outside = Vec::new();
        for (byte, place) in &places {
            let part = &results[*byte..byte + size];
            match place {
                Some(_) if *part != expected[*byte..byte + size] => return format!("byte {byte} is wrong"),
                Some(_) => {}
                None => outside.push(part.iter().rev().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte))),
            }
        }
        outside.dedup();
        let outside: Vec<String> = outside.iter().map(|bits| format!("{bits:#x}")).collect();
        format!("out of bounds {}", outside.join(", "))
    };
    let nan = if size == 2 { 0x7fff } else { 0x7fff_ffff };
    let of_virtual_card = format!("out of bounds {nan:#x}");
    program.observation = Some(Observation { tell: Box::new(tell), of_virtual_card, of_truncating: None });
    program
}

/// A box of 8 rows of `inner` bytes; how far apart its rows lie.
fn narrow(swizzle: u8, inner: usize) -> Program {
    const ROWS: usize = 8;
    let tensor = Tensor {
        of_results: false,
        element: Element::U16,
        dimensions: vec![64, 16],
        box_size: vec![inner as u32 / 2, ROWS as u32],
        steps: vec![1, 1],
        swizzle,
        fills_nan: false,
    };
    let width = 16 << swizzle;
    let words_of_tile = ROWS * width / 4;
    // Not to wait for ever where the mbarrier is told other bytes.
    let wait = "{\nmov.u32 %r4, 0;\nWAIT:\nmbarrier.test_wait.parity.shared.b64 %p6, [bar], 0;\n@%p6 bra THERE;\n\
                add.s32 %r4, %r4, 1;\nsetp.lt.u32 %p7, %r4, 1000000;\n@%p7 bra WAIT;\nTHERE:\n}\n";
    let body = copy(true, words_of_tile, "%in")
        + &init(1)
        + &first(&format!(
            "mov.u32 %r8, bar;\nmbarrier.arrive.expect_tx.shared.b64 %l4, [bar], {};\n\
             cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%tile], \
             [%map, {{8, 2}}], [%r8];\n",
            ROWS * inner
        ))
        + wait
        + &copy(false, words_of_tile, "%out")
        + &format!("selp.u32 %r5, 1, 0, %p6;\n@%first st.global.b32 [%out+{}], %r5;\n", 4 * words_of_tile);
    let input = words(512);
    let from = bytes_of(&input);
    let lying = move |pitch: usize| {
        let mut tile = from[..4 * words_of_tile].to_vec();
        for (row, at) in (0..ROWS).flat_map(|row| (0..inner).step_by(16).map(move |at| (row, at))) {
            let to = row * pitch + at;
            let to = to ^ (to >> 7 & (width / 16 - 1)) << 4;
            let source = (row + 2) * 128 + 16 + at;
            tile[to..to + 16].copy_from_slice(&from[source..source + 16]);
        }
        tile
    };
    let tell = move |results: &[u32]| {
        let (tile, told) = results.split_at(words_of_tile);
        let pitch = [inner, width].into_iter().find(|pitch| lying(*pitch) == bytes_of(tile));
        let rows = pitch.map_or("rows lie otherwise".to_owned(), |pitch| format!("rows {pitch} bytes apart"));
        rows + if told == [1] { "" } else { ", and the mbarrier is told other bytes" }
    };
    let name = format!("cp.async.bulk.tensor.2d.u16.{width}.inner-{inner}");
    let mut program = program(&name, Sm90a, &body).given(input);
    program.results = vec![0; words_of_tile + 1];
    program.tensor = Some(tensor);
    let of_virtual_card = format!("rows {inner} bytes apart");
    program.observation = Some(Observation { tell: Box::new(tell), of_virtual_card, of_truncating: None });
    program
}

/// Bits, a label, and results that have a name.
type Float = (u32, &'static str, &'static [(u32, &'static str)]);

const FLOATS: [Float; 4] = [
    // Between two tf32, an even and an odd one, then an odd and an even one.
    (
        0x3f80_1000,
        "1 + 2^-11",
        &[(0x3f80_1000, "kept"), (0x3f80_0000, "to even, or cut"), (0x3f80_2000, "away from zero")],
    ),
    (
        0x3f80_3000,
        "1 + 3 x 2^-11",
        &[(0x3f80_3000, "kept"), (0x3f80_2000, "cut"), (0x3f80_4000, "to even, or away from zero")],
    ),
    (
        0x807f_ffff,
        "a subnormal",
        &[(0x807f_ffff, "kept"), (0x8000_0000, "flushed"), (0x8080_0000, "rounded")],
    ),
    (0x7fc0_0001, "NaN", &[(0x7fc0_0001, "kept")]),
];

/// What becomes of f32.
fn converted(element: Element) -> Program {
    let tensor = Tensor {
        of_results: false,
        element,
        dimensions: vec![8],
        box_size: vec![4],
        steps: vec![1],
        swizzle: 0,
        fills_nan: false,
    };
    let body = init(1)
        + &first(
            "mov.u32 %r8, bar;\nmbarrier.arrive.expect_tx.shared.b64 %l4, [bar], 16;\n\
             cp.async.bulk.tensor.1d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%tile], [%map, {0}], \
             [%r8];\n",
        )
        + &super::parts::wait(0)
        + &copy(false, 4, "%out");
    let name = format!("cp.async.bulk.tensor.1d.{element:?}.converted").to_lowercase();
    let mut program =
        program(&name, Sm90a, &body).given([&FLOATS.map(|(bits, ..)| bits)[..], &[0; 4]].concat());
    program.results = vec![0; 4];
    program.tensor = Some(tensor);
    let tell = |results: &[u32]| {
        let told = results.iter().zip(FLOATS).map(|(bits, (_, label, names))| named(label, *bits, names));
        told.collect::<Vec<String>>().join(", ")
    };
    let (one, three, nan) = match element {
        Element::Tf32 | Element::Tf32Ftz => ("to even, or cut", "to even, or away from zero", "0x7fffe000"),
        _ => ("kept", "kept", "kept"),
    };
    let subnormal = match element {
        Element::F32 => "kept",
        Element::Tf32 => "rounded",
        _ => "flushed",
    };
    let of_virtual_card =
        format!("1 + 2^-11 {one}, 1 + 3 x 2^-11 {three}, a subnormal {subnormal}, NaN {nan}");
    program.observation = Some(Observation { tell: Box::new(tell), of_virtual_card, of_truncating: None });
    program
}
