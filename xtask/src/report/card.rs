//! A card's part of the page: its sweeps of attention, then T5.

use std::fmt::Write as _;

use anyhow::Result;

use super::data::{AttentionRun, Card, Line, Shape};
use super::page::{Files, folded, picture, short, source, without_time};
use super::sweep::{Joined, Row};
use super::{crossover, figures, t5, targets};

pub fn section(folder: &str, card: &Card, files: &mut Files) -> Result<String> {
    let name = card.attention.first().map(|run| &run.machine.card);
    let name = name.or(card.t5.as_ref().map(|run| &run.machine.card));
    let name = name.or(card.crossover.as_ref().map(|run| &run.0.card)).map_or(folder, String::as_str);
    let mut text = format!("\n## {name}\n");
    for run in &card.attention {
        text += &sweep(folder, run, files)?;
    }
    if let Some(run) = &card.t5 {
        text += &t5::section(folder, card, run, files)?;
    }
    if let Some((machine, run)) = &card.crossover {
        text += &crossover::section(&format!("results/{folder}/crossover"), run, &source(machine), files)?;
    }
    Ok(text)
}

fn sweep(folder: &str, run: &AttentionRun, files: &mut Files) -> Result<String> {
    let joined = Joined::new(run);
    let machine = source(&run.machine);
    let stem = format!("results/{folder}/attention-{}", run.sweep);
    let mut text = format!("\n### Attention, sweep \"{}\"\n\n{machine}.\n", run.sweep);
    write!(
        text,
        "A copy within the card's memory moved {} GB/s (read and written)",
        short(run.copy_bytes_per_s * 1e-9)
    )?;
    if let Some(after) = run.copy_bytes_per_s_after {
        write!(text, ", {} GB/s after the sweep", short(after * 1e-9))?;
    }
    writeln!(text, "; an empty pair of kernels took {} us.\n", short(run.empty_pair_us))?;
    text += &targets::table(&targets::attention(&joined))?;
    text += &without_time(&run.peers, &run.errors, run.left_out);
    for shown in figures::all(&joined, &machine) {
        let path = format!("{stem}-{}.svg", shown.name);
        text += &picture(&shown.figure.title, &path);
        write!(text, "\n{}\n", shown.caption)?;
        files.insert(path, shown.figure.svg()?);
    }
    let (inputs, keys) = (joined.shown_inputs(), joined.shown_keys());
    let some = table(&joined, |shape| shape.inputs == inputs && keys.contains(&shape.keys))?;
    let keys: Vec<String> = keys.iter().map(usize::to_string).collect();
    text += &folded(&format!("Times at b = {inputs}, n = {}", keys.join(" and ")), &some);
    let every = format!(
        "# {}: every shape of the sweep \"{}\"\n\n<!-- Made by `cargo xtask report`. Do not edit. -->\n\n{machine}.\n\n{}",
        run.machine.card,
        run.sweep,
        table(&joined, |_| true)?
    );
    writeln!(text, "\n[Every shape](../{stem}.md)")?;
    files.insert(format!("{stem}.md"), every);
    Ok(text)
}

fn table(joined: &Joined, shown: impl Fn(&Shape) -> bool) -> Result<String> {
    let replicated = joined.rows.values().any(|row| row.replicated.is_some());
    let e4m3 = joined.rows.values().any(|row| row.e4m3.is_some());
    let mut text = String::from("| model | b | n | U | us, cold | us, warm | GB/s | of copy | TFLOPS |");
    if replicated {
        text += " K/V per prompt |";
    }
    if e4m3 {
        text += " K/V in e4m3, of copy |";
    }
    for peer in &joined.peers {
        write!(text, " {peer} |")?;
    }
    let columns = 9 + usize::from(replicated) + usize::from(e4m3) + joined.peers.len();
    writeln!(text, "\n|{}", " --- |".repeat(columns))?;
    let mut rows: Vec<(&Shape, &Row)> = joined.rows.iter().filter(|r| shown(r.0)).collect();
    let place = |shape: &Shape| joined.models.iter().position(|m| *m == shape.model);
    rows.sort_by_key(|(s, _)| (place(s), s.inputs, s.keys, s.rows));
    for (shape, row) in rows {
        write!(text, "| {} | {} | {} | {} |", shape.model, shape.inputs, shape.keys, shape.rows)?;
        let Some(ours) = row.ours else {
            writeln!(text, "{}", " |".repeat(columns - 4))?;
            continue;
        };
        write!(
            text,
            " {} | {} | {} | {:.1} % | {} |",
            short(ours.cold_us),
            ours.warm_us.map(short).unwrap_or_default(),
            short(ours.bytes / ours.cold_us * 1e-3),
            100.0 * joined.of_copy(ours),
            short(ours.flops / ours.cold_us * 1e-6),
        )?;
        let ratio = |line: Option<&Line>| {
            line.map(|line| format!(" {:.2}x", line.cold_us / ours.cold_us)).unwrap_or_default()
        };
        if replicated {
            write!(text, "{} |", ratio(row.replicated))?;
        }
        if e4m3 {
            let part = |line: &Line| format!(", {:.1} %", 100.0 * joined.of_copy(line));
            write!(text, "{}{} |", ratio(row.e4m3), row.e4m3.map(part).unwrap_or_default())?;
        }
        for peer in &joined.peers {
            write!(text, "{} |", ratio(row.peers.iter().copied().find(|line| line.system == *peer)))?;
        }
        text.push('\n');
    }
    Ok(text)
}
