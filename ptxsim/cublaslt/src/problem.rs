//! Descriptors, and what is allowed of them together.

use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::ops::Range;

use crate::documented::{
    COMPUTE_32F, DEFAULT_ALIGNMENT, DESC_TRANSA, DESC_TRANSB, INVALID_VALUE, NOT_SUPPORTED, OP_N, OP_T,
    PREF_MAX_WORKSPACE_BYTES, PREF_MIN_ALIGNMENT_A_BYTES, PREF_MIN_ALIGNMENT_D_BYTES, R_16BF, R_16F, R_32F,
    SUCCESS, WORKSPACE_ALIGNMENT,
};
use crate::refusal::{Refusal, refuse};

/// A column-major matrix of `rows` by `cols`; column `j` begins `ld * j` elements from the first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Layout {
    pub element: u32,
    pub rows: u64,
    pub cols: u64,
    pub ld: i64,
}

/// What is computed; `transposed` are op(A) and op(B).
#[derive(Debug, Clone, Copy, Hash)]
pub struct Operation {
    compute: u32,
    scale: u32,
    transposed: [i32; 2],
}

#[derive(Debug, Clone, Copy)]
pub struct Preference {
    workspace_bytes: u64,
    /// Of A, B, C and D, in bytes.
    alignments: [u32; 4],
}

/// Addresses on the device.
#[derive(Debug, Clone, Copy)]
pub struct Pointers {
    pub a: u64,
    pub b: u64,
    pub c: u64,
    pub d: u64,
    pub workspace: u64,
}

/// A product that can be computed: D `[m, n]`, over k.
#[derive(Debug, Clone, Copy, Hash)]
pub struct Problem {
    pub m: u64,
    pub n: u64,
    pub k: u64,
    pub transposed: [bool; 2],
    pub a: Layout,
    pub b: Layout,
    pub c: Layout,
    pub d: Layout,
}

/// cublasLtMatmulAlgo_t: what it was made for, and what that takes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Algorithm {
    problem: u64,
    workspace_bytes: u64,
    alignments: [u32; 4],
    unused: [u64; 4],
}

/// cublasLtMatmulHeuristicResult_t.
#[repr(C)]
pub struct HeuristicResult {
    algorithm: Algorithm,
    workspace_bytes: usize,
    state: u32,
    waves: f32,
    reserved: [i32; 4],
}

/// The value of an attribute whose type has `N` bytes.
fn exactly<const N: usize>(value: &[u8]) -> Result<[u8; N], Refusal> {
    value.try_into().or_else(|_| {
        refuse(INVALID_VALUE, format!("the attribute's value has {} bytes, allowed: {N}", value.len()))
    })
}

fn element_bytes(element: u32) -> Option<u64> {
    match element {
        R_32F => Some(4),
        R_16F | R_16BF => Some(2),
        _ => None,
    }
}

impl Layout {
    /// Bytes that the matrix at `at` reaches.
    fn extent(&self, at: u64) -> Range<u64> {
        let elements = self.ld as u64 * (self.cols - 1) + self.rows;
        at..at + elements * element_bytes(self.element).unwrap_or(1)
    }

    fn check(&self, name: &str) -> Result<(), Refusal> {
        if element_bytes(self.element).is_none() {
            return refuse(NOT_SUPPORTED, format!("{name} has elements of type {}", self.element));
        }
        let most = i32::MAX as u64;
        if self.rows == 0 || self.cols == 0 || self.rows > most || self.cols > most {
            return refuse(INVALID_VALUE, format!("{name} is {} by {}", self.rows, self.cols));
        }
        if self.ld < self.rows as i64 || self.ld > most as i64 {
            let why = format!("{name} has {} rows, and columns {} elements apart", self.rows, self.ld);
            return refuse(INVALID_VALUE, why);
        }
        Ok(())
    }
}

impl Operation {
    pub fn new(compute: u32, scale: u32) -> Self {
        Self { compute, scale, transposed: [OP_N; 2] }
    }

    pub fn set(&mut self, attribute: u32, value: &[u8]) -> Result<(), Refusal> {
        match attribute {
            DESC_TRANSA => self.transposed[0] = i32::from_ne_bytes(exactly(value)?),
            DESC_TRANSB => self.transposed[1] = i32::from_ne_bytes(exactly(value)?),
            _ => {
                return refuse(
                    INVALID_VALUE,
                    format!("attribute {attribute} of a product is not known here"),
                );
            }
        }
        Ok(())
    }
}

impl Default for Preference {
    fn default() -> Self {
        Self { workspace_bytes: 0, alignments: [DEFAULT_ALIGNMENT; 4] }
    }
}

impl Preference {
    pub fn set(&mut self, attribute: u32, value: &[u8]) -> Result<(), Refusal> {
        match attribute {
            PREF_MAX_WORKSPACE_BYTES => self.workspace_bytes = u64::from_ne_bytes(exactly(value)?),
            PREF_MIN_ALIGNMENT_A_BYTES..=PREF_MIN_ALIGNMENT_D_BYTES => {
                self.alignments[(attribute - PREF_MIN_ALIGNMENT_A_BYTES) as usize] =
                    u32::from_ne_bytes(exactly(value)?);
            }
            _ => {
                return refuse(
                    INVALID_VALUE,
                    format!("attribute {attribute} of a preference is not known here"),
                );
            }
        }
        Ok(())
    }
}

