//! The command line.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};
use onekv_cost::{Method, Roofline};

use crate::cli::command::whole;
use crate::load::Shape;

/// Encode once, decode many: T5 with the prompts in the decoder (PID) or in the encoder (PIE).
///
/// Without options: a built-in dialogue, 30 slot prompts and built-in tiny models. Decoding is greedy: of the folder's
/// generation_config.json the start, ends, forced and suppressed ids are obeyed, and what is not is named.
#[derive(Parser)]
#[command(name = "t5", version, max_term_width = 100, after_help = JSON)]
pub struct Arguments {
    /// Hugging Face folder of a T5, mT5 or umT5: config.json, model.safetensors (or sharded) and, but for ByT5,
    /// tokenizer.json. Needs --input and --prompts, or --ids
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Text to ask about, without white space at its ends; repeat it for a batch of several inputs [default: a built-in
    /// dialogue]
    #[arg(long, value_name = "FILE")]
    pub input: Vec<PathBuf>,
    /// One prompt per line, without white space at its ends; empty lines are none [default: 30 built-in slots]
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<PathBuf>,
    /// Where the prompts go [default: pid with --model, else both]
    #[arg(long, value_enum)]
    pub mode: Option<Mode>,
    /// Read a folder as this version of transformers does, where they differ and the folder does not say
    #[arg(long, value_name = "4|5", value_parser = whole(4, 5), requires = "model")]
    pub transformers: Option<usize>,
    /// Most tokens to decode per prompt [default: 16; with --random: 10]
    #[arg(long, value_name = "N", value_parser = whole(1, 1 << 20), allow_negative_numbers = true)]
    pub max_new_tokens: Option<usize>,
    /// Most prompts to decode at once, over all inputs: as some end, the next enter, with their input. It bounds the
    /// memory, and changes outputs by rounding at most [default: all]
    #[arg(long, value_name = "N", value_parser = whole(1, 1 << 20), allow_negative_numbers = true)]
    pub batch_rows: Option<usize>,
    /// Token ids instead of text: {"input_ids": [..], "prompts": [[..], ..], "max_new_tokens": N}
    #[arg(long, value_name = "FILE", requires = "model", conflicts_with_all = ["input", "prompts", "mode"])]
    pub ids: Option<PathBuf>,
    /// With --ids: also write teacher-forced logits, one tensor `logits.I` per prompt
    #[arg(long, value_name = "FILE", requires = "ids")]
    pub logits: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Print which of five ways to have these outputs costs least and why, work and memory of each, from where on sharing pays,
    /// and where the prompts look like those that the method answers badly; then stop
    #[arg(long, conflicts_with = "ids")]
    pub explain: bool,
    /// What the device does at best, for predictions: TFLOP/s and GB/s, e.g. 800,4300 [default: a card's data sheet]
    #[arg(long, value_name = "T,G", value_delimiter = ',')]
    pub roofline: Vec<f64>,
    /// Where to compute; `auto` takes a card if there is one, and says so
    #[arg(long, value_enum, default_value_t = Device::Auto)]
    pub backend: Device,
    /// Type of weights, K/V and activations; sums and the residual stream are f32 [default: f32 on the CPU, bf16 on
    /// CUDA]. f16 overflows in large T5s
    #[arg(long, value_enum)]
    pub dtype: Option<Dtype>,
    /// Matrix products on CUDA: NVIDIA's library, or on Hopper, in bf16 and f16, kernels of this example that are made for
    /// decode steps [default: own where it is allowed, else cublaslt]
    #[arg(long, value_enum)]
    pub gemm: Option<Products>,
    /// CPU threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = whole(1, 1024), allow_negative_numbers = true)]
    pub threads: Option<usize>,
    /// Time random weights of this shape on random ids; EOS does not stop a row
    #[arg(long, value_enum, value_name = "SHAPE", conflicts_with_all = ["model", "input", "prompts"])]
    pub random: Option<Shape>,
    /// With --random: tokens of the input; several, like 512,1024, make a sweep
    #[arg(long, value_name = "N", default_value = "512", value_delimiter = ',', value_parser = whole(1, 1 << 16), requires = "random")]
    pub keys: Vec<usize>,
    /// With --random: number of prompts; several, like 1,8,64, make a sweep
    #[arg(long, value_name = "U", default_value = "30", value_delimiter = ',', value_parser = whole(1, 1 << 12), requires = "random")]
    pub prompt_count: Vec<usize>,
    /// With --random: tokens of each prompt
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = whole(0, 1 << 12), requires = "random")]
    pub prompt_tokens: usize,
    /// With --random: number of inputs, each with all prompts
    #[arg(long, value_name = "B", default_value_t = 1, value_parser = whole(1, 1 << 12), requires = "random")]
    pub input_count: usize,
    /// With --random: counted runs of each method, of which the fastest is told; before several there is one that takes
    /// the memory and records the steps
    #[arg(long, value_name = "N", default_value_t = 1, requires = "random", value_parser = whole(1, 1000))]
    pub runs: usize,
}

