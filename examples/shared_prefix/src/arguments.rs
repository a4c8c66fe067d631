//! The command line, and what it asks.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, ValueEnum};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;
use t5::cli::command::whole;

use crate::config::{Config, Shape};
use crate::generate::{Method, Request};

/// Many prompts behind one document: a minimal Llama that prefills the document once and lets every prompt read its one K/V,
/// against what engines do that do not share it.
///
/// Without options: random weights of a small shape on random ids. Decoding is greedy; random ids have no end.
#[derive(Parser)]
#[command(name = "shared-prefix", version, max_term_width = 100, after_help = JSON)]
pub struct Arguments {
    /// Shape of random weights
    #[arg(long, value_enum, default_value_t = Shape::Small, conflicts_with = "model")]
    pub shape: Shape,
    /// Hugging Face folder of a Llama instead: config.json and model.safetensors (or sharded) in f32, f16 or bf16; RoPE
    /// as Llama 2 has it, or scaled as Llama 3.1 and later do
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Token ids instead of random ones: {"document": [..], "prompts": [[..], ..]}. The folder's eos_token_id ends answers
    #[arg(long, value_name = "FILE", conflicts_with_all = ["document_tokens", "prompts", "prompt_tokens"])]
    pub ids: Option<PathBuf>,
    /// Tokens of the document
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = whole(1, 1 << 20), allow_negative_numbers = true)]
    pub document_tokens: usize,
    /// Number of prompts
    #[arg(long, value_name = "U", default_value_t = 30, value_parser = whole(1, 1 << 12), allow_negative_numbers = true)]
    pub prompts: usize,
    /// Tokens of each prompt
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = whole(1, 1 << 16), allow_negative_numbers = true)]
    pub prompt_tokens: usize,
    /// The most tokens to generate for each prompt
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = whole(1, 1 << 20), allow_negative_numbers = true)]
    pub new_tokens: usize,
    /// How prompts find the document's K/V
    #[arg(long, value_enum, default_value_t = Mode::All)]
    pub mode: Mode,
    /// CPU threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = whole(1, 1024), allow_negative_numbers = true)]
    pub threads: Option<usize>,
    /// Counted runs of each mode, in turns, of which the fastest is told; before several there is one that does not count
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole(1, 1000), allow_negative_numbers = true)]
    pub runs: usize,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Behind the options in `--help`.
const JSON: &str = "\
--json prints {\"device\": D, \"threads\": N, \"shape\": S, \"document_tokens\": N, .., \"modes\": {MODE: {..}, ..}}. \
MODE is \"shared\", \"copies\" or \"recompute\". \"same_ids\" counts the prompts whose ids are those of the first mode. \
With --ids each mode has its \"outputs\", lists of ids, that which ended an answer included.";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// One K/V of the document, read by all prompts
    Shared,
    /// A copy of it in front of each prompt
    Copies,
    /// Each prompt behind a document of its own, prefilled again
    Recompute,
    /// All of them
    All,
}

impl Mode {
    pub fn methods(self) -> &'static [Method] {
        match self {
            Mode::Shared => &[Method::Shared],
            Mode::Copies => &[Method::Copies],
            Mode::Recompute => &[Method::Recompute],
            Mode::All => &[Method::Shared, Method::Copies, Method::Recompute],
        }
    }
}

impl Arguments {
    /// What a model of this configuration is asked.
    ///
    /// # Errors
    /// What cannot be read, or does not fit the model, by its field.
    pub fn request(&self, config: &Config) -> Result<Request> {
        let request = match &self.ids {
            None => {
                let mut rng = StdRng::seed_from_u64(2);
                let mut ids = |n| (0..n).map(|_| rng.random_range(0..config.vocab as u32)).collect();
                Request {
                    document: ids(self.document_tokens),
                    prompts: (0..self.prompts).map(|_| ids(self.prompt_tokens)).collect(),
                    new_tokens: self.new_tokens,
                    ends: Vec::new(),
                }
            }
            Some(path) => {
                let text = t5::read::text("ids", path)?;
                let json: Value = serde_json::from_str(&text)
                    .with_context(|| format!("in {}: not JSON", path.display()))?;
                let request = || {
                    let Some(prompts) = json["prompts"].as_array() else {
                        bail!("prompts is {}, allowed: a list of lists of ids", json["prompts"]);
                    };
                    let prompt = |(i, prompt)| ids(&format!("prompts[{i}]"), prompt);
                    Ok(Request {
                        document: ids("document", &json["document"])?,
                        prompts: prompts.iter().enumerate().map(prompt).collect::<Result<_>>()?,
                        new_tokens: self.new_tokens,
                        ends: config.ends.clone(),
                    })
                };
                request().with_context(|| format!("in {}", path.display()))?
            }
        };
        request.check(config)?;
        Ok(request)
    }
}

fn ids(name: &str, value: &Value) -> Result<Vec<u32>> {
    let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
    let ids = value.as_array().and_then(|ids| ids.iter().map(id).collect());
    ids.with_context(|| format!("{name} is {value}, allowed: a list of ids"))
}
