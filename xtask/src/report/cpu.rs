//! The CPU's part of the page.

use std::fmt::Write as _;

use anyhow::Result;

use super::crossover;
use super::data::{Cpu, CpuLine, CpuRun};
use super::page::{Files, folded, picture, short};
use crate::plot::{Bars, Figure, Panel, Series};

pub fn section(cpu: &Cpu, files: &mut Files) -> Result<String> {
    let mut text = String::from("\n## CPU\n");
    if cpu.attention.is_none() && cpu.t5.is_none() && cpu.crossover.is_none() {
        text += "\nNothing has been measured on a CPU yet: `cargo xtask peers cpu`.\n";
    }
    if let Some(run) = &cpu.attention {
        let path = "results/cpu/attention.svg";
        files.insert(path.to_owned(), attention(run).svg()?);
        write!(text, "\n### Attention, 12 heads x 64, f32\n\n{}.\n", source_of(run))?;
        text += &picture("Attention on the CPU", path);
        text += &folded("Every point: ms, and times as long as onekv", &attention_table(run)?);
    }
    if let Some(run) = &cpu.t5 {
        let path = "results/cpu/t5.svg";
        files.insert(path.to_owned(), t5(run).svg()?);
        let prompts = run.lines.first().map_or(0, |line| line.rows);
        write!(text, "\n### T5-base end to end, {prompts} prompts, f32\n\n{}.\n", source_of(run))?;
        text += &picture("T5-base on the CPU", path);
        text += "\n| system | seconds | times as long as the quickest |\n| --- | --- | --- |\n";
        let quickest = run.lines.iter().map(|l| l.median_s).fold(f64::INFINITY, f64::min);
        for line in &run.lines {
            let ratio = line.median_s / quickest;
            writeln!(text, "| {} | {} | {ratio:.2}x |", line.system, short(line.median_s))?;
        }
    }
    if let Some((by, run)) = &cpu.crossover {
        let source = source(&by.machine, by.threads, by.torch.as_deref(), &by.date);
        text += &crossover::section("results/cpu/crossover", run, &source, files)?;
    }
    Ok(text)
}

fn source_of(run: &CpuRun) -> String {
    source(&run.machine, run.threads, run.torch.as_deref(), &run.date)
}

fn source(machine: &str, threads: usize, torch: Option<&str>, date: &str) -> String {
    let torch = torch.map(|torch| format!("PyTorch {torch}, ")).unwrap_or_default();
    format!("{machine}, {threads} threads, {torch}{date}")
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

fn keys(run: &CpuRun) -> Vec<usize> {
    distinct(run.lines.iter().map(|line| line.keys))
}

fn find<'a>(run: &'a CpuRun, system: &str, rows: usize, keys: usize) -> Option<&'a CpuLine> {
    run.lines.iter().find(|l| l.system == system && (l.rows, l.keys) == (rows, keys))
}

fn attention(run: &CpuRun) -> Figure {
    let panel = |keys: usize| {
        let of_panel = || run.lines.iter().filter(move |line| line.keys == keys);
        let series = systems(run).into_iter().enumerate().map(|(look, system)| Series {
            name: system.to_owned(),
            look,
            points: of_panel()
                .filter(|l| l.system == system)
                .map(|l| (l.rows as f64, l.median_s * 1e3))
                .collect(),
            ..Series::default()
        });
        Panel {
            title: format!("{keys} keys"),
            x: "prompts (query rows)".to_owned(),
            y: "ms".to_owned(),
            x_ticks: distinct(of_panel().map(|line| line.rows)).into_iter().map(|rows| rows as f64).collect(),
            series: series.collect(),
        }
    };
    Figure {
        title: "Shared cross-attention, 12 heads x 64, f32".to_owned(),
        source: source_of(run),
        columns: 2,
        panels: keys(run).into_iter().map(panel).collect(),
    }
}

fn attention_table(run: &CpuRun) -> Result<String> {
    let systems = systems(run);
    let mut text =
        format!("| n | U | {} |\n| --- | --- |{}\n", systems.join(" | "), " --- |".repeat(systems.len()));
    for n in keys(run) {
        for rows in distinct(run.lines.iter().filter(|l| l.keys == n).map(|l| l.rows)) {
            write!(text, "| {n} | {rows} |")?;
            let ours = find(run, systems[0], rows, n).map(|line| line.median_s);
            for (i, system) in systems.iter().enumerate() {
                match (find(run, system, rows, n), ours) {
                    (Some(line), Some(ours)) if i > 0 => {
                        write!(text, " {}, {:.2}x |", short(line.median_s * 1e3), line.median_s / ours)?;
                    }
                    (Some(line), _) => write!(text, " {} |", short(line.median_s * 1e3))?,
                    (None, _) => text.push_str(" |"),
                }
            }
            text.push('\n');
        }
    }
    Ok(text)
}

fn t5(run: &CpuRun) -> Bars {
    let shape =
        run.lines.first().map_or(String::new(), |l| format!("{} prompts over {} tokens", l.rows, l.keys));
    let bars = run.lines.iter().map(|l| (l.system.clone(), l.median_s, l.system.starts_with("onekv")));
    Bars {
        title: format!("T5-base, {shape}, 10 new tokens, f32"),
        source: source_of(run),
        unit: "s",
        bars: bars.collect(),
    }
}
