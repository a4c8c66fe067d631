//! `docs/method.md`: where prompt-in-decoder holds and where it breaks, of `results/method`.

mod data;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use t5::advice::ways::Way;
use t5::cost::{Method, ModelShape, Workload, breakdown};

use super::data::t5_shape;
use super::page::{Files, picture, short};
use crate::peers::median;
use crate::plot::{Figure, Kind, Panel, Series};
use data::{Costs, DecoderOnly, Quality, Run, Size, TaskCost, WayCost};

pub const PAGE: &str = "docs/method.md";
const CURVES: &str = "results/method/learning.svg";
const SIZES: &str = "results/method/sizes.svg";
const COSTS: &str = "results/method/cost.svg";

/// The paper's tasks, by their names in the files.
const PAPERS: [&str; 3] = ["dialogue", "summary", "qa"];
/// The first of them again, but for a bound of the texts' length.
const LONG: &str = "long dialogues";

/// Tasks that break an assumption: name, the assumption, and what is asked.
const BROKEN: [(&str, &str, &str); 6] = [
    (
        "counting",
        "One reading of the input serves every prompt",
        "Ten things, and a prompt for each colour: how many have it? With the prompt in the encoder the input can be read for that \
         colour alone.",
    ),
    (
        "one line",
        "A prompt asks for much of the input",
        "A text of 28 sentences, and four prompts that need one sentence each. With the prompt in the encoder all the rest can be \
         left out.",
    ),
    (
        "negation",
        "A prompt names what it asks for",
        "Two foods, days, colours and friends; each prompt names the kind and the one that is not meant: \"food not rice\".",
    ),
    (
        "choice",
        "Prompts are independent of each other",
        "Two or three offers, of which any may be booked; in training it is one at random. Every slot by itself may be right, but \
         what is booked must be of one offer. In order: the offer is asked first, and its letter stands in the prompts of the \
         other slots. Sampled: tokens drawn from the softmax in place of the likeliest.",
    ),
    (
        "order",
        "The task falls apart into prompts",
        "Six places in the order of a text, asked one by one: \"place 4\". In one sequence each place follows the one before. A mark \
         before the input: T5's encoder knows how far tokens are from each other, not where they stand. PIE can count from its \
         prompt, PID from the mark.",
    ),
    (
        "long prompts",
        "The input is longer than the prompts",
        "The input says in 24 words whose each colour is; each prompt is a text of 1 to 25 sentences, of which one names a colour. Whose \
         is it?",
    ),
];

/// Metrics of a run, and what they are called.
const METRICS: [(&str, &str); 7] = [
    ("accuracy", "answers right"),
    ("answered", "of those with an answer in the input"),
    ("joint", "all of an input right"),
    ("rouge_l", "ROUGE-L"),
    ("joint_sampled", "all right, sampled"),
    ("in_order", "all right, in order"),
    ("in_order_sampled", "all right, in order, sampled"),
];

/// Ways, as in the files of trainings, and what they are called: the two that every task has, one more that is asked at several sizes,
/// and the others.
const WAYS: [(&str, &str); 6] = [
    ("pid", "PID"),
    ("pie", "PIE"),
    ("marked", "PID, a mark before the input"),
    ("unmarked", "PIE, prompts without a mark at their end"),
    ("one", "one sequence"),
    ("decoders", "separate decoders"),
];

const HEAD: &str = "\
# Where the method holds and where it breaks

<!-- Made by `cargo xtask report` from results/method. Do not edit. -->

