//! `cargo xtask fit`: the plan's cost constants, refitted to measured sweeps.
//!
//! A sweep of `card --every-plan` has the time of many plans of each shape. The cost function is right where it
//! prefers the plan that is the quickest; what its choice takes longer is its regret. The fit makes the mean regret
//! small, and among constants of like regret prefers those that predict the times.

mod search;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use comfy_table::Table;
use comfy_table::presets::UTF8_BORDERS_ONLY;
use indicatif::ProgressBar;
use onekv::plan::cost::{Constants, estimate};
use onekv::plan::{DeviceFacts, Plan, PlanOptions, variants};
use rayon::prelude::*;

use crate::codegen;
use crate::results::{self, Line, Machine, Shape};
use crate::run::root;

#[derive(clap::Args)]
pub struct Arguments {
    /// Sweeps of one card, e.g. results/h200/attention-fit.json
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Write the constants into src/plan/cost.rs
    #[arg(long)]
    write: bool,
    /// Starts of the search; more may find better constants
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..))]
    starts: u32,
}

/// The constants by name, in the order of their definition.
type Field = (&'static str, fn(&mut Constants) -> &mut f64);
const FIELDS: [Field; 13] = [
    ("block_us", |c| &mut c.block_us),
    ("warpgroups_us", |c| &mut c.warpgroups_us),
    ("meeting_bytes_per_us", |c| &mut c.meeting_bytes_per_us),
    ("combine_us", |c| &mut c.combine_us),
    ("join_us", |c| &mut c.join_us),
    ("bytes_per_us", |c| &mut c.bytes_per_us),
    ("l2_bytes_per_us", |c| &mut c.l2_bytes_per_us),
    ("mma_flops_per_us", |c| &mut c.mma_flops_per_us),
    ("wgmma_flops_per_us", |c| &mut c.wgmma_flops_per_us),
    ("exponentials_per_us", |c| &mut c.exponentials_per_us),
    ("instructions_per_us", |c| &mut c.instructions_per_us),
    ("not_hidden", |c| &mut c.not_hidden),
    ("fma_flops_per_us", |c| &mut c.fma_flops_per_us),
];

/// How much the error of the prediction weighs beside regret.
const PREDICTION: f64 = 0.05;
/// How much a constant's distance from today's weighs, so that one which the sweep says little of does not run off.
const DISTANCE: f64 = 1e-5;
/// What is aimed at: mean and worst regret.
const AIM: (f64, f64) = (0.05, 0.2);

/// Sweeps of one card.
struct Sweeps {
    machine: Machine,
    facts: DeviceFacts,
    shapes: Vec<Measured>,
}

/// A shape with the plans that were timed, of kernels that the library takes on this card. K and V in e4m3 are another shape.
struct Measured {
    shape: Shape,
    plans: Vec<(Plan, f64)>,
    best_us: f64,
    /// The best of kernels that newer ones supersede: not for the constants to choose.
    others_us: Option<f64>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let sweeps = read(&arguments.files)?;
    let (name, current) = Constants::named(sweeps.facts.compute_capability);
    let shapes: Vec<&Measured> = sweeps.shapes.iter().collect();
    let plans: usize = shapes.iter().map(|m| m.plans.len()).sum();
    println!("{}, {name}: {} shapes, {plans} plans", sweeps.machine.card, shapes.len());
    let bar = ProgressBar::new(u64::from(arguments.starts)).with_message("starts");
    let fitted = fit(&shapes, &sweeps.facts, current, arguments.starts, &bar);
    bar.finish_and_clear();
    println!("{}", table(&shapes, &sweeps.facts, current, &fitted));
    let after = regrets(&shapes, &sweeps.facts, &fitted);
    println!(
        "aim: under {:.0} % mean and {:.0} % worst: {}",
        AIM.0 * 100.0,
        AIM.1 * 100.0,
        if mean(&after) < AIM.0 && worst(&after) < AIM.1 { "met" } else { "missed" }
    );
    if let Some((regret, measured)) = after.iter().zip(&shapes).max_by(|a, b| a.0.total_cmp(b.0)) {
        let (chosen, best) = (measured.choice(&sweeps.facts, &fitted), measured.best());
        println!(
            "worst: {}: {:.1} %: {} where {} is best",
            measured.shape,
            regret * 100.0,
            said(chosen),
            said(best)
        );
    }
    let gain = |m: &&Measured| Some(m.best_us / m.others_us.filter(|us| *us < m.best_us)? - 1.0);
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
    let files: Vec<String> = arguments.files.iter().map(|f| f.display().to_string()).collect();
    let text = source(name, &fitted, &sweeps.machine, &files);
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

/// Reads sweeps and rebuilds their plans.
fn read(files: &[PathBuf]) -> Result<Sweeps> {
    let mut machine: Option<(Machine, DeviceFacts, &Path)> = None;
    let mut groups: BTreeMap<(usize, Shape), Vec<(Plan, f64)>> = BTreeMap::new();
    for (i, file) in files.iter().enumerate() {
        let run = results::attention(file)?;
        let facts = codegen::facts(&run.machine.compute_capability, run.machine.multiprocessors)
            .with_context(|| format!("{}: machine", file.display()))?;
        match &machine {
            Some((known, known_facts, first)) if known.card != run.machine.card || *known_facts != facts => {
                bail!(
                    "{} is of {}, {} of {}: constants are fitted to one card at a time",
                    first.display(),
                    known.card,
                    file.display(),
                    run.machine.card
                )
            }
            Some(_) => {}
            None => machine = Some((run.machine.clone(), facts, file)),
        }
        for line in &run.lines {
            let plan = plan(line, &facts).with_context(|| format!("{}: {}", file.display(), line.shape))?;
            let plans = groups.entry((i, line.shape.clone())).or_default();
            // The plan that was chosen is among the others too: one plan, timed twice.
            match plans.iter_mut().find(|known| known.0 == plan) {
                Some(known) => known.1 = (known.1 + line.us) / 2.0,
                None => plans.push((plan, line.us)),
            }
        }
    }
    let (machine, facts, _) = machine.context("no file")?;
    let shapes: Vec<Measured> =
        groups.into_iter().filter_map(|((_, shape), plans)| Measured::new(shape, plans)).collect();
    if shapes.is_empty() {
        let files: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
        bail!("{}: every shape has one plan; measure with `card --every-plan`", files.join(", "));
    }
    Ok(Sweeps { machine, facts, shapes })
}

/// The plan of a line, as the library makes it.
fn plan(line: &Line, facts: &DeviceFacts) -> Result<Plan> {
    let chosen = &line.plan;
    let variant = variants::all().find(|v| v.kernel() == chosen.kernel);
    let variant = variant.with_context(|| format!("kernel {} is not one of today's", chosen.kernel))?;
    let options = PlanOptions::of(variant)
        .with_split_keys(chosen.split_keys)
        .with_split_cluster(chosen.split_cluster)
        .with_tile_rows(chosen.tile_rows);
    let plan = line.shape.plan(variant.dtype, facts, &options)?;
    let splits = (plan.split_keys(), plan.split_cluster());
    if plan.variant() != variant || splits != (chosen.split_keys, chosen.split_cluster) {
        bail!(
            "tile_rows {} and split_keys {} give {} with splits of {} today, not {}",
            chosen.tile_rows,
            chosen.split_keys,
            plan.variant().kernel(),
            plan.split_keys(),
            chosen.kernel
        );
    }
    Ok(plan)
}

impl Measured {
    /// None where there is nothing to choose between.
    fn new(shape: Shape, plans: Vec<(Plan, f64)>) -> Option<Self> {
        // As Plan::new.
        let variants: Vec<_> = plans.iter().map(|(plan, _)| plan.variant()).collect();
        let (others, plans): (Vec<_>, Vec<_>) =
            plans.into_iter().partition(|(plan, _)| variants.iter().any(|v| v.supersedes(plan.variant())));
        let least = |plans: &[(Plan, f64)]| plans.iter().map(|p| p.1).min_by(f64::total_cmp);
        let (best_us, others_us) = (least(&plans)?, least(&others));
        (plans.len() > 1).then_some(Self { shape, plans, best_us, others_us })
    }

    /// The plan that these constants prefer, with its time.
    fn choice(&self, facts: &DeviceFacts, constants: &Constants) -> &(Plan, f64) {
        let cost = |plan: &Plan| cost(plan, facts, constants);
        let first = &self.plans[0];
        let start = (cost(&first.0), first);
        let least = self.plans[1..].iter().fold(start, |least, next| {
            let cost = cost(&next.0);
            if cost < least.0 { (cost, next) } else { least }
        });
        least.1
    }

    fn best(&self) -> &(Plan, f64) {
        self.plans.iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or(&self.plans[0])
    }

    /// How much longer the choice takes than the best: 0.1 is 10 %.
    fn regret(&self, facts: &DeviceFacts, constants: &Constants) -> f64 {
        self.choice(facts, constants).1 / self.best_us - 1.0
    }

    /// Mean squared error of the logarithm of the predicted time.
    fn error(&self, facts: &DeviceFacts, constants: &Constants) -> f64 {
        let square = |(plan, us): &(Plan, f64)| (cost(plan, facts, constants) / us).ln().powi(2);
        self.plans.iter().map(square).sum::<f64>() / self.plans.len() as f64
    }
}

/// What these constants say that a plan costs.
fn cost(plan: &Plan, facts: &DeviceFacts, constants: &Constants) -> f64 {
    estimate(plan.problem(), plan.variant(), (plan.split_keys(), plan.split_cluster()), facts, constants)
}

/// Regret and the error of the prediction.
fn loss(shapes: &[&Measured], facts: &DeviceFacts, constants: &Constants) -> f64 {
    let of = |m: &&Measured| m.regret(facts, constants).ln_1p() + PREDICTION * m.error(facts, constants);
    // Summed in order: the same on every run, whatever the threads.
    let each: Vec<f64> = shapes.par_iter().map(of).collect();
    each.iter().sum::<f64>() / shapes.len() as f64
}

/// The best constants found, or the current ones where none are better.
fn fit(
    shapes: &[&Measured],
    facts: &DeviceFacts,
    current: &Constants,
    starts: u32,
    bar: &ProgressBar,
) -> Constants {
    let mut copy = *current;
    // What no plan of the sweep depends on is not searched for: of conversions, say, where nothing is e4m3.
    let moves = |field: fn(&mut Constants) -> &mut f64| {
        let mut other = *current;
        *field(&mut other) *= 2.0;
        let moved = |(plan, _): &(Plan, f64)| cost(plan, facts, &other) != cost(plan, facts, current);
        shapes.iter().any(|measured| measured.plans.iter().any(moved))
    };
    // A zero is of what an architecture does not have; it has no logarithm, and stays.
    let fields: Vec<&Field> =
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
        loss(shapes, facts, &with(logs)) + DISTANCE * distance
    };
    let least = search::minimum(&start, starts, value, || bar.inc(1));
    let mut fitted = with(&least);
    // What the sweep says nothing of stays as it is.
    for (_, field) in fields {
        let mut without = fitted;
        *field(&mut without) = *field(&mut copy);
        if loss(shapes, facts, &without) <= loss(shapes, facts, &fitted) {
            fitted = without;
        }
    }
    let (before, after) = (regrets(shapes, facts, current), regrets(shapes, facts, &fitted));
    if mean(&after) < mean(&before) { fitted } else { *current }
}

/// Three significant digits: what is printed is what was judged.
fn rounded(value: f64) -> f64 {
    format!("{value:.2e}").parse().unwrap_or(value)
}

fn regrets(shapes: &[&Measured], facts: &DeviceFacts, constants: &Constants) -> Vec<f64> {
    shapes.iter().map(|m| m.regret(facts, constants)).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn worst(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

/// Regret per regime, before and after.
fn table(shapes: &[&Measured], facts: &DeviceFacts, current: &Constants, fitted: &Constants) -> Table {
    type Within = fn(&Shape) -> bool;
    let regimes: [(&str, Within); 4] = [
        ("up to 64 rows per K/V head", |s| s.folded_rows() <= 64),
        ("65 to 256", |s| (65..=256).contains(&s.folded_rows())),
        ("more", |s| s.folded_rows() > 256),
        ("all", |_| true),
    ];
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY);
    table.set_header(["regret", "shapes", "current: mean", "worst", "refitted: mean", "worst"]);
    for (name, within) in regimes {
        let some: Vec<&Measured> = shapes.iter().copied().filter(|m| within(&m.shape)).collect();
        if some.is_empty() {
            continue;
        }
        let mut cells = vec![name.to_owned(), some.len().to_string()];
        for constants in [current, fitted] {
            let regrets = regrets(&some, facts, constants);
            cells.extend([mean(&regrets), worst(&regrets)].map(|regret| format!("{:.1} %", regret * 100.0)));
        }
        table.add_row(cells);
    }
    table
}

/// The constants as they stand in src/plan/cost.rs.
fn source(name: &str, constants: &Constants, machine: &Machine, files: &[String]) -> String {
    let mut copy = *constants;
    let fields: String =
        FIELDS.iter().map(|(name, field)| format!("    {name}: {},\n", literal(*field(&mut copy)))).collect();
    let date = machine.date.as_deref().unwrap_or("date not recorded");
    format!(
        "/// Fitted to {}, {date}: `cargo xtask fit {}`.\nconst {}: Constants = Constants {{\n{fields}}};\n",
        machine.card,
        files.join(" "),
        name
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
