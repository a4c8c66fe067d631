//! The figures of an attention sweep.

use crate::plot::{Figure, Kind, Panel, Series};

use super::data::{Line, Shape};
use super::sweep::{Joined, Row, by_rows};

/// A figure's name in its file, and what is to be seen in it.
pub struct Shown {
    pub name: &'static str,
    pub caption: String,
    pub figure: Figure,
}

/// Looks: ours, with K and V in e4m3, and PIE's copies, then the peers.
const OURS: usize = 0;
const E4M3: usize = 7;
const REPLICATED: usize = 6;
const FIRST_PEER: usize = 1;

const ROWS: &str = "prompts U (query rows of an input)";

/// Every figure that the sweep has points for.
pub fn all(joined: &Joined, source: &str) -> Vec<Shown> {
    let made = [roofline(joined), time(joined), flat(joined), pid(joined), peers(joined)];
    let with_points =
        |shown: &Shown| shown.figure.panels.iter().any(|p| p.series.iter().any(|s| s.kind != Kind::Rule));
    let mut shown: Vec<Shown> = made.into_iter().filter(with_points).collect();
    for one in &mut shown {
        one.figure.source = source.to_owned();
    }
    shown
}

fn look(joined: &Joined, peer: &str) -> usize {
    let index = joined.peers.iter().position(|name| *name == peer).unwrap_or(0);
    // The last colour is PIE's.
    FIRST_PEER + index % 5 + 7 * (index / 5)
}

fn shown(name: &'static str, caption: String, title: &str, panels: Vec<Panel>) -> Shown {
    let columns = if panels.len() == 1 { 1 } else { 2 };
    let figure = Figure { title: title.to_owned(), source: String::new(), columns, panels };
    Shown { name, caption, figure }
}

fn model_title(joined: &Joined, model: &str) -> String {
    let shape = joined.rows.keys().find(|shape| shape.model == model);
    shape.map_or(model.to_owned(), |s| match s.heads == s.kv_heads {
        true => format!("{model}, {} heads x {}", s.heads, s.head_dim),
        false => format!("{model}, {} heads on {} K/V heads x {}", s.heads, s.kv_heads, s.head_dim),
    })
}

fn ticks<'a>(shapes: impl Iterator<Item = &'a Shape>) -> Vec<f64> {
    let mut rows: Vec<usize> = shapes.map(|shape| shape.rows).collect();
    rows.sort();
    rows.dedup();
    rows.into_iter().map(|rows| rows as f64).collect()
}

/// A dashed line to compare with.
fn rule(name: String, points: Vec<(f64, f64)>) -> Series {
    Series { name, kind: Kind::Rule, points, ..Series::default() }
}

/// Series without points only lengthen the legend.
fn some(series: Vec<Series>) -> Vec<Series> {
    series.into_iter().filter(|s| !s.points.is_empty()).collect()
}

fn roofline(joined: &Joined) -> Shown {
    let bandwidth = joined.run.copy_bytes_per_s;
    let peak = joined.run.machine.data_sheet_tflops();
    let point = |line: &Line| (line.flops / line.bytes, line.flops / line.cold_us * 1e-6);
    let panels = joined.models.iter().map(|model| {
        let rows = || joined.rows.iter().filter(|(shape, _)| shape.model == *model).map(|(_, row)| row);
        let dots = |name: &str, look, points| Series {
            name: name.to_owned(),
            look,
            kind: Kind::Dots,
            points,
            ..Series::default()
        };
        // All stand at what must be done and moved, not at what they do and move.
        let beside = |row: &Row, line: Option<&Line>| Some((point(row.ours?).0, point(line?).1));
        let mut series = some(vec![
            dots("onekv", OURS, rows().filter_map(|row| Some(point(row.ours?))).collect()),
            dots(
                "best peer of each shape",
                FIRST_PEER,
                rows().filter_map(|row| beside(row, row.best_peer())).collect(),
            ),
            dots(
                "onekv, K/V per prompt (PIE)",
                REPLICATED,
                rows().filter_map(|row| beside(row, row.replicated)).collect(),
            ),
        ]);
        let xs: Vec<f64> = series.iter().flat_map(|s| s.points.iter().map(|p| p.0)).collect();
        let (low, high) =
            (xs.iter().copied().fold(f64::MAX, f64::min), xs.iter().copied().fold(0.0, f64::max));
        if low < high {
            let slope = |x: f64| x * bandwidth * 1e-12;
            let ridge = peak.map_or(high, |tflops| tflops * 1e12 / bandwidth).clamp(low, high);
            let mut roof = vec![(low, slope(low)), (ridge, slope(ridge))];
            roof.extend(peak.map(|tflops| (high, tflops.min(slope(high)))));
            let name = match peak {
                Some(tflops) => format!("roof: this run's copy, the data sheet's {tflops} TFLOPS"),
                None => "roof: this run's copy".to_owned(),
            };
            series.push(rule(name, roof));
        }
        Panel {
            title: model_title(joined, model),
            x: "FLOP that must be done per byte that must move".to_owned(),
            y: "TFLOPS, cold L2".to_owned(),
            x_ticks: Vec::new(),
            series,
        }
    });
    let caption = "Every shape of the sweep; every system at the operations and bytes that the shape takes with one K/V. Left \
                   of the ridge the roof is memory, right of it the tensor cores.";
    shown("roofline", caption.to_owned(), "Roofline", panels.collect())
}

