//! A module on a card, its memory, and typed copies.
#![allow(dead_code, reason = "every test binary uses a part")]

pub mod fragments;
pub mod kernel;
pub mod rows;

use half::bf16;
use ptxsim::{
    Card, Checks, Counters, Fault, GlobalMemory, LaunchConfig, LaunchError, Module, Options, TensorMap,
};

pub struct Gpu {
    pub memory: GlobalMemory,
    pub module: Module,
    pub options: Options,
}

/// Types that kernels take as arguments.
pub trait Argument {
    fn bytes(&self) -> Vec<u8>;
}

macro_rules! arguments {
    ($($t:ty),*) => {$(
        impl Argument for $t {
            fn bytes(&self) -> Vec<u8> { self.to_le_bytes().to_vec() }
        }
    )*};
}
arguments!(u32, i32, f32, u64);

impl Argument for [u8; 128] {
    fn bytes(&self) -> Vec<u8> {
        self.to_vec()
    }
}

impl Gpu {
    pub fn new(card: &str, ptx: &str) -> Self {
        let card = Card::by_name(card).unwrap();
        let memory = GlobalMemory::new(card.memory_bytes);
        let module = Module::load(ptx, card, &memory).unwrap_or_else(|e| panic!("{e}"));
        Self { memory, module, options: Options { checks: Checks::ALL, ..Options::default() } }
    }

    pub fn upload<T: Copy>(&self, data: &[T], bytes: impl Fn(T) -> Vec<u8>) -> u64 {
        let all: Vec<u8> = data.iter().flat_map(|x| bytes(*x)).collect();
        let at = self.memory.allocate(all.len() as u64).unwrap();
        self.memory.write(at, &all).unwrap();
        at
    }

    pub fn floats(&self, data: &[f32]) -> u64 {
        self.upload(data, |x| x.to_le_bytes().to_vec())
    }

    pub fn ints(&self, data: &[u32]) -> u64 {
        self.upload(data, |x| x.to_le_bytes().to_vec())
    }

    pub fn halves(&self, data: &[bf16]) -> u64 {
        self.upload(data, |x| x.to_le_bytes().to_vec())
    }

    pub fn space(&self, bytes: u64) -> u64 {
        self.memory.allocate(bytes).unwrap()
    }

    pub fn read_ints(&self, at: u64, count: usize) -> Vec<u32> {
        let mut bytes = vec![0; 4 * count];
        self.memory.read(at, &mut bytes).unwrap();
        bytes.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect()
    }

    pub fn read_floats(&self, at: u64, count: usize) -> Vec<f32> {
        self.read_ints(at, count).into_iter().map(f32::from_bits).collect()
    }

    /// Launches with arguments placed as the kernel's parameters are.
    pub fn launch(
        &self,
        kernel: &str,
        config: &LaunchConfig,
        arguments: &[&dyn Argument],
    ) -> Result<Counters, LaunchError> {
        let facts = self.module.facts(kernel)?;
        let mut parameters = vec![0; facts.parameter_bytes];
        assert_eq!(arguments.len(), facts.parameters.len());
        for (argument, place) in arguments.iter().zip(&facts.parameters) {
            let bytes = argument.bytes();
            assert_eq!(bytes.len(), place.bytes, "argument of `{kernel}`");
            parameters[place.offset..place.offset + place.bytes].copy_from_slice(&bytes);
        }
        self.module.launch(kernel, config, &parameters, &self.memory, self.options)
    }

    /// A launch that must succeed.
    pub fn run(&self, kernel: &str, config: &LaunchConfig, arguments: &[&dyn Argument]) -> Counters {
        self.launch(kernel, config, arguments).unwrap_or_else(|e| panic!("{e}"))
    }

    /// A launch that may fail a check.
    pub fn try_run(
        &self,
        kernel: &str,
        config: &LaunchConfig,
        arguments: &[&dyn Argument],
    ) -> Result<Counters, Fault> {
        self.launch(kernel, config, arguments).map_err(|error| match error {
            LaunchError::Fault(fault) => *fault,
            other => panic!("`{kernel}`: {other}"),
        })
    }

    /// A launch that must fail a check.
    pub fn fault(&self, kernel: &str, config: &LaunchConfig, arguments: &[&dyn Argument]) -> Fault {
        match self.try_run(kernel, config, arguments) {
            Err(fault) => fault,
            Ok(_) => panic!("`{kernel}` did not fail"),
        }
    }
}

pub fn config(grid: u32, block: u32) -> LaunchConfig {
    LaunchConfig::new([grid, 1, 1], [block, 1, 1])
}

/// Numbers in -1..1 that do not repeat soon.
pub fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(step).collect()
}

/// The same as bf16.
pub fn halves(n: usize, seed: u64) -> Vec<bf16> {
    noise(n, seed).into_iter().map(bf16::from_f32).collect()
}

/// A map of a tensor whose rows follow each other without gaps; no swizzle, zeros out of bounds.
pub fn tensor_map(data_type: u8, address: u64, dimensions: &[u64], box_size: &[u32]) -> TensorMap {
    let mut map = TensorMap {
        data_type,
        address,
        dimensions: dimensions.to_vec(),
        strides: Vec::new(),
        box_size: box_size.to_vec(),
        element_strides: vec![1; dimensions.len()],
        interleave: 0,
        swizzle: 0,
        promotion: 0,
        fill: 0,
    };
    let stride = |d: usize| dimensions[..d].iter().product::<u64>() * u64::from(map.element_bytes());
    map.strides = (1..dimensions.len()).map(stride).collect();
    map
}
