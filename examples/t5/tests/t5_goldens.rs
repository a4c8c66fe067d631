//! The T5 example against transformers: `tests/goldens/`, made by `tools/goldens/make.py`.

mod t5_example;

use std::path::{Path, PathBuf};
use std::process::Command;

use safetensors::SafeTensors;
use serde_json::{Value, json};
use t5_example::{answers, check_texts, error, json as run_json, path_text, read_json, root, run, stdout};

/// The goldens that have this file, without the one that must be converted first.
fn cases(with: &str) -> Vec<PathBuf> {
    let mut cases = cases_of("tests/goldens", with);
    cases.retain(|case| !case.join("pytorch_model.bin.index.json").exists());
    cases
}

fn cases_of(folder: &str, with: &str) -> Vec<PathBuf> {
    let folder = root().join(folder);
    let mut cases: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the goldens are there")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.join(with).exists())
        .collect();
    cases.sort();
    cases
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Ten times less than what would do: f32 sums in another order differ by about 3e-5.
const TOLERANCE: f32 = 2e-4;

/// Folders that transformers 4 and 5 read differently have the values of both.
fn readings(case: &Path) -> Vec<(String, Vec<&'static str>)> {
    match case.join("expected.json").exists() {
        true => vec![(String::new(), vec![])],
        false => ["4", "5"].map(|v| (format!("-{v}"), vec!["--transformers", v])).into(),
    }
}

/// Greedy ids equal, logits close, what is not obeyed is named.
fn check_ids(case: &Path) {
    let folder = tempfile::tempdir().unwrap();
    let logits = folder.path().join("logits.safetensors");
    for (suffix, reading) in readings(case) {
        let request = case.join("request.json");
        let mut arguments = vec!["--model", path_text(case), "--ids", path_text(&request), "--json"];
        arguments.extend(["--logits", path_text(&logits)]);
        arguments.extend(reading);
        let output = run(&arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{}: {said}", case.display());
        let got: Value = serde_json::from_slice(&output.stdout).unwrap();
        let expected = read_json(case.join(format!("expected{suffix}.json")));
        assert_eq!(answers(&got), expected["outputs"], "{}", case.display());
        let mut named: Vec<&String> = got["ignored"].as_object().unwrap().keys().collect();
        assert!(named.iter().all(|name| said.contains(*name)), "{}: {said}", case.display());
        named.sort();
        assert_eq!(json!(named), *expected.get("ignored").unwrap_or(&json!([])), "{}", case.display());

        let want = case.join(format!("expected{suffix}.safetensors"));
        let (got, want) = (std::fs::read(&logits).unwrap(), std::fs::read(want).unwrap());
        let (got, want) = (SafeTensors::deserialize(&got), SafeTensors::deserialize(&want));
        let (got, want) = (got.unwrap(), want.unwrap());
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

#[test]
fn ids_and_logits_equal_transformers() {
    let cases = cases("request.json");
    assert!(cases.len() >= 33, "only {} cases", cases.len());
    cases.iter().for_each(|case| check_ids(case));
}

/// Texts in, the texts of transformers out.
#[test]
fn texts_equal_transformers() {
    let cases = cases("expected_text.json");
    assert!(cases.len() >= 5, "only {} cases", cases.len());
    for case in cases {
        check_texts(&case);
    }
}

/// Folders without a file that is read here: the command in the error, run with transformers 5, makes it, and what it makes
/// is read as transformers reads the folder as it was.
#[test]
#[ignore = "PATH must begin with transformers 5: `cargo xtask test` makes it so"]
fn conversions() {
    let cases = cases_of("tests/convert", "config.json");
    assert!(cases.len() >= 5, "only {} cases", cases.len());
    for case in cases {
        // A name that a shell would take apart.
        let folder = tempfile::Builder::new().prefix("it's a model ").tempdir().unwrap();
        for entry in std::fs::read_dir(&case).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
        let texts = folder.path().join("expected_text.json").exists();
        let check = || if texts { check_texts(folder.path()) } else { check_ids(folder.path()) };
        let path = |name: &str| path_text(&folder.path().join(name)).to_string();
        let (request, input, prompts) = (path("request.json"), path("input.txt"), path("prompts.txt"));
        let asked =
            if texts { vec!["--input", &input, "--prompts", &prompts] } else { vec!["--ids", &request] };
        let error = error(&[&["--model", path_text(folder.path())], &asked[..]].concat());
        let (_, command) = error.split_once("): ").expect(&error);
        let done = Command::new("sh").args(["-c", command]).output().unwrap();
        assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
        check();
    }
}

/// Prompts in another order give the same outputs in that order, and a prompt alone gives what it
/// gives among others.
#[test]
fn outputs_follow_their_prompts() {
    let folder = tempfile::tempdir().unwrap();
    for case in cases("expected.json") {
        let name = case.display();
        let request = read_json(case.join("request.json"));
        let expected = read_json(case.join("expected.json"));
        let outputs = expected["outputs"].as_array().unwrap();
        let ask = |prompts: Vec<Value>| {
            let path = folder.path().join("request.json");
            let mut request = request.clone();
            request["prompts"] = json!(prompts);
            std::fs::write(&path, request.to_string()).unwrap();
            answers(&run_json(&["--model", path_text(&case), "--ids", path_text(&path), "--json"]))
        };
        let mut prompts = request["prompts"].as_array().unwrap().clone();
        let mut reversed = outputs.clone();
        reversed.reverse();
        prompts.reverse();
        assert_eq!(ask(prompts.clone()), json!(reversed), "{name}");
        for (prompt, output) in prompts.iter().zip(&reversed) {
            assert_eq!(ask(vec![prompt.clone()]), json!([output]), "{name}");
        }
        assert_eq!(ask(vec![]), json!([]));
    }
}

/// The built-in run, in text mode, decodes the ids that transformers decodes.
#[test]
fn the_built_in_models_answer_as_transformers_does() {
    let assets = root().join("assets");
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
    let whole = std::fs::read_to_string(root().join("assets/dialogue.txt")).unwrap();
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
    assert!(run(&[]).stderr.is_empty());
}
