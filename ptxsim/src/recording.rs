//! A launch with all that it depends on, to be run again: for bug reports, and to try edited kernels.

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::card::Card;
use crate::counters::Counters;
use crate::exec::{LaunchConfig, Options};
use crate::memory::{GlobalMemory, MemoryError, STORED, WRITTEN};
use crate::module::{LaunchError, LoadError, Module};
use crate::ptx;

/// What a file starts with; its header's length follows, eight bytes, and the header, JSON.
const MAGIC: &[u8; 16] = b"ptxsim launch 1\n";

/// A recorded launch.
///
/// Cheap to clone: what was in memory is shared.
#[derive(Clone)]
pub struct Recording {
    card: &'static Card,
    /// The module's text, without other kernels.
    pub(crate) text: String,
    kernel: String,
    config: LaunchConfig,
    pub(crate) parameters: Vec<u8>,
    /// Addresses of the module's variables.
    variables: Vec<u64>,
    memory: Arc<Memory>,
}

/// The live allocations around a launch.
struct Memory {
    before: Vec<Image>,
    /// In the order of `before`; `None` if the launch failed.
    after: Option<Vec<Image>>,
}

/// An allocation.
#[derive(Clone)]
struct Image {
    address: u64,
    bytes: u64,
    /// Its words, and their marks.
    words: (Vec<u32>, Vec<u16>),
}

/// Where a replay's memory is not the recording's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The first byte that is another one, or written here and not there.
    pub address: u64,
    /// How many there are.
    pub bytes: u64,
}

/// What came of a recording that was run again.
pub struct Replay {
    /// What it did.
    pub counters: Counters,
    /// Where memory is not as after the recorded launch.
    pub difference: Option<Difference>,
    /// How often warps ran each instruction of the kernel, in the text's order.
    pub(crate) executed: Vec<u64>,
}

/// Why a recording did not run to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// Its text cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The launch was refused, or the kernel did something wrong.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The host has no room.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// Why a file is no recording.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// It cannot be read or written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Its header is damaged, or of another version.
    #[error("the header: {0}")]
    Header(#[from] serde_json::Error),
    /// Something in it is wrong.
    #[error("{field} is {value}, allowed is {allowed}")]
    Field {
        /// What.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        allowed: String,
    },
}

/// The header of a file. Text, parameters, the written words of `before` and the words of `changes` follow it.
#[derive(Serialize, Deserialize)]
struct Header {
    card: String,
    kernel: String,
    config: LaunchConfig,
    text_bytes: usize,
    parameter_bytes: usize,
    variables: Vec<u64>,
    before: Vec<Stored>,
    /// Runs of words that the launch changed; `None` if it failed.
    changes: Option<Vec<Change>>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    address: u64,
    bytes: u64,
    /// Marks, and how many words in a row have them.
    runs: Vec<(u16, usize)>,
}

/// Number of the allocation, first word, words, their marks.
type Change = (usize, usize, usize, u16);

/// Bytes that all allocations of a file may have: more is a damaged one.
const MOST_BYTES: u64 = 1 << 32;

fn images(memory: &GlobalMemory, marks: u16) -> Vec<Image> {
    let image = |a: &Arc<crate::memory::Allocation>| {
        let mut words = a.image();
        words.1.iter_mut().for_each(|mark| *mark &= marks);
        Image { address: a.base, bytes: a.bytes, words }
    };
    memory.snapshot().allocations().iter().map(image).collect()
}

impl Recording {
    /// Takes down a launch that is about to begin. `text` is what the module was loaded from.
    pub fn begin(
        text: &str,
        module: &Module,
        kernel: &str,
        config: &LaunchConfig,
        parameters: &[u8],
        memory: &GlobalMemory,
    ) -> Self {
        let (card, variables) = module.places();
        // What the launch before used matters to one that overlaps it.
        let marks = if config.overlaps { u16::MAX } else { WRITTEN };
        Self {
            card,
            // A module that was loaded has a text that parses.
            text: ptx::excerpt(text, kernel).unwrap_or_else(|_| text.to_owned()),
            kernel: kernel.to_owned(),
            config: config.clone(),
            parameters: parameters.to_owned(),
            variables: variables.to_vec(),
            memory: Arc::new(Memory { before: images(memory, marks), after: None }),
        }
    }

    /// Takes down what the launch left. Not called, the recording is of a launch that failed.
    pub fn end(self, memory: &GlobalMemory) -> Self {
        let before = self.memory.before.clone();
        let mut now = images(memory, WRITTEN).into_iter().peekable();
        // Other threads of the host may have allocated and freed meanwhile.
        let after = before.iter().map(|old| {
            while now.next_if(|new| new.address < old.address).is_some() {}
            let kept = now.next_if(|new| (new.address, new.bytes) == (old.address, old.bytes));
            kept.unwrap_or_else(|| {
                let mut unchanged = old.clone();
                unchanged.words.1.iter_mut().for_each(|mark| *mark &= WRITTEN);
                unchanged
            })
        });
        let after = Some(after.collect());
        Self { memory: Arc::new(Memory { before, after }), ..self }
    }

