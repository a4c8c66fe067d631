//! What the kernels and the T5 example must show, computed from the measurements: target, measured, pass or miss.

use std::fmt::Write as _;

use anyhow::Result;

use super::data::{Card, Shape, T5Line, T5Run};
use super::sweep::{Joined, by_rows};

/// One target and how it was met.
pub struct Target {
    pub what: String,
    pub target: String,
    pub measured: String,
    pub verdict: Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    Miss,
    NotMeasured,
}

/// The side of the limit on which a target is met.
#[derive(Clone, Copy)]
enum Limit {
    AtLeast(f64),
    AtMost(f64),
}

use Limit::{AtLeast, AtMost};

#[derive(Clone, Copy)]
enum Unit {
    /// Of a part of 1.
    Percent,
    Times,
    Micros,
    Tflops,
    TokensPerSecond,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Self::Percent => format!("{:.1} %", value * 100.0),
            Self::Times => format!("{value:.2}x"),
            Self::Micros => format!("{value:.2} us"),
            Self::Tflops => format!("{value:.0} TFLOPS"),
            Self::TokensPerSecond => format!("{value:.0} tokens/s"),
        }
    }
}

impl Limit {
    fn holds(self, value: f64) -> bool {
        match self {
            AtLeast(limit) => value >= limit,
            AtMost(limit) => value <= limit,
        }
    }

    /// By this the worst is the least.
    fn goodness(self, value: f64) -> f64 {
        match self {
            AtLeast(_) => value,
            AtMost(_) => -value,
        }
    }
}

/// Judges the worst of `values`: a target is met where all meet it.
fn judge(what: &str, limit: Limit, unit: Unit, values: &[(f64, String)]) -> Target {
    let target = match limit {
        AtLeast(limit) => format!(">= {}", unit.show(limit)),
        AtMost(limit) => format!("<= {}", unit.show(limit)),
    };
    let worst = values.iter().min_by(|a, b| limit.goodness(a.0).total_cmp(&limit.goodness(b.0)));
    let (measured, verdict) = match worst {
        None => ("no such case in this run".to_owned(), Verdict::NotMeasured),
        Some((value, at)) => {
            let met = values.iter().filter(|v| limit.holds(v.0)).count();
            let mut measured = format!("{} ({at})", unit.show(*value));
            if values.len() > 1 {
                measured = format!("worst of {}: {measured}; {met} meet it", values.len());
            }
            (measured, if limit.holds(*value) { Verdict::Pass } else { Verdict::Miss })
        }
    };
    Target { what: what.to_owned(), target, measured, verdict }
}

/// Many rows: well past the ridge of every card, and tiles of 128 enough to fill every multiprocessor twice.
fn many_rows(shape: &Shape, multiprocessors: usize) -> bool {
    shape.folded_rows() >= 512 && shape.inputs * shape.heads * shape.rows >= 2 * 128 * multiprocessors
}

const MIB: f64 = (1 << 20) as f64;

/// Targets of attention, those that the sweep can say something about and those that it cannot.
pub fn attention(joined: &Joined) -> Vec<Target> {
    let run = joined.run;
    let of = |value: f64, shape: &Shape| (value, shape.to_string());
    let mut targets = Vec::new();

    let few: Vec<_> = joined.ours().filter(|(s, ..)| s.folded_rows() <= 64).collect();
    let large = few.iter().filter(|(s, ..)| s.kv_bytes() >= 64.0 * MIB);
    targets.push(judge(
        "Few rows (up to 64 per K/V head), K/V of 64 MiB or more: part of the copy's bandwidth",
        AtLeast(0.9),
        Unit::Percent,
        &large.map(|(s, _, line)| of(joined.of_copy(line), s)).collect::<Vec<_>>(),
    ));
    let small = few.iter().filter(|(s, ..)| s.kv_bytes() <= 2.0 * MIB);
    targets.push(judge(
        "Few rows, K/V of 2 MiB or less: time above an empty pair of kernels",
        AtMost(1.5),
        Unit::Micros,
        &small
            .map(|(s, _, line)| of(line.alone_us.unwrap_or(line.cold_us) - run.empty_pair_us, s))
            .collect::<Vec<_>>(),
    ));

    for (rows, limit) in [(64, 1.15), (128, 1.4)] {
        let growth = by_rows(joined).into_iter().filter_map(|group| {
            let time = |rows| group.iter().find(|(s, _)| s.rows == rows).map(|g| (g.0, g.1.cold_us));
            let ((_, one), (shape, many)) = (time(1)?, time(rows)?);
            Some((many / one, shape.to_string()))
        });
        targets.push(judge(
            &format!("Flat in U: time at U = {rows} over that at U = 1"),
            AtMost(limit),
            Unit::Times,
            &growth.collect::<Vec<_>>(),
        ));
    }

    if run.machine.compute_capability == "9.0" {
        for (head_dim, limit) in [(64, 500.0), (128, 660.0), (256, 720.0)] {
            let many = joined.ours().filter(|(s, ..)| {
                s.head_dim == head_dim && s.keys >= 2048 && many_rows(s, run.machine.multiprocessors)
            });
            targets.push(judge(
                &format!(
                    "Many rows (512 or more per K/V head, the card filled twice by tiles of 128), n >= 2048, head_dim \
                     {head_dim}: throughput"
                ),
                AtLeast(limit),
                Unit::Tflops,
                &many.map(|(s, _, line)| of(line.flops / line.cold_us * 1e-6, s)).collect::<Vec<_>>(),
            ));
        }
    }

    let against: Vec<(f64, &Shape)> = joined
        .ours()
        .filter_map(|(s, row, line)| Some((row.best_peer()?.cold_us / line.cold_us, s)))
        .collect();
    targets.push(judge(
        "Every shape: time of the best peer over ours",
        AtLeast(0.95),
        Unit::Times,
        &against.iter().map(|(ratio, s)| of(*ratio, s)).collect::<Vec<_>>(),
    ));
    let unfilled = against
        .iter()
        .filter(|(_, s)| (16..=128).contains(&s.rows) && s.inputs * s.heads < run.machine.multiprocessors);
    targets.push(judge(
        "U = 16 .. 128, fewer heads in all than multiprocessors: time of the best peer over ours",
        AtLeast(1.5),
        Unit::Times,
        &unfilled.map(|(ratio, s)| of(*ratio, s)).collect::<Vec<_>>(),
    ));

    let replicated = joined
        .ours()
        .filter(|(s, ..)| (s.rows, s.keys, s.inputs) == (30, 512, 8))
        .filter_map(|(s, row, line)| Some(of(row.replicated?.cold_us / line.cold_us, s)));
    targets.push(judge(
        "U = 30, n = 512, b = 8: time with a K/V per prompt (PIE) over that with one",
        AtLeast(15.0),
        Unit::Times,
        &replicated.collect::<Vec<_>>(),
    ));

    let regrets = joined.regrets();
    if !regrets.is_empty() {
        let mean = regrets.iter().map(|r| r.0).sum::<f64>() / regrets.len() as f64;
        targets.push(judge(
            "Plan against the best plan measured: mean regret",
            AtMost(0.05),
            Unit::Percent,
            &[(mean, format!("{} shapes", regrets.len()))],
        ));
        targets.push(judge(
            "Plan against the best plan measured: regret of each shape",
            AtMost(0.2),
            Unit::Percent,
            &regrets.iter().map(|(regret, s)| of(*regret, s)).collect::<Vec<_>>(),
        ));
    }
    targets
}

