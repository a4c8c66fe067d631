//! A card, operands on it, and the comparison with a reference.

use half::{bf16, f16};
use onekv::DType;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::arguments::{Dtype, Products};
use crate::backend::cuda::Cuda;
use crate::backend::cuda::kernels::Matrix;
use crate::backend::cuda::rows::Bias;
use crate::config::Activation;

pub const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::Bf16];

pub const ACTIVATIONS: [Activation; 4] =
    [Activation::Relu, Activation::Gelu, Activation::GeluTanh, Activation::Silu];

/// The types that these products are of.
pub fn dtypes(products: Products) -> &'static [DType] {
    match products {
        Products::Cublaslt => &DTYPES,
        Products::Own => &DTYPES[1..],
    }
}

/// The machine's card with cublasLt, in f32, if it has both; with `ONEKV_REQUIRE_CUDA` it must have a card, and with
/// `ONEKV_REQUIRE_CUBLASLT` that library. Where that is `stand-in`, it must be the stand-in.
pub fn card() -> Option<Cuda> {
    open(Dtype::F32, Products::Cublaslt)
}

/// Its card with Hopper's own products, in bf16, if it is a Hopper.
pub fn hopper() -> Option<Cuda> {
    open(Dtype::Bf16, Products::Own)
}

/// Both ways to compute matrix products, as far as the machine has them.
pub fn cards() -> impl Iterator<Item = (Products, Cuda)> {
    let own = hopper().map(|cuda| (Products::Own, cuda));
    own.into_iter().chain(card().map(|cuda| (Products::Cublaslt, cuda)))
}

fn open(dtype: Dtype, products: Products) -> Option<Cuda> {
    let error = match opened(dtype, products) {
        Ok(cuda) => return Some(cuda),
        Err(error) => format!("{error:#}"),
    };
    let no_library = error.contains("libcublasLt was not found");
    let required = if no_library { "ONEKV_REQUIRE_CUBLASLT" } else { "ONEKV_REQUIRE_CUDA" };
    let not_hopper = error.contains("own is for bf16 and f16 on Hopper");
    assert!(not_hopper || std::env::var_os(required).is_none(), "CUDA is required: {error}");
    println!("T5 on CUDA with {products:?} is not tested: {error}");
    None
}

/// cudarc waits for the whole context when that gets its first stream, which the driver refuses while another test records.
fn opened(dtype: Dtype, products: Products) -> anyhow::Result<Cuda> {
    let mut tries = 0;
    loop {
        match Cuda::open(Some(dtype), Some(products)) {
            Err(error) if format!("{error:#}").contains("STREAM_CAPTURE_UNSUPPORTED") && tries < 6000 => {
                tries += 1;
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            opened => return opened,
        }
    }
}

/// The tests' stand-in for cublasLt (ptxsim/cublaslt); what it counts and does is this thread's.
pub struct StandIn {
    queries: extern "C" fn() -> u64,
    alive: extern "C" fn() -> u64,
    fail: extern "C" fn(u32) -> u32,
}

/// The stand-in, where it is what this machine has for cublasLt.
pub fn stand_in() -> Option<StandIn> {
    card()?;
    // SAFETY: the library was loaded when the card was opened; this handle to it is leaked, so that its functions stay. The
    // stand-in's have these types, and NVIDIA's library has none of their names.
    let found = unsafe {
        libloading::Library::new("libcublasLt.so").ok().and_then(|library| {
            let library: &'static libloading::Library = Box::leak(Box::new(library));
            let count = |name: &[u8]| library.get(name).ok().map(|function| *function);
            Some(StandIn {
                queries: count(b"stand_in_queries\0")?,
                alive: count(b"stand_in_alive\0")?,
                fail: library.get(b"stand_in_fail\0").ok().map(|function| *function)?,
            })
        })
    };
    let required = std::env::var("ONEKV_REQUIRE_CUBLASLT").is_ok_and(|x| x == "stand-in");
    assert!(found.is_some() || !required, "the stand-in for cublasLt is required");
    if found.is_none() {
        println!("this machine has NVIDIA's cublasLt: its failures are not tested");
    }
    found
}

impl StandIn {
    /// Searches for an algorithm so far.
    pub fn queries(&self) -> u64 {
        (self.queries)()
    }

    /// Handles and descriptors that nobody has destroyed yet.
    pub fn alive(&self) -> u64 {
        (self.alive)()
    }

    /// Makes calls fail: 0 none, 1 creation, 2 the search for an algorithm, 3 products.
    pub fn fail(&self, what: u32) {
        (self.fail)(what);
    }
}

/// The nearest value of a type.
fn rounded(x: f32, dtype: DType) -> f32 {
    match dtype {
        DType::F16 => f16::from_f32(x).to_f32(),
        DType::Bf16 => bf16::from_f32(x).to_f32(),
        _ => x,
    }
}

/// One rounding to a type.
pub fn unit(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 2f64.powi(-11),
        DType::Bf16 => 2f64.powi(-8),
        _ => 2f64.powi(-24),
    }
}

/// Values of a type between `-magnitude` and `magnitude`.
pub fn noise(seed: u64, len: usize, magnitude: f32, dtype: DType) -> Vec<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..len).map(|_| rounded(rng.random_range(-magnitude..magnitude), dtype)).collect()
}

/// A matrix of these values.
pub fn matrix(cuda: &mut Cuda, values: &[f32], rows: usize, cols: usize, dtype: DType) -> Matrix {
    assert!(values.len() >= rows * cols);
    cuda.dtype = dtype;
    Matrix { data: cuda.upload(values).unwrap(), rows, cols, dtype, squares: None }
}

pub fn bias(cuda: &Cuda, values: &[f32], heads: usize, zero: usize) -> Bias {
    Bias { data: cuda.pool.upload(values).unwrap(), heads, span: values.len() / heads, zero }
}

/// A result to be: poison, and a row of it behind the end.
pub fn poisoned(cuda: &mut Cuda, rows: usize, cols: usize, dtype: DType) -> Matrix {
    matrix(cuda, &vec![f32::NAN; (rows + 1) * cols], rows, cols, dtype)
}

/// The elements of a matrix that [`poisoned`] made; everything behind them must still be poison.
pub fn result(cuda: &Cuda, x: &Matrix) -> Vec<f32> {
    let len = (x.rows + 1) * x.cols;
    let mut all = cuda.pool.download_as(&x.data, len, x.dtype).unwrap();
    let behind = all.split_off(x.rows * x.cols);
    assert!(behind.iter().all(|x| x.is_nan()), "something was written behind the result");
    all
}

/// Every element within `tolerance` of the reference, relative to the larger of it and `least`.
#[track_caller]
pub fn assert_close(what: &str, got: &[f32], want: &[f64], tolerance: f64, least: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(*got) - want).abs();
        // Also for NaN.
        let close = error <= tolerance * want.abs().max(least);
        assert!(close, "{what}: element {i} is {got}, the reference has {want}");
    }
}
