//! `cargo xtask mutants`: does the virtual GPU notice mistakes? Launches of onekv's kernels are recorded, the kernels edited
//! by rule, one mistake at a time, and run again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressStyle};
use ptxsim::mutate::{Selection, Tried, Verdict, mutate, rules};
use ptxsim::{Checks, Options, Recording};
use serde::Deserialize;

use crate::run::{root, step};
use crate::virtual_gpu::{on_virtual_card, target, virtual_driver, workspace};

const CARDS: [&str; 2] = ["a100", "h200"];
/// Tests whose launches are recorded: rings that go round, to a short tile with NaN behind it; maxima that grow; blocks of
/// clusters; splits in memory; launches that overlap; inputs without keys; further entries for a block.
const TESTS: [(&str, &str); 9] = [
    ("cuda", "every_ring_goes_round"),
    ("cuda", "maxima_grow_row_by_row"),
    ("cuda", "clusters_change_no_bit"),
    ("cuda", "clusters_join_splits_as_a_second_launch_does"),
    ("cuda", "every_number_of_splits_equals_the_reference"),
    ("cuda", "settled_keys_and_values_do_not_wait"),
    ("cuda", "blocks_go_on_to_further_work"),
    ("attention", "empty_inputs"),
    ("streams", "merges_are_recorded"),
];
/// Kernels in f16 are those in bf16 with another type.
const LEFT_OUT: &str = "_f16_";
/// Survivors that were read, and what the fields say.
const READ: &str = "xtask/survivors.toml";
const JUDGEMENTS: [&str; 3] = ["harmless", "not shown", "lenient"];

/// What to make of a mutant that went unnoticed, in the order of [`JUDGEMENTS`].
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Judgement {
    Harmless,
    #[serde(rename = "not shown")]
    NotShown,
    Lenient,
}

/// A reason, and the survivors that it is for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    rule: String,
    kernel: String,
    place: String,
    judgement: Judgement,
    why: String,
}

impl Read {
    fn all() -> Result<Vec<Read>> {
        let text =
            std::fs::read_to_string(root().join(READ)).with_context(|| format!("cannot read {READ}"))?;
        let mut table: BTreeMap<String, Vec<Read>> = toml::from_str(&text).context(READ)?;
        table.remove("read").with_context(|| format!("{READ} has no [[read]]"))
    }

    /// The first of `read` that is for a survivor.
    fn of<'r>(tried: &Tried, read: &'r [Read]) -> Option<&'r Read> {
        let within =
            |place: &str| [&tried.place, &tried.before, &tried.after].iter().any(|text| text.contains(place));
        let fits = |r: &&Read| r.rule == tried.rule && tried.kernel.contains(&r.kernel) && within(&r.place);
        read.iter().find(fits)
    }
}

#[derive(clap::Args)]
pub struct Arguments {
    /// Mutants of each rule, kernel and card that a launch runs
    #[arg(long, default_value_t = 2)]
    limit: usize,
    /// Chooses them
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Do not write results/ptxsim/mutants.md, and take what is recorded already
    #[arg(long)]
    again: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let folder = target().join("mutants");
    if !arguments.again {
        record(&folder)?;
    }
    let read = Read::all()?;
    let recordings = load(&folder)?;
    let count = recordings.len();
    let selection = Selection { rule: None, limit: Some(arguments.limit), seed: arguments.seed };
    let start = Instant::now();
    let bar = ProgressBar::new(0);
    bar.set_style(ProgressStyle::with_template("{pos} of {len} mutants, {elapsed}")?);
    bar.enable_steady_tick(Duration::from_secs(1));
    let progress = |done: usize, all: usize| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    };
    let options = Options { checks: Checks::ALL, ..Options::default() };
    let tried = mutate(recordings, &selection, options, &progress)?;
    bar.finish_and_clear();
    eprintln!("{} mutants of {count} launches in {} s", tried.len(), start.elapsed().as_secs());
    let page = page(&tried, &read, count, arguments)?;
    let unread = survivors(&tried).filter(|t| Read::of(t, &read).is_none());
    for Tried { rule, kernel, card, line, place, before, after, .. } in unread {
        println!("not read: {rule}, {kernel} on {card}, line {line}\n  {place}\n- {before}\n+ {after}");
    }
    if arguments.again {
        print!("{page}");
        return Ok(());
    }
    let path = root().join("results/ptxsim/mutants.md");
    std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    std::fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))
}

