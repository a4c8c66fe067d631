//! The results as pictures.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::{KEYS, Line, OURS, ROWS};

/// Draws the attention sweep (time against prompts, one panel per input length) or, for T5, a bar
/// per system.
pub fn draw(path: &Path, name: &str, machine: &str, lines: &[Line]) -> Result<()> {
    let drawn = if name == "attention" { sweep(path, machine, lines) } else { bars(path, machine, lines) };
    drawn.map_err(|e| anyhow!("cannot draw {}: {e}", path.display()))?;
    println!("{}", path.display());
    Ok(())
}

type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

fn systems(lines: &[Line]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for line in lines {
        if !names.contains(&line.system.as_str()) {
            names.push(&line.system);
        }
    }
    names
}

fn color(index: usize) -> RGBColor {
    [RGBColor(200, 40, 40), RGBColor(50, 90, 170), RGBColor(90, 150, 60), RGBColor(140, 90, 160)][index % 4]
}

fn sweep(path: &Path, machine: &str, lines: &[Line]) -> Drawn {
    let root = SVGBackend::new(path, (1000, 760)).into_drawing_area();
    root.fill(&WHITE)?;
    let title = format!("Shared cross-attention, 12 heads x 64, f32 ({machine})");
    let root = root.titled(&title, ("sans-serif", 20))?;
    for (panel, keys) in root.split_evenly((2, 2)).iter().zip(KEYS) {
        let of_panel: Vec<&Line> = lines.iter().filter(|l| l.keys == keys).collect();
        let (low, high) = of_panel
            .iter()
            .fold((f64::MAX, 0.0f64), |(low, high), l| (low.min(l.median_s), high.max(l.median_s)));
        let last = ROWS[ROWS.len() - 1] as f64;
        let mut chart = ChartBuilder::on(panel)
            .caption(format!("{keys} keys"), ("sans-serif", 16))
            .margin(8)
            .x_label_area_size(36)
            .y_label_area_size(60)
            .build_cartesian_2d((1f64..last).log_scale(), (low * 0.7e3..high * 1.5e3).log_scale())?;
        chart.configure_mesh().x_desc("prompts (query rows)").y_desc("ms").draw()?;
        for (i, system) in systems(lines).into_iter().enumerate() {
            let points: Vec<(f64, f64)> = of_panel
                .iter()
                .filter(|l| l.system == system)
                .map(|l| (l.rows as f64, l.median_s * 1e3))
                .collect();
            let style = color(i).stroke_width(2);
            chart
                .draw_series(LineSeries::new(points.clone(), style))?
                .label(system)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
            chart.draw_series(points.iter().map(|p| Circle::new(*p, 3, color(i).filled())))?;
        }
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK)
            .position(SeriesLabelPosition::UpperLeft)
            .draw()?;
    }
    root.present()?;
    Ok(())
}

fn bars(path: &Path, machine: &str, lines: &[Line]) -> Drawn {
    let root = SVGBackend::new(path, (1000, 60 + 50 * lines.len() as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    let title = format!("T5-base, 30 prompts over 512 tokens, 10 new tokens, f32: seconds ({machine})");
    let root = root.titled(&title, ("sans-serif", 18))?;
    let longest = lines.iter().map(|l| l.median_s).fold(0.0, f64::max);
    let mut sorted: Vec<&Line> = lines.iter().collect();
    sorted.sort_by(|a, b| a.median_s.total_cmp(&b.median_s));
    for (i, line) in sorted.iter().enumerate() {
        let (y, width) = (10 + 50 * i as i32, (line.median_s / longest * 560.0) as i32);
        let ours = line.system.starts_with(OURS);
        let fill = color(usize::from(!ours)).filled();
        root.draw(&Text::new(line.system.clone(), (20, y + 10), ("sans-serif", 16)))?;
        root.draw(&Rectangle::new([(280, y), (280 + width.max(2), y + 34)], fill))?;
        let label = format!("{:.2} s", line.median_s);
        root.draw(&Text::new(label, (290 + width, y + 10), ("sans-serif", 16)))?;
    }
    root.present()?;
    Ok(())
}
