//! `cargo xtask fit`: the plan's cost constants, refitted to measured sweeps.
//!
//! A sweep of `card --every-plan` has the time of many plans of each shape. The cost function is right where it
//! prefers the plan that is the quickest; what its choice takes longer is its regret. The fit makes the mean regret
//! small, and among constants of like regret prefers those that predict the times.

mod search;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use comfy_table::Table;
use comfy_table::presets::UTF8_BORDERS_ONLY;
use onekv::plan::cost::{Constants, estimate};
use onekv::plan::{DeviceFacts, Plan, PlanOptions, variants};
use rayon::prelude::*;

use crate::cards;
use crate::measured::{self, Line, title};
use crate::scripts::root;
use crate::shapes::Shape;

#[derive(clap::Args)]
pub struct Arguments {
    /// Sweeps of one card, e.g. results/h200/attention-fit.jsonl
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Write the constants into src/plan/cost.rs
    #[arg(long)]
    write: bool,
    /// Starts of the search; more may find better constants
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..))]
    starts: u32,
}

type Field = fn(&mut Constants) -> &mut f64;

/// The constants by name, in the order of their definition. One that is added does not compile until it is here.
macro_rules! fields {
    ($($name:ident),* $(,)?) => {
        const FIELDS: &[(&str, Field)] = &[$((stringify!($name), |constants| &mut constants.$name)),*];
        const _: fn(Constants) = |Constants { $($name: _),* }| ();
    };
}

fields! {
    block_us,
    warpgroups_us,
    meeting_bytes_per_us,
    combine_us,
    join_us,
    bytes_per_us,
    l2_bytes_per_us,
    mma_flops_per_us,
    wgmma_flops_per_us,
    exponentials_per_us,
    instructions_per_us,
    not_hidden,
    fma_flops_per_us,
}

/// How much the error of the prediction weighs beside regret.
const PREDICTION: f64 = 0.05;
/// How much a constant's distance from today's weighs, so that one which the sweep says little of does not run off.
const DISTANCE: f64 = 1e-5;
/// What is aimed at: mean and worst regret.
const AIM: (f64, f64) = (0.05, 0.2);

/// A shape with the plans that were timed, of kernels that the library takes on this card. K and V in e4m3 are another shape.
struct Measured {
    shape: Shape,
    facts: DeviceFacts,
    plans: Vec<(Plan, f64)>,
    best_us: f64,
    /// The best of kernels that newer ones supersede: not for the constants to choose.
    others_us: Option<f64>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let lines = measured::plans(&arguments.files)?;
    let shapes = shapes(&lines)?;
    let (name, current) = Constants::named(shapes[0].facts.compute_capability);
    let plans: usize = shapes.iter().map(|m| m.plans.len()).sum();
    println!("{}, {name}: {} shapes, {plans} plans", lines[0].card, shapes.len());
    let fitted = fit(&shapes, current, arguments.starts);
    let after = regrets(&shapes, &fitted);
    println!("{}", table(&shapes, &regrets(&shapes, current), &after));
    println!(
        "aim: under {:.0} % mean and {:.0} % worst: {}",
        AIM.0 * 100.0,
        AIM.1 * 100.0,
        if mean(&after) < AIM.0 && worst(&after) < AIM.1 { "met" } else { "missed" }
    );
    if let Some((regret, measured)) = after.iter().zip(&shapes).max_by(|a, b| a.0.total_cmp(b.0)) {
        let [chosen, best] = [measured.choice(&fitted), measured.least(|(_, us)| *us)].map(said);
        println!("worst: {}: {:.1} %: {chosen} where {best} is best", title(&measured.shape), regret * 100.0);
    }
    let gain = |m: &Measured| Some(m.best_us / m.others_us.filter(|us| *us < m.best_us)? - 1.0);
    let gains: Vec<f64> = shapes.iter().filter_map(gain).collect();
    if !gains.is_empty() {
        println!(
            "On {} shapes a superseded kernel is quicker than all of these, which take up to {:.1} % longer.",
            gains.len(),
            worst(&gains) * 100.0
        );
    }
    if fitted == *current {
        println!("No constants were found that are better than {name}.");
        return Ok(());
    }
    let text = source(name, &fitted, &lines[0], &arguments.files);
    println!("\n{text}");
    if arguments.write {
        let path = root().join("src/plan/cost.rs");
        let old =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let new = replaced(&old, name, &text).with_context(|| path.display().to_string())?;
        std::fs::write(&path, new).with_context(|| format!("cannot write {}", path.display()))?;
        println!("wrote {}", path.display());
    }
    Ok(())
}

fn said((plan, us): &(Plan, f64)) -> String {
    format!("{} with splits of {} keys, {us:.1} us,", plan.variant().kernel(), plan.split_keys())
}

