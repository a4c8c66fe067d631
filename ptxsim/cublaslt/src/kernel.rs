//! The product on the virtual card.

use std::ffi::{CString, c_void};

use cudarc::driver::{result, sys};

use crate::documented::{EXECUTION_FAILED, NOT_INITIALIZED, R_16BF, R_16F, R_32F};
use crate::problem::{Pointers, Problem};
use crate::refusal::{Refusal, refuse};

const THREADS: u64 = 64;

/// Products that there are: elements of A and B, of C and D.
const TYPES: [(u32, u32); 5] =
    [(R_32F, R_32F), (R_16F, R_16F), (R_16F, R_32F), (R_16BF, R_16BF), (R_16BF, R_32F)];

/// Loads `{0}`, an f32, from `[{1}]`, and stores `{1}` to `[{0}]`.
struct Access {
    bytes: &'static str,
    load: &'static str,
    store: &'static str,
}

const fn access(element: u32) -> Access {
    match element {
        R_16F => Access {
            bytes: "2",
            load: "ld.global.b16 %h, [{1}]; cvt.f32.f16 {0}, %h;",
            store: "cvt.rn.f16.f32 %h, {1}; st.global.b16 [{0}], %h;",
        },
        // bf16 is the upper half of an f32.
        R_16BF => Access {
            bytes: "2",
            load: "ld.global.b16 %h, [{1}]; mov.b32 %w, {%zero, %h}; mov.b32 {0}, %w;",
            store: "cvt.rn.bf16.f32 %h, {1}; st.global.b16 [{0}], %h;",
        },
        _ => Access { bytes: "4", load: "ld.global.f32 {0}, [{1}];", store: "st.global.f32 [{0}], {1};" },
    }
}

fn source(element_in: u32, element_out: u32) -> String {
    let (from, to) = (access(element_in), access(element_out));
    let fill = |text: &str, first: &str, second: &str| text.replace("{0}", first).replace("{1}", second);
    include_str!("product.ptx")
        .replace("{IN_BYTES}", from.bytes)
        .replace("{OUT_BYTES}", to.bytes)
        .replace("{LOAD_IN %x %a}", &fill(from.load, "%x", "%a"))
        .replace("{LOAD_IN %y %b}", &fill(from.load, "%y", "%b"))
        .replace("{LOAD_OUT %x %at}", &fill(to.load, "%x", "%at"))
        .replace("{STORE_OUT %at %sum}", &fill(to.store, "%at", "%sum"))
}

/// The kernels of [`TYPES`], loaded in the context that was current.
pub struct Kernels {
    modules: Vec<sys::CUmodule>,
    functions: Vec<sys::CUfunction>,
}

impl Kernels {
    pub fn load() -> Result<Self, Refusal> {
        let mut kernels = Self { modules: Vec::new(), functions: Vec::new() };
        // SAFETY: looks for the driver, which cudarc loads next.
        if unsafe { libloading::Library::new("libcuda.so") }.is_err() {
            return refuse(NOT_INITIALIZED, "there is no driver");
        }
        for (element_in, element_out) in TYPES {
            let loaded = CString::new(source(element_in, element_out)).map_err(|_| None).and_then(|text| {
                // SAFETY: PTX that ends in a zero byte; the driver says where no context is current.
                unsafe { result::module::load_data(text.as_ptr().cast()) }.map_err(Some)
            });
            let module = match loaded {
                Ok(module) => module,
                Err(error) => return refuse(NOT_INITIALIZED, format!("the kernels do not load: {error:?}")),
            };
            kernels.modules.push(module);
            // SAFETY: the module was just loaded.
            match unsafe { result::module::get_function(module, c"product".into()) } {
                Ok(function) => kernels.functions.push(function),
                Err(error) => return refuse(NOT_INITIALIZED, format!("no kernel: {error:?}")),
            }
        }
        Ok(kernels)
    }

    /// Queues a product.
    ///
    /// # Safety
    /// The stream is of the current context; operands are device memory, and live until the product is done.
    pub unsafe fn launch(
        &self,
        problem: &Problem,
        at: &Pointers,
        alpha: f32,
        beta: f32,
        workspace_bytes: u64,
        stream: *mut c_void,
    ) -> Result<(), Refusal> {
        let Some(which) = TYPES.iter().position(|types| *types == (problem.a.element, problem.d.element))
        else {
            return refuse(EXECUTION_FAILED, "no kernel of these types");
        };
        // From row to row and from column to column of op(X).
        let strides = |ld: i64, transposed| if transposed { (ld as u64, 1) } else { (1, ld as u64) };
        let (a_row, a_col) = strides(problem.a.ld, problem.transposed[0]);
        let (b_row, b_col) = strides(problem.b.ld, problem.transposed[1]);
        let Problem { m, n, k, .. } = *problem;
        let (c_col, d_col) = (problem.c.ld as u64, problem.d.ld as u64);
        let bits = |x: f32| u64::from(x.to_bits());
        let mut values = [
            at.a,
            at.b,
            at.c,
            at.d,
            at.workspace,
            workspace_bytes,
            m,
            n,
            k,
            a_row,
            a_col,
            b_row,
            b_col,
            c_col,
            d_col,
            bits(alpha),
            bits(beta),
        ];
        let mut pointers: Vec<*mut c_void> =
            values.iter_mut().map(|x| std::ptr::from_mut(x).cast()).collect();
        let Ok(blocks) = u32::try_from((m * n).div_ceil(THREADS)) else {
            return refuse(EXECUTION_FAILED, "more elements than a grid has threads");
        };
        // SAFETY: pointers are to 8 bytes, which no parameter exceeds, by the order of product.ptx; the driver has
        // copied them when the call returns. The rest is this function's contract.
        let launched = unsafe {
            result::launch_kernel(
                self.functions[which],
                (blocks, 1, 1),
                (THREADS as u32, 1, 1),
                0,
                stream.cast(),
                &mut pointers,
            )
        };
        launched.or_else(|error| refuse(EXECUTION_FAILED, format!("the launch failed: {error:?}")))
    }
}

impl Drop for Kernels {
    fn drop(&mut self) {
        for module in self.modules.drain(..) {
            // SAFETY: loaded in `load`, unloaded only here; the caller has waited for its products.
            let _ = unsafe { result::module::unload(module) };
        }
    }
}