impl Problem {
    pub fn new(operation: &Operation, [a, b, c, d]: [Layout; 4]) -> Result<Self, Refusal> {
        for (layout, name) in [a, b, c, d].iter().zip(["A", "B", "C", "D"]) {
            layout.check(name)?;
        }
        // The rows of NVIDIA's table of types that compute in f32, and have f32 for alpha and beta.
        if operation.compute != COMPUTE_32F || operation.scale != R_32F {
            let why = format!("computed in {}, scaled in {}", operation.compute, operation.scale);
            return refuse(NOT_SUPPORTED, why);
        }
        if a.element != b.element || c.element != d.element || ![a.element, R_32F].contains(&d.element) {
            let why = format!("{} times {}, and {}, to {}", a.element, b.element, c.element, d.element);
            return refuse(NOT_SUPPORTED, format!("no product of these types: {why}"));
        }
        let mut transposed = [false; 2];
        for (transposed, op) in transposed.iter_mut().zip(operation.transposed) {
            *transposed = match op {
                OP_N => false,
                OP_T => true,
                _ => return refuse(INVALID_VALUE, format!("an operand's operation is {op}")),
            };
        }
        let op = |x: &Layout, transposed| if transposed { (x.cols, x.rows) } else { (x.rows, x.cols) };
        let ((m, k), (b_k, n)) = (op(&a, transposed[0]), op(&b, transposed[1]));
        if b_k != k || (c.rows, c.cols) != (m, n) || (d.rows, d.cols) != (m, n) {
            let why = format!(
                "{m} x {k} times {b_k} x {n} does not give C, {} x {}, and D, {} x {}",
                c.rows, c.cols, d.rows, d.cols
            );
            return refuse(INVALID_VALUE, why);
        }
        Ok(Self { m, n, k, transposed, a, b, c, d })
    }

    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

impl Algorithm {
    /// It takes all the workspace that it may have, so that one that is smaller than was said comes to light.
    pub fn new(problem: &Problem, preference: &Preference) -> Result<Self, Refusal> {
        if let Some(x) = preference.alignments.iter().find(|x| !x.is_power_of_two()) {
            return refuse(INVALID_VALUE, format!("the preference has an alignment of {x} bytes"));
        }
        Ok(Self {
            problem: problem.fingerprint(),
            workspace_bytes: preference.workspace_bytes,
            alignments: preference.alignments,
            unused: [0; 4],
        })
    }

    pub fn workspace_bytes(&self) -> u64 {
        self.workspace_bytes
    }

    /// Whether `problem` at these addresses is what the algorithm was chosen for.
    pub fn check(
        &self,
        problem: &Problem,
        at: &Pointers,
        beta: f32,
        workspace_bytes: usize,
    ) -> Result<(), Refusal> {
        if self.problem != problem.fingerprint() {
            return refuse(INVALID_VALUE, "the algorithm was chosen for another product");
        }
        let operands = [("A", at.a), ("B", at.b), ("C", at.c), ("D", at.d)];
        for ((name, address), alignment) in operands.into_iter().zip(self.alignments) {
            // C is not read where it counts for nothing.
            let absent = address == 0 && (name != "C" || beta != 0.0);
            if absent || !address.is_multiple_of(alignment.into()) {
                let why =
                    format!("{name} is at {address:#x}, and a multiple of {alignment} bytes was promised");
                return refuse(INVALID_VALUE, why);
            }
        }
        if (workspace_bytes as u64) < self.workspace_bytes {
            let why =
                format!("a workspace of {workspace_bytes} bytes, allowed: at least {}", self.workspace_bytes);
            return refuse(INVALID_VALUE, why);
        }
        if workspace_bytes > 0 && (at.workspace == 0 || !at.workspace.is_multiple_of(WORKSPACE_ALIGNMENT)) {
            return refuse(INVALID_VALUE, format!("the workspace is at {:#x}", at.workspace));
        }
        if at.c == at.d && problem.c != problem.d {
            return refuse(INVALID_VALUE, "C and D are one matrix of two layouts");
        }
        let meet = |x: &Range<u64>, y: &Range<u64>| x.start < y.end && y.start < x.end;
        let result = problem.d.extent(at.d);
        let workspace = at.workspace..at.workspace + workspace_bytes as u64;
        for (name, operand) in [("A", problem.a.extent(at.a)), ("B", problem.b.extent(at.b))] {
            if meet(&result, &operand) || meet(&workspace, &operand) {
                return refuse(INVALID_VALUE, format!("{name} is written over"));
            }
        }
        if meet(&result, &workspace) {
            return refuse(INVALID_VALUE, "the workspace is written over");
        }
        Ok(())
    }
}

impl HeuristicResult {
    pub fn new(algorithm: &Algorithm) -> Self {
        Self {
            algorithm: *algorithm,
            workspace_bytes: algorithm.workspace_bytes as usize,
            state: SUCCESS,
            waves: 1.0,
            reserved: [0; 4],
        }
    }
}
