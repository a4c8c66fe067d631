//! The cost model of T5-base in f32 for docs/method.md: FLOPs of a text's answers by task and way, and PID beside PIE as
//! prompts grow.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::{Value, json};
use t5::advice::ways::Way;
use t5::cost::{Method, ModelShape, Workload, breakdown};
use t5::load;

use crate::scripts::{lines, root};

const FORMULA: &str = "results/method/formula.json";
const QUALITY: &str = "results/method/quality.json";

/// What the tiny models were trained on: prompts of a text, and mean tokens.
#[derive(Deserialize)]
struct Task {
    task: String,
    prompts: u64,
    input_tokens: f64,
    prompt_tokens: f64,
    new_tokens: f64,
}

pub fn run() -> Result<()> {
    let path = root().join(FORMULA);
    std::fs::write(&path, serde_json::to_string_pretty(&formula()?)? + "\n")
        .with_context(|| format!("cannot write {}", path.display()))
}

fn model() -> Result<ModelShape> {
    Ok(load::Shape::Base.config()?.cost_shape(64, 4))
}

fn formula() -> Result<Value> {
    const WAYS: [(&str, Way); 4] = [
        ("pid", Way::Prompts(Method::Pid)),
        ("pie", Way::Prompts(Method::Pie)),
        ("one", Way::OneSequence),
        ("decoders", Way::SeparateDecoders),
    ];
    let model = model()?;
    let tasks: Vec<Task> = lines("report/lines.py", &["tasks"], &[root().join(QUALITY)])?;
    let of_task = |task: Task| {
        let [keys, prompt_tokens, new_tokens] =
            [task.input_tokens, task.prompt_tokens, task.new_tokens].map(|mean| mean.round() as u64);
        let work = Workload { inputs: 1, prompts: task.prompts, keys, prompt_tokens, new_tokens };
        let costs = WAYS.map(|(name, way)| (name, way.cost(&model, &work).flops));
        (task.task, BTreeMap::from(costs))
    };
    let tasks: BTreeMap<String, _> = tasks.into_iter().map(of_task).collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_formula_is_of_the_committed_tasks() {
        let committed = std::fs::read_to_string(root().join(FORMULA)).unwrap();
        let committed: Value = serde_json::from_str(&committed).unwrap();
        assert_eq!(committed, formula().unwrap());
    }

    /// With short prompts an eighth of the encoding is left of 8, with long ones hardly anything is shared.
    #[test]
    fn long_prompts_leave_little_of_the_gain() {
        let points = long_prompts(&model().unwrap());
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
