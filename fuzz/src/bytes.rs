//! Values from bytes. Behind the last byte all are 0, so that any input makes whole values.

pub struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub fn take<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    /// A number below `count`, which is at most 256.
    pub fn below(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count
    }

    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == times - 1
    }

    /// A count up to `usual` or, once in eight times, of any size.
    pub fn count(&mut self, usual: usize) -> usize {
        if self.once_in(8) { self.number() } else { self.below(usual + 1) }
    }

    /// A number of any size, the ends of ranges often.
    pub fn number(&mut self) -> usize {
        let near = usize::from(self.byte() % 8);
        match self.below(8) {
            0 => near,
            1 => (1 << self.below(64)) + near,
            2 => (1usize << self.below(64)).wrapping_sub(near),
            3 => usize::MAX - near,
            4 => isize::MAX as usize - near,
            5 => i32::MAX as usize + 4 - near,
            6 => u32::MAX as usize + 4 - near,
            _ => usize::from_le_bytes(self.take()),
        }
    }

    /// Small numbers, special ones, any bits.
    pub fn float(&mut self) -> f32 {
        match self.below(12) {
            0..5 => f32::from(self.byte()) / 64.0,
            5 => f32::NAN,
            6 => f32::INFINITY,
            7 => f32::NEG_INFINITY,
            8 => f32::MAX,
            9 => f32::from_bits(1),
            10 => 0.0,
            _ => f32::from_bits(u32::from_le_bytes(self.take())),
        }
    }
}
