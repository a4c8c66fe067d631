//! Figures as SVG: panels of lines and points on logarithmic axes. One legend above the panels, where it covers nothing;
//! the machine and the date below them.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::element::{Drawable, PointCollection};
use plotters::prelude::*;
use plotters_backend::{BackendCoord, DrawingErrorKind};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

/// Okabe and Ito's colours, which the colour-blind tell apart; those that are too light on white are left out.
const COLORS: [RGBColor; 7] = [
    RGBColor(213, 94, 0),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(90, 90, 90),
];
const GREY: RGBColor = RGBColor(110, 110, 110);
const WIDTH: u32 = 1000;
const PANEL_HEIGHT: u32 = 330;
const LEGEND_LINE: u32 = 22;

/// Panels under one title and one legend.
pub struct Figure {
    pub title: String,
    /// Machine and date.
    pub source: String,
    pub columns: usize,
    pub panels: Vec<Panel>,
}

/// One pair of logarithmic axes.
pub struct Panel {
    pub title: String,
    /// What the axes show, with the unit.
    pub x: String,
    pub y: String,
    /// The only ticks of the x axis; none: powers of ten.
    pub x_ticks: Vec<f64>,
    pub series: Vec<Series>,
}

/// Points of one name.
#[derive(Default)]
pub struct Series {
    pub name: String,
    /// Colour and mark; the same number looks the same in every figure.
    pub look: usize,
    pub kind: Kind,
    /// Positive coordinates, by x.
    pub points: Vec<(f64, f64)>,
    /// x, least and greatest: a thin upright line.
    pub spread: Vec<(f64, f64, f64)>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Marks joined by a line.
    #[default]
    Line,
    /// Marks alone.
    Dots,
    /// A dashed grey line to compare with.
    Rule,
}

fn drawn(height: u32, draw: impl FnOnce(&Area) -> Drawn) -> Result<String> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE)
            .map_err(Into::into)
            .and_then(|()| draw(&root))
            .and_then(|()| Ok(root.present()?))
            .map_err(|e| anyhow!("cannot draw: {e}"))?;
    }
    Ok(svg)
}

fn text(size: i32, color: RGBColor) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&color)
}

impl Figure {
    /// The figure as SVG.
    ///
    /// # Errors
    /// Where a coordinate is not positive and finite: a logarithmic axis has no place for it.
    pub fn svg(&self) -> Result<String> {
        for panel in &self.panels {
            for (x, y) in panel.coordinates() {
                if !(x > 0.0 && y > 0.0 && x.is_finite() && y.is_finite()) {
                    return Err(anyhow!("\"{}\" has a point at ({x}, {y})", panel.title));
                }
            }
        }
        let legend = self.legend();
        let lines = legend.last().map_or(0, |entry| entry.1 / LEGEND_LINE + 1);
        let top = 36 + LEGEND_LINE * lines;
        let rows = self.panels.len().div_ceil(self.columns).max(1);
        let bottom = top + PANEL_HEIGHT * rows as u32;
        drawn(bottom + 26, |root| {
            root.draw(&Text::new(self.title.clone(), (16, 10), text(19, BLACK)))?;
            root.draw(&Text::new(self.source.clone(), (16, bottom as i32 + 4), text(13, GREY)))?;
            for (x, y, series) in legend {
                key(root, (x as i32, (36 + y + 8) as i32), series)?;
            }
            let (_, below) = root.split_vertically(top);
            let (panels, _) = below.split_vertically(PANEL_HEIGHT * rows as u32);
            for (area, panel) in panels.split_evenly((rows, self.columns)).iter().zip(&self.panels) {
                panel.draw(area)?;
            }
            Ok(())
        })
    }

    /// Where each name of the legend stands, in lines that are filled from the left.
    fn legend(&self) -> Vec<(u32, u32, &Series)> {
        let mut entries: Vec<(u32, u32, &Series)> = Vec::new();
        let (mut x, mut y) = (16, 0);
        for series in self.panels.iter().flat_map(|p| &p.series) {
            if entries.iter().any(|e| e.2.name == series.name) {
                continue;
            }
            let width = 40 + (series.name.chars().count() as f64 * 7.6) as u32;
            if x > 16 && x + width > WIDTH - 16 {
                (x, y) = (16, y + LEGEND_LINE);
            }
            entries.push((x, y, series));
            x += width + 14;
        }
        entries
    }
}

