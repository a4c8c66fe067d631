//! Calls that fail because a test asked for it, and what is counted of a program. Through cudarc.

mod support;

use std::ffi::{CStr, c_char};
use std::sync::Arc;

use cudarc::driver::CudaContext;
use cudarc::driver::sys::CUresult;
use support::{in_child, raw};

type Fail = unsafe extern "C" fn(*const c_char, u64, i32, i32) -> i32;
type Call = unsafe extern "C" fn(u64, *mut u8, u64) -> i32;
type Count = unsafe extern "C" fn(i32) -> u64;
type Plain = unsafe extern "C" fn() -> u64;

/// A function of the driver's beside NVIDIA's.
fn function<F: Copy>(name: &CStr) -> F {
    // SAFETY: a pointer to a function of this type, by `api::inject`, in a library that stays loaded.
    unsafe { std::mem::transmute_copy(&raw::symbol(name)) }
}

fn fail(names: &CStr, nth: u64, code: CUresult, lasts: bool) -> i32 {
    // SAFETY: a string of C's.
    unsafe { function::<Fail>(c"ptxsim_fail")(names.as_ptr(), nth, code as i32, i32::from(lasts)) }
}

fn none_fails() {
    assert_eq!(fail(c"", 0, CUresult::CUDA_SUCCESS, false), 0);
}

fn calls() -> Vec<String> {
    let call = |index| {
        let mut name = [0u8; 64];
        // SAFETY: as many bytes as it says.
        let code = unsafe { function::<Call>(c"ptxsim_call")(index, name.as_mut_ptr(), 64) };
        (code == 0).then(|| CStr::from_bytes_until_nul(&name).unwrap().to_str().unwrap().to_owned())
    };
    (0..).map_while(call).collect()
}

fn failed() -> u64 {
    // SAFETY: takes nothing.
    unsafe { function::<Plain>(c"ptxsim_failed")() }
}

fn live(what: i32) -> u64 {
    // SAFETY: takes a number.
    unsafe { function::<Count>(c"ptxsim_live")(what) }
}

fn context() -> Arc<CudaContext> {
    CudaContext::new(0).unwrap()
}

#[test]
fn the_call_that_was_named_fails_and_does_nothing() {
    in_child("the_call_that_was_named_fails_and_does_nothing", &[], || {
        use CUresult::{CUDA_ERROR_OUT_OF_MEMORY as FULL, CUDA_ERROR_UNKNOWN as UNKNOWN};
        let context = context();
        let stream = context.default_stream();
        none_fails();
        let kept = stream.alloc_zeros::<u8>(8).unwrap();
        let said = calls();
        assert!(said.contains(&"cuMemAllocAsync".to_owned()) && failed() == 0, "{said:?}");
        let before = live(0);

        assert_eq!(fail(c"cuMemAllocAsync", 1, FULL, false), 0);
        let alloc = || stream.alloc_zeros::<u8>(8).map(drop).map_err(|error| error.0);
        assert_eq!([alloc(), alloc(), alloc()], [Ok(()), Err(FULL), Ok(())]);
        assert_eq!((failed(), live(0)), (1, before));
        assert_eq!(fail(c"cuMemAllocAsync,cuMemHostAlloc", 1, FULL, true), 0);
        assert_eq!([alloc(), alloc(), alloc()], [Ok(()), Err(FULL), Err(FULL)]);
        // SAFETY: nothing reads it.
        assert!(unsafe { context.alloc_pinned::<u8>(8) }.is_err() && failed() == 3);
        // By number among all calls.
        none_fails();
        stream.synchronize().unwrap();
        let at = calls().iter().position(|name| name == "cuStreamSynchronize").unwrap();
        assert_eq!(fail(c"*", at as u64, UNKNOWN, false), 0);
        assert_eq!(stream.synchronize().unwrap_err().0, UNKNOWN);
        assert_eq!(stream.clone_dtoh(&kept).unwrap(), [0; 8]);
        drop(kept);
        none_fails();
        assert_eq!(live(0), before - 1);
    });
}

#[test]
fn a_faults_code_is_the_contexts_until_it_is_healed() {
    in_child("a_faults_code_is_the_contexts_until_it_is_healed", &[], || {
        let context = context();
        let stream = context.default_stream();
        let fault = CUresult::CUDA_ERROR_LAUNCH_FAILED;
        assert_eq!(fail(c"cuStreamSynchronize", 0, fault, false), 0);
        assert_eq!(stream.synchronize().unwrap_err().0, fault);
        none_fails();
        assert_eq!(stream.alloc_zeros::<u8>(8).unwrap_err().0, fault);
        assert_eq!(stream.synchronize().unwrap_err().0, fault);
        // SAFETY: takes nothing.
        unsafe { function::<Plain>(c"ptxsim_heal")() };
        assert!(stream.alloc_zeros::<u8>(8).is_ok());
    });
}

#[test]
fn the_environment_asks_too_and_hears_what_is_wrong() {
    let name = "the_environment_asks_too_and_hears_what_is_wrong";
    let wish = ("PTXSIM_FAIL", "cuDeviceGetCount:1:999");
    in_child(name, &[wish], || {
        // As a child of the second call, too.
        if std::env::var("PTXSIM_FAIL").as_deref() == Ok(wish.1) {
            assert_eq!(CudaContext::device_count().unwrap(), 1);
            assert_eq!(CudaContext::device_count().unwrap_err().0, CUresult::CUDA_ERROR_UNKNOWN);
        }
        assert_eq!(CudaContext::device_count().unwrap(), 1);
        assert_eq!(fail(c"cuNothing", 0, CUresult::CUDA_ERROR_UNKNOWN, false), 1);
    });
    let told = in_child(name, &[("PTXSIM_FAIL", "cuNothing:0:2")], || ());
    assert!(told.is_none_or(|told| {
        told.contains("PTXSIM_FAIL: `cuNothing` is no function of this driver; allowed: names")
    }));
}
