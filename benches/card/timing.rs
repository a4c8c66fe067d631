//! Times on a card: graph replays between events, medians of many.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use cudarc::driver::sys::{CUevent_flags, CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaGraph, CudaStream};
use serde::Serialize;

/// Microseconds: median and the middle 80 %.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Micros {
    pub median: f64,
    pub p10: f64,
    pub p90: f64,
    pub runs: usize,
}

/// Captures what `work` queues.
pub fn capture(stream: &Arc<CudaStream>, work: impl FnOnce() -> Result<()>) -> Result<CudaGraph> {
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED)?;
    let queued = work();
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags)?;
    queued?;
    graph.context("nothing was captured")
}

/// Time of one of the `launches` launches in a graph.
pub fn replay(stream: &Arc<CudaStream>, graph: &CudaGraph, launches: usize, runs: usize) -> Result<Micros> {
    let timed = Some(CUevent_flags::CU_EVENT_DEFAULT);
    // Clocks and caches settle.
    for _ in 0..2 {
        graph.launch()?;
    }
    let mut times = Vec::with_capacity(runs);
    for _ in 0..runs {
        let start = stream.record_event(timed)?;
        graph.launch()?;
        let end = stream.record_event(timed)?;
        end.synchronize()?;
        times.push(f64::from(start.elapsed_ms(&end)?) * 1e3 / launches as f64);
    }
    times.sort_by(f64::total_cmp);
    let at = |part: f64| times[((times.len() - 1) as f64 * part).round() as usize];
    Ok(Micros { median: at(0.5), p10: at(0.1), p90: at(0.9), runs })
}
