//! Several cards: each has its own identity, memory, contexts, streams and errors.

mod support;

use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaContext, DevicePtr, DriverError};
use std::ptr::null_mut;
use support::in_child;
use support::raw::Kernel::{Add, Set};
use support::raw::{BYTES, Card, first_word, synchronize};

const TWO: &[(&str, &str)] = &[("PTXSIM_DEVICES", "2")];
const HANDLE: CUresult = CUresult::CUDA_ERROR_INVALID_HANDLE;
const OK: CUresult = CUresult::CUDA_SUCCESS;

#[test]
fn there_are_as_many_cards_as_the_environment_says() {
    let name = "there_are_as_many_cards_as_the_environment_says";
    for (asked, allowed) in [("", true), ("2", true), ("8", true), ("0", false), ("9", false), ("two", false)]
    {
        let environment: &[_] = if asked.is_empty() { &[] } else { &[("PTXSIM_DEVICES", asked)] };
        let Some(told) = in_child(name, environment, || match std::env::var("PTXSIM_DEVICES") {
            Ok(text) if !matches!(text.parse(), Ok(1..=8)) => {
                // SAFETY: no argument but flags.
                assert_eq!(unsafe { sys::cuInit(0) }, CUresult::CUDA_ERROR_INVALID_DEVICE);
            }
            text => {
                let count = text.map_or(1, |text| text.parse().unwrap());
                assert_eq!(CudaContext::device_count(), Ok(count));
                assert!(CudaContext::new(count as usize - 1).is_ok());
                let DriverError(past) = CudaContext::new(count as usize).unwrap_err();
                assert_eq!(past, CUresult::CUDA_ERROR_INVALID_DEVICE);
            }
        }) else {
            return;
        };
        let refused = told.contains(&format!("PTXSIM_DEVICES={asked}, allowed: 1 to 8"));
        assert_eq!(refused, !allowed, "{asked}: {told}");
    }
}

#[test]
fn each_card_has_its_own_identity_memory_and_context() {
    in_child("each_card_has_its_own_identity_memory_and_context", TWO, || {
        let cards = [0, 1].map(|ordinal| CudaContext::new(ordinal).unwrap());
        assert_eq!(cards[0].name(), cards[1].name());
        assert_ne!(cards[0].uuid().unwrap().bytes, cards[1].uuid().unwrap().bytes);
        assert_ne!(cards[0].cu_ctx(), cards[1].cu_ctx());
        let mut can = 1;
        // SAFETY: a valid pointer.
        unsafe { sys::cuDeviceCanAccessPeer(&mut can, 0, 1).result().unwrap() };
        assert_eq!(can, 0);
        let free = cards.each_ref().map(|card| card.mem_get_info().unwrap().0);
        let data = cards[1].default_stream().alloc_zeros::<u8>(4096).unwrap();
        assert_eq!(cards.each_ref().map(|card| card.mem_get_info().unwrap().0), [free[0], free[1] - 4096]);
        cards[0].bind_to_thread().unwrap();
        let address = data.device_ptr(data.stream()).0;
        cards[0].bind_to_thread().unwrap();
        let (mut device, mut ordinal, mut context, mut pool, mut other) =
            (9, 9, null_mut::<sys::CUctx_st>(), null_mut(), null_mut());
        use sys::CUpointer_attribute_enum as A;
        // SAFETY: valid pointers to values of each attribute's type.
        unsafe {
            sys::cuCtxGetDevice(&mut device).result().unwrap();
            let about = |out, attribute| sys::cuPointerGetAttribute(out, attribute, address).result();
            about((&raw mut ordinal).cast(), A::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL).unwrap();
            about((&raw mut context).cast(), A::CU_POINTER_ATTRIBUTE_CONTEXT).unwrap();
            sys::cuDeviceGetDefaultMemPool(&mut pool, 0).result().unwrap();
            sys::cuDeviceGetDefaultMemPool(&mut other, 1).result().unwrap();
        }
        assert_eq!((device, ordinal, context), (0, 1, cards[1].cu_ctx()));
        assert_ne!(pool, other);
        // Memory of a pool is its card's, whatever card is current.
        let stream = cards[0].default_stream();
        let mut from_pool = 0;
        // SAFETY: valid pointers and handles.
        unsafe {
            sys::cuMemAllocFromPoolAsync(&mut from_pool, 64, other, stream.cu_stream()).result().unwrap();
            let out = (&raw mut ordinal).cast();
            sys::cuPointerGetAttribute(out, A::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, from_pool)
                .result()
                .unwrap();
            sys::cuMemFreeAsync(from_pool, stream.cu_stream()).result().unwrap();
        }
        assert_eq!(ordinal, 1);
    });
}

