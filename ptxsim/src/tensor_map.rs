//! Tensor maps: what a `CUtensorMap` of the simulator holds.

use crate::float::{self, Rounding};
use crate::ir::MapField;

/// Bytes of a map.
pub const TENSOR_MAP_BYTES: usize = 128;
/// More than the shared memory of any card takes.
const MOST_BOX_ELEMENTS: u64 = 1 << 20;
const MAGIC: &[u8; 8] = b"PTXSIMTM";
/// Bytes of an element by data type: integers 8 to 64, f16, f32, f64, bf16, f32 with flush, tf32 twice.
const ELEMENT_BYTES: [u32; 13] = [1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4];

/// The driver's number of each `.elemtype` of `tensormap.replace` (PTX ISA 9.7.9.26, table 33): f32 with flush, f64 and
/// bf16 change places.
const DRIVER_TYPES: [u8; 13] = [0, 1, 2, 3, 4, 5, 6, 7, 10, 8, 9, 11, 12];
const F32_FTZ: u8 = 10;
const TF32_ELEMENTS: u8 = 11;
const TF32_FTZ: u8 = 12;

/// A tiled tensor in global memory, and the box that one copy moves.
///
/// The hardware's own layout is not public; programs must treat the bytes as opaque. Here:
/// ```text
/// 0 "PTXSIMTM" | 8 address u64 | 16 type, rank, interleave, swizzle, L2 promotion, fill: u8 each
/// | 24 dimensions 5 x u64 | 64 strides of dimensions 1 to 4 in bytes, 4 x u64 | 96 box 5 x u16
/// | 106 element strides 5 x u8
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorMap {
    /// Data type as the driver numbers them, 0 to 12.
    pub data_type: u8,
    /// Address of element 0.
    pub address: u64,
    /// Elements along each dimension, innermost first; one to five.
    pub dimensions: Vec<u64>,
    /// Bytes between neighbours along every dimension but the first.
    pub strides: Vec<u64>,
    /// Elements along each dimension that the box spans, those that are stepped over too.
    pub box_size: Vec<u32>,
    /// Steps between elements that are copied; the first dimension's is ignored.
    pub element_strides: Vec<u32>,
    /// 0 none, 1 and 2 of 16 and 32 bytes.
    pub interleave: u8,
    /// 0 none, 1 to 3 of 32, 64, 128 bytes.
    pub swizzle: u8,
    /// A hint.
    pub promotion: u8,
    /// Fill of elements out of bounds: 0 zeros, 1 NaN.
    pub fill: u8,
}

/// Puts a value into a field of a map's bytes, as `tensormap.replace` does: a map may be no valid one until the last
/// field is there. What no valid map has is refused, in words.
pub(crate) fn replace(map: &mut [u8; TENSOR_MAP_BYTES], field: MapField, value: u64) -> Result<(), String> {
    if &map[..8] != MAGIC {
        return Err("these 128 bytes are no tensor map".to_owned());
    }
    let (name, allowed, fits) = match field {
        MapField::Address => ("global_address", "multiples of 16", value.is_multiple_of(16)),
        MapField::Stride(_) => {
            ("global_stride", "multiples of 16 below 2^40", value.is_multiple_of(16) && value >> 40 == 0)
        }
        MapField::Rank => ("rank", "0 to 4", value <= 4),
        MapField::Box(_) => ("box_dim", "1 to 256", (1..=256).contains(&(value as u32))),
        MapField::Step(_) => ("element_stride", "1 to 8", (1..=8).contains(&(value as u32))),
        _ => ("", "", true),
    };
    if !fits {
        return Err(format!("{name} {value}, allowed are {allowed}"));
    }
    // Values of 32 bits come in registers of any width.
    let (value, narrow) = (value, value as u32);
    let mut put = |at: usize, bytes: &[u8]| map[at..at + bytes.len()].copy_from_slice(bytes);
    match field {
        MapField::Address => put(8, &value.to_le_bytes()),
        MapField::DataType => put(16, &[DRIVER_TYPES[narrow as usize % DRIVER_TYPES.len()]]),
        MapField::Rank => put(17, &[narrow as u8 + 1]),
        MapField::Interleave => put(18, &[narrow as u8]),
        MapField::Swizzle => put(19, &[narrow as u8]),
        // 16 bytes, as all maps have here.
        MapField::Atomicity => {}
        MapField::Fill => put(21, &[narrow as u8]),
        MapField::Dimension(d) => put(24 + 8 * usize::from(d), &u64::from(narrow).to_le_bytes()),
        MapField::Stride(d) => put(64 + 8 * usize::from(d), &value.to_le_bytes()),
        MapField::Box(d) => put(96 + 2 * usize::from(d), &(narrow as u16).to_le_bytes()),
        MapField::Step(d) => put(106 + usize::from(d), &[narrow as u8]),
    }
    Ok(())
}

impl TensorMap {
    /// The map's bytes.
    pub fn to_bytes(&self) -> [u8; TENSOR_MAP_BYTES] {
        let mut map = [0; TENSOR_MAP_BYTES];
        map[..8].copy_from_slice(MAGIC);
        map[8..16].copy_from_slice(&self.address.to_le_bytes());
        let rank = self.dimensions.len() as u8;
        let small = [self.data_type, rank, self.interleave, self.swizzle, self.promotion, self.fill];
        map[16..22].copy_from_slice(&small);
        for (place, size) in map[24..64].chunks_exact_mut(8).zip(&self.dimensions) {
            place.copy_from_slice(&size.to_le_bytes());
        }
        for (place, stride) in map[64..96].chunks_exact_mut(8).zip(&self.strides) {
            place.copy_from_slice(&stride.to_le_bytes());
        }
        for (place, size) in map[96..106].chunks_exact_mut(2).zip(&self.box_size) {
            place.copy_from_slice(&(*size as u16).to_le_bytes());
        }
        for (place, stride) in map[106..111].iter_mut().zip(&self.element_strides) {
            *place = *stride as u8;
        }
        map
    }

