//! docs/reliability.md.

use std::collections::BTreeMap;

use clap::ValueEnum as _;

use super::checks::{Followed, Told};
use super::purposes::PURPOSES;
use super::{Caught, Fuzzed, Part, Record};

/// The page, of what has been run.
pub fn page(
    records: &BTreeMap<Part, Record>,
    fuzzed: &BTreeMap<String, Fuzzed>,
    failing: &[(&str, Told)],
    planted: &BTreeMap<String, Option<Caught>>,
) -> String {
    let mut page = BEGIN.to_owned() + &fuzzing(fuzzed);
    for &part in Part::value_variants() {
        let (title, sees, blind) = words(part);
        page += &format!("\n## {title}\n\n{sees}\n\n");
        page += &match records.get(&part) {
            Some(record) => table(record),
            None if part == Part::Driver && !failing.is_empty() => failing.iter().map(failures).collect(),
            None => format!("Not run yet: `cargo xtask reliability --part {}`.\n", part.name()),
        };
        page += &format!("\nWhat it cannot see: {blind}\n");
    }
    page += &format!("\n## Planted bugs\n\n{}", planted_bugs(planted));
    page += &format!("\n## What the build script does\n\n{BUILD_SCRIPT}");
    page += "\n## What each dependency is for\n\n| crate | what for |\n| --- | --- |\n";
    for (name, purpose) in PURPOSES {
        page += &format!("| {name} | {purpose} |\n");
    }
    page
}

fn fuzzing(targets: &BTreeMap<String, Fuzzed>) -> String {
    let mut text = FUZZING.to_owned();
    for (name, figures) in targets {
        let Fuzzed { runs, seconds, coverage, corpus, peak_mb, date, commit, .. } = figures;
        text += &format!(
            "| {name} | {runs} | {seconds} s | {coverage} | {corpus} | {peak_mb} MB | {date}, {commit} |\n"
        );
    }
    text + FUZZING_ENDS
}

fn failures((what, told): &(&str, Told)) -> String {
    let Told { date, commit, card, injected, calls } = told;
    let mut text = format!(
        "{date}, onekv at {commit}, a {card}: {injected} failures of {} functions that {what} calls.\n\n\
         | function | failed | of so many statuses | an error | done all the same | in a drop |\n\
         | --- | --- | --- | --- | --- | --- |\n",
        calls.len()
    );
    for (name, Followed { injected, statuses, error, recovered, dropped }) in calls {
        let statuses = statuses.len();
        text += &format!("| {name} | {injected} | {statuses} | {error} | {recovered} | {dropped} |\n");
    }
    text + "\n"
}

fn table(record: &Record) -> String {
    let Record { date, commit, tool, runs } = record;
    let mut table =
        format!("{date}, onekv at {commit}, {tool}.\n\n| what | found | by |\n| --- | --- | --- |\n");
    for run in runs {
        table += &format!("| {} | {} | `{}` |\n", run.what, run.found, run.command);
    }
    table
}

