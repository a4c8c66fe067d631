//! Compiles `cuda/*.cu` to fatbins, with feature `cuda`.

#[path = "../../build/nvcc.rs"]
mod nvcc;

use nvcc::{Cards, Package};

/// Every kernel is for every card: on Hopper launches overlap, and products use wgmma.
const T5: Package = Package {
    onekv: "../..",
    includes: &["../../cuda"],
    cards: |_| Cards { machine_code: 80..u32::MAX, ptx: Some(80), hopper: true },
};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_some() {
        // driver.rs includes what was made by its name.
        nvcc::end(nvcc::compile_all(&T5).map(drop));
    }
}
