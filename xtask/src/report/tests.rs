//! Reports of results that are made here, of a card that does not exist.

mod crossover;
mod t5;

use std::path::Path;

use serde_json::{Value, json};

use super::data::{Results, attention};
use super::page::Files;
use super::performance::files;
use super::sweep::Joined;
use super::targets::{self, Verdict};

/// Bytes per second of the made-up card's copy.
const COPY: f64 = 4e12;

fn machine() -> Value {
    json!({
        "card": "Made-up card of a test", "compute_capability": "9.0", "multiprocessors": 132, "simulated": false,
        "date": "1999-12-31", "driver": "0.0",
    })
}

/// A line as benches/card writes it; `us`: its median with cold L2.
fn line(
    system: &str,
    layout: &str,
    model: (&str, usize, usize, usize),
    shape: (usize, usize, usize),
    us: f64,
) -> Value {
    let (name, heads, kv_heads, head_dim) = model;
    let (inputs, rows, keys) = shape;
    let copies = if layout == "replicated" { rows } else { 1 };
    let width = heads * head_dim;
    let kv = 4 * inputs * copies * keys * kv_heads * head_dim;
    let kv = if layout == "e4m3" { kv / 2 + 8 * kv_heads } else { kv };
    let bytes = kv + 4 * inputs * rows * width;
    json!({
        "system": system, "layout": layout, "model": name, "heads": heads, "kv_heads": kv_heads,
        "head_dim": head_dim, "softcap": null, "inputs": inputs, "rows": rows, "keys": keys,
        "kernel": "onekv_bf16_64_16", "split_keys": 64, "split_cluster": 1, "tile_rows": 16, "chosen": true,
        "bytes": bytes, "flops": 4.0 * (inputs * rows * width * keys) as f64,
        "cold_us": { "median": us, "p10": us, "p90": us, "runs": 21 }, "warm_us": null, "mean_abs": 0.25,
    })
}

const BASE: (&str, usize, usize, usize) = ("t5-base", 12, 12, 64);
const GEMMA: (&str, usize, usize, usize) = ("t5gemma-2b", 8, 4, 256);

fn run(lines: Vec<Value>) -> Value {
    json!({
        "machine": machine(), "sweep": "full", "copy_bytes_per_s": COPY,
        "empty_pair_us": { "median": 3.0, "p10": 3.0, "p90": 3.0, "runs": 21 }, "lines": lines,
    })
}

/// A results folder with one file; what the report makes of it.
fn report(file: &str, content: &str) -> anyhow::Result<Files> {
    let folder = tempfile::tempdir()?;
    write(folder.path(), file, content);
    made(folder.path())
}

/// `REPORT_TO=<folder> cargo test -p xtask report::` leaves the pages and figures there to be looked at.
fn made(results: &Path) -> anyhow::Result<Files> {
    let made = files(results)?;
    for (path, text) in &made {
        if let Some(to) = std::env::var_os("REPORT_TO") {
            write(Path::new(&to), path, text);
        }
    }
    Ok(made)
}

