//! Compiles and runs the C and C++ of `tests/programs` and of the README. What a program checks stands at its top.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

const C: [&str; 2] = ["cc", "-std=c99"];
const CPP: [&str; 2] = ["c++", "-std=c++17"];
/// What a program links beside the static library.
const BESIDE_STATIC: [&str; 3] = ["-lm", "-lpthread", "-ldl"];

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where cargo has put the libraries: it built them for this test, which needs the crate.
fn libraries() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().to_owned()
}

/// Runs a command, which must succeed; its standard output.
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} ended with {}:\n{said}{errors}", output.status);
    said.into_owned()
}

fn compiler([program, standard]: [&str; 2], folder: &TempDir) -> Command {
    let mut command = Command::new(program);
    command.args([standard, "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I"]);
    command.arg(here().join("include")).current_dir(folder);
    command.arg(format!("-DVERSION=\"{}\"", env!("CARGO_PKG_VERSION")));
    command
}

/// A program of `tests/programs`, compiled and linked, in a folder of its own.
fn build(language: [&str; 2], source: &str, link: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut compiler = compiler(language, &folder);
    compiler.arg(here().join("tests/programs").join(source)).args(["-o", "program", "-L"]);
    output(compiler.arg(libraries()).args(link));
    folder
}

/// Builds and runs a program; its standard output.
fn run(language: [&str; 2], source: &str, link: &[&str]) -> String {
    run_built(&build(language, source, link))
}

/// Runs what [`build`] made, the library before all else that the loader finds.
fn run_built(folder: &TempDir) -> String {
    let path = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let folders = std::iter::once(libraries()).chain(std::env::split_paths(&path));
    let path = std::env::join_paths(folders).unwrap();
    output(Command::new(folder.path().join("program")).env("LD_LIBRARY_PATH", path))
}

#[test]
fn the_header_is_good_c_and_cpp_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    for (language, name) in [(C, "c"), (CPP, "c++")] {
        let mut compiler = compiler(language, &folder);
        output(compiler.args(["-fsyntax-only", "-x", name]).arg(here().join("include/onekv.h")));
    }
}

#[test]
fn c_with_the_shared_library() {
    assert_eq!(run(C, "attention.c", &["-lonekv_c", "-lm"]), "attention.c: all as it should be\n");
}

#[test]
fn c_with_the_static_library() {
    let link: Vec<&str> = ["-l:libonekv_c.a"].into_iter().chain(BESIDE_STATIC).collect();
    assert_eq!(run(C, "attention.c", &link), "attention.c: all as it should be\n");
}

/// Linked by the library's path, from which it is gone when the program starts: the loader looks for its soname.
#[test]
fn cpp() {
    let elsewhere = tempfile::tempdir().unwrap();
    let library = elsewhere.path().join("libonekv_c.so");
    std::fs::copy(libraries().join("libonekv_c.so"), &library).unwrap();
    let built = build(CPP, "attention.cpp", &[library.to_str().unwrap()]);
    drop(elsewhere);
    assert_eq!(run_built(&built), "attention.cpp: all as it should be\n");
}

/// Where there is a card; with `ONEKV_REQUIRE_CUDA` there must be.
#[cfg(feature = "cuda")]
#[test]
fn c_on_a_card() {
    match onekv::cuda::context(0) {
        Err(error) if std::env::var_os("ONEKV_REQUIRE_CUDA").is_none() => {
            return println!("CUDA is not tested: {error}");
        }
        context => drop(context.expect("CUDA is required")),
    }
    // Where the loader looks for the driver, a virtual one too, the linker is to find it.
    let path = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let drivers: Vec<_> =
        std::env::split_paths(&path).map(|folder| format!("-L{}", folder.display())).collect();
    let mut link = vec!["-lonekv_c"];
    link.extend(drivers.iter().map(String::as_str));
    // Not -lcuda, which looks for libcuda.so: that comes with development files.
    link.extend(["-l:libcuda.so.1", "-lm"]);
    assert_eq!(run(C, "cuda.c", &link), "cuda.c: all as it should be\n");
}

#[test]
fn views_of_ggml_tensors() {
    assert_eq!(run(C, "ggml.c", &["-lonekv_c", "-lm"]), "ggml.c: all as it should be\n");
}

/// The README's C is in a tested program word for word, and its command lines compile and run in a checkout.
#[test]
fn the_readme_is_true() {
    let readme = std::fs::read_to_string(here().join("README.md")).unwrap();
    let programs = here().join("tests/programs");
    let source = |name| std::fs::read_to_string(programs.join(name)).unwrap();
    let blocks: Vec<&str> =
        readme.split("```c\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    let [first, cuda, ggml] = blocks[..] else { panic!("{} blocks of C", blocks.len()) };
    assert_eq!(first, source("first.c"));
    let unindented =
        |text: String| text.lines().map(|line| line.trim_start().to_owned() + "\n").collect::<String>();
    assert!(unindented(source("cuda.c")).contains(cuda), "cuda.c has not: {cuda}");
    assert!(source("ggml.c").contains(ggml), "ggml.c has not: {ggml}");

    // A checkout with a release build.
    let folder = tempfile::tempdir().unwrap();
    let link = |from: &Path, to: &str| std::os::unix::fs::symlink(from, folder.path().join(to)).unwrap();
    std::fs::create_dir_all(folder.path().join("target")).unwrap();
    link(here().parent().unwrap(), "interop");
    link(&libraries(), "target/release");
    link(&programs.join("first.c"), "first.c");
    let mut said = Vec::new();
    for line in
        readme.lines().filter(|line| ["cc ", "c++ ", "LD_LIBRARY_PATH="].iter().any(|c| line.starts_with(c)))
    {
        let mut shell = Command::new("sh");
        said.push(output(shell.args(["-c", line]).current_dir(&folder)));
    }
    let attention = said.pop().unwrap_or_default();
    assert!(attention.contains("all as it should be"), "{attention}");
    assert_eq!(said, ["", "0.25\n", "", ""]);
    // Linked statically.
    assert_eq!(output(&mut Command::new(folder.path().join("first"))), "0.25\n");
}
