//! Minimal T5: encode an input once, decode many prompts over its one shared K/V.
//!
//! `cargo run --release --package t5` answers 30 slot prompts about a built-in dialogue, with the
//! prompts in the decoder (PID) and in the encoder (PIE), and compares what the two cost. With
//! `--features cuda` it does so on an NVIDIA card, if there is one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use safetensors::tensor::TensorView;
use serde_json::{Map, Value, json};
use t5::advice::doubts::doubts;
use t5::advice::explain::{Prediction, workload};
use t5::advice::memory;
use t5::backend::Backend;
use t5::backend::cpu::Cpu;
use t5::cli::arguments::{Arguments, Device, Dtype};
use t5::cli::asked::Asked;
use t5::cli::command::{self, one_line};
use t5::cli::out;
use t5::cli::report::{Figures, figures_table, name, outputs_table};
use t5::cost::Method;
use t5::generate::{self, Limits, forced_logits, generate};
use t5::load::{self, Shape};
use t5::model::Model;
use t5::println;

fn main() -> ExitCode {
    command::main(run)
}

fn run(arguments: &Arguments) -> Result<()> {
    arguments.check()?;
    command::start_threads(arguments.threads)?;
    let why = match arguments.backend {
        Device::Cpu => String::new(),
        Device::Auto | Device::Cuda => match on_card(arguments)? {
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

/// Runs on the card or, where it need not be one, says why there is none to run on.
#[cfg(feature = "cuda")]
fn on_card(arguments: &Arguments) -> Result<Option<String>> {
    let auto = arguments.backend == Device::Auto;
    match t5::backend::cuda::Cuda::open(arguments.dtype, arguments.gemm) {
        Ok(cuda) => with(arguments, &cuda, if auto { " (auto)" } else { "" }).map(|()| None),
        Err(error) if auto => Ok(Some(format!("no CUDA: {}", one_line(&error)))),
        Err(error) => Err(error),
    }
}

#[cfg(not(feature = "cuda"))]
fn on_card(arguments: &Arguments) -> Result<Option<String>> {
    match arguments.backend {
        Device::Auto => Ok(Some("built without feature cuda".into())),
        _ => bail!("--backend is cuda, allowed in this build: auto, cpu; build with `--features cuda`"),
    }
}

/// `why`: how this backend was chosen, if it was not asked for.
fn with<B: Backend>(arguments: &Arguments, backend: &B, why: &str) -> Result<()> {
    let run = Run { arguments, backend, device: format!("{}{why}", backend.facts().name) };
    match arguments.random {
        Some(shape) => run.sweep(shape),
        None => run.answer(&Asked::read(arguments)?),
    }
}

/// The methods that ran, with what they gave, and those that did not.
#[derive(Default)]
struct Answers {
    /// Answers in the order of inputs, and within them of prompts.
    ran: Vec<(Figures, Vec<Value>)>,
    /// Why they did not run.
    refused: Vec<(Method, String)>,
    prediction: Option<Prediction>,
    /// Settings of the models' folders that are not obeyed.
    ignored: Map<String, Value>,
}

impl Answers {
    /// An error where nothing could run.
    fn some_ran(&self) -> Result<()> {
        let refused = self.refused.first().filter(|_| self.ran.is_empty());
        refused.map_or(Ok(()), |(_, why)| bail!("{why}"))
    }

    fn figures(self, device: &str) -> Value {
        let mut figures = Map::new();
        let prediction = self.prediction.as_ref().map_or(Value::Null, Prediction::json);
        let ran = self.ran.iter().map(|(f, _)| (f.name(), f.json()));
        let refused = self.refused.iter().map(|(method, why)| (name(*method), json!({ "error": why })));
        for (name, mut json) in ran.chain(refused) {
            json["device"] = json!(device);
            json["predicted"] = prediction.clone();
            figures.insert(name.to_lowercase(), json);
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
    /// Asks by every method, those that fit the device's memory; models that are `loaded` serve all. Where that is all that
    /// is wanted, no more than a prediction.
    fn ask<'s>(&'s self, asked: &Asked, loaded: &mut HashMap<PathBuf, Model<'s, B>>) -> Result<Answers> {
        let (arguments, backend) = (self.arguments, self.backend);
        let limits = Limits {
            max_new_tokens: asked.max_new_tokens(arguments),
            stop_at_eos: arguments.random.is_none(),
            batch_rows: arguments.batch_rows,
        };
        let batch_rows = limits.batch_rows.map_or(u64::MAX, |rows| rows as u64);
        let mut answers = Answers::default();
        for &method in arguments.methods() {
            let (folder, config) = asked.model(arguments, method)?;
            answers.ignored.clone_from(&config.ignored);
            let shape = config.cost_shape(backend.head_dim(&config)?, backend.facts().element_bytes);
            let text = asked.tokenizer(&folder, &config)?;
            let tasks = asked.tasks(text.as_ref(), method)?;
            generate::check(&config, &tasks, limits)?;
            // As it was before the model was loaded, if it is.
            let taken = if loaded.contains_key(&folder) { shape.weight_bytes() } else { 0 };
            let free = backend.memory()?.map(|memory| memory.free as u64 + taken);
            if answers.prediction.is_none() {
                let device = arguments.roofline()?.or(backend.facts().roofline);
                // With the prompts in the encoder the tasks are others than were asked.
                let plain = (method == Method::Pie).then(|| asked.tasks(text.as_ref(), Method::Pid));
                let work = workload(plain.transpose()?.as_ref().unwrap_or(&tasks), limits.max_new_tokens);
                let (methods, free_bytes, model) = (arguments.methods(), free, shape);
                let doubts = doubts(&work, asked.prompt_texts());
                let prediction = Prediction { model, work, batch_rows, methods, free_bytes, device, doubts };
                answers.prediction = Some(prediction);
                if arguments.explain {
                    break;
                }
            }
            let work = workload(&tasks, limits.max_new_tokens);
            let fits = |free| memory::check(method, &shape, &work, batch_rows, free);
            if let Some(Err(error)) = free.map(fits) {
                answers.refused.push((method, one_line(&error)));
                continue;
            }
            let said = answers.prediction.as_ref().and_then(Prediction::memory_line);
            let said = said.filter(|_| answers.ran.is_empty() && !arguments.json);
            said.iter().for_each(|line| println!("{line}"));
            if !loaded.contains_key(&folder) {
                let model = match arguments.random {
                    Some(_) => load::random(config, 1, backend)?,
                    None => load::folder(&folder, config, arguments.transformers, backend)?,
                };
                loaded.insert(folder.clone(), model);
            }
            let model = &loaded[&folder];
            let (outputs, stats) = generate(model, method, &tasks, limits, arguments.runs, &out::bar(""))?;
            if let Some(path) = &arguments.logits {
                write_logits(path, &forced_logits(model, &tasks[..1])?, model.config.vocab)?;
            }
            let answer = |ids: &Vec<u32>| match &text {
                Some(text) => Ok(json!(text.decode(ids)?)),
                None => Ok(json!(ids)),
            };
            let of_method = outputs.iter().flatten().map(answer).collect::<Result<_>>()?;
            let figures = Figures::new(method, stats, &shape, &tasks, &outputs);
            answers.ran.push((figures, of_method));
        }
        Ok(answers)
    }

    /// What is asked, answered by every method.
    fn answer(&self, asked: &Asked) -> Result<()> {
        let (arguments, answers) = (self.arguments, self.ask(asked, &mut HashMap::new())?);
        if arguments.explain {
            return self.explain(answers.prediction.as_ref());
        }
        answers.some_ran()?;
        let (inputs, prompts) = asked.names();
        // Answers of an input, by method.
        let of_input = |i: usize| {
            let range = i * prompts.len()..(i + 1) * prompts.len();
            answers.ran.iter().map(move |(figures, answers)| (figures.name(), &answers[range.clone()]))
        };
        if arguments.json {
            let line = |i, p: usize| {
                let mut line = json!({ "prompt": prompts[p] });
                of_input(i).for_each(|(name, answers)| line[name.to_lowercase()] = answers[p].clone());
                line
            };
            let outputs = |i| (0..prompts.len()).map(|p| line(i, p)).collect::<Value>();
            let inputs = (0..inputs.len()).map(|i| json!({ "input": inputs[i], "outputs": outputs(i) }));
            let (inputs, ignored) = (inputs.collect::<Value>(), answers.ignored.clone());
            let figures = answers.figures(&self.device);
            println!("{:#}", json!({ "inputs": inputs, "ignored": ignored, "figures": figures }));
            return Ok(());
        }
        for i in 0..inputs.len() {
            println!("{}\n", asked.heading(arguments, i));
            println!("{}\n", outputs_table(&prompts, &of_input(i).collect::<Vec<_>>()));
        }
        if arguments.model.is_none() && answers.ran.iter().any(|(f, _)| f.method == Method::Pie) {
            println!("The built-in models are tiny, and the PIE one answers worse: see tools/tiny-t5.");
        }
        answers.print(&self.device);
        Ok(())
    }

    /// Figures of random weights on random ids, at every length and number of prompts.
    fn sweep(&self, shape: Shape) -> Result<()> {
        let (arguments, mut loaded, mut reports) = (self.arguments, HashMap::new(), Vec::new());
        let points = arguments.keys.iter().flat_map(|n| arguments.prompt_count.iter().map(move |u| (*n, *u)));
        let points: Vec<(usize, usize)> = points.collect();
        for &(keys, prompts) in &points {
            if points.len() > 1 && !arguments.json {
                println!("{keys} input tokens, {prompts} prompts");
            }
            let answers = self.ask(&Asked::random(arguments, shape, keys, prompts)?, &mut loaded)?;
            if points.len() == 1 {
                answers.some_ran()?;
            }
            if arguments.explain {
                self.explain(answers.prediction.as_ref())?;
            } else if arguments.json {
                reports.push(answers.figures(&self.device));
            } else {
                answers.print(&self.device);
            }
        }
        match &reports[..] {
            [] => (),
            [report] => println!("{report:#}"),
            reports => println!("{:#}", json!(reports)),
        }
        Ok(())
    }

    fn explain(&self, prediction: Option<&Prediction>) -> Result<()> {
        let prediction = prediction.context("nothing was predicted")?;
        if self.arguments.json {
            println!("{:#}", prediction.json());
        } else {
            prediction.print();
            println!("{}", self.device);
        }
        Ok(())
    }
}

fn write_logits(path: &Path, logits: &[Vec<f32>], vocab: usize) -> Result<()> {
    let mut tensors = Vec::new();
    for (i, logits) in logits.iter().enumerate() {
        let (shape, bytes) = (vec![logits.len() / vocab, vocab], bytemuck::cast_slice(logits));
        tensors.push((format!("logits.{i}"), TensorView::new(safetensors::Dtype::F32, shape, bytes)?));
    }
    safetensors::serialize_to_file(tensors, None, path)
        .with_context(|| format!("cannot write {}", path.display()))
}
