//! Folders of Hugging Face against transformers: `tests/goldens/`, made by `tools/goldens/llama.py`.

use std::path::{Path, PathBuf};
use std::process::Command;

use safetensors::SafeTensors;
use serde_json::Value;
use shared_prefix::config::Config;
use shared_prefix::generate::Request;
use shared_prefix::load;

use crate::{METHODS, TOLERANCE, answers, largest_difference, shared_logits};

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    let mut cases: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() >= 4, "only {} cases", cases.len());
    cases
}

fn read(path: PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn ids_and_logits_equal_transformers() {
    for case in cases() {
        let (asked, expected) = (read(case.join("request.json")), read(case.join("expected.json")));
        let config = Config::read(&case).unwrap();
        let request = Request {
            document: serde_json::from_value(asked["document"].clone()).unwrap(),
            prompts: serde_json::from_value(asked["prompts"].clone()).unwrap(),
            new_tokens: 8,
            ends: config.ends.clone(),
        };
        let model = load::folder(&case, config).unwrap();
        for method in METHODS {
            let (ids, _) = answers(&model, method, &request);
            assert_eq!(serde_json::json!(ids), expected["outputs"], "{} {method:?}", case.display());
        }
        let file = std::fs::read(case.join("expected.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&file).unwrap();
        for (i, got) in shared_logits(&model, &request).iter().enumerate() {
            let want = file.tensor(&format!("logits.{i}")).unwrap();
            let floats = |bytes: &[u8]| f64::from(f32::from_le_bytes(bytes.try_into().unwrap()));
            let want: Vec<f64> = want.data().chunks_exact(4).map(floats).collect();
            let worst = largest_difference(&got.concat(), &want);
            assert!(worst < TOLERANCE, "{} logits.{i}: {worst}", case.display());
        }
    }
}

#[test]
fn the_program_answers_as_transformers_does() {
    for case in cases() {
        let mut program = Command::new(env!("CARGO_BIN_EXE_shared-prefix"));
        program.arg("--model").arg(&case).arg("--ids").arg(case.join("request.json"));
        let output = program.args(["--new-tokens", "8", "--json"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        // Nothing was left unread.
        assert!(output.status.success() && said.is_empty(), "{}: {said}", case.display());
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let expected = read(case.join("expected.json"));
        for mode in ["shared", "copies", "recompute"] {
            assert_eq!(report["modes"][mode]["outputs"], expected["outputs"], "{} {mode}", case.display());
        }
    }
}

/// A head that the config ties is not looked at, as in transformers; a tensor that is missing is named.
#[test]
fn heads_are_those_that_the_config_says() {
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/grouped");
    let tied = Config { tied: true, ..Config::read(&case).unwrap() };
    assert!(load::folder(&case, tied).is_ok());
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/tied-bf16");
    let own = Config { tied: false, ..Config::read(&case).unwrap() };
    let error = load::folder(&case, own).err().expect("there is no head").to_string();
    assert!(error.contains("lm_head.weight is missing"), "{error}");
}
