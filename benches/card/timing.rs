//! Times on a card: graph replays between events, medians of many.

use std::sync::Arc;

use anyhow::Result;
use cudarc::driver::CudaStream;
use cudarc::driver::sys::CUevent_flags;
use onekv::cuda::Recording;
use serde::Serialize;

/// Microseconds: median and the middle 80 %.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Micros {
    pub median: f64,
    pub p10: f64,
    pub p90: f64,
    pub runs: usize,
}

impl Micros {
    /// Each less `us`.
    pub fn less(self, us: f64) -> Self {
        Self { median: self.median - us, p10: self.p10 - us, p90: self.p90 - us, ..self }
    }
}

/// One figure takes no longer than this, but for the least number of runs.
const LONGEST_MS: f64 = 400.0;
const LEAST_RUNS: usize = 5;

/// Time of one of the `launches` launches of a recording.
///
/// Replays are queued back to back with an event between each two: the card never waits for the host, so that no
/// launch of a graph is in the time, and its clocks stay up.
pub fn replay(
    stream: &Arc<CudaStream>,
    recording: &Recording,
    launches: usize,
    runs: usize,
) -> Result<Micros> {
    let event = || stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
    // The first uploads the graph, the second says how long one takes.
    recording.replay()?;
    let start = event()?;
    recording.replay()?;
    let end = event()?;
    end.synchronize()?;
    let one_ms = f64::from(start.elapsed_ms(&end)?).max(1e-3);
    let runs = ((LONGEST_MS / one_ms) as usize).clamp(LEAST_RUNS.min(runs), runs);

    recording.replay()?;
    let mut events = vec![event()?];
    for _ in 0..runs {
        recording.replay()?;
        events.push(event()?);
    }
    if let Some(last) = events.last() {
        last.synchronize()?;
    }
    let mut times = Vec::with_capacity(runs);
    for pair in events.windows(2) {
        times.push(f64::from(pair[0].elapsed_ms(&pair[1])?) * 1e3 / launches as f64);
    }
    times.sort_by(f64::total_cmp);
    let at = |part: f64| times[((times.len() - 1) as f64 * part).round() as usize];
    Ok(Micros { median: at(0.5), p10: at(0.1), p90: at(0.9), runs })
}
