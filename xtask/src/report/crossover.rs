//! Where prompt-in-decoder pays and where it does not: T5 along three lines, measured and predicted.

use std::fmt::Write as _;

use anyhow::Result;

use super::data::{Crossover, CrossoverLine, Point};
use super::page::{Files, folded, picture, short, without_time};
use crate::plot::{Figure, Kind, Panel, Series};

/// A line through the base point.
#[derive(Clone, Copy)]
enum Axis {
    Prompts,
    Keys,
    NewTokens,
}

const AXES: [Axis; 3] = [Axis::Prompts, Axis::Keys, Axis::NewTokens];

impl Axis {
    fn of(self, point: &Point) -> usize {
        match self {
            Self::Prompts => point.prompts,
            Self::Keys => point.keys,
            Self::NewTokens => point.new_tokens,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Prompts => "prompts U",
            Self::Keys => "input tokens n",
            Self::NewTokens => "new tokens",
        }
    }

    /// What the line keeps.
    fn kept(self, base: &Point) -> String {
        let Point { keys, prompts, new_tokens } = base;
        match self {
            Self::Prompts => format!("n = {keys}, {new_tokens} new tokens"),
            Self::Keys => format!("U = {prompts}, {new_tokens} new tokens"),
            Self::NewTokens => format!("U = {prompts}, n = {keys}"),
        }
    }

    /// The points of the line, in order.
    fn lines(self, run: &Crossover) -> Vec<&CrossoverLine> {
        let base = &run.base;
        let on = |at: &Point| match self {
            Self::Prompts => (at.keys, at.new_tokens) == (base.keys, base.new_tokens),
            Self::Keys => (at.prompts, at.new_tokens) == (base.prompts, base.new_tokens),
            Self::NewTokens => (at.prompts, at.keys) == (base.prompts, base.keys),
        };
        let mut lines: Vec<&CrossoverLine> = run.lines.iter().filter(|line| on(&line.at)).collect();
        lines.sort_by_key(|line| self.of(&line.at));
        lines
    }
}

/// The section of one machine; `source` says which, `stem` is the path of its figure without the ending.
pub fn section(stem: &str, run: &Crossover, source: &str, files: &mut Files) -> Result<String> {
    let mut text = format!(
        "\n### Where sharing pays, and where not\n\n{source}. {}, {}, random weights, one input, prompts of {} tokens: PIE's time \
         over PID's, of the fastest runs\nof each in one process, along three lines through U = {}, n = {}, {} new tokens. The \
         cost model takes this machine for {} TFLOP/s and {} GB/s, and leaves\nlaunches and waiting out.\n",
        run.shape,
        run.dtype,
        run.prompt_tokens,
        run.base.prompts,
        run.base.keys,
        run.base.new_tokens,
        short(run.flops_per_s * 1e-12),
        short(run.bytes_per_s * 1e-9),
    );
    text += &without_time(&Default::default(), &run.errors, run.left_out);
    let figure = figure(run, source);
    if !figure.panels.is_empty() {
        let path = format!("{stem}.svg");
        text += &picture(&figure.title, &path);
        files.insert(path, figure.svg()?);
    }
    writeln!(
        text,
        "\n| PID at least {}x as fast as PIE | measured | predicted |\n| --- | --- | --- |",
        run.pays_from
    )?;
    for axis in AXES {
        let kept = axis.kept(&run.base);
        let direction = if matches!(axis, Axis::NewTokens) { "up to how many" } else { "from how many" };
        let (measured, predicted) = (measured(axis, run), predicted(axis, run));
        writeln!(text, "| {direction} {} ({kept}) | {measured} | {predicted} |", axis.name())?;
    }
    text += &folded("Every point", &table(run)?);
    Ok(text)
}