/// Of a part: its title, what it looks at, what it is blind for.
fn words(part: Part) -> (&'static str, &'static str, &'static str) {
    match part {
        Part::Soak => (
            "Against the definition, many times",
            "Random problems: ragged, empty, padded, strided, with softcap, scores that grow from key to key; K/V that no input has \
             are NaN, and what lies between the rows of the output must stay as it was. The result is compared with the f64 \
             reference. Plans are compared with a slow search over everything, and must cover every row and key once.",
            "problems larger than the tests', and what a test does not compare.",
        ),
        Part::Cards => (
            "The kernels against the definition, many times",
            "The same on the virtual GPU, which runs the compiled kernels: every variant with splits, clusters and softcaps of its own.",
            "what a real card does.",
        ),
        Part::Driver => (
            "A driver that fails",
            "Work is rehearsed, and then done with each driver call failing, with the statuses that it may have, faults that take the \
             context among them; also with memory that ends at each allocation. The error names the call, or the operation; nothing \
             panics, hangs or leaks; no result is claimed that is not there; the same objects work once the driver does. `cargo xtask \
             test` runs it.",
            "functions that a driver lacks, cards without memory pools, cublasLt that fails, and what a real card loses with its context.",
        ),
        Part::Miri => (
            "Undefined behaviour",
            "Miri interprets the library's code, and that of the crates it uses, and stops at what Rust does not define: reads of \
             what was not written, aliasing, misaligned loads, races, leaks. Its allocator aligns memory to its elements and no more. \
             The library without features has no unsafe code of its own.",
            "registers wider than 128 bits (it runs the code for machines that have none), other languages, the driver, tests with \
             too many steps, and what rayon leaves to its threads when a program ends.",
        ),
        Part::Address => (
            "Memory that is not the operand's",
            "Every load and store is compiled with a check. Programs in C and C++ are compiled with it too, and call the library \
             through its header.",
            "loads of what was never written, and what runs on a card. Kernels on the virtual GPU are checked by that: bounds, \
             words never written, races (ptxsim's README).",
        ),
        Part::Thread => (
            "Data races",
            "Loads and stores of all threads are watched for pairs that nothing orders, the standard library's too.",
            "orders of threads that did not happen in the run; code in C. What is shared between threads is little: rayon's tasks \
             write disjoint slices, and two queues of candle's tensors stand behind a Mutex.",
        ),
        Part::Builds => (
            "What it is built of",
            "Known advisories, licences (deny.toml), and whether the kernels can be made again.",
            "what nobody has reported yet.",
        ),
    }
}

fn planted_bugs(planted: &BTreeMap<String, Option<Caught>>) -> String {
    let dates: Vec<&str> = planted.values().flatten().map(|caught| caught.date.as_str()).collect();
    let when = match (dates.iter().min(), dates.iter().max()) {
        (Some(first), Some(last)) if first != last => format!(", from {first} to {last}"),
        (Some(only), _) => format!(", on {only}"),
        _ => String::new(),
    };
    let (all, caught) = (planted.len(), dates.len());
    let which = if caught == all { "All".to_owned() } else { format!("So far {caught}") };
    format!(
        "`cargo xtask planted` puts {all} known bugs (xtask/planted.toml) into a copy of the tree, one at a time, and a test must \
         fail. {which} have a record of being caught{when}: results/reliability/planted.json names the test. Each fix brings its bug \
         with it.\n"
    )
}

const BEGIN: &str = "\
# Reliability

What the library survives, and how that was looked at. Made by `cargo xtask reliability` from `results/reliability/`; every figure
says when it was found and on which commit, and a `+` behind that that the tree had changes. What runs with every change is
`cargo xtask test`; what is here takes longer.
";

const FUZZING: &str = "
## Whatever bytes

Every target of [fuzz/](../fuzz/README.md) makes inputs of bytes, and libFuzzer looks for bytes that reach more of the program:
problems and operands, plans on any card, T5's files and requests, PTX, fatbins, the virtual driver's calls in any order, the C API.
Nothing may panic, hang, or take more memory than the target's bound; a refusal must name a field; a result must be right. `cargo
xtask fuzz` runs them, `cargo test` replays the corpus and a fixed number of mutations of it.

| target | inputs run | time | edges reached | corpus | peak memory | when |
| --- | --- | --- | --- | --- | --- | --- |
";

const FUZZING_ENDS: &str = "
What it cannot see: inputs that nobody came upon, and what only a card does.
";

const BUILD_SCRIPT: &str = "\
Without feature `cuda`, nothing. With it, build.rs (`build/nvcc.rs`)

- runs: `nvcc --version` of each nvcc it finds, until one is new enough; `nvcc --list-gpu-code`; `nvcc` once for each source
  that changed; `--version` of the C++ compiler;
- reads: `cuda/`; the kernels that it made for other features, beside OUT_DIR; the variables NVCC, CUDA_HOME, CUDA_PATH, PATH,
  NVCC_CCBIN, NVCC_PREPEND_FLAGS, NVCC_APPEND_FLAGS, CXX, ONEKV_CUDA_ARCHS, ONEKV_CHECKOUT, DOCS_RS;
- writes: below OUT_DIR.

It opens no connection: `cargo xtask reliability --part builds` builds where there is no network.
";
