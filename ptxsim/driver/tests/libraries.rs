//! Libraries, load options, the linker and look-up by name, as programs use them that compile while they run.

mod support;

use cudarc::driver::sys::{self, CUresult};
use std::ffi::{CStr, c_char, c_void};
use std::ptr::null_mut;
use support::in_child;
use support::raw::{BYTES, Card, Kernel, PTX, WORDS, create_context, first_word, symbol, synchronize};

const OK: CUresult = CUresult::CUDA_SUCCESS;
const VALUE: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;
const HANDLE: CUresult = CUresult::CUDA_ERROR_INVALID_HANDLE;
const UNSUPPORTED: CUresult = CUresult::CUDA_ERROR_NOT_SUPPORTED;
const DYNAMIC: sys::CUfunction_attribute =
    sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;

fn load(image: *const c_void) -> Result<sys::CUlibrary, CUresult> {
    let mut library = null_mut();
    // SAFETY: valid pointers, or what the virtual driver checks.
    let code = unsafe {
        sys::cuLibraryLoadData(&mut library, image, null_mut(), null_mut(), 0, null_mut(), null_mut(), 0)
    };
    code.result().map(|()| library).map_err(|e| e.0)
}

fn kernel(library: sys::CUlibrary, name: &CStr) -> Result<sys::CUkernel, CUresult> {
    let mut kernel = null_mut();
    // SAFETY: a valid pointer; the virtual driver checks the handle.
    unsafe { sys::cuLibraryGetKernel(&mut kernel, library, name.as_ptr()) }
        .result()
        .map(|()| kernel)
        .map_err(|e| e.0)
}

fn launch(function: *mut c_void, words: u64, stream: sys::CUstream) -> CUresult {
    let mut words = words;
    let mut values = [(&raw mut words).cast::<c_void>()];
    let values = values.as_mut_ptr();
    // SAFETY: valid pointers to live values; the virtual driver checks the handle.
    unsafe {
        sys::cuLaunchKernel(function.cast(), 1, 1, 1, WORDS as u32, 1, 1, 0, stream, values, null_mut())
    }
}

/// A library comes before any context; its kernels run in each, by their own handle or by a function's.
#[test]
fn a_library_serves_every_context() {
    let told = in_child("a_library_serves_every_context", &[("PTXSIM_DEVICES", "2")], || {
        // SAFETY: no arguments.
        unsafe { sys::cuInit(0).result().unwrap() };
        let library = load(PTX.as_ptr().cast()).unwrap();
        let set = kernel(library, c"set").unwrap();
        assert_eq!(kernel(library, c"set"), Ok(set), "the same kernel");
        assert_eq!(kernel(library, c"no_such").unwrap_err(), CUresult::CUDA_ERROR_NOT_FOUND);
        let (mut count, mut name, mut attribute) = (0, std::ptr::null(), 0);
        let mut function = null_mut();
        // SAFETY: valid pointers and handles.
        unsafe {
            assert_eq!(sys::cuLibraryGetKernelCount(&mut count, library), OK);
            assert_eq!(sys::cuKernelGetName(&mut name, set), OK);
            assert_eq!((count, CStr::from_ptr(name)), (2, c"set"));
            // On one card, before there is a context.
            assert_eq!(sys::cuKernelSetAttribute(DYNAMIC, 100_000, set, 1), OK);
            assert_eq!(sys::cuKernelSetAttribute(DYNAMIC, 300_000, set, 1), VALUE);
            for (device, expected) in [(0, 49_152), (1, 100_000)] {
                assert_eq!(sys::cuKernelGetAttribute(&mut attribute, DYNAMIC, set, device), OK);
                assert_eq!(attribute, expected);
            }
            assert_eq!(sys::cuKernelGetFunction(&mut function, set), CUresult::CUDA_ERROR_INVALID_CONTEXT);
        }
        for ordinal in [0, 1] {
            create_context(ordinal);
            let mut words = 0;
            // SAFETY: valid pointers and handles.
            unsafe {
                sys::cuMemAlloc_v2(&mut words, BYTES).result().unwrap();
                assert_eq!(launch(set.cast(), words, null_mut()), OK);
                assert_eq!(first_word(words, null_mut()), Ok(7));
                let add = kernel(library, c"add").unwrap();
                assert_eq!(sys::cuKernelGetFunction(&mut function, add), OK);
                assert_eq!(launch(function.cast(), words, null_mut()), OK);
                assert_eq!(first_word(words, null_mut()), Ok(8));
                assert_eq!(sys::cuKernelGetFunction(&mut function, set), OK);
                assert_eq!(sys::cuFuncGetAttribute(&mut attribute, DYNAMIC, function), OK);
                assert_eq!(attribute, [49_152, 100_000][ordinal as usize], "what was set on the kernel");
                let (mut module, mut by_name) = (null_mut(), null_mut());
                assert_eq!(sys::cuLibraryGetModule(&mut module, library), OK);
                assert_eq!(sys::cuModuleGetFunction(&mut by_name, module, c"set".as_ptr()), OK);
                assert_eq!(by_name, function);
                assert_eq!(sys::cuModuleUnload(module), CUresult::CUDA_ERROR_NOT_PERMITTED);
                sys::cuMemFree_v2(words).result().unwrap();
            }
        }
        // SAFETY: a live handle, then none.
        unsafe {
            assert_eq!(sys::cuLibraryUnload(library), OK);
            assert_eq!(sys::cuLibraryUnload(library), HANDLE);
        }
        assert_eq!(
            (launch(set.cast(), 0, null_mut()), launch(function.cast(), 0, null_mut())),
            (HANDLE, HANDLE)
        );
    });
    assert!(told.is_none_or(|told| !told.contains("leak")));
}