fn time(joined: &Joined) -> Shown {
    let inputs = joined.shown_inputs();
    let mut panels = Vec::new();
    for model in &joined.models {
        for keys in joined.shown_keys() {
            let chosen =
                |shape: &Shape| shape.model == *model && (shape.inputs, shape.keys) == (inputs, keys);
            let rows = || joined.rows.iter().filter(move |(shape, _)| chosen(shape));
            let line = |name: &str, look, of: &dyn Fn(&Row) -> Option<f64>| Series {
                name: name.to_owned(),
                look,
                points: rows().filter_map(|(s, row)| Some((s.rows as f64, of(row)?))).collect(),
                ..Series::default()
            };
            let mut series = vec![
                line("onekv", OURS, &|row| Some(row.ours?.cold_us)),
                line("onekv, K/V in e4m3", E4M3, &|row| Some(row.e4m3?.cold_us)),
            ];
            for peer in &joined.peers {
                let time = |row: &Row| row.peers.iter().find(|l| l.system == *peer).map(|l| l.cold_us);
                series.push(line(peer, look(joined, peer), &time));
            }
            series
                .push(line("onekv, K/V per prompt (PIE)", REPLICATED, &|row| Some(row.replicated?.cold_us)));
            let mut series = some(series);
            let least = |row: &Row| Some(row.ours?.bytes / joined.run.copy_bytes_per_s * 1e6);
            let floor = rows().filter_map(|(s, row)| Some((s.rows as f64, least(row)?))).collect();
            series.push(rule(
                "bytes that must move, K/V in 16 bits, at the copy's bandwidth".to_owned(),
                floor,
            ));
            panels.push(Panel {
                title: format!("{}, n = {keys}, b = {inputs}", model_title(joined, model)),
                x: ROWS.to_owned(),
                y: "us, cold L2".to_owned(),
                x_ticks: ticks(rows().map(|(shape, _)| shape)),
                series,
            });
        }
    }
    panels.retain(|panel| panel.series.iter().any(|s| s.kind != Kind::Rule));
    let caption =
        "Time of one attention, merge included. Where the curve is flat, further prompts cost nothing.";
    shown("time", caption.to_owned(), "Time against the number of prompts", panels)
}

/// Panels of one model each, a series per number of keys; `value` of a shape and ours on it.
fn by_keys(joined: &Joined, y: &str, value: &dyn Fn(&Shape, &Line) -> Option<f64>) -> Vec<Panel> {
    let inputs = joined.shown_inputs();
    let panel = |model: &&str| {
        let groups = by_rows(joined).into_iter();
        let groups = groups.filter(|g| g[0].0.model == *model && g[0].0.inputs == inputs);
        let groups: Vec<Vec<(&Shape, &Line)>> = groups.collect();
        let series = groups.iter().enumerate().map(|(i, group)| Series {
            name: format!("n = {}", group[0].0.keys),
            look: i,
            points: group.iter().filter_map(|(s, line)| Some((s.rows as f64, value(s, line)?))).collect(),
            ..Series::default()
        });
        Panel {
            title: format!("{}, b = {inputs}", model_title(joined, model)),
            x: ROWS.to_owned(),
            y: y.to_owned(),
            x_ticks: ticks(groups.iter().flatten().map(|(shape, _)| *shape)),
            series: some(series.collect()),
        }
    };
    joined.models.iter().map(panel).filter(|panel| !panel.series.is_empty()).collect()
}