/// The shapes of sweeps of one card, with their plans as the library makes them. There is one at least.
fn shapes(lines: &[Line]) -> Result<Vec<Measured>> {
    let mut shapes = Vec::new();
    for of_shape in lines.chunk_by(|a, b| (&a.file, a.shape) == (&b.file, b.shape)) {
        let (first, line) = (&lines[0], &of_shape[0]);
        if [&line.card, &line.compute_capability] != [&first.card, &first.compute_capability]
            || line.multiprocessors != first.multiprocessors
        {
            bail!(
                "{} is of {}, {} of {}: constants are fitted to one card at a time",
                first.file,
                first.card,
                line.file,
                line.card
            );
        }
        let facts = cards::facts(&line.compute_capability, line.multiprocessors)
            .with_context(|| format!("{}: machine", line.file))?;
        let shape = line.shape;
        let mut plans: Vec<(Plan, f64)> = Vec::new();
        for line in of_shape {
            let place = || format!("{}: {}", line.file, title(&shape));
            let plan = plan(line, &facts).with_context(place)?;
            // The plan that was chosen is among the others too: one plan, timed twice.
            match plans.iter_mut().find(|known| known.0 == plan) {
                Some(known) => known.1 = (known.1 + line.us) / 2.0,
                None => plans.push((plan, line.us)),
            }
        }
        shapes.extend(Measured::new(shape, facts, plans));
    }
    if shapes.is_empty() {
        bail!("no shape has several plans of ours; measure with `card --every-plan`");
    }
    Ok(shapes)
}

/// The plan of a line, as the library makes it.
fn plan(line: &Line, facts: &DeviceFacts) -> Result<Plan> {
    let variant = variants::all().find(|v| v.kernel() == line.kernel);
    let variant = variant.with_context(|| format!("kernel {} is not one of today's", line.kernel))?;
    let options = PlanOptions::of(variant)
        .with_split_keys(line.split_keys)
        .with_split_cluster(line.split_cluster)
        .with_tile_rows(line.tile_rows);
    let plan = Shape { dtype: variant.dtype, ..line.shape }.plan(facts, &options)?;
    let splits = (plan.split_keys(), plan.split_cluster());
    if plan.variant() != variant || splits != (line.split_keys, line.split_cluster) {
        bail!(
            "tile_rows {} and split_keys {} give {} with splits of {} today, not {}",
            line.tile_rows,
            line.split_keys,
            plan.variant().kernel(),
            plan.split_keys(),
            line.kernel
        );
    }
    Ok(plan)
}

impl Measured {
    /// None where there is nothing to choose between.
    fn new(shape: Shape, facts: DeviceFacts, plans: Vec<(Plan, f64)>) -> Option<Self> {
        // As Plan::new.
        let variants: Vec<_> = plans.iter().map(|(plan, _)| plan.variant()).collect();
        let (others, plans): (Vec<_>, Vec<_>) =
            plans.into_iter().partition(|(plan, _)| variants.iter().any(|v| v.supersedes(plan.variant())));
        let least = |plans: &[(Plan, f64)]| plans.iter().map(|p| p.1).min_by(f64::total_cmp);
        let (best_us, others_us) = (least(&plans)?, least(&others));
        (plans.len() > 1).then_some(Self { shape, facts, plans, best_us, others_us })
    }

    /// The plan of which this is least, with its time.
    fn least(&self, of: impl Fn(&(Plan, f64)) -> f64) -> &(Plan, f64) {
        let each = self.plans.iter().map(|plan| (of(plan), plan));
        each.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(&self.plans[0], |(_, plan)| plan)
    }

    /// The plan that these constants prefer.
    fn choice(&self, constants: &Constants) -> &(Plan, f64) {
        self.least(|(plan, _)| self.cost(plan, constants))
    }

    /// What these constants say that a plan costs.
    fn cost(&self, plan: &Plan, constants: &Constants) -> f64 {
        let splits = (plan.split_keys(), plan.split_cluster());
        estimate(plan.problem(), plan.variant(), splits, &self.facts, constants)
    }

    /// How much longer the choice takes than the best: 0.1 is 10 %.
    fn regret(&self, constants: &Constants) -> f64 {
        self.choice(constants).1 / self.best_us - 1.0
    }

    /// Mean squared error of the logarithm of the predicted time.
    fn error(&self, constants: &Constants) -> f64 {
        let square = |(plan, us): &(Plan, f64)| (self.cost(plan, constants) / us).ln().powi(2);
        self.plans.iter().map(square).sum::<f64>() / self.plans.len() as f64
    }
}

/// Regret and the error of the prediction.
fn loss(shapes: &[Measured], constants: &Constants) -> f64 {
    let of = |m: &Measured| m.regret(constants).ln_1p() + PREDICTION * m.error(constants);
    // Summed in order: the same on every run, whatever the threads.
    let each: Vec<f64> = shapes.par_iter().map(of).collect();
    each.iter().sum::<f64>() / shapes.len() as f64
}

