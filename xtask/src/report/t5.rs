//! T5 end to end on a card.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;
use t5::cost::{Method, breakdown};

use super::data::{Card, T5Line, T5Run, T5Work};
use super::page::{Files, folded, picture, short, source, without_time};
use super::targets;
use crate::plot::{Figure, Kind, Panel, Series};

pub fn section(folder: &str, card: &Card, run: &T5Run, files: &mut Files) -> Result<String> {
    let machine = source(&run.machine);
    let mut text = format!(
        "\n### T5 end to end\n\n{machine}. Greedy, random weights, one input. Times are those of each system's fastest run.\n\n"
    );
    text += &targets::table(&targets::t5(card, run))?;
    text += &without_time(&run.peers, &run.errors, run.left_out);
    let figures = [
        ("tokens", "Tokens per second", "tokens per second", tokens as fn(&T5Line) -> Option<f64>),
        ("memory", "Largest memory in use", "GB", |line| line.peak_bytes.map(|bytes| bytes * 1e-9)),
    ];
    for (name, title, y, value) in figures {
        let figure = figure(run, title, y, &machine, value);
        if !figure.panels.is_empty() {
            let path = format!("results/{folder}/t5-{name}.svg");
            text += &picture(title, &path);
            files.insert(path, figure.svg()?);
        }
    }
    let saving = saving(card, run, &machine);
    if !saving.panels.is_empty() {
        let path = format!("results/{folder}/t5-pid.svg");
        text += &picture(&saving.title, &path);
        text += "\nAll by onekv. PID-replicated encodes once and copies K/V per prompt. The prediction takes for each part of \
                 the model the longer of\nits bytes at the copy's bandwidth and its operations at the data sheet's peak.\n";
        text += &crossovers(card, run)?;
        files.insert(path, saving.svg()?);
    }
    text += &folded("Every point", &table(run)?);
    Ok(text)
}

const PID: &str = "onekv, PID";
const PIE: &str = "onekv, PIE";
const REPLICATED: &str = "onekv, PID-replicated";

/// Lines that differ in the number of prompts and the system alone.
fn groups(run: &T5Run) -> BTreeMap<T5Work, Vec<&T5Line>> {
    let mut groups: BTreeMap<T5Work, Vec<&T5Line>> = BTreeMap::new();
    for line in &run.lines {
        groups.entry(T5Work { prompts: 0, ..line.work.clone() }).or_default().push(line);
    }
    groups
}

fn name(work: &T5Work) -> String {
    format!("{}, {}, n = {}, {} new tokens", work.shape, work.dtype, work.keys, work.new_tokens)
}

fn ticks(lines: &[&T5Line]) -> Vec<f64> {
    let mut prompts: Vec<usize> = lines.iter().map(|line| line.work.prompts).collect();
    prompts.sort();
    prompts.dedup();
    prompts.into_iter().map(|prompts| prompts as f64).collect()
}

/// A system's time over PID's, by prompts.
fn over_pid(lines: &[&T5Line], system: &str) -> Vec<(f64, f64)> {
    let of = |system: &str, work: &T5Work| {
        lines.iter().find(|l| l.system == system && l.work == *work).map(|line| line.fastest_s)
    };
    let ratio = |line: &&&T5Line| Some((line.work.prompts as f64, line.fastest_s / of(PID, &line.work)?));
    let mut points: Vec<(f64, f64)> =
        lines.iter().filter(|l| l.system == system).filter_map(|l| ratio(&l)).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points
}

/// PIE's time over PID's as the cost model has it, for cards whose peak is known.
fn predicted(card: &Card, run: &T5Run, work: &T5Work) -> Option<f64> {
    let (bandwidth, flops) = (card.copy_bytes_per_s()?, run.machine.data_sheet_tflops()? * 1e12);
    let model = work.model().filter(|model| model.element_bytes == 2)?;
    let seconds = |method| {
        let b = breakdown(method, &model, &work.workload());
        let parts = [b.encoder, b.self_attention, b.cross_attention, b.feed_forward, b.head];
        parts.map(|part| (part.bytes as f64 / bandwidth).max(part.flops as f64 / flops)).iter().sum::<f64>()
    };
    Some(seconds(Method::Pie) / seconds(Method::Pid))
}

