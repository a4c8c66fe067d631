//! The T5 example against transformers: `tests/t5/`, made by `tools/goldens/make.py`.

mod t5_example;

use std::path::PathBuf;

use safetensors::SafeTensors;
use serde_json::{Value, json};
use t5_example::{json as run_json, path_text, root, stdout};

fn cases() -> Vec<PathBuf> {
    let folder = root().join("tests/t5");
    let mut cases: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the goldens are there")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.is_dir())
        .collect();
    cases.sort();
    cases
}

fn read_json(path: PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(&path).expect("readable")).expect("JSON")
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Ten times less than what would do: f32 sums in another order differ by about 3e-5.
const TOLERANCE: f32 = 2e-4;

/// Greedy ids equal, logits close, for every case.
#[test]
fn ids_and_logits_equal_transformers() {
    let cases = cases();
    assert!(cases.len() >= 11, "only {} cases", cases.len());
    let folder = tempfile::tempdir().unwrap();
    for case in cases {
        let logits = folder.path().join("logits.safetensors");
        let got = run_json(&[
            "--model",
            path_text(&case),
            "--ids",
            path_text(&case.join("request.json")),
            "--json",
            "--logits",
            path_text(&logits),
        ]);
        assert_eq!(got, read_json(case.join("expected.json")), "{}", case.display());

        let (got, want) =
            (std::fs::read(&logits).unwrap(), std::fs::read(case.join("expected.safetensors")).unwrap());
        let (got, want) = (SafeTensors::deserialize(&got).unwrap(), SafeTensors::deserialize(&want).unwrap());
        assert_eq!(got.len(), want.len(), "{}", case.display());
        for (name, want) in want.iter() {
            let got = got.tensor(name).expect("every prompt has logits");
            assert_eq!(got.shape(), want.shape(), "{} {name}", case.display());
            for (i, (g, w)) in floats(got.data()).iter().zip(floats(want.data())).enumerate() {
                assert!((g - w).abs() <= TOLERANCE, "{} {name}[{i}]: {g}, not {w}", case.display());
            }
        }
    }
}

/// Prompts in another order give the same outputs in that order, and a prompt alone gives what it
/// gives among others.
#[test]
fn outputs_follow_their_prompts() {
    let folder = tempfile::tempdir().unwrap();
    for case in cases() {
        let request = read_json(case.join("request.json"));
        let expected = read_json(case.join("expected.json"));
        let outputs = expected["outputs"].as_array().unwrap();
        let ask = |prompts: Vec<Value>| {
            let path = folder.path().join("request.json");
            let mut request = request.clone();
            request["prompts"] = json!(prompts);
            std::fs::write(&path, request.to_string()).unwrap();
            run_json(&["--model", path_text(&case), "--ids", path_text(&path), "--json"])
        };
        let mut prompts = request["prompts"].as_array().unwrap().clone();
        let mut reversed = outputs.clone();
        reversed.reverse();
        prompts.reverse();
        assert_eq!(ask(prompts.clone()), json!({ "outputs": reversed }), "{}", case.display());
        for (prompt, output) in prompts.iter().zip(&reversed) {
            assert_eq!(ask(vec![prompt.clone()]), json!({ "outputs": [output] }), "{}", case.display());
        }
        assert_eq!(ask(vec![]), json!({ "outputs": [] }));
    }
}

/// The built-in run, in text mode, decodes the ids that transformers decodes.
#[test]
fn the_built_in_models_answer_as_transformers_does() {
    let assets = root().join("examples/t5/assets");
    let expected = read_json(assets.join("expected.json"));
    let got = run_json(&["--json"]);
    let outputs = got["inputs"][0]["outputs"].as_array().unwrap();
    assert_eq!(outputs.len(), 30);
    for method in ["pid", "pie"] {
        let texts: Vec<&Value> = outputs.iter().map(|o| &o[method]).collect();
        assert_eq!(json!(texts), expected[method], "{method}");
        let figures = &got["figures"][method];
        assert_eq!(figures["cross_kv_bytes"], figures["cross_kv_bytes_predicted"], "{method}");
    }
    // What was decoded is counted, not what might have been.
    let more = run_json(&["--json", "--max-new-tokens", "40"]);
    for method in ["pid", "pie"] {
        assert_eq!(more["figures"][method]["flops_predicted"], got["figures"][method]["flops_predicted"]);
    }
}

/// Several inputs of unlike length in one batch equal one after the other.
#[test]
fn a_batch_of_inputs_equals_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let whole = std::fs::read_to_string(root().join("examples/t5/assets/dialogue.txt")).unwrap();
    let texts = [whole.as_str(), &whole[..whole.len() / 2], "user : hello ."];
    let paths: Vec<PathBuf> = texts
        .iter()
        .enumerate()
        .map(|(i, text)| {
            let path = folder.path().join(format!("{i}.txt"));
            std::fs::write(&path, text).unwrap();
            path
        })
        .collect();
    let mut arguments = vec!["--json"];
    paths.iter().for_each(|path| arguments.extend(["--input", path_text(path)]));
    let batch = run_json(&arguments);
    for (i, path) in paths.iter().enumerate() {
        let alone = run_json(&["--json", "--input", path_text(path)]);
        assert_eq!(batch["inputs"][i], alone["inputs"][0]);
    }
}

/// What a newcomer sees: the outputs, then the comparison; no bars where there is no terminal.
#[test]
fn the_main_job_prints_two_tables() {
    let text = stdout(&[]);
    for word in ["prompt", "PID", "PIE", "encoder tokens", "cross-attention K/V", "FLOPs", "time: total"] {
        assert!(text.contains(word), "{word} is missing in\n{text}");
    }
    assert!(t5_example::run(&[]).stderr.is_empty());
}
