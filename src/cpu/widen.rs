//! Elements of any type as registers of f32.

use bytemuck::cast_slice;
use pulp::Simd;

use crate::dtype::{DType, Element};

/// As many elements as a register has lanes.
#[inline(always)]
pub(super) fn register<S: Simd, E: Element>(simd: S, elements: &[E]) -> S::f32s {
    match E::DTYPE {
        DType::F32 => S::as_simd_f32s(cast_slice(elements)).0[0],
        DType::Bf16 => {
            let bits = zero_extended(simd, cast_slice(elements));
            simd.transmute_f32s_u32s(simd.wrapping_dyn_shl_u32s(bits, simd.splat_u32s(16)))
        }
        DType::F16 => f16s(simd, cast_slice(elements)),
    }
}

/// Converts `src` into `dst`, which is as long.
#[inline(always)]
pub(super) fn widen<S: Simd, E: Element>(simd: S, src: &[E], dst: &mut [f32]) {
    // Several registers at a time: to count takes as long as a register does.
    const AT_ONCE: usize = 4;
    let lanes = S::F32_LANES;
    let (registers, tail) = S::as_mut_simd_f32s(dst);
    let (src, tail_src) = src.split_at(registers.len() * lanes);
    for (registers, src) in registers.chunks_mut(AT_ONCE).zip(src.chunks(AT_ONCE * lanes)) {
        if let Ok(registers) = <&mut [_; AT_ONCE]>::try_from(&mut *registers) {
            let src = &src[..AT_ONCE * lanes];
            for (i, to) in registers.iter_mut().enumerate() {
                *to = register(simd, &src[i * lanes..][..lanes]);
            }
        } else {
            for (to, src) in registers.iter_mut().zip(src.chunks_exact(lanes)) {
                *to = register(simd, src);
            }
        }
    }
    tail.iter_mut().zip(tail_src).for_each(|(to, from)| *to = from.to_f32());
}

/// binary16 by its bits.
#[inline(always)]
fn f16s<S: Simd>(simd: S, halves: &[u16]) -> S::f32s {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = x86::v4(simd) {
        let halves = bytemuck::pod_read_unaligned(cast_slice(halves));
        return bytemuck::cast(simd.avx512f._mm512_cvtph_ps(halves));
    }
    // Exponent and mantissa moved to where f32 has them mean 2^-112 of the number, subnormal or not.
    const POWER: f32 = f32::from_bits((127 + 112) << 23);
    let bits = zero_extended(simd, halves);
    let sign = simd.wrapping_dyn_shl_u32s(simd.and_u32s(bits, simd.splat_u32s(0x8000)), simd.splat_u32s(16));
    let magnitude =
        simd.wrapping_dyn_shl_u32s(simd.and_u32s(bits, simd.splat_u32s(0x7fff)), simd.splat_u32s(13));
    let number = simd.mul_f32s(simd.transmute_f32s_u32s(magnitude), simd.splat_f32s(POWER));
    // Infinity, and NaN with what tells it from infinity.
    let beyond = simd.greater_than_or_equal_f32s(number, simd.splat_f32s(65536.0));
    let exponent = simd.select_u32s(beyond, simd.splat_u32s(0x7f80_0000), simd.splat_u32s(0));
    let number = simd.or_u32s(simd.transmute_u32s_f32s(number), exponent);
    simd.transmute_f32s_u32s(simd.or_u32s(number, sign))
}

/// As many as a register has lanes.
#[inline(always)]
fn zero_extended<S: Simd>(simd: S, halves: &[u16]) -> S::u32s {
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(simd) = x86::v4(simd) {
            let halves = bytemuck::pod_read_unaligned(cast_slice(halves));
            return bytemuck::cast(simd.avx512f._mm512_cvtepu16_epi32(halves));
        }
        if let Some(simd) = x86::v3(simd) {
            let halves = bytemuck::pod_read_unaligned(cast_slice(halves));
            return bytemuck::cast(simd.avx2._mm256_cvtepu16_epi32(halves));
        }
    }
    let _ = simd;
    let mut wide = [0; 16];
    for (wide, half) in wide[..S::U32_LANES].iter_mut().zip(halves) {
        *wide = u32::from(*half);
    }
    S::as_simd_u32s(&wide).0[0]
}

/// Instructions that pulp has for these alone.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::any::Any;

    use pulp::Simd;
    use pulp::x86::{V3, V4};

    #[inline(always)]
    pub fn v3<S: Simd>(simd: S) -> Option<V3> {
        (&simd as &dyn Any).downcast_ref().copied()
    }

    #[inline(always)]
    pub fn v4<S: Simd>(simd: S) -> Option<V4> {
        (&simd as &dyn Any).downcast_ref().copied()
    }
}
