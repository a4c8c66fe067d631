//! A stand-in for cublasLt, for tests on the virtual GPU, which runs PTX and not the library's machine code.
//!
//! It has the twelve functions of a plain matrix product, as NVIDIA documents them: matrices are column-major,
//! `D = alpha op(A) op(B) + beta C`, on the stream, capturable. It is strict: what the library documents as an error
//! has the documented status, and what the library would compute something wrong from is an error, too; both are
//! told on stderr. Products are computed by a plain kernel, one thread per element.
//!
//! Statuses of the calls on descriptors are those of cublasLt 12.8, whose calls need no card.
//!
//! | module | holds |
//! | --- | --- |
//! | `documented` | numbers of NVIDIA's headers |
//! | `refusal` | why a call fails |
//! | `state` | what was created and not destroyed; what a test asks for |
//! | `problem` | descriptors, and what is allowed of them together |
//! | `kernel` | the product on the virtual card |
#![allow(non_snake_case, reason = "the exported names are the library's")]

mod documented;
mod kernel;
mod problem;
mod refusal;
mod state;
#[cfg(test)]
mod tests;

use std::ffi::{c_int, c_void};

use documented::{EXECUTION_FAILED, INVALID_VALUE, NOT_INITIALIZED, SUCCESS};
use problem::{Algorithm, HeuristicResult, Layout, Operation, Pointers, Preference};
use refusal::{Refusal, refuse};
use state::{Fail, Object, with};

/// The status of a call; why it failed goes to stderr.
fn status(call: &str, outcome: Result<(), Refusal>) -> u32 {
    match outcome {
        Ok(()) => SUCCESS,
        Err((status, why)) => {
            eprintln!("cublasLt's stand-in: {call}: status {status}: {why}");
            status
        }
    }
}

/// Writes what was created to where the caller wants it. A handle is a number, never an address.
///
/// # Safety
/// `to` is null or can be written.
unsafe fn created(call: &str, to: *mut usize, object: Result<Object, Refusal>) -> u32 {
    if to.is_null() {
        return status(call, refuse(INVALID_VALUE, "nowhere to write the handle to"));
    }
    let stored = object.map(|object| {
        // SAFETY: not null, and the caller's to write.
        unsafe { *to = with(|state| state.add(object)) }
    });
    status(call, stored)
}

fn destroyed(call: &str, handle: usize, kind: &str) -> u32 {
    status(call, with(|state| state.remove(handle, kind)))
}

/// The attribute's bytes; the library wants their number to be that of the attribute's type.
///
/// # Safety
/// `from` is null or holds `bytes` bytes.
unsafe fn value<'a>(from: *const c_void, bytes: usize) -> Result<&'a [u8], Refusal> {
    match from.is_null() {
        true => refuse(INVALID_VALUE, "the attribute's value is null"),
        // SAFETY: not null, and as long as the caller says.
        false => Ok(unsafe { std::slice::from_raw_parts(from.cast(), bytes) }),
    }
}

/// # Safety
/// As in NVIDIA's documentation, like all that follow: pointers are null or valid for what is written and read there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtCreate(handle: *mut usize) -> u32 {
    let kernels = match with(|state| state.fail) {
        Fail::Create => refuse(NOT_INITIALIZED, "the test wants this to fail"),
        _ => kernel::Kernels::load(),
    };
    // SAFETY: the caller's contract.
    unsafe { created("cublasLtCreate", handle, kernels.map(Object::Handle)) }
}

/// # Safety
/// See [`cublasLtCreate`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtDestroy(handle: usize) -> u32 {
    destroyed("cublasLtDestroy", handle, "a handle")
}

/// # Safety
/// See [`cublasLtCreate`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulDescCreate(operation: *mut usize, compute: u32, scale: u32) -> u32 {
    let new = Object::Operation(Operation::new(compute, scale));
    // SAFETY: the caller's contract.
    unsafe { created("cublasLtMatmulDescCreate", operation, Ok(new)) }
}

/// # Safety
/// See [`cublasLtCreate`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulDescDestroy(operation: usize) -> u32 {
    destroyed("cublasLtMatmulDescDestroy", operation, "a description of a product")
}

/// # Safety
/// See [`cublasLtCreate`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulDescSetAttribute(
    operation: usize,
    attribute: u32,
    from: *const c_void,
    bytes: usize,
) -> u32 {
    // SAFETY: the caller's contract.
    let outcome = unsafe { value(from, bytes) }
        .and_then(|value| with(|state| state.operation_mut(operation)?.set(attribute, value)));
    status("cublasLtMatmulDescSetAttribute", outcome)
}

/// # Safety
/// See [`cublasLtCreate`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatrixLayoutCreate(
    layout: *mut usize,
    element: u32,
    rows: u64,
    cols: u64,
    ld: i64,
) -> u32 {
    let new = Object::Layout(Layout { element, rows, cols, ld });
    // SAFETY: the caller's contract.
    unsafe { created("cublasLtMatrixLayoutCreate", layout, Ok(new)) }
}

