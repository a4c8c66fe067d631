//! What is freed too early is caught, on the device and on the host, in streams and in graphs; and nothing piles up.

mod support;

use cudarc::driver::sys::{self, CUresult};
use std::ffi::c_void;
use std::ptr::null_mut;
use support::in_child;
use support::raw::Kernel::{Add, Set};
use support::raw::{BYTES, Card, WORDS, first_word, synchronize};

const OK: CUresult = CUresult::CUDA_SUCCESS;
const ADDRESS: CUresult = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;
const VALUE: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;
const GLOBAL: sys::CUstreamCaptureMode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
/// The part that a child plays.
const CASE: &str = "PTXSIM_TEST_CASE";

fn case() -> String {
    std::env::var(CASE).unwrap_or_default()
}

fn allocate_on(stream: sys::CUstream) -> u64 {
    let mut address = 0;
    // SAFETY: a valid pointer.
    unsafe { sys::cuMemAllocAsync(&mut address, BYTES, stream).result().unwrap() };
    address
}

fn free_on(address: u64, stream: sys::CUstream) -> CUresult {
    // SAFETY: the virtual driver checks both.
    unsafe { sys::cuMemFreeAsync(address, stream) }
}

/// Work on one stream, then the free on another, which is waited for first: without a seed the free runs first.
#[test]
fn memory_freed_on_another_stream_is_gone_for_work_that_waits() {
    let name = "memory_freed_on_another_stream_is_gone_for_work_that_waits";
    for user in ["kernel", "copy", "fill", "reallocated", "ordered"] {
        let Some(told) = in_child(name, &[(CASE, user)], || {
            let card = Card::new(0);
            let (worker, freer, event) = (card.stream(), card.stream(), card.event());
            let (words, other) = (allocate_on(worker), allocate_on(worker));
            assert_eq!(card.launch(Set, words, worker), OK);
            assert_eq!(synchronize(worker), OK);
            // SAFETY: live handles and memory when the calls are made.
            unsafe {
                match case().as_str() {
                    "copy" => assert_eq!(sys::cuMemcpyDtoDAsync_v2(other, words, BYTES, worker), OK),
                    "fill" => assert_eq!(sys::cuMemsetD32Async(words, 5, WORDS, worker), OK),
                    _ => assert_eq!(card.launch(Add, words, worker), OK),
                }
                if case() == "ordered" {
                    sys::cuEventRecord(event, worker).result().unwrap();
                    sys::cuStreamWaitEvent(freer, event, 0).result().unwrap();
                }
            }
            assert_eq!(free_on(words, freer), OK);
            assert_eq!(synchronize(freer), OK);
            if case() == "reallocated" {
                // Of the same size, live and written: none may take the freed one's place.
                for _ in 0..300 {
                    assert_eq!(card.launch(Set, allocate_on(freer), freer), OK);
                }
                assert_eq!(synchronize(freer), OK);
            }
            let result = if case() == "ordered" { OK } else { ADDRESS };
            assert_eq!(synchronize(worker), result);
            assert_eq!(synchronize(freer), result, "it is sticky");
        }) else {
            return;
        };
        let freed =
            matches!(user, "ordered" | "reallocated") || told.contains("a freed allocation of 256 bytes");
        assert!(freed, "{user}");
    }
}

/// 256 bytes of pinned memory.
fn pinned() -> *mut c_void {
    let mut host = null_mut();
    // SAFETY: a valid pointer.
    unsafe { sys::cuMemHostAlloc(&mut host, BYTES, 0).result().unwrap() };
    host
}

