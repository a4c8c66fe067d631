//! The driver API without kernels: devices, memory, order of streams, capture, bad arguments. Through cudarc.

mod support;

use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaContext, CudaStream, DriverError};
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ptr::null_mut;
use std::sync::{Arc, mpsc};
use support::in_child;

fn context() -> Arc<CudaContext> {
    CudaContext::new(0).expect("the virtual card")
}

/// The code of a raw call.
fn code(result: CUresult) -> u32 {
    result as u32
}

#[test]
fn cards_are_what_they_are() {
    // Name, compute capability, SMs, shared memory a block can be raised to, L2: from the vendor's tables.
    for (name, capability, multiprocessors, shared, l2) in [
        ("a100", (8, 0), 108, 166_912, 40 << 20),
        ("rtx4090", (8, 9), 128, 101_376, 72 << 20),
        ("h100", (9, 0), 132, 232_448, 50 << 20),
        ("h200", (9, 0), 132, 232_448, 60 << 20),
    ] {
        in_child("cards_are_what_they_are", &[("PTXSIM_DEVICE", name)], || {
            if std::env::var("PTXSIM_DEVICE").as_deref() != Ok(name) {
                return;
            }
            use sys::CUdevice_attribute as A;
            let context = context();
            let attribute = |a| context.attribute(a).unwrap();
            assert_eq!(context.compute_capability().unwrap(), capability);
            assert_eq!(attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT), multiprocessors);
            assert_eq!(attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN), shared);
            assert_eq!(attribute(A::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE), l2);
            assert_eq!(attribute(A::CU_DEVICE_ATTRIBUTE_WARP_SIZE), 32);
            assert!(context.name().unwrap().contains(name));
        });
    }
}

#[test]
fn an_unknown_card_is_an_error_with_a_line() {
    let told = in_child("an_unknown_card_is_an_error_with_a_line", &[("PTXSIM_DEVICE", "voodoo2")], || {
        assert!(CudaContext::new(0).is_err());
    });
    assert!(told.is_none_or(|told| told.contains("voodoo2") && told.contains("a100")));
}

#[test]
fn the_release_of_cuda_is_that_of_the_environment() {
    let name = "the_release_of_cuda_is_that_of_the_environment";
    let ask = || {
        let mut version = 0;
        // SAFETY: writes one integer.
        let answer = unsafe { sys::cuDriverGetVersion(&raw mut version) };
        eprintln!("{answer:?} {version}");
    };
    for (release, said) in
        [("13.0", "CUDA_SUCCESS 13000"), ("12.4", "CUDA_SUCCESS 12040"), ("new", "allowed: a release like")]
    {
        let told = in_child(name, &[("PTXSIM_CUDA", release)], ask);
        assert!(told.is_none_or(|told| told.contains(said)), "{release}");
    }
}

#[test]
fn copies_and_fills() {
    in_child("copies_and_fills", &[], || {
        let stream = context().default_stream();
        let values: Vec<u32> = (0..1000).map(|i| i * 7).collect();
        let first = stream.clone_htod(&values).unwrap();
        let mut second = stream.alloc_zeros::<u32>(1000).unwrap();
        stream.memcpy_dtod(&first.slice(100..400), &mut second.slice_mut(200..500)).unwrap();
        let back = stream.clone_dtoh(&second).unwrap();
        let expected: Vec<u32> =
            (0..1000).map(|i| if (200..500).contains(&i) { (i - 100) * 7 } else { 0 }).collect();
        assert_eq!(back, expected);
    });
}

