//! The plain driver API, as programs in C use it: cudarc's checks would come before the driver's.

use cudarc::driver::sys::{self, CUresult};
use std::ffi::c_void;
use std::ptr::null_mut;

/// Kernels `set` and `add`.
pub const PTX: &std::ffi::CStr = c".version 8.0\n.target sm_80\n.address_size 64\n
    .visible .entry set(.param .u64 to) {\n.reg .b64 %a<3>;\n.reg .b32 %r<3>;\n
    ld.param.u64 %a0, [to];\nmov.u32 %r0, %tid.x;\nmul.wide.u32 %a1, %r0, 4;\nadd.s64 %a0, %a0, %a1;\n
    mov.u32 %r1, 7;\nst.global.u32 [%a0], %r1;\nret;\n}\n
    .visible .entry add(.param .u64 to) {\n.reg .b64 %a<3>;\n.reg .b32 %r<3>;\n
    ld.param.u64 %a0, [to];\nmov.u32 %r0, %tid.x;\nmul.wide.u32 %a1, %r0, 4;\nadd.s64 %a0, %a0, %a1;\n
    ld.global.u32 %r1, [%a0];\nadd.u32 %r1, %r1, 1;\nst.global.u32 [%a0], %r1;\nret;\n}\n";

pub const WORDS: usize = 64;
pub const BYTES: usize = 4 * WORDS;

/// A context, made current, and the kernels loaded into it.
pub struct Card {
    pub context: sys::CUcontext,
    set: sys::CUfunction,
    add: sys::CUfunction,
}

/// Which kernel.
#[allow(dead_code, reason = "not every test binary uses both")]
#[derive(Clone, Copy)]
pub enum Kernel {
    /// Stores 7 to 64 words.
    Set,
    /// Adds 1 to each of 64 words.
    Add,
}

impl Card {
    pub fn new(ordinal: i32) -> Self {
        let mut context = null_mut();
        // SAFETY: a valid pointer.
        unsafe {
            sys::cuInit(0).result().unwrap();
            sys::cuDevicePrimaryCtxRetain(&mut context, ordinal).result().unwrap();
        }
        Self::in_context(context)
    }

    /// The same for any context.
    pub fn in_context(context: sys::CUcontext) -> Self {
        let (mut module, mut set, mut add) = (null_mut(), null_mut(), null_mut());
        // SAFETY: a live context, valid pointers to live values.
        unsafe {
            sys::cuCtxSetCurrent(context).result().unwrap();
            sys::cuModuleLoadData(&mut module, PTX.as_ptr().cast()).result().unwrap();
            sys::cuModuleGetFunction(&mut set, module, c"set".as_ptr()).result().unwrap();
            sys::cuModuleGetFunction(&mut add, module, c"add".as_ptr()).result().unwrap();
        }
        Self { context, set, add }
    }

    pub fn make_current(&self) {
        // SAFETY: a live context.
        unsafe { sys::cuCtxSetCurrent(self.context).result().unwrap() }
    }

    pub fn function(&self, kernel: Kernel) -> sys::CUfunction {
        match kernel {
            Kernel::Set => self.set,
            Kernel::Add => self.add,
        }
    }

    /// Launches a kernel on 64 words. What the launch reaches is the virtual card's to check.
    pub fn launch(&self, kernel: Kernel, words: u64, stream: sys::CUstream) -> CUresult {
        let function = self.function(kernel);
        let mut words = words;
        let mut values = [(&raw mut words).cast::<c_void>()];
        let values = values.as_mut_ptr();
        // SAFETY: valid pointers to live values.
        unsafe { sys::cuLaunchKernel(function, 1, 1, 1, WORDS as u32, 1, 1, 0, stream, values, null_mut()) }
    }

    /// A stream of the current context that orders itself against no other.
    pub fn stream(&self) -> sys::CUstream {
        let mut stream = null_mut();
        // SAFETY: a valid pointer.
        unsafe { sys::cuStreamCreate(&mut stream, 1).result().unwrap() };
        stream
    }

    pub fn event(&self) -> sys::CUevent {
        let mut event = null_mut();
        // SAFETY: a valid pointer.
        unsafe { sys::cuEventCreate(&mut event, 0).result().unwrap() };
        event
    }

    /// 64 words of the current card's memory.
    pub fn words(&self) -> u64 {
        let mut address = 0;
        // SAFETY: a valid pointer.
        unsafe { sys::cuMemAlloc_v2(&mut address, BYTES).result().unwrap() };
        address
    }
}

/// The first word, once the stream's work is done.
pub fn first_word(address: u64, stream: sys::CUstream) -> Result<u32, CUresult> {
    let mut word = 0u32;
    // SAFETY: a live word; the copy into it is done when the call returns.
    unsafe {
        sys::cuMemcpyDtoHAsync_v2((&raw mut word).cast(), address, 4, stream).result().map_err(|e| e.0)?;
        sys::cuStreamSynchronize(stream).result().map_err(|e| e.0)?;
    }
    Ok(word)
}

pub fn synchronize(stream: sys::CUstream) -> CUresult {
    // SAFETY: the virtual driver checks the handle.
    unsafe { sys::cuStreamSynchronize(stream) }
}

/// A function of the driver's by its exact name. Which variant of a call cudarc has depends on the machine's toolkit.
pub fn symbol(name: &std::ffi::CStr) -> *mut c_void {
    // SAFETY: NUL-terminated names.
    let found = unsafe { libc::dlsym(libc::dlopen(c"libcuda.so".as_ptr(), libc::RTLD_LAZY), name.as_ptr()) };
    assert!(!found.is_null(), "{name:?} is not exported");
    found
}

/// A context that is not the primary one, made current.
pub fn create_context(ordinal: i32) -> sys::CUcontext {
    type Create = unsafe extern "C" fn(*mut sys::CUcontext, u32, i32) -> CUresult;
    let mut context = null_mut();
    // SAFETY: the function of this name has this type, the pointer is valid.
    unsafe {
        let create = std::mem::transmute::<*mut c_void, Create>(symbol(c"cuCtxCreate_v2"));
        create(&mut context, 0, ordinal).result().unwrap();
    }
    context
}
