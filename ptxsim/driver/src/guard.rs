//! The boundary of the library: every exported function enters through here.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use crate::status::{Code, Outcome};

thread_local! {
    static IN_CALLBACK: Cell<bool> = const { Cell::new(false) };
}

/// Runs the body of exported function `name`, prints what went wrong, returns the code.
pub(crate) fn enter(name: &str, body: impl FnOnce() -> Outcome) -> i32 {
    if IN_CALLBACK.get() {
        eprintln!("ptxsim: {name}: CUDA_ERROR_NOT_PERMITTED: called from a host function that a stream runs");
        return Code::NOT_PERMITTED.0;
    }
    let code = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => 0,
        Ok(Err(failure)) => {
            if let Some(message) = failure.message {
                let code = failure.code.name().and_then(|n| n.to_str().ok()).unwrap_or("error");
                eprintln!("ptxsim: {name}: {code}: {message}");
            }
            failure.code.0
        }
        Err(_) => {
            eprintln!("ptxsim: {name}: CUDA_ERROR_UNKNOWN: the simulator panicked; this is a bug in it");
            Code::UNKNOWN.0
        }
    };
    trace(|| format!("{name} -> {code}"));
    code
}

/// Marks the current thread as running a stream's host function while `body` runs.
pub(crate) fn in_callback(body: impl FnOnce()) {
    IN_CALLBACK.set(true);
    body();
    IN_CALLBACK.set(false);
}

/// Says something on stderr where `PTXSIM_TRACE` asks for it.
pub(crate) fn trace(what: impl FnOnce() -> String) {
    static ON: OnceLock<bool> = OnceLock::new();
    if *ON.get_or_init(|| std::env::var_os("PTXSIM_TRACE").is_some_and(|value| value != "0")) {
        eprintln!("ptxsim: trace: {}", what());
    }
}

/// Declares exported driver functions; after `as`, the name of the variant whose stream 0 is the thread's own. Pointers
/// are plain addresses: only `host` follows them.
macro_rules! driver_api {
    ($(fn $name:ident $(as $per_thread:ident)? ($($argument:ident: $type:ty),* $(,)?) $body:block)*) => {$(
        #[doc = concat!("The driver's `", stringify!($name), "`.")]
        // SAFETY: the driver owns this name; the library takes its place and exports it once.
        #[unsafe(no_mangle)]
        pub extern "C" fn $name($($argument: $type),*) -> i32 {
            $crate::guard::enter(stringify!($name), || -> $crate::status::Outcome {
                $crate::inject::begin(stringify!($name))?;
                $body
            })
        }
        $crate::guard::per_thread_variant!([$($per_thread)?] $name($($argument: $type),*));
    )*};
}
pub(crate) use driver_api;

macro_rules! per_thread_variant {
    ([] $name:ident($($argument:ident: $type:ty),*)) => {};
    ([$variant:ident] $name:ident($($argument:ident: $type:ty),*)) => {
        #[doc = concat!("The driver's `", stringify!($variant), "`.")]
        // SAFETY: the driver owns this name; the library takes its place and exports it once.
        #[unsafe(no_mangle)]
        pub extern "C" fn $variant($($argument: $type),*) -> i32 {
            $crate::state::per_thread_stream(|| $name($($argument),*))
        }
    };
}
pub(crate) use per_thread_variant;