fn write(folder: &Path, file: &str, content: &str) {
    let path = folder.join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

fn refused(file: &str, content: &str) -> String {
    format!("{:#}", report(file, content).expect_err("should be refused"))
}

const FILE: &str = "made-up/attention-full.json";
const E4M3: &str = "onekv, K/V in e4m3";

/// A whole sweep with peers, of a card that obeys a roofline.
fn sweep() -> Value {
    let mut lines = Vec::new();
    for model in [BASE, GEMMA, ("flan-t5-xl", 32, 32, 64)] {
        for inputs in [1, 8, 32] {
            for keys in [128, 512, 2048, 4096] {
                for rows in [1, 4, 8, 16, 30, 64, 128, 256, 512, 2048] {
                    let shape = (inputs, rows, keys);
                    let time = |layout: &str, part: f64, least: f64| {
                        let line = line("", layout, model, shape, 1.0);
                        let (bytes, flops) =
                            (line["bytes"].as_f64().unwrap(), line["flops"].as_f64().unwrap());
                        least + (bytes / (COPY * part)).max(flops / (800e12 * part)) * 1e6
                    };
                    lines.push(line("onekv", "shared", model, shape, time("shared", 0.9, 4.0)));
                    if rows > 1 && rows <= 256 {
                        let us = time("replicated", 0.85, 4.0);
                        lines.push(line("onekv, K/V per prompt", "replicated", model, shape, us));
                    }
                    if rows <= 64 {
                        lines.push(line(E4M3, "e4m3", model, shape, time("e4m3", 0.85, 4.0)));
                    }
                    let folded = time("shared", 0.5, 6.0);
                    lines.push(line("PyTorch SDPA flash", "folded", model, shape, folded));
                    lines.push(line("PyTorch SDPA cuDNN", "folded", model, shape, time("shared", 0.6, 9.0)));
                    lines.push(line(
                        "PyTorch SDPA flash",
                        "expanded",
                        model,
                        shape,
                        time("replicated", 0.6, 8.0),
                    ));
                    lines.push(line("FlexAttention", "folded", model, shape, time("shared", 0.4, 12.0)));
                }
            }
        }
    }
    run(lines)
}

#[test]
fn a_whole_sweep_has_every_figure_with_every_series() {
    let made = report(FILE, &sweep().to_string()).unwrap();
    let figure = |name: &str| &made[&format!("results/made-up/attention-full-{name}.svg")];
    let has = |svg: &str, words: &str| svg.lines().any(|line| line.trim() == words);
    for name in ["roofline", "time", "flat", "pid", "peers"] {
        let svg = figure(name);
        assert!(svg.contains("Made-up card of a test") && svg.contains("1999-12-31"), "{name}");
        assert!(
            made["docs/performance.md"].contains(&format!("../results/made-up/attention-full-{name}.svg"))
        );
    }
    for system in
        ["onekv", E4M3, "PyTorch SDPA flash, folded", "PyTorch SDPA flash, expanded", "FlexAttention, folded"]
    {
        assert!(has(figure("time"), system), "{system}");
        assert_eq!(has(figure("peers"), system), !system.starts_with("onekv"), "{system}");
    }
    // Two key lengths of three models, ten numbers of rows, and the legend.
    let ours = |svg: &str| svg.lines().filter(|l| l.starts_with("<circle") && l.contains("#D55E00")).count();
    assert_eq!(ours(figure("time")), 2 * 3 * 10 + 1);
    // Every shape of ours.
    assert_eq!(ours(figure("roofline")), 3 * 3 * 4 * 10 + 1);
    assert!(has(figure("pid"), "n = 2048") && has(figure("flat"), "n = 128"));
}

/// The verdict on the target whose description contains `what`, and what the table says was measured.
fn verdict(what: &str, lines: Vec<Value>) -> (Verdict, String) {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "run.json", &run(lines).to_string());
    let run = attention(&folder.path().join("run.json")).unwrap();
    let target = targets::attention(&Joined::new(&run)).into_iter().find(|t| t.what.contains(what)).unwrap();
    let table = targets::table(std::slice::from_ref(&target)).unwrap();
    let shown = match target.verdict {
        Verdict::Pass => "| pass |",
        Verdict::Miss => "| **miss** |",
        Verdict::NotMeasured => "| not measured |",
    };
    assert!(table.contains(shown) && table.contains(&target.measured), "{table}");
    (target.verdict, target.measured)
}

/// Microseconds at which the bytes of ours on a shape move at `part` of the copy's bandwidth.
fn us_at(part: f64, model: (&str, usize, usize, usize), shape: (usize, usize, usize)) -> f64 {
    line("", "shared", model, shape, 1.0)["bytes"].as_f64().unwrap() / (COPY * part) * 1e6
}

