//! `cargo xtask model`: what a card should show, from what was counted and what is assumed. It stands in for a measurement
//! until there is one, and is held to it then.

mod assumptions;
mod attention;
// Of the benchmark, which measures what is predicted here.
#[allow(dead_code)]
#[path = "../../benches/card/shapes.rs"]
mod shapes;
mod t5;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;
use onekv::DType;
use onekv::plan::{Plan, PlanOptions};

use crate::codegen;
use crate::results::{self, Shape};
use crate::run::root;
use assumptions::{ALL, Assumptions, CARDS};
use attention::{Prediction, predict};

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
    let tiles = codegen::tiles()?;
    let page = page(&tiles)?;
    if arguments.write {
        std::fs::write(root().join(PAGE), &page).with_context(|| format!("cannot write {PAGE}"))?;
        println!("wrote {PAGE}");
    } else {
        println!("{page}");
    }
    let (text, off) = compared(&root().join("results"), &tiles)?;
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

fn shape(s: &shapes::Shape) -> Shape {
    let shapes::Model { model, heads, kv_heads, head_dim, .. } = s.model;
    let (model, inputs, rows, keys, e4m3_kv) = (model.to_owned(), s.inputs, s.rows, s.keys, s.e4m3_kv);
    Shape { model, heads, kv_heads, head_dim, inputs, rows, keys, e4m3_kv }
}

/// What the plan takes and how long that is; `None` for kernels whose instructions were not counted.
fn predicted(shape: &Shape, a: &Assumptions, tiles: &str) -> Result<(Plan, Option<Prediction>)> {
    let facts = codegen::facts(a.compute_capability, a.multiprocessors)?;
    let plan = shape.plan(DType::Bf16, &facts, &PlanOptions::default())?;
    let counts = codegen::per_tile(tiles, &plan.variant().kernel(), a.compute_capability)?;
    let prediction = counts.map(|counts| predict(shape, &plan, &counts, a)).transpose()?;
    Ok((plan, prediction))
}

/// Few rows over K/V of 67 MB or more, and many rows: the regimes that have targets.
fn is_large(shape: &Shape) -> bool {
    shape.folded_rows() <= 64 && shape.kv_bytes() >= 67e6
}

fn is_many(shape: &Shape) -> bool {
    shape.folded_rows() >= 512
}

/// What is aimed at of a shape on Hopper.
enum Aim {
    OfCopy(f64),
    Tflops(f64),
    None,
}

fn aim(shape: &Shape, a: &Assumptions) -> Aim {
    match shape.head_dim {
        _ if is_large(shape) => Aim::OfCopy(0.9),
        _ if !is_many(shape) || shape.keys < 2048 || a.compute_capability != "9.0" => Aim::None,
        64 => Aim::Tflops(480.0),
        128 => Aim::Tflops(620.0),
        _ => Aim::Tflops(660.0),
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header(header);
    table
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "**missed**" }
}

/// A shape's row. Few rows are compared with a copy, many with the data sheet.
fn row(shape: &Shape, a: &Assumptions, tiles: &str) -> Result<Vec<String>> {
    let (plan, prediction) = predicted(shape, a, tiles)?;
    let kernel =
        format!("{}, {} keys, {} blocks", plan.variant().kernel(), plan.split_keys(), plan.work().len());
    let Some(Prediction { us, floor_us, limit }) = prediction else {
        return Ok(vec![shape.to_string(), kernel, "not predicted: no instructions counted".to_owned()]);
    };
    let many = is_many(shape);
    let (rate, unit) =
        if many { (shape.flops() / us * 1e-6, "TFLOP/s") } else { (shape.bytes() / us * 1e-3, "GB/s") };
    let (target, met) = match aim(shape, a) {
        Aim::OfCopy(part) => {
            let of_copy = shape.bytes() / us * 1e6 / (a.memory_bytes_per_s * a.copy_part);
            (
                format!(">= {:.0} % of a copy, here {:.1} %", part * 100.0, of_copy * 100.0),
                verdict(of_copy >= part),
            )
        }
        Aim::Tflops(least) => (format!(">= {least:.0} TFLOP/s"), verdict(rate >= least)),
        Aim::None => (String::new(), ""),
    };
    Ok(vec![
        shape.to_string(),
        kernel,
        format!("{us:.1}"),
        format!("{rate:.0}"),
        format!("us and {unit}, {LABEL}"),
        format!("{:.0} %", 100.0 * floor_us / us),
        limit.to_string(),
        target,
        met.to_owned(),
    ])
}

