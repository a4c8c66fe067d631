//! Inputs that nobody thought of: what libFuzzer, or the gate's fixed mutations of the corpus, make of bytes.
//!
//! | module | holds |
//! | --- | --- |
//! | `memory` | the allocator that counts, and ends a run that takes more than its target may |
//! | `bytes` | values from bytes: small ones often, the ends of ranges often, all now and then |
//! | `operands` | problems and operands from bytes |
//! | `t5_folder` | a T5 of a few kilobytes |
//! | one for each target | what is promised, and how it is checked |
//! | `replay` | in tests: the corpus of every target, and mutations of it |
//!
//! See the README for how to run them.

mod bytes;
mod c_api;
mod driver;
mod fatbin;
mod memory;
mod operands;
mod plan;
mod problem;
mod ptx;
mod t5_files;
mod t5_folder;
mod t5_requests;

const MIB: usize = 1 << 20;

macro_rules! targets {
    ($($(#[$doc:meta])* $name:ident: $mib:literal MiB),* $(,)?) => {
        $(
            $(#[$doc])*
            pub fn $name(data: &[u8]) {
                memory::bounded($mib * MIB, || $name::run(data));
            }
        )*
        /// Every target by its name, which is also that of its corpus.
        pub const TARGETS: &[(&str, fn(&[u8]))] = &[$((stringify!($name), $name)),*];
    };
}

targets! {
    /// Problems, operands, `cpu::attend`, `merge_states` and e4m3.
    problem: 64 MiB,
    /// Plans, for cards that exist and for others.
    plan: 768 MiB,
    /// The files of a T5's folder.
    t5_files: 256 MiB,
    /// Requests of ids, texts, prompts, the command line.
    t5_requests: 256 MiB,
    /// PTX text: parsed, decoded and, where it is a module, launched.
    ptx: 256 MiB,
    /// Containers of images, packed or not.
    fatbin: 384 MiB,
    /// The virtual GPU's driver, call by call.
    driver: 512 MiB,
    /// The C interface's CPU part.
    c_api: 64 MiB,
}

/// The program of a target: libFuzzer's where it is built for that, else one that runs the files it is given.
#[macro_export]
macro_rules! target {
    ($name:ident) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|data: &[u8]| onekv_fuzz::$name(data));

        #[cfg(not(fuzzing))]
        fn main() -> std::io::Result<()> {
            std::env::args_os().skip(1).try_for_each(|file| Ok(onekv_fuzz::$name(&std::fs::read(file)?)))
        }
    };
}

#[cfg(test)]
mod replay;