#[test]
fn a_library_has_variables_and_every_packing() {
    in_child("a_library_has_variables_and_every_packing", &[], || {
        let _card = Card::new(0);
        for image in [
            &include_bytes!("data/scale.plain.fatbin")[..],
            include_bytes!("data/scale.speed.fatbin"),
            include_bytes!("data/scale.size.fatbin"),
        ] {
            let library = load(image.as_ptr().cast()).unwrap();
            let (mut address, mut bytes, mut values) = (0, 0, [0u32; 4]);
            // SAFETY: valid pointers and handles.
            unsafe {
                assert_eq!(sys::cuLibraryGetGlobal(&mut address, &mut bytes, library, c"table".as_ptr()), OK);
                assert_eq!(bytes, 16);
                assert_eq!(sys::cuMemcpyDtoH_v2(values.as_mut_ptr().cast(), address, bytes), OK);
                assert_eq!(sys::cuLibraryUnload(library), OK);
                assert_eq!(
                    sys::cuMemcpyDtoH_v2(values.as_mut_ptr().cast(), address, bytes),
                    VALUE,
                    "unloaded"
                );
            }
            assert_eq!(values, [1, 2, 3, 4]);
        }
        assert_eq!(load(c"\x7fELF".as_ptr().cast()), Err(CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU));
        assert_eq!(load(c"nonsense".as_ptr().cast()), Err(CUresult::CUDA_ERROR_INVALID_PTX));
    });
}

use sys::CUjit_option_enum as Jit;

/// Loads with options; gives the code, the logs and what stands in the places of their sizes.
fn load_with(image: &CStr, more: &[(Jit, usize)]) -> (CUresult, [String; 2], [usize; 2]) {
    let (mut info, mut error) = ([0; 64], [0; 64]);
    let mut keys = vec![
        Jit::CU_JIT_INFO_LOG_BUFFER,
        Jit::CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES,
        Jit::CU_JIT_ERROR_LOG_BUFFER,
        Jit::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
    ];
    let mut values = vec![info.as_mut_ptr().addr(), info.len(), error.as_mut_ptr().addr(), error.len()];
    let mut module = null_mut();
    keys.extend(more.iter().map(|(key, _)| *key));
    values.extend(more.iter().map(|(_, value)| *value));
    let (options, places) = (keys.as_mut_ptr(), values.as_mut_ptr().cast::<*mut c_void>());
    // SAFETY: as many options as values; the logs are as long as their sizes say.
    let code = unsafe {
        sys::cuModuleLoadDataEx(&mut module, image.as_ptr().cast(), keys.len() as u32, options, places)
    };
    let text = |log: &[u8]| CStr::from_bytes_until_nul(log).unwrap().to_str().unwrap().to_owned();
    (code, [text(&info), text(&error)], [values[1], values[3]])
}

#[test]
fn load_options_fill_logs_or_are_refused() {
    in_child("load_options_fill_logs_or_are_refused", &[], || {
        let _card = Card::new(0);
        let (code, [info, error], sizes) = load_with(PTX, &[]);
        assert_eq!((code, &*info, &*error), (OK, "ptxsim: PTX for sm_80, kernels: 2", ""));
        assert_eq!(sizes, [info.len() + 1, 1]);
        let (code, [info, error], sizes) = load_with(c".version 8.0\n.target sm_80\nnonsense", &[]);
        assert_eq!((code, &*info), (CUresult::CUDA_ERROR_INVALID_PTX, ""));
        assert!(error.starts_with("PTX line 3: ") && sizes == [1, error.len() + 1], "{error}");
        for (key, value, expected) in [
            (Jit::CU_JIT_OPTIMIZATION_LEVEL, 4, OK),
            (Jit::CU_JIT_OPTIMIZATION_LEVEL, 5, VALUE),
            (Jit::CU_JIT_MAX_REGISTERS, 32, OK),
            (Jit::CU_JIT_TARGET, 90, OK),
            (Jit::CU_JIT_TARGET, 80, UNSUPPORTED),
            (Jit::CU_JIT_GLOBAL_SYMBOL_COUNT, 1, UNSUPPORTED),
            (Jit::CU_JIT_NUM_OPTIONS, 0, VALUE),
        ] {
            assert_eq!(load_with(PTX, &[(key, value)]).0, expected, "{key:?} {value}");
        }
    });
}