/// Two streams that nothing orders: with some seed the copy runs before the fill, with an event never.
#[test]
fn only_events_order_two_streams() {
    let run = |seed: &str, with_event: bool| -> u8 {
        let seeds = [("PTXSIM_SEED", seed), ("PTXSIM_TEST_EVENT", if with_event { "1" } else { "0" })];
        let told = in_child("only_events_order_two_streams", &seeds, || {});
        told.and_then(|told| told.split("first byte ").nth(1)?.split_whitespace().next()?.parse().ok())
            .expect("the child tells the byte")
    };
    if std::env::var_os("PTXSIM_TEST_EVENT").is_some() {
        let context = context();
        let (writer, reader) = (context.new_stream().unwrap(), context.new_stream().unwrap());
        // SAFETY: every byte is written before it is read back, by one of two fills.
        let mut data = unsafe { writer.alloc::<u8>(64) }.unwrap();
        writer.memcpy_htod(&[1u8; 64], &mut data).unwrap();
        writer.synchronize().unwrap();
        let address = raw(&writer, &data);
        // SAFETY: a live allocation of 64 bytes.
        unsafe { sys::cuMemsetD8Async(address, 2, 64, writer.cu_stream()).result().unwrap() };
        if std::env::var("PTXSIM_TEST_EVENT").as_deref() == Ok("1") {
            reader.wait(&writer.record_event(None).unwrap()).unwrap();
        }
        let mut out = [0u8; 64];
        // SAFETY: `out` outlives the copy: a copy into pageable memory blocks.
        unsafe {
            sys::cuMemcpyDtoHAsync_v2(out.as_mut_ptr().cast(), address, 64, reader.cu_stream())
                .result()
                .unwrap()
        };
        eprintln!("first byte {}", out[0]);
        return;
    }
    let unordered: Vec<u8> = (1..12).map(|seed| run(&seed.to_string(), false)).collect();
    assert!(unordered.contains(&1) && unordered.contains(&2), "some seed gives each order: {unordered:?}");
    assert!((1..8).all(|seed| run(&seed.to_string(), true) == 2), "an event orders them");
    assert_eq!(run("", false), 1, "without a seed only what a wait needs has run");
}

fn raw<T>(stream: &Arc<CudaStream>, data: &cudarc::driver::CudaSlice<T>) -> u64 {
    use cudarc::driver::DevicePtr;
    data.device_ptr(stream).0
}

#[test]
fn a_captured_graph_replays() {
    in_child("a_captured_graph_replays", &[], || {
        let context = context();
        // SAFETY: one stream, so no event is needed for order.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().unwrap();
        let source = stream.clone_htod(&[5u32; 8]).unwrap();
        let mut target = stream.alloc_zeros::<u32>(8).unwrap();
        stream.synchronize().unwrap();
        stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
        stream.memcpy_dtod(&source, &mut target).unwrap();
        // Waiting inside a capture is refused, and breaks it.
        let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.end_capture(flags).unwrap().expect("a graph");
        assert_eq!(stream.clone_dtoh(&target).unwrap(), [0; 8], "a capture runs nothing");
        graph.launch().unwrap();
        assert_eq!(stream.clone_dtoh(&target).unwrap(), [5; 8]);
        stream.memset_zeros(&mut target).unwrap();
        graph.launch().unwrap();
        assert_eq!(stream.clone_dtoh(&target).unwrap(), [5; 8], "the same graph runs again");

        stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
        assert_eq!(stream.synchronize(), Err(DriverError(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)));
        assert!(stream.end_capture(flags).is_err());
    });
}

/// Null, foreign and stale arguments give the driver's code; the process lives on.
#[test]
fn bad_arguments_are_codes() {
    in_child("bad_arguments_are_codes", &[], || {
        let context = context();
        let stream = context.default_stream();
        let data = stream.clone_htod(&[1u8; 256]).unwrap();
        let address = raw(&stream, &data);
        let mut out = [0u8; 512];
        let host = out.as_mut_ptr().cast();
        let foreign = 0x1234_5000usize as *mut std::ffi::c_void;
        const VALUE: u32 = CUresult::CUDA_ERROR_INVALID_VALUE as u32;
        const HANDLE: u32 = CUresult::CUDA_ERROR_INVALID_HANDLE as u32;
        // SAFETY: that is what is tested: the virtual driver checks every pointer.
        unsafe {
            assert_eq!(code(sys::cuMemAlloc_v2(null_mut(), 16)), VALUE);
            assert_eq!(code(sys::cuMemAlloc_v2(foreign.cast(), 16)), VALUE);
            let mut place = 0;
            assert_eq!(code(sys::cuMemAlloc_v2(&mut place, 0)), VALUE);
            assert_eq!(
                code(sys::cuMemAlloc_v2(&mut place, usize::MAX)),
                CUresult::CUDA_ERROR_OUT_OF_MEMORY as u32
            );
            assert_eq!(code(sys::cuMemFree_v2(address + 1)), VALUE);
            assert_eq!(code(sys::cuMemFree_v2(0xdead_0000)), VALUE);
            assert_eq!(code(sys::cuMemcpyDtoH_v2(host, address, 257)), VALUE, "past the allocation");
            assert_eq!(code(sys::cuMemcpyDtoH_v2(null_mut(), address, 16)), VALUE);
            assert_eq!(code(sys::cuMemcpyDtoH_v2(foreign, address, 16)), VALUE);
            assert_eq!(code(sys::cuMemcpyHtoD_v2(address, foreign, 16)), VALUE);
            assert_eq!(code(sys::cuMemcpyHtoD_v2(8, host, 16)), VALUE);
            assert_eq!(code(sys::cuStreamSynchronize(foreign.cast())), HANDLE);
            assert_eq!(code(sys::cuEventQuery(null_mut())), HANDLE);
            assert_eq!(code(sys::cuEventRecord(foreign.cast(), null_mut())), HANDLE);
            assert_eq!(code(sys::cuModuleUnload(foreign.cast())), HANDLE);
            assert_eq!(
                code(sys::cuLaunchKernel(
                    foreign.cast(),
                    1,
                    1,
                    1,
                    1,
                    1,
                    1,
                    0,
                    null_mut(),
                    null_mut(),
                    null_mut()
                )),
                HANDLE
            );
            assert_eq!(code(sys::cuGraphLaunch(foreign.cast(), null_mut())), VALUE);
            let mut module = null_mut();
            assert_eq!(code(sys::cuModuleLoadData(&mut module, null_mut())), VALUE);
            assert_eq!(code(sys::cuModuleLoadData(&mut module, foreign)), VALUE);
            assert_eq!(
                code(sys::cuModuleLoadData(&mut module, c"\x7fELF".as_ptr().cast())),
                CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU as u32
            );
            let mut device = 0;
            assert_eq!(code(sys::cuDeviceGet(&mut device, 7)), CUresult::CUDA_ERROR_INVALID_DEVICE as u32);
            let mut name = MaybeUninit::uninit();
            assert_eq!(code(sys::cuGetErrorName(CUresult::CUDA_ERROR_NOT_READY, name.as_mut_ptr())), 0);
            assert_eq!(std::ffi::CStr::from_ptr(name.assume_init()), c"CUDA_ERROR_NOT_READY");
        }
        assert_eq!(stream.clone_dtoh(&data).unwrap(), [1; 256], "and the context is as good as new");
    });
}

