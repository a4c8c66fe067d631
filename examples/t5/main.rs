//! Minimal T5: encode an input once, decode many prompts over its one shared K/V.
//!
//! `cargo run --release --example t5` answers 30 slot prompts about a built-in dialogue, with the
//! prompts in the decoder (PID) and in the encoder (PIE), and compares what the two cost.

#[macro_use]
mod out;

mod backend;
mod buckets;
mod config;
mod generate;
mod load;
mod model;
mod progress;
mod read;
mod report;
mod tokenize;
mod weights;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, ValueEnum};
use onekv::cost::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use backend::cpu::Cpu;
use generate::{Limits, Task, forced_logits, generate};
use model::Model;
use report::{Figures, figures_table, outputs_table};
use tokenize::Text;

/// Encode once, decode many: T5 with the prompts in the decoder (PID) or in the encoder (PIE).
///
/// Without options: a built-in dialogue, 30 slot prompts and built-in tiny models.
#[derive(Parser)]
#[command(name = "t5", version, max_term_width = 100)]
struct Arguments {
    /// Hugging Face T5 folder: config.json, model.safetensors (or sharded), tokenizer.json
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Text to ask about; repeat it for a batch of several inputs [default: a built-in dialogue]
    #[arg(long, value_name = "FILE")]
    input: Vec<PathBuf>,
    /// One prompt per line [default: 30 built-in slots]
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Where the prompts go
    #[arg(long, value_enum, default_value_t = Mode::Both)]
    mode: Mode,
    /// Most tokens to decode per prompt [default: 16; with --random: 10]
    #[arg(long, value_name = "N", value_parser = whole(1, 1 << 20), allow_negative_numbers = true)]
    max_new_tokens: Option<usize>,
    /// Token ids instead of text: {"input_ids": [..], "prompts": [[..], ..], "max_new_tokens": N}
    #[arg(long, value_name = "FILE", requires = "model", conflicts_with_all = ["input", "prompts", "mode"])]
    ids: Option<PathBuf>,
    /// With --ids: also write teacher-forced logits, one tensor `logits.I` per prompt
    #[arg(long, value_name = "FILE", requires = "ids")]
    logits: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// CPU threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = whole(1, 1024), allow_negative_numbers = true)]
    threads: Option<usize>,
    /// Time random weights of this shape on random ids; EOS does not stop a row
    #[arg(long, value_enum, value_name = "SHAPE", conflicts_with_all = ["model", "input", "prompts"])]
    random: Option<load::Shape>,
    /// With --random: tokens of the input
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = whole(1, 1 << 16), requires = "random")]
    keys: usize,
    /// With --random: number of prompts
    #[arg(long, value_name = "U", default_value_t = 30, value_parser = whole(1, 1 << 12), requires = "random")]
    prompt_count: usize,
    /// With --random: tokens of each prompt
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = whole(0, 1 << 12), requires = "random")]
    prompt_tokens: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Prompts in the decoder, over one encoding of the input; for models that were trained so
    Pid,
    /// Prompts in the encoder, each with an encoding of its own
    Pie,
    /// One after the other
    Both,
}

impl Mode {
    fn methods(self) -> &'static [Method] {
        match self {
            Mode::Pid => &[Method::Pid],
            Mode::Pie => &[Method::Pie],
            Mode::Both => &[Method::Pid, Method::Pie],
        }
    }
}

/// Parses an integer from `least` to `most`.
fn whole(least: usize, most: usize) -> impl Fn(&str) -> Result<usize, String> + Clone {
    move |text| {
        let value = text.parse().ok().filter(|n| (least..=most).contains(n));
        value.ok_or_else(|| format!("allowed: an integer from {least} to {most}"))
    }
}

fn main() -> ExitCode {
    let done = match Arguments::try_parse() {
        Ok(arguments) => run(&arguments).map_err(|error| one_line(&error)),
        // Not an error: --help and --version.
        Err(answer) if !answer.use_stderr() => answer.exit(),
        Err(error) => {
            // What is wrong comes first, then a blank line and what every such error says.
            let text = error.to_string();
            let what = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
            Err(format!("{what} (--help shows the options)"))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", error.split_whitespace().collect::<Vec<_>>().join(" "));
            ExitCode::from(2)
        }
    }
}

/// An error and its causes. Some say their cause themselves: it is not repeated.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !line.ends_with(&cause) {
            line += if line.is_empty() { "" } else { ": " };
            line += &cause;
        }
    }
    line
}

