//! The T5 example's methods, predictions and choice of a backend, on the CPU.

mod t5_example;

use t5_example::{error, json, stdout};

const TINY: [&str; 8] = ["--random", "tiny", "--backend", "cpu", "--max-new-tokens", "5", "--keys", "20"];

fn tiny<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&TINY[..], more].concat()
}

/// Copies of the K/V change what is stored and nothing else.
#[test]
fn all_methods_on_the_built_in_dialogue() {
    let got = json(&["--mode", "all", "--json", "--backend", "cpu"]);
    let outputs = got["inputs"][0]["outputs"].as_array().unwrap();
    assert_eq!(outputs.len(), 30);
    assert!(outputs.iter().all(|o| o["pid"] == o["pid-replicated"] && o["pie"].is_string()));
    let figures = &got["figures"];
    let of = |method: &str, field: &str| figures[method][field].as_u64().unwrap();
    assert_eq!(of("pid-replicated", "encoder_tokens"), of("pid", "encoder_tokens"));
    assert_eq!(of("pid-replicated", "flops_predicted"), of("pid", "flops_predicted"));
    assert_eq!(of("pid-replicated", "cross_kv_bytes"), 30 * of("pid", "cross_kv_bytes"));
    assert_eq!(of("pid-replicated", "cross_kv_bytes_predicted"), of("pid-replicated", "cross_kv_bytes"));
    let text = stdout(&["--mode", "all", "--backend", "cpu"]);
    for words in ["PID-replicated / PID", "PIE / PID", "time: copy K/V", "tokens per second", "cpu, f32"] {
        assert!(text.contains(words), "{words} is missing in\n{text}");
    }
}

/// One object for one point, a list for several; in a sweep the model is drawn once.
#[test]
fn sweeps() {
    let one = json(&tiny(&["--json", "--prompt-count", "3", "--runs", "2"]));
    assert_eq!(one["pid"]["new_tokens"], 15);
    assert_eq!(one["pid"]["setup_s"].as_f64().map(|s| s >= 0.0), Some(true));
    let sweep = json(&tiny(&["--json", "--prompt-count", "1,3", "--input-count", "2", "--mode", "pid"]));
    let points: Vec<_> = sweep.as_array().unwrap().iter().map(|p| &p["pid"]).collect();
    assert_eq!(points.len(), 2);
    for (point, prompts) in points.iter().zip([1, 3]) {
        assert_eq!(point["predicted"]["prompts"], prompts);
        assert_eq!(point["rows"], 2 * prompts);
        assert_eq!(point["encoder_tokens"], 40);
        assert!(point["peak_device_bytes"].is_null() && point["predicted"]["gain"].is_null());
    }
}

fn explain<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["--random", "flan-t5-xl", "--backend", "cpu", "--explain"][..], more].concat()
}

#[test]
fn predictions() {
    // One prompt shares nothing.
    let text = stdout(&explain(&["--prompt-count", "1", "--roofline", "800,4000"]));
    assert!(text.contains("PID 1.00x as fast as PIE"), "{text}");
    assert!(text.contains("at no number of input tokens") && text.contains("at no output length"), "{text}");
    let text = stdout(&explain(&["--prompt-count", "64", "--roofline", "800,4000"]));
    assert!(text.contains("from 2 prompts, from ") && text.contains(" new tokens"), "{text}");
    let text = stdout(&explain(&[]));
    assert!(text.contains("the device does not say how fast it is; give --roofline"), "{text}");
    let report = json(&explain(&["--json", "--prompt-count", "64", "--roofline", "800,4000"]));
    assert!(report["gain"].as_f64().is_some_and(|gain| gain > 2.0), "{report}");
    assert_eq!(report["crossover"]["least_prompts"], 2);
    // The main job too.
    assert!(stdout(&["--explain", "--backend", "cpu"]).contains("30 prompts each"));
}

#[test]
fn what_is_not_there_is_named() {
    let text = error(&["--backend", "cpu", "--dtype", "bf16"]);
    assert!(text.contains("--dtype is bf16, allowed on the CPU: f32"), "{text}");
    for list in ["1", "1,2,3", "0,1", "800,-1", "nan,1"] {
        let text = error(&tiny(&["--explain", "--roofline", list]));
        assert!(text.contains("allowed: two positive numbers, TFLOP/s and GB/s"), "{text}");
    }
    let text = error(&tiny(&["--prompt-count", "3,0"]));
    assert!(text.contains("'0' for '--prompt-count"), "{text}");
    if !cfg!(feature = "t5-cuda") {
        let text = error(&["--backend", "cuda"]);
        assert!(text.contains("allowed in this build: auto, cpu; build with `--features t5-cuda`"), "{text}");
    }
}