    /// The module's text, without other kernels.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Name of the kernel.
    pub fn kernel(&self) -> &str {
        &self.kernel
    }

    /// The card it was launched on.
    pub fn card(&self) -> &'static Card {
        self.card
    }

    /// The launch's size and shape.
    pub fn config(&self) -> &LaunchConfig {
        &self.config
    }

    /// Whether the recorded launch failed.
    pub fn failed(&self) -> bool {
        self.memory.after.is_none()
    }

    /// Runs the launch again, on memory as it was.
    pub fn replay(&self, options: Options) -> Result<Replay, ReplayError> {
        self.replay_on(options).map(|(replay, _)| replay)
    }

    /// The same launch on memory without what it stores, as `memory` after a replay says: runs before it may have left the
    /// same there. `None` where it reads that first.
    pub(crate) fn onto_nothing(&self, memory: &GlobalMemory, options: Options) -> Option<Self> {
        let mut before = self.memory.before.clone();
        for (image, now) in before.iter_mut().zip(images(memory, u16::MAX)) {
            let words = image.words.0.iter_mut().zip(&mut image.words.1).zip(now.words.1);
            for ((word, mark), _) in words.filter(|(_, now)| now & STORED != 0) {
                (*word, *mark) = (0, *mark & !WRITTEN);
            }
        }
        let after = self.memory.after.clone();
        let fresh = Self { memory: Arc::new(Memory { before, after }), ..self.clone() };
        fresh.replay(options).is_ok_and(|replay| replay.difference.is_none()).then_some(fresh)
    }

    /// The same; the memory comes with it.
    pub(crate) fn replay_on(&self, options: Options) -> Result<(Replay, GlobalMemory), ReplayError> {
        let card = self.memory.before.first().and_then(|image| GlobalMemory::card_of(image.address));
        let memory = GlobalMemory::of_card(u64::MAX, card.unwrap_or(0));
        for image in &self.memory.before {
            memory.restore(image.address, image.bytes, &image.words)?;
        }
        let module = Module::restore(&self.text, self.card, self.variables.clone())?;
        let (counters, executed) =
            module.launch_counted(&self.kernel, &self.config, &self.parameters, &memory, options)?;
        let difference = self.memory.after.as_ref().and_then(|after| difference(after, &memory));
        Ok((Replay { counters, difference, executed }, memory))
    }

    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut words = Vec::new();
        let mut before = Vec::new();
        for image in &self.memory.before {
            let mut runs: Vec<(u16, usize)> = Vec::new();
            for (word, mark) in image.words.0.iter().zip(&image.words.1) {
                match runs.last_mut() {
                    Some((of, count)) if of == mark => *count += 1,
                    _ => runs.push((*mark, 1)),
                }
                if mark & WRITTEN != 0 {
                    words.extend(word.to_le_bytes());
                }
            }
            before.push(Stored { address: image.address, bytes: image.bytes, runs });
        }
        let changes = self.memory.after.as_ref().map(|after| {
            let mut changes: Vec<Change> = Vec::new();
            for (number, (old, new)) in self.memory.before.iter().zip(after).enumerate() {
                let pairs = old.words.0.iter().zip(&old.words.1).zip(new.words.0.iter().zip(&new.words.1));
                for (at, ((old, old_mark), (new, mark))) in pairs.enumerate() {
                    if (old, old_mark & WRITTEN) == (new, *mark) {
                        continue;
                    }
                    match changes.last_mut() {
                        Some((n, start, count, of)) if (*n, *start + *count, *of) == (number, at, *mark) => {
                            *count += 1;
                        }
                        _ => changes.push((number, at, 1, *mark)),
                    }
                    words.extend(new.to_le_bytes());
                }
            }
            changes
        });
        let header = Header {
            card: self.card.name.to_owned(),
            kernel: self.kernel.clone(),
            config: self.config.clone(),
            text_bytes: self.text.len(),
            parameter_bytes: self.parameters.len(),
            variables: self.variables.clone(),
            before,
            changes,
        };
        // Numbers, strings and lists: nothing that JSON has no form for.
        let header = serde_json::to_vec(&header).unwrap_or_default();
        let length = (header.len() as u64).to_le_bytes();
        [MAGIC, &length[..], &header, self.text.as_bytes(), &self.parameters, &words].concat()
    }

    /// Reads a file's bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RecordingError> {
        let wrong = |field, value: String, allowed: &str| RecordingError::Field {
            field,
            value,
            allowed: allowed.to_owned(),
        };
        let mut rest = bytes;
        let mut take = |field, count: usize| {
            let short = || wrong(field, format!("{count} bytes"), &format!("the {} left", rest.len()));
            let (part, after) = rest.split_at_checked(count).ok_or_else(short)?;
            rest = after;
            Ok::<_, RecordingError>(part)
        };
        if take("the start", MAGIC.len())? != MAGIC {
            return Err(wrong("the start", "something else".to_owned(), "`ptxsim launch 1`"));
        }
        let length: [u8; 8] = take("the header's length", 8)?.try_into().unwrap_or_default();
        let length = usize::try_from(u64::from_le_bytes(length)).unwrap_or(usize::MAX);
        let header: Header = serde_json::from_slice(take("the header", length)?)?;
        let card = Card::by_name(&header.card)
            .ok_or_else(|| wrong("card", header.card.clone(), &Card::names().join(", ")))?;
        let text = String::from_utf8(take("the text", header.text_bytes)?.to_vec())
            .map_err(|e| wrong("the text", e.to_string(), "UTF-8"))?;
        let parameters = take("the parameters", header.parameter_bytes)?.to_vec();
        let mut words = |count: usize| {
            let part = take("memory", count.saturating_mul(4))?;
            Ok::<_, RecordingError>(
                part.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])),
            )
        };
        let mut before: Vec<Image> = Vec::new();
        let mut all = 0u64;
        for stored in header.before {
            let Stored { address, bytes, runs } = stored;
            all = all.saturating_add(bytes);
            let previous = before.last().map_or(0, |image| image.address + image.bytes);
            if address < previous || address.checked_add(bytes).is_none() {
                return Err(wrong("address", format!("{address:#x}"), "in order, without overlap"));
            }
            let count = runs.iter().fold(0usize, |sum, run| sum.saturating_add(run.1));
            if all > MOST_BYTES || count as u64 != bytes.div_ceil(4) {
                let what = format!("{count} words for {bytes} bytes");
                return Err(wrong(
                    "an allocation",
                    what,
                    &format!("all its words, {MOST_BYTES} bytes in all"),
                ));
            }
            let mut image = Image { address, bytes, words: (Vec::new(), Vec::new()) };
            for (mark, count) in runs {
                if mark & WRITTEN != 0 {
                    image.words.0.extend(words(count)?);
                } else {
                    image.words.0.resize(image.words.0.len() + count, 0);
                }
                image.words.1.resize(image.words.0.len(), mark);
            }
            before.push(image);
        }
        let mut after = None;
        if let Some(changes) = header.changes {
            let mut images = before.clone();
            images.iter_mut().for_each(|image| image.words.1.iter_mut().for_each(|mark| *mark &= WRITTEN));
            for (number, start, count, mark) in changes {
                let place = images.get_mut(number).and_then(|image| {
                    let range = start..start.checked_add(count)?;
                    Some((image.words.0.get_mut(range.clone())?, image.words.1.get_mut(range)?))
                });
                let Some((held, marks)) = place else {
                    let what = format!("{count} words from word {start} of allocation {number}");
                    return Err(wrong("a change", what, "words of an allocation"));
                };
                held.iter_mut().zip(words(count)?).for_each(|(held, word)| *held = word);
                marks.fill(mark);
            }
            after = Some(images);
        }
        let Header { kernel, config, variables, .. } = header;
        Ok(Self {
            card,
            text,
            kernel,
            config,
            parameters,
            variables,
            memory: Arc::new(Memory { before, after }),
        })
    }

    /// Writes a file that is not there yet.
    pub fn save(&self, path: &Path) -> Result<(), RecordingError> {
        use std::io::Write as _;
        Ok(std::fs::File::create_new(path)?.write_all(&self.to_bytes())?)
    }

    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self, RecordingError> {
        Self::from_bytes(&std::fs::read(path)?)
    }
}

/// Where `memory` is not as in the images.
fn difference(images: &[Image], memory: &GlobalMemory) -> Option<Difference> {
    let snapshot = memory.snapshot();
    let mut found: Option<Difference> = None;
    for (image, allocation) in images.iter().zip(snapshot.allocations()) {
        let (words, marks) = allocation.image();
        let pairs = image.words.0.iter().zip(&image.words.1).zip(words.iter().zip(&marks));
        for (at, ((word, mark), (now, now_mark))) in pairs.enumerate() {
            let (bits, marks) = (word ^ now, (mark ^ now_mark) & WRITTEN);
            if (bits, marks) == (0, 0) {
                continue;
            }
            for byte in (0..4).filter(|byte| bits >> (8 * byte) & 0xff != 0 || marks >> byte & 1 != 0) {
                let address = image.address + 4 * at as u64 + byte;
                found.get_or_insert(Difference { address, bytes: 0 }).bytes += 1;
            }
        }
    }
    found
}
