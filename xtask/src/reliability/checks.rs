//! Tests under tools that see what a test alone does not, and with more cases than a gate has time for.

use std::num::NonZeroU32;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::record::{Run, parsed, write};
use crate::run::{cargo, command, output, root};
use crate::virtual_gpu::{on_virtual_card, target, virtual_driver, workspace};

/// What the toolchains of Linux on x86-64 are called: sanitizers want their target named, so that build scripts are left alone.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Too many steps for an interpreter: every code, plans by the thousand.
const TOO_LONG_FOR_MIRI: [&str; 5] = [
    "plans_are_those_of_the_full_search",
    "work_covers_the_problem_once",
    "more_blocks_than_memory_should_hold",
    "halves_widen_as_half_has_it",
    "exp2_is_accurate",
];

pub fn soak(cases: Option<NonZeroU32>) -> Result<(String, Vec<Run>)> {
    let mut plans = cargo(&["test", "--package", "onekv", "--lib", "plan::tests::"]);
    let mut cpu = cargo(&["test", "--package", "onekv", "--test", "attention"]);
    let runs = vec![
        soaked("plans for five cards", cases.map_or(500_000, u32::from), &mut plans)?,
        soaked("the CPU backend, f32, f16 and bf16", cases.map_or(10_000, u32::from), &mut cpu)?,
    ];
    Ok(("proptest".to_owned(), runs))
}

pub fn cards(cases: Option<NonZeroU32>) -> Result<(String, Vec<Run>)> {
    let driver = virtual_driver()?;
    let runs = ["a100", "rtx4090", "h200", "b200", "rtx5090"].into_iter().map(|name| {
        let mut tests =
            workspace("test", "cuda", &["--test", "attention", "--test", "e4m3", "--test", "cuda"]);
        on_virtual_card(&mut tests, &driver, name);
        soaked(&format!("a virtual {name}, every variant"), cases.map_or(1000, u32::from), &mut tests)
    });
    Ok(("proptest".to_owned(), runs.collect::<Result<_>>()?))
}

/// Runs the tests of a failing driver; what they tell goes into `results`.
pub fn failing_driver(results: &Path, date: &str, commit: &str) -> Result<()> {
    let driver = virtual_driver()?;
    let folder = target().join("reliability");
    for (what, test, file) in FAILING {
        let mut tests = workspace("test", "cuda", &["--test", test]);
        on_virtual_card(&mut tests, &driver, "h200");
        tested(what, "", tests.env("ONEKV_RELIABILITY", &folder))?;
        let mut told: serde_json::Value = parsed(&folder.join(file))?;
        (told["date"], told["commit"]) = (date.into(), commit.into());
        write(&results.join(file), &(serde_json::to_string_pretty(&told)? + "\n"))?;
    }
    Ok(())
}

/// Whose calls fail, in which test, which leaves which file.
const FAILING: [(&str, &str, &str); 2] = [
    ("the library", "failing_driver", "failing-driver.json"),
    ("T5", "t5_failing", "failing-driver-t5.json"),
];

fn soaked(what: &str, cases: u32, tests: &mut Command) -> Result<Run> {
    tested(what, &format!("{cases} cases of each property"), tests.env("PROPTEST_CASES", cases.to_string()))
}

pub fn miri() -> Result<(String, Vec<Run>)> {
    // Tree borrows: crossbeam-epoch, rayon's, breaks the stricter rules. Its threads are never joined, which counts as a leak.
    const RAYON: &str = "-Zmiri-tree-borrows -Zmiri-ignore-leaks";
    let skipped = TOO_LONG_FOR_MIRI.iter().flat_map(|name| ["--skip", name]).collect::<Vec<_>>();
    let runs = [
        ("plans, e4m3, the CPU backend's and merges' small cases", "onekv", "--lib", skipped, RAYON),
        ("problems and operands", "onekv", "--test=problem", vec![], RAYON),
        (
            "threads that mark a virtual card's memory while a launch begins, in 128 orders",
            "ptxsim",
            "--lib",
            vec!["marks_of_several_threads"],
            "-Zmiri-many-seeds=0..128 -Zmiri-preemption-rate=0.2",
        ),
    ];
    let runs = runs.into_iter().map(|(what, package, target, filters, flags)| {
        let mut tests = nightly(&["miri", "test", "--package", package, target, "--"]);
        tests.args(filters);
        tests.env("MIRIFLAGS", format!("-Zmiri-disable-isolation -Zmiri-deterministic-floats {flags}"));
        tests.env("PROPTEST_CASES", "4").env("RAYON_NUM_THREADS", "2");
        let run = tested(what, "", tests.env("CARGO_TARGET_DIR", root().join("target/miri")))?;
        // What many orders say at once cannot be counted.
        Ok(if flags.contains("seeds") {
            Run { found: "1 test, in every order".to_owned(), ..run }
        } else {
            run
        })
    });
    Ok((version(&["miri", "--version"])?, runs.collect::<Result<_>>()?))
}

