//! The T5 example's goldens: folders of tiny random models, what is asked of them, and what transformers answers.
#![allow(dead_code, reason = "each test needs some of it")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use candle_t5::load;
use candle_t5::model::T5;
use serde_json::Value;

/// f32 sums in another order differ by about 3e-5.
pub const TOLERANCE: f32 = 2e-4;

pub fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../t5/tests/goldens").join(name)
}

pub fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// A folder's question and transformers' answer.
pub struct Case {
    pub folder: PathBuf,
    pub input: Vec<u32>,
    pub prompts: Vec<Vec<u32>>,
    pub new_tokens: usize,
    /// By prompt.
    pub outputs: Vec<Vec<u32>>,
    /// `logits.I`: `[1 + tokens of the prompt, vocab]`, behind the start token and behind each token of prompt `I`.
    pub logits: HashMap<String, Tensor>,
}

impl Case {
    pub fn new(name: &str) -> Self {
        let folder = folder(name);
        let json = |name: &str| -> Value {
            serde_json::from_str(&std::fs::read_to_string(folder.join(name)).unwrap()).unwrap()
        };
        let (request, expected) = (json("request.json"), json("expected.json"));
        let lists = |value: &Value| value.as_array().unwrap().iter().map(ids).collect();
        Self {
            input: ids(&request["input_ids"]),
            prompts: lists(&request["prompts"]),
            new_tokens: request["max_new_tokens"].as_u64().unwrap() as usize,
            outputs: lists(&expected["outputs"]),
            logits: candle_core::safetensors::load(folder.join("expected.safetensors"), &Device::Cpu)
                .unwrap(),
            folder,
        }
    }

    pub fn model(&self) -> T5 {
        load::folder(&self.folder, &Device::Cpu).unwrap()
    }

    /// transformers' logits behind the start token and this many tokens of the prompt.
    pub fn expected(&self, prompt: usize, tokens: usize) -> Vec<f32> {
        self.logits[&format!("logits.{prompt}")].get(tokens).unwrap().to_vec1().unwrap()
    }
}

/// The largest difference; NaN where there is one.
pub fn off(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    got.iter()
        .zip(want)
        .map(|(got, want)| (got - want).abs())
        .fold(0.0, |most, off| if off > most || off.is_nan() { off } else { most })
}
