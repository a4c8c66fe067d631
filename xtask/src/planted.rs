//! `cargo xtask planted`: are the tests able to fail? Each known bug is planted in a copy of the tree, and the tests that are
//! meant to catch it must turn red. Which one did, and when, is in results/reliability/planted.json: it is tried first again.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::num::NonZeroUsize;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::reliability::{self, Caught};
use crate::run::{command, date, output, root};

/// The bugs, and what the fields say.
const TABLE: &str = "xtask/planted.toml";

/// A set of tests and the bugs that it must catch.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tests {
    /// Arguments of `cargo test`.
    tests: Vec<String>,
    card: Option<String>,
    bugs: Vec<Bug>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bug {
    name: String,
    file: String,
    from: String,
    to: String,
    card: Option<String>,
}

/// A bug, who catches it, and on which virtual card.
struct Planted {
    bug: Bug,
    caught_by: Rc<Vec<String>>,
    card: String,
}

/// All of the table.
fn table() -> Result<Vec<Planted>> {
    let text = std::fs::read_to_string(root().join(TABLE)).with_context(|| format!("cannot read {TABLE}"))?;
    let all: BTreeMap<String, Tests> = toml::from_str(&text).with_context(|| TABLE)?;
    let of_tests = |Tests { tests, card, bugs }| {
        let caught_by = Rc::new(tests);
        bugs.into_iter().map(move |bug: Bug| {
            let card = bug.card.as_ref().or(card.as_ref()).map_or("a100", String::as_str).to_owned();
            Planted { bug, caught_by: caught_by.clone(), card }
        })
    };
    Ok(all.into_values().flat_map(of_tests).collect())
}

#[derive(clap::Args)]
pub struct Arguments {
    /// Only those whose name or file contains this
    #[arg(long)]
    only: Option<String>,
    /// Only so many, at most, and none recorded: where in the table they begin the time of the last commit says, and they are of
    /// the same tests, of those that need neither the CUDA compiler nor candle nor the virtual GPU compiled anew
    #[arg(long, conflicts_with = "only")]
    sample: Option<NonZeroUsize>,
    /// Only those that results/reliability/planted.json does not have as caught
    #[arg(long)]
    rest: bool,
}

/// By the names of all bugs, those that were caught.
type Records = BTreeMap<String, Option<Caught>>;

impl Arguments {
    fn chosen<'a>(&self, all: &'a [Planted], records: &Records) -> Result<Vec<&'a Planted>> {
        let mut chosen = self.named(all)?;
        if self.rest {
            chosen.retain(|bug| bug.caught(records).is_none());
        }
        Ok(chosen)
    }

    fn named<'a>(&self, all: &'a [Planted]) -> Result<Vec<&'a Planted>> {
        if let Some(most) = self.sample {
            let time =
                output("the time of the last commit", &mut command("git", &["log", "-1", "--format=%ct"]))?;
            let seconds: usize = time.trim().parse().with_context(|| format!("git says {time}"))?;
            return Ok(sample(all, seconds / 60, most.get()));
        }
        let only = self.only.as_deref().unwrap_or_default();
        let mut chosen: Vec<_> =
            all.iter().filter(|p| p.bug.name.contains(only) || p.bug.file.contains(only)).collect();
        if chosen.is_empty() {
            bail!("no planted bug has a name or file with `{only}`");
        }
        // What one leaves compiled, others of the same tests find; nvcc takes longest.
        chosen.sort_by_key(|planted| (!planted.bug.file.ends_with(".rs"), planted.kind()));
        Ok(chosen)
    }
}

/// The first is the one that `at` counts to, round and round, among those that are soon compiled.
fn sample(all: &[Planted], at: usize, most: usize) -> Vec<&Planted> {
    let all: Vec<_> = all.iter().filter(|bug| bug.soon_compiled()).collect();
    let (before, from) = all.split_at(at % all.len());
    let same = from.iter().chain(before).filter(|bug| bug.kind() == from[0].kind());
    same.take(most).copied().collect()
}

