//! The CPU's part of the page.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;

use super::crossover;
use super::data::{Cpu, CpuLine, CpuRun};
use super::page::{Files, folded, picture, short, without_time};
use crate::plot::{Figure, Panel, Series};

pub fn section(cpu: &Cpu, files: &mut Files) -> Result<String> {
    let mut text = String::from("\n## CPU\n");
    if cpu.attention.is_none() && cpu.t5.is_none() && cpu.crossover.is_none() {
        text += "\nNothing has been measured on a CPU yet: `cargo xtask peers cpu`.\n";
    }
    if cpu.attention.is_some() || cpu.t5.is_some() {
        text += "\nAt every point ours and the peers took turns. A ratio is the median over turns of the peer's time over ours in the \
                 same turn.\n";
    }
    if let Some(run) = &cpu.attention {
        let path = "results/cpu/attention.svg";
        files.insert(
            path.to_owned(),
            figure(run, "Shared cross-attention, 12 heads x 64, f32", 1e3, "ms").svg()?,
        );
        write!(text, "\n### Attention, 12 heads x 64, f32\n\n{}.\n", source_of(run))?;
        text += &rates(run);
        text += &picture("Attention on the CPU", path);
        text += &of_fma(run)?;
        text += &about(run);
        text += &folded(
            "Every point: ms, times as long as onekv, least and most of a turn",
            &every_point(run, 1e3)?,
        );
    }
    if let Some(run) = &cpu.t5 {
        let path = "results/cpu/t5.svg";
        let title = "T5 end to end, prompts of 3 tokens, 10 new tokens, f32";
        files.insert(path.to_owned(), figure(run, title, 1.0, "s").svg()?);
        write!(text, "\n### {title}\n\n{}. Random weights, one input.\n", source_of(run))?;
        text += &rates(run);
        text += &picture("T5 on the CPU", path);
        text += &ratios(run)?;
        text += &about(run);
        text += &folded(
            "Every point: s, times as long as onekv, least and most of a turn",
            &every_point(run, 1.0)?,
        );
    }
    if let Some((by, run)) = &cpu.crossover {
        let source = format!("{}, {} threads, {}", by.machine, by.threads, by.date);
        text += &crossover::section("results/cpu/crossover", run, &source, files)?;
    }
    Ok(text)
}

fn source_of(run: &CpuRun) -> String {
    format!("{}, {} threads, {}", run.machine, run.threads, run.date)
}

/// What the machine did at best, before the lines and after them.
fn rates(run: &CpuRun) -> String {
    let [before, after] = &run.probes;
    format!(
        "\nFused multiply-adds in registers: {} GFLOP/s before the measurement, {} after it; a copy, read plus written: {} and {} \
         GB/s.\n",
        short(before.fma_flops_per_s * 1e-9),
        short(after.fma_flops_per_s * 1e-9),
        short(before.copy_bytes_per_s * 1e-9),
        short(after.copy_bytes_per_s * 1e-9)
    )
}

/// The libraries, and what has no time.
fn about(run: &CpuRun) -> String {
    let libraries = run.peers.iter().map(|(name, l)| format!("- {name} {}: {}\n", l.version, l.note));
    let libraries: String = libraries.collect();
    let errors = without_time(&BTreeMap::new(), &run.errors, 0);
    format!("\n{libraries}{}", errors.trim_start())
}

fn distinct<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    values.fold(Vec::new(), |mut all, value| {
        if !all.contains(&value) {
            all.push(value);
        }
        all
    })
}

fn systems(run: &CpuRun) -> Vec<&str> {
    distinct(run.lines.iter().map(|line| line.system.as_str()))
}

/// The T5's shape and n.
fn panel_of(line: &CpuLine) -> (Option<&str>, usize) {
    (line.shape.as_deref(), line.keys)
}

/// The lines of each point: shape, n, U.
fn points(run: &CpuRun) -> Vec<Vec<&CpuLine>> {
    let point = |line: &CpuLine| (line.shape.clone(), line.keys, line.rows);
    let at = |p| run.lines.iter().filter(|line| point(line) == p).collect();
    distinct(run.lines.iter().map(point)).into_iter().map(at).collect()
}

