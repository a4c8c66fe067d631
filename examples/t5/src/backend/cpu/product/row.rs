//! What a panel holds of one input: an element for each of 32 outputs, as f32 or in pairs of 16 bits that are widened in
//! registers.

use half::f16;
use pulp::Simd;

/// Outputs per panel.
pub const PANEL: usize = 32;
/// Words of two 16-bit elements.
const WORDS: usize = PANEL / 2;

/// One input's row of a panel.
pub trait PanelRow: Copy + Default + Send + Sync {
    /// Sets a column that is 0.
    fn set(&mut self, column: usize, value: f32);

    /// All columns; `V` registers hold them.
    fn widen<S: Simd, const V: usize>(&self, simd: S) -> [S::f32s; V];
}

/// Aligned, so that no register is loaded from two cache lines.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
pub struct F32Row([f32; PANEL]);

impl F32Row {
    /// Sets the first columns.
    pub fn copy_from(&mut self, values: &[f32]) {
        self.0[..values.len()].copy_from_slice(values);
    }
}

impl PanelRow for F32Row {
    #[inline(always)]
    fn set(&mut self, column: usize, value: f32) {
        self.0[column] = value;
    }

    #[inline(always)]
    fn widen<S: Simd, const V: usize>(&self, _simd: S) -> [S::f32s; V] {
        let (registers, _) = S::as_simd_f32s(&self.0);
        std::array::from_fn(|v| registers[v])
    }
}

/// Word `i` holds column `i` in its low half and column `16 + i` in its high half.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
pub struct Bf16Row([u32; WORDS]);

impl Bf16Row {
    /// Whether bf16 has this value.
    pub fn holds(value: f32) -> bool {
        value.to_bits() & 0xffff == 0
    }
}

impl PanelRow for Bf16Row {
    #[inline(always)]
    fn set(&mut self, column: usize, value: f32) {
        self.0[column % WORDS] |= value.to_bits() >> 16 << (column / WORDS * 16);
    }

    #[inline(always)]
    fn widen<S: Simd, const V: usize>(&self, simd: S) -> [S::f32s; V] {
        let (sixteen, high) = (simd.splat_u32s(16), simd.splat_u32s(0xffff_0000));
        widened::<S, V>(
            &self.0,
            |pair| simd.transmute_f32s_u32s(simd.wrapping_dyn_shl_u32s(pair, sixteen)),
            |pair| simd.transmute_f32s_u32s(simd.and_u32s(pair, high)),
        )
    }
}

/// As [`Bf16Row`], in f16.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
pub struct F16Row([u32; WORDS]);

impl F16Row {
    /// Whether f16 has this value, and it is a number: [`Self::widen`] takes no others.
    pub fn holds(value: f32) -> bool {
        value.is_finite() && f16::from_f32(value).to_f32().to_bits() == value.to_bits()
    }
}

impl PanelRow for F16Row {
    #[inline(always)]
    fn set(&mut self, column: usize, value: f32) {
        self.0[column % WORDS] |= u32::from(f16::from_f32(value).to_bits()) << (column / WORDS * 16);
    }

    /// Exponent and mantissa moved to where f32 has them mean `2^-112` of the number, subnormal or not.
    #[inline(always)]
    fn widen<S: Simd, const V: usize>(&self, simd: S) -> [S::f32s; V] {
        let power = simd.splat_f32s(f32::from_bits((127 + 112) << 23));
        let (sign, magnitude) = (simd.splat_u32s(0x8000_0000), simd.splat_u32s(0x0fff_e000));
        let (three, thirteen, sixteen) = (simd.splat_u32s(3), simd.splat_u32s(13), simd.splat_u32s(16));
        let number = |signed, moved| {
            let bits = simd.or_u32s(simd.and_u32s(signed, sign), simd.and_u32s(moved, magnitude));
            simd.mul_f32s(simd.transmute_f32s_u32s(bits), power)
        };
        widened::<S, V>(
            &self.0,
            |pair| {
                number(simd.wrapping_dyn_shl_u32s(pair, sixteen), simd.wrapping_dyn_shl_u32s(pair, thirteen))
            },
            |pair| number(pair, simd.wrapping_dyn_shr_u32s(pair, three)),
        )
    }
}

/// Columns from the low halves of the words, then those from the high ones.
#[inline(always)]
fn widened<S: Simd, const V: usize>(
    words: &[u32; WORDS],
    low: impl Fn(S::u32s) -> S::f32s,
    high: impl Fn(S::u32s) -> S::f32s,
) -> [S::f32s; V] {
    let (words, _) = S::as_simd_u32s(words);
    std::array::from_fn(|v| if v < V / 2 { low(words[v]) } else { high(words[v - V / 2]) })
}
