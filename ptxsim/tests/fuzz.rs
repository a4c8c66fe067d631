//! Damaged PTX: whatever is done to a text, it loads and runs or is an error; nothing panics.

mod support;

use proptest::prelude::*;
use ptxsim::{Card, GlobalMemory, LaunchConfig, Module, Options};

const TEXTS: [&str; 5] = [
    include_str!("kernels/basic.ptx"),
    include_str!("kernels/tensor80.ptx"),
    include_str!("kernels/tensor90.ptx"),
    include_str!("kernels/wmma.ptx"),
    include_str!("../driver/tests/data/scale.ptx"),
];

/// What may stand in place of a word: numbers at the edges, brackets, words of other places.
const WORDS: [&str; 40] = [
    "0",
    "-1",
    "1",
    "31",
    "64",
    "255",
    "4294967295",
    "4294967296",
    "18446744073709551615",
    "0x8000000000000000",
    "0fFFFFFFFF",
    "1e400",
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    ";",
    ",",
    "|",
    "!",
    "@",
    "+",
    "_",
    "%tid.x",
    "%r1",
    "%rd1",
    "%p1",
    "%f1",
    ".b128",
    ".align",
    ".v4",
    ".local",
    ".shared",
    ".param",
    ".pred",
    ".u64",
    "\"",
    "é",
];

#[derive(Debug, Clone)]
enum Change {
    /// Replaces a word by one of [`WORDS`].
    Put(usize, usize),
    /// Replaces a word by another of the text.
    Copy(usize, usize),
    Drop(usize),
    Double(usize),
    Swap(usize),
    /// Takes one modifier of an opcode away, or puts another word's there.
    Modifier(usize, usize),
    Flip(usize, u8),
    Cut(usize),
    Nest(usize, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let at = 0..1_000_000usize;
    prop_oneof![
        3 => (at.clone(), 0..WORDS.len()).prop_map(|(at, word)| Change::Put(at, word)),
        3 => (at.clone(), at.clone()).prop_map(|(at, from)| Change::Copy(at, from)),
        2 => at.clone().prop_map(Change::Drop),
        1 => at.clone().prop_map(Change::Double),
        1 => at.clone().prop_map(Change::Swap),
        3 => (at.clone(), at.clone()).prop_map(|(at, from)| Change::Modifier(at, from)),
        1 => (at.clone(), any::<u8>()).prop_map(|(at, byte)| Change::Flip(at, byte)),
        1 => at.clone().prop_map(Change::Cut),
        1 => (at, 1..10_000usize).prop_map(|(at, depth)| Change::Nest(at, depth)),
    ]
}

/// Words, and all that lies between them.
fn words(text: &str) -> Vec<&str> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || "_$%.".contains(c);
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = match is_word(first) {
            true => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            false => first.len_utf8(),
        };
        found.push(&rest[..end]);
        rest = &rest[end..];
    }
    found
}

fn damaged(text: &str, changes: &[Change]) -> String {
    let mut all: Vec<String> = words(text).into_iter().map(str::to_owned).collect();
    for change in changes {
        // Only words are of interest, not the spaces between.
        let places: Vec<usize> = (0..all.len()).filter(|i| !all[*i].trim().is_empty()).collect();
        let Some(last) = places.len().checked_sub(2) else { break };
        let place = |at: usize| places[at % (last + 1)];
        match *change {
            Change::Put(at, word) => all[place(at)] = WORDS[word].to_owned(),
            Change::Copy(at, from) => all[place(at)] = all[place(from)].clone(),
            Change::Drop(at) => all[place(at)].clear(),
            Change::Double(at) => all[place(at)] = format!("{0} {0}", all[place(at)]),
            Change::Swap(at) => all.swap(place(at), places[at % (last + 1) + 1]),
            Change::Modifier(at, from) => {
                let (mut parts, other): (Vec<String>, Vec<String>) = {
                    let split = |i: usize| all[i].split('.').map(str::to_owned).collect();
                    (split(place(at)), split(place(from)))
                };
                let i = at / 7 % parts.len();
                parts[i].clone_from(&other[from / 7 % other.len()]);
                all[place(at)] = parts.join(".");
            }
            Change::Flip(at, byte) => all[place(at)] = char::from(byte).to_string(),
            Change::Cut(at) => all.truncate(place(at)),
            Change::Nest(at, depth) => all[place(at)] = ["{", "[", "("][at % 3].repeat(depth),
        }
    }
    all.concat()
}

/// Loads a text and runs each kernel for a while, on two blocks and on a cluster of two; how many launches
/// there were.
fn exercise(text: &str, card: &str) -> usize {
    let memory = GlobalMemory::new(1 << 26);
    let Ok(module) = Module::load(text, Card::by_name(card).unwrap(), &memory) else { return 0 };
    let buffer = memory.allocate(1 << 16).unwrap();
    memory.write(buffer, &vec![0; 1 << 16]).unwrap();
    let options = Options { instruction_limit: 3_000, threads: 1, ..Options::default() };
    let mut launches = 0;
    for kernel in module.kernels() {
        let Ok(facts) = module.facts(kernel) else { continue };
        let mut parameters = vec![0; facts.parameter_bytes.min(1 << 12)];
        for place in &facts.parameters {
            let value = if place.bytes == 8 { buffer } else { 64 };
            if let Some(bytes) = parameters.get_mut(place.offset..place.offset + place.bytes.min(8)) {
                bytes.copy_from_slice(&value.to_le_bytes()[..place.bytes.min(8)]);
            }
        }
        let cluster = facts.cluster.unwrap_or([1; 3]);
        let shape =
            LaunchConfig { cluster, dynamic_shared_bytes: 1024, ..LaunchConfig::new([2, 1, 1], [160, 1, 1]) };
        launches += usize::from(module.launch(kernel, &shape, &parameters, &memory, options).is_ok());
        launches += 1;
    }
    launches
}

#[test]
fn sound_texts_are_exercised() {
    assert!(TEXTS.iter().all(|text| exercise(text, "h200") > 1), "the other test would show nothing");
}

/// `PROPTEST_CASES` asks for more.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(200)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn damaged_texts_do_not_panic(text in 0..TEXTS.len(), changes in prop::collection::vec(change(), 1..6), card in 0..2usize) {
        exercise(&damaged(TEXTS[text], &changes), ["a100", "h200"][card]);
    }
}