One input, many prompts. PIE: each prompt in the encoder with an input of its own. PID: the input encoded once, the prompts in the
decoder ([arXiv 2403.13112](https://arxiv.org/abs/2403.13112)). What is right and what is not was measured on tiny T5s that
`cargo xtask method quality` trains on generated texts ([tools/method](../tools/method)); what it costs on T5-base's shape with random
weights, by `cargo xtask method cost`. Tiny models on generated texts show what a way can learn and cannot; they do not say how well a
large pre-trained model does.
";

const EXPLAIN: &str = "
## Which way for yours

```
cargo run --release --package t5 -- --explain --model DIR --input FILE --prompts FILE
cargo run --release --package t5 -- --explain --random t5-base --keys 1024 --prompt-count 8 --prompt-tokens 12 --max-new-tokens 32
```

prints FLOPs, bytes, memory and, with a card or `--roofline TFLOPS,GB_PER_S`, the least time of each of the five ways for your shape,
which is the cheapest and why, and where your prompts look like one of the tasks above that break an assumption.
";

/// The page and its figures.
pub fn files(folder: &Path, files: &mut Files) -> Result<()> {
    let Some(quality) = data::quality(&folder.join("quality.json"))? else { return Ok(()) };
    let costs = data::costs(&folder.join("cost.json"))?;
    let mut page = HEAD.to_owned();
    page += &papers(&quality, costs.as_ref())?;
    files.insert(CURVES.to_owned(), curves(&quality).svg()?);
    page += &broken(&quality)?;
    if let Some(figure) = sizes_figure(&quality) {
        files.insert(SIZES.to_owned(), figure.svg()?);
    }
    if let Some(costs) = &costs {
        page += &ways(costs)?;
        files.insert(COSTS.to_owned(), cost_figure(costs)?.svg()?);
    }
    if let Some(decoder_only) = data::decoder_only(&folder.join("decoder-only.json"))? {
        page += &behind_a_document(&decoder_only)?;
    }
    page += "
## Bytes, counted

Intensity against the number of prompts, from counters of the virtual GPU and of callgrind beside the paper's (1/U + 1/n)^-1, for one
K/V, copies, PIE and a shared prefix: [performance.md](performance.md#intensity). Where PID's gain begins and ends in time:
[performance.md](performance.md#where-sharing-pays-and-where-not).
";
    page += EXPLAIN;
    files.insert(PAGE.to_owned(), page);
    Ok(())
}

/// Mean over seeds, and the least and the most where they differ; a share of 1.
fn share(runs: &[&Run], metric: &str) -> Option<String> {
    let Percent { mean, least, most, .. } = Percent::of(runs, metric)?;
    Some(match least == most {
        true => format!("{mean:.1} %"),
        false => format!("{mean:.1} % ({least:.1} to {most:.1})"),
    })
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// A metric of each seed, in percent.
fn values(runs: &[&Run], metric: &str) -> Vec<f64> {
    runs.iter().filter_map(|run| Some(100.0 * run.held_out.get(metric)?)).collect()
}

/// A metric over seeds.
struct Percent {
    seeds: usize,
    mean: f64,
    least: f64,
    most: f64,
}

impl Percent {
    fn of(runs: &[&Run], metric: &str) -> Option<Self> {
        let values = values(runs, metric);
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(0.0, f64::max);
        Some(Self { seeds: values.len(), mean: mean(&values)?, least, most })
    }

    /// By how many points of a percentage it is better or worse than another, if every seed is so, of two at least.
    fn against(&self, other: &Self) -> Option<String> {
        let points = (self.mean - other.mean).abs();
        match self.seeds.min(other.seeds) > 1 {
            true if self.most < other.least => Some(format!("loses by {points:.1} points")),
            true if self.least > other.most => Some(format!("wins by {points:.1} points")),
            _ => None,
        }
    }
}

/// Of the fewest steps that a task was trained for: what can be compared.
fn runs<'a>(quality: &'a Quality, task: &str, way: &str) -> Vec<&'a Run> {
    let of_task = || quality.runs.iter().filter(|run| run.task == task);
    let steps = of_task().map(|run| run.steps).min();
    of_task().filter(|run| run.way == way && Some(run.steps) == steps).collect()
}

/// Those that were trained longer.
fn longer<'a>(quality: &'a Quality, task: &str, way: &str) -> Vec<&'a Run> {
    let steps = quality.runs.iter().filter(|run| run.task == task).map(|run| run.steps).min().unwrap_or(0);
    quality.runs.iter().filter(|run| run.task == task && run.way == way && run.steps > steps).collect()
}

/// T5-base in f32.
fn base() -> Result<ModelShape> {
    t5_shape("t5-base", "f32").context("no such model")
}

/// FLOPs of a text's answers on T5-base, by formula, with the task's lengths.
fn flops(quality: &Quality, task: &str, way: &str) -> Result<f64> {
    let task = quality.tasks.get(task).with_context(|| format!("quality.json: tasks lacks {task}"))?;
    let tokens = |mean: f64| mean.round() as u64;
    let work = Workload {
        inputs: 1,
        prompts: task.prompts as u64,
        keys: tokens(task.input_tokens),
        prompt_tokens: tokens(task.prompt_tokens),
        new_tokens: tokens(task.new_tokens),
    };
    let way = match way {
        "pie" | "unmarked" => Way::Prompts(Method::Pie),
        "one" => Way::OneSequence,
        "decoders" => Way::SeparateDecoders,
        _ => Way::Prompts(Method::Pid),
    };
    Ok(way.cost(&base()?, &work).flops as f64)
}

/// A line for each way that the tasks were learned, with the metrics that any of them has.
fn quality_table(quality: &Quality, tasks: &[&str]) -> Result<String> {
    let of_tasks = quality.runs.iter().filter(|run| tasks.contains(&run.task.as_str()));
    let found: Vec<&Run> = of_tasks.collect();
    let metrics: Vec<_> = METRICS
        .iter()
        .filter(|(metric, _)| found.iter().any(|run| run.held_out.contains_key(*metric)))
        .collect();
    let mut text = String::from("\n| task | way | seeds |");
    metrics.iter().for_each(|(_, name)| text += &format!(" {name} |"));
    text += &format!(" FLOPs, PID = 1 |\n|{}\n", " --- |".repeat(4 + metrics.len()));
    for &task in tasks {
        for (way, name) in WAYS {
            for (runs, more) in [(runs(quality, task, way), false), (longer(quality, task, way), true)] {
                let Some(first) = runs.first() else { continue };
                let steps = if more { format!(", {} steps", first.steps) } else { String::new() };
                write!(text, "| {task} | {name}{steps} | {} |", runs.len())?;
                for (metric, _) in &metrics {
                    write!(text, " {} |", share(&runs, metric).unwrap_or_default())?;
                }
                writeln!(text, " {} |", short(flops(quality, task, way)? / flops(quality, task, "pid")?))?;
            }
        }
        let nothing = quality.tasks.get(task).and_then(|task| task.always_nothing.as_ref());
        if let Some(nothing) = nothing {
            write!(text, "| {task} | always \"nothing\" | | {:.1} % |", 100.0 * nothing.accuracy)?;
            text += &(" |".repeat(metrics.len()) + "\n");
        }
    }
    Ok(text)
}

fn papers(quality: &Quality, costs: Option<&Costs>) -> Result<String> {
    let first = quality.runs.first().context("quality.json has no runs")?;
    let packages: Vec<String> =
        quality.packages.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let mut text = format!(
        "\n## The paper's three tasks\n\nDialogue states, a record in four sections, and questions on a text. One T5 of {:.2} million \
         parameters for each task and way, from the same start, on the\nsame texts, as many steps: each of {} texts with up to {} \
         prompts. Evaluated on {} texts that were not trained on; greedy. Mean over seeds, in brackets the\nleast and the most. {}; {}.\n",
        first.parameters as f64 / 1e6,
        quality.examples_of_a_step,
        quality.prompts_of_an_example,
        quality.evaluated_examples,
        packages.join(", "),
        quality.date,
    );
    text += &quality_table(quality, &PAPERS)?;
    text += &picture("Loss of the answers against steps", CURVES);
    text += "\nPIE is a rival here. The PIE model that is built into the example is none, and it is not for want of a mark: here prompts end in \
             \" ?\", and where they\ndo not (qa, above), PIE learns as well.\n";
    if !runs(quality, LONG, "pie").is_empty() {
        text += "Dialogues are longer there, and those of any length take PIE more steps:\n";
        text += &quality_table(quality, &[LONG])?;
    }
    text += "\n| task | U | input tokens | prompt tokens | new tokens | steps |\n| --- | --- | --- | --- | --- | --- |\n";
    for (name, task) in &quality.tasks {
        let steps = runs(quality, name, "pid").first().map_or(0, |run| run.steps);
        let data::Task { prompts, input_tokens, prompt_tokens, new_tokens, .. } = task;
        writeln!(text, "| {name} | {prompts} | {input_tokens} | {prompt_tokens} | {new_tokens} | {steps} |")?;
    }
    let Some(costs) = costs else { return Ok(text) };
    write!(
        text,
        "\nIn the paper's form, on {}'s shape with random weights, {}, {} threads, f32, {}. FLOPs and bytes by formula, the fewest \
         bytes that must\npass through memory; seconds and the process's largest memory measured; right answers from the table \
         above.\n\n| task | way | answers right | GFLOP | GB | seconds | memory, GB |\n| --- | --- | --- | --- | --- | --- | --- |\n",
        costs.shape, costs.machine, costs.threads, costs.date
    )?;
    for task in costs.tasks.iter().filter(|task| PAPERS.contains(&task.task.as_str())) {
        let pid = task.way("PID")?;
        for (key, name) in &WAYS[..2] {
            let way = task.way(name)?;
            let times = |own: f64, pid: f64| {
                if *key == "pid" { String::new() } else { format!(" ({}x)", short(own / pid)) }
            };
            let flops = |way: &WayCost| way.flops.unwrap_or_default() as f64;
            let bytes = |way: &WayCost| way.bytes.unwrap_or_default() as f64;
            let memory = |way: &WayCost| way.peak_bytes.unwrap_or_default() as f64;
            writeln!(
                text,
                "| {}, U = {}, n = {} | {name} | {} | {}{} | {}{} | {}{} | {}{} |",
                task.task,
                task.prompts,
                task.keys,
                share(&runs(quality, &task.task, key), "accuracy").unwrap_or_default(),
                short(flops(way) * 1e-9),
                times(flops(way), flops(pid)),
                short(bytes(way) * 1e-9),
                times(bytes(way), bytes(pid)),
                short(way.median()),
                times(way.of(pid), 1.0),
                short(memory(way) * 1e-9),
                times(memory(way), memory(pid)),
            )?;
        }
    }
    Ok(text)
}

fn broken(quality: &Quality) -> Result<String> {
    let mut text = String::from(
        "\n## Assumptions, broken one at a time\n\nFLOPs are by formula, on T5-base's shape with the lengths of these texts.\n",
    );
    if BROKEN.iter().any(|(task, ..)| sizes(quality, task).is_some()) {
        text += &picture("Wrong answers against the size of what a text holds", SIZES);
    }
    for (task, assumption, asked) in BROKEN {
        if !quality.runs.iter().any(|run| run.task == task) {
            continue;
        }
        write!(text, "\n### {}{}\n\nBroken: {assumption}. {asked}\n", task[..1].to_uppercase(), &task[1..])?;
        text += &verdict(quality, task);
        text += &quality_table(quality, &[task])?;
        text += &sizes_table(quality, task);
        let data::Example { text: input, prompts, answers } =
            &quality.tasks.get(task).with_context(|| format!("quality.json: tasks lacks {task}"))?.example;
        let (prompt, answer) = prompts.first().zip(answers.first()).context("an example without prompts")?;
        write!(text, "\nFor instance: \"{input}\" -- \"{prompt}\" -- \"{answer}\"\n")?;
        if task == "long prompts" {
            text += &long_prompts()?;
        }
    }
    Ok(text)
}

/// Where PID stands against PIE, in points of a percentage, if their seeds can be told apart; and what the other ways get.
fn verdict(quality: &Quality, task: &str) -> String {
    let of = |way: &str, metric: &str| Percent::of(&runs(quality, task, way), metric);
    let metric = if of("pid", "accuracy").is_some() { "accuracy" } else { "joint" };
    let (Some(pid), Some(pie)) = (of("pid", metric), of("pie", metric)) else { return String::new() };
    let outcome = pid.against(&pie).unwrap_or("and PIE cannot be told apart".to_owned());
    let mut text = format!("\n**PID {outcome}");
    text += &format!(": {:.1} % against {:.1} %.**", pid.mean, pie.mean);
    let others = [("in one sequence", of("one", metric)), ("PID asked in order", of("pid", "in_order"))];
    let others: Vec<String> =
        others.into_iter().filter_map(|(name, of)| Some(format!("{name} {:.1} %", of?.mean))).collect();
    if !others.is_empty() {
        text += &format!(" Otherwise: {}.", others.join(", "));
    }
    text + "\n"
}

/// What the sizes of a task count, and each size with the name of its runs, by size: of a task that has several.
fn sizes<'a>(quality: &'a Quality, task: &str) -> Option<(&'a str, Vec<(&'a str, usize)>)> {
    let sized = quality.tasks.iter().filter_map(|(name, of)| Some((name.as_str(), of.size.as_ref()?)));
    let mut sizes: Vec<(&str, &Size)> = sized.filter(|(_, size)| size.of == task).collect();
    sizes.sort_by_key(|(_, size)| size.value);
    let counts = sizes.get(1)?.1.counts.as_str();
    Some((counts, sizes.into_iter().map(|(name, size)| (name, size.value)).collect()))
}

