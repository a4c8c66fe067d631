//! Not the driver's, but for tests of programs that call it, in their process: calls that fail when asked to, and what is
//! live. Counts are of all threads.

use crate::inject::{self, Wish};
use crate::state::{HostKind, lock};
use crate::status::Code;
use crate::{host, schedule};

/// No list of names is longer.
const NAMES_LIMIT: usize = 4096;

/// Forgets what was asked for before, counts calls from now on, and has a call return `code` and do nothing else: of those of
/// `names` (exported functions, by commas, or `*`) the one that `nth` others come before; `lasts` not 0: and all after it. A
/// code of those that leave a context unusable is then that context's, as after a kernel's fault. `code` 0: none fails.
/// Returns 0, or `CUDA_ERROR_INVALID_VALUE` and a line on stderr.
// SAFETY: no driver has this name.
#[unsafe(no_mangle)]
pub extern "C" fn ptxsim_fail(names: usize, nth: u64, code: i32, lasts: i32) -> i32 {
    if code == 0 {
        inject::ask(None);
        return 0;
    }
    let wish = || -> Result<Wish, String> {
        let names = host::read_c_string(names, NAMES_LIMIT).map_err(|_| "no names".to_owned())?;
        let names = inject::names_of(&String::from_utf8_lossy(&names))?;
        match Code(code) {
            code if inject::is_error(code) => Ok(Wish { names, nth, code, lasts: lasts != 0 }),
            _ => Err(format!("{code} is no error's code")),
        }
    };
    match wish() {
        Ok(wish) => inject::ask(Some(wish)),
        Err(why) => {
            eprintln!("ptxsim: ptxsim_fail: {why}");
            return Code::INVALID_VALUE.0;
        }
    }
    0
}

/// Writes the name of call number `index` since `ptxsim_fail` into the `length` bytes at `name`, with a 0 behind it. Returns 0,
/// or `CUDA_ERROR_NOT_FOUND` where there were not as many, `CUDA_ERROR_INVALID_VALUE` where the name does not fit.
// SAFETY: no driver has this name.
#[unsafe(no_mangle)]
pub extern "C" fn ptxsim_call(index: u64, name: usize, length: u64) -> i32 {
    let Some(found) = usize::try_from(index).ok().and_then(inject::call) else { return Code::NOT_FOUND.0 };
    if length <= found.len() as u64 {
        return Code::INVALID_VALUE.0;
    }
    let written = host::write_bytes(name, &[found.as_bytes(), &[0]].concat());
    written.map_or_else(|failure| failure.code.0, |()| 0)
}

/// How many calls have failed since `ptxsim_fail` because of it.
// SAFETY: no driver has this name.
#[unsafe(no_mangle)]
pub extern "C" fn ptxsim_failed() -> u64 {
    inject::failed()
}

/// Lets everything that is queued run, and tells how many there are on all cards of: 0 allocations of device memory and
/// variables of modules, 1 allocations of pinned memory, 2 streams, 3 events, 4 captures, 5 graphs, 6 executable graphs, 7
/// modules. Other numbers: 0.
// SAFETY: no driver has this name.
#[unsafe(no_mangle)]
pub extern "C" fn ptxsim_live(what: i32) -> u64 {
    let cards = lock().cards.len();
    for card in 0..cards {
        // A fault is for the program's own calls to tell.
        let _ = schedule::wait(schedule::Goal::Card(card));
    }
    let driver = lock();
    let count = match what {
        0 => driver.devices.0.iter().map(|device| device.allocations()).sum(),
        1 => driver.host_memory.values().filter(|memory| matches!(memory.kind, HostKind::Pinned(_))).count(),
        2 => driver.streams.values().filter(|stream| stream.context.is_some() && !stream.destroyed).count(),
        3 => driver.events.len(),
        4 => driver.captures.len(),
        5 => driver.graphs.len(),
        6 => driver.executables.len(),
        7 => driver.modules.len(),
        _ => 0,
    };
    count as u64
}

/// Has cards forget the error that lost their contexts. A real one never does: the test's next part stands for a new process.
// SAFETY: no driver has this name.
#[unsafe(no_mangle)]
pub extern "C" fn ptxsim_heal() {
    lock().cards.iter_mut().for_each(|card| card.sticky = None);
}
