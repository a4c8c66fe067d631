//! e4m3, the 8-bit float that K and V can have on cards from 9.0 on: codes, and K or V made of them.
//!
//! Sign, four bits of exponent (bias 7), three of mantissa: four significant bits from 2^-6 to 448, fewer down to 2^-9. No
//! infinity; `0x7f` and `0xff` are NaN. (The format of the OCP's OFP8, "E4M3FN" elsewhere.)

use crate::dtype::Element;
use crate::error::Result;
use crate::problem::Problem;
use crate::shape::Shape;
use crate::view::{View, check};

/// The largest value.
pub const MAX: f32 = 448.0;

const NAN: u8 = 0x7f;
const SIGN: u8 = 0x80;

/// The value of a code, exactly.
pub fn decode(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let magnitude = match (exponent, code & NAN) {
        (_, NAN) => f32::NAN,
        (0, _) => mantissa * 2f32.powi(-9),
        _ => (8.0 + mantissa) * 2f32.powi(exponent - 10),
    };
    if code & SIGN == 0 { magnitude } else { -magnitude }
}

/// The code of the nearest value, of two as near the even one. What is larger than [`MAX`], infinities too, becomes it.
pub fn encode(value: f32) -> u8 {
    let sign = if value.is_sign_negative() { SIGN } else { 0 };
    let magnitude = value.abs();
    if value.is_nan() {
        return sign | NAN;
    }
    if magnitude >= MAX {
        return sign | (NAN - 1);
    }
    // Steps of the value's binade; those under 2^-6 share the smallest.
    let exponent = ((magnitude.to_bits() >> 23) as i32 - 127).max(-6);
    let steps = (magnitude * 2f32.powi(3 - exponent)).round_ties_even();
    // Eight steps, where the mantissa is 0, are one exponent more; so are sixteen, to which a value may round up.
    sign | ((((exponent + 6) as u8) << 3) + steps as u8)
}

/// K or V in e4m3: an element is the value of its code times the scale of its head.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantized {
    /// In the order of `shape`, without gaps.
    pub codes: Vec<u8>,
    /// `[kv_heads]`.
    pub scales: Vec<f32>,
    /// [`Problem::kv_shape`].
    pub shape: Shape,
}

/// Converts K or V of a problem to e4m3. The scale of a head maps the largest finite magnitude of its keys to [`MAX`]; infinities
/// become that magnitude, NaN stays. Positions without a key are not read, and become 0.
///
/// # Errors
/// What [`Problem::check`] refuses.
pub fn quantize<E: Element>(problem: &Problem, kv: View<&[E]>) -> Result<Quantized> {
    let shape = problem.kv_shape();
    check("data", kv, shape)?;
    let (heads, head_dim) = (shape.heads, shape.vector);
    let keys = || problem.inputs().iter().flat_map(|input| input.keys.clone().map(|key| (input.slot, key)));
    let vector = |(slot, key): (usize, usize), head: usize| {
        kv.data[kv.strides.at(slot, key, head)..][..head_dim].iter().map(|x| x.to_f32())
    };
    let largest = |head| {
        let all = keys().flat_map(move |key| vector(key, head));
        all.filter(|x| x.is_finite()).fold(0.0, |most: f32, x| most.max(x.abs()))
    };
    // A head of zeros has any scale.
    let scale = |most: f32| if most == 0.0 { 1.0 } else { (most / MAX).max(f32::MIN_POSITIVE) };
    let scales: Vec<f32> = (0..heads).map(|head| scale(largest(head))).collect();
    let mut codes = vec![0; shape.elements()];
    for key in keys() {
        for (head, scale) in scales.iter().enumerate() {
            let to = &mut codes[shape.strides().at(key.0, key.1, head)..][..head_dim];
            to.iter_mut().zip(vector(key, head)).for_each(|(code, x)| *code = encode(x / scale));
        }
    }
    Ok(Quantized { codes, scales, shape })
}