fn figure(run: &CpuRun, title: &str, scale: f64, unit: &str) -> Figure {
    let panel = |of: (Option<&str>, usize)| {
        let of_panel = || run.lines.iter().filter(move |line| panel_of(line) == of);
        let points = |system: &str| {
            let lines = of_panel().filter(|l| l.system == system);
            lines.map(|l| (l.rows as f64, l.median_s * scale)).collect::<Vec<_>>()
        };
        let series = systems(run).into_iter().enumerate();
        let series = series.map(|(look, system)| Series {
            name: system.to_owned(),
            look,
            points: points(system),
            ..Series::default()
        });
        let shape = of.0.map(|shape| format!("{shape}, ")).unwrap_or_default();
        Panel {
            title: format!("{shape}n = {}", of.1),
            x: "prompts U (query rows)".to_owned(),
            y: unit.to_owned(),
            x_ticks: distinct(of_panel().map(|line| line.rows)).into_iter().map(|rows| rows as f64).collect(),
            series: series.filter(|series| !series.points.is_empty()).collect(),
        }
    };
    Figure {
        title: title.to_owned(),
        source: source_of(run),
        columns: 2,
        panels: distinct(run.lines.iter().map(panel_of)).into_iter().map(panel).collect(),
    }
}

/// A table of a row per point and a column per system; `cell` of those that have a time.
fn table(run: &CpuRun, head: &[&str], cell: impl Fn(&CpuLine) -> String) -> Result<String> {
    let t5 = run.lines.iter().any(|line| line.shape.is_some());
    let place = if t5 { "shape | n | U" } else { "n | U" };
    let columns = place.split('|').count() + head.len();
    let mut text = format!("| {place} | {} |\n|{}\n", head.join(" | "), " --- |".repeat(columns));
    for lines in points(run) {
        let of_shape = lines[0].shape.as_ref().map(|shape| format!("{shape} | ")).unwrap_or_default();
        write!(text, "| {of_shape}{} | {} |", lines[0].keys, lines[0].rows)?;
        for system in head {
            let line = lines.iter().find(|line| line.system == *system);
            write!(text, " {} |", line.map(|line| cell(line)).unwrap_or_default())?;
        }
        text.push('\n');
    }
    Ok(text)
}

fn every_point(run: &CpuRun, scale: f64) -> Result<String> {
    table(run, &systems(run), |line| {
        let ratio = line.of_ours.map(|r| format!(", {:.2}x, {:.2} to {:.2}", r.median, r.min, r.max));
        short(line.median_s * scale) + &ratio.unwrap_or_default()
    })
}

/// Ours in seconds, the others as times as long.
fn ratios(run: &CpuRun) -> Result<String> {
    let ours = systems(run).first().map(|ours| format!("{ours}: its seconds; of the others, times as long."));
    let table = table(run, &systems(run), |line| match line.of_ours {
        Some(ratio) => format!("{:.2}x", ratio.median),
        None => short(line.median_s),
    })?;
    Ok(format!("\n{}\n\n{table}", ours.unwrap_or_default()))
}

/// Prompts from which on attention is bound by arithmetic.
const MANY_ROWS: usize = 64;
/// Heads times head_dim of what is measured.
const WIDTH: usize = 12 * 64;

/// How much of the machine's multiply-adds ours does, softmax not counted.
fn of_fma(run: &CpuRun) -> Result<String> {
    let ours: Vec<&str> = systems(run).into_iter().filter(|system| system.starts_with("onekv")).collect();
    let rate = run.probes.iter().map(|probe| probe.fma_flops_per_s).sum::<f64>() / run.probes.len() as f64;
    let lines =
        run.lines.iter().filter(|line| line.rows >= MANY_ROWS && ours.contains(&line.system.as_str()));
    let many = CpuRun { lines: lines.cloned().collect(), errors: Vec::new(), ..run.clone() };
    if many.lines.is_empty() {
        return Ok(String::new());
    }
    let table = table(&many, &ours, |line| {
        let flops = (4 * line.rows * line.keys * WIDTH) as f64;
        format!("{:.0} %", 100.0 * flops / line.median_s / rate)
    })?;
    Ok(format!(
        "\nOf the rate of multiply-adds, Q K^T and P V of ours from {MANY_ROWS} prompts on, f32 sums in all types:\n\n{table}"
    ))
}
