//! Memory that kernels and the host share, and what the driver tells of pointers.

mod support;

use cudarc::driver::sys::{self, CUresult};
use std::ffi::c_void;
use std::ptr::null_mut;
use support::in_child;
use support::raw::Kernel::{Add, Set};
use support::raw::{BYTES, Card, WORDS, symbol, synchronize};

const OK: CUresult = CUresult::CUDA_SUCCESS;
const VALUE: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;
const ADDRESS: CUresult = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;

fn managed(bytes: usize, flags: u32) -> Result<u64, CUresult> {
    let mut address = 0;
    // SAFETY: a valid pointer.
    unsafe { sys::cuMemAllocManaged(&mut address, bytes, flags) }.result().map(|()| address).map_err(|e| e.0)
}

fn pinned(bytes: usize, flags: u32) -> Result<u64, CUresult> {
    let mut address: *mut c_void = null_mut();
    // SAFETY: a valid pointer.
    let code = unsafe { sys::cuMemHostAlloc(&mut address, bytes, flags) };
    code.result().map(|()| address.addr() as u64).map_err(|e| e.0)
}

/// A word as the host has it.
fn word(address: u64) -> *mut u32 {
    std::ptr::with_exposed_provenance_mut(address as usize)
}

/// Kernels use what the host wrote and the host what kernels stored, on every card.
#[test]
fn host_and_kernels_see_the_same_bytes() {
    in_child("host_and_kernels_see_the_same_bytes", &[("PTXSIM_DEVICES", "2")], || {
        let cards = [Card::new(0), Card::new(1)];
        for address in
            [managed(BYTES, 1), managed(BYTES, 2), pinned(BYTES, 0), pinned(BYTES, 7)].map(Result::unwrap)
        {
            let last = word(address + BYTES as u64 - 4);
            for (index, card) in cards.iter().enumerate() {
                card.make_current();
                // SAFETY: live words, which no kernel uses now.
                unsafe { last.write(40 + index as u32) };
                assert_eq!(card.launch(Add, address, null_mut()), OK);
                assert_eq!(synchronize(null_mut()), OK);
                // SAFETY: as above.
                assert_eq!(unsafe { last.read() }, 41 + index as u32);
            }
            // SAFETY: live memory, as long as what is copied.
            unsafe {
                let mut back = [0u32; WORDS];
                assert_eq!(sys::cuMemsetD32_v2(address, 5, WORDS), OK);
                assert_eq!((last.read(), word(address).read()), (5, 5));
                assert_eq!(sys::cuMemcpy(back.as_mut_ptr().addr() as u64, address, BYTES), OK);
                assert_eq!(back, [5; WORDS]);
            }
        }
    });
}

#[test]
fn shared_memory_has_bounds_and_an_end() {
    for kind in ["managed", "pinned"] {
        for case in ["short", "freed"] {
            let part = [("PTXSIM_TEST_CASE", kind), ("PTXSIM_TEST_PART", case)];
            let Some(told) = in_child("shared_memory_has_bounds_and_an_end", &part, || {
                let is = |key: &str, value| std::env::var(key).as_deref() == Ok(value);
                let (is_managed, short) =
                    (is("PTXSIM_TEST_CASE", "managed"), is("PTXSIM_TEST_PART", "short"));
                let card = Card::new(0);
                let bytes = if short { BYTES - 1 } else { BYTES };
                let address = if is_managed { managed(bytes, 1) } else { pinned(bytes, 0) }.unwrap();
                if !short {
                    assert_eq!(card.launch(Set, address, null_mut()), OK);
                    assert_eq!(synchronize(null_mut()), OK);
                    // SAFETY: the virtual driver checks both.
                    unsafe {
                        let host = word(address).cast();
                        let (device, own) = (sys::cuMemFree_v2(address), sys::cuMemFreeHost(host));
                        assert_eq!((device, own), if is_managed { (OK, VALUE) } else { (VALUE, OK) });
                        assert_eq!(sys::cuMemFree_v2(address), VALUE, "it is gone");
                    }
                }
                assert_eq!(card.launch(Set, address, null_mut()), OK);
                assert_eq!(synchronize(null_mut()), ADDRESS);
            }) else {
                return;
            };
            let why = if case == "short" { "past the allocation of 255 bytes" } else { "a freed allocation" };
            assert!(told.contains(why), "{kind} {case}: {told}");
        }
    }
}

