//! The cost model of T5-base in f32 for docs/method.md: FLOPs of a text's answers by task and way, and PID beside PIE as
//! prompts grow.

use anyhow::{Context as _, Result};
use onekv_cost::{Method, ModelShape, T5_BASE, Way, Workload, breakdown};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::scripts::{lines, root};

const FORMULA: &str = "results/method/formula.jsonl";
const QUALITY: &str = "results/method/quality.jsonl";
/// In f32.
const MODEL: ModelShape = ModelShape { element_bytes: 4, ..T5_BASE };
/// Of the input behind which prompts grow, and of each answer.
const KEYS: u64 = 64;
const NEW_TOKENS: u64 = 10;

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
    std::fs::write(&path, formula()?).with_context(|| format!("cannot write {}", path.display()))
}

fn formula() -> Result<String> {
    const WAYS: [(&str, Way); 4] = [
        ("pid", Way::Prompts(Method::Pid)),
        ("pie", Way::Prompts(Method::Pie)),
        ("one", Way::OneSequence),
        ("decoders", Way::SeparateDecoders),
    ];
    let of_task = |task: &Task| {
        let [keys, prompt_tokens, new_tokens] =
            [task.input_tokens, task.prompt_tokens, task.new_tokens].map(|mean| mean.round() as u64);
        let work = Workload { inputs: 1, prompts: task.prompts, keys, prompt_tokens, new_tokens };
        let mut line = json!({ "task": task.task });
        for (name, way) in WAYS {
            line[name] = way.cost(&MODEL, &work).flops.into();
        }
        line
    };
    let mut tasks: Vec<Task> = lines("report/lines.py", &["tasks"], &[root().join(QUALITY)])?;
    tasks.sort_by(|a, b| a.task.cmp(&b.task));
    let head = json!({ "shape": "t5-base", "dtype": "f32", "keys": KEYS, "new_tokens": NEW_TOKENS });
    let lines = std::iter::once(head).chain(tasks.iter().map(of_task)).chain(long_prompts());
    Ok(lines.map(|line| format!("{line}\n")).collect())
}

fn long_prompts() -> Vec<Value> {
    let points =
        [4, 64, 512, 4096].into_iter().flat_map(|tokens| [1, 2, 8, 32].map(|prompts| (tokens, prompts)));
    let point = |(prompt_tokens, prompts)| {
        let work = Workload { inputs: 1, prompts, keys: KEYS, prompt_tokens, new_tokens: NEW_TOKENS };
        let [pid, pie] = [Method::Pid, Method::Pie].map(|method| breakdown(method, &MODEL, &work).total());
        json!({
            "kind": "long prompts", "prompt_tokens": prompt_tokens, "prompts": prompts,
            "pid_flops": pid.flops, "pid_bytes": pid.bytes, "pie_flops": pie.flops, "pie_bytes": pie.bytes,
        })
    };
    points.map(point).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_formula_is_of_the_committed_tasks() {
        let committed = std::fs::read_to_string(root().join(FORMULA)).unwrap();
        assert_eq!(committed, formula().unwrap());
    }

    /// With short prompts an eighth of the encoding is left of 8, with long ones hardly anything is shared.
    #[test]
    fn long_prompts_leave_little_of_the_gain() {
        let points = long_prompts();
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
