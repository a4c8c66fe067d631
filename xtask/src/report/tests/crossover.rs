//! Where sharing pays, of machines that do not exist.

use serde_json::{Value, json};

use super::{machine, refused, report};

/// A point and PIE's time over PID's, measured and predicted.
type Made = ((usize, usize, usize), f64, f64);

/// Three lines through U = 2, n = 100, 10 new tokens.
const LINES: [Made; 9] = [
    ((2, 100, 10), 1.4, 1.5),
    ((1, 100, 10), 0.9, 1.0),
    ((4, 100, 10), 2.4, 2.5),
    ((2, 25, 10), 1.2, 1.25),
    ((2, 5, 10), 1.0, 1.0625),
    ((2, 400, 10), 1.6, 1.75),
    ((2, 100, 1), 1.6, 1.875),
    ((2, 100, 40), 1.2, 1.125),
    ((2, 100, 160), 1.0, 1.03125),
];

fn line(((prompts, keys, new_tokens), gain, predicted): Made) -> Value {
    let seconds = |min: f64| json!({ "median": 9.0, "min": min, "max": 9.0, "runs": 3 });
    json!({
        "keys": keys, "prompts": prompts, "new_tokens": new_tokens, "pid_s": seconds(0.5), "pie_s": seconds(gain / 2.0),
        "predicted_gain": predicted, "device": "made up",
    })
}

fn file(machine: Value, lines: &[Made]) -> Value {
    json!({
        "machine": machine, "threads": 3, "date": "1999-12-31", "torch": null, "shape": "t5-small", "dtype": "f32",
        "prompt_tokens": 3, "base": { "keys": 100, "prompts": 2, "new_tokens": 10 },
        "predicted": {
            "roofline": { "flops_per_s": 123e9, "bytes_per_s": 45.6e9 }, "pays_from": 1.1, "gain": 1.5,
            "crossover": { "least_prompts": 2, "least_keys": 9, "most_new_tokens": 77 },
        },
        "left_out": [], "lines": lines.iter().copied().map(line).collect::<Vec<_>>(),
    })
}

/// The page of a CPU on which this was measured.
fn page(file: &Value) -> String {
    report("cpu/crossover.json", &file.to_string()).unwrap().remove("docs/performance.md").unwrap()
}

fn cpu() -> Value {
    json!("CPU of a test")
}

#[test]
fn crossovers_lie_between_the_points_around_them() {
    let page = page(&file(cpu(), &LINES));
    assert!(page.contains("CPU of a test, 3 threads, 1999-12-31. t5-small, f32, "), "{page}");
    assert!(page.contains("0.123 TFLOP/s and 45.6 GB/s"), "{page}");
    // By hand, on a straight line over the logarithm: 1 * 2^((1.1 - 0.9) / 0.5) = 1.3; 5 * 5^(0.1 / 0.2) = 11.2; 40 *
    // 4^(0.1 / 0.2).
    for row in [
        "| from how many prompts U (n = 100, 10 new tokens) | 2 | 2 |",
        "| from how many input tokens n (U = 2, 10 new tokens) | 12 | 9 |",
        "| up to how many new tokens (U = 2, n = 100) | 80 | 77 |",
        "| 1 | 100 | 10 | 0.500 | 0.450 | 0.90x | 1.00x |",
    ] {
        assert!(page.contains(row), "{row} is missing in {page}");
    }
}

/// Where it pays, does not, and pays again: counted is what lies beyond all that does not.
#[test]
fn only_what_pays_from_there_on_counts() {
    let dips = [&LINES[..], &[((2, 50, 10), 1.0, 1.3), ((2, 100, 20), 1.0, 1.25)]].concat();
    let page = page(&file(cpu(), &dips));
    // 50 * 2^(0.1 / 0.4), not 12; 10 * 2^(0.3 / 0.4), not 80.
    assert!(page.contains("| from how many input tokens n (U = 2, 10 new tokens) | 60 |"), "{page}");
    assert!(page.contains("| up to how many new tokens (U = 2, n = 100) | 16 |"), "{page}");
}

