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

/// An element in memory, and as an f32 in a register.
struct Access {
    bytes: u32,
    /// Its type in memory, and the registers that it is loaded to.
    loaded: (&'static str, &'static str),
    /// Makes `{0}`, an f32, of `{1}`, which was loaded.
    widen: &'static str,
    /// Stores `{1}`, an f32, to `[{0}]`.
    store: &'static str,
}

const fn access(element: u32) -> Access {
    match element {
        R_16F => Access {
            bytes: 2,
            loaded: ("b16", "%h"),
            widen: "cvt.f32.f16 {0}, {1};",
            store: "cvt.rn.f16.f32 %h0, {1}; st.global.b16 [{0}], %h0;",
        },
        // bf16 is the upper half of an f32.
        R_16BF => Access {
            bytes: 2,
            loaded: ("b16", "%h"),
            widen: "mov.b32 %w, {%zero, {1}}; mov.b32 {0}, %w;",
            store: "cvt.rn.bf16.f32 %h0, {1}; st.global.b16 [{0}], %h0;",
        },
        _ => Access { bytes: 4, loaded: ("f32", ""), widen: "", store: "st.global.f32 [{0}], {1};" },
    }
}

fn fill(text: &str, first: &str, second: &str) -> String {
    text.replace("{0}", first).replace("{1}", second)
}

impl Access {
    /// Loads as many f32 as there are registers in `to`, 1 or 4, from `[at]` on.
    fn load(&self, to: &[String], at: &str) -> String {
        let (memory, register) = self.loaded;
        // What is an f32 in memory is loaded where it should be.
        let raw: Vec<String> = match register {
            "" => to.to_vec(),
            _ => (0..to.len()).map(|i| format!("{register}{i}")).collect(),
        };
        let widened: String = to.iter().zip(&raw).map(|(to, raw)| fill(self.widen, to, raw) + " ").collect();
        match &raw[..] {
            [one] => format!("ld.global.{memory} {one}, [{at}]; {widened}"),
            four => format!("ld.global.v4.{memory} {{{}}}, [{at}]; {widened}", four.join(", ")),
        }
    }
}

pub(crate) fn source(element_in: u32, element_out: u32) -> String {
    let (from, to) = (access(element_in), access(element_out));
    let first = |register: &str| [format!("{register}0")];
    let four = |register: &str| std::array::from_fn::<_, 4, _>(|i| format!("{register}{i}"));
    include_str!("product.ptx")
        .replace("{IN_BYTES}", &from.bytes.to_string())
        .replace("{OUT_BYTES}", &to.bytes.to_string())
        .replace("{FOUR_BYTES}", &(4 * from.bytes).to_string())
        .replace("{UNALIGNED}", &(4 * from.bytes - 1).to_string())
        .replace("{LOAD_FOUR %x %a}", &from.load(&four("%x"), "%a"))
        .replace("{LOAD_FOUR %y %b}", &from.load(&four("%y"), "%b"))
        .replace("{LOAD_IN %x0 %a}", &from.load(&first("%x"), "%a"))
        .replace("{LOAD_IN %y0 %b}", &from.load(&first("%y"), "%b"))
        .replace("{LOAD_OUT %x0 %at}", &to.load(&first("%x"), "%at"))
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
