//! A driver whose calls fail: ptxsim's, where a test asks for it (ptxsim/driver/README.md). T5's tests use this file, too.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use cudarc::driver::sys::CUresult::{self, *};
use libloading::Library;

/// What there is of each kind: device memory, pinned memory, streams, events, captures, graphs, executable graphs, modules.
pub type Live = [u64; 8];

/// The functions that the virtual driver has for this.
pub struct Failing {
    fail: unsafe extern "C" fn(*const c_char, u64, i32, i32) -> i32,
    call: unsafe extern "C" fn(u64, *mut u8, u64) -> i32,
    failed: unsafe extern "C" fn() -> u64,
    live: unsafe extern "C" fn(i32) -> u64,
    heal: unsafe extern "C" fn(),
}

impl Failing {
    /// The virtual driver's, where that is what this machine has.
    pub fn open() -> Option<Self> {
        // SAFETY: the driver's library, leaked, so that its functions stay; the virtual one's have these types, NVIDIA's has none
        // of their names.
        unsafe {
            let library: &'static Library = Box::leak(Box::new(Library::new("libcuda.so").ok()?));
            Some(Self {
                fail: *library.get(b"ptxsim_fail").ok()?,
                call: *library.get(b"ptxsim_call").ok()?,
                failed: *library.get(b"ptxsim_failed").ok()?,
                live: *library.get(b"ptxsim_live").ok()?,
                heal: *library.get(b"ptxsim_heal").ok()?,
            })
        }
    }

    /// Of the calls of `names` from now on the one that `nth` others come before fails; with `lasts` all after it too.
    pub fn fail(&self, names: &str, nth: usize, status: CUresult, lasts: bool) {
        let names = CString::new(names).unwrap();
        // SAFETY: a string of C's.
        let code = unsafe { (self.fail)(names.as_ptr(), nth as u64, status as i32, i32::from(lasts)) };
        assert_eq!(code, 0, "the virtual driver refuses this");
    }

    /// None fails from now on.
    pub fn none(&self) {
        self.fail("*", 0, CUDA_SUCCESS, false);
    }

    /// Calls that failed since.
    pub fn failed(&self) -> u64 {
        // SAFETY: takes nothing.
        unsafe { (self.failed)() }
    }

    /// Calls since the last wish.
    pub fn calls(&self) -> Vec<String> {
        let call = |index| {
            let mut name = [0u8; 64];
            // SAFETY: as many bytes as it says.
            let code = unsafe { (self.call)(index, name.as_mut_ptr(), 64) };
            (code == 0).then(|| CStr::from_bytes_until_nul(&name).unwrap().to_str().unwrap().to_owned())
        };
        (0..).map_while(call).collect()
    }

    pub fn live(&self) -> Live {
        // SAFETY: takes a number.
        std::array::from_fn(|what| unsafe { (self.live)(what as i32) })
    }

    /// As a new process would find the card.
    pub fn heal(&self) {
        // SAFETY: takes nothing.
        unsafe { (self.heal)() }
    }
}

/// A function's name without the release of its variant.
pub fn base(call: &str) -> &str {
    let call = call.strip_suffix("_ptsz").unwrap_or(call);
    match call.rsplit_once("_v") {
        Some((base, number)) if number.bytes().all(|c| c.is_ascii_digit()) => base,
        _ => call,
    }
}

/// Statuses after which every later call of the context fails.
pub const STICKY: [CUresult; 2] = [CUDA_ERROR_ILLEGAL_ADDRESS, CUDA_ERROR_LAUNCH_FAILED];