/// Answers right by each seed, at each size and after as many steps.
fn sizes_table(quality: &Quality, task: &str) -> String {
    let Some((counts, sizes)) = sizes(quality, task) else { return String::new() };
    let trained = |way: &str| sizes.iter().any(|(name, _)| !runs(quality, name, way).is_empty());
    let ways: Vec<_> = WAYS[..3].iter().filter(|(way, _)| trained(way)).collect();
    let names: Vec<&str> = ways.iter().map(|(_, name)| *name).collect();
    let mut text = format!("\nBy the number of {counts}, answers right of each seed, %:\n");
    text += &format!("\n| {counts} | steps | {} | PID |\n", names.join(" | "));
    text += &format!("|{}\n", " --- |".repeat(3 + ways.len()));
    for (name, size) in sizes {
        for of in [runs, longer] {
            let of = |way: &str| of(quality, name, way);
            let Some(Run { steps, .. }) = ways.iter().find_map(|(way, _)| of(way).first().copied()) else {
                continue;
            };
            let cell = |(way, _): &&(&str, &str)| {
                let right = values(&of(way), "accuracy").into_iter().map(|right| format!("{right:.1}"));
                right.collect::<Vec<_>>().join(", ")
            };
            let cells: Vec<String> = ways.iter().map(cell).collect();
            let [pid, pie] = ["pid", "pie"].map(|way| Percent::of(&of(way), "accuracy"));
            let outcome = pid.zip(pie).and_then(|(pid, pie)| pid.against(&pie)).unwrap_or_default();
            text += &format!("| {size} | {steps} | {} | {outcome} |\n", cells.join(" | "));
        }
    }
    text
}