/// Plants bugs; fails if one goes unnoticed.
pub fn run(arguments: &Arguments) -> Result<()> {
    let all = table()?;
    let mut records = records(&all)?;
    let chosen = arguments.chosen(&all, &records)?;
    if chosen.is_empty() {
        println!("none is left: each has a record of being caught");
        return Ok(());
    }
    let mut field = Field {
        copy: copy_of_the_tree()?,
        driver: crate::virtual_gpu::virtual_driver()?,
        sound: BTreeMap::new(),
    };
    let (date, commit) = (date()?, reliability::commit()?);
    let mut astray = Vec::new();
    for (i, bug) in chosen.iter().enumerate() {
        let began = Instant::now();
        let test = field.test_that_catches(bug, &records, &chosen);
        let seconds = began.elapsed().as_secs();
        let what = match &test {
            Ok(Some(test)) => format!("caught by {test}"),
            Ok(None) => "UNNOTICED".to_owned(),
            Err(error) => format!("BROKEN\n{error:#}"),
        };
        let Bug { name, file, .. } = &bug.bug;
        println!("{:>3} of {}, {seconds:>3} s: {name} ({file}): {what}", i + 1, chosen.len());
        let caught =
            test.ok().flatten().map(|test| Caught { test, date: date.clone(), commit: commit.clone() });
        if caught.is_none() {
            astray.push(name.as_str());
        }
        records.insert(name.clone(), caught);
        // At once: what was seen is not lost where this is stopped. Of samples nothing: the gate tests the tree meanwhile.
        if arguments.sample.is_none() {
            reliability::record_planted(&records)?;
        }
    }
    if arguments.sample.is_none() {
        reliability::write_page()?;
    }
    if !astray.is_empty() {
        bail!("{} planted bugs went unnoticed or cannot be planted: {}", astray.len(), astray.join("; "));
    }
    Ok(())
}

/// What the file has of each bug in the table.
fn records(all: &[Planted]) -> Result<Records> {
    let mut read = reliability::planted()?;
    Ok(all.iter().map(|p| (p.bug.name.clone(), read.remove(&p.bug.name).flatten())).collect())
}

/// Where bugs are planted.
struct Field<'a> {
    copy: PathBuf,
    driver: PathBuf,
    /// Of each kind of bug, whether its tests pass without one: if not, they would catch any. All of them, or those that are tried
    /// first.
    sound: BTreeMap<(Kind<'a>, bool), bool>,
}

impl<'a> Field<'a> {
    /// The test that fails, if any does: the one that did before, else any of the bug's.
    fn test_that_catches(
        &mut self,
        bug: &'a Planted,
        records: &Records,
        chosen: &[&Planted],
    ) -> Result<Option<String>> {
        if let Some(before) = bug.caught(records) {
            let same = chosen.iter().filter(|other| other.kind() == bug.kind());
            let tests = same.filter_map(|other| Some(other.caught(records)?.test.as_str())).collect();
            self.must_pass(bug, Some(tests))?;
            let test = self.plant(bug, Some([before.test.as_str()].into()))?;
            if test.is_some() {
                return Ok(test);
            }
        }
        self.must_pass(bug, None)?;
        self.plant(bug, None)
    }

    /// Fails where a test does not pass without a bug.
    fn must_pass(&mut self, bug: &'a Planted, only: Option<BTreeSet<&str>>) -> Result<()> {
        let sound = match self.sound.entry((bug.kind(), only.is_some())) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(unknown) => {
                let Output { status, stdout, stderr } =
                    bug.tests(&self.copy, &self.driver, only.as_ref())?.output()?;
                if !status.success() {
                    println!("{}{}", String::from_utf8_lossy(&stderr), String::from_utf8_lossy(&stdout));
                }
                *unknown.insert(status.success())
            }
        };
        if !sound {
            bail!("`{}` fails without a planted bug", bug.caught_by.join(" "));
        }
        Ok(())
    }

    /// Plants one bug, runs the tests that must fail, takes it out again. The name of the test that failed.
    fn plant(&self, bug: &Planted, only: Option<BTreeSet<&str>>) -> Result<Option<String>> {
        let Bug { file, from, to, .. } = &bug.bug;
        let (path, text) = (self.copy.join(file), bug.text(&self.copy)?);
        std::fs::write(&path, text.replace(from, to))?;
        // A bug that does not compile shows nothing.
        let built = bug.tests(&self.copy, &self.driver, None)?.arg("--no-run").output()?;
        let tests = bug.tests(&self.copy, &self.driver, only.as_ref());
        let caught = built.status.success().then(|| fail(tests?)).transpose();
        std::fs::write(&path, text)?;
        caught?.with_context(|| format!("it does not compile: {}", String::from_utf8_lossy(&built.stderr)))
    }
}