impl Quantized {
    /// The elements that the codes stand for, in the order of `shape`.
    pub fn dequantize(&self) -> Vec<f32> {
        let heads = self.scales.iter().cycle();
        let vectors = self.codes.chunks(self.shape.vector.max(1)).zip(heads);
        vectors.flat_map(|(codes, scale)| codes.iter().map(move |code| decode(*code) * scale)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::{Keys, ProblemSpec};
    use crate::shape::Strides;

    /// All codes against the format written out by hand, in units of 2^-9.
    #[test]
    fn every_code_has_its_value_and_comes_back() {
        let first =
            [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20, 22, 24, 26, 28, 30, 32];
        for (code, units) in first.into_iter().enumerate() {
            assert_eq!(decode(code as u8), units as f32 / 512.0, "{code:#x}");
        }
        for (code, value) in
            [(0x38, 1.0), (0x3c, 1.5), (0x40, 2.0), (0x77, 240.0), (0x78, 256.0), (0x7e, 448.0)]
        {
            assert_eq!(decode(code), value, "{code:#x}");
        }
        for code in 0..=255u8 {
            let value = decode(code);
            assert_eq!(value.is_nan(), code & 0x7f == 0x7f);
            assert_eq!(value.is_sign_negative(), code >= 0x80);
            assert_eq!(decode(code ^ 0x80).to_bits(), (-value).to_bits());
            assert_eq!(encode(value), code, "{code:#x} is {value}");
        }
    }

    /// Between any two neighbours: nearer ones, ties to the even code, and far beyond the last.
    #[test]
    fn values_round_to_the_nearest_code() {
        for code in 0..0x7eu8 {
            let (low, high) = (decode(code), decode(code + 1));
            let middle = (low + high) / 2.0;
            for (value, nearest) in [
                (middle.next_down(), code),
                (middle, code + code % 2),
                (middle.next_up(), code + 1),
                (low.next_up(), code),
                (high.next_down(), code + 1),
            ] {
                assert_eq!((encode(value), encode(-value)), (nearest, nearest | 0x80), "{value}");
            }
        }
        for value in [448.0f32.next_up(), 464.0, 465.0, 1e9, f32::INFINITY] {
            assert_eq!((encode(value), encode(-value)), (0x7e, 0xfe), "{value}");
        }
        assert_eq!((encode(f32::MIN_POSITIVE), encode(-1e-45)), (0, 0x80));
    }

    #[test]
    fn heads_have_scales_of_their_own_and_padding_none() {
        let problem = Problem::new(ProblemSpec {
            heads: 3,
            kv_heads: 3,
            head_dim: 2,
            scale: 1.0,
            softcap: None,
            row_offsets: vec![0, 1, 1],
            keys: Keys::Padded { max_keys: 2, lengths: vec![1, 2] },
        })
        .unwrap();
        let nan = f32::NAN;
        // Keys of three heads with a gap between them: a slot of one key and of a position that is none, a position of no
        // slot, a full slot.
        let data = [
            [1.0, -2.0, 0.0, 0.0, 896.0, f32::INFINITY, nan, nan],
            [nan; 8],
            [nan; 8],
            [0.5, nan, 0.0, 0.0, -448.0, 1.0, nan, nan],
            [0.25, 0.0, 0.0, 0.0, 2.0, 0.0, nan, nan],
        ]
        .concat();
        let of = |data| View::strided(problem.kv_shape(), Strides { input: 24, row: 8, head: 2 }, data);
        let got = quantize(&problem, of(&data[..])).unwrap();
        assert_eq!((got.scales.as_slice(), got.shape), (&[2.0 / 448.0, 1.0, 2.0][..], [2, 2, 3, 2].into()));
        let values = got.dequantize();
        assert_eq!(values[..12], [1.0, -2.0, 0.0, 0.0, 896.0, 896.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert!(values[13].is_nan());
        assert_eq!((values[12], values[16], values[17]), (0.5, -448.0, 1.0));
        assert_eq!(values[18..], [0.25, 0.0, 0.0, 0.0, 2.0, 0.0]);
        let short = quantize(&problem, of(&data[3..])).unwrap_err().to_string();
        assert_eq!(short, "data has 37 elements, allowed: 38 or more for its shape and strides");
        let flat = quantize(&problem, View::contiguous([4, 3, 2], &data[..])).unwrap_err().to_string();
        assert_eq!(flat, "data is [4, 3, 2], allowed: [2, 2, 3, 2]");
    }
}
