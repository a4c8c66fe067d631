//! `cargo xtask fuzz`: the fuzz targets of `fuzz/`, built for libFuzzer by the stable compiler, and run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use rayon::prelude::*;

use crate::reliability::{self, Fuzzed};
use crate::run::{cargo, command, date, output, root, step};
use crate::virtual_gpu::target;

#[derive(clap::Args)]
pub struct Arguments {
    /// How long each target runs
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Only those whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// Where libFuzzer's choices begin; 0 takes another one in every run
    #[arg(long, default_value_t = 0)]
    seed: u32,
    /// Bring what was found into fuzz/corpus: the fewest inputs that reach as much of the program
    #[arg(long)]
    keep: bool,
}

/// What `cargo fuzz` passes with `--sanitizer none`, but for the depth of stacks and what keeps branches apart: coverage and
/// comparisons for libFuzzer, which mutates towards both; and checks that a release leaves out.
const FLAGS: &[&str] = &[
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cdebug-assertions",
    "-Coverflow-checks",
    "-Ccodegen-units=1",
];
/// Seconds that one input may take.
const TIMEOUT: u32 = 10;
/// Besides each target's own bound, which is on what Rust allocates.
const MOST_RSS_MB: u32 = 2048;

pub fn run(arguments: &Arguments) -> Result<()> {
    let names = targets(arguments.only.as_deref())?;
    let session = Session::new(&names, arguments)?;
    let (date, commit) = (date()?, reliability::commit()?);
    let done = session.run(&names)?;
    let figures = done.iter().filter_map(|(name, result)| {
        let found = result.as_ref().ok()?.clone();
        Some((name.clone(), Fuzzed { date: date.clone(), commit: commit.clone(), ..found }))
    });
    reliability::record_fuzzed(figures)?;
    if arguments.keep {
        names.iter().try_for_each(|name| session.keep(name))?;
    }
    all_well(done)
}

/// An error that says which targets failed, if any did.
fn all_well(done: BTreeMap<String, Result<Fuzzed>>) -> Result<()> {
    let all = done.len();
    let failures = done.into_iter().filter_map(|(name, result)| Some(format!("{name}: {:#}", result.err()?)));
    let failures: Vec<String> = failures.collect();
    if !failures.is_empty() {
        bail!("{} of {all} targets failed\n{}", failures.len(), failures.join("\n"));
    }
    Ok(())
}

/// The targets whose names contain `only`: one for each file in fuzz/fuzz_targets.
fn targets(only: Option<&str>) -> Result<Vec<String>> {
    let folder = root().join("fuzz/fuzz_targets");
    let entries = folder.read_dir().with_context(|| format!("cannot read {}", folder.display()))?;
    let stem = |entry: std::fs::DirEntry| Some(entry.path().file_stem()?.to_str()?.to_owned());
    let mut all: Vec<String> = entries.filter_map(|entry| stem(entry.ok()?)).collect();
    all.sort();
    let names: Vec<String> =
        all.iter().filter(|name| only.is_none_or(|part| name.contains(part))).cloned().collect();
    if names.is_empty() {
        bail!("--only is {}, allowed: a part of {}", only.unwrap_or_default(), all.join(", "));
    }
    Ok(names)
}

/// What this machine's Rust compiles for.
fn triple() -> Result<String> {
    let text = output("ask rustc for this machine's target", &mut command("rustc", &["-vV"]))?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc -vV names no host")
}

/// Programs that are built, and how they are run.
struct Session {
    programs: PathBuf,
    /// Where what is found goes.
    folder: PathBuf,
    seconds: u64,
    seed: u32,
}

impl Session {
    fn new(names: &[String], arguments: &Arguments) -> Result<Session> {
        let folder = target().join("fuzz");
        let triple = triple()?;
        // With its target named, cargo leaves build scripts and macros without the flags.
        let mut build = cargo(&["build", "--release", "--package", "onekv-fuzz", "--target", &triple]);
        build.args(names.iter().flat_map(|name| ["--bin", name]));
        build
            .env("CARGO_TARGET_DIR", &folder)
            .env("RUSTFLAGS", FLAGS.join(" "))
            .env_remove("CARGO_ENCODED_RUSTFLAGS");
        step("build the fuzz targets, with what libFuzzer looks at", &mut build)?;
        let programs = folder.join(&triple).join("release");
        Ok(Session { programs, folder, seconds: arguments.seconds, seed: arguments.seed })
    }

