//! Operands: types, strides, memory.

use std::ffi::c_void;
use std::ops::Range;

use onekv::{Element, Error, Shape, Strides, View};

use crate::status::{Failure, Result};

/// An element type: ONEKV_F32, ONEKV_F16, ONEKV_BF16; of K and V on CUDA also ONEKV_E4M3.
pub type onekv_dtype = u32;

/// IEEE binary32.
pub const ONEKV_F32: onekv_dtype = 1;
/// IEEE binary16.
pub const ONEKV_F16: onekv_dtype = 2;
/// bfloat16.
pub const ONEKV_BF16: onekv_dtype = 3;
/// 8 bits, 4 of exponent and 3 of mantissa, no infinities (e4m3fn): K and V on cards of compute capability 9.0 and newer, with
/// a scale per K/V head.
pub const ONEKV_E4M3: onekv_dtype = 4;

/// Runs `$body` with `$E` as the type that `$dtype`, the argument `$name`, stands for.
macro_rules! with_element {
    ($name:literal, $dtype:expr, $E:ident => $body:expr) => {
        match $dtype {
            $crate::operands::ONEKV_F32 => {
                type $E = f32;
                $body
            }
            $crate::operands::ONEKV_F16 => {
                type $E = half::f16;
                $body
            }
            $crate::operands::ONEKV_BF16 => {
                type $E = half::bf16;
                $body
            }
            other => Err($crate::operands::unknown_dtype($name, other)),
        }
    };
}
pub(crate) use with_element;

pub(crate) fn unknown_dtype(name: &str, value: onekv_dtype) -> Failure {
    Failure::invalid(format!(
        "{name} is {value}, allowed: ONEKV_F32 ({ONEKV_F32}), ONEKV_F16 ({ONEKV_F16}), ONEKV_BF16 ({ONEKV_BF16})"
    ))
}

/// Extents of an operand [inputs, tokens, heads, vector], outermost first.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct onekv_shape {
    /// Slots, one per input; 1 where inputs are packed one after the other.
    pub inputs: usize,
    /// Rows; of K and V: keys.
    pub tokens: usize,
    /// Heads.
    pub heads: usize,
    /// Elements per head; of LSE 1.
    pub vector: usize,
}

impl From<Shape> for onekv_shape {
    fn from(Shape { inputs, tokens, heads, vector }: Shape) -> Self {
        Self { inputs, tokens, heads, vector }
    }
}

/// Distances between neighbours, in elements, not bytes. The elements of a head are contiguous; all else may lie in any order
/// and with gaps. The stride of a dimension of one element may be anything.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct onekv_strides {
    /// From an input's slot to the next; read for K and V of padded keys alone.
    pub input: usize,
    /// From a row (of K and V: a key) to the next.
    pub row: usize,
    /// From a head to the next.
    pub head: usize,
}

impl From<onekv_strides> for Strides {
    fn from(onekv_strides { input, row, head }: onekv_strides) -> Self {
        Self { input, row, head }
    }
}

/// An operand that is read: memory of the host, or on CUDA of the device.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct onekv_view {
    /// Its first element.
    pub data: *const c_void,
    /// Elements that there are from `data` on, gaps included. More than strides and shape reach is good.
    pub len: usize,
    /// Where they are.
    pub strides: onekv_strides,
}

/// An operand that is written. It overlaps no other.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct onekv_view_mut {
    /// As in onekv_view.
    pub data: *mut c_void,
    /// As in onekv_view.
    pub len: usize,
    /// As in onekv_view.
    pub strides: onekv_strides,
}

impl onekv_view_mut {
    fn to_read(self) -> onekv_view {
        let Self { data, len, strides } = self;
        onekv_view { data, len, strides }
    }
}

/// Attention over a part of the keys: its normalised output [rows, heads, head_dim] and its natural-log LSE [rows, heads], f32.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct onekv_state {
    /// The output.
    pub out: onekv_view,
    /// The LSE.
    pub lse: onekv_view,
}

/// Strides of a tensor of this shape without gaps, in the order of its dimensions.
#[unsafe(no_mangle)]
pub extern "C" fn onekv_shape_strides(shape: onekv_shape) -> onekv_strides {
    let onekv_shape { inputs, tokens, heads, vector } = shape;
    let Strides { input, row, head } = Shape { inputs, tokens, heads, vector }.strides();
    onekv_strides { input, row, head }
}

/// The operands of one call on the CPU, as slices: their names and addresses, by which those that overlap are refused.
#[derive(Default)]
pub(crate) struct HostOperands(Vec<(&'static str, Range<usize>)>);

impl HostOperands {
    /// Memory to read, which may overlap other memory to read. Only [`Self::write`] looks for overlaps: read comes
    /// first.
    ///
    /// # Safety
    /// `view.data` is NULL, or valid for reads of `view.len` elements while the result is used.
    pub unsafe fn read<'a, E: Element>(
        &mut self,
        tensor: &'static str,
        view: &onekv_view,
        shape: impl Into<Shape>,
    ) -> Result<View<&'a [E]>> {
        let at = self.claim::<E>(tensor, view, false)?;
        // SAFETY: aligned, of a size that there can be; the rest is the caller's contract.
        let data = unsafe { std::slice::from_raw_parts(at, view.len) };
        Ok(View::strided(shape, view.strides.into(), data))
    }

    /// Memory to write.
    ///
    /// # Safety
    /// As [`Self::read`], for writes, and nothing outside this call refers to it meanwhile.
    pub unsafe fn write<'a, E: Element>(
        &mut self,
        tensor: &'static str,
        view: &onekv_view_mut,
        shape: impl Into<Shape>,
    ) -> Result<View<&'a mut [E]>> {
        let at = self.claim::<E>(tensor, &view.to_read(), true)?;
        // SAFETY: as in `read`; no other operand of the call overlaps it.
        let data = unsafe { std::slice::from_raw_parts_mut(at, view.len) };
        Ok(View::strided(shape, view.strides.into(), data))
    }

    /// Checks that a slice may be made of `view`, whose memory then counts as in use: its address.
    fn claim<E>(&mut self, tensor: &'static str, view: &onekv_view, written: bool) -> Result<*mut E> {
        let size = size_of::<E>();
        let bytes = view.len.checked_mul(size).filter(|bytes| isize::try_from(*bytes).is_ok());
        let bytes = bytes.ok_or(Error::Overflow { field: tensor })?;
        if bytes == 0 {
            return Ok(std::ptr::dangling_mut());
        }
        if view.data.is_null() {
            return Err(Failure::null(&format!("{tensor}.data")));
        }
        let value = view.data.addr();
        if !value.is_multiple_of(size) {
            return Err(Error::Misaligned { tensor, part: "data", value, align: size }.into());
        }
        let span = value..value.saturating_add(bytes);
        let overlaps = |(_, other): &&(_, Range<usize>)| span.start < other.end && other.start < span.end;
        if let Some((other, _)) = self.0.iter().find(overlaps).filter(|_| written) {
            return Err(Error::Overlap { tensor, other }.into());
        }
        self.0.push((tensor, span));
        Ok(view.data.cast_mut().cast())
    }
}