/// The files that git knows, in a folder of their own. Those that are there already keep their time, by which cargo knows what
/// it has compiled.
fn copy_of_the_tree() -> Result<PathBuf> {
    let (copy, list) = (root().join("target/planted/tree"), root().join("target/planted/files"));
    let files = output("copy the tree to target/planted", &mut command("git", &["ls-files"]))?;
    // What is no longer known must not stay.
    if copy.exists() && std::fs::read_to_string(&list).ok().as_ref() != Some(&files) {
        std::fs::remove_dir_all(&copy).with_context(|| format!("cannot remove {}", copy.display()))?;
    }
    for file in files.lines() {
        let (from, to) = (root().join(file), copy.join(file));
        let text = std::fs::read(&from).with_context(|| format!("cannot read {file}"))?;
        if std::fs::read(&to).ok() != Some(text) {
            std::fs::create_dir_all(to.parent().unwrap_or(&copy))?;
            std::fs::copy(from, to).with_context(|| format!("cannot copy {file}"))?;
        }
    }
    std::fs::write(&list, files).with_context(|| format!("cannot write {}", list.display()))?;
    Ok(copy)
}

/// Bugs of the same kind are looked for by the same tests on the same card.
type Kind<'a> = (&'a [String], &'a str);

impl Planted {
    fn kind(&self) -> Kind<'_> {
        (&self.caught_by, &self.card)
    }

    /// Without the CUDA compiler, candle, or the virtual GPU.
    fn soon_compiled(&self) -> bool {
        ["onekv", "onekv-model", "t5", "xtask"].contains(&self.package())
            && !self.caught_by.iter().any(|word| word == "--features")
    }

    /// Whose tests catch it.
    fn package(&self) -> &str {
        self.caught_by.get(1).map_or("", String::as_str)
    }

    fn caught<'a>(&self, records: &'a Records) -> Option<&'a Caught> {
        records.get(&self.bug.name)?.as_ref()
    }

    /// Its file, in which its text has a place of its own.
    fn text(&self, tree: &Path) -> Result<String> {
        let Bug { file, from, .. } = &self.bug;
        let text = std::fs::read_to_string(tree.join(file)).with_context(|| format!("cannot read {file}"))?;
        match text.matches(from).count() {
            1 => Ok(text),
            found => bail!("`{from}` occurs {found} times in {file}; a planted bug needs a place of its own"),
        }
    }

    /// The tests that must fail, in the copy of the tree and on a virtual card; `only`: those of these names.
    fn tests(&self, copy: &Path, driver: &Path, only: Option<&BTreeSet<&str>>) -> Result<Command> {
        // The simulator too: as optimised as for the gate, in one piece, each bug in it would take minutes.
        let [quick, pieces] =
            ["opt-level=1", "codegen-units=16"].map(|how| format!("profile.dev.package.ptxsim.{how}"));
        let mut cargo = crate::run::cargo(&["test", "--config", &quick, "--config", &pieces]);
        cargo
            .args(self.caught_by.iter())
            .current_dir(copy)
            .env("CARGO_TARGET_DIR", root().join("target/planted/build"))
            // A bug may leave something unused.
            .env_remove("RUSTFLAGS")
            // One function of a crate is new: with these the rest is not compiled again.
            .env("CARGO_INCREMENTAL", "1")
            .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1");
        crate::virtual_gpu::on_virtual_card(&mut cargo, driver, &self.card);
        if self.caught_by.iter().any(|word| word == "candle-cuda") {
            crate::virtual_gpu::with_candle(&mut cargo, driver)?;
        }
        if let Some(only) = only {
            cargo.args(["--", "--exact"]).args(only);
        }
        Ok(cargo)
    }
}

