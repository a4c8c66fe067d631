//! The T5 example's methods, predictions and choice of a backend, on the CPU.

mod t5_example;

use serde_json::Value;
use t5_example::{answers, error, json, path_text, root, stdout};

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

/// However many prompts are decoded at once, over inputs of unlike length whose rows end at their own EOS: the
/// outputs are the same and in the order asked, and the report says how it went.
#[test]
fn limits_of_the_batch_change_no_output() {
    let folder = tempfile::tempdir().unwrap();
    let whole = std::fs::read_to_string(root().join("assets/dialogue.txt")).unwrap();
    let third = whole.len() / 3;
    let texts = ["user : hello .", &whole[..third], &whole[2 * third..], &whole[third / 2..2 * third]];
    let paths: Vec<_> = (0..texts.len()).map(|i| folder.path().join(format!("{i}.txt"))).collect();
    let mut arguments = vec!["--backend", "cpu", "--mode", "all"];
    for (path, text) in paths.iter().zip(texts) {
        std::fs::write(path, text).unwrap();
        arguments.extend(["--input", path_text(path)]);
    }
    let run = |rows: &[&str]| json(&[&arguments[..], &["--json"], rows].concat());
    let all = run(&[]);
    assert_eq!(all["figures"]["pid"]["batch_rows"], 120);
    assert_eq!(all["figures"]["pid"]["admissions"], 1);
    for rows in [1, 7, 30, 45, 119, 120, 1000] {
        let some = run(&["--batch-rows", &rows.to_string()]);
        assert_eq!(some["inputs"], all["inputs"], "{rows}");
        for method in ["pid", "pid-replicated", "pie"] {
            let (some, all) = (&some["figures"][method], &all["figures"][method]);
            for field in
                ["rows", "new_tokens", "encoder_tokens", "flops_predicted", "cross_kv_bytes_predicted"]
            {
                assert_eq!(some[field], all[field], "{method} {rows} {field}");
            }
            assert_eq!(some["batch_rows"], rows.min(120), "{method} {rows}");
            assert_eq!(some["admissions"].as_u64() > Some(1), rows < 120, "{method} {rows}");
            assert_eq!(some["decode_step_floor_bytes"].is_null(), rows < 120, "{method} {rows}");
            let bytes = |figures: &Value| figures["cross_kv_bytes"].as_u64().unwrap();
            assert!(rows > 1 || 2 * bytes(some) < bytes(all), "{method} {rows}");
            // Places that any input can take are never more than a place for each.
            assert!(method == "pid-replicated" || bytes(some) <= bytes(all), "{method} {rows}");
        }
    }
    let text = stdout(&[&arguments[..], &["--batch-rows", "50"]].concat());
    assert!(text.contains("rows at once") && text.contains("admissions"), "{text}");
    assert!(!stdout(&arguments).contains("admissions"));
}

/// Random inputs too, and one input whose prompts take turns.
#[test]
fn limits_of_random_batches() {
    let report = json(&tiny(&["--json", "--prompt-count", "3", "--input-count", "4", "--batch-rows", "6"]));
    let pid = &report["pid"];
    assert_eq!((&pid["rows"], &pid["batch_rows"], &pid["admissions"]), (&12.into(), &6.into(), &2.into()));
    assert_eq!(pid["new_tokens"], 60);
    // Three of the four places, two layers of two heads of 64, K and V in f32.
    assert_eq!(pid["cross_kv_bytes"], 3 * 20 * 2 * 128 * 4 * 2);
    assert_eq!(report["pie"]["cross_kv_bytes"], 6 * 23 * 2 * 128 * 4 * 2);
    let step = |field: &str| pid[field].as_f64().unwrap();
    let ratio = step("decode_step_tokens_per_s") * step("decode_step_median_s");
    assert!((ratio - 6.0).abs() < 1e-6, "{ratio}");
    let case = root().join("tests/goldens/relu-tied");
    let request = case.join("request.json");
    let ids = ["--model", path_text(&case), "--ids", path_text(&request), "--json", "--backend", "cpu"];
    let ask = |more: &[&str]| answers(&json(&[&ids[..], more].concat()));
    assert_eq!(ask(&["--batch-rows", "1"]), ask(&[]));
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
fn the_cheapest_way_is_recommended_and_broken_assumptions_are_named() {
    assert!(
        stdout(&explain(&["--roofline", "0.5,40.25"])).contains("predicted from 0.5 TFLOP/s and 40.25 GB/s")
    );
    let text = stdout(&explain(&["--prompt-count", "64", "--roofline", "800,4000"]));
    assert!(text.contains("cheapest: PID; PIE takes ") && text.contains("separate decoders"), "{text}");
    assert!(!text.contains("look twice"), "{text}");
    // One sequence of many tokens reads the decoder as often; 64 long prompts are much arithmetic.
    let text = stdout(&explain(&["--prompt-count", "64", "--prompt-tokens", "600"]));
    let both =
        "cheapest: one sequence has the fewest FLOPs, PID the fewest bytes, so it depends on the device";
    assert!(text.contains(both), "{text}");
    assert!(text.contains("look twice: prompts of 600 tokens are as long as the input of 512"), "{text}");
    let report =
        json(&explain(&["--json", "--prompt-count", "1", "--prompt-tokens", "0", "--roofline", "800,4000"]));
    assert_eq!(report["ways"]["pid"]["flops"], report["ways"]["pie"]["flops"]);
    assert_eq!(report["doubts"][0], "1 prompt per input: there is nothing to share");
    let report = json(&explain(&["--json", "--roofline", "800,4000"]));
    assert_eq!(report["cheapest"], "pid");
    let least = |way: &str| report["ways"][way]["least_s"].as_f64().unwrap();
    for way in ["pie", "pid-replicated", "one sequence", "separate decoders"] {
        assert!(least(way) > least("pid"), "{way}: {report}");
    }
    // What prompts say counts, where they are texts.
    let folder = tempfile::tempdir().unwrap();
    let prompts = folder.path().join("prompts.txt");
    std::fs::write(&prompts, "stop 1\nstop 2\nstop 3\nHow many taxis?\n").unwrap();
    let text = stdout(&["--explain", "--backend", "cpu", "--prompts", path_text(&prompts)]);
    assert!(text.contains("3 prompts are \"stop N\" but for a number"), "{text}");
    assert!(text.contains("\"how many taxis\" asks to count"), "{text}");
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
    if !cfg!(feature = "cuda") {
        let text = error(&["--backend", "cuda"]);
        assert!(text.contains("allowed in this build: auto, cpu; build with `--features cuda`"), "{text}");
    }
}
