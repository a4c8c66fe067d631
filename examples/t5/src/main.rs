//! Minimal T5: encode an input once, decode many prompts over its one shared K/V.
//!
//! `cargo run --release --package t5` answers 30 slot prompts about a built-in dialogue, with the
//! prompts in the decoder (PID) and in the encoder (PIE), and compares what the two cost. With
//! `--features cuda` it does so on an NVIDIA card, if there is one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use onekv_cost::{Method, doubts};
use t5::backend::Backend;
use t5::backend::cpu::Cpu;
use t5::cli::answers::{Answers, tell_sweep, write_logits};
use t5::cli::arguments::{Arguments, Device, Dtype};
use t5::cli::asked::Asked;
use t5::cli::command::{self, one_line};
use t5::cli::explain::{Prediction, check_memory, workload};
use t5::cli::out;
use t5::cli::report::Figures;
use t5::generate::{self, Limits, forced_logits, generate};
use t5::load;
use t5::model::Model;
use t5::println;

fn main() -> ExitCode {
    command::main(run)
}

fn run(arguments: &Arguments) -> Result<()> {
    arguments.check()?;
    command::start_threads(arguments.threads)?;
    // How the CPU was chosen, where it was not asked for.
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
    if let Some(products) = arguments.gemm {
        let products = format!("{products:?}").to_lowercase();
        bail!("--gemm is {products}, allowed on CUDA only{why}");
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

/// Texts or ids once, or random ids at every length and number of prompts. `why`: how this backend was chosen, if it was
/// not asked for.
fn with<B: Backend>(arguments: &Arguments, backend: &B, why: &str) -> Result<()> {
    let device = format!("{}{why}", backend.facts().name);
    let mut models = HashMap::new();
    let Some(shape) = arguments.random else {
        let asked = Asked::read(arguments)?;
        return answer(arguments, backend, &asked, &mut models)?.tell(arguments, &asked, &device);
    };
    tell_sweep(arguments, &device, |keys, prompts| {
        answer(arguments, backend, &Asked::random(arguments, shape, keys, prompts)?, &mut models)
    })
}

/// Answers by every method that fits the device's memory; where advice is all that is wanted, no more than that. `models`
/// are loaded once, by their folder.
fn answer<'b, B: Backend>(
    arguments: &Arguments,
    backend: &'b B,
    asked: &Asked,
    models: &mut HashMap<PathBuf, Model<'b, B>>,
) -> Result<Answers> {
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
        let facts = backend.facts();
        let shape = config.cost_shape(backend.head_dim(&config)?, facts.element_bytes);
        let text = asked.tokenizer(&folder, &config)?;
        let tasks = asked.tasks(text.as_ref(), method)?;
        generate::check(&config, &tasks, limits)?;
        // As it was before the model was loaded, if it is.
        let taken = if models.contains_key(&folder) { shape.weight_bytes() } else { 0 };
        let free = backend.memory()?.map(|memory| memory.free as u64 + taken);
        if answers.prediction.is_none() {
            // As it was asked: PIE's own tasks have the prompts in their inputs.
            let work = workload(&asked.tasks(text.as_ref(), Method::Pid)?, limits.max_new_tokens);
            answers.prediction = Some(Prediction {
                model: shape,
                work,
                batch_rows,
                methods: arguments.methods(),
                free_bytes: free,
                device: arguments.roofline()?.or(facts.roofline),
                doubts: doubts(&work, asked.prompt_texts()),
            });
        }
        if arguments.explain {
            break;
        }
        let work = workload(&tasks, limits.max_new_tokens);
        let fits = |free| check_memory(method, &shape, &work, batch_rows, free);
        if let Some(Err(error)) = free.map(fits) {
            answers.refused.push((method, one_line(&error)));
            continue;
        }
        let memory = answers.prediction.as_ref().and_then(Prediction::memory_line);
        if let Some(line) = memory.filter(|_| answers.ran.is_empty() && !arguments.json) {
            println!("{line}");
        }
        let model = match models.entry(folder) {
            Entry::Occupied(model) => model.into_mut(),
            Entry::Vacant(place) => {
                let model = match arguments.random {
                    Some(_) => load::random(config, 1, backend)?,
                    None => load::folder(place.key(), config, arguments.transformers, backend)?,
                };
                place.insert(model)
            }
        };
        let (outputs, stats) = generate(model, method, &tasks, limits, arguments.runs, &out::bar(""))?;
        if let Some(path) = &arguments.logits {
            write_logits(path, &forced_logits(model, &tasks[..1])?, model.config.vocab)?;
        }
        let figures = Figures::new(method, stats, &shape, &tasks, &outputs);
        answers.ran.push((figures, asked.answers(text.as_ref(), &outputs)?));
    }
    Ok(answers)
}