/// As Numba does without nvJitLink: the "cubin" is handed to a load as it came.
#[test]
fn what_the_linker_gives_can_be_loaded() {
    in_child("what_the_linker_gives_can_be_loaded", &[], || {
        let card = Card::new(0);
        let (mut link, mut image, mut bytes) = (null_mut(), null_mut(), 0);
        let input = sys::CUjitInputType::CU_JIT_INPUT_PTX;
        // Not closed by a NUL: the size says where it ends.
        let text = [PTX.to_bytes(), b"!"].concat();
        let add = |link, kind, length| {
            let data = text.as_ptr().cast_mut().cast();
            // SAFETY: so many bytes; the virtual driver checks the handle.
            unsafe {
                sys::cuLinkAddData_v2(link, kind, data, length, c"x".as_ptr(), 0, null_mut(), null_mut())
            }
        };
        // SAFETY: valid pointers and handles.
        unsafe {
            assert_eq!(sys::cuLinkCreate_v2(0, null_mut(), null_mut(), &mut link), OK);
            assert_eq!(sys::cuLinkComplete(link, &mut image, &mut bytes), VALUE, "nothing to link");
            assert_eq!(add(link, sys::CUjitInputType::CU_JIT_INPUT_OBJECT, text.len() - 1), UNSUPPORTED);
            assert_eq!(add(link, input, text.len() - 1), OK);
            assert_eq!(add(link, input, text.len() - 1), UNSUPPORTED, "a second image");
            assert_eq!(sys::cuLinkComplete(link, &mut image, &mut bytes), OK);
            assert_eq!(bytes, PTX.to_bytes_with_nul().len());
            let library = load(image).unwrap();
            assert_eq!(sys::cuLinkDestroy(link), OK);
            assert_eq!(sys::cuLinkDestroy(link), HANDLE);
            let words = card.words();
            assert_eq!(launch(kernel(library, c"set").unwrap().cast(), words, null_mut()), OK);
            assert_eq!(first_word(words, null_mut()), Ok(7));
        }
    });
}

/// A look-up as the runtime does it: by release, and for the thread's own stream.
#[test]
fn a_look_up_gives_the_variant_that_was_asked_for() {
    type LookUp = unsafe extern "C" fn(*const c_char, *mut *mut c_void, i32, u64, *mut i32) -> CUresult;
    type Synchronise = unsafe extern "C" fn(sys::CUstream) -> CUresult;
    in_child("a_look_up_gives_the_variant_that_was_asked_for", &[], || {
        let card = Card::new(0);
        // SAFETY: the function of this name has this type.
        let look_up = unsafe { std::mem::transmute::<*mut c_void, LookUp>(symbol(c"cuGetProcAddress_v2")) };
        let find = |name: &CStr, release, flags| {
            let (mut function, mut status) = (null_mut(), -1);
            // SAFETY: valid pointers.
            let code = unsafe { look_up(name.as_ptr(), &mut function, release, flags, &mut status) };
            (code, function, status)
        };
        let name = c"cuStreamGetCaptureInfo";
        for (release, variant) in [
            (10_010, c"cuStreamGetCaptureInfo"),
            (11_030, c"cuStreamGetCaptureInfo_v2"),
            (13_000, c"cuStreamGetCaptureInfo_v3"),
        ] {
            assert_eq!(find(name, release, 0), (OK, symbol(variant), 0), "{release}");
        }
        let missing = CUresult::CUDA_ERROR_NOT_FOUND;
        assert_eq!(find(name, 9_000, 0), (missing, null_mut(), 2));
        assert_eq!(find(c"cuNoSuch", 13_000, 0), (missing, null_mut(), 1));
        assert_eq!(find(name, 13_000, 4).0, VALUE);
        // Work on the thread's own stream is there when that stream is waited for, which stream 0 now is.
        let own: sys::CUstream = std::ptr::without_provenance_mut(2);
        let words = card.words();
        assert_eq!(card.launch(Kernel::Set, words, own), OK);
        assert_eq!(find(c"cuStreamSynchronize", 7_000, 2).1, symbol(c"cuStreamSynchronize_ptsz"));
        // SAFETY: the function of this name has this type; a default stream.
        unsafe {
            assert_eq!(sys::cuStreamQuery(own), CUresult::CUDA_ERROR_NOT_READY);
            let found = find(c"cuStreamSynchronize", 7_000, 2).1;
            assert_eq!(std::mem::transmute::<*mut c_void, Synchronise>(found)(null_mut()), OK);
        }
        assert_eq!(synchronize(own), OK);
    });
}

/// NVIDIA's runtime is told why it cannot run.
#[test]
fn private_tables_are_refused_with_a_word() {
    type Export = unsafe extern "C" fn(*mut *const c_void, *const [u8; 16]) -> CUresult;
    let told = in_child("private_tables_are_refused_with_a_word", &[], || {
        for _ in 0..2 {
            let mut table = std::ptr::null();
            // SAFETY: the function of this name has this type; valid pointers.
            unsafe {
                let export = std::mem::transmute::<*mut c_void, Export>(symbol(c"cuGetExportTable"));
                assert_eq!(export(&mut table, &[7; 16]), UNSUPPORTED);
            }
        }
    });
    assert!(told.is_none_or(|told| told.matches("libcudart").count() == 1));
}
