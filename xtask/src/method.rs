//! `cargo xtask method`: where prompt-in-decoder holds and where it breaks, by tiny models that are trained here and by what each
//! way to have many outputs costs; into results/method/, of which `cargo xtask report` makes docs/method.md.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value, json};
use t5::advice::ways::Way;
use t5::cost::{Method, ModelShape, Workload, breakdown};
use t5::load;

use crate::run::{cargo, command, date, machine, root, step};
use crate::virtual_gpu::release;
use crate::{report, setup};

#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// Threads of what is timed, and trainings at a time, which take one each
    #[arg(long, default_value_t = 2, global = true, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,
}

#[derive(Clone, Copy, Subcommand)]
enum Part {
    /// Train and evaluate the tiny T5s: results/method/quality.json. What has ended is kept in target/method/runs
    Quality,
    /// Time every way to have many outputs, ours and Hugging Face's in turns, and the decoder-only example: the rest of
    /// results/method/
    Cost,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    std::fs::create_dir_all(root().join("results/method"))?;
    match arguments.part {
        Some(Part::Quality) => quality(arguments.threads)?,
        Some(Part::Cost) => cost(arguments.threads)?,
        None => {
            quality(arguments.threads)?;
            cost(arguments.threads)?;
        }
    }
    report::write()
}

fn quality(jobs: u32) -> Result<()> {
    let python = setup::python("method-venv", "tools/method/requirements.txt", &[])?;
    let mut trainings = command(&python.to_string_lossy(), &["tools/method/run.py", "--out"]);
    trainings.arg("results/method/quality.json").args(["--work", "target/method/runs", "--date", &date()?]);
    step("train and evaluate the tiny T5s", trainings.args(["--jobs", &jobs.to_string()]))?;
    let path = root().join(FORMULA);
    std::fs::write(&path, serde_json::to_string_pretty(&formula(&trained()?)?)? + "\n")
        .with_context(|| format!("cannot write {}", path.display()))
}

const FORMULA: &str = "results/method/formula.json";

/// The tasks of results/method/quality.json.
#[derive(Deserialize)]
struct Trained {
    tasks: BTreeMap<String, Lengths>,
}

/// Of a text: prompts, and mean tokens.
#[derive(Deserialize)]
struct Lengths {
    prompts: u64,
    input_tokens: f64,
    prompt_tokens: f64,
    new_tokens: f64,
}

fn trained() -> Result<Trained> {
    let path = root().join("results/method/quality.json");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

/// The cost model of T5-base in f32, for the pages: FLOPs of a text's answers by task and way, and PID beside PIE as prompts grow.
fn formula(trained: &Trained) -> Result<Value> {
    const WAYS: [(&str, Way); 4] = [
        ("pid", Way::Prompts(Method::Pid)),
        ("pie", Way::Prompts(Method::Pie)),
        ("one", Way::OneSequence),
        ("decoders", Way::SeparateDecoders),
    ];
    let model = load::Shape::Base.config()?.cost_shape(64, 4);
    let of_task = |lengths: &Lengths| -> BTreeMap<&str, u64> {
        let [keys, prompt_tokens, new_tokens] =
            [lengths.input_tokens, lengths.prompt_tokens, lengths.new_tokens].map(|mean| mean.round() as u64);
        let work = Workload { inputs: 1, prompts: lengths.prompts, keys, prompt_tokens, new_tokens };
        WAYS.map(|(name, way)| (name, way.cost(&model, &work).flops)).into()
    };
    let tasks: BTreeMap<&str, _> =
        trained.tasks.iter().map(|(name, lengths)| (name.as_str(), of_task(lengths))).collect();
    Ok(json!({ "tasks": tasks, "long_prompts": long_prompts(&model) }))
}

/// Behind an input of 64 tokens, 10 new tokens each.
fn long_prompts(model: &ModelShape) -> Vec<Value> {
    let points =
        [4, 64, 512, 4096].into_iter().flat_map(|tokens| [1, 2, 8, 32].map(|prompts| (tokens, prompts)));
    let point = |(prompt_tokens, prompts)| {
        let work = Workload { inputs: 1, prompts, keys: 64, prompt_tokens, new_tokens: 10 };
        let [pid, pie] = [Method::Pid, Method::Pie].map(|method| {
            let total = breakdown(method, model, &work).total();
            json!({ "flops": total.flops, "bytes": total.bytes })
        });
        json!({ "prompt_tokens": prompt_tokens, "prompts": prompts, "pid": pid, "pie": pie })
    };
    points.map(point).collect()
}

fn cost(threads: u32) -> Result<()> {
    let mut build = cargo(&["build", "--release", "--package", "t5", "--package", "shared-prefix"]);
    step("build the examples", &mut build)?;
    let python = setup::peers_python(None)?;
    let mut script = command(&python.to_string_lossy(), &["tools/method/cost.py", "--out", "results/method"]);
    script.args(["--t5", &release("t5"), "--shared-prefix", &release("shared-prefix")]);
    script.args(["--machine", &machine(), "--date", &date()?, "--threads", &threads.to_string()]);
    step("what each way costs", &mut script)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::python_tests;

    /// What models are trained on and judged by is right.
    #[test]
    fn answers_are_what_the_texts_say() {
        python_tests(&["tools/method/test_tasks.py"]);
    }

    #[test]
    fn the_committed_formula_is_of_the_committed_tasks() {
        let committed = std::fs::read_to_string(root().join(FORMULA)).unwrap();
        let committed: Value = serde_json::from_str(&committed).unwrap();
        assert_eq!(committed, formula(&trained().unwrap()).unwrap());
    }

    /// With short prompts an eighth of the encoding is left of 8, with long ones hardly anything is shared.
    #[test]
    fn long_prompts_leave_little_of_the_gain() {
        let points = long_prompts(&load::Shape::Base.config().unwrap().cost_shape(64, 4));
        let of = |tokens: u64| {
            let at = |point: &&Value| point["prompt_tokens"] == tokens && point["prompts"] == 8;
            let point = points.iter().find(at).unwrap();
            let ratio =
                |count: &str| point["pid"][count].as_f64().unwrap() / point["pie"][count].as_f64().unwrap();
            (ratio("flops"), ratio("bytes"))
        };
        let (short, long) = (of(4), of(4096));
        assert!(points.len() == 16 && short.0 < 0.5 && long.0 > 0.7, "{points:?}");
        // The decoder's own K/V of a long prompt is read beside the input's.
        assert!(short.1 < 1.0 && long.1 > 1.0, "{points:?}");
    }
}
