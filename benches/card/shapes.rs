//! What is measured: heads of well-known models, query rows, keys, inputs.

use onekv::{Keys, Problem, ProblemSpec};
use serde::Serialize;

/// The cross-attention of one layer of a model.
#[derive(Clone, Copy, Serialize)]
pub struct Model {
    pub model: &'static str,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

const fn model(model: &'static str, heads: usize, kv_heads: usize, head_dim: usize) -> Model {
    Model { model, heads, kv_heads, head_dim }
}

const BASE: Model = model("t5-base", 12, 12, 64);
pub const MODELS: [Model; 4] =
    [BASE, model("t5-large", 16, 16, 64), model("flan-t5-xl", 32, 32, 64), model("t5gemma-2b", 8, 4, 256)];

/// `inputs` inputs of `keys` keys, each read by `rows` query rows.
#[derive(Clone, Copy, Serialize)]
pub struct Shape {
    #[serde(flatten)]
    pub model: Model,
    pub inputs: usize,
    pub rows: usize,
    pub keys: usize,
}

/// How much is measured.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Sweep {
    /// Three small shapes: does it run at all?
    Smoke,
    /// T5-base and T5Gemma, two lengths, one and eight inputs
    First,
    /// Every model, U = 1 .. 2048, n = 128 .. 16384, b = 1, 8, 32
    Full,
}

impl Sweep {
    pub fn shapes(self) -> Vec<Shape> {
        let all_rows = [1, 4, 8, 16, 30, 64, 128, 256, 512, 2048];
        let (models, inputs, rows, keys): (&[Model], &[usize], &[usize], &[usize]) = match self {
            Self::Smoke => (&[BASE], &[1], &[1, 30, 128], &[256]),
            Self::First => (&[BASE, MODELS[3]], &[1, 8], &all_rows, &[512, 4096]),
            Self::Full => (&MODELS, &[1, 8, 32], &all_rows, &[128, 256, 512, 1024, 2048, 4096, 8192, 16384]),
        };
        let mut shapes = Vec::new();
        for &model in models {
            for &inputs in inputs {
                for &keys in keys {
                    shapes.extend(rows.iter().map(|&rows| Shape { model, inputs, rows, keys }));
                }
            }
        }
        shapes
    }
}

impl Shape {
    pub fn problem(&self) -> onekv::Result<Problem> {
        let Model { heads, kv_heads, head_dim, .. } = self.model;
        Problem::new(ProblemSpec {
            heads,
            kv_heads,
            head_dim,
            scale: (head_dim as f32).sqrt().recip(),
            softcap: None,
            row_offsets: (0..=self.inputs).map(|b| b * self.rows).collect(),
            keys: Keys::Packed { offsets: (0..=self.inputs).map(|b| b * self.keys).collect() },
        })
    }

    /// The same prompts with a copy of K and V each: prompt-in-encoder.
    pub fn replicated(&self) -> Self {
        Self { inputs: self.inputs * self.rows, rows: 1, ..*self }
    }

    /// Elements of one of K and V.
    pub fn kv_len(&self) -> usize {
        self.inputs * self.keys * self.model.kv_heads * self.model.head_dim
    }

    /// Elements of the queries, and of the output.
    pub fn q_len(&self) -> usize {
        self.inputs * self.rows * self.model.heads * self.model.head_dim
    }

    /// Bytes that must move: K, V, Q read once, the output written once, of 16-bit elements.
    pub fn bytes(&self) -> usize {
        2 * (2 * self.kv_len() + 2 * self.q_len())
    }

    /// Multiplications and additions of scores and values.
    pub fn flops(&self) -> f64 {
        4.0 * self.q_len() as f64 * self.keys as f64
    }
}
