//! Modules, function attributes, launch checks: each wrong launch gives the driver's code. Through cudarc.

mod support;

use cudarc::driver::sys::{self, CUfunction_attribute as A, CUresult};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaStream, DriverError, LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::Ptx;
use std::ptr::null_mut;
use std::sync::Arc;
use support::in_child;

const PTX: &str = include_str!("data/scale.ptx");
const H200: &[(&str, &str)] = &[("PTXSIM_DEVICE", "h200")];

fn load(text: &str) -> Result<Arc<CudaModule>, CUresult> {
    CudaContext::new(0).unwrap().load_module(Ptx::from_src(text)).map_err(|DriverError(code)| code)
}

fn load_fatbin(bytes: &[u8]) -> Result<Arc<CudaModule>, CUresult> {
    CudaContext::new(0)
        .unwrap()
        .load_module(Ptx::from_binary(bytes.to_vec()))
        .map_err(|DriverError(code)| code)
}

#[test]
fn every_packing_of_a_fatbin_loads() {
    in_child("every_packing_of_a_fatbin_loads", H200, || {
        for bytes in [
            &include_bytes!("data/scale.plain.fatbin")[..],
            include_bytes!("data/scale.speed.fatbin"),
            include_bytes!("data/scale.balance.fatbin"),
            include_bytes!("data/scale.size.fatbin"),
        ] {
            let module = load_fatbin(bytes).unwrap();
            assert!(module.load_function("reverse").is_ok());
            let missing = module.load_function("no_such").map(|_| ()).unwrap_err();
            assert_eq!(missing.0, CUresult::CUDA_ERROR_NOT_FOUND);
        }
    });
}

#[test]
fn a_module_variable_has_its_initial_value() {
    in_child("a_module_variable_has_its_initial_value", &[], || {
        let module = load(PTX).unwrap();
        let stream = CudaContext::new(0).unwrap().default_stream();
        let table = module.get_global("table", &stream).unwrap();
        assert_eq!(stream.clone_dtoh(&table).unwrap(), [1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0]);
    });
}

#[test]
fn modules_that_do_not_fit_are_refused() {
    let told = in_child("modules_that_do_not_fit_are_refused", &[("PTXSIM_DEVICE", "a100")], || {
        let refused = |text: &str| load(text).map(|_| ()).unwrap_err();
        assert!(load(PTX).is_ok());
        assert_eq!(refused(&PTX.replace("sm_80", "sm_90a")), CUresult::CUDA_ERROR_INVALID_PTX);
        assert_eq!(refused(&PTX.replace("sm_80", "sm_100")), CUresult::CUDA_ERROR_INVALID_PTX);
        assert_eq!(
            refused(&PTX.replace(".version 9.0", ".version 9.9")),
            CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
        );
        assert_eq!(refused("this is no PTX"), CUresult::CUDA_ERROR_INVALID_PTX);
        assert_eq!(refused(&PTX[..PTX.len() / 2]), CUresult::CUDA_ERROR_INVALID_PTX);
        let fatbin = include_bytes!("data/scale.size.fatbin");
        let mut damaged = fatbin.to_vec();
        damaged[16 + 80 + 4] ^= 0xff;
        assert_eq!(load_fatbin(&damaged).map(|_| ()).unwrap_err(), CUresult::CUDA_ERROR_INVALID_IMAGE);
    });
    assert!(told.is_none_or(
        |told| told.contains("PTX for sm_90a; the card a100 is sm_80") && told.contains("PTX line 1: ")
    ));
}

/// What a kernel was compiled for, and what it runs on.
#[test]
fn a_kernel_says_its_architectures() {
    in_child("a_kernel_says_its_architectures", H200, || {
        for (target, version) in [("sm_80", 80), ("sm_90a", 90)] {
            let module = load(&PTX.replace("sm_80", target)).unwrap();
            let function = module.load_function("reverse").unwrap();
            assert_eq!(attribute(&function, A::CU_FUNC_ATTRIBUTE_PTX_VERSION), version);
            assert_eq!(attribute(&function, A::CU_FUNC_ATTRIBUTE_BINARY_VERSION), 90);
        }
    });
}

fn attribute(function: &CudaFunction, which: A) -> i32 {
    function.get_attribute(which).unwrap()
}