/// The best constants found, or the current ones where none are better.
fn fit(shapes: &[Measured], current: &Constants, starts: u32) -> Constants {
    let mut copy = *current;
    // What no plan of the sweep depends on is not searched for: of conversions, say, where nothing is e4m3.
    let moves = |field: Field| {
        let mut other = *current;
        *field(&mut other) *= 2.0;
        let of = |m: &Measured| m.plans.iter().any(|(plan, _)| m.cost(plan, &other) != m.cost(plan, current));
        shapes.iter().any(of)
    };
    // A zero is of what an architecture does not have; it has no logarithm, and stays.
    let fields: Vec<_> =
        FIELDS.iter().filter(|(_, field)| *field(&mut copy) > 0.0 && moves(*field)).collect();
    let with = |logs: &[f64]| {
        let mut constants = *current;
        for ((name, field), log) in fields.iter().zip(logs) {
            let value = if *name == "not_hidden" { log.exp().min(1.0) } else { log.exp() };
            *field(&mut constants) = rounded(value);
        }
        constants
    };
    let start: Vec<f64> = fields.iter().map(|(_, field)| field(&mut copy).ln()).collect();
    let value = |logs: &[f64]| {
        let distance: f64 = logs.iter().zip(&start).map(|(now, then)| (now - then).powi(2)).sum();
        loss(shapes, &with(logs)) + DISTANCE * distance
    };
    let mut fitted = with(&search::minimum(&start, starts, value));
    // What the sweep says nothing of stays as it is.
    for (_, field) in fields {
        let mut without = fitted;
        *field(&mut without) = *field(&mut copy);
        if loss(shapes, &without) <= loss(shapes, &fitted) {
            fitted = without;
        }
    }
    if mean(&regrets(shapes, &fitted)) < mean(&regrets(shapes, current)) { fitted } else { *current }
}

/// Three significant digits: what is printed is what was judged.
fn rounded(value: f64) -> f64 {
    format!("{value:.2e}").parse().unwrap_or(value)
}

fn regrets(shapes: &[Measured], constants: &Constants) -> Vec<f64> {
    shapes.iter().map(|m| m.regret(constants)).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn worst(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

/// Regret per regime, before and after.
fn table(shapes: &[Measured], before: &[f64], after: &[f64]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY);
    table.set_header(["regret", "shapes", "current: mean", "worst", "refitted: mean", "worst"]);
    for (name, rows) in [
        ("up to 64 rows per K/V head", 0..=64),
        ("65 to 256", 65..=256),
        ("more", 257..=usize::MAX),
        ("all", 0..=usize::MAX),
    ] {
        let within = |regrets: &[f64]| -> Vec<f64> {
            let each = shapes.iter().zip(regrets).filter(|(m, _)| rows.contains(&m.shape.folded_rows()));
            each.map(|(_, regret)| *regret).collect()
        };
        let [before, after] = [within(before), within(after)];
        if !before.is_empty() {
            let percents = [mean(&before), worst(&before), mean(&after), worst(&after)];
            let cells = percents.map(|regret| format!("{:.1} %", regret * 100.0));
            table.add_row([name.to_owned(), before.len().to_string()].into_iter().chain(cells));
        }
    }
    table
}

/// The constants as they stand in src/plan/cost.rs, fitted to the card of this line.
fn source(name: &str, constants: &Constants, Line { card, date, .. }: &Line, files: &[PathBuf]) -> String {
    let mut copy = *constants;
    let fields: String =
        FIELDS.iter().map(|(name, field)| format!("    {name}: {},\n", literal(*field(&mut copy)))).collect();
    let date = date.as_deref().unwrap_or("date not recorded");
    let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    format!(
        "/// Fitted to {card}, {date}: `cargo xtask fit {}`.\nconst {name}: Constants = Constants {{\n{fields}}};\n",
        files.join(" ")
    )
}

/// A float as Rust writes it, thousands apart.
fn literal(value: f64) -> String {
    let plain = format!("{value:?}");
    let (whole, fraction) = plain.split_once('.').unwrap_or((&plain, "0"));
    let digits = whole.len();
    let apart = |(i, digit): (usize, char)| {
        let gap = i > 0 && digits > 4 && (digits - i).is_multiple_of(3);
        gap.then_some('_').into_iter().chain([digit])
    };
    format!("{}.{fraction}", whole.chars().enumerate().flat_map(apart).collect::<String>())
}

/// `old` with the constants of this name, and their comment, replaced by `text`.
fn replaced(old: &str, name: &str, text: &str) -> Result<String> {
    let head = format!("const {name}: Constants = Constants {{");
    let at = old.find(&head).with_context(|| format!("no `{head}`"))?;
    let end = old[at..].find("};\n").with_context(|| format!("no end of `{head}`"))? + at + "};\n".len();
    // Back over the comment's lines.
    let mut start = at;
    while let Some(line) = old[..start].trim_end_matches('\n').rfind('\n') {
        if !old[line + 1..start].starts_with("///") {
            break;
        }
        start = line + 1;
    }
    Ok(format!("{}{text}{}", &old[..start], &old[end..]))
}