/// By formula: what PID takes of PIE's work as the prompts grow.
fn long_prompts() -> Result<String> {
    let model = base()?;
    let mut text = String::from(
        "\nWhat long prompts leave of the gain: PID's FLOPs and bytes over PIE's, by formula on T5-base, an input of 64 tokens, 10 new \
         tokens. Under 1 PID takes\nless.\n\n| prompt tokens |",
    );
    let (lengths, counts) = ([4, 64, 512, 4096], [1, 2, 8, 32]);
    counts.iter().for_each(|prompts| text += &format!(" U = {prompts}: FLOPs, bytes |"));
    text += &format!("\n|{}\n", " --- |".repeat(1 + counts.len()));
    for prompt_tokens in lengths {
        write!(text, "| {prompt_tokens} |")?;
        for prompts in counts {
            let work = Workload { inputs: 1, prompts, keys: 64, prompt_tokens, new_tokens: 10 };
            let [pid, pie] =
                [Method::Pid, Method::Pie].map(|method| breakdown(method, &model, &work).total());
            let of = |pid: u64, pie: u64| short(pid as f64 / pie as f64);
            write!(text, " {}, {} |", of(pid.flops, pie.flops), of(pid.bytes, pie.bytes))?;
        }
        text.push('\n');
    }
    Ok(text)
}

