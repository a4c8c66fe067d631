//! A minimum of a function that has no derivative: it jumps where a plan's choice changes.

use indicatif::ProgressIterator as _;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// Steps along a coordinate, from a factor of three down to a percent for coordinates that are logarithms.
const FIRST_STEP: f64 = 1.1;
const LAST_STEP: f64 = 0.01;
/// How far from the best point another start may lie.
const SPREAD: f64 = 0.8;

/// The least point found by pattern search (Hooke and Jeeves) from `start`, then from `starts` - 1 points around the
/// best so far. The same arguments give the same point. Shows how far it is.
pub fn minimum(start: &[f64], starts: u32, value: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut random = StdRng::seed_from_u64(1);
    let mut best = (start.to_vec(), f64::INFINITY);
    for i in (0..starts).progress() {
        let around = |x: &f64| x + random.random_range(-SPREAD..SPREAD);
        let from = if i == 0 { start.to_vec() } else { best.0.iter().map(around).collect() };
        let found = descend(from, &value);
        if found.1 < best.1 {
            best = found;
        }
    }
    best.0
}

/// Moves one coordinate at a time while that helps and then all of them as far again; then with smaller steps.
fn descend(mut at: Vec<f64>, value: &impl Fn(&[f64]) -> f64) -> (Vec<f64>, f64) {
    let mut least = value(&at);
    let mut step = FIRST_STEP;
    while step > LAST_STEP {
        let before = at.clone();
        for i in 0..at.len() {
            for way in [step, -step] {
                let stood = at[i];
                at[i] += way;
                let here = value(&at);
                if here < least {
                    least = here;
                    break;
                }
                at[i] = stood;
            }
        }
        if at == before {
            step /= 2.0;
            continue;
        }
        let further: Vec<f64> = at.iter().zip(&before).map(|(now, then)| 2.0 * now - then).collect();
        let there = value(&further);
        if there < least {
            (at, least) = (further, there);
        }
    }
    (at, least)
}

#[cfg(test)]
mod tests {
    use super::minimum;

    #[test]
    fn a_valley_with_steps_is_descended() {
        // Stairs: no slope between the jumps.
        let stairs = |x: &[f64]| {
            x.iter().zip([2.0, -1.0, 0.5]).map(|(x, least)| ((x - least) * 20.0).round().abs()).sum::<f64>()
        };
        let found = minimum(&[0.0; 3], 4, stairs);
        assert_eq!(stairs(&found), 0.0, "{found:?}");
    }
}
