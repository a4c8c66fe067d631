//! Minimal T5: encode an input once, decode many prompts over its one shared K/V.
//!
//! `cargo run --release --example t5` answers 30 slot prompts about a built-in dialogue, with the
//! prompts in the decoder (PID) and in the encoder (PIE), and compares what the two cost. With
//! `--features t5-cuda` it does so on an NVIDIA card, if there is one.

#[macro_use]
mod out;

mod arguments;
mod backend;
mod buckets;
mod config;
mod explain;
mod generate;
mod load;
mod memory;
mod model;
mod progress;
mod read;
mod report;
mod schedule;
mod tokenize;
mod weights;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Parser as _;
use onekv::cost::{Method, ModelShape};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use arguments::{Arguments, Device, Dtype};
use backend::Backend;
use backend::cpu::Cpu;
use config::Config;
use explain::{Prediction, workload};
use generate::{Limits, Outputs, Task, forced_logits, generate};
use load::Shape;
use memory::Need;
use model::Model;
use report::{Figures, figures_table, name, outputs_table};
use tokenize::Text;

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
    let why = match arguments.backend {
        Device::Cpu => String::new(),
        Device::Cuda => return cuda(arguments),
        Device::Auto => match cuda_or_why_not(arguments)? {
            None => return Ok(()),
            Some(why) => format!(" (auto; {why})"),
        },
    };
    if let Some(dtype @ (Dtype::Bf16 | Dtype::F16)) = arguments.dtype {
        let dtype = format!("{dtype:?}").to_lowercase();
        bail!("--dtype is {dtype}, allowed on the CPU{why}: f32");
    }
    with(arguments, &Cpu::new(), &why)
}

#[cfg(feature = "t5-cuda")]
fn cuda(arguments: &Arguments) -> Result<()> {
    with(arguments, &backend::cuda::Cuda::open(arguments.dtype, arguments.gemm)?, "")
}

#[cfg(not(feature = "t5-cuda"))]
fn cuda(_arguments: &Arguments) -> Result<()> {
    bail!("--backend is cuda, allowed in this build: auto, cpu; build with `--features t5-cuda`")
}

/// Runs on the card, or says why there is none to run on.
#[cfg(feature = "t5-cuda")]
fn cuda_or_why_not(arguments: &Arguments) -> Result<Option<String>> {
    match backend::cuda::Cuda::open(arguments.dtype, arguments.gemm) {
        Ok(cuda) => with(arguments, &cuda, " (auto)").map(|()| None),
        Err(error) => Ok(Some(format!("no CUDA: {}", one_line(&error)))),
    }
}

#[cfg(not(feature = "t5-cuda"))]
fn cuda_or_why_not(_arguments: &Arguments) -> Result<Option<String>> {
    Ok(Some("built without t5-cuda".into()))
}

/// `why`: how this backend was chosen, if it was not asked for.
fn with<B: Backend>(arguments: &Arguments, backend: &B, why: &str) -> Result<()> {
    let run = Run { arguments, backend, device: format!("{}{why}", backend.describe()) };
    if let Some(shape) = arguments.random {
        run.random(shape)
    } else if let Some(request) = &arguments.ids {
        run.ids(request)
    } else {
        run.text()
    }
}

/// The methods that ran, with what they gave, and those that did not.
struct Answers<T> {
    ran: Vec<(Figures, T)>,
    /// Why they did not run.
    refused: Vec<(Method, String)>,
    prediction: Option<Prediction>,
}

impl<T> Answers<T> {
    fn figures(self, device: &str) -> Value {
        let mut figures = Map::new();
        let prediction = self.prediction.as_ref().map_or(Value::Null, Prediction::json);
        for (f, _) in &self.ran {
            let mut json = f.json();
            json["device"] = json!(device);
            json["predicted"] = prediction.clone();
            figures.insert(f.name().to_lowercase(), json);
        }
        for (method, why) in &self.refused {
            figures.insert(
                name(*method).to_lowercase(),
                json!({ "error": why, "device": device, "predicted": prediction }),
            );
        }
        Value::Object(figures)
    }

