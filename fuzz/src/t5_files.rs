//! The files of a model's folder, one of them from bytes: its first byte says which.
//!
//! Promised: no panic; errors say what is wrong; memory is bounded by the files' sizes and a constant, whatever they claim; what
//! is accepted decodes.

use indicatif::ProgressBar;
use onekv_cost::{Method, Workload};
use t5::backend::cpu::Cpu;
use t5::cli::explain::check_memory;
use t5::config::Config;
use t5::generate::{Limits, Task, generate};
use t5::load;
use t5::tokenize::Text;

use crate::bytes::Bytes;
use crate::t5_folder::{assert_told, folder, write};

/// Most weights of a model that is drawn at random for a config.
const SMALL: u64 = 1 << 18;
const TEXT: &str = "a b, <extra_id_0> c </s> n't . x";

pub fn run(data: &[u8]) {
    let Some((kind, contents)) = data.split_first() else { return };
    let names = [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "model.safetensors",
        "model.safetensors.index.json",
    ];
    let at = usize::from(kind & 7);
    let folder = folder();
    let (name, without_tokenizer) = (names.get(at).copied(), kind & 8 != 0);
    write(folder.path(), &name.map(|name| (name, contents)).into_iter().collect::<Vec<_>>());
    // Without tokenizer.json the tokenizer's class or the vocabulary's size make it ByT5.
    if without_tokenizer && at != 2 {
        std::fs::remove_file(folder.path().join("tokenizer.json")).expect("it was written");
    }
    // An index is read where there is no model.safetensors.
    if at == 6 {
        let whole = folder.path().join("model.safetensors");
        std::fs::rename(whole, folder.path().join("part.safetensors")).expect("it was written");
    }
    let config = match Config::read(folder.path()) {
        Ok(config) => config,
        Err(error) => return assert_told(&error),
    };
    assert_in_limits(&config);
    match Text::read(folder.path(), &config) {
        Ok(text) => tokenize(&text, &config),
        Err(error) => assert_told(&error),
    }
    count_memory(&config, contents);
    let backend = Cpu::new();
    let small = config.cost_shape(config.d_kv, 4).weight_bytes() <= 4 * SMALL && config.buckets <= 1024;
    let model = match at {
        0 if !small => return,
        0 => load::random(config, 1, &backend),
        _ => load::folder(folder.path(), config, Some(5), &backend),
    };
    let model = match model {
        Ok(model) => model,
        Err(error) => return assert_told(&error),
    };
    let last = model.config.vocab as u32 - 1;
    let tasks = [Task { input: vec![last, 1], prompts: vec![vec![], vec![last, 0]] }];
    let limits = Limits { max_new_tokens: 3, stop_at_eos: true, batch_rows: None };
    let answers = generate(&model, Method::Pid, &tasks, limits, 1, &ProgressBar::hidden());
    match answers {
        Ok((answers, _)) => {
            let all = answers.iter().flatten();
            assert_eq!(all.clone().count(), 2);
            assert!(all.flatten().all(|id| *id <= last), "ids of the vocabulary: {answers:?}");
        }
        Err(error) => assert!(
            format!("{error:#}").contains("finite") || format!("{error:#}").contains("f16"),
            "{error:#}"
        ),
    }
}

/// Asserts that an accepted config is within what errors say is allowed.
fn assert_in_limits(config: &Config) {
    let vocab = config.vocab;
    assert!((2..=1 << 24).contains(&vocab) && config.d_kv <= onekv::MAX_HEAD_DIM);
    assert!(config.heads > 0 && config.d_model > 0 && config.max_distance > config.buckets / 2);
    assert!((config.decoder_start as usize) < vocab && (config.eos as usize) < vocab.max(2));
    let rules = &config.rules;
    let ids = rules.ends.iter().chain(&rules.suppressed).chain(&rules.suppressed_first);
    assert!(ids.chain(&rules.forced_first).chain(&rules.forced_last).all(|id| (*id as usize) < vocab));
}

/// Text to ids of the vocabulary and back, and ids that are none.
fn tokenize(text: &Text, config: &Config) {
    for ids in [text.input(TEXT), text.prompt(TEXT)] {
        match ids {
            Ok(ids) => {
                assert!(ids.iter().all(|id| (*id as usize) < config.vocab), "{ids:?}");
                text.decode(&ids).map(drop).unwrap_or_else(|error| assert_told(&error));
            }
            Err(error) => assert_told(&error),
        }
    }
    text.decode(&[0, 2, 258, 300, u32::MAX]).map(drop).unwrap_or_else(|error| assert_told(&error));
}

/// Whether any request to a model of any size fits in memory can be said, without an overflow.
fn count_memory(config: &Config, contents: &[u8]) {
    let mut bytes = Bytes::new(contents);
    let mut count = |most: usize| (bytes.number() % most) as u64;
    let work = Workload {
        inputs: 1 + count(1 << 20),
        prompts: count(1 << 20),
        keys: 1 + count(1 << 24),
        prompt_tokens: count(1 << 24),
        new_tokens: count(1 << 20),
    };
    let shape = config.cost_shape(config.d_kv, 4);
    for method in [Method::Pid, Method::Pie, Method::PidReplicated] {
        let Err(error) = check_memory(method, &shape, &work, u64::MAX, 1 << 37) else { continue };
        assert!(error.to_string().contains("GB of device memory"), "{error:#}");
    }
}
