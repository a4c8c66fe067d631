//! The program.

use std::process::{Command, Output};

use serde_json::Value;

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

/// What `cargo xtask peers cpu` reads: every system at every point, copies of K and V up to so many bytes.
#[test]
fn attentions_are_measured_at_every_point() {
    let measured =
        json(&["--measure", "attention", "--rows", "1,7", "--keys", "33,64", "--most-bytes", "2752511"]);
    let lines = measured["lines"].as_array().unwrap();
    let has = |system: &str, rows: u64, keys: u64| {
        let of = |line: &&Value| line["system"] == system && line["rows"] == rows && line["keys"] == keys;
        let mut found = lines.iter().filter(of);
        let line = found.next()?;
        assert!(found.next().is_none() && line["runs"].as_u64()? >= 5);
        let [min, median, max] = ["min_s", "median_s", "max_s"].map(|field| line[field].as_f64().unwrap());
        assert!(0.0 < min && min <= median && median <= max, "{line}");
        Some(())
    };
    for rows in [1, 7] {
        for keys in [33, 64] {
            for system in ["candle flash", "candle matmul"] {
                assert!(
                    has(&format!("{system}, queries folded"), rows, keys).is_some(),
                    "{system} {rows} {keys}"
                );
                let expanded = has(&format!("{system}, K/V expanded"), rows, keys);
                assert_eq!(
                    expanded.is_some(),
                    2 * rows * keys * 768 * 4 < 7 * 64 * 6144,
                    "{system} {rows} {keys}"
                );
            }
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
