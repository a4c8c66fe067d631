//! What is asked: texts or ids, inputs and prompts.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use onekv_cost::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::arguments::Arguments;
use crate::config::Config;
use crate::generate::{Outputs, Task};
use crate::load::Shape;
use crate::read;
use crate::tokenize::Text;

pub enum Asked {
    /// Every prompt of every input.
    Texts {
        inputs: Vec<(PathBuf, String)>,
        prompts: Vec<String>,
    },
    Ids {
        file: PathBuf,
        request: Request,
    },
    /// Of random weights.
    Random {
        shape: Shape,
        tasks: Vec<Task>,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    input_ids: Vec<u32>,
    prompts: Vec<Vec<u32>>,
    max_new_tokens: usize,
}

impl Asked {
    pub fn read(arguments: &Arguments) -> Result<Self> {
        if let Some(file) = &arguments.ids {
            let request = serde_json::from_str(&read::text("request", file)?).with_context(|| {
                format!(
                    "{} is not a request, allowed: {{\"input_ids\": [..], \"prompts\": [[..], ..], \"max_new_tokens\": N}}",
                    file.display()
                )
            })?;
            return Ok(Self::Ids { file: file.clone(), request });
        }
        let inputs = match &arguments.input[..] {
            [] => vec![assets().join("dialogue.txt")],
            given => given.to_vec(),
        };
        let input = |path: PathBuf| Ok((path.clone(), read_text("input", &path)?.trim().to_string()));
        let prompts = arguments.prompts.clone().unwrap_or_else(|| assets().join("prompts.txt"));
        let prompts = read_text("prompts", &prompts)?;
        let prompts = prompts.lines().map(str::trim).filter(|line| !line.is_empty());
        Ok(Self::Texts {
            inputs: inputs.into_iter().map(input).collect::<Result<_>>()?,
            prompts: prompts.map(str::to_string).collect(),
        })
    }

    /// Which ids they are does not matter for the time; that they differ keeps the caches honest.
    pub fn random(arguments: &Arguments, shape: Shape, keys: usize, prompts: usize) -> Result<Self> {
        let vocab = shape.config()?.vocab;
        let id = |i: usize| (3 + i * 7919 % (vocab - 3)) as u32;
        let ids = |first: usize, tokens: usize| (first..first + tokens).map(id).collect();
        let tasks = (0..arguments.input_count).map(|input| Task {
            input: ids(input * 101, keys),
            prompts: (0..prompts).map(|p| ids(p * 31, arguments.prompt_tokens)).collect(),
        });
        Ok(Self::Random { shape, tasks: tasks.collect() })
    }

    /// The folder and config of the model that answers by `method`: the one that is given, or of those built in the one
    /// that was trained for it.
    pub fn model(&self, arguments: &Arguments, method: Method) -> Result<(PathBuf, Config)> {
        if let Self::Random { shape, .. } = self {
            return Ok((PathBuf::new(), shape.config()?));
        }
        let built_in = if method == Method::Pie { "pie" } else { "pid" };
        let folder = arguments.model.clone().unwrap_or_else(|| assets().join(built_in));
        if !folder.is_dir() {
            bail!("model is {}, allowed: a folder with config.json and model.safetensors", folder.display());
        }
        let mut config = Config::read(&folder)?;
        if arguments.max_new_tokens.is_some() || arguments.ids.is_some() {
            config.ignored.retain(|name, _| !["max_length", "max_new_tokens"].contains(&name.as_str()));
        }
        if !config.ignored.is_empty() && method == arguments.methods()[0] {
            let settings: Vec<String> = config.ignored.iter().map(|(k, v)| format!("{k} {v}")).collect();
            eprintln!("ignored: {} in {}; decoding is greedy", settings.join(", "), folder.display());
        }
        Ok((folder, config))
    }

    pub fn max_new_tokens(&self, arguments: &Arguments) -> usize {
        arguments.max_new_tokens.unwrap_or(match self {
            Self::Texts { .. } => 16,
            Self::Ids { request, .. } => request.max_new_tokens,
            Self::Random { .. } => 10,
        })
    }

    /// The folder's tokenizer, where texts are asked.
    pub fn tokenizer(&self, folder: &Path, config: &Config) -> Result<Option<Text>> {
        matches!(self, Self::Texts { .. }).then(|| Text::read(folder, config)).transpose()
    }

    /// As ids, in the order of the answers. With the prompt in the encoder each is a text of its own, before the input.
    pub fn tasks(&self, text: Option<&Text>, method: Method) -> Result<Vec<Task>> {
        let (inputs, prompts, text) = match (self, text) {
            (Self::Texts { inputs, prompts }, Some(text)) => (inputs, prompts, text),
            (Self::Random { tasks, .. }, _) => return Ok(tasks.clone()),
            (Self::Ids { request, .. }, None) => {
                return Ok(vec![Task { input: request.input_ids.clone(), prompts: request.prompts.clone() }]);
            }
            _ => bail!("texts are asked with a tokenizer, and ids without"),
        };
        let mut tasks = Vec::new();
        for (_, input) in inputs {
            if method == Method::Pie {
                for prompt in prompts {
                    let input = text.input(&format!("{prompt} {input}"))?;
                    tasks.push(Task { input, prompts: vec![Vec::new()] });
                }
            } else {
                let prompts = prompts.iter().map(|prompt| text.prompt(prompt)).collect::<Result<_>>()?;
                tasks.push(Task { input: text.input(input)?, prompts });
            }
        }
        Ok(tasks)
    }

    /// Outputs as they were asked for: texts, or ids.
    pub fn answers(&self, text: Option<&Text>, outputs: &Outputs) -> Result<Vec<Value>> {
        let answer = |ids: &Vec<u32>| match text {
            Some(text) => Ok(json!(text.decode(ids)?)),
            None => Ok(json!(ids)),
        };
        outputs.iter().flatten().map(answer).collect()
    }

    /// Inputs and prompts as they were given.
    pub fn names(&self) -> (Vec<PathBuf>, Vec<Value>) {
        match self {
            Self::Texts { inputs, prompts } => (
                inputs.iter().map(|(path, _)| path.clone()).collect(),
                prompts.iter().map(|prompt| json!(prompt)).collect(),
            ),
            Self::Random { .. } => (Vec::new(), Vec::new()),
            Self::Ids { file, request } => {
                (vec![file.clone()], request.prompts.iter().map(|ids| json!(ids)).collect())
            }
        }
    }

    /// The prompts, where they are texts.
    pub fn prompt_texts(&self) -> &[String] {
        if let Self::Texts { prompts, .. } = self { prompts } else { &[] }
    }

    /// What stands above the answers: the file's name, of the built-in dialogue its text.
    pub fn heading(&self, arguments: &Arguments, input: usize) -> String {
        match self {
            Self::Texts { inputs, .. } if arguments.input.is_empty() => {
                inputs[input].1.replace(" user :", "\n  user :").replace(" system :", "\n  system :")
            }
            _ => self.names().0[input].display().to_string(),
        }
    }
}

/// What is built in.
fn assets() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets")
}

/// A text file, which must hold something.
fn read_text(what: &str, path: &Path) -> Result<String> {
    let text = read::text(what, path)?;
    if text.trim().is_empty() {
        bail!("{what} {} is empty, allowed: at least one word", path.display());
    }
    Ok(text)
}
