//! The program on a card: the main job, random weights, refusals.

use serde_json::Value;

use crate::backend::cuda::Cuda;
use crate::support::{card, hopper};
use crate::t5_example::{answers, error, json, path_text, program, root, stdout};

/// transformers' ids, in f32.
#[test]
fn ids_equal_transformers() {
    let case = root().join("tests/goldens/gated-untied");
    let request = case.join("request.json");
    let arguments = ["--model", path_text(&case), "--ids", path_text(&request), "--json"];
    let want: Value = serde_json::from_slice(&std::fs::read(case.join("expected.json")).unwrap()).unwrap();
    if card().is_some() {
        let got = json(&[&arguments[..], &["--backend", "cuda", "--dtype", "f32"]].concat());
        assert_eq!(answers(&got), want["outputs"]);
    }
}

const TINY: [&str; 9] =
    ["--random", "tiny", "--backend", "cuda", "--keys", "20", "--prompt-count", "3", "--max-new-tokens"];

#[test]
fn random_weights_fill_the_report() {
    let Some(cuda) = card() else { return };
    let products = made_for(&cuda);
    let report = json(&[&TINY[..], &["7", "--mode", "all", "--json", "--roofline", "800,4000"]].concat());
    for method in ["pid", "pid-replicated", "pie"] {
        let f = &report[method];
        assert_eq!(f["new_tokens"], 21, "{method}");
        assert_eq!(f["cross_kv_bytes"], f["cross_kv_bytes_predicted"], "{method}");
        for field in ["decode_step_median_s", "tokens_per_s", "peak_device_bytes", "decode_step_floor_bytes"]
        {
            assert!(f[field].as_f64().is_some_and(|x| x > 0.0), "{method} {field} is {}", f[field]);
        }
        let device = f["device"].as_str().unwrap();
        assert!(device.starts_with("cuda: ") && device.ends_with(&format!("bf16, {products}")), "{device}");
        assert!(f["predicted"]["most_prompts_that_fit"]["pie"].as_u64().is_some_and(|n| n > 100));
        assert!(f["predicted"]["gain"].as_f64().is_some_and(|x| x > 0.5));
    }
    // 2 layers of 2 heads of 64 in two bytes; 3 tokens of each prompt go into PIE's encoder.
    let kv = |method: &str| report[method]["cross_kv_bytes"].as_u64().unwrap();
    assert_eq!(kv("pid"), 20 * 2 * 128 * 2 * 2);
    assert_eq!(kv("pid-replicated"), 3 * kv("pid"));
    assert_eq!(kv("pie"), 3 * 23 * 2 * 128 * 2 * 2);
    // Per decoder layer 6 projections of 64 x 128 and 2 matrices of 64 x 128; a head of 64 x 384.
    let floor = report["pid"]["decode_step_floor_bytes"].as_u64().unwrap();
    assert_eq!(floor, 2 * (2 * 8 * 64 * 128 + 64 * 384) + kv("pid"));
}

/// `auto` takes the card and says so.
#[test]
fn auto_takes_the_card() {
    let Some(cuda) = card() else { return };
    let text = stdout(&["--random", "tiny", "--keys", "5", "--prompt-count", "1", "--max-new-tokens", "1"]);
    let ends = format!("{} (auto)", made_for(&cuda));
    assert!(text.lines().last().is_some_and(|l| l.starts_with("cuda: ") && l.ends_with(&ends)), "{text}");
}

#[test]
fn what_does_not_fit_is_refused_before_it_is_loaded() {
    if card().is_none() {
        return;
    }
    let huge = ["--random", "flan-t5-xl", "--backend", "cuda", "--prompt-count", "4096"];
    let text = error(&[&huge[..], &["--mode", "pie"]].concat());
    assert!(
        text.contains("PIE with 4096 prompts at once needs ") && text.contains(" of weights, "),
        "{text}"
    );
    assert!(text.contains(" GB of cross-attention K/V") && text.contains("free: "), "{text}");
    // What is offered fits, and one row more does not.
    let (_, offered) = text.split_once("--batch-rows ").unwrap();
    let rows: u32 = offered.trim_end_matches(" fits").parse().unwrap();
    let more = (rows + 1).to_string();
    let text = error(&[&huge[..], &["--mode", "pie", "--batch-rows", &more]].concat());
    assert!(text.contains(&format!("PIE with {more} prompts at once needs ")), "{text}");
    let offer = format!("all with --batch-rows {rows}");
    for (given, offers) in [(&more, true), (&rows.to_string(), false)] {
        let given = ["--mode", "pie", "--batch-rows", given, "--explain"];
        assert_eq!(stdout(&[&huge[..], &given].concat()).contains(&offer), offers, "{given:?}");
    }
    // The limits alone.
    let text = stdout(&[&huge[..], &["--mode", "all", "--explain"]].concat());
    for words in ["PID needs ", "PIE needs ", "PID-replicated needs ", " prompts per input", "GFLOP"] {
        assert!(text.contains(words), "{words} is missing in {text}");
    }
}

/// What computes products in 16 bits where nothing is said.
fn made_for(cuda: &Cuda) -> &'static str {
    if cuda.driver.hopper { "own gemm" } else { "cublasLt" }
}

