//! Flags and attributes: each is honoured, or refused by the driver's code. And queries: they wait for nobody.

mod support;

use cudarc::driver::sys::{self, CUresult};
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::mpsc;
use support::in_child;
use support::raw::Kernel::{Add, Set};
use support::raw::{Card, WORDS, first_word, symbol, synchronize};

const OK: CUresult = CUresult::CUDA_SUCCESS;
const VALUE: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;
const UNSUPPORTED: CUresult = CUresult::CUDA_ERROR_NOT_SUPPORTED;
const NOT_READY: CUresult = CUresult::CUDA_ERROR_NOT_READY;
const FORBIDDEN: CUresult = CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;

#[test]
fn context_flags_are_checked_and_told() {
    type Create = unsafe extern "C" fn(*mut sys::CUcontext, u32, i32) -> CUresult;
    in_child("context_flags_are_checked_and_told", &[], || {
        // SAFETY: no arguments; the function of this name has this type.
        unsafe { sys::cuInit(0).result().unwrap() };
        // SAFETY: as above.
        let create = unsafe { std::mem::transmute::<*mut c_void, Create>(symbol(c"cuCtxCreate_v2")) };
        let (mut context, mut flags, mut active) = (null_mut(), 0, 0);
        // SAFETY: valid pointers.
        unsafe {
            for (asked, expected) in
                [(0, OK), (0x94, OK), (3, VALUE), (0x100, VALUE), (0x20, UNSUPPORTED), (0x41, UNSUPPORTED)]
            {
                assert_eq!(create(&mut context, asked, 0), expected, "{asked:#x}");
                assert_eq!(sys::cuDevicePrimaryCtxSetFlags_v2(0, asked), expected, "{asked:#x}");
                if expected == OK {
                    assert_eq!((sys::cuCtxGetFlags(&mut flags), flags), (OK, asked));
                    assert_eq!(sys::cuDevicePrimaryCtxGetState(0, &mut flags, &mut active), OK);
                    assert_eq!((flags, active), (asked, 0));
                }
            }
            assert_eq!(sys::cuCtxSetCacheConfig(sys::CUfunc_cache::CU_FUNC_CACHE_PREFER_L1), OK);
        }
    });
}

#[test]
fn event_flags_are_checked() {
    in_child("event_flags_are_checked", &[], || {
        let card = Card::new(0);
        let (stream, event, mut other) = (card.stream(), card.event(), null_mut());
        // SAFETY: valid pointers and handles.
        unsafe {
            for (flags, expected) in [(3, OK), (8, VALUE), (4, VALUE), (6, UNSUPPORTED)] {
                assert_eq!(sys::cuEventCreate(&mut other, flags), expected, "{flags}");
            }
            for (flags, expected) in [(0, OK), (1, VALUE), (2, VALUE)] {
                assert_eq!(sys::cuEventRecordWithFlags(event, stream, flags), expected, "{flags}");
                assert_eq!(sys::cuStreamWaitEvent(stream, event, flags), expected, "{flags}");
            }
            begin(stream, sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED);
            assert_eq!(sys::cuEventRecordWithFlags(event, stream, 1), UNSUPPORTED, "a node of the graph");
            assert_eq!(sys::cuStreamWaitEvent(stream, event, 1), UNSUPPORTED);
        }
    });
}

fn begin(stream: sys::CUstream, mode: sys::CUstreamCaptureMode) {
    // SAFETY: a live stream.
    unsafe { sys::cuStreamBeginCapture_v2(stream, mode).result().unwrap() }
}

fn end(stream: sys::CUstream) -> Result<sys::CUgraph, CUresult> {
    let mut graph = null_mut();
    // SAFETY: a valid pointer and a live stream.
    unsafe { sys::cuStreamEndCapture(stream, &mut graph) }.result().map(|()| graph).map_err(|e| e.0)
}

#[test]
fn instantiation_flags_are_checked_and_told() {
    in_child("instantiation_flags_are_checked_and_told", &[], || {
        let card = Card::new(0);
        let stream = card.stream();
        begin(stream, sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL);
        let graph = end(stream).unwrap();
        let (mut executable, mut told) = (null_mut(), 0);
        // SAFETY: valid pointers and handles; all-zero bytes are valid parameters.
        unsafe {
            for (flags, plain, with_parameters) in [
                (0, OK, OK),
                (1, OK, OK),
                (8, OK, OK),
                (2, VALUE, OK),
                (4, UNSUPPORTED, UNSUPPORTED),
                // The two exclude each other.
                (5, VALUE, VALUE),
                (16, VALUE, VALUE),
                (1 << 40, VALUE, VALUE),
            ] {
                assert_eq!(sys::cuGraphInstantiateWithFlags(&mut executable, graph, flags), plain, "{flags}");
                let mut parameters: sys::CUDA_GRAPH_INSTANTIATE_PARAMS = std::mem::zeroed();
                parameters.flags = flags;
                let code = sys::cuGraphInstantiateWithParams(&mut executable, graph, &mut parameters);
                assert_eq!((code, parameters.result_out as u32), (with_parameters, u32::from(code != OK)));
                if code == OK {
                    assert_eq!((sys::cuGraphExecGetFlags(executable, &mut told), told), (OK, flags));
                }
            }
        }
    });
}

