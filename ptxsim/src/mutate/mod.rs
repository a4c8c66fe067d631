//! Is the simulator too lenient? Kernels that are known to be right, edited by rule, one mistake at a time: what it does
//! not notice is a mistake that tests on it would miss.

mod rules;
mod site;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use crate::exec::Options;
use crate::fault::FaultKind;
use crate::module::LaunchError;
use crate::recording::{Difference, Recording, ReplayError};
use crate::tensor_map::{TENSOR_MAP_BYTES, TensorMap};
use rules::{NEGATE_GUARD, RULES, Rule, SWIZZLE, TENSOR_MAP};
use site::{Body, Edit, Site, apply};

/// Instructions that a mutant may run: so many times the original's, and so many more.
const PATIENCE: (u64, u64) = (3, 20_000);

/// Which mutants are tried.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Those of this rule; `None`: of all.
    pub rule: Option<String>,
    /// So many of each rule and kernel, chosen by `seed`; `None`: all.
    pub limit: Option<usize>,
    /// Chooses them.
    pub seed: u64,
}

/// What came of a mutant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// A check failed.
    Fault(FaultKind),
    /// Memory is not as after the original.
    Differs(Difference),
    /// Nothing was noticed.
    Survived,
    /// No launch runs the edited instruction: the mutant is the original.
    NotRun,
    /// The edited text is no PTX that can be launched.
    Refused(String),
    /// The simulator panicked: a bug of its own.
    Panicked,
}

/// A mutant that was tried.
#[derive(Debug, Clone, Serialize)]
pub struct Tried {
    /// The rule.
    pub rule: &'static str,
    /// Kernel and card.
    pub kernel: String,
    /// Name of the card.
    pub card: &'static str,
    /// Line of the PTX text, from 1; 0 for parameters.
    pub line: u32,
    /// Opcodes of the instruction and of two before and after it.
    pub place: String,
    /// What stood there.
    pub before: String,
    /// What it became.
    pub after: String,
    /// What came of it.
    pub verdict: Verdict,
}

/// Names of the rules and what they do.
pub fn rules() -> impl Iterator<Item = (&'static str, &'static str)> {
    let map = (TENSOR_MAP, "a tensor map of another box, swizzle, size or stride");
    RULES.iter().map(|rule| (rule.name, rule.about)).chain([map])
}

/// Why mutants could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MutateError {
    /// The original itself fails.
    #[error("`{kernel}` as it was recorded: {why}")]
    Original {
        /// Kernel.
        kernel: String,
        /// What happened.
        why: String,
    },
    /// There is no such rule.
    #[error("rule `{rule}`, allowed are {allowed}")]
    Rule {
        /// The one asked for.
        rule: String,
        /// Those that there are.
        allowed: String,
    },
}

/// Launches of one text on one card, the cheapest first.
type Subject = Vec<Launch>;

struct Launch {
    recording: Recording,
    /// Instructions that its warps run, and how often each of the text.
    instructions: u64,
    executed: Vec<u64>,
}

/// A mistake to try.
struct Mutant {
    subject: usize,
    rule: &'static str,
    line: u32,
    place: String,
    /// The launches that it may change.
    launches: Vec<usize>,
    change: Change,
}

enum Change {
    Text(Edit),
    /// A tensor map in the parameters, and another one.
    Map(usize, TensorMap),
}