#[test]
fn targets_are_judged_on_both_sides_of_the_limit() {
    const SDPA: &str = "PyTorch SDPA flash";
    const COPIES: &str = "onekv, K/V per prompt";
    let ours = |model, shape, us| line("onekv", "shared", model, shape, us);
    let beside = |us, shape, peer_us| {
        vec![
            ours(BASE, shape, us),
            line(SDPA, "folded", BASE, shape, peer_us),
            line("Flex", "folded", BASE, shape, 1e6),
        ]
    };
    let large = (32, 30, 2048);
    // 4 b heads U n head_dim / time: microseconds of this throughput.
    let at_tflops = |model: (&str, usize, usize, usize), (b, u, n), tflops: f64| {
        4.0 * (b * model.1 * u * n * model.3) as f64 / tflops * 1e-6
    };
    let wide = ("wide", 16, 16, 128);
    type Case<'a> = (&'a str, Box<dyn Fn(f64) -> Vec<Value> + 'a>, f64, f64, &'a str);
    let cases: Vec<Case> = vec![
        (
            "part of the copy's bandwidth",
            Box::new(|part| vec![ours(BASE, large, us_at(part, BASE, large))]),
            0.901,
            0.899,
            "89.9 % (t5-base, b = 32, U = 30, n = 2048)",
        ),
        (
            "above an empty pair",
            Box::new(|us| vec![ours(BASE, (1, 30, 512), 3.0 + us)]),
            1.49,
            1.51,
            "1.51 us (t5-base, b = 1, U = 30, n = 512)",
        ),
        (
            "U = 64 over",
            Box::new(|us| vec![ours(BASE, (1, 1, 512), 10.0), ours(BASE, (1, 64, 512), us)]),
            11.4,
            11.6,
            "1.16x",
        ),
        (
            "U = 128 over",
            Box::new(|us| vec![ours(BASE, (1, 1, 512), 10.0), ours(BASE, (1, 128, 512), us)]),
            13.9,
            14.1,
            "1.41x",
        ),
        (
            "head_dim 64: throughput",
            Box::new(|t| vec![ours(BASE, (8, 2048, 2048), at_tflops(BASE, (8, 2048, 2048), t))]),
            501.0,
            499.0,
            "499 TFLOPS",
        ),
        (
            "head_dim 128: throughput",
            Box::new(|t| vec![ours(wide, (8, 2048, 2048), at_tflops(wide, (8, 2048, 2048), t))]),
            661.0,
            659.0,
            "659 TFLOPS",
        ),
        (
            "head_dim 256: throughput",
            Box::new(|t| vec![ours(GEMMA, (8, 2048, 2048), at_tflops(GEMMA, (8, 2048, 2048), t))]),
            721.0,
            719.0,
            "719 TFLOPS",
        ),
        ("Every shape: time of the best peer", Box::new(|us| beside(100.0, large, us)), 96.0, 94.0, "0.94x"),
        ("fewer heads in all", Box::new(|us| beside(100.0, (8, 16, 512), us)), 151.0, 149.0, "1.49x"),
        (
            "a K/V per prompt (PIE)",
            Box::new(|us| {
                vec![ours(BASE, (8, 30, 512), 10.0), line(COPIES, "replicated", BASE, (8, 30, 512), us)]
            }),
            150.1,
            149.0,
            "14.90x",
        ),
    ];
    for (what, lines, good, bad, shown) in cases {
        assert_eq!(verdict(what, lines(good)).0, Verdict::Pass, "{what}");
        let (missed, measured) = verdict(what, lines(bad));
        assert_eq!(missed, Verdict::Miss, "{what}");
        assert!(measured.contains(shown), "{what}: {measured}");
        let elsewhere = vec![ours(("other", 3, 3, 32), (1, 7, 100_000), 1.0)];
        assert_eq!(verdict(what, elsewhere).0, Verdict::NotMeasured, "{what}");
    }
}