fn flat(joined: &Joined) -> Shown {
    let growth = |shape: &Shape, line: &Line| {
        let one = joined.rows.get(&Shape { rows: 1, ..shape.clone() })?.ours?;
        (shape.rows <= 256).then_some(line.cold_us / one.cold_us)
    };
    let mut panels = by_keys(joined, "time over that at U = 1", &growth);
    for panel in &mut panels {
        let end = panel.x_ticks.iter().copied().filter(|x| *x <= 256.0).fold(1.0, f64::max);
        panel.x_ticks.retain(|x| *x <= 256.0);
        if end > 1.0 {
            panel
                .series
                .push(rule("target: at most 1.15".to_owned(), vec![(1.0, 1.15), (end.min(64.0), 1.15)]));
        }
        if end >= 128.0 {
            panel.series.push(rule("target: at most 1.4".to_owned(), vec![(64.0, 1.4), (128.0, 1.4)]));
        }
    }
    let caption = "The dashed lines are the targets for U = 64 and U = 128.";
    shown("flat", caption.to_owned(), "How flat time is in the number of prompts", panels)
}

fn pid(joined: &Joined) -> Shown {
    let saved = |shape: &Shape, line: &Line| Some(joined.rows.get(shape)?.replicated?.cold_us / line.cold_us);
    let mut panels = by_keys(joined, "time with a K/V per prompt over that with one", &saved);
    for panel in &mut panels {
        let drawn = |x: &f64| panel.series.iter().any(|s| s.points.iter().any(|p| p.0 == *x));
        panel.x_ticks = panel.x_ticks.iter().copied().filter(drawn).collect();
        let ends = [panel.x_ticks.first(), panel.x_ticks.last()];
        let ends = ends.into_iter().flatten().map(|x| (*x, *x)).collect();
        panel.series.push(rule("U: as many times as there are copies".to_owned(), ends));
    }
    let caption =
        "Both by onekv. What sharing K/V saves in attention alone; the encoder's saving comes on top.";
    shown("pid", caption.to_owned(), "One K/V for all prompts (PID) against one per prompt (PIE)", panels)
}

fn peers(joined: &Joined) -> Shown {
    let panels = joined.models.iter().map(|model| {
        let mut rows = ticks(joined.rows.keys().filter(|s| s.model == *model));
        let series = joined.peers.iter().map(|peer| {
            let mut series =
                Series { name: (*peer).to_owned(), look: look(joined, peer), ..Series::default() };
            for &x in &rows {
                let ratios: Vec<f64> = joined
                    .ours()
                    .filter(|(s, ..)| s.model == *model && s.rows as f64 == x)
                    .filter_map(|(_, row, ours)| {
                        let peer = row.peers.iter().find(|line| line.system == *peer)?;
                        Some(peer.cold_us / ours.cold_us)
                    })
                    .collect();
                if !ratios.is_empty() {
                    let mean = (ratios.iter().map(|r| r.ln()).sum::<f64>() / ratios.len() as f64).exp();
                    let low = ratios.iter().copied().fold(f64::MAX, f64::min);
                    let high = ratios.iter().copied().fold(0.0, f64::max);
                    series.points.push((x, mean));
                    series.spread.push((x, low, high));
                }
            }
            series
        });
        let mut series = some(series.collect());
        rows.retain(|x| series.iter().any(|s| s.points.iter().any(|p| p.0 == *x)));
        if let (Some(first), Some(last)) = (rows.first(), rows.last()) {
            series.push(rule("as long as ours".to_owned(), vec![(*first, 1.0), (*last, 1.0)]));
        }
        Panel {
            title: model_title(joined, model),
            x: ROWS.to_owned(),
            y: "time over ours".to_owned(),
            x_ticks: rows,
            series,
        }
    });
    let caption = "Geometric mean over all b and n of the sweep; the upright lines reach from the least to the greatest.";
    let panels = panels.filter(|panel| !panel.series.is_empty()).collect();
    shown("peers", caption.to_owned(), "Each peer's time over ours", panels)
}
