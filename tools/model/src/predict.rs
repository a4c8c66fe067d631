//! `cargo xtask model`: what a card should show, from what was counted and what is assumed. It stands in for a measurement
//! until there is one, and is held to it then.

#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail};
use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;
use onekv::DType;
use onekv::plan::{Plan, PlanOptions};
use onekv_cost::FLAN_T5_XL;

use crate::assumptions::{Assumptions, CARDS, WORSE};
use crate::attention::{Counts, Prediction, counted, counts_of, predict};
use crate::cards::facts;
use crate::decode_step::{Step, WORK, step};
use crate::measured::{self, Line, title};
use crate::scripts::root;
use crate::shapes::{Model, Shape, Sweep};

#[derive(clap::Args)]
pub struct Arguments {
    /// Write docs/model.md
    #[arg(long)]
    write: bool,
}

const PAGE: &str = "docs/model.md";
const LABEL: &str = "predicted, not measured";
/// A measured time may be so far from the predicted one, as a part of it.
const TRUSTED: f64 = 0.2;

pub fn run(arguments: &Arguments) -> Result<()> {
    let counted = counted()?;
    let page = page(&counted)?;
    if arguments.write {
        std::fs::write(root().join(PAGE), &page).with_context(|| format!("cannot write {PAGE}"))?;
        println!("wrote {PAGE}");
    } else {
        println!("{page}");
    }
    let (text, off) = compared(&measured::plans(&[root().join("results")])?, &counted)?;
    print!("{text}");
    trusted(off)
}

/// An error where measured times are too far from the model's.
fn trusted(off: usize) -> Result<()> {
    if off > 0 {
        bail!(
            "{off} measured times are more than {:.0} % from the model's: correct its assumptions",
            TRUSTED * 100.0
        );
    }
    Ok(())
}

/// What the plan takes and how long that is; `None` for kernels whose instructions were not counted.
fn predicted(shape: &Shape, a: &Assumptions, counted: &[Counts]) -> Result<(Plan, Option<Prediction>)> {
    let plan = shape.plan(&facts(a.compute_capability, a.multiprocessors)?, &PlanOptions::default())?;
    let counts = counts_of(counted, &plan.variant().kernel(), a.compute_capability);
    let prediction = counts.map(|counts| predict(shape, &plan, counts, a)).transpose()?;
    Ok((plan, prediction))
}

/// Few rows over K/V of 67 MB or more in 16 bits, and many rows: the regimes that have targets.
fn is_large(shape: &Shape) -> bool {
    shape.folded_rows() <= 64 && 4 * shape.kv_len() >= 67_000_000
}

fn is_many(shape: &Shape) -> bool {
    shape.folded_rows() >= 512
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header(header);
    table
}

fn verdict(met: bool) -> String {
    if met { "met" } else { "**missed**" }.to_owned()
}

/// What is aimed at of a shape, and whether it is met: of few rows a part of a copy's rate, of many operations on Hopper.
fn target(shape: &Shape, us: f64, a: &Assumptions) -> [String; 2] {
    const OF_COPY: f64 = 0.9;
    if is_large(shape) {
        let of_copy = shape.bytes() as f64 / us * 1e6 / (a.memory_bytes_per_s * a.copy_part);
        let text = format!(">= {:.0} % of a copy, here {:.1} %", OF_COPY * 100.0, of_copy * 100.0);
        return [text, verdict(of_copy >= OF_COPY)];
    }
    if !is_many(shape) || shape.keys < 2048 || a.compute_capability != "9.0" {
        return [String::new(), String::new()];
    }
    let least = match shape.model.head_dim {
        64 => 480.0,
        128 => 620.0,
        _ => 660.0,
    };
    [format!(">= {least:.0} TFLOP/s"), verdict(shape.flops() / us * 1e-6 >= least)]
}

