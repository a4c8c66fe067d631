//! Tensor copies: every rank with every swizzle, over the edges, with steps; stores, reductions, multicast.

use super::parts::Target::Sm90a;
use super::parts::{
    CLUSTER_SYNC, DRAIN, Element, PUBLISH, Program, Tensor, bf16, bytes_of, copy, f16, first, init, program,
    wait,
};
use super::parts::{words, words_of};

/// A tensor and where its box starts.
pub struct Case {
    pub tensor: Tensor,
    pub at: Vec<i32>,
    place: &'static str,
}

/// Elements by turns.
const ELEMENTS: [Element; 6] =
    [Element::U32, Element::F16, Element::U8, Element::F32, Element::U16, Element::Bf16];

impl Case {
    pub fn new(rank: usize, swizzle: u8, element: Element, place: &'static str) -> Self {
        let bytes = element.bytes();
        let row = 160 / bytes;
        let inner = [64, 32, 64, 128][usize::from(swizzle)] / bytes;
        let (at, steps) = match place {
            "inside" => ([16 / bytes as i32, 1, 0, 0, 0], [1; 5]),
            "edges" => ([-3, -1, 2, 2, -1], [1; 5]),
            _ => ([row as i32 - 8, 1, 0, -1, 0], [1, 2, 1, 2, 1]),
        };
        let tensor = Tensor {
            of_results: false,
            element,
            dimensions: [row as u64, 6, 4, 3, 2][..rank].to_vec(),
            box_size: [inner as u32, 4, 3, 2, 2][..rank].to_vec(),
            steps: steps[..rank].to_vec(),
            swizzle,
            fills_nan: false,
        };
        Self { tensor, at: at[..rank].to_vec(), place }
    }

    pub fn tensor_bytes(&self) -> usize {
        self.tensor.dimensions.iter().product::<u64>() as usize * self.tensor.element.bytes()
    }

    /// For each element of the box: its byte in the tile, and in the tensor unless it is out of bounds.
    pub fn places(&self) -> Vec<(usize, Option<usize>)> {
        let Tensor { dimensions, box_size, steps, element, swizzle, .. } = &self.tensor;
        let mut places = vec![(0, Some(0))];
        // Dimension by dimension, the outermost first: an element's number in the box, and in the tensor.
        for d in (0..dimensions.len()).rev() {
            let (count, size) = (box_size[d].div_ceil(steps[d]), dimensions[d] as i64);
            let along = |(number, of_tensor): (usize, Option<usize>)| {
                let at = self.at[d];
                (0..count).map(move |x| {
                    let coordinate = i64::from(at) + i64::from(x * steps[d]);
                    let inside = (0..size).contains(&coordinate);
                    let of_tensor =
                        of_tensor.filter(|_| inside).map(|n| n * size as usize + coordinate as usize);
                    (number * count as usize + x as usize, of_tensor)
                })
            };
            places = places.into_iter().flat_map(along).collect();
        }
        let bytes = element.bytes();
        let rows = [0, 1, 3, 7][usize::from(*swizzle)];
        let byte = |number: usize| (number * bytes) ^ ((((number * bytes) >> 7) & rows) << 4);
        places.into_iter().map(|(number, n)| (byte(number), n.map(|n| n * bytes))).collect()
    }

    /// Bytes of the box, and words of the tile that its swizzle can reach.
    fn size(&self) -> (usize, usize) {
        let bytes = self.places().len() * self.tensor.element.bytes();
        (bytes, bytes.next_multiple_of(128) / 4)
    }

    fn name(&self) -> String {
        let swizzle = ["none", "32", "64", "128"][usize::from(self.tensor.swizzle)];
        format!("{}d.{:?}.{swizzle}.{}", self.at.len(), self.tensor.element, self.place).to_lowercase()
    }

    /// The map and the coordinates.
    fn source(&self) -> String {
        let all: Vec<String> = self.at.iter().map(i32::to_string).collect();
        format!("[%map, {{{}}}]", all.join(", "))
    }
}

pub fn all() -> Vec<Program> {
    let mut programs = Vec::new();
    let mut turn = 0;
    for (rank, swizzle) in (1..=5).flat_map(|rank| (0..4).map(move |swizzle| (rank, swizzle))) {
        for place in ["inside", "edges", "steps"] {
            programs.push(load(Case::new(rank, swizzle, ELEMENTS[turn % 6], place), false));
            turn += 1;
        }
        programs.push(store(Case::new(rank, swizzle, ELEMENTS[turn % 6], "edges"), None));
        programs.push(store(Case::new(rank, swizzle, ELEMENTS[turn % 5], "inside"), None));
        let adds = [Element::U32, Element::F16, Element::F32, Element::Bf16][turn / 3 % 4];
        programs.push(store(Case::new(rank, swizzle, adds, "edges"), Some("add")));
    }
    for operation in ["min", "max", "and", "or", "xor", "inc", "dec"] {
        programs.push(store(Case::new(2, 3, Element::U32, "inside"), Some(operation)));
    }
    for swizzle in [0, 3] {
        programs.push(load(Case::new(2, swizzle, Element::U32, "inside"), true));
    }
    programs
}