/// Runs the tests on virtual cards that write their launches down.
fn record(folder: &Path) -> Result<()> {
    let driver = virtual_driver()?;
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    for card in CARDS {
        for (binary, test) in TESTS {
            let mut tests = workspace("test", "cuda", &["--test", binary, "--", "--exact", test]);
            on_virtual_card(&mut tests, &driver, card);
            // Each test's first launches: in a process with others they might not be the first.
            tests.env("PTXSIM_RECORD", folder.join(card).join(test));
            step(&format!("record {test} on a virtual {card}"), &mut tests)?;
        }
    }
    Ok(())
}

/// What was recorded, but for launches that failed as they were meant to.
fn load(folder: &Path) -> Result<Vec<Recording>> {
    let mut files = Vec::new();
    for card in CARDS {
        for (_, test) in TESTS {
            // On a card without clusters some tests launch nothing.
            let Ok(entries) = std::fs::read_dir(folder.join(card).join(test)) else { continue };
            files.extend(entries.map(|entry| entry.map(|e| e.path())).collect::<std::io::Result<Vec<_>>>()?);
        }
    }
    files.retain(|file| file.file_name().is_some_and(|name| !name.to_string_lossy().contains(LEFT_OUT)));
    files.sort();
    let load = |file: PathBuf| Recording::load(&file).with_context(|| file.display().to_string());
    let mut recordings = files.into_iter().map(load).collect::<Result<Vec<_>>>()?;
    recordings.retain(|recording| !recording.failed());
    Ok(recordings)
}

fn survivors(tried: &[Tried]) -> impl Iterator<Item = &Tried> {
    tried.iter().filter(|t| t.verdict == Verdict::Survived)
}

/// Kernels of one kind.
fn family(kernel: &str) -> &'static str {
    const FAMILIES: [(&str, &str); 7] = [
        ("merge", "merge of states"),
        ("combine", "combination of splits"),
        ("_sm90a_", "many rows on Hopper"),
        ("e4m3", "few rows from 9.0 on, e4m3"),
        ("_sm90_", "few rows from 9.0 on"),
        ("_f32_", "f32"),
        ("", "16 bits from 8.0 on"),
    ];
    FAMILIES.iter().find(|(part, _)| kernel.contains(part)).map_or("", |(_, name)| name)
}

/// Counts of a row of a table: faults, differences, survivors by [`JUDGEMENTS`], survivors that nobody read, those that did
/// not run, were refused, or made the simulator panic.
#[derive(Default)]
struct Row([usize; 9]);

impl Row {
    fn add(&mut self, tried: &Tried, read: &[Read]) {
        let at = match &tried.verdict {
            Verdict::Fault(_) => 0,
            Verdict::Differs(_) => 1,
            Verdict::Survived => 2 + Read::of(tried, read).map_or(JUDGEMENTS.len(), |r| r.judgement as usize),
            Verdict::NotRun => 6,
            Verdict::Refused(_) => 7,
            Verdict::Panicked => 8,
        };
        self.0[at] += 1;
    }

    fn cells(&self) -> String {
        let [fault, differs, harmless, not_shown, lenient, unread, not_run, refused, panicked] = self.0;
        // Noticed, of those that a card could get wrong in these launches. Rounded down: 100 % is all of them.
        let noticed = fault + differs;
        let share = match noticed + lenient + unread + panicked {
            0 => "-".to_owned(),
            all => format!("{}.{} %", noticed * 100 / all, noticed * 1000 / all % 10),
        };
        format!(
            "{fault} | {differs} | {harmless} | {not_shown} | {lenient} | {unread} | {share} | {not_run} | {refused} |\n"
        )
    }
}

