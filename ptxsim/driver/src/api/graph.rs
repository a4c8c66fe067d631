//! Stream capture and graphs. Graphs come from captures; building them node by node is not there.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::capture;
use crate::guard::driver_api;
use crate::host;
use crate::schedule::relieve;
use crate::state::lock;
use crate::status::{Code, Outcome};
use crate::work::{Executable, Handle, Work};

/// Instantiation flags: what a launch left allocated is freed before the next; upload at once, which is nothing here and
/// only the call with parameters takes; launches from the device; the nodes' priorities, which order nothing here.
const AUTO_FREE: u64 = 1;
const UPLOAD: u64 = 2;
const DEVICE_LAUNCH: u64 = 4;
const NODE_PRIORITY: u64 = 8;

fn instantiate(out: usize, graph: usize, flags: u64, allowed: u64) -> Outcome {
    let mut driver = lock();
    driver.ready()?;
    if flags & !allowed != 0 {
        return Err(
            Code::INVALID_VALUE.because(format!("instantiation flags {flags:#x}, allowed are {allowed:#x}"))
        );
    }
    if flags & DEVICE_LAUNCH != 0 && flags & AUTO_FREE != 0 {
        let what = format!(
            "instantiation flags {flags:#x}: {AUTO_FREE:#x} and {DEVICE_LAUNCH:#x} exclude each other"
        );
        return Err(Code::INVALID_VALUE.because(what));
    }
    if flags & DEVICE_LAUNCH != 0 {
        return Err(Code::NOT_SUPPORTED.because("graphs that kernels launch"));
    }
    let found = driver.graphs.get(&(graph as Handle));
    let found =
        found.ok_or_else(|| Code::INVALID_VALUE.because(format!("{graph:#x} is not a live graph")))?;
    let executable = Executable { graph: found.clone(), flags, launched: AtomicBool::new(false) };
    let handle = driver.handle();
    host::write(out, handle)?;
    driver.executables.insert(handle, Arc::new(executable));
    Ok(())
}

fn executable(raw: usize) -> Outcome<Arc<Executable>> {
    let driver = lock();
    driver.ready()?;
    driver
        .executables
        .get(&(raw as Handle))
        .cloned()
        .ok_or_else(|| Code::INVALID_VALUE.because(format!("{raw:#x} is not a live executable graph")))
}

/// Status of a stream's capture (0 none, 1 active, 2 broken) and the capture's number.
fn capture_status(stream: usize) -> Outcome<(i32, u64)> {
    let driver = lock();
    driver.ready()?;
    let handle = driver.stream_handle(stream)?;
    // cuStreamIsCapturing: on the legacy stream CUDA_ERROR_STREAM_CAPTURE_IMPLICIT while a blocking stream of the
    // same context captures; that capture is not invalidated.
    driver.refuse_legacy_capture(handle)?;
    let id = driver.streams.get(&handle).and_then(|s| s.capture);
    Ok(match id {
        None => (0, 0),
        Some(id) => (if driver.captures.get(&id).is_some_and(|c| c.invalid) { 2 } else { 1 }, id),
    })
}

fn check_mode(mode: i32) -> Outcome {
    if !(0..=2).contains(&mode) {
        return Err(Code::INVALID_VALUE.because(format!("capture mode {mode}, allowed are 0 to 2")));
    }
    Ok(())
}

