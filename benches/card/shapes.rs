//! What is measured: heads of well-known models, query rows, keys, inputs.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use onekv::plan::{DeviceFacts, Plan, PlanOptions};
use onekv::{DType, Keys, Problem, ProblemSpec};
use serde::{Deserialize, Serialize};

/// The cross-attention of one layer of a model.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Model {
    #[serde(skip_deserializing)]
    pub model: &'static str,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub softcap: Option<f32>,
}

/// By their names; the scripts that measure peers read them too.
static MODELS: LazyLock<BTreeMap<String, Model>> = LazyLock::new(|| {
    #[derive(Deserialize)]
    struct Shapes {
        models: BTreeMap<String, Model>,
    }
    let text = include_str!("../../tools/peers/shapes.json");
    serde_json::from_str::<Shapes>(text).expect("shapes.json has models").models
});

const BASE: &str = "t5-base";
const LARGE: &str = "t5-large";
const XL: &str = "flan-t5-xl";
/// The T5 with a head_dim of 128.
const T5_3B: &str = "t5-3b";
/// Whose heads FlashAttention-4's figures of split keys are of: its pull request 2415.
const LLAMA: &str = "llama-3-8b";
/// Without its softcap, which no kernel of PyTorch has: so that all systems do the same work.
const GEMMA: &str = "t5gemma-2b";
/// As the model is: what the softcap costs.
const GEMMA_SOFTCAP: &str = "t5gemma-2b, softcap";

/// `inputs` inputs of `keys` keys, each read by `rows` query rows.
#[derive(Clone, Copy, PartialEq, Serialize)]
pub struct Shape {
    #[serde(flatten)]
    pub model: Model,
    pub inputs: usize,
    pub rows: usize,
    pub keys: usize,
    /// K and V in e4m3 with a scale per head; else in the type of Q.
    #[serde(skip)]
    pub e4m3_kv: bool,
    /// Of Q and the output. Every sweep is in bf16.
    #[serde(serialize_with = "by_name", skip_serializing_if = "is_bf16")]
    pub dtype: DType,
}

fn by_name<S: serde::Serializer>(dtype: &DType, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(dtype)
}

fn is_bf16(dtype: &DType) -> bool {
    *dtype == DType::Bf16
}

/// How much is measured.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Sweep {
    /// Three small shapes: does it run at all?
    Smoke,
    /// The shapes that the project's targets speak of
    MustShow,
    /// T5-base and T5Gemma, two lengths, one and eight inputs
    First,
    /// Every model, U = 1 .. 2048, n = 128 .. 16384, b = 1, 8, 32
    Full,
    /// Three head_dims, for --every-plan
    Fit,
}

/// Every combination of its lists.
struct Grid {
    models: &'static [&'static str],
    inputs: &'static [usize],
    rows: &'static [usize],
    keys: &'static [usize],
}

const fn grid(
    models: &'static [&'static str],
    inputs: &'static [usize],
    rows: &'static [usize],
    keys: &'static [usize],
) -> Grid {
    Grid { models, inputs, rows, keys }
}

const ALL_ROWS: &[usize] = &[1, 4, 8, 16, 30, 64, 128, 256, 512, 2048];

const SMOKE: &[Grid] = &[grid(&[BASE], &[1], &[1, 6], &[160]), grid(&[GEMMA_SOFTCAP], &[1], &[5], &[64])];
const MUST_SHOW: &[Grid] = &[
    // Few rows on 67 MB of K/V and more, and how time grows with U.
    grid(&[BASE], &[8], &[1, 8, 16, 30, 64, 128], &[8192]),
    grid(&[LARGE], &[8], &[1, 8, 16, 30, 64, 128], &[4096]),
    grid(&[XL], &[8], &[1, 8, 16, 30, 64, 128], &[1024, 2048]),
    grid(&[GEMMA], &[8], &[1, 8, 16, 32, 64], &[8192]),
    // Small: two launches are what it costs.
    grid(&[BASE], &[1], &[1, 8, 16, 30], &[128, 512]),
    // Heads that do not fill a card, against the queries folded. PID against PIE at U = 30, n = 512, b = 8.
    grid(&[BASE, LARGE], &[1, 8], &[16, 30, 64, 128], &[512, 2048, 4096]),
    grid(&[XL], &[1, 4], &[16, 30, 64, 128], &[512, 2048]),
    // What FlashAttention-4 publishes of an H200; tools/report/targets.py has its times.
    grid(&[LLAMA], &[1], &[1], &[4096, 16384, 65536, 131_072]),
    grid(&[LLAMA], &[1], &[64], &[16384]),
    grid(&[LLAMA], &[1], &[128], &[32768]),
    grid(&[LLAMA], &[1], &[256], &[65536]),
    // Many rows.
    grid(&[BASE, T5_3B, GEMMA], &[8], &[2048], &[2048, 4096, 16384]),
];
const FIRST: &[Grid] = &[
    grid(&[BASE, GEMMA], &[1, 8], ALL_ROWS, &[512, 4096]),
    grid(&[GEMMA_SOFTCAP], &[1, 8], &[1, 30, 128], &[512, 4096]),
];
const FULL: &[Grid] = &[
    grid(&[BASE, LARGE, XL, GEMMA], &[1, 8, 32], ALL_ROWS, &[128, 256, 512, 1024, 2048, 4096, 8192, 16384]),
    grid(&[GEMMA_SOFTCAP], &[1, 8], &[1, 30, 128, 2048], &[512, 4096]),
];
/// Of `FULL`, what the peers measure too: each of theirs takes longer to set up, and there are many.
const FULL_PEERS: &[Grid] = &[
    grid(&[BASE, LARGE, XL, GEMMA], &[1, 8], &[1, 30, 128, 2048], &[128, 512, 2048, 8192]),
    grid(&[GEMMA_SOFTCAP], &[8], &[1, 30, 128, 2048], &[512, 4096]),
];
const FIT: &[Grid] = &[grid(&[BASE, T5_3B, GEMMA], &[1, 8], &[1, 16, 64, 128, 512], &[128, 512, 2048, 8192])];

