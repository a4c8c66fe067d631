//! T5 end to end on the made-up card.

use serde_json::{Value, json};

use super::{BASE, FILE, line, machine, made, run, write};

/// A line of `t5.json`.
fn t5_line(system: &str, prompts: usize, seconds: f64) -> Value {
    json!({
        "system": system, "shape": "flan-t5-xl", "dtype": "bf16", "keys": 512, "prompts": prompts,
        "prompt_tokens": 3, "new_tokens": 16, "latency_s": { "median": 9.0, "min": seconds, "max": 9.0, "runs": 3 },
        "tokens_per_s": 1.0, "peak_bytes": 6e9, "decode_step_median_s": seconds / 20.0,
        "decode_step_floor_bytes": 3e9,
    })
}

fn t5_page(card: &str, lines: Vec<Value>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut machine = machine();
    machine["card"] = json!(card);
    write(folder.path(), "made-up/t5.json", &json!({ "machine": machine, "lines": lines }).to_string());
    let mut attention = run(vec![line("onekv", "shared", BASE, (1, 1, 128), 5.0)]);
    attention["machine"] = machine;
    write(folder.path(), FILE, &attention.to_string());
    let mut made = made(folder.path()).unwrap();
    assert!(made["results/made-up/t5-tokens.svg"].contains("onekv, PID"));
    made.remove("docs/performance.md").unwrap()
}

#[test]
fn t5_is_judged_by_its_floor_and_its_peers() {
    let compiled = "HF, encoded once and expanded, compiled";
    let page = t5_page(
        "Made-up card of a test",
        vec![
            t5_line("onekv, PID", 64, 0.020),
            t5_line("onekv, PID", 1, 0.016),
            t5_line("HF, PIE", 64, 0.094),
            t5_line("HF, PIE", 1, 0.020),
            t5_line("HF, encoded once and expanded", 64, 0.080),
            t5_line(compiled, 64, 0.058),
        ],
    );
    // A step of 1 ms and 64 tokens; 3 GB at 4 TB/s take 0.75 ms.
    let at = "(flan-t5-xl, U = 64, n = 512, 16 new tokens)";
    assert!(page.contains(&format!("| <= 1.50x | 1.33x {at} | pass |")), "{page}");
    assert!(page.contains(&format!("| >= 50000 tokens/s | 64000 tokens/s {at} | pass |")), "{page}");
    assert!(page.contains("same answers as on the CPU | yes | not recorded | not measured |"), "{page}");
    let slow = t5_page("Made-up card of a test", vec![t5_line("onekv, PID", 64, 0.030)]);
    assert!(slow.contains(&format!("| <= 1.50x | 2.00x {at} | **miss** |")), "{slow}");
    assert!(slow.contains(&format!("| >= 50000 tokens/s | 42667 tokens/s {at} | **miss** |")), "{slow}");
    // U = 1 is not among U >= 8. The quicker of Hugging Face's two counts.
    assert!(
        page.contains("| >= 4.60x | 4.70x (flan-t5-xl, U = 64, n = 512, 16 new tokens) | pass |"),
        "{page}"
    );
    assert!(
        page.contains("| >= 3.00x | 2.90x (flan-t5-xl, U = 64, n = 512, 16 new tokens) | **miss** |"),
        "{page}"
    );
    assert!(
        page.contains("| flan-t5-xl | bf16 | 512 | 64 | 3 | 16 | HF, PIE | 0.0940 | 10894 | 6.00 | 4.70x |"),
        "{page}"
    );
}

#[test]
fn crossovers_of_t5_are_measured_and_predicted() {
    let mut lines = Vec::new();
    for (prompts, pid, pie, replicated) in
        [(1, 0.012, 0.010, 0.012), (2, 0.013, 0.012, 0.013), (4, 0.014, 0.020, 0.016), (64, 0.02, 0.3, 0.05)]
    {
        lines.push(t5_line("onekv, PID", prompts, pid));
        lines.push(t5_line("onekv, PIE", prompts, pie));
        lines.push(t5_line("onekv, PID-replicated", prompts, replicated));
    }
    let row = "| flan-t5-xl, bf16, n = 512, 16 new tokens | 4, of those measured |";
    let page = t5_page("Made-up card of a test", lines.clone());
    assert!(page.contains(&format!("{row} no peak known for this card or type |")), "{page}");
    // Worked out apart from the code, at 989 TFLOPS and 4 TB/s: PIE over PID is 1.0006 at U = 1, where both read the
    // weights and one K/V, and 1.127 at U = 2, where PIE encodes twice.
    let page = t5_page("H200, made up", lines.clone());
    assert!(page.contains(&format!("{row} 2 |")), "{page}");
    lines.retain(|line| line["prompts"].as_u64().unwrap() <= 2);
    let page = t5_page("H200, made up", lines);
    assert!(page.contains("16 new tokens | none up to 2 |"), "{page}");
}

#[test]
fn bad_lines_of_t5_are_refused() {
    let refused = |lines: Vec<Value>| {
        let file = json!({ "machine": machine(), "lines": lines }).to_string();
        super::refused("made-up/t5.json", &file)
    };
    let with = |field: &str, value: Value| {
        let mut line = t5_line("onekv, PID", 4, 0.01);
        line[field] = value;
        refused(vec![line])
    };
    for (error, says) in [
        (with("prompts", json!(0)), "lines[0].prompts is 0, allowed: 1 or more"),
        (with("latency_s", json!(null)), "lines[0].latency_s is missing, and there is no error"),
        (
            with("decode_step_median_s", json!(-1)),
            "lines[0].decode_step_median_s is -1, allowed: more than 0",
        ),
        (with("keys", json!("many")), "lines[0].keys: invalid type: string \"many\""),
        (refused(vec![t5_line("HF, PIE", 4, 0.01); 2]), "lines[1] measures HF, PIE a second time"),
    ] {
        assert!(error.contains("made-up/t5.json") && error.contains(says), "{error}\nlacks: {says}");
    }
}

#[test]
fn answers_that_differ_are_a_miss() {
    for (told, row) in [
        (json!(true), "yes | yes | pass |"),
        (json!(false), "yes | no | **miss** |"),
        (json!("no CPU time left"), "yes | no CPU time left | not measured |"),
    ] {
        let lines = [t5_line("onekv, PID", 4, 0.01)];
        let file = json!({ "machine": machine(), "same_answers_f32": told, "lines": lines }).to_string();
        let page = &super::report("made-up/t5.json", &file).unwrap()["docs/performance.md"];
        assert!(page.contains(&format!("same answers as on the CPU | {row}")), "{page}");
    }
}
