//! Initialisation, versions and error names.

use crate::guard::driver_api;
use crate::host;
use crate::state::lock;
use crate::status::{Code, Failure};

/// The release of CUDA that is played where `PTXSIM_CUDA` does not say.
const RELEASE: &str = "13.0";

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

    fn cuProfilerStart() {
        Ok(())
    }

    fn cuProfilerStop() {
        Ok(())
    }
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