/// A line that pays nowhere, or everywhere, says so.
#[test]
fn lines_without_a_crossover_say_so() {
    let scaled = |factor: f64| LINES.map(|(at, gain, predicted)| (at, gain * factor, predicted));
    let nowhere = page(&file(cpu(), &scaled(0.3)));
    for words in ["U (n = 100, 10 new tokens) | none up to 4 |", "| none up to 400 |", "| not from 1 on |"] {
        assert!(nowhere.contains(words), "{words} is missing in {nowhere}");
    }
    let everywhere = page(&file(cpu(), &scaled(3.0)));
    for words in ["| at all from 1 on |", "| at all from 5 on |", "| at all up to 160 |"] {
        assert!(everywhere.contains(words), "{words} is missing in {everywhere}");
    }
    let mut predicted = file(cpu(), &LINES);
    predicted["predicted"]["crossover"] =
        json!({ "least_prompts": null, "least_keys": null, "most_new_tokens": null });
    let always = page(&predicted);
    assert!(
        always.contains("| 2 | at no number |") && always.contains("| 80 | at every number |"),
        "{always}"
    );
    predicted["predicted"]["gain"] = json!(1.05);
    assert!(page(&predicted).contains("| 80 | at no number |"));
}

#[test]
fn the_figure_has_a_panel_per_line() {
    let mut on_card = machine();
    on_card["card"] = json!("Card of a test");
    let made = report("made-up/crossover.json", &file(on_card, &LINES).to_string()).unwrap();
    let svg = &made["results/made-up/crossover.svg"];
    for words in ["prompts U", "input tokens n", "new tokens", "measured", "predicted", "PID as fast as PIE"]
    {
        assert!(svg.lines().any(|line| line.trim() == words), "no {words} in {svg}");
    }
    // A mark for each of the 3 + 4 + 4 measured points, and that of the legend.
    assert_eq!(svg.matches("<circle").count(), 11 + 1);
    // Both are drawn: where they agree, the figure is another.
    for agree in
        [|(at, gain, _): Made| (at, gain, gain), |(at, _, predicted): Made| (at, predicted, predicted)]
    {
        let other = report("cpu/crossover.json", &file(cpu(), &LINES.map(agree)).to_string()).unwrap();
        let drawn = |svg: &str| svg.lines().filter(|line| line.starts_with("<polyline")).count();
        let (this, other) = (svg, &other["results/cpu/crossover.svg"]);
        let same = this.lines().filter(|line| line.starts_with("<polyline") && other.contains(line)).count();
        assert!(same < drawn(this), "a line is not drawn");
    }
    let page = &made["docs/performance.md"];
    assert!(
        page.contains("## Card of a test") && page.contains("../results/made-up/crossover.svg"),
        "{page}"
    );
}

#[test]
fn points_that_failed_are_told_of() {
    let mut file = file(cpu(), &LINES);
    file["lines"][8] = json!({ "keys": 100, "prompts": 2, "new_tokens": 160, "error": "took too long" });
    file["left_out"] = json!([{}, {}]);
    let page = page(&file);
    assert!(page.contains("onekv: no time for 1 of its shapes: took too long"), "{page}");
    assert!(page.contains("left out 2 more") && page.contains("| at all up to 40 |"), "{page}");
}

#[test]
fn what_cannot_be_is_refused() {
    let change = |pointer: &str, value: Value| {
        let mut file = file(cpu(), &LINES);
        *file.pointer_mut(pointer).unwrap() = value;
        refused("cpu/crossover.json", &file.to_string())
    };
    for (error, says) in [
        (change("/lines/1/keys", json!(0)), "lines[1].keys is 0, allowed: 1 or more"),
        (change("/lines/1/pid_s", json!(null)), "lines[1].pid_s.min is missing, and there is no error"),
        (change("/lines/1/pie_s/min", json!(-1)), "lines[1].pie_s.min is -1, allowed: more than 0"),
        (change("/lines/1/predicted_gain", json!(0)), "lines[1].predicted_gain is 0, allowed: more than 0"),
        (change("/lines/1/prompts", json!(2)), "lines[1] is a point that was measured before"),
        (change("/predicted/roofline", json!(null)), "predicted.roofline: invalid type: null"),
        (change("/machine", json!({})), "machine: invalid type: map"),
    ] {
        assert!(error.contains("cpu/crossover.json") && error.contains(says), "{error}\nlacks: {says}");
    }
    let mut simulated = machine();
    simulated["simulated"] = json!(true);
    let error = refused("made-up/crossover.json", &file(simulated, &LINES).to_string());
    assert!(error.contains("machine.simulated is true"), "{error}");
}