/// Targets of T5 end to end. The copy's bandwidth is that of the card's attention run.
pub fn t5(card: &Card, run: &T5Run) -> Vec<Target> {
    let bf16 = |line: &&T5Line| line.work.dtype == "bf16";
    let step = run.lines.iter().filter(bf16).find(|line| {
        let w = &line.work;
        line.system == "onekv, PID" && w.shape == "flan-t5-xl" && (w.prompts, w.keys) == (64, 512)
    });
    let at = |line: &T5Line| {
        let w = &line.work;
        format!("{}, U = {}, n = {}, {} new tokens", w.shape, w.prompts, w.keys, w.new_tokens)
    };
    let over_floor = step.and_then(|line| {
        let floor = line.step_floor_bytes? / card.copy_bytes_per_s()?;
        Some((line.step_s? / floor, at(line)))
    });
    let rate = step.and_then(|line| Some((line.work.prompts as f64 / line.step_s?, at(line))));
    let mut targets = vec![
        judge(
            "Decode step, Flan-T5-XL, U = 64, n = 512, bf16: time over weights and K/V at the copy's bandwidth",
            AtMost(1.5),
            Unit::Times,
            &over_floor.into_iter().collect::<Vec<_>>(),
        ),
        judge(
            "The same: tokens per second of the decode steps",
            AtLeast(50_000.0),
            Unit::TokensPerSecond,
            &rate.into_iter().collect::<Vec<_>>(),
        ),
    ];
    for (what, system, least_prompts, limit) in [
        ("PID, U >= 8: time of Hugging Face's PIE over ours", "HF, PIE", 8, 4.6),
        (
            "PID: time of Hugging Face that encodes once and expands over ours",
            "HF, encoded once and expanded",
            1,
            3.0,
        ),
    ] {
        let ratios = run.lines.iter().filter(|line| line.system == "onekv, PID").filter_map(|ours| {
            // Eager or compiled, whichever is the quicker.
            let theirs = run
                .lines
                .iter()
                .filter(|l| l.work == ours.work)
                .filter(|l| l.system == system || l.system.strip_prefix(system) == Some(", compiled"))
                .map(|l| l.fastest_s)
                .min_by(f64::total_cmp)?;
            (ours.work.prompts >= least_prompts).then(|| (theirs / ours.fastest_s, at(ours)))
        });
        targets.push(judge(what, AtLeast(limit), Unit::Times, &ratios.collect::<Vec<_>>()));
    }
    let (measured, verdict) = match &run.same_answers_f32 {
        Ok(true) => ("yes".to_owned(), Verdict::Pass),
        Ok(false) => ("no".to_owned(), Verdict::Miss),
        Err(why) => (why.clone(), Verdict::NotMeasured),
    };
    let (what, target) =
        ("The built-in dialogue in f32: same answers as on the CPU".to_owned(), "yes".to_owned());
    targets.push(Target { what, target, measured, verdict });
    targets
}

/// The targets as a Markdown table.
pub fn table(targets: &[Target]) -> Result<String> {
    let mut text = String::from("| what | target | measured | |\n| --- | --- | --- | --- |\n");
    for t in targets {
        let verdict = match t.verdict {
            Verdict::Pass => "pass",
            Verdict::Miss => "**miss**",
            Verdict::NotMeasured => "not measured",
        };
        writeln!(text, "| {} | {} | {} | {verdict} |", t.what, t.target, t.measured)?;
    }
    Ok(text)
}