    /// Reads a map; `None` if these bytes are none.
    pub fn from_bytes(map: &[u8; TENSOR_MAP_BYTES]) -> Option<Self> {
        let rank = usize::from(map[17]);
        if &map[..8] != MAGIC || !(1..=5).contains(&rank) || usize::from(map[16]) >= ELEMENT_BYTES.len() {
            return None;
        }
        let wide = |from: usize, count: usize| -> Vec<u64> {
            let part = map.get(from..from + 8 * count).unwrap_or_default();
            part.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().unwrap_or_default())).collect()
        };
        let box_size = map[96..96 + 2 * rank].chunks_exact(2).map(|c| u32::from(c[0]) | u32::from(c[1]) << 8);
        // Bytes that were tampered with must not make boxes that no card has.
        let elements =
            box_size.clone().try_fold(1, |n, size| (1..=256).contains(&size).then_some(n * size as u64));
        if elements.is_none_or(|n| n > MOST_BOX_ELEMENTS) || map[19] > 3 || map[21] > 1 {
            return None;
        }
        Some(Self {
            data_type: map[16],
            address: wide(8, 1)[0],
            dimensions: wide(24, rank),
            strides: wide(64, rank - 1),
            box_size: box_size.collect(),
            element_strides: map[106..106 + rank].iter().map(|s| u32::from(*s)).collect(),
            interleave: map[18],
            swizzle: map[19],
            promotion: map[20],
            fill: map[21],
        })
    }

    /// Bytes of an element.
    pub fn element_bytes(&self) -> u32 {
        ELEMENT_BYTES.get(usize::from(self.data_type)).copied().unwrap_or(1)
    }

    /// Bytes that a box has in shared memory.
    pub fn box_bytes(&self) -> u32 {
        self.box_counts().product::<u32>() * self.element_bytes()
    }

    /// Elements that are copied along each dimension.
    pub(crate) fn box_counts(&self) -> impl Iterator<Item = u32> {
        self.box_size.iter().enumerate().map(|(d, size)| size.div_ceil(self.step(d)))
    }

    /// Step between the elements that are copied along a dimension.
    pub(crate) fn step(&self, dimension: usize) -> u32 {
        match dimension {
            0 => 1,
            d => self.element_strides.get(d).copied().unwrap_or(1).max(1),
        }
    }

    /// Bytes of a swizzled row; 16 without swizzle.
    pub(crate) fn swizzle_width(&self) -> u32 {
        16 << self.swizzle
    }

    /// Bits of the element that stands in for what lies out of bounds.
    pub(crate) fn fill_bits(&self) -> u64 {
        match (self.fill, self.element_bytes()) {
            (0, _) => 0,
            (_, 2) => 0x7fff,
            (_, 8) => 0x7fff_ffff_ffff_ffff,
            _ => 0x7fff_ffff,
        }
    }

    /// Whether elements change on their way to shared memory: f32 with flush, tf32.
    pub(crate) fn converts(&self) -> bool {
        (F32_FTZ..=TF32_FTZ).contains(&self.data_type)
    }

    /// Makes elements what their type has of them: subnormal f32 are flushed for the types with flush, tf32 is rounded
    /// to nearest even (PTX ISA, "Tensor Dimension, size and format").
    pub(crate) fn convert(&self, data: &mut [u8]) {
        for element in data.chunks_exact_mut(4) {
            let mut x = f32::from_bits(u32::from_le_bytes(element.try_into().unwrap_or_default()));
            if self.data_type != TF32_ELEMENTS {
                x = float::flush(x);
            }
            let bits = match self.data_type {
                F32_FTZ => x.to_bits(),
                _ => float::TF32.encode(x.into(), Rounding::Nearest) << 13,
            };
            element.copy_from_slice(&bits.to_le_bytes());
        }
    }

    /// Address of the element at `coordinates`; `None` out of bounds.
    pub(crate) fn element(&self, coordinates: &[i64]) -> Option<u64> {
        let inside = |(c, d): (&i64, &u64)| u64::try_from(*c).is_ok_and(|c| c < *d);
        if !coordinates.iter().zip(&self.dimensions).all(inside) {
            return None;
        }
        let inner = coordinates.first().copied()? as u64 * u64::from(self.element_bytes());
        let outer = coordinates.iter().skip(1).zip(&self.strides);
        let outer = outer.fold(0u64, |sum, (c, s)| sum.wrapping_add((*c as u64).wrapping_mul(*s)));
        Some(self.address.wrapping_add(inner).wrapping_add(outer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_survive_their_bytes() {
        let map = TensorMap {
            data_type: 9,
            address: 0x1234_5670,
            dimensions: vec![768, 512, 3],
            strides: vec![1536, 1 << 20],
            box_size: vec![64, 256, 1],
            element_strides: vec![1, 2, 1],
            interleave: 0,
            swizzle: 3,
            promotion: 2,
            fill: 1,
        };
        assert_eq!(TensorMap::from_bytes(&map.to_bytes()), Some(map.clone()));
        assert_eq!(TensorMap::from_bytes(&[0; 128]), None);
        assert_eq!(map.element(&[2, 3, 1]), Some(0x1234_5670 + 4 + 3 * 1536 + (1 << 20)));
        assert_eq!((map.element(&[-1, 0, 0]), map.element(&[0, 512, 0])), (None, None));
    }
}
