//! What every method answered, printed as tables or JSON.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use onekv_cost::Method;
use safetensors::tensor::TensorView;
use serde_json::{Map, Value, json};

use super::arguments::Arguments;
use super::asked::Asked;
use super::explain::Prediction;
use super::report::{Figures, figures_table, outputs_table};

/// The methods that ran, with what they gave, and those that did not.
#[derive(Default)]
pub struct Answers {
    /// Answers in the order of inputs, and within them of prompts.
    pub ran: Vec<(Figures, Vec<Value>)>,
    /// Why they did not run.
    pub refused: Vec<(Method, String)>,
    pub prediction: Option<Prediction>,
    /// Settings of the models' folders that are not obeyed.
    pub ignored: Map<String, Value>,
}

impl Answers {
    /// An error where nothing could run.
    fn some_ran(&self) -> Result<()> {
        let refused = self.refused.first().filter(|_| self.ran.is_empty());
        refused.map_or(Ok(()), |(_, why)| bail!("{why}"))
    }

    fn figures(&self, device: &str) -> Value {
        let mut figures = Map::new();
        let prediction = self.prediction.as_ref().map_or(Value::Null, Prediction::json);
        let ran = self.ran.iter().map(|(f, _)| (f.method, f.json()));
        let refused = self.refused.iter().map(|(method, why)| (*method, json!({ "error": why })));
        for (method, mut json) in ran.chain(refused) {
            json["device"] = json!(device);
            json["predicted"] = prediction.clone();
            figures.insert(method.name().to_lowercase(), json);
        }
        Value::Object(figures)
    }

    fn print(&self, device: &str) {
        let figures: Vec<&Figures> = self.ran.iter().map(|(figures, _)| figures).collect();
        for Figures { method, .. } in &figures {
            println!("{}: {}", method.name(), method.meaning());
        }
        println!("{}", figures_table(&figures));
        for (method, why) in &self.refused {
            println!("{} was not run: {why}", method.name());
        }
        println!("{device}");
    }

    fn explain(&self, arguments: &Arguments, device: &str) -> Result<()> {
        let prediction = self.prediction.as_ref().context("nothing was predicted")?;
        if arguments.json {
            println!("{:#}", prediction.json());
        } else {
            prediction.print();
            println!("{device}");
        }
        Ok(())
    }

    /// Prints every answer, then figures.
    pub fn tell(&self, arguments: &Arguments, asked: &Asked, device: &str) -> Result<()> {
        if arguments.explain {
            return self.explain(arguments, device);
        }
        self.some_ran()?;
        let (inputs, prompts) = asked.names();
        // Answers of an input, by method.
        let of_input = |i: usize| {
            let range = i * prompts.len()..(i + 1) * prompts.len();
            self.ran.iter().map(move |(figures, answers)| (figures.method.name(), &answers[range.clone()]))
        };
        if arguments.json {
            let line = |i, p: usize| {
                let mut line = json!({ "prompt": prompts[p] });
                of_input(i).for_each(|(name, answers)| line[name.to_lowercase()] = answers[p].clone());
                line
            };
            let outputs = |i| (0..prompts.len()).map(|p| line(i, p)).collect::<Value>();
            let inputs = (0..inputs.len()).map(|i| json!({ "input": inputs[i], "outputs": outputs(i) }));
            let (inputs, figures) = (inputs.collect::<Value>(), self.figures(device));
            println!("{:#}", json!({ "inputs": inputs, "ignored": self.ignored, "figures": figures }));
            return Ok(());
        }
        for i in 0..inputs.len() {
            println!("{}\n", asked.heading(arguments, i));
            println!("{}\n", outputs_table(&prompts, &of_input(i).collect::<Vec<_>>()));
        }
        if arguments.model.is_none() && self.ran.iter().any(|(f, _)| f.method == Method::Pie) {
            println!("The built-in models are tiny, and the PIE one answers worse: see tools/tiny-t5.");
        }
        self.print(device);
        Ok(())
    }
}

/// Prints figures at every length of the input and number of prompts, which `answer` takes.
pub fn tell_sweep(
    arguments: &Arguments,
    device: &str,
    mut answer: impl FnMut(usize, usize) -> Result<Answers>,
) -> Result<()> {
    let points = arguments.keys.iter().flat_map(|n| arguments.prompt_count.iter().map(move |u| (*n, *u)));
    let (points, mut reports): (Vec<(usize, usize)>, _) = (points.collect(), Vec::new());
    for &(keys, prompts) in &points {
        if points.len() > 1 && !arguments.json {
            println!("{keys} input tokens, {prompts} prompts");
        }
        let answers = answer(keys, prompts)?;
        if points.len() == 1 {
            answers.some_ran()?;
        }
        if arguments.explain {
            answers.explain(arguments, device)?;
        } else if arguments.json {
            reports.push(answers.figures(device));
        } else {
            answers.print(device);
        }
    }
    match &reports[..] {
        [] => (),
        [report] => println!("{report:#}"),
        reports => println!("{:#}", json!(reports)),
    }
    Ok(())
}

/// Writes logits of every prompt, `[tokens, vocab]`, as safetensors.
pub fn write_logits(path: &Path, logits: &[Vec<f32>], vocab: usize) -> Result<()> {
    let mut tensors = Vec::new();
    for (i, logits) in logits.iter().enumerate() {
        let (shape, bytes) = (vec![logits.len() / vocab, vocab], bytemuck::cast_slice(logits));
        tensors.push((format!("logits.{i}"), TensorView::new(safetensors::Dtype::F32, shape, bytes)?));
    }
    safetensors::serialize_to_file(tensors, None, path)
        .with_context(|| format!("cannot write {}", path.display()))
}
