//! Initialisation, versions, error names and look-up by name.

use std::ffi::{CStr, CString};

use crate::guard::driver_api;
use crate::host;
use crate::state::lock;
use crate::status::{Code, Failure};

/// The release of CUDA that is played where `PTXSIM_CUDA` does not say.
const RELEASE: &str = "13.0";
/// No symbol name is longer.
const NAME_LIMIT: usize = 256;

driver_api! {
    fn cuInit(flags: u32) {
        if flags != 0 {
            return Err(Code::INVALID_VALUE.because(format!("flags are {flags}, allowed is 0")));
        }
        lock().initialise()
    }

    fn cuDriverGetVersion(version: usize) {
        host::write(version, release()?)
    }

    fn cuGetErrorName(error: i32, name: usize) {
        let found = Code(error).name();
        host::write(name, found.map_or(0, |text| text.as_ptr() as usize))?;
        found.map(|_| ()).ok_or(Code::INVALID_VALUE.into())
    }

    fn cuGetErrorString(error: i32, text: usize) {
        let found = Code(error).description();
        host::write(text, found.map_or(0, |text| text.as_ptr() as usize))?;
        found.map(|_| ()).ok_or(Code::INVALID_VALUE.into())
    }

    fn cuGetProcAddress(symbol: usize, function: usize, version: i32, _flags: u64) {
        let found = look_up(symbol, version)?;
        host::write(function, found.unwrap_or(0))?;
        found.map(|_| ()).ok_or(Code::NOT_FOUND.into())
    }

    fn cuGetProcAddress_v2(symbol: usize, function: usize, version: i32, _flags: u64, status: usize) {
        let found = look_up(symbol, version)?;
        host::write(function, found.unwrap_or(0))?;
        // 0: found, 1: no such symbol.
        host::write_optional(status, i32::from(found.is_none()))?;
        found.map(|_| ()).ok_or(Code::NOT_FOUND.into())
    }

    fn cuProfilerStart() {
        Ok(())
    }

    fn cuProfilerStop() {
        Ok(())
    }
}

/// Finds an exported function, the newest variant of its name first as the header's macros do.
fn look_up(symbol: usize, _version: i32) -> Result<Option<usize>, crate::status::Failure> {
    let name = host::read_c_string(symbol, NAME_LIMIT)?;
    let name =
        String::from_utf8(name).map_err(|_| Code::INVALID_VALUE.because("a symbol name that is not text"))?;
    // SAFETY: an all-zero Dl_info is a valid value of this plain C struct.
    let mut own: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: the address is a function of this library, `own` is a live Dl_info.
    if unsafe { libc::dladdr(cuInit as *const libc::c_void, &mut own) } == 0 || own.dli_fname.is_null() {
        return Ok(None);
    }
    // SAFETY: dladdr gave a NUL-terminated path; NOLOAD only finds what is already in the process.
    let library = unsafe { libc::dlopen(own.dli_fname, libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
    if library.is_null() {
        return Ok(None);
    }
    for suffix in ["_v4", "_v3", "_v2", ""] {
        let Ok(text) = CString::new(format!("{name}{suffix}")) else {
            return Ok(None);
        };
        let text: &CStr = &text;
        // SAFETY: `library` is a live handle, `text` is NUL-terminated.
        let found = unsafe { libc::dlsym(library, text.as_ptr()) };
        if !found.is_null() {
            return Ok(Some(found as usize));
        }
    }
    Ok(None)
}

/// The release of CUDA that this driver says it is of, 13000 for 13.0: it does the same whatever it says.
fn release() -> Result<i32, Failure> {
    let text = std::env::var("PTXSIM_CUDA").unwrap_or_else(|_| RELEASE.to_owned());
    let parts =
        text.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    match parts {
        Some((major @ 1..100, minor @ 0..100)) => Ok(1000 * major + 10 * minor),
        _ => {
            Err(Code::INVALID_VALUE.because(format!("PTXSIM_CUDA={text}, allowed: a release like {RELEASE}")))
        }
    }
}