/// Flan-XL's decode step.
fn step(a: &Assumptions, tiles: &str) -> Result<Option<t5::Step>> {
    let t5 = t5::model()?;
    let [heads, head_dim, rows, keys] =
        [t5.heads, t5.head_dim, t5::WORK.prompts, t5::WORK.keys].map(|count| count as usize);
    let (model, kv_heads, inputs) = ("flan-t5-xl".to_owned(), heads, 1);
    let shape = Shape { model, heads, kv_heads, head_dim, inputs, rows, keys, e4m3_kv: false };
    let (_, attention) = predicted(&shape, a, tiles)?;
    Ok(attention.map(|attention| t5::step(&t5, &attention, a)))
}

const HEAD: &str = "\
# What a card should show: predicted, not measured

<!-- Made by `cargo xtask model --write`. Do not edit. -->

No number here was measured. The instructions of a tile of keys, its bytes and the plan's blocks are counted
([cuda/codegen.md](../cuda/codegen.md)); clocks, rates, latencies and gaps are assumptions, each with its source, in
[assumptions.rs](../xtask/src/model/assumptions.rs), and some of them are guesses. b: inputs, U: prompts, n: keys. Share: of the
least time that bytes at a copy's rate or operations at the data sheet's allow.

Once results/ has a card's file, `cargo xtask model` prints how far off the model is for each shape, and fails where
that is more than 20 %.
";

const COLUMNS: [&str; 9] =
    ["shape", "kernel, keys of a split, blocks", "time", "rate", "unit", "share", "limited by", "target", ""];

/// The page: one card in full, the others by their targets.
fn page(tiles: &str) -> Result<String> {
    let mut text = HEAD.to_owned();
    let (first, others) = CARDS.split_first().context("no cards")?;
    let shapes: Vec<Shape> = shapes::Sweep::MustShow.shapes().iter().map(shape).collect();
    for (name, many) in [("few rows", false), ("many rows", true)] {
        write!(text, "\n## {}, {name}: {LABEL}\n\n", first.card)?;
        let mut table = table(&COLUMNS);
        for shape in shapes.iter().filter(|shape| is_many(shape) == many) {
            table.add_row(row(shape, first, tiles)?);
        }
        writeln!(text, "{table}")?;
    }
    write!(
        text,
        "\n## {}, few rows, K and V in e4m3: {LABEL}\n\nUp to 32 prompts over K/V of 67 MB and more in 16 bits. Gain: \
         time predicted in 16 bits over this.\n\n",
        first.card
    )?;
    let mut e4m3 = table(&[&COLUMNS[..7], &["gain"]].concat());
    for own in shapes.iter().filter(|shape| is_large(shape) && shape.rows <= 32) {
        let shape = Shape { e4m3_kv: true, ..own.clone() };
        let [Some(own), Some(less)] = [predicted(own, first, tiles)?.1, predicted(&shape, first, tiles)?.1]
        else {
            bail!("{shape}: its instructions were not counted");
        };
        let mut cells = row(&shape, first, tiles)?;
        cells.truncate(7);
        e4m3.add_row(cells.into_iter().chain([format!("{:.2}x", own.us / less.us)]));
    }
    writeln!(text, "{e4m3}")?;
    write!(text, "\n## Decode step of Flan-T5-XL, U = 64, n = 512, bf16: {LABEL}\n\n")?;
    let mut steps = table(&["card", "kernels", "time", "unit", "over its floor", "target", ""]);
    for a in &CARDS {
        // The example's own products are for Hopper.
        if let Some(step) = step(a, tiles)?.filter(|_| a.compute_capability == "9.0") {
            let over = step.us / step.floor_us;
            steps.add_row([
                a.card.to_owned(),
                step.kernels.to_string(),
                format!("{:.0}", step.us),
                format!("us, {LABEL}"),
                format!("{over:.2}x"),
                "<= 1.35x".to_owned(),
                verdict(over <= 1.35).to_owned(),
            ]);
        }
    }
    writeln!(text, "{steps}")?;
    write!(
        text,
        "\n## Other cards: {LABEL}\n\nOf each regime and head_dim the shape with the least share.\n\n"
    )?;
    let mut worst_of = table(&[&["card"], &COLUMNS[..]].concat());
    for a in others {
        for (many, head_dim) in [false, true].into_iter().flat_map(|many| [64, 128, 256].map(|d| (many, d))) {
            let fits = |s: &&Shape| s.head_dim == head_dim && if many { is_many(s) } else { is_large(s) };
            let mut worst: Option<(f64, &Shape)> = None;
            for shape in shapes.iter().filter(fits) {
                let share = predicted(shape, a, tiles)?.1.map(|p| p.floor_us / p.us);
                let least = worst.map_or(f64::INFINITY, |worst| worst.0);
                worst = share.filter(|share| *share < least).map(|share| (share, shape)).or(worst);
            }
            if let Some((_, shape)) = worst {
                worst_of.add_row([a.card.to_owned()].into_iter().chain(row(shape, a, tiles)?));
            }
        }
    }
    writeln!(text, "{worst_of}")?;
    write!(
        text,
        "\n## What an assumption changes, {}: {LABEL}\n\n{}\n",
        first.card,
        sensitivity(&shapes, tiles)?
    )?;
    Ok(text)
}

