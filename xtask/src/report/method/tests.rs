//! The page of results that are made here.

use serde_json::{Value, json};

use super::*;

fn run(task: &str, way: &str, seed: u64, held_out: Value) -> Value {
    json!({
        "task": task, "way": way, "seed": seed, "steps": 100, "cpu_seconds": 1, "parameters": 250_000,
        "loss_every_50_steps": [1.0, 0.0], "held_out": held_out,
    })
}

/// Trained for three times the steps.
fn longer(mut run: Value) -> Value {
    run["steps"] = json!(300);
    run
}

fn quality() -> Value {
    let task = |nothing: Value| {
        json!({
            "prompts": 3, "input_tokens": 40.5, "prompt_tokens": 2.0, "new_tokens": 1.5, "always_nothing": nothing,
            "example": { "text": "a text", "prompts": ["place 1 ?", "place 2 ?"], "answers": ["here", "there"] },
        })
    };
    json!({
        "date": "1999-12-31", "packages": { "torch": "0.0" }, "examples_of_a_step": 16, "prompts_of_an_example": 4,
        "evaluated_examples": 100,
        "tasks": { "qa": task(json!({ "accuracy": 0.25 })), "order": task(Value::Null) },
        "runs": [
            run("qa", "pid", 1, json!({ "accuracy": 0.9, "joint": 0.5 })),
            run("qa", "pid", 2, json!({ "accuracy": 0.8, "joint": 0.5 })),
            run("qa", "pie", 1, json!({ "accuracy": 1.0, "joint": 1.0 })),
            run("order", "one", 1, json!({ "accuracy": 0.75, "joint": 0.5 })),
            longer(run("order", "one", 1, json!({ "accuracy": 1.0, "joint": 1.0 }))),
        ],
    })
}

fn costs() -> Value {
    let way = |way: &str, seconds: [f64; 3], flops: u64| json!({ "way": way, "seconds": seconds, "flops": flops, "bytes": 2_000_000_000u64, "peak_bytes": 3_000_000_000u64 });
    json!({
        "machine": "made up", "date": "1999-12-31", "threads": 2, "transformers": "0.0", "shape": "t5-base",
        "tasks": [{
            "task": "qa", "prompts": 8, "keys": 768, "prompt_tokens": 12, "new_tokens": 8,
            // The machine's speed drifts: the median of a turn's ratios is 2, the ratio of medians 3.
            "ways": [
                way("PID", [1.0, 2.0, 9.0], 4_000_000_000),
                way("PIE", [2.0, 6.0, 9.0], 20_000_000_000),
                json!({ "way": "HF, PIE", "seconds": [5.0, 5.0, 5.0] }),
            ],
        }],
    })
}

fn decoder_only() -> Value {
    let mode = |decode_s: f64, kv_bytes: u64| {
        json!([{
            "prefilled_tokens": 768, "kv_bytes": kv_bytes, "decode_step_kv_bytes": kv_bytes, "prefill_s": 1.0, "copy_kv_s": 0.5,
            "decode_s": decode_s, "tokens_per_s": 10.0, "peak_bytes": 5_000_000_000u64,
        }])
    };
    json!({
        "machine": "made up", "date": "1999-12-31", "threads": 2, "shape": "llama-1b", "document_tokens": 512, "prompts": 16,
        "prompt_tokens": 16, "new_tokens": 16,
        "modes": { "shared": mode(1.0, 20_000_000), "copies": mode(4.0, 300_000_000), "recompute": mode(4.0, 300_000_000) },
    })
}

fn page(files: &[(&str, &Value)]) -> Result<Files> {
    let folder = tempfile::tempdir()?;
    for (name, value) in files {
        std::fs::write(folder.path().join(name), value.to_string())?;
    }
    let mut made = Files::new();
    super::files(folder.path(), &mut made)?;
    Ok(made)
}

fn line<'a>(page: &'a str, beginning: &str) -> &'a str {
    page.lines()
        .find(|line| line.starts_with(beginning))
        .unwrap_or_else(|| panic!("no {beginning} in {page}"))
}