/// What is in a test's place where the program ended without one that failed.
const PROGRAMS_END: &str = "a program's end";

/// The test that failed, if one did: with it, all are ended.
fn fail(mut tests: Command) -> Result<Option<String>> {
    // Of their own, so that the programs that cargo starts end with it.
    let mut tests = tests.process_group(0).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut lines = tests.stdout.take().into_iter().flat_map(|said| BufReader::new(said).lines());
    let failed = lines
        .find_map(|line| Some(line.ok()?.strip_prefix("test ")?.strip_suffix(" ... FAILED")?.to_owned()));
    if failed.is_some() {
        command("kill", &["-KILL", "--", &format!("-{}", tests.id())]).status()?;
    }
    let passed = tests.wait()?.success();
    Ok(failed.or_else(|| (!passed).then(|| PROGRAMS_END.to_owned())))
}

#[test]
fn the_first_test_that_fails_ends_all() {
    let failed = |script: &str| {
        let mut tests = Command::new("sh");
        tests.args(["-c", script]);
        fail(tests).unwrap()
    };
    // What it starts would hold the pipe open for an hour.
    assert_eq!(failed("echo 'test a::b ... FAILED'; sleep 3600 & wait").as_deref(), Some("a::b"));
    assert_eq!(failed("echo 'test a::b ... ok'; exit 101").as_deref(), Some("a program's end"));
    assert_eq!(failed("echo 'test a::b ... ok'; echo 'about test c ... FAILED'"), None);
}

/// Every bug that is soon compiled comes first in some sample, and what follows is of the same tests.
#[test]
fn samples_begin_everywhere() {
    let all = table().unwrap();
    let mut first = Vec::new();
    for at in 0..all.len() {
        let sample = sample(&all, at + 3 * all.len(), 3);
        assert!(sample.len() <= 3 && sample.iter().all(|other| other.kind() == sample[0].kind()));
        assert!(sample[1..].iter().all(|other| !std::ptr::eq(*other, sample[0])));
        first.push(sample[0]);
    }
    for planted in &all {
        let arguments = planted.caught_by.join(" ");
        let needs_more = ["--features", "ptxsim", "shared-prefix", "candle", "onekv-c", "cudart"];
        let soon = !needs_more.iter().any(|word| arguments.contains(word));
        assert_eq!(first.iter().any(|other| std::ptr::eq(*other, planted)), soon, "{}", planted.bug.name);
    }
}

/// A bug that is new, or has another name, has a place in the records: `cargo xtask planted --rest` makes it.
#[test]
fn every_bug_has_a_place_in_the_records() {
    let read = reliability::planted().unwrap();
    let names: Vec<&str> = read.keys().map(String::as_str).collect();
    let table = table().unwrap();
    let mut all: Vec<&str> = table.iter().map(|planted| planted.bug.name.as_str()).collect();
    all.sort();
    assert_eq!(names, all);
}

/// A test that is gone, or has another name, catches nothing any more: `cargo xtask planted --only BUG` says what does.
#[test]
fn every_test_that_caught_a_bug_is_there() {
    let files = output("the tests", &mut command("git", &["ls-files", "*.rs"])).unwrap();
    let texts: Vec<String> =
        files.lines().filter_map(|file| std::fs::read_to_string(root().join(file)).ok()).collect();
    let is_there = |test: &str| {
        let head = format!("fn {}(", test.rsplit("::").next().unwrap_or(test));
        texts.iter().any(|text| text.contains(&head))
    };
    let records = reliability::planted().unwrap();
    let caught = records.iter().filter_map(|(bug, caught)| Some((bug, &caught.as_ref()?.test)));
    let gone: Vec<_> = caught.filter(|(_, test)| *test != PROGRAMS_END && !is_there(test)).collect();
    assert!(gone.is_empty(), "{gone:?}");
}

/// A change that moves a text takes its planted bug along.
#[test]
fn every_bug_has_a_place() {
    let table = table().unwrap();
    let astray = table.iter().filter_map(|p| Some(format!("{}: {}", p.bug.name, p.text(&root()).err()?)));
    let astray: Vec<String> = astray.collect();
    assert!(astray.is_empty(), "{}", astray.join("\n"));
}