#[test]
fn managed_memory_that_is_left_is_a_leak() {
    let told = in_child("managed_memory_that_is_left_is_a_leak", &[], || {
        let _card = Card::new(0);
        managed(12_345, 1).unwrap();
        pinned(54_321, 0).unwrap();
        // SAFETY: the context was retained once.
        unsafe { sys::cuDevicePrimaryCtxRelease_v2(0).result().unwrap() };
    });
    assert!(told.is_none_or(|told| told.contains("leak: 1 allocations (12345 bytes)")));
}

#[test]
fn advice_and_prefetches_are_for_managed_memory() {
    type Advise = unsafe extern "C" fn(u64, usize, i32, i32) -> CUresult;
    type AdviseAt = unsafe extern "C" fn(u64, usize, i32, u64) -> CUresult;
    type Prefetch = unsafe extern "C" fn(u64, usize, i32, sys::CUstream) -> CUresult;
    type PrefetchAt = unsafe extern "C" fn(u64, usize, u64, u32, sys::CUstream) -> CUresult;
    in_child("advice_and_prefetches_are_for_managed_memory", &[], || {
        let card = Card::new(0);
        let (own, shared, stream) = (card.words(), managed(BYTES, 1).unwrap(), card.stream());
        // A card 0 and the host, as CUmemLocation has them: the kind, then the number.
        let (first, host) = (1u64, 2u64);
        // SAFETY: the functions of these names have these types; the virtual driver checks what they are given.
        unsafe {
            let advise = std::mem::transmute::<*mut c_void, Advise>(symbol(c"cuMemAdvise"));
            let advise_at = std::mem::transmute::<*mut c_void, AdviseAt>(symbol(c"cuMemAdvise_v2"));
            let prefetch = std::mem::transmute::<*mut c_void, Prefetch>(symbol(c"cuMemPrefetchAsync"));
            let prefetch_at =
                std::mem::transmute::<*mut c_void, PrefetchAt>(symbol(c"cuMemPrefetchAsync_v2"));
            for advice in 1..=6 {
                assert_eq!((advise(shared, BYTES, advice, 0), advise(shared, BYTES, advice, -1)), (OK, OK));
                assert_eq!(
                    (advise_at(shared, BYTES, advice, first), advise_at(shared, 4, advice, host)),
                    (OK, OK)
                );
            }
            assert_eq!(advise(shared, BYTES, 7, 0), VALUE);
            assert_eq!(advise(shared, BYTES + 1, 1, 0), VALUE);
            assert_eq!(advise(own, BYTES, 1, 0), VALUE);
            assert_eq!(advise(shared, BYTES, 3, 5), CUresult::CUDA_ERROR_INVALID_DEVICE);
            assert_eq!(advise_at(shared, BYTES, 3, 9), VALUE);
            assert_eq!((prefetch(shared, BYTES, 0, stream), prefetch(shared, BYTES, -1, stream)), (OK, OK));
            assert_eq!(prefetch(own, BYTES, 0, stream), VALUE);
            assert_eq!(
                (prefetch_at(shared, 8, first, 0, stream), prefetch_at(shared, 8, first, 1, stream)),
                (OK, VALUE)
            );
            assert_eq!(sys::cuStreamAttachMemAsync(stream, shared, 0, 4), OK);
            assert_eq!(sys::cuStreamAttachMemAsync(stream, shared, 0, 3), VALUE);
            assert_eq!(sys::cuStreamAttachMemAsync(stream, own, 0, 1), VALUE);
        }
        assert_eq!(synchronize(stream), OK);
    });
}

