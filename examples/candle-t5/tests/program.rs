//! The program, run as its users and `cargo xtask peers` run it.

use std::process::{Command, Output};

use candle_t5::measure;
use serde_json::{Value, json};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_candle-t5"))
        .args(arguments)
        .env("RAYON_NUM_THREADS", "2")
        .output()
        .unwrap()
}

fn json(arguments: &[&str]) -> Value {
    let output = run(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

const TINY: [&str; 8] = ["--shape", "tiny", "--prompts", "3", "--input-tokens", "40", "--new-tokens", "4"];

/// The parts are of the total; a token more takes candle another projection of K and V, and ours none.
#[test]
fn seconds_of_both_models_are_told() {
    let seconds = json(&[&TINY[..], &["--json", "--runs", "2"]].concat());
    assert_eq!(seconds["threads"], 2);
    let of = |system: &str, part: &str| seconds[system][part].as_f64().unwrap();
    for system in ["onekv", "candle"] {
        let parts = of(system, "encode_s") + of(system, "decode_s");
        let parts = parts + if system == "onekv" { of(system, "cross_kv_s") } else { 0.0 };
        let total = of(system, "total_s");
        assert!(parts > 0.0 && (parts - total).abs() < 1e-9 + 1e-6 * total, "{seconds}");
    }
    let text = run(&TINY);
    let text = String::from_utf8(text.stdout).unwrap();
    for word in
        ["encode", "K/V of the cross-attention", "decode", "total", "in each of 4 passes", "2 threads"]
    {
        assert!(text.contains(word), "{word} is missing in\n{text}");
    }
}

/// What `cargo xtask peers cpu` asks: an answer to every order, in order; copies of K and V up to so many bytes.
#[test]
fn orders_are_answered() {
    let mut orders = Vec::new();
    // Of a matrix product and of flash attention: whether its copies fit.
    for (rows, keys, fits) in [(1, 64, true), (7, 33, true), (7, 64, false)] {
        for kind in ["flash", "matmul"] {
            for (layout, fits) in [("queries folded", true), ("K/V expanded", fits)] {
                let system = format!("candle {kind}, {layout}");
                let order = json!({ "what": "attention", "system": system, "rows": rows, "keys": keys, "seconds": 0.0 });
                orders.push((order, if fits { Ok(3) } else { Err("would take more than 2 MiB") }));
            }
        }
    }
    for (system, want) in [
        ("onekv on candle, PID", Ok(1)),
        ("candle, encodes once", Ok(1)),
        ("PyTorch", Err("system is PyTorch, allowed: onekv on candle, PID")),
    ] {
        let order = json!({ "what": "t5", "system": system, "shape": "tiny", "rows": 3, "keys": 40, "prompt_tokens": 3,
                            "new_tokens": 4 });
        orders.push((order, want));
    }
    let lines: String = orders.iter().map(|(order, _)| format!("{order}\n")).collect();
    let mut answers = Vec::new();
    measure::orders(lines.as_bytes(), &mut answers, 2 << 20).unwrap();
    let answers: Vec<Value> = answers
        .split(|b| *b == b'\n')
        .filter(|l| !l.is_empty())
        .map(|l| serde_json::from_slice(l).unwrap())
        .collect();
    assert_eq!(answers.len(), orders.len());
    for ((order, want), answer) in orders.iter().zip(answers) {
        match want {
            Ok(runs) => {
                let seconds = answer["seconds"].as_array().unwrap_or_else(|| panic!("{order}: {answer}"));
                assert!(
                    seconds.len() == *runs && seconds.iter().all(|s| s.as_f64().unwrap() > 0.0),
                    "{order}: {answer}"
                );
            }
            Err(why) => assert!(answer["error"].as_str().unwrap().contains(why), "{order}: {answer}"),
        }
    }
}

#[test]
fn sizes_that_are_not_allowed_are_named() {
    for (arguments, why) in [
        (&["--prompts", "0"][..], "allowed: a whole number from 1 to 65536"),
        (&["--new-tokens", "70000"], "allowed: a whole number from 1 to 65536"),
        (&["--shape", "huge"], "possible values: tiny"),
    ] {
        let output = run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(why), "{said}");
    }
}