driver_api! {
    fn cuStreamBeginCapture_v2 as cuStreamBeginCapture_v2_ptsz(stream: usize, mode: i32) {
        let mut driver = lock();
        driver.ready()?;
        check_mode(mode)?;
        let handle = driver.stream_handle(stream)?;
        if driver.is_legacy(handle) {
            return Err(Code::STREAM_CAPTURE_UNSUPPORTED.because("the legacy stream cannot be captured"));
        }
        let id = driver.handle();
        driver.begin_capture(handle, id, mode)
    }

    fn cuStreamEndCapture as cuStreamEndCapture_ptsz(stream: usize, graph: usize) {
        let mut driver = lock();
        driver.ready()?;
        let handle = driver.stream_handle(stream)?;
        host::write(graph, 0u64)?;
        let captured = driver.end_capture(handle)?;
        let id = driver.handle();
        driver.graphs.insert(id, Arc::new(captured));
        host::write(graph, id)
    }

    fn cuStreamIsCapturing as cuStreamIsCapturing_ptsz(stream: usize, status: usize) {
        host::write(status, capture_status(stream)?.0)
    }

    fn cuStreamGetCaptureInfo_v2 as cuStreamGetCaptureInfo_v2_ptsz(stream: usize, status: usize, id: usize, graph: usize, nodes: usize, count: usize) {
        if graph != 0 || nodes != 0 || count != 0 {
            return Err(Code::NOT_SUPPORTED.because("graph and nodes of a capture in progress"));
        }
        let (state, number) = capture_status(stream)?;
        host::write(status, state)?;
        host::write_optional(id, number)
    }

    fn cuThreadExchangeStreamCaptureMode(mode: usize) {
        let wanted: i32 = host::read(mode)?;
        check_mode(wanted)?;
        host::write(mode, capture::exchange_mode(wanted))
    }

    fn cuGraphInstantiateWithFlags(out: usize, graph: usize, flags: u64) {
        instantiate(out, graph, flags, AUTO_FREE | DEVICE_LAUNCH | NODE_PRIORITY)
    }

    fn cuGraphInstantiateWithParams as cuGraphInstantiateWithParams_ptsz(out: usize, graph: usize, parameters: usize) {
        // Flags, the stream to upload on; out: the node that failed, and the result (0: success, 1: error).
        let [flags, stream] = host::read_array::<u64, 2>(parameters)?;
        host::write(parameters.wrapping_add(16), 0u64)?;
        host::write(parameters.wrapping_add(24), 1i32)?;
        if flags & UPLOAD != 0 {
            lock().stream_handle(stream as usize)?;
        }
        instantiate(out, graph, flags, AUTO_FREE | UPLOAD | DEVICE_LAUNCH | NODE_PRIORITY)?;
        host::write(parameters.wrapping_add(24), 0i32)
    }

    fn cuGraphExecGetFlags(graph: usize, flags: usize) {
        host::write(flags, executable(graph)?.flags)
    }

    fn cuGraphUpload as cuGraphUpload_ptsz(graph: usize, stream: usize) {
        executable(graph)?;
        lock().stream_handle(stream).map(|_| ())
    }

    fn cuGraphLaunch as cuGraphLaunch_ptsz(graph: usize, stream: usize) {
        let graph = executable(graph)?;
        let mut driver = lock();
        let stream = driver.own_stream(stream)?;
        driver.issue(stream, Work::Graph(graph))?;
        drop(driver);
        relieve(stream)
    }

    fn cuGraphExecDestroy(graph: usize) {
        lock().executables.remove(&(graph as Handle)).map(|_| ())
            .ok_or_else(|| Code::INVALID_VALUE.because(format!("{graph:#x} is not a live executable graph")))
    }

    fn cuGraphDestroy(graph: usize) {
        lock().graphs.remove(&(graph as Handle)).map(|_| ())
            .ok_or_else(|| Code::INVALID_VALUE.because(format!("{graph:#x} is not a live graph")))
    }

    fn cuGraphGetNodes(graph: usize, nodes: usize, count: usize) {
        let driver = lock();
        let found = driver.graphs.get(&(graph as Handle))
            .ok_or_else(|| Code::INVALID_VALUE.because(format!("{graph:#x} is not a live graph")))?;
        if nodes != 0 {
            return Err(Code::NOT_SUPPORTED.because("handles of graph nodes; their number is there"));
        }
        host::write(count, found.nodes.len())
    }

    fn cuGraphGetEdges(graph: usize, from: usize, to: usize, count: usize) {
        let driver = lock();
        let found = driver.graphs.get(&(graph as Handle))
            .ok_or_else(|| Code::INVALID_VALUE.because(format!("{graph:#x} is not a live graph")))?;
        if from != 0 || to != 0 {
            return Err(Code::NOT_SUPPORTED.because("handles of graph nodes; the number of edges is there"));
        }
        host::write(count, found.edges())
    }
}