fn figure(run: &Crossover, source: &str) -> Figure {
    let panel = |axis: Axis| {
        let lines = axis.lines(run);
        let points = |value: fn(&CrossoverLine) -> f64| -> Vec<(f64, f64)> {
            lines.iter().map(|line| (axis.of(&line.at) as f64, value(line))).collect()
        };
        let series = |name: &str, look, kind, points| Series {
            name: name.to_owned(),
            look,
            kind,
            points,
            ..Series::default()
        };
        let x_ticks: Vec<f64> = points(CrossoverLine::gain).into_iter().map(|point| point.0).collect();
        let even = x_ticks.iter().map(|x| (*x, 1.0)).collect();
        Panel {
            title: axis.kept(&run.base),
            x: axis.name().to_owned(),
            y: "PIE's time over PID's".to_owned(),
            x_ticks,
            series: vec![
                series("measured", 0, Kind::Line, points(CrossoverLine::gain)),
                series("predicted", 6, Kind::Line, points(|line| line.predicted)),
                series("PID as fast as PIE", 0, Kind::Rule, even),
            ],
        }
    };
    // A line needs two ends.
    let panels = AXES.into_iter().filter(|axis| axis.lines(run).len() > 1).map(panel).collect();
    let title = format!("Where sharing pays: {}, {}", run.shape, run.dtype);
    Figure { title, source: source.to_owned(), columns: 3, panels }
}

/// Where the measured gain crosses: between two points, on a straight line over the logarithm of the count.
fn measured(axis: Axis, run: &Crossover) -> String {
    let points: Vec<(f64, f64)> =
        axis.lines(run).iter().map(|line| (axis.of(&line.at) as f64, line.gain())).collect();
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return "not measured".to_owned() };
    let pays = |point: &(f64, f64)| point.1 >= run.pays_from;
    // From the point after the last that does not pay, or up to the one before the first.
    let (i, none, all) = match axis {
        Axis::NewTokens => {
            let below = points.iter().position(|point| !pays(point));
            (
                below.map(|i| i.checked_sub(1)),
                format!("not from {} on", first.0),
                format!("at all up to {}", last.0),
            )
        }
        _ => {
            let below = points.iter().rposition(|point| !pays(point));
            let i = below.map(|i| (i + 1 < points.len()).then_some(i));
            (i, format!("none up to {}", last.0), format!("at all from {} on", first.0))
        }
    };
    match i {
        None => all,
        Some(None) => none,
        Some(Some(i)) => {
            let ((x0, y0), (x1, y1)) = (points[i], points[i + 1]);
            let x = x0 * (x1 / x0).powf((run.pays_from - y0) / (y1 - y0));
            // Whole counts, on the side that pays.
            let x = if matches!(axis, Axis::NewTokens) { (x + 1e-9).floor() } else { (x - 1e-9).ceil() };
            x.to_string()
        }
    }
}

fn predicted(axis: Axis, run: &Crossover) -> String {
    let at = |count: Option<usize>, none: &str| count.map_or(none.to_owned(), |count| count.to_string());
    match axis {
        Axis::Prompts => at(run.least_prompts, "at no number"),
        Axis::Keys => at(run.least_keys, "at no number"),
        Axis::NewTokens if run.predicted_gain >= run.pays_from => at(run.most_new_tokens, "at every number"),
        Axis::NewTokens => at(run.most_new_tokens, "at no number"),
    }
}

fn table(run: &Crossover) -> Result<String> {
    let mut text = String::from(
        "| U | n | new tokens | PID, s | PIE, s | PIE over PID | predicted |\n| --- | --- | --- | --- | --- | --- | --- |\n",
    );
    let mut lines: Vec<&CrossoverLine> = run.lines.iter().collect();
    lines.sort_by_key(|line| (line.at.prompts, line.at.keys, line.at.new_tokens));
    for line in lines {
        let Point { keys, prompts, new_tokens } = line.at;
        writeln!(
            text,
            "| {prompts} | {keys} | {new_tokens} | {} | {} | {:.2}x | {:.2}x |",
            short(line.pid_s),
            short(line.pie_s),
            line.gain(),
            line.predicted,
        )?;
    }
    Ok(text)
}