#[test]
fn dynamic_shared_memory_must_be_raised() {
    in_child("dynamic_shared_memory_must_be_raised", H200, || {
        // cudarc waits for the card when it makes a first stream: with one held it never does.
        let stream = CudaContext::new(0).unwrap().new_stream().unwrap();
        let function = load(PTX).unwrap().load_function("reverse").unwrap();
        let dynamic = A::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        assert_eq!(attribute(&function, A::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK), 128);
        assert_eq!(attribute(&function, dynamic), 49_152);
        assert_eq!(code(launch(&stream, &function, 128, 49_152)), Ok(()));
        assert_eq!(code(launch(&stream, &function, 128, 49_153)), Err(CUresult::CUDA_ERROR_INVALID_VALUE));
        assert!(function.set_attribute(dynamic, 232_449).is_err(), "past what the card has");
        function.set_attribute(dynamic, 100_000).unwrap();
        assert_eq!(code(launch(&stream, &function, 128, 100_000)), Ok(()));
        assert_eq!(code(launch(&stream, &function, 128, 100_001)), Err(CUresult::CUDA_ERROR_INVALID_VALUE));
    });
}

/// Queues `reverse`; the checks answer at once, the kernel would run at a wait.
fn launch(
    stream: &Arc<CudaStream>,
    function: &CudaFunction,
    threads: u32,
    shared_mem_bytes: u32,
) -> Result<(), DriverError> {
    let mut data = stream.alloc_zeros::<u32>(128)?;
    let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes };
    // SAFETY: the kernel touches `threads` elements of `data`.
    unsafe { stream.launch_builder(function).arg(&mut data).launch(config) }.map(|_| ())
}

fn code(result: Result<(), DriverError>) -> Result<(), CUresult> {
    result.map_err(|DriverError(code)| code)
}

#[test]
fn launches_past_a_limit_are_refused() {
    let told = in_child("launches_past_a_limit_are_refused", H200, || {
        let stream = CudaContext::new(0).unwrap().default_stream();
        let module = load(PTX).unwrap();
        assert_eq!(
            code(launch(&stream, &module.load_function("reverse").unwrap(), 129, 0)),
            Err(CUresult::CUDA_ERROR_INVALID_VALUE)
        );
        let scale = raw();
        let mut argument = 0u64;
        let values = [(&raw mut argument).cast::<std::ffi::c_void>(); 4];
        let run =
            |grid: [u32; 3], block: [u32; 3], shared: u32, values: *const *mut std::ffi::c_void, extra| {
                // SAFETY: that is what is tested: the virtual driver checks what it is given.
                unsafe {
                    sys::cuLaunchKernel(
                        scale,
                        grid[0],
                        grid[1],
                        grid[2],
                        block[0],
                        block[1],
                        block[2],
                        shared,
                        stream.cu_stream(),
                        values.cast_mut(),
                        extra,
                    )
                }
            };
        const WRONG: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;
        assert_eq!(run([0, 1, 1], [1, 1, 1], 0, values.as_ptr(), null_mut()), WRONG);
        assert_eq!(run([1, 65_536, 1], [1, 1, 1], 0, values.as_ptr(), null_mut()), WRONG);
        assert_eq!(run([1, 1, 1], [1025, 1, 1], 0, values.as_ptr(), null_mut()), WRONG);
        assert_eq!(run([1, 1, 1], [64, 32, 1], 0, values.as_ptr(), null_mut()), WRONG);
        assert_eq!(run([1, 1, 1], [1, 1, 65], 0, values.as_ptr(), null_mut()), WRONG);
        assert_eq!(run([1, 1, 1], [1, 1, 1], u32::MAX, values.as_ptr(), null_mut()), WRONG);
        assert_eq!(run([1, 1, 1], [1, 1, 1], 0, std::ptr::null(), null_mut()), WRONG, "no parameters");
        assert_eq!(
            run([1, 1, 1], [1, 1, 1], 0, [null_mut(); 4].as_ptr(), null_mut()),
            WRONG,
            "null parameters"
        );
        // The kernel takes 24 bytes of parameters; a buffer of 20 is one too few.
        for (bytes, expected) in [(20usize, WRONG), (24, CUresult::CUDA_SUCCESS), (28, WRONG)] {
            let (buffer, mut length) = ([0u8; 32], bytes);
            let mut extra = [
                std::ptr::without_provenance_mut(1),
                buffer.as_ptr().cast_mut().cast(),
                std::ptr::without_provenance_mut(2),
                (&raw mut length).cast(),
                null_mut(),
            ];
            assert_eq!(
                run([1, 1, 1], [1, 1, 1], 0, std::ptr::null(), extra.as_mut_ptr()),
                expected,
                "{bytes} bytes"
            );
        }
    });
    assert!(told.is_none_or(|told| told.contains("takes 24 bytes of parameters, the buffer has 20")));
}

/// The raw handle of `scale`, which cudarc keeps to itself.
fn raw() -> sys::CUfunction {
    let text = std::ffi::CString::new(PTX).unwrap();
    let (mut module, mut function) = (null_mut(), null_mut());
    // SAFETY: valid pointers to live values.
    unsafe {
        sys::cuModuleLoadData(&mut module, text.as_ptr().cast()).result().unwrap();
        sys::cuModuleGetFunction(&mut function, module, c"scale".as_ptr()).result().unwrap();
    }
    function
}