fn page(tried: &[Tried], read: &[Read], launches: usize, arguments: &Arguments) -> Result<String> {
    const HEAD: &str = "fault | differs | harmless | not shown | lenient | unread | noticed | not run | refused |\n\
        | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n";
    let (mut all, mut by_rule, mut by_family) = (Row::default(), BTreeMap::new(), BTreeMap::new());
    for t in tried {
        all.add(t, read);
        by_rule.entry(t.rule).or_insert_with(Row::default).add(t, read);
        by_family.entry(family(&t.kernel)).or_insert_with(Row::default).add(t, read);
    }
    let mut page = format!(
        "# Mutants\n\n\
        What the virtual GPU notices of mistakes in onekv's kernels; written by `cargo xtask mutants`. {launches} launches on\n\
        virtual cards ({cards}) were recorded. Each mutant is a kernel with one edit. Of each rule, kernel and card {limit} are\n\
        tried that a launch runs, chosen by seed {seed}: {count} in all. Kernels in f16, as those in bf16, are left out.\n\n\
        Noticed is a fault, or a bit of memory that differs after one of the kernel's launches, with every check, in the usual\n\
        order of warps or in one of two others. Survivors are read: *harmless*\n\
        where no card goes wrong by the PTX manual, *not shown* where none goes wrong in these launches, *lenient* where a card\n\
        may and the simulator does not say so. The share noticed is of all but the first two. *Not run*: no launch reaches the\n\
        edit. *Refused*: no valid PTX.\n\n",
        cards = CARDS.join(", "),
        limit = arguments.limit,
        seed = arguments.seed,
        count = tried.len() - tried.iter().filter(|t| t.verdict == Verdict::NotRun).count(),
    );
    writeln!(page, "| | {HEAD}| all | {}", all.cells())?;
    write!(page, "| kernels | {HEAD}")?;
    for (name, row) in &by_family {
        write!(page, "| {name} | {}", row.cells())?;
    }
    write!(page, "\n| rule | {HEAD}")?;
    for (name, _) in rules() {
        let Some(row) = by_rule.get(name) else { continue };
        write!(page, "| {name} | {}", row.cells())?;
    }
    page.push_str("\n## Rules\n\n| rule | the mistake |\n| --- | --- |\n");
    for (name, about) in rules() {
        writeln!(page, "| {name} | {about} |")?;
    }
    page.push_str("\n## Survivors\n\n| rule | how many | judgement | why |\n| --- | ---: | --- | --- |\n");
    for entry in read {
        let count =
            survivors(tried).filter(|t| Read::of(t, read).is_some_and(|r| std::ptr::eq(r, entry))).count();
        if count > 0 {
            let Read { rule, why, judgement, .. } = entry;
            writeln!(page, "| {rule} | {count} | {} | {why} |", JUDGEMENTS[*judgement as usize])?;
        }
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(rule: &'static str, kernel: &str, before: &str, verdict: Verdict) -> Tried {
        let (kernel, before, after) = (kernel.to_owned(), before.to_owned(), String::new());
        Tried {
            rule,
            kernel,
            card: "h200",
            line: 1,
            place: format!("mov.b32 <{before}> ret"),
            before,
            after,
            verdict,
        }
    }

    #[test]
    fn survivors_count_by_what_was_read_of_them() {
        let read = |rule: &str, kernel: &str, place: &str, judgement, why: &str| {
            let [rule, kernel, place, why] = [rule, kernel, place, why].map(str::to_owned);
            Read { rule, kernel, place, judgement, why }
        };
        let read = [
            read("drop-fence", "a", "<x>", Judgement::Harmless, "one"),
            read("drop-fence", "", "<y>", Judgement::NotShown, "two"),
            read("drop-wait", "", "<z>", Judgement::Lenient, "three"),
        ];
        let all = [
            tried("drop-fence", "a", "x", Verdict::Survived),
            tried("drop-fence", "b", "x", Verdict::Survived),
            tried("drop-fence", "b", "y", Verdict::Survived),
            tried("drop-wait", "b", "z", Verdict::Survived),
            tried("drop-wait", "b", "y", Verdict::Fault(ptxsim::FaultKind::Race)),
            tried("drop-wait", "b", "y", Verdict::NotRun),
        ];
        let page = page(&all, &read, 7, &Arguments { limit: 4, seed: 1, again: true }).unwrap();
        for wanted in [
            "7 launches",
            // One of three that a card may get wrong.
            "| all | 1 | 0 | 1 | 1 | 1 | 1 | 33.3 % | 1 | 0 |",
            "| drop-fence | 1 | not shown | two |",
        ] {
            assert!(page.contains(wanted), "{wanted}: {page}");
        }
    }

    #[test]
    fn reasons_are_of_rules_that_there_are() {
        for read in Read::all().unwrap() {
            assert!(rules().any(|(name, _)| name == read.rule), "{}", read.rule);
        }
    }

    #[test]
    fn families_are_told_apart() {
        let names = [
            "onekv_sm90_combine_bf16_64",
            "onekv_sm90a_bf16_128_128x2",
            "onekv_sm90_bf16_e4m3_64_16",
            "onekv_bf16_64_16",
        ];
        let found = names.map(family);
        assert_eq!(
            found,
            [
                "combination of splits",
                "many rows on Hopper",
                "few rows from 9.0 on, e4m3",
                "16 bits from 8.0 on"
            ]
        );
    }
}
