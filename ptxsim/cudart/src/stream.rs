//! Streams, events, captures and graphs.

use cudarc::driver::sys;

use crate::{INVALID_VALUE, drive, pointer, runtime, write};

runtime! {
    fn cudaStreamCreate(out: usize) {
        drive!(cuStreamCreate(pointer(out), 0))
    }

    fn cudaStreamCreateWithFlags(out: usize, flags: u32) {
        drive!(cuStreamCreate(pointer(out), flags))
    }

    fn cudaStreamCreateWithPriority(out: usize, flags: u32, priority: i32) {
        drive!(cuStreamCreateWithPriority(pointer(out), flags, priority))
    }

    fn cudaStreamDestroy(stream: usize) {
        drive!(cuStreamDestroy_v2(pointer(stream)))
    }

    fn cudaStreamSynchronize(stream: usize) {
        drive!(cuStreamSynchronize(pointer(stream)))
    }

    fn cudaStreamQuery(stream: usize) {
        drive!(cuStreamQuery(pointer(stream)))
    }

    fn cudaStreamWaitEvent(stream: usize, event: usize, flags: u32) {
        drive!(cuStreamWaitEvent(pointer(stream), pointer(event), flags))
    }

    fn cudaEventCreate(out: usize) {
        drive!(cuEventCreate(pointer(out), 0))
    }

    fn cudaEventCreateWithFlags(out: usize, flags: u32) {
        drive!(cuEventCreate(pointer(out), flags))
    }

    fn cudaEventDestroy(event: usize) {
        drive!(cuEventDestroy_v2(pointer(event)))
    }

    fn cudaEventRecord(event: usize, stream: usize) {
        drive!(cuEventRecord(pointer(event), pointer(stream)))
    }

    fn cudaEventSynchronize(event: usize) {
        drive!(cuEventSynchronize(pointer(event)))
    }

    fn cudaEventQuery(event: usize) {
        drive!(cuEventQuery(pointer(event)))
    }

    fn cudaEventElapsedTime(milliseconds: usize, start: usize, end: usize) {
        // SAFETY: the driver checks the handles.
        let elapsed = unsafe { cudarc::driver::result::event::elapsed(pointer(start), pointer(end)) };
        write(milliseconds, elapsed.map_err(|error| error.0 as i32)?)
    }

    fn cudaStreamBeginCapture(stream: usize, mode: i32) {
        use sys::CUstreamCaptureMode as Mode;
        let mode = match mode {
            0 => Mode::CU_STREAM_CAPTURE_MODE_GLOBAL,
            1 => Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL,
            2 => Mode::CU_STREAM_CAPTURE_MODE_RELAXED,
            _ => return Err(INVALID_VALUE),
        };
        drive!(cuStreamBeginCapture_v2(pointer(stream), mode))
    }

    fn cudaStreamEndCapture(stream: usize, graph: usize) {
        drive!(cuStreamEndCapture(pointer(stream), pointer(graph)))
    }

    fn cudaGraphInstantiate(out: usize, graph: usize, flags: u64) {
        drive!(cuGraphInstantiateWithFlags(pointer(out), pointer(graph), flags))
    }

    fn cudaGraphLaunch(graph: usize, stream: usize) {
        drive!(cuGraphLaunch(pointer(graph), pointer(stream)))
    }

    fn cudaGraphExecDestroy(graph: usize) {
        drive!(cuGraphExecDestroy(pointer(graph)))
    }

    fn cudaGraphDestroy(graph: usize) {
        drive!(cuGraphDestroy(pointer(graph)))
    }
}