/// # Safety
/// See [`cublasLtCreate`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatrixLayoutDestroy(layout: usize) -> u32 {
    destroyed("cublasLtMatrixLayoutDestroy", layout, "a layout")
}

/// # Safety
/// See [`cublasLtCreate`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulPreferenceCreate(preference: *mut usize) -> u32 {
    // SAFETY: the caller's contract.
    unsafe {
        created("cublasLtMatmulPreferenceCreate", preference, Ok(Object::Preference(Preference::default())))
    }
}

/// # Safety
/// See [`cublasLtCreate`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulPreferenceDestroy(preference: usize) -> u32 {
    destroyed("cublasLtMatmulPreferenceDestroy", preference, "a preference")
}

/// # Safety
/// See [`cublasLtCreate`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulPreferenceSetAttribute(
    preference: usize,
    attribute: u32,
    from: *const c_void,
    bytes: usize,
) -> u32 {
    // SAFETY: the caller's contract.
    let outcome = unsafe { value(from, bytes) }
        .and_then(|value| with(|state| state.preference_mut(preference)?.set(attribute, value)));
    status("cublasLtMatmulPreferenceSetAttribute", outcome)
}

/// # Safety
/// See [`cublasLtCreate`]; `results` holds `wanted` results.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulAlgoGetHeuristic(
    handle: usize,
    operation: usize,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    preference: usize,
    wanted: c_int,
    results: *mut HeuristicResult,
    count: *mut c_int,
) -> u32 {
    let outcome = with(|state| {
        state.queries += 1;
        state.handle(handle)?;
        let problem = state.problem(operation, [a, b, c, d])?;
        let algorithm = Algorithm::new(&problem, state.preference_mut(preference)?)?;
        if wanted < 1 || results.is_null() || count.is_null() {
            return refuse(
                INVALID_VALUE,
                format!("{wanted} results are wanted, or nowhere to write them to"),
            );
        }
        let found = match state.fail {
            Fail::Algorithm => 0,
            _ => {
                // SAFETY: not null, and at least one result is wanted.
                unsafe { *results = HeuristicResult::new(&algorithm) };
                1
            }
        };
        // SAFETY: not null, and the caller's to write.
        unsafe { *count = found };
        Ok(())
    });
    status("cublasLtMatmulAlgoGetHeuristic", outcome)
}

/// # Safety
/// See [`cublasLtCreate`]; A, B, C, D and the workspace are device memory as large as the layouts say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmul(
    handle: usize,
    operation: usize,
    alpha: *const f32,
    a: u64,
    a_layout: usize,
    b: u64,
    b_layout: usize,
    beta: *const f32,
    c: u64,
    c_layout: usize,
    d: u64,
    d_layout: usize,
    algorithm: *const Algorithm,
    workspace: u64,
    workspace_bytes: usize,
    stream: *mut c_void,
) -> u32 {
    let outcome = with(|state| {
        let problem = state.problem(operation, [a_layout, b_layout, c_layout, d_layout])?;
        if alpha.is_null() || beta.is_null() {
            return refuse(INVALID_VALUE, "alpha or beta is null");
        }
        if algorithm.is_null() {
            return refuse(INVALID_VALUE, "no algorithm: the library would ask its heuristic on every call");
        }
        // SAFETY: not null. The scale type is f32, or `problem` would have refused; they are on the host.
        let (alpha, beta) = unsafe { (*alpha, *beta) };
        let pointers = Pointers { a, b, c, d, workspace };
        // SAFETY: not null.
        unsafe { (*algorithm).check(&problem, &pointers, beta, workspace_bytes)? };
        if state.fail == Fail::Product {
            return refuse(EXECUTION_FAILED, "the test wants this to fail");
        }
        let kernels = state.handle(handle)?;
        // SAFETY: the caller's contract; the virtual card checks every access.
        unsafe { kernels.launch(&problem, &pointers, alpha, beta, (*algorithm).workspace_bytes(), stream) }
    });
    status("cublasLtMatmul", outcome)
}

/// How often this thread has asked for an algorithm.
#[unsafe(no_mangle)]
pub extern "C" fn stand_in_queries() -> u64 {
    with(|state| state.queries)
}

/// How many handles, descriptions, layouts and preferences of this thread are not destroyed.
#[unsafe(no_mangle)]
pub extern "C" fn stand_in_alive() -> u64 {
    with(|state| state.alive())
}

/// Makes calls of this thread fail: 0 none, 1 creation, 2 the search for an algorithm, 3 products.
#[unsafe(no_mangle)]
pub extern "C" fn stand_in_fail(what: u32) -> u32 {
    let known = [Fail::Nothing, Fail::Create, Fail::Algorithm, Fail::Product];
    match known.get(what as usize) {
        Some(fail) => with(|state| state.fail = *fail),
        None => return status("stand_in_fail", refuse(INVALID_VALUE, "no such failure")),
    }
    SUCCESS
}