    fn print(self, device: &str) {
        let figures: Vec<Figures> = self.ran.into_iter().map(|(figures, _)| figures).collect();
        figures.iter().for_each(|figures| println!("{}", figures.legend()));
        println!("{}", figures_table(&figures));
        for (method, why) in self.refused {
            println!("{} was not run: {why}", name(method));
        }
        println!("{device}");
    }
}

struct Run<'a, B: Backend> {
    arguments: &'a Arguments,
    backend: &'a B,
    device: String,
}

impl<B: Backend> Run<'_, B> {
    fn shape(&self, config: &Config) -> Result<ModelShape> {
        Ok(config.cost_shape(self.backend.head_dim(config)?, self.backend.element_bytes()))
    }

    fn limits(&self, max_new_tokens: usize, stop_at_eos: bool) -> Limits {
        Limits { max_new_tokens, stop_at_eos, batch_rows: self.arguments.batch_rows }
    }

    /// Free memory, as it was before the model was loaded if it is.
    fn free_bytes(&self, shape: &ModelShape, loaded: bool) -> Result<Option<u64>> {
        let taken = if loaded { shape.weight_bytes() } else { 0 };
        Ok(self.backend.free_bytes()?.map(|free| free as u64 + taken))
    }

    fn predict(&self, shape: ModelShape, tasks: &[Task], limits: Limits, loaded: bool) -> Result<Prediction> {
        let device = self.arguments.roofline()?.or(self.backend.roofline());
        let work = workload(tasks, limits.max_new_tokens);
        let free = self.free_bytes(&shape, loaded)?;
        Ok(Prediction::new(shape, work, batch_rows(limits), self.arguments.mode.methods(), free, device))
    }

    /// Refuses what does not fit the device's memory, before it is loaded.
    fn check(
        &self,
        method: Method,
        shape: &ModelShape,
        tasks: &[Task],
        limits: Limits,
        loaded: bool,
    ) -> Result<()> {
        let Some(free) = self.free_bytes(shape, loaded)? else { return Ok(()) };
        let (work, rows) = (workload(tasks, limits.max_new_tokens), batch_rows(limits));
        Need::new(method, shape, &work, rows).check(method, shape, &work, rows, free)
    }

    /// Runs one method over `tasks`; the figures are of the fastest run.
    fn answer(
        &self,
        model: &Model<'_, B>,
        method: Method,
        tasks: &[Task],
        limits: Limits,
    ) -> Result<(Outputs, Figures)> {
        let runs = self.arguments.runs;
        let (outputs, stats) = generate(model, method, tasks, limits, runs, &progress::bar(""))?;
        let figures = Figures::new(method, stats, &model.cost_shape(), tasks, &outputs);
        Ok((outputs, figures))
    }

    fn text(&self) -> Result<()> {
        let arguments = self.arguments;
        let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/t5/assets");
        let inputs = match &arguments.input[..] {
            [] => vec![assets.join("dialogue.txt")],
            given => given.to_vec(),
        };
        let texts: Vec<String> = inputs
            .iter()
            .map(|path| Ok(read_text("input", path)?.trim().to_string()))
            .collect::<Result<_>>()?;
        let prompts = arguments.prompts.clone().unwrap_or_else(|| assets.join("prompts.txt"));
        let prompts: Vec<String> = read_text("prompts", &prompts)?
            .lines()
            .map(|line| line.trim().to_string())
            .filter(|line| !line.is_empty())
            .collect();
        let limits = self.limits(arguments.max_new_tokens.unwrap_or(16), true);

        let mut answers = Answers { ran: Vec::new(), refused: Vec::new(), prediction: None };
        // One model given serves all methods; the built-in ones were trained for one each.
        let mut loaded: HashMap<PathBuf, Model<'_, B>> = HashMap::new();
        for &method in arguments.mode.methods() {
            let folder = arguments.model.clone().unwrap_or_else(|| {
                assets.join(match method {
                    Method::Pid | Method::PidReplicated => "pid",
                    Method::Pie => "pie",
                })
            });
            if !folder.is_dir() {
                bail!(
                    "model is {}, allowed: a folder with config.json and model.safetensors",
                    folder.display()
                );
            }
            let config = Config::read(&folder)?;
            let shape = self.shape(&config)?;
            let text = Text::read(&folder, &config)?;
            let prompts: Vec<Vec<u32>> = prompts.iter().map(|p| text.prompt(p)).collect::<Result<_>>()?;
            let tasks: Vec<Task> = texts
                .iter()
                .map(|input| Ok(Task { input: text.input(input)?, prompts: prompts.clone() }))
                .collect::<Result<_>>()?;
            if answers.prediction.is_none() {
                let prediction = self.predict(shape, &tasks, limits, false)?;
                if arguments.explain {
                    return self.explain(Some(&prediction));
                }
                answers.prediction = Some(prediction);
            }
            if let Err(error) = self.check(method, &shape, &tasks, limits, loaded.contains_key(&folder)) {
                answers.refused.push((method, one_line(&error)));
                continue;
            }
            if !loaded.contains_key(&folder) {
                loaded.insert(folder.clone(), load::folder(&folder, config, self.backend)?);
            }
            let (outputs, figures) = self.answer(&loaded[&folder], method, &tasks, limits)?;
            let decoded: Vec<Vec<String>> = outputs
                .iter()
                .map(|rows| rows.iter().map(|ids| text.decode(ids)).collect())
                .collect::<Result<_>>()?;
            answers.ran.push((figures, decoded));
        }
        some_ran(&answers)?;

        if arguments.json {
            let inputs: Vec<Value> = inputs
                .iter()
                .enumerate()
                .map(|(i, path)| {
                    let line = |(p, prompt)| {
                        let mut line = json!({ "prompt": prompt });
                        for (figures, texts) in &answers.ran {
                            line[figures.name().to_lowercase()] = json!(texts[i][p]);
                        }
                        line
                    };
                    let outputs: Vec<Value> = prompts.iter().enumerate().map(line).collect();
                    json!({ "input": path, "outputs": outputs })
                })
                .collect();
            print_json(&json!({ "inputs": inputs, "figures": answers.figures(&self.device) }));
            return Ok(());
        }
        for (i, path) in inputs.iter().enumerate() {
            if !arguments.input.is_empty() {
                println!("{}", path.display());
            } else {
                println!(
                    "{}\n",
                    texts[i].replace(" user :", "\n  user :").replace(" system :", "\n  system :")
                );
            }
            let columns: Vec<(&str, Vec<String>)> =
                answers.ran.iter().map(|(figures, texts)| (figures.name(), texts[i].clone())).collect();
            println!("{}\n", outputs_table(&prompts, &columns));
        }
        if arguments.model.is_none() && answers.ran.iter().any(|(f, _)| f.method == Method::Pie) {
            println!("The built-in models are tiny, and the PIE one answers worse: see tools/tiny-t5.");
        }
        answers.print(&self.device);
        Ok(())
    }

    fn explain(&self, prediction: Option<&Prediction>) -> Result<()> {
        let prediction = prediction.context("nothing was predicted")?;
        if self.arguments.json {
            print_json(&prediction.json());
        } else {
            prediction.print();
            println!("{}", self.device);
        }
        Ok(())
    }

    fn ids(&self, path: &Path) -> Result<()> {
        let arguments = self.arguments;
        let text = read::text("request", path)?;
        let request: Request = serde_json::from_str(&text).with_context(|| {
            format!(
                "{} is not a request, allowed: {{\"input_ids\": [..], \"prompts\": [[..], ..], \"max_new_tokens\": N}}",
                path.display()
            )
        })?;
        let folder = arguments.model.as_deref().context("--ids needs --model DIR")?;
        let config = Config::read(folder)?;
        let shape = self.shape(&config)?;
        let task = [Task { input: request.input_ids, prompts: request.prompts }];
        let max_new_tokens = arguments.max_new_tokens.unwrap_or(request.max_new_tokens);
        let limits = self.limits(max_new_tokens, true);
        generate::check(&config, &task, limits)?;
        self.check(Method::Pid, &shape, &task, limits, false)?;
        let model = load::folder(folder, config, self.backend)?;
        let (outputs, figures) = self.answer(&model, Method::Pid, &task, limits)?;
        if let Some(path) = &arguments.logits {
            write_logits(path, &forced_logits(&model, &task[0])?, model.config.vocab)?;
        }
        if arguments.json {
            println!("{}", json!({ "outputs": outputs[0] }));
        } else {
            for (prompt, ids) in task[0].prompts.iter().zip(&outputs[0]) {
                println!("{prompt:?} -> {ids:?}");
            }
            Answers { ran: vec![(figures, ())], refused: vec![], prediction: None }.print(&self.device);
        }
        Ok(())
    }

    fn random(&self, shape: Shape) -> Result<()> {
        let arguments = self.arguments;
        let config = shape.config();
        let mut model = None;
        let mut reports = Vec::new();
        let sweep =
            arguments.keys.iter().flat_map(|keys| arguments.prompt_count.iter().map(move |u| (*keys, *u)));
        let points = arguments.keys.len() * arguments.prompt_count.len();
        for (keys, prompts) in sweep {
            if points > 1 && !arguments.json {
                println!("{keys} input tokens, {prompts} prompts");
            }
            let answers = self.measure(&config, &mut model, keys, prompts)?;
            if arguments.explain {
                self.explain(answers.prediction.as_ref())?;
                continue;
            }
            if points == 1 {
                some_ran(&answers)?;
            }
            if arguments.json {
                reports.push(answers.figures(&self.device));
            } else {
                answers.print(&self.device);
            }
        }
        match &reports[..] {
            [] => (),
            [report] => print_json(report),
            reports => print_json(&json!(reports)),
        }
        Ok(())
    }

    /// Runs every method on random ids, those that fit; the model is loaded once something does.
    fn measure<'s>(
        &'s self,
        config: &Config,
        model: &mut Option<Model<'s, B>>,
        keys: usize,
        prompts: usize,
    ) -> Result<Answers<()>> {
        let arguments = self.arguments;
        // Which ids they are does not matter for the time; that they differ keeps the caches honest.
        let id = |i: usize| (3 + i * 7919 % (config.vocab - 3)) as u32;
        let task = |input: usize| Task {
            input: (0..keys).map(|i| id(input * 101 + i)).collect(),
            prompts: (0..prompts)
                .map(|p| (0..arguments.prompt_tokens).map(|t| id(p * 31 + t)).collect())
                .collect(),
        };
        let tasks: Vec<Task> = (0..arguments.input_count).map(task).collect();
        let limits = self.limits(arguments.max_new_tokens.unwrap_or(10), false);
        let shape = self.shape(config)?;
        let prediction = self.predict(shape, &tasks, limits, model.is_some())?;
        let memory = prediction.memory_line().filter(|_| !arguments.json);
        let mut answers = Answers { ran: Vec::new(), refused: Vec::new(), prediction: Some(prediction) };
        if arguments.explain {
            return Ok(answers);
        }
        for &method in arguments.mode.methods() {
            if let Err(error) = self.check(method, &shape, &tasks, limits, model.is_some()) {
                answers.refused.push((method, one_line(&error)));
                continue;
            }
            if answers.ran.is_empty() {
                memory.iter().for_each(|line| println!("{line}"));
            }
            if model.is_none() {
                *model = Some(load::random(config.clone(), 1, self.backend)?);
            }
            let Some(model) = model.as_ref() else { bail!("no model") };
            let (_, figures) = self.answer(model, method, &tasks, limits)?;
            answers.ran.push((figures, ()));
        }
        Ok(answers)
    }
}

/// The most rows at once, for the formulas.
fn batch_rows(limits: Limits) -> u64 {
    limits.batch_rows.map_or(u64::MAX, |rows| rows as u64)
}

/// An error where nothing could run.
fn some_ran<T>(answers: &Answers<T>) -> Result<()> {
    match &answers.refused[..] {
        [(_, why), ..] if answers.ran.is_empty() => bail!("{why}"),
        _ => Ok(()),
    }
}

/// A text file, which must hold something.
fn read_text(what: &str, path: &Path) -> Result<String> {
    let text = read::text(what, path)?;
    if text.trim().is_empty() {
        bail!("{what} {} is empty, allowed: at least one word", path.display());
    }
    Ok(text)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    input_ids: Vec<u32>,
    prompts: Vec<Vec<u32>>,
    max_new_tokens: usize,
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

fn print_json(value: &Value) {
    println!("{value:#}");
}
