//! FLOP per byte of a decode step's cross-attention against the number of prompts.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};

use super::page::{Files, folded, picture, short};
use crate::intensity::prefix::{self, DecoderOnly};
use crate::intensity::{Backend, Intensity, LAYOUTS, Layout, PROMPTS, Point};
use crate::plot::{Figure, Kind, Panel, Series};

const PATH: &str = "results/intensity.svg";
const ONCE: &str = "shared, each byte once";

pub fn section(results: &Intensity, files: &mut Files) -> Result<String> {
    let Intensity { date, heads, head_dim, keys, prompt_tokens, backends, decoder_only } = results;
    let mut text = format!(
        "\n## Intensity\n\nFLOP per byte of one decode step's cross-attention, {heads} heads x {head_dim}, n = {keys}, against the \
         number of prompts; {date}. Bytes and FLOPs are counts,\nand no time was measured. shared: one K/V for all prompts (PID); \
         replicated: a copy of it for each; PIE: each its own, of n + {prompt_tokens} keys.\nShared, intensity rises with U; else it \
         stays where it is at U = 1. FLOPs are `4 U n d` for each head. In brackets, and dashed, the\n\
         [cost model](../examples/t5/src/cost.rs): every stored K/V and Q read once, the output written once.\n\nBlocks on a card serve 16 or 32 query rows: beyond, more of them \
         ask for the same K/V (and those that share out a head's keys, for the same Q), and where\nthe L2 keeps it (here 1.6 MB), memory \
         sees each byte once. On the CPU partial results are written and read beside Q and the output.\n\n"
    );
    for Backend { name, dtype, counted, .. } in backends {
        writeln!(text, "- {name}, {dtype}: {counted}.")?;
    }
    files.insert(PATH.to_owned(), figure(results)?.svg()?);
    text += &picture("FLOP per byte against the number of prompts", PATH);
    text += &table(results)?;
    text += &folded("Every point", &bytes(backends, Layout::name)?);
    if let Some(decoder_only) = decoder_only {
        text += &behind_prefix(decoder_only)?;
    }
    Ok(text)
}

/// The decoder-only case, in which each sequence has keys of its own beside those that can be shared.
fn behind_prefix(results: &DecoderOnly) -> Result<String> {
    let DecoderOnly { model, heads, kv_heads, head_dim, prefix_keys: n, suffix_keys: m, backends } = results;
    let mut text = format!(
        "\n### Decoder-only: a shared prefix\n\nOne decode step of one layer of {model}, {heads} heads over {kv_heads} K/V heads x \
         {head_dim}, in bf16: U sequences behind one prefix of {n} keys, {m} keys each of their own.\nprefix shared: a launch over \
         the prefix, whose K/V all rows read, one over the suffixes, and a merge of the two; prefix copied: one launch over\n\
         {n} + {m} keys for each sequence. MB that each launch touches, each byte once, partial results and the merge included, and \
         FLOP per\nbyte of them. In brackets: every stored K/V and Q read once, the output written once. Shared, the suffixes remain, \
         and grow with U.\nWhere a launch would leave most multiprocessors without work its keys are shared out, and partial results \
         in f32 are written and\nread (combine, among the kernels), unless the blocks are one cluster of Hopper.\n\n"
    );
    let mut header = String::from("| U |");
    for backend in backends {
        for layout in prefix::LAYOUTS {
            write!(header, " {}, {}: MB |", backend.name, layout.name())?;
        }
        write!(header, " copied / shared |")?;
        for layout in prefix::LAYOUTS {
            write!(header, " {}: FLOP/byte |", layout.name())?;
        }
    }
    let columns = header.matches('|').count() - 1;
    writeln!(text, "{header}\n|{}", " --- |".repeat(columns))?;
    for prompts in PROMPTS {
        write!(text, "| {prompts} |")?;
        for backend in backends {
            let once = |layout: prefix::Layout| -> Result<(f64, f64)> {
                let point = backend.point(layout, prompts);
                let lacks = || format!("intensity.json: {} lacks {layout:?} at {prompts}", backend.name);
                let point = point.with_context(lacks)?;
                point.distinct_bytes.map(|b| b as f64).zip(point.intensity_once()).with_context(lacks)
            };
            let [shared, copied] = [once(prefix::Layout::Shared)?, once(prefix::Layout::Copied)?];
            for ((bytes, _), layout) in [shared, copied].into_iter().zip(prefix::LAYOUTS) {
                let model = layout.model(prompts).bytes as f64;
                write!(text, " {} ({}) |", short(bytes * 1e-6), short(model * 1e-6))?;
            }
            write!(text, " {}x |", short(copied.0 / shared.0))?;
            for ((_, intensity), layout) in [shared, copied].into_iter().zip(prefix::LAYOUTS) {
                write!(text, " {} ({}) |", short(intensity), short(layout.model(prompts).intensity()))?;
            }
        }
        text.push('\n');
    }
    text += &folded("Every point behind a prefix", &bytes(backends, prefix::Layout::name)?);
    Ok(text)
}

