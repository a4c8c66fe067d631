//! Many prompts behind one document: `cargo run --release --package shared-prefix`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::ValueEnum as _;
use serde_json::{Map, Value, json};
use shared_prefix::arguments::Arguments;
use shared_prefix::config::Config;
use shared_prefix::generate::generate;
use shared_prefix::load;
use shared_prefix::report::{Figures, figures_table};
use t5::cli::{command, out};
use t5::println;

fn main() -> ExitCode {
    command::main(run)
}

fn run(arguments: &Arguments) -> Result<()> {
    command::start_threads(arguments.threads)?;
    let config = match &arguments.model {
        Some(folder) => Config::read(folder)?,
        None => arguments.shape.config()?,
    };
    let request = arguments.request(&config)?;
    let model = match &arguments.model {
        Some(folder) => load::folder(folder, config)?,
        None => load::random(config, 1)?,
    };
    let bar = out::bar("generating");
    let mut figures: Vec<Figures> = Vec::new();
    // Before several runs there is one that does not count.
    let uncounted = usize::from(arguments.runs > 1);
    for run in 0..arguments.runs + uncounted {
        for (i, &method) in arguments.mode.methods().iter().enumerate() {
            let (outputs, stats) = generate(&model, method, &request, &bar)?;
            match figures.get_mut(i) {
                None => figures.push(Figures { method, stats, outputs }),
                Some(known) if known.outputs != outputs => {
                    bail!("two runs of {} gave different ids", known.name())
                }
                Some(known) if run == uncounted || stats.total() < known.stats.total() => known.stats = stats,
                Some(_) => {}
            }
        }
    }

    let shape = match &arguments.model {
        Some(folder) => folder.display().to_string(),
        None => arguments.shape.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default(),
    };
    let lengths = request.prompts.iter().map(Vec::len);
    let (shortest, longest) = (lengths.clone().min().unwrap_or(0), lengths.max().unwrap_or(0));
    if arguments.json {
        let mut modes = Map::new();
        for f in &figures {
            let mut mode = f.json(&figures[0]);
            if arguments.ids.is_some() {
                mode["outputs"] = json!(f.outputs);
            }
            modes.insert(f.name().to_owned(), mode);
        }
        let report = json!({
            "device": model.device(),
            "threads": rayon::current_num_threads(),
            "shape": shape,
            "document_tokens": request.document.len(),
            "prompts": request.prompts.len(),
            "prompt_tokens": [shortest, longest],
            "new_tokens": request.new_tokens,
            "runs": arguments.runs,
            "modes": Value::Object(modes),
        });
        println!("{report:#}");
        return Ok(());
    }
    figures.iter().for_each(|figures| println!("{}", figures.legend()));
    println!("{}", figures_table(&figures));
    let tokens = if shortest == longest { format!("{longest}") } else { format!("{shortest} to {longest}") };
    println!(
        "{shape}: a document of {} tokens, {} prompts of {tokens}, up to {} new tokens each; {}",
        request.document.len(),
        request.prompts.len(),
        request.new_tokens,
        model.device()
    );
    Ok(())
}