#[test]
fn every_way_has_its_line() {
    let made = page(&[
        ("quality.json", &quality()),
        ("cost.json", &costs()),
        ("decoder-only.json", &decoder_only()),
    ])
    .unwrap();
    let text = &made[PAGE];
    // Mean, least and most of the seeds; one value where they agree.
    assert_eq!(line(text, "| qa | PID |"), "| qa | PID | 2 | 85.0 % (80.0 to 90.0) | 50.0 % | 1.00 |");
    assert!(line(text, "| qa | PIE |").starts_with("| qa | PIE | 1 | 100.0 % | 100.0 % | "));
    assert_eq!(line(text, "| qa | always"), "| qa | always \"nothing\" | | 25.0 % | | |");
    assert!(
        line(text, "| order | one sequence |").starts_with("| order | one sequence | 1 | 75.0 % | 50.0 % | ")
    );
    assert!(
        text.contains("### Order\n\nBroken: The task falls apart")
            && text.contains("\"place 1 ?\" -- \"here\""),
        "{text}"
    );
    assert!(!text.contains("### Counting"), "a task without runs: {text}");
    // Times of a turn go together.
    let cost = line(text, "| qa, U = 8, n = 768 | PIE |");
    assert_eq!(
        cost,
        "| qa, U = 8, n = 768 | PIE | 100.0 % | 20.0 (5.00x) | 2.00 (1.00x) | 6.00 (2.00x) | 3.00 (1.00x) |"
    );
    assert_eq!(line(text, "| HF, PIE |"), "| HF, PIE | 5.00 s (2.50x) |  |");
    assert_eq!(
        line(text, "| copies |"),
        "| copies | 768 (1.00x) | 300 (15.0x) | 300 (15.0x) | 1.50 (1.00x) | 4.00 (4.00x) | 10.0 (1.00x) | 5.00 (1.00x) |"
    );
    assert!(!text.contains("and yet less time"), "{text}");
    let mut slow = costs();
    slow["tasks"][0]["ways"][0]["seconds"] = json!([4.0, 12.0, 18.0]);
    let made_slow = page(&[("quality.json", &quality()), ("cost.json", &slow)]).unwrap();
    assert!(
        made_slow[PAGE].contains("qa: by formula PIE takes more FLOPs than PID, and yet less time: 0.500x")
    );
    // A loss that is 0 to four digits has a place in the figure.
    assert!(made[CURVES].contains("<svg") && made[COSTS].contains("<svg"));
}

#[test]
fn what_is_missing_or_no_share_is_said() {
    assert!(page(&[]).unwrap().is_empty());
    assert_eq!(page(&[("quality.json", &quality())]).unwrap().len(), 2);
    let error = |name: &str, value: &Value| {
        let quality = quality();
        let files = if name == "quality.json" { vec![] } else { vec![("quality.json", &quality)] };
        format!("{:#}", page(&[&files[..], &[(name, value)]].concat()).unwrap_err())
    };
    let mut bad = quality();
    bad["runs"][0]["held_out"]["accuracy"] = json!(90.0);
    assert!(error("quality.json", &bad).contains("accuracy of qa is 90, allowed: 0 to 1"));
    let mut bad = costs();
    bad["tasks"][0]["ways"][1]["seconds"] = json!([1.0, 0.0, 1.0]);
    assert!(error("cost.json", &bad).contains("seconds of PIE are [1.0, 0.0, 1.0], allowed: positive"));
    let mut bad = costs();
    bad["tasks"][0]["ways"].as_array_mut().unwrap().remove(1);
    assert!(error("cost.json", &bad).contains("qa lacks PIE"));
    let mut bad = decoder_only();
    bad["modes"]["copies"] = json!([]);
    assert!(error("decoder-only.json", &bad).contains("a mode has no runs"));
}