#[test]
fn flags_of_host_memory_are_checked() {
    in_child("flags_of_host_memory_are_checked", &[], || {
        let _card = Card::new(0);
        assert_eq!((managed(16, 0), managed(16, 3), managed(0, 1)), (Err(VALUE), Err(VALUE), Err(VALUE)));
        assert_eq!((pinned(16, 8), pinned(0, 0)), (Err(VALUE), Err(VALUE)));
        let host = word(pinned(16, 3).unwrap()).cast::<c_void>();
        let mut own = [0u8; 64];
        let own: *mut c_void = own.as_mut_ptr().cast();
        let (mut flags, mut device) = (0, 0);
        // SAFETY: valid pointers; the virtual driver checks the rest.
        unsafe {
            assert_eq!((sys::cuMemHostGetFlags(&mut flags, host), flags), (OK, 3));
            assert_eq!(sys::cuMemHostGetDevicePointer_v2(&mut device, host, 0), OK);
            assert_eq!(device, host.addr() as u64);
            assert_eq!(sys::cuMemHostGetDevicePointer_v2(&mut device, host, 1), VALUE);
            assert_eq!(sys::cuMemHostGetDevicePointer_v2(&mut device, own, 0), VALUE);
            assert_eq!(sys::cuMemHostRegister_v2(own, 64, 16), VALUE);
            assert_eq!(sys::cuMemHostRegister_v2(own, 64, 2), CUresult::CUDA_ERROR_NOT_SUPPORTED);
            assert_eq!(sys::cuMemHostRegister_v2(own, 64, 1), OK);
            let twice = CUresult::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
            assert_eq!(sys::cuMemHostRegister_v2(own, 64, 0), twice);
            assert_eq!(sys::cuMemHostRegister_v2(own.wrapping_byte_add(63), 1, 0), twice);
            assert_eq!(sys::cuMemHostRegister_v2(host, 16, 0), twice);
            assert_eq!(sys::cuMemHostUnregister(own), OK);
            assert_eq!(sys::cuMemHostUnregister(own), CUresult::CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
        }
    });
}

#[test]
fn pointers_tell_what_they_are() {
    use sys::CUpointer_attribute_enum as A;
    in_child("pointers_tell_what_they_are", &[], || {
        let card = Card::new(0);
        let numbers = [
            A::CU_POINTER_ATTRIBUTE_CONTEXT,
            A::CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
            A::CU_POINTER_ATTRIBUTE_DEVICE_POINTER,
            A::CU_POINTER_ATTRIBUTE_HOST_POINTER,
            A::CU_POINTER_ATTRIBUTE_IS_MANAGED,
            A::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
            A::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR,
            A::CU_POINTER_ATTRIBUTE_RANGE_SIZE,
        ];
        let (own, shared, host) = (card.words(), managed(BYTES, 1).unwrap(), pinned(BYTES, 0).unwrap());
        let (context, bytes, at) = (card.context.addr() as u64, BYTES as u64, 8);
        let stack = 0u64;
        let stack = (&raw const stack).addr() as u64;
        for (address, expected) in [
            (own + at, [context, 2, own + at, 0, 0, 0, own, bytes]),
            (shared + at, [context, 2, shared + at, shared + at, 1, 0, shared, bytes]),
            (host + at, [context, 1, host + at, host + at, 0, 0, host, bytes]),
            (stack, [0, 0, 0, 0, 0, u64::from(-2i32 as u32), 0, 0]),
        ] {
            let mut values = [0u64; 8];
            let mut places: [*mut c_void; 8] = std::array::from_fn(|i| (&raw mut values[i]).cast());
            let mut keys = numbers;
            // SAFETY: as many live places as attributes.
            unsafe {
                let answer = sys::cuPointerGetAttributes(8, keys.as_mut_ptr(), places.as_mut_ptr(), address);
                assert_eq!((answer, values), (OK, expected), "{address:#x}");
                for (number, expected) in numbers.into_iter().zip(expected) {
                    let mut value = 0u64;
                    let answer = sys::cuPointerGetAttribute((&raw mut value).cast(), number, address);
                    let there = expected != 0 || !matches!(number, A::CU_POINTER_ATTRIBUTE_HOST_POINTER);
                    let code = if address != stack && there { OK } else { VALUE };
                    assert_eq!((answer, value), (code, if code == OK { expected } else { 0 }), "{number:?}");
                }
            }
        }
    });
}
