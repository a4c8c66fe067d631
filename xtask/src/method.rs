//! `cargo xtask method`: where prompt-in-decoder holds and where it breaks, by tiny models that are trained here and by what each
//! way to have many outputs costs; into results/method/, of which `cargo xtask report` makes docs/method.md.

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
    /// Train and evaluate the tiny T5s: results/method/quality.jsonl. What has ended is kept in target/method/runs
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
    trainings.arg(QUALITY).args(["--work", "target/method/runs", "--date", &date()?]);
    step("train and evaluate the tiny T5s", trainings.args(["--jobs", &jobs.to_string()]))?;
    let path = root().join(FORMULA);
    std::fs::write(&path, formula(&trained()?)?).with_context(|| format!("cannot write {}", path.display()))
}

const QUALITY: &str = "results/method/quality.jsonl";
const FORMULA: &str = "results/method/formula.jsonl";

/// A task that was trained; of its texts the prompts, and mean tokens.
#[derive(Deserialize)]
struct Trained {
    task: String,
    prompts: u64,
    input_tokens: f64,
    prompt_tokens: f64,
    new_tokens: f64,
}

/// By name.
fn trained() -> Result<Vec<Trained>> {
    let path = root().join(QUALITY);
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let lines: serde_json::Result<Vec<Value>> = text.lines().map(serde_json::from_str).collect();
    let tasks = lines.with_context(|| path.display().to_string())?;
    let tasks = tasks.into_iter().filter(|line| line["kind"] == "task").map(serde_json::from_value);
    let mut tasks: Vec<Trained> =
        tasks.collect::<serde_json::Result<_>>().with_context(|| path.display().to_string())?;
    tasks.sort_by(|a, b| a.task.cmp(&b.task));
    Ok(tasks)
}

/// The cost model of T5-base in f32, for the pages: FLOPs of a text's answers by task and way, and PID beside PIE as prompts grow.
fn formula(trained: &[Trained]) -> Result<String> {
    const WAYS: [(&str, Way); 4] = [
        ("pid", Way::Prompts(Method::Pid)),
        ("pie", Way::Prompts(Method::Pie)),
        ("one", Way::OneSequence),
        ("decoders", Way::SeparateDecoders),
    ];
    let model = load::Shape::Base.config()?.cost_shape(64, 4);
    let of_task = |task: &Trained| {
        let [keys, prompt_tokens, new_tokens] =
            [task.input_tokens, task.prompt_tokens, task.new_tokens].map(|mean| mean.round() as u64);
        let work = Workload { inputs: 1, prompts: task.prompts, keys, prompt_tokens, new_tokens };
        let mut line = json!({ "task": task.task });
        for (name, way) in WAYS {
            line[name] = way.cost(&model, &work).flops.into();
        }
        line
    };
    let head = json!({ "shape": "t5-base", "dtype": "f32", "keys": KEYS, "new_tokens": NEW_TOKENS });
    let lines = std::iter::once(head).chain(trained.iter().map(of_task)).chain(long_prompts(&model));
    Ok(lines.map(|line| format!("{line}\n")).collect())
}

/// Of the input behind which prompts grow, and of each answer.
const KEYS: u64 = 64;
const NEW_TOKENS: u64 = 10;

fn long_prompts(model: &ModelShape) -> Vec<Value> {
    let points =
        [4, 64, 512, 4096].into_iter().flat_map(|tokens| [1, 2, 8, 32].map(|prompts| (tokens, prompts)));
    let point = |(prompt_tokens, prompts)| {
        let work = Workload { inputs: 1, prompts, keys: KEYS, prompt_tokens, new_tokens: NEW_TOKENS };
        let [pid, pie] = [Method::Pid, Method::Pie].map(|method| breakdown(method, model, &work).total());
        json!({
            "kind": "long prompts", "prompt_tokens": prompt_tokens, "prompts": prompts,
            "pid_flops": pid.flops, "pid_bytes": pid.bytes, "pie_flops": pie.flops, "pie_bytes": pie.bytes,
        })
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
        assert_eq!(committed, formula(&trained().unwrap()).unwrap());
    }

    /// With short prompts an eighth of the encoding is left of 8, with long ones hardly anything is shared.
    #[test]
    fn long_prompts_leave_little_of_the_gain() {
        let points = long_prompts(&load::Shape::Base.config().unwrap().cost_shape(64, 4));
        let of = |tokens: u64| {
            let at = |point: &&Value| point["prompt_tokens"] == tokens && point["prompts"] == 8;
            let point = points.iter().find(at).unwrap();
            let of = |name: &str| point[name].as_f64().unwrap();
            (of("pid_flops") / of("pie_flops"), of("pid_bytes") / of("pie_bytes"))
        };
        let (short, long) = (of(4), of(4096));
        assert!(points.len() == 16 && short.0 < 0.5 && long.0 > 0.7, "{points:?}");
        // The decoder's own K/V of a long prompt is read beside the input's.
        assert!(short.1 < 1.0 && long.1 > 1.0, "{points:?}");
    }
}