/// Makes mutants of recorded launches and runs them on all cores. `progress` is told how many of how many are done.
pub fn mutate(
    recordings: Vec<Recording>,
    selection: &Selection,
    options: Options,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Vec<Tried>, MutateError> {
    if let Some(rule) = selection.rule.as_ref().filter(|rule| rules().all(|(name, _)| name != *rule)) {
        let allowed = rules().map(|(name, _)| name).collect::<Vec<_>>().join(", ");
        return Err(MutateError::Rule { rule: rule.clone(), allowed });
    }
    let subjects = subjects(&recordings, options)?;
    drop(recordings);
    let made = in_parallel(&subjects, options, |at, subject| {
        mutants_of(at, subject).map(|mutants| chosen(mutants, subject, selection))
    });
    let mutants: Vec<Mutant> =
        made.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
    let done = AtomicUsize::new(0);
    let tried = in_parallel(&mutants, options, |_, mutant| {
        let found = mutant.run(&subjects[mutant.subject], options);
        progress(done.fetch_add(1, Relaxed) + 1, mutants.len());
        found
    });
    Ok(tried)
}

/// What `work` makes of each item, by its number, on all cores.
fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    options: Options,
    work: impl Fn(usize, &T) -> R + Sync,
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let made = Mutex::new(Vec::new());
    let turn = || {
        loop {
            let at = next.fetch_add(1, Relaxed);
            let Some(item) = items.get(at) else { break };
            let result = work(at, item);
            made.lock().unwrap_or_else(PoisonError::into_inner).push((at, result));
        }
    };
    let threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(turn))));
    let mut made = made.into_inner().unwrap_or_else(PoisonError::into_inner);
    made.sort_by_key(|(at, _)| *at);
    made.into_iter().map(|(_, result)| result).collect()
}

/// The runs that a mutant must pass to survive.
fn runs(options: Options) -> [Options; 3] {
    // In turn, and in two other orders: what only holds in one is no survivor.
    [options.seed, Some(1), Some(2)].map(|seed| Options { seed, ..options })
}

/// Launches by text and card; each original must do what was recorded.
fn subjects(recordings: &[Recording], options: Options) -> Result<Vec<Subject>, MutateError> {
    let mut found: BTreeMap<(&str, &str, &str), Subject> = BTreeMap::new();
    let launches = in_parallel(recordings, options, |_, recording| launch(recording, options));
    for (recording, launch) in recordings.iter().zip(launches) {
        let key = (recording.kernel(), recording.card().name, recording.text());
        found.entry(key).or_default().push(launch?);
    }
    let mut subjects: Vec<_> = found.into_values().collect();
    subjects.iter_mut().for_each(|subject| subject.sort_by_key(|launch| launch.instructions));
    Ok(subjects)
}

fn launch(recording: &Recording, options: Options) -> Result<Launch, MutateError> {
    let original = |why: String| MutateError::Original { kernel: recording.kernel().to_owned(), why };
    if recording.failed() {
        return Err(original("the recorded launch failed".to_owned()));
    }
    let mut launch = Launch { recording: recording.clone(), instructions: 0, executed: Vec::new() };
    for options in runs(Options { threads: 1, ..options }) {
        let (replay, memory) = recording.replay_on(options).map_err(|e| original(e.to_string()))?;
        if let Some(Difference { address, bytes }) = replay.difference {
            let what = format!("{bytes} bytes differ when it runs again, the first at {address:#x}");
            return Err(original(what));
        }
        launch.instructions = launch.instructions.max(replay.counters.warp_instructions);
        launch.executed.resize(replay.executed.len(), 0);
        launch.executed.iter_mut().zip(replay.executed).for_each(|(sum, n)| *sum += n);
        if let Some(fresh) = recording.onto_nothing(&memory, options) {
            launch.recording = fresh;
        }
    }
    Ok(launch)
}

impl Launch {
    fn ran(&self, site: &Site<'_>) -> bool {
        self.executed.get(site.number).is_some_and(|n| *n > 0)
    }

    /// Whether a mistake at an instruction can change what the launch does. `live` are the registers that it uses.
    fn shows(&self, rule: &Rule, site: &Site<'_>, body: &Body<'_>, live: &HashSet<&str>) -> bool {
        let ran = |site: &Site<'_>| self.ran(site);
        match rule.name {
            // It may be that the guard alone kept it from running.
            NEGATE_GUARD => ran(site) || body.beside(site).is_none_or(|mut sites| sites.any(ran)),
            // What it computes may be for others only that the launch does not come to.
            SWIZZLE => ran(site) && site.operand(0).is_some_and(|to| live.contains(to)),
            // Where the launch may not overlap the one before, there is none to wait for.
            _ => ran(site) && (self.recording.config().overlaps || !site.is(&["griddepcontrol.wait"])),
        }
    }
}

