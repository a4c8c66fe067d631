//! Calls that fail because a test asked for it, and what is counted of a program. Through cudarc.

mod support;

use std::sync::Arc;

use cudarc::driver::CudaContext;
use cudarc::driver::sys::CUresult;
use ptxsim_failing::Failing;
use support::in_child;

fn context() -> Arc<CudaContext> {
    CudaContext::new(0).unwrap()
}

#[test]
fn the_call_that_was_named_fails_and_does_nothing() {
    in_child("the_call_that_was_named_fails_and_does_nothing", &[], || {
        use CUresult::{CUDA_ERROR_OUT_OF_MEMORY as FULL, CUDA_ERROR_UNKNOWN as UNKNOWN};
        let failing = Failing::open().unwrap();
        let context = context();
        let stream = context.default_stream();
        failing.none();
        let kept = stream.alloc_zeros::<u8>(8).unwrap();
        let said = failing.calls();
        assert!(said.contains(&"cuMemAllocAsync".to_owned()) && failing.failed() == 0, "{said:?}");
        let before = failing.live()[0];

        failing.fail("cuMemAllocAsync", 1, FULL, false);
        let alloc = || stream.alloc_zeros::<u8>(8).map(drop).map_err(|error| error.0);
        assert_eq!([alloc(), alloc(), alloc()], [Ok(()), Err(FULL), Ok(())]);
        assert_eq!((failing.failed(), failing.live()[0]), (1, before));
        failing.fail("cuMemAllocAsync,cuMemHostAlloc", 1, FULL, true);
        assert_eq!([alloc(), alloc(), alloc()], [Ok(()), Err(FULL), Err(FULL)]);
        // SAFETY: nothing reads it.
        assert!(unsafe { context.alloc_pinned::<u8>(8) }.is_err() && failing.failed() == 3);
        // By number among all calls.
        failing.none();
        stream.synchronize().unwrap();
        let at = failing.calls().iter().position(|name| name == "cuStreamSynchronize").unwrap();
        failing.fail("*", at, UNKNOWN, false);
        assert_eq!(stream.synchronize().unwrap_err().0, UNKNOWN);
        assert_eq!(stream.clone_dtoh(&kept).unwrap(), [0; 8]);
        drop(kept);
        failing.none();
        assert_eq!(failing.live()[0], before - 1);
    });
}

#[test]
fn a_faults_code_is_the_contexts_until_it_is_healed() {
    in_child("a_faults_code_is_the_contexts_until_it_is_healed", &[], || {
        let failing = Failing::open().unwrap();
        let context = context();
        let stream = context.default_stream();
        let fault = CUresult::CUDA_ERROR_LAUNCH_FAILED;
        failing.fail("cuStreamSynchronize", 0, fault, false);
        assert_eq!(stream.synchronize().unwrap_err().0, fault);
        failing.none();
        assert_eq!(stream.alloc_zeros::<u8>(8).unwrap_err().0, fault);
        assert_eq!(stream.synchronize().unwrap_err().0, fault);
        failing.heal();
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
        let failing = Failing::open().unwrap();
        let asked = || failing.fail("cuNothing", 0, CUresult::CUDA_ERROR_UNKNOWN, false);
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(asked)).is_err());
    });
    let told = in_child(name, &[("PTXSIM_FAIL", "cuNothing:0:2")], || ());
    assert!(told.is_none_or(|told| {
        told.contains("PTXSIM_FAIL: `cuNothing` is no function of this driver; allowed: names")
    }));
}