/// Every way at every shape.
fn ways(costs: &Costs) -> Result<String> {
    let mut text = format!(
        "\n## Ways to have many outputs\n\n{}'s shape, random weights, f32, {}, {} threads, {}; Hugging Face's T5 is that of \
         transformers {}.\nAll take turns; seconds are the median of up to {} runs (fewer, where they took more than 60 s together), in brackets how many times as long as PID in the \
         same turn.\n\n- PID-replicated: encoded once, the K/V copied for each prompt, as engines do it.\n- HF, encoded once, batch 1 \
         broadcast: K/V of one batch entry for all prompts; expanded: the encoder's output for each, which project it again.\n- one \
         sequence: one prompt that asks for everything, answered one behind the other.\n- separate decoders: reckoned from one that \
         was run; the K/V projections of the others are left out, and so is their memory.\n",
        costs.shape,
        costs.machine,
        costs.threads,
        costs.date,
        costs.transformers,
        costs.tasks.first().and_then(|task| task.ways.first()).map_or(0, |way| way.seconds.len()),
    );
    text += &picture("Seconds against FLOPs", COSTS);
    let names: Vec<&str> =
        costs.tasks.first().context("cost.json has no tasks")?.ways.iter().map(|w| w.way.as_str()).collect();
    text += "\n| way |";
    for TaskCost { task, prompts, keys, prompt_tokens, new_tokens, .. } in &costs.tasks {
        write!(text, " {task}: U = {prompts}, n = {keys}, {prompt_tokens} + {new_tokens} tokens |")?;
    }
    text += &format!(" memory, GB |\n|{}\n", " --- |".repeat(2 + costs.tasks.len()));
    for name in names {
        write!(text, "| {name} |")?;
        for task in &costs.tasks {
            let (way, pid) = (task.way(name)?, task.way("PID")?);
            write!(text, " {} s ({}x) |", short(way.median()), short(way.of(pid)))?;
        }
        let of_task = |task: &TaskCost| Ok(task.way(name)?.peak_bytes);
        let memory: Vec<Option<u64>> = costs.tasks.iter().map(of_task).collect::<Result<_>>()?;
        let memory: Vec<String> =
            memory.into_iter().flatten().map(|bytes| short(bytes as f64 * 1e-9)).collect();
        writeln!(text, " {} |", memory.join(", "))?;
    }
    for task in &costs.tasks {
        let (pid, pie) = (task.way("PID")?, task.way("PIE")?);
        if pie.flops > pid.flops && pie.of(pid) < 1.0 {
            writeln!(
                text,
                "\n{}: by formula PIE takes more FLOPs than PID, and yet less time: {}x. The example's decoder is slower with a long \
                 prompt than its encoder, which `--explain` does not know.",
                task.task,
                short(pie.of(pid))
            )?;
        }
    }
    text += "\nWhat models answer that were trained in one sequence or with separate decoders: the tables above.\n";
    Ok(text)
}

