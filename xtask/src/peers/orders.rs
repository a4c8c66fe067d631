//! Processes that stay and measure what they are told, one order at a time: a line of JSON in, a line of JSON out.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::probe::Probe;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "lowercase")]
pub enum Order {
    /// A few runs on one input, 12 heads of 64.
    Attention { system: String, rows: usize, keys: usize, seconds: f64 },
    /// One run.
    T5 {
        system: String,
        #[serde(flatten)]
        point: T5Point,
    },
    /// The machine's rates.
    Probe,
    /// Versions, and what was found of the libraries.
    Peers,
}

/// Random weights and ids: an input of `keys` tokens, `rows` prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct T5Point {
    pub shape: String,
    pub rows: usize,
    pub keys: usize,
    pub prompt_tokens: usize,
    pub new_tokens: usize,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// Of each run.
    Seconds(Vec<f64>),
    Probe(Probe),
    Peers(BTreeMap<String, Library>),
    Error(String),
}

/// A library that is measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Library {
    pub version: String,
    pub note: String,
}

/// A running process that takes orders.
pub struct Server {
    name: &'static str,
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

/// Threads that wait for work may spin, and take time from whoever is measured next: for so long at most.
const LONGEST_SPIN: Duration = Duration::from_secs(5);
/// Three of the kernel's ticks.
const LOOK: Duration = Duration::from_millis(30);

impl Server {
    pub fn start(name: &'static str, command: &mut Command) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{name}: cannot run {program}"))?;
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("no standard output")?);
        Ok(Self { name, child, orders, answers })
    }

    /// The answer, once the process is idle again.
    pub fn ask(&mut self, order: &Order) -> Result<Answer> {
        let orders = self.orders.as_mut().context("closed")?;
        writeln!(orders, "{}", serde_json::to_string(order)?)
            .with_context(|| format!("{} has ended", self.name))?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        if line.is_empty() {
            bail!("{} ended at {order:?}", self.name);
        }
        self.settle()?;
        serde_json::from_str(&line).with_context(|| format!("{} answered {line}", self.name))
    }

    fn settle(&self) -> Result<()> {
        for _ in 0..LONGEST_SPIN.as_millis() / LOOK.as_millis() {
            let before = self.ticks()?;
            std::thread::sleep(LOOK);
            if self.ticks()? == before {
                return Ok(());
            }
        }
        bail!("{} keeps computing after its answer: what is measured beside it would be too slow", self.name)
    }

    /// User and system time of all threads.
    fn ticks(&self) -> Result<u64> {
        let path = format!("/proc/{}/stat", self.child.id());
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        // Fields 14 and 15; the second is the name, in parentheses.
        let fields: Vec<&str> =
            text.rsplit_once(')').context("no name")?.1.split_ascii_whitespace().collect();
        let tick = |field: usize| -> Result<u64> { Ok(fields.get(field - 3).context("too short")?.parse()?) };
        Ok(tick(14)? + tick(15)?)
    }
}

impl Drop for Server {
    /// Without orders to come it ends.
    fn drop(&mut self) {
        self.orders = None;
        let _ = self.child.wait();
    }
}
