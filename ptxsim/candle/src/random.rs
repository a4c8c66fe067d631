//! cuRAND: numbers that follow from the seed, drawn on the host and copied on the generator's stream. They are not the
//! numbers that cuRAND draws; the distributions are its.

use std::collections::BTreeMap;
use std::ffi::{c_int, c_uint, c_ulonglong, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys;

use crate::SUCCESS;

/// Codes of the library: no such generator, no such kind of generator, an odd number of normally distributed values, a copy
/// that failed.
const NOT_INITIALIZED: c_uint = 101;
const TYPE_ERROR: c_uint = 103;
const LENGTH_NOT_MULTIPLE: c_uint = 105;
const LAUNCH_FAILURE: c_uint = 201;

/// Kinds of generators that draw pseudo-random numbers.
const PSEUDO_RANDOM: std::ops::Range<c_int> = 100..200;

/// A generator: its seed, how many numbers it has drawn, and its stream.
#[derive(Clone, Copy, Default)]
struct Generator {
    seed: u64,
    drawn: u64,
    stream: usize,
}

impl Generator {
    /// 64 random bits: SplitMix64.
    fn bits(&mut self) -> u64 {
        self.drawn += 1;
        let mut mixed = self.seed.wrapping_add(self.drawn.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Above 0, up to and with 1, as the library has them; so many bits of it are random.
    fn uniform(&mut self, bits: u32) -> f64 {
        ((self.bits() >> (64 - bits)) + 1) as f64 / (1u64 << bits) as f64
    }

    /// Two normally distributed numbers: Box and Muller's.
    fn normal(&mut self, mean: f64, deviation: f64) -> [f64; 2] {
        let (radius, angle) =
            ((-2.0 * self.uniform(53).ln()).sqrt(), std::f64::consts::TAU * self.uniform(53));
        [angle.cos(), angle.sin()].map(|part| mean + deviation * radius * part)
    }
}

/// The generators, by their handles: small numbers, never addresses.
static GENERATORS: Mutex<BTreeMap<usize, Generator>> = Mutex::new(BTreeMap::new());

fn generators() -> MutexGuard<'static, BTreeMap<usize, Generator>> {
    GENERATORS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does something with a generator.
fn with(generator: *mut c_void, body: impl FnOnce(&mut Generator) -> c_uint) -> c_uint {
    generators().get_mut(&generator.addr()).map_or(NOT_INITIALIZED, body)
}

/// Copies numbers to the device. They are taken when the call is made: they lie in pageable memory.
fn copy<T>(generator: &Generator, to: *mut T, numbers: &[T]) -> c_uint {
    let stream = std::ptr::without_provenance_mut(generator.stream);
    // SAFETY: the source is a live slice of so many bytes; the driver checks where they go, and the stream.
    let copied = unsafe {
        sys::cuMemcpyHtoDAsync_v2(to.addr() as u64, numbers.as_ptr().cast(), size_of_val(numbers), stream)
    };
    if copied == sys::CUresult::CUDA_SUCCESS { SUCCESS } else { LAUNCH_FAILURE }
}

/// # Safety
/// `generator` is where a pointer can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn curandCreateGenerator(generator: *mut *mut c_void, kind: c_int) -> c_uint {
    if !PSEUDO_RANDOM.contains(&kind) {
        return TYPE_ERROR;
    }
    let mut generators = generators();
    let handle = generators.last_key_value().map_or(1, |(last, _)| last + 1);
    generators.insert(handle, Generator::default());
    // SAFETY: by the caller's contract.
    unsafe { generator.write(std::ptr::without_provenance_mut(handle)) };
    SUCCESS
}

/// Forgets a generator.
#[unsafe(no_mangle)]
pub extern "C" fn curandDestroyGenerator(generator: *mut c_void) -> c_uint {
    generators().remove(&generator.addr()).map_or(NOT_INITIALIZED, |_| SUCCESS)
}

/// Starts a generator's numbers anew, from a seed.
#[unsafe(no_mangle)]
pub extern "C" fn curandSetPseudoRandomGeneratorSeed(generator: *mut c_void, seed: c_ulonglong) -> c_uint {
    with(generator, |generator| {
        (generator.seed, generator.drawn) = (seed, 0);
        SUCCESS
    })
}

/// Sets the stream that numbers are copied on.
#[unsafe(no_mangle)]
pub extern "C" fn curandSetStream(generator: *mut c_void, stream: *mut c_void) -> c_uint {
    with(generator, |generator| {
        generator.stream = stream.addr();
        SUCCESS
    })
}

/// Draws numbers above 0, up to and with 1.
#[unsafe(no_mangle)]
pub extern "C" fn curandGenerateUniform(generator: *mut c_void, to: *mut f32, count: usize) -> c_uint {
    with(generator, |generator| {
        let numbers: Vec<f32> = (0..count).map(|_| generator.uniform(24) as f32).collect();
        copy(generator, to, &numbers)
    })
}

/// Draws numbers above 0, up to and with 1.
#[unsafe(no_mangle)]
pub extern "C" fn curandGenerateUniformDouble(generator: *mut c_void, to: *mut f64, count: usize) -> c_uint {
    with(generator, |generator| {
        let numbers: Vec<f64> = (0..count).map(|_| generator.uniform(53)).collect();
        copy(generator, to, &numbers)
    })
}

/// Draws normally distributed numbers, an even count as the library asks of pseudo-random generators.
#[unsafe(no_mangle)]
pub extern "C" fn curandGenerateNormal(
    generator: *mut c_void,
    to: *mut f32,
    count: usize,
    mean: f32,
    deviation: f32,
) -> c_uint {
    normal(generator, count, (mean.into(), deviation.into()), |generator, numbers| {
        let numbers: Vec<f32> = numbers.iter().map(|number| *number as f32).collect();
        copy(generator, to, &numbers)
    })
}

/// Draws normally distributed numbers, an even count as the library asks of pseudo-random generators.
#[unsafe(no_mangle)]
pub extern "C" fn curandGenerateNormalDouble(
    generator: *mut c_void,
    to: *mut f64,
    count: usize,
    mean: f64,
    deviation: f64,
) -> c_uint {
    normal(generator, count, (mean, deviation), |generator, numbers| copy(generator, to, numbers))
}

fn normal(
    generator: *mut c_void,
    count: usize,
    (mean, deviation): (f64, f64),
    copy: impl FnOnce(&Generator, &[f64]) -> c_uint,
) -> c_uint {
    if !count.is_multiple_of(2) {
        return LENGTH_NOT_MULTIPLE;
    }
    with(generator, |generator| {
        let numbers: Vec<f64> = (0..count / 2).flat_map(|_| generator.normal(mean, deviation)).collect();
        copy(generator, &numbers)
    })
}
