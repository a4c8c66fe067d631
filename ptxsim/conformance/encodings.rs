//! Which tensor maps `cuTensorMapEncodeTiled` takes: one case for each requirement that its text lists, and some that it
//! leaves open.

use cudarc::driver::sys::{
    self, CUresult, CUtensorMapDataType as DataType, CUtensorMapFloatOOBfill as Fill,
    CUtensorMapInterleave as Interleave, CUtensorMapSwizzle as Swizzle,
};
use std::ffi::c_void;

/// The arguments, but for the promotion.
struct Encoding {
    data_type: DataType,
    rank: u32,
    /// From the start of an allocation.
    offset: u64,
    dimensions: [u64; 6],
    strides: [u64; 5],
    box_size: [u32; 6],
    steps: [u32; 6],
    interleave: Interleave,
    swizzle: Swizzle,
    fill: Fill,
}

/// A box of 64 x 64 bf16 in 768 x 512 x ..., 128 bytes swizzled.
fn good() -> Encoding {
    Encoding {
        data_type: DataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        rank: 2,
        offset: 0,
        dimensions: [768, 512, 8, 4, 4, 4],
        strides: [1536, 1536 << 9, 1536 << 12, 1536 << 14, 1536 << 16],
        box_size: [64, 64, 1, 1, 1, 1],
        steps: [1; 6],
        interleave: Interleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
        swizzle: Swizzle::CU_TENSOR_MAP_SWIZZLE_128B,
        fill: Fill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
    }
}

/// What is changed, whether the map is taken then, and the change.
type Case = (&'static str, bool, fn(&mut Encoding));

const U16: DataType = DataType::CU_TENSOR_MAP_DATA_TYPE_UINT16;
const NAN: Fill = Fill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA;
const NONE: Swizzle = Swizzle::CU_TENSOR_MAP_SWIZZLE_NONE;
const BYTES_32: Swizzle = Swizzle::CU_TENSOR_MAP_SWIZZLE_32B;
const BYTES_64: Swizzle = Swizzle::CU_TENSOR_MAP_SWIZZLE_64B;
const BY_16: Interleave = Interleave::CU_TENSOR_MAP_INTERLEAVE_16B;
const BY_32: Interleave = Interleave::CU_TENSOR_MAP_INTERLEAVE_32B;

const CASES: &[Case] = &[
    ("nothing", true, |_| {}),
    ("rank 0", false, |e| e.rank = 0),
    ("rank 1", true, |e| (e.rank, e.box_size[0]) = (1, 64)),
    ("rank 5", true, |e| e.rank = 5),
    ("rank 6", false, |e| e.rank = 6),
    ("address + 8", false, |e| e.offset = 8),
    ("address + 16", true, |e| e.offset = 16),
    ("dimension 0", false, |e| e.dimensions[1] = 0),
    ("dimension 2^32", true, |e| e.dimensions[1] = 1 << 32),
    ("dimension 2^32 + 1", false, |e| e.dimensions[1] = (1 << 32) + 1),
    ("stride + 8", false, |e| e.strides[0] += 8),
    ("stride + 16", true, |e| e.strides[0] += 16),
    ("stride 2^40", false, |e| e.strides[0] = 1 << 40),
    ("stride 2^40 - 16", true, |e| e.strides[0] = (1 << 40) - 16),
    ("stride below the row", true, |e| e.strides[0] = 16),
    ("stride 0", true, |e| e.strides[0] = 0),
    ("box 0", false, |e| e.box_size[1] = 0),
    ("box 256", true, |e| e.box_size[1] = 256),
    ("box 257", false, |e| e.box_size[1] = 257),
    ("inner box 24 bytes", false, |e| e.box_size[0] = 12),
    ("inner box 16 bytes", true, |e| e.box_size[0] = 8),
    ("inner box 144 bytes of 128 swizzled", false, |e| e.box_size[0] = 72),
    ("inner box 80 bytes of 64 swizzled", false, |e| (e.swizzle, e.box_size[0]) = (BYTES_64, 40)),
    ("inner box 48 bytes of 32 swizzled", false, |e| (e.swizzle, e.box_size[0]) = (BYTES_32, 24)),
    ("inner box 512 bytes, no swizzle", true, |e| (e.swizzle, e.box_size[0]) = (NONE, 256)),
    ("box larger than shared memory", true, |e| (e.swizzle, e.box_size) = (NONE, [256; 6])),
    ("box larger than the tensor", true, |e| e.dimensions[1] = 1),
    ("step 0", false, |e| e.steps[1] = 0),
    ("step 8", true, |e| e.steps[1] = 8),
    ("step 9", false, |e| e.steps[1] = 9),
    ("inner step 2", true, |e| e.steps[0] = 2),
    ("inner step 9", false, |e| e.steps[0] = 9),
    ("NaN for floats", true, |e| e.fill = NAN),
    ("NaN for integers", false, |e| (e.data_type, e.fill) = (U16, NAN)),
    ("interleave of 16 bytes, rank 2", false, |e| (e.interleave, e.swizzle) = (BY_16, NONE)),
    ("interleave of 16 bytes, rank 3", true, |e| (e.rank, e.interleave, e.swizzle) = (3, BY_16, NONE)),
    ("interleave of 32 bytes, 32 swizzled", true, |e| {
        (e.rank, e.interleave, e.swizzle) = (3, BY_32, BYTES_32)
    }),
    ("interleave of 32 bytes, 64 swizzled", false, |e| {
        (e.rank, e.interleave, e.swizzle) = (3, BY_32, BYTES_64)
    }),
];

fn is_taken(e: &Encoding, address: u64) -> bool {
    // SAFETY: all-zero bytes are a valid, if meaningless, map: it is 16 integers.
    let mut map: sys::CUtensorMap = unsafe { std::mem::zeroed() };
    // SAFETY: valid pointers to live values: more elements than any rank here; the address is not read.
    let code = unsafe {
        sys::cuTensorMapEncodeTiled(
            &mut map,
            e.data_type,
            e.rank,
            (address + e.offset) as *mut c_void,
            e.dimensions.as_ptr(),
            e.strides.as_ptr(),
            e.box_size.as_ptr(),
            e.steps.as_ptr(),
            e.interleave,
            e.swizzle,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_NONE,
            e.fill,
        )
    };
    code == CUresult::CUDA_SUCCESS
}

/// The cases that the driver takes otherwise than ptxsim.
pub fn differences(address: u64) -> Vec<String> {
    let differs = |(name, taken, change): &Case| {
        let mut encoding = good();
        change(&mut encoding);
        let word = |taken: bool| if taken { "taken" } else { "refused" };
        let found = is_taken(&encoding, address);
        (found != *taken).then(|| format!("{name} {}, by ptxsim {}", word(found), word(*taken)))
    };
    CASES.iter().filter_map(differs).collect()
}
