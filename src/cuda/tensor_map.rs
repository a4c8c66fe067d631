//! Maps of K and V for the copy engine.

use std::mem::MaybeUninit;

use cudarc::driver::sys::{self, CUdeviceptr};

use super::kernels::cuda;
use crate::dtype::DType;
use crate::error::Result;
use crate::plan::Variant;
use crate::problem::{Extent, Strides};

/// Bytes of a panel's row at most: what one swizzle spans.
const PANEL_BYTES: usize = 128;

/// The tensor `[tokens, heads, vector]` at `address`, K or V of a variant, cut into boxes of one head: whole tiles of keys,
/// or a block's part of them. A box comes as panels of 128 bytes a row, or of the 64 that a vector has, `[panels, keys,
/// bytes]`, swizzled by as many. Positions behind the last token read as zeros.
///
/// # Errors
/// [`Error::Cuda`](crate::Error::Cuda) with the driver's answer.
pub(super) fn boxes_of_tokens(
    variant: &Variant,
    address: CUdeviceptr,
    extent: Extent,
    strides: Strides,
) -> Result<sys::CUtensorMap> {
    let data_type = match variant.dtype {
        _ if variant.e4m3_kv() => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT8,
        DType::Bf16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        _ => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
    };
    let size = variant.kv_bytes;
    let panel = extent.vector.min(PANEL_BYTES / size);
    // Where rows are shorter, what follows them in memory is another head's, and not fetched along.
    let (swizzle, promotion) = match panel * size {
        PANEL_BYTES => (
            sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
        ),
        _ => (
            sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_64B,
        ),
    };
    // A stride that is never taken may be anything; the driver wants a multiple of 16.
    let taken = |stride: usize, count: usize| if count > 1 { stride * size } else { panel * size };
    let dimensions = [panel, extent.tokens, extent.vector / panel, extent.heads].map(|n| n as u64);
    let steps = [taken(strides.row, extent.tokens), panel * size, taken(strides.head, extent.heads)]
        .map(|n| n as u64);
    // As `PART_OF_PANELS` in cuda/sm90/warpgroups.cuh.
    let (box_tokens, box_panels) = match extent.vector / panel {
        panels if panels >= variant.cluster => (variant.tile_keys, panels / variant.cluster),
        panels => (variant.tile_keys / variant.cluster, panels),
    };
    let box_size = [panel, box_tokens, box_panels, 1].map(|n| n as u32);
    let mut map = MaybeUninit::<sys::CUtensorMap>::uninit();
    // SAFETY: the arrays have as many elements as the rank asks for, one less of strides; the map is written where
    // the call succeeds, and only then read.
    unsafe {
        sys::cuTensorMapEncodeTiled(
            map.as_mut_ptr(),
            data_type,
            4,
            address as *mut _,
            dimensions.as_ptr(),
            steps.as_ptr(),
            box_size.as_ptr(),
            [1u32; 4].as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            swizzle,
            promotion,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
        .result()
        .map_err(cuda("describing K and V to the copy engine"))?;
        Ok(map.assume_init())
    }
}
