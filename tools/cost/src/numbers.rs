//! Numbers that formulas give.

/// The nearest count.
pub fn count(x: f64) -> u64 {
    x as u64
}

/// The first of 1 to `last` that passes, where all behind it do; bisected.
pub fn first(last: u64, passes: impl Fn(u64) -> bool) -> Option<u64> {
    if !passes(last) {
        return None;
    }
    let (mut low, mut high) = (0, last);
    while high - low > 1 {
        let middle = (low + high) / 2;
        if passes(middle) { high = middle } else { low = middle }
    }
    Some(high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_is_not_passed() {
        assert_eq!([2f64.powi(64), 2f64.powi(80), f64::INFINITY].map(count), [u64::MAX; 3]);
    }

    #[test]
    fn the_first_that_passes_is_found() {
        for wanted in 1..=9 {
            assert_eq!(first(9, |n| n >= wanted), Some(wanted));
        }
        assert_eq!(first(9, |_| false), None);
    }
}