/// A box to shared memory, and from there as it lies to the results; `multicast`: from the first of two blocks to both.
pub fn load(case: Case, multicast: bool) -> Program {
    let (bytes, words_of_box) = case.size();
    let what = case.source();
    let (qualifier, mask) = if multicast { (".multicast::cluster", ", %h0") } else { ("", "") };
    let rank = case.at.len();
    let copy_box = format!(
        "cp.async.bulk.tensor.{rank}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes{qualifier} \
         [%tile], {what}, [%r8]{mask};\n"
    );
    let meet = if multicast { CLUSTER_SYNC } else { "" };
    // What the box leaves alone stays as it was: the input's first words.
    let body = copy(true, words_of_box, "%in")
        + &init(1)
        + &first(&format!("mbarrier.arrive.expect_tx.shared.b64 %l4, [bar], {bytes};\n"))
        + meet
        + "mov.u32 %r8, bar;\nmov.b16 %h0, 3;\nsetp.eq.u32 %p0, %g, 0;\n@%p0 "
        + &copy_box
        + &wait(0)
        + &format!("mov.u32 %r9, %ctaid.x;\nmad.wide.u32 %out, %r9, {}, %out;\n", 4 * words_of_box)
        + &copy(false, words_of_box, "%out")
        + meet;
    let input = words((case.tensor_bytes().max(4 * words_of_box) / 4) as u32);
    let (from, mut tile) = (bytes_of(&input), bytes_of(&input[..words_of_box]));
    let element = case.tensor.element.bytes();
    for (byte, place) in case.places() {
        match place {
            Some(place) => tile[byte..byte + element].copy_from_slice(&from[place..place + element]),
            None => tile[byte..byte + element].fill(0),
        }
    }
    let blocks = if multicast { 2 } else { 1 };
    let expected = words_of(&tile).repeat(blocks);
    let name = format!("cp.async.bulk.tensor.{}{qualifier}", case.name());
    let mut program = program(&name, Sm90a, &body).given(input).expecting(expected);
    program.cluster = blocks;
    program.tensor = Some(case.tensor);
    program
}

/// Bits of a small number as an element.
fn code(element: Element, x: u32) -> u32 {
    match element {
        Element::U8 => x & 0xff,
        Element::U16 | Element::U32 => x,
        Element::F16 => f16(x as i32),
        Element::Bf16 => bf16(x as i32),
        _ => (x as f32).to_bits(),
    }
}

/// A box of small numbers from shared memory to the results, or reduced there.
fn store(mut case: Case, operation: Option<&str>) -> Program {
    let (element, rank) = (case.tensor.element, case.at.len());
    let (_, words_of_box) = case.size();
    let (kind, operator) = match operation {
        Some(operation) => ("cp.reduce", format!(".{operation}")),
        None => ("cp", String::new()),
    };
    let body = copy(true, words_of_box, "%in")
        + PUBLISH
        + &first(&format!(
            "{kind}.async.bulk.tensor.{rank}d.global.shared::cta{operator}.tile.bulk_group {}, [%tile];\n{DRAIN}",
            case.source()
        ));
    let bytes = element.bytes();
    let pack = |numbers: &[u32]| -> Vec<u32> {
        let bytes = numbers.iter().flat_map(|x| code(element, *x).to_le_bytes()[..bytes].to_vec());
        words_of(&bytes.collect::<Vec<u8>>())
    };
    let sent: Vec<u32> = (0..4 * words_of_box / bytes).map(|i| i as u32 * 7 % 31).collect();
    let held: Vec<u32> = (0..case.tensor_bytes() / bytes).map(|i| i as u32 % 13).collect();
    let mut want = held.clone();
    for (byte, place) in case.places() {
        let (b, Some(place)) = (sent[byte / bytes], place) else { continue };
        let x = &mut want[place / bytes];
        *x = match operation {
            None => b,
            Some("add") => *x + b,
            Some("min") => b.min(*x),
            Some("max") => b.max(*x),
            Some("and") => b & *x,
            Some("or") => b | *x,
            Some("xor") => b ^ *x,
            Some("inc") if *x >= b => 0,
            Some("inc") => *x + 1,
            Some(_) if *x == 0 || *x > b => b,
            Some(_) => *x - 1,
        };
    }
    let name = format!("{kind}.async.bulk.tensor.store{operator}.{}", case.name());
    let mut program = program(&name, Sm90a, &body).given(pack(&sent));
    program.results = pack(&held);
    let mut program = program.expecting(pack(&want));
    case.tensor.of_results = true;
    program.tensor = Some(case.tensor);
    program
}
