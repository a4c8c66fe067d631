//! Element types of the tensors.

use std::fmt;

use half::slice::HalfFloatSliceExt as _;
use half::{bf16, f16};

/// The element type of a tensor in memory. Arithmetic is f32 for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    Bf16,
}

impl DType {
    /// Bytes per element.
    pub const fn size_bytes(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::Bf16 => 2,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
        })
    }
}

mod sealed {
    pub trait Sealed: bytemuck::Pod {}

    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
}

/// A Rust type that is one of the [`DType`]s: `f32`, [`half::f16`] or [`half::bf16`].
pub trait Element: sealed::Sealed + Copy + Send + Sync + fmt::Debug + 'static {
    /// The dtype of this type.
    const DTYPE: DType;

    /// The value as f32, exact for every dtype.
    fn to_f32(self) -> f32;

    /// The nearest value of this type (ties to even).
    fn from_f32(value: f32) -> Self;

    /// `src` itself where this type is f32, else `None`.
    fn as_f32(src: &[Self]) -> Option<&[f32]>;

    /// Converts `src` into `dst`, which is as long, to the nearest values.
    fn narrow(src: &[f32], dst: &mut [Self]);
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }

    #[inline(always)]
    fn as_f32(src: &[Self]) -> Option<&[f32]> {
        Some(src)
    }

    fn narrow(src: &[f32], dst: &mut [Self]) {
        dst.copy_from_slice(src);
    }
}

macro_rules! half_element {
    ($type:ident, $dtype:expr) => {
        impl Element for $type {
            const DTYPE: DType = $dtype;

            #[inline(always)]
            fn to_f32(self) -> f32 {
                $type::to_f32(self)
            }

            #[inline(always)]
            fn from_f32(value: f32) -> Self {
                $type::from_f32(value)
            }

            #[inline(always)]
            fn as_f32(_src: &[Self]) -> Option<&[f32]> {
                None
            }

            fn narrow(src: &[f32], dst: &mut [Self]) {
                dst.convert_from_f32_slice(src);
            }
        }
    };
}

half_element!(f16, DType::F16);
half_element!(bf16, DType::Bf16);