#[test]
fn what_is_not_there_says_so_once() {
    let told = in_child("what_is_not_there_says_so_once", &[], || {
        let _context = context();
        for _ in 0..3 {
            let mut graph = null_mut();
            // SAFETY: a call with valid arguments.
            let result = unsafe { sys::cuGraphCreate(&mut graph, 0) };
            assert_eq!(result, CUresult::CUDA_ERROR_NOT_SUPPORTED);
        }
    });
    assert!(told.is_none_or(|told| told.matches("cuGraphCreate").count() == 1));
}

#[test]
fn leaks_are_told_when_the_context_ends() {
    let told = in_child("leaks_are_told_when_the_context_ends", &[], || {
        let context = context();
        let stream = context.default_stream();
        let leaked = stream.alloc_zeros::<u8>(12_345).unwrap();
        let _ = leaked.leak();
        drop(stream);
        drop(context);
    });
    assert!(told.is_none_or(|told| told.contains("leak: 1 allocations (12345 bytes)")));
}

#[test]
fn a_context_retained_while_it_is_released_lives_on() {
    /// One side tells the other that the last release has begun; it waits for the other to have retained.
    struct Meeting {
        released: mpsc::Sender<()>,
        retained: mpsc::Receiver<()>,
    }

    extern "C" fn meet(meeting: *mut c_void) {
        // SAFETY: the data that the work was issued with; the test keeps it until the work has run.
        let meeting = unsafe { &*meeting.cast::<Meeting>() };
        meeting.released.send(()).unwrap();
        meeting.retained.recv().unwrap();
    }

    in_child("a_context_retained_while_it_is_released_lives_on", &[], || {
        let (release, released) = mpsc::channel();
        let (retain, retained) = mpsc::channel();
        let mut meeting = Meeting { released: release, retained };
        let context = context();
        // SAFETY: the stream is the context's; `meet` takes what it is given, which outlives the context's release,
        // the latest that this work runs.
        let issued = unsafe {
            sys::cuLaunchHostFunc(context.default_stream().cu_stream(), Some(meet), (&raw mut meeting).cast())
        };
        assert_eq!(issued, CUresult::CUDA_SUCCESS);
        let other = std::thread::spawn(move || {
            released.recv().unwrap();
            let context = CudaContext::new(0).unwrap();
            retain.send(()).unwrap();
            context
        });
        drop(context);
        // Where the release did not wait for the work, the other side fails instead of waiting.
        drop(meeting);
        let stream = other.join().unwrap().default_stream();
        let data = stream.clone_htod(&[3u32; 64]).unwrap();
        assert_eq!(stream.clone_dtoh(&data).unwrap(), [3; 64]);
    });
}
