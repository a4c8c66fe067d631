//! The program as its users run it: what it prints, and bad input, which is one clear line.

use std::process::{Command, Output};

use serde_json::{Value, json};
use shared_prefix::config::Config;
use shared_prefix::rope::{Rope, Scaling};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shared-prefix")).args(arguments).output().unwrap()
}

fn stdout(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The one line that bad input must give, with exit code 2 and nothing on standard output.
fn error(arguments: &[&str]) -> String {
    let output = run(arguments);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
    assert!(output.stdout.is_empty(), "{arguments:?} printed a result");
    assert_eq!(text.lines().count(), 1, "{arguments:?} needs one line: {text}");
    assert!(text.starts_with("error: ") && !text.contains("panicked"), "{text}");
    text.trim_end().to_owned()
}

const TINY: [&str; 10] = [
    "--shape",
    "tiny",
    "--document-tokens",
    "20",
    "--prompts",
    "3",
    "--prompt-tokens",
    "4",
    "--new-tokens",
    "5",
];

#[test]
fn json_has_the_figures_of_every_mode() {
    let report: Value =
        serde_json::from_str(&stdout(&[&TINY[..], &["--json", "--threads", "1"]].concat())).unwrap();
    let asked = ["shape", "document_tokens", "prompts", "prompt_tokens", "new_tokens", "threads", "runs"];
    let of_asked = asked.map(|field| report[field].clone());
    assert_eq!(json!(of_asked), json!(["tiny", 20, 3, [4, 4], 5, 1, 1]));
    // A token's K and V: 2 x 2 layers x 2 heads x 16 x 4 = 512 bytes. Three sequences of 4 + 5 - 1 tokens of their own; the
    // four steps read 5 to 8 of them.
    let own = 3 * 8;
    for (mode, prefilled, held, read) in [
        ("shared", 20 + 12, 20 + own, 2 * 20 + 39),
        ("copies", 20 + 12, 60 + own, 2 * 60 + 39),
        ("recompute", 60 + 12, 60 + own, 2 * 60 + 39),
    ] {
        let figures = &report["modes"][mode];
        let counts = [
            "prefilled_tokens",
            "kv_bytes",
            "decode_step_kv_bytes",
            "new_tokens",
            "decode_steps",
            "same_ids",
        ];
        let counted = counts.map(|field| figures[field].clone());
        assert_eq!(json!(counted), json!([prefilled, 512 * held, 256 * read, 15, 4, 3]), "{mode}");
        let seconds = |field: &str| figures[field].as_f64().unwrap_or_else(|| panic!("{mode} lacks {field}"));
        let parts = seconds("prefill_s") + seconds("copy_kv_s") + seconds("decode_s");
        assert!((parts - seconds("total_s")).abs() < 1e-6, "{mode}");
        assert!((seconds("tokens_per_s") * seconds("total_s") - 15.0).abs() < 1e-6, "{mode}");
        assert!(figures.get("outputs").is_none(), "ids of random weights say nothing");
    }
    let modes = report["modes"].as_object().unwrap();
    assert_eq!(modes.len(), 3);
}

#[test]
fn the_table_has_a_column_for_each_mode_that_ran() {
    let text = stdout(&TINY);
    for part in [
        "shared: ",
        "copies / shared",
        "recompute / shared",
        "prefilled tokens",
        "3 of 3",
        "tiny: a document of 20 tokens",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let text = stdout(&[&TINY[..], &["--mode", "copies", "--runs", "2"]].concat());
    assert!(text.contains("copies: ") && !text.contains("shared: ") && !text.contains("ids as of"), "{text}");
    // Nothing was decoded: there is no step to tell of.
    let one = stdout(&[
        "--shape",
        "tiny",
        "--document-tokens",
        "5",
        "--prompts",
        "2",
        "--new-tokens",
        "1",
        "--mode",
        "shared",
    ]);
    let line = one.lines().find(|line| line.contains("one decode step")).unwrap();
    assert!(line.contains(" - "), "{line}");
}

#[test]
fn help_names_every_option() {
    let help = stdout(&["--help"]);
    for option in [
        "--shape",
        "--model",
        "--ids",
        "--document-tokens",
        "--prompts",
        "--prompt-tokens",
        "--new-tokens",
        "--mode",
        "--threads",
        "--runs",
        "--json",
    ] {
        assert!(help.contains(option), "{option}: {help}");
    }
}

/// The same ids from every run of the program.
#[test]
fn given_ids_are_answered() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ids.json");
    std::fs::write(&path, json!({ "document": [1, 2, 3, 4, 5], "prompts": [[7], [8, 9, 10]] }).to_string())
        .unwrap();
    let arguments = ["--shape", "tiny", "--ids", path.to_str().unwrap(), "--new-tokens", "3", "--json"];
    let report = || -> Value { serde_json::from_str(&stdout(&arguments)).unwrap() };
    let (first, second) = (report(), report());
    let outputs = &first["modes"]["shared"]["outputs"];
    assert_eq!(
        outputs.as_array().unwrap().iter().map(|ids| ids.as_array().unwrap().len()).collect::<Vec<_>>(),
        [3, 3]
    );
    for mode in ["shared", "copies", "recompute"] {
        assert_eq!(first["modes"][mode]["outputs"], *outputs, "{mode}");
        assert_eq!(second["modes"][mode]["outputs"], *outputs, "{mode}");
    }
    assert_eq!(first["prompt_tokens"], json!([1, 3]));
}

#[test]
fn bad_options_name_what_is_allowed() {
    for (arguments, want) in [
        (
            &["--document-tokens", "0"][..],
            "invalid value '0' for '--document-tokens <N>': allowed: an integer from 1 to 1048576",
        ),
        (&["--prompts", "-3"], "invalid value '-3' for '--prompts <U>': allowed: an integer from 1 to 4096"),
        (
            &["--prompt-tokens", "x"],
            "invalid value 'x' for '--prompt-tokens <N>': allowed: an integer from 1 to 65536",
        ),
        (
            &["--new-tokens", "0"],
            "invalid value '0' for '--new-tokens <N>': allowed: an integer from 1 to 1048576",
        ),
        (&["--threads", "0"], "invalid value '0' for '--threads <N>': allowed: an integer from 1 to 1024"),
        (&["--runs", "1.5"], "invalid value '1.5' for '--runs <N>': allowed: an integer from 1 to 1000"),
        (
            &["--mode", "both"],
            "invalid value 'both' for '--mode <MODE>' [possible values: shared, copies, recompute, all]",
        ),
        (
            &["--shape", "huge"],
            "invalid value 'huge' for '--shape <SHAPE>' [possible values: tiny, small, llama-1b]",
        ),
        (
            &["--model", "x", "--shape", "tiny"],
            "the argument '--model <DIR>' cannot be used with '--shape <SHAPE>'",
        ),
        (
            &["--ids", "x", "--prompts", "2"],
            "the argument '--ids <FILE>' cannot be used with '--prompts <U>'",
        ),
        (&["--model", "nowhere"], "cannot read config nowhere/config.json: No such file or directory"),
        (&["--ids", "nowhere"], "cannot read ids nowhere: No such file or directory"),
    ] {
        let said = error(arguments);
        assert!(said.starts_with(&format!("error: {want}")), "{said}");
    }
}

#[test]
fn bad_ids_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ids.json");
    for (text, want) in [
        ("{", "not JSON: EOF while parsing an object"),
        ("[]", "prompts is null, allowed: a list of lists of ids"),
        (r#"{"document": [1], "prompts": 3}"#, "prompts is 3, allowed: a list of lists of ids"),
        (r#"{"document": [-1], "prompts": []}"#, "document is [-1], allowed: a list of ids"),
        (r#"{"document": [1], "prompts": [[2], [true]]}"#, "prompts[1] is [true], allowed: a list of ids"),
        (r#"{"document": [1], "prompts": []}"#, "prompts is empty, allowed: at least one prompt"),
        (r#"{"document": [], "prompts": [[1]]}"#, "document is empty, allowed: at least one token"),
        (r#"{"document": [1, 256], "prompts": [[1]]}"#, "document[1] is 256, allowed: 0 to 255"),
    ] {
        std::fs::write(&path, text).unwrap();
        let said = error(&["--shape", "tiny", "--ids", path.to_str().unwrap()]);
        assert!(said.contains(want), "{said}");
    }
}

/// What a Llama's config may say, and what it may not.
#[test]
fn configs_are_refused_by_field() {
    let good = json!({
        "model_type": "llama", "hidden_act": "silu", "vocab_size": 64, "hidden_size": 32, "num_attention_heads": 4,
        "attention_bias": false, "mlp_bias": false, "rope_scaling": null, "pretraining_tp": 1, "eos_token_id": [3, 5],
    });
    let config = Config::of(good.clone()).unwrap();
    assert_eq!(
        (config.head_dim, config.kv_heads, config.ends, config.rope),
        (8, 4, vec![3, 5], unscaled(10_000.0))
    );
    for (field, value, want) in [
        ("model_type", json!("mistral"), "model_type is \"mistral\", allowed: \"llama\""),
        ("hidden_act", json!("gelu"), "hidden_act is \"gelu\", allowed: \"silu\""),
        ("attention_bias", json!(true), "attention_bias is true, allowed: false"),
        ("mlp_bias", json!(true), "mlp_bias is true, allowed: false"),
        ("sliding_window", json!(4096), "sliding_window is 4096, allowed: null"),
        ("partial_rotary_factor", json!(0.5), "partial_rotary_factor is 0.5, allowed: 1.0"),
        ("pretraining_tp", json!(2), "pretraining_tp is 2, allowed: 1"),
        ("quantization_config", json!({}), "quantization_config is {}, allowed: null"),
        ("hidden_size", json!(0), "hidden_size is 0, allowed: an integer from 1 to 1048576"),
        ("hidden_size", json!("wide"), "hidden_size is \"wide\", allowed: an integer from 1 to 1048576"),
        ("head_dim", json!(7), "head_dim is 7, allowed: an even number, whose halves RoPE turns"),
        ("head_dim", json!(514), "head_dim is 514, allowed: an integer from 1 to 512"),
        (
            "num_key_value_heads",
            json!(3),
            "num_key_value_heads is 3, allowed: a divisor of num_attention_heads, 4",
        ),
        ("num_hidden_layers", json!(0), "num_hidden_layers is 0, allowed: an integer from 1 to 1024"),
        ("rms_norm_eps", json!(0), "rms_norm_eps is 0, allowed: a number above 0, at most 1"),
        ("rope_theta", json!(-1.0), "rope_theta is -1.0, allowed: a number above 0, at most 1000000000000"),
        ("tie_word_embeddings", json!("no"), "tie_word_embeddings is \"no\", allowed: true or false"),
        (
            "eos_token_id",
            json!(64),
            "eos_token_id is 64, allowed: an integer from 0 to 63, or a list of them",
        ),
    ] {
        let mut bad = good.clone();
        bad[field] = value;
        assert_eq!(Config::of(bad).unwrap_err().to_string(), want);
    }
}

fn unscaled(theta: f64) -> Rope {
    Rope { theta, scaling: None }
}

/// RoPE as transformers 4 and 5 write it, and what it may not say.
#[test]
fn rope_is_read_and_refused_by_field() {
    let llama = |change: Value| {
        let mut scaling = json!({
            "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        });
        scaling.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        scaling
    };
    let scaled = |theta| Rope {
        theta,
        scaling: Some(Scaling {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_length: 8192.0,
        }),
    };
    let none = json!({});
    for (fields, want) in [
        (json!({"rope_theta": 500.0}), unscaled(500.0)),
        (json!({"rope_theta": 500.0, "rope_scaling": {"type": "default"}}), unscaled(500.0)),
        (json!({"rope_theta": 500.0, "rope_scaling": llama(none.clone())}), scaled(500.0)),
        (json!({"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}), unscaled(500.0)),
        (json!({"rope_parameters": llama(json!({"rope_theta": 500.0}))}), scaled(500.0)),
        (json!({"rope_parameters": llama(none)}), scaled(10_000.0)),
    ] {
        assert_eq!(Config::of(fields.clone()).unwrap().rope, want, "{fields}");
    }
    for (fields, want) in [
        (json!({"rope_scaling": 2}), "in rope_scaling: it is 2, allowed: a JSON object"),
        (
            json!({"rope_scaling": {"rope_type": "yarn"}}),
            "in rope_scaling: rope_type is \"yarn\", allowed: \"default\" or \"llama3\"",
        ),
        (
            json!({"rope_parameters": {"rope_type": 3}}),
            "in rope_parameters: rope_type is 3, allowed: \"default\" or \"llama3\"",
        ),
        (
            json!({"rope_parameters": {"partial_rotary_factor": 0.5}}),
            "in rope_parameters: partial_rotary_factor is 0.5, allowed: 1.0",
        ),
        (
            json!({"rope_parameters": {}, "rope_scaling": {}}),
            "rope_scaling is {}, allowed: null beside rope_parameters",
        ),
        (
            json!({"rope_scaling": llama(json!({"factor": null}))}),
            "in rope_scaling: factor is null, allowed: a number above 0, at most 1000000",
        ),
        (
            json!({"rope_scaling": llama(json!({"high_freq_factor": 1.0}))}),
            "in rope_scaling: high_freq_factor is 1.0, allowed: a number above 1, at most 1000000",
        ),
        (
            json!({"rope_scaling": llama(json!({"low_freq_factor": 0}))}),
            "in rope_scaling: low_freq_factor is 0, allowed: a number above 0, at most 1000000",
        ),
        (
            json!({"rope_scaling": llama(json!({"original_max_position_embeddings": "long"}))}),
            "in rope_scaling: original_max_position_embeddings is \"long\", allowed: a number above 0, at most 16777216",
        ),
    ] {
        assert_eq!(format!("{:#}", Config::of(fields).unwrap_err()), want);
    }
}

/// A generation_config.json says what ends an answer; without one config.json does.
#[test]
fn ends_are_those_that_generate_obeys() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, json: Value| std::fs::write(folder.path().join(name), json.to_string()).unwrap();
    let ends = || Config::read(folder.path()).map(|config| config.ends);
    write("config.json", json!({ "vocab_size": 8, "eos_token_id": 3 }));
    assert_eq!(ends().unwrap(), [3]);
    write("generation_config.json", json!({ "eos_token_id": [5, 7] }));
    assert_eq!(ends().unwrap(), [5, 7]);
    write("generation_config.json", json!({}));
    assert!(ends().unwrap().is_empty());
    write("generation_config.json", json!({ "eos_token_id": 9 }));
    let error = format!("{:#}", ends().unwrap_err());
    assert!(
        error.contains("generation_config.json: eos_token_id is 9, allowed: an integer from 0 to 7"),
        "{error}"
    );
}

#[test]
fn damaged_folders_are_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let error_of = |config: &str| {
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        error(&["--model", folder.path().to_str().unwrap()])
    };
    assert!(error_of("nonsense").contains("config.json: not JSON"));
    assert!(error_of("[1]").contains("config.json: not a JSON object"));
    let tiny = json!({ "vocab_size": 8, "hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2 });
    let said = error_of(&tiny.to_string());
    assert!(said.contains("model.safetensors does not exist, allowed: a safetensors file"), "{said}");
}
