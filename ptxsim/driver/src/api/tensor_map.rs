//! Tensor maps: the checks that the driver's documentation lists.

use ptxsim::{TENSOR_MAP_BYTES, TensorMap};

use crate::guard::driver_api;
use crate::host;
use crate::state::lock;
use crate::status::{Code, Failure, Outcome};

/// Bytes of an element by data type: integers 8 to 64, f16, f32, f64, bf16, f32 with flush, tf32 twice.
const ELEMENT_BYTES: [u64; 13] = [1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4];
/// Data types from this one on are floating point.
const FIRST_FLOAT: i32 = 6;
const MAX_RANK: u32 = 5;
const MAP_ALIGNMENT: usize = 64;

/// The arguments of an encoding.
struct Arguments {
    data_type: i32,
    address: u64,
    dimensions: Vec<u64>,
    /// Of all dimensions but the first, in bytes.
    strides: Vec<u64>,
    box_size: Vec<u32>,
    element_strides: Vec<u32>,
    interleave: i32,
    swizzle: i32,
    promotion: i32,
    fill: i32,
}

fn wrong(field: &str, value: impl std::fmt::Display, allowed: &str) -> Failure {
    Code::INVALID_VALUE.because(format!("tensor map: {field} is {value}, allowed is {allowed}"))
}

impl Arguments {
    fn check(&self) -> Outcome {
        let rank = self.dimensions.len();
        let Some(element) = usize::try_from(self.data_type).ok().and_then(|at| ELEMENT_BYTES.get(at)) else {
            return Err(wrong("data type", self.data_type, "0 to 12"));
        };
        for (field, value, most) in [
            ("interleave", self.interleave, 2),
            ("swizzle", self.swizzle, 3),
            ("L2 promotion", self.promotion, 3),
            ("fill", self.fill, 1),
        ] {
            if !(0..=most).contains(&value) {
                return Err(wrong(field, value, &format!("0 to {most}")));
            }
        }
        if self.interleave != 0 && rank < 3 {
            return Err(wrong("rank", rank, "3 to 5 with interleave"));
        }
        let granule = if self.interleave == 2 { 32 } else { 16 };
        if self.address == 0 || !self.address.is_multiple_of(granule) {
            return Err(wrong(
                "address",
                format!("{:#x}", self.address),
                &format!("a multiple of {granule} above 0"),
            ));
        }
        for size in &self.dimensions {
            if *size == 0 || *size > 1 << 32 {
                return Err(wrong("dimension", size, "1 to 2^32"));
            }
        }
        for stride in &self.strides {
            if !stride.is_multiple_of(granule) || *stride >= 1 << 40 {
                return Err(wrong("stride", stride, &format!("a multiple of {granule} below 2^40")));
            }
        }
        for size in &self.box_size {
            if *size == 0 || *size > 256 {
                return Err(wrong("box size", size, "1 to 256"));
            }
        }
        for stride in &self.element_strides {
            if *stride == 0 || *stride > 8 {
                return Err(wrong("element stride", stride, "1 to 8"));
            }
        }
        let inner = u64::from(self.box_size[0]) * element;
        if self.interleave == 0 {
            if !inner.is_multiple_of(16) {
                return Err(wrong("inner box", format!("{inner} bytes"), "a multiple of 16 bytes"));
            }
            let most = 16 << self.swizzle;
            if self.swizzle != 0 && inner > most {
                return Err(wrong(
                    "inner box",
                    format!("{inner} bytes"),
                    &format!("at most {most} with this swizzle"),
                ));
            }
        }
        if self.interleave == 2 && self.swizzle != 1 {
            return Err(wrong("swizzle", self.swizzle, "1 (32 bytes) with 32-byte interleave"));
        }
        if self.fill == 1 && self.data_type < FIRST_FLOAT {
            return Err(wrong("fill", "NaN", "zero for an integer type"));
        }
        Ok(())
    }

    fn encode(self) -> [u8; TENSOR_MAP_BYTES] {
        let map = TensorMap {
            data_type: self.data_type as u8,
            address: self.address,
            dimensions: self.dimensions,
            strides: self.strides,
            box_size: self.box_size,
            element_strides: self.element_strides,
            interleave: self.interleave as u8,
            swizzle: self.swizzle as u8,
            promotion: self.promotion as u8,
            fill: self.fill as u8,
        };
        map.to_bytes()
    }
}

driver_api! {
    fn cuTensorMapEncodeTiled(
        map: usize, data_type: i32, rank: u32, address: u64, dimensions: usize, strides: usize, box_size: usize,
        element_strides: usize, interleave: i32, swizzle: i32, promotion: i32, fill: i32,
    ) {
        let device = lock().any_device()?;
        if device.card.compute_capability.0 < 9 {
            return Err(Code::NOT_SUPPORTED.because("tensor maps need compute capability 9.0"));
        }
        if map == 0 || !map.is_multiple_of(MAP_ALIGNMENT) {
            return Err(wrong("the map's own address", format!("{map:#x}"), "a multiple of 64 above 0"));
        }
        if rank == 0 || rank > MAX_RANK {
            return Err(wrong("rank", rank, "1 to 5"));
        }
        let rank = rank as usize;
        let arguments = Arguments {
            data_type, address, interleave, swizzle, promotion, fill,
            dimensions: host::read_many(dimensions, rank)?,
            strides: host::read_many(strides, rank - 1)?,
            box_size: host::read_many(box_size, rank)?,
            element_strides: host::read_many(element_strides, rank)?,
        };
        arguments.check()?;
        host::write_bytes(map, &arguments.encode())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A 64 x 64 box of bf16 in a 512 x 768 matrix, 128-byte swizzle.
    fn good() -> Arguments {
        Arguments {
            data_type: 9,
            address: 0x1000,
            dimensions: vec![768, 512],
            strides: vec![1536],
            box_size: vec![64, 64],
            element_strides: vec![1, 1],
            interleave: 0,
            swizzle: 3,
            promotion: 0,
            fill: 0,
        }
    }

    #[test]
    fn each_rule_is_checked() {
        assert_eq!(good().check(), Ok(()));
        let refused = |change: fn(&mut Arguments)| {
            let mut arguments = good();
            change(&mut arguments);
            arguments.check().is_err()
        };
        assert!(refused(|a| a.data_type = 16));
        assert!(refused(|a| a.address = 0x1008));
        assert!(refused(|a| a.address = 0));
        assert!(refused(|a| a.dimensions[1] = 0));
        assert!(refused(|a| a.dimensions[0] = (1 << 32) + 1));
        assert!(refused(|a| a.strides[0] = 1544));
        assert!(refused(|a| a.strides[0] = 1 << 40));
        assert!(refused(|a| a.box_size[1] = 257));
        assert!(refused(|a| a.box_size[1] = 0));
        assert!(refused(|a| a.box_size[0] = 72), "144 bytes are more than the swizzle spans");
        assert!(refused(|a| a.box_size[0] = 60), "120 bytes are not a multiple of 16");
        assert!(refused(|a| a.element_strides[0] = 9));
        assert!(refused(|a| a.swizzle = 4));
        assert!(refused(|a| a.interleave = 1), "interleave needs three dimensions");
        assert!(refused(|a| (a.data_type, a.box_size[0], a.fill) = (1, 64, 1)), "no NaN in integers");
        assert!(!refused(|a| a.fill = 1));
        assert!(!refused(|a| (a.swizzle, a.box_size[0]) = (0, 256)), "without swizzle the box is free");
    }
}
