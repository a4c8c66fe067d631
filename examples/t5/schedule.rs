//! Which rows are decoded at once: they enter in order, as others make room, and bring their input if it is not there.

use std::collections::VecDeque;
use std::ops::Range;

/// A row in the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seated {
    /// Its number among all rows.
    pub row: usize,
    pub input: usize,
    /// Its own until it leaves.
    pub slot: usize,
    /// That of its input, until the last row of that leaves.
    pub place: usize,
}

/// Rows that wait, that are in the batch, and that have left.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// Of every row, its input; ascending.
    inputs: Vec<usize>,
    entered: usize,
    /// In the order in which they became free: where there is one for each, the first row takes the first.
    free_slots: VecDeque<usize>,
    free_places: VecDeque<usize>,
    /// Inputs that are there, and where.
    present: Vec<(usize, usize)>,
    pub batch: Vec<Seated>,
}

/// Who has entered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entered {
    /// The rows that are new in the batch.
    pub rows: Range<usize>,
    /// Inputs that were not there, and their places.
    pub inputs: Vec<(usize, usize)>,
}

/// Inputs, of `prompts` rows each, that must be there for `rows` rows one after the other: one may have begun before them,
/// and one may go on behind them. Where some have fewer rows, and this counts the most, slots may stay empty: memory is
/// kept to what was said before.
pub fn places(inputs: u64, prompts: u64, rows: u64) -> u64 {
    inputs.min(rows.saturating_sub(1).div_ceil(prompts.max(1)) + 1)
}

impl Schedule {
    /// At most `slots` rows of at most `places` inputs at once.
    pub fn new(inputs: Vec<usize>, slots: usize, places: usize) -> Self {
        Self {
            inputs,
            entered: 0,
            free_slots: (0..slots).collect(),
            free_places: (0..places).collect(),
            present: Vec::new(),
            batch: Vec::new(),
        }
    }

    /// Rows that have entered so far.
    pub fn entered(&self) -> usize {
        self.entered
    }

    /// Lets rows enter as long as there is a slot for the next one, and a place for its input.
    pub fn enter(&mut self) -> Entered {
        let (before, mut inputs) = (self.entered, Vec::new());
        while let (Some(&input), Some(&slot)) = (self.inputs.get(self.entered), self.free_slots.front()) {
            let place = match self.present.iter().find(|(present, _)| *present == input) {
                Some((_, place)) => *place,
                None => {
                    let Some(place) = self.free_places.pop_front() else { break };
                    self.present.push((input, place));
                    inputs.push((input, place));
                    place
                }
            };
            self.free_slots.pop_front();
            self.batch.push(Seated { row: self.entered, input, slot, place });
            self.entered += 1;
        }
        Entered { rows: before..self.entered, inputs }
    }

