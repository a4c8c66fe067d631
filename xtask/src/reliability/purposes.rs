//! What each dependency is for: whoever adds one says so here, and whoever reads the list need not guess.

/// Of the library's and of what is built beside it, without tests' own; by name.
pub const PURPOSES: &[(&str, &str)] = &[
    ("anyhow", "errors of programs: T5, the tools"),
    ("bindgen", "cuda/abi.h as Rust; the tools alone"),
    ("bytemuck", "elements of tensors as numbers of other widths, without unsafe code"),
    ("candle-core", "candle's tensors; features `candle`, `candle-cuda`"),
    ("candle-nn", "the T5 on candle"),
    ("candle-transformers", "the T5 on candle"),
    ("cbindgen", "the C header; the tools alone"),
    ("cc", "build script: which C++ compiler nvcc is to use"),
    ("clap", "command lines"),
    ("comfy-table", "tables in a terminal"),
    ("console", "T5's colours in a terminal, and whether it has any"),
    ("cudarc", "the CUDA driver's interface, contexts, streams, memory; feature `cuda`"),
    ("cust", "cust's buffers and streams; the package onekv-cust alone"),
    ("half", "f16 and bf16"),
    ("indicatif", "progress bars"),
    ("libc", "the virtual GPU's probe of host pointers"),
    ("libfuzzer-sys", "libFuzzer and its interface; the fuzz targets alone"),
    ("libloading", "the driver's functions that cudarc leaves out; feature `cuda`"),
    ("libm", "T5's erf"),
    ("lz4_flex", "compressed fatbins; the virtual GPU alone"),
    ("plotters", "figures of the results; the tools alone"),
    ("plotters-backend", "figures of the results; the tools alone"),
    ("pulp", "SIMD registers of the machine it runs on, chosen when it runs"),
    ("rand", "random weights and inputs of T5 and the tools"),
    ("rayon", "threads of the CPU backend"),
    ("ruzstd", "compressed fatbins; the virtual GPU alone"),
    ("safetensors", "T5's weights"),
    ("serde", "files of configurations and results"),
    ("serde_json", "files of configurations and results"),
    ("serde_path_to_error", "where a result's file is wrong; the tools alone"),
    ("sha2", "whether two builds are the same; the tools alone"),
    ("tempfile", "folders of the fuzz targets"),
    ("thiserror", "error types"),
    ("tokenizers", "T5's tokenizers"),
    ("toml", "tables of planted bugs, of mutants that were read; the tools alone"),
    ("tracing", "spans for profilers; feature `tracing`"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::run::{cargo, output};

    #[test]
    fn every_dependency_has_a_purpose() {
        let mut metadata = cargo(&["metadata", "--locked", "--no-deps", "--format-version", "1"]);
        let metadata = output("read cargo's metadata", &mut metadata).unwrap();
        let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
        let packages = metadata["packages"].as_array().unwrap();
        let dependencies = packages.iter().flat_map(|package| package["dependencies"].as_array().unwrap());
        // Ours have a path; tests' own are of the kind `dev`.
        let others = dependencies.filter(|d| d["path"].is_null() && d["kind"] != "dev");
        let used: BTreeSet<&str> = others.map(|d| d["name"].as_str().unwrap()).collect();
        let stated: BTreeSet<&str> = PURPOSES.iter().map(|(name, _)| *name).collect();
        assert_eq!(stated, used);
        assert!(PURPOSES.is_sorted(), "by name");
    }
}
