//! Tensors as the copy engine (TMA) sees them.

use std::mem::MaybeUninit;

use cudarc::driver::sys::{self, CUdeviceptr, CUtensorMapDataType};

use super::driver::cuda;
use crate::dtype::DType;
use crate::error::Result;
use crate::plan::Variant;
use crate::shape::{Shape, Strides};

/// A tensor of five dimensions as the copy engine of cards from 9.0 on sees it: a parameter of kernels.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub struct TensorMap(sys::CUtensorMap);

impl TensorMap {
    /// For a kernel that will not use it.
    pub const EMPTY: Self = Self(sys::CUtensorMap { opaque: [0; 16] });

    /// The tensor of `dimensions` elements at `address`, innermost dimension first; `steps` are the strides in bytes of all but
    /// the innermost. It is copied in boxes of `box_size` elements. `row_bytes`, 128 or 64, is the length of a box's rows, and how
    /// they are swizzled. What lies past the end reads as zeros.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) with the driver's answer.
    pub fn new(
        data_type: CUtensorMapDataType,
        address: CUdeviceptr,
        dimensions: [usize; 5],
        steps: [usize; 4],
        box_size: [usize; 5],
        row_bytes: usize,
    ) -> Result<Self> {
        let (dimensions, steps) = (dimensions.map(|n| n as u64), steps.map(|n| n as u64));
        let box_size = box_size.map(|n| n as u32);
        // L2 fetches no more than a row at once: what follows a short one in memory belongs to others.
        let (swizzle, promotion) = match row_bytes {
            PANEL_BYTES => (
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
            ),
            _ => (
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_64B,
            ),
        };
        let mut map = MaybeUninit::<sys::CUtensorMap>::uninit();
        // SAFETY: the arrays have as many elements as the rank asks for, one less of strides; the map is written where
        // the call succeeds, and only then read.
        unsafe {
            sys::cuTensorMapEncodeTiled(
                map.as_mut_ptr(),
                data_type,
                5,
                address as *mut _,
                dimensions.as_ptr(),
                steps.as_ptr(),
                box_size.as_ptr(),
                [1u32; 5].as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                swizzle,
                promotion,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
            .result()
            .map_err(cuda("cuTensorMapEncodeTiled"))?;
            Ok(Self(map.assume_init()))
        }
    }
}

/// Bytes of a panel's row at most: what one swizzle spans.
const PANEL_BYTES: usize = 128;

/// The tensor map of K or of V at `address` for a variant's kernel. A box is of one input's slot and one head: a tile of keys, or
/// a block's part of it where a cluster shares tiles. It arrives as panels, `[panels, keys, bytes]`, with rows of 128 bytes or, where a
/// vector is shorter, 64, swizzled by as many. Positions behind a slot's last read as zeros.
///
/// # Errors
/// [`Error::Cuda`](crate::Error::Cuda) with the driver's answer.
pub(super) fn kv_tensor_map(
    variant: &Variant,
    address: CUdeviceptr,
    shape: Shape,
    strides: Strides,
) -> Result<TensorMap> {
    let data_type = match variant.dtype {
        _ if variant.e4m3_kv() => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT8,
        DType::Bf16 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        _ => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
    };
    let size = variant.kv_bytes;
    let panel = shape.vector.min(PANEL_BYTES / size);
    // A stride that is never taken may be anything, but the driver wants a multiple of 16.
    let taken = |stride: usize, count: usize| if count > 1 { stride * size } else { panel * size };
    let dimensions = [panel, shape.tokens, shape.vector / panel, shape.heads, shape.inputs];
    let steps = [
        taken(strides.row, shape.tokens),
        panel * size,
        taken(strides.head, shape.heads),
        taken(strides.input, shape.inputs),
    ];
    // As `PART_OF_PANELS` in cuda/sm90a/warpgroups.cuh.
    let (box_tokens, box_panels) = match shape.vector / panel {
        panels if panels >= variant.cluster => (variant.tile_keys, panels / variant.cluster),
        panels => (variant.tile_keys / variant.cluster, panels),
    };
    let box_size = [panel, box_tokens, box_panels, 1, 1];
    TensorMap::new(data_type, address, dimensions, steps, box_size, panel * size)
}