#[test]
fn a_small_case_is_judged_by_what_it_takes_alone() {
    let mut overlapped = line("onekv", "shared", BASE, (1, 30, 512), 4.0);
    overlapped["alone_us"] = json!({ "median": 4.6, "p10": 4.6, "p90": 4.6, "runs": 21 });
    let (missed, measured) = verdict("above an empty pair", vec![overlapped]);
    assert_eq!(missed, Verdict::Miss);
    assert!(measured.starts_with("1.60 us"), "{measured}");
}

#[test]
fn the_worst_of_many_decides() {
    let shapes = [(8, 30, 4096), (32, 30, 2048), (32, 1, 2048)];
    let lines = shapes.iter().zip([0.95, 0.85, 0.92]);
    let lines = lines.map(|(s, part)| line("onekv", "shared", BASE, *s, us_at(part, BASE, *s))).collect();
    let (missed, measured) = verdict("part of the copy's bandwidth", lines);
    assert_eq!(missed, Verdict::Miss);
    assert_eq!(measured, "worst of 3: 85.0 % (t5-base, b = 32, U = 30, n = 2048); 2 meet it");
}

#[test]
fn regret_is_of_the_chosen_plan_against_the_best() {
    let plan = |split_keys: usize, chosen: bool, keys: usize, us: f64| {
        let mut line = line("onekv", "shared", BASE, (1, 30, keys), us);
        (line["split_keys"], line["chosen"]) = (json!(split_keys), json!(chosen));
        line
    };
    // 12 % and none; the chosen plan's second time, 9 us, is noise and not a better plan.
    let lines = |worst: f64| {
        vec![
            plan(64, true, 512, worst),
            plan(64, false, 512, 9.0),
            plan(128, false, 512, 10.0),
            plan(256, false, 512, 30.0),
            plan(64, true, 128, 5.0),
            plan(128, false, 128, 6.0),
        ]
    };
    let (missed, measured) = verdict("mean regret", lines(11.2));
    assert_eq!((missed, measured.as_str()), (Verdict::Miss, "6.0 % (2 shapes)"));
    assert_eq!(verdict("mean regret", lines(10.9)).0, Verdict::Pass);
    assert_eq!(verdict("regret of each shape", lines(11.9)).0, Verdict::Pass);
    let (missed, measured) = verdict("regret of each shape", lines(12.1));
    assert_eq!(missed, Verdict::Miss);
    assert_eq!(measured, "worst of 2: 21.0 % (t5-base, b = 1, U = 30, n = 512); 1 meet it");
}

#[test]
fn tables_hold_what_was_measured() {
    let shape = (8, 30, 512);
    let lines = vec![
        line("onekv", "shared", BASE, shape, 10.0),
        line("onekv, K/V per prompt", "replicated", BASE, shape, 160.0),
        line(E4M3, "e4m3", BASE, shape, 6.0),
        line("SDPA", "folded", BASE, shape, 25.0),
    ];
    let made = report(FILE, &run(lines).to_string()).unwrap();
    // K, V: 2 x 8 x 512 x 768 x 2 bytes, Q and O 2 x 8 x 30 x 768 x 2: 13,320,192 bytes in 10 us are 1332 GB/s, 33.3 %
    // of 4 TB/s. 4 x 8 x 30 x 768 x 512 = 377,487,360 FLOP in 10 us are 37.7 TFLOPS. K and V in e4m3 are 6,291,456 bytes and
    // 96 of scales, with Q and O 7,028,832, in 6 us 29.3 %.
    let row = "| t5-base | 8 | 512 | 30 | 10.0 |  | 1332 | 33.3 % | 37.7 | 16.00x | 0.60x, 29.3 % | 2.50x |";
    for path in ["docs/performance.md", "results/made-up/attention-full.md"] {
        assert!(made[path].contains(row), "{}", made[path]);
    }
    let page = &made["docs/performance.md"];
    assert!(
        page.contains("moved 4000 GB/s") && page.contains("an empty pair of kernels took 3.00 us"),
        "{page}"
    );
    assert!(
        page.contains("## Made-up card of a test")
            && !page.contains("Nothing has been measured on a card yet")
    );
}

