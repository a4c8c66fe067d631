//! Functions of a warp's registers, lane by lane, by the host's vector instructions.

use pulp::{Arch, Simd, WithSimd};

use super::{Lanes, NAN32, Value, WARP};

/// A result of f32 arithmetic: a NaN is the canonical one.
#[derive(Clone, Copy)]
pub struct Single(pub f32);

impl Value for Single {
    #[inline(always)]
    fn get(bits: u64) -> Self {
        Self(f32::get(bits))
    }
    #[inline(always)]
    fn put(self) -> u64 {
        if self.0.is_nan() { NAN32.into() } else { self.0.put() }
    }
}

/// A function for each lane, compiled for the host's vector instructions too.
struct Lanewise<'l, const N: usize, F> {
    sources: [&'l Lanes; N],
    out: &'l mut Lanes,
    f: F,
}

impl<const N: usize, F: Fn([u64; N]) -> u64> WithSimd for Lanewise<'_, N, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for lane in 0..WARP {
            self.out[lane] = (self.f)(self.sources.map(|source| source[lane]));
        }
    }
}

/// Puts `f` of each lane's sources into `out`.
#[inline(always)]
pub fn lanewise<const N: usize>(
    arch: Arch,
    sources: [&Lanes; N],
    out: &mut Lanes,
    f: impl Fn([u64; N]) -> u64,
) {
    arch.dispatch(Lanewise { sources, out, f });
}

struct Lanemask<'l, F> {
    a: &'l Lanes,
    b: &'l Lanes,
    f: F,
}

impl<F: Fn(u64, u64) -> bool> WithSimd for Lanemask<'_, F> {
    type Output = u32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> u32 {
        (0..WARP).fold(0, |mask, lane| mask | u32::from((self.f)(self.a[lane], self.b[lane])) << lane)
    }
}

/// The lanes for which `f` holds.
#[inline(always)]
pub fn lanemask(arch: Arch, a: &Lanes, b: &Lanes, f: impl Fn(u64, u64) -> bool) -> u32 {
    arch.dispatch(Lanemask { a, b, f })
}

/// The lanes of a mask for which `f` holds.
#[inline]
pub fn lanes_where(mask: u32, f: impl Fn(usize) -> bool) -> u32 {
    lanes_of(mask).fold(0, |held, lane| held | u32::from(f(lane)) << lane)
}

/// The lanes of a mask, in order.
pub fn lanes_of(mask: u32) -> impl Iterator<Item = usize> + Clone {
    let mut rest = mask;
    std::iter::from_fn(move || {
        (rest != 0).then(|| {
            let lane = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            lane
        })
    })
}
