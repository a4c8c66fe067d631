//! What programs like this one have around their work: arguments in, one line of error out.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;

/// Parses the command line, does what it asks and says what is wrong in one line.
pub fn main<A: Parser>(run: impl FnOnce(&A) -> Result<()>) -> ExitCode {
    let done = match A::try_parse() {
        Ok(arguments) => run(&arguments).map_err(|error| one_line(&error)),
        // Not an error: --help and --version.
        Err(answer) if !answer.use_stderr() => answer.exit(),
        Err(error) => {
            // What is wrong comes first, then a blank line and what every such error says.
            let text = error.to_string();
            let what = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
            Err(format!("{what} (--help shows the options)"))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", error.split_whitespace().collect::<Vec<_>>().join(" "));
            ExitCode::from(2)
        }
    }
}

/// An error and its causes. Some say their cause themselves: it is not repeated.
pub fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !line.ends_with(&cause) {
            line += if line.is_empty() { "" } else { ": " };
            line += &cause;
        }
    }
    line
}

/// Starts the threads that compute: so many, or one for each core.
///
/// The main thread is one of them: a step of a decoder is some 70 short pieces of work, and waking another thread to hand over
/// each costs as much as some of them. And its allocator keeps large buffers for the next layer instead of handing their pages
/// back.
pub fn start_threads(threads: Option<usize>) -> Result<()> {
    let mut pool = rayon::ThreadPoolBuilder::new().use_current_thread();
    if let Some(threads) = threads {
        pool = pool.num_threads(threads);
    }
    pool.build_global().context("cannot start threads")
}

/// Parses an integer from `least` to `most`.
pub fn whole(least: usize, most: usize) -> impl Fn(&str) -> Result<usize, String> + Clone {
    move |text| {
        let value = text.parse().ok().filter(|n| (least..=most).contains(n));
        value.ok_or_else(|| format!("allowed: an integer from {least} to {most}"))
    }
}
