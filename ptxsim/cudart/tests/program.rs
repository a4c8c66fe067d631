//! A program that nvcc compiles, on the virtual GPU by this runtime.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The compiler that NVCC names, with what stands before it there, or the repository's own.
fn nvcc() -> Option<Command> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/cuda-toolkit/bin/nvcc");
    let named = std::env::var("NVCC").ok();
    let mut words = named.iter().flat_map(|named| named.split_whitespace());
    let Some(program) = words.next() else { return own.exists().then(|| Command::new(own)) };
    let mut nvcc = Command::new(program);
    nvcc.args(words);
    Some(nvcc)
}

/// A folder beside the test, new, with a library under another name.
fn folder(name: &str, libraries: &[(&str, &str)]) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let folder = own.with_file_name(format!("{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for (library, name) in libraries {
        let library = own.with_file_name(library);
        assert!(library.exists(), "{} is not there", library.display());
        std::os::unix::fs::symlink(library, folder.join(name)).unwrap();
    }
    folder
}

#[test]
fn a_program_of_nvcc_s_runs() {
    // Tests that no compiler is there for have nothing to run; `cargo xtask setup` gets one.
    let Some(mut nvcc) = nvcc() else {
        eprintln!("not tested, as there is no nvcc");
        return;
    };
    let libraries = [
        ("libcudart_stand_in.so", "libcudart.so"),
        ("libcudart_stand_in.so", "libcudart_stand_in.so"),
        ("libptxsim_driver.so", "libcuda.so"),
        ("libptxsim_driver.so", "libcuda.so.1"),
    ];
    let folder = folder("cudart", &libraries);
    let program = folder.join("program");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/program.cu");
    let compiled = nvcc
        .args(["-cudart", "none", "-cudadevrt", "none", "-gencode", "arch=compute_80,code=compute_80", "-o"])
        .args([&program, &source])
        .arg("-L")
        .arg(&folder)
        .arg("-lcudart")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&compiled.stderr);
    assert!(compiled.status.success(), "{told}");
    let run = Command::new(&program)
        .env("LD_LIBRARY_PATH", &folder)
        .env("PTXSIM_DEVICE", "h200")
        .env("PTXSIM_DEVICES", "2")
        .output()
        .unwrap();
    let (said, told) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{said}\n{told}");
    assert!(
        said.starts_with("ptxsim h200 9.0 132 232448 64\n") && said.ends_with("done\n"),
        "{said}\n{told}"
    );
    std::fs::remove_dir_all(folder).unwrap();
}
