//! Times candle's T5 beside the same model with its cross-attention by onekv.

use std::io::{stdin, stdout};

use anyhow::{Result, bail};
use candle_core::Device;
use candle_t5::load;
use candle_t5::measure::{self, Seconds, Work};
use clap::Parser;
use comfy_table::Table;
use comfy_table::presets::UTF8_BORDERS_ONLY;
use serde_json::json;
use t5::load::Shape;

/// Times candle's T5, which encodes once and decodes copies, and the same model with one K/V for all prompts (onekv).
///
/// Random weights and ids, f32, on the CPU; no token ends a prompt. RAYON_NUM_THREADS is the number of threads of both.
#[derive(Parser)]
#[command(name = "candle-t5", version, max_term_width = 100)]
struct Arguments {
    /// Model
    #[arg(long, value_enum, default_value_t = Shape::Base)]
    shape: Shape,
    /// Tokens of the input
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = whole)]
    input_tokens: usize,
    /// Prompts on it
    #[arg(long, value_name = "U", default_value_t = 30, value_parser = whole)]
    prompts: usize,
    /// Tokens of each prompt
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = whole)]
    prompt_tokens: usize,
    /// Tokens to decode of each prompt
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = whole)]
    new_tokens: usize,
    /// Runs of each system, in turn, of which the fastest is told
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole)]
    runs: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Measure what standard input orders (what `cargo xtask peers cpu` runs)
    #[arg(long, hide = true)]
    orders: bool,
}

/// The most that copies of K and V may take to be made and measured; larger ones fit no common machine.
const MOST_BYTES: usize = 1 << 30;

/// Sizes up to what a machine may hold.
fn whole(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=1 << 16).contains(number));
    number.ok_or_else(|| format!("allowed: a whole number from 1 to {}", 1 << 16))
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.orders {
        return measure::orders(stdin().lock(), stdout(), MOST_BYTES);
    }
    let Arguments { input_tokens, prompts, prompt_tokens, new_tokens, .. } = arguments;
    let work = Work { input_tokens, prompts, prompt_tokens, new_tokens };
    let mut both = load::random(&arguments.shape.config()?, &Device::Cpu)?;
    let (mut ours, mut candles) = (None, None);
    for _ in 0..arguments.runs {
        let (seconds, logits) = measure::ours(&both, &work)?;
        ours = fastest(ours, seconds);
        let (seconds, candles_logits) = measure::candles(&mut both, &work)?;
        candles = fastest(candles, seconds);
        // candle's decoder is wrong from its tenth token on (README.md): the start token and eight of a prompt are
        // right.
        let off = measure::difference(&logits, &candles_logits)?;
        if prompt_tokens <= 8 && (off.is_nan() || off > 1e-3) {
            bail!("the first logits differ by {off} of the largest: these are not the same model");
        }
    }
    let (Some(ours), Some(candles)) = (ours, candles) else { bail!("nothing ran, allowed: one run or more") };
    if arguments.json {
        println!("{}", json!({ "onekv": ours, "candle": candles, "threads": rayon::current_num_threads() }));
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY);
    table.set_header(["seconds", "onekv", "candle", "times as long"]);
    let mut row = |name: &str, of: fn(&Seconds) -> f64| {
        let (ours, candles) = (of(&ours), of(&candles));
        table.add_row([
            name.into(),
            format!("{ours:.3}"),
            format!("{candles:.3}"),
            format!("{:.2}x", candles / ours),
        ]);
    };
    row("encode", |seconds| seconds.encode_s);
    row("K/V of the cross-attention", |seconds| seconds.cross_kv_s);
    row("decode", |seconds| seconds.decode_s);
    row("total", |seconds| seconds.total_s);
    println!("{table}");
    println!(
        "K/V: onekv's once, before decoding; candle's in each of {new_tokens} passes, within decoding (one layer's time by \
         layers and passes). {} threads.",
        rayon::current_num_threads()
    );
    Ok(())
}

fn fastest(before: Option<Seconds>, now: Seconds) -> Option<Seconds> {
    Some(before.filter(|before| before.total_s <= now.total_s).unwrap_or(now))
}