/// How much longer each takes on the first card where an assumption is 20 % worse: what is to be measured first.
fn sensitivity(shapes: &[Shape], tiles: &str) -> Result<Table> {
    let first = CARDS[0];
    let least = |a: &Shape, b: &Shape| a.kv_bytes().total_cmp(&b.kv_bytes());
    let few = shapes.iter().filter(|s| is_large(s)).min_by(|a, b| least(a, b)).context("no few rows")?;
    let mut some = vec![few];
    for head_dim in [64, 128, 256] {
        let many = shapes.iter().find(|s| (s.head_dim, s.keys) == (head_dim, 2048) && is_many(s));
        some.push(many.context("no many rows")?);
    }
    let times = |a: &Assumptions| -> Result<Vec<f64>> {
        let mut times = Vec::new();
        for shape in &some {
            times.push(predicted(shape, a, tiles)?.1.context("not counted")?.us);
        }
        times.push(step(a, tiles)?.context("not counted")?.us);
        Ok(times)
    };
    let names: Vec<String> = some.iter().map(|shape| shape.to_string()).collect();
    let mut header = vec!["20 % worse: predicted, not measured"];
    header.extend(names.iter().map(String::as_str).chain(["Flan-T5-XL's step", "unit"]));
    let mut table = table(&header);
    let now = times(&first)?;
    for (name, worse) in ALL {
        let mut a = first;
        worse(&mut a, 1.2);
        let more = times(&a)?
            .into_iter()
            .zip(&now)
            .map(|(after, now)| format!("{:+.1}", (after / now - 1.0) * 100.0));
        table.add_row([name.to_owned()].into_iter().chain(more).chain([format!("% of time, {LABEL}")]));
    }
    Ok(table)
}

/// The model beside what was measured: a line for each shape of a card that it knows, and how many are too far off.
fn compared(results: &Path, tiles: &str) -> Result<(String, usize)> {
    let (mut text, mut off) = (String::new(), 0);
    for (folder, mut sweep) in results::cards(results)? {
        let Some(a) = CARDS.iter().find(|a| sweep.machine.card.contains(a.card)) else {
            writeln!(text, "{folder}: no assumptions about {}", sweep.machine.card)?;
            continue;
        };
        let a = Assumptions { multiprocessors: sweep.machine.multiprocessors, ..*a };
        writeln!(text, "{folder}, sweep {}: measured, and the model's error", sweep.name)?;
        // Softcaps cost what was not counted.
        sweep.lines.retain(|line| line.plan.by_cost && !line.shape.model.contains("softcap"));
        sweep.lines.sort_by(|a, b| a.shape.cmp(&b.shape));
        for results::Line { shape, us, .. } in &sweep.lines {
            let Some(p) = predicted(shape, &a, tiles)?.1 else { continue };
            let error = p.us / us - 1.0;
            let is_off = error.abs() > TRUSTED;
            off += usize::from(is_off);
            let mark = if is_off { ", too far" } else { "" };
            writeln!(text, "  {shape}: {us:.2} us, model {:+.0} %{mark}", error * 100.0)?;
        }
    }
    Ok((text, off))
}