/// What a launch of a graph left allocated must be freed before the next, by the program or by the flag.
#[test]
fn memory_that_a_graph_left_is_freed_by_the_flag_alone() {
    for (flags, freed, result) in [("0", false, VALUE), ("1", false, OK), ("0", true, OK)] {
        let case = [("PTXSIM_TEST_CASE", flags), ("PTXSIM_TEST_FREED", if freed { "1" } else { "0" })];
        let Some(told) = in_child("memory_that_a_graph_left_is_freed_by_the_flag_alone", &case, || {
            let flags: u64 = std::env::var("PTXSIM_TEST_CASE").unwrap().parse().unwrap();
            let freed = std::env::var("PTXSIM_TEST_FREED").as_deref() == Ok("1");
            let card = Card::new(0);
            let (stream, mut address, mut executable) = (card.stream(), 0, null_mut());
            begin(stream, sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL);
            // SAFETY: valid pointers and handles.
            unsafe {
                sys::cuMemAllocAsync(&mut address, 4 * WORDS, stream).result().unwrap();
                assert_eq!(card.launch(Set, address, stream), OK);
                let graph = end(stream).unwrap();
                sys::cuGraphInstantiateWithFlags(&mut executable, graph, flags).result().unwrap();
                for _ in 0..2 {
                    assert_eq!(sys::cuGraphLaunch(executable, stream), OK);
                    if freed {
                        sys::cuMemFreeAsync(address, stream).result().unwrap();
                    }
                }
            }
            assert_eq!(synchronize(stream), if flags == 0 && !freed { VALUE } else { OK });
        }) else {
            return;
        };
        assert_eq!(told.contains("AUTO_FREE_ON_LAUNCH"), result == VALUE, "{flags} {freed}");
    }
}

/// By the table of cuThreadExchangeStreamCaptureMode: what a thread may do while it, or another, captures.
#[test]
fn a_capture_forbids_by_its_mode() {
    use sys::CUstreamCaptureMode as Mode;
    const GLOBAL: Mode = Mode::CU_STREAM_CAPTURE_MODE_GLOBAL;
    const LOCAL: Mode = Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    const RELAXED: Mode = Mode::CU_STREAM_CAPTURE_MODE_RELAXED;
    in_child("a_capture_forbids_by_its_mode", &[], || {
        let card = Card::new(0);
        let stream = card.stream();
        let allocate = |thread: Mode| {
            let (mut mode, mut address) = (thread, 0);
            // SAFETY: valid pointers.
            unsafe {
                sys::cuThreadExchangeStreamCaptureMode(&mut mode).result().unwrap();
                let answer = sys::cuMemAlloc_v2(&mut address, 16);
                sys::cuThreadExchangeStreamCaptureMode(&mut mode).result().unwrap();
                assert_eq!(mode, thread);
                answer
            }
        };
        let context = card.context.addr();
        for (capture, own, others) in [
            (GLOBAL, [FORBIDDEN, FORBIDDEN, OK], [FORBIDDEN, OK, OK]),
            (LOCAL, [FORBIDDEN, FORBIDDEN, OK], [OK; 3]),
            (RELAXED, [OK; 3], [OK; 3]),
        ] {
            begin(stream, capture);
            let handle = stream.addr();
            std::thread::scope(|scope| {
                let other = scope.spawn(|| {
                    // SAFETY: a live context.
                    unsafe {
                        sys::cuCtxSetCurrent(std::ptr::without_provenance_mut(context)).result().unwrap()
                    };
                    let stream = std::ptr::without_provenance_mut(handle);
                    let ended = (capture != RELAXED).then(|| end(stream).unwrap_err());
                    ([GLOBAL, LOCAL, RELAXED].map(allocate), ended)
                });
                let (answers, ended) = other.join().unwrap();
                assert_eq!(answers, others, "another thread, {capture:?}");
                let wrong = CUresult::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
                assert!(ended.is_none_or(|ended| ended == wrong), "{ended:?}");
            });
            assert_eq!([GLOBAL, LOCAL, RELAXED].map(allocate), own, "the same thread, {capture:?}");
            end(stream).unwrap();
        }
    });
}

