//! One small PTX program per instruction and variant, what it is given, and what is known of its results.

mod asynchronous;
mod boxes;
mod corners;
mod matrix;
mod memory;
mod parts;
mod scalar;
mod sums;
mod tensor;
mod unspecified;
mod wgmma;

pub use parts::{Compare, Element, Input, Program, Target, Tensor, f16_value, words_of};
pub use scalar::operands;

/// Every program.
pub fn all() -> Vec<Program> {
    let mut programs = scalar::all();
    programs.extend(corners::all());
    programs.extend(memory::all());
    programs.extend(matrix::all());
    programs.extend(wgmma::all());
    programs.extend(sums::all());
    programs.extend(unspecified::all());
    programs.extend(asynchronous::all());
    programs.extend(tensor::all());
    programs.extend(boxes::all());
    programs
}