fn mutants_of(at: usize, subject: &Subject) -> Result<Vec<Mutant>, MutateError> {
    let Some(first) = subject.first().map(|launch| &launch.recording) else { return Ok(Vec::new()) };
    let body = Body::new(&first.text, first.kernel())
        .map_err(|e| MutateError::Original { kernel: first.kernel().to_owned(), why: e.to_string() })?;
    let live: Vec<_> = subject.iter().map(|launch| body.live(|site| launch.ran(site))).collect();
    let mut found = Vec::new();
    for rule in RULES {
        for site in &body.sites {
            let edits = rule.edits(site, &body);
            if edits.is_empty() {
                continue;
            }
            let each = subject.iter().zip(&live).enumerate();
            let shown = each.filter(|(_, (launch, live))| launch.shows(rule, site, &body, live));
            let launches: Vec<_> = shown.map(|(number, _)| number).collect();
            found.extend(edits.into_iter().map(|edit| Mutant {
                subject: at,
                rule: rule.name,
                line: site.line,
                place: body.around(site.number),
                launches: launches.clone(),
                change: Change::Text(edit),
            }));
        }
    }
    let maps = tensor_maps(&first.parameters)
        .into_iter()
        .flat_map(|(place, map)| other_maps(&map).into_iter().map(move |map| Change::Map(place, map)));
    found.extend(maps.map(|change| Mutant {
        subject: at,
        rule: TENSOR_MAP,
        line: 0,
        place: String::new(),
        launches: (0..subject.len()).collect(),
        change,
    }));
    Ok(found)
}

/// Those of a selection. Of each rule so many that a launch runs; those that none does cost nothing.
fn chosen(mutants: Vec<Mutant>, subject: &Subject, selection: &Selection) -> Vec<Mutant> {
    let kernel = subject.first().map_or("", |first| first.recording.kernel());
    let mut by_rule: BTreeMap<&str, Vec<(u64, Mutant)>> = BTreeMap::new();
    let asked = |rule: &str| selection.rule.as_ref().is_none_or(|asked| asked == rule);
    for (number, mutant) in mutants.into_iter().enumerate().filter(|(_, m)| asked(m.rule)) {
        let order = hash(selection.seed, kernel, mutant.rule, number);
        by_rule.entry(mutant.rule).or_default().push((order, mutant));
    }
    let mut chosen = Vec::new();
    for mutants in by_rule.into_values() {
        let (mut run, other): (Vec<_>, Vec<_>) =
            mutants.into_iter().partition(|(_, m)| !m.launches.is_empty());
        run.sort_by_key(|(order, _)| *order);
        run.truncate(selection.limit.unwrap_or(usize::MAX));
        chosen.extend(run.into_iter().chain(other).map(|(_, mutant)| mutant));
    }
    chosen
}