#[test]
fn pinned_memory_freed_under_a_queued_copy_is_a_fault() {
    let name = "pinned_memory_freed_under_a_queued_copy_is_a_fault";
    for (how, faults) in [
        ("from", true),
        ("to", true),
        ("unregistered", true),
        ("registered again", true),
        ("graph", true),
        ("of another range", false),
        ("after the wait", false),
    ] {
        let Some(told) = in_child(name, &[(CASE, how)], || {
            let (card, case) = (Card::new(0), case());
            let (stream, words) = (card.stream(), card.words());
            assert_eq!(card.launch(Set, words, stream), OK);
            assert_eq!(synchronize(stream), OK);
            let mut own = vec![1u8; BYTES];
            // SAFETY: the memory is live when the copies are issued; that it is freed under them is what is tested.
            unsafe {
                let host = match case.as_str() {
                    "unregistered" | "registered again" => {
                        sys::cuMemHostRegister_v2(own.as_mut_ptr().cast(), BYTES, 0).result().unwrap();
                        own.as_mut_ptr().cast()
                    }
                    _ => pinned(),
                };
                if case == "graph" {
                    sys::cuStreamBeginCapture_v2(stream, GLOBAL).result().unwrap();
                }
                match case.as_str() {
                    "to" => sys::cuMemcpyDtoHAsync_v2(host, words, BYTES, stream),
                    _ => sys::cuMemcpyHtoDAsync_v2(words, host, BYTES, stream),
                }
                .result()
                .unwrap();
                let mut executable = null_mut();
                if case == "graph" {
                    let mut graph = null_mut();
                    sys::cuStreamEndCapture(stream, &mut graph).result().unwrap();
                    sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0).result().unwrap();
                    // Once with the memory there.
                    sys::cuGraphLaunch(executable, stream).result().unwrap();
                    assert_eq!(synchronize(stream), OK);
                    sys::cuGraphLaunch(executable, stream).result().unwrap();
                }
                match case.as_str() {
                    "unregistered" => assert_eq!(sys::cuMemHostUnregister(host), OK),
                    "registered again" => {
                        assert_eq!(sys::cuMemHostUnregister(host), OK);
                        assert_eq!(sys::cuMemHostRegister_v2(host, BYTES, 0), OK);
                    }
                    "of another range" => assert_eq!(sys::cuMemFreeHost(pinned()), OK),
                    "after the wait" => {
                        assert_eq!(synchronize(stream), OK);
                        assert_eq!(sys::cuMemFreeHost(host), OK);
                    }
                    _ => assert_eq!(sys::cuMemFreeHost(host), OK),
                }
            }
            let faults = !matches!(case.as_str(), "of another range" | "after the wait");
            assert_eq!(synchronize(stream), if faults { ADDRESS } else { OK });
            assert_eq!(card.launch(Set, words, stream), if faults { ADDRESS } else { OK }, "it is sticky");
        }) else {
            return;
        };
        assert_eq!(told.contains("256 bytes of pinned memory"), faults, "{how}: {told}");
    }
}

/// Captures what `issue` does, so many nodes; gives the executable graph.
fn capture(stream: sys::CUstream, expected: usize, issue: impl FnOnce()) -> sys::CUgraphExec {
    let (mut graph, mut executable, mut nodes) = (null_mut(), null_mut(), 0);
    // SAFETY: valid pointers and handles.
    unsafe {
        sys::cuStreamBeginCapture_v2(stream, GLOBAL).result().unwrap();
        issue();
        sys::cuStreamEndCapture(stream, &mut graph).result().unwrap();
        sys::cuGraphGetNodes(graph, null_mut(), &mut nodes).result().unwrap();
        assert_eq!(nodes, expected);
        sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0).result().unwrap();
        sys::cuGraphDestroy(graph).result().unwrap();
    }
    executable
}

/// A graph that frees memory which it did not allocate can run once: there is nothing to free the second time.
#[test]
fn a_graph_that_frees_memory_of_others_runs_once() {
    let told = in_child("a_graph_that_frees_memory_of_others_runs_once", &[], || {
        let card = Card::new(0);
        let stream = card.stream();
        let words = allocate_on(stream);
        assert_eq!(synchronize(stream), OK);
        let graph = capture(stream, 2, || {
            assert_eq!(card.launch(Set, words, stream), OK);
            assert_eq!(free_on(words, stream), OK);
        });
        assert_eq!(card.launch(Set, words, stream), OK);
        assert_eq!(first_word(words, stream), Ok(7), "capturing a free frees nothing");
        // SAFETY: live handles.
        unsafe {
            assert_eq!(sys::cuGraphLaunch(graph, stream), OK);
            assert_eq!(synchronize(stream), OK);
            assert_eq!(free_on(words, stream), VALUE, "the graph has freed it");
            assert_eq!(sys::cuGraphLaunch(graph, stream), OK);
            assert_eq!(synchronize(stream), ADDRESS, "the kernel of the second launch finds it gone");
            assert_eq!(sys::cuGraphLaunch(graph, stream), ADDRESS);
        }
    });
    assert!(told.is_none_or(|told| told.contains("a freed allocation of 256 bytes")));
}

