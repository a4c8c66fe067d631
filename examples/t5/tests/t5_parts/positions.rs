//! Relative position buckets against transformers and by hand.

use crate::buckets::{Direction, bucket};

/// Every position of `tests/goldens/buckets.json`, as transformers computes it.
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
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/buckets.json");
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