/// Where nothing is said, Hopper has its own products in 16 bits; what is said is done, or refused.
#[test]
fn products_are_by_card_and_type() {
    let Some(cuda) = card() else { return };
    let made_for = made_for(&cuda);
    let arguments = ["--random", "tiny", "--backend", "cuda", "--keys", "20", "--prompt-count", "3"];
    let cases: [(&[&str], String); 4] = [
        (&[], format!("bf16, {made_for}")),
        (&["--dtype", "f16"], format!("f16, {made_for}")),
        (&["--dtype", "f32"], "f32, cublasLt".to_owned()),
        (&["--gemm", "cublaslt"], "bf16, cublasLt".to_owned()),
    ];
    for (said, ends) in cases {
        let more = ["--max-new-tokens", "2", "--mode", "all", "--json"];
        let report = json(&[&arguments[..], &more, said].concat());
        for method in ["pid", "pid-replicated", "pie"] {
            assert_eq!(report[method]["new_tokens"], 6, "{method}");
            let device = report[method]["device"].as_str().unwrap();
            assert!(device.starts_with("cuda: ") && device.ends_with(&ends), "{said:?}: {device}");
        }
    }
    for dtype in ["f32", "bf16", "f16"] {
        let own = [&arguments[..], &["--max-new-tokens", "2", "--dtype", dtype, "--gemm", "own"]].concat();
        if cuda.driver.hopper && dtype != "f32" {
            assert!(stdout(&own).contains(&format!("{dtype}, own gemm")));
        } else {
            let card = cuda.driver.context.name().unwrap();
            let allowed = "cublaslt; own is for bf16 and f16 on Hopper";
            assert_eq!(error(&own), format!("error: --gemm is own, allowed on {card} in {dtype}: {allowed}"));
        }
    }
}

/// Kernels of a decode step on Hopper, as the virtual GPU reports them: eight a layer where norms are begun and ended by
/// their neighbours, eleven where they are kernels of their own, and those of tokens and logits.
#[test]
fn a_step_has_eight_kernels_a_layer() {
    if hopper().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let kernels = |dtype: &str, tokens: &str| {
        let report = folder.path().join(format!("{dtype}-{tokens}"));
        let mut run = std::process::Command::new(program());
        run.args(TINY).args([tokens, "--mode", "pid", "--dtype", dtype]);
        assert!(run.env("PTXSIM_REPORT", &report).output().unwrap().status.success());
        std::fs::read_to_string(report).map(|lines| lines.lines().count()).ok()
    };
    let (layers, steps) = (2, 4);
    // Embedding, logits and choice; the norm of the last sum.
    for (dtype, want) in [("bf16", 8 * layers + 3), ("f16", 11 * layers + 4)] {
        let [Some(few), Some(many)] = ["5", "9"].map(|tokens| kernels(dtype, tokens)) else {
            println!("a card does not report its kernels");
            return;
        };
        assert_eq!(many - few, steps * want, "{dtype}");
    }
}

/// Without NVIDIA's library: one line that says how to go on; nothing else is taken instead.
#[test]
fn no_cublaslt_is_one_line() {
    if card().is_none() {
        return;
    }
    // The driver alone, where it is found by LD_LIBRARY_PATH.
    let alone = tempfile::tempdir().unwrap();
    let folders = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    for name in ["libcuda.so", "libcuda.so.1"] {
        if let Some(driver) = std::env::split_paths(&folders).map(|f| f.join(name)).find(|f| f.exists()) {
            std::os::unix::fs::symlink(driver, alone.path().join(name)).unwrap();
        }
    }
    let run = |arguments: &[&str]| {
        let mut program = std::process::Command::new(program());
        program.args(["--random", "tiny", "--keys", "5", "--prompt-count", "1", "--max-new-tokens", "1"]);
        program
            .args(arguments)
            .args(["--backend", "cuda"])
            .env("LD_LIBRARY_PATH", alone.path())
            .output()
            .unwrap()
    };
    let output = run(&["--gemm", "cublaslt"]);
    let text = String::from_utf8(output.stderr).unwrap();
    if output.status.success() {
        println!("this machine's cublasLt is found without LD_LIBRARY_PATH");
        return;
    }
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(text.lines().count(), 1, "{text}");
    for words in ["libcublasLt was not found", "CUDA toolkit", "pip install nvidia-cublas", "LD_LIBRARY_PATH"]
    {
        assert!(text.contains(words), "{words} is missing in {text}");
    }
    // That is all that was missing: Hopper's default needs nothing.
    assert_eq!(run(&[]).status.success(), hopper().is_some());
    assert_eq!(run(&["--dtype", "f32"]).status.code(), Some(2));
}

/// Without a driver: one line; `auto` goes on on the CPU and says why.
#[test]
fn no_driver_is_one_line() {
    let run = |arguments: &[&str]| {
        std::process::Command::new(program()).args(arguments).env_remove("LD_LIBRARY_PATH").output().unwrap()
    };
    let output = run(&["--backend", "cuda"]);
    let text = String::from_utf8(output.stderr).unwrap();
    if output.status.success() || text.contains("libcublasLt") {
        println!("this machine has a driver of its own");
        return;
    }
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("libcuda was not found"), "{text}");
    let output = run(&["--random", "tiny", "--keys", "5", "--max-new-tokens", "1"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let last = text.lines().last().unwrap_or_default();
    assert!(
        last.starts_with("cpu, f32") && last.contains("auto; no CUDA: ") && last.contains("libcuda"),
        "{text}"
    );
}