impl Series {
    fn color(&self) -> RGBColor {
        if self.kind == Kind::Rule { GREY } else { COLORS[self.look % COLORS.len()] }
    }
}

fn key(root: &Area, (x, y): (i32, i32), series: &Series) -> Drawn {
    if series.kind == Kind::Rule {
        for dash in 0..3 {
            root.draw(&PathElement::new([(x + 10 * dash, y), (x + 10 * dash + 6, y)], series.color()))?;
        }
    } else {
        if series.kind == Kind::Line {
            root.draw(&PathElement::new([(x, y), (x + 28, y)], series.color().stroke_width(2)))?;
        }
        root.draw(&mark(series, (x + 14, y)))?;
    }
    root.draw(&Text::new(series.name.clone(), (x + 36, y - 7), text(14, BLACK)))?;
    Ok(())
}

/// A series' mark at a place of any coordinate system.
struct Mark<C> {
    at: C,
    look: usize,
    style: ShapeStyle,
}

fn mark<C>(series: &Series, at: C) -> Mark<C> {
    let opacity = if series.kind == Kind::Dots { 0.55 } else { 1.0 };
    Mark { at, look: series.look, style: series.color().mix(opacity).filled().stroke_width(2) }
}

impl<'a, C> PointCollection<'a, C> for &'a Mark<C> {
    type Point = &'a C;
    type IntoIter = std::iter::Once<&'a C>;

    fn point_iter(self) -> Self::IntoIter {
        std::iter::once(&self.at)
    }
}

impl<C, B: DrawingBackend> Drawable<B> for Mark<C> {
    fn draw<I: Iterator<Item = BackendCoord>>(
        &self,
        at: I,
        backend: &mut B,
        _: (u32, u32),
    ) -> std::result::Result<(), DrawingErrorKind<B::ErrorType>> {
        let style = &self.style;
        for (x, y) in at {
            match self.look % 4 {
                0 => backend.draw_circle((x, y), 4, style, true)?,
                1 => backend.draw_rect((x - 3, y - 3), (x + 3, y + 3), style, true)?,
                2 => backend.fill_polygon([(x, y - 5), (x + 5, y + 4), (x - 5, y + 4)], style)?,
                _ => {
                    backend.draw_line((x - 4, y - 4), (x + 4, y + 4), style)?;
                    backend.draw_line((x - 4, y + 4), (x + 4, y - 4), style)?;
                }
            }
        }
        Ok(())
    }
}

impl Panel {
    fn coordinates(&self) -> impl Iterator<Item = (f64, f64)> {
        self.series.iter().flat_map(|s| {
            let spread = s.spread.iter().flat_map(|&(x, low, high)| [(x, low), (x, high)]);
            s.points.iter().copied().chain(spread)
        })
    }

    fn draw(&self, area: &Area) -> Drawn {
        let (xs, ys): (Vec<f64>, Vec<f64>) = self.coordinates().unzip();
        let (x_range, y_range) = (range(&xs, 1.08), range(&ys, 1.25));
        let x_ticks = if self.x_ticks.is_empty() { decades(&x_range) } else { spaced(&self.x_ticks) };
        let y_ticks = decades(&y_range);
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, ("sans-serif", 15))
            .margin(8)
            .margin_right(16)
            .x_label_area_size(38)
            .y_label_area_size(62)
            .build_cartesian_2d(
                x_range.log_scale().with_key_points(x_ticks),
                y_range.log_scale().with_key_points(y_ticks),
            )?;
        chart
            .configure_mesh()
            .x_desc(&self.x)
            .y_desc(&self.y)
            .bold_line_style(BLACK.mix(0.15))
            .x_label_formatter(&|x| number(*x))
            .y_label_formatter(&|y| number(*y))
            .label_style(("sans-serif", 12))
            .axis_desc_style(("sans-serif", 13))
            .draw()?;
        // What is to be compared with lies below.
        for series in self.series.iter().filter(|s| s.kind == Kind::Rule) {
            chart.draw_series(DashedLineSeries::new(series.points.clone(), 6, 4, series.color().into()))?;
        }
        // Ours, which comes first, lies on top.
        for series in self.series.iter().rev().filter(|s| s.kind != Kind::Rule) {
            let color = series.color();
            if series.kind == Kind::Line {
                chart.draw_series(LineSeries::new(series.points.clone(), color.stroke_width(2)))?;
            }
            let spread =
                series.spread.iter().map(|&(x, low, high)| PathElement::new([(x, low), (x, high)], color));
            chart.draw_series(spread)?;
            chart.draw_series(series.points.iter().map(|p| mark(series, *p)))?;
        }
        Ok(())
    }
}