#[test]
fn memory_freed_twice_by_a_graph_is_an_error() {
    let told = in_child("memory_freed_twice_by_a_graph_is_an_error", &[], || {
        let card = Card::new(0);
        let stream = card.stream();
        let (words, kept) = (allocate_on(stream), allocate_on(stream));
        assert_eq!(synchronize(stream), OK);
        let graph = capture(stream, 2, || {
            assert_eq!(card.launch(Set, kept, stream), OK);
            assert_eq!(free_on(words, stream), OK);
        });
        // SAFETY: live handles.
        unsafe {
            for _ in 0..2 {
                assert_eq!(sys::cuGraphLaunch(graph, stream), OK);
            }
        }
        assert_eq!(synchronize(stream), VALUE);
        assert_eq!(card.launch(Set, kept, stream), VALUE, "it is sticky");
    });
    assert!(told.is_none_or(|told| told.contains("is not the start of a live allocation")));
}

/// Memory that a graph allocates and frees is there at each launch, and unwritten.
#[test]
fn a_graph_that_frees_its_own_memory_runs_again() {
    let told = in_child("a_graph_that_frees_its_own_memory_runs_again", &[("PTXSIM_CHECKS", "all")], || {
        let card = Card::new(0);
        let (stream, words) = (card.stream(), card.words());
        for (first, result) in [(Set, OK), (Add, CUresult::CUDA_ERROR_LAUNCH_FAILED)] {
            let graph = capture(stream, 5, || {
                let own = allocate_on(stream);
                assert_eq!(card.launch(first, own, stream), OK);
                assert_eq!(card.launch(Add, own, stream), OK);
                // SAFETY: live memory of that length.
                unsafe { sys::cuMemcpyDtoDAsync_v2(words, own, BYTES, stream).result().unwrap() };
                assert_eq!(free_on(own, stream), OK);
            });
            for _ in 0..3 {
                // SAFETY: live handles.
                assert_eq!(unsafe { sys::cuGraphLaunch(graph, stream) }, OK);
            }
            assert_eq!(synchronize(stream), result);
            assert_eq!(first_word(words, stream), if result == OK { Ok(8) } else { Err(result) });
        }
    });
    assert!(told.is_none_or(|told| told.contains("Uninitialized in kernel `add`")));
}

#[test]
fn a_graph_that_is_destroyed_while_it_is_queued_still_runs() {
    in_child("a_graph_that_is_destroyed_while_it_is_queued_still_runs", &[], || {
        let card = Card::new(0);
        let (stream, words) = (card.stream(), card.words());
        let graph = capture(stream, 2, || {
            assert_eq!(card.launch(Set, words, stream), OK);
            assert_eq!(card.launch(Add, words, stream), OK);
        });
        // SAFETY: a live handle, then none.
        unsafe {
            assert_eq!(sys::cuGraphLaunch(graph, stream), OK);
            assert_eq!(sys::cuGraphExecDestroy(graph), OK);
            assert_eq!(sys::cuGraphLaunch(graph, stream), VALUE);
        }
        assert_eq!(first_word(words, stream), Ok(8));
    });
}

