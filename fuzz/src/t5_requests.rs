//! What a T5 is asked: requests of ids, texts, prompts, the command line.
//!
//! Promised: no panic; errors say what is allowed; what is accepted is answered by a tiny model, in ids of its vocabulary.

use clap::Parser as _;
use indicatif::ProgressBar;
use onekv_cost::Method;
use t5::backend::cpu::Cpu;
use t5::cli::arguments::Arguments;
use t5::cli::asked::Asked;
use t5::generate::{self, Limits, Task, generate};
use t5::load;

use crate::t5_folder::{assert_told, folder, write};

/// Most tokens of inputs and prompts, start tokens included, of a request that is decoded.
const FEW: usize = 64;

pub fn run(data: &[u8]) {
    let Some((kind, contents)) = data.split_first() else { return };
    match kind % 4 {
        0 => files(&["--ids", "request"], &[("request", contents)]),
        1 => {
            let at = contents.iter().position(|byte| *byte == 0).unwrap_or(contents.len());
            let (input, prompts) = (&contents[..at], contents.get(at + 1..).unwrap_or_default());
            files(&["--input", "input", "--prompts", "prompts"], &[("input", input), ("prompts", prompts)]);
        }
        _ => arguments(contents),
    }
}

/// Asks a tiny model what these files say.
fn files(options: &[&str], given: &[(&str, &[u8])]) {
    let folder = folder();
    write(folder.path(), given);
    let path = |name: &str| folder.path().join(name).display().to_string();
    let own = |word: &&str| if word.starts_with("--") { (*word).to_owned() } else { path(word) };
    let words = ["t5".to_owned(), "--model".to_owned(), path("")].into_iter().chain(options.iter().map(own));
    let arguments = Arguments::try_parse_from(words).expect("options that there are");
    arguments.check().expect("a model that is asked");
    let asked = match Asked::read(&arguments) {
        Ok(asked) => asked,
        Err(error) => return assert_told(&error),
    };
    let (inputs, prompts) = asked.names();
    assert!(!inputs.is_empty());
    let (folder, config) = asked.model(&arguments, Method::Pid).expect("a folder that is there");
    let text = asked.tokenizer(&folder, &config).expect("a tokenizer that is there");
    for method in [Method::Pid, Method::Pie] {
        let tasks = match asked.tasks(text.as_ref(), method) {
            Ok(tasks) => tasks,
            Err(error) => return assert_told(&error),
        };
        let asked_for = asked.max_new_tokens(&arguments);
        let limits = Limits { max_new_tokens: asked_for, stop_at_eos: true, batch_rows: Some(2) };
        if let Err(error) = generate::check(&config, &tasks, limits) {
            assert!(error.to_string().contains("allowed"), "{error:#}");
            return;
        }
        let tokens = |task: &Task| {
            task.input.len() + task.prompts.iter().map(|prompt| prompt.len() + 1).sum::<usize>()
        };
        if tasks.iter().map(tokens).sum::<usize>() > FEW {
            return;
        }
        let limits = Limits { max_new_tokens: asked_for.min(3), ..limits };
        let backend = Cpu::new();
        let model = load::folder(&folder, config.clone(), Some(5), &backend).expect("weights that are there");
        let (answers, _) =
            generate(&model, method, &tasks, limits, 1, &ProgressBar::hidden()).expect("small numbers");
        let rows: usize = tasks.iter().map(|task| task.prompts.len()).sum();
        assert_eq!(answers.iter().map(Vec::len).sum::<usize>(), rows);
        assert!(method == Method::Pie || answers[0].len() == prompts.len());
        assert!(answers.iter().flatten().flatten().all(|id| (*id as usize) < config.vocab));
    }
}

/// Words of a command line, without those that hold a path.
fn arguments(contents: &[u8]) {
    let text = String::from_utf8_lossy(contents);
    let words = text.split(['\n', '\0']).filter(|word| !word.contains(['/', '\\']));
    match Arguments::try_parse_from(std::iter::once("t5").chain(words)) {
        Ok(arguments) => {
            assert!(!arguments.methods().is_empty());
            for checked in [arguments.check(), arguments.roofline().map(drop)] {
                checked.unwrap_or_else(|error| assert!(error.to_string().contains("allowed"), "{error:#}"));
            }
            assert!(arguments.threads.is_none_or(|threads| (1..=1024).contains(&threads)));
            assert!(arguments.max_new_tokens.is_none_or(|n| (1..=1 << 20).contains(&n)));
            assert!((1..=1000).contains(&arguments.runs) && !arguments.keys.is_empty());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
