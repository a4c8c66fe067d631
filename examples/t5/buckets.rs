//! T5's relative position buckets.

use crate::config::Config;

/// Which keys a query sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Encoder: keys on both sides, half of the buckets for each.
    Both,
    /// Decoder: keys at or before the query.
    Back,
}

/// The bucket of a key at `relative` (key minus query), among `buckets`.
///
/// `transformers` computes the logarithm in f32; so do we, operation by operation, since the
/// truncation turns a last-bit difference into another bucket.
pub fn bucket(relative: i64, direction: Direction, buckets: usize, max_distance: usize) -> usize {
    let (first, buckets, distance) = match direction {
        Direction::Both => {
            let half = buckets / 2;
            (if relative > 0 { half } else { 0 }, half, relative.unsigned_abs() as usize)
        }
        Direction::Back => (0, buckets, (-relative).max(0) as usize),
    };
    let exact = buckets / 2;
    if distance < exact {
        return first + distance;
    }
    let ratio = (distance as f32 / exact as f32).ln() / (max_distance as f64 / exact as f64).ln() as f32;
    let log = (ratio * (buckets - exact) as f32) as usize;
    first + (exact + log).min(buckets - 1)
}

/// The bias by head and offset of key against query, from `-(longest - 1)` on: up to
/// `longest - 1` for [`Direction::Both`], up to 0 for [`Direction::Back`].
///
/// `table` is the checkpoint's `[buckets, heads]`.
pub fn bias_by_offset(config: &Config, table: &[f32], direction: Direction, longest: usize) -> Vec<Vec<f32>> {
    let back = longest as i64 - 1;
    let ahead = if direction == Direction::Both { back } else { 0 };
    let buckets: Vec<usize> =
        (-back..=ahead).map(|r| bucket(r, direction, config.buckets, config.max_distance)).collect();
    (0..config.heads)
        .map(|head| buckets.iter().map(|bucket| table[bucket * config.heads + head]).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every position of `tests/t5/buckets.json`, as transformers computes it.
    #[test]
    fn buckets_equal_transformers() {
        #[derive(serde::Deserialize)]
        struct Golden {
            first: i64,
            settings: Vec<Setting>,
        }
        #[derive(serde::Deserialize)]
        struct Setting {
            both: bool,
            buckets: usize,
            max_distance: usize,
            of: Vec<usize>,
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/t5/buckets.json");
        let golden: Golden = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert!(golden.settings.len() >= 6);
        for s in &golden.settings {
            let direction = if s.both { Direction::Both } else { Direction::Back };
            for (position, want) in (golden.first..).zip(&s.of) {
                let got = bucket(position, direction, s.buckets, s.max_distance);
                assert_eq!(got, *want, "{position} {direction:?} {} {}", s.buckets, s.max_distance);
            }
        }
    }

    /// The thresholds of the 32-bucket table, at which the next bucket begins.
    #[test]
    fn thresholds_of_the_standard_table() {
        let starts = |direction, sign: i64| {
            let mut starts = Vec::new();
            for distance in 1..=2000i64 {
                let at = |d: i64| bucket(sign * d, direction, 32, 128);
                if at(distance) != at(distance - 1) {
                    starts.push(distance);
                }
            }
            starts
        };
        assert_eq!(starts(Direction::Both, -1), [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91]);
        let back = starts(Direction::Back, -1);
        assert_eq!(back[..16], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
        assert_eq!(back[16..], [19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113]);
        assert_eq!(bucket(3, Direction::Both, 32, 128), 19);
        assert_eq!(bucket(3, Direction::Back, 32, 128), 0);
    }
}