fn behind_a_document(results: &DecoderOnly) -> Result<String> {
    let DecoderOnly {
        machine,
        date,
        threads,
        shape,
        document_tokens,
        prompts,
        prompt_tokens,
        new_tokens,
        modes,
    } = results;
    let mut text = format!(
        "\n## Decoder-only: many prompts behind one document\n\nA causal model has no cross-attention, but prompts behind one document \
         share its K/V: attention over the document is onekv's, that over each\nprompt and answer its own, and the two are merged by \
         their LSE ([examples/shared_prefix](../examples/shared_prefix)). {shape}, random weights, f32, {machine}, {threads} threads,\n\
         {date}: a document of {document_tokens} tokens, {prompts} prompts of {prompt_tokens}, {new_tokens} new tokens each. shared: one \
         K/V of the document; copies: prefilled once, copied in front of\neach prompt; recompute: every prompt with a document of its \
         own. Medians over up to {} runs; in brackets how many times as much as shared.\n\n| | prefilled tokens | K/V, MB | K/V read in a step, MB | \
         prefill and copies, s | decode, s | tokens/s | memory, GB |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n",
        modes.shared.len(),
    );
    let middle = |of: &[data::Mode], value: fn(&data::Mode) -> f64| median(of.iter().map(value));
    type Value = fn(&data::Mode) -> f64;
    let columns: [Value; 7] = [
        |m| m.prefilled_tokens as f64,
        |m| m.kv_bytes as f64 * 1e-6,
        |m| m.decode_step_kv_bytes as f64 * 1e-6,
        |m| m.prefill_s + m.copy_kv_s,
        |m| m.decode_s,
        |m| m.tokens_per_s,
        |m| m.peak_bytes as f64 * 1e-9,
    ];
    for (name, runs) in
        [("shared", &modes.shared), ("copies", &modes.copies), ("recompute", &modes.recompute)]
    {
        write!(text, "| {name} |")?;
        for (i, value) in columns.into_iter().enumerate() {
            let (own, shared) = (middle(runs, value), middle(&modes.shared, value));
            let shown = if i == 0 { format!("{own}") } else { short(own) };
            let times = if name == "shared" { String::new() } else { format!(" ({}x)", short(own / shared)) };
            write!(text, " {shown}{times} |")?;
        }
        text.push('\n');
    }
    Ok(text)
}

