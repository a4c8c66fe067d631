//! Counts of the cost model: products of what files and requests say, which may be anything.

use std::ops::{Add, Div, Mul};

/// A count that stays at the largest where it would go past it: work that no machine does needs no exact figure, and must not
/// wrap round to one that looks small.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Count(pub u64);

impl<N: Into<Count>> Add<N> for Count {
    type Output = Self;

    fn add(self, other: N) -> Self {
        Self(self.0.saturating_add(other.into().0))
    }
}

impl<N: Into<Count>> Mul<N> for Count {
    type Output = Self;

    fn mul(self, other: N) -> Self {
        Self(self.0.saturating_mul(other.into().0))
    }
}

impl Div<u64> for Count {
    type Output = Self;

    fn div(self, other: u64) -> Self {
        Self(self.0 / other)
    }
}

impl Add<Count> for u64 {
    type Output = Count;

    fn add(self, other: Count) -> Count {
        other + self
    }
}

impl Mul<Count> for u64 {
    type Output = Count;

    fn mul(self, other: Count) -> Count {
        other * self
    }
}

impl From<u64> for Count {
    fn from(count: u64) -> Self {
        Self(count)
    }
}

#[cfg(test)]
mod tests {
    use super::Count;

    #[test]
    fn the_largest_is_not_passed() {
        let most = Count(u64::MAX);
        assert_eq!([most * 2, 2 * most, most + 1, 1 + most, Count(1 << 32) * (1 << 32)], [most; 5]);
        assert_eq!(most / 2 + 3, Count(u64::MAX / 2 + 3));
    }
}
