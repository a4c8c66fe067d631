//! Runs the T5 example as a program, as its users do.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;

/// The program: that of `ONEKV_T5`, on another machine than the one that built this.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        std::env::var_os("ONEKV_T5").map_or_else(|| env!("CARGO_BIN_EXE_t5").into(), PathBuf::from)
    })
}

/// Where the example's files are: `ONEKV_ROOT` on another machine.
pub fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        std::env::var_os("ONEKV_ROOT").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
    })
}

pub fn run(arguments: &[&str]) -> Output {
    Command::new(program()).args(arguments).output().expect("the example runs")
}

/// Standard output of a run that must succeed.
pub fn stdout(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

pub fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&stdout(arguments)).expect("JSON")
}

/// What the program's JSON has as answers to the first input, with the prompts in the decoder.
pub fn answers(json: &Value) -> Value {
    let outputs = json["inputs"][0]["outputs"].as_array().expect("outputs");
    outputs.iter().map(|output| output["pid"].clone()).collect()
}

pub fn read_json(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("readable")).expect("JSON")
}

/// A model folder with input.txt and prompts.txt answers the texts of its expected_text.json.
pub fn check_texts(case: &Path) {
    let expected = read_json(case.join("expected_text.json"));
    let mode = expected["mode"].as_str().expect("a mode");
    let (input, prompts) = (case.join("input.txt"), case.join("prompts.txt"));
    let most = expected["max_new_tokens"].to_string();
    let got = json(&[
        "--model",
        path_text(case),
        "--input",
        path_text(&input),
        "--prompts",
        path_text(&prompts),
        "--mode",
        mode,
        "--max-new-tokens",
        &most,
        "--json",
    ]);
    let outputs = got["inputs"][0]["outputs"].as_array().expect("outputs");
    let texts: Value = outputs.iter().map(|output| output[mode].clone()).collect();
    assert_eq!(texts, expected["text"], "{}", case.display());
}

/// The one line that bad input must give, with exit code 2 and nothing on standard output.
pub fn error(arguments: &[&str]) -> String {
    let output = run(arguments);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
    assert!(output.stdout.is_empty(), "{arguments:?} printed a result");
    assert_eq!(text.lines().count(), 1, "{arguments:?} needs one line: {text}");
    assert!(text.starts_with("error: ") && !text.contains("panicked"), "{text}");
    text.trim_end().to_string()
}

pub fn path_text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}
