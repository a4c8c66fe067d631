//! A driver whose calls fail, for tests of programs on cudarc: the functions that ptxsim's driver has for it
//! (ptxsim/driver/README.md), which calls are worth failing, and what must hold then.
//!
//! A test rehearses its work, which shows the calls; then it does it again with each of [`picks`] failing, and asks whether
//! it was told ([`is_told_later`], [`assert_named`]) and whether something is left ([`assert_no_leak`]).

mod after;
mod calls;

pub use after::{After, Table, Wrong, assert_named, assert_no_leak, calmly, without_hanging};
pub use calls::{STICKY, base, is_told_later, picks};

use std::ffi::{CStr, CString, c_char};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys::CUresult::{self, CUDA_SUCCESS};
use libloading::Library;

/// What there is of each kind: device memory, pinned memory, streams, events, captures, graphs, executable graphs, modules.
pub type Live = [u64; 8];

/// The virtual driver of this process. Calls of all threads count: a second one waits until the first is dropped.
pub struct Failing {
    fail: unsafe extern "C" fn(*const c_char, u64, i32, i32) -> i32,
    call: unsafe extern "C" fn(u64, *mut u8, u64) -> i32,
    failed: unsafe extern "C" fn() -> u64,
    live: unsafe extern "C" fn(i32) -> u64,
    heal: unsafe extern "C" fn(),
    _alone: MutexGuard<'static, ()>,
}

impl Failing {
    /// The driver that this machine has, if it is the virtual one; else that is said.
    ///
    /// # Panics
    /// Where `PTXSIM_DEVICE` is set: the virtual one was meant to be found.
    pub fn open() -> Option<Self> {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let failing = Self::load(alone);
        if failing.is_none() {
            assert!(std::env::var_os("PTXSIM_DEVICE").is_none(), "the virtual driver was not found");
            println!("failing calls are not tested: this is no virtual card");
        }
        failing
    }

    fn load(alone: MutexGuard<'static, ()>) -> Option<Self> {
        // SAFETY: the driver's library, leaked, so that its functions stay; the virtual one's have these types
        // (ptxsim/driver/src/api/inject.rs), NVIDIA's has none of their names.
        unsafe {
            let library: &'static Library = Box::leak(Box::new(Library::new("libcuda.so").ok()?));
            Some(Self {
                fail: *library.get(b"ptxsim_fail").ok()?,
                call: *library.get(b"ptxsim_call").ok()?,
                failed: *library.get(b"ptxsim_failed").ok()?,
                live: *library.get(b"ptxsim_live").ok()?,
                heal: *library.get(b"ptxsim_heal").ok()?,
                _alone: alone,
            })
        }
    }

    /// Of the calls of `names` from now on (as the driver exports them, by commas, or `*`) the one that `nth` others come
    /// before returns `status`; with `lasts` all after it too.
    ///
    /// # Panics
    /// Where a name is none of this driver's.
    #[track_caller]
    pub fn fail(&self, names: &str, nth: usize, status: CUresult, lasts: bool) {
        let text = CString::new(names).expect("names have no 0 in them");
        // SAFETY: a string of C's.
        let code = unsafe { (self.fail)(text.as_ptr(), nth as u64, status as i32, i32::from(lasts)) };
        assert_eq!(code, 0, "the virtual driver refuses `{names}`");
    }

    /// None fails from now on.
    pub fn none(&self) {
        self.fail("*", 0, CUDA_SUCCESS, false);
    }

    /// Calls that failed since the last [`fail`](Self::fail).
    pub fn failed(&self) -> u64 {
        // SAFETY: takes nothing.
        unsafe { (self.failed)() }
    }

    /// The names of all calls since the last [`fail`](Self::fail) or [`none`](Self::none).
    pub fn calls(&self) -> Vec<String> {
        let call = |index| {
            let mut name = [0u8; 64];
            // SAFETY: as many bytes as it says.
            let code = unsafe { (self.call)(index, name.as_mut_ptr(), 64) };
            let name = CStr::from_bytes_until_nul(&name).ok().filter(|_| code == 0)?;
            Some(name.to_string_lossy().into_owned())
        };
        (0..).map_while(call).collect()
    }

    /// Runs what is queued, and counts what there is then.
    pub fn live(&self) -> Live {
        // SAFETY: takes a number.
        std::array::from_fn(|what| unsafe { (self.live)(what as i32) })
    }

    /// Lets cards forget sticky errors, as a new process would find them.
    pub fn heal(&self) {
        // SAFETY: takes nothing.
        unsafe { (self.heal)() }
    }
}