#[test]
fn the_legacy_stream_tells_of_a_capture_it_would_disturb() {
    in_child("the_legacy_stream_tells_of_a_capture_it_would_disturb", &[], || {
        let card = Card::new(0);
        let (free, mut blocking, words) = (card.stream(), null_mut(), card.words());
        use sys::CUstreamCaptureStatus as Status;
        let status = |stream| {
            let mut status = Status::CU_STREAM_CAPTURE_STATUS_INVALIDATED;
            // SAFETY: a valid pointer and a live stream.
            unsafe {
                sys::cuStreamIsCapturing(stream, &mut status).result().map(|()| status).map_err(|e| e.0)
            }
        };
        let (none, active) = (Status::CU_STREAM_CAPTURE_STATUS_NONE, Status::CU_STREAM_CAPTURE_STATUS_ACTIVE);
        let implicit = CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
        // SAFETY: a valid pointer.
        unsafe { sys::cuStreamCreate(&mut blocking, 0).result().unwrap() };
        let launches = |stream| {
            assert_eq!(card.launch(Set, words, stream), OK);
            assert_eq!(card.launch(Add, words, stream), OK);
        };
        capture(free, 2, || {
            assert_eq!(
                (status(null_mut()), status(free), status(blocking)),
                (Ok(none), Ok(active), Ok(none))
            );
            launches(free);
        });
        capture(blocking, 2, || {
            assert_eq!(
                (status(null_mut()), status(blocking), status(free)),
                (Err(implicit), Ok(active), Ok(none))
            );
            assert_eq!(card.launch(Set, words, null_mut()), implicit);
            launches(blocking);
        });
        assert_eq!(status(null_mut()), Ok(none));
    });
}

/// The most memory that this process has had so far.
fn peak_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() * 1024
}

/// Queues rounds of every kind of work, and waits for none of it.
#[test]
fn a_long_queue_does_not_pile_up() {
    const ROUNDS: usize = 4_500;
    /// Enough for every queue to be full and drained twice.
    const BEFORE: usize = 4_500;
    /// 20 bytes a round: less than an entry of any table or queue.
    const MOST_GROWTH: usize = 20 * ROUNDS;
    in_child("a_long_queue_does_not_pile_up", &[], || {
        let card = Card::new(0);
        let (stream, other, host) = (card.stream(), card.stream(), pinned());
        let (words, kept) = (allocate_on(stream), card.words());
        assert_eq!(card.launch(Set, words, stream), OK);
        assert_eq!(card.launch(Set, kept, stream), OK);
        assert_eq!(synchronize(stream), OK);
        let graph = capture(stream, 2, || {
            assert_eq!(card.launch(Add, kept, stream), OK);
            assert_eq!(card.launch(Add, kept, stream), OK);
        });
        let taken = [9u8; BYTES];
        let round = || {
            let scratch = allocate_on(stream);
            let event = card.event();
            // SAFETY: live handles and memory; what a queued copy uses outlives the test.
            unsafe {
                sys::cuMemcpyHtoDAsync_v2(scratch, taken.as_ptr().cast(), BYTES, stream).result().unwrap();
                sys::cuMemcpyDtoHAsync_v2(host, scratch, BYTES, stream).result().unwrap();
                for _ in 0..4 {
                    assert_eq!(card.launch(Add, words, stream), OK);
                }
                sys::cuGraphLaunch(graph, stream).result().unwrap();
                sys::cuMemsetD32Async(scratch, 1, WORDS, stream).result().unwrap();
                sys::cuEventRecord(event, stream).result().unwrap();
                sys::cuStreamWaitEvent(other, event, 0).result().unwrap();
                sys::cuEventDestroy_v2(event).result().unwrap();
            }
            assert_eq!(free_on(scratch, other), OK);
            let passing = card.stream();
            assert_eq!(card.launch(Add, kept, passing), OK);
            // SAFETY: a live stream, which ends its work though it is destroyed.
            unsafe { sys::cuStreamDestroy_v2(passing).result().unwrap() };
        };
        (0..BEFORE).for_each(|_| round());
        let before = peak_bytes();
        (0..ROUNDS).for_each(|_| round());
        let growth = peak_bytes() - before;
        assert!(growth < MOST_GROWTH, "{growth} bytes more after {ROUNDS} rounds");
        assert_eq!(first_word(words, stream), Ok(7 + 4 * (ROUNDS + BEFORE) as u32));
    });
}
