//! `PTXSIM_RECORD`: launches written to files, to be run again by `ptxsim replay`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ptxsim::{LaunchConfig, Recording, RecordingError};

use crate::status::{Code, Outcome};

/// Bytes of a kernel's name that are part of a file's.
const NAME_BYTES: usize = 100;

/// Writes the first launch of each kernel and configuration, and every launch that fails.
pub(crate) struct Recorder {
    folder: PathBuf,
    seen: Mutex<HashSet<(String, LaunchConfig)>>,
}

impl Recorder {
    /// Makes the folder.
    pub(crate) fn new(folder: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self { folder: folder.to_owned(), seen: Mutex::default() })
    }

    /// Whether a launch has not been seen before; from now on it has.
    pub(crate) fn first(&self, kernel: &str, config: &LaunchConfig) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.insert((kernel.to_owned(), config.clone()))
    }

    /// Writes a file, under a name that no file has: other processes may write there too.
    pub(crate) fn save(&self, recording: &Recording) -> Outcome {
        let kernel: String = recording.kernel().chars().take(NAME_BYTES).collect();
        for number in 0u32.. {
            let path = self.folder.join(format!("{kernel}-{number}.launch"));
            match recording.save(&path) {
                Err(RecordingError::Io(e)) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    let what = format!("PTXSIM_RECORD: cannot write {}: {error}", path.display());
                    return Err(Code::UNKNOWN.because(what));
                }
                Ok(()) => break,
            }
        }
        Ok(())
    }
}
