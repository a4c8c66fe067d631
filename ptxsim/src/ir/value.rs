//! Typed views of a thread's 64 register bits.

/// A type that a register can hold.
pub trait Value: Copy {
    fn get(bits: u64) -> Self;
    fn put(self) -> u64;
}

macro_rules! integers {
    ($($t:ty: $u:ty),*) => {$(
        impl Value for $t {
            #[inline(always)]
            fn get(bits: u64) -> Self { bits as $t }
            #[inline(always)]
            fn put(self) -> u64 { u64::from(self as $u) }
        }
    )*};
}
integers!(u8: u8, i8: u8, u16: u16, i16: u16, u32: u32, i32: u32, u64: u64, i64: u64);

impl Value for f32 {
    #[inline(always)]
    fn get(bits: u64) -> Self {
        f32::from_bits(bits as u32)
    }
    #[inline(always)]
    fn put(self) -> u64 {
        self.to_bits().into()
    }
}

impl Value for f64 {
    #[inline(always)]
    fn get(bits: u64) -> Self {
        f64::from_bits(bits)
    }
    #[inline(always)]
    fn put(self) -> u64 {
        self.to_bits()
    }
}

/// Canonical NaN of f32 arithmetic.
pub const NAN32: u32 = 0x7fff_ffff;