/// From the least to the greatest with room around them.
fn range(values: &[f64], room: f64) -> std::ops::Range<f64> {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(0.0, f64::max);
    if low > high { 1.0..10.0 } else { low / room..high * room }
}

/// Powers of ten; with 2 and 5 times them, all digits, or fractions of them, the narrower the range.
fn decades(range: &std::ops::Range<f64>) -> Vec<f64> {
    let tenths: Vec<i32> = match range.end / range.start {
        wide if wide > 2000.0 => vec![10],
        wide if wide > 8.0 => vec![10, 20, 50],
        wide if wide > 2.5 => (10..100).step_by(10).collect(),
        _ => (10..20).chain((20..50).step_by(2)).chain((50..100).step_by(5)).collect(),
    };
    let powers = range.start.log10().floor() as i32 - 1..=range.end.log10().ceil() as i32;
    // Dividing by a power of ten, not multiplying by one, gives 0.2 and not 0.20000000000000001.
    let value = |tenth: i32, power: i32| match power - 1 {
        power @ 0.. => f64::from(tenth) * 10f64.powi(power),
        power => f64::from(tenth) / 10f64.powi(-power),
    };
    let all = powers.flat_map(|power| tenths.iter().map(move |&tenth| value(tenth, power)));
    all.filter(|tick| range.contains(tick)).collect()
}

/// Those that leave room for their labels.
fn spaced(ticks: &[f64]) -> Vec<f64> {
    let mut kept: Vec<f64> = Vec::new();
    let (first, last) = (ticks[0], ticks[ticks.len() - 1]);
    let least = (last / first).powf(1.0 / 14.0);
    for &tick in ticks {
        if kept.last().is_none_or(|before| tick >= before * least) {
            kept.push(tick);
        }
    }
    kept
}

/// `1500` as it is, `0.05` as it is, millions as `2e6`.
fn number(value: f64) -> String {
    if value >= 1e6 { format!("{value:e}") } else { format!("{value}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(points: Vec<(f64, f64)>) -> Figure {
        let series = |name: &str, look, points: &[(f64, f64)]| Series {
            name: name.to_owned(),
            look,
            points: points.to_vec(),
            ..Series::default()
        };
        Figure {
            title: "made up".to_owned(),
            source: "no machine".to_owned(),
            columns: 2,
            panels: vec![Panel {
                title: "panel".to_owned(),
                x: "prompts".to_owned(),
                y: "us".to_owned(),
                x_ticks: vec![1.0, 8.0, 64.0],
                series: vec![series("first", 0, &points), series("second", 1, &[(1.0, 2.0), (8.0, 4.0)])],
            }],
        }
    }

    #[test]
    fn a_figure_holds_its_names_marks_and_ticks() {
        let svg = figure(vec![(1.0, 1.0), (8.0, 10.0), (64.0, 30.0)]).svg().unwrap();
        for words in ["made up", "no machine", "panel", "prompts", "us", "first", "second", "64"] {
            assert!(svg.lines().any(|line| line.trim() == words), "no {words} in {svg}");
        }
        // The mark of every point and that of the legend.
        assert_eq!(svg.matches("<circle").count(), 3 + 1);
        assert_eq!(svg, figure(vec![(1.0, 1.0), (8.0, 10.0), (64.0, 30.0)]).svg().unwrap());
    }

    #[test]
    fn what_a_logarithm_has_no_place_for_is_refused() {
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let error = figure(vec![(1.0, bad)]).svg().unwrap_err().to_string();
            assert!(error.contains("\"panel\" has a point"), "{error}");
        }
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(decades(&(0.15..6.0)), [0.2, 0.5, 1.0, 2.0, 5.0]);
        assert_eq!(decades(&(0.88..1.25)), [0.9, 0.95, 1.0, 1.1, 1.2]);
        assert_eq!(decades(&(0.5..50_000.0)), [1.0, 10.0, 100.0, 1000.0, 10_000.0]);
        let ticks = [1.0, 4.0, 8.0, 16.0, 30.0, 64.0, 128.0, 2048.0];
        assert_eq!(spaced(&ticks), ticks);
        assert_eq!(spaced(&[1.0, 1.1, 1000.0]), [1.0, 1000.0]);
    }
}
