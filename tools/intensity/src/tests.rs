//! What results/intensity.jsonl says of the cost model is what the cost model says.

use std::path::Path;

use serde_json::Value;
use t5::cost::{Method, Workload, cross_attention_step};
use t5::load;

use super::Batch;

#[test]
fn committed_points_are_of_the_cost_model() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../results/intensity.jsonl");
    let text = std::fs::read_to_string(path).unwrap();
    let objects: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (head, points) = objects.split_first().unwrap();
    let number = |of: &Value, name: &str| of[name].as_u64().unwrap();
    let model = load::Shape::Base.config().unwrap();
    let mut compared = 0;
    for point in points {
        let method = match point["layout"].as_str().unwrap() {
            "shared" => Method::Pid,
            "replicated" => Method::PidReplicated,
            "pie" => Method::Pie,
            // No T5.
            _ => continue,
        };
        let element_bytes = if point["backend"] == "CPU" { 4 } else { 2 };
        let work = Workload {
            inputs: 1,
            prompts: number(point, "prompts"),
            keys: number(head, "keys"),
            prompt_tokens: number(head, "prompt_tokens"),
            new_tokens: 1,
        };
        let head_dim = number(head, "head_dim") as usize;
        let cost = cross_attention_step(method, &model.cost_shape(head_dim, element_bytes), &work);
        assert_eq!(
            [number(point, "flops"), number(point, "model_bytes")],
            [cost.flops, cost.bytes],
            "{point}"
        );
        compared += 1;
    }
    assert_eq!(compared, 3 * 3 * 8);
}

#[test]
fn a_batch_is_three_numbers() {
    assert_eq!("1x8x512".parse::<Batch>().unwrap().0, [1, 8, 512]);
    for text in ["", "1x8", "1x8x512x2", "1x-8x512", "1x8x"] {
        let Err(error) = text.parse::<Batch>() else { panic!("{text:?} is taken") };
        assert_eq!(error.to_string(), "allowed: inputs, rows and keys of each, as 1x8x512");
    }
}