    /// Takes the rows that have ended from the batch, and inputs that no row reads any more.
    pub fn leave(&mut self, ended: &[bool]) {
        let (left, batch): (Vec<_>, Vec<_>) = self.batch.iter().zip(ended).partition(|(_, ended)| **ended);
        self.free_slots.extend(left.iter().map(|(seated, _)| seated.slot));
        let batch: Vec<Seated> = batch.into_iter().map(|(seated, _)| *seated).collect();
        let waits = self.inputs.get(self.entered);
        let free_places = &mut self.free_places;
        self.present.retain(|(input, place)| {
            let read = waits == Some(input) || batch.iter().any(|seated| seated.input == *input);
            if !read {
                free_places.push_back(*place);
            }
            read
        });
        self.batch = batch;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Every row is in the batch once, in order, for as long as it takes; limits hold; nobody shares a slot, and
        /// inputs share no place; an input comes in once and stays until its last row has left; a row enters as soon
        /// as there is room.
        #[test]
        fn every_row_is_decoded_once(
            rows_of in prop::collection::vec(1usize..6, 1..12),
            slots in 1usize..40,
            steps in prop::collection::vec(1usize..9, 12 * 6),
            lazy in any::<bool>(),
        ) {
            let inputs: Vec<usize> = rows_of.iter().enumerate().flat_map(|(i, n)| vec![i; *n]).collect();
            let most = *rows_of.iter().max().unwrap();
            let places = places(rows_of.len() as u64, most as u64, slots as u64) as usize;
            let mut schedule = Schedule::new(inputs.clone(), slots, places);
            let mut left = vec![0; inputs.len()];
            let (mut order, mut ended, mut brought) = (Vec::new(), 0, Vec::new());
            loop {
                let before = schedule.batch.clone();
                let entered = schedule.enter();
                prop_assert_eq!(&schedule.batch[..before.len()], &before[..]);
                for seated in &schedule.batch[before.len()..] {
                    prop_assert_eq!(seated.row, order.len());
                    prop_assert_eq!(seated.input, inputs[seated.row]);
                    left[seated.row] = steps[seated.row];
                    order.push(seated.row);
                }
                prop_assert_eq!(order.len(), schedule.entered());
                prop_assert_eq!(entered.rows.end, order.len());
                prop_assert_eq!(entered.rows.len(), schedule.batch.len() - before.len());
                brought.extend(entered.inputs.iter().map(|(input, _)| *input));
                if schedule.batch.is_empty() {
                    break;
                }
                let mut taken: Vec<usize> = schedule.batch.iter().map(|s| s.slot).collect();
                taken.sort();
                taken.dedup();
                prop_assert!(taken.len() == schedule.batch.len() && taken.iter().all(|slot| *slot < slots));
                let mut there: Vec<(usize, usize)> = schedule.batch.iter().map(|s| (s.place, s.input)).collect();
                there.sort();
                there.dedup();
                prop_assert!(there.iter().all(|(place, _)| *place < places));
                prop_assert!(there.windows(2).all(|w| w[0].0 != w[1].0 && w[0].1 != w[1].1), "{:?}", there);
                // Where one waits, its slot or its place is missing.
                if let Some(input) = inputs.get(order.len()) {
                    let new = there.iter().all(|(_, there)| there != input);
                    prop_assert!(schedule.batch.len() == slots || (new && there.len() == places));
                }
                loop {
                    schedule.batch.iter().for_each(|s| left[s.row] = left[s.row].saturating_sub(1));
                    let gone: Vec<bool> = schedule.batch.iter().map(|s| left[s.row] == 0).collect();
                    let count = gone.iter().filter(|gone| **gone).count();
                    // A device that looks seldom lets several go together.
                    if count == gone.len() || (count > 0 && (!lazy || 2 * count >= gone.len())) {
                        ended += count;
                        schedule.leave(&gone);
                        break;
                    }
                }
            }
            prop_assert_eq!(ended, inputs.len());
            prop_assert_eq!(order, (0..inputs.len()).collect::<Vec<_>>());
            prop_assert_eq!(brought, (0..rows_of.len()).collect::<Vec<_>>());
        }
    }

    /// Where everything fits, slots are rows and places are inputs, however many enter at once.
    #[test]
    fn with_room_for_all_nobody_takes_anothers_place() {
        let mut schedule = Schedule::new(vec![0, 0, 1, 2], 2, 3);
        let entered = schedule.enter();
        assert_eq!((entered.rows, entered.inputs), (0..2, vec![(0, 0)]));
        schedule.leave(&[true, true]);
        assert_eq!(schedule.enter().inputs, [(1, 1), (2, 2)]);
        assert_eq!(schedule.batch.iter().map(|s| s.slot).collect::<Vec<_>>(), [0, 1]);
    }

    /// As many inputs as rows one after the other can be of.
    #[test]
    fn places_by_hand() {
        for (inputs, prompts, rows, want) in [
            (100, 30, 1, 1),
            (100, 30, 2, 2),
            (100, 30, 31, 2),
            (100, 30, 32, 3),
            (100, 1, 7, 7),
            (3, 30, 60, 3),
            (3, 2, u64::MAX, 3),
            (0, 0, u64::MAX, 0),
        ] {
            assert_eq!(places(inputs, prompts, rows), want, "{inputs} {prompts} {rows}");
            // By counting the inputs of every window.
            if rows < 1000 && prompts > 0 {
                let all = inputs * prompts;
                let last = all.saturating_sub(rows);
                let of = |first: u64| ((first + rows).min(all) - 1) / prompts - first / prompts + 1;
                assert_eq!((0..=last).map(of).max(), Some(want), "{inputs} {prompts} {rows}");
            }
        }
    }
}