pub fn address() -> Result<(String, Vec<Run>)> {
    // Programs in C are linked with the sanitizer too; what links Rust's is not.
    let folder = root().join("target/address/cc");
    std::fs::create_dir_all(&folder)?;
    for name in ["cc", "c++"] {
        let real = output(name, &mut command("sh", &["-c", &format!("command -v {name}")]))?;
        let script = format!("#!/bin/sh\nexec {} -fsanitize=address \"$@\"\n", real.trim());
        std::fs::write(folder.join(name), script)?;
        output(name, command("chmod", &["+x"]).arg(folder.join(name)))?;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let linker = output("cc", &mut command("sh", &["-c", "command -v cc"]))?;
    let path = std::env::join_paths(std::iter::once(folder).chain(std::env::split_paths(&path)))?;
    let runs = [
        ("the CPU backend, plans, problems", &["--package", "onekv", "--lib", "--tests"] as &[&str]),
        ("the C API, called from Rust, C and C++", &["--package", "onekv-c"]),
        ("the virtual GPU", &["--package", "ptxsim", "--lib", "--tests"]),
        // Its other tests load it as a library, which does not start under ThreadSanitizer and was not tried here.
        ("the virtual GPU's driver", &["--package", "ptxsim-driver", "--lib"]),
        ("T5's readers, backend and command line", &["--package", "t5", "--lib", "--tests"]),
    ];
    let runs = runs.into_iter().map(|(what, arguments)| {
        let mut tests = sanitized("address", &[], arguments);
        tests.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER", linker.trim()).env("PATH", &path);
        // Its tests leak names of their own.
        if arguments.contains(&"ptxsim") {
            tests.env("ASAN_OPTIONS", "detect_leaks=0");
        }
        tested(what, "", &mut tests)
    });
    Ok((version(&["--version"])?, runs.collect::<Result<_>>()?))
}

pub fn thread() -> Result<(String, Vec<Run>)> {
    // The standard library too: its locks are what orders threads.
    let std = ["-Zbuild-std"];
    let runs = [
        ("the CPU backend", &["--package", "onekv", "--lib", "--tests"] as &[&str]),
        ("the virtual GPU", &["--package", "ptxsim", "--lib", "--tests"]),
        ("the virtual GPU's driver", &["--package", "ptxsim-driver", "--lib"]),
    ];
    let runs = runs.into_iter().map(|(what, arguments)| {
        let mut tests = sanitized("thread", &std, arguments);
        tested(what, "", tests.env("PROPTEST_CASES", "32"))
    });
    Ok((version(&["--version"])?, runs.collect::<Result<_>>()?))
}

/// Tests that are compiled with a sanitizer.
fn sanitized(sanitizer: &str, flags: &[&str], arguments: &[&str]) -> Command {
    let mut tests = nightly(&["test", "--target", TARGET]);
    tests.args(flags).args(arguments);
    tests.env("RUSTFLAGS", format!("-Zsanitizer={sanitizer}"));
    tests.env("CARGO_TARGET_DIR", root().join("target").join(sanitizer));
    tests
}

/// cargo of the nightly toolchain.
fn nightly(arguments: &[&str]) -> Command {
    let mut cargo = command("rustup", &["run", "nightly", "cargo"]);
    cargo.args(arguments);
    cargo
}

fn version(arguments: &[&str]) -> Result<String> {
    Ok(output("the version", &mut nightly(arguments))?.trim().to_owned())
}

/// Runs tests, which must pass; `cases` is what `found` says of them besides their number.
fn tested(what: &str, cases: &str, tests: &mut Command) -> Result<Run> {
    let said = output(&format!("test {what}"), tests)?;
    let passed = passed(&said).with_context(|| format!("{what}: no test has run:\n{said}"))?;
    let found = [format!("{passed} tests"), cases.to_owned()];
    let found: Vec<String> = found.into_iter().filter(|words| !words.is_empty()).collect();
    Ok(Run { what: what.to_owned(), command: shown(tests), found: found.join(", ") })
}

/// How many tests passed, by what the harness says at the end of each program; `None` where it is none.
fn passed(said: &str) -> Option<usize> {
    let results = said.lines().filter_map(|line| line.strip_prefix("test result: ok. "));
    let passed = results.filter_map(|rest| rest.split(' ').next()?.parse::<usize>().ok()).sum();
    Some(passed).filter(|passed| *passed > 0)
}

/// A command as a shell takes it, with what it is given in the environment, paths of this machine left out.
fn shown(command: &Command) -> String {
    let set = command.get_envs().filter_map(|(name, value)| Some((name.to_str()?, value?.to_str()?)));
    let set = set.filter(|(_, value)| !value.starts_with('/'));
    let set = set.map(|(name, value)| match value.contains(' ') {
        true => format!("{name}='{value}' "),
        false => format!("{name}={value} "),
    });
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy();
    let arguments = command.get_args().map(|word| format!(" {}", word.to_string_lossy()));
    set.chain([program.into_owned()]).chain(arguments).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passed_tests_are_counted_over_programs() {
        let said = "running 2 tests\ntest a ... ok\ntest result: ok. 2 passed; 0 failed; 1 ignored;\n\
                    test result: ok. 0 passed; 0 failed;\ntest result: ok. 11 passed; 0 failed;\n";
        assert_eq!(passed(said), Some(13));
        assert_eq!(passed("test result: ok. 0 passed; 0 failed;\n"), None);
        assert_eq!(passed(""), None);
    }

    #[test]
    fn commands_are_shown_without_this_machines_paths() {
        let mut command = Command::new("/usr/bin/cargo");
        command.args(["test", "--lib"]).env("RUSTFLAGS", "-a -b").env("CASES", "4").env("DIR", "/tmp/x");
        assert_eq!(shown(&command), "CASES=4 RUSTFLAGS='-a -b' cargo test --lib");
    }
}