#[test]
fn launch_attributes_are_taken_or_refused() {
    in_child("launch_attributes_are_taken_or_refused", &[], || {
        let card = Card::new(0);
        let mut words = card.words();
        let mut values = [(&raw mut words).cast::<c_void>()];
        for (number, expected) in [
            (0, OK),
            (1, OK),
            (3, VALUE),
            (7, UNSUPPORTED),
            (8, OK),
            (12, UNSUPPORTED),
            (13, UNSUPPORTED),
            (14, OK),
            (19, VALUE),
        ] {
            // The number, then 68 bytes of padding and value, all zero.
            let mut attribute = [0u32; 18];
            attribute[0] = number;
            let config = sys::CUlaunchConfig {
                gridDimX: 1,
                gridDimY: 1,
                gridDimZ: 1,
                blockDimX: WORDS as u32,
                blockDimY: 1,
                blockDimZ: 1,
                sharedMemBytes: 0,
                hStream: null_mut(),
                attrs: attribute.as_mut_ptr().cast(),
                numAttrs: 1,
            };
            // SAFETY: valid pointers to live values.
            let answer = unsafe {
                sys::cuLaunchKernelEx(&config, card.function(Set), values.as_mut_ptr(), null_mut())
            };
            assert_eq!(answer, expected, "attribute {number}");
        }
    });
}

#[test]
fn pools_keep_their_attributes_and_their_place() {
    use sys::CUmemPool_attribute_enum as A;
    in_child("pools_keep_their_attributes_and_their_place", &[("PTXSIM_DEVICES", "2")], || {
        let card = Card::new(0);
        let (stream, mut first, mut own, mut current) = (card.stream(), null_mut(), null_mut(), null_mut());
        // SAFETY: valid pointers and handles; all-zero bytes are valid properties.
        unsafe {
            let mut properties: sys::CUmemPoolProps = std::mem::zeroed();
            assert_eq!(sys::cuMemPoolCreate(&mut own, &properties), VALUE, "neither kind nor place");
            properties.allocType = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
            properties.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
            properties.maxSize = 1 << 20;
            assert_eq!(sys::cuMemPoolCreate(&mut own, &properties), UNSUPPORTED, "a limit");
            properties.maxSize = 0;
            assert_eq!(sys::cuMemPoolCreate(&mut own, &properties), OK);
            sys::cuDeviceGetDefaultMemPool(&mut first, 0).result().unwrap();
            assert_eq!(sys::cuDeviceSetMemPool(1, own), VALUE, "a pool of another card");
            assert_eq!(sys::cuDeviceSetMemPool(0, own), OK);
            assert_eq!((sys::cuDeviceGetMemPool(&mut current, 0), current), (OK, own));

            let get = |pool, attribute| {
                let mut value = 0u64;
                sys::cuMemPoolGetAttribute(pool, attribute, (&raw mut value).cast()).result().unwrap();
                value
            };
            let set = |attribute, mut value: u64| {
                sys::cuMemPoolSetAttribute(own, attribute, (&raw mut value).cast())
            };
            let mut address = 0;
            sys::cuMemAllocAsync(&mut address, 4096, stream).result().unwrap();
            sys::cuMemFreeAsync(address, stream).result().unwrap();
            assert_eq!(synchronize(stream), OK);
            let used = get(own, A::CU_MEMPOOL_ATTR_USED_MEM_CURRENT);
            assert_eq!(get(own, A::CU_MEMPOOL_ATTR_USED_MEM_HIGH), used + 4096, "from the current pool");
            assert_eq!(get(first, A::CU_MEMPOOL_ATTR_USED_MEM_HIGH), used);
            assert_eq!(set(A::CU_MEMPOOL_ATTR_USED_MEM_HIGH, 1), VALUE);
            assert_eq!(set(A::CU_MEMPOOL_ATTR_USED_MEM_HIGH, 0), OK);
            assert_eq!(get(own, A::CU_MEMPOOL_ATTR_USED_MEM_HIGH), used);
            assert_eq!(set(A::CU_MEMPOOL_ATTR_USED_MEM_CURRENT, 0), VALUE);
            assert_eq!(set(A::CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC, 2), VALUE);
            assert_eq!(set(A::CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC, 0), OK);
            assert_eq!(get(own, A::CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC), 0);
            assert_eq!(set(A::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, 1 << 40), OK);
            assert_eq!(get(own, A::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD), 1 << 40);

            assert_eq!(sys::cuMemPoolDestroy(own), OK);
            assert_eq!((sys::cuDeviceGetMemPool(&mut current, 0), current), (OK, first));
        }
    });
}

