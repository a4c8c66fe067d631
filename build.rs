//! Compiles `cuda/**/*.cu` to fatbins, with feature `cuda`, and lists them for the library.

#[path = "build/nvcc.rs"]
mod nvcc;

use std::env;
use std::fmt::Write as _;
use std::path::Path;

use nvcc::{Cards, Made, Package, Result};

/// The bindings that feature `cuda-13000` chooses.
const BINDINGS: &str = "13000";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_some() {
        nvcc::end(kernels());
    }
}

fn kernels() -> Result<()> {
    // docs.rs has no CUDA compiler, and runs nothing.
    println!("cargo:rerun-if-env-changed=DOCS_RS");
    if env::var_os("DOCS_RS").is_some() {
        println!("cargo::warning=DOCS_RS is set: no kernels are compiled");
        return list(&Made { names: Vec::new(), release: (0, 0), compressed: false, archs: Vec::new() });
    }
    one_version_of_bindings()?;
    list(&nvcc::compile_all(&Package { onekv: "", includes: &[], cards })?)
}

/// What the kernels of a folder are compiled for: as `Architecture` in src/architecture.rs says.
fn cards(folder: &str) -> Cards {
    let (machine_code, ptx) = match folder {
        "sm90" => (90..120, Some(90)),
        "sm90a" => (0..0, None),
        // Also by compilers that do not know these cards.
        "sm120" => (120..u32::MAX, Some(90)),
        _ => (80..u32::MAX, Some(80)),
    };
    Cards { machine_code, ptx, hopper: folder == "sm90a" }
}

/// cudarc compiles with one version of CUDA's interface: its errors, a thousand of them, do not say so.
fn one_version_of_bindings() -> Result<()> {
    println!("cargo:rerun-if-env-changed=CUDARC_CUDA_VERSION");
    let named = env::var("CUDARC_CUDA_VERSION").ok().filter(|version| version != BINDINGS);
    match named {
        Some(version) if env::var_os("CARGO_FEATURE_CUDA_13000").is_some() => Err(format!(
            "CUDARC_CUDA_VERSION is {version}, but onekv's default feature `cuda-13000` names {BINDINGS}: unset it, or \
             build onekv with `default-features = false`"
        )
        .into()),
        _ => Ok(()),
    }
}

/// Writes the library's table of kernels, and what a driver must be to load them.
fn list(made: &Made) -> Result<()> {
    let Made { names, release, compressed, archs } = made;
    let mut list = String::from(
        "/// Every fatbin: name and contents.\npub(super) static FATBINS: &[(&str, &[u8])] = &[\n",
    );
    for name in names {
        writeln!(list, "    ({name:?}, include_bytes!(\"{name}.fatbin\")),")?;
    }
    write!(
        list,
        "];\n/// Who made them, and for what.\nconst MADE: Made = Made {{ toolkit: {release:?}, compressed: {compressed}, \
         machine_code: &{archs:?} }};\n"
    )?;
    std::fs::write(Path::new(&env::var("OUT_DIR")?).join("fatbins.rs"), list)?;
    Ok(())
}
