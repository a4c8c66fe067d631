//! A module on a card, its memory, and typed copies.
#![allow(dead_code, reason = "every test binary uses a part")]

pub mod fragments;
pub mod kernel;
pub mod rows;

use ptxsim::{Card, Checks, Counters, Fault, GlobalMemory, LaunchConfig, LaunchError, Module, Options};

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

    pub fn halves(&self, data: &[half::bf16]) -> u64 {
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

    /// A launch that must fail a check.
    pub fn fault(&self, kernel: &str, config: &LaunchConfig, arguments: &[&dyn Argument]) -> Fault {
        match self.launch(kernel, config, arguments) {
            Err(LaunchError::Fault(fault)) => *fault,
            Err(other) => panic!("`{kernel}`: {other}"),
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