#[test]
fn what_belongs_to_another_context_is_refused() {
    in_child("what_belongs_to_another_context_is_refused", TWO, || {
        let first = Card::new(0);
        let (stream, event, words) = (first.stream(), first.event(), first.words());
        let refused = |other: &Card, own_words: u64, own_event: sys::CUevent| {
            let own = other.stream();
            assert_eq!(other.launch(Set, own_words, stream), HANDLE, "a stream of the first");
            assert_eq!(first.launch(Set, own_words, own), HANDLE, "a kernel of the first");
            assert_eq!(other.launch(Set, own_words, own), OK);
            let mut milliseconds = 0f32;
            // SAFETY: live handles; the virtual driver checks whose.
            unsafe {
                assert_eq!(sys::cuMemsetD8Async(own_words, 0, 4, stream), HANDLE);
                assert_eq!(sys::cuEventRecord(event, own), HANDLE);
                assert_eq!(sys::cuEventRecord(event, null_mut()), HANDLE, "the other's default stream");
                assert_eq!(sys::cuEventRecord(own_event, stream), HANDLE);
                assert_eq!(sys::cuEventRecord(own_event, own), OK);
                assert_eq!(
                    sys::cuEventRecord(event, stream),
                    OK,
                    "both of the first, which need not be current"
                );
                assert_eq!(sys::cuStreamWaitEvent(own, event, 0), OK, "that orders two contexts");
                assert_eq!(sys::cuEventSynchronize(event), OK);
                assert_eq!(synchronize(own), OK);
                assert_eq!(sys::cuEventElapsedTime_v2(&mut milliseconds, event, own_event), HANDLE);
            }
        };
        let second = Card::new(1);
        refused(&second, second.words(), second.event());
        // Another context of the first's card.
        let context = support::raw::create_context(0);
        let mut current = null_mut();
        // SAFETY: valid pointers.
        unsafe { sys::cuStreamGetCtx(null_mut(), &mut current).result().unwrap() };
        assert_eq!(current, context, "the default stream is the current context's");
        let third = Card::in_context(context);
        refused(&third, third.words(), third.event());
        first.make_current();
        assert_eq!(first.launch(Set, words, stream), OK);
        assert_eq!(first_word(words, stream), Ok(7));
    });
}

#[test]
fn copies_go_from_card_to_card() {
    in_child("copies_go_from_card_to_card", TWO, || {
        let contexts = [0, 1].map(|ordinal| CudaContext::new(ordinal).unwrap());
        let streams = contexts.each_ref().map(|context| context.new_stream().unwrap());
        let source = streams[0].clone_htod(&[3u32; 64]).unwrap();
        let mut target = streams[1].alloc_zeros::<u32>(64).unwrap();
        streams[1].memcpy_dtod(&source, &mut target).unwrap();
        assert_eq!(streams[1].clone_dtoh(&target).unwrap(), [3; 64]);

        let (first, second) = (Card::new(0), Card::new(1));
        let (to, stream) = (second.words(), second.stream());
        first.make_current();
        let from = first.words();
        assert_eq!(first.launch(Set, from, null_mut()), OK);
        // SAFETY: live memory of the length that is copied.
        unsafe {
            assert_eq!(sys::cuMemcpyDtoD_v2(to, from, BYTES), OK);
            assert_eq!(first_word(to, stream), Ok(7));
            assert_eq!(first.launch(Add, from, null_mut()), OK);
            sys::cuCtxSynchronize().result().unwrap();
            assert_eq!(sys::cuMemcpyAsync(to, from, BYTES, stream), OK);
            assert_eq!(first_word(to, stream), Ok(8));
            // A copy to the host under the wrong context: the address says where it is.
            let (a, b) = (first.context, second.context);
            let wrong = sys::cuMemcpyPeerAsync(to, a, from, b, BYTES, stream);
            assert_eq!(wrong, CUresult::CUDA_ERROR_INVALID_VALUE, "the contexts are exchanged");
            let none = sys::cuMemcpyPeer(to, stream.cast(), from, a, BYTES);
            assert_eq!(none, CUresult::CUDA_ERROR_INVALID_CONTEXT);
            let past = sys::cuMemcpyPeerAsync(to, b, from, a, BYTES + 1, stream);
            assert_eq!(past, CUresult::CUDA_ERROR_INVALID_VALUE);
        }
    });
}

