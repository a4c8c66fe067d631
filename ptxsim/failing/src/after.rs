//! What must hold where a call failed, and the table of all that did.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use cudarc::driver::sys::CUresult;

use crate::Live;
use crate::calls::{base, leaves};

/// Nothing is left but what the function that failed should have freed.
///
/// # Panics
/// Where something is.
#[track_caller]
pub fn assert_no_leak(place: &str, before: Live, now: Live, call: &str) {
    let left = leaves(call);
    let within = before.iter().zip(now).zip(left).all(|((before, now), left)| now <= before + left);
    assert!(
        within,
        "{place}: live before {before:?}, after {now:?}: device and pinned memory, streams, events, captures, graphs, executables, \
         modules"
    );
}

/// The error names the call and the status.
///
/// # Panics
/// Where it does not.
#[track_caller]
pub fn assert_named(place: &str, error: &str, call: &str, status: CUresult) {
    let status = format!("{status:?}");
    assert!(error.contains(base(call)) && error.contains(&status), "{place}: the error is: {error}");
}

/// Does something that must not panic.
///
/// # Panics
/// Where it does, which this says with its place.
#[track_caller]
pub fn calmly<T>(place: &str, work: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| panic!("{place}: it panicked"))
}

/// Ends the process where `work` hangs: no test would end otherwise.
pub fn without_hanging<T>(work: impl FnOnce() -> T) -> T {
    const LIMIT: Duration = Duration::from_secs(600);
    let (done, waits) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        if waits.recv_timeout(LIMIT) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            eprintln!("a failing call made it hang: not done after {LIMIT:?}");
            std::process::exit(1);
        }
    });
    let result = work();
    drop(done);
    result
}

/// What was handled badly, all of it: one run shows every such call.
#[derive(Default)]
pub struct Wrong(Vec<String>);

impl Wrong {
    /// Notes a panic of `work`; whether there was none.
    pub fn unless(&mut self, work: impl FnOnce()) -> bool {
        let Err(panic) = catch_unwind(AssertUnwindSafe(work)) else { return true };
        let text = panic.downcast_ref::<String>().cloned();
        self.0.push(text.unwrap_or_else(|| "a panic without a text".to_owned()));
        false
    }

    /// # Panics
    /// Where something was, with all of it.
    #[track_caller]
    pub fn assert_nothing(&self) {
        assert!(self.0.is_empty(), "{} calls are handled badly:\n{}", self.0.len(), self.0.join("\n"));
    }
}

/// What followed when a call failed.
#[derive(Clone, Copy)]
pub enum After {
    /// An error that names call and status.
    Error,
    /// The operation succeeded all the same, with right results.
    Recovered,
    /// In a drop, which has no result.
    Dropped,
}

/// What followed when calls of one function failed.
#[derive(Default, serde::Serialize)]
struct Row {
    injected: usize,
    statuses: BTreeSet<String>,
    error: usize,
    recovered: usize,
    dropped: usize,
}

/// The table of all that was made to fail.
#[derive(Default)]
pub struct Table(BTreeMap<String, Row>);

impl Table {
    /// One call more.
    pub fn note(&mut self, call: &str, status: CUresult, after: After) {
        let row = self.0.entry(base(call).to_owned()).or_default();
        row.injected += 1;
        row.statuses.insert(format!("{status:?}"));
        match after {
            After::Error => row.error += 1,
            After::Recovered => row.recovered += 1,
            After::Dropped => row.dropped += 1,
        }
    }

    /// Whether calls of this function failed.
    pub fn has(&self, call: &str) -> bool {
        self.0.contains_key(base(call))
    }

    /// Prints it, and writes it as JSON to `file` of the folder that the variable `folder` of the environment names, if it does.
    ///
    /// # Panics
    /// Where it cannot be written.
    pub fn tell(&self, folder: &str, file: &str) {
        let total: usize = self.0.values().map(|row| row.injected).sum();
        println!("{total} calls of {} functions failed", self.0.len());
        for (call, Row { injected, error, recovered, dropped, .. }) in &self.0 {
            println!("{call}: {injected}: error {error}, recovered {recovered}, in a drop {dropped}");
        }
        let Some(folder) = std::env::var_os(folder) else { return };
        let card = std::env::var("PTXSIM_DEVICE").unwrap_or_else(|_| "h200".to_owned());
        let all =
            serde_json::json!({ "card": format!("virtual {card}"), "injected": total, "calls": self.0 });
        let folder = Path::new(&folder);
        std::fs::create_dir_all(folder).expect("the folder can be made");
        std::fs::write(folder.join(file), format!("{all:#}\n")).expect("the table can be written");
    }
}