fn run(arguments: &Arguments) -> Result<()> {
    let mut pool = rayon::ThreadPoolBuilder::new();
    if let Some(threads) = arguments.threads {
        pool = pool.num_threads(threads);
    }
    // The global pool: the work is driven from the main thread, whose allocator keeps large buffers
    // for the next layer instead of handing their pages back.
    pool.build_global().context("cannot start threads")?;
    if let Some(shape) = arguments.random {
        run_random(arguments, shape)
    } else if let Some(request) = &arguments.ids {
        run_ids(arguments, request)
    } else {
        run_text(arguments)
    }
}

/// Runs one method over `tasks`; outputs by task and prompt.
fn answer(
    model: &Model<'_, Cpu>,
    backend: &Cpu,
    method: Method,
    tasks: &[Task],
    limits: Limits,
) -> Result<(Vec<Vec<Vec<u32>>>, Figures)> {
    let bar = progress::bar("");
    let (outputs, stats) = match method {
        Method::Pid => generate(model, backend, tasks, limits, &bar)?,
        Method::Pie => {
            let split: Vec<Task> = tasks.iter().flat_map(Task::prompts_in_encoder).collect();
            let (outputs, stats) = generate(model, backend, &split, limits, &bar)?;
            let mut rows = outputs.into_iter().flatten();
            let joined = tasks.iter().map(|task| rows.by_ref().take(task.prompts.len()).collect()).collect();
            (joined, stats)
        }
    };
    let figures = Figures::new(method, stats, &model.config.cost_shape(), tasks, &outputs);
    Ok((outputs, figures))
}

/// A text file, which must hold something.
fn read_text(what: &str, path: &Path) -> Result<String> {
    let text = read::text(what, path)?;
    if text.trim().is_empty() {
        bail!("{what} {} is empty, allowed: at least one word", path.display());
    }
    Ok(text)
}