/// Clusters: refused before 9.0, bounded by 8 without consent, and they must divide the grid.
#[test]
fn clusters_follow_the_card() {
    for card in ["a100", "h200"] {
        in_child("clusters_follow_the_card", &[("PTXSIM_DEVICE", card)], || {
            let _context = CudaContext::new(0).unwrap();
            let function = raw();
            let mut argument = 0u64;
            let mut values = [(&raw mut argument).cast::<std::ffi::c_void>(); 4];
            let mut run = |grid: u32, cluster: u32| {
                // SAFETY: all-zero bytes are a valid launch attribute.
                let mut attribute: sys::CUlaunchAttribute = unsafe { std::mem::zeroed() };
                attribute.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
                attribute.value.clusterDim.x = cluster;
                attribute.value.clusterDim.y = 1;
                attribute.value.clusterDim.z = 1;
                let config = sys::CUlaunchConfig {
                    gridDimX: grid,
                    gridDimY: 1,
                    gridDimZ: 1,
                    blockDimX: 32,
                    blockDimY: 1,
                    blockDimZ: 1,
                    sharedMemBytes: 0,
                    hStream: null_mut(),
                    attrs: &mut attribute,
                    numAttrs: 1,
                };
                // SAFETY: valid pointers to live values.
                unsafe { sys::cuLaunchKernelEx(&config, function, values.as_mut_ptr(), null_mut()) }
            };
            if std::env::var("PTXSIM_DEVICE").as_deref() == Ok("a100") {
                assert_eq!(run(8, 2), CUresult::CUDA_ERROR_NOT_SUPPORTED);
            } else {
                assert_eq!(run(8, 2), CUresult::CUDA_SUCCESS);
                assert_eq!(run(9, 2), CUresult::CUDA_ERROR_INVALID_CLUSTER_SIZE);
                assert_eq!(run(16, 16), CUresult::CUDA_ERROR_INVALID_CLUSTER_SIZE);
                // SAFETY: a live function.
                let consent = unsafe {
                    sys::cuFuncSetAttribute(
                        function,
                        A::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED,
                        1,
                    )
                };
                assert_eq!((consent, run(16, 16)), (CUresult::CUDA_SUCCESS, CUresult::CUDA_SUCCESS));
                assert_eq!(run(32, 32), CUresult::CUDA_ERROR_INVALID_CLUSTER_SIZE);
            }
        });
    }
}

/// Blocks of 128 threads: 16 by threads on a 2048-thread multiprocessor, fewer as shared memory grows.
#[test]
fn occupancy_counts_threads_and_shared_memory() {
    in_child("occupancy_counts_threads_and_shared_memory", H200, || {
        let function = load(PTX).unwrap().load_function("reverse").unwrap();
        let blocks =
            |shared| function.occupancy_max_active_blocks_per_multiprocessor(128, shared, None).unwrap();
        assert_eq!(blocks(0), 16);
        // 228 KiB / (56 KiB + 1 KiB the card keeps) = 4.
        assert_eq!(blocks(56 << 10), 4);
        assert_eq!(blocks((56 << 10) + 1), 3);
        assert_eq!(blocks(228 << 10), 0);
    });
}

/// A failed kernel loses the context: every later call gives its code.
#[test]
fn a_failure_on_the_card_is_sticky() {
    let told = in_child("a_failure_on_the_card_is_sticky", &[("PTXSIM_SEED", "3")], || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        let data = stream.clone_htod(&[1u32; 4]).unwrap();
        stream.synchronize().unwrap();
        // Memory freed by one stream while another still copies from it: only at run time is it gone.
        let (one, two) = (context.new_stream().unwrap(), context.new_stream().unwrap());
        let address = data.leak();
        let mut host = null_mut();
        // SAFETY: valid arguments; the copy into pinned memory is queued behind the free by an event.
        unsafe {
            sys::cuMemHostAlloc(&mut host, 16, 0).result().unwrap();
            sys::cuMemFreeAsync(address, one.cu_stream()).result().unwrap();
            two.wait(&one.record_event(None).unwrap()).unwrap();
            sys::cuMemcpyDtoHAsync_v2(host, address, 16, two.cu_stream()).result().unwrap();
        }
        let lost = Err(DriverError(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS));
        assert_eq!(two.synchronize(), lost);
        assert_eq!(one.synchronize(), lost);
        assert_eq!(stream.alloc_zeros::<u8>(1).map(|_| ()), lost);
    });
    assert!(told.is_none_or(|told| told.contains("are not in a live allocation")));
}