    /// Runs the targets, two at a time where there are two cores.
    fn run(&self, names: &[String]) -> Result<BTreeMap<String, Result<Fuzzed>>> {
        let at_once = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(2));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(at_once).build()?;
        let fuzz = |name: &String| {
            let result = self.fuzz(name);
            if let Ok(found) = &result {
                println!("{name}: {found}");
            }
            (name.clone(), result)
        };
        Ok(pool.install(|| names.par_iter().with_max_len(1).map(fuzz).collect()))
    }

    /// Runs a target.
    fn fuzz(&self, name: &str) -> Result<Fuzzed> {
        let [corpus, artifacts] = self.places(name)?;
        let before = files(&artifacts)?;
        let log = self.folder.join(format!("{name}.log"));
        let file = std::fs::File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let status = self
            .program(name)
            .args([&corpus, &root().join("fuzz/corpus").join(name)])
            .arg(format!("-max_total_time={}", self.seconds))
            .arg(format!("-seed={}", self.seed))
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .arg("-print_final_stats=1")
            .arg("-close_fd_mask=3")
            .stdout(Stdio::null())
            .stderr(file)
            .status()
            .with_context(|| format!("cannot run {name}"))?;
        let text = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
        if status.success() {
            return read(&text).with_context(|| format!("no figures in {}", log.display()));
        }
        let found: Vec<PathBuf> =
            files(&artifacts)?.into_iter().filter(|file| !before.contains(file)).collect();
        // What it said is lost in what targets say of all inputs: once more, with that alone.
        let again = found.first().map(|input| self.program(name).arg(input).output()).transpose()?;
        let again = again.map(|said| String::from_utf8_lossy(&said.stderr).into_owned()).unwrap_or_default();
        // The last is the input itself, where it is short: of a machine that is gone, its log is left.
        let marks = ["panicked at", "allowed: ", "ERROR: libFuzzer", "Base64: "];
        let lines = again.lines().chain(text.lines().filter(|line| line.starts_with("Base64: ")));
        let lines: Vec<&str> = lines.filter(|line| marks.iter().any(|mark| line.contains(mark))).collect();
        bail!("{status}, input {found:?}, log {}\n{}", log.display(), lines.join("\n"));
    }

    /// A target's program, with bounds, and threads of which none disturbs another's coverage.
    fn program(&self, name: &str) -> Command {
        let mut program = Command::new(self.programs.join(name));
        program.current_dir(&self.programs).env("RAYON_NUM_THREADS", "1").env("RUST_BACKTRACE", "0");
        program.args([format!("-timeout={TIMEOUT}"), format!("-rss_limit_mb={MOST_RSS_MB}")]);
        program
    }

    /// Where what is found of a target goes, and where its crashes do.
    fn places(&self, name: &str) -> Result<[PathBuf; 2]> {
        let places = ["corpus", "artifacts"].map(|place| self.folder.join(place).join(name));
        for place in &places {
            std::fs::create_dir_all(place).with_context(|| format!("cannot create {}", place.display()))?;
        }
        Ok(places)
    }

    /// Adds to a target's corpus the fewest inputs that reach what those that were found do, by edges of the program: how often
    /// each is taken would be ten times as many inputs.
    fn keep(&self, name: &str) -> Result<()> {
        let [found, _] = self.places(name)?;
        let mut merge = self.program(name);
        merge.args(["-set_cover_merge=1", "-use_counters=0", "-close_fd_mask=3"]);
        merge.args([&root().join("fuzz/corpus").join(name), &found]);
        step(&format!("keep what was found of {name}"), merge.stdout(Stdio::null()).stderr(Stdio::null()))
    }
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = folder.read_dir().with_context(|| format!("cannot read {}", folder.display()))?;
    Ok(entries.filter_map(|entry| Some(entry.ok()?.path())).collect())
}

/// The figures of libFuzzer's last lines.
fn read(log: &str) -> Option<Fuzzed> {
    let last = log.lines().rfind(|line| line.contains(" cov: ") && line.contains("DONE"))?;
    let after = |mark: &str| last.split(mark).nth(1)?.split_whitespace().next();
    let stat =
        |mark: &str| log.lines().rfind(|line| line.contains(mark))?.split_whitespace().last()?.parse().ok();
    let (corpus, corpus_bytes) = after("corp: ")?.split_once('/')?;
    let done = log.lines().rfind(|line| line.starts_with("Done "))?;
    Some(Fuzzed {
        runs: stat("stat::number_of_executed_units:")?,
        seconds: done.split(" in ").nth(1)?.split_whitespace().next()?.parse().ok()?,
        coverage: after("cov: ")?.parse().ok()?,
        features: after("ft: ")?.parse().ok()?,
        corpus: corpus.parse().ok()?,
        corpus_bytes: corpus_bytes.to_owned(),
        peak_mb: stat("stat::peak_rss_mb:")?,
        date: String::new(),
        commit: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_of_the_last_line() {
        let log = "#2\tINITED cov: 10 ft: 11 corp: 1/1b exec/s: 0 rss: 30Mb\n\
            #500\tDONE   cov: 601 ft: 769 corp: 9/1198b lim: 151 exec/s: 250 rss: 29Mb\n\
            Done 500 runs in 2 second(s)\n\
            stat::number_of_executed_units: 500\nstat::average_exec_per_sec:     250\nstat::peak_rss_mb:              31\n";
        let figures = read(log).unwrap();
        assert_eq!((figures.runs, figures.seconds, figures.coverage, figures.features), (500, 2, 601, 769));
        assert_eq!((figures.corpus, figures.corpus_bytes.as_str(), figures.peak_mb), (9, "1198b", 31));
        assert_eq!(read("==1== ERROR: libFuzzer: deadly signal\n"), None);
    }

    #[test]
    fn targets_have_a_corpus_each() {
        for name in targets(None).unwrap() {
            assert!(root().join("fuzz/corpus").join(&name).is_dir(), "{name}");
        }
        let none = targets(Some("nothing")).unwrap_err().to_string();
        assert!(none.starts_with("--only is nothing, allowed: a part of c_api, "), "{none}");
    }
}