/// Without a seed only what a wait needs is run: the copy on one card sees what the other's kernel wrote where an
/// event orders them, and the old value where none does.
#[test]
fn events_order_the_streams_of_two_cards() {
    in_child("events_order_the_streams_of_two_cards", TWO, || {
        let (first, second) = (Card::new(0), Card::new(1));
        let (to, reader) = (second.words(), second.stream());
        first.make_current();
        let (from, writer, event) = (first.words(), first.stream(), first.event());
        assert_eq!(first.launch(Set, from, writer), OK);
        assert_eq!(synchronize(writer), OK);
        let copy = || {
            // SAFETY: live memory of the length that is copied.
            unsafe {
                sys::cuMemcpyPeerAsync(to, second.context, from, first.context, BYTES, reader)
                    .result()
                    .unwrap()
            };
        };
        assert_eq!(first.launch(Add, from, writer), OK);
        copy();
        second.make_current();
        // SAFETY: no arguments.
        assert_eq!(unsafe { sys::cuCtxSynchronize() }, OK);
        assert_eq!(first_word(to, reader), Ok(7), "the second card has not waited for the first");
        // SAFETY: live handles.
        unsafe {
            sys::cuEventRecord(event, writer).result().unwrap();
            sys::cuStreamWaitEvent(reader, event, 0).result().unwrap();
        }
        copy();
        // SAFETY: no arguments.
        assert_eq!(unsafe { sys::cuCtxSynchronize() }, OK);
        assert_eq!(first_word(to, reader), Ok(8));
    });
}

#[test]
fn a_kernel_reaches_its_own_card_only_and_its_fault_stays_there() {
    let told = in_child("a_kernel_reaches_its_own_card_only_and_its_fault_stays_there", TWO, || {
        let (first, second) = (Card::new(0), Card::new(1));
        let (words, stream) = (second.words(), second.stream());
        first.make_current();
        let own = first.stream();
        assert_eq!(first.launch(Set, words, own), OK);
        assert_eq!(synchronize(own), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        assert_eq!(first.launch(Set, words, own), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS, "it is sticky");
        second.make_current();
        assert_eq!(second.launch(Set, words, stream), OK);
        assert_eq!(first_word(words, stream), Ok(7));
    });
    assert!(told.is_none_or(|told| told.contains("an address of card 1, and this is card 0")));
}

#[test]
fn the_end_of_a_context_takes_what_is_its_cards_own() {
    let told = in_child("the_end_of_a_context_takes_what_is_its_cards_own", TWO, || {
        let (first, second) = (Card::new(0), Card::new(1));
        let (words, stream, event) = (second.words(), second.stream(), second.event());
        // SAFETY: live handles.
        unsafe { sys::cuEventRecord(event, stream).result().unwrap() };
        assert_eq!(second.launch(Set, words, stream), OK);
        first.make_current();
        let (lost, lost_stream) = (first.words(), first.stream());
        let last = first.event();
        assert_eq!(first.launch(Set, lost, null_mut()), OK);
        // SAFETY: live handles; the context is retained once.
        unsafe {
            sys::cuEventRecord(last, null_mut()).result().unwrap();
            sys::cuStreamWaitEvent(stream, last, 0).result().unwrap();
            sys::cuDevicePrimaryCtxRelease_v2(0).result().unwrap();
        }
        assert_eq!(synchronize(null_mut()), CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED);
        second.make_current();
        assert_eq!(synchronize(lost_stream), HANDLE);
        // SAFETY: the virtual driver checks the address.
        assert_eq!(unsafe { sys::cuMemFree_v2(lost) }, CUresult::CUDA_ERROR_INVALID_VALUE);
        // SAFETY: a live event.
        assert_eq!(unsafe { sys::cuEventSynchronize(event) }, OK);
        assert_eq!(first_word(words, stream), Ok(7));
        assert_eq!(second.launch(Add, words, stream), OK);
        assert_eq!(first_word(words, stream), Ok(8));
    });
    assert!(told.is_none_or(|told| told.contains("leak: 1 allocations (256 bytes)")));
}

#[test]
fn a_capture_concerns_the_default_stream_of_its_own_card() {
    in_child("a_capture_concerns_the_default_stream_of_its_own_card", TWO, || {
        let contexts = [0, 1].map(|ordinal| CudaContext::new(ordinal).unwrap());
        let mut stream = null_mut();
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
        let mut status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        // SAFETY: valid pointers and handles.
        unsafe {
            // A blocking stream of card 1, which is current.
            sys::cuStreamCreate(&mut stream, 0).result().unwrap();
            sys::cuStreamBeginCapture_v2(stream, mode).result().unwrap();
            let implicit = CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
            assert_eq!(sys::cuStreamIsCapturing(null_mut(), &mut status), implicit);
            contexts[0].bind_to_thread().unwrap();
            assert_eq!(sys::cuStreamIsCapturing(null_mut(), &mut status), OK);
            assert_eq!(sys::cuCtxSynchronize(), OK);
        }
    });
}