/// A shape's row. Few rows are compared with a copy, many with the data sheet.
fn row(shape: &Shape, a: &Assumptions, counted: &[Counts]) -> Result<Vec<String>> {
    let (plan, prediction) = predicted(shape, a, counted)?;
    let kernel =
        format!("{}, {} keys, {} blocks", plan.variant().kernel(), plan.split_keys(), plan.work().len());
    let Some(Prediction { us, floor_us, limit }) = prediction else {
        return Ok(vec![title(shape), kernel, "not predicted: no instructions counted".to_owned()]);
    };
    let (rate, unit) = match is_many(shape) {
        true => (shape.flops() / us * 1e-6, "TFLOP/s"),
        false => (shape.bytes() as f64 / us * 1e-3, "GB/s"),
    };
    let [time, rate, share] =
        [format!("{us:.1}"), format!("{rate:.0}"), format!("{:.0} %", 100.0 * floor_us / us)];
    let row = [title(shape), kernel, time, rate, format!("us and {unit}, {LABEL}"), share, limit.to_owned()];
    Ok(row.into_iter().chain(target(shape, us, a)).collect())
}

/// Flan-XL's decode step.
fn xl_step(a: &Assumptions, counted: &[Counts]) -> Result<Option<Step>> {
    let [heads, head_dim, rows, keys] =
        [FLAN_T5_XL.heads, FLAN_T5_XL.head_dim, WORK.prompts, WORK.keys].map(|count| count as usize);
    let model = Model { model: "flan-t5-xl", heads, kv_heads: heads, head_dim, softcap: None };
    let shape = Shape { model, inputs: 1, rows, keys, e4m3_kv: false, dtype: DType::Bf16 };
    let (_, attention) = predicted(&shape, a, counted)?;
    Ok(attention.map(|attention| step(&FLAN_T5_XL, &attention, a)))
}

const HEAD: &str = "\
# What a card should show: predicted, not measured

<!-- Made by `cargo xtask model --write`. Do not edit. -->

No number here was measured. The instructions of a tile of keys, its bytes and the plan's blocks are counted
([cuda/codegen.md](../cuda/codegen.md)); clocks, rates, latencies and gaps are assumptions, each with its source, in
[assumptions.rs](../tools/model/src/assumptions.rs), and some of them are guesses. b: inputs, U: prompts, n: keys. Share: of the
least time that bytes at a copy's rate or operations at the data sheet's allow.

Once results/ has a card's file, `cargo xtask model` prints how far off the model is for each shape, and fails where
that is more than 20 %.
";

const COLUMNS: [&str; 9] =
    ["shape", "kernel, keys of a split, blocks", "time", "rate", "unit", "share", "limited by", "target", ""];

/// The page: one card in full, the others by their targets.
fn page(counted: &[Counts]) -> Result<String> {
    let mut text = HEAD.to_owned();
    let mut section =
        |title: &str, said: &str, table: Table| write!(text, "\n## {title}: {LABEL}\n\n{said}{table}\n");
    let (first, others) = CARDS.split_first().context("no cards")?;
    let shapes = Sweep::MustShow.shapes();
    for (name, many) in [("few rows", false), ("many rows", true)] {
        let mut table = table(&COLUMNS);
        for shape in shapes.iter().filter(|shape| is_many(shape) == many) {
            table.add_row(row(shape, first, counted)?);
        }
        section(&format!("{}, {name}", first.card), "", table)?;
    }

    let mut e4m3 = table(&[&COLUMNS[..7], &["gain"]].concat());
    for own in shapes.iter().filter(|shape| is_large(shape) && shape.rows <= 32) {
        let shape = own.with_e4m3_kv();
        let [Some(own), Some(less)] =
            [predicted(own, first, counted)?.1, predicted(&shape, first, counted)?.1]
        else {
            bail!("{}: its instructions were not counted", title(&shape));
        };
        let mut cells = row(&shape, first, counted)?;
        cells.truncate(7);
        cells.push(format!("{:.2}x", own.us / less.us));
        e4m3.add_row(cells);
    }
    let said = "Up to 32 prompts over K/V of 67 MB and more in 16 bits. Gain: time predicted in 16 bits over this.\n\n";
    section(&format!("{}, few rows, K and V in e4m3", first.card), said, e4m3)?;

    let mut steps = table(&["card", "kernels", "time", "unit", "over its floor", "target", ""]);
    // The example's own products are for Hopper.
    for a in CARDS.iter().filter(|a| a.compute_capability == "9.0") {
        let Some(Step { us, floor_us, kernels }) = xl_step(a, counted)? else { continue };
        let over = us / floor_us;
        let [time, unit, over_floor] = [format!("{us:.0}"), format!("us, {LABEL}"), format!("{over:.2}x")];
        let target = "<= 1.35x".to_owned();
        steps.add_row([
            a.card.to_owned(),
            kernels.to_string(),
            time,
            unit,
            over_floor,
            target,
            verdict(over <= 1.35),
        ]);
    }
    section("Decode step of Flan-T5-XL, U = 64, n = 512, bf16", "", steps)?;

    let mut worst_of = table(&[&["card"], &COLUMNS[..]].concat());
    for a in others {
        for (many, head_dim) in [false, true].into_iter().flat_map(|many| [64, 128, 256].map(|d| (many, d))) {
            let regime = if many { is_many } else { is_large };
            let mut worst: Option<(f64, &Shape)> = None;
            for shape in shapes.iter().filter(|shape| shape.model.head_dim == head_dim && regime(shape)) {
                let share = predicted(shape, a, counted)?.1.map(|p| p.floor_us / p.us);
                let least = worst.map_or(f64::INFINITY, |worst| worst.0);
                worst = share.filter(|share| *share < least).map(|share| (share, shape)).or(worst);
            }
            if let Some((_, shape)) = worst {
                worst_of.add_row([a.card.to_owned()].into_iter().chain(row(shape, a, counted)?));
            }
        }
    }
    section("Other cards", "Of each regime and head_dim the shape with the least share.\n\n", worst_of)?;
    section(&format!("What an assumption changes, {}", first.card), "", sensitivity(&shapes, counted)?)?;
    Ok(text)
}