fn saving(card: &Card, run: &T5Run, source: &str) -> Figure {
    let panel = |(work, lines): (T5Work, Vec<&T5Line>)| {
        let x_ticks = ticks(&lines);
        let with = |prompts: f64| T5Work { prompts: prompts as usize, ..work.clone() };
        let prediction = x_ticks.iter().filter_map(|&u| Some((u, predicted(card, run, &with(u))?)));
        let series =
            |name: &str, look, points| Series { name: name.to_owned(), look, points, ..Series::default() };
        let mut series = vec![
            series("PIE, measured", 0, over_pid(&lines, PIE)),
            series("PID-replicated, measured", 1, over_pid(&lines, REPLICATED)),
        ];
        series.retain(|s| !s.points.is_empty());
        if let (false, Some(first), Some(last)) = (series.is_empty(), x_ticks.first(), x_ticks.last()) {
            let prediction: Vec<(f64, f64)> = prediction.collect();
            if !prediction.is_empty() {
                let name = "PIE, predicted".to_owned();
                series.push(Series { name, look: 6, points: prediction, ..Series::default() });
            }
            let (name, points) = ("as long as PID".to_owned(), vec![(*first, 1.0), (*last, 1.0)]);
            series.push(Series { name, kind: Kind::Rule, points, ..Series::default() });
        }
        Panel {
            title: name(&work),
            x: "prompts U".to_owned(),
            y: "time over that of PID".to_owned(),
            x_ticks,
            series,
        }
    };
    let panels = groups(run).into_iter().map(panel).filter(|panel| !panel.series.is_empty()).collect();
    Figure { title: "Where sharing pays".to_owned(), source: source.to_owned(), columns: 2, panels }
}

/// PIE takes that much longer where PID counts as the quicker: less is within noise.
const QUICKER: f64 = 1.01;

/// From how many prompts on PID is the quicker: measured, and as the cost model has it.
fn crossovers(card: &Card, run: &T5Run) -> Result<String> {
    let mut text = String::from(
        "\n| work | PID quicker than PIE by 1 % from U | predicted from U |\n| --- | --- | --- |\n",
    );
    for (work, lines) in groups(run) {
        let points = over_pid(&lines, PIE);
        let Some(last) = points.last() else { continue };
        let slower = points.iter().rposition(|point| point.1 < QUICKER);
        let from = match points.get(slower.map_or(0, |i| i + 1)) {
            Some((prompts, _)) => format!("{prompts}, of those measured"),
            None => format!("none up to {}", last.0),
        };
        let quicker = |prompts: &usize| {
            predicted(card, run, &T5Work { prompts: *prompts, ..work.clone() })
                .is_some_and(|ratio| ratio >= QUICKER)
        };
        let known = predicted(card, run, &T5Work { prompts: 1, ..work.clone() }).is_some();
        let predicted = (1..=last.0 as usize).find(quicker);
        let predicted = match (known, predicted) {
            (false, _) => "no peak known for this card or type".to_owned(),
            (true, Some(prompts)) => prompts.to_string(),
            (true, None) => format!("none up to {}", last.0),
        };
        writeln!(text, "| {} | {from} | {predicted} |", name(&work))?;
    }
    Ok(text)
}

fn tokens(line: &T5Line) -> Option<f64> {
    Some((line.work.prompts * line.work.new_tokens) as f64 / line.fastest_s)
}

/// The names in the order of the file, ours first.
fn systems(run: &T5Run) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for line in &run.lines {
        if !names.contains(&line.system.as_str()) {
            names.push(&line.system);
        }
    }
    names.sort_by_key(|name| !name.starts_with("onekv"));
    names
}

fn figure(run: &T5Run, title: &str, y: &str, source: &str, value: fn(&T5Line) -> Option<f64>) -> Figure {
    let panel = |(work, lines): (T5Work, Vec<&T5Line>)| {
        let series = systems(run).into_iter().enumerate().map(|(look, system)| {
            let of_system = lines.iter().filter(|line| line.system == system);
            let mut points: Vec<(f64, f64)> =
                of_system.filter_map(|line| Some((line.work.prompts as f64, value(line)?))).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            Series { name: system.to_owned(), look, points, ..Series::default() }
        });
        Panel {
            title: name(&work),
            x: "prompts U".to_owned(),
            y: y.to_owned(),
            x_ticks: ticks(&lines),
            series: series.filter(|s| !s.points.is_empty()).collect(),
        }
    };
    let panels = groups(run).into_iter().map(panel).filter(|panel| !panel.series.is_empty()).collect();
    Figure { title: title.to_owned(), source: source.to_owned(), columns: 2, panels }
}

fn table(run: &T5Run) -> Result<String> {
    let mut text = String::from(
        "| shape | dtype | n | U | prompt tokens | new tokens | system | s | tokens/s | GB | of PID |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    let mut lines: Vec<&T5Line> = run.lines.iter().collect();
    // Stable: within one work the order of the file.
    lines.sort_by(|a, b| a.work.cmp(&b.work));
    for line in lines {
        let T5Work { shape, dtype, keys, prompts, prompt_tokens, new_tokens } = &line.work;
        let pid = run.lines.iter().find(|l| l.work == line.work && l.system == PID);
        let ratio = pid.map(|pid| format!("{:.2}x", line.fastest_s / pid.fastest_s)).unwrap_or_default();
        writeln!(
            text,
            "| {shape} | {dtype} | {keys} | {prompts} | {prompt_tokens} | {new_tokens} | {} | {} | {} | {} | {ratio} |",
            line.system,
            short(line.fastest_s),
            tokens(line).map(short).unwrap_or_default(),
            line.peak_bytes.map(|bytes| short(bytes * 1e-9)).unwrap_or_default(),
        )?;
    }
    Ok(text)
}