#[test]
fn lines_without_a_time_are_said_and_not_counted() {
    let shape = (8, 30, 512);
    let mut failed = line("FA3", "folded", BASE, shape, 1.0);
    failed["error"] = json!("out of memory\nat some place");
    let mut wrong = line("Other", "folded", BASE, shape, 1.0);
    wrong["mean_abs"] = json!(0.26);
    let mut e4m3 = line(E4M3, "e4m3", BASE, shape, 6.0);
    e4m3["mean_abs"] = json!(0.24);
    let mut copies = line("onekv, K/V per prompt", "replicated", BASE, shape, 160.0);
    copies["mean_abs"] = json!(0.26);
    let lines = vec![line("onekv", "shared", BASE, shape, 10.0), failed, wrong, e4m3, copies];
    let mut file = run(lines);
    file["peers"] =
        json!({ "flashinfer": { "absent": "no wheel" }, "torch": { "version": "2.9.1", "more": 1 } });
    let page = &report(FILE, &file.to_string()).unwrap()["docs/performance.md"];
    assert!(page.contains("- flashinfer was not measured: no wheel\n- torch 2.9.1\n"), "{page}");
    assert!(page.contains("- FA3, folded: no time for 1 of its shapes: out of memory\n"), "{page}");
    for system in ["Other, folded", E4M3] {
        let why = format!("- {system}: no time for 1 of its shapes: left out: its output is not");
        assert!(page.contains(&why), "{page}");
    }
    assert!(page.contains("| 16.00x |"), "copies hold other numbers: {page}");
    assert!(
        page.contains("Every shape: time of the best peer over ours | >= 0.95x | no such case"),
        "{page}"
    );
}