/// FNV-1a, whose result no version of a library changes.
fn hash(seed: u64, kernel: &str, rule: &str, number: usize) -> u64 {
    let number = number.to_le_bytes();
    let bytes = seed.to_le_bytes().into_iter().chain(kernel.bytes()).chain(rule.bytes()).chain(number);
    let folded =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    // Its last bytes have reached the low bits only.
    (folded ^ folded >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Mutant {
    fn run(&self, subject: &Subject, options: Options) -> Tried {
        let first = &subject[0].recording;
        let (before, after) = match &self.change {
            Change::Text(edit) => shown(&first.text, edit),
            Change::Map(place, map) => {
                let old = map_at(&first.parameters, *place);
                (old.map_or(String::new(), |old| format!("{old:?}")), format!("{map:?}"))
            }
        };
        let verdict = if self.launches.is_empty() { Verdict::NotRun } else { self.verdict(subject, options) };
        let (kernel, card) = (first.kernel().to_owned(), first.card().name);
        let place = self.place.clone();
        Tried { rule: self.rule, kernel, card, line: self.line, place, before, after, verdict }
    }

    fn verdict(&self, subject: &Subject, options: Options) -> Verdict {
        for Launch { recording, instructions, .. } in self.launches.iter().map(|at| &subject[*at]) {
            let mut mutant = recording.clone();
            match &self.change {
                Change::Text(edit) => mutant.text = apply(&recording.text, edit),
                Change::Map(place, map) => {
                    mutant.parameters[*place..*place + TENSOR_MAP_BYTES].copy_from_slice(&map.to_bytes());
                }
            }
            let instruction_limit = instructions * PATIENCE.0 + PATIENCE.1;
            for options in runs(Options { threads: 1, instruction_limit, ..options }) {
                let replay = catch_unwind(AssertUnwindSafe(|| mutant.replay(options)));
                match replay {
                    Err(_) => return Verdict::Panicked,
                    Ok(Err(ReplayError::Launch(LaunchError::Fault(fault)))) => {
                        return Verdict::Fault(fault.kind);
                    }
                    Ok(Err(error)) => return Verdict::Refused(error.to_string()),
                    Ok(Ok(replay)) => {
                        if let Some(difference) = replay.difference {
                            return Verdict::Differs(difference);
                        }
                    }
                }
            }
        }
        Verdict::Survived
    }
}

/// The edited lines, before and after.
fn shown(text: &str, edit: &Edit) -> (String, String) {
    const MOST: usize = 300;
    let (Some((first, _)), Some((last, _))) = (edit.first(), edit.last()) else { return Default::default() };
    let start = text[..first.start].rfind('\n').map_or(0, |at| at + 1);
    let end = text[last.end..].find('\n').map_or(text.len(), |at| last.end + at);
    let within: Edit = edit.iter().map(|(r, by)| (r.start - start..r.end - start, by.clone())).collect();
    let line = |text: &str| {
        let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if flat.len() <= MOST {
            flat
        } else {
            flat.chars()
                .take(MOST / 2)
                .chain("...".chars())
                .chain(flat.chars().rev().take(MOST / 2).collect::<Vec<_>>().into_iter().rev())
                .collect()
        }
    };
    (line(&text[start..end]), line(&apply(&text[start..end], &within)))
}

fn map_at(parameters: &[u8], place: usize) -> Option<TensorMap> {
    let bytes = parameters.get(place..place + TENSOR_MAP_BYTES)?;
    TensorMap::from_bytes(bytes.try_into().ok()?)
}

/// Tensor maps among the parameters, which are aligned to 64 bytes.
fn tensor_maps(parameters: &[u8]) -> Vec<(usize, TensorMap)> {
    (0..parameters.len()).step_by(64).filter_map(|place| Some((place, map_at(parameters, place)?))).collect()
}

/// A map with one field that is another.
fn other_maps(map: &TensorMap) -> Vec<TensorMap> {
    let mut found = Vec::new();
    let mut with = |change: &dyn Fn(&mut TensorMap)| {
        let mut other = map.clone();
        change(&mut other);
        found.push(other);
    };
    for at in 0..map.dimensions.len() {
        if map.box_size[at] > 1 {
            with(&|other| other.box_size[at] -= 1);
        }
        if map.dimensions[at] > 1 {
            with(&|other| other.dimensions[at] -= 1);
        }
    }
    for at in 0..map.strides.len() {
        // Of one element there is no next.
        if map.dimensions[at + 1] > 1 {
            with(&|other| other.strides[at] += 16);
        }
    }
    with(&|other| other.swizzle = (map.swizzle + 1) % 4);
    with(&|other| other.address += 16);
    found
}
