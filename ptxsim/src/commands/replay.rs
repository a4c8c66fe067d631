//! `ptxsim replay`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use ptxsim::{Counters, Options, Recording};

#[derive(clap::Args)]
pub struct Replay {
    /// A file that the driver wrote into the folder of PTXSIM_RECORD
    file: PathBuf,
    /// Write the kernel's PTX to a file, too
    #[arg(long, value_name = "PATH")]
    ptx: Option<PathBuf>,
    /// Print the counters as JSON
    #[arg(long)]
    pub json: bool,
}

/// What the launch did this time; an error if it failed, and a line on stderr if it was another one when it was recorded.
pub fn run(replay: &Replay) -> Result<Counters> {
    let recording = load(&replay.file)?;
    if let Some(path) = &replay.ptx {
        std::fs::write(path, recording.text()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let found = recording.replay(Options::from_environment().map_err(anyhow::Error::msg)?)?;
    if let Some(difference) = found.difference {
        let (bytes, address) = (difference.bytes, difference.address);
        eprintln!("ptxsim: {bytes} bytes differ from what was recorded, the first at {address:#x}");
    }
    if recording.failed() {
        eprintln!("ptxsim: the launch failed when it was recorded; now it does not");
    }
    Ok(found.counters)
}

pub fn load(file: &std::path::Path) -> Result<Recording> {
    Recording::load(file).with_context(|| format!("cannot read {}", file.display()))
}