#[test]
fn bad_files_are_refused_with_file_and_field() {
    let good = || run(vec![line("onekv", "shared", BASE, (1, 1, 128), 5.0)]);
    assert!(report(FILE, &good().to_string()).is_ok());
    let changed = |pointer: &str, value: Value| {
        let mut file = good();
        *file.pointer_mut(pointer).unwrap() = value;
        refused(FILE, &file.to_string())
    };
    let without = |object: &str, field: &str| {
        let mut file = good();
        file.pointer_mut(object).unwrap().as_object_mut().unwrap().remove(field).unwrap();
        refused(FILE, &file.to_string())
    };
    for (error, says) in [
        (
            changed("/lines/0/cold_us/median", json!(0.0)),
            "lines[0].cold_us.median is 0, allowed: more than 0",
        ),
        (changed("/lines/0/cold_us/median", json!(-1)), "lines[0].cold_us.median is -1"),
        (changed("/lines/0/cold_us/median", json!(null)), "lines[0].cold_us.median: invalid type: null"),
        (
            changed("/lines/0/cold_us/median", json!("5")),
            "lines[0].cold_us.median: invalid type: string \"5\"",
        ),
        (changed("/lines/0/keys", json!(-3)), "lines[0].keys: invalid value: integer `-3`"),
        (changed("/lines/0/kv_heads", json!(0)), "lines[0].kv_heads is 0, allowed: 1 or more"),
        (changed("/lines/0/layout", json!("upside down")), "lines[0].layout: unknown variant `upside down`"),
        (changed("/lines/0/layout", json!("folded")), "layout does not fit system \"onekv\""),
        (changed("/lines/0/layout", json!("e4m3")), "layout does not fit system \"onekv\""),
        (
            changed("/lines/0/system", json!(E4M3)),
            "layout does not fit system \"onekv, K/V in e4m3\", allowed",
        ),
        (changed("/copy_bytes_per_s", json!(0)), "copy_bytes_per_s is 0"),
        (changed("/machine/simulated", json!(true)), "machine.simulated is true"),
        (changed("/sweep", json!("other")), "sweep is other, which belongs into attention-other.json"),
        (without("/lines/0", "cold_us"), "lines[0].cold_us.median is missing, and there is no error"),
        (without("/lines/0", "rows"), "lines[0]: missing field `rows`"),
        (
            without("/lines/0", "kernel"),
            "lines[0] is ours and lacks kernel, tile_rows, split_keys or split_cluster",
        ),
        (without("/machine", "simulated"), "machine: missing field `simulated`"),
        (without("", "lines"), "missing field `lines`"),
        (refused(FILE, "{"), "EOF while parsing"),
        (
            refused(FILE, r#"{ "machine": {}, "error": "no memory" }"#),
            "nothing was measured: no memory; delete",
        ),
        (refused(FILE, &good().to_string().replace("5.0", "NaN")), "expected value at line 1"),
        (refused(FILE, &(good().to_string() + "x")), "trailing characters"),
    ] {
        assert!(error.contains("attention-full.json") && error.contains(says), "{error}\nlacks: {says}");
    }
    let twice = run(vec![line("onekv", "shared", BASE, (1, 1, 128), 5.0); 2]).to_string();
    assert!(
        refused(FILE, &twice)
            .contains("lines[1] measures onekv on t5-base, b = 1, U = 1, n = 128 a second time")
    );
    assert!(
        refused("made-up/other.json", "{}").contains("other.json: known names are attention-<sweep>.json")
    );
    assert!(
        refused("cpu/other.json", "{}")
            .contains("other.json: known names are attention.json, crossover.json and t5.json")
    );
    let point = json!({ "layout": "shared", "prompts": 1, "flops": 4, "read_bytes": 0, "written_bytes": 1 });
    let counted = json!([{ "name": "CPU", "dtype": "f32", "counted": "made up", "points": [point] }]);
    let mut intensity = json!({ "date": "1999-12-31", "heads": 1, "head_dim": 1, "keys": 1, "prompt_tokens": 1,
        "backends": counted });
    let error = refused("intensity.json", &intensity.to_string());
    assert!(error.contains("intensity.json: backends[0].points[0].read_bytes is 0"), "{error}");
    intensity["backends"] = json!([]);
    intensity["decoder_only"] = json!({ "model": "made up", "heads": 1, "kv_heads": 1, "head_dim": 1, "prefix_keys": 1,
        "suffix_keys": 1, "backends": counted });
    let error = refused("intensity.json", &intensity.to_string());
    assert!(error.contains("decoder_only.backends[0].points[0].read_bytes is 0"), "{error}");
    let cpu = on_cpu(vec![json!({ "system": "onekv", "rows": 1, "keys": 1, "median_s": 0.0 })]);
    assert!(refused("cpu/t5.json", &cpu.to_string()).contains("cpu/t5.json: lines[0].median_s is 0"));
}

/// A file of `cpu/`; rates as made up as the times.
fn on_cpu(lines: Vec<Value>) -> Value {
    let probe = |fma: f64| json!({ "fma_flops_per_s": fma, "copy_bytes_per_s": 40e9 });
    let peers = json!({ "torch": { "version": "9.9", "note": "of no use" } });
    json!({ "machine": "m", "threads": 2, "date": "1999-12-31", "peers": peers, "probes": [probe(300e9), probe(100e9)],
            "lines": lines })
}

/// Whatever systems the CPU's peers are, each has its column and curve, with its ratio of the same turns; where one has no time
/// there are a gap and the reason.
#[test]
fn every_system_of_the_cpu_is_shown() {
    const SYSTEMS: [&str; 4] =
        ["onekv", "onekv, bf16", "PyTorch SDPA, K/V expanded", "candle flash, K/V expanded"];
    const T5: [&str; 3] = ["onekv, PID", "candle, encodes once", "HF, PIE"];
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, systems: &[&str], shapes: &[Option<&str>]| {
        let mut lines = Vec::new();
        for (shape, rows) in shapes.iter().flat_map(|shape| [1, 256].map(|rows| (shape, rows))) {
            for system in systems {
                let mut line = json!({ "system": system, "rows": rows, "keys": 4096 });
                if let Some(shape) = shape {
                    line["shape"] = json!(shape);
                }
                if system.starts_with("candle") && rows == 256 {
                    line["error"] = json!("too large");
                } else {
                    line["median_s"] = json!(0.001 * rows as f64);
                }
                if *system != systems[0] {
                    line["of_ours"] = json!({ "median": 2.5, "min": 2.25, "max": 4.0, "turns": 3 });
                }
                lines.push(line);
            }
        }
        std::fs::create_dir_all(folder.path().join("cpu")).unwrap();
        std::fs::write(folder.path().join("cpu").join(name), on_cpu(lines).to_string()).unwrap();
    };
    write("attention.json", &SYSTEMS, &[None]);
    write("t5.json", &T5, &[Some("t5-small"), Some("t5-base")]);
    let made = files(folder.path()).unwrap();
    let page = &made["docs/performance.md"];
    let ratio = "2.50x, 2.25 to 4.00";
    for row in [
        &format!("| n | U | {} |", SYSTEMS.join(" | ")),
        &format!("| 4096 | 1 | 1.00 |{}", format!(" 1.00, {ratio} |").repeat(3)),
        &format!("| 4096 | 256 | 256 | 256, {ratio} | 256, {ratio} |  |"),
        // 4 x 256 x 4096 x 768 operations in 0.256 s, of 200 GFLOP/s: the mean of before and after.
        "| 4096 | 256 | 6 % | 6 % |",
        &format!("| shape | n | U | {} |", T5.join(" | ")),
        "| t5-small | 4096 | 1 | 0.00100 | 2.50x | 2.50x |",
        "| t5-base | 4096 | 256 | 0.256 |  | 2.50x |",
        "- torch 9.9: of no use",
        "- candle, encodes once: no time for 2 of its shapes: too large",
        "300 GFLOP/s before the measurement, 100 after it; a copy, read plus written: 40.0 and 40.0 GB/s.",
    ] {
        assert!(page.contains(row), "{row}\nis not in\n{page}");
    }
    for (path, words) in [
        ("results/cpu/attention.svg", [&SYSTEMS[..], &["n = 4096"]].concat()),
        ("results/cpu/t5.svg", [&T5[..], &["t5-small, n = 4096", "t5-base, n = 4096"]].concat()),
    ] {
        assert!(words.iter().all(|word| made[path].contains(word)), "{path}");
    }
}

#[test]
fn no_card_is_said_plainly() {
    let folder = tempfile::tempdir().unwrap();
    let page = &files(folder.path()).unwrap()["docs/performance.md"];
    assert!(page.contains("Nothing has been measured on a card yet") && page.contains("cargo xtask gpu-kit"));
    assert!(page.contains("Nothing has been measured on a CPU yet: `cargo xtask peers cpu`"));
}

#[test]
fn the_committed_page_is_what_the_results_give() {
    let root = crate::run::root();
    let made = files(&root.join("results")).unwrap();
    for (path, text) in &made {
        let there = std::fs::read_to_string(root.join(path)).unwrap_or_default();
        assert!(there == *text, "{path} is not what results/ gives; run `cargo xtask report`");
    }
    for machine in std::fs::read_dir(root.join("results")).unwrap().map(|entry| entry.unwrap().path()) {
        for path in std::fs::read_dir(&machine).into_iter().flatten().map(|entry| entry.unwrap().path()) {
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            let figure = name.ends_with(".svg") || name.contains("/attention-") && name.ends_with(".md");
            assert!(!figure || made.contains_key(&name), "{name} is of results that are gone; delete it");
        }
    }
}

#[test]
fn results_are_read_by_folder() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), FILE, &sweep().to_string());
    let results = Results::read(folder.path()).unwrap();
    assert_eq!(results.cards["made-up"].attention[0].lines.len(), 3 * 3 * 4 * (10 * 5 + 7 + 6));
}
