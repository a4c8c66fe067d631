//! The conformance kit's runner, through the plain driver API of whatever libcuda it is given.
//!
//! `cargo test -p ptxsim-driver --test conformance` runs it on the virtual card and compares with the goldens
//! that are there. With `PTXSIM_CONFORMANCE=card` it runs on the machine's own driver and writes them.

mod programs;
#[path = "../driver/tests/support/mod.rs"]
mod support;

use cudarc::driver::CudaContext;
use cudarc::driver::sys::{self, CUresult};
use programs::{OPERANDS, Program, THREADS};
use std::ffi::{CString, c_void};
use std::path::{Path, PathBuf};
use std::ptr::null_mut;

/// Rounds of operands per program.
const ROUNDS: u64 = 4;

/// Where a program's results are kept: `PTXSIM_GOLDENS`, or this folder's goldens/.
fn golden(name: &str) -> PathBuf {
    let own = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/goldens");
    std::env::var_os("PTXSIM_GOLDENS").map_or_else(own, PathBuf::from).join(format!("{name}.bin"))
}

/// Loads a program and gives its kernel.
fn load(program: &Program) -> Result<sys::CUfunction, CUresult> {
    let text = CString::new(program.ptx.as_str()).expect("no NUL in a program");
    let (mut module, mut function) = (null_mut(), null_mut());
    // SAFETY: valid pointers to live values; the module lives to the end of the process.
    unsafe {
        sys::cuModuleLoadData(&mut module, text.as_ptr().cast()).result().map_err(|error| error.0)?;
        sys::cuModuleGetFunction(&mut function, module, c"k".as_ptr()).result().map_err(|error| error.0)?;
    }
    Ok(function)
}

/// Runs a kernel on one round of operands and gives each thread's result.
fn run(function: sys::CUfunction, round: u64) -> Result<Vec<u64>, CUresult> {
    let operands = programs::operands(round);
    let mut results = vec![0u64; THREADS];
    let (mut to, mut from) = (0u64, 0u64);
    let check = |code: CUresult| {
        if code == CUresult::CUDA_SUCCESS { Ok(()) } else { Err(code) }
    };
    // SAFETY: valid pointers to live values; the kernel takes two addresses and touches what was allocated.
    unsafe {
        check(sys::cuMemAlloc_v2(&mut to, THREADS * 8))?;
        check(sys::cuMemAlloc_v2(&mut from, THREADS * OPERANDS * 8))?;
        check(sys::cuMemcpyHtoD_v2(from, operands.as_ptr().cast(), operands.len() * 8))?;
        let mut values = [(&raw mut to).cast::<c_void>(), (&raw mut from).cast::<c_void>()];
        let threads = THREADS as u32;
        check(sys::cuLaunchKernel(
            function,
            1,
            1,
            1,
            threads,
            1,
            1,
            0,
            null_mut(),
            values.as_mut_ptr(),
            null_mut(),
        ))?;
        check(sys::cuMemcpyDtoH_v2(results.as_mut_ptr().cast(), to, THREADS * 8))?;
        check(sys::cuMemFree_v2(to))?;
        check(sys::cuMemFree_v2(from))?;
    }
    Ok(results)
}

fn all_rounds(function: sys::CUfunction) -> Result<Vec<u8>, CUresult> {
    let mut bytes = Vec::new();
    for round in 0..ROUNDS {
        bytes.extend(run(function, round)?.iter().flat_map(|word| word.to_le_bytes()));
    }
    Ok(bytes)
}

fn kit(on_card: bool) {
    let _context = CudaContext::new(0).expect("a driver and a card");
    let programs = programs::all();
    assert!(programs.len() >= 180);
    // A card is asked all of it before the first failure is told: its time is scarce.
    let mut failures = Vec::new();
    let loaded: Vec<_> = programs.iter().map(|program| (program, load(program))).collect();
    let mut compared = 0;
    for (program, function) in loaded {
        let bytes = match function.and_then(all_rounds) {
            Ok(bytes) => bytes,
            Err(code) => {
                failures.push(format!("{}: {code:?}\n{}", program.name, program.ptx));
                continue;
            }
        };
        let path = golden(&program.name);
        if on_card {
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("the folder of the goldens");
            std::fs::write(&path, bytes).expect("a golden");
        } else if let Ok(expected) = std::fs::read(&path) {
            if bytes != expected {
                failures.push(format!("{}: bits differ from the card's", program.name));
            }
            compared += 1;
        }
    }
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), programs.len(), failures.join("\n"));
    eprintln!("conformance: {} programs run, {compared} compared with a card's bits", programs.len());
}

#[test]
fn conformance() {
    if std::env::var("PTXSIM_CONFORMANCE").as_deref() == Ok("card") {
        return kit(true);
    }
    let told = support::in_child("conformance", &[], || kit(false));
    if let Some(line) =
        told.and_then(|told| told.lines().find(|line| line.starts_with("conformance:")).map(str::to_owned))
    {
        println!("{line}");
    }
}

/// The operands hold corners and differ by round, so that a golden is more than one value.
#[test]
fn operands_differ_and_repeat() {
    let first = programs::operands(0);
    assert_eq!(first, programs::operands(0));
    assert_ne!(first, programs::operands(1));
    let corners = (0..ROUNDS).flat_map(programs::operands).filter(|value| *value == 0x7fc0_0000).count();
    assert!(corners > 0, "NaN is among them");
}
