//! Fragments of matrices in a warp's registers (PTX ISA, "Matrix Fragments"), and the same as numbers in rows.
//!
//! In the ISA's words lane `4 g + t` is of group `g`, and `t` is its place in the group. A register of sums holds every
//! second column of a tile of eight, so in rows here the even columns of each tile lie first: what follows each other in a
//! register does so in a row, too. No sum depends on the order of columns.

use crate::float::{self, F16};
use crate::ir::{Lanes, MmaType, Single, Value};

/// Columns of a tile.
const TILE: usize = 8;
/// Lanes of a group.
const FOUR: usize = 4;

/// Row and column of lane `lane`'s accumulator `r` of 32 bits in a 16x8 tile.
#[inline]
pub fn place_of(r: usize, lane: usize) -> (usize, usize) {
    (lane / 4 + 8 * (r / 2), 2 * (lane % 4) + r % 2)
}

/// The column at a place of a tile's row.
const fn column_at(place: usize) -> usize {
    2 * (place % 4) + place / 4
}

/// The elements of words as numbers, those in the low bits first.
pub fn decode(ty: MmaType, words: &[u32], into: &mut [f32]) {
    fn each<const N: usize>(words: &[u32], into: &mut [f32], f: impl Fn(u32) -> [f32; N]) {
        into.as_chunks_mut().0.iter_mut().zip(words).for_each(|(out, word)| *out = f(*word));
    }
    fn bytes(words: &[u32], into: &mut [f32], f: impl Fn(u8) -> f32) {
        each(words, into, |word| word.to_le_bytes().map(&f));
    }
    match ty {
        MmaType::Bf16 => {
            each(words, into, |word| [f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000)]);
        }
        MmaType::F16 => each(words, into, |word| [float::f16(word & 0xffff), float::f16(word >> 16)]),
        MmaType::Tf32 => each(words, into, |word| [float::tf32(word.into())]),
        MmaType::E4M3 => bytes(words, into, float::e4m3),
        MmaType::E5M2 => bytes(words, into, float::e5m2),
        // Exact: sums of products of bytes stay below 2^24 for every shape.
        MmaType::S8 => bytes(words, into, |x| f32::from(x as i8)),
        MmaType::U8 => bytes(words, into, f32::from),
    }
}

/// 16 rows of A from its registers, `k` numbers each.
pub fn rows_of_a<'l>(ty: MmaType, registers: impl Iterator<Item = &'l Lanes>, k: usize, a: &mut [f32]) {
    let each = k * ty.bits() / 32;
    let mut words = [0; 16 * 8];
    for (r, lanes) in registers.enumerate() {
        let rows = words.chunks_exact_mut(each).skip(8 * (r % 2)).map(|row| &mut row[r / 2 * FOUR..]);
        narrow(lanes, rows);
    }
    decode(ty, &words[..16 * each], a);
}

/// Eight columns of B from its registers, to `k` rows.
pub fn rows_of_b<'l>(ty: MmaType, registers: impl Iterator<Item = &'l Lanes>, k: usize, b: &mut [f32]) {
    let each = k * ty.bits() / 32;
    let mut words = [0; TILE * 8];
    for (r, lanes) in registers.enumerate() {
        narrow(lanes, words.chunks_exact_mut(each).map(|column| &mut column[r * FOUR..]));
    }
    let mut columns = [0.0; TILE * 32];
    decode(ty, &words[..TILE * each], &mut columns);
    transpose(&columns[..TILE * k], k, TILE, b);
}

/// The words of the groups of a warp, one after the other.
fn narrow<'w>(lanes: &Lanes, places: impl Iterator<Item = &'w mut [u32]>) {
    for (group, place) in lanes.as_chunks::<FOUR>().0.iter().zip(places) {
        place[..FOUR].iter_mut().zip(group).for_each(|(to, word)| *to = *word as u32);
    }
}

/// Columns of `k` numbers, one after the other, to rows of `n`.
pub fn transpose(columns: &[f32], k: usize, n: usize, rows: &mut [f32]) {
    for (tile, columns) in columns.chunks_exact(TILE * k).enumerate() {
        for x in 0..k {
            let row = &mut rows[x * n + tile * TILE..][..TILE];
            row.iter_mut().enumerate().for_each(|(place, to)| *to = columns[column_at(place) * k + x]);
        }
    }
}

/// Columns of `rows` numbers, one after the other, to rows.
pub fn turn(columns: &[f32], rows: usize, into: &mut [f32]) {
    for (row, to) in into.chunks_exact_mut(columns.len() / rows).enumerate() {
        to.iter_mut().zip(columns[row..].iter().step_by(rows)).for_each(|(to, from)| *to = *from);
    }
}

/// Puts the columns of each tile of a row in order.
pub fn order(row: &mut [f32]) {
    for tile in row.as_chunks_mut::<TILE>().0 {
        *tile = std::array::from_fn(|place| tile[column_at(place)]);
    }
}

/// What register `r` of a 16x8 tile of sums holds, f32 or pairs of f16, to rows of `stride`.
pub fn sums_of(half: bool, r: usize, lanes: &Lanes, stride: usize, tile: &mut [f32]) {
    for (g, four) in lanes.as_chunks::<FOUR>().0.iter().enumerate() {
        if half {
            let row = &mut tile[(g + 8 * r) * stride..][..TILE];
            for (t, pair) in four.iter().enumerate() {
                row[t] = float::f16(*pair as u32 & 0xffff);
                row[4 + t] = float::f16(*pair as u32 >> 16);
            }
        } else {
            let row = &mut tile[(g + r / 2 * 8) * stride + r % 2 * FOUR..][..FOUR];
            row.iter_mut().zip(four).for_each(|(to, x)| *to = f32::from_bits(*x as u32));
        }
    }
}

/// A register of a tile of sums, the other way round.
pub fn register_of(half: bool, r: usize, stride: usize, tile: &[f32], lanes: &mut Lanes) {
    for (g, four) in lanes.as_chunks_mut::<FOUR>().0.iter_mut().enumerate() {
        if half {
            let row = &tile[(g + 8 * r) * stride..][..TILE];
            for (t, pair) in four.iter_mut().enumerate() {
                *pair =
                    u64::from(F16.nearest(row[t], false)) | u64::from(F16.nearest(row[4 + t], false)) << 16;
            }
        } else {
            let row = &tile[(g + r / 2 * 8) * stride + r % 2 * FOUR..][..FOUR];
            // The host's NaN is of either sign.
            four.iter_mut().zip(row).for_each(|(sum, x)| *sum = Single(*x).put());
        }
    }
}

/// Adds a tile's integer sums to what register `r` holds of them.
pub fn add_to_register(r: usize, stride: usize, tile: &[f32], lanes: &mut Lanes) {
    for (g, four) in lanes.as_chunks_mut::<FOUR>().0.iter_mut().enumerate() {
        let row = &tile[(g + r / 2 * 8) * stride + r % 2 * FOUR..][..FOUR];
        four.iter_mut().zip(row).for_each(|(sum, x)| *sum = (*x as i32).wrapping_add(*sum as i32).put());
    }
}
