//! How calls end: a status, and the message of the last failure. No panic leaves the library.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use onekv::Error;

/// How a call ended. What went wrong, onekv_last_error() says.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum onekv_status {
    /// As asked.
    ONEKV_OK = 0,
    /// An argument was refused. Nothing was written or queued.
    ONEKV_INVALID = 1,
    /// There is no such device, no driver, a driver that is too old, or no CUDA in this build of the library.
    ONEKV_UNAVAILABLE = 2,
    /// The device's memory ran out: the same may succeed with less of it in use.
    ONEKV_OUT_OF_MEMORY = 3,
    /// The CUDA driver refused a call.
    ONEKV_CUDA_ERROR = 4,
    /// The CUDA context is lost, as after a kernel's fault: every later call fails, too.
    ONEKV_CONTEXT_LOST = 5,
    /// A mistake in this library. The handles of the call can only be freed.
    ONEKV_PANIC = 6,
}

/// Why a call failed.
#[derive(Debug)]
pub(crate) struct Failure {
    status: onekv_status,
    message: String,
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// An argument is not what is allowed.
    pub fn invalid(message: String) -> Self {
        Self { status: onekv_status::ONEKV_INVALID, message }
    }

    /// A pointer is NULL.
    pub fn null(name: &str) -> Self {
        Self::invalid(format!("{name} is NULL, allowed: a valid pointer"))
    }

    #[cfg(not(feature = "cuda"))]
    pub fn without_cuda() -> Self {
        let message =
            "CUDA: this build of the library has no CUDA, allowed: one with it (cargo build --features cuda)";
        Self { status: onekv_status::ONEKV_UNAVAILABLE, message: message.to_owned() }
    }

    fn panic(payload: &(dyn Any + Send)) -> Self {
        let texts = [payload.downcast_ref::<&str>().copied(), payload.downcast_ref().map(String::as_str)];
        let why = texts.into_iter().flatten().next().unwrap_or("no message");
        Self { status: onekv_status::ONEKV_PANIC, message: format!("a mistake in onekv: {why}") }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::CudaUnavailable { .. } => onekv_status::ONEKV_UNAVAILABLE,
            #[cfg(feature = "cuda")]
            Error::Cuda { .. } if error.is_out_of_memory() => onekv_status::ONEKV_OUT_OF_MEMORY,
            #[cfg(feature = "cuda")]
            Error::Cuda { .. } if error.is_context_lost() => onekv_status::ONEKV_CONTEXT_LOST,
            #[cfg(feature = "cuda")]
            Error::Cuda { .. } => onekv_status::ONEKV_CUDA_ERROR,
            _ => onekv_status::ONEKV_INVALID,
        };
        Self { status, message: error.to_string() }
    }
}

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// Runs a call; a failure or panic becomes a status and this thread's message.
pub(crate) fn status_of(call: impl FnOnce() -> Result<()>) -> onekv_status {
    // Unwind-safe: what a panic leaves half done is freed, or behind a lock, which later calls take though it is
    // poisoned.
    let failure = match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => return onekv_status::ONEKV_OK,
        Ok(Err(failure)) => failure,
        Err(payload) => Failure::panic(&*payload),
    };
    let message = CString::new(failure.message.replace('\0', " ")).unwrap_or_default();
    // While a thread ends its message may be gone, and nobody can ask for it any more.
    let _ = LAST_ERROR.try_with(|last| last.replace(message));
    failure.status
}

/// Why the last call of this thread that failed did: which field had which value, and what is allowed. An empty string where
/// none has. It stays until the thread's next failure or end.
#[unsafe(no_mangle)]
pub extern "C" fn onekv_last_error() -> *const c_char {
    // The text is on the heap, and stays where it is when the cell's borrow ends.
    LAST_ERROR.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// The version of the library, "major.minor.patch".
#[unsafe(no_mangle)]
pub extern "C" fn onekv_version() -> *const c_char {
    const VERSION: &CStr =
        match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(version) => version,
            Err(_) => panic!("a version has no NUL"),
        };
    VERSION.as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last() -> String {
        // SAFETY: a string of this thread, copied before its next failure.
        unsafe { CStr::from_ptr(onekv_last_error()) }.to_string_lossy().into_owned()
    }

    #[test]
    fn a_panic_is_a_status_and_a_message() {
        assert_eq!(last(), "");
        assert_eq!(status_of(|| panic!("of {}", "tests")), onekv_status::ONEKV_PANIC);
        assert_eq!(last(), "a mistake in onekv: of tests");
        assert_eq!(status_of(|| Err(Failure::null("q"))), onekv_status::ONEKV_INVALID);
        assert_eq!(status_of(|| Ok(())), onekv_status::ONEKV_OK);
        assert_eq!(last(), "q is NULL, allowed: a valid pointer");
        // Another thread has no message.
        assert_eq!(std::thread::spawn(last).join().unwrap(), "");
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn answers_of_the_driver_have_statuses_of_their_own() {
        use onekv::cudarc::driver::sys::CUresult as R;
        for (result, status) in [
            (R::CUDA_ERROR_OUT_OF_MEMORY, onekv_status::ONEKV_OUT_OF_MEMORY),
            (R::CUDA_ERROR_ILLEGAL_ADDRESS, onekv_status::ONEKV_CONTEXT_LOST),
            (R::CUDA_ERROR_INVALID_VALUE, onekv_status::ONEKV_CUDA_ERROR),
        ] {
            assert_eq!(Failure::from(Error::Cuda { call: "cuInit", result }).status, status);
        }
    }
}