#[test]
fn occupancy_flags_are_checked() {
    in_child("occupancy_flags_are_checked", &[], || {
        let card = Card::new(0);
        let (mut blocks, mut bytes) = (0, 0);
        let function = card.function(Set);
        // SAFETY: valid pointers and handles.
        unsafe {
            for (flags, expected) in [(0, OK), (1, OK), (2, VALUE)] {
                let call = sys::cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags;
                assert_eq!(call(&mut blocks, function, 128, 0, flags), expected, "{flags}");
            }
            // 2048 threads to a multiprocessor.
            let free = |blocks, threads, bytes| {
                sys::cuOccupancyAvailableDynamicSMemPerBlock(bytes, function, blocks, threads)
            };
            assert_eq!((free(2, 1024, &mut bytes), free(3, 1024, &mut bytes)), (OK, VALUE));
            assert_eq!(free(2, 0, &mut bytes), VALUE);
            // Threads that no number of 32 bits holds are too many, and not none.
            for (block, expected) in [([128, 1, 1], OK), ([65_536, 65_536, 1], VALUE), ([u32::MAX; 3], VALUE)]
            {
                let mut config: sys::CUlaunchConfig = std::mem::zeroed();
                [config.blockDimX, config.blockDimY, config.blockDimZ] = block;
                let mut size = 0;
                let answer = sys::cuOccupancyMaxPotentialClusterSize(&mut size, function, &config);
                assert_eq!(answer, expected, "{block:?}");
            }
        }
    });
}

/// A query answers at once, also where a host function waits for whoever asks.
#[test]
fn a_query_answers_while_a_host_function_waits() {
    struct Gate {
        entered: mpsc::Sender<()>,
        open: mpsc::Receiver<()>,
    }
    extern "C" fn pass(gate: *mut c_void) {
        // SAFETY: the data that the work was issued with; the test keeps it until the stream is done.
        let gate = unsafe { &*gate.cast::<Gate>() };
        gate.entered.send(()).unwrap();
        gate.open.recv().unwrap();
    }
    in_child("a_query_answers_while_a_host_function_waits", &[], || {
        let card = Card::new(0);
        let (stream, event, words) = (card.stream(), card.event(), card.words());
        let ((entered, enters), (opens, open)) = (mpsc::channel(), mpsc::channel());
        let mut gate = Gate { entered, open };
        // SAFETY: valid handles; `pass` takes what it is given.
        let (stream_query, event_query) = unsafe {
            sys::cuLaunchHostFunc(stream, Some(pass), (&raw mut gate).cast()).result().unwrap();
            assert_eq!(card.launch(Set, words, stream), OK);
            sys::cuEventRecord(event, stream).result().unwrap();
            (|| sys::cuStreamQuery(stream), || sys::cuEventQuery(event))
        };
        assert_eq!(event_query(), NOT_READY);
        enters.recv().unwrap();
        for _ in 0..100 {
            assert_eq!(
                (stream_query(), event_query()),
                (NOT_READY, NOT_READY),
                "the function has not returned"
            );
        }
        opens.send(()).unwrap();
        while event_query() == NOT_READY {}
        assert_eq!((event_query(), stream_query()), (OK, OK));
        assert_eq!(first_word(words, stream), Ok(7));
    });
}

/// The legacy stream is ready when the blocking streams that it orders itself against are.
#[test]
fn a_query_of_the_legacy_stream_asks_for_blocking_streams() {
    in_child("a_query_of_the_legacy_stream_asks_for_blocking_streams", &[], || {
        let card = Card::new(0);
        let (words, free, mut blocking) = (card.words(), card.stream(), null_mut());
        // SAFETY: valid pointers and handles.
        unsafe {
            sys::cuStreamCreate(&mut blocking, 0).result().unwrap();
            assert_eq!(card.launch(Set, words, free), OK);
            assert_eq!(sys::cuStreamQuery(null_mut()), OK, "it does not wait for this stream");
            assert_eq!(synchronize(free), OK);
            assert_eq!(card.launch(Add, words, blocking), OK);
            assert_eq!((sys::cuStreamQuery(null_mut()), sys::cuStreamQuery(null_mut())), (NOT_READY, OK));
        }
        assert_eq!(first_word(words, free), Ok(8));
    });
}