/// How much longer each takes on the first card where an assumption is 20 % worse: what is to be measured first.
fn sensitivity(shapes: &[Shape], counted: &[Counts]) -> Result<Table> {
    let few = shapes.iter().filter(|shape| is_large(shape)).min_by_key(|shape| shape.kv_len());
    let mut some = vec![few.context("no few rows")?];
    for head_dim in [64, 128, 256] {
        let many = shapes.iter().find(|s| (s.model.head_dim, s.keys) == (head_dim, 2048) && is_many(s));
        some.push(many.context("no many rows")?);
    }
    let times = |a: &Assumptions| -> Result<Vec<f64>> {
        let of = |shape: &&Shape| Ok(predicted(shape, a, counted)?.1.context("not counted")?.us);
        let step = xl_step(a, counted)?.context("not counted")?.us;
        some.iter().map(of).chain([Ok(step)]).collect()
    };
    let names: Vec<String> = some.iter().map(|shape| title(shape)).collect();
    let mut header = vec!["20 % worse: predicted, not measured"];
    header.extend(names.iter().map(String::as_str).chain(["Flan-T5-XL's step", "unit"]));
    let mut table = table(&header);
    let now = times(&CARDS[0])?;
    for (name, worse) in WORSE {
        let mut a = CARDS[0];
        worse(&mut a, 1.2);
        let then = times(&a)?;
        let more = then.iter().zip(&now).map(|(then, now)| format!("{:+.1}", (then / now - 1.0) * 100.0));
        table.add_row([name.to_string()].into_iter().chain(more).chain([format!("% of time, {LABEL}")]));
    }
    Ok(table)
}

/// The model beside what was measured: a line for each shape of a card that it knows, and how many are too far off.
fn compared(lines: &[Line], counted: &[Counts]) -> Result<(String, usize)> {
    let (mut text, mut off) = (String::new(), 0);
    for sweep in lines.chunk_by(|a, b| a.file == b.file) {
        let Line { folder, sweep: name, card, multiprocessors, .. } = &sweep[0];
        let Some(a) = CARDS.iter().find(|a| card.contains(a.card)) else {
            writeln!(text, "{folder}: no assumptions about {card}")?;
            continue;
        };
        let a = Assumptions { multiprocessors: *multiprocessors, ..*a };
        writeln!(text, "{folder}, sweep {name}: measured, and the model's error")?;
        // Softcaps cost what was not counted.
        for line in sweep.iter().filter(|line| line.by_cost && !line.shape.model.model.contains("softcap")) {
            let Line { shape, us, .. } = line;
            let Some(p) = predicted(shape, &a, counted)?.1 else { continue };
            let error = p.us / us - 1.0;
            let is_off = error.abs() > TRUSTED;
            off += usize::from(is_off);
            let mark = if is_off { ", too far" } else { "" };
            writeln!(text, "  {}: {us:.2} us, model {:+.0} %{mark}", title(shape), error * 100.0)?;
        }
    }
    Ok((text, off))
}
