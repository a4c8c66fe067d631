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
