//! The elementary functions of the softmax, on whole registers.

use std::f32::consts::LOG2_E;

use pulp::Simd;

/// `2^x` for `x <= 127`; 0 below -126 (as for -inf), NaN for NaN. Relative error below 2e-7.
#[inline(always)]
pub(super) fn exp2<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // 2^f on [-1/2, 1/2]: 1 + f times the Chebyshev interpolation of (2^f - 1) / f, degree 5.
    const POLYNOMIAL: [f32; 6] =
        [1.545_316_3e-4, 1.339_086_3e-3, 9.618_083e-3, 5.550_357e-2, 2.402_265e-1, 6.931_472e-1];
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;

    let round = simd.splat_f32s(ROUND);
    let shifted = simd.add_f32s(x, round);
    let f = simd.sub_f32s(x, simd.sub_f32s(shifted, round));
    let mut p = simd.splat_f32s(POLYNOMIAL[0]);
    for c in &POLYNOMIAL[1..] {
        p = simd.mul_add_e_f32s(p, f, simd.splat_f32s(*c));
    }
    let one = simd.splat_f32s(1.0);
    p = simd.mul_add_e_f32s(p, f, one);
    let exponent = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    let power = simd.transmute_f32s_u32s(simd.add_u32s(exponent, simd.transmute_u32s_f32s(one)));
    // A multiplication, not an addition to the exponent bits: it keeps NaN.
    let value = simd.mul_f32s(p, power);
    let underflows = simd.less_than_f32s(x, simd.splat_f32s(-126.0));
    simd.select_f32s(underflows, simd.splat_f32s(0.0), value)
}

/// `tanh(x)`, relative error below 2e-6: a softcap multiplies it by up to the score's own size.
#[inline(always)]
fn tanh<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // From here on tanh rounds to 1 in f32.
    const SATURATED: f32 = 9.1;
    let one = simd.splat_f32s(1.0);
    let e = exp2(simd, simd.mul_f32s(x, simd.splat_f32s(2.0 * LOG2_E)));
    let two_over = simd.div_f32s(simd.splat_f32s(2.0), simd.add_f32s(e, one));
    let value = simd.sub_f32s(one, two_over);
    // That difference loses what is small: Taylor's series there.
    const SMALL: f32 = 0.25;
    const SERIES: [f32; 4] = [62.0 / 2835.0, -17.0 / 315.0, 2.0 / 15.0, -1.0 / 3.0];
    let square = simd.mul_f32s(x, x);
    let mut p = simd.splat_f32s(SERIES[0]);
    for c in SERIES[1..].iter().chain([&1.0]) {
        p = simd.mul_add_e_f32s(p, square, simd.splat_f32s(*c));
    }
    let small = simd.less_than_f32s(simd.abs_f32s(x), simd.splat_f32s(SMALL));
    let value = simd.select_f32s(small, simd.mul_f32s(x, p), value);
    let high = simd.greater_than_f32s(x, simd.splat_f32s(SATURATED));
    let low = simd.less_than_f32s(x, simd.splat_f32s(-SATURATED));
    simd.select_f32s(high, one, simd.select_f32s(low, simd.splat_f32s(-1.0), value))
}

/// How a dot product becomes a weight of the softmax.
#[derive(Clone, Copy)]
pub(super) struct Score {
    /// `(scale / cap, cap)`.
    softcap: Option<(f32, f32)>,
    /// Factor from a (capped) dot product to its score.
    scale: f32,
}

impl Score {
    pub fn new(scale: f32, softcap: Option<f32>) -> Self {
        match softcap {
            None => Self { softcap: None, scale },
            Some(cap) => Self { softcap: Some((scale / cap, cap)), scale: 1.0 },
        }
    }

    /// Applies the softcap, if any; without one the scale is left to [`Self::weight`].
    #[inline(always)]
    pub fn cap<S: Simd>(self, simd: S, dots: &mut [S::f32s]) {
        if let Some((inner, cap)) = self.softcap {
            for s in dots {
                let x = simd.mul_f32s(*s, simd.splat_f32s(inner));
                *s = simd.mul_f32s(simd.splat_f32s(cap), tanh(simd, x));
            }
        }
    }

    /// What is subtracted from every dot product where `max` is the largest: 0 where nothing has
    /// any weight yet, so that no infinities are subtracted from each other.
    #[inline(always)]
    pub fn shift<S: Simd>(self, simd: S, max: S::f32s) -> S::f32s {
        let none = simd.equal_f32s(max, simd.splat_f32s(f32::NEG_INFINITY));
        simd.select_f32s(none, simd.splat_f32s(0.0), max)
    }

    /// `e^(scale * (dot - shift))`: the weight of a key before normalisation.
    ///
    /// The difference comes first: it is never above 0. A fused `scale * dot - scale * shift` is
    /// off by the rounding of the product, which for scores of 1e9 is more than `exp` can take.
    #[inline(always)]
    pub fn weight<S: Simd>(self, simd: S, dot: S::f32s, shift: S::f32s) -> S::f32s {
        let difference = simd.sub_f32s(dot, shift);
        exp2(simd, simd.mul_f32s(difference, simd.splat_f32s(self.scale * LOG2_E)))
    }

    /// The natural-log LSE of weights that add up to `sum`; -inf where there are none.
    #[inline(always)]
    pub fn lse(self, sum: f32, shift: f32) -> f32 {
        self.scale * shift + sum.ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tanh_is_relatively_exact() {
        for i in -4000..=4000i32 {
            let x = (i as f32 / 300.0).powi(3) / 100.0;
            let (got, want) = (f64::from(tanh(pulp::Scalar, x)), f64::from(x).tanh());
            assert!((got - want).abs() <= 2e-6 * want.abs(), "tanh({x}) is {got}, not {want}");
        }
        assert!(tanh(pulp::Scalar, f32::NAN).is_nan());
        assert_eq!((tanh(pulp::Scalar, 1e30), tanh(pulp::Scalar, f32::NEG_INFINITY)), (1.0, -1.0));
    }
}