fn figure(results: &Intensity) -> Result<Figure> {
    let panel = |backend: &Backend| -> Result<Panel> {
        let of = |layout| backend.points.iter().filter(move |point| point.layout == layout);
        let mut series: Vec<Series> = LAYOUTS
            .into_iter()
            .enumerate()
            .map(|(look, layout)| Series {
                name: layout.name().to_owned(),
                look,
                points: of(layout).map(|point| (point.prompts as f64, point.intensity())).collect(),
                ..Series::default()
            })
            .collect();
        let once: Vec<(f64, f64)> = of(Layout::Shared)
            .filter_map(|point| Some((point.prompts as f64, point.intensity_once()?)))
            .collect();
        if !once.is_empty() {
            series.push(Series { name: ONCE.to_owned(), look: 3, points: once, ..Series::default() });
        }
        for layout in LAYOUTS {
            let model = |point: &Point| {
                Ok((point.prompts as f64, layout.model(point.prompts, &backend.dtype)?.intensity()))
            };
            series.push(Series {
                name: "cost model".to_owned(),
                kind: Kind::Rule,
                points: of(layout).map(model).collect::<Result<_>>()?,
                ..Series::default()
            });
        }
        Ok(Panel {
            title: format!("{}, {}", backend.name, backend.dtype),
            x: "prompts U".to_owned(),
            y: "FLOP per byte".to_owned(),
            x_ticks: of(Layout::Shared).map(|point| point.prompts as f64).collect(),
            series,
        })
    };
    Ok(Figure {
        title: "Cross-attention of a decode step: FLOP per byte, counted".to_owned(),
        source: format!(
            "{} heads x {}, n = {}, {}",
            results.heads, results.head_dim, results.keys, results.date
        ),
        columns: 3,
        panels: results.backends.iter().map(panel).collect::<Result<_>>()?,
    })
}

fn table(results: &Intensity) -> Result<String> {
    let mut header = String::from("\n| U |");
    for backend in &results.backends {
        for layout in LAYOUTS {
            write!(header, " {}, {} |", backend.name, layout.name())?;
        }
        if backend.points.iter().any(|point| point.distinct_bytes.is_some()) {
            write!(header, " {}, {ONCE} |", backend.name)?;
        }
    }
    let columns = header.matches('|').count() - 1;
    let mut text = format!("{header}\n|{}\n", " --- |".repeat(columns));
    for prompts in PROMPTS {
        write!(text, "| {prompts} |")?;
        for backend in &results.backends {
            let point = |layout| {
                let point = backend.point(layout, prompts);
                point.with_context(|| {
                    format!("intensity.json: {} lacks {layout:?} at {prompts}", backend.name)
                })
            };
            for layout in LAYOUTS {
                let model = layout.model(prompts, &backend.dtype)?.intensity();
                write!(text, " {} ({}) |", short(point(layout)?.intensity()), short(model))?;
            }
            if let Some(once) = point(Layout::Shared)?.intensity_once() {
                write!(text, " {} |", short(once))?;
            }
        }
        text.push('\n');
    }
    Ok(text)
}

fn bytes<L: Copy>(backends: &[Backend<L>], name: fn(L) -> &'static str) -> Result<String> {
    let mut text = String::from(
        "| | K/V | U | MFLOP | MB read | MB written | MB, each byte once | instructions, millions | kernels |\n|",
    );
    text += &(" --- |".repeat(9) + "\n");
    let millions = |count: Option<u64>| count.map_or(String::new(), |count| short(count as f64 * 1e-6));
    for backend in backends {
        for point in &backend.points {
            let Point { layout, prompts, flops, read_bytes, written_bytes, .. } = point;
            let [flops, read, written] =
                [flops, read_bytes, written_bytes].map(|count| millions(Some(*count)));
            writeln!(
                text,
                "| {} | {} | {prompts} | {flops} | {read} | {written} | {} | {} | {} |",
                backend.name,
                name(*layout),
                millions(point.distinct_bytes),
                millions(point.instructions),
                point.kernels.join(", ")
            )?;
        }
    }
    Ok(text)
}