fn run_text(arguments: &Arguments) -> Result<()> {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/t5/assets");
    let inputs =
        if arguments.input.is_empty() { vec![assets.join("dialogue.txt")] } else { arguments.input.clone() };
    let texts: Vec<String> =
        inputs.iter().map(|path| Ok(read_text("input", path)?.trim().to_string())).collect::<Result<_>>()?;
    let prompts = arguments.prompts.clone().unwrap_or_else(|| assets.join("prompts.txt"));
    let prompts: Vec<String> = read_text("prompts", &prompts)?
        .lines()
        .map(|line| line.trim().to_string())
        .filter(|line| !line.is_empty())
        .collect();
    let limits = Limits { max_new_tokens: arguments.max_new_tokens.unwrap_or(16), stop_at_eos: true };

    let backend = Cpu::new();
    let mut answers: Vec<(Figures, Vec<Vec<String>>)> = Vec::new();
    // One model given serves both methods; the built-in ones were trained for one each.
    let mut loaded: HashMap<PathBuf, (Model<'_, Cpu>, Text)> = HashMap::new();
    for &method in arguments.mode.methods() {
        let folder = arguments.model.clone().unwrap_or_else(|| {
            assets.join(match method {
                Method::Pid => "pid",
                Method::Pie => "pie",
            })
        });
        if !loaded.contains_key(&folder) {
            let model = load::folder(&folder, &backend)?;
            let text = Text::read(&folder, &model.config)?;
            loaded.insert(folder.clone(), (model, text));
        }
        let (model, text) = &loaded[&folder];
        let prompts: Vec<Vec<u32>> = prompts.iter().map(|p| text.prompt(p)).collect::<Result<_>>()?;
        let tasks: Vec<Task> = texts
            .iter()
            .map(|input| Ok(Task { input: text.input(input)?, prompts: prompts.clone() }))
            .collect::<Result<_>>()?;
        let (outputs, figures) = answer(model, &backend, method, &tasks, limits)?;
        let decoded = outputs
            .iter()
            .map(|rows| rows.iter().map(|ids| text.decode(ids)).collect())
            .collect::<Result<_>>()?;
        answers.push((figures, decoded));
    }

    if arguments.json {
        let inputs: Vec<Value> = inputs
            .iter()
            .enumerate()
            .map(|(i, path)| {
                let outputs: Vec<Value> = prompts
                    .iter()
                    .enumerate()
                    .map(|(p, prompt)| {
                        let mut line = json!({ "prompt": prompt });
                        for (figures, texts) in &answers {
                            line[figures.name().to_lowercase()] = json!(texts[i][p]);
                        }
                        line
                    })
                    .collect();
                json!({ "input": path, "outputs": outputs })
            })
            .collect();
        print_json(&json!({ "inputs": inputs, "figures": figures_json(answers.iter().map(|(f, _)| f)) }));
        return Ok(());
    }
    for (i, path) in inputs.iter().enumerate() {
        if !arguments.input.is_empty() {
            println!("{}", path.display());
        } else {
            println!("{}\n", texts[i].replace(" user :", "\n  user :").replace(" system :", "\n  system :"));
        }
        let columns: Vec<(&str, Vec<String>)> =
            answers.iter().map(|(figures, texts)| (figures.name(), texts[i].clone())).collect();
        println!("{}\n", outputs_table(&prompts, &columns));
    }
    let figures: Vec<Figures> = answers.into_iter().map(|(figures, _)| figures).collect();
    figures.iter().for_each(|figures| println!("{}", figures.legend()));
    if arguments.model.is_none() && figures.iter().any(|f| f.method == Method::Pie) {
        println!("The built-in models are tiny, and the PIE one answers worse: see tools/tiny-t5.");
    }
    println!("{}", figures_table(&figures));
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    input_ids: Vec<u32>,
    prompts: Vec<Vec<u32>>,
    max_new_tokens: usize,
}

fn run_ids(arguments: &Arguments, path: &Path) -> Result<()> {
    let text = read::text("request", path)?;
    let request: Request = serde_json::from_str(&text).with_context(|| {
        format!(
            "{} is not a request, allowed: {{\"input_ids\": [..], \"prompts\": [[..], ..], \"max_new_tokens\": N}}",
            path.display()
        )
    })?;
    let folder = arguments.model.as_deref().context("--ids needs --model DIR")?;
    let backend = Cpu::new();
    let model = load::folder(folder, &backend)?;
    let task = Task { input: request.input_ids, prompts: request.prompts };
    let max_new_tokens = arguments.max_new_tokens.unwrap_or(request.max_new_tokens);
    let limits = Limits { max_new_tokens, stop_at_eos: true };
    let (outputs, figures) = answer(&model, &backend, Method::Pid, std::slice::from_ref(&task), limits)?;
    if let Some(path) = &arguments.logits {
        write_logits(path, &forced_logits(&model, &backend, &task)?, model.config.vocab)?;
    }
    if arguments.json {
        println!("{}", json!({ "outputs": outputs[0] }));
    } else {
        for (prompt, ids) in task.prompts.iter().zip(&outputs[0]) {
            println!("{prompt:?} -> {ids:?}");
        }
        println!("{}", figures_table(&[figures]));
    }
    Ok(())
}

fn write_logits(path: &Path, logits: &[Vec<f32>], vocab: usize) -> Result<()> {
    let bytes: Vec<Vec<u8>> =
        logits.iter().map(|l| l.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
    let tensors = bytes
        .iter()
        .enumerate()
        .map(|(i, bytes)| {
            let shape = vec![bytes.len() / 4 / vocab, vocab];
            Ok((
                format!("logits.{i}"),
                safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, bytes)?,
            ))
        })
        .collect::<Result<Vec<_>>>()?;
    safetensors::serialize_to_file(tensors, None, path)
        .with_context(|| format!("cannot write {}", path.display()))
}

fn run_random(arguments: &Arguments, shape: load::Shape) -> Result<()> {
    let backend = Cpu::new();
    let model = load::random(shape, 1, &backend)?;
    // Which ids they are does not matter for the time; that they differ keeps the caches honest.
    let id = |i: usize| (3 + i * 7919 % (model.config.vocab - 3)) as u32;
    let task = Task {
        input: (0..arguments.keys).map(id).collect(),
        prompts: (0..arguments.prompt_count)
            .map(|p| (0..arguments.prompt_tokens).map(|t| id(p * 31 + t)).collect())
            .collect(),
    };
    let limits = Limits { max_new_tokens: arguments.max_new_tokens.unwrap_or(10), stop_at_eos: false };
    let mut figures = Vec::new();
    for &method in arguments.mode.methods() {
        figures.push(answer(&model, &backend, method, std::slice::from_ref(&task), limits)?.1);
    }
    if arguments.json {
        print_json(&figures_json(figures.iter()));
    } else {
        println!("{}", figures_table(&figures));
    }
    Ok(())
}

fn figures_json<'f>(figures: impl Iterator<Item = &'f Figures>) -> Value {
    let by_name = figures.map(|f| (f.name().to_lowercase(), f.json()));
    Value::Object(by_name.collect())
}

fn print_json(value: &Value) {
    println!("{value:#}");
}