/// Behind the options in `--help`.
const JSON: &str = "\
--json prints {\"inputs\": [{\"input\": FILE, \"outputs\": [{\"prompt\": P, METHOD: ANSWER, ..}, ..]}, ..],
\"ignored\": {SETTING: VALUE, ..}, \"figures\": {METHOD: {..}, ..}}. METHOD is \"pid\", \"pie\" or \"pid-replicated\";
P and ANSWER are texts or, with --ids, lists of ids, that which ended an answer included. \"ignored\" has the settings
of the folder that transformers would obey. With --random there are figures only.";

impl Arguments {
    /// The methods that were asked for.
    pub fn methods(&self) -> &'static [Method] {
        let own = self.model.is_some();
        self.mode.unwrap_or(if own { Mode::Pid } else { Mode::Both }).methods()
    }

    /// Refuses a model of one's own without what it is asked.
    pub fn check(&self) -> Result<()> {
        let asked = self.ids.is_some() || (self.prompts.is_some() && !self.input.is_empty());
        match &self.model {
            Some(model) if !asked => bail!(
                "--model is {}, allowed: with --input and --prompts, or with --ids: what the model is asked",
                model.display()
            ),
            _ => Ok(()),
        }
    }

    /// What `--roofline` says.
    pub fn roofline(&self) -> Result<Option<Roofline>> {
        let [teraflops, gigabytes] = match self.roofline[..] {
            [] => return Ok(None),
            [teraflops, gigabytes] if teraflops > 0.0 && gigabytes > 0.0 => [teraflops, gigabytes],
            _ => bail!("--roofline is {:?}, allowed: two positive numbers, TFLOP/s and GB/s", self.roofline),
        };
        Ok(Some(Roofline { flops_per_s: teraflops * 1e12, bytes_per_s: gigabytes * 1e9 }))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Prompts in the decoder, over one encoding of the input; for models that were trained so
    Pid,
    /// Prompts in the encoder, each with an encoding of its own
    Pie,
    /// Prompts in the decoder, over a copy of the K/V each: what PID gains by sharing them
    PidReplicated,
    /// PID, then PIE
    Both,
    /// PID, PID over copies, PIE
    All,
}

impl Mode {
    pub fn methods(self) -> &'static [Method] {
        match self {
            Mode::Pid => &[Method::Pid],
            Mode::Pie => &[Method::Pie],
            Mode::PidReplicated => &[Method::PidReplicated],
            Mode::Both => &[Method::Pid, Method::Pie],
            Mode::All => &[Method::Pid, Method::PidReplicated, Method::Pie],
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Device {
    Auto,
    Cpu,
    Cuda,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    F32,
    Bf16,
    F16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Products {
    Cublaslt,
    Own,
}
