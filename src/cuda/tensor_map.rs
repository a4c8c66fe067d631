//! Maps of K and V for the copy engine.

use std::mem::MaybeUninit;

use cudarc::driver::sys::{self, CUdeviceptr};

use super::kernels::cuda;
use crate::dtype::DType;
use crate::error::Result;
use crate::problem::{Extent, Strides};

/// Elements of a panel: 128 bytes, what one swizzle spans.
const PANEL: usize = 64;

/// The 16-bit tensor `[tokens, heads, vector]` at `address`, cut into boxes of `box_tokens` vectors of one head, of which
/// each has `box_panels` panels of 64 elements. A box comes as `[box_panels, box_tokens, 64]`, swizzled by 128 bytes.
/// Positions behind the last token read as zeros.
///
/// # Errors
/// [`Error::Cuda`](crate::Error::Cuda) with the driver's answer.
pub(super) fn boxes_of_tokens(
    dtype: DType,
    address: CUdeviceptr,
    extent: Extent,
    strides: Strides,
    (box_tokens, box_panels): (usize, usize),
) -> Result<sys::CUtensorMap> {
    let data_type = match dtype {
        DType::Bf16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        _ => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
    };
    let size = dtype.size_bytes();
    // A stride that is never taken may be anything; the driver wants a multiple of 16.
    let taken = |stride: usize, count: usize| if count > 1 { stride * size } else { PANEL * size };
    let dimensions = [PANEL, extent.tokens, extent.vector / PANEL, extent.heads].map(|n| n as u64);
    let steps = [taken(strides.row, extent.tokens), PANEL * size, taken(strides.head, extent.heads)]
        .map(|n| n as u64);
    let box_size = [PANEL, box_tokens, box_panels, 1].map(|n| n as u32);
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
            sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
        .result()
        .map_err(cuda("describing K and V to the copy engine"))?;
        Ok(map.assume_init())
    }
}