impl Sweep {
    pub fn shapes(self) -> Vec<Shape> {
        expand(match self {
            Self::Smoke => SMOKE,
            Self::MustShow => MUST_SHOW,
            Self::First => FIRST,
            Self::Full => FULL,
            Self::Fit => FIT,
        })
    }

    /// Those that the peers measure.
    pub fn peers(self) -> Vec<Shape> {
        match self {
            Self::Full => expand(FULL_PEERS),
            Self::Fit => Vec::new(),
            _ => self.shapes(),
        }
    }
}

/// Each shape once.
fn expand(grids: &[Grid]) -> Vec<Shape> {
    let mut shapes = Vec::new();
    for grid in grids {
        for &name in grid.models {
            let model = Model { model: name, ..MODELS[name] };
            for &inputs in grid.inputs {
                for &keys in grid.keys {
                    for &rows in grid.rows {
                        let shape = Shape { model, inputs, rows, keys, e4m3_kv: false, dtype: DType::Bf16 };
                        if !shapes.contains(&shape) {
                            shapes.push(shape);
                        }
                    }
                }
            }
        }
    }
    shapes
}

impl Shape {
    fn problem(&self) -> onekv::Result<Problem> {
        let Model { heads, kv_heads, head_dim, softcap, .. } = self.model;
        Problem::new(ProblemSpec {
            heads,
            kv_heads,
            head_dim,
            scale: (head_dim as f32).sqrt().recip(),
            softcap,
            row_offsets: (0..=self.inputs).map(|b| b * self.rows).collect(),
            keys: Keys::Packed { offsets: (0..=self.inputs).map(|b| b * self.keys).collect() },
        })
    }

    /// A plan for it.
    pub fn plan(&self, facts: &DeviceFacts, options: &PlanOptions) -> onekv::Result<Plan> {
        let problem = self.problem()?;
        match self.e4m3_kv {
            true => Plan::with_e4m3_kv(&problem, self.dtype, facts, options),
            false => Plan::new(&problem, self.dtype, facts, options),
        }
    }

    /// The same prompts with a copy of K and V each: prompt-in-encoder.
    pub fn replicated(&self) -> Self {
        Self { inputs: self.inputs * self.rows, rows: 1, ..*self }
    }

    /// The same with K and V in e4m3.
    pub fn with_e4m3_kv(&self) -> Self {
        Self { e4m3_kv: true, ..*self }
    }

    /// The same with K and V in the type of Q.
    pub fn with_unquantized_kv(&self) -> Self {
        Self { e4m3_kv: false, ..*self }
    }

    /// Rows that read one K/V head of one input.
    pub fn folded_rows(&self) -> usize {
        self.rows * self.model.heads / self.model.kv_heads
    }

    /// Elements of one of K and V.
    pub fn kv_len(&self) -> usize {
        self.inputs * self.keys * self.model.kv_heads * self.model.head_dim
    }

    /// Elements of the queries, and of the output.
    pub fn q_len(&self) -> usize {
        self.inputs * self.rows * self.model.heads * self.model.head_dim
    }

    /// Bytes that must move: K, V with their scales, Q read once, the output written once.
    pub fn bytes(&self) -> usize {
        let size = self.dtype.size_bytes();
        let kv = if self.e4m3_kv { self.kv_len() + 4 * self.model.kv_heads } else { size * self.kv_len() };
        2 * kv + 2 * size * self.q_len()
    }

    /// Multiplications and additions of scores and values.
    pub fn flops(&self) -> f64 {
        4.0 * self.q_len() as f64 * self.keys as f64
    }
}
