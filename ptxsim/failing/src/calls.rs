//! Calls by their names: what they may return, and what follows where they fail.

use std::collections::BTreeMap;

use cudarc::driver::sys::CUresult::{self, *};

use crate::Live;

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
fn statuses(call: &str) -> Vec<CUresult> {
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

/// Calls to fail, of those that were recorded, by their numbers: of each name the first with all statuses, others with one: all of them where
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