/// Loss against steps, a panel for each task.
fn curves(quality: &Quality) -> Figure {
    let tasks = PAPERS.into_iter().chain(BROKEN.map(|(task, ..)| task));
    let panel = |task: &str| {
        let of_way = |(look, (way, name)): (usize, &(&str, &str))| {
            let runs = runs(quality, task, way);
            let steps = runs.iter().map(|run| run.loss_every_50_steps.len()).min().unwrap_or(0);
            let at = |i: usize| {
                let losses: Vec<f64> = runs.iter().map(|run| run.loss_every_50_steps[i]).collect();
                // It is kept to four digits behind the point, and a logarithm has no place for 0.
                (50.0 * (i + 1) as f64, mean(&losses).unwrap_or(0.0).max(1e-4))
            };
            Series {
                name: (*name).to_owned(),
                look,
                points: (0..steps).map(at).collect(),
                ..Series::default()
            }
        };
        let series: Vec<Series> = WAYS[..2].iter().enumerate().map(of_way).collect();
        let steps = series.iter().flat_map(|s| &s.points).map(|point| point.0).fold(0.0, f64::max);
        Panel {
            title: task.to_owned(),
            x: "steps".to_owned(),
            y: "loss per token of the answers".to_owned(),
            x_ticks: [50.0, 100.0, 200.0, 400.0, 800.0].into_iter().filter(|tick| *tick <= steps).collect(),
            series,
        }
    };
    Figure {
        title: "Tiny T5s, PID and PIE: the same start, texts and steps".to_owned(),
        source: format!("mean over seeds, {}", quality.date),
        columns: 3,
        panels: tasks.filter(|task| quality.runs.iter().any(|run| run.task == *task)).map(panel).collect(),
    }
}

/// Wrong answers against size, a panel for each task that has several sizes.
fn sizes_figure(quality: &Quality) -> Option<Figure> {
    // A logarithm has no place for 0: of 200 answers and more, less than one wrong one.
    let wrong = |right: f64| (100.0 - right).max(0.1);
    let panel = |task: &str| {
        let (counts, sizes) = sizes(quality, task)?;
        let series = WAYS[..3].iter().enumerate().map(|(look, (way, name))| {
            let of_size = |(name, size): &(&str, usize)| {
                Some((*size as f64, Percent::of(&runs(quality, name, way), "accuracy")?))
            };
            let found: Vec<(f64, Percent)> = sizes.iter().filter_map(of_size).collect();
            Series {
                name: (*name).to_owned(),
                look,
                points: found.iter().map(|(size, right)| (*size, wrong(right.mean))).collect(),
                spread: found
                    .iter()
                    .map(|(size, right)| (*size, wrong(right.most), wrong(right.least)))
                    .collect(),
                ..Series::default()
            }
        });
        Some(Panel {
            title: task.to_owned(),
            x: counts.to_owned(),
            y: "answers wrong, %".to_owned(),
            x_ticks: sizes.iter().map(|(_, size)| *size as f64).collect(),
            series: series.filter(|series| !series.points.is_empty()).collect(),
        })
    };
    let panels: Vec<Panel> = BROKEN.iter().filter_map(|(task, ..)| panel(task)).collect();
    (!panels.is_empty()).then(|| Figure {
        title: "Wrong answers against the size of what a text holds".to_owned(),
        source: format!("mean over seeds, the line their range; none wrong stands at 0.1; {}", quality.date),
        columns: 3,
        panels,
    })
}

/// Seconds against FLOPs, a panel for each task.
fn cost_figure(costs: &Costs) -> Result<Figure> {
    let panel = |task: &TaskCost| {
        let formula = task.ways.iter().enumerate().filter_map(|(look, way)| Some((look, way, way.flops?)));
        let series = formula.map(|(look, way, flops)| Series {
            name: way.way.clone(),
            look,
            kind: Kind::Dots,
            points: vec![(flops as f64 * 1e-9, way.median())],
            spread: vec![(flops as f64 * 1e-9, way.least(), way.most())],
        });
        Panel {
            title: format!("{}: U = {}, n = {}", task.task, task.prompts, task.keys),
            x: "GFLOP, by formula".to_owned(),
            y: "seconds".to_owned(),
            x_ticks: Vec::new(),
            series: series.collect(),
        }
    };
    Ok(Figure {
        title: format!("Ways to have many outputs, {}'s shape on the CPU", costs.shape),
        source: format!("{}, {} threads, {}", costs.machine, costs.threads, costs.date),
        columns: 2,
        panels: costs.tasks.iter().map(panel).collect(),
    })
}