/// Statuses that a function may return by cuda.h, the most telling first. Those of before, by "may also return error codes from
/// previous, asynchronous launches", last.
pub fn statuses(call: &str) -> Vec<CUresult> {
    let name = base(call);
    let mut all = Vec::new();
    let creates = ["Alloc", "Create", "Load", "Instantiate", "Retain", "EndCapture", "Launch", "GetFunction"];
    if creates.iter().any(|part| name.contains(part)) {
        all.push(CUDA_ERROR_OUT_OF_MEMORY);
    }
    if name.starts_with("cuLaunch") {
        all.push(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
    }
    if name.ends_with("Query") {
        all.push(CUDA_ERROR_NOT_READY);
    }
    let of_process = ["cuInit", "cuDevice", "cuDriver"].iter().any(|start| name.starts_with(start));
    all.extend([CUDA_ERROR_UNKNOWN, CUDA_ERROR_DEINITIALIZED, CUDA_ERROR_NOT_INITIALIZED]);
    if of_process {
        all.extend([CUDA_ERROR_SYSTEM_NOT_READY, CUDA_ERROR_SYSTEM_DRIVER_MISMATCH]);
    } else {
        all.extend([CUDA_ERROR_INVALID_CONTEXT, CUDA_ERROR_CONTEXT_IS_DESTROYED]);
        all.push(CUDA_ERROR_INVALID_HANDLE);
        all.extend(STICKY);
    }
    all
}

/// Calls to fail, of those that were recorded: of each name the first with all statuses, others with one: all of them where
/// there are no more than `all`, else one in the middle and the last.
pub fn picks(calls: &[String], all: usize) -> Vec<(usize, Vec<CUresult>)> {
    let mut places = BTreeMap::<&str, Vec<usize>>::new();
    calls.iter().enumerate().for_each(|(at, name)| places.entry(name).or_default().push(at));
    let of_name = |(name, mut at): (&str, Vec<usize>)| {
        if at.len() > all {
            at = vec![at[0], at[at.len() / 2], at[at.len() - 1]];
            at.dedup();
        }
        let with = |(number, at)| {
            let mut some = statuses(name);
            some.truncate(if number == 0 { usize::MAX } else { 1 });
            (at, some)
        };
        at.into_iter().enumerate().map(with).collect::<Vec<_>>()
    };
    places.into_iter().flat_map(of_name).collect()
}

/// What a function that frees leaves where it fails.
pub fn leaves(call: &str) -> Live {
    let mut left = Live::default();
    match base(call) {
        "cuMemFreeAsync" | "cuMemFree" => left[0] = 1,
        "cuMemFreeHost" => left[1] = 1,
        "cuStreamDestroy" => left[2] = 1,
        "cuEventDestroy" => left[3] = 1,
        // Of a stream that is then destroyed.
        "cuStreamEndCapture" => left[4] = 1,
        "cuGraphDestroy" => left[5] = 1,
        "cuGraphExecDestroy" => left[6] = 1,
        // With its variables.
        "cuModuleUnload" => (left[7], left[0]) = (1, 4),
        _ => (),
    }
    left
}

/// Calls that have no result, as those that free, or another way where they fail: the operation succeeds all the same, and of a
/// lost context the next call tells.
pub fn is_told_later(call: &str) -> bool {
    const ANOTHER_WAY: [&str; 7] = [
        "cuCtxGetCurrent",
        "cuCtxSetCurrent",
        "cuEventCreate",
        "cuEventRecord",
        "cuEventSynchronize",
        "cuStreamIsCapturing",
        "cuStreamWaitEvent",
    ];
    leaves(call) != Live::default() || ANOTHER_WAY.contains(&base(call))
}

/// Nothing is left but what a function that failed should have freed.
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
#[track_caller]
pub fn assert_named(place: &str, error: &str, call: &str, status: CUresult) {
    let status = format!("{status:?}");
    assert!(error.contains(base(call)) && error.contains(&status), "{place}: the error is: {error}");
}

/// Does something that must not panic.
#[track_caller]
pub fn calmly<T>(place: &str, work: impl FnOnce() -> T) -> T {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done,
        Err(_) => panic!("{place}: it panicked"),
    }
}

/// Ends the process where `work` hangs: no test would end otherwise.
pub fn without_hanging<T>(work: impl FnOnce() -> T) -> T {
    const LIMIT: std::time::Duration = std::time::Duration::from_secs(600);
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

/// What followed when calls of one function failed.
#[derive(Default, serde::Serialize)]
struct Row {
    injected: usize,
    statuses: BTreeSet<String>,
    /// An error that names call and status.
    error: usize,
    /// The operation succeeded all the same, with right results.
    recovered: usize,
    /// In a drop, which has no result.
    dropped: usize,
}

/// What followed.
#[derive(Clone, Copy)]
pub enum After {
    Error,
    Recovered,
    Dropped,
}

/// The table of all that was made to fail.
#[derive(Default)]
pub struct Table(BTreeMap<String, Row>);

impl Table {
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

    pub fn has(&self, call: &str) -> bool {
        self.0.contains_key(base(call))
    }

    /// Prints it, and writes it to the folder that `ONEKV_RELIABILITY` names, if it does.
    pub fn tell(&self, file: &str) {
        let total: usize = self.0.values().map(|row| row.injected).sum();
        println!("{total} calls of {} functions failed", self.0.len());
        for (call, Row { injected, error, recovered, dropped, .. }) in &self.0 {
            println!("{call}: {injected}: error {error}, recovered {recovered}, in a drop {dropped}");
        }
        let Some(folder) = std::env::var_os("ONEKV_RELIABILITY") else { return };
        let all = serde_json::json!({ "card": "virtual h200", "injected": total, "calls": self.0 });
        let folder = std::path::PathBuf::from(folder);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(file), serde_json::to_string_pretty(&all).unwrap() + "\n").unwrap();
    }
}
