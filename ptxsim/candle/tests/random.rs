//! Numbers that the stand-in for cuRAND draws into a virtual card's memory.

#[path = "../../driver/tests/support/mod.rs"]
mod support;

use candle_stand_ins::random::*;
use cudarc::driver::sys;
use std::ffi::c_void;
use std::ptr::null_mut;
use support::in_child;
use support::raw::Card;

const COUNT: usize = 40_000;

/// A generator with a seed, and what it draws `COUNT` of.
fn drawn<T: Copy + Default + Into<f64>>(
    seed: u64,
    draw: impl FnOnce(*mut c_void, *mut T) -> u32,
) -> Vec<f64> {
    let (mut generator, mut device) = (null_mut(), 0);
    let mut host = vec![T::default(); COUNT];
    // SAFETY: valid pointers and handles.
    unsafe {
        assert_eq!(curandCreateGenerator(&mut generator, 100), 0);
        assert_eq!(curandSetPseudoRandomGeneratorSeed(generator, seed), 0);
        sys::cuMemAlloc_v2(&mut device, size_of_val(&*host)).result().unwrap();
        assert_eq!(draw(generator, std::ptr::without_provenance_mut(device as usize)), 0);
        sys::cuMemcpyDtoH_v2(host.as_mut_ptr().cast(), device, size_of_val(&*host)).result().unwrap();
    }
    host.into_iter().map(Into::into).collect()
}

/// Mean and standard deviation, within five standard errors: of the mean s / sqrt(n); of the deviation at most that, as both
/// distributions have tails no heavier than the normal one's.
fn check(numbers: &[f64], mean: f64, deviation: f64) {
    let count = numbers.len() as f64;
    let found = numbers.iter().sum::<f64>() / count;
    let variance = numbers.iter().map(|x| (x - found).powi(2)).sum::<f64>() / count;
    let error = 5.0 * deviation / count.sqrt();
    assert!((found - mean).abs() < error, "mean {found}, expected {mean} within {error}");
    assert!(
        (variance.sqrt() - deviation).abs() < error,
        "deviation {}, expected {deviation}",
        variance.sqrt()
    );
}

#[test]
fn numbers_follow_from_the_seed_and_have_their_distribution() {
    in_child("numbers_follow_from_the_seed_and_have_their_distribution", &[], || {
        let _card = Card::new(0);
        let sets = |seed| {
            [
                drawn(seed, |generator, to| curandGenerateNormal(generator, to, COUNT, 3.0, 0.5)),
                drawn(seed, |generator, to| curandGenerateNormalDouble(generator, to, COUNT, 3.0, 0.5)),
                drawn(seed, |generator, to| curandGenerateUniform(generator, to, COUNT)),
                drawn(seed, |generator, to| curandGenerateUniformDouble(generator, to, COUNT)),
            ]
        };
        let [first, again, other] = [7, 7, 8].map(sets);
        assert_eq!(first, again);
        for (first, other) in first.iter().zip(&other) {
            assert!(first.iter().zip(other).filter(|(a, b)| a == b).count() < COUNT / 100, "another seed");
            assert!(first[..COUNT / 2] != first[COUNT / 2..], "numbers do not come again");
        }
        let [a, b, c, d] = first;
        [a, b].iter().for_each(|numbers| check(numbers, 3.0, 0.5));
        for numbers in [c, d] {
            check(&numbers, 0.5, (1.0f64 / 12.0).sqrt());
            assert!(numbers.iter().all(|x| 0.0 < *x && *x <= 1.0));
        }
    });
}

/// Numbers are copied on the generator's stream: without a wait for it they are not there.
#[test]
fn numbers_come_on_the_generator_s_stream() {
    in_child("numbers_come_on_the_generator_s_stream", &[], || {
        let card = Card::new(0);
        let (stream, words) = (card.stream(), card.words());
        let to: *mut f32 = std::ptr::without_provenance_mut(words as usize);
        let mut generator = null_mut();
        // SAFETY: valid pointers and handles.
        unsafe {
            assert_eq!(curandCreateGenerator(&mut generator, 200), 103, "no such kind");
            assert_eq!(curandCreateGenerator(&mut generator, 100), 0);
            assert_eq!(curandSetStream(generator, stream.cast()), 0);
            assert_eq!(curandGenerateUniform(generator, to, 64), 0);
            assert_eq!(sys::cuStreamQuery(stream), sys::CUresult::CUDA_ERROR_NOT_READY);
            assert_eq!(sys::cuStreamSynchronize(stream), sys::CUresult::CUDA_SUCCESS);
            assert_eq!(curandGenerateNormal(generator, to, 63, 0.0, 1.0), 105, "an odd count");
            assert_eq!(curandGenerateUniform(generator, null_mut(), 64), 201, "no memory there");
            assert_eq!(curandGenerateUniform(null_mut(), to, 64), 101, "no generator");
        }
    });
}