#[test]
fn a_verdict_is_in_points_and_names_who_wins() {
    let of = |pid: &[f64], pie: f64, more: Value| {
        let mut quality = quality();
        let of_seed =
            |way: &str, joint: f64| run("choice", way, 1, json!({ "joint": joint, "in_order": 0.5 }));
        let mut runs: Vec<Value> = pid.iter().map(|joint| of_seed("pid", *joint)).collect();
        runs.extend([of_seed("pie", pie), of_seed("pie", pie)]);
        if !more.is_null() {
            runs.push(run("choice", "one", 1, more));
        }
        quality["runs"] = json!(runs);
        verdict(&serde_json::from_value(quality).unwrap(), "choice")
    };
    let text = of(&[0.1, 0.2], 0.9, json!({ "joint": 1.0 }));
    assert_eq!(
        text,
        "\n**PID loses by 75.0 points: 15.0 % against 90.0 %.** Otherwise: in one sequence 100.0 %, PID asked in order 50.0 %.\n"
    );
    assert!(of(&[0.95, 0.95], 0.9, Value::Null).contains("PID wins by 5.0 points: 95.0 % against 90.0 %"));
    // A seed of one is as good as the other's; a seed alone says nothing.
    for (pid, mean) in [(&[0.5, 0.9][..], "70.0"), (&[0.5], "50.0")] {
        let text = of(pid, 0.9, Value::Null);
        assert!(
            text.contains(&format!("PID and PIE cannot be told apart: {mean} % against 90.0 %")),
            "{text}"
        );
    }
}

#[test]
fn sizes_show_where_pid_loses() {
    let mut quality = quality();
    let sized = |quality: &Value, value: u64| {
        let mut task = quality["tasks"]["order"].clone();
        task["size"] = json!({ "of": "order", "counts": "places", "value": value });
        task
    };
    // By size, not by name.
    quality["tasks"]["order"] = sized(&quality, 6);
    quality["tasks"]["order of 2"] = sized(&quality, 2);
    quality["tasks"]["order of 12"] = sized(&quality, 12);
    let of = |task: &str, pid: [f64; 2], pie: [f64; 2]| {
        let way = |way: &'static str, right: [f64; 2]| {
            right.map(|right| run(task, way, 1, json!({ "accuracy": right })))
        };
        [way("pid", pid), way("pie", pie)].concat()
    };
    let runs = [
        of("order of 12", [0.25, 0.5], [0.75, 1.0]),
        of("order", [0.5, 0.5], [1.0, 1.0]),
        of("order of 2", [0.75, 1.0], [0.75, 1.0]),
    ];
    let more = [
        run("order", "marked", 1, json!({ "accuracy": 0.5 })),
        longer(run("order", "marked", 1, json!({ "accuracy": 1.0 }))),
    ];
    quality["runs"] = json!([runs.concat(), more.to_vec()].concat());
    let made = page(&[("quality.json", &quality)]).unwrap();
    let table = "\n\
        | places | steps | PID | PIE | PID, a mark before the input | PID |\n\
        | --- | --- | --- | --- | --- | --- |\n\
        | 2 | 100 | 75.0, 100.0 | 75.0, 100.0 |  |  |\n\
        | 6 | 100 | 50.0, 50.0 | 100.0, 100.0 | 50.0 | loses by 50.0 points |\n\
        | 6 | 300 |  |  | 100.0 |  |\n\
        | 12 | 100 | 25.0, 50.0 | 75.0, 100.0 |  | loses by 50.0 points |\n";
    assert!(made[PAGE].contains(table), "{}", made[PAGE]);
    // None wrong has a place in the figure too.
    assert!(made[PAGE].contains(SIZES) && made[SIZES].contains("places"));
    // One size is no sweep.
    quality["tasks"].as_object_mut().unwrap().retain(|name, _| !name.contains(" of "));
    let made = page(&[("quality.json", &quality)]).unwrap();
    assert!(!made[PAGE].contains("By the number of") && !made.contains_key(SIZES));
}

/// With short prompts an eighth of the encoding is left of 8, with long ones hardly anything is shared.
#[test]
fn long_prompts_leave_little_of_the_gain() {
    let text = long_prompts().unwrap();
    let cells = |tokens: &str| -> Vec<(f64, f64)> {
        let cells = line(&text, &format!("| {tokens} |")).split('|').skip(2).filter(|cell| !cell.is_empty());
        let pair = |cell: &str| {
            let (flops, bytes) = cell.trim().split_once(", ").unwrap();
            (flops.parse().unwrap(), bytes.parse().unwrap())
        };
        cells.map(pair).collect()
    };
    let (short, long) = (cells("4"), cells("4096"));
    assert_eq!((short.len(), long.len()), (4, 4), "{text}");
    assert!(short[2].0 < 0.5 && long[2].0 > 0.7, "{text}");
    // The decoder's own K/V of a long prompt is read beside the input's.
    assert!(short[2].1 < 1.0 && long[2].1 > 1.0, "{text}");
}
