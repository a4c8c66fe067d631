//! Logits and answers of ours against transformers', and what ours refuses.

mod common;

use std::slice::from_ref;

use candle_core::{Device, Tensor};
use candle_t5::load;
use candle_t5::model::T5;
use common::{Case, TOLERANCE, folder, off};

/// All goldens of ids, but for those that are refused.
fn cases() -> Vec<Case> {
    let mut names: Vec<String> = std::fs::read_dir(folder(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| ["request.json", "expected.json"].iter().all(|file| folder(name).join(file).exists()))
        .filter(|name| !REFUSED.iter().any(|(refused, _)| refused == name))
        .collect();
    names.sort();
    assert!(names.len() == 25, "only {names:?}");
    names.iter().map(|name| Case::new(name)).collect()
}

const REFUSED: [(&str, &str); 9] = [
    ("forced-and-suppressed", "ids are forced or suppressed, allowed: greedy decoding without that"),
    ("forced-bos-eos", "ids are forced or suppressed"),
    ("suppress", "ids are forced or suppressed"),
    ("generation-config-repetition", "generation's "),
    ("prefix", "tensor `shared.weight` not found"),
    ("sharded", "cannot read"),
    ("sharded-bin-unclear", "cannot read"),
    ("v4-ambiguous-head", "logits by transformers 4: the embedding"),
    ("v4-ambiguous-scale", "logits by transformers 4: the embedding, scaled"),
];

#[test]
fn what_is_left_out_is_refused() {
    for (name, why) in REFUSED {
        let error =
            load::folder(&folder(name), &Device::Cpu).err().unwrap_or_else(|| panic!("{name} is read"));
        let error = format!("{error:#}");
        assert!(error.contains(why), "{name}: {error}");
    }
}

/// Of whole prompts, and of prompts fed token by token, all at once: some end while others go on.
fn logits_are_transformers(case: &Case, model: &T5) {
    let check = |logits: &Tensor, prompt: usize, tokens: usize| {
        let got: Vec<f32> = logits.get(prompt).unwrap().to_vec1().unwrap();
        let off = off(&got, &case.expected(prompt, tokens));
        assert!(off <= TOLERANCE, "{}, prompt {prompt}, token {tokens}: off by {off}", case.folder.display());
    };
    let memory = model.encode(from_ref(&case.input)).unwrap();
    let (_, logits) = model.begin(&memory, from_ref(&case.prompts), case.new_tokens).unwrap();
    let lengths = case.prompts.iter().map(Vec::len);
    lengths.clone().enumerate().for_each(|(prompt, tokens)| check(&logits, prompt, tokens));
    let longest = lengths.max().unwrap();
    let empty = vec![Vec::new(); case.prompts.len()];
    let (mut decoding, mut logits) = model.begin(&memory, &[empty], longest).unwrap();
    for tokens in 0..=longest {
        let going_on = case.prompts.iter().enumerate().filter(|(_, prompt)| prompt.len() >= tokens);
        going_on.for_each(|(prompt, _)| check(&logits, prompt, tokens));
        if tokens < longest {
            let next = case.prompts.iter().map(|prompt| prompt.get(tokens).copied().unwrap_or(0));
            logits = decoding.step(&next.collect::<Vec<_>>()).unwrap();
        }
    }
}

#[test]
fn logits_and_answers_equal_transformers() {
    for case in cases() {
        let model = case.model();
        logits_are_transformers(&case, &model);
        let answers =
            model.generate(from_ref(&case.input), from_ref(&case.prompts), case.new_tokens).unwrap();
        assert_eq!(answers, case.outputs, "{}", case.folder.display());
    }
}

/// Several inputs of unlike length, each with its own prompts, in one batch: one K/V for each.
#[test]
fn a_batch_of_inputs_equals_one_by_one() {
    for name in ["relu-tied", "gated-untied", "long-prompts"] {
        let case = Case::new(name);
        let model = case.model();
        let inputs = [case.input.clone(), case.input[..5].to_vec(), case.input[3..].to_vec()];
        let prompts = [case.prompts.clone(), vec![], case.prompts[1..].to_vec()];
        let batch = model.generate(&inputs, &prompts, case.new_tokens).unwrap();
        let alone = inputs.iter().zip(&prompts).filter(|(_, prompts)| !prompts.is_empty());
        let alone = alone.flat_map(|(input, prompts)| {
            model.generate(from_ref(input), from_ref(prompts), case.new_tokens).unwrap()
        });
        assert_eq!(batch, alone.collect::<Vec<_>>(), "{name}");
        assert_eq!(batch[..case.prompts.len()], case.outputs, "{name}");
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let case = Case::new("relu-tied");
    let model = case.model();
    let memory = model.encode(&[case.input.clone(), case.input.clone()]).unwrap();
    let refused = [
        (model.encode(&[]).err(), "there are no inputs, allowed: one or more"),
        (model.encode(&[vec![]]).err(), "an input has no tokens, allowed: one or more"),
        (
            model.begin(&memory, &[vec![vec![]]], 1).err(),
            "prompts are for 1 inputs, allowed: for 2, with a prompt",
        ),
        (
            model.begin(&memory, &[vec![], vec![]], 1).err(),
            "prompts are for 2 inputs, allowed: for 2, with a prompt",
        ),
    ];
    for (error, why) in refused {
        let error = error.expect(why).to_string();
        assert!(error.contains(why), "{error}");
    }
    let (mut decoding, _) = model.begin(&memory, &[vec![vec![5]], vec![vec![6]]], 1).unwrap();
    let error = decoding.step(&[1]).unwrap_err().to_string();
    assert!(error.contains("1 tokens, allowed: 1 for each of 2 prompts"), "{error}");
    decoding.step(&[1, 1]).unwrap();
    assert!(decoding.step(&[1, 1]).is_err(), "beyond the room that was asked for");
}
